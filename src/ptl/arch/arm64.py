"""arm64: the VMSAv8-64 formats of stage 1, with pages of 4, 16 and 64 KiB.

    arm64_4k        63      48 47     39 38     30 29     21 20     12 11         0
    address        |   0      | level 4 | level 3 | level 2 | level 1 | offset     |
                                   9         9         9         9         12
    arm64_4k_va39   63                39 38     30  ...                               level 3 on top
    arm64_4k_va52   63  52 51 48 47     39  ...                                         level 5 on top, of 16 entries
    arm64_16k       63                47 46     36 35     25 24     14 13         0
                   |   0               | level 3 | level 2 | level 1 | offset     |
                                           11        11        11        14
    arm64_64k       63                48 47     42 41     29 28     16 15         0
                   |   0               | level 3 | level 2 | level 1 | offset     |
                                           6         13        13        16
    arm64_64k_va52  63  52 51         42 41  ...                                        level 3 of 1024 entries

    leaf           63  62-59  58-56  55  54  53  52 51 50  47 ..... 12  11  10  9-8  7   6   5  4-2   1   0
                            F = 56   D   XN  PX  C     0   address      nG  A   SH  RO  U  NS attr  kind V
    table          63-59 (limits)  58-52 ignored          address      11-2 ignored               1   1

    leaf, va52     with pages of 4 KiB  ... 49 ..... 12   11-10   9-8           and alike in an entry for a table
                                            address       nG A    address 51, 50
                   of 64 KiB            ... 47 ..... 16   15-12            ...
                                            address       address 51 to 48

V valid; kind: 1 for a page on level 1 and for a table above, 0 for a larger leaf, which the manual calls a block.
RO read-only, U user (AP[2:1] of the manual), A accessed, nG not global, XN and PX no execution by the user and by the
kernel, D dirty: 58 to 55 are software's, and F, frozen, is one of them. Hardware sets neither A nor D here, as without
FEAT_HAFDBS: a leaf without A faults, for software to set it. attr is an index of MAIR.

C, the contiguous bit: the leaf is one of a run of aligned neighbours that map aligned frames with the same attributes,
which a TLB may keep as one page:

    pages of      4 KiB              16 KiB              64 KiB
    level 1       16 are 64 KiB      128 are 2 MiB       32 are 2 MiB
    level 2       16 are 32 MiB      32 are 1 GiB        32 are 16 GiB
    level 3       16 are 16 GiB      -                   -

Who executes is one choice with U: a page of the user is executed by the user, any other by the kernel. A page that both
may execute (XN and PX 0) counts as the user's. A kernel's page that the user may execute, and not read, which
the format can say, is shown as no page to execute.

Bits of the address below the size of a leaf are reserved, to be written as 0: a leaf with one of them is BAD.

An address that begins with ones belongs to another table, that of TTBR1: va_bits are those of one. The numbers of the
levels are ptl's; the manual counts the other way round, from the top.

When V is 0 hardware ignores the rest. Software's entries are Linux's swap entries, of 6.11 and later; a leaf
whose size changes has bit 63, which Linux keeps for that purpose no name for, but which no swap offset reaches:

    software's     63   62   61 ............................ 12  11   10-6   5   4   3   2   1   0
                   0    0    offset                          0    type   F   B   0   E   0   0

E exclusive, B busy. Type 0 with offset 0 would be an empty entry: there is none. (In Linux it is the first page of the
first swap device, which holds no data.)
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

V, KIND, INVALID = 1 << 0, 1 << 1, 1 << 63
CONTIGUOUS = Pattern(1 << 52, 1 << 52)
SHARED = 0b11 << 8
U, RO, PX, XN = 1 << 6, 1 << 7, 1 << 53, 1 << 54
SOURCE = (
    "Arm Architecture Reference Manual for A-profile (DDI 0487), D8.3, translation table descriptor formats, "
    "and the Contiguous bit; "
    "Linux arch/arm64/include/asm/pgtable-hwdef.h, pgtable-prot.h, pgtable.h"
)

ATTRIBUTES = (
    Choice.inverted("w", 7),
    Choice(
        U | PX | XN,
        (
            (PX | XN, ""),
            (U | PX | XN, "u"),
            (XN, "x"),
            (U | PX, "xu"),
            (U, "xu"),
            (U | XN, "u"),
        ),
    ),
    Choice.inverted("g", 11),
    Choice.bit("a", 10),
    Choice.bit("d", 55),
)

LPA2_ADDRESS = Field((1 << 50) - (1 << 12), high_mask=0b11 << 8, high_left_shift=42)
LPA_ADDRESS = Field((1 << 48) - (1 << 16), high_mask=0b1111 << 12, high_left_shift=36)
WORD = Word(
    bytes=8,
    present_mask=V | INVALID,
    frozen_present=1 << 56,
    frozen_absent=1 << 5,
    attributes=ATTRIBUTES,
    soft=Soft(type_mask=0x1F << 6, offset_mask=(1 << 62) - (1 << 12), exclusive=1 << 2),
)


def _level(
    name: str, shift: int, bits: int, page_shift: int, run: int = 0, *, leaf: bool = True, wide: bool = False
) -> Level:
    narrow_address = Field((1 << 48) - (1 << page_shift))
    address = {12: LPA2_ADDRESS, 16: LPA_ADDRESS}[page_shift] if wide else narrow_address
    on_top = shift > page_shift
    below_address = (1 << shift) - (1 << 12) & ~address.high_mask
    kind = 0 if on_top else KIND
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=bits,
        table=Pattern(V | KIND, V | KIND) if on_top else None,
        table_set=V | KIND,
        leaf=Pattern(V | KIND | below_address, V | kind) if leaf else None,
        leaf_set=V | kind | (SHARED & ~address.high_mask),
        address=address,
        runs=(Run(entries=run, marks=CONTIGUOUS),) if run else (),
        invalid=Pattern(V | KIND | INVALID, kind | INVALID) if leaf and (on_top or run) else None,
        invalid_clear=V,
        invalid_set=INVALID,
        busy=1 << 4 | 1 << 5 if leaf and on_top else 0,
    )


def _arch(
    name: str,
    title: str,
    va_bits: int,
    *layout: Level,
    pa_bits: int = 48,
    judges: tuple[str, ...] = ("Unicorn", "QEMU"),
) -> Arch:
    return Arch(
        name=name,
        title=title,
        source=SOURCE,
        va_bits=va_bits,
        pa_bits=pa_bits,
        byte_order="little",
        walker="hardware",
        sign_extended=False,
        implied="r",
        verified_by=judges,
        layout=layout,
    )


_PTE, _PMD, _PUD = _level("PTE", 12, 9, 12, 16), _level("PMD", 21, 9, 12, 16), _level("PUD", 30, 9, 12, 16)

ARCHITECTURES = (
    _arch("arm64_4k", "Arm, 64-bit, 4 KiB pages", 48, _PTE, _PMD, _PUD, _level("PGD", 39, 9, 12, leaf=False)),
    _arch("arm64_4k_va39", "Arm, 64-bit, 4 KiB pages, three levels", 39, _PTE, _PMD, _PUD),
    _arch(
        "arm64_4k_va52",
        "Arm, 64-bit, 4 KiB pages, 52 bits (LPA2)",
        52,
        _level("PTE", 12, 9, 12, 16, wide=True),
        _level("PMD", 21, 9, 12, 16, wide=True),
        _level("PUD", 30, 9, 12, 16, wide=True),
        _level("P4D", 39, 9, 12, wide=True, leaf=False),
        _level("PGD", 48, 4, 12, wide=True, leaf=False),
        pa_bits=52,
        judges=("QEMU",),
    ),
    _arch(
        "arm64_16k",
        "Arm, 64-bit, 16 KiB pages",
        47,
        _level("PTE", 14, 11, 14, 128),
        _level("PMD", 25, 11, 14, 32),
        _level("PGD", 36, 11, 14, leaf=False),
    ),
    _arch(
        "arm64_64k",
        "Arm, 64-bit, 64 KiB pages",
        48,
        _level("PTE", 16, 13, 16, 32),
        _level("PMD", 29, 13, 16, 32),
        _level("PGD", 42, 6, 16, leaf=False),
    ),
    _arch(
        "arm64_64k_va52",
        "Arm, 64-bit, 64 KiB pages, 52 bits (LVA, LPA)",
        52,
        _level("PTE", 16, 13, 16, 32, wide=True),
        _level("PMD", 29, 13, 16, 32, wide=True),
        _level("PGD", 42, 10, 16, wide=True, leaf=False),
        pa_bits=52,
        judges=("QEMU",),
    ),
)
