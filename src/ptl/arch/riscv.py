"""RISC-V: Sv32, Sv39, Sv48 and Sv57.

    address       63      39 38     30 29     21 20     12 11         0
                 | sign     | level 3 | level 2 | level 1 | offset     |
                                 9         9         9         12
                  63      48 47     39 38     30  ...                      Sv48: one level more on top
                  63      57 56     48 47     39  ...                      Sv57: two

    Sv32                31         22 21         12 11         0
                       |   level 2   |   level 1   |   offset   |
                              10            10           12

    entry         63  62-61  60-54  53 ............ 10    9   8   7   6   5   4   3   2   1   0
                   N  PBMT    0     frame number          F       D   A   G   U   X   W   R   V
    entry, Sv32                     31 ............ 10    9   8   7   6   5   4   3   2   1   0
                                    frame number          F       D   A   G   U   X   W   R   V

V valid, R W X permissions, U user, G global, A accessed, D dirty, F frozen, in a leaf: bits 9 and 8 are
software's. The frame number sits two bits lower than the address it stands for. N (Svnapot; not in Sv32): the leaf is
one of 16 aligned neighbours on level 1 that are one page of 64 KiB, all with the frame number of the first, whose low
four bits, 0, are stored as 1000; any other value there is reserved. An entry with V and none of R, W, X points to a
table; with R or X it is a leaf, at any level; W without R is reserved. In an entry for a table D, A, U and everything
above the frame number must be 0; in a leaf above level 1 the low bits of the frame number must be.

Leaves of 512 GiB and 256 TiB, which Sv48 and Sv57 have on levels 4 and 5, are BAD here: a leaf keeps aside the tables
that splitting it takes, and those of 512 GiB alone are 1 GiB.

When V is 0 hardware ignores the rest; software calls the entry present all the same when R or X is set, which is how
a leaf whose size changes looks, or bit 5 (no access). Software's entries are Linux's swap entries:

    software's    63 ........................... 12   11-7    6   5   4   3   2   1   0
                  offset                              type    E   0   0   0   F   0   0
    the same, Sv32      31 ..................... 12   11-7    6   5   4   3   2   1   0
                        offset                        type    E   0   0   0   F   0   0

E exclusive. W without R marks a frozen one, and W and U a busy entry. Type 0 with offset 0 would be an empty entry:
there is none. (In Linux that is the first page of the first swap device, which holds no data.) Sv32's offset has 20
bits and its frame number 22: what lies above 4 GiB cannot be the offset of a migration there, in Linux neither.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
ADDRESS = Field(0x003F_FFFF_FFFF_FC00, left_shift=2)
ADDRESS_32 = Field(0xFFFF_FC00, left_shift=2)
ABOVE_FRAME_NUMBER = 0xFFC0_0000_0000_0000
N = 1 << 63
RUN_64K = Run(entries=16, marks=Pattern(N | 0b1111 << 10, N | 0b1000 << 10), is_base=True)
SOURCE = (
    "RISC-V privileged specification 20211203, sections 4.3 (Sv32), 4.4 (Sv39), 4.5 (Sv48), 4.6 (Sv57), 5 (Svnapot); "
    "Linux arch/riscv/include/asm/pgtable-bits.h"
)


def _word(entry_bytes: int) -> Word:
    return Word(
        bytes=entry_bytes,
        present_mask=V | R | X | G,
        frozen_present=1 << 9,
        frozen_absent=W,
        attributes=tuple(Choice.bit(letter, bit) for bit, letter in enumerate("rwxugad", 1)),
        soft=Soft(type_mask=0x1F << 7, offset_mask=(1 << 8 * entry_bytes) - (1 << 12), exclusive=1 << 6),
    )


WORD, WORD_32 = _word(8), _word(4)


def _level(
    name: str,
    shift: int,
    bits: int = 9,
    word: Word = WORD,
    address: Field = ADDRESS,
    above: int = ABOVE_FRAME_NUMBER,
    *,
    run: Run | None = None,
    leaf_level: bool = False,
    leaf: bool = True,
) -> Level:
    above_leaf = above if run is None else above & ~N
    misaligned = ((1 << shift) - (1 << 12)) >> address.left_shift
    return Level(
        name=name,
        word=word,
        shift=shift,
        bits=bits,
        table=None if leaf_level else Pattern(V | R | W | X | U | A | D | above, V),
        table_set=V,
        leaf=Pattern(V | above_leaf | misaligned, V) if leaf else None,
        leaf_any=R | X,
        leaf_never=Pattern(R | W, W),
        leaf_set=V,
        address=address,
        runs=() if run is None else (run,),
        invalid=Pattern(V | above_leaf | misaligned, 0) if leaf and (not leaf_level or run) else None,
        invalid_clear=V,
        busy=W | U if leaf and not leaf_level else 0,
    )


def _arch(name: str, title: str, va_bits: int, *layout: Level) -> Arch:
    is_32 = va_bits == 32
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=34 if is_32 else 56,
        byte_order="little",
        walker="hardware",
        sign_extended=not is_32,
        write_needs_read=True,
        verified_by=("Unicorn", "QEMU"),
        layout=layout,
    )


_PTE = _level("PTE", 12, run=RUN_64K, leaf_level=True)
_PMD = _level("PMD", 21)
_PUD = _level("PUD", 30)
_P4D = _level("P4D", 39, leaf=False)

SV32 = _arch(
    "riscv_sv32",
    "RISC-V, Sv32",
    32,
    _level("PTE", 12, 10, WORD_32, ADDRESS_32, 0, leaf_level=True),
    _level("PGD", 22, 10, WORD_32, ADDRESS_32, 0),
)
SV39 = _arch("riscv_sv39", "RISC-V, Sv39", 39, _PTE, _PMD, _level("PGD", 30))
SV48 = _arch("riscv_sv48", "RISC-V, Sv48", 48, _PTE, _PMD, _PUD, _level("PGD", 39, leaf=False))
SV57 = _arch("riscv_sv57", "RISC-V, Sv57", 57, _PTE, _PMD, _PUD, _P4D, _level("PGD", 48, leaf=False))

ARCHITECTURES = (SV32, SV39, SV48, SV57)
