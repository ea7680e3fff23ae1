"""m68k without the 68040's tables: ColdFire V4e and Sun-3, pages of 8 KiB, big-endian in memory, as Linux keeps them.

    m68k_coldfire   31     22 21     13 12         0
    address        | level 2 | level 1 |   offset   |
                       10         9          13

    m68k_sun3       31-28   27     17 16     13 12         0
    address        | 0     | level 2 | level 1 |   offset   |
                              11          4          13

    leaf, coldfire  31 ............. 13   12   11   10   9   8   7-6   5   4   3   2   1   0
                    physical address      A    G    P    F       C     ¬U  R   W   X   L   D
    leaf, sun3      31   30   29   28   27-26   25   24   23   22-19   18 ........... 0
                    P    W    ¬U   Nc   type    A    D    F            frame number
    table           31 ............................................. 0
                    address of the table

P present, W writable, ¬U supervisor only, A accessed, D dirty, F frozen. On ColdFire R readable, X executable, G for
every address space (the manual's SG), C how to cache, L locked in the TLB. A handler loads the TLB from the entry, and
lets every page be executed; A, D, 9 and 8 stay behind.

A page map of the Sun-3 takes 16 pages at once, and each entry as it is: hardware does not look at 23 to 19. Nc is for
not cached, which is all that Linux does there; type says which bus, and is 0 for memory. Whoever can reach a page can
read and execute it.

An entry for a table is its address and nothing else, and 0 is no table: none may lie at address 0. Tables are by
themselves, of 4096 and 2048 bytes on ColdFire, and of 8192 and 64 on the Sun-3. (Linux takes a page for each.)

Software's entries are Linux's swap entries:

    coldfire        31 ............... 11   10   9   8   7   6-0
                    offset                  0    0   F   E   type
    sun3            31   30 .................... 7   6   5   4-0
                    0    offset                      E   F   type

E exclusive. On the Sun-3 Linux has six bits for the type, and never uses the highest: it has 32 types. Type 0 with
offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

COLDFIRE_P = 1 << 10
COLDFIRE_WORD = Word(
    bytes=4,
    present_mask=COLDFIRE_P,
    frozen_present=1 << 9,
    frozen_absent=1 << 8,
    attributes=(
        Choice.bit("r", 4),
        Choice.bit("w", 3),
        Choice.bit("x", 2),
        Choice.inverted("u", 5),
        Choice.bit("g", 11),
        Choice.bit("a", 12),
        Choice.bit("d", 0),
    ),
    soft=Soft(type_mask=0x7F, offset_mask=0xFFFF_F800, exclusive=1 << 7),
)

SUN3_P, SUN3_NOT_CACHED = 1 << 31, 1 << 28
SUN3_WORD = Word(
    bytes=4,
    present_mask=SUN3_P,
    frozen_present=1 << 23,
    frozen_absent=1 << 5,
    attributes=(
        Choice.bit("w", 30),
        Choice.inverted("u", 29),
        Choice.bit("a", 25),
        Choice.bit("d", 24),
    ),
    soft=Soft(type_mask=0x1F, offset_mask=0x7FFF_FF80, exclusive=1 << 6),
)


def _leaves(word: Word, bits: int, present: int, leaf_set: int, address: Field) -> Level:
    """The level of pages."""
    return Level(
        name="PTE",
        word=word,
        shift=13,
        bits=bits,
        table=None,
        leaf=Pattern(present, present),
        leaf_set=leaf_set,
        address=address,
    )


def _tables(word: Word, shift: int, bits: int, table_bytes: int) -> Level:
    """The level above, whose entries name tables of so many bytes."""
    return Level(
        name="PGD",
        word=replace(word, present_mask=0xFFFF_FFFF),
        shift=shift,
        bits=bits,
        table=Pattern(table_bytes - 1, 0),
        leaf=None,
        address=Field((1 << 32) - table_bytes),
    )


COLDFIRE = Arch(
    name="m68k_coldfire",
    title="ColdFire V4e",
    source=(
        "MCF547x Reference Manual (MCF5475RM), section 5 (memory management unit), MMUTR and MMUDR; "
        "Linux arch/m68k/include/asm/mcf_pgtable.h, mcfmmu.h, arch/m68k/mm/mcfmmu.c"
    ),
    va_bits=32,
    pa_bits=32,
    byte_order="big",
    walker="software",
    sign_extended=False,
    layout=(
        _leaves(COLDFIRE_WORD, 9, COLDFIRE_P, COLDFIRE_P, Field(0xFFFF_E000)),
        _tables(COLDFIRE_WORD, 22, 10, 2048),
    ),
)
SUN3 = Arch(
    name="m68k_sun3",
    title="Sun-3",
    source=(
        "Sun-3 Architecture Manual, section 3 (memory management unit); "
        "Linux arch/m68k/include/asm/sun3_pgtable.h, sun3mmu.h, arch/m68k/sun3/mmu_emu.c"
    ),
    va_bits=28,
    pa_bits=32,
    byte_order="big",
    walker="software",
    sign_extended=False,
    implied="rx",
    layout=(
        _leaves(SUN3_WORD, 4, SUN3_P, SUN3_P | SUN3_NOT_CACHED, Field(0x7FFFF, left_shift=13)),
        _tables(SUN3_WORD, 17, 11, 64),
    ),
)

ARCHITECTURES = (COLDFIRE, SUN3)
