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

#include "step.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Every function passes the step hook (step.h), and is called by a macro that adds where it is called from. */
#define PTL_ATOMIC(bits)                                                                                              \
    static inline uint##bits##_t ptl_load_relaxed_##bits##_at(const uint##bits##_t *p, const char *site)              \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_LOAD, bits, PTL_RELAXED, p, 0, 0, site);                              \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                  \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_load_acquire_##bits##_at(const uint##bits##_t *p, const char *site)              \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_LOAD, bits, PTL_ACQUIRE, p, 0, 0, site);                              \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                                  \
    }                                                                                                                 \
    static inline void ptl_store_relaxed_##bits##_at(uint##bits##_t *p, uint##bits##_t value, const char *site)       \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            (void)ptl_step(PTL_STORE, bits, PTL_RELAXED, p, value, 0, site);                                          \
        else                                                                                                          \
            __atomic_store_n(p, value, __ATOMIC_RELAXED);                                                             \
    }                                                                                                                 \
    static inline void ptl_store_release_##bits##_at(uint##bits##_t *p, uint##bits##_t value, const char *site)       \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            (void)ptl_step(PTL_STORE, bits, PTL_RELEASE, p, value, 0, site);                                          \
        else                                                                                                          \
            __atomic_store_n(p, value, __ATOMIC_RELEASE);                                                             \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_exchange_##bits##_at(uint##bits##_t *p, uint##bits##_t value, const char *site)  \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_EXCHANGE, bits, PTL_ACQUIRE_RELEASE, p, value, 0, site);              \
        return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);                                                       \
    }                                                                                                                 \
    /* On failure *expected is what was found. */                                                                     \
    static inline int ptl_compare_exchange_##bits##_at(                                                               \
        uint##bits##_t *p, uint##bits##_t *expected, uint##bits##_t desired, const char *site)                        \
    {                                                                                                                 \
        if (ptl_is_stepping()) {                                                                                      \
            uint64_t found = *expected;                                                                               \
            int done = ptl_step_compare_exchange(bits, p, &found, desired, site);                                     \
            *expected = (uint##bits##_t)found;                                                                        \
            return done;                                                                                              \
        }                                                                                                             \
        return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);              \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_fetch_add_relaxed_##bits##_at(                                                   \
        uint##bits##_t *p, uint##bits##_t value, const char *site)                                                    \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_ADD, bits, PTL_RELAXED, p, value, 0, site);                           \
        return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);                                                        \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_fetch_add_##bits##_at(uint##bits##_t *p, uint##bits##_t value, const char *site) \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_ADD, bits, PTL_ACQUIRE_RELEASE, p, value, 0, site);                   \
        return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);                                                        \
    }                                                                                                                 \
    /* For a walk and for entering a section: in a lab, and under stress, there is another way. */           \
    static inline uint##bits##_t ptl_load_acquire_unhooked_##bits(const uint##bits##_t *p)                            \
    {                                                                                                                 \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                                  \
    }                                                                                                                 \
    static inline uint##bits##_t ptl_load_own_unhooked_##bits(const uint##bits##_t *p)                                \
    {                                                                                                                 \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                  \
    }                                                                                                                 \
    static inline void ptl_store_relaxed_unhooked_##bits(uint##bits##_t *p, uint##bits##_t value)                     \
    {                                                                                                                 \
        __atomic_store_n(p, value, __ATOMIC_RELAXED);                                                                 \
    }                                                                                                                 \
    /* For statistics, by which nobody decides anything: no step. */                                                  \
    static inline void ptl_count_##bits(uint##bits##_t *p, uint##bits##_t value)                                      \
    {                                                                                                                 \
        (void)__atomic_fetch_add(p, value, __ATOMIC_RELAXED);                                                         \
    }                                                                                                                 \
    /* Of a word of which only what this thread wrote itself is looked at, which nobody else can change. */           \
    static inline uint##bits##_t ptl_load_own_##bits##_at(const uint##bits##_t *p, const char *site)                  \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            return (uint##bits##_t)ptl_step(PTL_LOAD_OWN, bits, PTL_RELAXED, p, 0, 0, site);                          \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                  \
    }                                                                                                                 \
    /* Add to a word that only this thread writes. */                                                                 \
    static inline void ptl_add_own_release_##bits##_at(uint##bits##_t *p, uint##bits##_t value, const char *site)     \
    {                                                                                                                 \
        if (ptl_is_stepping())                                                                                        \
            (void)ptl_step(PTL_ADD_OWN, bits, PTL_RELEASE, p, value, 0, site);                                        \
        else                                                                                                          \
            __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + value, __ATOMIC_RELEASE);                      \
    }

PTL_ATOMIC(32)
PTL_ATOMIC(64)

/* Load neighbouring words, each by itself, and tell which bits any of them has otherwise than the one given. The compiler
 * keeps the order of acquire loads, but need not test for the end after each. */
#define PTL_NEIGHBOURS 8
static inline uint64_t ptl_load_acquire_neighbours_unhooked_64(const uint64_t *p, uint64_t *found, uint64_t given)
{
    uint64_t differ = 0;
#pragma GCC unroll 8
    for (int i = 0; i < PTL_NEIGHBOURS; i++) {
        found[i] = __atomic_load_n(p + i, __ATOMIC_ACQUIRE);
        differ |= found[i] ^ given;
    }
    return differ;
}

#define ptl_load_relaxed_32(p) ptl_load_relaxed_32_at(p, __func__)
#define ptl_load_relaxed_64(p) ptl_load_relaxed_64_at(p, __func__)
#define ptl_load_own_32(p) ptl_load_own_32_at(p, __func__)
#define ptl_load_own_64(p) ptl_load_own_64_at(p, __func__)
#define ptl_add_own_release_64(p, value) ptl_add_own_release_64_at(p, value, __func__)
#define ptl_load_acquire_32(p) ptl_load_acquire_32_at(p, __func__)
#define ptl_load_acquire_64(p) ptl_load_acquire_64_at(p, __func__)
#define ptl_store_relaxed_32(p, value) ptl_store_relaxed_32_at(p, value, __func__)
#define ptl_store_relaxed_64(p, value) ptl_store_relaxed_64_at(p, value, __func__)
#define ptl_store_release_32(p, value) ptl_store_release_32_at(p, value, __func__)
#define ptl_store_release_64(p, value) ptl_store_release_64_at(p, value, __func__)
#define ptl_exchange_32(p, value) ptl_exchange_32_at(p, value, __func__)
#define ptl_exchange_64(p, value) ptl_exchange_64_at(p, value, __func__)
#define ptl_compare_exchange_32(p, expected, desired) ptl_compare_exchange_32_at(p, expected, desired, __func__)
#define ptl_compare_exchange_64(p, expected, desired) ptl_compare_exchange_64_at(p, expected, desired, __func__)
#define ptl_fetch_add_relaxed_32(p, value) ptl_fetch_add_relaxed_32_at(p, value, __func__)
#define ptl_fetch_add_relaxed_64(p, value) ptl_fetch_add_relaxed_64_at(p, value, __func__)
#define ptl_fetch_add_32(p, value) ptl_fetch_add_32_at(p, value, __func__)
#define ptl_fetch_add_64(p, value) ptl_fetch_add_64_at(p, value, __func__)

/* Two neighbouring words by one operation, the first at a multiple of 16 bytes: nobody sees one changed without the other,
 * and it takes three quarters of the time of two. Where every access is a step, words are changed one by one: what comes of a
 * pair is what comes of two with nothing in between. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#include <cpuid.h>

static inline int ptl_exchanges_pairs(void)
{
    static int known; /* 1: it does; 2: a processor of the first years does not */
    unsigned int a, b, c = 0, d;
    if (!__atomic_load_n(&known, __ATOMIC_RELAXED))
        __atomic_store_n(&known, __get_cpuid(1, &a, &b, &c, &d) && c & bit_CMPXCHG16B ? 1 : 2, __ATOMIC_RELAXED);
    return !ptl_is_stepping() && __atomic_load_n(&known, __ATOMIC_RELAXED) == 1;
}

static inline int ptl_compare_exchange_pair_unhooked_64(
    uint64_t *p, uint64_t first, uint64_t second, uint64_t new_first, uint64_t new_second)
{
    int done;
    __asm__ __volatile__("lock cmpxchg16b %1"
                         : "=@ccz"(done), "+m"(*(unsigned __int128 *)p), "+a"(first), "+d"(second)
                         : "b"(new_first), "c"(new_second)
                         : "memory");
    return done;
}
#else
static inline int ptl_exchanges_pairs(void)
{
    return 0;
}

static inline int ptl_compare_exchange_pair_unhooked_64(
    uint64_t *p, uint64_t first, uint64_t second, uint64_t new_first, uint64_t new_second)
{
    (void)p, (void)first, (void)second, (void)new_first, (void)new_second;
    return 0;
}
#endif

/* A pointer is a word of 32 or 64 bits. */
#define PTL_POINTER_BITS (8 * (int)sizeof(void *))

static inline void *ptl_load_acquire_pointer_at(void *const *p, const char *site)
{
    if (ptl_is_stepping())
        return (void *)(uintptr_t)ptl_step(PTL_LOAD, PTL_POINTER_BITS, PTL_ACQUIRE, p, 0, 0, site);
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void *ptl_exchange_pointer_at(void **p, void *value, const char *site)
{
    if (ptl_is_stepping())
        return (void *)(uintptr_t)ptl_step(
            PTL_EXCHANGE, PTL_POINTER_BITS, PTL_ACQUIRE_RELEASE, p, (uintptr_t)value, 0, site);
    return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);
}

static inline int ptl_compare_exchange_pointer_at(void **p, void **expected, void *desired, const char *site)
{
    if (ptl_is_stepping()) {
        uint64_t found = (uintptr_t)*expected;
        int done = ptl_step_compare_exchange(PTL_POINTER_BITS, p, &found, (uintptr_t)desired, site);
        *expected = (void *)(uintptr_t)found;
        return done;
    }
    return __atomic_compare_exchange_n(p, expected, desired, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

#define ptl_load_acquire_pointer(p) ptl_load_acquire_pointer_at(p, __func__)
#define ptl_exchange_pointer(p, value) ptl_exchange_pointer_at(p, value, __func__)
#define ptl_compare_exchange_pointer(p, expected, desired) \
    ptl_compare_exchange_pointer_at(p, expected, desired, __func__)

/* No later access of this thread may happen before the store is visible to others. Store buffering is the one
 * reordering that acquire and release do not forbid, so this is the one full barrier of a reader, and only where the
 * system has no membarrier. On x86 an exchange is that barrier, and a third of the price of mfence. */
static inline void ptl_store_then_barrier_64_at(uint64_t *p, uint64_t value, const char *site)
{
    if (ptl_is_stepping()) {
        (void)ptl_step(PTL_EXCHANGE, 64, PTL_FULL, p, value, 0, site);
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    (void)__atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);
#else
    __atomic_store_n(p, value, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#define ptl_store_then_barrier_64(p, value) ptl_store_then_barrier_64_at(p, value, __func__)

/* The compiler's half of a barrier whose other half is a membarrier() in another thread. */
static inline void ptl_compiler_barrier(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void ptl_full_barrier_at(const char *site)
{
    if (!ptl_is_stepping() || !ptl_step_taken(PTL_BARRIER, 0, 0, site))
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#define ptl_full_barrier() ptl_full_barrier_at(__func__)

/* What simulated CPUs load and store: bytes in no order, but an aligned word of 64 bits at once, as processors do. Two CPUs
 * at the same bytes are the caller's race and not ours. The other side of the copy is the caller's own. */
static inline void ptl_copy_from_shared(char *own, const char *shared, size_t count)
{
    uint64_t word;
    while (count && (uintptr_t)shared % sizeof(word))
        *own++ = __atomic_load_n(shared++, __ATOMIC_RELAXED), count--;
    for (; count >= sizeof(word); own += sizeof(word), shared += sizeof(word), count -= sizeof(word)) {
        word = __atomic_load_n((const uint64_t *)shared, __ATOMIC_RELAXED);
        memcpy(own, &word, sizeof(word));
    }
    while (count--)
        *own++ = __atomic_load_n(shared++, __ATOMIC_RELAXED);
}

static inline void ptl_copy_to_shared(char *shared, const char *own, size_t count)
{
    uint64_t word;
    while (count && (uintptr_t)shared % sizeof(word))
        __atomic_store_n(shared++, *own++, __ATOMIC_RELAXED), count--;
    for (; count >= sizeof(word); own += sizeof(word), shared += sizeof(word), count -= sizeof(word)) {
        memcpy(&word, own, sizeof(word));
        __atomic_store_n((uint64_t *)shared, word, __ATOMIC_RELAXED);
    }
    while (count--)
        __atomic_store_n(shared++, *own++, __ATOMIC_RELAXED);
}

/* A hint: somebody will load from there soon. Any address will do. Into the second-level cache: it can wait for more
 * lines at a time than the first, and from there on a load costs little where others overlap it. */
static inline void ptl_prefetch(const void *p)
{
    __builtin_prefetch(p, 0, 2);
}

/* The same address, of which the compiler does not know how it came about: it must not change the order of the additions. */
static inline uint64_t ptl_as_computed(uint64_t address)
{
    __asm__("" : "+r"(address));
    return address;
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
