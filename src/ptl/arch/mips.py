"""mips: 32 and 64 bits with pages of 4 KiB, little-endian in memory: what Linux's handlers refill the TLB from.

    mips32        31     22 21     12 11         0
    address      | level 2 | level 1 |   offset   |
                     10        10          12

    mips64        63     40 39     30 29     21 20     12 11         0
    address      |   0     | level 3 | level 2 | level 1 |   offset   |
                               10        9         9           12

    leaf, mips32                  31 ............. 12   11-9   8   7   6   5   4   3   2   1   0
                                  frame number          C      V   V   G   F   M   A   W   ¬R  P
                                                               w
    leaf, mips64  63-50   49 ................ 14   13-11  10   9   8   7   6   5   4   3   2   1   0
                  0       frame number             C      V   V   G   ¬R  ¬X  F   H   M   A   W   P
                                                          w
    table, mips32   31-29 = 100       28 ......... 12                 11-0 = 0
    table, mips64   63-48 = 0x9800    47 ......... 12                 11-0 = 0

P present, W may be written, A accessed, M modified (dirty), F frozen: software's. From G on an entry is what a handler
moves into the TLB (EntryLo), with ¬X and ¬R, which a rotation takes to its top: G global, V valid, Vw valid for writes
(the manual's D), C how to cache, 3 for cached. So that a first access and a first write trap, V goes with A in a page
that can be read, and Vw with M in one that can be written. F is the bit that Linux calls special.

mips32 is a CPU without RI and XI, as of MIPS32 release 1: who can read can execute, and a page that can be written and
not read, of which Linux makes none, can be read once it has been written. With RI and XI all twelve bits below the
frame number are taken, and none is left to freeze a leaf. Every page is the user's: other addresses are the kernel's.

Tables are named by virtual addresses, in the window on physical memory that needs no TLB: KSEG0, on the first 512 MiB,
and XKPHYS, cached. A handler follows what it finds. So a slot with nothing in it names a table with nothing in it, one
for all slots of a level. An empty page may have G: a TLB entry covers two neighbours, and is global when both are.

An entry of level 2 of mips64 with H is a leaf of 2 MiB, of which the TLB gets two halves. A handler that meets H looks
at V and Vw alone; so whatever is neither a table nor nothing has it:

    being split   H, bit 14, and neither P, V nor Vw
    busy          H, F and bit 15

Software's entries are Linux's swap entries; in place of a leaf of 2 MiB, where Linux has none, with H:

    software's, mips32                31 ........... 13   12-8                5   4   3   2   1   0
                                      offset              type    0   0       F   0   0   0   E   0
    software's, mips64    63 ................ 24   23   22-16   15-6          5   4   3   2   1   0
                          offset                   E    type    0             F   H   0   0   0   0

E exclusive. Type 0 with offset 0 would be an empty page: there is none. Offsets of mips32 have 19 bits, and frame
numbers 20: what lies above 2 GiB cannot be the offset of a migration there, in Linux neither.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

P, H, F = 1 << 0, 1 << 4, 1 << 5
CACHED = 3
KSEG0, XKPHYS = 0x8000_0000, 0x9800_0000_0000_0000
SPLITTING, BUSY = 1 << 14, 1 << 15
SOURCE = (
    "MIPS32 and MIPS64 Architecture for Programmers, volume III (MD00090, MD00091), EntryLo0 and EntryLo1; "
    "Linux arch/mips/include/asm/pgtable-bits.h, pgtable-32.h, pgtable-64.h, pgtable.h, mach-generic/spaces.h, "
    "arch/mips/mm/tlbex.c"
)


WORD_32 = Word(
    bytes=4,
    present_mask=P,
    frozen_present=F,
    frozen_absent=F,
    attributes=(
        Choice.trapping(Choice(1 << 1, ((0, "rx"), (1 << 1, ""))), Choice.bit("a", 3), 1 << 7, suffices=True),
        Choice.trapping(Choice.bit("w", 2), Choice.bit("d", 4), 1 << 8, suffices=True),
        Choice.bit("g", 6),
    ),
    soft=Soft(type_mask=0x1F << 8, offset_mask=0xFFFF_E000, exclusive=1 << 1),
)
WORD_64 = Word(
    bytes=8,
    present_mask=P,
    frozen_present=F,
    frozen_absent=F,
    attributes=(
        Choice.trapping(Choice.inverted("r", 7), Choice.bit("a", 2), 1 << 9, suffices=False),
        Choice.trapping(Choice.bit("w", 1), Choice.bit("d", 3), 1 << 10, suffices=True),
        Choice.inverted("x", 6),
        Choice.bit("g", 8),
    ),
    soft=Soft(type_mask=0x7F << 16, offset_mask=(1 << 64) - (1 << 24), exclusive=1 << 23),
)


def _leaves(word: Word, bits: int, cached: int, address: Field, above: int = 0) -> Level:
    """The level of pages."""
    return Level(
        name="PTE",
        word=word,
        shift=12,
        bits=bits,
        table=None,
        leaf=Pattern(P | above, P),
        leaf_set=P | cached,
        address=address,
        empty_ignores=word.attributes[-1].mask,
    )


def _tables(name: str, word: Word, shift: int, bits: int, window: int, window_bits: int) -> Level:
    """A level above, where entries name tables by their addresses in a window."""
    everything = (1 << 8 * word.bytes) - 1
    within = (1 << window_bits) - (1 << 12)
    return Level(
        name=name,
        word=replace(word, present_mask=everything, present_flip=1),  # whatever is no table is bad, and 0 too
        shift=shift,
        bits=bits,
        table=Pattern(everything & ~within, window),
        table_set=window,
        leaf=None,
        address=Field(within),
        empty=window,
        empty_is_table=True,
    )


def _arch(name: str, title: str, va_bits: int, pa_bits: int, *layout: Level) -> Arch:
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=pa_bits,
        byte_order="little",
        walker="software",
        sign_extended=False,
        implied="u",
        verified_by=("Unicorn", "QEMU"),
        layout=layout,
    )


FRAME_64 = Field(((1 << 48) - (1 << 12)) << 2, left_shift=-2)
ABOVE_FRAME_64 = (1 << 64) - (1 << 50)
MISALIGNED = (1 << 23) - (1 << 14)

MIPS32 = _arch(
    "mips32",
    "MIPS, 32-bit",
    32,
    32,
    _leaves(WORD_32, 10, CACHED << 9, Field(0xFFFF_F000)),
    _tables("PGD", WORD_32, 22, 10, KSEG0, 29),
)
MIPS64 = _arch(
    "mips64",
    "MIPS, 64-bit",
    40,
    48,
    _leaves(WORD_64, 9, CACHED << 11, FRAME_64, ABOVE_FRAME_64),
    replace(
        _tables("PMD", WORD_64, 21, 9, XKPHYS, 48),
        word=replace(WORD_64, present_mask=P | H | SPLITTING, present_flip=H, soft=replace(WORD_64.soft, base=H)),
        leaf=Pattern(P | H | MISALIGNED | ABOVE_FRAME_64, P | H),
        leaf_set=P | H | CACHED << 11,
        leaf_field=FRAME_64,
        invalid=Pattern(P | H | SPLITTING | BUSY, H | SPLITTING),
        invalid_clear=P | 1 << 9 | 1 << 10,
        invalid_set=SPLITTING,
        busy=H | F | BUSY,
    ),
    _tables("PGD", WORD_64, 30, 10, XKPHYS, 48),
)

ARCHITECTURES = (MIPS32, MIPS64)
