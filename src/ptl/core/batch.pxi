# SPDX-License-Identifier: MIT
"""Many addresses at once: one section for a chunk of them, and the GIL released throughout.

Each answer is as good as a scalar `translate` made somewhere between start and end of the call; the batch as a whole is
no snapshot. Progress as for `translate`. O(addresses).
"""

cdef enum:
    BATCH_CHUNK = 4096          # addresses a section: long enough to forget its cost, short enough not to hold back reuse


cdef uint64_t translate_many(
    Tree *tree, Record *me, const uint64_t *vas, uint64_t *out, uint64_t count, Found *found
) noexcept nogil:
    """Translate `count` addresses; what is not mapped or not canonical becomes UNMAPPED.

    Returns how many are done: fewer than `count` when a slot stayed BUSY for REWALKS_MAX turns; `found` is that slot.
    """
    cdef uint64_t i = 0, end
    cdef uint32_t turns = 0
    while i < count:
        end = min(count, i + BATCH_CHUNK)
        section_enter(me)
        while i < end:
            if is_canonical(&tree.format, vas[i]):
                walk(tree, vas[i], 1, found)
                if found.state == BUSY:
                    break
                out[i] = translate_found(tree, found, vas[i])
            else:
                out[i] = UNMAPPED_RAW
            i += 1
            turns = 0
        section_leave(me)
        if i < end and not again(tree, found.table, &turns):
            return i
    return i
