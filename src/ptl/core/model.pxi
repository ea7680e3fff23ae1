# SPDX-License-Identifier: MIT
"""Model threads: the core's own operations, each on a stack of its own, stopped before every step.

    operations of thread a   --step--> | what is enabled? who goes on? | --do it--> on to the next step of a
    operations of thread b   --step--> |                               |
    store buffer of thread a --------> |  (memory="tso")               |

A step is one access to shared memory, or one of the things that wait: they are enabled when what they wait for is there.

A1  A thread is stopped before its step, and the step is done when the thread is chosen: what others did before is seen.
A2  A lock that is taken is one step, enabled when the lock is free; with `inside` it is the lock's own loads, exchanges,
    parking and waking, which wait as futexes do, first come first served.
A3  A loop that walks again goes on when something that it has read since its last turn, in loops inside it too, is no
    longer what it read: before that, it would only do the same again. What it wrote itself does not count. A sleep does so
    too, or ends when nobody else can do anything.
A4  With store buffers a plain store goes into its thread's buffer, first in, first out; the buffer is an actor of its own
    that makes one store visible a step. A thread's own loads look there first. What is locked waits for an empty buffer.
    membarrier takes two steps: it begins when the thread's own buffer is empty (Linux has a barrier at both ends of the
    call), and ends when every other has let go of what was in it when it began.
A5  What is checked touches more than a word: an access to an entry meets the freeing of its table, and a change of it
    meets the detaching. Without that, orders that differ only in what is checked would be taken for one.
A6  What is private (a table that no slot names yet) and what a lock protects is no step: it happens with the one before.

What is checked at every step: use of a table that is free or somebody else's private one; a change in a table that is no
longer in the tree; the life of a table (frames handed back twice, or back while a section that began before they were
retired lasts); lock order; and at the end of each operation, that nothing is held.
"""

cdef enum:
    LAB_ACTORS = 2 * LAB_THREADS        # threads, and the store buffer of each
    LAB_OPERATIONS = 8
    LAB_STEPS = 4096
    LAB_READS = 2048                    # by one operation
    LAB_LOOPS = 8
    LAB_BUFFER = 16
    LAB_HELD = 16
    LAB_TOUCHED = LAB_READS + 8
    LAB_TURNS = 64                      # of one operation: more is a livelock
    LAB_TABLES = 4096

cdef enum LabOperation:
    OP_TRANSLATE = 0
    OP_MAP = 1
    OP_UNMAP = 2
    OP_PROTECT = 3
    OP_COMPARE_EXCHANGE = 4
    OP_POPULATE = 5
    OP_RETRACT = 6
    OP_COLLAPSE = 7
    OP_SPLIT = 8
    OP_MOVE = 9
    OP_MAP_LOCK = 10
    OP_MAP_RW = 11
    OP_ALLOC_MAP_LOCK = 12
    OP_READ_TWICE = 13
    OP_ENTER = 14
    OP_LEAVE = 15
    OP_WALK = 16
    OP_RECLAIM = 17
    OP_SYNCHRONIZE = 18
    OP_EXIT = 19
    OP_COUNT_LOCKED = 20
    OP_TOUCH = 21
    OP_FAULT = 22
    OP_MAP_READ = 23
    OP_MAKE_RUN = 24
    OP_REPLACE = 25
    OP_ENTRIES = 26
    OP_ATTACH = 27
    OP_LOOKUP = 28
    OP_SWEEP = 29
    OP_FORK = 30

LAB_OPERATION_NAMES = (
    "translate", "map", "unmap", "protect", "compare_exchange", "populate", "retract", "collapse", "split", "move",
    "map_lock", "map_rw", "alloc_map_lock", "read_twice", "enter", "leave", "walk", "reclaim", "synchronize", "exit",
    "count_locked", "touch", "fault", "map_read", "make_run", "replace", "entries", "attach", "lookup", "sweep",
    "fork",
)

cdef enum LabFailure:
    LAB_FINE = 0
    LAB_USE_OF_FREED = 1
    LAB_WRITE_TO_DETACHED = 2
    LAB_DOUBLE_FREE = 3
    LAB_EARLY_FREE = 4
    LAB_LOCK_ORDER = 5
    LAB_UNBALANCED = 6
    LAB_DEADLOCK = 7
    LAB_LIVELOCK = 8
    LAB_NO_SERIAL_ORDER = 9
    LAB_INVARIANT = 10
    LAB_TOO_LONG = 11
    LAB_STALE = 12
    LAB_WRITE_TO_SHARED = 13

LAB_FAILURES = (
    "", "use of a freed table", "write into a detached table", "double free", "table freed under a reader",
    "wrong lock order", "unbalanced", "deadlock", "livelock", "no serial order gives this result", "broken invariant",
    "more steps than a lab keeps", "stale translation", "write into a shared table",
)

cdef struct Operation:
    uint32_t code
    bint is_on_twin
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d

cdef struct Seen:
    void *address
    uint64_t value
    uint32_t bits

cdef struct Loop:
    void *counter                       # which loop: where it counts its turns
    uint32_t begun                      # how much had been read when this turn began

cdef struct Buffered:
    void *address
    uint64_t value
    uint32_t bits
    int32_t event                       # the step that stored it

cdef struct Lab

cdef struct LabThread:
    ptl_fiber fiber
    Lab *lab
    Record *record
    ptl_step *pending
    Operation operations[LAB_OPERATIONS]
    uint64_t results[LAB_OPERATIONS]
    uint32_t count
    uint32_t position
    bint is_finished
    bint is_asleep                      # parked: the first half of the step is done
    bint is_woken
    uint32_t parked_at                  # when, to wake in that order
    Seen reads[LAB_READS]               # by this operation, in order (A3)
    uint32_t read_count
    Loop loops[LAB_LOOPS]
    uint32_t loop_count
    uint32_t turns
    uint32_t *held[LAB_HELD]
    uint32_t held_count
    Buffered buffer[LAB_BUFFER]
    uint32_t buffer_count
    uint32_t stored                     # into the buffer, and out of it, in all
    uint32_t drained
    uint32_t awaited[LAB_THREADS]       # a membarrier waits for these
    int64_t inside_since                # the step at which the section was entered; -1 outside
    uint32_t depth

cdef struct Touch:
    uint64_t key                        # an address, or the name of a store buffer
    bint is_write
    bint is_acquire                     # takes a lock

cdef struct Lab:
    World world
    LabThread threads[LAB_THREADS]
    uint32_t count
    bint is_tso
    bint is_inside                      # locks are stepped from inside
    bint is_serial                      # whole operations only: to find out what any serial order gives
    bint has_membarrier                 # False: a mutant in which it does nothing
    bint is_checked                     # False: what goes wrong at a step is left to show in what the operations return
    int running                         # the thread whose fiber runs, or -1
    uint32_t steps
    uint32_t park_count
    int failure
    uint32_t failed_actor
    uint64_t failed_where               # a table's offset, or a lock
    Touch touched[LAB_TOUCHED]          # by the last step
    uint32_t touched_count
    int64_t retired_at[LAB_TABLES]      # by table number: the step at which it was retired
    uint8_t owner[LAB_TABLES]           # of a private table: thread + 1
    Attachment unattached[LAB_CPUS]     # of CPUs that OP_ATTACH lets use the table
    uint64_t scratch                    # what OP_COUNT_LOCKED counts
    uint32_t scratch_lock
    ptl_step last                       # the step as it was done
    uint32_t last_actor
    uint32_t last_operation
    int32_t last_stored                 # of a store buffer's step: the step that had put it there


# -- in a fiber -------------------------------------------------------------------------------------------------------

cdef void lab_step(ptl_step *step) noexcept nogil:
    """The stepper: stop here until the lab lets the step be done."""
    cdef Lab *lab = <Lab *> the_lab()
    cdef LabThread *thread
    if lab.running < 0:                                 # the lab looks at its world
        ptl_perform(step)
        return
    thread = &lab.threads[lab.running]
    if step.kind == PTL_LOAD_OWN:
        step.found = own_value(thread, step.address, step.bits)
        return
    if step.kind == PTL_LOCK and lab.is_inside:
        step.found = 0
        return
    if step.kind == PTL_BEGIN and not lab.is_serial:
        return
    step.found = 1
    thread.pending = step
    ptl_fiber_yield(&thread.fiber)


cdef uint64_t own_value(const LabThread *thread, void *address, uint32_t bits) noexcept nogil:
    """What this thread sees of an address: its own newest store that is still in the buffer, or what is in memory."""
    cdef int i
    for i in range(<int> thread.buffer_count - 1, -1, -1):
        if thread.buffer[i].address is address:
            return thread.buffer[i].value
    return value_at(address, bits)


cdef void lab_thread_run(void *argument) noexcept nogil:
    cdef LabThread *thread = <LabThread *> argument
    cdef Lab *lab = thread.lab
    cdef ptl_step step
    memset(&step, 0, sizeof(ptl_step))
    step.bits = 64
    while thread.position < thread.count:
        step.kind = PTL_BEGIN
        lab_step(&step)
        thread.turns = thread.read_count = thread.loop_count = 0
        thread.results[thread.position] = lab_operate(lab, thread, &thread.operations[thread.position])
        if lab.failure == LAB_FINE and thread.held_count:
            lab_fail(lab, LAB_UNBALANCED, lab.running, <uint64_t> thread.held[0])
        thread.position += 1
    thread.is_finished = True
    while True:
        ptl_fiber_yield(&thread.fiber)


cdef uint64_t lab_operate(Lab *lab, LabThread *thread, Operation *op) noexcept nogil:
    """One operation, by the calls that everybody makes; what it returns is part of what a serial order has to give."""
    cdef Tree *tree = lab.world.twin if op.is_on_twin else lab.world.tree
    cdef Record *me = thread.record
    cdef Found found
    cdef Range range_op
    cdef Move move_op
    cdef uint64_t raw
    if op.code == OP_TRANSLATE:
        return ptl_translate(tree, op.a)
    if op.code == OP_LOOKUP:
        raw = UNMAPPED_RAW
        ptl_lookup(tree, op.a, &raw)
        return raw
    if op.code == OP_MAP:
        return ptl_map(tree, op.a, op.b, op.c, <uint32_t> op.d)
    if op.code == OP_UNMAP:
        return ptl_unmap(tree, op.a, op.b)
    if op.code == OP_PROTECT:
        memset(&range_op, 0, sizeof(Range))
        range_op.tree, range_op.me, range_op.kind = tree, me, PROTECT
        range_op.first, range_op.last = op.a, op.a + (op.b - 1)
        range_op.attributes = <uint32_t> op.c
        return range_apply(&range_op)
    if op.code == OP_COMPARE_EXCHANGE:
        return ptl_compare_exchange(tree, op.a, <uint32_t> op.b, op.c, op.d)
    if op.code == OP_POPULATE:
        return ptl_populate(tree, op.a)
    if op.code == OP_RETRACT:
        return ptl_retract(tree, op.a)
    if op.code == OP_COLLAPSE:
        return ptl_collapse(tree, op.a, op.b)
    if op.code == OP_SPLIT:
        return ptl_split(tree, op.a)
    if op.code == OP_MOVE:
        move_op.tree = tree
        return move_apply(&move_op, me, op.a, op.b, op.c)
    if op.code == OP_MAP_LOCK or op.code == OP_MAP_RW or op.code == OP_ALLOC_MAP_LOCK:
        return lab_map_lock(tree, me, op)
    if op.code == OP_ENTRIES:
        return lab_entries(tree, me, op)
    if op.code == OP_FAULT:
        return lab_fault(tree, me, op.a, op.b)
    if op.code == OP_MAP_READ:
        return lab_map_read(tree, me, op.a)
    if op.code == OP_MAKE_RUN:
        return lab_make_run(tree, me, op.a, op.b)
    if op.code == OP_REPLACE:
        return lab_replace(tree, me, op.a, op.b, op.c)
    if op.code == OP_SWEEP:
        return lab_sweep(tree, me, op.a, op.b)
    if op.code == OP_READ_TWICE:
        section_enter(me)
        raw = ptl_translate(tree, op.a)                 # a section in a section
        walk(tree, op.a, 1, &found)
        section_leave(me)
        return raw if found.state == BUSY or translate_found(tree, &found, op.a) == raw else raw ^ 1
    if op.code == OP_ENTER:
        section_enter(me)
    elif op.code == OP_LEAVE:
        section_leave(me)
    elif op.code == OP_WALK:
        walk(tree, op.a, 1, &found)
        return UNMAPPED_RAW if found.state == BUSY else translate_found(tree, &found, op.a)
    elif op.code == OP_RECLAIM:
        reclaim(tree.domain, <uint64_t> -1, True)
    elif op.code == OP_SYNCHRONIZE:
        raw = fetch_add_64(&tree.domain.epoch, 0)
        while not synchronize_once(tree.domain, raw):
            sleep_ns(20_000)
    elif op.code == OP_FORK:
        return tree_share(tree, me, lab.world.twin)
    elif op.code == OP_ATTACH:
        lab_attach(lab, tree, me, op.a)
    elif op.code == OP_EXIT:
        record_recycle(me)
    elif op.code == OP_COUNT_LOCKED:
        lock_acquire(&lab.scratch_lock, me.number)
        raw = load_relaxed_64(&lab.scratch)
        store_relaxed_64(&lab.scratch, raw + 1)
        lock_release(&lab.scratch_lock)
    elif op.code == OP_TOUCH:
        return lab_touch(lab, tree, me, op)
    return 0


cdef Table *lab_lock(Tree *tree, Record *me, const Operation *op) noexcept nogil:
    """Map a leaf table and lock it as a caller of the fallible interface does; NULL where there is none, nothing held."""
    cdef Found slot
    cdef Table *table
    cdef uint32_t turns = 0
    while True:
        if unshare(tree, me, op.a, 1, &slot) != DONE:
            return NULL
        table = pin_table(tree, me, op.a, 1, &slot)
        if table is NULL:
            if op.code != OP_ALLOC_MAP_LOCK or ptl_populate(tree, op.a) > ALREADY:
                return NULL
            continue
        lock_acquire(&table.lock, me.number)
        if lock_keep(tree, me, table, op.a, 1):
            return table
        fetch_add_32(&table.pins, <uint32_t> -1)
        if op.code == OP_MAP_RW or not again(tree, table_offset(tree.block, table), &turns):
            return NULL


cdef void lab_unlock(Tree *tree, Record *me, Table *table) noexcept nogil:
    lock_let_go(tree, table, me.number)
    fetch_add_32(&table.pins, <uint32_t> -1)


cdef uint64_t lab_map_lock(Tree *tree, Record *me, const Operation *op) noexcept nogil:
    """Map, lock and fill one empty entry: 1 done, 2 taken, 0 no table."""
    cdef const LevelFormat *level = &tree.format.level[1]
    cdef Table *table = lab_lock(tree, me, op)
    cdef uint64_t raw = level.empty
    cdef int change
    if table is NULL:
        return 0
    critical_enter(me)
    section_enter(me)
    change = entry_change(
        me, level, slot_of(tree, table_offset(tree.block, table), 1, op.a), &raw, leaf_make(level, op.b, 0)
    )
    section_leave(me)
    critical_leave(me)
    lab_unlock(tree, me, table)
    return 1 if change == CHANGED else 2


cdef uint64_t lab_entries(Tree *tree, Record *me, const Operation *op) noexcept nogil:
    """Map, lock and read a leaf table: of the first four entries 16 bits each, the page's number and one; 0 if empty.

    UNMAPPED when there is no table.
    """
    cdef const LevelFormat *level = &tree.format.level[1]
    cdef Table *table = lab_lock(tree, me, op)
    cdef char *entries
    cdef uint64_t seen = 0, raw, i
    if table is NULL:
        return UNMAPPED_RAW
    entries = tree.memory + table_offset(tree.block, table)
    for i in range(min(level.entries, <uint64_t> 4)):
        raw = entry_load(entries + (i << level.entry_shift), level)
        if is_leaf(level, raw):
            seen |= ((leaf_address(level, raw, 0) >> level.shift) + 1 & 0xffff) << 16 * i
    lab_unlock(tree, me, table)
    return seen


cdef uint64_t lab_map_read(Tree *tree, Record *me, uint64_t va) noexcept nogil:
    """Map the leaf table of va, read the entry through the handle, let go: the physical address, or UNMAPPED."""
    cdef const LevelFormat *level = &tree.format.level[1]
    cdef Found slot
    cdef Table *table = pin_table(tree, me, va, 1, &slot)
    cdef uint64_t raw
    if table is NULL:
        return UNMAPPED_RAW
    raw = entry_load(slot_of(tree, table_offset(tree.block, table), 1, va), level)
    fetch_add_32(&table.pins, <uint32_t> -1)
    return leaf_address(level, raw, va) if is_leaf(level, raw) else UNMAPPED_RAW


cdef uint64_t lab_sweep(Tree *tree, Record *me, uint64_t first, uint64_t room) noexcept nogil:
    """What eight pages are mapped to, `room` leaves a section at most: the number of each one's frame, a byte each.

    All ones when a page is found out of order, or once more.
    """
    cdef uint64_t va[8]
    cdef uint64_t pa[8]
    cdef uint64_t size[8]
    cdef uint64_t raw[8]
    cdef uint8_t attributes[8]
    cdef uint8_t level[8]
    cdef uint32_t shift = tree.format.level[1].shift
    cdef uint64_t i, at, page, next = 0, result = 0
    cdef Sweep sweep
    sweep_begin(&sweep, tree, me, SWEEP_LEAVES, first, first + (<uint64_t> 8 << shift) - 1)
    sweep.found.va, sweep.found.pa, sweep.found.size, sweep.found.raw = va, pa, size, raw
    sweep.found.attributes, sweep.found.level, sweep.found.room = attributes, level, room
    while not sweep.is_over:
        sweep.found.count = 0
        sweep.is_full = False
        if not sweep_all(&sweep):
            break
        for i in range(sweep.found.count):
            for at in range(size[i] >> shift):
                page = (va[i] - first >> shift) + at
                if page < next or page >= 8:
                    return UNMAPPED_RAW
                result |= ((pa[i] >> shift) + at & 255) << 8 * page
                next = page + 1
    return result


cdef uint64_t lab_fault(Tree *tree, Record *me, uint64_t va, uint64_t pa) noexcept nogil:
    """Map one page, and the table for it if there is none: DONE, IS_MAPPED or IS_HUGE."""
    cdef const LevelFormat *level = &tree.format.level[1]
    cdef Found found
    cdef int result
    while True:
        result = page_map(tree, me, va, leaf_make(level, pa, attribute_bits(level, 2)), &found, REWALKS_MAX)
        if result == IS_SHARED:
            result = unshare(tree, me, va, 1, &found)
        elif result == NO_TABLE:
            result = populate(tree, me, va, &found)
        else:
            return result
        if result != DONE and result != ALREADY:
            return result


cdef uint64_t lab_make_run(Tree *tree, Record *me, uint64_t va, uint64_t bytes) noexcept nogil:
    """Collapse the leaves around va to a run of that size."""
    cdef const Run *run
    cdef uint32_t level = level_of_size(&tree.format, bytes, &run)
    cdef Collapse how
    cdef Found found
    if run is NULL:
        return BAD_ARGUMENT
    memset(&how, 0, sizeof(Collapse))
    how.pa = UNMAPPED_RAW
    return collapse_to_run(tree, me, va, level, run, &how, &found)


cdef uint64_t lab_replace(Tree *tree, Record *me, uint64_t va, uint64_t pa, uint64_t bytes) noexcept nogil:
    """Map one page of that size, or a run, in place of whatever is there."""
    cdef Range op
    memset(&op, 0, sizeof(Range))
    op.leaf_level = level_of_size(&tree.format, bytes, &op.run)
    if op.leaf_level == 0:
        return BAD_ARGUMENT
    op.tree, op.me, op.kind, op.replace = tree, me, MAP, True
    op.first, op.last, op.pa_less_va = va, va + (bytes - 1), pa - va
    op.attributes = 2
    return range_apply(&op)


cdef uint64_t lab_touch(Lab *lab, Tree *tree, Record *me, const Operation *op) noexcept nogil:
    """What a CPU does: look into its TLB, walk on a miss, set accessed and dirty; and store a byte, where one is given.

    The physical address, or UNMAPPED.
    """
    cdef Attachment *attachment
    cdef Found found
    cdef uint64_t pa = 0
    cdef char byte = <char> (op.d - 1)
    cdef int result, why
    if op.c >= lab.world.cpu_count:
        return UNMAPPED_RAW
    attachment = lab.world.cpus[op.c]
    result = cpu_access(
        attachment.cache, tree, me, attachment.asid, op.a, <uint32_t> op.b, &pa,
        &byte if op.d else NULL, op.d != 0, &found, &why,
    )
    if result == STALE or result == MIXED_SIZES:
        lab_fail(lab, LAB_STALE, lab.running, 0)
    return pa if result == HIT else UNMAPPED_RAW - (result == DENIED)


cdef void lab_attach(Lab *lab, Tree *tree, Record *me, uint64_t cpu) noexcept nogil:
    """What `Tlb.attach` does, unless that CPU is attached: from here on, it may touch the table."""
    cdef Attachment *attachment = tree.attached
    if cpu >= lab.world.cpu_count:
        return
    while attachment is not NULL:
        if attachment is lab.world.cpus[cpu]:
            return
        attachment = attachment.next
    attachment_publish(tree, me, lab.world.cpus[cpu])
    if not is_faulty(ATTACHED_BESIDE_CHANGES):
        gate_pass(tree.domain)


# -- what a step touches ----------------------------------------------------------------------------------------------

cdef inline uint64_t key_of(Lab *lab, void *address) noexcept nogil:
    """Two accesses with different keys do not overlap: an entry may be read in halves, a descriptor may not."""
    cdef uint64_t offset = <uint64_t> (<char *> address - lab.world.tree.memory)
    if offset < lab.world.block.bytes:
        return <uint64_t> address & ~<uint64_t> 7
    return <uint64_t> address


cdef inline uint64_t stored_key(uint32_t thread) noexcept nogil:
    return 1 + thread


cdef inline uint64_t drained_key(uint32_t thread) noexcept nogil:
    return 1 + LAB_THREADS + thread


cdef inline uint64_t life_key(Lab *lab, const Table *table) noexcept nogil:
    return 64 + 2 * <uint64_t> (table - lab.world.block.tables)


cdef inline uint64_t place_key(Lab *lab, const Table *table) noexcept nogil:
    return life_key(lab, table) + 1


cdef void touch_table(Lab *lab, void *address, uint64_t old, uint64_t new) noexcept nogil:
    """What a step means for the life and the place of tables (A5); `old` and `new` are what the word held and holds."""
    cdef Touch more[3]
    cdef uint32_t i, count = table_touches(lab, address, old, new, more)
    for i in range(count):
        touch(lab, more[i].key, more[i].is_write, False)


cdef uint32_t table_touches(Lab *lab, void *address, uint64_t old, uint64_t new, Touch *more) noexcept nogil:
    cdef Tree *tree = lab.world.tree
    cdef uint64_t offset = <uint64_t> (<char *> address - tree.memory)
    cdef uint32_t count = 0
    cdef Table *table
    if offset < lab.world.block.bytes:
        table = table_at(lab, address)
        more[0].key, more[0].is_write = life_key(lab, table), False
        if old == new:
            return 1
        more[1].key, more[1].is_write = place_key(lab, table), False
        if table.level < 2 or table.level > tree.format.levels or classify_in_block(tree, table.level, old) != TABLE:
            return 2
        table = table_of(lab.world.block, child_offset(tree, table.level, old))
        more[2].key, more[2].is_write = place_key(lab, table), True
        return 3
    offset = <uint64_t> (<char *> address - <char *> lab.world.block.tables)
    if offset < lab.world.block.frames * sizeof(Table):
        table = &lab.world.block.tables[offset // sizeof(Table)]
        if address is &table.use and old != new and (new == TABLE_FREE or new == TABLE_PRIVATE):
            more[0].key, more[0].is_write = life_key(lab, table), True
            count = 1
    return count


cdef inline void touch(Lab *lab, uint64_t key, bint is_write, bint is_acquire) noexcept nogil:
    lab.touched[lab.touched_count].key = key
    lab.touched[lab.touched_count].is_write = is_write
    lab.touched[lab.touched_count].is_acquire = is_acquire
    lab.touched_count += 1


cdef inline bint is_locked_access(uint32_t kind) noexcept nogil:
    return kind == PTL_EXCHANGE or kind == PTL_COMPARE_EXCHANGE or kind == PTL_ADD


cdef bint pending_meets(Lab *lab, uint32_t actor) noexcept nogil:
    """Whether an actor's next step and the step that was just done do not commute."""
    cdef LabThread *thread
    cdef ptl_step *step
    cdef uint32_t i, j
    if actor >= LAB_THREADS:
        thread = &lab.threads[actor - LAB_THREADS]
        return will_meet(lab, thread.buffer[0].address, thread.buffer[0].bits, thread.buffer[0].value, True) or (
            was_touched(lab, drained_key(actor - LAB_THREADS), True)
        )
    thread = &lab.threads[actor]
    step = thread.pending
    if step.kind == PTL_AGAIN or step.kind == PTL_SLEEP:
        for i in range(loop_of(thread, step).begun, thread.read_count):
            if was_touched(lab, key_of(lab, thread.reads[i].address), False):
                return True
        return False
    if step.kind == PTL_MEMBARRIER:
        if not lab.is_tso:
            return False
        for j in range(lab.count):
            if was_touched(lab, stored_key(j), False) or was_touched(lab, drained_key(j), False):
                return True
        return False
    if step.address is NULL:
        return False
    if lab.is_tso and (step.kind == PTL_STORE or step.kind == PTL_ADD_OWN):
        return was_touched(lab, stored_key(actor), True)
    return will_meet(lab, step.address, step.bits, step.value, step.kind != PTL_LOAD)


cdef bint will_meet(Lab *lab, void *address, uint32_t bits, uint64_t value, bint is_write) noexcept nogil:
    """Whether an access to that address, as it would be now, meets the last step."""
    cdef Touch more[3]
    cdef uint32_t i, count
    cdef uint64_t old = value_at(address, bits)
    if was_touched(lab, key_of(lab, address), is_write):
        return True
    count = table_touches(lab, address, old, value if is_write else old, more)
    for i in range(count):
        if was_touched(lab, more[i].key, more[i].is_write):
            return True
    return False


cdef inline bint is_touched(Lab *lab, uint64_t key) noexcept nogil:
    cdef uint32_t i
    for i in range(lab.touched_count):
        if lab.touched[i].key == key:
            return True
    return False


cdef inline bint was_touched(Lab *lab, uint64_t key, bint is_write) noexcept nogil:
    cdef uint32_t i
    for i in range(lab.touched_count):
        if lab.touched[i].key == key and (is_write or lab.touched[i].is_write):
            return True
    return False


# -- enabled when -----------------------------------------------------------------------------------------------------

cdef uint32_t lab_enabled(Lab *lab) noexcept nogil:
    """The actors that can do their next step, as a set of bits."""
    cdef uint32_t enabled = 0, sleepers = 0, i
    cdef LabThread *thread
    for i in range(lab.count):
        thread = &lab.threads[i]
        if thread.buffer_count:
            enabled |= <uint32_t> 1 << (LAB_THREADS + i)
        if not thread.is_finished:
            if is_enabled(lab, thread):
                enabled |= <uint32_t> 1 << i
            elif thread.pending.kind == PTL_SLEEP:
                sleepers |= <uint32_t> 1 << i
    return enabled if enabled else sleepers             # time passes when nothing else can happen


cdef bint is_enabled(Lab *lab, LabThread *thread) noexcept nogil:
    cdef ptl_step *step = thread.pending
    cdef uint32_t i
    if step.kind == PTL_LOCK:
        return thread.buffer_count == 0 and (<uint32_t *> step.address)[0] == 0
    if is_locked_access(step.kind) or step.kind == PTL_BARRIER or step.kind == PTL_UNPARK:
        return thread.buffer_count == 0
    if step.kind == PTL_STORE or step.kind == PTL_ADD_OWN:
        return thread.buffer_count < LAB_BUFFER
    if step.kind == PTL_MEMBARRIER and lab.is_tso and not thread.is_asleep:
        return thread.buffer_count == 0 or not lab.has_membarrier
    if step.kind == PTL_MEMBARRIER and lab.is_tso:
        for i in range(lab.count):
            if lab.threads[i].drained < thread.awaited[i]:
                return False
        return True
    if step.kind == PTL_PARK:
        if thread.is_asleep:
            return thread.is_woken
        return thread.buffer_count == 0
    if step.kind == PTL_AGAIN or step.kind == PTL_SLEEP:
        for i in range(loop_of(thread, step).begun, thread.read_count):
            if own_value(thread, thread.reads[i].address, thread.reads[i].bits) != thread.reads[i].value:
                return True
        return False
    return True


cdef inline uint64_t value_at(void *address, uint32_t bits) noexcept nogil:
    if bits == 32:
        return (<uint32_t *> address)[0]
    return (<uint64_t *> address)[0]


# -- doing it ---------------------------------------------------------------------------------------------------------

cdef void lab_take(Lab *lab, uint32_t actor) noexcept nogil:
    """Do the next step of an actor that is enabled, and let its thread run on to the step after."""
    cdef LabThread *thread
    cdef ptl_step *step
    lab.touched_count = 0
    lab.last_actor = actor
    if actor >= LAB_THREADS:
        buffer_drain(lab, actor - LAB_THREADS)
        lab.steps += 1
        return
    thread = &lab.threads[actor]
    step = thread.pending
    lab.last_operation = thread.position
    if not step_do(lab, actor, thread, step):
        lab.steps += 1
        return                                          # the first half of a step that waits
    lab.last = step[0]
    lab.steps += 1
    lab_resume(lab, actor)


cdef void lab_resume(Lab *lab, uint32_t actor) noexcept nogil:
    """Run a thread up to its next step."""
    cdef LabThread *thread = &lab.threads[actor]
    lab.running = actor
    set_thread_record(lab.world.domain.number, thread.record)
    ptl_fiber_enter(&thread.fiber)
    lab.running = -1


cdef void buffer_drain(Lab *lab, uint32_t number) noexcept nogil:
    """Make the oldest store of a thread's buffer visible."""
    cdef LabThread *thread = &lab.threads[number]
    cdef ptl_step step
    cdef int32_t stored = thread.buffer[0].event
    cdef uint32_t i
    memset(&step, 0, sizeof(ptl_step))
    step.kind = PTL_STORE
    step.bits = thread.buffer[0].bits
    step.address = thread.buffer[0].address
    step.value = thread.buffer[0].value
    step.site = b"store buffer"
    ptl_perform(&step)
    touch(lab, key_of(lab, step.address), step.found != step.value, False)
    touch(lab, drained_key(number), True, False)
    touch_table(lab, step.address, step.found, step.value)
    thread.drained += 1
    thread.buffer_count -= 1
    for i in range(thread.buffer_count):
        thread.buffer[i] = thread.buffer[i + 1]
    lab.last = step
    lab.last_stored = stored
    check_change(lab, number, &step)


cdef bint step_do(Lab *lab, uint32_t actor, LabThread *thread, ptl_step *step) noexcept nogil:
    """False when only the first half is done."""
    cdef uint32_t i
    cdef bint changes
    if step.kind == PTL_BEGIN or step.kind == PTL_BARRIER:
        return True
    if step.kind == PTL_AGAIN or step.kind == PTL_SLEEP:
        for i in range(loop_of(thread, step).begun, thread.read_count):
            if not is_touched(lab, key_of(lab, thread.reads[i].address)):
                touch(lab, key_of(lab, thread.reads[i].address), False, False)
        loop_of(thread, step).begun = thread.read_count
        thread.turns += 1
        if thread.turns > LAB_TURNS:
            lab_fail(lab, LAB_LIVELOCK, actor, 0)
        return True
    if step.kind == PTL_MEMBARRIER:
        return membarrier_do(lab, thread)
    if step.kind == PTL_PARK:
        return park_do(lab, thread, step)
    if step.kind == PTL_UNPARK:
        touch(lab, key_of(lab, step.address), True, False)
        unpark_do(lab, step)
        return True
    if step.kind == PTL_LOCK:
        (<uint32_t *> step.address)[0] = <uint32_t> step.value
        touch(lab, key_of(lab, step.address), True, True)
        check_lock(lab, actor, thread, <uint32_t *> step.address, True)
        return True
    if step.kind == PTL_STORE or step.kind == PTL_ADD_OWN:
        if step.kind == PTL_ADD_OWN:
            step.value += own_value(thread, step.address, step.bits)
        check_section(lab, thread, step)
        if lab.is_tso:
            buffer_put(lab, actor, thread, step)
            return True
        step.kind = PTL_STORE
        ptl_perform(step)
    elif step.kind == PTL_LOAD:
        step.found = own_value(thread, step.address, step.bits)
        touch(lab, key_of(lab, step.address), False, False)
        touch_table(lab, step.address, 0, 0)
        read_remember(lab, thread, step, step.found)
        check_use(lab, actor, step)
        return True
    else:
        ptl_perform(step)
    changes = step_changes(step)
    touch(lab, key_of(lab, step.address), changes, changes and step.found == 0 and step.bits == 32)
    touch_table(lab, step.address, step.found, value_at(step.address, step.bits))
    read_remember(lab, thread, step, value_at(step.address, step.bits))
    check_use(lab, actor, step)
    check_change(lab, actor, step)
    if step.kind != PTL_STORE:
        check_section(lab, thread, step)
    return True


cdef inline bint step_changes(const ptl_step *step) noexcept nogil:
    """Whether the word is another after a step than before: what changes nothing is only a look."""
    if step.kind == PTL_COMPARE_EXCHANGE:
        return step.found == step.expected and step.value != step.expected
    if step.kind == PTL_ADD:
        return step.value != 0
    return step.kind != PTL_LOAD and step.found != step.value


cdef void read_remember(Lab *lab, LabThread *thread, ptl_step *step, uint64_t value) noexcept nogil:
    """Keep what this operation has seen (A3); where it has changed a word itself, what that is now."""
    cdef uint32_t i
    if step_changes(step):
        for i in range(thread.read_count):
            if thread.reads[i].address is step.address:
                thread.reads[i].value = value
    if step.kind == PTL_STORE:
        return
    if thread.read_count == LAB_READS:
        lab_fail(lab, LAB_TOO_LONG, lab.last_actor, 0)
        return
    thread.reads[thread.read_count].address = step.address
    thread.reads[thread.read_count].bits = step.bits
    thread.reads[thread.read_count].value = value
    thread.read_count += 1


cdef Loop *loop_of(LabThread *thread, const ptl_step *step) noexcept nogil:
    """The loop that a step lets go round; all sleeps are one."""
    cdef uint32_t i
    for i in range(thread.loop_count):
        if thread.loops[i].counter is step.address:
            return &thread.loops[i]
    if thread.loop_count < LAB_LOOPS:
        thread.loop_count += 1
    i = thread.loop_count - 1
    thread.loops[i].counter = step.address
    thread.loops[i].begun = 0
    return &thread.loops[i]


cdef void buffer_put(Lab *lab, uint32_t actor, LabThread *thread, ptl_step *step) noexcept nogil:
    cdef Buffered *entry = &thread.buffer[thread.buffer_count]
    entry.address, entry.value, entry.bits = step.address, step.value, step.bits
    entry.event = lab.steps
    step.found = step.value                             # nothing has changed yet
    thread.buffer_count += 1
    thread.stored += 1
    touch(lab, stored_key(actor), True, False)


cdef bint membarrier_do(Lab *lab, LabThread *thread) noexcept nogil:
    cdef uint32_t i
    if not lab.is_tso or not lab.has_membarrier:
        return True
    for i in range(lab.count):
        touch(lab, drained_key(i) if thread.is_asleep else stored_key(i), False, False)
        if not thread.is_asleep:
            thread.awaited[i] = lab.threads[i].stored
    thread.is_asleep = not thread.is_asleep
    return not thread.is_asleep


cdef bint park_do(Lab *lab, LabThread *thread, ptl_step *step) noexcept nogil:
    """A futex: sleep if the word is still `value`, until woken."""
    touch(lab, key_of(lab, step.address), True, False)
    if not thread.is_asleep and (<uint32_t *> step.address)[0] == <uint32_t> step.value:
        thread.is_asleep = True
        thread.is_woken = False
        thread.parked_at = lab.park_count
        lab.park_count += 1
        return False
    thread.is_asleep = False
    return True


cdef void unpark_do(Lab *lab, ptl_step *step) noexcept nogil:
    """Wake those that sleep on the word, in the order they came, up to `value` of them."""
    cdef uint64_t left = step.value
    cdef LabThread *first
    cdef uint32_t i
    while left:
        first = NULL
        for i in range(lab.count):
            if lab.threads[i].is_asleep and not lab.threads[i].is_woken and lab.threads[i].pending.kind == PTL_PARK and (
                lab.threads[i].pending.address is step.address
            ) and (first is NULL or lab.threads[i].parked_at < first.parked_at):
                first = &lab.threads[i]
        if first is NULL:
            return
        first.is_woken = True
        left -= 1


# -- checks at every step ---------------------------------------------------------------------------------------------

cdef void lab_fail(Lab *lab, int failure, uint32_t actor, uint64_t where) noexcept nogil:
    """The first failure of an execution is the one that is told. Unchecked, only what keeps it from ending is one."""
    cdef bint is_check = failure <= LAB_UNBALANCED or failure == LAB_STALE or failure == LAB_WRITE_TO_SHARED
    if lab.failure == LAB_FINE and (lab.is_checked or not is_check):
        lab.failure = failure
        lab.failed_actor = actor
        lab.failed_where = where


cdef Table *table_at(Lab *lab, void *address) noexcept nogil:
    """The table whose entry that address is, or NULL."""
    cdef uint64_t offset = <uint64_t> (<char *> address - lab.world.tree.memory)
    cdef Table *table
    if offset >= lab.world.block.bytes:
        return NULL
    table = table_of(lab.world.block, offset)
    while table.use == FRAME_UNUSED and table is not lab.world.block.tables:     # the inside of a larger one
        table -= 1
    return table


cdef void check_use(Lab *lab, uint32_t actor, ptl_step *step) noexcept nogil:
    cdef Table *table = table_at(lab, step.address)
    cdef uint64_t number
    if table is NULL:
        return
    number = <uint64_t> (table - lab.world.block.tables)
    if table.use == TABLE_FREE or table.use == TABLE_PRIVATE and lab.owner[number % LAB_TABLES] != actor + 1:
        lab_fail(lab, LAB_USE_OF_FREED, actor, table_offset(lab.world.block, table))


cdef void check_change(Lab *lab, uint32_t actor, ptl_step *step) noexcept nogil:
    cdef World *world = &lab.world
    cdef Table *table
    cdef uint64_t offset = <uint64_t> (<char *> step.address - <char *> world.block.tables)
    cdef bint is_shared
    if offset < world.block.frames * sizeof(Table):
        table = &world.block.tables[offset // sizeof(Table)]
        if <void *> &table.use is step.address:             # also when it stays what it is: free, and freed again
            check_life(lab, actor, table, <uint32_t> step.found, <uint32_t> step.value)
        elif <void *> &table.lock is step.address and step_changes(step):
            check_lock_word(lab, actor, step)
        return
    if not step_changes(step):
        return
    table = table_at(lab, step.address)
    if table is NULL:
        check_lock_word(lab, actor, step)
        return
    if is_hardware(&lab.threads[actor]):
        return                                          # it may still set flags in a table that it has found
    offset = table_offset(world.block, table)
    is_shared = table.use == TABLE_LIVE and is_in(world.twin, offset)
    if table.use == TABLE_RETIRED or table.use == TABLE_LIVE and not is_shared and not is_in(world.tree, offset):
        lab_fail(lab, LAB_WRITE_TO_DETACHED, actor, offset)
    if is_shared and is_in(world.tree, offset):
        lab_fail(lab, LAB_WRITE_TO_SHARED, actor, offset)


cdef inline bint is_hardware(const LabThread *thread) noexcept nogil:
    return not thread.is_finished and thread.operations[thread.position].code == OP_TOUCH


cdef void check_life(Lab *lab, uint32_t actor, Table *table, uint32_t old, uint32_t new) noexcept nogil:
    """A table's life is the picture in descriptor.pxi."""
    cdef uint64_t number = <uint64_t> (table - lab.world.block.tables), offset = table_offset(lab.world.block, table)
    cdef uint32_t i
    if new == TABLE_PRIVATE:
        lab.owner[number % LAB_TABLES] = <uint8_t> (actor + 1)
        if old != TABLE_FREE:
            lab_fail(lab, LAB_USE_OF_FREED, actor, offset)
    elif new == TABLE_RETIRED:
        lab.retired_at[number % LAB_TABLES] = lab.steps
        if old != TABLE_LIVE:
            lab_fail(lab, LAB_DOUBLE_FREE, actor, offset)
    elif new == TABLE_FREE:
        if old == TABLE_FREE or old == TABLE_LIVE and (is_in(lab.world.tree, offset) or is_in(lab.world.twin, offset)):
            lab_fail(lab, LAB_DOUBLE_FREE, actor, offset)
        if old == TABLE_RETIRED:
            for i in range(lab.count):
                if lab.threads[i].inside_since >= 0 and lab.threads[i].inside_since < lab.retired_at[number % LAB_TABLES]:
                    lab_fail(lab, LAB_EARLY_FREE, actor, offset)


cdef void check_section(Lab *lab, LabThread *thread, ptl_step *step) noexcept nogil:
    """When this thread is inside, by its own order of things."""
    if step.address is &thread.record.section:
        if step.value & DEPTH_MASK == 0:
            thread.inside_since = -1
        elif thread.inside_since < 0:
            thread.inside_since = lab.steps


cdef void check_lock_word(Lab *lab, uint32_t actor, ptl_step *step) noexcept nogil:
    """Whether a change of a word took or let go of a lock."""
    if step.bits == 32 and lock_rank(lab, <uint32_t *> step.address):
        if step.found == 0:
            check_lock(lab, actor, &lab.threads[actor], <uint32_t *> step.address, False)
        elif step.value == 0:
            check_unlock(&lab.threads[actor], <uint32_t *> step.address)


cdef void check_lock(Lab *lab, uint32_t actor, LabThread *thread, uint32_t *word, bint waited) noexcept nogil:
    """Keep the list of the locks that a thread holds, and their order when it waited for one (docs, lock order)."""
    cdef uint64_t rank = lock_rank(lab, word)
    cdef uint32_t i
    if rank == 0:
        return
    for i in range(thread.held_count):
        if waited and lock_rank(lab, thread.held[i]) > rank:
            lab_fail(lab, LAB_LOCK_ORDER, actor, <uint64_t> word)
    if thread.held_count < LAB_HELD:
        thread.held[thread.held_count] = word
        thread.held_count += 1


cdef void check_unlock(LabThread *thread, uint32_t *word) noexcept nogil:
    cdef uint32_t i
    for i in range(thread.held_count):
        if thread.held[i] is word:
            thread.held_count -= 1
            thread.held[i] = thread.held[thread.held_count]
            return


cdef uint64_t lock_rank(Lab *lab, uint32_t *word) noexcept nogil:
    """Where a lock stands in the lock order; 0 for what is no lock."""
    cdef World *world = &lab.world
    cdef uint64_t offset = <uint64_t> (<char *> word - <char *> world.block.tables)
    cdef Table *table
    cdef uint32_t i
    if offset < world.block.frames * sizeof(Table):
        table = &world.block.tables[offset // sizeof(Table)]
        return 1 + LEVELS - table.level if word is &table.lock else 0
    if word is &world.domain.gate_lock:
        return 10
    if word is &world.tree.attached_lock:
        return 20
    for i in range(world.cpu_count):
        if word is &world.cpus[i].cache.lock:
            return 25
    if word is &world.domain.reclaim_lock:
        return 30
    if word is &blocks_lock:
        return 40
    return 50 if word is &world.block.lock else 0
