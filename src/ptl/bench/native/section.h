/* SPDX-License-Identifier: MIT
 *
 * What every reclaimer among the peers exports.
 */
#ifndef PTL_BENCH_SECTION_H
#define PTL_BENCH_SECTION_H

#include <stdint.h>

#define PEER __attribute__((visibility("default")))

/* Enter a read section, load a word and leave, so many times; the sum of the loads. */
PEER uint64_t section_loop(const uint64_t *word, uint64_t count);
/* The same until *stop; how often. */
PEER uint64_t section_until(const uint64_t *word, const uint32_t *stop);
/* Wait for so many grace periods, one after the other. */
PEER void section_wait(uint64_t count);

static inline uint64_t load_word(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline int is_stopped(const uint32_t *stop)
{
    return __atomic_load_n(stop, __ATOMIC_ACQUIRE) != 0;
}

#endif
