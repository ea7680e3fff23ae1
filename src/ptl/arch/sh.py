"""sh: SH-4 with physical addresses of 29 bits and pages of 4 KiB, little-endian: what Linux refills the TLB from.

    address      31     22 21     12 11         0
                | level 2 | level 1 |   offset   |
                    10        10          12

    leaf         31-29   28 ......... 12   11   10   9   8   7    6   5   4    3   2   1    0
                 space   physical address  Sp   A    F   P   sz1  U   W   sz0  C   D   Sh   Wt
    table        31-29 = 100                28 ......... 12                     11-0 = 0

A accessed, F frozen, and Sp, Linux's special: software's. The TLB (PTEL) takes the rest: P present (V in the manual), U
of the user and W writable (together PR), C cached, Wt write-through, D dirty, without which a first write traps, and
Sh for every address space: G. Whoever can reach a page can read and execute it. F is the bit that Linux has for a page
without access, which then is not present: no present entry of Linux has it, and it does not get to the TLB.

sz1 and sz0 say how large a page the entry is a part of: with sz0 alone it is a page of 4 KiB by itself; with sz1 alone
one of 16 neighbours that are 64 KiB, with both one of 256 that are 1 MiB. Each has an address of its own, of which the
TLB takes the part above the page. With neither the page is of 1 KiB, and such an entry, of which Linux makes none, BAD.
Space is for PCMCIA, and not looked at.

Tables are named by virtual addresses in P1, on all 512 MiB of physical addresses, cached. Software's entries are
Linux's swap entries:

    software's   31 ............... 11   10-8   7   6   5-1    0
                 offset                  0      F   E   type   0

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

CACHED, SZ0, SZ1, P, NO_ACCESS = (1 << bit for bit in (3, 4, 7, 8, 9))
P1 = 0x8000_0000
WORD = Word(
    bytes=4,
    present_mask=P | NO_ACCESS,
    frozen_present=NO_ACCESS,
    frozen_mask=P | NO_ACCESS,
    frozen_absent=1 << 7,
    attributes=(
        Choice.bit("w", 5),
        Choice.bit("u", 6),
        Choice.bit("g", 1),
        Choice.bit("a", 10),
        Choice.bit("d", 2),
    ),
    soft=Soft(type_mask=0x1F << 1, offset_mask=0xFFFF_F800, exclusive=1 << 6),
)

SH = Arch(
    name="sh",
    title="SuperH SH-4",
    source=(
        "SH-4 Software Manual (REJ09B0318), section 3 (memory management unit), PTEL; "
        "Linux arch/sh/include/asm/pgtable_32.h, pgtable-2level.h, page.h, arch/sh/mm/hugetlbpage.c"
    ),
    va_bits=32,
    pa_bits=29,
    byte_order="little",
    walker="software",
    sign_extended=False,
    implied="rx",
    verified_by=("QEMU",),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=10,
            table=None,
            leaf=Pattern(P, P),
            leaf_set=P | CACHED | SZ0,
            address=Field(0x1FFF_F000),
            runs=(
                Run(entries=16, marks=Pattern(SZ1 | SZ0, SZ1)),
                Run(entries=256, marks=Pattern(SZ1 | SZ0, SZ1 | SZ0)),
            ),
        ),
        Level(
            name="PGD",
            word=replace(WORD, present_mask=0xFFFF_FFFF),
            shift=22,
            bits=10,
            table=Pattern(0xE000_0FFF, P1),
            table_set=P1,
            leaf=None,
            address=Field(0x1FFF_F000),
        ),
    ),
)

ARCHITECTURES = (SH,)
