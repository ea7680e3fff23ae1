# SPDX-License-Identifier: MIT
"""A table as a mapping: iterators over a sweep, lazy views of a range, columns filled in one call.

What each promises beside writers is what a sweep promises (sweep.pxi). An iterator finds some leaves ahead; the section in
which it does so has ended when Python code runs again.
"""

cdef enum:
    FOUND_AHEAD = 128           # by an iterator: long enough to forget the walk from the root

cdef enum Yield:
    YIELD_KEYS = 0
    YIELD_LEAVES = 1
    YIELD_ITEMS = 2
    YIELD_EXTENTS = 3
    YIELD_GAPS = 4

cdef int *SWEEP_KINDS = [SWEEP_LEAVES, SWEEP_LEAVES, SWEEP_LEAVES, SWEEP_EXTENTS, SWEEP_GAPS]

cdef struct Room:               # for what is found
    uint64_t va[FOUND_AHEAD]
    uint64_t pa[FOUND_AHEAD]
    uint64_t size[FOUND_AHEAD]
    uint64_t raw[FOUND_AHEAD]
    uint8_t attributes[FOUND_AHEAD]
    uint8_t level[FOUND_AHEAD]


cdef inline void room_give(Sweep *sweep, Room *room) noexcept nogil:
    sweep.found.va = room.va
    sweep.found.pa = room.pa
    sweep.found.size = room.size
    sweep.found.attributes = room.attributes
    sweep.found.level = room.level
    sweep.found.raw = room.raw
    sweep.found.room = FOUND_AHEAD


cdef inline void room_keep_last(Sweep *sweep, Room *room) noexcept nogil:
    """Make room, but for the last extent or gap: it may go on."""
    cdef uint64_t last = sweep.found.count - 1
    room.va[0] = room.va[last]
    room.pa[0] = room.pa[last]
    room.size[0] = room.size[last]
    room.attributes[0] = room.attributes[last]
    sweep.found.count = 1
    sweep.is_full = False


cdef bint sweep_on(PageTable pt, Sweep *sweep, uint64_t enough) except -1:
    """Go on until `enough` is found, there is no more room, or the range is over; False when nothing is found.

    One section with the GIL: it takes a few microseconds, less than it may take to have the GIL back. The rest without.
    """
    cdef bint patient
    sweep.me = own_record(pt)
    sweep_some(sweep)
    if not sweep.is_over and not sweep.is_full and sweep.found.count < enough:
        with nogil:
            patient = sweep_all(sweep)
        if not patient and sweep.found.count < enough:
            raise livelock(sweep.next, &sweep.busy)
    return sweep.found.count != 0


# -- one after another ------------------------------------------------------------------------------------------------

@cython.final
cdef class LeafIterator:
    """What a range of a table maps, or where nothing is, in order: made by the methods of `PageTable` and its views.

    One thread at a time; ValueError when another is inside.
    """
    cdef PageTable pt
    cdef Sweep sweep
    cdef Room room
    cdef int kind
    cdef uint64_t position
    cdef uint64_t end               # of what can be handed out: the last extent may go on
    cdef bint is_busy

    def __cinit__(self):
        self.sweep.is_over = True       # and has no table, until iterator_of

    def __init__(self, *args, **kwargs):
        raise TypeError("a PageTable and its views make iterators")

    def __reduce__(self):
        raise TypeError("an iterator of a PageTable belongs to one process and cannot be pickled")

    def __iter__(self):
        return self

    def __next__(self):
        cdef uint64_t i
        with cython.critical_section(self):
            if self.position == self.end and not self.find():
                raise StopIteration
            i = self.position
            self.position += 1
            if self.kind == YIELD_KEYS:
                return self.room.va[i]
            if self.kind == YIELD_LEAVES:
                return self.leaf(i)
            if self.kind == YIELD_ITEMS:
                return self.room.va[i], self.leaf(i)
            if self.kind == YIELD_EXTENTS:
                return extent_of(self.room.va[i], self.room.pa[i], self.room.size[i], self.room.attributes[i])
            return gap_of(self.room.va[i], self.room.size[i])

    cdef inline Leaf leaf(self, uint64_t i):
        return leaf_of(
            self.room.va[i], self.room.pa[i], self.room.size[i], self.room.attributes[i], self.room.level[i],
            self.room.raw[i],
        )

    cdef bint find(self) except -1:
        """Find what comes next; False when nothing does."""
        if self.is_busy:
            raise ValueError("another thread is inside this iterator")
        if self.sweep.found.count > self.end:
            room_keep_last(&self.sweep, &self.room)
        else:
            self.sweep.found.count = 0
        self.position = self.end = 0
        if not self.sweep.is_over:
            self.is_busy = True
            try:
                sweep_on(self.pt, &self.sweep, 1 if self.sweep.kind == SWEEP_LEAVES else 2)
            finally:
                self.is_busy = False
        self.end = self.sweep.found.count
        if self.sweep.kind != SWEEP_LEAVES and not self.sweep.is_over:
            self.end -= 1
        return self.end != 0


cdef object iterator_of(PageTable pt, object lo, object hi, int kind):
    cdef LeafIterator iterator = LeafIterator.__new__(LeafIterator)
    iterator.pt = pt
    iterator.kind = kind
    sweep_range(pt, lo, hi, SWEEP_KINDS[kind], &iterator.sweep)
    room_give(&iterator.sweep, &iterator.room)
    return iterator


cdef int sweep_range(PageTable pt, object lo, object hi, int kind, Sweep *sweep) except -1:
    """Begin a sweep of [lo, hi), multiples of the page size that need not be canonical; hi is None for the end of all."""
    cdef uint64_t first = as_address(lo, "lo"), page = span(&pt.tree.format.level[1]), end = 0
    cdef bint has_end = hi is not None and not (type(hi) is int and hi == 1 << 64)
    if has_end:
        end = as_address(hi, "hi")
    if (first | end) & (page - 1):
        raise AddressError(f"lo {first:#x} and hi {end:#x} must be multiples of the page size {page:#x}")
    if has_end and end < first:
        raise AddressError(f"hi {end:#x} is below lo {first:#x}")
    sweep_begin(sweep, pt.tree, own_record(pt), kind, first, end - 1)
    if has_end and end == first:
        sweep.is_over = True
    return 0


cdef uint64_t count_leaves(PageTable pt, object lo, object hi, uint64_t enough) except? 0xffffffffffffffff:
    """How many leaves a range has, or `enough` if there are more."""
    cdef Sweep sweep
    cdef Room room
    cdef uint64_t count = 0
    cdef bint patient = True
    sweep_range(pt, lo, hi, SWEEP_LEAVES, &sweep)
    room_give(&sweep, &room)
    with nogil:
        while patient and not sweep.is_over and count < enough:
            patient = sweep_all(&sweep)
            count += sweep.found.count
            sweep.found.count = 0
            sweep.is_full = False
    if not patient:
        raise livelock(sweep.next, &sweep.busy)
    return count


# -- views ------------------------------------------------------------------------------------------------------------

class LeafRange(Mapping):
    """What a range of a table maps, by first addresses: `pt[lo:hi]`. A view: it holds nothing but the two bounds.

    A leaf that the range cuts is in it cut. Iteration is that of `PageTable`, `len` O(leaves).

    >>> import ptl
    >>> pt = ptl.PageTable()
    >>> pt.map(0x40_0000, 0x80_0000, 4 << 20)
    >>> [hex(va) for va in pt[0x50_0000:0x70_0000]]
    ['0x500000', '0x600000']
    >>> pt[0x50_0000:0x70_0000][0x50_0000]
    Leaf(va=0x500000, pa=0x900000, size=0x100000, flags='rw', level=2, raw=0x8000000000800083)
    """

    __slots__ = ("_hi", "_lo", "_pt")

    def __init__(self, pt, lo, hi):
        iterator_of(pt, lo, hi, YIELD_KEYS)         # raises for bounds that are none
        self._pt, self._lo, self._hi = pt, lo, hi

    def __repr__(self):
        end = "" if self._hi is None else hex(self._hi)
        return f"<{self._pt!r}[{self._lo:#x}:{end}]>"

    def __iter__(self):
        return iterator_of(self._pt, self._lo, self._hi, YIELD_KEYS)

    def __len__(self):
        return count_leaves(self._pt, self._lo, self._hi, UNMAPPED_RAW)

    def __bool__(self):
        return count_leaves(self._pt, self._lo, self._hi, 1) != 0

    def __getitem__(self, va):
        return leaf_in(self._pt, va, self._lo, self._hi)

    def items(self):
        return LeafItems(self)

    def values(self):
        return LeafValues(self)


class LeafItems(ItemsView):
    """The pairs of a first address and its `Leaf`, found together."""

    def __iter__(self):
        view = self._mapping
        return iterator_of(view._pt, view._lo, view._hi, YIELD_ITEMS)


class LeafValues(ValuesView):
    """The leaves in order."""

    def __iter__(self):
        view = self._mapping
        return iterator_of(view._pt, view._lo, view._hi, YIELD_LEAVES)


cdef object leaf_in(PageTable pt, object key, object lo, object hi):
    """The leaf of which an address is the first in [lo, hi), as much of it as lies in there."""
    cdef uint64_t va = canonical(pt, key), before
    cdef uint32_t used
    cdef Sweep sweep
    cdef Found found
    cdef Leaf leaf
    sweep_range(pt, lo, hi, SWEEP_LEAVES, &sweep)
    used = find_leaf(pt, va, &found)
    leaf = leaf_record(pt.tree, found.level, va, found.raw, used)
    if leaf is None or sweep.is_over or not sweep.next <= va <= sweep.last or va != max(leaf.va, sweep.next):
        raise PageFault(va, found.level, state_of(found.state))
    before = va - leaf.va
    leaf.va += before
    leaf.pa += before
    leaf.size = min(leaf.size - before - 1, sweep.last - va) + 1
    return leaf


cdef object find_gap(PageTable pt, object length, object align, object lo, object hi):
    cdef uint64_t page = span(&pt.tree.format.level[1]), bytes = as_address(length, "length"), start
    cdef uint64_t granule = page if align is None else as_count(align, "align")
    cdef bint patient, fits
    cdef Sweep sweep
    cdef Room room
    if bytes == 0 or bytes & (page - 1):
        raise AddressError(f"length {bytes:#x} must be a multiple of the page size {page:#x}, and not 0")
    if granule < page or granule & (granule - 1):
        raise AddressError(f"align {granule:#x} must be a power of two, and at least the page size {page:#x}")
    sweep_range(pt, lo, hi, SWEEP_GAPS, &sweep)
    room_give(&sweep, &room)
    sweep.wanted = bytes
    sweep.granule = granule
    with nogil:
        while True:
            patient = sweep_all(&sweep)
            fits = sweep.found.count != 0 and gap_fits(&sweep, sweep.found.count - 1, &start)
            if fits or sweep.is_over or not patient:
                break
            room_keep_last(&sweep, &room)
    if fits:
        return start
    if not patient:
        raise livelock(sweep.next, &sweep.busy)
    end = "the end" if hi is None else hex(hi)
    raise LookupError(f"no gap of {bytes:#x} bytes at a multiple of {granule:#x} from {lo:#x} to {end}")


# -- by key -----------------------------------------------------------------------------------------------------------

cdef int put_leaf(PageTable pt, object va, object value, bint replace) except -1:
    """Map what a Leaf maps, or (pa, flags) one page, at an address."""
    if isinstance(value, Leaf):
        pa, size, flags = value.pa, value.size, value.flags
        is_page = size in pt.arch.page_sizes or size in pt.arch.run_sizes
    elif isinstance(value, tuple) and len(value) == 2:
        (pa, flags), size, is_page = value, span(&pt.tree.format.level[1]), True
    else:
        raise TypeError(f"a Leaf, or a pair of a physical address and flags, is needed, not {value!r}")
    pt.map(va, pa, size, flags, page_size=size if is_page else None, replace=replace)
    return 0


cdef object take_leaf(PageTable pt, object va):
    """Unmap the leaf whose first address it is, and return it."""
    cdef uint64_t raw
    cdef Leaf leaf
    while True:
        leaf = leaf_in(pt, va, 0, None)
        if leaf.level > 1 or in_run(&pt.tree.format.level[1], leaf.raw):
            pt.unmap(va, leaf.size)
            return leaf
        raw = thawed(&pt.tree.format.level[1], leaf.raw)
        if change_leaf(pt, leaf.va, &raw, pt.tree.format.level[1].empty, 1):
            return leaf


cdef int clear_all(PageTable pt) except -1:
    """Unmap each part of the addresses that no range leaves: halves, or regions."""
    cdef uint64_t first, length = <uint64_t> 1 << (
        pt.tree.format.va_bits - max(pt.tree.format.region_bits, pt.tree.format.sign_extended)
    )
    cdef Sweep sweep
    sweep_begin(&sweep, pt.tree, NULL, SWEEP_LEAVES, 0, UNMAPPED_RAW)
    while not sweep.is_over:
        first = sweep.next
        pt.unmap(first, length)
        sweep_go_on(&sweep, first + length)
        sweep.is_over = sweep.is_over or sweep.next <= first
    return 0


# -- columns ----------------------------------------------------------------------------------------------------------

cdef enum:
    COLUMNS = 6

cdef str COLUMN_TYPES = "QQQBBQ"        # of Leaves


cdef Leaves export_leaves(PageTable pt, object lo, object hi, object out):
    cdef Sweep sweep
    cdef uint64_t count, room
    if out is not None:
        columns = [out.va, out.pa, out.size, out.flags, out.level, out.raw] if isinstance(out, Leaves) else list(out)
        if len(columns) != COLUMNS:
            raise ValueError(f"out has {len(columns)} columns, not {COLUMNS}: va, pa, size, flags, level, raw")
        sweep_range(pt, lo, hi, SWEEP_LEAVES, &sweep)
        count = columns_fill(&sweep, columns, 0)
        return Leaves(*(None if column is None else memoryview(column)[:count] for column in columns))
    room = count_leaves(pt, lo, hi, UNMAPPED_RAW)
    sweep_range(pt, lo, hi, SWEEP_LEAVES, &sweep)
    columns = [array(kind, [0]) * room for kind in COLUMN_TYPES]
    count = columns_fill(&sweep, columns, 0)
    while not sweep.is_over:                            # more than there were when they were counted
        for column in columns:
            column.frombytes(bytes(column.itemsize * max(1024, count // 8)))
        count = columns_fill(&sweep, columns, count)
    for column in columns:
        del column[count:]
    return Leaves(*columns)


cdef uint64_t columns_fill(Sweep *sweep, list columns, uint64_t count) except? 0xffffffffffffffff:
    """Fill columns after the first `count` elements, without the GIL; returns how many are filled then."""
    cdef Py_buffer buffers[COLUMNS]
    cdef char *starts[COLUMNS]
    cdef uint64_t steps[COLUMNS]                    # how far apart elements are; 0 for a column that nobody wants
    cdef uint64_t room = UNMAPPED_RAW, length
    cdef bint patient = True
    cdef int held = 0, i
    try:
        for i, column in enumerate(columns):
            steps[i] = 0
            starts[i] = NULL
            if column is None:
                continue
            if COLUMN_TYPES[i] == "Q":
                get_addresses(column, &buffers[held], PyBUF_WRITABLE)
            else:
                get_bytes(column, &buffers[held])
            held += 1
            starts[i] = <char *> buffers[held - 1].buf
            steps[i] = buffers[held - 1].itemsize
            length = buffers[held - 1].len // steps[i]
            if room != UNMAPPED_RAW and room != length:
                raise ValueError(f"the columns of out have room for {room} leaves, and for {length}")
            room = length
        if held == 0:
            raise ValueError("out has no column to fill")
        with nogil:
            while patient and not sweep.is_over and count < room:
                sweep.found.va = <uint64_t *> (starts[0] + count * steps[0])
                sweep.found.pa = <uint64_t *> (starts[1] + count * steps[1])
                sweep.found.size = <uint64_t *> (starts[2] + count * steps[2])
                sweep.found.attributes = <uint8_t *> (starts[3] + count * steps[3])
                sweep.found.level = <uint8_t *> (starts[4] + count * steps[4])
                sweep.found.raw = <uint64_t *> (starts[5] + count * steps[5])
                sweep.found.room = room - count
                sweep.found.count = 0
                sweep.is_full = False
                patient = sweep_all(sweep)
                count += sweep.found.count
    finally:
        for i in range(held):
            PyBuffer_Release(&buffers[i])
    if not patient:
        raise livelock(sweep.next, &sweep.busy)
    return count


cdef int get_bytes(object target, Py_buffer *buffer) except -1:
    """A C-contiguous writable buffer of single bytes."""
    PyObject_GetBuffer(target, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
    if buffer.itemsize != 1:
        text = <bytes> buffer.format
        PyBuffer_Release(buffer)
        raise TypeError(f"flags and level must be buffers of bytes such as array('B'), not of format {text.decode()!r}")
    return 0
