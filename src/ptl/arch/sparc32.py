"""sparc32: the reference MMU of SPARC V8 (SRMMU), big-endian in memory.

    address       31     24 23     18 17     12 11         0
                 | level 3 | level 2 | level 1 |   offset   |
                      8         6         6          12

    leaf          31 ............... 8   7   6   5   4-2        1   0
                  physical address >> 4  C   D   A   rights     1   F
    table         31 ...................... 4   3   2           1   0
                  address of the table >> 4     0   0           0   1

The two lowest bits are the manual's entry type: 0 nothing, 1 a table, 2 a leaf, 3 reserved. An address has 36 bits and
sits four lower than it belongs. C cacheable, D dirty (the manual's modified), A accessed (referenced). The rights:

    0  user r      1  user rw     2  user rx     3  user rwx      and the kernel the same
    4  user x      5  user r, kernel rw          6  kernel rx     7  kernel rwx

5, which has no name in letters, is read as 0. A leaf for the kernel alone is executable at least. The levels are the
manual's level-1, level-2 and level-3 tables, of 1024, 256 and 256 bytes, each by itself. Leaves map 4 KiB, 256 KiB and
16 MiB, of which Linux uses the first. What leads to the table on top is an entry in the table of contexts.

There is no bit for software in a leaf. F, frozen, makes the type 3: hardware faults, and software reads on. So does a
huge leaf that is being split, which has bit 8 besides, the lowest of an address, where that of a huge leaf has none.

Software's entries are Linux's swap entries:

    software's    31 ............. 12   11-7    6   5   4   3   2   1   0
                  offset                type    E   0   0   B   F   0   0

E exclusive, F frozen, B busy. Type 0 with offset 0 would be an empty entry: there is none. The offset has 20 bits and a
frame number 24: what lies above 4 GiB cannot be the offset of a migration, in Linux neither.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

TYPE, TABLE, LEAF, RESERVED = 0b11, 0b01, 0b10, 0b11
CACHEABLE = 1 << 7
SPLIT = 1 << 8
RIGHTS = ("ru", "rwu", "rxu", "rwxu", "xu", "ru", "rx", "rwx")

WORD = Word(
    bytes=4,
    present_mask=TYPE,
    frozen_present=RESERVED & ~LEAF,
    frozen_mask=RESERVED,
    frozen_absent=1 << 2,
    attributes=(
        Choice(0b111 << 2, tuple((i << 2, RIGHTS[i]) for i in (6, 7, 0, 1, 2, 3, 4, 5))),
        Choice.bit("a", 5),
        Choice.bit("d", 6),
    ),
    soft=Soft(type_mask=0x1F << 7, offset_mask=0xFFFF_F000, exclusive=1 << 6),
)


def _level(name: str, shift: int, bits: int) -> Level:
    on_top = shift > 12
    below_address = (1 << shift) - (1 << 12) >> 4
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=bits,
        table=Pattern(TYPE | 0b11 << 2, TABLE) if on_top else None,
        table_set=TABLE,
        leaf=Pattern(LEAF | below_address, LEAF),
        leaf_set=LEAF | CACHEABLE,
        address=Field(0xFFFF_FFF0, left_shift=4),
        leaf_field=Field(0xFFFF_FF00, left_shift=4),
        invalid=Pattern(TYPE | below_address, RESERVED | SPLIT) if on_top else None,
        invalid_set=RESERVED & ~LEAF | SPLIT,
        busy=1 << 2 | 1 << 3 if on_top else 0,
    )


SPARC32 = Arch(
    name="sparc32",
    title="SPARC, 32-bit, reference MMU",
    source=(
        "The SPARC Architecture Manual, version 8, appendix H (SPARC reference MMU architecture); "
        "Linux arch/sparc/include/asm/pgtsrmmu.h, pgtable_32.h"
    ),
    va_bits=32,
    pa_bits=36,
    byte_order="big",
    walker="hardware",
    sign_extended=False,
    verified_by=("Unicorn",),
    layout=(_level("PTE", 12, 6), _level("PMD", 18, 6), _level("PGD", 24, 8)),
)

ARCHITECTURES = (SPARC32,)
