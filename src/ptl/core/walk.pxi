# SPDX-License-Identifier: MIT
"""The walk: from the root to the entry that decides about an address. No lock, no allocation, no Python object.

    va    |  sign   | level 4 | level 3 | level 2 | level 1 | offset |         (x86_64; the format says where the cuts are)
                         |         |         |         |
    root ---> [ ... entry ... ] -> [ entry ] -> [ entry ] -> [ entry ] -> frame
                level-4 table        PUD          PMD          PTE

W1  Each level is one acquire load; the next address is computed from the value just loaded, never from a second read.
W2  An address taken from an entry is followed only if a whole table fits at it inside the block. So a walk that has
    lost a race, or a corrupt or hostile image, ends in an answer and never in a wild read.
W3  The caller is inside a section of the tree's domain, or holds a lock that keeps the tables from being detached.
W4  What a walk returns was true at a moment inside it: an entry is final from its freeze to the switch of the slot
    above, so even an entry read from a table that has just been detached was current when the walk passed the slot.

Wait-free: at most one turn a level. A slot that is BUSY says nothing about the address: leave the section and walk again
(`again`), giving way to the thread that is changing it.
"""

cdef enum:
    REWALKS_SPINNING = 20       # about a microsecond
    REWALKS_MAX = 200_000       # about ten seconds beside a lock that nobody holds: then a LivelockError names the slot

cdef struct Attachment

cdef struct Tree:
    Format format
    Block *block
    Domain *domain
    char *memory
    uint64_t base
    uint64_t root                   # offset of the root table in the block
    char *top                       # where the root table is
    uint64_t memory_less_base       # and a physical address: where that is
    uint64_t limit[LEVELS + 1]      # the last offset at which a table of this level fits (W2)
    Table *nothing[LEVELS + 1]      # the table of this level that empty slots name, where the format has them name one
    uint32_t order[LEVELS + 1]      # of frames a table of this level takes
    bint is_snapshot
    uint64_t generation             # 0 until it shares tables (share.pxi)
    uint64_t held                   # locks of tables that Python code holds
    uint64_t tables                 # live tables, the root included, and their bytes
    uint64_t table_bytes
    uint64_t map_failures
    uint64_t rewalks
    uint64_t restarts
    uint64_t populates
    uint64_t collapses
    uint64_t splits
    uint64_t retracts
    uint64_t retired
    uint64_t moves
    uint64_t bad_cleared
    uint64_t copies
    void *arch                      # which format this is: what is global is so for tables of the same
    Attachment *attached            # TLBs to flush (tlb.pxi)
    uint32_t attached_lock
    uint64_t changes_begun
    uint64_t changes_done

cdef struct Found:
    char *slot                      # where the entry is
    uint64_t raw
    uint64_t table                  # offset of the table that holds it
    uint32_t level
    int state


cdef inline char *slot_of(Tree *tree, uint64_t table, uint32_t level, uint64_t va) noexcept nogil:
    cdef const LevelFormat *format = &tree.format.level[level]
    return tree.memory + table + (slot_index(format, va) << format.entry_shift)


# In these `shape` is a constant: the compiler makes a walk for each.

cdef inline char *slot_in(
    const LevelFormat *level, uint32_t number, char *table, uint64_t va, uint32_t shape
) noexcept nogil:
    """The slot of an address in a table of that level."""
    if shape == REGULAR_64:
        return table + ((va >> (3 + 9 * number) & 511) << 3)
    if shape == MIXED:
        return table + (slot_index(level, va) << level.entry_shift)
    if shape == NATIVE_64 or shape == SWAPPED_64:
        return table + ((va >> level.shift & level.index_mask) << 3)
    return table + ((va >> level.shift & level.index_mask) << 2)


cdef inline uint64_t slot_load(const LevelFormat *level, char *slot, uint32_t shape) noexcept nogil:
    if shape == MIXED:
        return load_shaped(slot, level.shape)
    return load_unhooked(slot, <uint32_t> (NATIVE_64 if shape == REGULAR_64 else shape))


cdef inline char *table_below(Tree *tree, uint32_t number, uint64_t raw, uint32_t shape) noexcept nogil:
    """Where the table is that an entry of that level names; NULL when it names none, or none in the block (W2)."""
    cdef const LevelFormat *level = &tree.format.level[number]
    cdef uint64_t below = raw & level.address_mask                      # an address in one piece
    if raw & level.table_mask != level.table_value:
        return NULL
    if shape == MIXED:
        if is_empty(level, raw):                                        # which may be the name of a table of nothing
            return NULL
        below = entry_address(level, raw)
    elif shape != REGULAR_64:
        below <<= level.address_shift
    below -= tree.base
    return tree.memory + below if below <= tree.limit[number - 1] or is_faulty(NO_LOOK_AT_THE_BLOCK) else NULL


cdef inline uint64_t address_through(
    const LevelFormat *level, uint32_t number, uint64_t raw, uint64_t va, uint32_t shape
) noexcept nogil:
    """Where a leaf of that level maps an address."""
    if shape == REGULAR_64:
        return raw & level.leaf_address_mask | va & ((<uint64_t> 1 << (3 + 9 * number)) - 1)
    return leaf_address(level, raw, va) | va & (span(level) - 1)


cdef inline void descend(
    Tree *tree, uint64_t va, uint32_t stop, Found *found, uint32_t shape, uint32_t levels
) noexcept nogil:
    """The walk, but for what the entry means: found.state."""
    cdef uint32_t number = levels
    cdef char *table = tree.top
    cdef const LevelFormat *level
    cdef char *below
    while True:
        level = &tree.format.level[number]
        found.slot = slot_in(level, number, table, va, shape)
        found.raw = slot_load(level, found.slot, shape)                 # W1
        if number == stop:
            break
        below = table_below(
            tree, number, slot_load(level, found.slot, shape) if is_faulty(SLOT_READ_TWICE) else found.raw, shape
        )
        if below is NULL:
            break
        table = below
        number -= 1
    found.table = table - tree.memory
    found.level = number


cdef inline bint goes_regularly(const Tree *tree) noexcept nogil:
    """Whether walks to level 1 go by descend_regular."""
    return tree.format.shape == REGULAR_64 and tree.format.levels == 4


cdef inline bint names_table(Tree *tree, uint32_t number, uint64_t raw) noexcept nogil:
    """Whether an entry of that level of REGULAR_64 names a table in the block, as table_below."""
    cdef const LevelFormat *level = &tree.format.level[number]
    return raw & level.table_mask == level.table_value and (
        (raw & level.address_mask) - tree.base <= tree.limit[number - 1]
    )


cdef inline char *regular_slot(Tree *tree, uint32_t number, uint64_t above, uint64_t va) noexcept nogil:
    """The slot of an address in the table of that level that an entry names.

    A sum of two that stays one in a load from there: no addition has to wait for the entry.
    """
    cdef uint64_t slot_less_pa = as_computed(tree.memory_less_base + ((va >> (3 + 9 * number) & 511) << 3))
    return <char *> (slot_less_pa + (above & tree.format.level[number + 1].address_mask))


cdef inline uint32_t descend_regular(Tree *tree, uint64_t va, uint64_t *above, uint64_t *raw) noexcept nogil:
    """The level that the walk to level 1 ends on, in a format of four levels that is REGULAR_64: no variable shift.

    *raw is the entry there, and *above the one that names its table: its slot is slot_below.
    """
    raw[0] = load_unhooked(slot_in(&tree.format.level[4], 4, tree.top, va, REGULAR_64), NATIVE_64)      # W1
    if not names_table(tree, 4, raw[0]):
        return 4
    above[0] = raw[0]
    raw[0] = load_unhooked(regular_slot(tree, 3, above[0], va), NATIVE_64)
    if not names_table(tree, 3, raw[0]):
        return 3
    above[0] = raw[0]
    raw[0] = load_unhooked(regular_slot(tree, 2, above[0], va), NATIVE_64)
    if not names_table(tree, 2, raw[0]):
        return 2
    above[0] = raw[0]
    raw[0] = load_unhooked(regular_slot(tree, 1, above[0], va), NATIVE_64)
    return 1


cdef inline char *slot_below(Tree *tree, uint32_t number, uint64_t above, uint64_t va) noexcept nogil:
    """The slot of that level which descend_regular ended in, from the entry above."""
    if number == 4:
        return slot_in(&tree.format.level[4], 4, tree.top, va, REGULAR_64)
    # As computed: or the compiler would have the slot ready before it loads from there, with an addition.
    above = as_computed(above)
    return regular_slot(tree, 1, above, va) if number == 1 else regular_slot(tree, number, above, va)


cdef inline void walk_regular(Tree *tree, uint64_t va, Found *found) noexcept nogil:
    cdef uint64_t above = 0
    found.level = descend_regular(tree, va, &above, &found.raw)
    found.slot = slot_below(tree, found.level, above, va)
    found.table = table_around(tree, found.level, found.slot)
    if found.level == 1 and is_lone_leaf(&tree.format.level[1], found.raw):
        found.state = HUGE
    elif found.level == 1 and is_empty(&tree.format.level[1], found.raw):
        found.state = EMPTY
    else:
        found.state = classify_in_block(tree, found.level, found.raw)


cdef inline uint64_t table_around(Tree *tree, uint32_t number, char *slot) noexcept nogil:
    """The offset of the table of that level that a slot is in: it lies at a multiple of its size in physical memory."""
    return (slot - tree.memory + tree.base & ~(tree.format.level[number].table_bytes - 1)) - tree.base


cdef inline void walk_shaped(
    Tree *tree, uint64_t va, uint32_t stop, Found *found, uint32_t shape, uint32_t levels
) noexcept nogil:
    descend(tree, va, stop, found, shape, levels)
    if is_leaf(&tree.format.level[found.level], found.raw):
        found.state = HUGE
    else:
        found.state = classify_in_block(tree, found.level, found.raw)


cdef inline void walk(Tree *tree, uint64_t va, uint32_t stop, Found *found) noexcept nogil:
    """Find the entry of `va` on level `stop`, or the one above that ends the walk before."""
    if stop == 1 and goes_regularly(tree):
        walk_regular(tree, va, found)
    elif tree.format.shape == NATIVE_64 or tree.format.shape == REGULAR_64:
        walk_shaped(tree, va, stop, found, NATIVE_64, tree.format.levels)
    elif tree.format.shape == NATIVE_32:
        walk_shaped(tree, va, stop, found, NATIVE_32, tree.format.levels)
    elif tree.format.shape == SWAPPED_64:
        walk_shaped(tree, va, stop, found, SWAPPED_64, tree.format.levels)
    elif tree.format.shape == SWAPPED_32:
        walk_shaped(tree, va, stop, found, SWAPPED_32, tree.format.levels)
    else:
        walk_shaped(tree, va, stop, found, MIXED, tree.format.levels)


cdef int classify_in_block(Tree *tree, uint32_t level, uint64_t raw) noexcept nogil:
    """As `classify`; an entry for a table that would not lie inside the block is bad."""
    cdef int state = classify(&tree.format, level, raw)
    if state == TABLE and entry_address(&tree.format.level[level], raw) - tree.base > tree.limit[level - 1]:
        return BAD
    return state


cdef inline uint64_t translate_found(Tree *tree, const Found *found, uint64_t va) noexcept nogil:
    """The physical address, or UNMAPPED; for any state but BUSY."""
    cdef const LevelFormat *level = &tree.format.level[found.level]
    # A huge leaf that is being split still maps what it mapped: only hardware must not use it.
    if found.state == HUGE or found.state == INVALID:
        return address_through(level, found.level, found.raw, va, MIXED)
    return UNMAPPED_RAW


cdef inline bint is_plain_leaf(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Whether an entry is a leaf, and easily told to be one: what this calls nothing for."""
    return raw & level.leaf_mask == level.leaf_value and (not level.leaf_has_more or is_lone_leaf(level, raw))


cdef inline uint64_t walk_to_address(Tree *tree, uint64_t va, Found *found) noexcept nogil:
    """The walk, and translate_found. Of a small leaf only the state is told."""
    cdef uint64_t above = 0, raw
    cdef uint32_t number
    if goes_regularly(tree):
        number = descend_regular(tree, va, &above, &raw)
        if number == 1 and is_leaf(&tree.format.level[1], raw):
            found.state = HUGE
            return address_through(&tree.format.level[1], 1, raw, va, REGULAR_64)
        return translate_end(tree, va, number, above, raw, found)
    walk(tree, va, 1, found)
    return translate_found(tree, found, va)


cdef uint64_t translate_end(
    Tree *tree, uint64_t va, uint32_t number, uint64_t above, uint64_t raw, Found *found
) noexcept nogil:
    """The answer of a walk by descend_regular that ended in an entry other than a small leaf; out of the way of those."""
    found.slot = slot_below(tree, number, above, va)
    found.raw = raw
    found.table = table_around(tree, number, found.slot)
    found.level = number
    found.state = classify_in_block(tree, number, raw)
    return translate_found(tree, found, va)


cdef inline uint64_t child_offset(Tree *tree, uint32_t level, uint64_t raw) noexcept nogil:
    """Where the table that an entry of `level` names begins in the block."""
    return entry_address(&tree.format.level[level], raw) - tree.base


cdef inline bint is_table(Tree *tree, uint64_t offset, uint32_t level) noexcept nogil:
    """Whether a live table of that level is there, for whoever will change it: a foreign hand may have written the slot."""
    cdef Table *table = table_of(tree.block, offset)
    # Acquire, partner: table_count, before the slot named the table.
    return load_acquire_32(&table.use) == TABLE_LIVE and table.level == level and table_offset(tree.block, table) == offset


cdef inline bint is_own(Tree *tree, Table *table) noexcept nogil:
    """Whether this tree, and no other, may change a table (share.pxi, O2); inside the gate, where no number changes."""
    # Relaxed, partner: tree_share, by way of the gate.
    cdef uint64_t generation = load_relaxed_64(&tree.generation)
    return generation == 0 or load_relaxed_64(&table.generation) == generation


cdef bint again(Tree *tree, uint64_t table, uint32_t *turns) noexcept nogil:
    """Give way to the thread that is changing something in a table, outside any section, before walking again.

    It holds that table's lock, for a microsecond if it has a core. It may have lost its core to us: so after a few turns
    we sleep until it lets go. False when it has been tried too often.
    """
    cdef uint32_t *lock = &table_of(tree.block, table).lock
    count_64(&tree.rewalks, 1)
    turns[0] += 1
    if step_again(turns):
        pass                    # a lab wakes us when something that we have read has changed
    elif turns[0] <= REWALKS_SPINNING:
        pause()
    elif load_relaxed_32(lock):
        lock_await(lock)
    elif turns[0] <= 2 * REWALKS_SPINNING:
        sched_yield()
    else:
        sleep_ns(50_000)
    return turns[0] < REWALKS_MAX


cdef uint64_t translate(Tree *tree, Record *me, uint64_t va, Found *found, uint32_t patience) noexcept nogil:
    """The physical address of a canonical `va`, or UNMAPPED; found.state is BUSY if it still was after `patience` turns.

    Where it is mapped, *found tells no more than that.
    """
    cdef uint32_t turns = 0
    cdef uint64_t pa
    while True:
        if is_faulty(WALK_OUTSIDE_A_SECTION):
            walk(tree, va, 1, found)
            return translate_found(tree, found, va)
        section_enter(me)
        pa = walk_to_address(tree, va, found)
        section_leave(me)
        if found.state != BUSY or is_faulty(BUSY_TAKEN_FOR_AN_ANSWER):
            return pa
        if not again(tree, found.table, &turns) or turns >= patience:
            return UNMAPPED_RAW


cdef void find(Tree *tree, Record *me, uint64_t va, Found *found, uint32_t patience) noexcept nogil:
    """The entry that decides about a canonical `va`; its state is BUSY if it still was after `patience` turns."""
    cdef uint32_t turns = 0
    while True:
        section_enter(me)
        walk(tree, va, 1, found)
        section_leave(me)
        if found.state != BUSY or not again(tree, found.table, &turns) or turns >= patience:
            return
