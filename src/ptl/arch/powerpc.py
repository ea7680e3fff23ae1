"""powerpc: the radix tree of POWER9 and later, with pages of 4 and 64 KiB, big-endian in memory.

    powerpc_radix_64k   63    52 51       39 38     30 29     21 20     16 15         0
    address            |   0    |  level 4  | level 3 | level 2 | level 1 | offset     |
                                     13          9         9         5         16

    powerpc_radix_4k    63    52 51       39 38     30 29     21 20     12 11         0
                       |   0    |  level 4  | level 3 | level 2 | level 1 | offset     |
                                     13          9         9         9         12

    leaf           63  62  61  60-53   52 ............ 12   11-9    8   7   6   5-4   3   2   1   0
                   V   1   F           physical address            A   D       att   S   R   RW  X
    table          63  62  61  60-53   52 ......................... 8   7-5           4 ........ 0
                   V   0               address of the table                           size of the table

V valid, A accessed (the manual's reference), D dirty (change), S supervisor only, R read, RW read and write, X execute;
F frozen, software's in a leaf: in an entry for a table 61 to 53 are reserved, and not looked at. The size of a table is
how many bits index it: 5 for a leaf table of 64 KiB pages, which is 256 bytes long and by itself. Leaves map 4 or 64
KiB, 2 MiB and 1 GiB.

When V is 0 hardware ignores the rest, but for A and D, which it may still set: an entry is empty all the same. A huge
leaf that is being split has bit 61. Software's entries are Linux's swap entries:

    software's     63  62  61  60-53   52 ............ 12   11  10  9   8   7   6   5   4-0
                   0   1   0   0       offset               F   B   0   0   0   0   E   type

E exclusive, B busy.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

V, LEAF, INVALID = 1 << 63, 1 << 62, 1 << 61
R, RW = 1 << 2, 1 << 1
A, D = 1 << 8, 1 << 7
SIZE = 0b11111
SOURCE = (
    "Power ISA version 3.0B, book III, 5.7.10.2 (radix tree page directory and page table entries); "
    "Linux arch/powerpc/include/asm/book3s/64/pgtable.h, radix.h, radix-4k.h, radix-64k.h"
)

WORD = Word(
    bytes=8,
    present_mask=V,
    frozen_present=INVALID,
    frozen_absent=1 << 11,
    attributes=(
        Choice(R | RW, ((0, ""), (R, "r"), (R | RW, "rw"), (RW, "rw"))),
        Choice.bit("x", 0),
        Choice.inverted("u", 3),
        Choice.bit("a", 8),
        Choice.bit("d", 7),
    ),
    soft=Soft(type_mask=0b11111, offset_mask=(1 << 53) - (1 << 12), exclusive=1 << 5, base=LEAF),
)


def _level(name: str, shift: int, bits: int, bits_below: int = 0, *, leaf: bool = True) -> Level:
    below_address = (1 << shift) - (1 << 12)
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=bits,
        table=Pattern(V | LEAF | SIZE, V | bits_below) if bits_below else None,
        table_set=V | bits_below,
        leaf=Pattern(V | LEAF | below_address, V | LEAF) if leaf else None,
        leaf_set=V | LEAF,
        address=Field((1 << 53) - (1 << (8 if bits_below else 12))),
        invalid=Pattern(V | LEAF | INVALID, LEAF | INVALID) if leaf and bits_below else None,
        invalid_clear=V,
        invalid_set=INVALID,
        empty_ignores=A | D,
        busy=1 << 10 | 1 << 11 if leaf and bits_below else 0,
    )


def _arch(name: str, title: str, page_shift: int) -> Arch:
    leaf_bits = 21 - page_shift
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=52,
        pa_bits=53,
        byte_order="big",
        walker="hardware",
        sign_extended=False,
        verified_by=("QEMU",),
        layout=(
            _level("PTE", page_shift, leaf_bits),
            _level("PMD", 21, 9, leaf_bits),
            _level("PUD", 30, 9, 9),
            _level("PGD", 39, 13, 9, leaf=False),
        ),
    )


ARCHITECTURES = (
    _arch("powerpc_radix_4k", "PowerPC, 64-bit, radix, 4 KiB pages", 12),
    _arch("powerpc_radix_64k", "PowerPC, 64-bit, radix, 64 KiB pages", 16),
)
