"""x86: 32-bit, with entries of one word or two (PAE), and 64-bit with four and five levels.

    x86_64         63       48 47     39 38     30 29     21 20     12 11         0
    address       | sign      | level 4 | level 3 | level 2 | level 1 | offset     |
                                   9         9         9         9         12

    x86_64_la57    63    57 56     48 47     39  ...            one level more on top

    i386           31             22 21             12 11         0
    address       |    level 2      |    level 1      |   offset   |
                          10                10              12

    i386_pae       31   30 29     21 20     12 11         0
    address       |level 3| level 2 | level 1 | offset     |
                      2        9         9         12

    entry, x86_64      63   62-53  52   51 ............ 12   11-9    8   7   6   5   4   3   2   1   0
                       NX          F    physical address             G   PS  D   A  PCD PWT  U   W   P
    entry, i386_pae    63   62-52       51 ............ 12   11      8   7   6   5   4   3   2   1   0
                       NX     0         physical address      F      G   PS  D   A  PCD PWT  U   W   P
    the same, level 3   0     0         physical address             0   0   0   0  PCD PWT  0   0   P
    entry, i386                         31 ............ 12   11      8   7   6   5   4   3   2   1   0
                                        physical address      F      G   PS  D   A  PCD PWT  U   W   P

P present, W write, U user, A accessed, D dirty, PS leaf above level 1 (at level 1 it is PAT), G global, NX no
execute, F frozen, in a leaf: hardware ignores 11-9 in every entry and, in those of x86_64, 58-52 too. i386_pae
reserves 62-52, and in its four entries of level 3 whatever is 0 above: there is no right to withhold. A CPU may read
these four only when CR3 is written, which holds 32 bits: the root must lie below 4 GiB.

Every other entry for a table is made with P, W and U set, so that the leaf alone decides. A 4 MiB leaf of i386 has an
address of 32 bits: bits 20 to 13, which PSE-36 uses for more, must be 0.

When P is 0 hardware ignores the rest. Software then still calls an entry present when PS is set, which is how a huge
leaf that is being split looks, or bit 8 (no access). Software's entries are Linux's swap entries, where they can be:

    software's, 64 bits   63-59   58 ............... 9    8   7   6   5   4   3   2   1   0
                          type    offset, inverted        0   0   0   0   F   E   0   0   0
    software's, i386      31 ........ 12   11   10    9   8   7   6   5-1             0
                          offset           0    1    E   0   0   F   type            0

E exclusive. Bits 4 and 5 mark a busy entry; on i386 6 and 11. Type 0 with the last offset, all of it inverted, would
be an empty entry of 64 bits: there is none. In the shorter ones a bit that is always 1 tells type 0 and offset 0 from
an empty entry. Linux's offset begins there with bit 9; what is left here is just a frame number.
On both 32-bit machines its E is bit 7, for it has no huge entries of this kind there; here they would be leaves that
are being split.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

P, W, U, A, D, PS, G, NX = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 63))
TABLE = P | W | U
SOURCE = (
    "Intel SDM volume 3A, chapter 4 (paging); "
    "Linux arch/x86/include/asm/pgtable_types.h, pgtable_64.h, pgtable-3level.h, pgtable-2level.h"
)

_64_ADDRESS = Field(0x000F_FFFF_FFFF_F000)
_ATTRIBUTES = (Choice.bit("w", 1), Choice.bit("u", 2), Choice.bit("g", 8), Choice.bit("a", 5), Choice.bit("d", 6))
_64_BUSY = 0b11 << 4
_64_WORD = Word(
    bytes=8,
    present_mask=P | PS | G,
    frozen_present=1 << 52,
    frozen_absent=1 << 4,
    attributes=(*_ATTRIBUTES, Choice.inverted("x", 63)),
    soft=Soft(type_mask=0x1F << 59, offset_mask=(1 << 59) - (1 << 9), exclusive=1 << 3, inverted_offset=True),
)


def _upper(
    name: str, shift: int, bits: int, word: Word, address: Field, *, leaf: bool, busy: int, reserved: int = 0
) -> Level:
    """A level above the leaves: a table when PS is 0, a leaf (where the format has one) when it is 1."""
    misaligned = (1 << shift) - (1 << 13) if leaf else 0  # a leaf's address is aligned; bit 12 is PAT
    return Level(
        name=name,
        word=word,
        shift=shift,
        bits=bits,
        table=Pattern(P | PS | reserved, P),
        table_set=TABLE,
        leaf=Pattern(P | PS | misaligned | reserved, P | PS) if leaf else None,
        leaf_set=P | PS,
        address=address,
        invalid=Pattern(P | PS, PS) if leaf else None,
        invalid_clear=P,
        busy=busy if leaf else 0,
    )


def _leaf(bits: int, word: Word, address: Field, reserved: int = 0) -> Level:
    return Level(
        name="PTE",
        word=word,
        shift=12,
        bits=bits,
        table=None,
        leaf=Pattern(P | reserved, P),
        leaf_set=P,
        address=address,
    )


def _64(name: str, title: str, va_bits: int, *top: Level) -> Arch:
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=52,
        byte_order="little",
        walker="hardware",
        sign_extended=True,
        implied="r",
        verified_by=("Unicorn", "QEMU"),
        layout=(
            _leaf(9, _64_WORD, _64_ADDRESS),
            _upper("PMD", 21, 9, _64_WORD, _64_ADDRESS, leaf=True, busy=_64_BUSY),
            _upper("PUD", 30, 9, _64_WORD, _64_ADDRESS, leaf=True, busy=_64_BUSY),
            *top,
        ),
    )


_P4D = _upper("P4D", 39, 9, _64_WORD, _64_ADDRESS, leaf=False, busy=_64_BUSY)
_PGD = _upper("PGD", 48, 9, _64_WORD, _64_ADDRESS, leaf=False, busy=_64_BUSY)

X86_64 = _64("x86_64", "x86-64, 4-level paging", 48, _P4D)
X86_64_LA57 = _64("x86_64_la57", "x86-64, 5-level paging", 57, _P4D, _PGD)

_32_ADDRESS = Field(0xFFFF_F000)
_32_WORD = Word(
    bytes=4,
    present_mask=P | PS | G,
    frozen_present=1 << 11,
    frozen_absent=1 << 6,
    attributes=_ATTRIBUTES,
    soft=Soft(type_mask=0x1F << 1, offset_mask=0xFFFF_F000, exclusive=1 << 9, base=1 << 10),
)

I386 = Arch(
    name="i386",
    title="x86, 32-bit paging with PSE",
    source=SOURCE,
    va_bits=32,
    pa_bits=32,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    implied="rx",
    verified_by=("Unicorn", "QEMU"),
    layout=(
        _leaf(10, _32_WORD, _32_ADDRESS),
        _upper("PGD", 22, 10, _32_WORD, _32_ADDRESS, leaf=True, busy=1 << 6 | 1 << 11),
    ),
)

_PAE_RESERVED = 0x7FF0_0000_0000_0000
_PDPTE_RESERVED = W | U | A | D | PS | G | NX | _PAE_RESERVED
_PAE_WORD = replace(_64_WORD, frozen_present=1 << 11)

I386_PAE = Arch(
    name="i386_pae",
    title="x86, PAE paging",
    source=SOURCE,
    va_bits=32,
    pa_bits=52,  # as wide as the manual lets it be; a CPU that has no 64-bit mode has 36
    root_bits=32,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    implied="r",
    verified_by=("Unicorn", "QEMU"),
    layout=(
        _leaf(9, _PAE_WORD, _64_ADDRESS, _PAE_RESERVED),
        _upper("PMD", 21, 9, _PAE_WORD, _64_ADDRESS, leaf=True, busy=_64_BUSY, reserved=_PAE_RESERVED),
        Level(
            name="PGD",
            word=_PAE_WORD,
            shift=30,
            bits=2,
            table=Pattern(P | _PDPTE_RESERVED, P),
            table_set=P,
            leaf=None,
            address=_64_ADDRESS,
        ),
    ),
)

ARCHITECTURES = (X86_64, X86_64_LA57, I386, I386_PAE)
