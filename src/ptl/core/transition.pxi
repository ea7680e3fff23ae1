# SPDX-License-Identifier: MIT
"""One slot, one atomic switch: populate, retract, collapse, split.

                  populate                        freeze, decide, switch, flush, switch
       EMPTY  ------------------>  TABLE  ------------------------------------------->  HUGE
         ^                         |   ^                       BUSY in between            |
         '------- retract ---------'   '----------- INVALID in between: split ------------'

T1  A slot's state changes only under the lock of the table that holds the slot. A table is detached only under its own
    lock too; the upper lock is taken first.
T2  Whoever holds a table's lock, and found the table by a walk after taking it, keeps it and all tables above it
    attached: to detach one of those is to lock every table below it.
T3  A table's entries are frozen before it is decided whether to detach it, and stay frozen when it is: those that somebody
    without a lock may change (entry.pxi, N6); the others are kept by the table's lock.
T4  A slot never goes from TABLE to HUGE or back in one step, so no TLB sees both sizes. BUSY is empty and frozen:
    hardware faults, `translate` walks again. INVALID is a leaf that hardware does not see and software still reads.
T5  Accessed and dirty are collected from the old entries after the switch to BUSY, when hardware has let go of them.
T6  Collapse by copy takes the right to write from every entry before it copies, so that nothing is written to the old
    frames after they were read. Translations stay valid throughout the copy.
T7  Whatever is taken from hardware is flushed from the TLBs (tlb.pxi, B2) at the place where the transition relies on it:
    the right to write before the copy, the small leaves before the huge one, the huge leaf before the small ones.
T8  A split takes the table that the huge leaf had parked (frames.pxi, F2): it cannot fail for memory.

Blocking on the two tables it touches, and on nothing else. Linearization points: the exchange that publishes the new
table (populate, split), the exchange to EMPTY (retract), the exchange to HUGE (collapse).

Sources: Linux mm/khugepaged.c and mm/huge_memory.c; for freezing, arch/x86/kvm/mmu/tdp_mmu.c.
"""

cdef enum Result:
    DONE = 0
    ALREADY = 1
    NO_TABLE = 2
    NOT_HUGE = 3
    IS_HUGE = 4
    NOT_EMPTY = 5
    NOT_FULL = 6
    NOT_CONTIGUOUS = 7
    MIXED_FLAGS = 8
    IS_SOFT = 9
    IS_BAD = 10
    FAILED = 100            # from here on, results that raise
    NO_FRAMES = 100
    IS_MAPPED = 101
    DEADLOCK = 102
    NO_MEMORY = 103
    LIVELOCK = 104
    BAD_ARGUMENT = 105      # from the C level only: Python's border has better words
    IS_SNAPSHOT = 106
    RESTART = 107           # inside the core only, as what follows
    IN_RUN = 108
    IS_SHARED = 109


cdef inline bint owns_tables(Tree *tree, uint32_t level, int state) noexcept nogil:
    """Whether an entry has tables parked for its split: a huge leaf, or software's entry in place of one."""
    return level > 1 and (state == HUGE or state == SOFT and tree.format.level[level].has_leaf)


# -- tables -----------------------------------------------------------------------------------------------------------

cdef bint frames_may_come(Tree *tree, int *attempts) noexcept nogil:
    """After tables could not be taken, with nothing held: free what is in limbo, and wait a little for its readers.

    False when it is no use to try again: nothing is in limbo any more, or 10 ms are over.
    """
    if attempts[0] >= 50:
        return False
    attempts[0] += 1
    if limbo_tables(tree.domain) == 0:
        attempts[0] = 50                            # somebody else may have freed it just now: look once more
    elif reclaim(tree.domain, <uint64_t> -1, True) == 0:
        sleep_ns(200_000)
    return True


cdef bint park_leaf(Tree *tree, uint32_t level, uint64_t count) noexcept nogil:
    """Park what `count` leaves of that level need (frames.pxi, F2); False and nothing changed when there is too little."""
    cdef uint64_t tables = count
    cdef uint32_t below = level - 1
    while below >= 1:
        if not tables_park(tree.block, tree.order[below], tables):
            tables = count
            for level in range(level - 1, below, -1):
                tables_unpark(tree.block, tree.order[level], tables)
                tables *= tree.format.level[level].entries
            return False
        tables *= tree.format.level[below].entries
        below -= 1
    return True


cdef void unpark_leaf(Tree *tree, uint32_t level, uint64_t count) noexcept nogil:
    cdef uint32_t below = level - 1
    while below >= 1 and count:
        tables_unpark(tree.block, tree.order[below], count)
        count *= tree.format.level[below].entries
        below -= 1


cdef void table_fill_empty(Tree *tree, Table *table, uint32_t level) noexcept nogil:
    """Make a private table one of that level with nothing in it."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entry = tree.memory + table_offset(tree.block, table)
    cdef uint64_t i
    table.level = level
    if is_faulty(PUBLISHED_BEFORE_IT_IS_FILLED) and level == 1:
        return
    if is_faulty(PUBLISHED_BY_A_PLAIN_STORE):
        for i in range(format.entries):
            store_relaxed_64(<uint64_t *> (entry + (i << format.entry_shift)), format.empty)
        return
    if format.empty == 0:
        memset(entry, 0, format.table_bytes)        # a shadow of nothing is nothing
        return
    for i in range(format.entries):
        entry_store_private(entry + (i << format.entry_shift), format.empty, format)


cdef void table_fill_late(Tree *tree, Table *table) noexcept nogil:
    """Empty a leaf table that others can see already: for PUBLISHED_BEFORE_IT_IS_FILLED only."""
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef char *entry = tree.memory + table_offset(tree.block, table)
    cdef uint64_t i
    for i in range(format.entries):
        entry_exchange(entry + (i << format.entry_shift), format.empty, format)


cdef void table_fill_leaves(
    Tree *tree, Table *table, uint32_t level, uint64_t pa, uint64_t bits, const Run *run
) noexcept nogil:
    """Make a private table one of that level, full of leaves, or of such runs of them, that map a run of frames."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entry = tree.memory + table_offset(tree.block, table)
    cdef uint64_t raw = leaf_make(format, pa, bits), step = leaf_step(format), i
    table.level = level
    # The same, in wide stores
    if format.shape == NATIVE_64 and format.shadow.offset == 0 and format.high_mask == 0 and run is NULL:
        for i in range(format.entries):
            (<uint64_t *> entry)[i] = raw + i * step
        return
    for i in range(format.entries):
        entry_store_private(entry, run_marked(run, raw), format)
        entry += <uint64_t> 1 << format.entry_shift
        raw = leaf_after(format, raw)


cdef inline void table_count(Tree *tree, Table *table, int64_t one) noexcept nogil:
    """Count a table of the tree in, as its own, or out."""
    if one > 0:
        # Relaxed, partner: is_own, of whoever finds the table in its slot.
        store_relaxed_64(&table.generation, tree.generation)
        store_release_32(&table.use, TABLE_LIVE)
    count_64(&tree.tables, one)
    count_64(&tree.table_bytes, one * <int64_t> tree.format.level[table.level].table_bytes)


cdef inline void table_publish(Tree *tree, char *slot, uint32_t level, Table *table) noexcept nogil:
    """Let the slot name a complete private table."""
    table_count(tree, table, 1)
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw = table_make(format, tree.base + table_offset(tree.block, table))
    if is_faulty(PUBLISHED_BY_A_PLAIN_STORE):
        store_relaxed_64(<uint64_t *> slot, raw)        # on a format of 64 bits
    else:
        entry_exchange(slot, raw, format)


cdef inline void table_retire(Tree *tree, Table *table) noexcept nogil:
    """For a table that no slot names any more, after its lock was let go."""
    table_count(tree, table, -1)
    count_64(&tree.retired, 1)
    if is_faulty(NEVER_RETIRED):
        return
    if is_faulty(FREED_AT_ONCE):
        table_return(table)
        return
    retire(tree.domain, table)


cdef int table_lock(Tree *tree, Record *me, uint64_t va, uint32_t level, Found *found) noexcept nogil:
    """Lock the table that holds the slot of `va` on that level, and find the slot.

    NO_TABLE, and nothing locked, when the walk ends above; `found` says where and why. T2 is made true by walking again
    after the lock was taken: it may have been waited for.
    """
    cdef Table *table
    cdef uint64_t offset
    cdef uint32_t turns = 0
    while True:
        section_enter(me)
        walk(tree, va, level, found)
        section_leave(me)
        if found.level == level:
            offset = found.table
            table = table_of(tree.block, offset)
            if not lock_acquire(&table.lock, me.number):
                return DEADLOCK
            if is_faulty(NO_LOOK_AFTER_LOCKING):
                return DONE
            section_enter(me)
            walk(tree, va, level, found)
            section_leave(me)
            if found.level == level and found.table == offset:
                return DONE
            lock_release(&table.lock)
        elif found.state != BUSY:
            return NO_TABLE
        if not again(tree, found.table, &turns):
            return LIVELOCK


cdef inline void table_unlock(Tree *tree, uint64_t table) noexcept nogil:
    lock_release(&table_of(tree.block, table).lock)


cdef inline bint change_enter(Tree *tree, Record *me, Table *table, Table *child) noexcept nogil:
    """Go inside the gate, for a change of one or two tables whose locks are held.

    False, and not inside, when other trees have one of them too (share.pxi, O2): it takes a copy first.
    """
    critical_enter(me)
    if is_own(tree, table) and (child is NULL or is_own(tree, child)) or is_faulty(SHARED_TABLE_CHANGED_UNDER_ITS_LOCK):
        return True
    critical_leave(me)
    return False


cdef inline int why_no_table(int state) noexcept nogil:
    """What to answer where a table was wanted and the slot holds something else."""
    if state == HUGE or state == INVALID:
        return IS_HUGE
    if state == SOFT:
        return IS_SOFT
    return NO_TABLE if state == EMPTY else IS_BAD


# -- populate ---------------------------------------------------------------------------------------------------------

cdef int populate(Tree *tree, Record *me, uint64_t va, Found *found) noexcept nogil:
    """EMPTY to TABLE, for the slot where the walk ends: all tables that are missing below it, published at once."""
    cdef Table *fresh
    cdef int result, attempts = 0
    cdef uint32_t level, turns = 0
    while True:
        section_enter(me)
        walk(tree, va, 1, found)
        section_leave(me)
        if found.level == 1:
            return ALREADY
        if found.state == BUSY:
            if not again(tree, found.table, &turns):
                return LIVELOCK
            continue
        if found.state != EMPTY:
            return why_no_table(found.state)
        level = found.level
        result = table_lock(tree, me, va, level, found)
        if result == NO_TABLE:
            continue                                # it went away: look again
        if result != DONE:
            return result
        if found.state != EMPTY and not is_faulty(POPULATE_DOES_NOT_LOOK_AGAIN):
            table_unlock(tree, found.table)         # somebody was faster: look again
            continue
        if not change_enter(tree, me, table_of(tree.block, found.table), NULL):
            table_unlock(tree, found.table)
            result = unshare(tree, me, va, level, found)
            if result != DONE:
                return result
            continue
        if is_faulty(POPULATE_LOCKS_NOTHING):
            table_unlock(tree, found.table)
        fresh = branch_make(tree, va, level - 1)
        if fresh is not NULL:
            branch_count(tree, va, fresh)
            table_publish(tree, found.slot, level, fresh)
            count_64(&tree.populates, 1)
        critical_leave(me)
        if is_faulty(PUBLISHED_BEFORE_IT_IS_FILLED) and fresh is not NULL and level == 2:
            table_fill_late(tree, fresh)
        if not is_faulty(POPULATE_LOCKS_NOTHING):
            table_unlock(tree, found.table)
        if fresh is not NULL:
            return DONE
        if not frames_may_come(tree, &attempts):
            return NO_FRAMES


cdef Table *branch_make(Tree *tree, uint64_t va, uint32_t level) noexcept nogil:
    """Private tables from that level down to the leaf table of va, each naming the next; NULL when one is missing."""
    cdef Table *table = NULL
    cdef Table *below = NULL
    cdef uint32_t number
    for number in range(1, level + 1):
        table = tables_take(tree.block, tree.order[number], 1)
        if table is NULL:
            if below is not NULL:
                branch_return(tree, va, below)
            return NULL
        table_fill_empty(tree, table, number)
        if below is not NULL:
            entry_store_private(
                slot_of(tree, table_offset(tree.block, table), number, va),
                table_make(&tree.format.level[number], tree.base + table_offset(tree.block, below)),
                &tree.format.level[number],
            )
        below = table
    return table


cdef Table *branch_below(Tree *tree, uint64_t va, Table *table) noexcept nogil:
    """The next table of a private branch, or NULL after the leaf table."""
    cdef uint64_t raw
    if table.level == 1:
        return NULL
    raw = entry_load(slot_of(tree, table_offset(tree.block, table), table.level, va), &tree.format.level[table.level])
    return table_of(tree.block, child_offset(tree, table.level, raw))


cdef void branch_count(Tree *tree, uint64_t va, Table *table) noexcept nogil:
    """Count the tables below the one that will be published."""
    while table.level > 1:
        table = branch_below(tree, va, table)
        table_count(tree, table, 1)


cdef void branch_return(Tree *tree, uint64_t va, Table *table) noexcept nogil:
    cdef Table *below
    while table is not NULL:
        below = branch_below(tree, va, table)
        table_return(table)
        table = below


cdef inline uint64_t slot_first(Tree *tree, uint32_t level, uint64_t va) noexcept nogil:
    return va & ~(span(&tree.format.level[level]) - 1)


cdef inline uint64_t slot_end(Tree *tree, uint32_t level, uint64_t va) noexcept nogil:
    """The last address that the slot covers."""
    return va | (span(&tree.format.level[level]) - 1)


# -- retract ----------------------------------------------------------------------------------------------------------

cdef bint looks_empty(Tree *tree, uint64_t table, uint32_t level) noexcept nogil:
    """Whether the table had nothing in it when it was looked at, inside a section."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entry = tree.memory + table
    cdef uint64_t i
    for i in range(format.entries):
        if not is_empty(format, entry_load(entry + (i << format.entry_shift), format)):
            return False
    return True


cdef int retract(Tree *tree, Record *me, uint64_t va, uint32_t level, Found *found) noexcept nogil:
    """TABLE to EMPTY, for the slot of `va` on that level, if nothing is in the table."""
    cdef Table *child
    cdef bint worth_it
    cdef int result
    while True:
        section_enter(me)
        walk(tree, va, level, found)
        worth_it = found.level == level and found.state == TABLE and (
            looks_empty(tree, child_offset(tree, level, found.raw), level - 1)
        )
        section_leave(me)
        if found.level == level and found.state == TABLE and not worth_it:
            return NOT_EMPTY                            # without disturbing anybody
        result = table_lock(tree, me, va, level, found)
        if result == NO_TABLE:
            return why_no_table(found.state)
        if result != DONE:
            return result
        if found.state != TABLE:
            table_unlock(tree, found.table)
            return why_no_table(found.state)
        if not is_table(tree, child_offset(tree, level, found.raw), level - 1):
            table_unlock(tree, found.table)
            return IS_BAD
        child = table_of(tree.block, child_offset(tree, level, found.raw))
        if not is_faulty(RETRACT_LOCKS_NO_CHILD) and not lock_acquire(&child.lock, me.number):
            table_unlock(tree, found.table)
            return DEADLOCK
        if change_enter(tree, me, table_of(tree.block, found.table), child):
            break
        lock_release(&child.lock)
        table_unlock(tree, found.table)
        result = unshare(tree, me, va, level - 1, found)
        if result != DONE:
            return result
    result = retract_locked(tree, va, found.slot, level, child)
    if not is_faulty(RETRACT_LOCKS_NO_CHILD) and not (is_faulty(REFUSAL_KEEPS_A_LOCK) and result != DONE):
        lock_release(&child.lock)
    table_unlock(tree, found.table)
    if result == DONE and not is_faulty(RETIRED_BEFORE_THE_SWITCH):
        table_retire(tree, child)
    critical_leave(me)
    collect_a_few(tree.domain)
    return result


cdef int retract_locked(Tree *tree, uint64_t va, char *slot, uint32_t level, Table *child) noexcept nogil:
    """Freeze the table that a slot names, and empty the slot if nothing is in it: DONE or NOT_EMPTY."""
    cdef const LevelFormat *below = &tree.format.level[level - 1]
    cdef char *entries = tree.memory + table_offset(tree.block, child)
    cdef uint64_t i
    cdef bint begun
    for i in range(0 if is_faulty(RETRACT_TRUSTS_ITS_LOOK) else below.entries):                 # T3
        if not is_empty(below, entry_freeze(below, entries + (i << below.entry_shift), RETRACT_FREEZES_NOTHING)):
            thaw_entries(tree, entries, level - 1, i + 1)
            return NOT_EMPTY
    if is_faulty(STAMP_BEFORE_THE_SWITCH):
        child.stamp = fetch_add_64(&tree.domain.epoch, 0)
    if is_faulty(RETIRED_BEFORE_THE_SWITCH):
        table_retire(tree, child)
    begun = change_begin(tree)
    entry_exchange(slot, tree.format.level[level].empty, &tree.format.level[level])
    flush(tree, begun, slot_first(tree, level, va), slot_end(tree, level, va), NO_FLUSH_OF_A_RETRACT)
    change_end(tree, begun)
    count_64(&tree.retracts, 1)
    return DONE


cdef void thaw_entries(Tree *tree, char *entries, uint32_t level, uint64_t count) noexcept nogil:
    cdef uint64_t i
    if is_faulty(THAW_FORGOTTEN):
        return
    for i in range(count - is_faulty(THAW_OF_ONE_TOO_FEW)):
        entry_thaw(&tree.format.level[level], entries + (i << tree.format.level[level].entry_shift))


# -- collapse ---------------------------------------------------------------------------------------------------------

cdef struct Collapse:
    uint64_t pa                 # the frames to move to; UNMAPPED to stay where the entries are
    bint owns_frames            # whether to take those, and to give back page by page the ones that are left
    uint64_t holes              # how many entries may be empty: their part of the frames becomes zero
    bint is_given               # whether the new leaf's attributes are, or else all entries have to agree
    uint32_t attributes


cdef int collapse(
    Tree *tree, Record *me, uint64_t va, uint32_t level, Collapse *how, Found *found
) noexcept nogil:
    """TABLE to HUGE, for the slot of `va` on that level; contents are copied where both sides are data of the block."""
    cdef Table *child
    cdef char *entries
    cdef int result, attempts = 0
    while True:
        result = table_lock(tree, me, va, level, found)
        if result != DONE:
            return why_no_table(found.state) if result == NO_TABLE else result
        if found.state != TABLE:
            table_unlock(tree, found.table)
            return ALREADY if found.state == HUGE else why_no_table(found.state)
        if not is_table(tree, child_offset(tree, level, found.raw), level - 1):
            table_unlock(tree, found.table)
            return IS_BAD
        child = table_of(tree.block, child_offset(tree, level, found.raw))
        if not is_faulty(COLLAPSE_LOCKS_NO_CHILD) and not lock_acquire(&child.lock, me.number):
            table_unlock(tree, found.table)
            return DEADLOCK
        if not change_enter(tree, me, table_of(tree.block, found.table), child):
            lock_release(&child.lock)
            table_unlock(tree, found.table)
            result = unshare(tree, me, va, level - 1, found)
            if result != DONE:
                return result
            continue
        entries = tree.memory + table_offset(tree.block, child)
        result = NO_FRAMES
        if tables_park(tree.block, tree.order[level - 1], 1):
            if not how.owns_frames or run_take(tree, level, &how.pa):
                result = collapse_locked(tree, va, found.slot, level, how, entries)
                if result != DONE and how.owns_frames:
                    run_return(tree, level, how.pa)
            if result != DONE or is_faulty(LEAF_KEEPS_NOTHING_PARKED):
                tables_unpark(tree.block, tree.order[level - 1], 1)
        if not is_faulty(COLLAPSE_LOCKS_NO_CHILD):
            lock_release(&child.lock)
        table_unlock(tree, found.table)
        if result == DONE:
            count_64(&tree.collapses, 1)
            if how.owns_frames:
                pages_return(tree, entries, level - 1)
            table_retire(tree, child)
        critical_leave(me)
        collect_a_few(tree.domain)
        if result != NO_FRAMES or not frames_may_come(tree, &attempts):
            return result


cdef inline uint32_t leaf_order(Tree *tree, uint32_t level) noexcept nogil:
    """The order of the run of frames that a leaf of that level maps."""
    return tree.format.level[level].shift - tree.block.frame_shift


cdef bint run_take(Tree *tree, uint32_t level, uint64_t *pa) noexcept nogil:
    cdef uint64_t frame = data_take(tree.block, leaf_order(tree, level))
    pa[0] = tree.base + (frame << tree.block.frame_shift)
    return frame != tree.block.frames


cdef bint run_return(Tree *tree, uint32_t level, uint64_t pa) noexcept nogil:
    """One owner less of what a leaf of that level maps; False when that is not one run that was handed out."""
    if not is_data(tree.block, pa, span(&tree.format.level[level])):
        return False
    return data_give_back(tree.block, (pa - tree.base) >> tree.block.frame_shift, leaf_order(tree, level))


cdef void pages_return(Tree *tree, char *entries, uint32_t level) noexcept nogil:
    """Give back what the entries of a table that has left map; every Tlb has been flushed."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t i, raw
    for i in range(format.entries):
        raw = entry_load(entries + (i << format.entry_shift), format)
        if is_leaf(format, raw):
            run_return(tree, level, leaf_address(format, raw, i << format.shift))


cdef int collapse_locked(
    Tree *tree, uint64_t va, char *slot, uint32_t level, const Collapse *how, char *entries
) noexcept nogil:
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef const LevelFormat *below = &tree.format.level[level - 1]
    cdef uint64_t raw, first = 0, first_va = slot_first(tree, level, va), last_va = slot_end(tree, level, va)
    cdef uint64_t holes = 0
    cdef uint32_t attributes, used
    cdef bint begun
    cdef int result = collapse_decide(tree, entries, level - 1, below.entries, how, &first, &holes)
    if result != DONE:
        return result
    begun = change_begin(tree)
    if how.pa != UNMAPPED_RAW:
        collapse_copy(tree, begun, entries, level - 1, below.entries, how.pa, first_va)
    if not is_faulty(NO_BUSY_BETWEEN_TABLE_AND_LEAF) and not is_faulty(USED_COLLECTED_EARLY):
        entry_exchange(slot, format.busy, format)                                       # T4
    flush(tree, begun, first_va, last_va, NO_FLUSH_BEFORE_A_HUGE_LEAF)
    attributes = attributes_of(below, first)
    used = used_in(below, entries, below.entries, first)                                # T5
    if is_faulty(USED_COLLECTED_EARLY):
        entry_exchange(slot, format.busy, format)
    raw = attributes_set(below, first, (how.attributes if how.is_given else attributes) | used)
    raw = bits_on(below, format, raw)
    raw = leaf_make(format, leaf_address(below, first, 0) if how.pa == UNMAPPED_RAW else how.pa, raw)
    entry_exchange(slot, raw, format)
    change_end(tree, begun)
    return DONE


cdef int collapse_decide(
    Tree *tree, char *entries, uint32_t level, uint64_t count, const Collapse *how, uint64_t *first, uint64_t *holes
) noexcept nogil:
    """Freeze so many entries of that level (T3), and say whether they can be one leaf; thaw them when they cannot.

    *first is the first leaf, and *holes counts the empty entries, from 0: for each, what a leaf in its place would have
    parked is parked. NO_FRAMES when there is too little for that.
    """
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef bint in_place = how.pa == UNMAPPED_RAW
    cdef uint64_t aside = format.leaf_bits | format.run_any | format.attributes.used_mask
    cdef uint64_t raw = 0, i = 0, pa
    cdef int state, result = DONE
    while True:
        if in_place and i and holes[0] == 0:
            i += freeze_following(format, entries + (i << format.entry_shift), count - i, raw)      # nearly all are
        if i == count:
            break
        raw = entry_freeze(format, entries + (i << format.entry_shift), COLLAPSE_FREEZES_NOTHING)
        if is_leaf(format, raw):
            if holes[0] == i:
                first[0] = raw
            pa = leaf_address(format, first[0], 0)          # in place, the first leaf is in the first entry
            if in_place and leaf_address(format, raw, i << format.shift) != pa + (i << format.shift):
                result = NOT_CONTIGUOUS
            elif not how.is_given and (raw ^ first[0]) & ~aside and differ(format, raw, first[0]):
                result = MIXED_FLAGS
            elif in_place and pa & ((count << format.shift) - 1):
                result = NOT_CONTIGUOUS
        else:
            state = classify(&tree.format, level, raw)
            holes[0] += state == EMPTY
            if state != EMPTY or holes[0] > how.holes:
                result = why_not_full(state)
        if holes[0] == count:
            result = NOT_FULL                       # nothing at all
        i += 1
        if result != DONE:
            thaw_entries(tree, entries, level, i)
            return result
    if park_leaf(tree, level, holes[0]):
        return DONE
    thaw_entries(tree, entries, level, count)
    return NO_FRAMES


cdef uint64_t freeze_following(const LevelFormat *level, char *entries, uint64_t count, uint64_t last) noexcept nogil:
    """Freeze leaves for as long as each is the one after the last, but for accessed and dirty; how many there were."""
    cdef LevelFormat format = level[0]              # a copy, of which the compiler knows that no store changes it
    cdef uint64_t compared = ~level.attributes.used_mask, i = 0, next = leaf_after(&format, last), raw, second
    cdef bint pairs = has_pairs(&format)
    cdef char *slot = entries
    while i < count and not is_faulty(NOTHING_IS_FROZEN) and not is_faulty(COLLAPSE_FREEZES_NOTHING):
        raw = entry_load(slot, &format)
        if (raw ^ next) & compared:
            break
        if pairs and begins_pair(slot) and i + 1 < count:
            second = load_acquire_unhooked_64(<uint64_t *> slot + 1)
            if (second ^ leaf_after(&format, next)) & compared == 0:
                if pair_compare_exchange(
                    slot, raw, second, raw | format.frozen_present, second | format.frozen_present
                ):
                    next = leaf_after(&format, leaf_after(&format, next))
                    slot += 2 * sizeof(uint64_t)
                    i += 2
                continue
        if entry_compare_exchange(slot, &raw, raw | format.frozen_present, &format):
            next = leaf_after(&format, next)
            slot += <uint64_t> 1 << format.entry_shift
            i += 1
    return i


cdef uint32_t used_in(const LevelFormat *level, char *entries, uint64_t count, uint64_t leaf) noexcept nogil:
    """Accessed and dirty of a leaf and of so many frozen entries. Readers wait for this: most entries are passed over."""
    cdef LevelFormat format = level[0]              # a copy, of which the compiler knows that no store changes it
    cdef uint64_t mask = level.attributes.mask, i, raw, last = leaf
    cdef uint32_t used = attributes_of(&format, leaf)
    for i in range(count):
        raw = entry_load(entries + (i << format.entry_shift), &format)
        if (raw ^ last) & mask and is_leaf(&format, raw):
            last = raw
            used |= attributes_of(&format, raw)
    return used & USED


cdef bint differ(const LevelFormat *level, uint64_t raw, uint64_t other) noexcept nogil:
    """Whether two leaves differ in more than their addresses, their runs and what a collapse merges, accessed and dirty."""
    if (raw ^ other) & ~(level.leaf_bits | level.run_any | level.attributes.mask):
        return True
    return (attributes_of(level, raw) ^ attributes_of(level, other)) & ~<uint32_t> USED != 0


cdef inline int why_not_full(int state) noexcept nogil:
    if state == EMPTY:
        return NOT_FULL
    if state == TABLE:
        return NOT_HUGE
    return IS_SOFT if state == SOFT else IS_BAD


cdef void collapse_copy(
    Tree *tree, bint begun, char *entries, uint32_t level, uint64_t count, uint64_t pa, uint64_t va
) noexcept nogil:
    """Copy what so many frozen entries, the first that of va, map to a run of frames, after the right to write (T6)."""
    if not is_faulty(WRITE_NOT_WITHHELD):
        withhold_write(tree, entries, level, count)
    flush(tree, begun, va, va + ((count << tree.format.level[level].shift) - 1), NO_FLUSH_BEFORE_A_COPY)
    copy_frames(tree, entries, level, count, pa)


cdef void withhold_write(Tree *tree, char *entries, uint32_t level, uint64_t count) noexcept nogil:
    """Take the right to write from every leaf among so many frozen entries of that level."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entry
    cdef uint64_t i
    if not format.attributes.letters >> LETTER_WRITE & 1:
        return
    for i in range(count):
        entry = entries + (i << format.entry_shift)
        if is_leaf(format, entry_load(entry, format)):
            entry_withhold(format, entry, LETTER_WRITE)


cdef void copy_frames(Tree *tree, char *entries, uint32_t level, uint64_t count, uint64_t pa) noexcept nogil:
    """Copy what so many frozen entries of that level map to a run of frames, zeros for those that are empty."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t i, raw, source, target, length = span(format)
    for i in range(count):
        target = pa + i * length
        if not is_data(tree.block, target, length):
            continue
        raw = entry_load(entries + (i << format.entry_shift), format)
        source = leaf_address(format, raw, i << format.shift)
        if not is_leaf(format, raw):
            memset(tree.memory + (target - tree.base), 0, length)
        elif is_data(tree.block, source, length):
            memcpy(tree.memory + (target - tree.base), tree.memory + (source - tree.base), length)


# -- runs ---------------------------------------------------------------------------------------------------------------

cdef int collapse_to_run(
    Tree *tree, Record *me, uint64_t va, uint32_t level, const Run *run, const Collapse *how, Found *found
) noexcept nogil:
    """Make one run of the leaves around va in their table of that level. Blocking on that table."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef const Run *before
    cdef int result, attempts = 0
    while True:
        result = table_lock(tree, me, va, level, found)
        if result != DONE:
            return why_no_table(found.state) if result == NO_TABLE else result
        before = run_of(format, found.raw) if found.state == HUGE else NULL
        if before is not NULL and before.bytes >= run.bytes:
            table_unlock(tree, found.table)
            return ALREADY if before is run else IS_HUGE
        if not change_enter(tree, me, table_of(tree.block, found.table), NULL):
            table_unlock(tree, found.table)
            result = unshare(tree, me, va, level, found)
            if result != DONE:
                return result
            continue
        result = run_make(tree, found.table, run_start(run, va), level, run, how)
        critical_leave(me)
        table_unlock(tree, found.table)
        collect_a_few(tree.domain)
        if result == DONE:
            count_64(&tree.collapses, 1)
        if result != NO_FRAMES or not frames_may_come(tree, &attempts):
            return result


cdef int run_make(
    Tree *tree, uint64_t table, uint64_t start, uint32_t level, const Run *run, const Collapse *how
) noexcept nogil:
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entries = slot_of(tree, table, level, start)
    cdef uint64_t i, pa, raw, first = 0, holes = 0
    cdef uint32_t attributes
    cdef bint begun
    cdef int result = collapse_decide(tree, entries, level, run.entries, how, &first, &holes)
    if result != DONE:
        return result
    begun = change_begin(tree)
    if how.pa != UNMAPPED_RAW:
        collapse_copy(tree, begun, entries, level, run.entries, how.pa, start)
    run_hide(tree, begun, level, table, start, run.bytes, NO_FLUSH_BEFORE_A_RUN)         # U4
    attributes = how.attributes if how.is_given else attributes_of(format, first)
    attributes |= run_used(tree, level, table, start, run.bytes)
    raw = bits_on(format, format, attributes_set(format, first, attributes))
    pa = leaf_address(format, first, 0) if how.pa == UNMAPPED_RAW else how.pa
    for i in range(run.entries):
        entry_exchange(
            entries + (i << format.entry_shift),
            run_marked(run, leaf_make(format, pa + (i << format.shift), raw)),
            format,
        )
    change_end(tree, begun)
    return DONE


cdef int leaf_change_in_run(
    Tree *tree, Record *me, uint64_t va, uint32_t level, uint64_t *expected, uint64_t desired, uint32_t withdrawn,
    uint32_t *had, Found *found
) noexcept nogil:
    """leaf_change of an entry that is part of a run, by run_change. Blocking on its table, unless we hold its lock."""
    cdef bint is_held
    cdef int result = DONE
    section_enter(me)
    walk(tree, va, level, found)
    section_leave(me)
    is_held = found.level == level and lock_owner(&table_of(tree.block, found.table).lock) == me.number
    if not is_held:
        result = table_lock(tree, me, va, level, found)
    if result != DONE:
        return RESTART if result == NO_TABLE else result
    result = IS_SHARED
    if change_enter(tree, me, table_of(tree.block, found.table), NULL):
        result = RESTART
        if found.state != TABLE:
            result = DONE if run_change(tree, found, va, expected, desired, withdrawn, had) == CHANGED else ALREADY
        critical_leave(me)
    if not is_held:
        table_unlock(tree, found.table)
    if result != IS_SHARED:
        return result
    result = unshare(tree, me, va, level, found)
    return RESTART if result == DONE else result


# -- split ------------------------------------------------------------------------------------------------------------

cdef int split(
    Tree *tree, Record *me, uint64_t va, uint32_t target, const Run *into, Found *found
) noexcept nogil:
    """HUGE to TABLE, for the huge leaf that maps `va`, or software's entry in place of one: the same in smaller leaves.

    A run becomes leaves by themselves, in the same table. target, into: the level of the leaves to make, and, unless it is
    NULL, the runs that they are; 0 for the next smaller.
    """
    cdef const LevelFormat *format
    cdef const Run *run
    cdef uint32_t turns = 0, level
    cdef int result
    while True:
        section_enter(me)
        walk(tree, va, 1, found)
        section_leave(me)
        level = found.level
        format = &tree.format.level[level]
        run = run_of(format, found.raw) if found.state == HUGE else NULL
        if run is not NULL or owns_tables(tree, level, found.state):
            if target and bytes_of(&tree.format.level[target], into) >= bytes_of(format, run):
                return ALREADY
            result = table_lock(tree, me, va, level, found)
            if result == DONE:
                result = split_found(tree, me, va, run, target, into, found)
                table_unlock(tree, found.table)
            if result == IS_SHARED:
                result = unshare(tree, me, va, level, found)
                if result == DONE:
                    continue
            if result != NO_TABLE and result != RESTART:
                return result
        elif found.state != BUSY and found.state != INVALID:
            return NOT_HUGE if target == 0 or found.state != HUGE else ALREADY
        if not again(tree, found.table, &turns):
            return LIVELOCK


cdef int split_found(
    Tree *tree, Record *me, uint64_t va, const Run *run, uint32_t target, const Run *into, const Found *found
) noexcept nogil:
    """For the holder of the table's lock: split what was found, if it is what the caller looked for; or RESTART, IS_SHARED.

    run: which it was part of, or NULL.
    """
    cdef const LevelFormat *format = &tree.format.level[found.level]
    cdef int result
    if run is not NULL:
        if found.state != HUGE or run_of(format, found.raw) is not run:
            return RESTART
    elif in_run(format, found.raw) or not owns_tables(tree, found.level, found.state) and (
        not is_faulty(SPLIT_DOES_NOT_LOOK_AGAIN)
    ):
        return RESTART
    if not change_enter(tree, me, table_of(tree.block, found.table), NULL):
        return IS_SHARED
    if run is not NULL:
        result = split_run(tree, found, va, run, target, into)
    else:
        result = split_slot(tree, found.slot, found.level, target if target else found.level - 1, into, va)
    critical_leave(me)
    return result


cdef int split_run(
    Tree *tree, const Found *found, uint64_t va, const Run *run, uint32_t target, const Run *into
) noexcept nogil:
    """For the holder of the table's lock: take a run apart, and split its leaves when they are to be smaller yet."""
    cdef const LevelFormat *format = &tree.format.level[found.level]
    cdef const Run *part = NULL
    cdef bint begun, deeper = target != 0 and target < found.level
    cdef uint64_t start = run_start(run, va), i
    cdef int result = DONE
    if not deeper:
        part = into
    run_freeze(tree, found.level, found.table, start, run.bytes)
    begun = change_begin(tree)
    run_take_apart(tree, begun, found.level, found.table, va, part, 1, 0)
    change_end(tree, begun)
    count_64(&tree.splits, 1)
    if deeper:
        for i in range(run.entries):
            va = start + (i << format.shift)
            if split_slot(tree, slot_of(tree, found.table, found.level, va), found.level, target, into, va) != DONE:
                result = NO_FRAMES
    return result


cdef int split_slot(
    Tree *tree, char *slot, uint32_t level, uint32_t target, const Run *into, uint64_t va
) noexcept nogil:
    """For the holder of the table's lock; the slot owns tables. Nobody sees the smaller leaves before all are there."""
    cdef bint begun = change_begin(tree)
    cdef uint64_t raw = slot_invalidate(tree, slot, level)
    cdef Table *table
    flush(tree, begun, slot_first(tree, level, va), slot_end(tree, level, va), NO_FLUSH_BEFORE_A_SPLIT)      # T7
    table = split_table(tree, level, raw, target, into)
    if table is not NULL:
        table_publish(tree, slot, level, table)
    else:
        entry_exchange(slot, raw, &tree.format.level[level])        # foreign, and no frames: as it was
    change_end(tree, begun)
    return DONE if table is not NULL else NO_FRAMES


cdef uint64_t slot_invalidate(Tree *tree, char *slot, uint32_t level) noexcept nogil:
    """HUGE to INVALID (T4), or SOFT to frozen; returns the entry as it was, with its last accessed and dirty."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw = entry_load(slot, format), final
    # Ends: a failure is a change of flags by another thread, a migration, or of accessed and dirty by hardware.
    while True:
        final = raw | frozen_bit(format, raw)
        if is_leaf(format, raw):
            final = raw & ~format.invalid_clear | format.invalid_set
        if is_faulty(NOT_INVALID_WHILE_IT_IS_SPLIT) or entry_compare_exchange(slot, &raw, final, format):
            return thawed(format, raw)


cdef Table *split_table(Tree *tree, uint32_t level, uint64_t raw, uint32_t target, const Run *into) noexcept nogil:
    """A private table of what an entry of that level splits into, tables below it down to `target` included (T8).

    into: the runs that the leaves on that level are, or NULL.

    NULL, and nothing taken, only for an entry that was written behind the tree's back and has no tables parked.
    """
    cdef const LevelFormat *below = &tree.format.level[level - 1]
    cdef const Run *run = NULL
    cdef Table *table = table_take_parked(tree.block, tree.order[level - 1])
    cdef Table *child
    cdef char *entry
    cdef uint64_t i
    if table is NULL:
        return NULL
    count_64(&tree.splits, 1)
    entry = tree.memory + table_offset(tree.block, table)
    if level - 1 == target:
        run = into
    if is_leaf(&tree.format.level[level], raw):
        table_fill_leaves(
            tree, table, level - 1, leaf_address(&tree.format.level[level], raw, 0),
            bits_on(&tree.format.level[level], below, raw), run,
        )
    else:
        table_fill_soft(tree, table, level - 1, thawed(&tree.format.level[level], raw))
    if level - 1 == target:
        return table
    for i in range(below.entries):
        child = split_table(tree, level - 1, entry_load(entry, below), target, into)
        if child is NULL:
            private_return(tree, table)
            return NULL
        table_count(tree, child, 1)
        entry_store_private(
            entry, table_make(below, tree.base + table_offset(tree.block, child)), below
        )
        entry += <uint64_t> 1 << below.entry_shift
    return table


cdef void table_fill_soft(Tree *tree, Table *table, uint32_t level, uint64_t raw) noexcept nogil:
    """Make a private table one of that level, full of software's entries for the pages of one of the level above."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *entry = tree.memory + table_offset(tree.block, table)
    cdef uint64_t i, pages = span(format) >> tree.format.level[1].shift
    table.level = level
    for i in range(format.entries):
        entry_store_private(
            entry + (i << format.entry_shift), soft_part(&tree.format.level[level + 1], format, raw, i * pages), format
        )


cdef void private_return(Tree *tree, Table *table) noexcept nogil:
    """Give back a private table and those below it, which are counted already."""
    cdef const LevelFormat *format = &tree.format.level[table.level]
    cdef uint64_t offset = table_offset(tree.block, table), raw, i
    for i in range(format.entries):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        if table.level > 1 and classify_in_block(tree, table.level, raw) == TABLE:
            table_count(tree, table_of(tree.block, child_offset(tree, table.level, raw)), -1)
            private_return(tree, table_of(tree.block, child_offset(tree, table.level, raw)))
    table_return(table)
