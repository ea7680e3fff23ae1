# SPDX-License-Identifier: MIT
"""Change a range: map, unmap, protect; all or nothing.

    lock        the tables that the range touches, upper levels first, then by address (lock.pxi, L2)
    reserve     count what is missing and take it, with nothing visible yet: the only step that can fail for memory
    freeze      every leaf of the range, and every empty place of a leaf table in it; refuse here if the range is taken
    commit      store final values; build fresh tables privately and publish each with one store: cannot fail
    unlock      and retire what was detached

R1  Locked are the tables in which the range covers anything but tables that stay: leaves, and holes too, or somebody
    could fill one half-way through. Tables above are found again by walking, and stay attached because those below are
    locked (T2). So two ranges that straddle one line of an upper table do not meet.
R2  While it waits for a lock an operation holds other locks and nothing else; once it has all, it waits for nothing. A
    slot that changed before its table was locked makes the whole operation start over, with nothing held.
R3  The frozen entries keep lock-free writers out, the locks everyone else: a range is serialisable against ranges,
    transitions and single changes. Readers see each entry change by itself.
R4  A run that the range cuts, or puts smaller leaves over, is frozen whole and taken apart first (run.pxi, U3). It lies in
    one table, so no further lock is needed.
R5  A private table is filled with plain stores and is complete, the range's changes included, before a slot names it.
R6  A table that leaves, and that other trees have too (share.pxi), is neither locked nor frozen: nobody changes it. Its
    slot lets go of it, with all below.

The tables locked are chained through their descriptors, so none of this allocates. Blocking on the tables it touches.
"""

cdef enum RangeKind:
    MAP = 0
    UNMAP = 1
    PROTECT = 2
    MOVE_FROM = 3               # the two sides of a move (move.pxi)
    MOVE_TO = 4

cdef struct Range:
    Tree *tree
    Record *me
    int kind
    uint64_t first              # inclusive both: the last byte may be the last of all
    uint64_t last
    uint64_t pa_less_va         # modulo 2**64; for a move, the distance to the other side
    uint32_t attributes
    uint32_t leaf_level         # of the leaves to make, or 0 for the largest that fit
    const Run *run              # that they are to be, or NULL
    bint replace
    bint is_gathered            # whether the caller flushes what is gone, later
    bint begun                  # whether there are TLBs to flush
    Table *fresh[LEVELS + 1]                # private tables by level, through link
    uint64_t wanted[LEVELS + 1]             # how many of them it takes
    uint64_t wanted_leaves[LEVELS + 1]      # huge leaves to make, which need parked tables
    uint64_t parked_leaves[LEVELS + 1]
    uint64_t dropped_leaves[LEVELS + 1]     # huge leaves that are gone
    Table *locked               # through chain
    Table *leaving              # detached, through link
    uint64_t changed            # bytes
    uint64_t where              # the address, level and state that stopped it
    uint32_t where_level
    int where_state


# -- the part of a slot that the range covers ------------------------------------------------------------------------

cdef inline uint64_t slot_last(const LevelFormat *level, uint64_t va) noexcept nogil:
    """The last address of the entry that covers va."""
    return va | (span(level) - 1)


cdef inline uint64_t table_last(const Format *format, uint32_t level, uint64_t va) noexcept nogil:
    """The last address of the table of that level that covers va."""
    cdef const LevelFormat *own = &format.level[level]
    return va | (own.entries * span(own) - 1)


cdef inline bint covers(const LevelFormat *level, uint64_t va, uint64_t last) noexcept nogil:
    """Whether [va, last] is all of one entry."""
    return va & (span(level) - 1) == 0 and last == slot_last(level, va)


cdef inline bint is_leaf_here(Range *op, uint32_t level, uint64_t va, uint64_t last) noexcept nogil:
    """Whether a map puts a leaf of that level over [va, last], which lies in one entry."""
    cdef const LevelFormat *format = &op.tree.format.level[level]
    if op.kind != MAP or not format.has_leaf or not covers(format, va, last):
        return False
    if op.leaf_level:
        return level == op.leaf_level
    return (va + op.pa_less_va) & (span(format) - 1) == 0


cdef bint detaches(Range *op, uint32_t level, uint64_t va, uint64_t last) noexcept nogil:
    """Whether a table in the slot that covers [va, last] has to go, or may have to: a leaf takes its place, or that of
    one above it, or it is moved."""
    cdef const LevelFormat *format
    cdef uint64_t first
    cdef uint32_t upper
    if op.kind == MOVE_FROM or op.kind == MOVE_TO:
        format = &op.tree.format.level[level]
        if level != 2 and op.kind == MOVE_FROM:
            return False
        return covers(format, va, last) and op.pa_less_va & (span(format) - 1) == 0
    if op.kind != MAP:
        return op.kind == UNMAP and covers(&op.tree.format.level[level], va, last)
    for upper in range(level, op.tree.format.levels + 1):
        format = &op.tree.format.level[upper]
        first = va & ~(span(format) - 1)
        if first < op.first or slot_last(format, va) > op.last:
            return False
        if is_leaf_here(op, upper, first, slot_last(format, va)):
            return True
    return False


# -- reserve ----------------------------------------------------------------------------------------------------------

cdef void range_count(Range *op, uint32_t level, uint64_t table, int inherited, uint64_t va, uint64_t last) noexcept nogil:
    """Count what a map of [va, last] needs below a table that exists (inherited is TABLE), or would (EMPTY, HUGE)."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw = 0, part
    cdef int state = inherited
    if level == 1:
        return
    while True:
        part = min(last, slot_last(format, va))
        if inherited == TABLE:
            raw = entry_load(slot_of(tree, table, level, va), format)
            state = classify_in_block(tree, level, raw)
        if is_leaf_here(op, level, va, part):
            op.wanted_leaves[level] += not is_faulty(RANGE_PARKS_NOTHING)
        elif state == TABLE:
            range_count(op, level - 1, child_offset(tree, level, raw), TABLE, va, part)
        else:
            if not owns_tables(tree, level, state):
                op.wanted[level - 1] += 1
            range_count(op, level - 1, 0, state, va, part)
        if part == last:
            return
        va = part + 1


cdef int range_reserve(Range *op) noexcept nogil:
    """Take what a map needs, all or nothing; exact, because every slot that counts is in a locked table."""
    cdef Tree *tree = op.tree
    cdef uint32_t level
    if op.kind != MAP:
        return DONE
    for level in range(1, tree.format.levels + 1):
        op.wanted[level] = 0
        op.wanted_leaves[level] = 0
    range_count(op, tree.format.levels, tree.root, TABLE, op.first, op.last)
    for level in range(1, tree.format.levels + 1):
        if op.wanted[level]:
            op.fresh[level] = tables_take(tree.block, tree.order[level], op.wanted[level])
            if op.fresh[level] is NULL:
                return NO_FRAMES
        if op.wanted_leaves[level] and level > 1:
            if not park_leaf(tree, level, op.wanted_leaves[level]):
                return NO_FRAMES
            op.parked_leaves[level] = op.wanted_leaves[level]
    return DONE


cdef void range_release(Range *op) noexcept nogil:
    """Give back what was reserved and not used, and what the leaves that are gone had parked."""
    cdef Table *table
    cdef uint32_t level
    for level in range(1, op.tree.format.levels + 1):
        while op.fresh[level] is not NULL and not is_faulty(RANGE_KEEPS_WHAT_IT_RESERVED):
            table = op.fresh[level]
            op.fresh[level] = table.link
            table_return(table)
        if level > 1:
            unpark_leaf(
                op.tree, level,
                op.parked_leaves[level] + (0 if is_faulty(DROPPED_LEAF_STAYS_PARKED) else op.dropped_leaves[level]),
            )
        op.parked_leaves[level] = 0
        op.dropped_leaves[level] = 0


# -- lock -------------------------------------------------------------------------------------------------------------

cdef bint range_touches(Range *op, uint64_t table, uint32_t level, uint64_t va, uint64_t last) noexcept nogil:
    """Whether the table itself has something to change, or a hole to keep, in [va, last] (R1)."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t part
    cdef int state
    if level == 1:
        return True
    while True:
        part = min(last, slot_last(format, va))
        state = classify_in_block(tree, level, entry_load(slot_of(tree, table, level, va), format))
        if state != TABLE and not (state == EMPTY and is_faulty(RANGE_LOCKS_NO_HOLE)) or detaches(op, level, va, part):
            return True
        if part == last:
            return False
        va = part + 1


cdef int range_lock(Range *op) noexcept nogil:
    """Lock every table that the range touches, upper levels first, then by address."""
    cdef uint32_t level
    cdef int result
    for level in range(op.tree.format.levels, 0, -1):
        result = range_lock_level(op, op.tree.format.levels + 1 - level if is_faulty(LOWER_LOCK_FIRST) else level)
        if result != DONE:
            return result
    return DONE


cdef int range_lock_level(Range *op, uint32_t level) noexcept nogil:
    cdef Tree *tree = op.tree
    cdef Found found
    cdef Table *table
    cdef uint64_t va = op.first, part
    cdef uint32_t shared
    cdef bint touches
    cdef int result
    while True:
        shared = range_shared_level(op, va)
        section_enter(op.me)
        walk(tree, va, level, &found)
        if level <= shared and is_let_go(op, shared + 1, va):
            part = slot_last(&tree.format.level[shared + 1], va)
            touches = False
        elif found.level == level:
            part = min(op.last, table_last(&tree.format, level, va))
            touches = range_touches(op, found.table, level, va, part)
        else:
            part = min(op.last, slot_last(&tree.format.level[found.level], va))
            touches = False
        section_leave(op.me)
        table = table_of(tree.block, found.table)
        # The other side of a move may have it.
        if touches and not (lock_owner(&table.lock) == op.me.number and table.in_range):
            result = table_lock(tree, op.me, va, level, &found)
            if result != DONE:
                return range_stopped(op, RESTART if result == NO_TABLE else result, va, found.level, found.state)
            table = table_of(tree.block, found.table)
            table.in_range = True
            table.chain = op.locked
            op.locked = table
        if part == op.last:
            return DONE
        va = part + 1


cdef int range_stopped(Range *op, int result, uint64_t va, uint32_t level, int state) noexcept nogil:
    """Remember the slot that ends the operation, or makes it start over."""
    op.where = va
    op.where_level = level
    op.where_state = state
    return result


cdef void range_unlock(Range *op) noexcept nogil:
    cdef Table *table
    while op.locked is not NULL:
        table = op.locked
        op.locked = table.chain
        table.in_range = False
        lock_release(&table.lock)


cdef bint range_is_own(Range *op) noexcept nogil:
    """Whether no other tree has any of the locked tables (share.pxi, O2); inside the gate."""
    cdef Table *table = op.locked
    while table is not NULL:
        if not is_own(op.tree, table) and not is_faulty(SHARED_TABLE_CHANGED_UNDER_ITS_LOCK):
            return False
        table = table.chain
    return True


cdef uint32_t range_shared_level(Range *op, uint64_t va) noexcept nogil:
    """shared_level, on all the way to va: certain inside the gate, otherwise a guess."""
    cdef bint is_inside = load_own_64(&op.me.critical) != 0
    cdef uint32_t level
    # Relaxed, partner: tree_share. A snapshot that comes later is found by range_is_own.
    if load_relaxed_64(&op.tree.generation) == 0:
        return 0
    if not is_inside:
        critical_enter(op.me)
    section_enter(op.me)
    level = shared_level(op.tree, va, 1)
    section_leave(op.me)
    if not is_inside:
        critical_leave(op.me)
    return level


cdef inline bint is_let_go(Range *op, uint32_t level, uint64_t va) noexcept nogil:
    """Whether a table that other trees have too leaves, with its slot of that level over va (R6). A root does not."""
    cdef Tree *tree = op.tree
    return level <= tree.format.levels and (op.kind == UNMAP or op.kind == MAP) and (
        detaches(op, level, va, min(op.last, slot_last(&tree.format.level[level], va)))
    )


cdef int unshare_range(Range *op) noexcept nogil:
    """Make every table on the way to the range the tree's own, but those that leave; what stopped it is in op.where."""
    cdef Tree *tree = op.tree
    cdef Found found
    cdef uint64_t va = op.first, last
    cdef uint32_t level
    cdef int result
    # Ends: each turn gets to an address further on, or copies a table on the way to it.
    while True:
        level = range_shared_level(op, va)
        if level and is_let_go(op, level + 1, va):
            last = slot_last(&tree.format.level[level + 1], va)
        else:
            result = unshare(tree, op.me, va, max(level, <uint32_t> 1), &found)
            if result != DONE:
                return range_stopped(op, result, va, found.level, found.state)
            if found.level > 1 and found.state == TABLE:
                continue
            last = table_last(&tree.format, 1, va) if found.level == 1 else slot_last(&tree.format.level[found.level], va)
        if last >= op.last:
            return DONE
        va = last + 1


cdef void range_retire(Range *op) noexcept nogil:
    """Hand over what was detached, after its locks were let go."""
    cdef Table *table
    while op.leaving is not NULL:
        table = op.leaving
        op.leaving = table.link
        table_retire(op.tree, table)


# -- freeze -----------------------------------------------------------------------------------------------------------

cdef int range_freeze(Range *op, uint64_t table, uint32_t level, uint64_t va, uint64_t last) noexcept nogil:
    """Freeze what will change in [va, last], or say why it must not; may leave a part frozen then.

    RESTART when something would change in a table that is not locked: it became so after we looked.
    """
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef bint locked = (
        lock_owner(&table_of(tree.block, table).lock) == op.me.number or is_faulty(RANGE_CHANGES_WHAT_IT_HAS_NOT_LOCKED)
    )
    cdef uint64_t raw, part
    cdef char *slot
    cdef int state, result
    if level == 1:
        return leaves_freeze(op, table, va, last)
    while True:
        part = min(last, slot_last(format, va))
        slot = slot_of(tree, table, level, va)
        raw = entry_load(slot, format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            if not locked and detaches(op, level, va, part):
                return range_stopped(op, RESTART, va, level, state)
            if not is_table(tree, child_offset(tree, level, raw), level - 1):
                # A table that is not locked may have left since; and another may be there by now, in the same memory.
                if entry_load(slot, format) != raw or is_table(tree, child_offset(tree, level, raw), level - 1):
                    return range_stopped(op, RESTART, va, level, state)
                return range_stopped(op, IS_BAD, va, level, BAD)
            if range_shared_level(op, va) == level - 1 and is_let_go(op, level, va):
                result = shared_look(op, child_offset(tree, level, raw), level - 1, va)
            else:
                result = range_freeze(op, child_offset(tree, level, raw), level - 1, va, part)
            if result != DONE:
                return result
        elif not locked and not (state == EMPTY and is_faulty(RANGE_LOCKS_NO_HOLE)):
            return range_stopped(op, RESTART, va, level, state)
        else:
            if owns_tables(tree, level, state):
                raw = entry_freeze(format, slot, freeze_place(op))
                state = classify(&tree.format, level, raw)
                if is_part(format, raw, state):
                    run_freeze_outside(op, table, level, raw, va, part)
            result = why_not_changed(op, state, covers(format, va, part))
            if result != DONE:
                return range_stopped(op, result, va, level, state)
        if part == last:
            return DONE
        va = part + 1


cdef int shared_look(Range *op, uint64_t table, uint32_t level, uint64_t va) noexcept nogil:
    """Say whether a table that other trees have too may leave: range_freeze, where nothing has to be frozen (R6)."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, i
    cdef int state, result
    for i in range(format.entries):
        raw = entry_load(tree.memory + table + (i << format.entry_shift), format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE and not is_table(tree, child_offset(tree, level, raw), level - 1):
            state = BAD
        if state == TABLE:
            result = shared_look(op, child_offset(tree, level, raw), level - 1, va + (i << format.shift))
        else:
            result = why_not_changed(op, state, True)
        if result != DONE:
            return range_stopped(op, result, va + (i << format.shift), level, state) if state != TABLE else result
    return DONE


cdef int leaves_freeze(Range *op, uint64_t table, uint64_t va, uint64_t last) noexcept nogil:
    """range_freeze in a leaf table, where a large range spends its time: one atomic operation a page, and little else."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef bint leaves_stay = (op.kind == MAP or op.kind == MOVE_TO) and not op.replace
    cdef char *first = slot_of(tree, table, 1, va)
    cdef char *end = slot_of(tree, table, 1, last)
    cdef char *slot = first
    cdef uint64_t raw = 0, at
    cdef int state, result
    if lock_owner(&table_of(tree.block, table).lock) != op.me.number and (
        not is_faulty(RANGE_CHANGES_WHAT_IT_HAS_NOT_LOCKED)
    ):
        return range_stopped(op, RESTART, va, 1, EMPTY)
    while True:
        if format.shadow.offset == 0:
            slot = leaves_freeze_plain(format, slot, end, leaves_stay, freeze_place(op))
        if slot > end:
            return DONE
        raw = entry_freeze(format, slot, freeze_place(op))
        at = va + (<uint64_t> (slot - first) >> format.entry_shift << format.shift)
        state = classify(&tree.format, 1, raw)
        if is_part(format, raw, state):
            run_freeze_outside(op, table, 1, raw, at, slot_last(format, at))
        result = why_not_changed(op, state, True)
        if result != DONE:
            return range_stopped(op, result, at, 1, state)
        slot += <uint64_t> 1 << format.entry_shift


# The loops that follow take what nearly all entries of the common formats are, holes and leaves by themselves, and are left
# with little but the atomic operation: the format is a copy, of which the compiler knows that no store changes it. Each
# stops where something takes more.

cdef char *leaves_freeze_plain(
    const LevelFormat *level, char *slot, char *end, bint leaves_stay, uint32_t place
) noexcept nogil:
    """Freeze holes, and leaves by themselves unless those must stay, up to the first entry that is something else."""
    cdef LevelFormat format = level[0]
    cdef bint pairs = has_pairs(&format)
    cdef uint64_t raw
    cdef char *after
    while slot <= end and not is_faulty(NOTHING_IS_FROZEN) and not is_faulty(place):
        raw = entry_load(slot, &format)
        if not is_empty(&format, raw) and (leaves_stay or not is_lone_leaf(&format, raw)):
            break
        if pairs and begins_pair(slot):
            after = pairs_freeze(slot, end, raw, kind_mask(&format, raw), frozen_bit(&format, raw))
            if after != slot:
                slot = after
                continue
        if entry_compare_exchange(slot, &raw, raw | frozen_bit(&format, raw), &format):
            slot += <uint64_t> 1 << format.entry_shift
    return slot


cdef char *leaves_protect_plain(
    const LevelFormat *level, char *slot, char *end, uint32_t attributes, uint64_t *changed
) noexcept nogil:
    """Give frozen leaves by themselves these attributes, and thaw them, and holes."""
    cdef LevelFormat format = level[0]
    cdef const Attributes *own = level.attributes
    cdef uint64_t kept = (own.used_mask | ~own.mask) & ~format.frozen_present               # as attributes_replaced
    cdef uint64_t given = own.bits[attributes] & ~own.used_mask
    cdef uint64_t used_mask = own.used_mask, all_used = own.bits[USED] & own.used_mask
    cdef bint pairs = has_pairs(&format), is_used
    cdef uint64_t raw, new, count = 0
    cdef char *after
    if not own.is_used_alone or attributes & USED or is_faulty(FINAL_VALUE_STAYS_FROZEN):
        return slot
    while slot <= end:
        raw = entry_load(slot, &format)
        if is_empty(&format, raw) and not is_faulty(HOLE_STAYS_FROZEN):
            entry_store(slot, thawed(&format, raw), &format)        # hardware sets nothing there (N7)
            slot += <uint64_t> 1 << format.entry_shift
            continue
        if not is_lone_leaf(&format, raw):
            break
        is_used = raw & used_mask == all_used or is_faulty(USED_LOST_BY_A_STORE)
        if pairs and begins_pair(slot):
            after = pairs_replace(
                slot, end, raw, kind_mask(&format, raw) | used_mask, kept, given, ~format.frozen_present, is_used, &count
            )
            if after != slot:
                slot = after
                continue
        new = raw & kept | given
        if is_used:
            entry_store(slot, new, &format)                         # hardware has nothing to set any more (N7)
        elif not entry_compare_exchange(slot, &raw, new, &format):  # it has set accessed or dirty (N2)
            continue
        count += new != raw & ~format.frozen_present
        slot += <uint64_t> 1 << format.entry_shift
    changed[0] += count << format.shift
    return slot


cdef char *leaves_unmap_plain(const LevelFormat *level, char *slot, char *end, uint64_t *changed) noexcept nogil:
    """Empty frozen leaves by themselves, and thaw holes."""
    cdef LevelFormat format = level[0]
    cdef bint pairs = has_pairs(&format)
    cdef uint64_t raw, count = 0
    cdef char *after
    while slot <= end:
        raw = entry_load(slot, &format)
        if is_lone_leaf(&format, raw):                              # what hardware sets goes with the leaf (N7)
            if pairs and begins_pair(slot):
                after = pairs_replace(
                    slot, end, raw, kind_mask(&format, raw), 0, format.empty, ~<uint64_t> 0, True, &count
                )
                if after != slot:
                    slot = after
                    continue
            entry_store(slot, format.empty, &format)
            count += 1
        elif is_empty(&format, raw) and not is_faulty(HOLE_STAYS_FROZEN):
            entry_store(slot, thawed(&format, raw), &format)
        else:
            break
        slot += <uint64_t> 1 << format.entry_shift
    changed[0] += count << format.shift
    return slot


cdef uint64_t entries_used(const LevelFormat *level, char *entries) noexcept nogil:
    """How many entries of a frozen leaf table are not empty."""
    cdef LevelFormat format = level[0]
    cdef uint64_t raws[NEIGHBOURS]
    cdef uint64_t first = entry_load(entries, &format), alike = kind_mask(&format, first), i = 0, used = 0
    cdef bint are_leaves = is_lone_leaf(&format, first)         # all of them, in nearly every table
    cdef bint at_once = format.shape == NATIVE_64 and not is_stepping() and format.entries % NEIGHBOURS == 0
    if not are_leaves and not is_empty(&format, first):
        at_once = False
    while i < format.entries:
        # Acquire, partner: as of entry_load.
        if at_once and i % NEIGHBOURS == 0 and not alike & load_acquire_neighbours_unhooked_64(
            <uint64_t *> entries + i, raws, first
        ):
            used += NEIGHBOURS if are_leaves else 0
            i += NEIGHBOURS
        else:
            used += not is_empty(&format, entry_load(entries + (i << format.entry_shift), &format))
            i += 1
    return used


cdef inline uint32_t freeze_place(const Range *op) noexcept nogil:
    """Whose freeze it is, for a test that leaves it out."""
    return MOVE_FREEZES_NOTHING if op.kind >= MOVE_FROM else RANGE_FREEZES_NOTHING


cdef inline int why_not_changed(Range *op, int state, bint is_covered) noexcept nogil:
    """What keeps the operation from changing an entry, or a part of what it covers; DONE when nothing does."""
    if state == BAD and (op.kind == PROTECT or op.kind == MOVE_FROM or not is_covered):
        return IS_BAD
    if state == INVALID or state == BUSY:               # of nobody's making: we hold the lock
        return IS_BAD
    if state != EMPTY and (op.kind == MAP or op.kind == MOVE_TO) and not op.replace:
        return IS_MAPPED
    return DONE


cdef void range_thaw(Range *op, uint64_t table, uint32_t level, uint64_t va, uint64_t last) noexcept nogil:
    """Undo a range_freeze: in the tables that we hold, whatever is frozen was frozen by us."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef bint locked = lock_owner(&table_of(tree.block, table).lock) == op.me.number
    cdef uint64_t raw, part
    cdef char *slot
    cdef int state
    if is_faulty(RANGE_THAWS_NOTHING):
        return
    while True:
        part = min(last, slot_last(format, va))
        slot = slot_of(tree, table, level, va)
        raw = entry_load(slot, format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            range_thaw(op, child_offset(tree, level, raw), level - 1, va, part)
        elif locked and is_frozen(format, raw) and state != BUSY:
            entry_thaw(format, slot)
            if is_part(format, raw, state):
                run_thaw_outside(op, table, level, raw, va, part)
        if part == last:
            return
        va = part + 1


cdef void run_freeze_outside(
    Range *op, uint64_t table, uint32_t level, uint64_t raw, uint64_t va, uint64_t last
) noexcept nogil:
    """Freeze what the run of an entry that covers [va, last] has outside the range (R4), at whose end the entry is."""
    cdef const LevelFormat *format = &op.tree.format.level[level]
    cdef const Run *run = run_of(format, raw)
    cdef uint64_t start = run_start(run, va), end = start + run.bytes, own = va & ~(span(format) - 1)
    if va == op.first:
        run_freeze(op.tree, level, table, start, own - start)
    if last == op.last:
        own += span(format)
        run_freeze(op.tree, level, table, own, end - own)


cdef void run_thaw_outside(
    Range *op, uint64_t table, uint32_t level, uint64_t raw, uint64_t va, uint64_t last
) noexcept nogil:
    """Undo a run_freeze_outside."""
    cdef const LevelFormat *format = &op.tree.format.level[level]
    cdef const Run *run = run_of(format, raw)
    cdef uint64_t start = run_start(run, va), at, i
    for i in range(run.entries):
        at = start + (i << format.shift)
        if va == op.first and at < va & ~(span(format) - 1) or last == op.last and at > last:
            entry_thaw(format, slot_of(op.tree, table, level, at))


# -- commit -----------------------------------------------------------------------------------------------------------

cdef void range_commit(
    Range *op, uint64_t table, uint32_t level, uint64_t va, uint64_t last, bint private
) noexcept nogil:
    """Store the final value of everything in [va, last]; a private table is one that no slot names yet (R5)."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, part
    cdef char *slot
    cdef int state
    if level == 1:
        leaves_commit(op, table, va, last, private)
        return
    while True:
        part = min(last, slot_last(format, va))
        slot = slot_of(tree, table, level, va)
        raw = entry_load(slot, format)
        state = classify_in_block(tree, level, raw)
        if is_part(format, raw, state) and comes_apart(op, level, raw, va):
            run_take_apart(tree, op.begun, level, table, va, NULL, op.first & ~(span(format) - 1), op.last)
            raw = entry_load(slot, format)
        if op.run is not NULL and not private and is_leaf_here(op, level, va, part):
            commit_run(op, table, level, va)
            part = va + (op.run.bytes - 1)
        elif op.kind == MAP and is_leaf_here(op, level, va, part):
            commit_leaf(op, slot, level, raw, state, va, private)
        elif state == TABLE and detaches(op, level, va, part):
            entry_replace(format, slot, format.empty, private)
            detach(op, child_offset(tree, level, raw), level - 1)
        elif state == TABLE:
            range_commit(op, child_offset(tree, level, raw), level - 1, va, part, private)
        elif state == EMPTY:
            if op.kind == MAP:
                commit_fresh(op, slot, level, va, part, private)
        elif op.kind == PROTECT and state == SOFT:
            if not private:
                entry_thaw(format, slot)
        elif owns_tables(tree, level, state) and (op.kind == MAP or not covers(format, va, part)):
            commit_split(op, slot, level, va, part, private)
        elif op.kind == MAP:                                # software's own, in the way of smaller leaves
            commit_fresh(op, slot, level, va, part, private)
        elif covers(format, va, part):
            commit_covered(op, slot, level, raw, state, private)
        if part == last:
            return
        va = part + 1


cdef void leaves_commit(Range *op, uint64_t table, uint64_t va, uint64_t last, bint private) noexcept nogil:
    """range_commit in a leaf table."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef uint64_t leaf = leaf_make(format, va + op.pa_less_va, attribute_bits(format, op.attributes)), raw
    cdef uint64_t width = <uint64_t> 1 << format.entry_shift
    cdef char *slot = slot_of(tree, table, 1, va)
    cdef char *end = slot_of(tree, table, 1, last)
    cdef char *before
    while True:
        if not private and format.shadow.offset == 0:
            before = slot
            if op.kind == PROTECT:
                slot = leaves_protect_plain(format, slot, end, op.attributes, &op.changed)
            elif op.kind == UNMAP:
                slot = leaves_unmap_plain(format, slot, end, &op.changed)
            va += <uint64_t> (slot - before) >> format.entry_shift << format.shift
        if slot > end:
            return
        raw = entry_load(slot, format)
        if in_run(format, raw) and comes_apart(op, 1, raw, va):
            run_take_apart(tree, op.begun, 1, table, va, NULL, op.first & ~(span(format) - 1), op.last)
            raw = entry_load(slot, format)
        if op.kind == MAP and op.run is not NULL and not private:
            commit_run(op, table, 1, va)
            slot += op.run.entries * width
            va += op.run.bytes
            continue
        if op.kind == MAP:
            if private:
                entry_store_private(slot, run_marked(op.run, leaf), format)
            else:
                entry_settle(format, slot, run_marked(op.run, leaf))
            leaf = leaf_after(format, leaf)
        elif is_leaf(format, raw) or op.kind == UNMAP and not is_empty(format, raw):
            commit_covered(op, slot, 1, raw, HUGE, private)
        elif not private and not is_faulty(HOLE_STAYS_FROZEN):
            entry_thaw(format, slot)
        slot += width
        va += span(format)


cdef inline void commit_leaf(
    Range *op, char *slot, uint32_t level, uint64_t raw, int state, uint64_t va, bint private
) noexcept nogil:
    """Put a huge leaf over all of a slot, whatever is there."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t leaf = run_marked(op.run, leaf_make(format, va + op.pa_less_va, attribute_bits(format, op.attributes)))
    if not private and state != EMPTY:
        entry_exchange(slot, format.busy, format)                                       # T4: no TLB sees both
        flush(tree, op.begun, va, slot_end(tree, level, va), NO_FLUSH_BEFORE_A_REPLACEMENT)
    if state == TABLE:
        detach(op, child_offset(tree, level, raw), level - 1)
    elif owns_tables(tree, level, state):
        op.dropped_leaves[level] += 1
    op.parked_leaves[level] -= 1                                                    # the leaf owns them now
    entry_replace(format, slot, leaf, private)


cdef inline bint comes_apart(Range *op, uint32_t level, uint64_t raw, uint64_t va) noexcept nogil:
    """Whether the range changes a part of the run that an entry of va is part of, or puts smaller leaves in its place."""
    cdef const Run *run = run_of(&op.tree.format.level[level], raw)
    cdef uint64_t start = run_start(run, va)
    if op.kind == MAP and (op.run is NULL or op.run.bytes < run.bytes):
        return True
    return start < op.first or start + (run.bytes - 1) > op.last


cdef void commit_run(Range *op, uint64_t table, uint32_t level, uint64_t start) noexcept nogil:
    """Put one run of leaves over as many entries, whatever is there: first let hardware see none of it."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, bits = attribute_bits(format, op.attributes), va, i
    cdef char *slot
    cdef int state
    for i in range(op.run.entries):
        slot = slot_of(tree, table, level, start + (i << format.shift))
        raw = entry_load(slot, format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            entry_exchange(slot, format.busy, format)                                   # T4
            detach(op, child_offset(tree, level, raw), level - 1)
        elif owns_tables(tree, level, state):
            op.dropped_leaves[level] += 1
        if level > 1:
            op.parked_leaves[level] -= 1                                            # the leaf owns them now
    run_hide(tree, op.begun, level, table, start, op.run.bytes, NO_FLUSH_BEFORE_A_RUN)
    for i in range(op.run.entries):
        va = start + (i << format.shift)
        entry_exchange(
            slot_of(tree, table, level, va), run_marked(op.run, leaf_make(format, va + op.pa_less_va, bits)), format
        )


cdef void commit_fresh(
    Range *op, char *slot, uint32_t level, uint64_t va, uint64_t last, bint private
) noexcept nogil:
    """Put a fresh table in a slot with nothing in it that counts."""
    cdef Tree *tree = op.tree
    cdef Table *table = op.fresh[level - 1]
    op.fresh[level - 1] = table.link
    table.link = NULL
    table.level = level - 1
    if level == 2 and covers(&tree.format.level[2], va, last):
        table_fill_leaves(
            tree, table, 1, va + op.pa_less_va, attribute_bits(&tree.format.level[1], op.attributes), op.run
        )
    else:
        table_fill_empty(tree, table, level - 1)
        range_commit(op, table_offset(tree.block, table), level - 1, va, last, True)
    commit_publish(op, slot, level, table, private)


cdef void commit_split(
    Range *op, char *slot, uint32_t level, uint64_t va, uint64_t last, bint private
) noexcept nogil:
    """Split a huge leaf that the range cuts, and change the part inside before anyone sees the smaller leaves."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef Table *table
    cdef uint64_t raw
    if private:
        raw = entry_load(slot, format)
    else:
        raw = slot_invalidate(tree, slot, level)
        flush(tree, op.begun, slot_first(tree, level, va), slot_end(tree, level, va), NO_FLUSH_BEFORE_A_CUT)       # T7
    table = split_table(tree, level, raw, level - 1, NULL)
    if table is NULL:                                   # an entry of nobody's making, and no frames: let it be
        if not private:
            entry_exchange(slot, raw, format)
        return
    range_commit(op, table_offset(tree.block, table), level - 1, va, last, True)
    commit_publish(op, slot, level, table, private)


cdef inline void commit_publish(Range *op, char *slot, uint32_t level, Table *table, bint private) noexcept nogil:
    cdef Tree *tree = op.tree
    if private:
        table_count(tree, table, 1)
        entry_store_private(
            slot,
            table_make(&tree.format.level[level], tree.base + table_offset(tree.block, table)),
            &tree.format.level[level],
        )
    else:
        table_publish(tree, slot, level, table)


cdef inline void commit_covered(
    Range *op, char *slot, uint32_t level, uint64_t raw, int state, bint private
) noexcept nogil:
    """Unmap or protect an entry that the range covers."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t new
    if op.kind == PROTECT:
        if state != HUGE:
            if not private and is_frozen(format, raw):
                entry_thaw(format, slot)
            return
        while True:         # hardware may set accessed and dirty meanwhile (N2)
            new = attributes_replaced(format, raw, op.attributes) & ~format.frozen_present
            if is_faulty(FINAL_VALUE_STAYS_FROZEN):
                new |= raw & format.frozen_present
            if private:
                entry_store_private(slot, new, format)
                break
            if entry_change_frozen(format, slot, &raw, new):
                break
        if new != raw & ~format.frozen_present:
            op.changed += span(format)
    else:
        entry_replace(format, slot, format.empty, private)
        op.changed += span(format)
        if owns_tables(op.tree, level, state):
            op.dropped_leaves[level] += 1


cdef void detach(Range *op, uint64_t offset, uint32_t level) noexcept nogil:
    """Collect a table that its slot no longer names, and all below it; what it holds stays as it is, frozen.

    What other trees have too is let go of (R6).
    """
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef Table *table = table_of(tree.block, offset)
    cdef uint64_t raw, i
    cdef int state
    if not is_own(tree, table) and not is_faulty(SHARED_TABLE_CHANGED_UNDER_ITS_LOCK):
        shared_count_out(op, offset, level)
        table_let_go(tree, table)
        return
    if level == 1:
        op.changed += entries_used(format, tree.memory + offset) << format.shift
    for i in range(format.entries if level > 1 else 0):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            detach(op, child_offset(tree, level, raw), level - 1)
        elif state != EMPTY:
            op.changed += span(format)
            if owns_tables(tree, level, state):
                op.dropped_leaves[level] += 1
    table.link = op.leaving
    op.leaving = table


cdef void shared_count_out(Range *op, uint64_t offset, uint32_t level) noexcept nogil:
    """Count out of the tree a table that other trees have too, with all below it, and what they map."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, i
    cdef int state
    table_count(tree, table_of(tree.block, offset), -1)
    if level == 1:
        op.changed += entries_used(format, tree.memory + offset) << format.shift
        return
    for i in range(format.entries):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            shared_count_out(op, child_offset(tree, level, raw), level - 1)
        elif state != EMPTY:
            op.changed += span(format)


# -- the whole --------------------------------------------------------------------------------------------------------

cdef int range_apply(Range *op) noexcept nogil:
    """Run a range operation; the caller has checked its arguments and filled in kind to replace."""
    cdef Tree *tree = op.tree
    cdef uint32_t turns = 0
    cdef int result, attempts = 0
    while True:
        result = range_lock(op)
        if result == DONE:
            critical_enter(op.me)
            result = IS_SHARED
            if range_is_own(op):
                section_enter(op.me)
                result = range_settle(op)
                section_leave(op.me)
            range_release(op)
            range_unlock(op)
            range_retire(op)
            critical_leave(op.me)
        else:
            range_unlock(op)
        collect_a_few(tree.domain)
        if result == IS_SHARED:
            result = unshare_range(op)
            if result == DONE:
                continue                            # ends: only a snapshot makes them shared again
        if result == NO_FRAMES and frames_may_come(tree, &attempts):
            continue
        if result != RESTART:
            return result
        count_64(&tree.restarts, 1)
        if not again(tree, tree.root, &turns):
            return LIVELOCK


cdef int range_settle(Range *op) noexcept nogil:
    """Everything locked: reserve, freeze and commit; or undo, and say why not."""
    cdef Tree *tree = op.tree
    cdef int result = range_reserve(op)
    if result != DONE:
        return result
    result = range_freeze(op, tree.root, tree.format.levels, op.first, op.last)
    if result == DONE:
        if is_faulty(RANGE_UNLOCKS_EARLY):
            range_unlock(op)
        op.begun = change_begin(tree)
        range_commit(op, tree.root, tree.format.levels, op.first, op.last, False)
        if not op.is_gathered:
            flush(tree, op.begun, op.first, op.last, NO_FLUSH_OF_A_RANGE)
        change_end(tree, op.begun)
    else:
        range_thaw(op, tree.root, tree.format.levels, op.first, op.last)
    return result
