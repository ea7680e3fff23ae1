/* SPDX-License-Identifier: MIT
 *
 * Where callgrind is to begin counting instructions, and where to write down how many there were.
 */
#include <valgrind/callgrind.h>

#define MARK __attribute__((visibility("default")))

MARK void mark_begin(void)
{
    CALLGRIND_ZERO_STATS;
}

MARK void mark_end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
}
