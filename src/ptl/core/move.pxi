# SPDX-License-Identifier: MIT
"""Move what a range holds to another address: leaf tables whole, huge leaves, single entries; all or nothing.

    old   | slot: TABLE | --exchange--> EMPTY           the old table is retired, frozen, with its last contents
                 | copy                                  (not handed over: see M2)
    new   | slot: EMPTY | --exchange--> TABLE  fresh

M1  Both ranges are locked and frozen before anything is decided, in the one order of all range operations (range.pxi): the
    state of a slot is read under the lock that keeps it. (Linux classified the old slot before it took the locks; a table
    was retracted in between, and the empty value was installed as a table: fixed in 6.12.)
M2  A moved table is a copy. Handing over the table itself, as the kernel does, would let a reader that found it at the old
    address read what was changed at the new one since: a translation that was never true. Copying 512 frozen entries costs
    less than a grace period, and the old table leaves as every table does.
M3  An entry leaves the old address before it appears at the new one: nobody sees it at both.
M4  A fresh leaf table is locked, and its part of the new range frozen, before a slot names it: nobody fills a place in
    between.

M5  A run that stays one at its new address moves as one: hidden from hardware where it was, then entry by entry, and shown
    when all have left. Any other is taken apart first.

Blocking on the tables of both ranges. Source: Linux mm/mremap.c.
"""

cdef struct Move:
    Tree *tree
    Range old
    Range new
    uint64_t distance               # new - old, modulo 2**64
    uint64_t counted[LEVELS + 1]    # the first address of the last table counted as missing, by level
    bint is_counted[LEVELS + 1]
    bint moved                      # whether there was anything
    uint64_t early                  # for MOVE_LOOKS_BEFORE_IT_LOCKS only
    char *early_slot

cdef struct Piece:                  # what is moved by one exchange
    uint64_t last                   # from the address asked for to this one
    char *slot
    uint64_t raw
    uint32_t level
    int state                       # EMPTY: nothing to move; TABLE: a leaf table; otherwise an entry
    uint64_t table                  # offset of the table that holds it
    const Run *run                  # that it is part of, or NULL
    bint fits                       # whether the new address can hold it as it is, or it must be split first


cdef void move_piece(Move *op, uint64_t va, Piece *piece) noexcept nogil:
    """The largest piece that begins at an address of the old range."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format
    cdef Found found
    cdef uint64_t table_last = slot_last(&tree.format.level[2], va)
    walk(tree, va, 1, &found)
    format = &tree.format.level[found.level]
    piece.slot, piece.raw, piece.level, piece.state = found.slot, found.raw, found.level, found.state
    piece.table = found.table
    piece.run = run_of(format, found.raw) if found.state == HUGE else NULL
    piece.last = min(op.old.last, slot_last(format, va))
    piece.fits = found.level == 1 or covers(format, va, piece.last) and op.distance & (span(format) - 1) == 0
    if is_faulty(MOVE_LOOKS_BEFORE_IT_LOCKS) and op.early and va == op.old.first:
        piece.slot, piece.raw, piece.level, piece.state = op.early_slot, op.early, 2, TABLE
        piece.run = NULL
        piece.last = table_last
    elif found.level == 1 and table_last <= op.old.last and detaches(&op.old, 2, va, table_last):
        walk(tree, va, 2, &found)
        piece.slot, piece.raw, piece.level = found.slot, found.raw, 2
        piece.last = table_last
        piece.run = NULL
        piece.state = TABLE if table_holds_any(tree, child_offset(tree, 2, found.raw)) else EMPTY


cdef bint table_holds_any(Tree *tree, uint64_t table) noexcept nogil:
    """Whether a leaf table has anything in it."""
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef uint64_t i
    for i in range(format.entries):
        if not is_empty(format, entry_load(tree.memory + table + (i << format.entry_shift), format)):
            return True
    return False


# -- reserve ----------------------------------------------------------------------------------------------------------

cdef int move_reserve(Move *op) noexcept nogil:
    """Take every table that the new range lacks, all or nothing."""
    cdef Tree *tree = op.tree
    cdef Piece piece
    cdef uint64_t va = op.old.first
    cdef uint32_t level
    while True:
        move_piece(op, va, &piece)
        if piece.state == TABLE:
            move_count(op, va, 1)
        elif piece.state != EMPTY:
            move_count_entry(op, va, piece.last, piece.level)
        if piece.last == op.old.last:
            break
        va = piece.last + 1
    for level in range(1, tree.format.levels):
        if op.new.wanted[level]:
            op.new.fresh[level] = tables_take(tree.block, tree.order[level], op.new.wanted[level])
            if op.new.fresh[level] is NULL:
                return NO_FRAMES
    return DONE


cdef void move_count_entry(Move *op, uint64_t va, uint64_t last, uint32_t level) noexcept nogil:
    """Count the tables for an entry that covers [va, last] of the old range, or for what it splits into."""
    cdef const LevelFormat *format = &op.tree.format.level[level]
    cdef uint64_t part
    while level > 1 and not (covers(format, va, last) and op.distance & (span(format) - 1) == 0):
        level -= 1
        format = &op.tree.format.level[level]
        if slot_last(format, va) < last:            # several of the smaller size
            while True:
                part = min(last, slot_last(format, va))
                move_count_entry(op, va, part, level)
                if part == last:
                    return
                va = part + 1
    move_count(op, va, level)


cdef void move_count(Move *op, uint64_t va, uint32_t level) noexcept nogil:
    """Count the tables that are missing above an entry of that level at the new address."""
    cdef Tree *tree = op.tree
    cdef Found found
    cdef uint64_t first
    cdef uint32_t missing
    va += op.distance
    walk(tree, va, level, &found)
    for missing in range(level, found.level):
        first = va & ~(tree.format.level[missing].entries * span(&tree.format.level[missing]) - 1)
        if not op.is_counted[missing] or op.counted[missing] != first:
            op.is_counted[missing] = True
            op.counted[missing] = first
            op.new.wanted[missing] += 1


# -- commit -----------------------------------------------------------------------------------------------------------

cdef void move_commit(Move *op) noexcept nogil:
    """Move every piece: cannot fail."""
    cdef Piece piece
    cdef uint64_t va = op.old.first
    while True:
        move_piece(op, va, &piece)
        if piece.run is not NULL:
            if not move_run(op, va, &piece):
                continue                            # the same address, in leaves by themselves
        elif piece.state != EMPTY and not piece.fits and piece.state != TABLE:
            if move_split(op, va, &piece):
                continue                            # the same address, in smaller leaves
        elif piece.state == TABLE:
            move_table(op, va, &piece)
        elif piece.state != EMPTY:
            move_entry(op, va, &piece)
        if piece.last == op.old.last:
            return
        va = piece.last + 1


cdef char *move_target(Move *op, uint64_t va, uint32_t level) noexcept nogil:
    """The slot of that level at a new address, tables above it made from the fresh ones."""
    cdef Tree *tree = op.tree
    cdef Found found
    cdef Table *table
    # Ends: each turn adds a level.
    while True:
        walk(tree, va, level, &found)
        if found.level == level:
            return found.slot
        table = op.new.fresh[found.level - 1]
        op.new.fresh[found.level - 1] = table.link
        table.link = NULL
        table_fill_empty(tree, table, found.level - 1)
        move_publish(op, &op.new, found.slot, found.level, table, va)


cdef void move_publish(Move *op, Range *side, char *slot, uint32_t level, Table *table, uint64_t va) noexcept nogil:
    """Let a slot name a private table, locked, with what the range has of its leaves and empty places frozen (M4)."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[table.level]
    cdef char *entry = tree.memory + table_offset(tree.block, table)
    cdef uint64_t first = slot_first(tree, level, va), raw, i
    if not is_faulty(FRESH_TABLE_NOT_LOCKED):
        lock_try(&table.lock, side.me.number)       # nobody else knows it
        table.in_range = True
        table.chain = side.locked
        side.locked = table
    for i in range(0 if is_faulty(FRESH_TABLE_NOT_FROZEN) else format.entries):
        if first + (i << format.shift) >= side.first and first + (i << format.shift) <= side.last:
            raw = entry_load(entry, format)
            if table.level == 1 or classify(&tree.format, table.level, raw) != EMPTY:
                entry_store_private(entry, raw | frozen_bit(format, raw), format)
        entry += <uint64_t> 1 << format.entry_shift
    table_publish(tree, slot, level, table)


cdef void move_table(Move *op, uint64_t va, Piece *piece) noexcept nogil:
    """Move a leaf table: a copy of it (M2), or its entries into the empty one that is there."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef char *slot = move_target(op, va + op.distance, 2)
    cdef char *source = tree.memory + child_offset(tree, 2, piece.raw)
    cdef char *target
    cdef Table *table = op.new.fresh[1]
    cdef uint64_t raw = entry_load(slot, &tree.format.level[2]), i
    cdef bint is_fresh = classify_in_block(tree, 2, raw) != TABLE
    if is_fresh and is_faulty(TABLE_HANDED_OVER):
        entry_exchange(piece.slot, tree.format.level[2].empty, &tree.format.level[2])
        entry_exchange(slot, piece.raw, &tree.format.level[2])
        thaw_entries(tree, source, 1, format.entries)
        op.moved = True
        return
    if is_fresh:
        op.new.fresh[1] = table.link
        table.link = NULL
        table.level = 1
        target = tree.memory + table_offset(tree.block, table)
    else:
        target = tree.memory + child_offset(tree, 2, raw)
    if not is_faulty(TABLE_COPIED_BEFORE_IT_LEAVES):
        entry_exchange(piece.slot, tree.format.level[2].empty, &tree.format.level[2])               # M3
    # Until then hardware may set accessed and dirty in the table that it has found.
    flush(tree, op.old.begun, va, piece.last, NO_FLUSH_OF_A_TABLE)
    detach(&op.old, child_offset(tree, 2, piece.raw), 1)
    for i in range(format.entries):
        raw = entry_load(source + (i << format.entry_shift), format)
        entry_replace(format, target + (i << format.entry_shift), thawed(format, raw), is_fresh)
    if is_faulty(TABLE_COPIED_BEFORE_IT_LEAVES):
        entry_exchange(piece.slot, tree.format.level[2].empty, &tree.format.level[2])
    if is_fresh:
        table_publish(tree, slot, 2, table)
    op.moved = True


cdef void move_entry(Move *op, uint64_t va, Piece *piece) noexcept nogil:
    """Move a leaf of any size, or software's entry; a huge one keeps its parked tables."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[piece.level]
    cdef char *slot = move_place(op, va, piece.level)
    cdef uint64_t raw
    if is_faulty(MOVE_SHOWS_BOTH):
        entry_exchange(slot, thawed(format, piece.raw), format)
    raw = entry_exchange(piece.slot, format.empty, format)   # M3
    entry_exchange(slot, thawed(format, raw), format)
    op.moved = True


cdef char *move_place(Move *op, uint64_t va, uint32_t level) noexcept nogil:
    """The slot for an entry of that level at its new address, with nothing in it: there may be empty tables."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef char *slot = move_target(op, va + op.distance, level)
    cdef uint64_t raw = entry_load(slot, format)
    if level > 1 and classify_in_block(tree, level, raw) == TABLE:
        entry_exchange(slot, format.empty, format)
        detach(&op.new, child_offset(tree, level, raw), level - 1)
    return slot


cdef bint move_run(Move *op, uint64_t va, Piece *piece) noexcept nogil:
    """Move a run (M5); False when it had to be taken apart: the range cuts it, or it does not fit its new place."""
    cdef Tree *tree = op.tree
    cdef const LevelFormat *format = &tree.format.level[piece.level]
    cdef const Run *run = piece.run
    cdef uint64_t start = run_start(run, va), raw, i
    cdef char *slot
    if start != va or start + (run.bytes - 1) > op.old.last or op.distance & (run.bytes - 1):
        run_take_apart(
            tree, op.old.begun, piece.level, piece.table, va, NULL, op.old.first & ~(span(format) - 1), op.old.last
        )
        return False
    run_hide(tree, op.old.begun, piece.level, piece.table, start, run.bytes, NO_FLUSH_BEFORE_A_RUN)
    for i in range(run.entries):
        slot = move_place(op, start + (i << format.shift), piece.level)
        raw = entry_exchange(slot_of(tree, piece.table, piece.level, start + (i << format.shift)), format.empty, format)
        entry_exchange(slot, raw, format)
    for i in range(run.entries):
        slot = move_target(op, start + (i << format.shift) + op.distance, piece.level)
        entry_exchange(slot, thawed(format, leaf_shown(format, entry_load(slot, format))), format)
    piece.last = start + (run.bytes - 1)
    op.moved = True
    return True


cdef bint move_split(Move *op, uint64_t va, Piece *piece) noexcept nogil:
    """Split an entry that does not fit its new place; False for one of nobody's making, without a table: let it be."""
    cdef Tree *tree = op.tree
    cdef uint64_t raw = slot_invalidate(tree, piece.slot, piece.level)
    cdef Table *table
    flush(                                                                                      # T7
        tree, op.old.begun, slot_first(tree, piece.level, va), slot_end(tree, piece.level, va), NO_FLUSH_BEFORE_A_CUT
    )
    table = split_table(tree, piece.level, raw, piece.level - 1, NULL)
    if table is NULL:
        entry_exchange(piece.slot, raw, &tree.format.level[piece.level])
        return False
    move_publish(op, &op.old, piece.slot, piece.level, table, va)
    return True


# -- the whole --------------------------------------------------------------------------------------------------------

cdef int move_lock(Move *op) noexcept nogil:
    """Lock the tables of both ranges in the one order: upper levels first, then by address."""
    cdef Range *lower = &op.old
    cdef Range *upper = &op.new
    cdef uint32_t level
    cdef int result
    if op.new.first < op.old.first and not is_faulty(OLD_SIDE_LOCKED_FIRST):
        lower, upper = upper, lower
    for level in range(op.tree.format.levels, 0, -1):
        result = range_lock_level(lower, level)
        if result == DONE:
            result = range_lock_level(upper, level)
        if result != DONE:
            return result
    return DONE


cdef int move_settle(Move *op) noexcept nogil:
    """Everything locked: freeze, reserve, commit; or undo, and say why not."""
    cdef Tree *tree = op.tree
    cdef uint32_t top = tree.format.levels
    cdef int result = range_freeze(&op.old, tree.root, top, op.old.first, op.old.last)
    if result == DONE:
        result = range_freeze(&op.new, tree.root, top, op.new.first, op.new.last)
    if result == DONE:
        result = move_reserve(op)
    if result == DONE:
        op.old.begun = change_begin(tree)
        op.new.begun = op.old.begun
        move_commit(op)
        flush(tree, op.old.begun, op.old.first, op.old.last, NO_FLUSH_OF_A_MOVE)
        change_end(tree, op.old.begun)
    range_thaw(&op.old, tree.root, top, op.old.first, op.old.last)
    range_thaw(&op.new, tree.root, top, op.new.first, op.new.last)
    return result


cdef void move_look_early(Move *op) noexcept nogil:
    """Linux before 6.12: classify the old slot while nothing is locked."""
    cdef Found found
    walk(op.tree, op.old.first, 2, &found)
    if found.level == 2 and found.state == TABLE:
        op.early, op.early_slot = found.raw, found.slot


cdef int move_apply(Move *op, Record *me, uint64_t old, uint64_t new, uint64_t length) noexcept nogil:
    """Move [old, old + length) to [new, new + length), which do not overlap; op.new.where says what stopped it."""
    cdef Tree *tree = op.tree
    cdef uint32_t turns = 0
    cdef int result, attempts = 0
    while True:
        memset(op, 0, sizeof(Move))
        op.tree = op.old.tree = op.new.tree = tree
        op.old.me = op.new.me = me
        op.old.kind, op.new.kind = MOVE_FROM, MOVE_TO
        op.old.first, op.old.last = old, old + (length - 1)
        op.new.first, op.new.last = new, new + (length - 1)
        op.distance = new - old
        op.old.pa_less_va = op.distance
        op.new.pa_less_va = -op.distance
        if is_faulty(MOVE_LOOKS_BEFORE_IT_LOCKS):
            move_look_early(op)
        result = move_lock(op)
        if result == DONE:
            critical_enter(me)
            result = IS_SHARED
            if range_is_own(&op.old) and range_is_own(&op.new):
                section_enter(me)
                result = move_settle(op)
                section_leave(me)
            range_release(&op.new)
            range_unlock(&op.old)
            range_unlock(&op.new)
            range_retire(&op.old)
            range_retire(&op.new)
            count_64(&tree.moves, op.moved)
            critical_leave(me)
        else:
            range_unlock(&op.old)
            range_unlock(&op.new)
        collect_a_few(tree.domain)
        if result == IS_SHARED:
            result = unshare_range(&op.old)
            if result == DONE:
                result = unshare_range(&op.new)
            if result == DONE:
                continue                            # ends: only a snapshot makes them shared again
        if result == NO_FRAMES and frames_may_come(tree, &attempts):
            continue
        if result == DONE and not op.moved:
            return NO_TABLE
        if result != RESTART:
            return result
        count_64(&tree.restarts, 1)
        if not again(tree, tree.root, &turns):
            return LIVELOCK
