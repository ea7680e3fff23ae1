"""arm: 32-bit Arm with short descriptors, the way Linux keeps them: each entry twice, for itself and for hardware.

    address        31         21 20     12 11         0
                  |   level 2   | level 1 |   offset   |
                        11           9         12

    table          63 ........ 42  41-37  36-32  31 ......... 10  9-5    4-0
    (level 2)      hw 1 >> 10      dom    10001  hw 0 >> 10       dom    10001
    leaf           31 ............. 12  11  10  9   8   7   6   5-2   1   0
    (level 1)      physical address     F   S   XN  U   RO  D   type  A   P
    its shadow     31 ............. 12  11  10  9   8-7  6   5   4   3-2   1   0
                   physical address     nG  S   RO       T   U   1   type  1   XN

                   +0      leaf table 0  512 entries, for software
                   +2048   hw 0          256 entries: the shadows of the first half, which map 1 MiB
                   +3072   hw 1          256 entries: those of the second half

Hardware's top table has 4096 words, each for 1 MiB, and its leaf tables have 256. Here two words are one entry, and two
leaf tables, with what software keeps for them, are one table of 4 KiB; the one on top has 16 KiB. Each half of an entry
on top names one of hardware's two.

P present, A accessed, D dirty, RO read-only, U user, XN no execution, S shared, type the kind of memory, and F frozen:
the bit with which Linux marks a page without access, which no page is here. Hardware knows neither accessed nor dirty.
The shadow of a leaf without A is 0, so that the first access faults, and that of one without D is read-only, so that
the first write does. Bit 4 becomes T, and bit 5 nothing; a page of the user is not global (nG). Whoever may read may
execute, unless XN is set, and the kernel may do what the user may.

Freezing a leaf leaves its shadow alone; both change together, by whoever froze it (core/entry.pxi, N5). dom is domain
1, Linux's for the user, which has to have the rights of a client. A section, a leaf of 1 MiB on top, is BAD: Linux has
them for its own memory alone, where nothing is ever accessed or dirty, and they have no bits for that.

Software's entries are Linux's swap entries:

    software's     31 ........................... 8   7   6-2   1   0
                   offset                             E   type  F   0

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Shadow, Soft, Word

P, A, D, RO, U, XN, SHARED, F = (1 << bit for bit in (0, 1, 6, 7, 8, 9, 10, 11))
CACHED = 0b0111 << 2
ADDRESS = 0xFFFF_F000
SOURCE = (
    "Arm Architecture Reference Manual, ARMv7-A and ARMv7-R (DDI 0406), B3.5, short-descriptor format; "
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

# Of one of the two words of an entry on top: a table of 1 KiB, in bits 11 and 10 of its address one of two
KIND, TABLE, LINUX_TABLE, OF_TWO = 0b11, 0b01, 0b1_0001 | 1 << 5, 0b11 << 10


def _pair(low: int, high: int) -> int:
    return low | high << 32


PAIR = Word(
    bytes=8,
    present_mask=_pair(KIND, KIND),
    frozen_present=0,
    frozen_absent=0,
    attributes=(),
    soft=SOFT,
)
"""There are no leaves of this kind, and nothing is ever frozen."""

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
            table=Pattern(_pair(KIND | OF_TWO, KIND | OF_TWO), _pair(TABLE | 0b10 << 10, TABLE | 0b11 << 10)),
            table_set=_pair(LINUX_TABLE | 0b10 << 10, LINUX_TABLE | 0b11 << 10),
            leaf=None,
            address=Field(ADDRESS, copy_shift=32),
        ),
    ),
)

ARCHITECTURES = (ARM,)
