// SPDX-License-Identifier: MIT
//
// TBB's concurrent ordered map, a skip list. Its elements are never freed while others read.
#include "maps.hpp"
#include <atomic>
#include <tbb/concurrent_map.h>

class SkipList {
    tbb::concurrent_map<uint64_t, std::atomic<uint64_t>> pages;

public:
    explicit SkipList(uint64_t) {}

    void insert(uint64_t number, uint64_t value) { pages.emplace(number, value); }

    bool find(uint64_t number, uint64_t &value)
    {
        auto found = pages.find(number);
        if (found == pages.end())
            return false;
        value = found->second.load(std::memory_order_acquire);
        return true;
    }

    void change(uint64_t number)
    {
        auto found = pages.find(number);
        if (found != pages.end())
            found->second.fetch_xor(WRITE_BIT);
    }
};

EXPORT_PEER(SkipList)
