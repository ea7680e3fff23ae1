/* SPDX-License-Identifier: MIT
 *
 * What the machine and its kernel do at best: the lower limits of what ptl does.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define LIMIT __attribute__((visibility("default")))

LIMIT void limit_fill(void *memory, int byte, uint64_t bytes)
{
    memset(memory, byte, bytes);
    __asm__ volatile("" ::: "memory");
}

/* One atomic exchange a word, without anybody else. */
LIMIT uint64_t limit_exchange(uint64_t *memory, uint64_t count, uint64_t value)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += __atomic_exchange_n(&memory[i], value, __ATOMIC_ACQ_REL);
    return sum;
}

/* Add to one word; two threads on one line, or on two, tell what a line costs on its way between two cores. */
LIMIT void limit_add(uint64_t *word, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        __atomic_fetch_add(word, 1, __ATOMIC_ACQ_REL);
}

LIMIT void *limit_pages(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    memset(memory, 1, bytes);
    return memory;
}

LIMIT int limit_protect(void *memory, uint64_t bytes, int writable)
{
    return mprotect(memory, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ);
}

LIMIT void limit_give_back(void *memory, uint64_t bytes)
{
    munmap(memory, bytes);
}
