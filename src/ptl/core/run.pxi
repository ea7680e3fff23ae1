# SPDX-License-Identifier: MIT
"""Runs: neighbours in one table that are one larger page, to hardware and to whoever looks it up.

    table   ... | leaf | run | run | run | run | leaf | leaf | ...        four aligned entries with the same marks,
                       |<----- one page ------>|                          over four aligned frames

    leaves by themselves  --freeze, hide, flush, store-->  a run          collapse (transition.pxi), map (range.pxi)
                   a run  --freeze, hide, flush, store-->  leaves by themselves    whatever concerns a part of it

U1  At rest a run is whole: each entry has its marks, the attributes of the first but for accessed and dirty, and the frame
    that follows that of the entry before.
U2  An entry of a run is changed only by the holder of its table's lock, who has frozen all entries of the run: never by
    compare-exchange without a lock. But for accessed and dirty, which hardware sets in any of them.
U3  A change of all of a run leaves it one. A change of a part takes it apart first, accessed and dirty of any entry
    set in every leaf that it becomes.
U4  No TLB sees the run and its parts: in between every entry is hidden, and all of the run is flushed. (Accessed, dirty and
    permissions may differ among its entries until the flush.) Hidden is INVALID, which hardware does not see and software
    still reads. Where only software walks, hidden is frozen: whoever refills a TLB takes no frozen leaf from a table that
    may have runs, and looks again (tlb.pxi, B5).
U5  Accessed and dirty of any entry are the run's.

A reader finds one entry, and each entry is right by itself: so translations are linearizable as everywhere. Accessed and
dirty of a run are read entry by entry: what all through the reading was set is found, and what is found was set at some
moment of it.

Sources: Arm Architecture Reference Manual (DDI 0487), the Contiguous bit and break-before-make; RISC-V privileged
specification, Svnapot; Linux arch/arm64/mm/contpte.c, hugetlbpage.c of arm64, riscv, sparc, parisc and sh in arch/*/mm.
"""

cdef inline uint64_t run_start(const Run *run, uint64_t va) noexcept nogil:
    """The first address of the run that covers va."""
    return va & ~(run.bytes - 1)


cdef inline bint is_part(const LevelFormat *format, uint64_t raw, int state) noexcept nogil:
    """Whether an entry that was found in that state is part of a run."""
    return may_be_run(format, raw) and (state == HUGE or state == INVALID)


cdef inline bint is_part_of(const LevelFormat *format, uint64_t raw, const Run *run) noexcept nogil:
    """Whether an entry is a leaf that is part of that kind of run. At rest all around it are (U1), unless a foreign hand
    has written them."""
    return is_leaf(format, raw) and run_of(format, raw) is run


cdef inline uint64_t leaf_hidden(const LevelFormat *format, uint64_t raw) noexcept nogil:
    """A frozen leaf, as no TLB takes it."""
    return raw if format.frozen_is_hidden else raw & ~format.invalid_clear | format.invalid_set


cdef inline uint64_t leaf_shown(const LevelFormat *format, uint64_t raw) noexcept nogil:
    """A hidden leaf, as TLBs take it again when it is thawed."""
    return raw & ~format.invalid_set | format.invalid_clear if is_invalid(format, raw) else raw


cdef void leaf_hide(const LevelFormat *format, char *slot) noexcept nogil:
    """Make a frozen entry INVALID if it is a leaf. Hardware may set accessed and dirty until then."""
    cdef uint64_t raw = entry_load(slot, format)
    while is_leaf(format, raw):
        if entry_change_frozen(format, slot, &raw, leaf_hidden(format, raw)):
            return


cdef void run_freeze(Tree *tree, uint32_t level, uint64_t table, uint64_t start, uint64_t bytes) noexcept nogil:
    """Freeze the entries of a run, or of what will be one (U2)."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t i
    for i in range(bytes >> format.shift):
        entry_freeze(format, slot_of(tree, table, level, start + (i << format.shift)), RUN_FREEZES_NOTHING)


cdef void run_hide(
    Tree *tree, bint begun, uint32_t level, uint64_t table, uint64_t start, uint64_t bytes, uint32_t place
) noexcept nogil:
    """Hide the frozen leaves of a run, or of what will be one, from TLBs; `place` is a Fault (U4)."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t i
    for i in range(0 if format.frozen_is_hidden else bytes >> format.shift):
        leaf_hide(format, slot_of(tree, table, level, start + (i << format.shift)))
    flush(tree, begun, start, start + (bytes - 1), place)


cdef uint32_t run_used(Tree *tree, uint32_t level, uint64_t table, uint64_t start, uint64_t bytes) noexcept nogil:
    """Accessed and dirty of any entry of a run (U5)."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t i, raw
    cdef uint32_t used = 0
    for i in range(bytes >> format.shift):
        raw = entry_load(slot_of(tree, table, level, start + (i << format.shift)), format)
        if is_leaf(format, raw) or is_invalid(format, raw):
            used |= attributes_of(format, raw) & USED
    return used


cdef uint32_t used_in_run(Tree *tree, uint32_t level, uint64_t table, uint64_t va, uint64_t raw) noexcept nogil:
    """Accessed and dirty of the run that the entry of va in a table is part of (run.pxi, U5); 0 if it is part of none."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef const Run *run = run_of(format, raw)
    if run is NULL or not is_leaf(format, raw) and not is_invalid(format, raw):
        return 0
    return run_used(tree, level, table, run_start(run, va), run.bytes)


cdef inline uint64_t leaf_used(const LevelFormat *format, uint64_t raw, uint32_t used) noexcept nogil:
    """A leaf that is accessed and dirty as well."""
    cdef uint32_t attributes = attributes_of(format, raw)
    return attributes_set(format, raw, attributes | used) if used & ~attributes else raw


cdef inline uint64_t run_part(
    const LevelFormat *format, uint64_t raw, uint64_t va, uint32_t used, const Run *into
) noexcept nogil:
    """What the entry of va becomes when its run is taken apart, into smaller ones or (NULL) leaves by themselves."""
    return run_marked(into, leaf_used(format, run_unmarked(format, raw, va), used))


cdef void run_take_apart(
    Tree *tree, bint begun, uint32_t level, uint64_t table, uint64_t va, const Run *into, uint64_t first, uint64_t last
) noexcept nogil:
    """Make smaller leaves of the run that covers va, whose entries are frozen (U3); those in [first, last] stay frozen."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef const Run *run = run_of(format, entry_load(slot_of(tree, table, level, va), format))
    cdef uint64_t start = run_start(run, va), i, at, raw
    cdef uint32_t used
    cdef char *slot
    run_hide(tree, begun, level, table, start, run.bytes, NO_FLUSH_BEFORE_A_RUN_IS_APART)
    used = run_used(tree, level, table, start, run.bytes)
    for i in range(run.entries):
        at = start + (i << format.shift)
        slot = slot_of(tree, table, level, at)
        raw = leaf_shown(format, entry_load(slot, format))
        if is_part_of(format, raw, run):
            raw = run_part(format, raw, at, used, into)
        entry_exchange(slot, raw if first <= at <= last else thawed(format, raw), format)


cdef int run_change(
    Tree *tree, const Found *found, uint64_t va, uint64_t *expected, uint64_t desired, uint32_t withdrawn, uint32_t *had
) noexcept nogil:
    """Compare-exchange of the entry of va, part of a run, for the holder of its table's lock, inside the gate.

    CHANGED, or OTHER_VALUE. When `desired` is part of such a run too, all entries change; what they have of accessed and
    dirty beyond `expected` stays, but for the attributes `withdrawn`. Otherwise the run is taken apart. *had is what
    the run granted.
    """
    cdef const LevelFormat *format = &tree.format.level[found.level]
    cdef const Run *run = run_of(format, expected[0])
    cdef const Run *after = run_of(format, desired) if is_leaf(format, desired) else NULL
    cdef uint64_t start = run_start(run, va), i, at, raw, own = va & ~(span(format) - 1)
    cdef uint32_t used, kept
    cdef bint begun, same
    cdef char *slot
    if entry_load(found.slot, format) != expected[0]:
        expected[0] = entry_load(found.slot, format)
        return OTHER_VALUE
    run_freeze(tree, found.level, found.table, start, run.bytes)
    begun = change_begin(tree)
    run_hide(tree, begun, found.level, found.table, start, run.bytes, NO_FLUSH_BEFORE_A_RUN_IS_APART)
    # Hardware has let go of it: what it is now, it is until we store.
    raw = thawed(format, entry_load(found.slot, format))
    same = raw == leaf_hidden(format, expected[0])
    raw = leaf_shown(format, raw)
    used = run_used(tree, found.level, found.table, start, run.bytes)
    had[0] = attributes_of(format, raw) | used
    if not same:
        expected[0] = raw
    for i in range(run.entries):
        at = start + (i << format.shift)
        slot = slot_of(tree, found.table, found.level, at)
        raw = leaf_shown(format, entry_load(slot, format))
        if not same or not is_part_of(format, raw, run):
            pass
        elif after is run:
            kept = attributes_of(format, raw) & USED & ~attributes_of(format, expected[0]) & ~withdrawn
            raw = run_moved(format, run, leaf_used(format, desired, kept), own, at)
        elif at == own:
            raw = desired
        else:
            raw = run_part(format, raw, at, used, NULL)
        entry_exchange(slot, thawed(format, raw), format)
    change_end(tree, begun)
    return CHANGED if same else OTHER_VALUE


cdef bint follows(const LevelFormat *format, uint64_t old, uint64_t desired, uint64_t va) noexcept nogil:
    """Whether all of a run can follow when the entry of va changes: both values are part of one that is aligned."""
    cdef const Run *run = run_of(format, desired)
    if not in_run(format, old) or run_of(format, old) is not run:
        return False
    return (leaf_address(format, desired, va) ^ va) & (run.bytes - 1) & ~(span(format) - 1) == 0


cdef inline uint64_t run_moved(
    const LevelFormat *format, const Run *run, uint64_t raw, uint64_t va, uint64_t other
) noexcept nogil:
    """The entry of va, which is part of a run, as the entry of another address of the same run has it."""
    cdef uint64_t pa = leaf_address(format, raw, va) + (other - va)
    return run_marked(run, raw & ~format.leaf_bits & ~run.aside | leaf_bits(format, pa))
