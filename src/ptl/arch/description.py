"""What an architecture is, as data: its levels and the meaning of every bit of an entry.

An entry is one of these, and the rules below tell which, in this order:

    TABLE    matches `Level.table`           points to the table one level down
    HUGE     matches `Level.leaf`            a leaf: maps `Level.span` bytes
    EMPTY    equals `Level.empty`            nothing here
    INVALID  matches `Level.invalid`         a huge leaf that hardware does not see while it is being split
    SOFT     is not present                  software's own: migration, swap, marker
    BAD      anything else                   present, and none of the above

A frozen entry keeps its value and carries one more bit, which hardware ignores: `Arch.frozen_present`
in a present entry, `Arch.frozen_absent` in any other. `Level.busy` is what a slot holds between table
and huge leaf.

The core reads a description once, when a table is made, and this module reads the same one to encode and
decode single entries in plain Python: two readers of one text, compared by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ptl._core import AddressError, FormatError, State

FLAGS = "rwxugad"
"""The portable attributes: read, write, execute, user, global, accessed, dirty."""

PERMISSIONS = frozenset("rwx")


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bits that decide: an entry matches when `entry & mask == value`."""

    mask: int
    value: int

    def matches(self, raw: int) -> bool:
        """Whether the entry has these bits."""
        return raw & self.mask == self.value


@dataclass(frozen=True, slots=True)
class Field:
    """Where an entry keeps a physical address: `(entry & mask) << left_shift`."""

    mask: int
    left_shift: int = 0

    def get(self, raw: int) -> int:
        """The address in bytes that the entry holds."""
        return (raw & self.mask) << self.left_shift

    def put(self, pa: int) -> int:
        """The bits of an entry that holds this address."""
        return pa >> self.left_shift & self.mask

    def holds(self, pa: int) -> bool:
        """Whether the address survives the way into an entry and back."""
        return self.get(self.put(pa)) == pa


@dataclass(frozen=True, slots=True)
class Flag:
    """How an entry says yes and no to one portable attribute."""

    mask: int
    yes: int
    no: int

    @classmethod
    def bit(cls, number: int) -> Flag:
        """A bit that is one for yes."""
        return cls(1 << number, 1 << number, 0)

    @classmethod
    def inverted(cls, number: int) -> Flag:
        """A bit that is zero for yes."""
        return cls(1 << number, 0, 1 << number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the tree: where its index sits in an address, and what its entries look like."""

    name: str
    shift: int
    bits: int
    table: Pattern | None
    """None on the leaf level."""
    table_set: int = 0
    """What a new entry for a table holds besides the address."""
    leaf: Pattern | None
    """None where the format has no leaf of this size."""
    leaf_any: int = 0
    """When not 0, a leaf, valid or invalid, must also have one of these bits."""
    leaf_never: Pattern | None = None
    """What a leaf, valid or invalid, must not look like: an encoding that the format reserves."""
    leaf_set: int = 0
    """What a new leaf holds besides address and attributes."""
    address: Field
    """Where an entry keeps the address of a table or of the smallest leaf."""
    invalid: Pattern | None = None
    """None where a leaf of this size cannot be split."""
    invalid_clear: int = 0
    """A leaf becomes invalid by clearing these bits and setting `invalid_set`."""
    invalid_set: int = 0
    empty: int = 0
    busy: int = 0

    @property
    def span(self) -> int:
        """The bytes that one entry covers."""
        return 1 << self.shift

    @property
    def entries(self) -> int:
        """How many entries a table of this level has."""
        return 1 << self.bits

    @property
    def leaf_address(self) -> Field:
        """Where a leaf of this size keeps its address: the low bits are not part of it."""
        low = (self.span - 1) >> self.address.left_shift
        return Field(self.address.mask & ~low, self.address.left_shift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soft:
    """Where an entry that is not present keeps what software wrote in it, the same on every level that has leaves.

    Such an entry is never taken for another state: its fields share no bit with `Arch.present_mask`,
    `Arch.frozen_absent` and `Level.busy`. Without `base` one pair of type 0 and an offset would be an empty entry: it
    is refused. The number of any frame that `Arch.pa_bits` can name fits in the offset, but where the format's own
    encoding has no room for it.
    """

    type_mask: int
    """Bits that follow one another."""
    offset_mask: int
    """Bits that follow one another."""
    exclusive: int
    """One bit that belongs to neither: no other table has the page."""
    base: int = 0
    """Bits that every such entry has."""
    inverted_offset: bool = False
    """Whether the offset is stored inverted: a small one then looks like an address far above all memory."""


@dataclass(frozen=True, slots=True)
class SoftEntry:
    """What software keeps in an entry that is not present: of which type, where, and whether nobody else has it."""

    type: int
    offset: int
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One decoded entry: its state, and for a leaf or a table the address, for a leaf the attributes."""

    state: State
    pa: int | None = None
    flags: str = ""
    frozen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture's page-table format.

    >>> import ptl.arch
    >>> x86 = ptl.arch.get("x86_64")
    >>> x86.levels, x86.page_sizes
    (4, (4096, 2097152, 1073741824))
    >>> hex(x86.encode(0x1000, "rw"))
    '0x8000000000001003'
    >>> x86.decode(0x8000000000001003).flags
    'rw'
    """

    name: str
    title: str
    """The name in the words of its manual."""
    source: str
    """The manual or header that the bits were taken from."""
    va_bits: int
    pa_bits: int
    root_bits: int = 64
    """How wide the address of the top table may be, where its register is narrower than `pa_bits`."""
    entry_bytes: int
    byte_order: str
    """How an entry lies in memory: "little" or "big"."""
    walker: str
    """Who reads the table: "hardware", or "software" that refills a TLB."""
    sign_extended: bool
    """Whether a canonical address repeats its top bit; otherwise the bits above are zero."""
    present_mask: int
    """An entry is present to software when `(entry ^ present_flip) & present_mask` is not 0."""
    present_flip: int = 0
    frozen_present: int
    frozen_absent: int
    flags: Mapping[str, Flag]
    """The attributes that an entry can withhold or grant, by letter."""
    implied: str = ""
    """Attributes that every leaf grants: the format has no bit to withhold them."""
    soft: Soft
    """How software's own entries are encoded, on every level that has leaves."""
    write_needs_read: bool = False
    """Whether "w" without "r" is an encoding that the format reserves."""
    verified_by: tuple[str, ...] = ()
    """Whose MMU judged the format, in the tests of this project: the names of emulators."""
    layout: tuple[Level, ...] = field(repr=False)
    """The levels, leaf level first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", MappingProxyType(dict(self.flags)))

    @property
    def levels(self) -> int:
        """How many levels a full walk passes."""
        return len(self.layout)

    @property
    def page_shift(self) -> int:
        """The base-2 logarithm of the smallest page, in bytes."""
        return self.layout[0].shift

    @property
    def page_sizes(self) -> tuple[int, ...]:
        """Every leaf size in bytes, smallest first."""
        return tuple(level.span for level in self.layout if level.leaf is not None)

    def level(self, number: int) -> Level:
        """The level of that number: 1 is the leaf level."""
        if not 1 <= number <= self.levels:
            raise ValueError(f"{self.name} has levels 1 to {self.levels}, not {number}")
        return self.layout[number - 1]

    def table_bytes(self, number: int) -> int:
        """The bytes of a table of that level."""
        return self.level(number).entries * self.entry_bytes

    def attributes(self, flags: str) -> str:
        """The attributes that a leaf asked for with `flags` will grant, in canonical order.

        Raises FormatError for a letter that is no attribute, for none of r, w and x, and for what this
        format cannot say.
        """
        asked = set(flags.lower())
        unknown = "".join(sorted(asked - set(FLAGS)))
        if unknown:
            raise FormatError(f"unknown flag {unknown!r} in {flags!r}; the flags are {FLAGS!r}")
        if not asked & PERMISSIONS:
            raise FormatError(f"flags {flags!r} grant no access: at least one of r, w and x is needed")
        impossible = "".join(letter for letter in FLAGS if letter in asked - set(self.flags) - set(self.implied))
        if impossible:
            raise FormatError(f"{self.name} has no bit for flag {impossible!r} of {flags!r}")
        granted = asked | set(self.implied)
        if self.write_needs_read and "w" in granted and "r" not in granted:
            raise FormatError(f"{self.name} reserves the encoding of {flags!r}: 'w' needs 'r'")
        return "".join(letter for letter in FLAGS if letter in granted)

    def encode(self, pa: int, flags: str, level: int = 1) -> int:
        """The entry of a leaf at `level` that maps the physical address with these attributes.

        Raises AddressError when the address is not aligned to the leaf or wider than the format's physical
        addresses, FormatError when the format has no leaf there or cannot express the flags.
        """
        geometry = self.level(level)
        if geometry.leaf is None:
            raise FormatError(f"{self.name} has no leaf at level {level}; page sizes are {self.page_sizes}")
        if pa % geometry.span:
            raise AddressError(f"pa {pa:#x} is not a multiple of the leaf's {geometry.span:#x} bytes")
        if not 0 <= pa < 1 << self.pa_bits or not geometry.leaf_address.holds(pa):
            raise AddressError(f"pa {pa:#x} is outside the {self.pa_bits} bits of {self.name}")
        granted = self.attributes(flags)
        raw = geometry.leaf_set | geometry.leaf_address.put(pa)
        for letter, flag in self.flags.items():
            raw |= flag.yes if letter in granted else flag.no
        return raw

    def decode(self, raw: int, level: int = 1) -> Entry:
        """What an entry of that level says.

        Raises ValueError for a number that does not fit an entry.
        """
        if not 0 <= raw < 1 << 8 * self.entry_bytes:
            raise ValueError(f"entry {raw:#x} does not fit {self.entry_bytes} bytes")
        geometry = self.level(level)
        frozen = bool(raw & self._frozen_bit(raw))
        if geometry.table is not None and geometry.table.matches(raw):
            return Entry(State.TABLE, geometry.address.get(raw), frozen=frozen)
        if self._is_leaf(geometry, geometry.leaf, raw):
            return Entry(State.HUGE, geometry.leaf_address.get(raw), self._flags_of(raw), frozen)
        if geometry.busy and raw == geometry.busy:
            return Entry(State.BUSY, frozen=True)
        if raw & ~self.frozen_absent == geometry.empty:
            return Entry(State.EMPTY, frozen=frozen)
        if self._is_leaf(geometry, geometry.invalid, raw):
            return Entry(State.INVALID, geometry.leaf_address.get(raw), self._flags_of(raw))
        if not self._present(raw):
            return Entry(State.SOFT, frozen=frozen)
        return Entry(State.BAD, frozen=frozen)

    @property
    def soft_types(self) -> int:
        """How many types software's entries can have."""
        return (self.soft.type_mask >> _shift(self.soft.type_mask)) + 1

    @property
    def soft_offsets(self) -> int:
        """How many offsets software's entries can have."""
        return (self.soft.offset_mask >> _shift(self.soft.offset_mask)) + 1

    def encode_soft(self, type: int, offset: int, *, exclusive: bool = False) -> int:
        """The entry, for any level that has leaves, that keeps a type and an offset while nothing is present.

        It is SOFT on each of these levels, frozen or not. Types begin with 0 and mean what the caller likes: a swap
        device, a migration to wait for, a marker. The offset of a migration is the number of a frame. Raises
        FormatError for a type that is not below `soft_types`, an offset that is not below `soft_offsets`, and for the
        one pair, if any, that would be an empty entry.

        >>> import ptl.arch
        >>> riscv = ptl.arch.get("riscv_sv39")
        >>> hex(riscv.encode_soft(3, 0x1234))
        '0x1234180'
        >>> riscv.decode_soft(0x1234180)
        SoftEntry(type=3, offset=4660, exclusive=False)
        """
        soft = self.soft
        if not 0 <= type < self.soft_types:
            raise FormatError(f"type {type} does not fit: {self.name} has types 0 to {self.soft_types - 1}")
        if not 0 <= offset < self.soft_offsets:
            raise FormatError(f"offset {offset:#x} does not fit: {self.name} has offsets below {self.soft_offsets:#x}")
        stored = offset << _shift(soft.offset_mask) ^ self._soft_flip
        raw = soft.base | type << _shift(soft.type_mask) | stored | (soft.exclusive if exclusive else 0)
        if any(raw == level.empty for level in self.layout):
            raise FormatError(f"type {type} with offset {offset:#x} is what {self.name} has for an empty entry")
        return raw

    def decode_soft(self, raw: int) -> SoftEntry:
        """The type and the offset in an entry that is SOFT on every level that has leaves; it may be frozen.

        Raises FormatError for any other entry, ValueError for a number that does not fit an entry.
        """
        for number, level in enumerate(self.layout, 1):
            if level.leaf is not None and (state := self.decode(raw, number).state) is not State.SOFT:
                raise FormatError(f"entry {raw:#x} of {self.name} is {state.name} on level {number}, not SOFT")
        soft = self.soft
        return SoftEntry(
            (raw & soft.type_mask) >> _shift(soft.type_mask),
            ((raw ^ self._soft_flip) & soft.offset_mask) >> _shift(soft.offset_mask),
            bool(raw & soft.exclusive),
        )

    @property
    def _soft_flip(self) -> int:
        return self.soft.offset_mask if self.soft.inverted_offset else 0

    @staticmethod
    def _is_leaf(level: Level, pattern: Pattern | None, raw: int) -> bool:
        """Whether an entry is a leaf of that pattern: the valid, or the invalid one."""
        if pattern is None or not pattern.matches(raw):
            return False
        reserved = level.leaf_never is not None and level.leaf_never.matches(raw)
        return not reserved and (not level.leaf_any or bool(raw & level.leaf_any))

    def _present(self, raw: int) -> bool:
        return bool((raw ^ self.present_flip) & self.present_mask)

    def _frozen_bit(self, raw: int) -> int:
        return self.frozen_present if self._present(raw) else self.frozen_absent

    def _flags_of(self, raw: int) -> str:
        return "".join(
            letter
            for letter in FLAGS
            if letter in self.implied
            or (letter in self.flags and raw & self.flags[letter].mask == self.flags[letter].yes)
        )


def _shift(mask: int) -> int:
    """The number of the lowest bit of a mask."""
    return (mask & -mask).bit_length() - 1
