/* SPDX-License-Identifier: MIT
 *
 * liburcu's resizable lock-free hash table, read under the flavour with membarrier. Made as large as needed at once.
 */
#define URCU_INLINE_SMALL_FUNCTIONS
#define _LGPL_SOURCE
#include "peer.h"
#include <stdlib.h>
#include <urcu.h>
#include <urcu/rculfhash.h>
#include <urcu/uatomic.h>

struct page {
    struct cds_lfht_node node;
    uint64_t number;
    uint64_t value;
};

static int is_page(struct cds_lfht_node *node, const void *number)
{
    return caa_container_of(node, struct page, node)->number == *(const uint64_t *)number;
}

static inline struct page *find(struct cds_lfht *table, uint64_t number)
{
    struct cds_lfht_iter at;
    cds_lfht_lookup(table, page_hash(number), is_page, &number, &at);
    struct cds_lfht_node *node = cds_lfht_iter_get_node(&at);
    return node ? caa_container_of(node, struct page, node) : NULL;
}

void *peer_new(uint64_t count)
{
    uint64_t buckets = 64;
    while (buckets < count)
        buckets *= 2;
    return cds_lfht_new(buckets, buckets, buckets, 0, NULL);
}

int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count)
{
    int failed = 0;
    rcu_register_thread();
    for (uint64_t i = 0; i < count && !failed; i++) {
        struct page *page = malloc(sizeof *page);
        if (!page) {
            failed = -1;
            break;
        }
        cds_lfht_node_init(&page->node);
        page->number = page_number(vas[i]);
        page->value = pas[i];
        rcu_read_lock();
        cds_lfht_add_unique(map, page_hash(page->number), is_page, &page->number, &page->node);
        rcu_read_unlock();
    }
    rcu_unregister_thread();
    return failed;
}

void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count)
{
    rcu_register_thread();
    for (uint64_t i = 0; i < count;) {
        uint64_t end = i + CHUNK < count ? i + CHUNK : count;
        rcu_read_lock();
        for (; i < end; i++) {
            struct page *page = find(map, page_number(vas[i]));
            out[i] = page ? translated(uatomic_read(&page->value), vas[i]) : UNMAPPED;
        }
        rcu_read_unlock();
    }
    rcu_unregister_thread();
}

void peer_protect(void *map, const uint64_t *vas, uint64_t count)
{
    rcu_register_thread();
    for (uint64_t i = 0; i < count;) {
        uint64_t end = i + CHUNK < count ? i + CHUNK : count;
        rcu_read_lock();
        for (; i < end; i++) {
            struct page *page = find(map, page_number(vas[i]));
            if (page)
                uatomic_xchg(&page->value, page->value ^ WRITE_BIT);
        }
        rcu_read_unlock();
    }
    rcu_unregister_thread();
}

void peer_delete(void *map)
{
    struct cds_lfht_iter at;
    struct page *page;
    rcu_register_thread();
    rcu_read_lock();
    cds_lfht_for_each_entry(map, &at, page, node) {
        cds_lfht_del(map, &page->node);
        free(page); /* nobody else is inside */
    }
    rcu_read_unlock();
    cds_lfht_destroy(map, NULL);
    rcu_unregister_thread();
}
