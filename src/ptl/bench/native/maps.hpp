// SPDX-License-Identifier: MIT
//
// The calls of peer.h for C++ maps. A peer says how to `insert`, `find` and `change` one page of its own type `Map`.
#pragma once

#include "peer.h"
#include <new>

template <typename Map> static void *make(uint64_t count)
{
    try {
        return new Map(count);
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

#define EXPORT_PEER(Map)                                                                                               \
    PEER void *peer_new(uint64_t count) { return make<Map>(count); }                                                   \
    PEER int peer_insert(void *map, const uint64_t *vas, const uint64_t *pas, uint64_t count)                          \
    try {                                                                                                              \
        for (uint64_t i = 0; i < count; i++)                                                                           \
            static_cast<Map *>(map)->insert(page_number(vas[i]), pas[i]);                                              \
        return 0;                                                                                                      \
    } catch (const std::bad_alloc &) {                                                                                 \
        return -1;                                                                                                     \
    }                                                                                                                  \
    PEER void peer_find(void *map, const uint64_t *vas, uint64_t *out, uint64_t count)                                 \
    {                                                                                                                  \
        for (uint64_t i = 0; i < count; i++) {                                                                         \
            uint64_t value;                                                                                            \
            out[i] = static_cast<Map *>(map)->find(page_number(vas[i]), value) ? translated(value, vas[i]) : UNMAPPED; \
        }                                                                                                              \
    }                                                                                                                  \
    PEER void peer_protect(void *map, const uint64_t *vas, uint64_t count)                                             \
    {                                                                                                                  \
        for (uint64_t i = 0; i < count; i++)                                                                           \
            static_cast<Map *>(map)->change(page_number(vas[i]));                                                      \
    }                                                                                                                  \
    PEER void peer_delete(void *map) { delete static_cast<Map *>(map); }
