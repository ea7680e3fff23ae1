/* SPDX-License-Identifier: MIT
 *
 * The only place where memory that several threads may touch is touched.
 *
 * Entries live in plain memory that an emulated CPU shares with us, so these are the C11 orders on plain objects (the
 * compiler's __atomic operations), not the _Atomic types. The order is part of each name; the call site says why and
 * who its partner is. Read-modify-write operations come in the one order that the design needs, acquire and release
 * together, but for counters, which are relaxed.
 */
#ifndef PTL_ATOMIC_H
#define PTL_ATOMIC_H

#include <stdint.h>

#define PTL_ATOMIC(bits)                                                                                              \
    static inline uint##bits##_t ptl_load_relaxed_##bits(const uint##bits##_t *p)                                     \
    {                                                                                                                 \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                  \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_load_acquire_##bits(const uint##bits##_t *p)                                     \
    {                                                                                                                 \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                                  \
    }                                                                                                                 \
    static inline void ptl_store_relaxed_##bits(uint##bits##_t *p, uint##bits##_t value)                              \
    {                                                                                                                 \
        __atomic_store_n(p, value, __ATOMIC_RELAXED);                                                                 \
    }                                                                                                                 \
    static inline void ptl_store_release_##bits(uint##bits##_t *p, uint##bits##_t value)                              \
    {                                                                                                                 \
        __atomic_store_n(p, value, __ATOMIC_RELEASE);                                                                 \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_exchange_##bits(uint##bits##_t *p, uint##bits##_t value)                         \
    {                                                                                                                 \
        return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);                                                       \
    }                                                                                                                 \
    /* On failure *expected is what was found. */                                                                     \
    static inline int ptl_compare_exchange_##bits(uint##bits##_t *p, uint##bits##_t *expected, uint##bits##_t desired)\
    {                                                                                                                 \
        return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);              \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_fetch_add_relaxed_##bits(uint##bits##_t *p, uint##bits##_t value)                \
    {                                                                                                                 \
        return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);                                                        \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_fetch_add_##bits(uint##bits##_t *p, uint##bits##_t value)                        \
    {                                                                                                                 \
        return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);                                                        \
    }

PTL_ATOMIC(32)
PTL_ATOMIC(64)

static inline void *ptl_load_acquire_pointer(void *const *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void *ptl_exchange_pointer(void **p, void *value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);
}

static inline int ptl_compare_exchange_pointer(void **p, void **expected, void *desired)
{
    return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* No later access of this thread may happen before the store is visible to others. Store buffering is the one
 * reordering that acquire and release do not forbid, so this is the one full barrier of a reader, and only where the
 * system has no membarrier. On x86 an exchange is that barrier, and a third of the price of mfence. */
static inline void ptl_store_then_barrier_64(uint64_t *p, uint64_t value)
{
#if defined(__x86_64__) || defined(__i386__)
    (void)__atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
#else
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The compiler's half of a barrier whose other half is a membarrier() in another thread. */
static inline void ptl_compiler_barrier(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void ptl_full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void ptl_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
