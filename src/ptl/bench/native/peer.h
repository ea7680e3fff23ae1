/* SPDX-License-Identifier: MIT
 *
 * What every native peer exports, so that one caller can time them all. A peer is a map from addresses of pages to
 * physical addresses; `find` translates as a page table does: page number out of the address, offset into the answer.
 *
 * Each call does its work `count` times, so that the call itself costs nothing.
 */
#ifndef PTL_BENCH_PEER_H
#define PTL_BENCH_PEER_H

#include <stdint.h>
#include <stddef.h>

#ifdef __cplusplus
#define PEER extern "C" __attribute__((visibility("default")))
#else
#define PEER __attribute__((visibility("default")))
#endif

#define PAGE_SHIFT 12
#define OFFSET_MASK (((uint64_t)1 << PAGE_SHIFT) - 1)
#define WRITE_BIT ((uint64_t)2)
#define UNMAPPED (~(uint64_t)0)
#define CHUNK 4096 /* addresses a read section, as many as a batch of ptl has */

/* A value is a physical address with bits for the flags below the page; 0 when out of memory. */
PEER void *peer_new(uint64_t count);
PEER int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count);
PEER void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count);
/* Flip the write bit of each. */
PEER void peer_protect(void *map, const uint64_t *vas, uint64_t count);
PEER void peer_delete(void *map);

static inline uint64_t page_number(uint64_t va)
{
    return va >> PAGE_SHIFT;
}

static inline uint64_t translated(uint64_t value, uint64_t va)
{
    return (value & ~OFFSET_MASK) | (va & OFFSET_MASK);
}

/* Page numbers are far from random: every bit of the hash must depend on the low ones. */
static inline uint64_t page_hash(uint64_t number)
{
    number *= UINT64_C(0x9E3779B97F4A7C15);
    return number ^ number >> 32;
}

#endif
