# SPDX-License-Identifier: MIT
"""What is found, as immutable records: Leaf, Step, Walk; Extent and Gap; and Leaves, a column for each field of a Leaf."""

cdef tuple FLAG_TEXT = tuple(
    "".join(letter for i, letter in enumerate(FLAGS) if bits >> i & 1) for bits in range(1 << ATTRIBUTES)
)


@cython.final
@cython.freelist(128)
@cython.dataclasses.dataclass(frozen=True, repr=False, init=False)
cdef class Leaf:
    """An entry that maps memory: `size` bytes from `va` to `pa`; `raw` is the entry as the hardware reads it.

    Or a run of entries that are one page: `raw` is then the one that was found, `flags` has accessed and dirty of any.
    """
    va: cython.ulonglong
    pa: cython.ulonglong
    size: cython.ulonglong
    flags: str
    level: cython.uint
    raw: cython.ulonglong

    def __init__(self, va, pa, size, flags, level, raw):
        cdef uint64_t number = as_count(level, "level")
        if not 0 < number <= LEVELS:
            raise ValueError(f"level must be 1 to {LEVELS}, not {number}")
        self.va = as_address(va, "va")
        self.pa = as_address(pa, "pa")
        self.size = as_count(size, "size")
        self.flags = flags
        self.level = <uint32_t> number
        self.raw = as_count(raw, "raw")

    def __repr__(self):
        return (
            f"Leaf(va={self.va:#x}, pa={self.pa:#x}, size={self.size:#x}, flags={self.flags!r}, "
            f"level={self.level}, raw={self.raw:#x})"
        )


@cython.dataclasses.dataclass(frozen=True, repr=False)
cdef class Step:
    """One level of a walk: entry `index` of the table at `table_pa`, its bits, and what they mean."""
    level: int
    table_pa: object
    index: int
    raw: object
    state: object

    def __repr__(self):
        return (
            f"Step(level={self.level}, table_pa={self.table_pa:#x}, index={self.index}, raw={self.raw:#x}, "
            f"state={self.state.name})"
        )


@cython.dataclasses.dataclass(frozen=True, repr=False)
cdef class Walk:
    """The whole path of an address: one `Step` a level; the `leaf`, or the `fault` in words."""
    va: object
    steps: tuple
    leaf: object
    fault: object

    def __repr__(self):
        return f"Walk(va={self.va:#x}, steps={self.steps!r}, leaf={self.leaf!r}, fault={self.fault!r})"


@cython.final
@cython.dataclasses.dataclass(frozen=True, repr=False)
cdef class Extent:
    """Neighbouring leaves, of whatever sizes, that map `length` bytes from `va` to as many from `pa`, all with `flags`."""
    va: object
    pa: object
    length: object
    flags: str

    def __repr__(self):
        return f"Run(va={self.va:#x}, pa={self.pa:#x}, length={self.length:#x}, flags={self.flags!r})"


@cython.final
@cython.dataclasses.dataclass(frozen=True, repr=False)
cdef class Gap:
    """`length` bytes from `va` on with nothing in them: no leaf, nor anything of software's own."""
    va: object
    length: object

    def __repr__(self):
        return f"Gap(va={self.va:#x}, length={self.length:#x})"


@cython.final
@cython.dataclasses.dataclass(frozen=True, repr=False, eq=False)
cdef class Leaves:
    """Many leaves, a column for each field of `Leaf`: buffers of 8-byte integers, and of bytes for `flags` and `level`.

    Bit n of an element of `flags` is letter n of "rwxugad".
    """
    va: object
    pa: object
    size: object
    flags: object
    level: object
    raw: object

    def __len__(self):
        columns = self.va, self.pa, self.size, self.flags, self.level, self.raw
        return next(len(column) for column in columns if column is not None)

    def __repr__(self):
        return f"<ptl.Leaves: {len(self)}>"


cdef inline Leaf leaf_of(
    uint64_t va, uint64_t pa, uint64_t size, uint32_t attributes, uint32_t level, uint64_t raw
):
    cdef Leaf leaf = Leaf.__new__(Leaf)
    leaf.va = va
    leaf.pa = pa
    leaf.size = size
    leaf.flags = <str> FLAG_TEXT[attributes]
    leaf.level = level
    leaf.raw = raw
    return leaf


cdef inline Extent extent_of(uint64_t va, uint64_t pa, uint64_t length, uint32_t attributes):
    cdef Extent extent = Extent.__new__(Extent)
    extent.va = va
    extent.pa = pa
    extent.length = length
    extent.flags = <str> FLAG_TEXT[attributes]
    return extent


cdef inline Gap gap_of(uint64_t va, uint64_t length):
    cdef Gap gap = Gap.__new__(Gap)
    gap.va = va
    gap.length = length
    return gap


cdef object leaf_record(Tree *tree, uint32_t level, uint64_t va, uint64_t raw, uint32_t used):
    """The Leaf that the entry of va is, of a table of that level, with what its run has `used` besides; or None."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t size
    if not is_leaf(format, raw) and not is_invalid(format, raw):
        return None
    size = bytes_of(format, run_of(format, raw))
    return leaf_of(
        va & ~(size - 1), leaf_address(format, raw, va) & ~(size - 1), size, attributes_of(format, raw) | used, level, raw
    )
