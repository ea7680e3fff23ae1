"""What every bit of an address and of an entry is, read from the description: the bit rulers that manuals draw.

x86_64   63        48 47       39 38       30 29       21 20       12 11      0
| sign      | level 4   | level 3   | level 2   | level 1   | offset  |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ptl.arch.description import FLAGS, Arch, Choice

WORDS = {
    "r": "read",
    "w": "write",
    "x": "execute",
    "u": "user",
    "g": "global",
    "a": "accessed",
    "d": "dirty",
}
"""The portable attributes in words, by letter."""


class Part(Enum):
    """What a bit is there for."""

    INDEX = "the index of an entry"
    ADDRESS = "an address, or the offset in a page"
    ATTRIBUTE = "an attribute"
    FIXED = "decides what the entry is"
    RUN = "marks one of several entries that are one page"
    WRITTEN = "written so by ptl, and not looked at"
    ALONG = "follows from attributes, and not looked at"
    SOFTWARE = "software's own"
    OTHER = "not looked at by ptl"


@dataclass(frozen=True, slots=True)
class BitField:
    """Bits `high` to `low` of a word, both included: their name, short enough for a drawing, and what they are for."""

    high: int
    low: int
    name: str
    part: Part

    @property
    def width(self) -> int:
        """How many bits."""
        return self.high - self.low + 1


@dataclass(frozen=True, slots=True)
class Ruler:
    """A word from its highest bit to bit 0, each bit in one field."""

    title: str
    fields: tuple[BitField, ...]


def rulers(arch: Arch) -> tuple[Ruler, ...]:
    """An address of the format, then each kind of entry that it has; levels with equal entries share a ruler.

    >>> import ptl.arch
    >>> from ptl.arch.bits import rulers
    >>> [ruler.title for ruler in rulers(ptl.arch.get("i386"))]
    ['address', 'leaf of 4 KiB, level 1', 'leaf of 4 MiB, level 2', 'table, level 2', "software's, levels 1, 2"]
    """
    leaves = [
        (f"leaf of {size(level.span)}", number, leaf_fields(arch, number))
        for number, level in enumerate(arch.layout, 1)
        if level.leaf is not None
    ]
    tables = [("table", number, table_fields(arch, number)) for number in range(2, arch.levels + 1)]
    soft = [
        ("software's", number, soft_fields(arch, number))
        for number, level in enumerate(arch.layout, 1)
        if level.leaf is not None
    ]
    return (
        Ruler("address", address_fields(arch)),
        *_shared(leaves),
        *_shared(tables),
        *_shared(soft),
    )


def _shared(entries: list[tuple[str, int, tuple[BitField, ...]]]) -> list[Ruler]:
    """One ruler for all levels that look the same."""
    levels: dict[tuple[str, tuple[BitField, ...]], list[int]] = {}
    for title, number, fields in entries:
        levels.setdefault((title, fields), []).append(number)
    return [
        Ruler(f"{title}, level{'s'[: len(on) > 1]} {', '.join(map(str, on))}", fields)
        for (title, fields), on in levels.items()
    ]


def address_fields(arch: Arch) -> tuple[BitField, ...]:
    """How an address is split: what is above it, an index a level, the offset in the smallest page."""
    together = arch.va_bits - arch.region_bits

    def part_of(bit: int) -> tuple[str, Part]:
        if bit >= 64 - arch.region_bits:
            return f"level {arch.levels}", Part.INDEX
        if bit >= together:
            return ("sign" if arch.sign_extended else "0"), Part.FIXED
        for number, level in enumerate(arch.layout, 1):
            if level.shift <= bit < level.shift + level.bits:
                return f"level {number}", Part.INDEX
        return "offset", Part.ADDRESS

    return _fields(64 if arch.va_bits > 32 else 32, part_of)


def leaf_fields(arch: Arch, number: int) -> tuple[BitField, ...]:
    """A leaf of that level. "¬X" is a bit that withholds the attribute X, and "x" one that is written along with it."""
    level = arch.level(number)
    pattern = level.leaf
    if pattern is None:
        raise ValueError(f"{arch.name} has no leaf at level {number}; page sizes are {arch.page_sizes}")

    def part_of(bit: int) -> tuple[str, Part]:
        if level.leaf_address.bits >> bit & 1:
            return "physical address", Part.ADDRESS
        for choice in level.word.attributes:
            if choice.mask >> bit & 1:
                return _decided(choice, bit), Part.ATTRIBUTE
            if choice.along >> bit & 1:
                return _followed(choice, bit), Part.ALONG
        if level.word.frozen_present >> bit & 1:
            return "F", Part.SOFTWARE
        if any(run.marks.mask >> bit & 1 for run in level.runs):
            return "run", Part.RUN
        if pattern.mask >> bit & 1:
            return str(pattern.value >> bit & 1), Part.FIXED
        if level.leaf_set >> bit & 1:
            return "1", Part.WRITTEN
        return "", Part.OTHER

    return _fields(8 * level.word.bytes, part_of)


def _decided(choice: Choice, bit: int) -> str:
    """The attributes that a bit and its neighbours in the choice decide, with a "¬" for one bit that withholds them.

    Those that change when nothing else does; where none does, all of the choice.
    """
    field = 1 << bit
    decided = {value & choice.mask: set(granted) for value, granted in choice.values}
    if not _is_independent(decided, field):
        while (wider := (field << 1 | field >> 1 | field) & choice.mask) != field:
            field = wider
    pairs = [
        (granted, others)
        for value, granted in decided.items()
        for other, others in decided.items()
        if value < other and not (value ^ other) & ~field
    ]
    changed = {letter for granted, others in pairs for letter in granted ^ others}
    withholds = field.bit_count() == 1 and changed and all(others <= granted for granted, others in pairs)
    letters = "".join(letter for letter in choice.letters if letter in (changed or choice.letters))
    return ("¬" if withholds else "") + letters.upper()


def _is_independent(decided: dict[int, set[str]], bit: int) -> bool:
    """Whether a bit says one attribute, the same whatever the others say."""
    if not all(value ^ bit in decided for value in decided):
        return False
    changes = {frozenset(granted ^ decided[value ^ bit]) for value, granted in decided.items()}
    return len(changes) == 1 and len(next(iter(changes))) == 1


def _followed(choice: Choice, bit: int) -> str:
    """The attributes that a bit depends on which is written along with a choice."""
    written = {frozenset(granted): value >> bit & 1 for value, granted in reversed(choice.values)}
    changing = (
        (letter, written.get(granted ^ {letter}, one) != one)
        for granted, one in written.items()
        for letter in choice.letters
    )
    found = {letter for letter, changes in changing if changes}
    return "".join(letter for letter in choice.letters if letter in found)


def table_fields(arch: Arch, number: int) -> tuple[BitField, ...]:
    """An entry of that level that points to a table."""
    level = arch.level(number)
    pattern = level.table
    if pattern is None:
        raise ValueError(f"{arch.name} has no tables below level {number}")

    def part_of(bit: int) -> tuple[str, Part]:
        if level.address.bits >> bit & 1:
            return "address of the table", Part.ADDRESS
        if pattern.mask >> bit & 1:
            return str(pattern.value >> bit & 1), Part.FIXED
        if level.table_set >> bit & 1:
            return "1", Part.WRITTEN
        return "", Part.OTHER

    return _fields(8 * level.word.bytes, part_of)


def soft_fields(arch: Arch, number: int) -> tuple[BitField, ...]:
    """What software keeps on that level where nothing is present: a type and an offset. E is the exclusive bit."""
    word = arch.level(number).word
    soft = word.soft

    def part_of(bit: int) -> tuple[str, Part]:
        if soft.type_mask >> bit & 1:
            return "type", Part.SOFTWARE
        if soft.offset_mask >> bit & 1:
            return "offset, inverted" if soft.inverted_offset else "offset", Part.SOFTWARE
        if soft.exclusive >> bit & 1:
            return "E", Part.SOFTWARE
        if word.frozen_absent >> bit & 1:
            return "F", Part.SOFTWARE
        return str(soft.base >> bit & 1), Part.FIXED

    return _fields(8 * word.bytes, part_of)


def _fields(bits: int, part_of: Callable[[int], tuple[str, Part]]) -> tuple[BitField, ...]:
    """The fields of a word, highest first; neighbours of one name are one field, but for ones: each of them counts."""
    fields: list[BitField] = []
    for bit in reversed(range(bits)):
        name, part = part_of(bit)
        if fields and (fields[-1].name, fields[-1].part) == (name, part) and name != "1":
            fields[-1] = BitField(fields[-1].high, bit, name, part)
        else:
            fields.append(BitField(bit, bit, name, part))
    return tuple(fields)


def legend(arch: Arch) -> dict[str, str]:
    """What the short names in the rulers of a format stand for, in the order of `FLAGS`."""
    fields = {field for ruler in rulers(arch) for field in ruler.fields}

    def names(part: Part) -> list[str]:
        found = {field.name for field in fields if field.part is part}
        return sorted(found, key=lambda name: (len(name.strip("¬")), FLAGS.index(name.strip("¬")[0].lower()), name))

    words: dict[str, str] = {}
    for name in names(Part.ATTRIBUTE):
        word = " and ".join(WORDS[letter] for letter in name.strip("¬").lower())
        words[name] = f"{'no ' if name[0] == '¬' else ''}{word}{', together' if ' and ' in word else ''}"
    for name in names(Part.ALONG):
        words[name] = "follows " + " and ".join(WORDS[letter] for letter in name)
    if any(level.runs for level in arch.layout):
        words["run"] = "one of several entries that are one page"
    return words | {"F": "frozen: a change of the table is under way", "E": "exclusive: no other table has the page"}


def entry_sizes(arch: Arch) -> str:
    """How many bytes entries have: those for pages, and then others if there are.

    >>> import ptl.arch
    >>> from ptl.arch.bits import entry_sizes
    >>> entry_sizes(ptl.arch.get("parisc")), entry_sizes(ptl.arch.get("parisc64"))
    ('4', '8 and 4')
    """
    return " and ".join(dict.fromkeys(str(level.word.bytes) for level in arch.layout))


def pages(arch: Arch) -> str:
    """The sizes of its pages in words, those that are runs of entries last.

    >>> import ptl.arch
    >>> from ptl.arch.bits import pages
    >>> pages(ptl.arch.get("riscv_sv39"))
    '4 KiB, 2 MiB, 1 GiB; runs of 64 KiB'
    """
    runs = "; runs of " + ", ".join(map(size, arch.run_sizes)) if arch.run_sizes else ""
    return ", ".join(map(size, arch.page_sizes)) + runs


def size(byte_count: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number.

    >>> from ptl.arch.bits import size
    >>> size(4096), size(2 << 20), size(512 << 30)
    ('4 KiB', '2 MiB', '512 GiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while byte_count % 1024 == 0 and len(units) > 1:
        byte_count //= 1024
        del units[0]
    return f"{byte_count} {units[0]}"
