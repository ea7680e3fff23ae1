"""arm: 32-bit Arm with short descriptors, the way Linux keeps them: each entry twice, for itself and for hardware.

    address        31         21 20     12 11         0
                  |   level 2   | level 1 |   offset   |
                        11           9         12

    table          63 ........ 42  41-37  36-32  31 ......... 10  9-5    4-0
    (level 2)      hw 1 >> 10      dom    10001  hw 0 >> 10       dom    10001
    section, low   31 ...... 20  19  18  17  16  15  14-12  11-10  9   8   7   6   5   4   3-2   1   0
    (level 2)      address       NS  0   nG  S   APX TEX    AP     P   U   RO  D   A   XN  CB    1   0
    section, high  63 ...... 52  51  50  49  48  47  46-44  43-42  41  40  39  38  37  36  35-34 33  32
                   + 1 MiB       NS  0   nG  S   APX TEX    AP     P   B   I   F   0   XN  CB    1   0
    leaf           31 ............. 12  11  10  9   8   7   6   5-2   1   0
    (level 1)      physical address     F   S   XN  U   RO  D   type  A   P
    its shadow     31 ............. 12  11  10  9   8-7  6   5   4   3-2   1   0
                   physical address     nG  S   RO       T   U   1   type  1   XN

                   +0      leaf table 0  512 entries, for software
                   +2048   hw 0          256 entries: the shadows of the first half, which map 1 MiB
                   +3072   hw 1          256 entries: those of the second half

Hardware's top table has 4096 words, each for 1 MiB, and its leaf tables have 256. Here two words are one entry, and two
leaf tables, with what software keeps for them, are one table of 4 KiB; the one on top has 16 KiB. Each half of an entry
on top names one of hardware's two, or is one of two sections, the leaves of 1 MiB, which together map 2 MiB.

P present, A accessed, D dirty, RO read-only, U user, XN no execution, S shared, type the kind of memory, and F frozen:
the bit with which Linux marks a page without access, which no page is here. Hardware knows neither accessed nor dirty.
The shadow of a leaf without A is 0, so that the first access faults, and that of one without D is read-only, so that
the first write does. Bit 4 becomes T, and bit 5 nothing; a page of the user is not global (nG). Whoever may read may
execute, unless XN is set, and the kernel may do what the user may. Freezing a leaf leaves its shadow alone; both change
together, by whoever froze it (core/entry.pxi, N5).

A section has no shadow, and no bit for software but the four that number its domain. So here all 16 domains are to
have the rights of a client, DACR 0x55555555, and the number says nothing: it is U, RO, D and A as a leaf has them, and
in the second word F frozen, I being split and B busy. AP, APX and nG of both words follow from those of the first, as
in a shadow: nobody may access (AP 0) without A, nor write without D. They are written, and not looked at; nor is the
rest of the second word, but that it is a section and its MiB an odd one. Linux has sections for its own memory alone,
in domain 0, where nothing is ever accessed or dirty; tables are in its domain for the user, 1. A section of 16 MiB
(bit 18), or one that the kernel may not execute (bit 0), is BAD. A TLB may keep that nobody may access a section, as
it may keep that nobody may write: who faults although A or D is set flushes, and tries again.

Software's entries are Linux's swap entries, in place of a leaf or in the first word of a pair. There I, F and B are
where they are in a section:

    software's     31 ........................... 8   7   6-2   1   0
                   offset                             E   type  F   0       and in a pair 0 for F

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from itertools import product

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Shadow, Soft, Word

P, A, D, RO, U, XN, SHARED, F = (1 << bit for bit in (0, 1, 6, 7, 8, 9, 10, 11))
CACHED = 0b0111 << 2
ADDRESS = 0xFFFF_F000
SOURCE = (
    "Arm Architecture Reference Manual, ARMv7-A and ARMv7-R (DDI 0406), B3.5, short-descriptor format, B3.7, memory "
    "access control; "
    "Linux arch/arm/include/asm/pgtable-2level.h, pgtable-2level-hwdef.h, pgtable.h, pgalloc.h, "
    "arch/arm/mm/proc-v7-2level.S"
)
SOFT = Soft(type_mask=0x1F << 2, offset_mask=0xFFFF_FF00, exclusive=1 << 7)
ENTRIES = 512

WORD = Word(
    bytes=4,
    present_mask=P,
    frozen_present=F,
    frozen_absent=A,
    attributes=(
        Choice.inverted("w", 7),
        Choice.inverted("x", 9),
        Choice.bit("u", 8),
        Choice.bit("a", 1),
        Choice.bit("d", 6),
    ),
    soft=SOFT,
)

# The same page as hardware's small page descriptor has it
SMALL, NO_EXECUTION, AP0, AP1, TEX0, APX, NOT_GLOBAL = (1 << bit for bit in (1, 0, 4, 5, 6, 9, 11))
SHADOW = Shadow(
    offset=ENTRIES * WORD.bytes,
    needs=P | A,
    copies=ADDRESS | SHARED | 0b11 << 2,
    always=SMALL | AP0,
    rules=(
        (Pattern(RO, RO), APX),
        (Pattern(D, 0), APX),
        (Pattern(U, U), AP1 | NOT_GLOBAL),
        (Pattern(XN, XN), NO_EXECUTION),
        (Pattern(1 << 4, 1 << 4), TEX0),
    ),
)

# An entry on top is two words. What names a table of 1 KiB says in bits 11 and 10 of its address which of two it is
KIND, TABLE, LINUX_TABLE, OF_TWO = 0b11, 0b01, 0b1_0001 | 1 << 5, 0b11 << 10

# A section: U, RO and D are where a leaf has them
SECTION, MIB, SUPERSECTION = 0b10, 1 << 20, 1 << 18
SECTION_XN, SECTION_A, SECTION_AP0, SECTION_AP1, SECTION_TEX0, SECTION_APX, SECTION_SHARED, SECTION_NOT_GLOBAL = (
    1 << bit for bit in (4, 5, 10, 11, 12, 15, 16, 17)
)


def _pair(low: int, high: int) -> int:
    return low | high << 32


def _both(word: int) -> int:
    return _pair(word, word)


SECTIONS = Pattern(_both(KIND | SUPERSECTION | MIB), _pair(SECTION, SECTION | MIB))
"""Of an even and an odd MiB; the rest of their addresses is not compared."""
SECTIONS_F, SPLITTING, BUSY = (_pair(0, 1 << bit) for bit in (6, 7, 8))


def _sections(flags: str) -> int:
    """What two sections hold with these of w, u, a and d: software's bits in the first, and hardware's in both."""
    own = (0 if "w" in flags else RO) | (U if "u" in flags else 0)
    own |= (SECTION_A if "a" in flags else 0) | (D if "d" in flags else 0)
    rights = SECTION_NOT_GLOBAL if "u" in flags else 0
    if "a" in flags:
        rights |= SECTION_AP0 | (SECTION_AP1 if "u" in flags else 0)
        rights |= 0 if {"w", "d"} <= set(flags) else SECTION_APX
    return own | _both(rights)


PAIR = Word(
    bytes=8,
    present_mask=_both(KIND) | SPLITTING,
    frozen_present=SECTIONS_F,
    frozen_absent=SECTIONS_F,
    attributes=(
        Choice(
            U | RO | D | SECTION_A,
            tuple((_sections(flags), flags) for flags in map("".join, product(*(("", letter) for letter in "wuad")))),
            along=_both(SECTION_NOT_GLOBAL | SECTION_APX | SECTION_AP1 | SECTION_AP0),
        ),
        Choice(SECTION_XN, ((_both(SECTION_XN), ""), (0, "x")), along=_pair(0, SECTION_XN)),
    ),
    soft=SOFT,
)

ARM = Arch(
    name="arm",
    title="Arm, 32-bit, short descriptors",
    source=SOURCE,
    va_bits=32,
    pa_bits=32,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    implied="r",
    verified_by=("Unicorn",),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=9,
            table=None,
            leaf=Pattern(P, P),
            leaf_set=P | CACHED | SHARED,
            address=Field(ADDRESS),
            shadow=SHADOW,
        ),
        Level(
            name="PGD",
            word=PAIR,
            shift=21,
            bits=11,
            table=Pattern(_both(KIND | OF_TWO), _pair(TABLE | 0b10 << 10, TABLE | 0b11 << 10)),
            table_set=_pair(LINUX_TABLE | 0b10 << 10, LINUX_TABLE | 0b11 << 10),
            leaf=SECTIONS,
            leaf_set=SECTIONS.value | _both(SECTION_SHARED | SECTION_TEX0 | 0b11 << 2),
            address=Field(ADDRESS, copy_shift=32),
            invalid=Pattern(SECTIONS.mask | SPLITTING, _pair(0, MIB) | SPLITTING),
            invalid_clear=_both(KIND),
            invalid_set=SPLITTING,
            busy=BUSY | SECTIONS_F,
        ),
    ),
)

ARCHITECTURES = (ARM,)
