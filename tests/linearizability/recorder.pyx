# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""A thread that calls a page table at full speed and remembers what it asked, what was answered, and when.

Written over the C level of ptl, as anybody could. Each thread has a buffer of its own, so that recording one call adds
nothing to another but two readings of the clock.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from ptl._core cimport (
    PageTable, Tree, ptl_collapse, ptl_compare_exchange, ptl_map, ptl_populate, ptl_retract, ptl_split, ptl_translate,
    ptl_unmap,
)

cdef extern from * nogil:
    """
    #include <sched.h>
    #include <time.h>

    /* Calls that do not overlap in time must not seem to, on whatever cores they were made. */
    static inline uint64_t recorder_now_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static inline uint32_t recorder_arrive(uint32_t *word)
    {
        return __atomic_add_fetch(word, 1, __ATOMIC_ACQ_REL);
    }

    static inline uint32_t recorder_arrived(const uint32_t *word)
    {
        return __atomic_load_n(word, __ATOMIC_ACQUIRE);
    }
    """
    uint64_t now_ns "recorder_now_ns"()
    uint32_t arrive "recorder_arrive"(uint32_t *)
    uint32_t arrived "recorder_arrived"(const uint32_t *)
    int sched_yield()

cdef enum Operation:
    TRANSLATE = 0
    MAP = 1
    UNMAP = 2
    COMPARE_EXCHANGE = 3
    POPULATE = 4
    RETRACT = 5
    COLLAPSE = 6
    SPLIT = 7

cdef struct Call:
    uint64_t begin
    uint64_t end
    uint64_t answer
    uint32_t operation
    uint32_t page           # of the region
    uint32_t pages
    uint32_t argument       # which of the runs of frames; for a compare-exchange, from one to the other
    uint32_t following


cdef inline uint64_t next_random(uint64_t *state) noexcept nogil:
    """G. Marsaglia, "Xorshift RNGs", 2003."""
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef class Gate:
    """Lets threads begin together."""
    cdef uint32_t arrived
    cdef uint32_t threads

    def __cinit__(self, uint32_t threads):
        self.threads = threads


cdef class Recorder:
    """One thread's calls on the pages of one region.

    operations: what to choose from, by number, as often as each is to be chosen.
    runs: the physical address of the region's first page in each run of frames that may be mapped.
    entries: of each page and each run, the raw entry; 0 for an empty one comes first.
    """
    cdef Call *calls
    cdef uint32_t count
    cdef uint64_t seed

    def __cinit__(self, uint32_t count, uint64_t seed):
        self.calls = <Call *> calloc(count, sizeof(Call))
        if self.calls is NULL:
            raise MemoryError("no memory for a history")
        self.count = count
        self.seed = seed or 1

    def __dealloc__(self):
        free(self.calls)

    def run(
        self, Gate gate, PageTable table, list operations, uint64_t va, uint64_t page_bytes, uint32_t pages, list runs,
        list entries
    ):
        """Make every call, without the GIL."""
        cdef Tree *tree = table.tree
        cdef uint32_t[64] chosen
        cdef uint64_t[4] pa
        cdef uint64_t[4 * 16] raw
        cdef uint32_t choices = len(operations), count_runs = len(runs), i
        if choices > 64 or count_runs > 3 or pages > 16:
            raise ValueError("at most 64 operations, 3 runs and 16 pages")
        for i in range(choices):
            chosen[i] = operations[i]
        for i in range(count_runs):
            pa[i] = runs[i]
        for i in range(pages * (count_runs + 1)):
            raw[i] = entries[i]
        with nogil:
            arrive(&gate.arrived)
            while arrived(&gate.arrived) < gate.threads:
                sched_yield()
            for i in range(self.count):
                self.call(tree, &self.calls[i], chosen, choices, va, page_bytes, pages, pa, count_runs, raw)

    cdef void call(
        self, Tree *tree, Call *call, const uint32_t *chosen, uint32_t choices, uint64_t va, uint64_t page_bytes,
        uint32_t pages, const uint64_t *pa, uint32_t runs, const uint64_t *raw
    ) noexcept nogil:
        cdef uint64_t dice = next_random(&self.seed)
        cdef uint64_t at
        call.operation = chosen[dice % choices]
        call.page = <uint32_t> (dice >> 16) % pages
        call.pages = 1
        if (call.operation == MAP or call.operation == UNMAP) and dice >> 56 & 1:
            call.page = 0 if dice >> 57 & 1 else call.page
            call.pages = pages if call.page == 0 else 1 + <uint32_t> (dice >> 32) % (pages - call.page)
        call.argument = <uint32_t> (dice >> 40) % runs
        call.following = <uint32_t> (dice >> 48) % (runs + 1)
        if call.operation == COMPARE_EXCHANGE:
            call.argument = <uint32_t> (dice >> 40) % (runs + 1)
        at = va + call.page * page_bytes
        call.begin = now_ns()
        if call.operation == TRANSLATE:
            call.answer = ptl_translate(tree, at)
        elif call.operation == MAP:
            call.answer = ptl_map(tree, at, pa[call.argument] + call.page * page_bytes, call.pages * page_bytes, 3)
        elif call.operation == UNMAP:
            call.answer = ptl_unmap(tree, at, call.pages * page_bytes)
        elif call.operation == COMPARE_EXCHANGE:
            call.answer = ptl_compare_exchange(
                tree, at, 1, raw[call.page * (runs + 1) + call.argument], raw[call.page * (runs + 1) + call.following]
            )
        elif call.operation == POPULATE:
            call.answer = ptl_populate(tree, at)
        elif call.operation == RETRACT:
            call.answer = ptl_retract(tree, at)
        elif call.operation == COLLAPSE:
            call.answer = ptl_collapse(tree, at, <uint64_t> -1)
        else:
            call.answer = ptl_split(tree, at)
        call.end = now_ns()

    def calls_made(self):
        """(begin, end, operation, page, pages, argument, following, answer) of each call."""
        cdef uint32_t i
        cdef Call *call
        found = []
        for i in range(self.count):
            call = &self.calls[i]
            found.append((
                call.begin, call.end, call.operation, call.page, call.pages, call.argument, call.following, call.answer
            ))
        return found
