# SPDX-License-Identifier: MIT
"""Change one entry.

    value  --freeze-->  value + F  --thaw-->  value
      ^ |                   |
      | v compare-exchange  '-- compare-exchange fails: "this table is leaving, walk again"

N1  An entry that others can reach changes only by compare-exchange or exchange (but N7), by anyone who is inside a section
    or holds a lock that keeps its table attached; and inside the gate, where the table is its tree's own (share.pxi, O2).
    Emulated hardware sets accessed and dirty at any time.
N2  A frozen entry is changed by nobody but the thread that froze it, which holds the lock of its table. Hardware does
    not know the frozen bit: it may still set accessed and dirty. (Where there may be runs and only software walks, nobody
    does: run.pxi, U4.)
N3  Whoever freezes either thaws, or stores a final value that is not frozen, or leaves the entry frozen for good in a
    table that it detaches.
N4  Whoever takes something away from a leaf flushes the TLBs before returning (tlb.pxi, B2).
N5  An entry with a shadow, which hardware reads in its place, is changed by whoever has frozen it, lock holder or not:
    freeze, store the shadow, store the entry. So both change as one, and no flush comes before the shadow:

        entry      value --freeze--> value + F -----------------------------> new value
        shadow     shadow of value ----------------> shadow of new value

N6  Frozen is only what somebody without a lock may change: a leaf, software's entry, an empty place of a leaf table. A slot
    that names a table, or is empty above the leaf tables, changes under the lock of its table (transition.pxi, T1).

N7  Who froze an entry without a shadow may store its final value, plainly, when nothing of the old one that hardware could
    still set is kept: because the entry was empty, or gives way, or is a leaf that is accessed and dirty already. Every
    other is changed by compare-exchange, which fails when hardware has set one of the two meanwhile.

Compare-exchange is lock-free, but for the flush of attached TLBs, and for shadows, whose owner is waited for; freezing
and thawing end because each failure is somebody else's change.
"""

cdef enum Change:
    CHANGED = 0
    OTHER_VALUE = 1             # the entry was not what the caller expected
    FROZEN = 2                  # walk again
    PART_OF_RUN = 3             # takes the table's lock (run.pxi, U2)
    IN_SHARED_TABLE = 4         # takes a copy of the table first (share.pxi, O4)


cdef inline int entry_change(
    Record *me, const LevelFormat *format, char *slot, uint64_t *expected, uint64_t desired
) noexcept nogil:
    """Compare-exchange that respects the freeze (N2), inside a section and the gate; *expected is what was found.

    A failure is an answer only when it found another value.
    """
    cdef uint64_t asked = expected[0]
    if is_frozen(format, expected[0]):
        return FROZEN
    if format.shadow.offset:
        return entry_change_shadowed(me, format, slot, expected, desired)
    if is_faulty(CHANGE_IN_TWO_STEPS) and entry_load(slot, format) == expected[0]:
        entry_exchange(slot, desired, format)
        return CHANGED
    while expected[0] == asked:
        if entry_compare_exchange(slot, expected, desired, format):
            return CHANGED
        if is_faulty(FAILURE_TAKEN_FOR_AN_ANSWER):
            break
    if is_faulty(CHANGE_IGNORES_THE_FREEZE) and is_frozen(format, expected[0]):
        return CHANGED if entry_compare_exchange(slot, expected, desired, format) else OTHER_VALUE
    return FROZEN if is_frozen(format, expected[0]) else OTHER_VALUE


cdef int entry_change_shadowed(
    Record *me, const LevelFormat *format, char *slot, uint64_t *expected, uint64_t desired
) noexcept nogil:
    """As entry_change, where hardware reads a shadow (N5)."""
    cdef uint64_t asked = expected[0], frozen = asked | frozen_bit(format, asked)
    cdef int change = OTHER_VALUE
    while change == OTHER_VALUE and expected[0] == asked:
        if entry_compare_exchange(slot, expected, desired if is_faulty(SHADOW_AFTER_THE_ENTRY) else frozen, format):
            change = CHANGED
    if change == CHANGED:
        if is_faulty(SHADOW_AFTER_THE_ENTRY):
            sleep_ns(20_000_000)
            shadow_store(slot, desired, format)
        else:
            entry_exchange(slot, desired, format)
    elif is_frozen(format, expected[0]):
        change = FROZEN
    return change


cdef int leaf_replace(
    Tree *tree, Record *me, const Found *found, uint64_t *expected, uint64_t desired, uint64_t va
) noexcept nogil:
    """entry_change of the entry that was found for va, inside a section and the gate, and the flush that it takes (N4)."""
    cdef const LevelFormat *level = &tree.format.level[found.level]
    cdef uint64_t first = va & ~(span(level) - 1)
    cdef bint begun
    cdef int change
    if not is_own(tree, table_of(tree.block, found.table)) and not is_faulty(SHARED_TABLE_CHANGED):
        return IN_SHARED_TABLE
    if in_run(level, found.raw):
        return FROZEN if is_frozen(level, found.raw) else PART_OF_RUN
    # Acquire, partner: tree_attach, which waits for this section before the Tlb is filled.
    if load_acquire_pointer(<void **> &tree.attached) is NULL or not is_leaf(level, found.raw):
        return entry_change(me, level, found.slot, expected, desired)
    begun = True if is_faulty(CHANGE_BEGINS_AFTER_THE_SWITCH) else change_begin(tree)
    if is_faulty(FLUSHED_BEFORE_THE_SWITCH):
        flush(tree, begun, first, first + (span(level) - 1), NO_FLUSH_OF_AN_ENTRY)
    change = entry_change(me, level, found.slot, expected, desired)
    if is_faulty(CHANGE_BEGINS_AFTER_THE_SWITCH):
        begun = change_begin(tree)
    if change == CHANGED and not is_faulty(FLUSHED_BEFORE_THE_SWITCH):
        flush(tree, begun, first, first + (span(level) - 1), NO_FLUSH_OF_AN_ENTRY)
    change_end(tree, begun)
    return change


cdef inline uint64_t entry_freeze(const LevelFormat *format, char *slot, uint32_t place) noexcept nogil:
    """Keep an entry as it is, for the holder of its table's lock, and return its value: frozen, where it may be (N6).

    place: a Fault, which names the freeze that a test leaves out.
    """
    cdef uint64_t raw = entry_load(slot, format)
    if is_faulty(NOTHING_IS_FROZEN) or is_faulty(place):
        return raw
    while True:
        if format.number > 1 and (is_empty(format, raw) or raw & format.table_mask == format.table_value):
            return raw
        if format.shadow.offset and is_frozen(format, raw):     # by who changes it without a lock, two stores long (N5)
            sched_yield()
            raw = entry_load(slot, format)
        elif entry_compare_exchange(slot, &raw, raw | frozen_bit(format, raw), format):
            return raw


cdef inline bint entry_change_frozen(
    const LevelFormat *format, char *slot, uint64_t *raw, uint64_t new
) noexcept nogil:
    """Compare-exchange for whoever froze the entry: fails only when hardware has set accessed or dirty in it (N2)."""
    if format.shadow.offset:
        shadow_store(slot, new, format)             # N5; where hardware reads shadows, it sets nothing in entries
    return entry_compare_exchange(slot, raw, new, format)


cdef inline void entry_settle(const LevelFormat *format, char *slot, uint64_t raw) noexcept nogil:
    """Store a final value over a frozen one of which nothing stays (N7)."""
    if format.shadow.offset:
        entry_exchange(slot, raw, format)
    else:
        entry_store(slot, raw, format)


cdef inline void entry_thaw(const LevelFormat *format, char *slot) noexcept nogil:
    cdef uint64_t raw = entry_load(slot, format)
    while not entry_compare_exchange(slot, &raw, thawed(format, raw), format):
        pass


cdef void entry_withhold(const LevelFormat *format, char *slot, int letter) noexcept nogil:
    """Make a frozen leaf deny one attribute, for whoever froze it; hardware may set other bits meanwhile (N2)."""
    cdef uint64_t raw = entry_load(slot, format)
    while not entry_change_frozen(format, slot, &raw, attribute_cleared(format, raw, letter)):
        pass


cdef inline uint64_t entry_replace(
    const LevelFormat *format, char *slot, uint64_t raw, bint private
) noexcept nogil:
    """Store a final value: by exchange where others can see it, plainly where they cannot yet. Returns the old one."""
    cdef uint64_t old
    if private:
        old = entry_load(slot, format)
        entry_store_private(slot, raw, format)
        return old
    return entry_exchange(slot, raw, format)


# -- two neighbours at once -------------------------------------------------------------------------------------------
# For what loops over whole tables meet most, with little between two operations. What comes of a pair comes of two entries
# changed one after the other, too: so nothing rests on it but speed, and no lab has to know of it.

cdef inline uint64_t kind_mask(const LevelFormat *format, uint64_t raw) noexcept nogil:
    """What entries have in common with this one that are holes as it is, or leaves by themselves as it is."""
    return format.present_mask | (format.empty_mask if is_empty(format, raw) else lone_bits(format))


cdef inline char *pairs_freeze(char *slot, char *end, uint64_t like, uint64_t mask, uint64_t bit) noexcept nogil:
    """Set one bit in neighbours, from the first of a pair to `end`, for as long as both are like an entry under a mask.

    Returns the slot after them. Ends: a failure is somebody else's change.
    """
    cdef uint64_t first, second
    while slot < end:
        first = load_acquire_unhooked_64(<uint64_t *> slot)
        second = load_acquire_unhooked_64(<uint64_t *> slot + 1)
        if (first ^ like | second ^ like) & mask:
            break
        if pair_compare_exchange(slot, first, second, first | bit, second | bit):
            slot += 2 * sizeof(uint64_t)
    return slot


cdef inline char *pairs_replace(
    char *slot, char *end, uint64_t like, uint64_t mask, uint64_t kept, uint64_t given, uint64_t compared, bint plainly,
    uint64_t *changed
) noexcept nogil:
    """As pairs_freeze: keep some bits and give others, and count the entries that differ then in what is compared.

    plainly: by stores, where they lose nothing (N7).
    """
    cdef uint64_t first, second, new_first, new_second, count = 0
    while slot < end:
        first = load_acquire_unhooked_64(<uint64_t *> slot)
        second = load_acquire_unhooked_64(<uint64_t *> slot + 1)
        if (first ^ like | second ^ like) & mask:
            break
        new_first = first & kept | given
        new_second = second & kept | given
        if plainly:
            # Release, partner: as of entry_store.
            store_release_64(<uint64_t *> slot, new_first)
            store_release_64(<uint64_t *> slot + 1, new_second)
        elif not pair_compare_exchange(slot, first, second, new_first, new_second):
            continue
        count += ((first ^ new_first) & compared != 0) + ((second ^ new_second) & compared != 0)
        slot += 2 * sizeof(uint64_t)
    changed[0] += count
    return slot


# -- one page ---------------------------------------------------------------------------------------------------------

cdef int page_map(Tree *tree, Record *me, uint64_t va, uint64_t leaf, Found *found, uint32_t patience) noexcept nogil:
    """Put a leaf in the empty level-1 entry of va: DONE, IS_MAPPED, NO_TABLE (found says what is above), LIVELOCK.

    IS_SHARED, and nothing changed, when other trees have the table too.
    """
    cdef uint64_t empty
    cdef uint32_t turns = 0
    cdef int change
    while True:
        critical_enter(me)
        section_enter(me)
        walk(tree, va, 1, found)
        change = FROZEN if found.state == BUSY else OTHER_VALUE
        if is_faulty(SECTION_LEFT_BEFORE_THE_LAST_USE):
            section_leave(me)
        if found.level == 1 and found.state == EMPTY and not is_own(tree, table_of(tree.block, found.table)) and (
            not is_faulty(SHARED_TABLE_CHANGED)
        ):
            change = IN_SHARED_TABLE
        elif found.level == 1 and found.state == EMPTY:
            empty = found.raw
            change = entry_change(me, &tree.format.level[1], found.slot, &empty, leaf)
            if change == OTHER_VALUE:
                found.raw = empty
                found.state = classify(&tree.format, 1, empty)
        if not is_faulty(SECTION_LEFT_BEFORE_THE_LAST_USE):
            section_leave(me)
        critical_leave(me)
        if change == CHANGED:
            return DONE
        if change == IN_SHARED_TABLE:
            return IS_SHARED
        if change == OTHER_VALUE and found.state != EMPTY or found.level > 1 and found.state != BUSY:
            if found.level == 1:
                return IS_MAPPED
            count_64(&tree.map_failures, 1)
            return NO_TABLE
        if not again(tree, found.table, &turns) or turns >= patience:
            return LIVELOCK


cdef int page_unmap(Tree *tree, Record *me, uint64_t va, Found *found, uint32_t patience) noexcept nogil:
    """Empty the level-1 entry of va; found.raw and found.state are what it held.

    As page_map, but never IS_MAPPED, and IN_RUN when the page is part of a larger one. For a hole it does not matter who
    has the table.
    """
    cdef uint32_t turns = 0
    cdef int change
    while True:
        critical_enter(me)
        section_enter(me)
        walk(tree, va, 1, found)
        change = FROZEN if found.state == BUSY else OTHER_VALUE
        if found.level == 1:
            change = CHANGED
            if is_frozen(&tree.format.level[1], found.raw) or found.state != EMPTY:
                change = leaf_replace(tree, me, found, &found.raw, tree.format.level[1].empty, va)
        section_leave(me)
        critical_leave(me)
        if change == CHANGED:
            return DONE
        if change == PART_OF_RUN:
            return IN_RUN
        if change == IN_SHARED_TABLE:
            return IS_SHARED
        if found.level > 1 and found.state != BUSY:
            count_64(&tree.map_failures, 1)
            return NO_TABLE
        if not again(tree, found.table, &turns) or turns >= patience:
            return LIVELOCK


cdef int page_protect(
    Tree *tree, Record *me, uint64_t va, uint32_t attributes, Found *found, uint32_t patience
) noexcept nogil:
    """Give the level-1 leaf of va these attributes: DONE; ALREADY when there is nothing to change; LIVELOCK.

    NO_TABLE when it takes more than this: the walk ends above, or in an entry of nobody's making; IN_RUN and IS_SHARED
    likewise, when the page is part of a larger one, or the table other trees' too.
    """
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef uint64_t new
    cdef uint32_t turns = 0
    cdef int result, change
    while True:
        critical_enter(me)
        section_enter(me)
        walk(tree, va, 1, found)
        result = LIVELOCK                           # not yet anything else
        if found.level > 1:
            if found.state != BUSY:
                result = NO_TABLE
        elif not is_frozen(format, found.raw):
            if found.state == HUGE:
                new = attributes_replaced(format, found.raw, attributes)
                if in_run(format, found.raw):
                    result = IN_RUN                 # taken apart even when nothing else changes, as any range does
                elif new == found.raw:
                    result = ALREADY
                else:
                    change = leaf_replace(tree, me, found, &found.raw, new, va)
                    if change == CHANGED:
                        result = DONE
                    elif change == IN_SHARED_TABLE:
                        result = IS_SHARED
            else:
                result = ALREADY if found.state == EMPTY or found.state == SOFT else NO_TABLE
        section_leave(me)
        critical_leave(me)
        if result == NO_TABLE and found.level > 1:
            count_64(&tree.map_failures, 1)
        if result != LIVELOCK:
            return result
        if not again(tree, found.table, &turns) or turns >= patience:
            return LIVELOCK


cdef inline bint is_soft_leaf(Tree *tree, const Found *found) noexcept nogil:
    """Whether software keeps something there in place of a leaf of that size."""
    return found.state == SOFT and tree.format.level[found.level].has_leaf


cdef int leaf_change(
    Tree *tree, Record *me, uint64_t va, uint32_t level, uint64_t *expected, uint64_t desired, Found *found,
    uint32_t patience
) noexcept nogil:
    """Compare-exchange of the entry that decides about va: a huge leaf, software's in place of one, or of level 1.

    DONE; ALREADY when it was another (*expected is it); RESTART when it is not of that level: the same bits may mean
    another leaf there; NO_TABLE; and, nothing changed, IN_RUN when it is part of a run, IS_SHARED when it is in a table
    that other trees have too; LIVELOCK.
    """
    cdef uint64_t wanted = expected[0]
    cdef uint32_t turns = 0
    cdef int result, change
    while True:
        expected[0] = wanted                        # a frozen entry that was met is no answer
        critical_enter(me)
        section_enter(me)
        walk(tree, va, 1, found)
        result = LIVELOCK                           # not yet anything else
        if found.level > 1 and found.state != HUGE and not is_soft_leaf(tree, found):
            if found.state != BUSY and found.state != INVALID:
                result = NO_TABLE
        elif not is_frozen(&tree.format.level[found.level], found.raw):
            if found.level != level:
                result = RESTART
            elif found.raw != expected[0]:
                expected[0] = found.raw
                result = ALREADY
            else:
                change = leaf_replace(tree, me, found, expected, desired, va)
                if change == CHANGED:
                    result = DONE
                elif change == OTHER_VALUE:
                    result = ALREADY
                elif change == PART_OF_RUN:
                    result = IN_RUN
                elif change == IN_SHARED_TABLE:
                    result = IS_SHARED
        section_leave(me)
        critical_leave(me)
        if result == NO_TABLE:
            count_64(&tree.map_failures, 1)
        if result != LIVELOCK:
            return result
        if not again(tree, found.table, &turns) or turns >= patience:
            return LIVELOCK
