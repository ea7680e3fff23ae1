# SPDX-License-Identifier: MIT
"""What other people's Cython calls without the GIL; `_core.pxd` says how.

Each call finds this thread's epoch record by itself, so a thread may come and go as it likes. Progress is that of the
Python methods of the same names; where one of those would raise, the result is one of those from FAILED on, and an
address that is not canonical is not mapped.
"""

cdef int ptl_pin(Tree *tree) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    if me is NULL or section_is_deep(me):
        return -1
    section_enter(me)
    return 0


cdef void ptl_unpin(Tree *tree) noexcept nogil:
    section_leave(<Record *> thread_record(tree.domain.number))


cdef uint64_t ptl_walk(Tree *tree, uint64_t va) noexcept nogil:
    """The physical address, or UNMAPPED; the caller has pinned, or keeps tables from leaving by a lock of its own.

    A small leaf is found without a call, so no register has to be saved: the fewer instructions a walk takes, the more
    walks of one loop a core has under way at once.
    """
    cdef uint64_t above = 0, raw
    cdef uint32_t number
    if not is_canonical(&tree.format, va):
        return UNMAPPED_RAW
    if not goes_regularly(tree):
        return walk_patiently(tree, va)
    number = descend_regular(tree, va, &above, &raw)
    if number == 1 and is_plain_leaf(&tree.format.level[1], raw):
        return address_through(&tree.format.level[1], 1, raw, va, REGULAR_64)
    return walk_end(tree, va, number, above, raw)


cdef uint64_t walk_end(Tree *tree, uint64_t va, uint32_t number, uint64_t above, uint64_t raw) noexcept nogil:
    """The answer of a walk by descend_regular that ended in anything but a plain leaf."""
    cdef Found found
    cdef uint64_t pa = translate_end(tree, va, number, above, raw, &found)
    return walk_patiently(tree, va) if found.state == BUSY else pa


cdef uint64_t walk_patiently(Tree *tree, uint64_t va) noexcept nogil:
    """Walk, again and again while the answer is BUSY."""
    cdef Found found
    cdef uint32_t turns = 0
    cdef uint64_t pa
    while True:
        pa = walk_to_address(tree, va, &found)
        if found.state != BUSY or not again(tree, found.table, &turns):
            return pa


cdef uint64_t ptl_translate(Tree *tree, uint64_t va) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    if me is NULL or not is_canonical(&tree.format, va):
        return UNMAPPED_RAW
    return translate(tree, me, va, &found, REWALKS_MAX)


cdef uint64_t ptl_translate_many(Tree *tree, const uint64_t *vas, uint64_t *out, uint64_t count) noexcept nogil:
    """The physical address of each, or UNMAPPED; how many are done, which is fewer only where it would raise."""
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    return 0 if me is NULL else translate_many(tree, me, vas, out, count, &found)


cdef uint32_t ptl_lookup(Tree *tree, uint64_t va, uint64_t *raw) noexcept nogil:
    """The level of the leaf that maps va, and its entry, without what a transition marks it with; 0 if nothing maps it."""
    cdef Record *me = record_of(tree.domain)
    cdef const LevelFormat *format
    cdef Found found
    if me is NULL or not is_canonical(&tree.format, va):
        return 0
    find(tree, me, va, &found, REWALKS_MAX)
    if found.state != HUGE and found.state != INVALID:
        return 0
    format = &tree.format.level[found.level]
    raw[0] = thawed(format, leaf_shown(format, found.raw))
    return found.level


cdef int ptl_compare_exchange(
    Tree *tree, uint64_t va, uint32_t level, uint64_t expected, uint64_t desired
) noexcept nogil:
    """0 when done; ALREADY when the entry was another, or decides on another level than `level`."""
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    cdef uint32_t had
    cdef int result
    if me is NULL:
        return NO_MEMORY
    if not is_canonical(&tree.format, va) or not 0 < level <= tree.format.levels or not is_settable(tree, level, desired):
        return BAD_ARGUMENT
    if in_run(&tree.format.level[level], desired) and not follows(&tree.format.level[level], expected, desired, va):
        return BAD_ARGUMENT
    while True:
        result = leaf_change(tree, me, va, level, &expected, desired, &found, REWALKS_MAX)
        if result == IN_RUN:
            result = leaf_change_in_run(tree, me, va, level, &expected, desired, 0, &had, &found)
        if result != IS_SHARED:
            return ALREADY if result == RESTART else result
        result = unshare(tree, me, va, level, &found)
        if result != DONE:
            return result


cdef inline bint is_range(Tree *tree, uint64_t va, uint64_t length) noexcept nogil:
    """Whether these are whole pages of canonical addresses."""
    return length != 0 and (va | length) & (span(&tree.format.level[1]) - 1) == 0 and is_run(&tree.format, va, length)


cdef inline bint is_page(Tree *tree, uint64_t va, uint64_t length) noexcept nogil:
    """Whether these are one whole page of canonical addresses: is_range, for what is asked most."""
    return length == span(&tree.format.level[1]) and va & (length - 1) == 0 and is_canonical(&tree.format, va)


cdef inline bint holds(Tree *tree, uint32_t level, uint64_t pa) noexcept nogil:
    """Whether a leaf of that level can map this physical address."""
    return pa & ~tree.format.level[level].leaf_addresses == 0


cdef int ptl_map(Tree *tree, uint64_t va, uint64_t pa, uint64_t length, uint32_t attributes) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef const LevelFormat *format = &tree.format.level[1]
    cdef Range op
    cdef Found found
    cdef int result
    if me is NULL:
        return NO_MEMORY
    attributes &= (1 << ATTRIBUTES) - 1
    if is_page(tree, va, length) and holds(tree, 1, pa):
        result = page_map(tree, me, va, leaf_make(format, pa, attribute_bits(format, attributes)), &found, REWALKS_MAX)
        if result != NO_TABLE and result != IS_SHARED:
            return result
    elif not is_range(tree, va, length) or pa + (length - 1) < pa or not holds(tree, 1, pa) or (
        not holds(tree, 1, pa + length - span(format))
    ):
        return BAD_ARGUMENT
    memset(&op, 0, sizeof(Range))
    op.tree = tree
    op.me = me
    op.kind = MAP
    op.first = va
    op.last = va + (length - 1)
    op.pa_less_va = pa - va
    op.attributes = attributes
    return range_apply(&op)


cdef int ptl_unmap(Tree *tree, uint64_t va, uint64_t length) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Range op
    cdef Found found
    cdef int result
    if me is NULL:
        return NO_MEMORY
    if is_page(tree, va, length):
        result = page_unmap(tree, me, va, &found, REWALKS_MAX)
        if result != NO_TABLE and result != IN_RUN and result != IS_SHARED:
            return result
    elif not is_range(tree, va, length):
        return BAD_ARGUMENT
    memset(&op, 0, sizeof(Range))
    op.tree = tree
    op.me = me
    op.kind = UNMAP
    op.first = va
    op.last = va + (length - 1)
    return range_apply(&op)


cdef int ptl_protect(Tree *tree, uint64_t va, uint64_t length, uint32_t attributes) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Range op
    cdef Found found
    cdef int result
    if me is NULL:
        return NO_MEMORY
    attributes &= (1 << ATTRIBUTES) - 1
    if is_page(tree, va, length):
        result = page_protect(tree, me, va, attributes, &found, REWALKS_MAX)
        if result != NO_TABLE and result != IN_RUN and result != IS_SHARED:
            return DONE if result == ALREADY else result
    elif not is_range(tree, va, length):
        return BAD_ARGUMENT
    memset(&op, 0, sizeof(Range))
    op.tree = tree
    op.me = me
    op.kind = PROTECT
    op.first = va
    op.last = va + (length - 1)
    op.attributes = attributes
    return range_apply(&op)


cdef int ptl_populate(Tree *tree, uint64_t va) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    if me is NULL:
        return NO_MEMORY
    return populate(tree, me, va, &found) if is_canonical(&tree.format, va) else BAD_ARGUMENT


cdef int ptl_retract(Tree *tree, uint64_t va) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    if me is NULL:
        return NO_MEMORY
    return retract(tree, me, va, 2, &found) if is_canonical(&tree.format, va) else BAD_ARGUMENT


cdef int ptl_collapse(Tree *tree, uint64_t va, uint64_t pa) noexcept nogil:
    """pa: UNMAPPED (all ones) to stay in place."""
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    cdef Collapse how
    if me is NULL:
        return NO_MEMORY
    if not is_canonical(&tree.format, va) or not tree.format.level[2].has_leaf:
        return BAD_ARGUMENT
    if pa != UNMAPPED_RAW and not holds(tree, 2, pa):
        return BAD_ARGUMENT
    memset(&how, 0, sizeof(Collapse))
    how.pa = pa
    return collapse(tree, me, va, 2, &how, &found)


cdef int ptl_split(Tree *tree, uint64_t va) noexcept nogil:
    cdef Record *me = record_of(tree.domain)
    cdef Found found
    if me is NULL:
        return NO_MEMORY
    return split(tree, me, va, 0, NULL, &found) if is_canonical(&tree.format, va) else BAD_ARGUMENT
