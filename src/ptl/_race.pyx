# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The native loops of `ptl race`: threads that read, fault and collapse on one PageTable, and time each operation.

Written over the C level of ptl as anybody could, so all locking policies run the same walk and the same transitions; a
policy is only the lock around them:

    policy       a read                  a fault                 collapse, retract             split
    epoch        pin, walk               pin, compare-exchange   the two tables' locks         the table's lock
    vma_lock     + the mapping, shared   + the mapping, shared   + the mapping, exclusive      + the mapping, shared
    mmap_lock    + everything, shared    + everything, shared    + everything, exclusive       + everything, shared

The locks are the C library's reader-writer locks that let a waiting writer go first: a writer cannot starve, and a
reader waits for no more writers than are waiting already.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from ptl._core cimport (
    PageTable, Tree, ptl_collapse, ptl_compare_exchange, ptl_lookup, ptl_map, ptl_retract, ptl_split, ptl_translate,
    ptl_unmap, ptl_walk,
)

cdef extern from "core/atomic.h" nogil:
    uint32_t load_acquire_32 "ptl_load_acquire_32"(const uint32_t *)
    void store_release_32 "ptl_store_release_32"(uint32_t *, uint32_t)
    uint64_t load_relaxed_64 "ptl_load_relaxed_64"(const uint64_t *)
    void store_relaxed_64 "ptl_store_relaxed_64"(uint64_t *, uint64_t)

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <time.h>

    /* One lock a cache line: two mappings' locks must not disturb each other. */
    typedef struct { pthread_rwlock_t lock; } __attribute__((aligned(128))) ptl_rwlock;

    static void ptl_rwlock_init(ptl_rwlock *lock)
    {
        pthread_rwlockattr_t kind;
        pthread_rwlockattr_init(&kind);
    #ifdef __GLIBC__
        pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    #endif
        pthread_rwlock_init(&lock->lock, &kind);
    }

    static inline uint64_t ptl_clock_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static void ptl_nap_ns(long nanoseconds)
    {
        struct timespec duration = {0, nanoseconds};
        nanosleep(&duration, NULL);
    }
    """
    ctypedef struct pthread_rwlock_t:
        pass
    ctypedef struct rwlock "ptl_rwlock":
        pthread_rwlock_t lock
    void rwlock_init "ptl_rwlock_init"(rwlock *)
    int pthread_rwlock_rdlock(pthread_rwlock_t *)
    int pthread_rwlock_wrlock(pthread_rwlock_t *)
    int pthread_rwlock_unlock(pthread_rwlock_t *)
    uint64_t clock_ns "ptl_clock_ns"()
    void sleep_ns "ptl_nap_ns"(long)
    int count_leading_zeros "__builtin_clzll"(uint64_t)
    int posix_memalign(void **, size_t, size_t)

cdef enum Policy:
    EPOCH = 0
    VMA_LOCK = 1
    MMAP_LOCK = 2

cdef enum Kind:
    IDLE = 0
    FILE = 1            # collapse in place: as file memory is collapsed, a short critical section
    ANONYMOUS = 2       # collapse by copy: 2 MiB are really copied

cdef enum:
    LINEAR = 64         # below this many ns each has a bucket of its own; above, 32 buckets each doubling
    BUCKETS = LINEAR + 58 * 32
    ROUND = 64          # pages that a fault thread maps before it unmaps them
    ENTRIES_A_LINE = 8  # of 64-bit entries
    BURST = 8           # faults between two naps
    NAP_NS = 50_000     # so that a fault thread costs no core of its own, and its faults come at moments of their own

cdef uint64_t UNMAPPED = <uint64_t> -1
cdef uint64_t FOREVER = <uint64_t> -1

POLICIES = {"epoch": EPOCH, "vma_lock": VMA_LOCK, "mmap_lock": MMAP_LOCK}
KINDS = {"idle": IDLE, "file": FILE, "anonymous": ANONYMOUS}


cdef struct Region:             # one slot of level 2
    uint64_t va
    uint64_t run[2]             # the frames it may map; a collapse by copy goes from one to the other
    uint32_t mapping
    uint32_t at                 # which of the two it maps: the collapser's own

cdef struct Page:
    uint64_t va
    uint64_t pa
    uint32_t mapping


cdef inline uint64_t next_random(uint64_t *state) noexcept nogil:
    """G. Marsaglia, "Xorshift RNGs", 2003."""
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef class Course:
    """What all threads of one run share: the table, the policy's locks, and the addresses.

    collapsing: (va, run, other run, mapping) of regions that are always mapped, and collapsed and split.
    faulting: (va, run, mapping) of regions in which fault threads map and unmap.
    pages: (va, pa, mapping) of pages that nobody changes.
    mapping numbers count from 0 to mappings - 1.
    """
    cdef PageTable table
    cdef Tree *tree
    cdef readonly str policy_name
    cdef int policy
    cdef rwlock *locks
    cdef Region *collapsing
    cdef Region *faulting
    cdef Page *pages
    cdef readonly uint64_t collapsing_count, faulting_count, page_count
    cdef uint64_t page_bytes, region_bytes, accessed
    cdef uint32_t attributes
    cdef uint32_t stop_flag

    def __cinit__(
        self, PageTable table not None, str policy not None, object collapsing, object faulting, object pages, mappings
    ):
        cdef uint64_t i
        if not collapsing or not faulting:
            raise ValueError("a course needs at least one region to collapse and one to fault in")
        arch = table.arch
        self.table = table
        self.tree = table.tree
        self.policy_name = policy
        self.policy = POLICIES[policy]
        self.page_bytes, self.region_bytes = arch.page_sizes[:2]
        self.accessed = arch.encode(0, "rwa") ^ arch.encode(0, "rw")
        self.attributes = 0b11
        self.collapsing_count, self.faulting_count, self.page_count = len(collapsing), len(faulting), len(pages)
        self.collapsing = <Region *> calloc(max(1, len(collapsing)), sizeof(Region))
        self.faulting = <Region *> calloc(max(1, len(faulting)), sizeof(Region))
        self.pages = <Page *> calloc(max(1, len(pages)), sizeof(Page))
        if (
            self.collapsing is NULL or self.faulting is NULL or self.pages is NULL
            or posix_memalign(<void **> &self.locks, 128, (<size_t> mappings + 1) * sizeof(rwlock))
        ):
            raise MemoryError("no memory for the course")
        for i in range(<uint64_t> mappings + 1):        # the last is the one around everything
            rwlock_init(&self.locks[i])
        for i, (va, run, other, mapping) in enumerate(collapsing):
            self.collapsing[i].va, self.collapsing[i].mapping = va, mapping
            self.collapsing[i].run[0], self.collapsing[i].run[1] = run, other
        for i, (va, run, mapping) in enumerate(faulting):
            self.faulting[i].va, self.faulting[i].mapping = va, mapping
            self.faulting[i].run[0] = run
        for i, (va, pa, mapping) in enumerate(pages):
            self.pages[i].va, self.pages[i].pa, self.pages[i].mapping = va, pa, mapping
        if self.policy == MMAP_LOCK:
            self.everything(mappings)

    cdef int everything(self, uint32_t mappings) except -1:
        """Let every mapping stand for the one lock."""
        cdef uint64_t i
        for i in range(self.collapsing_count):
            self.collapsing[i].mapping = mappings
        for i in range(self.faulting_count):
            self.faulting[i].mapping = mappings
        for i in range(self.page_count):
            self.pages[i].mapping = mappings
        return 0

    def __dealloc__(self):
        free(self.locks)
        free(self.collapsing)
        free(self.faulting)
        free(self.pages)

    def stop(self):
        """Let every thread end after the operation it is in."""
        store_release_32(&self.stop_flag, 1)

    def resume(self):
        """Let threads begin once more after `stop`; every thread has ended."""
        store_release_32(&self.stop_flag, 0)

    cdef inline bint stopped(self) noexcept nogil:
        return load_acquire_32(&self.stop_flag)

    cdef inline void lock_shared(self, uint32_t mapping) noexcept nogil:
        if self.policy != EPOCH:
            pthread_rwlock_rdlock(&self.locks[mapping].lock)

    cdef inline void lock_exclusive(self, uint32_t mapping) noexcept nogil:
        if self.policy != EPOCH:
            pthread_rwlock_wrlock(&self.locks[mapping].lock)

    cdef inline void unlock(self, uint32_t mapping) noexcept nogil:
        if self.policy != EPOCH:
            pthread_rwlock_unlock(&self.locks[mapping].lock)


cdef class Latencies:
    """A histogram of durations in ns: log-linear, so every bucket is at most 1/32 wide, relative to its value."""
    cdef uint64_t counts[BUCKETS]
    cdef readonly uint64_t longest

    cdef inline void add(self, uint64_t ns) noexcept nogil:
        cdef int exponent
        cdef uint64_t bucket = ns
        if ns >= LINEAR:
            exponent = 63 - count_leading_zeros(ns)
            bucket = LINEAR + (exponent - 6) * 32 + (ns >> (exponent - 5) & 31)
        self.counts[bucket] += 1
        if ns > self.longest:
            self.longest = ns

    def buckets(self):
        """(longest duration of the bucket in ns, how many) of every bucket that is not empty, shortest first."""
        cdef uint64_t i, exponent
        found = []
        for i in range(BUCKETS):
            if self.counts[i]:
                exponent = 6 + (i - LINEAR) // 32
                upper = i if i < LINEAR else ((33 + (i - LINEAR) % 32) << (exponent - 5)) - 1
                found.append((min(upper, self.longest), self.counts[i]))
        return found


cdef class Runner:
    """One thread's part: call the method that is its role in a thread of its own; it returns after `Course.stop`."""
    cdef Course course
    cdef readonly Latencies latencies
    cdef uint64_t operations
    cdef readonly uint64_t wrong, collapses, splits, retracts, failures
    cdef uint64_t random

    def __cinit__(self, Course course not None, uint64_t seed):
        self.course = course
        self.latencies = Latencies()
        self.random = seed * <uint64_t> 0x9E3779B97F4A7C15 | 1

    @property
    def done(self):
        """How many operations so far; readable while it runs."""
        return load_relaxed_64(&self.operations)

    def read(self, *, uint64_t nanoseconds=FOREVER):
        """Translate addresses picked at random, and check every answer; for so long, at most."""
        with nogil:
            self.read_loop(self.course, nanoseconds)

    cdef void read_loop(self, Course course, uint64_t nanoseconds) noexcept nogil:
        cdef uint64_t now, begun = clock_ns(), before = begun, pick, va, pa, offset
        cdef uint64_t first, second
        cdef uint32_t mapping
        cdef bint may_be_unmapped
        while not course.stopped() and before - begun < nanoseconds:
            pick = next_random(&self.random)
            offset = pick >> 8 & (course.region_bytes - 1)
            may_be_unmapped = False
            if pick & 1 or not course.page_count:
                region = &course.collapsing[(pick >> 32) % course.collapsing_count]
                va, mapping = region.va + offset, region.mapping
                first, second = region.run[0] + offset, region.run[1] + offset
            elif pick & 6:
                page = &course.pages[(pick >> 32) % course.page_count]
                offset &= course.page_bytes - 1
                va, mapping, first = page.va + offset, page.mapping, page.pa + offset
                second = first
            else:
                region = &course.faulting[(pick >> 32) % course.faulting_count]
                va, mapping, first = region.va + offset, region.mapping, region.run[0] + offset
                second, may_be_unmapped = first, True
            if course.policy == EPOCH:
                pa = ptl_translate(course.tree, va)
            else:
                course.lock_shared(mapping)
                pa = ptl_walk(course.tree, va)
                course.unlock(mapping)
            now = clock_ns()
            self.latencies.add(now - before)
            before = now
            if pa != first and pa != second and not (may_be_unmapped and pa == UNMAPPED):
                self.wrong += 1
            store_relaxed_64(&self.operations, self.operations + 1)

    def fault(self, uint64_t first, uint64_t count, *, bint naps=True, uint64_t nanoseconds=FOREVER):
        """Map pages of `count` fault regions from number `first`, which are this thread's own, and unmap them again; and
        between them set and clear accessed in pages that are being collapsed, as an access fault does. For so long, at
        most.

        naps: eight faults, then a nap; for where a thread that faults without a pause would take a core from the others.
        """
        if count == 0 or first + count > self.course.faulting_count:
            raise ValueError(f"there are {self.course.faulting_count} fault regions, not {first + count}")
        with nogil:
            self.fault_loop(self.course, first, count, naps, nanoseconds)

    cdef void fault_loop(
        self, Course course, uint64_t first, uint64_t count, bint naps, uint64_t nanoseconds
    ) noexcept nogil:
        cdef uint64_t turn = 0, pick, offset, i, begun = clock_ns()
        while not course.stopped() and clock_ns() - begun < nanoseconds:
            region = &course.faulting[first + turn % count]
            turn += 1
            pick = next_random(&self.random)
            for i in range(2 * ROUND):          # map every seventh page from there, then unmap the same
                offset = (pick + i % ROUND * course.page_bytes * 7) & (course.region_bytes - 1) & ~(course.page_bytes - 1)
                self.timed_fault(course, region, offset, i < ROUND)
                self.timed_touch(course)
                if naps and i % BURST == 0:
                    sleep_ns(NAP_NS)

    cdef void timed_fault(self, Course course, Region *region, uint64_t offset, bint mapping) noexcept nogil:
        cdef uint64_t before = clock_ns()
        cdef int result
        course.lock_shared(region.mapping)
        if mapping:
            result = ptl_map(course.tree, region.va + offset, region.run[0] + offset, course.page_bytes, course.attributes)
        else:
            result = ptl_unmap(course.tree, region.va + offset, course.page_bytes)
        course.unlock(region.mapping)
        self.finish_fault(before, result != 0)

    cdef void timed_touch(self, Course course) noexcept nogil:
        cdef uint64_t pick = next_random(&self.random), before
        cdef bint is_mapped
        region = &course.collapsing[(pick >> 32) % course.collapsing_count]
        before = clock_ns()
        course.lock_shared(region.mapping)
        is_mapped = self.touch(course, region.va + (pick & (course.region_bytes - 1)))
        course.unlock(region.mapping)
        self.finish_fault(before, not is_mapped)

    cdef bint touch(self, Course course, uint64_t va) noexcept nogil:
        """Set or clear accessed where that address is mapped."""
        cdef uint64_t raw = 0
        cdef uint32_t level
        # Ends: a failure means that somebody else changed the entry.
        while True:
            level = ptl_lookup(course.tree, va, &raw)
            if level == 0 or ptl_compare_exchange(course.tree, va, level, raw, raw ^ course.accessed) == 0:
                return level != 0

    cdef inline void finish_fault(self, uint64_t before, bint failed) noexcept nogil:
        self.latencies.add(clock_ns() - before)
        self.failures += failed
        store_relaxed_64(&self.operations, self.operations + 1)

    def collapse(self, str kind):
        """Never stop collapsing and splitting the collapse regions, and retracting the fault regions' empty tables."""
        cdef bint copies = KINDS[kind] == ANONYMOUS
        with nogil:
            self.collapse_loop(self.course, copies)

    cdef void collapse_loop(self, Course course, bint copies) noexcept nogil:
        cdef uint64_t turn = 0, target
        cdef int result
        while not course.stopped():
            region = &course.collapsing[turn % course.collapsing_count]
            target = region.run[not region.at] if copies else UNMAPPED
            course.lock_exclusive(region.mapping)
            result = ptl_collapse(course.tree, region.va, target)
            course.unlock(region.mapping)
            if result == 0:
                self.collapses += 1
                region.at ^= copies
                course.lock_shared(region.mapping)
                self.splits += ptl_split(course.tree, region.va) == 0
                course.unlock(region.mapping)
            else:
                self.failures += 1
            region = &course.faulting[turn % course.faulting_count]
            course.lock_exclusive(region.mapping)
            self.retracts += ptl_retract(course.tree, region.va) == 0
            course.unlock(region.mapping)
            turn += 1
            store_relaxed_64(&self.operations, self.operations + 1)

    def touch_lines(self):
        """Never stop touching a page of each cache line of entries of the collapse regions: what a collapser writes, and
        nothing that anybody has to wait for."""
        with nogil:
            self.touch_loop(self.course)

    cdef void touch_loop(self, Course course) noexcept nogil:
        cdef uint64_t turn = 0, line = course.page_bytes * ENTRIES_A_LINE, i
        while not course.stopped():
            region = &course.collapsing[turn % course.collapsing_count]
            for i in range(course.region_bytes // line):
                self.touch(course, region.va + i * line)
            turn += 1
            store_relaxed_64(&self.operations, self.operations + 1)


def clock_cost_ns():
    """What reading the clock once costs: it is part of every duration."""
    cdef uint64_t first = clock_ns(), last = first
    for _i in range(100_000):
        last = clock_ns()
    return (last - first) / 100_000.0
