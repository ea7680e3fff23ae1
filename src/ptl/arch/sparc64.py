"""sparc64: Linux's tree for UltraSPARC (sun4u), which software reads to refill the TLB; big-endian in memory.

    address       63   53 52     43 42     33 32     23 22     13 12         0
                 | sign  | level 4 | level 3 | level 2 | level 1 |  offset    |
                              10        10        10        10         13

    leaf, high    63  62-61  60   59  58  57  56  55  54-49  48  47-43   42 ............ 13
                  A   size   NFO  IE  F       H   I          S           physical address
    leaf, low                 12  11  10  9   8   7   6   5   4   3   2   1   0
                              X   WD  A   1   WD  1   L   CP  CV  E   ¬U  WD  G
    table         63 .................................. 43   42 ............ 13   12 .... 0
                  0                                          address              0

A leaf is what goes into the TLB. H a leaf above level 1, I one that is being split, F frozen: 58 to 50 and 12 to 7 are
software's, and hardware does not look at them. X execute is one of them: the refill of the instruction TLB looks at it.
So are 7, present, and 9, read: a leaf without 9, Linux's page without access, is BAD. ¬U supervisor only (the manual's
privileged), G global, CP and CV cached, E side effects. Leaves map 8 KiB and 8 MiB; the latter are two entries of 4 MiB
in the TLB. Bits of an address below its page do not count.

S and size are what the TLB is to hold. A leaf of level 1 is a page by itself with 0, one of 8 neighbours that are 64
KiB with 1, of 64 that are 512 KiB with 2, of 512 that are 4 MiB with 3. One of level 2 is by itself with 3, and with S
and 1 one of 32 that are 256 MiB, for UltraSPARC-IV+. Each has an address of its own, of which the TLB takes the part
above the page. With any other value an entry is BAD. (Of these runs Linux makes those of 64 KiB and of 256 MiB.)

A, accessed, is two bits: 10 for software, and 63, with which hardware finds the entry valid. An entry without them
faults, for software to set both. W, write, and D, dirty, are three: 8 and 11 for software, and 1 with which hardware
lets a store pass, set when both others are. Whatever is valid can be read.

An entry for a table is its address and nothing else, so no table may lie at address 0. The code that refills the TLB
follows whatever is not 0, but on level 2 only what has no H. So whatever is neither a table nor empty there has H.

When neither 7 nor 63 is set the rest is software's. Its entries on level 1 are Linux's swap entries, with an offset of
35 bits in place of 43; on level 2 Linux has none:

    software's     63-57  56       55 ............. 21   20   19-13   12-2  1   0
                   0      level 2  offset                E    type    0     B   F

E exclusive, B with H busy. On level 1, type 0 with offset 0 would be an empty entry: there is none.

sun4v, the format of later machines, has all but the address elsewhere. It is not here: sun4u is what QEMU emulates.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

VALID, PRESENT, CACHED = 1 << 63, 1 << 7, 1 << 5 | 1 << 4
LEAF = PRESENT | 1 << 9
HUGE, SPLITTING = 1 << 56, 1 << 55
SIZE, SIZE_64_KIB, SIZE_512_KIB, SIZE_4_MIB = (number << 61 for number in (0b11, 0b01, 0b10, 0b11))
SIZE_256_MIB = SIZE_64_KIB | 1 << 48
SIZES = SIZE | 1 << 48
ACCESSED = 1 << 10
PAGE_SHIFT = 13
ADDRESS = Field((1 << 43) - (1 << PAGE_SHIFT))
ALL = (1 << 64) - 1

WORD = Word(
    bytes=8,
    present_mask=PRESENT | VALID,
    frozen_present=1 << 58,
    frozen_absent=1 << 0,
    attributes=(
        Choice.trapping(Choice.bit("w", 8), Choice.bit("d", 11), 1 << 1, suffices=True),
        Choice.bit("x", 12),
        Choice.inverted("u", 2),
        Choice.bit("g", 0),
        Choice(ACCESSED | VALID, ((0, ""), (ACCESSED | VALID, "a"), (ACCESSED, "a"), (VALID, ""))),
    ),
    soft=Soft(type_mask=0x7F << 13, offset_mask=(1 << 56) - (1 << 21), exclusive=1 << 20),
)
WORD_2 = replace(WORD, present_mask=PRESENT | VALID | HUGE, present_flip=HUGE, soft=replace(WORD.soft, base=HUGE))
"""What has no H, and is no table, is BAD."""
TABLES = replace(WORD, present_mask=ALL)
"""Of levels without leaves: whatever is no table and not empty is BAD."""


def _upper(name: str, shift: int, word: Word, *, leaf: bool) -> Level:
    kind = LEAF | HUGE
    return Level(
        name=name,
        word=word,
        shift=shift,
        bits=10,
        table=Pattern(ALL & ~ADDRESS.mask, 0),
        table_set=0,
        leaf=Pattern(kind | SPLITTING, kind) if leaf else None,
        leaf_set=kind | SIZE_4_MIB | CACHED,
        address=ADDRESS,
        invalid=Pattern(kind | SPLITTING | VALID, kind | SPLITTING) if leaf else None,
        invalid_clear=VALID,
        invalid_set=SPLITTING,
        busy=HUGE | 0b11 if leaf else 0,
        runs=(Run(entries=32, marks=Pattern(SIZES, SIZE_256_MIB)),) if leaf else (),
    )


SPARC64 = Arch(
    name="sparc64",
    title="SPARC V9, UltraSPARC (sun4u)",
    source=(
        "UltraSPARC User's Manual, chapter 6, translation table entry; "
        "Linux arch/sparc/include/asm/pgtable_64.h, tsb.h, arch/sparc/mm/tlb.c, hugetlbpage.c"
    ),
    va_bits=53,
    pa_bits=43,
    byte_order="big",
    walker="software",
    sign_extended=True,
    implied="r",
    verified_by=("QEMU",),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=PAGE_SHIFT,
            bits=10,
            table=None,
            leaf=Pattern(LEAF, LEAF),
            leaf_set=LEAF | CACHED,
            address=ADDRESS,
            runs=(
                Run(entries=8, marks=Pattern(SIZES, SIZE_64_KIB)),
                Run(entries=64, marks=Pattern(SIZES, SIZE_512_KIB)),
                Run(entries=512, marks=Pattern(SIZES, SIZE_4_MIB)),
            ),
        ),
        _upper("PMD", 23, WORD_2, leaf=True),
        _upper("PUD", 33, TABLES, leaf=False),
        _upper("PGD", 43, TABLES, leaf=False),
    ),
)

ARCHITECTURES = (SPARC64,)
