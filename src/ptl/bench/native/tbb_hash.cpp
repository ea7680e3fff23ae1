// SPDX-License-Identifier: MIT
//
// TBB's concurrent hash map: a lock in each element. Given its buckets at once.
#include "maps.hpp"
#include <tbb/concurrent_hash_map.h>

struct Compare {
    static size_t hash(uint64_t number) { return page_hash(number); }
    static bool equal(uint64_t a, uint64_t b) { return a == b; }
};

class HashMap {
    using Pages = tbb::concurrent_hash_map<uint64_t, uint64_t, Compare>;
    Pages pages;

public:
    explicit HashMap(uint64_t count) : pages(count) {}

    void insert(uint64_t number, uint64_t value) { pages.insert(Pages::value_type(number, value)); }

    bool find(uint64_t number, uint64_t &value)
    {
        Pages::const_accessor found;
        if (!pages.find(found, number))
            return false;
        value = found->second;
        return true;
    }

    void change(uint64_t number)
    {
        Pages::accessor found;
        if (pages.find(found, number))
            found->second ^= WRITE_BIT;
    }
};

EXPORT_PEER(HashMap)
