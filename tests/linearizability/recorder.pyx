# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""A thread that calls a page table at full speed and remembers what it asked, what was answered, and when.

Written over the C level of ptl, as anybody could. Each thread has a buffer of its own, so that recording one call adds
nothing to another but two readings of the clock.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from ptl._core cimport (
    PageTable, Tree, ptl_collapse, ptl_compare_exchange, ptl_lookup, ptl_map, ptl_populate, ptl_protect, ptl_retract,
    ptl_split, ptl_translate, ptl_unmap,
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
    PROTECT = 8
    LOOKUP = 9
    READ_TABLE = 10

cdef enum:
    READ = 1                # attributes, as the C level takes them
    READ_AND_WRITE = 3
    MOST_PAGES = 16
    MOST_RUNS = 3
    MOST_VALUES = 1 + 2 * MOST_RUNS

cdef struct Call:
    uint64_t begin
    uint64_t end
    uint64_t answer
    uint32_t operation
    uint32_t page           # of the region
    uint32_t pages
    uint32_t argument       # which of the runs of frames, or of the values; whether read-only
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


cdef struct Region:         # what calls are made on
    Tree *tree
    uint64_t va
    uint64_t page_bytes
    uint32_t pages
    uint32_t pages_least    # of a range
    bint is_seen            # whether readers look on, who see each entry of a range change by itself
    uint32_t runs
    uint32_t values
    uint64_t pa[MOST_RUNS]                      # of the first page in each run of frames that may be mapped
    uint64_t entries[MOST_PAGES * MOST_VALUES]  # of each page, the raw entry of each value


cdef class Recorder:
    """One thread's calls on the pages of one region.

    operations: what to choose from, by number, as often as each is to be chosen.
    runs: the physical address of the region's first page in each run of frames that may be mapped.
    entries: of each page and each value, the raw entry; 0 for an empty one comes first.
    pages_least: of a map, an unmap, a protect: 2 for ranges only.
    is_seen: whether readers look on. They see each entry of a range change by itself; so a map or an unmap is then of one
        page or of all, which one switch of the slot changes, and a protect of one.
    """
    cdef Call *calls
    cdef uint32_t count
    cdef uint64_t seed
    cdef Region region

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
        list entries, uint32_t pages_least, bint is_seen
    ):
        """Make every call, without the GIL; but READ_TABLE, for which a thread needs it, and does nothing else."""
        cdef uint32_t[64] chosen
        cdef Region *region = &self.region
        cdef uint32_t choices = len(operations), i
        cdef bint reads_tables = READ_TABLE in operations
        if choices > 64 or len(runs) > MOST_RUNS or pages > MOST_PAGES or (reads_tables and choices > 1):
            raise ValueError(f"at most 64 operations, {MOST_RUNS} runs and {MOST_PAGES} pages; and READ_TABLE by itself")
        for i in range(choices):
            chosen[i] = operations[i]
        region.tree = table.tree
        region.va, region.page_bytes, region.pages, region.pages_least = va, page_bytes, pages, pages_least
        region.is_seen = is_seen
        region.runs, region.values = len(runs), len(entries) // pages
        for i in range(region.runs):
            region.pa[i] = runs[i]
        for i in range(pages * region.values):
            region.entries[i] = entries[i]
        with nogil:
            arrive(&gate.arrived)
            while arrived(&gate.arrived) < gate.threads:
                sched_yield()
            if not reads_tables:
                for i in range(self.count):
                    choose(&self.calls[i], region, chosen[next_random(&self.seed) % choices], next_random(&self.seed))
                    call_now(&self.calls[i], region)
        if reads_tables:
            for i in range(self.count):
                self.read_table(&self.calls[i], table)

    cdef int read_table(self, Call *call, PageTable table) except -1:
        """Map the leaf table with its lock, read all entries, let go."""
        cdef uint64_t raw, i
        call.operation = READ_TABLE
        call.pages = 1
        call.begin = now_ns()
        ptes = table.pte_map_lock(self.region.va)
        if ptes is None:
            call.answer = <uint64_t> -1
        else:
            with ptes:
                read = ptes.entries()
        call.end = now_ns()
        if ptes is not None:
            decode = table.arch.decode
            for i in range(self.region.pages):
                raw = read[i]
                if raw:
                    call.answer |= <uint64_t> (decode(raw).pa // self.region.page_bytes + 1) << 16 * i
        return 0

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


cdef void choose(Call *call, const Region *region, uint32_t operation, uint64_t dice) noexcept nogil:
    """What to ask for."""
    cdef uint32_t among = region.runs, least = region.pages_least
    call.operation = operation
    call.pages = 1
    if (operation == MAP or operation == UNMAP or operation == PROTECT and not region.is_seen) and (
        dice >> 56 & 1 or least > 1
    ):
        if dice >> 57 & 1 or region.is_seen:
            call.pages = region.pages
        else:
            call.page = <uint32_t> (dice >> 16) % (region.pages - least + 1)
            call.pages = least + <uint32_t> (dice >> 32) % (region.pages - call.page - least + 1)
    else:
        call.page = <uint32_t> (dice >> 16) % region.pages
    if operation == COMPARE_EXCHANGE:
        among = region.values
    elif operation == PROTECT:
        among = 2
    call.argument = <uint32_t> (dice >> 40) % among
    call.following = <uint32_t> (dice >> 48) % region.values


cdef void call_now(Call *call, const Region *region) noexcept nogil:
    """Ask, and remember what was answered, and when."""
    cdef Tree *tree = region.tree
    cdef uint64_t at = region.va + call.page * region.page_bytes, length = call.pages * region.page_bytes, raw = 0
    cdef const uint64_t *entries = &region.entries[call.page * region.values]
    call.begin = now_ns()
    if call.operation == TRANSLATE:
        call.answer = ptl_translate(tree, at)
    elif call.operation == MAP:
        call.answer = ptl_map(tree, at, region.pa[call.argument] + call.page * region.page_bytes, length, READ_AND_WRITE)
    elif call.operation == UNMAP:
        call.answer = ptl_unmap(tree, at, length)
    elif call.operation == PROTECT:
        call.answer = ptl_protect(tree, at, length, READ if call.argument else READ_AND_WRITE)
    elif call.operation == LOOKUP:
        call.answer = <uint64_t> -1
        if ptl_lookup(tree, at, &raw):
            call.answer = raw
    elif call.operation == COMPARE_EXCHANGE:
        call.answer = ptl_compare_exchange(tree, at, 1, entries[call.argument], entries[call.following])
    elif call.operation == POPULATE:
        call.answer = ptl_populate(tree, at)
    elif call.operation == RETRACT:
        call.answer = ptl_retract(tree, at)
    elif call.operation == COLLAPSE:
        call.answer = ptl_collapse(tree, at, <uint64_t> -1)
    else:
        call.answer = ptl_split(tree, at)
    call.end = now_ns()
