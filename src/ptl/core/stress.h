/* SPDX-License-Identifier: MIT
 *
 * Stress: what is rare between threads at full speed is made frequent, for tests.
 *
 *     each step of a thread that no lab drives --> now and then: gives up its core, or sleeps
 *     each compare-exchange                    --> now and then: fails though it need not, as a weak one may
 *
 * K1  The access keeps its own order, so neither a processor nor a sanitizer is shown more order than there is without.
 * K2  A compare-exchange that fails for nothing still tells the current value, in the order of a failure.
 * K3  Each thread draws from numbers of its own: those of the seed, and of how many threads came before it.
 * K4  A signal handler may interrupt a draw: then a number is drawn twice, or lost, and no harm is done.
 */
#ifndef PTL_STRESS_H
#define PTL_STRESS_H

#include <sched.h>
#include <stdint.h>
#include <time.h>

enum {
    PTL_STRESS_YIELDS = 64,      /* one step in so many gives up its core: about one in each operation */
    PTL_STRESS_SLEEPS = 1024,    /* sleeps: rare, for a timer costs fifty times as much */
    PTL_STRESS_FAILURES = 8,     /* compare-exchanges: often enough to fail twice in a row */
    PTL_STRESS_SLEEP_NS = 20000, /* at most: longer than an operation, shorter than a time slice */
};

static uint64_t ptl_stress_seed; /* 0 is no stress */
static uint64_t ptl_stress_threads;
#if defined(__linux__)
static __thread uint64_t ptl_stress_drawn __attribute__((tls_model("initial-exec")));
static __thread uint64_t ptl_stress_drawn_by __attribute__((tls_model("initial-exec")));
#else
static __thread uint64_t ptl_stress_drawn;
static __thread uint64_t ptl_stress_drawn_by; /* the seed it began with */
#endif

/* The finalizer of G. Steele et al., "Fast splittable pseudorandom number generators", 2014. */
static inline uint64_t ptl_stress_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline uint64_t ptl_stress_draw(void)
{
    uint64_t seed = __atomic_load_n(&ptl_stress_seed, __ATOMIC_RELAXED);
    if (ptl_stress_drawn_by != seed) {
        ptl_stress_drawn = ptl_stress_mix(seed + __atomic_add_fetch(&ptl_stress_threads, 1, __ATOMIC_RELAXED));
        ptl_stress_drawn_by = seed;
    }
    ptl_stress_drawn += 0x9e3779b97f4a7c15u;
    return ptl_stress_mix(ptl_stress_drawn);
}

static inline int ptl_is_under_stress(void)
{
    return __atomic_load_n(&ptl_stress_seed, __ATOMIC_RELAXED) != 0;
}

/* Before a step. */
static inline void ptl_stress_delay(void)
{
    uint64_t drawn = ptl_stress_draw();
    struct timespec duration = {0, 0};
    if (drawn % PTL_STRESS_SLEEPS == 0) {
        duration.tv_nsec = (long)(drawn >> 32) % PTL_STRESS_SLEEP_NS;
        nanosleep(&duration, 0);
    } else if (drawn % PTL_STRESS_YIELDS == 0) {
        sched_yield();
    }
}

/* Whether a compare-exchange is to fail. */
static inline int ptl_stress_fails(void)
{
    return ptl_stress_draw() % PTL_STRESS_FAILURES == 0;
}

#endif
