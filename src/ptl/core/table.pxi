# SPDX-License-Identifier: MIT
"""The class PageTable: numbers and errors at the border, then the parts above."""

cdef enum:
    PATIENCE = 4                # turns that a scalar call takes before it gives up the GIL to wait


# -- the tree ---------------------------------------------------------------------------------------------------------

cdef uint64_t full_tree_bytes(Format *format, uint64_t most) noexcept nogil:
    """The bytes of all tables that a full tree has, or `most` if that is less."""
    cdef uint64_t tables = 1, bytes = 0
    cdef uint32_t level
    for level in range(format.levels, 0, -1):
        if tables > most // format.level[level].table_bytes:
            return most
        bytes += tables * format.level[level].table_bytes
        if bytes >= most:
            return most
        tables *= format.level[level].entries
    return bytes


cdef void tree_free(Tree *tree, uint64_t offset, uint32_t level) noexcept nogil:
    """Give back a table and all below it; nobody else can reach them any more.

    Somebody may have written to the block by other ways: what is no table of this level is left alone. What other trees
    share they keep, and where they did readers of theirs may still be.
    """
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef Table *table = table_of(tree.block, offset)
    cdef uint64_t raw, i
    cdef int state
    if table.use != TABLE_LIVE or table.level != level:
        return
    if tree.generation and level < tree.format.levels:
        table_let_go(tree, table)
        return
    table.use = TABLE_PRIVATE
    if level > 1:
        for i in range(format.entries):
            raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
            state = classify_in_block(tree, level, raw)
            if state == TABLE:
                tree_free(tree, child_offset(tree, level, raw), level - 1)
            elif owns_tables(tree, level, state):
                unpark_leaf(tree, level, 1)
    table_return(table)


cdef bint nothing_make(PageTable pt, object described) except -1:
    """Where the format's empty slots name a table (`Level.empty_is_table`), make the one of each level that all share.

    The table's own `arch` then has the entries that name them. False, and nothing taken, when there is no room.
    """
    cdef Tree *tree = pt.tree
    cdef LevelFormat *above
    cdef Table *table
    cdef uint32_t level
    layout = list(described.layout)
    for level in range(1, tree.format.levels):
        above = &tree.format.level[level + 1]
        if not above.empty_is_table:
            continue
        table = tables_take(tree.block, tree.order[level], 1)
        if table is NULL:
            nothing_free(tree)
            return False
        table_fill_empty(tree, table, level)
        tree.nothing[level] = table
        above.empty = table_make(above, tree.base + table_offset(tree.block, table))
        layout[level] = replace(layout[level], empty=above.empty)
    pt.described = described
    if layout != list(described.layout):
        pt.arch = replace(described, layout=tuple(layout))
    return True


cdef Table *root_take(Tree *tree, object arch) except? NULL:
    """Take the top table, a private one; NULL when there is no room. Raises AddressError where it cannot lie."""
    cdef Table *root = tables_take(tree.block, tree.order[tree.format.levels], 1)
    if root is NULL:
        return NULL
    tree.root = table_offset(tree.block, root)
    tree.top = tree.memory + tree.root
    if arch.root_bits < 64 and (tree.base + tree.root) >> <uint32_t> arch.root_bits:
        table_return(root)
        raise AddressError(
            f"the top table at pa {tree.base + tree.root:#x} is beyond the {arch.root_bits} bits "
            f"that {arch.name} has for it"
        )
    return root


cdef object first_tables_take(PageTable pt, object arch):
    """Take the top table, and those that empty slots name. None; or, with nothing taken, what there is no room for.

    Raises AddressError where the top table cannot lie.
    """
    cdef Tree *tree = pt.tree
    cdef Table *root = root_take(tree, arch)
    if root is NULL:
        return "a root table"
    if any(level.hides_table_at_0 for level in arch.layout) and not tables_avoid_0(tree.block):
        table_return(root)
        return "a table that is not at pa 0"
    if not nothing_make(pt, arch):
        table_return(root)
        return f"the tables that empty slots of {arch.name} name"
    return None


cdef void nothing_free(Tree *tree) noexcept nogil:
    cdef uint32_t level
    for level in range(1, tree.format.levels):
        # Acquire and release, partner: itself in a tree that shares it.
        if tree.nothing[level] is not NULL and fetch_add_64(&tree.nothing[level].refs, <uint64_t> -1) == 1:
            table_return(tree.nothing[level])
        tree.nothing[level] = NULL


@cython.final
cdef class _Sharer:
    """What a PageTable is made from that begins with all that another one holds."""
    cdef PageTable pt
    cdef bint is_snapshot

    def __init__(self):
        raise TypeError("fork() and snapshot() make tables that share those of another")


@cython.no_gc_clear             # __dealloc__ still needs the frames
@cython.collection_type("mapping")
cdef class PageTable:
    """A page table of one architecture, bit for bit, that any number of threads may walk and change at once.

    arch: the name of an architecture, or an `Arch`.
    frames: the `Frames` that hold the tables. By default its own: enough for a full tree, at most 16 GiB of addresses,
        committed as they are used.
    strict: whether the fallible map raises FormatError for a slot that is BAD. Otherwise it empties the slot, as the
        kernel does, and counts it in `stats()["bad_cleared"]`.

    It is a mutable mapping of leaves by their first address, in order, that may change while it is gone through.

    Readers hold no lock. Tables that have left the tree are reused when no reader can be inside any more.

    Raises ValueError for an unknown architecture or `frames` that its physical addresses do not reach, AddressError when
    the register for the root is too narrow for where it is, OutOfFrames when there is no room for it.

    >>> import ptl
    >>> pt = ptl.PageTable("x86_64")
    >>> pt.map(0x7f00_0000_0000, 0x4000_0000, 2 << 20)
    >>> hex(pt.translate(0x7f00_0001_2345))
    '0x40012345'
    >>> pt.lookup(0x7f00_0001_2345).size == 2 << 20
    True
    """

    def __cinit__(self, arch="x86_64", *, frames=None, strict=False):
        cdef Frames memory
        cdef Tree *tree
        cdef Table *root
        cdef uint32_t level
        cdef uint64_t bytes
        cdef int attempts = 0
        if type(arch) is _Sharer:
            share_tables(self, (<_Sharer> arch).pt, (<_Sharer> arch).is_snapshot)
            return
        from ptl import arch as architectures
        if isinstance(arch, str):
            arch = architectures.get(arch)
        elif not isinstance(arch, architectures.Arch):
            raise TypeError(f"arch must be the name of an architecture or a ptl.arch.Arch, not {type(arch).__name__}")
        self.arch = arch
        self.strict = strict
        self.known_flags = {}
        tree = self.tree = <Tree *> calloc(1, sizeof(Tree))
        if tree is NULL:
            raise MemoryError("no memory for a page table")
        format_read(&tree.format, arch)
        if is_under_stress() and stress_draw() & 1:
            tree.format.shape = MIXED
        tree.arch = <void *> arch
        if frames is None:
            self.own_frames = True
            frames = default_frames(tree, arch)
        elif not isinstance(frames, Frames):
            raise TypeError(f"frames must be ptl.Frames, not {type(frames).__name__}")
        memory = frames
        bytes = memory.block.base + memory.block.bytes
        if bytes - 1 >> min(arch.table_bits, 63):
            raise ValueError(f"{memory!r} is beyond the {arch.table_bits} bits that {arch.name} has for a table's address")
        self.frames = frames
        tree.block = memory.block
        tree.domain = memory.domain.domain
        tree.memory = memory.memory
        tree.base = memory.block.base
        tree.memory_less_base = <uint64_t> <uintptr_t> memory.memory - tree.base
        for level in range(1, tree.format.levels + 1):
            bytes = tree.format.level[level].table_bytes
            if bytes > memory.block.bytes:
                raise OutOfFrames(f"no room in {memory!r} for a table of {bytes} bytes")
            tree.limit[level] = memory.block.bytes - bytes
            while block_frame_bytes(memory.block) << tree.order[level] < bytes:
                tree.order[level] += 1
        if record_of(tree.domain) is NULL:
            raise MemoryError("no memory for this thread's epoch record")
        missing = first_tables_take(self, arch)
        while missing is not None and frames_may_come(tree, &attempts):
            missing = first_tables_take(self, arch)
        if missing is not None:
            raise OutOfFrames(f"no room in {memory!r} for {missing}")
        root = table_of(tree.block, tree.root)
        table_fill_empty(tree, root, tree.format.levels)
        table_count(tree, root, 1)

    def __dealloc__(self):
        if self.tree is not NULL:
            if self.tree.tables and not self.own_frames:    # its own end with it
                tree_free(self.tree, self.tree.root, self.tree.format.levels)
                nothing_free(self.tree)
            free(self.tree)

    def __reduce__(self):
        raise TypeError("a PageTable belongs to one process and cannot be pickled")

    def __repr__(self):
        return f"<ptl.PageTable {self.arch.name} root={self.root:#x} tables={self.tree.tables}>"

    # -- properties

    @property
    def root(self):
        """The physical address of the top table: what goes into CR3 or satp."""
        return self.tree.base + self.tree.root

    @property
    def nbytes(self):
        """The bytes of all its tables."""
        return load_relaxed_64(&self.tree.table_bytes)

    # -- reading

    def translate(self, va, /, out=None):
        """The physical address of a virtual one; or of each in a buffer, written to another.

        va: an integer; or a C-contiguous buffer of 8-byte integers, of any shape.
        out: for a buffer, where the answers go: a writable buffer of as many 8-byte integers; by default a new
            `array.array("Q")`, which is returned.

        One address: raises PageFault when it is not mapped and AddressError when it is not canonical; wait-free but for
        walking again while a slot on the way is in transition; O(levels). Many: never raises for an address, but writes
        `ptl.UNMAPPED`; releases the GIL; O(addresses).

        >>> import ptl
        >>> from array import array
        >>> pt = ptl.PageTable("riscv_sv39")
        >>> pt.map(0x1000, 0x8000_0000)
        >>> [hex(pa) for pa in pt.translate(array("Q", [0x1234, 0x9999]))]
        ['0x80000234', '0xffffffffffffffff']
        """
        cdef Found found
        cdef uint64_t address, pa
        cdef Record *me
        if type(va) is not int and PyObject_CheckBuffer(va) and getattr(va, "shape", True) != ():
            return translate_buffer(self, va, out)
        if out is not None:
            raise TypeError("out is for a buffer of addresses")
        address = canonical(self, va)
        me = own_record(self)
        pa = translate(self.tree, me, address, &found, PATIENCE)
        if found.state == BUSY:
            with nogil:
                pa = translate(self.tree, me, address, &found, REWALKS_MAX)
        if pa != UNMAPPED_RAW:
            return pa
        if found.state == BUSY:
            raise livelock(address, &found)
        raise PageFault(address, found.level, state_of(found.state))

    def lookup(self, va, /):
        """The `Leaf` that maps an address, or None. Progress and errors as `translate` of one; O(levels).

        Of a run of entries that are one page, it is that page. Accessed and dirty are then read entry by entry: what some
        entry had all the time is there, and what is there was some entry's at some moment of the call.
        """
        cdef Found found
        cdef uint64_t address = canonical(self, va)
        cdef uint32_t used = find_leaf(self, address, &found)
        return leaf_record(self.tree, found.level, address, found.raw, used)

    def walk(self, va, /):
        """The whole path of an address: a `Walk`. Progress and errors as `translate` of one, but a fault is no error.

        A slot in transition is shown as it is: BUSY.

        >>> import ptl
        >>> pt = ptl.PageTable("tiny")
        >>> pt.map(0x5000, 0x1000)
        >>> [(step.level, step.index, step.state.name) for step in pt.walk(0x5678).steps]
        [(3, 0, 'TABLE'), (2, 1, 'TABLE'), (1, 1, 'HUGE')]
        """
        cdef Tree *tree = self.tree
        cdef const LevelFormat *format
        cdef uint64_t address = canonical(self, va)
        cdef Record *me = own_record(self)
        cdef uint64_t table
        cdef uint64_t raws[LEVELS + 1]
        cdef uint64_t tables[LEVELS + 1]
        cdef uint32_t level, used
        section_enter(me)
        table = tree.root
        level = tree.format.levels
        while True:
            raws[level] = entry_load(slot_of(tree, table, level, address), &tree.format.level[level])
            tables[level] = table
            if classify_in_block(tree, level, raws[level]) != TABLE:
                break
            table = child_offset(tree, level, raws[level])
            level -= 1
        used = used_in_run(tree, level, table, address, raws[level])
        section_leave(me)
        steps = []
        for number in range(tree.format.levels, level - 1, -1):
            format = &tree.format.level[number]
            steps.append(Step(
                number,
                tree.base + tables[number],
                slot_index(format, address),
                raws[number],
                state_of(classify_in_block(tree, number, raws[number])),
            ))
        leaf = leaf_record(tree, level, address, raws[level], used)
        fault = None if leaf is not None else str(PageFault(address, level, steps[len(steps) - 1].state))
        return Walk(address, tuple(steps), leaf, fault)

    # -- as a mapping

    def __getitem__(self, va):
        """`pt[va]`: the `Leaf` whose first address it is; `pt[lo:hi]`: a view of what a range maps, a `LeafRange`.

        Raises PageFault, which is a KeyError, when there is no such leaf. Progress and cost as `lookup`.
        """
        if not isinstance(va, slice):
            return leaf_in(self, va, 0, None)
        if va.step is not None:
            raise TypeError("a range of addresses has no step")
        return LeafRange(self, 0 if va.start is None else va.start, va.stop)

    def __setitem__(self, va, leaf):
        """Map at an address what a `Leaf` maps, or one page by `(pa, flags)`, in place of what is there. As `map`."""
        put_leaf(self, va, leaf, True)

    def __delitem__(self, va):
        """Unmap the leaf whose first address it is. Raises PageFault when there is none; otherwise as `unmap`."""
        self.unmap(va, leaf_in(self, va, 0, None).size)

    def __contains__(self, va):
        """Whether it is the first address of a leaf. As `lookup`."""
        try:
            leaf_in(self, va, 0, None)
        except PageFault:
            return False
        return True

    def __len__(self):
        """How many leaves there are. They are counted: O(leaves), and no more than a guess beside writers."""
        return count_leaves(self, 0, None, UNMAPPED_RAW)

    def __bool__(self):
        return count_leaves(self, 0, None, 1) != 0

    def __iter__(self):
        """The first addresses of the leaves, in order.

        The table may change meanwhile, by this thread too. A leaf that is there all the time is found exactly once; one
        that is found was there at some moment since the iterator was made; and a page that is mapped all the time is
        found exactly once too, whatever size its leaf has when it is: so where leaves were collapsed over what has been
        passed, the rest is found as one cut there. Wait-free as `translate`; O(1) a leaf, and O(1) a table.
        """
        return iterator_of(self, 0, None, YIELD_KEYS)

    __reversed__ = None

    def __eq__(self, other):
        """Whether two mappings hold the same leaves."""
        if not isinstance(other, Mapping):
            return NotImplemented
        if isinstance(other, PageTable):
            pairs = zip_longest(self.values(), other.values())
            return self is other or all(mine == its for mine, its in pairs)
        return dict(self.items()) == dict(other.items())

    def keys(self):
        """The first addresses of the leaves: a view, as those of a dict."""
        return KeysView(self)

    def values(self):
        """The leaves, in order: a view."""
        return LeafRange(self, 0, None).values()

    def items(self):
        """The pairs of a first address and its `Leaf`, in order: a view."""
        return LeafRange(self, 0, None).items()

    def get(self, va, default=None, /):
        """`pt[va]`, or the default when there is no such leaf."""
        try:
            return leaf_in(self, va, 0, None)
        except PageFault:
            return default

    def update(self, other=(), /):
        """Store each leaf of a mapping, or of pairs of an address and a leaf, one by one, as `pt[va] = leaf` does."""
        for va, leaf in other.items() if hasattr(other, "items") else other:
            self[va] = leaf

    def pop(self, va, /, *default):
        """Unmap the leaf whose first address it is, and return it; when there is none, the default, or raise PageFault.

        Of several who pop one entry of a leaf table, one gets it. For anything larger it is a `lookup`, then an `unmap`.
        """
        if len(default) > 1:
            raise TypeError(f"pop takes an address and at most one default, not {len(default)}")
        try:
            return take_leaf(self, va)
        except PageFault:
            if default:
                return default[0]
            raise

    def popitem(self):
        """Unmap the first leaf, and return its address and itself. Raises KeyError when the table is empty."""
        for va in self:
            leaf = self.pop(va, None)
            if leaf is not None:
                return va, leaf
        raise KeyError("the page table is empty")

    def setdefault(self, va, leaf, /):
        """The leaf whose first address it is; when nothing is mapped there, that one, or `(pa, flags)`, is mapped first.

        It is mapped only where nothing is, in one step, so of several who do this all get the same. Errors as `map`.
        """
        while True:
            try:
                put_leaf(self, va, leaf, False)
            except AlreadyMapped:
                pass
            try:
                return self[va]
            except PageFault as fault:
                if fault.state is not State.EMPTY:          # if it is, somebody unmapped it again
                    raise

    def clear(self):
        """Unmap everything, software's own entries too. As `unmap`, a half of the addresses, or a region, at a time."""
        clear_all(self)

    # -- in order

    def runs(self, lo=0, hi=None):
        """What [lo, hi) maps, as an iterator of `Run`s: leaves that continue each other, in both addresses, are one.

        hi: None for the end of all addresses. Bounds are multiples of the page size; a leaf that they cut is shown cut.

        All leaves of a run have the same flags, accessed and dirty too. Iteration is that of `iter`, and promises for runs
        what that does for pages; the GIL is released where a run is long. Raises AddressError for bounds that are none.
        O(leaves + tables).

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x1f_f000, 0x1f_f000, 0x20_2000)
        >>> len(pt), list(pt.runs())
        (3, [Run(va=0x1ff000, pa=0x1ff000, length=0x202000, flags='rw')])
        """
        return iterator_of(self, lo, hi, YIELD_EXTENTS)

    def gaps(self, lo=0, hi=None):
        """Where [lo, hi) has nothing, as an iterator of `Gap`s: canonical addresses that `map` would find free.

        What software keeps in place of a leaf is something. No gap goes on from one half of the addresses, or region, to
        the next. Otherwise as `runs`.

        >>> import ptl
        >>> pt = ptl.PageTable("tiny")
        >>> pt.map(0x1000, 0x5000, 0x3000)
        >>> list(pt.gaps())
        [Gap(va=0x0, length=0x1000), Gap(va=0x4000, length=0x3c000)]
        """
        return iterator_of(self, lo, hi, YIELD_GAPS)

    def find_gap(self, length, align=None, *, lo=0, hi=None):
        """The lowest address in [lo, hi), a multiple of `align`, from which on `length` bytes have nothing in them.

        align: a power of two; by default the page size.

        Somebody may map there before the caller does: `map` then raises AlreadyMapped, and changes nothing. Raises
        LookupError when there is no such gap. Releases the GIL; otherwise as `gaps`, up to the one found.

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x1000, 0x5000, 0x3000)
        >>> hex(pt.find_gap(0x2000)), hex(pt.find_gap(2 << 20, align=2 << 20))
        ('0x4000', '0x200000')
        """
        return find_gap(self, length, align, lo, hi)

    def export(self, lo=0, hi=None, *, out=None):
        """The leaves of [lo, hi) in columns: `Leaves`, in one call that makes no object of any of them.

        out: where they go: `Leaves`, or a sequence of six writable buffers for va, pa, size, flags, level and raw, of the
            same length; None for a column that is not wanted. By default new arrays, as long as it takes.

        With `out`, as many as there is room for; what is returned is the part of each buffer that was filled, and when
        that is all of it, there may be more from where the last one ends. Bounds, errors and promises as `runs`. Releases
        the GIL. O(leaves + tables).

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x1000, 0x5000, 0x3000)
        >>> leaves = pt.export()
        >>> [hex(pa) for pa in leaves.pa]
        ['0x5000', '0x6000', '0x7000']
        >>> {bits for bits in leaves.flags} == {0b11}       # bit n is letter n of "rwxugad"
        True
        """
        return export_leaves(self, lo, hi, out)

    # -- changing a range

    def map(self, va, pa, length=None, flags="rw", *, page_size=None, replace=False):
        """Map `length` bytes from `va` to as many from `pa`: all or nothing.

        length: bytes, a multiple of the page size; by default one page.
        flags: any of "rwxugad"; what the format cannot withhold is granted, as `lookup` shows.
        page_size: the size of every leaf; by default the largest that fit, of those that are one entry. With one of
            `arch.run_sizes` each leaf is a run of entries.
        replace: whether to take the place of what is there.

        Raises AlreadyMapped (without replace), AddressError, FormatError, OutOfFrames, and RuntimeError when this thread
        holds the lock of a table that it would have to wait for; the table is then as before. Lock-free for one page
        whose table is there, otherwise blocking on the tables it touches. O(pages), or O(tables) for huge ones.
        """
        cdef Range op
        cdef Found found
        cdef Record *me = record_for_change(self)
        cdef const LevelFormat *smallest = &self.tree.format.level[1]
        cdef uint64_t first = canonical(self, va), target = as_address(pa, "pa"), size = span(smallest), bytes, leaf
        cdef int result = NO_TABLE
        memset(&op, 0, sizeof(Range))
        if page_size is not None:
            size = as_count(page_size, "page_size")
            op.leaf_level = level_of_page(self, size, &op.run)
        bytes = size if length is None else as_address(length, "length")
        check_range(self, first, bytes, size)
        if target & (size - 1):
            raise AddressError(f"pa {target:#x} is not a multiple of the page size {size:#x}")
        if target + bytes < target or target + bytes - 1 >> min(self.arch.pa_bits, 63):
            raise AddressError(
                f"pa {target:#x} with {bytes:#x} bytes is beyond the {self.arch.pa_bits} bits of {self.arch.name}"
            )
        op.attributes = attributes_asked(self, flags)
        if bytes == span(smallest) and not replace:
            leaf = leaf_make(smallest, target, attribute_bits(smallest, op.attributes))
            result = page_map(self.tree, me, first, leaf, &found, PATIENCE)
            if result == LIVELOCK:
                with nogil:
                    result = page_map(self.tree, me, first, leaf, &found, REWALKS_MAX)
            op.where, op.where_level, op.where_state = first, found.level, found.state
        if result == NO_TABLE or result == IS_SHARED:
            op.kind = MAP
            op.replace = replace
            op.pa_less_va = target - first
            result = range_run(self, &op, me, first, bytes)
        if result != DONE:
            raise failure(self, result, &op)

    def unmap(self, va, length, /):
        """Empty what a range holds, software's own entries too, and return how many bytes that was; holes are passed over.

        A huge leaf that the range cuts is split first, and a run of entries that are one page taken apart; a table that it
        covers is retired. Errors, progress and cost as `map`, but it needs no memory, unless it cuts a table that a
        snapshot or fork shares.
        """
        cdef Range op
        cdef Found found
        cdef Record *me = record_for_change(self)
        cdef uint64_t first = canonical(self, va), bytes = as_address(length, "length")
        cdef uint64_t size = span(&self.tree.format.level[1])
        cdef int result = NO_TABLE
        check_range(self, first, bytes, size)
        memset(&op, 0, sizeof(Range))
        op.where = first
        if bytes == size:
            result = page_unmap(self.tree, me, first, &found, PATIENCE)
            if result == LIVELOCK:
                with nogil:
                    result = page_unmap(self.tree, me, first, &found, REWALKS_MAX)
            if result == DONE:
                return 0 if found.state == EMPTY else size
            op.where_level, op.where_state = found.level, found.state
        if result == NO_TABLE or result == IN_RUN or result == IS_SHARED:
            op.kind = UNMAP
            result = range_run(self, &op, me, first, bytes)
        if result != DONE:
            raise failure(self, result, &op)
        return op.changed

    def protect(self, va, length, flags, /):
        """Give what is mapped in a range these attributes, and return how many bytes changed; holes are passed over.

        Accessed and dirty, once set, stay. A huge leaf that the range cuts is split first, and a run of entries that are
        one page taken apart. Errors, progress and cost as `map`, but it needs no memory, where no snapshot or fork shares
        its tables.
        """
        cdef Range op
        cdef Found found
        cdef Record *me = record_for_change(self)
        cdef uint64_t first = canonical(self, va), bytes = as_address(length, "length")
        cdef uint64_t size = span(&self.tree.format.level[1])
        cdef uint32_t attributes
        cdef int result = NO_TABLE
        check_range(self, first, bytes, size)
        attributes = attributes_asked(self, flags)
        memset(&op, 0, sizeof(Range))
        op.where = first
        if bytes == size:
            result = page_protect(self.tree, me, first, attributes, &found, PATIENCE)
            if result == LIVELOCK:
                with nogil:
                    result = page_protect(self.tree, me, first, attributes, &found, REWALKS_MAX)
            if result == DONE or result == ALREADY:
                return size if result == DONE else 0
            op.where_level, op.where_state = found.level, found.state
        if result == NO_TABLE or result == IN_RUN or result == IS_SHARED:
            op.kind = PROTECT
            op.attributes = attributes
            result = range_run(self, &op, me, first, bytes)
        if result != DONE:
            raise failure(self, result, &op)
        return op.changed

    # -- changing one entry

    def compare_exchange(self, va, expected, desired, /, *, level=None):
        """Change the entry that decides about an address from one raw value to another; whether it was done.

        level: the level that the entry must be on; by default any. The same bits may mean another leaf on another level,
            so whoever does not keep transitions out should say which was seen.

        The entry is the huge leaf that maps the address, or software's in its place (a migration), or else its entry in
        the leaf table. Lock-free; while the entry is frozen it walks again. Raises PageFault when there is none,
        FormatError for bits that are no leaf, no software entry and, in the leaf table, not empty; and for a software
        entry in place of a huge leaf whose pages would have no offsets left.

        An entry of a run that are one page is changed under the lock of its table: blocking on it, unless this thread
        holds it. When the new one is part of such a run too, all entries change, and keep what they have of accessed and
        dirty beyond `expected`; otherwise the run is taken apart. An entry becomes part of a run in no other way:
        FormatError.
        """
        cdef uint64_t old = as_entry(self.tree, expected)
        cdef uint32_t only = 0 if level is None else level_number(self, level, 1)
        return change_leaf(self, canonical(self, va), &old, as_entry(self.tree, desired), only)

    def exchange(self, va, entry, /):
        """Store a raw entry for an address and return the one it replaced. As `compare_exchange`, until it is done."""
        cdef uint64_t address = canonical(self, va), new = as_entry(self.tree, entry), old
        cdef Found found
        while True:
            find_settled(self, address, &found)
            old = thawed(&self.tree.format.level[found.level], found.raw)
            if change_leaf(self, address, &old, new, 0):
                return old

    def test_and_clear(self, va, flag, /):
        """Withdraw one attribute of the leaf that maps an address, and return whether it was granted.

        flag: one letter of "rwxugad". Lock-free; for a run of entries that are one page, which is changed as one, blocking
        on its table. Raises PageFault when nothing is mapped there, FormatError for an attribute that the format cannot
        withhold.
        """
        cdef uint64_t address = canonical(self, va), old, new
        cdef const LevelFormat *format
        cdef Found found
        cdef uint32_t had
        cdef int letter, result
        if not isinstance(flag, str):
            raise TypeError(f"flag must be a string of one letter of {FLAGS!r}, not {type(flag).__name__}")
        if len(flag) != 1:
            raise FormatError(f"flag must be one letter of {FLAGS!r}, not {flag!r}")
        letter = FLAGS.find(flag)
        if letter < 0 or not self.tree.format.level[1].attributes.letters >> <uint32_t> letter & 1:
            raise FormatError(f"{self.arch.name} has no bit for flag {flag!r}")
        while True:
            had = find_settled(self, address, &found)
            if found.state != HUGE:
                raise PageFault(address, found.level, state_of(found.state))
            format = &self.tree.format.level[found.level]
            old = thawed(format, found.raw)
            if not (had | attributes_of(format, old)) >> <uint32_t> letter & 1:
                return False
            new = attribute_cleared(format, old, letter)
            if not in_run(format, old):
                if change_leaf(self, address, &old, new, found.level):
                    return True
                continue
            check_settable(self, found.level, new)
            result = change_in_run(self, address, found.level, &old, new, <uint32_t> 1 << letter, &had)
            if result == DONE:
                return bool(had >> <uint32_t> letter & 1)

    # -- the fallible map and lock

    def pte_map(self, va, /):
        """A `PteMap` on the leaf table of an address, or None when there is no table. Wait-free; O(levels)."""
        return map_table(self, canonical(self, va), PteMap, True)

    def pte_map_ro(self, va, /):
        """As `pte_map`, with the promise to change nothing."""
        return map_table(self, canonical(self, va), PteMap, False)

    def pte_map_rw(self, va, /):
        """As `pte_map`, for a caller who may lock later: `snapshot` is the slot, `try_lock()` fails when it changed."""
        return map_table(self, canonical(self, va), PteMapRw, True)

    def pte_map_lock(self, va, /):
        """A `PteLock` on the leaf table of an address, or None when there is no table, with nothing held then.

        Blocking on that table's lock; when the slot changed meanwhile, it starts over. Raises RuntimeError when this
        thread holds the lock already.
        """
        return map_table_locked(self, canonical(self, va))

    def pte_alloc_map(self, va, /):
        """As `pte_map` after `populate`: None only when a huge leaf or a software entry is there. Raises OutOfFrames."""
        return alloc_and_map(self, canonical(self, va), False)

    def pte_alloc_map_lock(self, va, /):
        """As `pte_map_lock` after `populate`: None only when a huge leaf or a software entry is there; OutOfFrames."""
        return alloc_and_map(self, canonical(self, va), True)

    def pmd(self, va, /):
        """The `Slot` of an address on level 2, or None when the walk ends above. Wait-free; O(levels)."""
        return self.slot(va, 2)

    locked_pte = pte_alloc_map_lock

    def pte_kernel(self, va, /):
        """A `PteKernel` on the leaf table of an address, for a tree, or a part of one, that nobody else retracts.

        Nothing is pinned and nothing has to be closed. Wait-free; O(levels). Raises PageFault when there is no table.
        """
        return map_table_unpinned(self, canonical(self, va))

    pte_huge = pte_kernel

    def pte_alloc_huge(self, va, /):
        """As `pte_kernel` after `populate`. Raises OutOfFrames; PageFault when a huge leaf is there."""
        cdef uint64_t address = canonical(self, va)
        self.populate(address)
        return map_table_unpinned(self, address)

    def slot(self, va, level, /):
        """The `Slot` of an address on a level, or None when the walk ends above. Wait-free; O(levels).

        Where other trees have its table too, this one gets a copy first: as `populate`.
        """
        cdef uint64_t address = canonical(self, va), number = level_number(self, level, 1)
        cdef Slot slot = Slot.__new__(Slot)
        cdef Found found
        if not self.tree.is_snapshot:
            unshare_for(self, address, number)
        slot.table = pin_table(self.tree, own_record(self), address, number, &found)
        if slot.table is NULL:
            return None
        slot.pt = self
        slot.number = number
        slot.first = address & ~(span(&self.tree.format.level[number]) - 1)
        return slot

    # -- transitions

    def populate(self, va, /):
        """EMPTY to TABLE, down to the leaf table of an address: an `Outcome`.

        DONE; ALREADY when the table was there; IS_HUGE, IS_SOFT, IS_BAD. Raises OutOfFrames. Blocking on the table that
        holds the slot.
        """
        cdef uint64_t address = canonical(self, va)
        cdef Record *me = record_for_change(self)
        cdef Found found
        cdef int result
        with nogil:
            result = populate(self.tree, me, address, &found)
        return outcome(self, result, address, &found)

    def retract(self, va, /, *, level=2):
        """TABLE to EMPTY, for the slot of an address on a level, if nothing is in the table: an `Outcome`.

        DONE, NOT_EMPTY, NO_TABLE, IS_HUGE, IS_SOFT, IS_BAD. The table is retired; readers inside still see it empty.
        Blocking on the two tables.
        """
        cdef uint64_t address = canonical(self, va)
        cdef uint32_t number = level_number(self, level, 2)
        cdef Record *me = record_for_change(self)
        cdef Found found
        cdef int result
        with nogil:
            result = retract(self.tree, me, address, number, &found)
        return outcome(self, result, address, &found)

    def collapse(self, va, pa=None, /, *, level=None, page_size=None, holes=0, flags=None):
        """TABLE to HUGE, for the slot of an address on a level: an `Outcome`.

        page_size: the bytes of the leaf to make, in place of its level. With one of `arch.run_sizes`, leaves that are
            neighbours in their table become a run, and no table goes.
        pa: None to make one leaf of entries that map one aligned run of frames; or where to move to, the address of a
            run of frames as long as the leaf. The contents are copied where both sides are data of the table's Frames
            (`Frames.alloc`); elsewhere copying is the caller's.
        holes: with pa, how many entries may be empty; their part of the new frames becomes zero. At least one entry must
            map something.
        flags: the attributes of the new leaf. By default the entries', which then have to agree.

        DONE, ALREADY when it is a huge leaf, IS_HUGE when one above it is, NO_TABLE, NOT_FULL, NOT_HUGE (an entry is a
        table), NOT_CONTIGUOUS, MIXED_FLAGS, IS_SOFT, IS_BAD. Accessed and dirty are set when any entry had them. Raises
        OutOfFrames when there is no table to park for a later split, AddressError, FormatError, and ValueError for holes
        without pa or both level and page_size. Blocking on the two tables, or the one that holds the run; translations
        stay valid throughout, and pages are read-only while they are copied.

        >>> import ptl
        >>> pt = ptl.PageTable("arm64")
        >>> pt.map(0x10000, 0x40000, 0x10000, page_size=4096)
        >>> pt.collapse(0x10000, page_size=65536)
        <Outcome.DONE: 0>
        >>> hex(pt.lookup(0x13000).size)
        '0x10000'
        """
        cdef uint64_t address = canonical(self, va)
        cdef uint32_t number
        cdef const Run *run = NULL
        cdef uint64_t bytes
        cdef Record *me = record_for_change(self)
        cdef Collapse how
        cdef Found found
        cdef int result
        if page_size is None:
            number = level_number(self, 2 if level is None else level, 2)
        elif level is None:
            number = level_of_page(self, as_count(page_size, "page_size"), &run)
        else:
            raise ValueError("level and page_size are two ways to say which leaf")
        bytes = bytes_of(&self.tree.format.level[number], run)
        memset(&how, 0, sizeof(Collapse))
        how.pa = UNMAPPED_RAW
        how.holes = as_count(holes, "holes")
        how.is_given = flags is not None
        how.attributes = attributes_asked(self, flags) if how.is_given else 0
        if not self.tree.format.level[number].has_leaf:
            raise FormatError(f"{self.arch.name} has no leaf at level {number}")
        if pa is not None:
            how.pa = as_address(pa, "pa")
            if how.pa & (bytes - 1) or how.pa + (bytes - 1) >> min(self.arch.pa_bits, 63):
                raise AddressError(f"pa {how.pa:#x} is no run of {bytes:#x} aligned bytes of {self.arch.name}")
        elif how.holes:
            raise ValueError("holes need pa: frames that they become part of")
        with nogil:
            if run is not NULL:
                result = collapse_to_run(self.tree, me, address, number, run, &how, &found)
            else:
                result = collapse(self.tree, me, address, number, &how, &found)
        return outcome(self, result, address, &found)

    def split(self, va, /, page_size=None):
        """HUGE to TABLE, for the huge leaf that maps an address: an `Outcome`.

        page_size: the bytes of every leaf that it becomes; by default the next smaller size that is one entry.

        DONE: smaller leaves map the same. A run of entries that are one page is taken apart, in the table where it is.
        Software's entry in place of a huge leaf becomes one of each smaller page, their
        offsets counted up. NOT_HUGE when neither is there; ALREADY when the leaf is no larger than `page_size`. Cannot
        fail for memory: the leaf had its tables parked; only a table that a snapshot or fork shares has to be copied first
        (OutOfFrames). Blocking on the table that holds the leaf. Raises AddressError for a size that the format does not
        have.
        """
        cdef uint64_t address = canonical(self, va)
        cdef const Run *run = NULL
        cdef uint32_t target = 0 if page_size is None else level_of_page(self, as_count(page_size, "page_size"), &run)
        cdef Record *me = record_for_change(self)
        cdef Found found
        cdef int result
        with nogil:
            result = split(self.tree, me, address, target, run, &found)
        return outcome(self, result, address, &found)

    def reclaim_empty(self, va, length, /):
        """Retract every empty table under a range, lower levels first: an `Outcome`.

        DONE when at least one went; NOT_EMPTY when there were tables, all with entries; NO_TABLE when there were none.
        Blocking on two tables at a time. O(tables).
        """
        cdef uint64_t first = canonical(self, va), bytes = as_address(length, "length"), last, address = first
        cdef uint32_t level
        cdef Record *me = record_for_change(self)
        cdef Found found
        cdef int result, best = NO_TABLE
        check_range(self, first, bytes, span(&self.tree.format.level[1]))
        last = first + (bytes - 1)
        with nogil:
            for level in range(2, self.tree.format.levels + 1):
                address = first
                while True:
                    result = retract(self.tree, me, address, level, &found)
                    if result == DONE or best != DONE and result == NOT_EMPTY or result >= FAILED:
                        best = result
                    if result >= FAILED:
                        break
                    # Where the walk ended above, there is nothing in all of that entry.
                    address = slot_last(&self.tree.format.level[max(level, found.level)], address)
                    if address >= last:
                        break
                    address += 1
                if best >= FAILED:
                    break
        return outcome(self, best, address, &found)

    def move(self, old, new, length, /):
        """Move everything in a range to another address: an `Outcome`; leaf tables whole where both sides allow it.

        DONE, or NO_TABLE when there was nothing. A huge leaf that the range cuts, or that does not fit its new address, is
        split first, and a run of entries that are one page taken apart; software's own entries move too. Readers see each
        entry leave before it appears. Raises AlreadyMapped when there is anything in the new range, AddressError when the
        two overlap, OutOfFrames, FormatError for a bad entry; the table is then as before. Blocking on the tables of both
        ranges. O(pages), O(1) for a huge leaf.

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x200000, 0x1000, 0x1000)
        >>> pt.move(0x200000, 0x600000, 0x200000)
        <Outcome.DONE: 0>
        >>> hex(pt.translate(0x600000))
        '0x1000'
        """
        cdef uint64_t source = canonical(self, old), target = canonical(self, new), bytes = as_address(length, "length")
        cdef uint64_t size = span(&self.tree.format.level[1])
        cdef Record *me = record_for_change(self)
        cdef Move op
        cdef int result
        check_range(self, source, bytes, size)
        check_range(self, target, bytes, size)
        if source - target < bytes or target - source < bytes:
            raise AddressError(f"the {bytes:#x} bytes at va {source:#x} and at va {target:#x} overlap")
        op.tree = self.tree
        with nogil:
            result = move_apply(&op, me, source, target, bytes)
        if result < FAILED and result != IS_BAD:
            return OUTCOMES[result]
        raise failure(self, result, &op.new if op.new.where_level else &op.old)

    # -- seeing inside

    def stats(self):
        """Counters since the table was made, as a dict. Wait-free; each is read by itself.

        tables and table_bytes: now; populates, collapses, splits, retracts, moves, retired: done; map_failures: attempts
        to map a leaf table that found none; bad_cleared: bad slots emptied; copies: tables copied that other trees had
        too; rewalks: walks begun again; restarts: range operations begun again.
        """
        cdef Tree *tree = self.tree
        return {
            "tables": load_relaxed_64(&tree.tables),
            "table_bytes": load_relaxed_64(&tree.table_bytes),
            "populates": load_relaxed_64(&tree.populates),
            "collapses": load_relaxed_64(&tree.collapses),
            "splits": load_relaxed_64(&tree.splits),
            "retracts": load_relaxed_64(&tree.retracts),
            "moves": load_relaxed_64(&tree.moves),
            "retired": load_relaxed_64(&tree.retired),
            "bad_cleared": load_relaxed_64(&tree.bad_cleared),
            "copies": load_relaxed_64(&tree.copies),
            "map_failures": load_relaxed_64(&tree.map_failures),
            "rewalks": load_relaxed_64(&tree.rewalks),
            "restarts": load_relaxed_64(&tree.restarts),
        }

    def check(self):
        """Verify every numbered invariant that can be seen at rest, and return how many tables were visited.

        For use when no other thread is changing the table. Raises InvariantError, which names the invariant: I1 a slot
        holds one of the lasting states, and nothing is frozen; I6 no lock is held by another thread; I7 no table has
        more unpins than pins; I8 no table in the tree is free or retired; I10 as many tables and bytes as counted; I11
        every huge leaf has its tables parked; I12 each table is named by one slot of the tree; O2 a table of the tree's own
        is named by nobody else, and by a table of its own; U1 runs are whole. O(entries).
        """
        cdef uint64_t parked[TABLE_ORDERS]
        cdef uint32_t order
        seen = set()
        memset(parked, 0, sizeof(parked))
        check_table(self, self.tree.root, self.tree.format.levels, 0, seen, parked)
        counted = self.tree.tables
        broken(len(seen) == counted, "I10", f"{len(seen)} tables in the tree, {counted} counted")
        for order in range(TABLE_ORDERS):
            broken(
                self.tree.block.parked[order] == parked[order] if self.own_frames
                else self.tree.block.parked[order] >= parked[order],
                "I11",
                f"huge leaves need {parked[order]} tables of order {order}, {self.tree.block.parked[order]} are parked",
            )
            broken(
                self.tree.block.free_count[order] >= self.tree.block.parked[order],
                "I11",
                f"{self.tree.block.parked[order]} tables parked, {self.tree.block.free_count[order]} free",
            )
        return len(seen)

    # -- sharing

    def snapshot(self):
        """A `PageTable` that holds what this one holds at one moment of the call, and does not change.

        Both share their tables: what is changed afterwards in this one is copied first, table by table. The frames that
        are mapped are not copied, and have no owner more.

        Everything that reads may be done with it, at any time and by any thread, and `fork`; whatever changes raises
        TypeError. A change of this table waits while it is made: until the changes under way in tables of the same
        `EpochDomain` are over, microseconds. Readers do not. Blocking on those changes, and on locks of tables that Python
        code holds (`pte_map_lock`, `Slot.lock`): RuntimeError when this thread holds one. O(entries of the top table),
        however much is mapped. Raises OutOfFrames when there is no room for one table more, and AddressError when it
        could not lie there.

        An emulated CPU of another make that marks entries accessed and dirty does so in tables that are shared, too.

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x1000, 0x5000)
        >>> before = pt.snapshot()
        >>> pt.unmap(0x1000, 0x1000)
        4096
        >>> len(pt), len(before)
        (0, 1)
        """
        return share(self, True)

    def fork(self):
        """A `PageTable` that begins with what this one holds at one moment, and then goes its own way. As `snapshot`.

        What either of the two changes is copied first: the first change in a leaf table copies it, and tables above it that
        are shared, and may raise OutOfFrames then, with nothing changed.

        >>> import ptl
        >>> pt = ptl.PageTable()
        >>> pt.map(0x1000, 0x5000)
        >>> child = pt.fork()
        >>> child.protect(0x1000, 0x1000, "r")
        4096
        >>> pt[0x1000].flags, child[0x1000].flags
        ('rw', 'r')
        """
        return share(self, False)

    def dump(self):
        """The tree as text, one line a table or a run of leaves. O(entries)."""
        lines = [f"{self.arch.name} root {self.root:#x}"]
        dump_table(self, self.tree.root, self.tree.format.levels, 0, lines)
        return "\n".join(lines)


# -- sharing ----------------------------------------------------------------------------------------------------------

cdef object share(PageTable pt, bint is_snapshot):
    cdef _Sharer sharer = _Sharer.__new__(_Sharer)
    sharer.pt = pt
    sharer.is_snapshot = is_snapshot
    return PageTable.__new__(PageTable, sharer)


cdef int share_tables(PageTable pt, PageTable other, bint is_snapshot) except -1:
    """Make a new table hold what another holds (share.pxi)."""
    cdef Tree *tree = <Tree *> calloc(1, sizeof(Tree))
    cdef Record *me = own_record(other)
    cdef Table *root
    cdef int result, attempts = 0
    if tree is NULL:
        raise MemoryError("no memory for a page table")
    pt.tree = tree
    pt.arch, pt.described, pt.strict, pt.frames = other.arch, other.described, other.strict, other.frames
    pt.known_flags = {}
    tree_describe(tree, other.tree)
    tree.is_snapshot = is_snapshot
    root = root_take(tree, pt.described)
    while root is NULL and frames_may_come(tree, &attempts):
        root = root_take(tree, pt.described)
    if root is NULL:
        raise OutOfFrames(f"no room in {pt.frames!r} for a root table")
    with nogil:
        result = tree_share(other.tree, me, tree)
    if result == DONE:
        other.own_frames = False
        return 0
    table_return(root)
    if result == NO_FRAMES:
        raise OutOfFrames(f"no room in {pt.frames!r} for the tables that huge leaves split into")
    raise RuntimeError("this thread holds the lock of a table, and would wait for itself")


# -- what the methods share ---------------------------------------------------------------------------------------------

cdef int find_entry(PageTable pt, uint64_t va, Found *found) except -1:
    cdef Record *me = own_record(pt)
    find(pt.tree, me, va, found, PATIENCE)
    if found.state == BUSY:
        with nogil:
            find(pt.tree, me, va, found, REWALKS_MAX)
        if found.state == BUSY:
            raise livelock(va, found)
    return 0


cdef uint32_t find_leaf(PageTable pt, uint64_t va, Found *found) except? 0xffffffff:
    """As find_entry; accessed and dirty of any entry of the run that it is part of, if it is."""
    cdef Record *me = own_record(pt)
    cdef uint32_t used
    find_entry(pt, va, found)
    # Ends: the next turn of whoever changes it would have to fall in the same place again.
    while is_part(&pt.tree.format.level[found.level], found.raw, found.state):
        section_enter(me)
        walk(pt.tree, va, 1, found)
        used = used_in_run(pt.tree, found.level, found.table, va, found.raw)
        section_leave(me)
        if found.state != BUSY:
            return used
        find_entry(pt, va, found)
    return 0


cdef uint32_t find_settled(PageTable pt, uint64_t va, Found *found) except? 0xffffffff:
    """As find_leaf, for somebody who will change the entry: waits until its size has changed."""
    cdef uint32_t turns = 0, used = find_leaf(pt, va, found)
    while found.state == INVALID:
        give_way(pt, va, &turns)
        used = find_leaf(pt, va, found)
    return used


cdef object translate_buffer(PageTable pt, object vas, object out):
    cdef Py_buffer source, target
    cdef uint64_t count, done
    cdef Found found
    cdef Record *me = own_record(pt)
    memset(&found, 0, sizeof(Found))
    get_addresses(vas, &source, 0)
    try:
        count = source.len // 8
        result = array("Q", bytes(8 * count)) if out is None else out
        get_addresses(result, &target, PyBUF_WRITABLE)
        try:
            if <uint64_t> target.len // 8 != count:
                raise ValueError(f"out has room for {target.len // 8} addresses, not {count}")
            with nogil:
                done = translate_many(
                    pt.tree, me, <uint64_t *> source.buf, <uint64_t *> target.buf, count, &found
                )
            if done < count:
                raise livelock((<uint64_t *> source.buf)[done], &found)
        finally:
            PyBuffer_Release(&target)
    finally:
        PyBuffer_Release(&source)
    return result


cdef int range_run(PageTable pt, Range *op, Record *me, uint64_t first, uint64_t bytes) except -1:
    cdef int result
    op.tree = pt.tree
    op.me = me
    op.first = first
    op.last = first + (bytes - 1)
    op.where = first
    with nogil:
        result = range_apply(op)
    return result


cdef bint change_leaf(PageTable pt, uint64_t va, uint64_t *expected, uint64_t desired, uint32_t only) except -1:
    """Compare-exchange of the entry that decides about va, on the level `only` unless it is 0; whether it was done."""
    cdef Record *me = record_for_change(pt)
    cdef Found found
    cdef uint64_t old
    cdef uint32_t level, had
    cdef int result = RESTART
    while result == RESTART:                        # ends: the level changes only by somebody's transition
        find_settled(pt, va, &found)
        level = found.level
        if only and level != only:
            return False
        if level > 1 and found.state != HUGE and not is_soft_leaf(pt.tree, &found):
            raise PageFault(va, level, state_of(found.state))
        if thawed(&pt.tree.format.level[level], found.raw) != expected[0] and is_settable_somewhere(pt.tree, desired):
            return False                            # an entry for another level is no error, if that level was meant
        check_settable(pt, level, desired)
        check_run(pt, level, found.raw, desired, va)
        old = expected[0]
        result = leaf_change(pt.tree, me, va, level, &old, desired, &found, PATIENCE)
        if result == LIVELOCK:
            with nogil:
                result = leaf_change(pt.tree, me, va, level, &old, desired, &found, REWALKS_MAX)
        if result == IN_RUN:
            result = change_in_run(pt, va, level, &old, desired, 0, &had)
        if result == IS_SHARED:
            unshare_for(pt, va, level)
            result = RESTART
    if result == LIVELOCK:
        raise livelock(va, &found)
    if result == NO_TABLE:
        raise PageFault(va, found.level, state_of(found.state))
    return result == DONE


cdef int change_in_run(
    PageTable pt, uint64_t va, uint32_t level, uint64_t *expected, uint64_t desired, uint32_t withdrawn, uint32_t *had
) except -1:
    """leaf_change_in_run without the GIL: DONE, ALREADY, RESTART."""
    cdef Record *me = own_record(pt)
    cdef Found found
    cdef int result
    with nogil:
        result = leaf_change_in_run(pt.tree, me, va, level, expected, desired, withdrawn, had, &found)
    if result >= FAILED and result != RESTART:
        raise failure_at(pt, result, va, &found)
    return result


cdef object alloc_and_map(PageTable pt, uint64_t va, bint lock):
    cdef uint32_t turns = 0
    while True:
        outcome = pt.populate(va)
        handle = map_table_locked(pt, va) if lock else map_table(pt, va, PteMap, True)
        if handle is not None or outcome in (Outcome.IS_HUGE, Outcome.IS_SOFT, Outcome.IS_BAD):
            return handle
        give_way(pt, va, &turns)      # the table came and went between the two


cdef int check_run_whole(PageTable pt, uint64_t table, uint32_t level, uint64_t i, uint64_t raw, str where) except -1:
    """Where one entry is part of a run, all are that belong to it, and map what follows the first (run.pxi, U1)."""
    cdef const LevelFormat *format = &pt.tree.format.level[level]
    cdef const Run *run = run_of(format, raw)
    cdef uint64_t first = i & ~(run.entries - 1), part, pa, other
    cdef char *entries = pt.tree.memory + table
    other = entry_load(entries + (first << format.entry_shift), format)
    broken(
        is_part_of(format, other, run), "U1", f"entry {i} of {where} holds {raw:#x}, and {first}, of that run, {other:#x}"
    )
    if i != first:
        return 0                                    # looked at from there
    pa = leaf_address(format, raw, first << format.shift)
    broken(pa & (run.bytes - 1) == 0, "U1", f"entry {i} of {where} holds {raw:#x}, a run of frames that are not aligned")
    for part in range(first, first + run.entries):
        other = entry_load(entries + (part << format.entry_shift), format)
        broken(
            is_part_of(format, other, run) and not differ(format, other, raw)
            and leaf_address(format, other, part << format.shift) == pa + ((part - first) << format.shift),
            "U1", f"entry {i} of {where} holds {raw:#x}, and {part}, of that run, {other:#x}",
        )
    return 0


cdef int check_table(PageTable pt, uint64_t offset, uint32_t level, uint64_t va, set seen, uint64_t *parked) except -1:
    cdef Tree *tree = pt.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef Table *table = table_of(tree.block, offset)
    cdef uint64_t raw, shadow, i, tables
    cdef uint32_t below
    cdef char *entry
    cdef int state
    where = f"the level-{level} table of va {va:#x} at pa {tree.base + offset:#x}"
    broken(offset not in seen, "I12", f"{where} is named by two slots")
    seen.add(offset)
    broken(table.use == TABLE_LIVE, "I8", f"{where} is in use {table.use}, not live")
    broken(table.level == level, "I8", f"{where} was made for level {table.level}")
    broken(
        table.lock == 0 or table.lock >> 1 == own_record(pt).number, "I6", f"{where} is locked by {table.lock >> 1}"
    )
    broken(table.pins < 1 << 31, "I7", f"{where} has {table.pins} pins")
    broken(table.refs != 0, "O1", f"{where} is named by no slot, it says")
    broken(
        tree.generation == 0 or table.generation != tree.generation or table.refs == 1,
        "O2", f"{where} is the tree's own, and named by {table.refs} slots",
    )
    for i in range(format.entries):
        entry = tree.memory + offset + (i << format.entry_shift)
        raw = entry_load(entry, format)
        if format.shadow.offset:
            shadow = load_shaped(entry + format.shadow.offset, format.shape)
            broken(
                shadow == shadow_of(format, raw), "S1", f"entry {i} of {where} holds {raw:#x}, and its shadow {shadow:#x}"
            )
        if is_empty(format, raw) and not is_frozen(format, raw):
            continue
        state = classify_in_block(tree, level, raw)
        if is_frozen(format, raw) or state == INVALID or state == BAD or state == BUSY:
            raise InvariantError(f"I1: entry {i} of {where} holds {raw:#x}: {state_of(state).name} or frozen, at rest")
        if state == HUGE and in_run(format, raw):
            check_run_whole(pt, offset, level, i, raw, where)
        if state == TABLE:
            broken(
                is_own(tree, table) or not is_own(tree, table_of(tree.block, child_offset(tree, level, raw)))
                or tree.is_snapshot,
                "O2", f"entry {i} of {where}, which is shared, names a table of the tree's own",
            )
            check_table(
                pt, child_offset(tree, level, raw), level - 1, va_of_index(&tree.format, level, va, i), seen, parked
            )
        elif owns_tables(tree, level, state):
            tables = 1
            for below in range(level - 1, 0, -1):
                parked[tree.order[below]] += tables
                tables *= tree.format.level[below].entries
    return 0


cdef int dump_table(PageTable pt, uint64_t offset, uint32_t level, uint64_t va, list lines) except -1:
    cdef Tree *tree = pt.tree
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, i, first
    cdef int state
    indent = "  " * (tree.format.levels - level + 1)
    run = None                          # first address, last address, pa of the first, flags, size of a leaf
    for i in range(format.entries + 1):
        raw = format.empty
        if i < format.entries:
            raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        state = classify_in_block(tree, level, raw)
        first = va_of_index(&tree.format, level, va, i)
        if run is not None:
            start, end, pa, flags, size = run
            if state == HUGE and flags == FLAG_TEXT[attributes_of(format, raw)] and (
                leaf_address(format, raw, first) == pa + (end - start) and size == bytes_of(format, run_of(format, raw))
            ):
                run = start, end + span(format), pa, flags, size
                continue
            lines.append(f"{indent}{start:#x}-{end:#x} -> {pa:#x} {flags} {max(1, (end - start) // size)} x {size:#x}")
            run = None
        if state == HUGE:
            run = (
                first, first + span(format), leaf_address(format, raw, first), FLAG_TEXT[attributes_of(format, raw)],
                bytes_of(format, run_of(format, raw)),
            )
        elif state == TABLE:
            lines.append(f"{indent}{first:#x} level {level - 1} table at {tree.base + child_offset(tree, level, raw):#x}")
            dump_table(pt, child_offset(tree, level, raw), level - 1, first, lines)
        elif state != EMPTY:
            lines.append(f"{indent}{first:#x} {state_of(state).name} {raw:#x}")
    return 0


# -- the border ---------------------------------------------------------------------------------------------------------

cdef uint64_t canonical(PageTable pt, object va) except? 1:
    cdef uint64_t address = as_address(va, "va")
    if not is_canonical(&pt.tree.format, address):
        raise AddressError(f"va {address:#x} is not canonical in the {pt.arch.va_bits} bits of {pt.arch.name}")
    return address


cdef int check_range(PageTable pt, uint64_t va, uint64_t length, uint64_t size) except -1:
    """A range must be whole pages, not empty, and must not leave the half of the addresses that it begins in."""
    if va & (size - 1) or length & (size - 1):
        raise AddressError(f"va {va:#x} and length {length:#x} must be multiples of the page size {size:#x}")
    if length == 0:
        raise AddressError("length must not be 0")
    if not is_run(&pt.tree.format, va, length):
        raise AddressError(
            f"va {va:#x} with length {length:#x} runs out of the canonical addresses of {pt.arch.name}"
        )
    return 0


cdef uint32_t level_of_page(PageTable pt, uint64_t size, const Run **run) except 0:
    """The level of leaves of that size, and the run that they are there, or NULL."""
    cdef uint32_t level = level_of_size(&pt.tree.format, size, run)
    if level == 0:
        raise AddressError(
            f"{pt.arch.name} has no pages of {size:#x} bytes; its sizes are {pt.arch.page_sizes + pt.arch.run_sizes}"
        )
    return level


cdef uint32_t level_number(PageTable pt, object level, uint32_t least) except 0:
    number = as_count(level, "level")
    if not least <= number <= pt.tree.format.levels:
        raise ValueError(f"level must be {least} to {pt.tree.format.levels} here, not {number}")
    return number


cdef uint32_t attributes_asked(PageTable pt, object flags) except 0:
    if not isinstance(flags, str):
        raise TypeError(f"flags must be a string of letters of {FLAGS!r}, not {type(flags).__name__}")
    bits = pt.known_flags.get(flags)
    if bits is None:
        granted = pt.arch.attributes(flags)
        bits = sum(1 << i for i, letter in enumerate(FLAGS) if letter in granted)
        pt.known_flags[flags] = bits
    return bits


cdef object outcome(PageTable pt, int result, uint64_t va, Found *found):
    if result < FAILED:
        return OUTCOMES[result]
    raise failure_at(pt, result, va, found)


cdef object failure_at(PageTable pt, int result, uint64_t va, Found *found):
    """failure, where the walk for va ended."""
    cdef Range op
    op.where, op.where_level, op.where_state = va, found.level, found.state
    return failure(pt, result, &op)


cdef object failure(PageTable pt, int result, Range *op):
    """The exception for a result that raises."""
    where = f"va {op.where:#x}"
    if result == IS_MAPPED:
        held = state_of(op.where_state).name
        hint = "; replace=True would replace it" if op.kind == MAP else ""
        return AlreadyMapped(f"{where} holds a {held} entry at level {op.where_level}{hint}")
    if result == NO_FRAMES:
        return OutOfFrames(f"no table left in {pt.frames!r} for {where}; nothing was changed")
    if result == IS_BAD:
        return FormatError(f"{where} holds a BAD entry at level {op.where_level}; nothing was changed")
    if result == IS_SNAPSHOT:
        return snapshot_stays()
    if result == DEADLOCK:
        return RuntimeError(f"this thread holds the lock of a table of {where}, and would wait for itself")
    return livelock_at(op.where, op.where_level, op.where_state)


cdef object default_frames(Tree *tree, object arch):
    """Frames for one tree: four times a full one (there are tables in limbo, and parked), at most 16 GiB."""
    cdef uint64_t most = min(<uint64_t> 16 << 30, <uint64_t> 1 << min(arch.table_bits, 63))
    cdef uint64_t least = min(arch.table_bytes(level) for level in range(1, arch.levels + 1))
    cdef uint64_t size = min(most, 4 * full_tree_bytes(&tree.format, most))
    return Frames(align_up(size, 4096), frame_bytes=min(4096, max(16, least)))


cdef int get_addresses(object source, Py_buffer *buffer, int flags) except -1:
    """A C-contiguous buffer of 8-byte integers in native order."""
    PyObject_GetBuffer(source, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags)
    text = b"B" if buffer.format is NULL else <bytes> buffer.format
    if buffer.itemsize != 8 or text.lstrip(b"@=" + (b"<" if sys.byteorder == "little" else b">")) not in ADDRESS_FORMATS:
        PyBuffer_Release(buffer)
        raise TypeError(
            f"addresses must be a buffer of 8-byte integers such as array('Q'), not of format {text.decode()!r}"
        )
    return 0


cdef frozenset ADDRESS_FORMATS = frozenset((b"Q", b"q", b"L", b"l", b"N", b"n", b"P"))


cdef uint64_t as_entry(Tree *tree, object value) except? 1:
    cdef uint64_t raw = as_count(value, "entry")
    cdef uint32_t level
    for level in range(1, tree.format.levels + 1):
        if fits(&tree.format.level[level], raw):
            return raw
    raise FormatError(f"entry {raw:#x} does not fit 4 bytes")


cdef uint64_t as_entry_on(const LevelFormat *level, object value) except? 1:
    """As as_entry, for an entry of that level."""
    cdef uint64_t raw = as_count(value, "entry")
    if not fits(level, raw):
        raise FormatError(f"entry {raw:#x} does not fit 4 bytes")
    return raw


cdef inline bint fits(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return level.entry_shift == 3 or raw >> 32 == 0


cdef inline int when_frozen(Tree *tree, uint32_t level, uint64_t raw) noexcept nogil:
    """The state of an entry while somebody has frozen it: with one bit more, software's own may read as BUSY."""
    return classify(&tree.format, level, raw | frozen_bit(&tree.format.level[level], raw))


cdef bint is_settable(Tree *tree, uint32_t level, uint64_t raw) noexcept nogil:
    """Only what leaves a slot in the same kind of state may be stored by hand, and stays in it when it is frozen."""
    cdef const LevelFormat *own = &tree.format.level[level]
    cdef int state = classify(&tree.format, level, raw)
    if is_frozen(own, raw) or not fits(own, raw) or when_frozen(tree, level, raw) != state:
        return False
    if state == SOFT:
        return tree.format.level[level].has_leaf and soft_run_fits(&tree.format, level, raw)
    return state == HUGE or level == 1 and state == EMPTY


cdef bint is_settable_somewhere(Tree *tree, uint64_t raw) noexcept nogil:
    cdef uint32_t level
    for level in range(1, tree.format.levels + 1):
        if is_settable(tree, level, raw):
            return True
    return False


cdef int check_settable(PageTable pt, uint32_t level, uint64_t raw) except -1:
    if not is_settable(pt.tree, level, raw):
        state = state_of(classify(&pt.tree.format, level, raw)).name
        frozen = " and frozen" if is_frozen(&pt.tree.format.level[level], raw) else ""
        if state == "SOFT" and not frozen and when_frozen(pt.tree, level, raw) != SOFT:
            raise FormatError(f"entry {raw:#x} would be something else on level {level} while it is frozen")
        if state == "SOFT" and not frozen and pt.tree.format.level[level].has_leaf:
            raise FormatError(f"entry {raw:#x} has no offsets left for all pages of level {level}")
        needed = "a leaf or a software entry" if level > 1 else "a leaf, a software entry or an empty one"
        raise FormatError(f"entry {raw:#x} would be {state}{frozen} on level {level}; {needed} is needed")
    return 0


cdef int check_run(PageTable pt, uint32_t level, uint64_t old, uint64_t raw, uint64_t va) except -1:
    """An entry becomes part of a run only in place of one that is: then all of the run follows."""
    cdef const LevelFormat *format = &pt.tree.format.level[level]
    cdef const Run *run
    if not in_run(format, raw):
        return 0
    run = run_of(format, raw)
    if not follows(format, old, raw, va):
        raise FormatError(
            f"entry {raw:#x} is part of a run of {run.bytes:#x} bytes, and the entry of va {va:#x} is in no such run; "
            f"map with page_size={run.bytes:#x} makes one"
        )
    return 0


cdef object livelock(uint64_t va, Found *found):
    return livelock_at(va, found.level, found.state)


cdef object livelock_at(uint64_t va, uint32_t level, int state):
    return LivelockError(
        f"the level-{level} slot of va {va:#x} was {state_of(state).name}, or frozen, through {REWALKS_MAX} walks"
    )


cdef int give_way(PageTable pt, uint64_t va, uint32_t *turns) except -1:
    """Wait a little, without the GIL, before trying again."""
    cdef Found found
    cdef bint patient
    with nogil:
        patient = again(pt.tree, pt.tree.root, turns)
    if not patient:
        walk(pt.tree, va, 1, &found)
        raise livelock(va, &found)
    return 0


cdef inline int broken(bint holds, str invariant, str how) except -1:
    if not holds:
        raise InvariantError(f"{invariant}: {how}")
    return 0


MutableMapping.register(PageTable)
