/* SPDX-License-Identifier: MIT
 *
 * What Cython cannot say about the operating system: thread-local storage of the cheap kind, parking, membarrier,
 * clock. Linux has all of it; elsewhere on POSIX (or with PTL_PORTABLE, which tests that side on Linux) parking is a
 * condition variable and membarrier does not exist.
 */
#ifndef PTL_SYSTEM_H
#define PTL_SYSTEM_H

#include "step.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#if !defined(PTL_PORTABLE)
#define PTL_LINUX 1
#include <linux/futex.h>
#include <linux/membarrier.h>
#endif
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* How many epoch domains can exist at one time: each costs a pointer of thread-local storage. */
#define PTL_DOMAINS 16

/* One thread's record in each domain. Initial-exec, because the general kind calls a function on each access, which
 * costs more than a whole read section; 128 bytes fit what loaders keep for modules opened late. */
#if defined(__linux__)
static __thread void *ptl_records[PTL_DOMAINS] __attribute__((tls_model("initial-exec")));
#else
static __thread void *ptl_records[PTL_DOMAINS];
#endif

static inline void *ptl_thread_record(uint32_t domain)
{
    return ptl_records[domain];
}

static inline void ptl_set_thread_record(uint32_t domain, void *record)
{
    ptl_records[domain] = record;
}

/* A wish: the system may not have it. */
static inline void ptl_advise_huge(char *memory, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

/* With the address sanitizer a table that is free is out of bounds, so that a late reader is an error even though the
 * memory is a table for ever. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define PTL_FORBID(memory, bytes) __asan_poison_memory_region(memory, bytes)
#define PTL_ALLOW(memory, bytes) __asan_unpoison_memory_region(memory, bytes)
#else
#define PTL_FORBID(memory, bytes) ((void)(memory), (void)(bytes))
#define PTL_ALLOW(memory, bytes) ((void)(memory), (void)(bytes))
#endif

static inline void ptl_forbid(const char *memory, size_t bytes)
{
    PTL_FORBID(memory, bytes);
}

static inline void ptl_allow(const char *memory, size_t bytes)
{
    PTL_ALLOW(memory, bytes);
}

static inline uint64_t ptl_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void ptl_sleep_ns_at(long nanoseconds, const char *site)
{
    if (ptl_is_stepping() && ptl_step_taken(PTL_SLEEP, 0, (uint64_t)nanoseconds, site))
        return;
    struct timespec duration = {0, nanoseconds};
    nanosleep(&duration, NULL);
}

#define ptl_sleep_ns(nanoseconds) ptl_sleep_ns_at(nanoseconds, __func__)

static inline uint64_t ptl_thread_id(void)
{
#if defined(__linux__)
    return (uint64_t)syscall(SYS_gettid);
#else
    return (uint64_t)(uintptr_t)pthread_self();
#endif
}

/* Sleep while *word is `value`, until woken; may return early. The word is only ever compared, so a thread may sleep
 * on memory that has since become another table's lock: it wakes and looks again. */
#ifdef PTL_LINUX

static inline void ptl_system_park(uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static inline void ptl_system_unpark_one(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* By a thread that was woken and has no use for it: another may sleep that has. */
static inline void ptl_system_unpark_next(uint32_t *word)
{
    ptl_system_unpark_one(word);
}

static inline void ptl_system_unpark_all(uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void ptl_parking_init(void)
{
}

static inline int ptl_membarrier_register(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

static inline void ptl_system_membarrier(void)
{
    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

#else

#define PTL_PARKING_LOTS 64

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} ptl_parking[PTL_PARKING_LOTS];

/* When the module is loaded, and in a forked child, which has none of the threads that hold or wait. */
__attribute__((constructor)) static void ptl_parking_init(void)
{
    for (int lot = 0; lot < PTL_PARKING_LOTS; lot++) {
        pthread_mutex_init(&ptl_parking[lot].mutex, NULL);
        pthread_cond_init(&ptl_parking[lot].changed, NULL);
    }
}

static inline unsigned ptl_parking_lot(const uint32_t *word)
{
    return (unsigned)((uintptr_t)word >> 6) % PTL_PARKING_LOTS;
}

static inline void ptl_system_park(uint32_t *word, uint32_t value)
{
    unsigned lot = ptl_parking_lot(word);
    pthread_mutex_lock(&ptl_parking[lot].mutex);
    /* Compared under the mutex that the waker takes after changing the word, so no wake-up is lost. */
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value)
        pthread_cond_wait(&ptl_parking[lot].changed, &ptl_parking[lot].mutex);
    pthread_mutex_unlock(&ptl_parking[lot].mutex);
}

static inline void ptl_system_unpark_all(uint32_t *word)
{
    unsigned lot = ptl_parking_lot(word);
    pthread_mutex_lock(&ptl_parking[lot].mutex);
    pthread_cond_broadcast(&ptl_parking[lot].changed);
    pthread_mutex_unlock(&ptl_parking[lot].mutex);
}

static inline void ptl_system_unpark_one(uint32_t *word)
{
    ptl_system_unpark_all(word); /* a lot is shared by many words: waking one might wake the wrong one */
}

static inline void ptl_system_unpark_next(uint32_t *word)
{
    (void)word; /* all are awake already, and two that woke each other would never stop */
}

static inline int ptl_membarrier_register(void)
{
    return 0;
}

static inline void ptl_system_membarrier(void)
{
}

#endif

/* -- the same as steps (step.h) ----------------------------------------------------------------------------------- */

static inline void ptl_park_at(uint32_t *word, uint32_t value, const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_PARK, word, value, site))
        ptl_system_park(word, value);
}

static inline void ptl_unpark_one_at(uint32_t *word, const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_UNPARK, word, 1, site))
        ptl_system_unpark_one(word);
}

static inline void ptl_unpark_next_at(uint32_t *word, const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_UNPARK, word, 1, site))
        ptl_system_unpark_next(word);
}

static inline void ptl_unpark_all_at(uint32_t *word, const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_UNPARK, word, INT_MAX, site))
        ptl_system_unpark_all(word);
}

static inline void ptl_membarrier_at(const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_MEMBARRIER, 0, 0, site))
        ptl_system_membarrier();
}

#define ptl_park(word, value) ptl_park_at(word, value, __func__)
#define ptl_unpark_one(word) ptl_unpark_one_at(word, __func__)
#define ptl_unpark_next(word) ptl_unpark_next_at(word, __func__)
#define ptl_unpark_all(word) ptl_unpark_all_at(word, __func__)
#define ptl_membarrier() ptl_membarrier_at(__func__)

/* -- memory, and running out of it -------------------------------------------------------------------------------- */
/* The n-th allocation of this thread from now on fails, when a test has asked for it, and so may some after it: never on
 * a hot path, which allocates nothing. So it is with frames (frames.pxi). */

struct ptl_failing {
    uint32_t left;  /* until the first that fails, itself included; 0 for none */
    uint32_t times; /* how many fail */
};

#if defined(__linux__)
static __thread struct ptl_failing ptl_failing_memory __attribute__((tls_model("initial-exec")));
static __thread struct ptl_failing ptl_failing_frames __attribute__((tls_model("initial-exec")));
#else
static __thread struct ptl_failing ptl_failing_memory, ptl_failing_frames;
#endif

static inline int ptl_fails_now(struct ptl_failing *failing)
{
    if (failing->left == 0)
        return 0;
    if (failing->left > 1) {
        failing->left--;
        return 0;
    }
    if (--failing->times == 0)
        failing->left = 0;
    return 1;
}

static inline void ptl_fail_allocation(uint32_t n)
{
    ptl_failing_memory = (struct ptl_failing){n, 1};
}

static inline int ptl_is_out_of_memory(void)
{
    return ptl_fails_now(&ptl_failing_memory);
}

static inline void ptl_fail_frames(uint32_t n, uint32_t times)
{
    ptl_failing_frames = (struct ptl_failing){n, times};
}

static inline int ptl_is_out_of_frames(void)
{
    return ptl_fails_now(&ptl_failing_frames);
}

static inline void *ptl_calloc(size_t count, size_t bytes)
{
    return ptl_is_out_of_memory() ? NULL : calloc(count, bytes);
}

static inline int ptl_memalign(void **memory, size_t alignment, size_t bytes)
{
    return ptl_is_out_of_memory() ? ENOMEM : posix_memalign(memory, alignment, bytes);
}

static inline void *ptl_mmap(void *where, size_t bytes, int protection, int flags, int file, int64_t offset)
{
    if (ptl_is_out_of_memory()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(where, bytes, protection, flags, file, offset);
}

/* -- faults that a test puts in (faults.pxi) ---------------------------------------------------------------------- */

#ifdef PTL_FAULTS
static uint32_t ptl_fault;

static inline int ptl_is_faulty(uint32_t fault)
{
    return ptl_fault == fault;
}

static inline int ptl_choose_fault(uint32_t fault)
{
    ptl_fault = fault;
    return 1;
}
#else
static inline int ptl_is_faulty(uint32_t fault)
{
    (void)fault;
    return 0;
}

static inline int ptl_choose_fault(uint32_t fault)
{
    (void)fault;
    return 0;
}
#endif

#endif
