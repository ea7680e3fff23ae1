"""What an architecture is, as data: its levels and the meaning of every bit of an entry.

An entry is one of these, and the rules below tell which, in this order:

    EMPTY    equals `Level.empty`            nothing here; bits of `Level.empty_ignores` do not count
    TABLE    matches `Level.table`           points to the table one level down
    HUGE     matches `Level.leaf`            a leaf: maps `Level.span` bytes
    BUSY     equals `Level.busy`             between table and huge leaf
    INVALID  matches `Level.invalid`         a leaf that hardware does not see while its size changes
    SOFT     is not present                  software's own: migration, swap, marker
    BAD      anything else                   present, and none of the above

A leaf with the marks of one of `Level.runs` is one of so many neighbours in its table that are one larger page.

EMPTY comes first where an empty slot names a table of nothing (mips): it is that one value, and no other.

A frozen entry keeps its value and carries one more bit, which hardware ignores: `Word.frozen_present`
in a present entry, `Word.frozen_absent` in any other. Only what somebody without a lock may change is ever
frozen: leaves, software's entries, and what is empty in a leaf table. So a level that has neither leaves nor
is the leaf level needs no such bit. `Level.busy` is what a slot holds between table and huge leaf.

Where software walks, it looks at that bit on levels with runs: whoever refills a TLB takes no frozen leaf, and
looks again, for a run may be being made there or taken apart.

The core reads a description once, when a table is made, and this module reads the same one to encode and
decode single entries in plain Python: two readers of one text, compared by the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

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
    """Where an entry keeps a physical address: `(entry & mask) << left_shift`; a negative shift is one to the right.

    `high_mask` and `high_left_shift` are the same for the upper bits of an address that does not lie in one piece.
    `copy_shift` says where an entry that is a pair of words has all of it a second time.
    """

    mask: int
    left_shift: int = 0
    high_mask: int = 0
    high_left_shift: int = 0
    copy_shift: int = 0

    def get(self, raw: int) -> int:
        """The address in bytes that the entry holds."""
        return _shifted(raw & self.mask, self.left_shift) | (raw & self.high_mask) << self.high_left_shift

    def put(self, pa: int) -> int:
        """The bits of an entry that holds this address."""
        raw = _shifted(pa, -self.left_shift) & self.mask | pa >> self.high_left_shift & self.high_mask
        return raw | raw << self.copy_shift

    def holds(self, pa: int) -> bool:
        """Whether the address survives the way into an entry and back."""
        return self.get(self.put(pa)) == pa

    @property
    def bits(self) -> int:
        """Every bit of an entry that the field takes."""
        bits = self.mask | self.high_mask
        return bits | bits << self.copy_shift


@dataclass(frozen=True, slots=True)
class Choice:
    """Bits of an entry that say some of the portable attributes: most often one bit and one letter.

    `values` has every value of the bits that means something, with the letters that it grants. Of several with the same
    letters the first is written. Any other value grants none of them.

    Bits `along` are written with these, as `values` has them, and not looked at: the same once more, in words that
    hardware knows.
    """

    mask: int
    values: tuple[tuple[int, str], ...]
    along: int = 0

    @classmethod
    def bit(cls, letter: str, number: int) -> Choice:
        """A bit that is one for yes."""
        return cls(1 << number, ((0, ""), (1 << number, letter)))

    @classmethod
    def inverted(cls, letter: str, number: int) -> Choice:
        """A bit that is zero for yes."""
        return cls(1 << number, ((1 << number, ""), (0, letter)))

    @classmethod
    def trapping(cls, right: Choice, used: Choice, passes: int, *, suffices: bool) -> Choice:
        """A right, whether software saw it used, and the bit without which hardware traps to tell software.

        The bit goes with both. `suffices` says whether hardware looks at nothing but it; then it grants the right.
        """
        pairs = [(a | b, granted, seen) for a, granted in right.values for b, seen in used.values]
        usual = [(raw | (passes if granted and seen else 0), granted + seen) for raw, granted, seen in pairs]
        other = [(raw | passes, (right.letters if suffices else granted) + seen) for raw, granted, seen in pairs]
        other += [(raw, granted + seen) for raw, granted, seen in pairs if granted and seen]
        return cls(right.mask | used.mask | passes, (*usual, *(pair for pair in other if pair not in usual)))

    @property
    def bits(self) -> int:
        """Every bit that is written."""
        return self.mask | self.along

    @property
    def letters(self) -> str:
        """The attributes that it decides, in the order of `FLAGS`."""
        return "".join(letter for letter in FLAGS if any(letter in granted for _, granted in self.values))

    def get(self, raw: int) -> str:
        """The attributes that the bits of an entry grant."""
        return next((granted for value, granted in self.values if not (value ^ raw) & self.mask), "")

    def put(self, asked: Iterable[str]) -> tuple[int, str]:
        """The bits, and what they grant: what was asked for, and as little besides as can be said."""
        wanted = set(asked) & set(self.letters)
        enough = [(value, granted) for value, granted in self.values if wanted <= set(granted)]
        return min(enough, key=lambda choice: len(choice[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Soft:
    """Where an entry that is not present keeps what software wrote in it.

    Such an entry is never taken for another state: its fields share no bit with `Word.present_mask`,
    `Word.frozen_absent` and `Level.busy`. Without `base` one pair of type 0 and an offset would be an empty entry: it
    is refused. The number of any frame that `Arch.pa_bits` can name fits in the offset, but where the format's own
    encoding has no room for it.
    """

    type_mask: int
    """Bits that follow one another."""
    offset_mask: int
    """Bits that follow one another, but in a format without huge leaves: there they may have a gap."""
    exclusive: int
    """One bit that belongs to neither: no other table has the page."""
    base: int = 0
    """Bits that every such entry has."""
    inverted_offset: bool = False
    """Whether the offset is stored inverted: a small one then looks like an address far above all memory."""

    @property
    def flip(self) -> int:
        """The bits that are stored inverted."""
        return self.offset_mask if self.inverted_offset else 0

    def put(self, type: int, offset: int, exclusive: bool) -> int:
        """The entry that keeps these."""
        stored = _scattered(offset, self.offset_mask) ^ self.flip
        return self.base | _scattered(type, self.type_mask) | stored | (self.exclusive if exclusive else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the entries of one level or of several have in common: presence, freezing, attributes, software's own."""

    bytes: int
    """How long an entry is."""
    present_mask: int
    """An entry is present to software when `(entry ^ present_flip) & present_mask` is not 0."""
    present_flip: int = 0
    frozen_present: int
    """The bit that freezes a leaf."""
    frozen_mask: int = 0
    """The bits that are all set in a frozen leaf, if it takes more than that one to tell."""
    frozen_absent: int
    """The bit that freezes what is not present."""
    attributes: tuple[Choice, ...]
    """What a leaf can withhold or grant."""
    soft: Soft
    """How software's own entries are encoded, on the levels that have leaves."""

    def present(self, raw: int) -> bool:
        """Whether software calls the entry present."""
        return bool((raw ^ self.present_flip) & self.present_mask)

    def frozen_bit(self, raw: int) -> int:
        """The bit that freezes an entry of this value, or would."""
        return self.frozen_present if self.present(raw) else self.frozen_absent

    def is_frozen(self, raw: int) -> bool:
        """Whether the entry is frozen, on a level where entries are."""
        mask = self.frozen_mask if self.frozen_mask and self.present(raw) else self.frozen_bit(raw)
        return raw & mask == mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """What hardware reads in place of an entry that it does not know: another word, at a fixed distance behind it.

    The shadow is 0 for an entry without all bits of `needs`. Otherwise it is `always`, the bits of the entry in
    `copies`, and for each of the `rules` that the entry matches the bits of that rule. Freezing an entry does not
    change it.
    """

    offset: int
    """Bytes from an entry to its shadow."""
    needs: int
    copies: int
    always: int
    rules: tuple[tuple[Pattern, int], ...]

    def of(self, raw: int) -> int:
        """The shadow of an entry."""
        if raw & self.needs != self.needs:
            return 0
        word = self.always | raw & self.copies
        for pattern, bits in self.rules:
            word |= bits if pattern.matches(raw) else 0
        return word


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbours in one table, aligned to their number, that are one larger page: they differ in their address at most.

    Accessed and dirty may be set in any of them, and count for all.
    """

    entries: int
    """How many: a power of two, at most a table's."""
    marks: Pattern
    """What each of them looks like. A leaf by itself has what `Level.leaf_set` has under that mask, addresses aside."""
    is_base: bool = False
    """Whether each of them has the address of the first; its low bits, which would be 0, may be marks. Otherwise each
    has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the tree: where its index sits in an address, and what its entries look like."""

    name: str
    word: Word
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
    leaf_field: Field | None = None
    """Where a leaf keeps its address, if not where an entry keeps that of a table."""
    runs: tuple[Run, ...] = ()
    """The larger pages that leaves of this level can be together, smallest first."""
    invalid: Pattern | None = None
    """None where a leaf of this size cannot be split, and hardware sees no runs to take apart."""
    invalid_clear: int = 0
    """A leaf becomes invalid by clearing these bits and setting `invalid_set`."""
    invalid_set: int = 0
    empty: int = 0
    empty_ignores: int = 0
    """Bits that an empty entry may have or not: hardware may set them late."""
    empty_is_table: bool = False
    """Whether an empty slot names a table with nothing in it, which all such slots share: so a handler that refills a
    TLB need not look. `empty` then names one at address 0, and in the `arch` of a `PageTable` that table's own."""
    busy: int = 0
    shadow: Shadow | None = None
    """None where hardware reads the entries themselves."""

    @property
    def span(self) -> int:
        """The bytes that one entry covers."""
        return 1 << self.shift

    @property
    def entries(self) -> int:
        """How many entries a table of this level has."""
        return 1 << self.bits

    @property
    def table_bytes(self) -> int:
        """The bytes of a table of this level, shadows included."""
        return self.entries * self.word.bytes * (1 if self.shadow is None else 2)

    @property
    def leaf_address(self) -> Field:
        """Where a leaf of this size keeps its address: the low bits are not part of it."""
        own = self.leaf_field or self.address
        return replace(own, mask=own.mask & ~_shifted(self.span - 1, -own.left_shift))

    def run_of(self, raw: int) -> Run | None:
        """The run that a leaf is part of."""
        return next((run for run in self.runs if run.marks.matches(raw)), None) if self._may_be_run(raw) else None

    def run_bytes(self, run: Run) -> int:
        """The bytes that a run of this level maps."""
        return run.entries * self.span

    def address_in_run(self, run: Run) -> Field:
        """Where an entry of a run keeps its address, or that of the first."""
        own = self.leaf_address
        low = self.run_bytes(run) - 1 if run.is_base else 0
        return replace(own, mask=own.mask & ~_shifted(low, -own.left_shift))

    def _may_be_run(self, raw: int) -> bool:
        return any((raw ^ self.leaf_set) & run.marks.mask & ~self.leaf_address.bits for run in self.runs)

    def lacks_run(self, raw: int) -> bool:
        """Whether the entry has marks that no run has."""
        return self._may_be_run(raw) and self.run_of(raw) is None

    @property
    def hides_table_at_0(self) -> bool:
        """Whether an entry for a table at address 0 would be an empty one: then no table may lie there."""
        return self.table is not None and self.table_set == self.empty and not self.empty_is_table

    @property
    def freezes(self) -> bool:
        """Whether there is anything on this level that is ever frozen."""
        return self.table is None or self.leaf is not None

    def is_frozen(self, raw: int) -> bool:
        """Whether the entry is frozen."""
        is_table = self.table is not None and self.table.matches(raw)
        return self.freezes and not is_table and self.word.is_frozen(raw)


@dataclass(frozen=True, slots=True)
class SoftEntry:
    """What software keeps in an entry that is not present: of which type, where, and whether nobody else has it."""

    type: int
    offset: int
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One decoded entry: its state, and for a leaf or a table the address, for a leaf the attributes.

    `run` is what a leaf is part of; where each entry of the run has the address of the first, `pa` is that.
    """

    state: State
    pa: int | None = None
    flags: str = ""
    frozen: bool = False
    run: Run | None = None


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
    byte_order: str
    """How an entry lies in memory: "little" or "big"."""
    walker: str
    """Who reads the table: "hardware", or "software" that refills a TLB."""
    sign_extended: bool
    """Whether a canonical address repeats its top bit; otherwise the bits above are zero."""
    region_bits: int = 0
    """How many of the `va_bits` are not next to the others but at the top of the 64 (ia64)."""
    implied: str = ""
    """Attributes that every leaf grants: the format has no bit to withhold them."""
    write_needs_read: bool = False
    """Whether "w" without "r" is an encoding that the format reserves."""
    verified_by: tuple[str, ...] = ()
    """Whose MMU judged the format, in the tests of this project: the names of emulators."""
    layout: tuple[Level, ...] = field(repr=False)
    """The levels, leaf level first."""

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
        """The bytes of every leaf that is one entry, smallest first: what `PageTable.map` takes by itself."""
        return tuple(level.span for level in self.layout if level.leaf is not None)

    @property
    def run_sizes(self) -> tuple[int, ...]:
        """The bytes of every leaf that is a run of entries, smallest first: what `PageTable.map` makes when asked to.

        >>> import ptl.arch
        >>> ptl.arch.get("arm64_4k").run_sizes
        (65536, 33554432, 17179869184)
        """
        return tuple(sorted(level.run_bytes(run) for level in self.layout for run in level.runs))

    @property
    def entry_bytes(self) -> int:
        """The bytes of an entry of the leaf level."""
        return self.layout[0].word.bytes

    @property
    def table_bits(self) -> int:
        """How wide the address of a table can be: less than `pa_bits` where entries have less room for it."""
        reach = (level.address.get(level.address.bits).bit_length() for level in self.layout[1:])
        return min(self.pa_bits, *reach)

    @property
    def flags(self) -> str:
        """The attributes that a leaf can withhold or grant, in the order of `FLAGS`."""
        decided = "".join(choice.letters for choice in self.layout[0].word.attributes)
        return "".join(letter for letter in FLAGS if letter in decided)

    def canonical(self, number: int) -> int:
        """The address with these low `va_bits`, the others as the architecture wants them.

        >>> import ptl.arch
        >>> hex(ptl.arch.get("x86_64").canonical(0x8000_0000_0000))
        '0xffff800000000000'
        """
        number &= (1 << self.va_bits) - 1
        if self.sign_extended:
            return number | (1 << 64) - (1 << self.va_bits) if number >> self.va_bits - 1 else number
        together = self.va_bits - self.region_bits
        return number >> together << 64 - self.region_bits | number & (1 << together) - 1

    def level(self, number: int) -> Level:
        """The level of that number: 1 is the leaf level."""
        if not 1 <= number <= self.levels:
            raise ValueError(f"{self.name} has levels 1 to {self.levels}, not {number}")
        return self.layout[number - 1]

    def table_bytes(self, number: int) -> int:
        """The bytes of a table of that level."""
        return self.level(number).table_bytes

    def attributes(self, flags: str) -> str:
        """The attributes that a leaf asked for with `flags` will grant, in canonical order.

        Those, and what the format cannot withhold from whoever has them. Raises FormatError for a letter that is no
        attribute, for none of r, w and x, and for what this format cannot say.
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
        for choice in self.layout[0].word.attributes:
            granted |= set(choice.put(asked)[1])
        if self.write_needs_read and "w" in granted and "r" not in granted:
            raise FormatError(f"{self.name} reserves the encoding of {flags!r}: 'w' needs 'r'")
        return "".join(letter for letter in FLAGS if letter in granted)

    def encode(self, pa: int, flags: str, level: int = 1, *, run: Run | None = None) -> int:
        """The entry of a leaf at `level` that maps the physical address with these attributes; or one of a run's.

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
        field, raw = geometry.leaf_address, geometry.leaf_set
        if run is not None:
            field, raw = geometry.address_in_run(run), raw & ~run.marks.mask | run.marks.value
        raw |= field.put(pa)
        for choice in geometry.word.attributes:
            raw |= choice.put(granted)[0]
        return raw

    def decode(self, raw: int, level: int = 1) -> Entry:
        """What an entry of that level says.

        Raises ValueError for a number that does not fit an entry.
        """
        geometry = self.level(level)
        word = geometry.word
        if not 0 <= raw < 1 << 8 * word.bytes:
            raise ValueError(f"entry {raw:#x} does not fit {word.bytes} bytes")
        frozen = geometry.is_frozen(raw)
        if raw & ~(word.frozen_absent if geometry.freezes else 0) & ~geometry.empty_ignores == geometry.empty:
            return Entry(State.EMPTY, frozen=frozen)
        if geometry.table is not None and geometry.table.matches(raw):
            return Entry(State.TABLE, geometry.address.get(raw))
        if self._is_leaf(geometry, geometry.leaf, raw):
            return self._leaf_entry(State.HUGE, geometry, raw, frozen)
        if geometry.busy and raw == geometry.busy:
            return Entry(State.BUSY, frozen=True)
        if self._is_leaf(geometry, geometry.invalid, raw):
            return self._leaf_entry(State.INVALID, geometry, raw, frozen)
        if not word.present(raw):
            return Entry(State.SOFT, frozen=frozen)
        return Entry(State.BAD, frozen=frozen)

    @property
    def soft_types(self) -> int:
        """How many types software's entries can have."""
        return 1 << self.layout[0].word.soft.type_mask.bit_count()

    @property
    def soft_offsets(self) -> int:
        """How many offsets software's entries can have."""
        return 1 << self.layout[0].word.soft.offset_mask.bit_count()

    def encode_soft(self, type: int, offset: int, level: int = 1, *, exclusive: bool = False) -> int:
        """The entry, for a level that has leaves, that keeps a type and an offset while nothing is present.

        Types begin with 0 and mean what the caller likes: a swap device, a migration to wait for, a marker. The offset
        of a migration is the number of a frame. Raises FormatError for a type that is not below `soft_types`, an
        offset that is not below `soft_offsets`, for the one pair, if any, that would be an empty entry, there or for
        a page, and when the format has no leaf on that level.

        >>> import ptl.arch
        >>> riscv = ptl.arch.get("riscv_sv39")
        >>> hex(riscv.encode_soft(3, 0x1234))
        '0x1234180'
        >>> riscv.decode_soft(0x1234180)
        SoftEntry(type=3, offset=4660, exclusive=False)
        """
        geometry = self.level(level)
        if geometry.leaf is None:
            raise FormatError(f"{self.name} has no leaf at level {level}; page sizes are {self.page_sizes}")
        if not 0 <= type < self.soft_types:
            raise FormatError(f"type {type} does not fit: {self.name} has types 0 to {self.soft_types - 1}")
        if not 0 <= offset < self.soft_offsets:
            raise FormatError(f"offset {offset:#x} does not fit: {self.name} has offsets below {self.soft_offsets:#x}")
        if any(on.word.soft.put(type, offset, exclusive) == on.empty for on in (geometry, self.layout[0])):
            raise FormatError(f"type {type} with offset {offset:#x} is what {self.name} has for an empty entry")
        return geometry.word.soft.put(type, offset, exclusive)

    def decode_soft(self, raw: int, level: int = 1) -> SoftEntry:
        """The type and the offset in a SOFT entry of that level; it may be frozen.

        Raises FormatError for any other entry, ValueError for a number that does not fit an entry.
        """
        geometry = self.level(level)
        state = self.decode(raw, level).state
        if state is not State.SOFT or geometry.leaf is None:
            raise FormatError(f"entry {raw:#x} of {self.name} is {state.name} on level {level}, not SOFT")
        soft = geometry.word.soft
        return SoftEntry(
            _gathered(raw, soft.type_mask),
            _gathered(raw ^ soft.flip, soft.offset_mask),
            bool(raw & soft.exclusive),
        )

    def _leaf_entry(self, state: State, level: Level, raw: int, frozen: bool) -> Entry:
        run = level.run_of(raw)
        field = level.leaf_address if run is None else level.address_in_run(run)
        return Entry(state, field.get(raw), self._flags_of(level.word, raw), frozen, run)

    @staticmethod
    def _is_leaf(level: Level, pattern: Pattern | None, raw: int) -> bool:
        """Whether an entry is a leaf of that pattern: the valid, or the invalid one."""
        if pattern is None or not pattern.matches(raw) or level.lacks_run(raw):
            return False
        reserved = level.leaf_never is not None and level.leaf_never.matches(raw)
        return not reserved and (not level.leaf_any or bool(raw & level.leaf_any))

    def _flags_of(self, word: Word, raw: int) -> str:
        granted = self.implied + "".join(choice.get(raw) for choice in word.attributes)
        return "".join(letter for letter in FLAGS if letter in granted)


def _shifted(bits: int, left: int) -> int:
    return bits << left if left >= 0 else bits >> -left


def _pieces(mask: int) -> Iterator[tuple[int, int]]:
    """The runs of bits in a mask, lowest first: each one's lowest bit, by number, and how many there are."""
    while mask:
        low = (mask & -mask).bit_length() - 1
        width = (~(mask >> low) & (mask >> low) + 1).bit_length() - 1
        yield low, width
        mask &= -1 << low + width


def _scattered(number: int, mask: int) -> int:
    """The bits of a number, lowest first, in the places that the mask has."""
    raw = 0
    for low, width in _pieces(mask):
        raw |= (number & (1 << width) - 1) << low
        number >>= width
    return raw


def _gathered(raw: int, mask: int) -> int:
    """The number whose bits lie in the places that the mask has: the inverse of `_scattered`."""
    number = place = 0
    for low, width in _pieces(mask):
        number |= (raw >> low & (1 << width) - 1) << place
        place += width
    return number
