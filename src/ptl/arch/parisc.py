"""parisc: Linux's trees for PA-RISC, 32-bit and 64-bit, which software reads to refill the TLB; big-endian in memory.

    parisc        31             22 21             12 11         0
    address      |    level 2      |    level 1      |   offset   |
                         10                10              12

    parisc64      63       42 41     32 31     21 20     12 11         0
    address      |    0      | level 3 | level 2 | level 1 |   offset  |
                                 10        11        9         12

    leaf, parisc            31 .............. 12   11  10  9   8   7   6   5   4   3   2   1   0
                            physical address       U   F   1   A  unc  T   D   B  gate X   W   R
    leaf, parisc64    63  62-40   39 ........ 12   11  10  9   8   7   6   5   4   3   2   1   0
                      F   0       address          U   H   1   A  unc  T   D   B  gate X   W   R

    table, parisc           31-24  23 ....... 4    3   2   1   0
                            0      address >> 8            1   1
    table, parisc64         31 .............. 4    3   2   1   0           also here 4 bytes long
                            address >> 8                   1   1

R W X permissions, D dirty, T trap on any access, B trap on a store, gate for gateways to the kernel: these go into the
TLB. Software knows from the others what else to put there: U user, A accessed, unc uncached, 9 present, H how large the
page is. The address of a table lies 8 bits lower than it is, and the last bits of a table's number are left out: of 32
bits 24 are used, of 40 all. The tables are of 4 KiB, on level 2 of parisc64 of 8. There are no leaves above level 1.
The kernel reads every page, and executes none of a user's; a user executes what has R too.

With H a leaf of parisc64 is one of 256 neighbours that are one page of 1 MiB, each with an address of its own, of which
the TLB takes the part above the page. What Linux calls a huge page, 2 MiB, is two of these: all entries of a table.
PA-RISC 1.1, for which Linux has 32 bits, has pages of 4 KiB only.

F frozen. In an entry of 8 bytes it is a bit of the address above all that a processor has (40 bits, or 44). An entry of
4 bytes has no bit to spare: F is 10, which Linux without huge pages has for special pages, those that it keeps no
record of. Such an entry, in an image of Linux, looks frozen. Bits 62 to 40 must be 0: a leaf of 64 bits that has one,
as those for devices have in Linux, is BAD.

When 9 is 0 the rest is software's. Its entries are Linux's swap entries, but that the offset is one bit shorter:

    software's, parisc      31  30 .......... 10   9   8   7-5     4-0
                            F   offset, high       0   E   low     type
    software's, parisc64    63  62 .......... 10   9   8   7-5     4-0
                            F   offset, high       0   E   low     type

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.

parisc64 has pages of 4 KiB and three levels, as Linux by default; before 5.12 Linux had twice the entries on level 3.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

PRESENT = 1 << 9
RUN_1M = Run(entries=256, marks=Pattern(1 << 10, 1 << 10))
LINKED = 0b11
SOURCE = (
    "PA-RISC 2.0 Architecture, chapter 3 (TLB entries, access rights); "
    "Linux arch/parisc/include/asm/pgtable.h, page.h, pgalloc.h, arch/parisc/kernel/entry.S, "
    "arch/parisc/mm/hugetlbpage.c"
)


def _word(entry_bytes: int, frozen_present: int) -> Word:
    last = 1 << 8 * entry_bytes - 1
    return Word(
        bytes=entry_bytes,
        present_mask=PRESENT,
        frozen_present=frozen_present,
        frozen_absent=last,
        attributes=tuple(
            Choice.bit(letter, bit) for letter, bit in (("r", 0), ("w", 1), ("x", 2), ("u", 11), ("a", 8), ("d", 5))
        ),
        soft=Soft(type_mask=0x1F, offset_mask=last - (1 << 10) | 0b111 << 5, exclusive=1 << 8),
    )


WORD, WORD_64 = _word(4, 1 << 10), _word(8, 1 << 63)
TABLES = replace(WORD, present_mask=(1 << 32) - 1)
"""Of levels without leaves: whatever is no table and not empty is BAD."""


def _pages(word: Word, bits: int, pa_bits: int, *runs: Run) -> Level:
    reserved = (1 << 63) - (1 << pa_bits) if word.bytes == 8 else 0
    return Level(
        name="PTE",
        word=word,
        shift=12,
        bits=bits,
        table=None,
        leaf=Pattern(PRESENT | reserved, PRESENT),
        leaf_set=PRESENT,
        address=Field((1 << pa_bits) - (1 << 12)),
        runs=runs,
    )


def _tables(name: str, shift: int, bits: int, pa_bits: int) -> Level:
    address = Field((1 << pa_bits - 8) - (1 << 4), left_shift=8)
    reserved = (1 << 32) - (1 << pa_bits - 8)
    return Level(
        name=name,
        word=TABLES,
        shift=shift,
        bits=bits,
        table=Pattern(LINKED | reserved, LINKED),
        table_set=LINKED,
        leaf=None,
        address=address,
    )


def _arch(name: str, title: str, va_bits: int, pa_bits: int, *layout: Level, judges: tuple[str, ...] = ()) -> Arch:
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=pa_bits,
        byte_order="big",
        walker="software",
        sign_extended=False,
        verified_by=judges,
        layout=layout,
    )


PARISC = _arch(
    "parisc",
    "PA-RISC, 32-bit",
    32,
    32,
    _pages(WORD, 10, 32),
    _tables("PGD", 22, 10, 32),
    judges=("QEMU",),
)
PARISC64 = _arch(
    "parisc64",
    "PA-RISC, 64-bit",
    42,
    40,
    _pages(WORD_64, 9, 40, RUN_1M),
    _tables("PMD", 21, 11, 40),
    _tables("PGD", 32, 10, 40),
)

ARCHITECTURES = (PARISC, PARISC64)
