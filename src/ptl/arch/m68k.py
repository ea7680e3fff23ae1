"""m68k: the Motorola 68040 and 68060, with pages of 4 KiB, big-endian in memory.

    address       31     25 24     18 17     12 11         0
                 | level 3 | level 2 | level 1 |   offset   |
                      7         7         6          12

    leaf          31 ............. 12   11  10   9-8   7   6-5   4   3   2   1   0
                  physical address      F   G          ¬U  att   D   A   ¬W  kind
    table, 2      31 ................................ 8   7-4        3   2   1   0
                  address of the table                               A   ¬W  1
    table, 3      31 ............................. 9   8-4           3   2   1   0
                  address of the table                               A   ¬W  1

Kind is 1 or 3 for a leaf, 2 for the address of another entry that is the leaf (indirect), which is BAD here, and 0 for
nothing. ¬W write protected, ¬U supervisor only, D dirty (the manual's modified), A accessed (used), G global, F frozen:
bits 11, 9 and 8 are the user's, which here is the system. Whoever can read can execute. The levels are the manual's
root, pointer and page tables, of 512, 512 and 256 bytes, each by itself. There are no leaves above level 1.

Entries for tables are made with A set, as Linux makes them, and without ¬W, so that the leaf alone decides. Linux takes
bit 2 of an entry of kind 0 for a page without access. Software's entries are Linux's swap entries:

    software's    31 ............. 12   11  10-4                 3   2   1   0
                  offset                E   type                 F   0   0   0

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

NO_ACCESS, A = 1 << 2, 1 << 3
LEAF, TABLE = 0b01, 0b10
WORD = Word(
    bytes=4,
    present_mask=LEAF | TABLE | NO_ACCESS,
    frozen_present=1 << 11,
    frozen_absent=1 << 3,
    attributes=(
        Choice.inverted("w", 2),
        Choice.inverted("u", 7),
        Choice.bit("g", 10),
        Choice.bit("a", 3),
        Choice.bit("d", 4),
    ),
    soft=Soft(type_mask=0x7F << 4, offset_mask=0xFFFF_F000, exclusive=1 << 11),
)


def _tables(name: str, shift: int, bits: int, table_bytes: int) -> Level:
    """A level whose entries name tables of so many bytes."""
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=bits,
        table=Pattern(TABLE, TABLE),
        table_set=TABLE | A,
        leaf=None,
        address=Field((1 << 32) - table_bytes),
    )


M68K = Arch(
    name="m68k",
    title="Motorola 68040",
    source=(
        "M68040 User's Manual (M68040UM/AD), section 3 (memory management unit); "
        "Linux arch/m68k/include/asm/motorola_pgtable.h"
    ),
    va_bits=32,
    pa_bits=32,
    byte_order="big",
    walker="hardware",
    sign_extended=False,
    implied="rx",
    verified_by=("Unicorn", "QEMU"),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=6,
            table=None,
            leaf=Pattern(LEAF, LEAF),
            leaf_set=LEAF,
            address=Field(0xFFFF_F000),
        ),
        _tables("PMD", 18, 7, 256),
        _tables("PGD", 25, 7, 512),
    ),
)

ARCHITECTURES = (M68K,)
