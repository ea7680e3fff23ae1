/* SPDX-License-Identifier: MIT
 *
 * JudyL: a compressed radix tree of one thread; nothing is locked.
 */
#include "peer.h"
#include <Judy.h>
#include <stdlib.h>

void *peer_new(uint64_t count)
{
    (void)count;
    return calloc(1, sizeof(Pvoid_t));
}

int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        PPvoid_t value = JudyLIns(map, page_number(vas[i]), PJE0);
        if (value == PPJERR)
            return -1;
        *(Word_t *)value = pas[i];
    }
    return 0;
}

void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count)
{
    Pvoid_t array = *(Pvoid_t *)map;
    for (uint64_t i = 0; i < count; i++) {
        PPvoid_t value = JudyLGet(array, page_number(vas[i]), PJE0);
        out[i] = value ? translated(*(Word_t *)value, vas[i]) : UNMAPPED;
    }
}

void peer_protect(void *map, const uint64_t *vas, uint64_t count)
{
    Pvoid_t array = *(Pvoid_t *)map;
    for (uint64_t i = 0; i < count; i++) {
        PPvoid_t value = JudyLGet(array, page_number(vas[i]), PJE0);
        if (value)
            *(Word_t *)value ^= WRITE_BIT;
    }
}

void peer_delete(void *map)
{
    JudyLFreeArray(map, PJE0);
    free(map);
}
