# SPDX-License-Identifier: MIT
"""What Python holds: Pin, PteMap, PteLock, PteKernel, Slot.

Python code may hold a handle for long, so a handle on a table pins that one table (a count in its descriptor) and no
epoch: it keeps the table's memory from reuse and holds back nothing else. A Pin is a section, as short as its block.

H1  A handle adds its pin inside a section in which the slot named the table, so the count is up before the reclaimer can
    find the section gone (epoch.pxi, E6).
H2  With nothing found, nothing is held.
H3  A lock is taken by trying first; only a thread that has given up the GIL waits for one (lock.pxi, L3).
H4  After taking the lock the slot is read again; the lock is kept only when it still names the table, and that is the
    tree's own: inside the gate, so a snapshot comes before, or waits for the lock (share.pxi, O7).
"""

cdef bint debug = os.environ.get("PTL_DEBUG", "0") != "0"


cdef class Handle:
    """Something held until it is closed: a context manager. Dropped unclosed, it closes itself and warns."""
    cdef uint32_t is_open           # exchanged, so that of two threads that close it one is told
    cdef str origin                 # where it was opened, with PTL_DEBUG

    cdef int opened(self) except -1:
        self.is_open = True
        if debug:
            frame = sys._getframe()
            self.origin = f", opened at {frame.f_code.co_filename}:{frame.f_lineno}"
        return 0

    cdef int let_go(self) except -1:
        return 0

    cdef int must_be_open(self) except -1:
        if not self.is_open:
            raise ValueError(f"this {type(self).__name__} is closed")
        return 0

    @property
    def closed(self):
        """Whether it has been closed."""
        return self.is_open == 0

    def close(self):
        """Let go of what is held. Raises ValueError when that has happened already. Wait-free."""
        if not exchange_32(&self.is_open, False):
            self.must_be_open()
        self.let_go()

    def __enter__(self):
        self.must_be_open()
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if exchange_32(&self.is_open, False):
            self.let_go()
            warnings.warn(
                f"{type(self).__name__} was dropped without being closed{self.origin or ''}",
                ResourceWarning,
                stacklevel=2,
            )

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} belongs to one process and cannot be pickled")


@cython.final
cdef class Pin(Handle):
    """A read section of an epoch domain, from `EpochDomain.pin()`; entered and left by the same thread."""
    cdef EpochDomain domain
    cdef Record *record
    cdef uint64_t life

    def __cinit__(self, EpochDomain domain not None):
        self.domain = domain

    def __enter__(self):
        cdef Record *me = record_of(self.domain.domain)
        if self.is_open:
            raise RuntimeError("this pin is entered already; make another with pin()")
        if me is NULL:
            raise MemoryError("no memory for this thread's epoch record")
        if section_is_deep(me):
            raise RuntimeError("sections are nested 65,000 deep: one of them is never left")
        section_enter(me)
        self.record = me
        self.life = me.life
        self.opened()
        return self

    def close(self):
        """Leave the section. Raises RuntimeError in another thread than the one that entered. Wait-free."""
        self.must_be_open()
        if not self.is_own():
            raise RuntimeError("a pin must be left by the thread that entered it")
        self.is_open = False
        section_leave(self.record)

    cdef bint is_own(self):
        return self.record == record_of(self.domain.domain) and self.record.life == self.life

    cdef int let_go(self) except -1:
        # Another thread must not touch the record; that thread's exit ends the section.
        if self.is_own():
            section_leave(self.record)
        return 0


cdef class PteMap(Handle):
    """A leaf table that stays readable, attached or not: from `pte_map`, `pte_map_ro`, `pte_map_rw`, `pte_alloc_map`.

    `ptes[i]` is the leaf in entry i or None; `len(ptes)` the number of entries; `ptes.index` the entry of the address
    that was mapped. After the table has left the tree, reads see its last contents and changes fail.
    """
    cdef PageTable pt
    cdef Table *table
    cdef uint64_t first             # the first address it covers
    cdef uint64_t asked
    cdef uint64_t slot_raw
    cdef bint writable
    cdef uint32_t owner             # of the table's lock, if this handle holds it: a PteLock does while it is open

    def __init__(self):
        raise TypeError(f"a {type(self).__name__} is made by a PageTable's pte_map methods")

    cdef int let_go(self) except -1:
        # Release, partner: limbo_free. All our reads come before the reuse.
        fetch_add_32(&self.table.pins, <uint32_t> -1)
        return 0

    @property
    def va(self):
        """The first address that the table covers."""
        return self.first

    @property
    def index(self):
        """The entry of the address that was asked for."""
        return self.asked

    @property
    def table_pa(self):
        """The physical address of the table."""
        self.must_be_open()
        return self.pt.tree.base + table_offset(self.pt.tree.block, self.table)

    @property
    def snapshot(self):
        """The slot's entry, as it named the table when it was mapped."""
        return self.slot_raw

    @property
    def stale(self):
        """Whether the table has left the tree since, or other trees have it too: then map again to change it. Wait-free."""
        cdef Record *me
        cdef bint is_stale
        self.must_be_open()
        me = own_record(self.pt)
        critical_enter(me)
        # Acquire, partner: retire.
        is_stale = load_acquire_32(&self.table.use) != TABLE_LIVE or not is_own(self.pt.tree, self.table)
        critical_leave(me)
        return is_stale

    def __len__(self):
        self.must_be_open()
        return self.pt.tree.format.level[1].entries

    cdef char *entry(self, object i) except NULL:
        cdef const LevelFormat *level = &self.pt.tree.format.level[1]
        self.must_be_open()
        cdef uint64_t index = as_index(i, level.entries)
        return self.pt.tree.memory + table_offset(self.pt.tree.block, self.table) + (index << level.entry_shift)

    def load(self, i, /):
        """The raw bits of entry i, as the hardware reads them. Wait-free. Raises IndexError."""
        cdef char *entry = self.entry(i)
        return entry_load(entry, &self.pt.tree.format.level[1])

    def __getitem__(self, i):
        cdef Tree *tree = self.pt.tree
        cdef const LevelFormat *level = &tree.format.level[1]
        cdef uint64_t raw = entry_load(self.entry(i), level), va = self.first + (as_index(i, level.entries) << level.shift)
        return leaf_record(tree, 1, va, raw, used_in_run(tree, 1, table_offset(tree.block, self.table), va, raw))

    def entries(self):
        """The raw bits of all entries, as an `array.array("Q")`; each is read by itself. Wait-free; O(entries).

        Of a table that has left the tree, they are its last contents, with the frozen bit in each.
        """
        cdef Tree *tree = self.pt.tree
        cdef const LevelFormat *level = &tree.format.level[1]
        cdef char *entry = self.entry(0)
        cdef uint64_t[::1] raws
        cdef uint64_t i
        result = array("Q", bytes(8 * level.entries))
        raws = result
        for i in range(level.entries):
            raws[i] = entry_load(entry + (i << level.entry_shift), level)
        return result

    def compare_exchange(self, i, expected, desired, /):
        """Change entry i from one raw value to another; whether it was done.

        Lock-free. False when the entry was not `expected`, on a frozen entry, and when other trees have the table too: then
        the table is leaving, so map again. Raises FormatError for bits that are no leaf, no software entry and not empty;
        TypeError on a read-only map. An entry of a run that are one page is changed as `PageTable.compare_exchange` does
        it.
        """
        cdef char *entry = self.entry(i)
        cdef const LevelFormat *level = &self.pt.tree.format.level[1]
        cdef uint64_t old = as_entry_on(level, expected), new = as_entry_on(level, desired), va
        cdef Record *me = own_record(self.pt)
        cdef Found found
        cdef int change
        if not self.writable:
            raise TypeError("this table was mapped read-only; use pte_map, pte_map_rw or pte_map_lock")
        check_settable(self.pt, 1, new)
        va = self.first + (as_index(i, level.entries) << level.shift)
        check_run(self.pt, 1, old, new, va)
        found.slot, found.raw, found.level = entry, old, 1
        found.table = table_offset(self.pt.tree.block, self.table)
        critical_enter(me)
        section_enter(me)
        change = leaf_replace(self.pt.tree, me, &found, &old, new, va)
        section_leave(me)
        critical_leave(me)
        if change == PART_OF_RUN:
            change = self.change_run(me, &found, va, &old, new)
        return change == CHANGED

    cdef int change_run(self, Record *me, const Found *found, uint64_t va, uint64_t *expected, uint64_t desired) except -1:
        """As run_change, with the table's lock, which this thread may hold already."""
        cdef uint32_t owner = 0, had
        cdef int change
        if lock_owner(&self.table.lock) != me.number:
            owner = lock_if_attached(self.pt, self.table, self.first, 1)
            if not owner:
                return FROZEN
        critical_enter(me)
        change = run_change(self.pt.tree, found, va, expected, desired, 0, &had)
        critical_leave(me)
        if owner:
            lock_let_go(self.pt.tree, self.table, owner)
        return change

    def __repr__(self):
        state = "closed" if self.closed else "stale" if self.stale else "live"
        return f"<ptl.{type(self).__name__} va={self.first:#x} index={self.asked} {state}>"


@cython.final
cdef class PteKernel(PteMap):
    """A leaf table that nobody else retracts: from `pte_kernel`, `pte_huge`, `pte_alloc_huge`. It pins nothing.

    For trees, or parts of one, that belong to the caller: kernel addresses, private trees. There is nothing to let go of,
    so it need not be closed. Should the table leave the tree all the same, changes fail and `stale` says so, until its
    memory is free.
    """

    cdef int must_be_open(self) except -1:
        return 0

    cdef int let_go(self) except -1:
        return 0

    def close(self):
        """Nothing: what is not pinned need not be let go of."""

    @property
    def closed(self):
        """Never."""
        return False


@cython.final
cdef class PteMapRw(PteMap):
    """A leaf table that may be locked later, if the slot has not changed: from `pte_map_rw`."""

    def try_lock(self):
        """Take the table's lock; whether the slot still names the table, and with it whether the lock is held.

        Waits for the lock, but not for the table: False, and nothing more held than before, when the table has left.
        Raises RuntimeError when this thread holds the lock already. Blocking.
        """
        self.must_be_open()
        if self.owner:
            raise RuntimeError("this map holds the lock of its table already")
        self.owner = lock_if_attached(self.pt, self.table, self.first, 1)
        return self.owner != 0

    def unlock(self):
        """Let go of the lock and keep the map. Raises RuntimeError when it is not held."""
        self.must_be_open()
        if not self.owner:
            raise RuntimeError("this map does not hold the lock of its table")
        lock_let_go(self.pt.tree, self.table, self.owner)
        self.owner = 0

    cdef int let_go(self) except -1:
        if self.owner:
            lock_let_go(self.pt.tree, self.table, self.owner)
        return PteMap.let_go(self)


@cython.final
cdef class PteLock(PteMap):
    """A leaf table with its lock held, so it stays attached: from `pte_map_lock`, `pte_alloc_map_lock`.

    Keeps transitions and ranges out, not lock-free changes of single entries: change entries by `compare_exchange`.
    """

    cdef int let_go(self) except -1:
        lock_let_go(self.pt.tree, self.table, self.owner)
        return PteMap.let_go(self)


@cython.no_gc_clear
cdef class Slot:
    """The place of one entry in a table of any level, and what it holds now: from `pmd` and `slot`.

    Keeps the table that holds it readable. When that table leaves the tree, `state` and `load` see its last contents.
    """
    cdef PageTable pt
    cdef Table *table
    cdef uint64_t first
    cdef uint32_t number

    def __init__(self):
        raise TypeError("a Slot is made by PageTable.slot and PageTable.pmd")

    def __dealloc__(self):
        if self.table is not NULL:
            fetch_add_32(&self.table.pins, <uint32_t> -1)

    @property
    def va(self):
        """The first address that the entry covers."""
        return self.first

    @property
    def level(self):
        """The level of the table that holds the slot."""
        return self.number

    @property
    def state(self):
        """What the slot holds now, by the one classifier. Wait-free."""
        raw = self.raw()
        return state_of(classify_in_block(self.pt.tree, self.number, raw))

    def load(self):
        """The raw bits of the entry. Wait-free."""
        return self.raw()

    cdef uint64_t raw(self) except? 1:
        cdef Tree *tree
        if self.table is NULL:
            raise TypeError("a Slot is made by PageTable.slot and PageTable.pmd")
        tree = self.pt.tree
        return entry_load(
            slot_of(tree, table_offset(tree.block, self.table), self.number, self.first),
            &tree.format.level[self.number],
        )

    def lock(self):
        """Lock the table that holds the slot: a context manager, or None when that table has left the tree.

        While it is held no transition changes the slot. Blocking. Raises RuntimeError when this thread holds the lock
        already.
        """
        self.raw()
        return self.locked(lock_if_attached(self.pt, self.table, self.first, self.number))

    def try_lock(self):
        """As `lock`, without waiting: None also when somebody else, or this thread, holds the lock. Wait-free.

        For whoever holds the lock of a table below, and must not wait for one above it.
        """
        cdef Record *me = own_record(self.pt)
        self.raw()
        if not lock_try(&self.table.lock, me.number):
            return None
        return self.locked(lock_keep(self.pt.tree, me, self.table, self.first, self.number))

    cdef object locked(self, uint32_t owner):
        cdef SlotLock handle
        if not owner:
            return None
        handle = SlotLock.__new__(SlotLock)
        handle.held = self
        handle.owner = owner
        handle.opened()
        return handle

    def __repr__(self):
        return f"<ptl.Slot level={self.number} va={self.first:#x} {self.state.name} {self.raw():#x}>"


@cython.final
cdef class SlotLock(Handle):
    """A slot with the lock of its table held: from `Slot.lock`."""
    cdef Slot held
    cdef uint32_t owner

    cdef int let_go(self) except -1:
        lock_let_go(self.held.pt.tree, self.held.table, self.owner)
        return 0

    @property
    def slot(self):
        """The slot."""
        return self.held


# -- making them ------------------------------------------------------------------------------------------------------

cdef Record *own_record(PageTable pt) except NULL:
    cdef Record *me = record_of(pt.tree.domain)
    if me is NULL:
        raise MemoryError("no memory for this thread's epoch record")
    return me


cdef Record *record_for_change(PageTable pt) except NULL:
    """As own_record, for a method that changes the table."""
    if pt.tree.is_snapshot:
        raise snapshot_stays()
    return own_record(pt)


cdef object snapshot_stays():
    return TypeError("a snapshot cannot be changed; fork() makes a table of it that can")


cdef int unshare_for(PageTable pt, uint64_t va, uint32_t level) except -1:
    """Before a handle is made by which the table of that level may be changed: let the tree have it for itself."""
    cdef Record *me = record_for_change(pt)
    cdef Found found
    cdef int result
    # Relaxed, partner: tree_share. Who shares it afterwards makes the handle stale.
    if load_relaxed_64(&pt.tree.generation) == 0:
        return 0
    with nogil:
        result = unshare(pt.tree, me, va, level, &found)
    if result != DONE:
        raise failure_at(pt, result, va, &found)
    return 0


cdef Table *pin_table(Tree *tree, Record *me, uint64_t va, uint32_t level, Found *slot) noexcept nogil:
    """Pin the table of that level that covers va (H1); NULL when there is none, and `slot` says what is there instead."""
    cdef Table *table = NULL
    section_enter(me)
    if level == tree.format.levels:
        table = table_of(tree.block, tree.root)
    else:
        walk(tree, va, level + 1, slot)
        if slot.level == level + 1 and slot.state == TABLE:
            table = table_of(tree.block, child_offset(tree, level + 1, slot.raw))
    if is_faulty(PINNED_AFTER_THE_SECTION):
        section_leave(me)
    if table is not NULL and not is_faulty(PINS_NOT_COUNTED):
        fetch_add_32(&table.pins, 1)
    if not is_faulty(PINNED_AFTER_THE_SECTION):
        section_leave(me)
    return table


cdef uint32_t lock_if_attached(PageTable pt, Table *table, uint64_t va, uint32_t level) except? 0:
    """Lock a pinned table and return the lock's owner; 0, and not held, when it no longer covers va (H3, H4)."""
    cdef Record *me = own_record(pt)
    cdef bint taken
    if not lock_try(&table.lock, me.number):
        with nogil:
            taken = lock_acquire(&table.lock, me.number)
        if not taken:
            raise RuntimeError("this thread holds the lock of that table already, and would wait for itself")
    return lock_keep(pt.tree, me, table, va, level)


cdef uint32_t lock_keep(Tree *tree, Record *me, Table *table, uint64_t va, uint32_t level) noexcept nogil:
    """Keep a table's lock for Python code, and return its owner; or let go, when the table has left, and return 0 (H4)."""
    cdef bint is_kept
    critical_enter(me)
    is_kept = is_attached(tree, me, table, va, level) and is_own(tree, table)
    if is_kept:
        # Relaxed, partner: tree_share, by way of the gate.
        fetch_add_relaxed_64(&tree.held, 1)
    critical_leave(me)
    if is_kept:
        return me.number
    lock_release(&table.lock)
    return 0


cdef void lock_let_go(Tree *tree, Table *table, uint32_t owner) noexcept nogil:
    """Undo a lock_keep."""
    lock_release_own(&table.lock, owner)
    # Relaxed, partner: tree_share, which looks at the locks themselves when it sees too many.
    fetch_add_relaxed_64(&tree.held, <uint64_t> -1)


cdef bint is_attached(Tree *tree, Record *me, Table *table, uint64_t va, uint32_t level) noexcept nogil:
    """Whether that table, whose lock we hold, is the one of that level that covers va."""
    cdef Found found
    section_enter(me)
    walk(tree, va, level, &found)
    section_leave(me)
    return is_faulty(NO_LOOK_AFTER_LOCKING_A_MAP) or (
        found.level == level and found.table == table_offset(tree.block, table)
    )


cdef object map_table(PageTable pt, uint64_t va, type kind, bint writable):
    """A handle of that class on the leaf table of va, or None."""
    cdef PteMap handle = kind.__new__(kind)
    cdef Record *me = own_record(pt)
    cdef Found slot
    cdef Table *table
    if writable:
        unshare_for(pt, va, 1)
    table = pin_table(pt.tree, me, va, 1, &slot)
    if table is NULL:
        count_64(&pt.tree.map_failures, 1)
        if slot.state == BAD and writable:
            clear_bad(pt, va, &slot)
        return None
    fill_handle(handle, pt, table, va, slot.raw, writable)
    handle.opened()
    return handle


cdef void fill_handle(PteMap handle, PageTable pt, Table *table, uint64_t va, uint64_t slot_raw, bint writable):
    cdef const LevelFormat *leaf = &pt.tree.format.level[1]
    handle.pt = pt
    handle.table = table
    handle.first = va & ~(leaf.entries * span(leaf) - 1)
    handle.asked = va >> leaf.shift & leaf.index_mask
    handle.slot_raw = slot_raw
    handle.writable = writable
    handle.owner = 0


cdef int clear_bad(PageTable pt, uint64_t va, Found *slot) except -1:
    """Empty a slot that holds what no format defines, as the kernel's pmd_clear_bad does, or refuse to (strict).

    By compare-exchange and without a lock: whoever holds the lock of the slot's table treats BAD as nothing, or refuses.
    """
    cdef Tree *tree = pt.tree
    cdef Record *me = own_record(pt)
    cdef uint64_t raw = slot.raw
    cdef uint32_t level = slot.level
    cdef const LevelFormat *format = &tree.format.level[level]
    if pt.strict:
        raise FormatError(f"the level-{level} slot of va {va:#x} holds {raw:#x}, which is BAD")
    critical_enter(me)
    section_enter(me)
    walk(tree, va, level, slot)
    if slot.level == level and slot.raw == raw and not is_frozen(format, raw) and (
        is_own(tree, table_of(tree.block, slot.table))
    ):
        if entry_compare_exchange(slot.slot, &raw, format.empty, format):
            count_64(&tree.bad_cleared, 1)
    section_leave(me)
    critical_leave(me)
    return 0


cdef object map_table_unpinned(PageTable pt, uint64_t va):
    """A PteKernel on the leaf table of va; PageFault when there is none."""
    cdef PteMap handle = PteKernel.__new__(PteKernel)
    cdef Tree *tree = pt.tree
    cdef Record *me = own_record(pt)
    cdef Found slot
    unshare_for(pt, va, 1)
    section_enter(me)
    walk(tree, va, 2, &slot)
    section_leave(me)
    if slot.level != 2 or slot.state != TABLE:
        raise PageFault(va, slot.level, state_of(slot.state))
    fill_handle(handle, pt, table_of(tree.block, child_offset(tree, 2, slot.raw)), va, slot.raw, True)
    return handle


cdef object map_table_locked(PageTable pt, uint64_t va):
    """A PteLock on the leaf table of va, or None. Starts over when the slot changed before the lock was taken."""
    cdef PteMap handle
    cdef uint32_t turns = 0
    while True:
        handle = map_table(pt, va, PteLock, True)
        if handle is None:
            return None
        handle.is_open = False                      # not ours to release unless the lock is taken
        try:
            handle.owner = lock_if_attached(pt, handle.table, handle.first, 1)
            if handle.owner:
                handle.is_open = True
                return handle
        finally:
            if not handle.is_open:
                PteMap.let_go(handle)
        give_way(pt, va, &turns)
