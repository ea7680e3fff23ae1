/* SPDX-License-Identifier: MIT
 *
 * A stack of its own for each thread that a lab drives, all in one real thread.
 *
 *     the lab:    start ... enter ----.      .---> enter ----.
 *     a fiber:                        '-> yield              '-> yield ...
 *
 * A switch saves what a called function must preserve, and costs some ten nanoseconds; on processors that have no version
 * here it is swapcontext, which costs a system call. A fiber that is started again is forgotten as it was: it holds
 * nothing but its stack.
 */
#ifndef PTL_FIBER_H
#define PTL_FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define PTL_FIBER_CONTEXT 1
#endif

#define PTL_FIBER_BYTES (128 * 1024)

typedef struct ptl_fiber {
    char *stack;
    void (*run)(void *);
    void *argument;
#if defined(PTL_FIBER_CONTEXT)
    ucontext_t here, outside;
#else
    void *here, *outside; /* stack pointers */
#endif
#if defined(__SANITIZE_ADDRESS__)
    void *fake, *fake_outside;
    const void *outside_bottom;
    size_t outside_bytes;
#endif
#if defined(__SANITIZE_THREAD__)
    void *tsan, *tsan_outside;
#endif
} ptl_fiber;

/* The fiber that is entered for the first time. */
static __thread ptl_fiber *ptl_fiber_first;

static void ptl_fiber_main(void)
{
    ptl_fiber *fiber = ptl_fiber_first;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, &fiber->outside_bottom, &fiber->outside_bytes);
#endif
    fiber->run(fiber->argument); /* never returns: its last act is a yield */
    abort();
}

#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".type ptl_fiber_switch, @function\n"
    "ptl_fiber_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size ptl_fiber_switch, .-ptl_fiber_switch\n");
/* Six registers, where to return to, and one word that aligns the stack as after a call. */
#define PTL_FIBER_FRAME 8
#define PTL_FIBER_RETURN 6
#elif defined(__aarch64__)
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".type ptl_fiber_switch, %function\n"
    "ptl_fiber_switch:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size ptl_fiber_switch, .-ptl_fiber_switch\n");
#define PTL_FIBER_FRAME 20
#define PTL_FIBER_RETURN 11
#endif

#if !defined(PTL_FIBER_CONTEXT)
/* Save this stack's pointer and go on where another one was saved. */
extern void ptl_fiber_switch(void **save, void *to);
#endif

/* False when there is no memory. */
static int ptl_fiber_make(ptl_fiber *fiber)
{
    memset(fiber, 0, sizeof *fiber);
    return posix_memalign((void **)&fiber->stack, 4096, PTL_FIBER_BYTES) == 0;
}

static void ptl_fiber_drop(ptl_fiber *fiber)
{
#if defined(__SANITIZE_THREAD__)
    if (fiber->tsan)
        __tsan_destroy_fiber(fiber->tsan);
#endif
    free(fiber->stack);
    fiber->stack = NULL;
}

/* Let the next enter begin run(argument). */
static void ptl_fiber_start(ptl_fiber *fiber, void (*run)(void *), void *argument)
{
    fiber->run = run;
    fiber->argument = argument;
#if defined(PTL_FIBER_CONTEXT)
    getcontext(&fiber->here);
    fiber->here.uc_stack.ss_sp = fiber->stack;
    fiber->here.uc_stack.ss_size = PTL_FIBER_BYTES;
    fiber->here.uc_link = NULL;
    makecontext(&fiber->here, ptl_fiber_main, 0);
#else
    uintptr_t *frame = (uintptr_t *)(fiber->stack + PTL_FIBER_BYTES) - PTL_FIBER_FRAME;
    memset(frame, 0, PTL_FIBER_FRAME * sizeof *frame);
    frame[PTL_FIBER_RETURN] = (uintptr_t)ptl_fiber_main;
    fiber->here = frame;
#endif
#if defined(__SANITIZE_ADDRESS__)
    fiber->fake = NULL;
    ASAN_UNPOISON_MEMORY_REGION(fiber->stack, PTL_FIBER_BYTES); /* what was forgotten had its own red zones */
#endif
#if defined(__SANITIZE_THREAD__)
    if (fiber->tsan)
        __tsan_destroy_fiber(fiber->tsan);
    fiber->tsan = __tsan_create_fiber(0);
#endif
}

/* From outside: run the fiber until it yields. */
static void ptl_fiber_enter(ptl_fiber *fiber)
{
    ptl_fiber_first = fiber;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber->fake_outside, fiber->stack, PTL_FIBER_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    fiber->tsan_outside = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, 0);
#endif
#if defined(PTL_FIBER_CONTEXT)
    swapcontext(&fiber->outside, &fiber->here);
#else
    ptl_fiber_switch(&fiber->outside, fiber->here);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->fake_outside, NULL, NULL);
#endif
}

/* From inside: go back to whoever entered. */
static void ptl_fiber_yield(ptl_fiber *fiber)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber->fake, fiber->outside_bottom, fiber->outside_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber->tsan_outside, 0);
#endif
#if defined(PTL_FIBER_CONTEXT)
    swapcontext(&fiber->here, &fiber->outside);
#else
    ptl_fiber_switch(&fiber->here, fiber->outside);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber->fake, &fiber->outside_bottom, &fiber->outside_bytes);
#endif
}

#endif
