"""xtensa: pages of 4 KiB, little-endian in memory, as Linux has them on cores such as DC233C.

    address      31     22 21     12 11         0
                | level 2 | level 1 |   offset   |
                    10        10          12

    leaf         31 ............. 12   11   10-9   8   7   6   5   4   3-2   1    0
                 physical address      F    0      A   D   W   0   U   CA    Wr   X
    table        31-27 = 11010         26 ............ 12              11-0 = 0

A accessed, D dirty, W may be written, F frozen: software's. The TLB takes the rest: U ring 1, the user's, and 0 the
kernel's; CA how to cache: 0 not, 1 write-back, 2 write-through, 3 no access at all; Wr writable, X executable. So that
the first write traps, Wr goes with D in a page that can be written. Whoever can reach a page can read it.

Hardware reads the tables of pages, through a window that they lie next to each other in; the upper level is read by a
handler, which maps the table that is missing into the window. It has virtual addresses, in the kernel's window on the
first 128 MiB, at 0xD000_0000.

Nothing is no page without access (CA 3), of the user, since of two TLB entries for one address, of the kernel and the
user, the hardware would complain: 0x1c. With Wr and X besides, Linux has it for a page without access: BAD here.
Software's entries are Linux's swap entries:

    software's   31 ............... 11   10-6      5   4   3   2   1   0
                 offset                  type      F   1   1   1   E   0

E exclusive, F frozen, of another ring. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

X, OTHER_RING, USER = 1 << 0, 1 << 5, 1 << 4
WRITE_BACK, NO_ACCESS = 0b01 << 2, 0b11 << 2
KERNEL = 0xD000_0000
WORD = Word(
    bytes=4,
    present_mask=NO_ACCESS | X,
    present_flip=NO_ACCESS,
    frozen_present=1 << 11,
    frozen_absent=OTHER_RING,
    attributes=(
        Choice.trapping(Choice.bit("w", 6), Choice.bit("d", 7), 1 << 1, suffices=True),
        Choice.bit("x", 0),
        Choice.bit("u", 4),
        Choice.bit("a", 8),
    ),
    soft=Soft(type_mask=0x1F << 6, offset_mask=0xFFFF_F800, exclusive=1 << 1, base=NO_ACCESS | USER),
)

XTENSA = Arch(
    name="xtensa",
    title="Xtensa",
    source=(
        "Xtensa Instruction Set Architecture Reference Manual, 4.6 (memory protection and translation); "
        "Linux arch/xtensa/include/asm/pgtable.h, kmem_layout.h, kernel/entry.S"
    ),
    va_bits=32,
    pa_bits=32,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    implied="r",
    verified_by=("QEMU",),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=10,
            table=None,
            leaf=Pattern(OTHER_RING, 0),
            leaf_never=Pattern(NO_ACCESS, NO_ACCESS),
            leaf_set=WRITE_BACK,
            address=Field(0xFFFF_F000),
            empty=NO_ACCESS | USER,
        ),
        Level(
            name="PGD",
            word=replace(WORD, present_mask=0xFFFF_F000, present_flip=0),
            shift=22,
            bits=10,
            table=Pattern(0xF800_0FFF, KERNEL),
            table_set=KERNEL,
            leaf=None,
            address=Field(0x07FF_F000),
        ),
    ),
)

ARCHITECTURES = (XTENSA,)
