# SPDX-License-Identifier: MIT
"""Snapshot and fork: trees that share their tables until one of them writes.

    before                 A.root --> p --> q, r

    B = A.snapshot()       A.root --> p (2) --> q, r        the root is A's own, and nothing else; nothing is B's
                           B.root ----^

    A changes q            A.root --> p' --> q', r (2)      p' and q' are copies, and A's own
                           B.root --> p  --> q,  r (2)

O1  A table knows how many slots name it (`refs`), in whatever tree, and which tree may change it (`generation`).
O2  A tree changes a table only if both have the same generation, and looks at that inside the gate (epoch.pxi). Such a
    table is named by one slot, in a table that is the tree's own too, and so on up to the root. The root is always own, but
    for a snapshot's: a snapshot owns nothing, so nothing of it changes.
O3  A snapshot gives its tree a new generation behind the closed gate, when every change under way is over. From then on all
    tables but the root are shared, however many there are. Readers are inside no gate, and go on.
O4  Who wants to change a shared table copies those on the way to it, from above: under the lock of the table that holds the
    slot, inside the gate, one exchange of the slot for each. So does the last who names it: readers of trees that named it
    may still be inside, and what is changed in one tree must not be seen in another.
O5  What a copied table names, the copy names as well: each is counted once more before a slot names the copy.
O6  Who takes the last reference away retires the table: readers of any of its trees may still be inside.
O7  While Python code holds the lock of a table, that table is nobody's but its tree's (contract, C7): a snapshot waits.
O8  Hardware may mark leaves in a shared table until the copy is in its place and the TLBs are flushed. What it has marked
    since the copy was made is then marked in the copy too.

Snapshot: blocking on the changes under way and on locks that Python code holds, O(entries of the root). The first change in
a table since then: blocking as a populate, O(entries) for each table on the way that is shared.

Sources: O. Rodeh, "B-trees, shadowing, and clones", 2008; K. Zhao et al., "On-demand-fork", 2021.
"""


# -- references -------------------------------------------------------------------------------------------------------

cdef bint table_copy(Tree *tree, Table *copy, Table *table, uint32_t level) noexcept nogil:
    """Fill a private table with what another holds, and count that once more (O5).

    Nobody changes the other: it is shared, or the gate is closed. False, and nothing done, for want of frames to park.
    """
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t *source = <uint64_t *> (tree.memory + table_offset(tree.block, table))
    cdef uint64_t *target = <uint64_t *> (tree.memory + table_offset(tree.block, copy))
    cdef Table *below
    cdef uint64_t leaves = 0, raw, i
    cdef int state
    if level > 1:
        for i in range(format.entries):
            raw = entry_load(<char *> source + (i << format.entry_shift), format)
            leaves += owns_tables(tree, level, classify_in_block(tree, level, raw))
        if leaves and not park_leaf(tree, level, leaves):
            return False
        for i in range(format.entries):
            raw = entry_load(<char *> source + (i << format.entry_shift), format)
            state = classify_in_block(tree, level, raw)
            if state == TABLE and is_table(tree, child_offset(tree, level, raw), level - 1) and (
                not is_faulty(COPY_LEAVES_NO_REFERENCE)
            ):
                below = table_of(tree.block, child_offset(tree, level, raw))
                # Acquire and release, partner: itself in another tree.
                fetch_add_64(&below.refs, 1)
    copy.level = level
    for i in range(format.table_bytes >> 3):        # entries and their shadows; hardware may mark some meanwhile (O8)
        target[i] = load_relaxed_64(source + i)
    return True


cdef void table_let_go(Tree *tree, Table *table) noexcept nogil:
    """One slot less names a table that was shared; the last to let go retires it, and lets go of all that it names (O6)."""
    cdef const LevelFormat *format = &tree.format.level[table.level]
    cdef char *entries = tree.memory + table_offset(tree.block, table)
    cdef uint64_t raw, i
    cdef int state
    # Acquire and release, partner: itself in another tree. The last sees the copies of all others complete.
    if fetch_add_64(&table.refs, <uint64_t> -1) != 1:
        return
    for i in range(format.entries if table.level > 1 else 0):
        raw = entry_load(entries + (i << format.entry_shift), format)
        state = classify_in_block(tree, table.level, raw)
        if state == TABLE and is_table(tree, child_offset(tree, table.level, raw), table.level - 1):
            table_let_go(tree, table_of(tree.block, child_offset(tree, table.level, raw)))
        elif owns_tables(tree, table.level, state):
            unpark_leaf(tree, table.level, 1)
    if is_faulty(LAST_REFERENCE_FREED_AT_ONCE):
        table_return(table)
    else:
        retire(tree.domain, table)


# -- before a change --------------------------------------------------------------------------------------------------

cdef uint32_t shared_level(Tree *tree, uint64_t va, uint32_t level) noexcept nogil:
    """The level of the first table on the way to va that is not the tree's own, at or above `level`; 0 for none."""
    cdef uint64_t table = tree.root, raw
    cdef uint32_t number = tree.format.levels
    while is_own(tree, table_of(tree.block, table)):
        if number == level:
            return 0
        raw = entry_load(slot_of(tree, table, number, va), &tree.format.level[number])
        if classify_in_block(tree, number, raw) != TABLE:
            return 0
        table = child_offset(tree, number, raw)
        number -= 1
    return number


cdef int unshare(Tree *tree, Record *me, uint64_t va, uint32_t level, Found *found) noexcept nogil:
    """Make the tables on the way to va, down to that level, the tree's own (O4), and walk there.

    DONE, also where the walk ends above; NO_FRAMES, IS_SNAPSHOT, DEADLOCK, LIVELOCK. Nothing that anybody reads changes.
    """
    cdef Table *table
    cdef uint32_t number, turns = 0
    cdef int result, attempts = 0
    while True:
        critical_enter(me)
        section_enter(me)
        number = shared_level(tree, va, level)
        walk(tree, va, level, found)
        section_leave(me)
        critical_leave(me)
        if number == 0:
            return DONE
        if tree.is_snapshot:
            return IS_SNAPSHOT
        result = table_lock(tree, me, va, number + 1, found)
        if result == DONE:
            table = table_of(tree.block, found.table)
            critical_enter(me)
            if is_own(tree, table) and found.state == TABLE and (
                is_table(tree, child_offset(tree, found.level, found.raw), number)
            ):
                result = slot_unshare(tree, found, va)
            critical_leave(me)
            lock_release(&table.lock)
            collect_a_few(tree.domain)
        if result == NO_FRAMES and frames_may_come(tree, &attempts) or result == DONE:
            continue                                # one level less is shared, unless another snapshot was made
        if result != NO_TABLE:
            return result
        if not again(tree, tree.root, &turns):
            return LIVELOCK


cdef int slot_unshare(Tree *tree, const Found *found, uint64_t va) noexcept nogil:
    """Let a slot name a copy in place of a shared table, inside the gate, its table's lock held: DONE or NO_FRAMES."""
    cdef const LevelFormat *format = &tree.format.level[found.level - 1]
    cdef Table *shared = table_of(tree.block, child_offset(tree, found.level, found.raw))
    cdef Table *copy
    cdef Table *copied = NULL                       # as the copy was at first, to tell what was marked later
    cdef bint is_marked = may_be_marked(format), begun
    if is_own(tree, shared):
        return DONE                                 # somebody was faster
    if is_faulty(SHARED_TABLE_TAKEN_OVER) and load_acquire_64(&shared.refs) == 1:
        shared.generation = tree.generation
        return DONE
    copy = tables_take(tree.block, shared.order, 1 + is_marked)
    if copy is NULL:
        return NO_FRAMES
    if is_marked:
        copied = copy.link
        copy.link = NULL
    if table_copy(tree, copy, shared, format.number):
        if is_marked:
            memcpy(table_memory(tree, copied), table_memory(tree, copy), format.table_bytes)
        begun = change_begin(tree)
        table_publish(tree, found.slot, found.level, copy)
        flush(tree, begun, slot_first(tree, found.level, va), slot_end(tree, found.level, va), NO_FLUSH_OF_A_COPY)
        if is_marked:
            marks_collect(tree, copy, copied, shared, format)
        change_end(tree, begun)
        table_count(tree, shared, -1)
        table_let_go(tree, shared)
        count_64(&tree.copies, 1)
        copy = NULL
    if copied is not NULL:
        table_return(copied)
    if copy is not NULL:
        table_return(copy)
        return NO_FRAMES
    return DONE


cdef inline char *table_memory(Tree *tree, Table *table) noexcept nogil:
    return tree.memory + table_offset(tree.block, table)


cdef inline bint may_be_marked(const LevelFormat *format) noexcept nogil:
    """Whether hardware marks leaves of that level itself; behind shadows, and where a freeze hides runs, software does."""
    return format.has_leaf and format.attributes.used_mask and not format.frozen_is_hidden and format.shadow.offset == 0


cdef void marks_collect(
    Tree *tree, Table *copy, Table *copied, Table *shared, const LevelFormat *format
) noexcept nogil:
    """Mark in a copy the leaves that hardware has marked in the shared table since it was copied (O8)."""
    cdef char *entry = table_memory(tree, copy)
    cdef char *before = table_memory(tree, copied)
    cdef char *after = table_memory(tree, shared)
    cdef uint64_t raw, late, i
    for i in range(format.entries):
        late = entry_load(after, format)
        if (late ^ entry_load(before, format)) & format.attributes.used_mask and is_leaf(format, late):
            raw = entry_load(entry, format)
            # Ends: a failure is somebody else's change. What is another leaf by now was not marked.
            while is_leaf(format, raw) and (raw ^ late) & ~(format.attributes.mask | frozen_bit(format, raw)) == 0:
                if entry_compare_exchange(
                    entry, &raw, leaf_used(format, raw, attributes_of(format, late) & USED), format
                ):
                    break
        entry += <uint64_t> 1 << format.entry_shift
        before += <uint64_t> 1 << format.entry_shift
        after += <uint64_t> 1 << format.entry_shift


cdef int cpu_access(
    Cache *cache, Tree *tree, Record *me, uint32_t asid, uint64_t va, uint32_t needs, uint64_t *pa,
    char *bytes, uint64_t count, Found *found, int *why
) noexcept nogil:
    """cache_access of a CPU that marks only what is the tree's own; SHARED when there is no copy to be had, and *why."""
    cdef int result
    while True:                                     # ends: only a snapshot makes the table shared again
        result = cache_access(cache, tree, me, asid, va, needs, pa, bytes, count, found)
        if result != SHARED:
            return result
        why[0] = unshare(tree, me, va, found.level, found)
        if why[0] != DONE:
            return result


# -- snapshot and fork ------------------------------------------------------------------------------------------------

cdef Table *locked_below(Tree *tree, uint64_t offset, uint32_t level) noexcept nogil:
    """A table of the tree's own whose lock is held, itself included; NULL when there is none. With the gate closed."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef Table *table = table_of(tree.block, offset)
    cdef uint64_t raw, i
    # Relaxed, partner: lock_keep, by way of the gate. Another's lock that shows or not was not kept.
    if load_relaxed_32(&table.lock):
        return table
    for i in range(format.entries if level > 1 else 0):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        if classify_in_block(tree, level, raw) == TABLE and (
            is_own(tree, table_of(tree.block, child_offset(tree, level, raw)))
        ):
            table = locked_below(tree, child_offset(tree, level, raw), level - 1)
            if table is not NULL:
                return table
    return NULL


cdef void tree_describe(Tree *tree, const Tree *other) noexcept nogil:
    """Make an empty tree one of the format of another, in the same block, without a root."""
    cdef uint32_t level
    memcpy(tree, other, <char *> &other.generation - <char *> other)        # what never changes
    for level in range(1, tree.format.levels + 1):
        tree.format.level[level].attributes = &tree.format.attributes[
            other.format.level[level].attributes - other.format.attributes
        ]
    tree.arch = other.arch


cdef int tree_share(Tree *tree, Record *me, Tree *other) noexcept nogil:
    """Let another tree, which has a private root, hold all that this one holds at this moment (O3).

    DONE; NO_FRAMES; DEADLOCK when this thread holds the lock of one of the tables.
    """
    cdef Table *root = table_of(tree.block, tree.root)
    cdef Table *copy = table_of(tree.block, other.root)
    cdef Table *locked
    cdef uint64_t generation
    cdef uint32_t level
    cdef int result, attempts = 0
    while True:
        locked = NULL
        result = NO_FRAMES
        gate_close(tree.domain)
        # Relaxed, partner: lock_keep, by way of the gate.
        if load_relaxed_64(&tree.held) and not is_faulty(SNAPSHOT_BESIDE_A_LOCK):
            locked = locked_below(tree, tree.root, tree.format.levels)                          # O7
        if locked is not NULL:
            result = DEADLOCK if lock_owner(&locked.lock) == me.number else RESTART
        elif table_copy(tree, copy, root, tree.format.levels):
            # Relaxed: what counts is that no two are alike.
            generation = fetch_add_relaxed_64(&tree.block.generations, 2)
            # Nobody is inside the gate, and nobody knows the other tree: relaxed for who only asks whether to look.
            store_relaxed_64(&tree.generation, generation + 1)
            if not tree.is_snapshot:
                root.generation = generation + 1
            other.generation = generation + 2
            copy.generation = 0 if other.is_snapshot else generation + 2                        # O2
            other.tables = tree.tables
            other.table_bytes = tree.table_bytes
            # Release, partner: is_table.
            store_release_32(&copy.use, TABLE_LIVE)
            for level in range(1, tree.format.levels):
                if other.nothing[level] is not NULL:
                    # Acquire and release, partner: nothing_free.
                    fetch_add_64(&other.nothing[level].refs, 1)
            result = DONE
        gate_open(tree.domain)
        if result == NO_FRAMES and frames_may_come(tree, &attempts):
            continue
        if result != RESTART:
            return result
        lock_await(&locked.lock)
