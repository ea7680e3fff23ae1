/* SPDX-License-Identifier: MIT
 *
 * What no library can beat: the same radix tree with nothing around it. Four levels of bare pointers, so four dependent
 * loads an address; no format, no check, no section; and addresses that are not there end in a crash.
 */
#include "peer.h"
#include <stdlib.h>

#define ENTRIES 512

typedef union node {
    union node *below;
    uint64_t value;
} node;

static inline uint64_t index_of(uint64_t va, int level)
{
    return va >> (PAGE_SHIFT + 9 * (level - 1)) & (ENTRIES - 1);
}

void *peer_new(uint64_t count)
{
    (void)count;
    return calloc(ENTRIES, sizeof(node));
}

int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        node *table = map;
        for (int level = 4; level > 1; level--) {
            node *slot = &table[index_of(vas[i], level)];
            if (!slot->below && !(slot->below = calloc(ENTRIES, sizeof(node))))
                return -1;
            table = slot->below;
        }
        table[index_of(vas[i], 1)].value = pas[i];
    }
    return 0;
}

static inline uint64_t load(const node *map, uint64_t va)
{
    map = map[index_of(va, 4)].below;
    map = map[index_of(va, 3)].below;
    map = map[index_of(va, 2)].below;
    return map[index_of(va, 1)].value;
}

void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        out[i] = translated(load(map, vas[i]), vas[i]);
}

/* Each address waits for the answer before it; `nothing` is 0, but the compiler does not know. */
PEER void bare_chain(void *map, const uint64_t *vas, uint64_t *out, uint64_t count, uint64_t nothing)
{
    uint64_t answer = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t va = vas[i] ^ (answer & nothing);
        out[i] = answer = translated(load(map, va), va);
    }
}

void peer_protect(void *map, const uint64_t *vas, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        node *table = map;
        for (int level = 4; level > 1; level--)
            table = table[index_of(vas[i], level)].below;
        table[index_of(vas[i], 1)].value ^= WRITE_BIT;
    }
}

static void drop(node *table, int level)
{
    for (int i = 0; level > 1 && i < ENTRIES; i++)
        if (table[i].below)
            drop(table[i].below, level - 1);
    free(table);
}

void peer_delete(void *map)
{
    drop(map, 4);
}
