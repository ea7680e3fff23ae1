/* SPDX-License-Identifier: MIT
 *
 * Concurrency Kit's hash table: one writer, readers without locks. Made large enough at once: it never grows here.
 */
#include "peer.h"
#include <ck_ht.h>
#include <stdlib.h>

static void *allocate(size_t bytes)
{
    return malloc(bytes);
}

static void release(void *memory, size_t bytes, bool defer)
{
    (void)bytes;
    (void)defer;
    free(memory);
}

static struct ck_malloc allocator = {.malloc = allocate, .free = release};

static inline void hash(ck_ht_hash_t *h, uint64_t number)
{
    h->value = page_hash(number);
}

void *peer_new(uint64_t count)
{
    ck_ht_t *table = malloc(sizeof *table);
    if (table && !ck_ht_init(table, CK_HT_MODE_DIRECT | CK_HT_WORKLOAD_DELETE, NULL, &allocator, 2 * count, 1)) {
        free(table);
        return NULL;
    }
    return table;
}

int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        ck_ht_entry_t entry;
        ck_ht_hash_t h;
        uint64_t number = page_number(vas[i]);
        hash(&h, number);
        ck_ht_entry_set_direct(&entry, h, number, pas[i]);
        if (!ck_ht_put_spmc(map, h, &entry))
            return -1;
    }
    return 0;
}

void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        ck_ht_entry_t entry;
        ck_ht_hash_t h;
        uint64_t number = page_number(vas[i]);
        hash(&h, number);
        ck_ht_entry_key_set_direct(&entry, number);
        out[i] = ck_ht_get_spmc(map, h, &entry) ? translated(ck_ht_entry_value_direct(&entry), vas[i]) : UNMAPPED;
    }
}

void peer_protect(void *map, const uint64_t *vas, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        ck_ht_entry_t entry;
        ck_ht_hash_t h;
        uint64_t number = page_number(vas[i]);
        hash(&h, number);
        ck_ht_entry_key_set_direct(&entry, number);
        if (!ck_ht_get_spmc(map, h, &entry))
            continue;
        ck_ht_entry_set_direct(&entry, h, number, ck_ht_entry_value_direct(&entry) ^ WRITE_BIT);
        ck_ht_set_spmc(map, h, &entry);
    }
}

void peer_delete(void *map)
{
    ck_ht_destroy(map);
    free(map);
}
