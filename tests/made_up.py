"""Architectures that no machine has, each odd in one way that a real one may be: what is data must not be assumed."""

from __future__ import annotations

from dataclasses import replace

import ptl.arch
from ptl.arch import Arch, Choice, Field, Level, Pattern, Run, Shadow, Soft, Word

TINY = ptl.arch.get("tiny")
NOT_PRESENT, LEAF, BUSY, FROZEN = (1 << bit for bit in (0, 58, 59, 60))
ADDRESS = Field(0x000F_FFFF_FFFF_FFE0)


WORD = replace(
    TINY.level(1).word,
    present_flip=NOT_PRESENT,
    soft=replace(TINY.level(1).word.soft, base=TINY.level(1).word.soft.base | NOT_PRESENT, inverted_offset=True),
    attributes=(
        *(Choice.bit(letter, 52 + i) for i, letter in enumerate("wxugad") if letter in "xug"),
        *(Choice.inverted(letter, 52 + i) for i, letter in enumerate("wxugad") if letter in "wad"),
    ),
)


def _level(name: str, shift: int, *, leaf_level: bool = False) -> Level:
    """As tiny's, with the first bit the other way round."""
    misaligned = (1 << shift) - 1 & ADDRESS.mask
    kind = 0 if leaf_level else LEAF
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=2,
        table=None if leaf_level else Pattern(NOT_PRESENT | LEAF, 0),
        table_set=0,
        leaf=Pattern(NOT_PRESENT | kind | misaligned, kind),
        leaf_set=kind,
        address=ADDRESS,
        invalid=None if leaf_level else Pattern(NOT_PRESENT | LEAF, NOT_PRESENT | LEAF),
        invalid_set=NOT_PRESENT,
        empty=NOT_PRESENT,
        busy=0 if leaf_level else NOT_PRESENT | BUSY | FROZEN,
    )


BIG_ENDIAN = replace(TINY, name="big-endian", byte_order="big")
BIG_ENDIAN_32 = replace(ptl.arch.get("i386"), name="big-endian, 4 bytes", byte_order="big")
NOTHING_IS_NOT_ZERO = replace(
    TINY,
    name="nothing is not zero",
    layout=(_level("PTE", 12, leaf_level=True), _level("PMD", 14), _level("PGD", 16)),
)


SHORT_P, SHORT_LEAF, SHORT_FROZEN, SHORT_BUSY = (1 << bit for bit in range(4))
SHORT = Word(
    bytes=4,
    present_mask=SHORT_P | SHORT_LEAF,
    frozen_present=SHORT_FROZEN,
    frozen_absent=SHORT_FROZEN,
    attributes=tuple(Choice.bit(letter, 4 + i) for i, letter in enumerate("dagwxu")),
    soft=Soft(type_mask=0b1111 << 4, offset_mask=0xFFFFF << 9, exclusive=1 << 8, base=1 << 29),
)


def _short(name: str, shift: int) -> Level:
    """A level above leaves like tiny's, with entries of 4 bytes: attributes lie below the address of a leaf."""
    misaligned = (1 << shift) - (1 << 10)
    return Level(
        name=name,
        word=SHORT,
        shift=shift,
        bits=2,
        table=Pattern(SHORT_P | SHORT_LEAF, SHORT_P),
        table_set=SHORT_P,
        leaf=Pattern(SHORT_P | SHORT_LEAF | misaligned, SHORT_P | SHORT_LEAF),
        leaf_set=SHORT_P | SHORT_LEAF,
        address=Field(0xFFFF_FFF0),
        invalid=Pattern(SHORT_P | SHORT_LEAF, SHORT_LEAF),
        invalid_clear=SHORT_P,
        busy=SHORT_BUSY | SHORT_FROZEN,
    )


LONG = replace(TINY.level(1).word, soft=replace(TINY.level(1).word.soft, offset_mask=(1 << 32) - (1 << 12)))
TWO_KINDS = replace(
    TINY,
    name="two kinds of entry",
    pa_bits=32,
    layout=(replace(TINY.level(1), word=LONG), _short("PMD", 14), _short("PGD", 16)),
)
"""Entries of 8 bytes for pages, and of 4 for all above, with everything in other places."""


def _binary(number: int) -> Level:
    """A level of tiny with two entries a table."""
    level = TINY.level(number)
    shift = 11 + number
    assert level.leaf is not None
    leaf = Pattern(level.leaf.mask & ~ADDRESS.mask | (1 << shift) - 1 & ADDRESS.mask, level.leaf.value)
    return replace(level, shift=shift, bits=1, leaf=leaf)


BINARY = replace(TINY, name="binary", va_bits=15, layout=tuple(_binary(number) for number in (1, 2, 3)))
"""Eight pages: a test can try every range of it. Its frames have to be of 32 bytes."""

TINY_WRITE, TINY_ACCESSED, TINY_DIRTY = (1 << bit for bit in (52, 56, 57))
SHADOWED = replace(
    TINY,
    name="shadowed",
    layout=(
        replace(
            TINY.level(1),
            shadow=Shadow(
                offset=TINY.table_bytes(1),
                needs=1 | TINY_ACCESSED,
                copies=ADDRESS.mask,
                always=1 << 63,
                rules=((Pattern(TINY_WRITE | TINY_DIRTY, TINY_WRITE | TINY_DIRTY), 1 << 62),),
            ),
        ),
        *TINY.layout[1:],
    ),
)
"""Hardware reads another word beside each entry of a leaf table: one that it can use when the page was accessed, and
write to when the page is dirty."""

NOTHING_IS_A_TABLE = replace(
    TINY,
    name="nothing is a table",
    layout=(TINY.level(1), *(replace(level, empty=1, empty_is_table=True) for level in TINY.layout[1:])),
)
"""A slot with nothing in it names a table with nothing in it."""

REGIONS = replace(TINY, name="regions", region_bits=1)
"""The upper half of the addresses is at the other end of the 64 bits."""

PAIR, FOUR = 1 << 62, 1 << 63
FOURTH, HALF = 0b11 << 12, 0b10 << 12
RUNS = replace(
    TINY,
    name="runs",
    walker="hardware",
    va_bits=17,
    layout=(
        replace(
            TINY.level(1),
            bits=3,
            leaf=Pattern(1 | LEAF | (1 << 12) - 1 & ADDRESS.mask, 1 | LEAF),
            leaf_set=1 | LEAF,
            runs=(
                Run(entries=2, marks=Pattern(PAIR | FOUR, PAIR)),
                Run(entries=4, marks=Pattern(PAIR | FOUR | FOURTH, FOUR | HALF), is_base=True),
            ),
            invalid=Pattern(1 | LEAF, LEAF),
            invalid_clear=1,
        ),
        replace(
            TINY.level(2),
            shift=15,
            leaf=Pattern(1 | LEAF | (1 << 15) - 1 & ADDRESS.mask, 1 | LEAF),
            runs=(Run(entries=2, marks=Pattern(PAIR, PAIR)),),
        ),
    ),
)
"""32 pages: two of them, or four, can be one page, and so can two of the four leaves on top. Two have addresses of
their own; four have that of the first, with two in its low bits."""

SIZE_ALONE, SIZE_TWO, SIZE_FOUR = (number << 62 for number in (1, 2, 3))
SIZES = 0b11 << 62
REFILLED_RUNS = replace(
    RUNS,
    name="refilled runs",
    walker="software",
    layout=(
        replace(
            RUNS.level(1),
            leaf_set=1 | LEAF | SIZE_ALONE,
            runs=(
                Run(entries=2, marks=Pattern(SIZES, SIZE_TWO)),
                Run(entries=4, marks=Pattern(SIZES, SIZE_FOUR), is_base=True),
            ),
            invalid=None,
            invalid_clear=0,
        ),
        RUNS.level(2),
    ),
)
"""The same, read by software alone: so no value is one that hardware does not see. A page by itself has a mark too."""

MADE_UP: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        BIG_ENDIAN,
        BIG_ENDIAN_32,
        NOTHING_IS_NOT_ZERO,
        TWO_KINDS,
        SHADOWED,
        NOTHING_IS_A_TABLE,
        REGIONS,
        RUNS,
        REFILLED_RUNS,
    )
}


def architecture(name: str) -> Arch:
    """A real architecture or a made-up one."""
    return MADE_UP.get(name) or ptl.arch.get(name)
