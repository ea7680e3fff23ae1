"""The promise: where hardware walks, an entry says what the manual says it does, computed by hand.

Each example is a word as the manual or an operating system has it, and what it means; the comments name its bits. What
no emulator judges rests on these, the huge leaves of s390 among them. Some of the words are made again, by `encode`.
"""

from __future__ import annotations

from typing import Any

import pytest

import ptl
from ptl import State
from ptl.arch import Entry


def leaf(pa: int, flags: str, frozen: bool = False) -> Entry:
    return Entry(State.HUGE, pa, flags, frozen)


def table(pa: int) -> Entry:
    return Entry(State.TABLE, pa)


EMPTY, BAD = Entry(State.EMPTY), Entry(State.BAD)

# By name: level, word, meaning
EXAMPLES: dict[str, list[tuple[int, int, Entry]]] = {
    "arm": [
        (1, 0x1234_575F, leaf(0x1234_5000, "rwuad")),  # shared, XN, user, dirty, write-allocate, young, present
        (1, 0x1234_549F, leaf(0x1234_5000, "rxa")),  # shared, read-only, write-allocate, young, present
        (1, 0x1234_5C9F, leaf(0x1234_5000, "rxa", frozen=True)),  # with Linux's bit for a page without access
        (2, 0x0100_0C31_0100_0831, table(0x0100_0000)),  # two halves of 1 KiB from 2 KiB on; bit 4, domain 1
        (2, 0x4033_1C1E_4023_1D7E, leaf(0x4020_0000, "rwuad")),  # two sections: nG, S, TEX 001, AP 11, user, dirty, XN
        (2, 0x4033_9C0E_4023_9D2E, leaf(0x4020_0000, "rwxua")),  # clean: APX, so read-only
        (2, 0x4031_940E_4021_94AE, leaf(0x4020_0000, "rxa")),  # APX, AP 01: read-only, not for the user
        (2, 0x4033_100E_4023_114E, leaf(0x4020_0000, "rwxud")),  # old: AP 00, no access
        (2, 0x4033_1C5E_4023_1D7E, leaf(0x4020_0000, "rwuad", frozen=True)),  # bit 6 of the second
        (2, 0x4033_1C9C_4023_1D7C, Entry(State.INVALID, 0x4020_0000, "rwuad")),  # bit 7, and neither is a section
        (2, 0x4031_140E_4021_140E, leaf(0x4020_0000, "rwx")),  # Linux's MT_MEMORY_RWX, in domain 0
        (2, 0x0020_0C0E_0010_0C0E, BAD),  # two sections that begin with an odd MiB
        (2, 0x4021_140E_4021_140E, BAD),  # the same section twice
        (2, 0x0100_0C31_4021_140E, BAD),  # a section, and a table
        (2, 0x0000_0000_4021_140E, BAD),  # a section, and nothing
        (2, 0x4031_140F_4021_140F, BAD),  # with PXN
        (2, 0x4035_140E_4025_140E, BAD),  # of 16 MiB
        (2, 0x0000_0000_0012_3498, Entry(State.SOFT)),  # swap: type 6, offset 0x1234, exclusive
        (2, 0x0000_0040_0012_3498, Entry(State.SOFT, frozen=True)),
        (2, 0x0000_0140_0000_0000, Entry(State.BUSY, frozen=True)),
        (2, 0, EMPTY),
    ],
    "arm_lpae": [
        (1, 0x00C0_0001_2345_6F43, leaf(0x1_2345_6000, "rwuad")),  # dirty, XN, nG, AF, inner shareable, AP[1], page
        (2, 0x0000_0000_6000_0781, leaf(0x6000_0000, "rxga")),  # AF, inner shareable, AP[2], block
        (3, 0x0040_0000_4000_0701, leaf(0x4000_0000, "rwga")),  # XN, AF, inner shareable, block
        (3, 0x0000_0000_4000_1003, table(0x4000_1000)),
    ],
    "arm64_4k": [
        (1, 0x00E0_0000_4000_0F43, leaf(0x4000_0000, "rwuad")),  # dirty, UXN, PXN, nG, AF, inner shareable, AP[1], page
        (2, 0x0040_0000_4020_0781, leaf(0x4020_0000, "rxga")),  # UXN, AF, inner shareable, AP[2], block
        (3, 0x0060_0000_4000_0701, leaf(0x4000_0000, "rwga")),  # UXN, PXN, AF, inner shareable, block
        (4, 0x0000_0000_4100_0003, table(0x4100_0000)),
        (2, 0x0060_0000_4000_1701, BAD),  # an address within a block
    ],
    "arm64_4k_va39": [(3, 0x0060_0000_4000_0701, leaf(0x4000_0000, "rwga"))],
    "arm64_4k_va52": [
        (1, 0x0060_0000_0000_1703, leaf(0xC_0000_0000_1000, "rwga")),  # address bits 51 and 50 in 9 and 8
        (5, 0x0000_0000_4100_0103, table(0x4_0000_4100_0000)),
    ],
    "arm64_16k": [
        (1, 0x0060_0000_0000_4703, leaf(0x4000, "rwga")),
        (2, 0x0060_0000_0200_0701, leaf(0x200_0000, "rwga")),
    ],
    "arm64_64k": [
        (1, 0x0060_0000_0001_0703, leaf(0x1_0000, "rwga")),
        (2, 0x0060_0000_2000_0701, leaf(0x2000_0000, "rwga")),
    ],
    "arm64_64k_va52": [
        (1, 0x0060_0000_0001_F703, leaf(0xF_0000_0001_0000, "rwga")),  # address bits 51 to 48 in 15 to 12
        (3, 0x0000_0000_4100_1003, table(0x1_0000_4100_0000)),
    ],
    "m68k": [
        (1, 0x1234_5019, leaf(0x1234_5000, "rwxuad")),  # modified, used, resident
        (1, 0x1234_548D, leaf(0x1234_5000, "rxga")),  # global, supervisor, used, write protected, resident
        (1, 0x1234_501B, leaf(0x1234_5000, "rwxuad")),  # 11 is resident too
        (1, 0x1234_5002, BAD),  # indirect
        (2, 0x0100_010A, table(0x0100_0100)),  # used, resident
        (3, 0x0100_020A, table(0x0100_0200)),
        (3, 0, EMPTY),
    ],
    "powerpc_radix_4k": [
        (1, 0xC000_0001_2345_6186, leaf(0x1_2345_6000, "rwuad")),  # valid, leaf, R, C, read, read and write
        (2, 0xC000_0000_0020_018D, leaf(0x20_0000, "rxad")),  # ..., privileged, read, execute
        (3, 0xC000_0000_4000_018E, leaf(0x4000_0000, "rwad")),
        (2, 0x8000_0000_0100_0009, table(0x100_0000)),  # of 2**9 entries
        (2, 0x8000_0000_0100_0005, BAD),  # of 2**5
    ],
    "powerpc_radix_64k": [
        (1, 0xC000_0001_2345_0186, leaf(0x1_2345_0000, "rwuad")),
        (2, 0x8000_0000_0100_0105, table(0x100_0100)),  # of 2**5 entries, 256 bytes
    ],
    "riscv_sv32": [
        (1, 0xC000_00D7, leaf(0x3_0000_0000, "rwuad")),  # page number 0x300000; D, A, U, W, R, V
        (2, 0x2008_0401, table(0x8020_1000)),
    ],
    "riscv_sv39": [
        (1, 0x2008_00D7, leaf(0x8020_0000, "rwuad")),  # page number 0x80200; D, A, U, W, R, V
        (2, 0x2008_00EB, leaf(0x8020_0000, "rxgad")),  # D, A, G, X, R, V
        (2, 0x2008_04EB, BAD),  # page number 0x80201: misaligned superpage
        (1, 0x2008_00C5, BAD),  # W without R
        (3, 0x2008_0401, table(0x8020_1000)),
    ],
    "riscv_sv48": [(4, 0x2008_0401, table(0x8020_1000)), (3, 0x1000_00EB, leaf(0x4000_0000, "rxgad"))],
    "riscv_sv57": [(5, 0x2008_0401, table(0x8020_1000)), (3, 0x1000_00EB, leaf(0x4000_0000, "rxgad"))],
    "s390": [
        (1, 0x1234_503D, leaf(0x1234_5000, "rwxuad")),  # Linux's table: read-write, dirty, young
        (1, 0x1234_5315, leaf(0x1234_5000, "rua")),  # read-only, clean, young: protected, and no execution
        (1, 0x1234_5631, leaf(0x1234_5000, "rwxu")),  # read-write, clean, old: invalid and protected
        (1, 0x1234_5601, BAD),  # no access, clean, old
        (1, 0x1234_5815, BAD),  # bit 52 of the manual, which must be zero
        (1, 0x400, EMPTY),
        (2, 0x0010_F501, leaf(0x10_0000, "rwuad")),  # Linux's SEGMENT_KERNEL: format control, no execution
        (2, 0x0010_5701, leaf(0x10_0000, "rua")),  # SEGMENT_KERNEL_RO: DAT protection
        (2, 0x0100_0801, table(0x100_0800)),  # the second page table of a page
        (2, 0x0100_0800, table(0x100_0800)),  # as older versions of Linux have it
        (2, 0x20, EMPTY),
        (3, 0x8000_F505, leaf(0x8000_0000, "rwuad")),  # REGION3_KERNEL, type 01
        (3, 0x0100_0007, table(0x100_0000)),  # type 01, length 11
        (3, 0x0100_000B, BAD),  # type 10
        (3, 0x24, EMPTY),
        (4, 0x0100_000B, table(0x100_0000)),
        (4, 0x28, EMPTY),
    ],
    "sparc32": [
        (1, 0x1234_56EE, leaf(0x1_2345_6000, "rwxuad")),  # cacheable, modified, referenced, ACC 3, ET 2
        (1, 0x1234_56AA, leaf(0x1_2345_6000, "rxua")),  # Linux's read-only page
        (1, 0x1234_56FE, leaf(0x1_2345_6000, "rwxad")),  # ACC 7: for the supervisor
        (1, 0x1234_56EF, leaf(0x1_2345_6000, "rwxuad", frozen=True)),  # ET 3, reserved
        (2, 0x0000_40EE, leaf(0x4_0000, "rwxuad")),
        (2, 0x0010_0011, table(0x100_0100)),  # ET 1
        (3, 0, EMPTY),
    ],
    "x86_64": [
        (1, 0x8000_0000_1234_5067, leaf(0x1234_5000, "rwuad")),  # XD, D, A, U/S, R/W, P
        (2, 0x0000_0000_01E0_01E1, leaf(0x1E0_0000, "rxgad")),  # G, PS, D, A, P
        (3, 0x8000_0000_4000_00E3, leaf(0x4000_0000, "rwad")),  # XD, PS, D, A, R/W, P
        (4, 0x0000_0000_02A3_C067, table(0x2A3_C000)),
        (4, 0x0000_0000_02A3_C0E7, BAD),  # PS
    ],
    "x86_64_la57": [(5, 0x02A3_C067, table(0x2A3_C000)), (5, 0x02A3_C0E7, BAD)],
    "i386": [
        (1, 0x1234_5067, leaf(0x1234_5000, "rwxuad")),  # D, A, U/S, R/W, P
        (2, 0x0040_00E3, leaf(0x40_0000, "rwxad")),  # PS, D, A, R/W, P
        (2, 0x0040_20E3, BAD),  # an address above 4 GiB, by PSE-36
        (2, 0x02A3_C067, table(0x2A3_C000)),
    ],
    "i386_pae": [
        (1, 0x8000_0001_2345_6067, leaf(0x1_2345_6000, "rwuad")),
        (2, 0x8000_0000_0020_00E3, leaf(0x20_0000, "rwad")),
        (3, 0x0234_5001, table(0x234_5000)),
        (3, 0x0234_5003, BAD),  # R/W
    ],
}


def cases(examples: dict[str, list[tuple[int, int, Entry]]]) -> list[Any]:
    """A case for each word."""
    return [
        pytest.param(ptl.arch.get(name), level, raw, meaning, id=f"{name}-{level}-{raw:x}")
        for name, words in examples.items()
        for level, raw, meaning in words
    ]


@pytest.mark.parametrize(("arch", "level", "raw", "meaning"), cases(EXAMPLES))
def test_a_word_means_what_the_manual_says(arch, level, raw, meaning):
    assert arch.decode(raw, level) == meaning


MADE = [
    ("arm", 1, 0x1234_575F),
    ("arm", 2, 0x4033_1C1E_4023_1D7E),
    ("arm", 2, 0x4033_9C0E_4023_9D2E),
    ("arm", 2, 0x4033_100E_4023_114E),
    ("arm_lpae", 2, 0x0000_0000_6000_0781),
    ("arm64_4k", 2, 0x0040_0000_4020_0781),
    ("arm64_4k_va52", 1, 0x0060_0000_0000_1703),
    ("m68k", 1, 0x1234_5019),
    ("powerpc_radix_4k", 1, 0xC000_0001_2345_6186),
    ("riscv_sv39", 2, 0x2008_00EB),
    ("s390", 1, 0x1234_503D),
    ("s390", 2, 0x0010_F501),
    ("s390", 3, 0x8000_F505),
    ("sparc32", 1, 0x1234_56EE),
    ("x86_64", 2, 0x0000_0000_01E0_01E1),
    ("i386_pae", 1, 0x8000_0001_2345_6067),
]


@pytest.mark.parametrize(("name", "level", "raw"), MADE, ids=lambda value: value if isinstance(value, str) else None)
def test_that_word_is_the_one_that_is_written(name, level, raw):
    arch = ptl.arch.get(name)
    meaning = arch.decode(raw, level)
    assert arch.encode(meaning.pa, meaning.flags, level) == raw


# -- words that hardware reads in place of an entry


@pytest.mark.parametrize(
    ("raw", "shadow"),
    [
        (0x1234_575F, 0x1234_5C7F),  # small page, XN, C, B, AP[1:0] = 11, TEX = 001, S, nG
        (0x1234_549F, 0x1234_565E),  # small page, C, B, AP = 101 (read-only, not for the user), TEX = 001, S
        (0x1234_571F, 0x1234_5E7F),  # clean: as the first, and read-only
        (0x1234_575D, 0),  # not young: no page
        (0x0000_0308, 0),  # a swap entry
    ],
    ids=hex,
)
def test_what_hardware_sees_of_a_page_of_arm_is_what_linux_shows_it(raw, shadow):
    """Its cpu_v7_set_pte_ext, in software; and in a live table, where the halves of the entry on top say."""
    arch = ptl.arch.get("arm")
    assert arch.level(1).shadow.of(raw) == shadow
    frames = ptl.Frames(1 << 20)
    pt = ptl.PageTable(arch, frames=frames)
    for va in (0x20_5000, 0x30_5000):  # in the first MiB of a table, and in its second
        pt.populate(va)
        pt.exchange(va, raw)
        halves = pt.walk(va).steps[0].raw
        hardware_table = (halves >> (va & 1 << 20) // (1 << 20) * 32) & 0xFFFF_FC00
        seen = frames.view(hardware_table + 4 * (va >> 12 & 0xFF), 4)
        assert int.from_bytes(seen, "little") == shadow
        assert pt.walk(va).steps[-1].raw == raw
    pt.check()
