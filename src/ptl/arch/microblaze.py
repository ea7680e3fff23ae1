"""microblaze: pages of 4 KiB, little-endian in memory: the tree that Linux's handlers refill the TLB from.

    address      31     22 21     12 11         0
                | level 2 | level 1 |   offset   |
                    10        10          12

    leaf         31 ............. 12   11  10   9   8   7   6   5   4   3   2   1   0
                 physical address      F   A    X   WR  D   W       U   Wt  I   P   G
    table        31-30 = 11            29 ............. 12              11-0 not looked at

P present, W may be written, D dirty, A accessed, F frozen: software's. The handlers move the rest into the TLB, where X
is executable, WR writable, U the user's of two zones, Wt write-through, I not cached, G guarded. (The manuals count
the bits the other way round: G is their bit 31.) So that the first write traps, WR goes with D in a page that can be
written. Whoever can reach a page can read it. Linux's handlers let every page be executed that they load.

Tables are named by virtual addresses, in the kernel's window at 0xC000_0000 on memory, which begins at 0 here; boards
differ in that (Linux's KERNEL_BASE_ADDR).

Software's entries are Linux's swap entries:

    software's   31 ...................... 8   7   6-2      1   0
                 offset                        E   type     0   F

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

P = 1 << 1
KERNEL = 0xC000_0000
WORD = Word(
    bytes=4,
    present_mask=P,
    frozen_present=1 << 11,
    frozen_absent=1 << 0,
    attributes=(
        Choice.trapping(Choice.bit("w", 6), Choice.bit("d", 7), 1 << 8, suffices=True),
        Choice.bit("x", 9),
        Choice.bit("u", 4),
        Choice.bit("a", 10),
    ),
    soft=Soft(type_mask=0x1F << 2, offset_mask=0xFFFF_FF00, exclusive=1 << 7),
)

MICROBLAZE = Arch(
    name="microblaze",
    title="MicroBlaze",
    source=(
        "MicroBlaze Processor Reference Guide (UG984), translation look-aside buffer low register; "
        "Linux arch/microblaze/include/asm/pgtable.h, kernel/hw_exception_handler.S, Kconfig"
    ),
    va_bits=32,
    pa_bits=32,
    byte_order="little",
    walker="software",
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
            leaf=Pattern(P, P),
            leaf_set=P,
            address=Field(0xFFFF_F000),
        ),
        Level(
            name="PGD",
            word=replace(WORD, present_mask=0xFFFF_F000),
            shift=22,
            bits=10,
            table=Pattern(KERNEL, KERNEL),
            table_set=KERNEL,
            leaf=None,
            address=Field(0x3FFF_F000),
        ),
    ),
)

ARCHITECTURES = (MICROBLAZE,)
