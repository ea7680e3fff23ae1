// SPDX-License-Identifier: MIT
//
// std::map under a std::shared_mutex: what one writes first.
#include "maps.hpp"
#include <map>
#include <mutex>
#include <shared_mutex>

class LockedMap {
    std::map<uint64_t, uint64_t> pages;
    std::shared_mutex lock;

public:
    explicit LockedMap(uint64_t) {}

    void insert(uint64_t number, uint64_t value)
    {
        std::unique_lock held(lock);
        pages.insert_or_assign(number, value);
    }

    bool find(uint64_t number, uint64_t &value)
    {
        std::shared_lock held(lock);
        auto found = pages.find(number);
        if (found == pages.end())
            return false;
        value = found->second;
        return true;
    }

    void change(uint64_t number)
    {
        std::unique_lock held(lock);
        auto found = pages.find(number);
        if (found != pages.end())
            found->second ^= WRITE_BIT;
    }
};

EXPORT_PEER(LockedMap)
