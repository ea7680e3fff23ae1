"""ia64: Linux's tree for Itanium, with pages of 16 KiB and three levels. Software reads it to refill the TLB.

    address       63  61 60   44 43       36 35       25 24       14 13          0
                 |region|   0   |  level 3  |  level 2  |  level 1  |   offset    |
                    3                 8           11          11          14

    leaf           63   62-54  53  52  51-50  49 ........ 14  13-12  11-9  8-7   6   5   4-2  1   0
                   PN          F   ED         address                AR    PL    D   A   MA       P
    table          0 .......................  address         0 ..................................

The region, the three highest bits of an address, is the highest part of the index of level 3: a table is for eight
regions, with a hole in each. (Linux has region 5, the kernel's, in a tree by itself.) A leaf is what goes into the TLB,
and what the processor's own walker reads, which knows the leaf level only (the short format of the VHPT). P present, A
accessed, D dirty, AR access rights, PL privilege level, MA how to cache, ED exception deferral; F frozen: hardware
ignores 63 to 53, and does not set A or D. PN is Linux's mark for a page without access, which has no P: it is BAD here.
There are no leaves above level 1: Linux has huge pages in a region of their own, with a tree that is indexed by other
bits of the address, and that is not here.

Rights and privilege are one choice. What AR allows is not the same for all levels of privilege when it is 4 to 7:

    AR               0    1    2    3    4    5    6    7
    to the user      R    RX   RW   RWX  R    RX   RWX  X      where PL is 3
    to the kernel    R    RX   RW   RWX  RW   RWX  RW   RX     below

Flags say what the user may do with a page of the user, and what the kernel may do with any other. A page with AR 7 and
PL below 3 can be executed by the user, who thereby enters the kernel; it is shown as the kernel's.

An entry for a table is its address and nothing else, so no table may lie at address 0. When P is 0 the processor
ignores the rest. Software's entries are Linux's swap entries, but that the offset is one bit shorter:

    software's     63   62   61 .......................... 8    7   6-1    0
                   0    F    offset                             E   type   0

E exclusive. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

P, NO_ACCESS, DEFER = 1 << 0, 1 << 63, 1 << 52
PAGE_SHIFT = 14
ALL = (1 << 64) - 1
USER = 3
TO_USER = ("r", "rx", "rw", "rwx", "r", "rx", "rwx", "x")
TO_KERNEL = ("r", "rx", "rw", "rwx", "rw", "rwx", "rw", "rx")


def _rights() -> Iterator[tuple[int, str]]:
    """Each value of AR and PL, with what it grants; those of the kernel's own level first, to be written."""
    for level in (0, USER, 1, 2):
        for rights in range(8):
            yield rights << 9 | level << 7, TO_USER[rights] + "u" if level == USER else TO_KERNEL[rights]


WORD = Word(
    bytes=8,
    present_mask=P | NO_ACCESS,
    frozen_present=1 << 53,
    frozen_absent=1 << 62,
    attributes=(Choice(0b11111 << 7, tuple(_rights())), Choice.bit("a", 5), Choice.bit("d", 6)),
    soft=Soft(type_mask=0x3F << 1, offset_mask=(1 << 62) - (1 << 8), exclusive=1 << 7),
)
TABLES = replace(WORD, present_mask=ALL)
"""Of levels without leaves: whatever is no table and not empty is BAD."""
ADDRESS = Field((1 << 50) - (1 << PAGE_SHIFT))


def _tables(name: str, shift: int) -> Level:
    return Level(
        name=name,
        word=TABLES,
        shift=shift,
        bits=11,
        table=Pattern(ALL & ~ADDRESS.mask, 0),
        leaf=None,
        address=ADDRESS,
    )


IA64 = Arch(
    name="ia64",
    title="Itanium, 16 KiB pages, three levels",
    source=(
        "Intel Itanium Architecture Software Developer's Manual, volume 2, 4.1.1 (TLB, access rights), 4.1.5 (VHPT); "
        "Linux arch/ia64/include/asm/pgtable.h, page.h, arch/ia64/kernel/ivt.S (up to 6.6)"
    ),
    va_bits=47,
    pa_bits=50,
    byte_order="little",
    walker="software",
    sign_extended=False,
    region_bits=3,
    layout=(
        Level(
            name="PTE",
            word=WORD,
            shift=PAGE_SHIFT,
            bits=11,
            table=None,
            leaf=Pattern(P, P),
            leaf_set=P | DEFER,
            address=ADDRESS,
        ),
        _tables("PMD", 25),
        _tables("PGD", 36),
    ),
)

ARCHITECTURES = (IA64,)
