"""s390: 64-bit z/Architecture with four levels, big-endian in memory.

    address        63    53 52     42 41     31 30     20 19     12 11         0
                  |   0    | level 4 | level 3 | level 2 | level 1 | offset     |
                                11        11        11        8         12

    leaf, level 1  63-53  52 ............. 12   11  10  9   8   7   6   5   4   3   2   1   0
                   0      physical address      0   I   WP  NX  F       W   R   D   A       P
    leaf, level 2  63-53  52 .. 20  19-17  16   15-12   11  10  9   8   7   6   5   4   3-2 1   0
                   0      address   0      0    W R D A     1   WP  NX  S   F   I   0   TT      P
    leaf, level 3  63-53  52 .. 31  30 ... 16   as on level 2
                   0      address   0
    table, level 2 63-53  52 .................. 11  10  9   8   7   6   5   4   3-2 1   0
                   0      address of the table      0   WP              I   0   TT      1
    table, 3 and 4 63-53  52 ............. 12   11  10  9   8   7   6   5   4   3-2 1   0
                   0      address of the table      0   WP      0   0   I   0   TT  1   1

Bits are counted from the lowest, which in the manual is 63. Hardware looks at I invalid, WP no write, NX no execute
and TT, the kind of table that the entry is in: 00 segment (level 2), 01 region third (3), 10 region second (4). Bit 10
tells a leaf above level 1, which takes the facilities EDAT-1 (1 MiB) and EDAT-2 (2 GiB); bit 16 would give it a storage
key of its own. Bits 7, 6, 1 and 0 of a region's entry tell how long the table below is. Tables have 2048 entries,
16 KiB, and on level 1 256, 2 KiB, each by itself. Addresses have 53 bits, as many as Linux takes.

The rest is software's: P present, R read, W write, D dirty, A accessed, F frozen, S being split. Hardware knows neither
accessed nor dirty, and Linux withholds what would make it so: a leaf without A has I, and one without D, or W, has WP.
So the first access faults, and the first write. Whoever is in the address space may read all of it: the kernel has one
of its own. A leaf without R, Linux's for no access, is BAD.

Nothing but I and TT, on level 1 nothing but I, is an empty entry. Software's entries are Linux's swap entries:

    level 1        63 ............. 12   11  10  9   8   7   6-2                 1   0
                   offset                E   1   1   0   F   type                0   0
    levels 2, 3    63 ............. 12   11  10-6                5   4   3-2     1   0
                   offset                E   type                1   1   TT      F   0

E exclusive; above level 1 it is not Linux's. I, TT and P alone mark a busy entry. An address space of Linux begins with
the lower three of these levels, and gets the fourth, and a fifth, when it grows.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

SOURCE = (
    "z/Architecture Principles of Operation (SA22-7832), chapter 3, dynamic address translation; "
    "Linux arch/s390/include/asm/pgtable.h"
)
ABOVE_ADDRESS = (1 << 64) - (1 << 53)
OFFSET = (1 << 64) - (1 << 12)
EXCLUSIVE = 1 << 11

# On every level
P, WP = 1 << 0, 1 << 9
EXECUTE = Choice.inverted("x", 8)

# On level 1: the manual's page-table entry
A, D, R, W, F, INVALID, ZERO = (1 << bit for bit in (2, 3, 4, 5, 7, 10, 11))

# Above: its segment-table, region-third-table and region-second-table entries
UPPER_INVALID, UPPER_F, S, UPPER_A, UPPER_D, UPPER_R, UPPER_W = (1 << bit for bit in (5, 6, 7, 12, 13, 14, 15))
COMMON, LEAF, OWN_KEY = 1 << 4, 1 << 10, 1 << 16
TT, LENGTH, FROM = 0b11 << 2, 0b11, 0b11 << 6


def _may_write(w: int, d: int) -> Choice:
    """To write and dirty: one without the other is not enough for hardware."""
    return Choice(w | d | WP, ((WP, ""), (w | WP, "w"), (d | WP, "d"), (w | d, "wd")))


WORD = Word(
    bytes=8,
    present_mask=P | INVALID,
    present_flip=INVALID,
    frozen_present=F,
    frozen_absent=F,
    attributes=(Choice(A | INVALID, ((INVALID, ""), (A, "a"))), _may_write(W, D), EXECUTE),
    soft=Soft(type_mask=0b11111 << 2, offset_mask=OFFSET, exclusive=EXCLUSIVE, base=INVALID | WP),
)


def _upper_word(kind: int) -> Word:
    """While it is split a leaf is invalid whether it was accessed or not, and S tells."""
    accessed = ((UPPER_INVALID, ""), (UPPER_A, "a"), (UPPER_INVALID | S, ""), (UPPER_INVALID | S | UPPER_A, "a"))
    return Word(
        bytes=8,
        present_mask=P | UPPER_INVALID,
        present_flip=UPPER_INVALID,
        frozen_present=UPPER_F,
        frozen_absent=1 << 1,
        attributes=(Choice(UPPER_A | UPPER_INVALID | S, accessed), _may_write(UPPER_W, UPPER_D), EXECUTE),
        soft=Soft(type_mask=0b11111 << 6, offset_mask=OFFSET, exclusive=EXCLUSIVE, base=UPPER_INVALID | COMMON | kind),
    )


def _upper(name: str, shift: int, kind: int, table: Pattern, table_bytes: int, *, leaf: bool = True) -> Level:
    below_address = (1 << shift) - (1 << 17)
    looked_at = ABOVE_ADDRESS | below_address | OWN_KEY | UPPER_R | LEAF | S | COMMON | TT | P
    of_leaf = UPPER_R | LEAF | kind | P
    return Level(
        name=name,
        word=_upper_word(kind),
        shift=shift,
        bits=11,
        table=table,
        table_set=table.value | P,
        leaf=Pattern(looked_at, of_leaf) if leaf else None,
        leaf_set=of_leaf,
        address=Field((1 << 53) - table_bytes),
        invalid=Pattern(looked_at | UPPER_INVALID, of_leaf | S | UPPER_INVALID) if leaf else None,
        invalid_set=S | UPPER_INVALID,
        empty=UPPER_INVALID | kind,
        busy=UPPER_INVALID | kind | P if leaf else 0,
    )


def _region(name: str, shift: int, kind: int, *, leaf: bool = True) -> Level:
    """A level above one whose tables have 2048 entries; they lie on 4 KiB at least."""
    table = Pattern(ABOVE_ADDRESS | LEAF | FROM | UPPER_INVALID | COMMON | TT | LENGTH, kind | LENGTH)
    return _upper(name, shift, kind, table, 1 << 12, leaf=leaf)


S390 = Arch(
    name="s390",
    title="z/Architecture, four levels",
    source=SOURCE,
    va_bits=53,
    pa_bits=53,
    byte_order="big",
    walker="hardware",
    sign_extended=False,
    implied="ru",
    verified_by=("Unicorn", "QEMU"),
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=12,
            bits=8,
            table=None,
            leaf=Pattern(ABOVE_ADDRESS | ZERO | R | P, R | P),
            leaf_set=R | P,
            address=Field((1 << 53) - (1 << 12)),
            empty=INVALID,
        ),
        _upper("PMD", 20, 0, Pattern(ABOVE_ADDRESS | LEAF | UPPER_INVALID | COMMON | TT, 0), 1 << 11),
        _region("PUD", 31, 0b01 << 2),
        _region("P4D", 42, 0b10 << 2, leaf=False),
    ),
)

ARCHITECTURES = (S390,)
