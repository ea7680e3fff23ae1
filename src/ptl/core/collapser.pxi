# SPDX-License-Identifier: MIT
"""One step of a collapser: make one huge leaf of a leaf table whose pages lie anywhere, if that is worth it.

    look at the entries  ->  take frames  ->  collapse by copy (transition.pxi)  ->  give back the frames that are left

K1  The look is only a guess, taken without a lock: the collapse decides again with everything frozen, and refuses what it
    may not do. What is merely not worth it (shared pages) may have changed since, and is right all the same.
K2  The frames that are given back are those of the entries' final values, read after every Tlb has been flushed and
    before the table is retired.

Needs no lock but the two of the collapse. Source: Linux mm/khugepaged.c.
"""

cdef enum Scan:
    COLLAPSED = 0
    SCAN_NO_TABLE = 1
    SCAN_ALREADY = 2
    TOO_EMPTY = 3
    TOO_SWAPPED = 4
    TOO_SHARED = 5
    SWAPPED = 6                 # within the limit: they must be brought back first
    SCAN_NO_FRAMES = 7
    SCAN_CHANGED = 8            # between the look and the collapse
    SCAN_BAD = 9


class ScanResult(Enum):
    """What a collapser found in one region, and did."""

    COLLAPSED = 0
    """A huge leaf took the place of the table."""
    NO_TABLE = 1
    """There is no leaf table."""
    ALREADY = 2
    """A huge leaf is there."""
    TOO_EMPTY = 3
    """More entries are empty than max_ptes_none, or all."""
    TOO_SWAPPED = 4
    """More entries are software's than max_ptes_swap."""
    TOO_SHARED = 5
    """More entries map frames with several owners than max_ptes_shared."""
    SWAPPED = 6
    """Some entries are software's, within the limit: bring those pages back, then try again."""
    NO_FRAMES = 7
    """No aligned run of frames is free."""
    CHANGED = 8
    """Something else changed the region meanwhile."""
    BAD = 9
    """An entry is bad, or maps what `Frames.alloc` did not return page by page."""


cdef tuple SCAN_RESULTS = tuple(ScanResult)


cdef int scan_table(
    Tree *tree, const char *entries, uint64_t most_empty, uint64_t most_soft, uint64_t most_shared
) noexcept nogil:
    """What the entries of a leaf table, read one by one, say of a collapse: COLLAPSED when it is worth trying."""
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef uint64_t i, raw, pa, empty = 0, soft = 0, shared = 0
    cdef uint32_t owners
    for i in range(format.entries):
        raw = entry_load(<char *> entries + (i << format.entry_shift), format)
        if is_leaf(format, raw):
            pa = leaf_address(format, raw, i << format.shift)
            if not is_data(tree.block, pa, span(format)):
                return SCAN_BAD
            owners = data_owners(tree.block, (pa - tree.base) >> tree.block.frame_shift, leaf_order(tree, 1))
            if owners == 0:
                return SCAN_BAD
            shared += owners > 1
        elif classify(&tree.format, 1, raw) == EMPTY:
            empty += 1
        elif classify(&tree.format, 1, raw) == SOFT:
            soft += 1
        else:
            return SCAN_CHANGED if is_invalid(format, raw) else SCAN_BAD
    if empty > most_empty or empty == format.entries:
        return TOO_EMPTY
    if soft > most_soft:
        return TOO_SWAPPED
    if shared > most_shared:
        return TOO_SHARED
    return SWAPPED if soft else COLLAPSED


cdef int collapse_region(
    Tree *tree, Record *me, uint64_t va, uint32_t attributes, uint64_t most_empty, uint64_t most_soft,
    uint64_t most_shared, Found *found
) noexcept nogil:
    """A Scan, or a result that raises."""
    cdef Collapse how
    cdef int result
    section_enter(me)
    walk(tree, va, 2, found)
    result = SCAN_NO_TABLE
    if found.level == 2 and found.state == TABLE:
        result = scan_table(
            tree, tree.memory + child_offset(tree, 2, found.raw), most_empty, most_soft, most_shared
        )
    elif found.state == HUGE or found.state == INVALID:
        result = SCAN_ALREADY
    section_leave(me)
    if result != COLLAPSED:
        return result
    memset(&how, 0, sizeof(Collapse))
    how.owns_frames = True
    how.holes = most_empty
    how.is_given = True
    how.attributes = attributes
    result = collapse(tree, me, va, 2, &how, found)
    if result == DONE:
        return COLLAPSED
    if result == NO_FRAMES:
        return SCAN_NO_FRAMES
    return result if result >= FAILED else SCAN_CHANGED


def collapse_pages(
    PageTable pt not None, va, flags, /, *, max_ptes_none=None, max_ptes_swap=0, max_ptes_shared=None
):
    """Make one huge leaf with these attributes of the leaf table of an address, in frames of its own: a `ScanResult`.

    flags: the attributes of the new leaf.
    max_ptes_none, max_ptes_swap, max_ptes_shared: how many entries may be empty (they become zero), software's, or map
        frames with several owners; by default all but one, none, all.

    The entries map single pages that `Frames.alloc` returned; the huge leaf gets a run of its own, and each page loses an
    owner. Without the GIL; blocking on the two tables of the collapse. O(entries), and a copy of the contents. Raises
    FormatError when the format has no such leaf or flags, RuntimeError when this thread holds one of the locks.
    """
    cdef Tree *tree = pt.tree
    cdef Record *me = record_for_change(pt)
    cdef uint64_t address = canonical(pt, va), entries = tree.format.level[1].entries
    cdef uint64_t none = entries - 1 if max_ptes_none is None else as_count(max_ptes_none, "max_ptes_none")
    cdef uint64_t swap = as_count(max_ptes_swap, "max_ptes_swap")
    cdef uint64_t shared = entries if max_ptes_shared is None else as_count(max_ptes_shared, "max_ptes_shared")
    cdef uint32_t attributes = attributes_asked(pt, flags)
    cdef Found found
    cdef int result
    if not tree.format.level[2].has_leaf or tree.format.level[1].shift < tree.block.frame_shift:
        raise FormatError(f"{pt.arch.name} in {pt.frames!r} has no pages to make a leaf of level 2 of")
    with nogil:
        result = collapse_region(tree, me, address, attributes, none, swap, shared, &found)
    if result < FAILED:
        return SCAN_RESULTS[result]
    return outcome(pt, result, address, &found)
