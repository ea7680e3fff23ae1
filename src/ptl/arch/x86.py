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

    entry, 64-bit  63   62-53  52   51 ............ 12   11-9    8   7   6   5   4   3   2   1   0
                   NX          F    physical address             G   PS  D   A  PCD PWT  U   W   P
    entry, i386    31 ............ 12     11   10-9    8   7   6   5   4   3   2   1   0
                    physical address       F           G   PS  D   A  PCD PWT  U   W   P

P present, W write, U user, A accessed, D dirty, PS leaf above level 1 (at level 1 it is PAT), G global, NX no
execute, F frozen: hardware ignores 11-9 in every entry and, in 64-bit entries, 58-52 too. When P is 0 hardware
ignores the rest. Software then still calls an entry present when PS is set, which is how a huge leaf that is being
split looks, or bit 8 (no access). Swap entries leave bits 6 to 4 (i386: bit 6) alone, so those mark a frozen and a
busy one.

Software's entries keep a type in bits 63-59 and an offset, inverted, in 58-9, with E (exclusive) in bit 3 where the
machine has 64 bits; i386 a type in bits 5-1 and an offset in 31-9. (The kernel's 32-bit E is bit 7, which here tells a
huge leaf that is being split: those formats have none.)

Every entry for a table is made with P, W and U set, so that the leaf alone decides; but in a level-3 entry of i386_pae
W and U are reserved, and so are NX, A, D and PS. A 4 MiB leaf of i386 has an address of 32 bits: bits 20 to 13, which
PSE-36 uses for more, must be 0.
"""

from __future__ import annotations

from dataclasses import replace

from ptl.arch.description import Arch, Field, Flag, Level, Pattern, Soft

P, W, U, A, D, PS, G, NX = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 63))
TABLE = P | W | U
SOURCE = "Intel SDM volume 3A, chapter 4 (paging); Linux arch/x86/include/asm/pgtable_types.h"

_64_ADDRESS = Field(0x000F_FFFF_FFFF_F000)
_FLAGS = {"w": Flag.bit(1), "u": Flag.bit(2), "g": Flag.bit(8), "a": Flag.bit(5), "d": Flag.bit(6)}


def _upper(name: str, shift: int, bits: int, address: Field, *, leaf: bool, busy: int, reserved: int = 0) -> Level:
    """A level above the leaves: a table when PS is 0, a leaf (where the format has one) when it is 1."""
    misaligned = (1 << shift) - (1 << 13) if leaf else 0  # a leaf's address is aligned; bit 12 is PAT
    return Level(
        name=name,
        shift=shift,
        bits=bits,
        table=Pattern(P | PS | reserved, P),
        table_set=TABLE,
        leaf=Pattern(P | PS | misaligned | reserved, P | PS) if leaf else None,
        leaf_set=P | PS,
        address=address,
        invalid=Pattern(P | PS, PS) if leaf else None,
        invalid_clear=P,
        busy=busy,
    )


def _leaf(bits: int, address: Field, reserved: int = 0) -> Level:
    return Level(
        name="PTE", shift=12, bits=bits, table=None, leaf=Pattern(P | reserved, P), leaf_set=P, address=address
    )


def _64(name: str, title: str, va_bits: int, *top: Level) -> Arch:
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=52,
        entry_bytes=8,
        byte_order="little",
        walker="hardware",
        sign_extended=True,
        present_mask=P | PS | G,
        frozen_present=1 << 52,
        frozen_absent=1 << 4,
        flags={**_FLAGS, "x": Flag.inverted(63)},
        implied="r",
        soft=_64_SOFT,
        layout=(
            _leaf(9, _64_ADDRESS),
            _upper("PMD", 21, 9, _64_ADDRESS, leaf=True, busy=_64_BUSY),
            _upper("PUD", 30, 9, _64_ADDRESS, leaf=True, busy=_64_BUSY),
            *top,
        ),
    )


_64_BUSY = 0b11 << 4
_64_SOFT = Soft(type_mask=0x1F << 59, offset_mask=(1 << 59) - (1 << 9), inverted_offset=True, exclusive=1 << 3)
_P4D = _upper("P4D", 39, 9, _64_ADDRESS, leaf=False, busy=_64_BUSY)
_PGD = _upper("PGD", 48, 9, _64_ADDRESS, leaf=False, busy=_64_BUSY)

X86_64 = _64("x86_64", "x86-64, 4-level paging", 48, _P4D)
X86_64_LA57 = _64("x86_64_la57", "x86-64, 5-level paging", 57, _P4D, _PGD)

_32_ADDRESS = Field(0xFFFF_F000)

I386 = Arch(
    name="i386",
    title="x86, 32-bit paging with PSE",
    source=SOURCE,
    va_bits=32,
    pa_bits=32,
    entry_bytes=4,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    present_mask=P | PS | G,
    frozen_present=1 << 11,
    frozen_absent=1 << 6,
    flags=_FLAGS,
    implied="rx",
    soft=Soft(type_mask=0x1F << 1, offset_mask=(1 << 32) - (1 << 9)),
    layout=(_leaf(10, _32_ADDRESS), _upper("PGD", 22, 10, _32_ADDRESS, leaf=True, busy=0b11 << 5)),
)

_PAE_RESERVED = 0x7FF0_0000_0000_0000
_PDPTE_RESERVED = W | U | A | D | PS | G | NX | _PAE_RESERVED

I386_PAE = Arch(
    name="i386_pae",
    title="x86, PAE paging",
    source=SOURCE,
    va_bits=32,
    pa_bits=52,
    entry_bytes=8,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    present_mask=P | PS | G,
    frozen_present=1 << 11,
    frozen_absent=1 << 4,
    flags={**_FLAGS, "x": Flag.inverted(63)},
    implied="r",
    soft=replace(_64_SOFT, exclusive=0),
    layout=(
        _leaf(9, _64_ADDRESS, _PAE_RESERVED),
        _upper("PMD", 21, 9, _64_ADDRESS, leaf=True, busy=_64_BUSY, reserved=_PAE_RESERVED),
        Level(
            name="PGD",
            shift=30,
            bits=2,
            table=Pattern(P | _PDPTE_RESERVED, P),
            table_set=P,
            leaf=None,
            address=_64_ADDRESS,
            busy=_64_BUSY,
        ),
    ),
)

ARCHITECTURES = (X86_64, X86_64_LA57, I386, I386_PAE)
