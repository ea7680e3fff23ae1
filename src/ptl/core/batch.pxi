# SPDX-License-Identifier: MIT
"""Many addresses at once: one section for a chunk of them, the GIL released throughout, and never one miss at a time.

A walk waits for memory at its leaf: the levels above are few, and mostly in a cache. So a chunk goes through in blocks, and
each block twice: first the slot of every leaf is found and its line asked for; then, while the same is done for the block
after, the lines arrive; then the leaves are read.

    block          1       2       3       4
    find, ask for  x -     x -     x -     x
    read, answer       `-> x   `-> x   `-> x       never drains inside a chunk

Both loops are short and without dependence between their turns, so that the core overlaps what is not asked for: the reads
of level 2. A pipeline of three stages, one address each in turn, was slower but where each table has one page
(docs/performance.md).

B1  The level-2 tables of the last regions are remembered within one section. A table stays readable until the section ends,
    and its entries are final from its freeze to its switch (walk.pxi, W4); so an entry read from one that has left since
    was current at a moment after its slot was read, and so inside this call.
B2  At the end of the section they are forgotten.

Each answer is as good as a scalar `translate` made somewhere between start and end of the call; the batch as a whole is
no snapshot. Progress as for `translate`. O(addresses).

Sources: S. Chen et al., "Improving hash join performance through prefetching", 2004.
"""

cdef enum:
    BATCH_CHUNK = 4096          # addresses a section: long enough to forget its cost, short enough not to hold back reuse
    BLOCK = 128                 # addresses between asking and reading: longer than a load from memory takes
    REGIONS = 64                # level-2 tables remembered, by the region that they cover

cdef struct Region:
    uint64_t number             # the address without what level 2 and those below decide, or NOWHERE
    char *table

cdef uint64_t NOWHERE = <uint64_t> -1


cdef inline uint64_t translate_chunk(
    Tree *tree, const uint64_t *vas, uint64_t *out, uint64_t count, Found *found, uint32_t shape
) noexcept nogil:
    """Translate at most BATCH_CHUNK addresses inside a section; returns how many: fewer when `found` is a BUSY slot."""
    # Copies: the compiler must not fear that an answer changes the format.
    cdef LevelFormat leaf = tree.format.level[1]
    cdef LevelFormat middle = tree.format.level[2]
    cdef uint32_t region_shift = 30 if shape == REGULAR_64 else middle.shift + count_trailing_zeros(middle.entries)
    cdef uint64_t canonical_add = tree.format.canonical_add, canonical_mask = tree.format.canonical_mask
    cdef Region regions[REGIONS]
    cdef Region *region
    cdef char *slots[2 * BLOCK]         # of leaves; NULL where it is answered
    cdef char **slot
    cdef char *below
    cdef Found end
    cdef uint64_t first = 0, before, i, va, raw
    for i in range(REGIONS):
        regions[i].number = NOWHERE
    while True:
        slot = &slots[first & BLOCK]
        for i in range(first, min(first + BLOCK, count)):
            va = vas[i]
            region = &regions[va >> region_shift & (REGIONS - 1)]
            if region.number != va >> region_shift and not region_find(tree, va, region_shift, region, &end, shape):
                below = NULL
            else:
                end.slot = slot_in(&middle, 2, region.table, va, shape)
                end.raw = slot_load(&middle, end.slot, shape)
                end.level = 2
                below = table_below(tree, 2, end.raw, shape)
            if below is NULL or va + canonical_add & canonical_mask:
                slot[i - first] = NULL
                if not answer(tree, &end, va, &out[i]):
                    found[0] = end
                    count = i
                    break
            else:
                slot[i - first] = slot_in(&leaf, 1, below, va, shape)
                prefetch(slot[i - first])
        before = first - BLOCK
        first += BLOCK
        if before > count:                                      # there is none before the first
            continue
        slot = &slots[before & BLOCK]
        for i in range(before, min(before + BLOCK, count)):
            if slot[i - before] is NULL:
                continue
            raw = slot_load(&leaf, slot[i - before], shape)
            if is_leaf(&leaf, raw):
                out[i] = address_through(&leaf, 1, raw, vas[i], shape)
            else:
                end.slot = slot[i - before]
                end.raw = raw
                end.level = 1
                if not answer(tree, &end, vas[i], &out[i]):
                    found[0] = end
                    return i
        if before + BLOCK >= count:
            return count


cdef bint region_find(
    Tree *tree, uint64_t va, uint32_t region_shift, Region *region, Found *end, uint32_t shape
) noexcept nogil:
    """Find and remember the level-2 table of an address; False, and where the walk ends, when there is none."""
    descend(tree, va, 2, end, shape, tree.format.levels)
    if end.level != 2:
        return False
    region.number = va >> region_shift
    region.table = tree.memory + end.table
    return True


cdef bint answer(Tree *tree, Found *end, uint64_t va, uint64_t *out) noexcept nogil:
    """The answer of an address whose walk ends in that entry; False when it is BUSY."""
    if not is_canonical(&tree.format, va):
        out[0] = UNMAPPED_RAW
        return True
    end.state = classify_in_block(tree, end.level, end.raw)
    if end.state == BUSY:
        end.table = table_around(tree, end.level, end.slot)
        return False
    out[0] = translate_found(tree, end, va)
    return True


cdef uint64_t translate_many(
    Tree *tree, Record *me, const uint64_t *vas, uint64_t *out, uint64_t count, Found *found
) noexcept nogil:
    """Translate `count` addresses; what is not mapped or not canonical becomes UNMAPPED.

    Returns how many are done: fewer than `count` when a slot stayed BUSY for REWALKS_MAX turns; `found` is that slot.
    """
    cdef uint64_t done = 0, chunk, before
    cdef uint32_t turns = 0
    while done < count:
        chunk = min(count - done, <uint64_t> BATCH_CHUNK)
        section_enter(me)
        if tree.format.shape == REGULAR_64:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, REGULAR_64)
        elif tree.format.shape == NATIVE_64:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, NATIVE_64)
        elif tree.format.shape == NATIVE_32:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, NATIVE_32)
        elif tree.format.shape == SWAPPED_64:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, SWAPPED_64)
        elif tree.format.shape == SWAPPED_32:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, SWAPPED_32)
        else:
            before = translate_chunk(tree, vas + done, out + done, chunk, found, MIXED)
        section_leave(me)
        done += before
        turns = 0 if before else turns
        if before < chunk and not again(tree, found.table, &turns):
            return done
    return done
