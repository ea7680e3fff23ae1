"""arm_lpae: 32-bit Arm with LPAE, three levels of long descriptors.

    address         31   30 29     21 20     12 11         0
                   |level 3| level 2 | level 1 | offset     |
                       2        9         9         12

    leaf           63-58 57  56  55  54  53  52  39 ..... 12  11  10  9-8  7   6   5  4-2   1   0
                         F       D   XN  PX  C   address      nG  A   SH  RO  U  NS attr  kind V
    table          63-59 (limits)  58-52 ignored  address     11-2 ignored               1   1

As arm64 (arm64.py), with addresses of 40 bits; but XN is for user and kernel, and PX for the kernel only, and whoever
executes must be able to read. F, frozen, is the bit with which Linux marks a page without access, which
then is not valid: no valid entry of Linux has it. Bits 58 and 56 are Linux's too. Leaves map 4 KiB, 2 MiB and 1 GiB,
and 16 neighbours with C, the contiguous hint, 64 KiB on level 1 and 32 MiB on level 2.

When V is 0 hardware ignores the rest. Software's entries are Linux's swap entries; a leaf whose size changes has bit
63:

    software's     63   62-34   33  32  31 ............ 8   7   6-2   1   0
                   0    0       B   F   offset              E   type  0   0

E exclusive, B busy. The offset has 24 bits and a frame number 28: what lies above 64 GiB cannot be the offset of a
migration, in Linux neither. Type 0 with offset 0 would be an empty entry: there is none.
"""

from __future__ import annotations

from ptl.arch.arm64 import ATTRIBUTES, CONTIGUOUS, INVALID, KIND, PX, SHARED, XN, U, V
from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Run, Soft, Word

ADDRESS = Field((1 << 40) - (1 << 12))
EXECUTE = Choice(
    U | PX | XN,
    (
        (PX | XN, ""),
        (U | PX | XN, "u"),
        (0, "x"),
        (U | PX, "xu"),
        (U, "xu"),
        (U | XN, "u"),
        (XN, ""),
        (PX, ""),
    ),
)
WORD = Word(
    bytes=8,
    present_mask=V | INVALID,
    frozen_present=1 << 57,
    frozen_absent=1 << 32,
    attributes=tuple(EXECUTE if "x" in choice.letters else choice for choice in ATTRIBUTES),
    soft=Soft(type_mask=0x1F << 2, offset_mask=(1 << 32) - (1 << 8), exclusive=1 << 7),
)


def _level(name: str, shift: int, bits: int, run: int = 0) -> Level:
    on_top = shift > 12
    kind = 0 if on_top else KIND
    below_address, above_address = (1 << shift) - (1 << 12), (1 << 48) - (1 << 40)
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=bits,
        table=Pattern(V | KIND | above_address, V | KIND) if on_top else None,
        table_set=V | KIND,
        leaf=Pattern(V | KIND | below_address | above_address, V | kind),
        leaf_set=V | kind | SHARED,
        address=ADDRESS,
        runs=(Run(entries=run, marks=CONTIGUOUS),) if run else (),
        invalid=Pattern(V | KIND | INVALID, kind | INVALID) if on_top or run else None,
        invalid_clear=V,
        invalid_set=INVALID,
        busy=1 << 32 | 1 << 33 if on_top else 0,
    )


LPAE = Arch(
    name="arm_lpae",
    title="Arm, 32-bit, long descriptors",
    source=(
        "Arm Architecture Reference Manual, ARMv7-A and ARMv7-R (DDI 0406), B3.6, long-descriptor format; "
        "Linux arch/arm/include/asm/pgtable-3level.h, pgtable-3level-hwdef.h, pgtable.h"
    ),
    va_bits=32,
    pa_bits=40,
    byte_order="little",
    walker="hardware",
    sign_extended=False,
    implied="r",
    verified_by=("Unicorn",),
    layout=(_level("PTE", 12, 9, 16), _level("PMD", 21, 9, 16), _level("PGD", 30, 2)),
)

ARCHITECTURES = (LPAE,)
