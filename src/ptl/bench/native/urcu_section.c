/* SPDX-License-Identifier: MIT
 *
 * liburcu's sections, inlined; which flavour is said by the compiler's command line.
 *
 * Readers of qsbr enter and leave for free, and announce now and then that they are outside: here every 1024 sections.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#define _LGPL_SOURCE
#include "section.h"
#if defined(FLAVOUR_BP)
#include <urcu-bp.h>
#elif defined(FLAVOUR_QSBR)
#include <urcu-qsbr.h>
#else
#include <urcu.h>
#endif

static inline void outside(uint64_t i)
{
#ifdef FLAVOUR_QSBR
    if (i % 1024 == 0)
        rcu_quiescent_state();
#else
    (void)i;
#endif
}

uint64_t section_loop(const uint64_t *word, uint64_t count)
{
    uint64_t sum = 0;
    rcu_register_thread();
    for (uint64_t i = 0; i < count; i++) {
        rcu_read_lock();
        sum += load_word(word);
        rcu_read_unlock();
        outside(i);
    }
    rcu_unregister_thread();
    return sum;
}

uint64_t section_until(const uint64_t *word, const uint32_t *stop)
{
    uint64_t done = 0;
    rcu_register_thread();
    while (!is_stopped(stop)) {
        rcu_read_lock();
        load_word(word);
        rcu_read_unlock();
        outside(++done);
    }
    rcu_unregister_thread();
    return done;
}

void section_wait(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        synchronize_rcu();
}
