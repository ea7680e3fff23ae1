/* SPDX-License-Identifier: MIT
 *
 * The step hook: where a lab takes over, one access to shared memory at a time; or stress.
 *
 *     atomic.h, system.h:  is anybody stepping? --no--> the access itself
 *                                  |
 *                                 yes, this thread ------> ptl_stepper decides when, does it, and tells what was found
 *                                  |
 *                                 yes, another ----------> under stress a delay; the access itself
 *
 * S1  Off, a hook is one load of a word that nobody writes, and one branch that is never taken.
 * S2  ptl_stepping counts the labs that are at work in this process, and stress (stress.h); only a thread with a
 *     ptl_stepper is driven, every other does what it would have done, in the same order.
 * S3  The stepper does the access itself, so it may also do it later (a store buffer), or leave it out (a mutant).
 * S4  Counters that only statistics read are no steps: nobody decides anything by them.
 */
#ifndef PTL_STEP_H
#define PTL_STEP_H

#include "stress.h"

#include <stdint.h>

enum ptl_step_kind {
    PTL_LOAD = 0,
    PTL_STORE,
    PTL_EXCHANGE,
    PTL_COMPARE_EXCHANGE,
    PTL_ADD,
    PTL_ADD_OWN,      /* to a word that only this thread writes: a load and a store */
    PTL_LOAD_OWN,     /* what only this thread writes is looked at: others need not know */
    PTL_BARRIER,      /* a full barrier of this thread */
    PTL_MEMBARRIER,   /* a full barrier of every thread */
    PTL_LOCK,         /* enabled when the word is 0: becomes `value` */
    PTL_PARK,         /* enabled when the word is no longer `value`, or somebody wakes us */
    PTL_UNPARK,       /* wake one sleeper, or `value` of them */
    PTL_AGAIN,        /* enabled when something that was read since the last turn has changed */
    PTL_SLEEP,        /* the same, or when nobody else can do anything */
    PTL_BEGIN,        /* of an operation: the lab's own */
};

enum ptl_step_order { PTL_RELAXED = 0, PTL_ACQUIRE, PTL_RELEASE, PTL_ACQUIRE_RELEASE, PTL_FULL };

typedef struct ptl_step {
    uint32_t kind;
    uint32_t bits;              /* width of the access: 32 or 64 */
    uint32_t order;
    void *address;
    uint64_t value;             /* to be stored or added, or desired */
    uint64_t expected;          /* of a compare-exchange: done when `found` is the same */
    uint64_t found;             /* what was there before */
    const char *site;           /* the C function that asks */
} ptl_step_t;

static uint32_t ptl_stepping;
#if defined(__linux__)
static __thread void (*ptl_stepper)(struct ptl_step *) __attribute__((tls_model("initial-exec")));
static __thread void *ptl_lab __attribute__((tls_model("initial-exec")));
#else
static __thread void (*ptl_stepper)(struct ptl_step *);
static __thread void *ptl_lab;
#endif

/* Let this thread be driven, by a stepper that finds its lab by ptl_the_lab(); or no longer, by NULL. */
static inline void ptl_set_stepper(void (*stepper)(struct ptl_step *), void *lab)
{
    __atomic_fetch_add(&ptl_stepping, (stepper != 0) - (ptl_stepper != 0), __ATOMIC_RELAXED);
    ptl_stepper = stepper;
    ptl_lab = lab;
}

/* From now on, with what is drawn from that seed; or, with 0, no longer. */
static inline void ptl_put_under_stress(uint64_t seed)
{
    uint64_t before = __atomic_exchange_n(&ptl_stress_seed, seed, __ATOMIC_RELAXED);
    __atomic_store_n(&ptl_stress_threads, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ptl_stepping, (seed != 0) - (before != 0), __ATOMIC_RELAXED);
}

static inline void *ptl_the_lab(void)
{
    return ptl_lab;
}

static inline int ptl_is_stepping(void)
{
#if defined(PTL_UNSTEPPED) /* to measure what the hook costs (bench/step_hook.py) */
    return 0;
#else
    return __builtin_expect(__atomic_load_n(&ptl_stepping, __ATOMIC_RELAXED) != 0, 0);
#endif
}

#define PTL_PERFORM(bits)                                                                                             \
    static inline void ptl_perform_##bits(struct ptl_step *step)                                                      \
    {                                                                                                                 \
        uint##bits##_t *p = (uint##bits##_t *)step->address, found = (uint##bits##_t)step->expected;                  \
        switch (step->kind) {                                                                                         \
        case PTL_LOAD_OWN:                                                                                            \
        case PTL_LOAD:                                                                                                \
            found = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                             \
            break;                                                                                                    \
        case PTL_STORE: /* a store that tells what it overwrote */                                                    \
        case PTL_EXCHANGE:                                                                                            \
            found = __atomic_exchange_n(p, (uint##bits##_t)step->value, __ATOMIC_SEQ_CST);                            \
            break;                                                                                                    \
        case PTL_COMPARE_EXCHANGE:                                                                                    \
            __atomic_compare_exchange_n(                                                                              \
                p, &found, (uint##bits##_t)step->value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                       \
            break;                                                                                                    \
        case PTL_ADD_OWN:                                                                                             \
        case PTL_ADD:                                                                                                 \
            found = __atomic_fetch_add(p, (uint##bits##_t)step->value, __ATOMIC_SEQ_CST);                             \
            break;                                                                                                    \
        }                                                                                                             \
        step->found = found;                                                                                          \
    }

PTL_PERFORM(32)
PTL_PERFORM(64)

/* The access of a step, in the strongest order. */
static inline void ptl_perform(struct ptl_step *step)
{
    if (step->bits == 32)
        ptl_perform_32(step);
    else
        ptl_perform_64(step);
}

#define PTL_ACCESS(bits)                                                                                              \
    static inline uint##bits##_t ptl_access_##bits(const struct ptl_step *step)                                       \
    {                                                                                                                 \
        uint##bits##_t *p = (uint##bits##_t *)step->address, value = (uint##bits##_t)step->value;                     \
        uint##bits##_t found = (uint##bits##_t)step->expected;                                                        \
        switch (step->kind) {                                                                                         \
        case PTL_LOAD_OWN:                                                                                            \
        case PTL_LOAD:                                                                                                \
            if (step->order == PTL_RELAXED)                                                                           \
                return __atomic_load_n(p, __ATOMIC_RELAXED);                                                          \
            return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                              \
        case PTL_STORE:                                                                                               \
            if (step->order == PTL_RELAXED)                                                                           \
                __atomic_store_n(p, value, __ATOMIC_RELAXED);                                                         \
            else                                                                                                      \
                __atomic_store_n(p, value, __ATOMIC_RELEASE);                                                         \
            break;                                                                                                    \
        case PTL_EXCHANGE:                                                                                            \
            if (step->order == PTL_FULL)                                                                              \
                return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                               \
            return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);                                                   \
        case PTL_COMPARE_EXCHANGE:                                                                                    \
            __atomic_compare_exchange_n(p, &found, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);                     \
            break;                                                                                                    \
        case PTL_ADD:                                                                                                 \
            if (step->order == PTL_RELAXED)                                                                           \
                return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);                                                \
            return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);                                                    \
        case PTL_ADD_OWN:                                                                                             \
            __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + value, __ATOMIC_RELEASE);                      \
            break;                                                                                                    \
        }                                                                                                             \
        return found;                                                                                                 \
    }

PTL_ACCESS(32)
PTL_ACCESS(64)

/* The access of a step of a thread that no lab drives, in its own order (S2). */
static inline void ptl_access(struct ptl_step *step)
{
    if (ptl_is_under_stress())
        ptl_stress_delay();
    step->found = step->bits == 32 ? ptl_access_32(step) : ptl_access_64(step);
}

/* Never inlined: what is off should not be in the way of what is on. */
static __attribute__((noinline, cold, unused)) uint64_t ptl_step(
    uint32_t kind, uint32_t bits, uint32_t order, const void *address, uint64_t value, uint64_t expected,
    const char *site)
{
    struct ptl_step step = {kind, bits, order, (void *)address, value, expected, 0, site};
    if (ptl_stepper)
        ptl_stepper(&step);
    else
        ptl_access(&step);
    return step.found;
}

/* Whether it was done; *expected is what was found, also when it failed for nothing. */
static __attribute__((noinline, cold, unused)) int ptl_step_compare_exchange(
    uint32_t bits, const void *address, uint64_t *expected, uint64_t desired, const char *site)
{
    uint64_t asked = *expected;
    if (!ptl_stepper && ptl_is_under_stress() && ptl_stress_fails()) {
        *expected = ptl_step(PTL_LOAD, bits, PTL_ACQUIRE, address, 0, 0, site);
        return 0;
    }
    *expected = ptl_step(PTL_COMPARE_EXCHANGE, bits, PTL_ACQUIRE_RELEASE, address, desired, asked, site);
    return *expected == asked;
}

/* For what is not one access: whether the lab has done it, so that the caller must not. */
static __attribute__((noinline, cold, unused)) int ptl_step_taken(
    uint32_t kind, const void *address, uint64_t value, const char *site)
{
    struct ptl_step step = {kind, 32, PTL_FULL, (void *)address, value, 0, 0, site};
    if (!ptl_stepper) {
        if (ptl_is_under_stress())
            ptl_stress_delay();
        return 0;
    }
    ptl_stepper(&step);
    return step.found != 0;
}

/* Whether a lab has made these steps in the caller's place. */
#define ptl_step_lock(word, value) (ptl_is_stepping() && ptl_step_taken(PTL_LOCK, word, value, __func__))
#define ptl_step_again(turns) (ptl_is_stepping() && ptl_step_taken(PTL_AGAIN, turns, 0, __func__))

#endif
