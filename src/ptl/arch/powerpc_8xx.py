"""powerpc_8xx: Linux's tree for the PowerPC MPC8xx, with pages of 4 KiB, which software reads to refill the TLB.

    address       31             22 21             12 11         0
                 |    level 2      |    level 1      |   offset   |
                         10                10              12

    leaf          31 .............. 12   11  10-9  8   7   6   5   4   3   2   1   0
                  physical address       H   prot  D   F   X   A   gd  SPS SH  CI  V
    table         31 .............. 12   11-7      6   5   4   3-2     1       0
                  address of the table   0         U   A   0   size    WT      1

Bits are numbered here from the lowest; in memory entries are big-endian. V valid; prot: 0 read and write, 1 no access,
3 read only; D dirty (the manual's changed: hardware lets no store pass without), SH shared by all address spaces, CI
not cached. These go into the TLB as they are. Software puts the others elsewhere on the way: X execute, A accessed, gd
guarded, H, which with SPS is the size of the page. A leaf with SPS alone is one of 4 neighbours that are 16 KiB, with
both one of 128 that are 512 KiB; each has an address of its own, of which the TLB takes the part above the page. With H
alone an entry is BAD. There are no leaves above level 1.

An entry for a table says the rest: U user, and with size 3 that its pages, each with H and SPS, are one half of a page
of 8 MiB, and those of its neighbour the other half. A run lies in one table, so size is not looked at: what is in such
a table is shown, and changed, as pages of 512 KiB.

Entries for tables are made with U, as Linux makes those of processes; that a leaf is not the user's cannot be said.

No bit of a leaf is to spare. F, frozen, is 7, which hardware does not see, and which Linux has for special pages: those
that it keeps no record of. Such an entry, in an image of Linux, looks frozen: it is found by whoever looks it up,
and no `Tlb` takes it.

When V is 0 the rest is software's. Its entries are Linux's swap entries:

    software's    31 .............. 8    7-3     2   1   0
                  offset                 type    E   F   0

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

V, NO_ACCESS, READ_ONLY = 1 << 0, 0b01 << 9, 0b11 << 9
SPS, H = 1 << 3, 1 << 11
USER, BAD = 1 << 6, 0xF90
ADDRESS = Field((1 << 32) - (1 << 12))

WORD = Word(
    bytes=4,
    present_mask=V,
    frozen_present=1 << 7,
    frozen_absent=1 << 1,
    attributes=(
        Choice(READ_ONLY, ((NO_ACCESS, ""), (READ_ONLY, "r"), (0, "rw"), (0b10 << 9, "rw"))),
        Choice.bit("x", 6),
        Choice.bit("g", 2),
        Choice.bit("a", 5),
        Choice.bit("d", 8),
    ),
    soft=Soft(type_mask=0x1F << 3, offset_mask=(1 << 32) - (1 << 8), exclusive=1 << 2),
)
TABLES = replace(WORD, present_mask=(1 << 32) - 1)
"""Of levels without leaves: whatever is no table and not empty is BAD."""

POWERPC_8XX = Arch(
    name="powerpc_8xx",
    title="PowerPC MPC8xx, 4 KiB pages",
    source=(
        "MPC860 PowerQUICC User's Manual, 9.7 (level-one and level-two descriptors); "
        "Linux arch/powerpc/include/asm/nohash/32/pte-8xx.h, hugetlb-8xx.h, pgtable.h, pgalloc.h, "
        "arch/powerpc/kernel/head_8xx.S"
    ),
    va_bits=32,
    pa_bits=32,
    byte_order="big",
    walker="software",
    sign_extended=False,
    implied="u",
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=10,
            table=None,
            leaf=Pattern(V, V),
            leaf_set=V,
            address=ADDRESS,
            runs=(Run(entries=4, marks=Pattern(SPS | H, SPS)), Run(entries=128, marks=Pattern(SPS | H, SPS | H))),
        ),
        Level(
            name="PGD",
            word=TABLES,
            shift=22,
            bits=10,
            table=Pattern(V | BAD, V),
            table_set=V | USER,
            leaf=None,
            address=ADDRESS,
        ),
    ),
)

ARCHITECTURES = (POWERPC_8XX,)
