"""tiny: no real machine, but small enough that a test can visit every state.

    address       17    16 15    14 13    12 11         0
                 | level 3| level 2| level 1|   offset   |
                      2        2        2         12

    entry         60   59   58  57  56  55  54  53  52  51 ................. 5   4-1   0
                   F    B  leaf  D   A   G   U   X   W   physical address             P

    software's    61   60   59  58  57  56  55  54  53  52  51 ................. 5   4-1   0
                   1    F    0   0   0   0   0   0   0   E   offset                  type  0

P present, W write, X execute, U user, G global, A accessed, D dirty, leaf (above level 1), F a frozen leaf, B busy.
A table has four entries of 8 bytes, so it is 32 bytes and its address has 5 low bits of 0. Leaves map 4 KiB, 16 KiB and
64 KiB.
E exclusive. Bit 61 of software's entries means nothing else; without it type 0 at offset 0 would be an empty one.
"""

from __future__ import annotations

from ptl.arch.description import Arch, Choice, Field, Level, Pattern, Soft, Word

P, LEAF, BUSY, FROZEN, SOFT = (1 << bit for bit in (0, 58, 59, 60, 61))
ADDRESS = Field(0x000F_FFFF_FFFF_FFE0)

WORD = Word(
    bytes=8,
    present_mask=P | LEAF,
    frozen_present=FROZEN,
    frozen_absent=FROZEN,
    attributes=tuple(Choice.bit(letter, 52 + i) for i, letter in enumerate("wxugad")),
    soft=Soft(type_mask=0b1111 << 1, offset_mask=ADDRESS.mask, exclusive=1 << 52, base=SOFT),
)


def _level(name: str, shift: int, *, leaf_level: bool = False) -> Level:
    misaligned = (1 << shift) - 1 & ADDRESS.mask
    kind = 0 if leaf_level else LEAF
    return Level(
        name=name,
        word=WORD,
        shift=shift,
        bits=2,
        table=None if leaf_level else Pattern(P | LEAF, P),
        table_set=P,
        leaf=Pattern(P | kind | misaligned, P | kind),
        leaf_set=P | kind,
        address=ADDRESS,
        invalid=None if leaf_level else Pattern(P | LEAF, LEAF),
        invalid_clear=P,
        busy=0 if leaf_level else BUSY | FROZEN,
    )


TINY = Arch(
    name="tiny",
    title="four entries a table, for exhaustive tests",
    source="this project",
    va_bits=18,
    pa_bits=52,
    byte_order="little",
    walker="software",
    sign_extended=False,
    implied="r",
    layout=(_level("PTE", 12, leaf_level=True), _level("PMD", 14), _level("PGD", 16)),
)

ARCHITECTURES = (TINY,)
