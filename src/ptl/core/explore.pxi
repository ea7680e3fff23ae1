# SPDX-License-Identifier: MIT
"""Explore every interleaving of model threads: run, see what raced, turn it round, run again.

    execution 1    a a a a b b b b b a a
                       ^-------^ race: the two do not commute, and nothing orders them
    execution 2    a a b ...           so at that place b must also have been tried first

X1  Two executions that differ only in the order of neighbouring steps that commute are the same *class*: one of each is
    run. Steps commute when they touch different words, or both only look. A step that writes what is there only looks.
X2  At each node the set `backtrack` is a source set: whatever can follow, some actor in it may as well go first.
X3  An actor in `sleep` was tried at this node, or above it and nothing since has met it: going on with it is a class that
    has been seen.
X4  Order between steps is kept in vector clocks: a step is after every earlier one that it does not commute with.
X5  Two steps race when they do not commute and no third is between them in that order. Of a lock, what races is taking it
    with taking it: letting go of it enables the other, and cannot be moved behind.
X6  With a bound on preemptions, sleep sets are off, every reversed race is also tried where its block of steps began, and
    what is found says "bounded".

An execution ends when all threads have, when none can go on, when something is wrong, or when all that could go on sleeps.
It is replayed from its beginning: the world is put back and the threads start anew, which costs a few microseconds.

Sources: P. Abdulla, S. Aronis, B. Jonsson, K. Sagonas, "Optimal dynamic partial order reduction", 2014 (source sets);
P. Godefroid, "Partial-order methods for the verification of concurrent systems", 1996 (sleep sets); K. Coons, M. Musuvathi,
K. McKinley, "Bounded partial-order reduction", 2013; S. Burckhardt et al., "A randomized scheduler with probabilistic
guarantees of finding bugs", 2010 (PCT).
"""

cdef enum Reduction:
    REDUCE_NOTHING = 0          # plain enumeration
    REDUCE_BY_SLEEP = 1         # sleep sets only
    REDUCE_BY_SOURCE = 2        # source sets and sleep sets

cdef enum:
    CELLS = 8192                # words that one execution may touch, and as many again to find them quickly
    KNOWN = 1 << 18             # outcomes and worlds that are remembered; a power of two

cdef struct Event:
    uint32_t actor
    uint16_t clock[LAB_ACTORS]

cdef struct Cell:               # the steps that touched a word last
    uint64_t key
    uint64_t stamp              # the execution that this is about
    int32_t write
    int32_t acquire
    int32_t read[LAB_ACTORS]    # since the last write

cdef struct Node:
    uint32_t chosen
    uint32_t enabled
    uint32_t backtrack
    uint32_t sleep
    uint32_t done

cdef struct Search:
    Lab lab
    int reduction
    int bound                   # of preemptions, or -1
    Node nodes[LAB_STEPS]
    Event events[LAB_STEPS]
    Cell cells[CELLS]
    uint64_t stamp
    uint32_t cell_count
    uint16_t clock[LAB_ACTORS][LAB_ACTORS]
    uint32_t depth              # steps of this execution
    uint64_t executions         # that ended
    uint64_t redundant          # that went to sleep
    uint64_t steps
    uint32_t longest
    uint64_t outcomes[KNOWN]          # of serial orders: open addressing, 0 is none
    uint64_t outcome_count
    uint64_t worlds[KNOWN]            # that were judged
    uint64_t world_count
    uint64_t found[KNOWN]             # outcomes of this exploration
    uint64_t found_count
    uint64_t traces[KNOWN]      # the classes that were run
    uint64_t trace_count
    bint is_any_outcome         # whether no serial order has to give it
    uint64_t random


# -- one execution ----------------------------------------------------------------------------------------------------

cdef void lab_begin(Lab *lab) noexcept nogil:
    """Put the world back, and run every thread up to its first step."""
    cdef LabThread *thread
    cdef uint32_t i
    world_copy(&lab.world, True, lab.world.image)
    lab.steps = lab.park_count = 0
    lab.failure = LAB_FINE
    lab.scratch = lab.scratch_lock = 0
    for i in range(lab.count):
        thread = &lab.threads[i]
        thread.position = thread.read_count = thread.loop_count = thread.turns = thread.held_count = 0
        thread.is_finished = thread.is_asleep = thread.is_woken = False
        thread.buffer_count = thread.stored = thread.drained = 0
        thread.inside_since = -1
        ptl_fiber_start(&thread.fiber, lab_thread_run, thread)
        lab_resume(lab, i)


cdef bint is_over(Lab *lab) noexcept nogil:
    cdef uint32_t i
    for i in range(lab.count):
        if not lab.threads[i].is_finished or lab.threads[i].buffer_count:
            return False
    return True


cdef void lab_stuck(Lab *lab) noexcept nogil:
    """Nobody can go on, and somebody is not done."""
    cdef uint32_t i
    for i in range(lab.count):
        if not lab.threads[i].is_finished:
            if lab.threads[i].pending.kind == PTL_AGAIN:
                lab_fail(lab, LAB_LIVELOCK, i, 0)
            else:
                lab_fail(lab, LAB_DEADLOCK, i, <uint64_t> lab.threads[i].pending.address)
            return


cdef uint64_t outcome_of(Lab *lab) noexcept nogil:
    """What the operations returned, and what the table says in the end."""
    cdef Tree *tree = lab.world.tree
    cdef Tree *twin = lab.world.twin
    cdef uint64_t hash = mapping_hash(tree, tree.root, tree.format.levels)
    cdef uint32_t i, j
    if twin is not NULL:
        hash = mixed(hash, mapping_hash(twin, twin.root, twin.format.levels))
    for i in range(lab.count):
        for j in range(lab.threads[i].count):
            hash = mixed(hash, lab.threads[i].results[j])
    return mixed(hash, lab.scratch) | 1


cdef uint64_t trace_of(Search *search) noexcept nogil:
    """The same for two executions of one class, and for no others: each step with all that is before it (X1)."""
    cdef uint64_t hash = 0, step
    cdef uint32_t i, j
    for i in range(search.depth):
        step = search.events[i].actor
        for j in range(LAB_ACTORS):
            step = mixed(step, search.events[i].clock[j])
        hash += step
    return hash | 1


cdef bint remember(uint64_t *known, uint64_t *count, uint64_t hash) noexcept nogil:
    """Whether it is new; a set that is full takes everything for new."""
    cdef uint64_t place = hash >> 7 & (KNOWN - 1)
    if count[0] >= KNOWN // 2:
        return not knows(known, hash)
    while known[place]:
        if known[place] == hash:
            return False
        place = place + 1 & (KNOWN - 1)
    known[place] = hash
    count[0] += 1
    return True


cdef bint knows(uint64_t *known, uint64_t hash) noexcept nogil:
    cdef uint64_t place = hash >> 7 & (KNOWN - 1)
    while known[place]:
        if known[place] == hash:
            return True
        place = place + 1 & (KNOWN - 1)
    return False


cdef int execute(Search *search, uint32_t kept) noexcept nogil:
    """One execution, whose first `kept` choices are made. What ended it: 0 it is over, 1 sleep, 2 something is wrong."""
    cdef Lab *lab = &search.lab
    cdef Node *node
    cdef uint32_t enabled, sleep = 0, chosen, i
    cdef int last = -1
    lab_begin(lab)
    search.stamp += 1
    search.cell_count = 0
    memset(search.clock, 0, sizeof(search.clock))
    search.depth = 0
    while True:
        if lab.failure:
            return 2
        enabled = lab_enabled(lab)
        if enabled == 0:
            if is_over(lab):
                return 0
            lab_stuck(lab)
            return 2
        if search.depth == LAB_STEPS:
            lab_fail(lab, LAB_TOO_LONG, 0, 0)
            return 2
        node = &search.nodes[search.depth]
        if search.depth >= kept:
            node.enabled = enabled
            node.sleep = sleep
            node.done = 0
            if not node_choose(search, node, last):
                return 1
        chosen = node.chosen
        lab_take(lab, chosen)
        event_record(search, chosen, search.depth + 1 >= kept)
        sleep = node.sleep & ~(<uint32_t> 1 << chosen)
        for i in range(LAB_ACTORS):
            if sleep >> i & 1 and pending_meets(lab, i):
                sleep &= ~(<uint32_t> 1 << i)
        last = chosen
        search.depth += 1
        search.steps += 1


cdef bint node_choose(Search *search, Node *node, int last) noexcept nogil:
    """Fill a new node: who goes first, and who has to be tried too. False when all sleep."""
    cdef uint32_t awake = node.enabled & ~node.sleep, among
    if search.lab.is_serial:
        among = serial_choices(&search.lab, node.enabled)
        node.chosen = count_trailing_zeros(among)
        node.backtrack = among
        return True
    if awake == 0:
        return False
    if last >= 0 and awake >> last & 1:
        node.chosen = last
    else:
        node.chosen = count_trailing_zeros(awake)
    node.backtrack = awake if search.reduction != REDUCE_BY_SOURCE else <uint32_t> 1 << node.chosen
    return True


cdef uint32_t serial_choices(Lab *lab, uint32_t enabled) noexcept nogil:
    """Who may go on when operations are whole: the one in the middle of one, unless it waits."""
    cdef uint32_t begins = 0, i
    for i in range(lab.count):
        if enabled >> i & 1:
            if lab.threads[i].pending.kind != PTL_BEGIN:
                return <uint32_t> 1 << i
            begins |= <uint32_t> 1 << i
    return begins


# -- the order of steps -----------------------------------------------------------------------------------------------

cdef Cell *cell_of(Search *search, uint64_t key) noexcept nogil:
    cdef uint64_t place = key * <uint64_t> 0x9e3779b97f4a7c15 >> 51
    cdef Cell *cell
    while True:
        cell = &search.cells[place]
        if cell.stamp != search.stamp:
            search.cell_count += 1
            if search.cell_count == CELLS // 2:
                lab_fail(&search.lab, LAB_TOO_LONG, 0, 0)
            cell.key = key
            cell.stamp = search.stamp
            cell.write = cell.acquire = -1
            memset(cell.read, 0xff, sizeof(cell.read))
            return cell
        if cell.key == key:
            return cell
        place = place + 1 & (CELLS - 1)


cdef inline void clock_join(uint16_t *clock, const uint16_t *other) noexcept nogil:
    cdef int i
    for i in range(LAB_ACTORS):
        clock[i] = max(clock[i], other[i])


cdef inline bint is_before(Search *search, int32_t event, const uint16_t *clock) noexcept nogil:
    """Whether a clock has seen a step (X4)."""
    cdef Event *e = &search.events[event]
    return clock[e.actor] >= e.clock[e.actor]


cdef void event_record(Search *search, uint32_t actor, bint is_new) noexcept nogil:
    """Give the step that was just done its place in the order, and look what it races with."""
    cdef Lab *lab = &search.lab
    cdef uint16_t *clock = search.clock[actor]
    cdef uint16_t before[LAB_ACTORS]
    cdef int32_t candidates[LAB_TOUCHED * (LAB_ACTORS + 1)]
    cdef uint32_t count = 0, i, j, k
    cdef int32_t index = search.depth, other
    cdef Event *event = &search.events[index]
    cdef Touch *t
    cdef Cell *cell
    cdef bint is_lock = actor < LAB_THREADS and lab.last.kind == PTL_LOCK, races
    memcpy(before, clock, sizeof(before))
    for i in range(lab.touched_count):
        t = &lab.touched[i]
        cell = cell_of(search, t.key)
        if cell.write >= 0:
            clock_join(clock, search.events[cell.write].clock)
            other = cell.acquire if is_lock else cell.write
            if other >= 0:
                candidates[count] = other
                count += 1
        if t.is_write:
            for j in range(LAB_ACTORS):
                if cell.read[j] >= 0:
                    clock_join(clock, search.events[cell.read[j]].clock)
                    candidates[count] = cell.read[j]
                    count += 1
    if actor >= LAB_THREADS:
        clock_join(clock, search.events[lab.last_stored].clock)
        clock_join(before, search.events[lab.last_stored].clock)
    elif lab.is_tso and lab.threads[actor].buffer_count == 0:
        # Whether it had to wait for its buffer or not: the buffer is empty.
        clock_join(clock, search.clock[LAB_THREADS + actor])
        clock_join(before, search.clock[LAB_THREADS + actor])
    clock[actor] = before[actor] + 1
    event.actor = actor
    memcpy(event.clock, clock, sizeof(event.clock))
    if is_new and search.reduction == REDUCE_BY_SOURCE:
        for i in range(count):
            other = candidates[i]
            races = search.events[other].actor != actor and not is_before(search, other, before)
            for k in range(count):
                if races and candidates[k] != other and is_before(search, other, search.events[candidates[k]].clock):
                    races = False
            if races:
                race_reverse(search, other, index)
    for i in range(lab.touched_count):
        t = &lab.touched[i]
        cell = cell_of(search, t.key)
        if t.is_write:
            cell.write = index
            if t.is_acquire:
                cell.acquire = index
            memset(cell.read, 0xff, sizeof(cell.read))
        else:
            cell.read[actor] = index


cdef void race_reverse(Search *search, int32_t early, int32_t late) noexcept nogil:
    """Let the node of the early step also try somebody who leads to the late one without it (X2)."""
    cdef Node *node = &search.nodes[early]
    cdef Event *x
    cdef uint32_t seen = 0, firsts = 0, actor, i
    cdef uint16_t first[LAB_ACTORS]
    cdef int32_t index
    cdef bint is_first
    memset(first, 0, sizeof(first))
    for index in range(early + 1, late + 1):
        x = &search.events[index]
        if index != late and is_before(search, early, x.clock):
            continue
        actor = x.actor
        if seen >> actor & 1:
            continue
        is_first = True
        for i in range(LAB_ACTORS):
            if seen >> i & 1 and x.clock[i] >= first[i]:
                is_first = False
        seen |= <uint32_t> 1 << actor
        first[actor] = x.clock[actor]
        if is_first:
            firsts |= <uint32_t> 1 << actor
    if search.bound >= 0:
        block_reverse(search, early, search.events[late].actor)
    elif firsts & (node.backtrack | node.sleep):
        return
    firsts &= node.enabled
    if firsts:
        actor = search.events[late].actor
        node.backtrack |= <uint32_t> 1 << (actor if firsts >> actor & 1 else count_trailing_zeros(firsts))


cdef void block_reverse(Search *search, int32_t early, uint32_t actor) noexcept nogil:
    """Let the node at which the early step's block of steps began try the late one's actor too (X6)."""
    while early and search.nodes[early - 1].chosen == search.nodes[early].chosen:
        early -= 1
    search.nodes[early].backtrack |= search.nodes[early].enabled & <uint32_t> 1 << actor


# -- all of them ------------------------------------------------------------------------------------------------------

cdef int64_t next_branch(Search *search) noexcept nogil:
    """Choose what to try next, and return how many choices are made; -1 when everything has been tried."""
    cdef int64_t depth = <int64_t> search.depth - 1
    cdef Node *node
    cdef uint32_t left
    while depth >= 0:
        node = &search.nodes[depth]
        node.done |= <uint32_t> 1 << node.chosen
        if search.reduction != REDUCE_NOTHING and search.bound < 0 and not search.lab.is_serial:
            node.sleep |= <uint32_t> 1 << node.chosen
        left = node.backtrack & node.enabled & ~node.done & ~node.sleep
        while left:
            node.chosen = count_trailing_zeros(left)
            if search.bound < 0 or preemptions_at(search, depth) <= search.bound:
                return depth + 1
            node.done |= <uint32_t> 1 << node.chosen
            left &= left - 1
        depth -= 1
    return -1


cdef int preemptions_at(Search *search, int64_t depth) noexcept nogil:
    """How many of the first choices took the turn from a thread that could have gone on."""
    cdef int count = 0, last = -1
    cdef int64_t i
    cdef Node *node
    for i in range(depth + 1):
        node = &search.nodes[i]
        if node.chosen < LAB_THREADS:
            if last >= 0 and <uint32_t> last != node.chosen and node.enabled >> last & 1:
                count += 1
            last = node.chosen
    return count


cdef int explore_some(Search *search, int64_t *kept, uint64_t most) noexcept nogil:
    """Run up to `most` executions. 0 there are more; 1 that was all; 2 something is wrong; 3 a new world is to be judged.
    """
    cdef int end
    cdef uint64_t outcome
    while most:
        most -= 1
        end = execute(search, <uint32_t> kept[0])
        search.longest = max(search.longest, search.depth)
        if end == 2:
            return 2
        if end == 1:
            search.redundant += 1
        else:
            search.executions += 1
            outcome = outcome_of(&search.lab)
            if search.lab.is_serial:
                remember(&search.outcomes[0], &search.outcome_count, outcome)
            else:
                remember(search.found, &search.found_count, outcome)
                remember(search.traces, &search.trace_count, trace_of(search))
                if not search.is_any_outcome and not knows(search.outcomes, outcome):
                    lab_fail(&search.lab, LAB_NO_SERIAL_ORDER, 0, 0)
                    return 2
            if remember(search.worlds, &search.world_count, world_hash(&search.lab.world) | 1):
                return 3
        kept[0] = next_branch(search)
        if kept[0] < 0:
            return 1
    return 0


# -- at random --------------------------------------------------------------------------------------------------------

cdef inline uint64_t random_next(Search *search) noexcept nogil:
    # xorshift64*
    search.random ^= search.random >> 12
    search.random ^= search.random << 25
    search.random ^= search.random >> 27
    return search.random * <uint64_t> 0x2545f4914f6cdd1d


cdef int sample_once(Search *search, uint64_t seed, uint32_t changes, uint32_t length) noexcept nogil:
    """One execution of PCT: the thread with the highest priority runs; at `changes` random steps it gets the lowest."""
    cdef Lab *lab = &search.lab
    cdef uint64_t priority[LAB_ACTORS]
    cdef uint32_t change_at[16]
    cdef uint32_t enabled, chosen, i
    search.random = mixed(seed, 0x5eed) | 1
    for i in range(LAB_ACTORS):
        priority[i] = (random_next(search) >> 2) + 1000
    for i in range(changes):
        change_at[i] = <uint32_t> (random_next(search) % length)
    lab_begin(lab)
    search.depth = 0
    while True:
        if lab.failure:
            return 2
        enabled = lab_enabled(lab)
        if enabled == 0:
            if is_over(lab):
                return 0
            lab_stuck(lab)
            return 2
        if search.depth == LAB_STEPS:
            lab_fail(lab, LAB_TOO_LONG, 0, 0)
            return 2
        chosen = count_trailing_zeros(enabled)
        for i in range(LAB_ACTORS):
            if enabled >> i & 1 and priority[i] > priority[chosen]:
                chosen = i
        for i in range(changes):
            if change_at[i] == search.depth:
                priority[chosen] = i
        search.nodes[search.depth].chosen = chosen
        lab_take(lab, chosen)
        search.depth += 1
        search.steps += 1


# -- the face ---------------------------------------------------------------------------------------------------------

STEP_KINDS = {
    PTL_LOAD: "load", PTL_STORE: "store", PTL_EXCHANGE: "exchange", PTL_COMPARE_EXCHANGE: "compare_exchange",
    PTL_ADD: "add", PTL_ADD_OWN: "store", PTL_BARRIER: "barrier", PTL_MEMBARRIER: "membarrier", PTL_LOCK: "lock",
    PTL_PARK: "park", PTL_UNPARK: "unpark", PTL_AGAIN: "again", PTL_SLEEP: "sleep", PTL_BEGIN: "begin",
}
"""What a step of a `Model` does, by number."""


cdef class Model:
    """A small table and up to four threads of whole operations, driven step by step: what `ptl.lab` is made on.

    pt: a `PageTable` whose frames, and the `EpochDomain` of these, nothing else uses.
    threads: for each, up to eight operations: a name of `LAB_OPERATION_NAMES`, and its numbers.
    memory: "sc", or "tso" for a store buffer a thread.
    locks: "whole" when taking one is one step, "inside" for its own loads, exchanges and parking.
    barrier: "membarrier" or "each section": who pays for the barrier of a reader; "none" is the mistake to find.
    unattached: TLBs that are attached to nothing, for operations that attach them. CPUs are numbered from those attached
        to the table on, the last one attached first.
    twin: another `PageTable` in the same frames, for operations whose name begins with "twin "; "fork" needs an empty one.

    Raises ValueError for what it cannot drive. Not for several threads at once.
    """
    cdef Search *search
    cdef PageTable pt
    cdef PageTable twin
    cdef uint64_t barrier
    cdef bint is_tso
    cdef tuple unattached

    def __cinit__(
        self, PageTable pt not None, threads, *, memory="sc", locks="whole", barrier="membarrier", unattached=(),
        PageTable twin=None
    ):
        cdef Lab *lab
        cdef LabThread *thread
        cdef World *world
        cdef void *own
        cdef uint32_t i
        if not 1 <= len(threads) <= LAB_THREADS or not all(1 <= len(each) <= LAB_OPERATIONS for each in threads):
            raise ValueError(f"a lab drives 1 to {LAB_THREADS} threads of 1 to {LAB_OPERATIONS} operations")
        if memory not in ("sc", "tso") or locks not in ("whole", "inside"):
            raise ValueError(f'memory is "sc" or "tso", locks are "whole" or "inside"; not {memory!r}, {locks!r}')
        if barrier not in ("membarrier", "each section", "none"):
            raise ValueError(f'barrier is "membarrier", "each section" or "none", not {barrier!r}')
        self.pt = pt
        self.search = <Search *> calloc(1, sizeof(Search))
        if self.search is NULL:
            raise MemoryError("no memory for a lab")
        lab = &self.search.lab
        self.is_tso = memory == "tso"
        lab.is_inside = locks == "inside"
        lab.has_membarrier = barrier == "membarrier"
        self.barrier = BY_READER if barrier == "each section" else BY_RECLAIMER_IN_STEPS
        lab.running = -1
        lab.is_checked = True
        world = &lab.world
        world.tree, world.block, world.domain = pt.tree, pt.tree.block, pt.tree.domain
        self.twin = twin
        if twin is not None:
            if twin.frames is not pt.frames:
                raise ValueError("a twin is a table in the same frames")
            world.twin = twin.tree
        world.threads = len(threads)
        if world.block.frames > LAB_TABLES:
            raise ValueError(f"a lab's block has at most {LAB_TABLES} frames, not {world.block.frames}")
        own = thread_record(world.domain.number)
        for i in range(world.threads):
            world.records[i] = record_register(world.domain)
            set_thread_record(world.domain.number, own)
            if world.records[i] is NULL:
                raise MemoryError("no memory for a lab")
        self.unattached = tuple(unattached)
        self.number_cpus()
        world.image_bytes = world_copy(world, False, NULL)
        world.image = <char *> calloc(1, world.image_bytes)
        if world.image is NULL:
            raise MemoryError("no memory for a lab")
        for i, operations in enumerate(threads):
            thread = &lab.threads[i]
            if not ptl_fiber_make(&thread.fiber):
                raise MemoryError("no memory for a lab")
            lab.count += 1
            thread.lab = lab
            thread.record = world.records[i]
            for name, *numbers in operations:
                operation_read(&thread.operations[thread.count], name, numbers, world.twin is not NULL)
                thread.count += 1

    def __dealloc__(self):
        cdef uint32_t i
        cdef Lab *lab
        if self.search is NULL:
            return
        lab = &self.search.lab
        for i in range(LAB_THREADS):
            if lab.threads[i].fiber.stack is not NULL:
                ptl_fiber_drop(&lab.threads[i].fiber)
            if lab.world.records[i] is not NULL:
                record_recycle(lab.world.records[i])
        free(lab.world.image)
        free(self.search)

    cdef int number_cpus(self) except -1:
        """Find the TLBs of the table, and prepare for attaching the others."""
        cdef Lab *lab = &self.search.lab
        cdef Attachment *attachment = lab.world.tree.attached
        cdef Tlb tlb
        cdef uint32_t count = len(self.unattached)
        while attachment is not NULL and count <= LAB_CPUS:
            count += 1
            attachment = attachment.next
        if count > LAB_CPUS:
            raise ValueError(f"a lab has at most {LAB_CPUS} CPUs")
        attachment = lab.world.tree.attached
        while attachment is not NULL:
            lab.world.cpus[lab.world.cpu_count] = attachment
            lab.world.cpu_count += 1
            attachment = attachment.next
        for tlb in self.unattached:
            if tlb.attached:
                raise ValueError(f"a lab attaches only a Tlb that is attached to nothing, not {tlb!r}")
            attachment = &lab.unattached[lab.world.cpu_count]
            attachment.cache = &tlb.cache
            lab.world.cpus[lab.world.cpu_count] = attachment
            lab.world.cpu_count += 1
        return 0

    cdef int enter(self) except -1:
        """From here on every access of this thread is a step."""
        cdef World *world = &self.search.lab.world
        world.shape, world.barrier = world.tree.format.shape, world.domain.barrier
        world.tree.format.shape, world.domain.barrier = MIXED, self.barrier
        if world.twin is not NULL:
            world.twin.format.shape = MIXED
        world_copy(world, False, world.image)
        set_stepper(lab_step, &self.search.lab)
        return 0

    cdef int leave(self, void *own) except -1:
        """Let the world be as it was before, and this thread its own master."""
        cdef World *world = &self.search.lab.world
        set_stepper(NULL, NULL)
        set_thread_record(world.domain.number, own)
        world_copy(world, True, world.image)
        world.tree.format.shape, world.domain.barrier = world.shape, world.barrier
        if world.twin is not NULL:
            world.twin.format.shape = world.shape
        return 0

    def explore(self, judge, *, reduction="source", bound=None, most=None, serial=False, any_outcome=False):
        """Run every interleaving, or one of each class, and call `judge()` at each new state of rest.

        judge: returns None, or what is wrong. reduction: "source", "sleep" or "none". bound: of preemptions. most:
        executions. serial: whole operations only, to learn what serial orders give; otherwise every execution has to give
        one of those, unless any_outcome. Returns a dict. Raises what judge raises. Gives up the GIL.
        """
        cdef Search *search = self.search
        cdef void *own = thread_record(search.lab.world.domain.number)
        cdef int64_t kept = 0
        cdef uint64_t left = <uint64_t> -1 if most is None else as_count(most, "most"), turn
        cdef int end = 0
        wrong = None
        search.reduction = ("none", "sleep", "source").index("none" if serial else reduction)
        search.bound = -1 if bound is None else bound
        search.lab.is_serial = serial
        search.lab.is_tso = self.is_tso and not serial
        search.is_any_outcome = any_outcome
        search.executions = search.redundant = search.steps = search.longest = 0
        search.found_count = 0
        memset(search.found, 0, KNOWN * 8)
        search.trace_count = 0
        memset(search.traces, 0, KNOWN * 8)
        search.world_count = 0
        memset(search.worlds, 0, KNOWN * 8)
        self.enter()
        try:
            while left:
                turn = min(left, 2000)
                left -= turn
                with nogil:
                    end = explore_some(search, &kept, turn)
                    set_thread_record(search.lab.world.domain.number, own)
                if end == 3:
                    wrong = judge()
                    if wrong is not None:
                        lab_fail(&search.lab, LAB_INVARIANT, 0, 0)
                        end = 2
                        break
                    kept = next_branch(search)
                    end = kept < 0
                if end:
                    break
                PyErr_CheckSignals()
        finally:
            self.leave(own)
        return {
            "complete": end == 1,
            "failure": self.failure(wrong) if end == 2 else None,
            "schedule": self.schedule() if end == 2 else None,
            "executions": search.executions + (end == 2),
            "redundant": search.redundant,
            "classes": search.trace_count if search.trace_count < KNOWN // 2 else search.executions,
            "steps": search.steps,
            "longest": search.longest,
            "worlds": search.world_count,
            "outcomes": search.outcome_count if serial else search.found_count,
        }

    def sample(self, judge, seed, *, most, changes, length, any_outcome=False):
        """Run `most` random schedules by PCT, from that seed on; as `explore` otherwise.

        changes: how often the running thread is put behind all others, at random among the first `length` steps.
        """
        cdef Search *search = self.search
        cdef void *own = thread_record(search.lab.world.domain.number)
        cdef uint64_t first = as_count(seed, "seed"), number = as_count(most, "most"), i = 0, outcome
        cdef uint32_t change_count = min(changes, 16), span_steps = max(length, 1)
        cdef int end = 0
        cdef bint is_new, is_any = any_outcome
        wrong = None
        search.lab.is_serial = False
        search.lab.is_tso = self.is_tso
        search.executions = search.redundant = search.steps = search.longest = 0
        search.world_count = 0
        memset(search.worlds, 0, KNOWN * 8)
        self.enter()
        try:
            while i < number and end == 0:
                is_new = False
                with nogil:
                    while i < number and end == 0 and not is_new:
                        end = sample_once(search, first + i, change_count, span_steps)
                        i += 1
                        search.longest = max(search.longest, search.depth)
                        search.executions += 1
                        if end == 0:
                            outcome = outcome_of(&search.lab)
                            if not is_any and not knows(search.outcomes, outcome):
                                lab_fail(&search.lab, LAB_NO_SERIAL_ORDER, 0, 0)
                                end = 2
                            is_new = remember(search.worlds, &search.world_count, world_hash(&search.lab.world) | 1)
                        if i & 1023 == 0:
                            break
                    set_thread_record(search.lab.world.domain.number, own)
                if end == 0 and is_new:
                    wrong = judge()
                    if wrong is not None:
                        lab_fail(&search.lab, LAB_INVARIANT, 0, 0)
                        end = 2
                PyErr_CheckSignals()
        finally:
            self.leave(own)
        return {
            "complete": False,
            "failure": self.failure(wrong) if end == 2 else None,
            "schedule": self.schedule() if end == 2 else None,
            "executions": search.executions,
            "redundant": 0,
            "classes": 0,
            "steps": search.steps,
            "longest": search.longest,
            "worlds": search.world_count,
            "outcomes": 0,
        }

    def replay(self, schedule, watch, *, judge=None, checked=True):
        """Run one schedule, a sequence of actors (4 + n is the store buffer of thread n), and then each thread to its end.

        watch: called with a tuple after each step: actor, operation, kind, what, value, expected, found, changed, site.
        Actors that cannot go on are passed over. Unless it is checked, what goes wrong at a step does not end it, so that
        what comes of it is seen by those who call. Returns what is wrong in the end, or None.
        """
        cdef Search *search = self.search
        cdef Lab *lab = &search.lab
        cdef void *own = thread_record(lab.world.domain.number)
        cdef uint32_t enabled, actor
        cdef uint64_t place = 0
        cdef list wanted = list(schedule)
        wrong = None
        lab.is_serial = False
        lab.is_tso = self.is_tso
        lab.is_checked = checked
        self.enter()
        try:
            lab_begin(lab)
            search.depth = 0
            while lab.failure == LAB_FINE and search.depth < LAB_STEPS:
                enabled = lab_enabled(lab)
                if enabled == 0:
                    if not is_over(lab):
                        lab_stuck(lab)
                    elif judge is not None:
                        set_thread_record(lab.world.domain.number, own)
                        wrong = judge()
                        if wrong is not None:
                            lab_fail(lab, LAB_INVARIANT, 0, 0)
                        elif search.outcome_count and not search.is_any_outcome and (
                            not knows(search.outcomes, outcome_of(lab))
                        ):
                            lab_fail(lab, LAB_NO_SERIAL_ORDER, 0, 0)
                    break
                actor = LAB_ACTORS
                while place < <uint64_t> len(wanted) and actor == LAB_ACTORS:
                    actor = wanted[place]
                    if actor < LAB_THREADS and not enabled >> actor & 1 and enabled >> (actor + LAB_THREADS) & 1:
                        actor += LAB_THREADS                # it waits for its own store buffer
                        break
                    place += 1
                    if actor >= LAB_ACTORS or not enabled >> actor & 1:
                        actor = LAB_ACTORS
                if actor == LAB_ACTORS:
                    actor = search.nodes[search.depth - 1].chosen % LAB_THREADS if search.depth else 0
                    if not enabled >> actor & 1:
                        actor += LAB_THREADS
                    if not enabled >> actor & 1:
                        actor = count_trailing_zeros(enabled)
                search.nodes[search.depth].chosen = actor
                lab_take(lab, actor)
                search.depth += 1
                set_thread_record(lab.world.domain.number, own)
                if watch is not None:
                    watch(self.step_seen())
        finally:
            lab.is_checked = True
            self.leave(own)
        return self.failure(wrong)

    cdef tuple step_seen(self):
        """The step that was just done, as `replay` tells it."""
        cdef Lab *lab = &self.search.lab
        cdef ptl_step *step = &lab.last
        cdef bint changed = step_changes(step)
        site = "" if step.site is NULL else (<bytes> step.site).decode()
        return (
            lab.last_actor,
            lab.last_operation,
            STEP_KINDS[step.kind],
            self.name_of(step.address),
            step.value,
            step.expected,
            step.found,
            bool(changed),
            site.rpartition("_core_")[2],
        )

    cdef tuple name_of(self, void *address):
        """What an address is: ("entry", table, level, index), ("table", number, field), ("record", thread, field); (name,).
        """
        cdef Lab *lab = &self.search.lab
        cdef World *world = &lab.world
        cdef uint64_t offset = <uint64_t> (<char *> address - world.tree.memory)
        cdef Table *table
        cdef uint32_t i, level
        if address is NULL:
            return ()
        if offset < world.block.bytes:
            table = table_at(lab, address)
            level = table.level if 1 <= table.level <= world.tree.format.levels else 1
            return (
                "entry", <uint64_t> (table - world.block.tables), level,
                offset - table_offset(world.block, table) >> world.tree.format.level[level].entry_shift,
            )
        offset = <uint64_t> (<char *> address - <char *> world.block.tables)
        if offset < world.block.frames * sizeof(Table):
            field = {0: "lock", 4: "use", 8: "pins", 48: "refs"}.get(offset % sizeof(Table), "link")
            return "table", offset // sizeof(Table), field
        for i in range(lab.count):
            offset = <uint64_t> (<char *> address - <char *> world.records[i])
            if offset < sizeof(Record):
                return "record", i, {0: "section", 8: "critical"}.get(offset, "record")
        for name, place in (
            ("the epoch", <uintptr_t> &world.domain.epoch),
            ("limbo", <uintptr_t> &world.domain.incoming),
            ("tables retired", <uintptr_t> &world.domain.retired),
            ("tables freed", <uintptr_t> &world.domain.freed),
            ("bytes retired", <uintptr_t> &world.domain.retired_bytes),
            ("bytes freed", <uintptr_t> &world.domain.freed_bytes),
            ("most in limbo", <uintptr_t> &world.domain.limbo_max),
            ("the list of records", <uintptr_t> &world.domain.records),
            ("the reclaim lock", <uintptr_t> &world.domain.reclaim_lock),
            ("the block's lock", <uintptr_t> &world.block.lock),
            ("the block's holders", <uintptr_t> &world.block.holders),
            ("the gate", <uintptr_t> &world.domain.gate),
            ("the gate's lock", <uintptr_t> &world.domain.gate_lock),
            ("locks held by Python", <uintptr_t> &world.tree.held),
            ("the generation", <uintptr_t> &world.tree.generation),
            ("the twin's generation", <uintptr_t> &world.twin.generation if world.twin is not NULL else 0),
            ("generations", <uintptr_t> &world.block.generations),
            ("the list of TLBs", <uintptr_t> &world.tree.attached),
            ("the counter", <uintptr_t> &lab.scratch),
            ("the counter's lock", <uintptr_t> &lab.scratch_lock),
        ):
            if place == <uintptr_t> address:
                return (name,)
        offset = <uint64_t> (<char *> address - <char *> world.domain)
        if offset < sizeof(Domain):
            return ("the domain",)
        return ("another reader's record",)

    cdef object failure(self, object wrong):
        """(kind, thread, what it was about, words of the judge), or None."""
        cdef Lab *lab = &self.search.lab
        if lab.failure == LAB_FINE:
            return None
        where = None
        if lab.failure in (
            LAB_USE_OF_FREED, LAB_WRITE_TO_DETACHED, LAB_DOUBLE_FREE, LAB_EARLY_FREE, LAB_WRITE_TO_SHARED
        ):
            where = "table", lab.failed_where >> lab.world.block.frame_shift, ""
        elif lab.failure in (LAB_LOCK_ORDER, LAB_UNBALANCED, LAB_DEADLOCK):
            where = self.name_of(<void *> lab.failed_where)
        return LAB_FAILURES[lab.failure], lab.failed_actor, where, wrong

    cdef list schedule(self):
        return [self.search.nodes[i].chosen for i in range(self.search.depth)]

    def results(self):
        """What each operation of each thread returned, of the last execution."""
        cdef Lab *lab = &self.search.lab
        cdef uint32_t i, j
        return [[lab.threads[i].results[j] for j in range(lab.threads[i].position)] for i in range(lab.count)]

    def owners(self):
        """The number by which each thread owns locks."""
        return [self.search.lab.world.records[i].number for i in range(self.search.lab.count)]

    def threads_now(self):
        """For each thread, inside `replay`: finished, how deep in a section, waiting, locks held, stores in its buffer."""
        cdef Lab *lab = &self.search.lab
        cdef LabThread *thread
        cdef uint32_t i, j
        told = []
        for i in range(lab.count):
            thread = &lab.threads[i]
            told.append((
                bool(thread.is_finished),
                thread.record.section & DEPTH_MASK,
                not thread.is_finished and thread.pending is not NULL and not is_enabled(lab, thread),
                [self.name_of(thread.held[j]) for j in range(thread.held_count)],
                [(self.name_of(thread.buffer[j].address), thread.buffer[j].value) for j in range(thread.buffer_count)],
            ))
        return told

    def tables_now(self):
        """For each frame that has been a table, inside `replay`: use, lock word, pins, level and raw entries."""
        cdef World *world = &self.search.lab.world
        cdef Table *table
        cdef uint64_t i, j
        cdef const LevelFormat *format
        told = []
        for i in range(world.block.table_top):
            table = &world.block.tables[i]
            entries = []
            if table.use in (TABLE_LIVE, TABLE_RETIRED, TABLE_PRIVATE) and 1 <= table.level <= world.tree.format.levels:
                format = &world.tree.format.level[table.level]
                for j in range(format.entries):
                    entries.append(entry_load(world.tree.memory + table_offset(world.block, table) + (
                        j << format.entry_shift
                    ), format))
            told.append((TABLE_USES[table.use], table.lock, table.pins, table.level, entries))
        return told


TABLE_USES = ("unused", "free", "private", "live", "retired", "data", "data")
"""What a frame is used for, as `Model.tables_now` says it."""


cdef int operation_read(Operation *op, str name, list numbers, bint has_twin) except -1:
    op.is_on_twin = name.startswith("twin ")
    name = name.removeprefix("twin ")
    if (op.is_on_twin or name == "fork") and not has_twin:
        raise ValueError(f"operation {name!r} needs a twin")
    if name not in LAB_OPERATION_NAMES:
        raise ValueError(f"a lab has no operation {name!r}; it has {', '.join(LAB_OPERATION_NAMES)}")
    op.code = LAB_OPERATION_NAMES.index(name)
    numbers = [as_count(number, "a number of an operation") for number in numbers] + [0] * 4
    op.a, op.b, op.c, op.d = numbers[:4]
    return 0
