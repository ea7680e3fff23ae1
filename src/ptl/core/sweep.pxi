# SPDX-License-Identifier: MIT
"""The sweep: what a range maps, or where nothing is, in the order of addresses.

    va          |first                                                                        last|
    level 2     |  table  |  empty  |        huge leaf        |  empty  |  table  |  table  | ...
    level 1     | LLL..LL |         |                         |         | L.....L | LLLLLLL |
                |---------------- decided ----------------->|next
    sections    |<- about SWEEP_SLOTS slots ->|<- the next begins at the root ->|

V1  Each address of the range is decided once, in order: `next` is the first that is not. What an entry says of the
    addresses before `next` is passed over, so a leaf that was put over them meanwhile is found cut.
V2  An address is decided by one acquire load of one entry, found by loads from the root inside the same section. A table
    that leaves meanwhile does so after its slot was read, and keeps its last contents: what it says of an address was true
    at a moment after its slot was read (walk.pxi, W4), so inside this sweep.
V3  A section ends after a bounded number of slots, or when there is no more room: never held while the caller works.
V4  A slot that is BUSY decides nothing: the section ends, and the sweep goes on from there (walk.pxi, `again`).

From V1 and V2: what is found is in order and does not overlap; all of it was there at some moment of the sweep; an address
that is mapped all the time is found exactly once, whatever collapses or splits on the way; and a leaf that is there all the
time is found whole, unless the range cuts it. All together is no snapshot.

Wait-free, but for walking again while a slot is in transition. O(leaves found + tables in the range): a hole costs a slot
of the table in which it is one.
"""

cdef enum:
    SWEEP_SLOTS = 4096          # looked at in a section, or a table more: some microseconds
    LEAVES_AT_ONCE = 128        # written to one column after the other: they stay in the nearest cache meanwhile

cdef enum SweepKind:
    SWEEP_LEAVES = 0            # each leaf; a run of entries that are one page is one
    SWEEP_EXTENTS = 1           # leaves that continue each other, in both kinds of addresses, with the same attributes
    SWEEP_GAPS = 2              # where nothing is, software's own neither

cdef struct Columns:            # what was found, in room of the caller's, NULL for none; of gaps, va and size alone
    uint64_t *va
    uint64_t *pa
    uint64_t *size
    uint8_t *attributes
    uint8_t *level
    uint64_t *raw
    uint64_t room
    uint64_t count

cdef struct Sweep:
    Tree *tree
    Record *me
    int kind
    uint64_t next               # V1
    uint64_t last               # of the range, which is inclusive: its last byte may be the last of all
    bint is_over                # nothing of the range is left
    bint is_full                # no room for what comes next, or all that was wanted is found
    uint64_t wanted             # of gaps: stop at the first with so many bytes, if any,
    uint64_t granule            # at a multiple of this
    Columns found
    Found busy                  # V4


cdef void sweep_begin(Sweep *sweep, Tree *tree, Record *me, int kind, uint64_t first, uint64_t last) noexcept nogil:
    memset(sweep, 0, sizeof(Sweep))
    sweep.tree = tree
    sweep.me = me
    sweep.kind = kind
    sweep.last = last
    sweep_go_on(sweep, first)


cdef inline void sweep_go_on(Sweep *sweep, uint64_t va) noexcept nogil:
    """Let the sweep be at an address, or at the first canonical one after it."""
    cdef uint64_t next = va
    if not is_canonical(&sweep.tree.format, va):
        next = canonical_after(&sweep.tree.format, va)
    sweep.next = next
    sweep.is_over = next < va or next > sweep.last


# -- what is found ----------------------------------------------------------------------------------------------------

cdef inline bint found_leaf(
    Columns *found, int kind, uint64_t va, uint64_t pa, uint64_t size, uint32_t attributes, uint32_t level, uint64_t raw
) noexcept nogil:
    """Add a leaf, or a part of one; False when there is no room."""
    cdef uint64_t i = found.count
    if kind == SWEEP_EXTENTS and i and found.attributes[i - 1] == attributes and (
        found.va[i - 1] + found.size[i - 1] == va and found.pa[i - 1] + found.size[i - 1] == pa
    ):
        found.size[i - 1] += size
        return True
    if i == found.room:
        return False
    if found.va is not NULL:
        found.va[i] = va
    if found.pa is not NULL:
        found.pa[i] = pa
    if found.size is not NULL:
        found.size[i] = size
    if found.attributes is not NULL:
        found.attributes[i] = <uint8_t> attributes
    if found.level is not NULL:
        found.level[i] = <uint8_t> level
    if found.raw is not NULL:
        found.raw[i] = raw
    found.count = i + 1
    return True


cdef bint found_gap(Sweep *sweep, uint64_t va, uint64_t size) noexcept nogil:
    """Add a place where nothing is; False when there is no room. No gap leaves the half, or region, that it begins in."""
    cdef Columns *found = &sweep.found
    cdef uint64_t i = found.count, start
    if i and found.va[i - 1] + found.size[i - 1] == va and (
        is_run(&sweep.tree.format, found.va[i - 1], found.size[i - 1] + size)
    ):
        i -= 1
        found.size[i] += size
    elif i == found.room:
        return False
    else:
        found.va[i] = va
        found.size[i] = size
        found.count = i + 1
    if sweep.wanted and gap_fits(sweep, i, &start):
        sweep.is_full = True
    return True


cdef bint gap_fits(Sweep *sweep, uint64_t i, uint64_t *start) noexcept nogil:
    """Whether there is all that is wanted in a gap, and where it starts."""
    cdef uint64_t va = sweep.found.va[i], before
    start[0] = align_up(va, sweep.granule)
    before = start[0] - va
    return start[0] >= va and before < sweep.found.size[i] and sweep.found.size[i] - before >= sweep.wanted


# -- one section ------------------------------------------------------------------------------------------------------

cdef uint64_t leaves_at_once(
    Columns *found, const LevelFormat *level, char *slot, uint64_t first, uint64_t va, uint64_t most
) noexcept nogil:
    """Add leaves that follow each other from va on, for as long as each is one by itself as the first is; how many.

    A multiple of NEIGHBOURS, and no more than `most`. They are read, and then written to one column after the other: each
    is a loop that the compiler makes vectors of.
    """
    cdef uint64_t raws[LEAVES_AT_ONCE]
    cdef Columns room = found[0]                    # a copy, of which the compiler knows that no store changes it
    cdef uint64_t alike = lone_bits(level), page = span(level), address = level.leaf_address_mask
    cdef uint64_t differ = 0, now, i, count = 0
    cdef uint64_t limit = min(min(most, room.room - room.count), <uint64_t> LEAVES_AT_ONCE)
    cdef uint32_t shift = level.leaf_shift
    cdef uint64_t *words
    while count + NEIGHBOURS <= limit:
        # Acquire, partner: whoever published the leaf.
        now = load_acquire_neighbours_unhooked_64(<uint64_t *> slot, raws + count, first)
        if now & alike:
            break
        differ |= now
        slot += NEIGHBOURS * sizeof(uint64_t)
        count += NEIGHBOURS
    if count == 0:
        return 0
    if room.va is not NULL:
        words = room.va + room.count
        for i in range(count):
            words[i] = va + i * page
    if room.pa is not NULL:
        words = room.pa + room.count
        for i in range(count):
            words[i] = rotate_left(raws[i] & address, shift)
    if room.size is not NULL:
        words = room.size + room.count
        for i in range(count):
            words[i] = page
    if room.attributes is not NULL:
        attributes_at_once(level, raws, count, differ, room.attributes + room.count)
    if room.level is not NULL:
        memset(room.level + room.count, 1, count)
    if room.raw is not NULL:
        memcpy(room.raw + room.count, raws, count * sizeof(uint64_t))
    found.count = room.count + count
    return count


cdef inline void attributes_at_once(
    const LevelFormat *level, const uint64_t *raws, uint64_t count, uint64_t differ, uint8_t *attributes
) noexcept nogil:
    """The attributes of so many leaves, which differ in those bits."""
    cdef uint64_t said = level.attributes.mask, seen = raws[0], i
    cdef uint8_t those = <uint8_t> attributes_of(level, seen)
    if differ & said == 0:
        memset(attributes, those, count)
        return
    for i in range(count):
        if (raws[i] ^ seen) & said:                                     # most have the attributes of the one before
            seen = raws[i]
            those = <uint8_t> attributes_of(level, seen)
        attributes[i] = those


cdef inline uint64_t sweep_leaves(Sweep *sweep, char *table, uint64_t va, uint32_t shape) noexcept nogil:
    """Go through a leaf table from va on, the start of a page; returns the first address that is not decided."""
    cdef Tree *tree = sweep.tree
    cdef const LevelFormat *level = &tree.format.level[1]
    # Copies: the compiler must not fear that what is found changes the format.
    cdef uint64_t page = span(level), lone_mask = level.leaf_mask | level.run_any
    cdef uint64_t lone_value = level.leaf_value | level.run_alone, address = level.leaf_address_mask
    cdef uint64_t width = <uint64_t> 1 << level.entry_shift, empty = level.empty, empty_mask = level.empty_mask
    cdef uint64_t said = level.attributes.mask
    cdef bint has_more = level.leaf_has_more
    cdef int kind = sweep.kind
    cdef Columns found = sweep.found
    cdef uint64_t last = min(sweep.last, table_last(&tree.format, 1, va)), next, raw, pa, seen = 0
    cdef uint32_t attributes = attributes_of(level, seen)
    cdef char *slot = slot_in(level, 1, table, va, shape)
    cdef char *together = slot                      # from here on, leaves_at_once may find some
    if kind != SWEEP_LEAVES or level.high_mask or shape != REGULAR_64 and shape != NATIVE_64:
        together = table + level.table_bytes
    while True:
        raw = slot_load(level, slot, shape)
        if raw & lone_mask == lone_value and kind != SWEEP_GAPS and (not has_more or grants(level, raw)):
            if slot >= together:
                next = leaves_at_once(&found, level, slot, raw, va, (last - va >> level.shift) + 1)
                together = slot + (next + NEIGHBOURS) * width
                if next:
                    slot += next * width
                    va += next * page
                    if va - 1 == last:
                        break
                    continue
            if (raw ^ seen) & said:                             # most have the attributes of the one before
                seen = raw
                attributes = attributes_of(level, raw)
            pa = raw & address if shape == REGULAR_64 else leaf_address(level, raw, va)
            if not found_leaf(&found, kind, va, pa, page, attributes, 1, raw):
                sweep.is_full = True
                break
            slot += width
            va += page
        elif raw & empty_mask == empty and kind != SWEEP_GAPS:
            slot += width
            va += page
        else:
            sweep.found.count = found.count
            next = sweep_slot(sweep, 1, table, slot, raw, va)
            found.count = sweep.found.count
            if next == va or sweep.is_full:
                va = next
                break
            slot += (next - va >> level.shift) * width
            va = next
        if va - 1 == last:
            break
    sweep.found.count = found.count
    return va


cdef uint64_t sweep_slot(Sweep *sweep, uint32_t number, char *table, char *slot, uint64_t raw, uint64_t va) noexcept nogil:
    """Decide about va and what follows it, by an entry that names no table; returns the first address not decided."""
    cdef Tree *tree = sweep.tree
    cdef const LevelFormat *level = &tree.format.level[number]
    cdef int state = HUGE if is_leaf(level, raw) else classify_in_block(tree, number, raw)
    cdef uint64_t last = min(sweep.last, slot_last(level, va)), offset = table - tree.memory
    cdef uint64_t first = va & ~(span(level) - 1) if is_faulty(SWEEP_FINDS_ALL_OF_A_LEAF) else va
    cdef bint is_mapped = state == HUGE or state == INVALID
    if state == BUSY and not is_faulty(SWEEP_TAKES_BUSY_FOR_EMPTY):
        sweep.busy.slot = slot
        sweep.busy.raw = raw
        sweep.busy.table = offset
        sweep.busy.level = number
        sweep.busy.state = BUSY
        return va
    if is_mapped and is_part(level, raw, state):
        last = min(sweep.last, va | (run_of(level, raw).bytes - 1))
    if sweep.kind == SWEEP_GAPS:
        if state == EMPTY and not found_gap(sweep, va, last - va + 1):
            sweep.is_full = True
            return va
    elif is_mapped and not found_leaf(
        &sweep.found, sweep.kind, first, address_through(level, number, raw, first, MIXED), last - first + 1,
        attributes_of(level, raw) | used_in_run(tree, number, offset, va, raw), number, raw,
    ):
        sweep.is_full = True
        return va
    return last + 1


cdef inline void sweep_section(Sweep *sweep, uint32_t shape) noexcept nogil:
    """Go on for SWEEP_SLOTS slots, until there is no more room, or to a BUSY slot; the caller is inside a section."""
    cdef Tree *tree = sweep.tree
    cdef const LevelFormat *level
    cdef char *tables[LEVELS + 1]
    cdef char *slot
    cdef char *below
    cdef uint32_t number = tree.format.levels
    cdef uint64_t va = sweep.next, next, raw, slots = 0
    tables[number] = tree.top
    while slots < SWEEP_SLOTS:
        level = &tree.format.level[number]
        if number == 1:
            next = sweep_leaves(sweep, tables[1], va, shape)
            slots += (next - va) >> level.shift
        else:
            slot = slot_in(level, number, tables[number], va, shape)
            raw = slot_load(level, slot, shape)
            below = table_below(tree, number, raw, shape)
            slots += 1
            if below is not NULL:
                number -= 1
                tables[number] = below
                continue
            next = sweep_slot(sweep, number, tables[number], slot, raw, va)
        if next == va:
            break
        va = next
        if va - 1 == sweep.last:
            sweep.is_over = True
            break
        if sweep.is_full:
            break
        while number < tree.format.levels and va & (span(&tree.format.level[number + 1]) - 1) == 0:
            number += 1
        if number == tree.format.levels:
            sweep_go_on(sweep, va)
            va = sweep.next
            if sweep.is_over:
                break
    sweep.next = va


cdef void sweep_some(Sweep *sweep) noexcept nogil:
    """One section of a sweep; sweep.busy.state is BUSY when it has to wait, outside, before the next."""
    sweep.is_full = False
    sweep.busy.state = EMPTY
    section_enter(sweep.me)
    if sweep.kind == SWEEP_GAPS:
        sweep_section(sweep, MIXED)
    elif sweep.tree.format.shape == REGULAR_64:
        sweep_section(sweep, REGULAR_64)
    elif sweep.tree.format.shape == NATIVE_64:
        sweep_section(sweep, NATIVE_64)
    elif sweep.tree.format.shape == NATIVE_32:
        sweep_section(sweep, NATIVE_32)
    elif sweep.tree.format.shape == SWAPPED_64:
        sweep_section(sweep, SWAPPED_64)
    elif sweep.tree.format.shape == SWAPPED_32:
        sweep_section(sweep, SWAPPED_32)
    else:
        sweep_section(sweep, MIXED)
    section_leave(sweep.me)


cdef bint sweep_all(Sweep *sweep) noexcept nogil:
    """Go on until the range is over or there is no more room; False when a slot stayed BUSY for REWALKS_MAX turns."""
    cdef uint32_t turns = 0
    cdef uint64_t before
    while not sweep.is_over and not sweep.is_full:
        before = sweep.next
        sweep_some(sweep)
        turns = 0 if sweep.next != before else turns
        if sweep.busy.state == BUSY and not again(sweep.tree, sweep.busy.table, &turns):
            return False
    return True
