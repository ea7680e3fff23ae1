/* SPDX-License-Identifier: MIT
 *
 * What the machine and its kernel do at best: the lower limits of what ptl does.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static uint64_t fork_ns(void)
{
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    if (child > 0)
        waitpid(child, NULL, 0);
    return (uint64_t)(after.tv_sec - before.tv_sec) * 1000000000 + (uint64_t)(after.tv_nsec - before.tv_nsec);
}

/* By how many nanoseconds of the parent's a fork takes longer because of these pages; 0 for so few that it shows nothing. */
LIMIT uint64_t limit_fork(void *memory, uint64_t bytes)
{
    madvise(memory, bytes, MADV_DONTFORK);
    uint64_t without = fork_ns();
    madvise(memory, bytes, MADV_DOFORK);
    uint64_t with = fork_ns();
    return with > without ? with - without : 0;
}

/* Copy an x86-64 table, and all below it, table by table, to memory that is there; the number of tables. */
LIMIT uint64_t limit_copy_tables(const char *memory, uint64_t table, int level, char *target, uint64_t number)
{
    enum { PRESENT = 1, LARGE = 1 << 7 };
    const uint64_t address = 0x000ffffffffff000, own = number++;
    uint64_t *copy = (uint64_t *)(target + (own << 12));
    memcpy(copy, memory + table, 4096);
    for (int i = 0; level > 1 && i < 512; i++) {
        uint64_t entry = copy[i];
        if ((entry & (PRESENT | LARGE)) != PRESENT)
            continue;
        copy[i] = (entry & ~address) | number << 12;
        number = limit_copy_tables(memory, entry & address, level - 1, target, number);
    }
    return number;
}

LIMIT void limit_give_back(void *memory, uint64_t bytes)
{
    munmap(memory, bytes);
}
