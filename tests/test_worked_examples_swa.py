"""The promise: where software walks, an entry says what the headers of Linux say it does, computed by hand.

Each example is a word as Linux has it, by the names of its headers, and what it means. Some of the words are made
again, by `encode`; and of some it is said what a handler loads into the TLB.
"""

from __future__ import annotations

import pytest

import ptl
from ptl import State
from ptl.arch import Entry, SoftEntry


def leaf(pa: int, flags: str, frozen: bool = False) -> Entry:
    return Entry(State.HUGE, pa, flags, frozen)


def table(pa: int) -> Entry:
    return Entry(State.TABLE, pa)


EMPTY, BAD = Entry(State.EMPTY), Entry(State.BAD)

# By name: level, word, meaning
EXAMPLES: dict[str, list[tuple[int, int, Entry]]] = {
    "m68k_coldfire": [
        (1, 0x1234_5C3C, leaf(0x1234_4000, "rwxga")),  # PAGE_KERNEL: accessed, shared, valid, system, R, W, X
        (1, 0x1234_5411, leaf(0x1234_4000, "ruad")),  # PAGE_COPY: accessed, valid, R, dirty
        (1, 0x1234_5611, leaf(0x1234_4000, "ruad", frozen=True)),
        (1, 0x1234_5400, leaf(0x1234_4000, "ua")),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0x0100_0800, table(0x100_0800)),
        (2, 0x0100_0100, BAD),  # not a multiple of a table
        (2, 0, EMPTY),
    ],
    "m68k_sun3": [
        (1, 0xD200_091A, leaf(0x123_4000, "rwxua")),  # PAGE_SHARED: valid, writable, no cache, accessed; frame 0x91a
        (1, 0xF300_091A, leaf(0x123_4000, "rwxad")),  # PAGE_KERNEL: and system, modified
        (1, 0x9200_091A, leaf(0x123_4000, "rxua")),  # PAGE_READONLY
        (1, 0x9280_091A, leaf(0x123_4000, "rxua", frozen=True)),
        (1, 0xF307_FFFF, leaf(0xFFFF_E000, "rwxad")),  # the last frame
        (1, 0x2000_0000, Entry(State.SOFT)),  # what a page map has for nothing: no word of the tree
        (2, 0x0001_2040, table(0x1_2040)),
        (2, 0x0001_2041, BAD),  # SUN3_PMD_VALID, which nobody sets
        (2, 0, EMPTY),
    ],
    "microblaze": [
        (1, 0x1234_55D2, leaf(0x1234_5000, "rwuad")),  # accessed, writable, dirty, RW, user, present
        (1, 0x1234_5452, leaf(0x1234_5000, "rwua")),  # PAGE_SHARED, which traps the first write
        (1, 0x1234_57C2, leaf(0x1234_5000, "rwxad")),  # PAGE_KERNEL
        (1, 0x1234_5412, leaf(0x1234_5000, "rua")),  # PAGE_READONLY
        (1, 0x1234_5C12, leaf(0x1234_5000, "rua", frozen=True)),
        (1, 0, EMPTY),
        (2, 0xC100_1000, table(0x100_1000)),
        (2, 0x8100_1000, BAD),  # below the kernel
        (2, 0, EMPTY),
    ],
    "mips32": [
        (1, 0x1234_579D, leaf(0x1234_5000, "rwxuad")),  # cached, D, V, modified, accessed, write, present
        (1, 0x1234_568D, leaf(0x1234_5000, "rwxua")),  # clean: no D
        (1, 0x1234_5605, leaf(0x1234_5000, "rwxu")),  # PAGE_SHARED: old, and no V
        (1, 0x1234_5689, leaf(0x1234_5000, "rxua")),  # PAGE_READONLY, accessed
        (1, 0x1234_57DD, leaf(0x1234_5000, "rwxugad")),  # PAGE_KERNEL: global
        (1, 0x1234_55DD, leaf(0x1234_5000, "rwxugad")),  # PAGE_KERNEL_UNCACHED
        (1, 0x1234_5603, leaf(0x1234_5000, "u")),  # PAGE_NONE: no read
        (1, 0x1234_57BD, leaf(0x1234_5000, "rwxuad", frozen=True)),  # special
        (1, 0x0000_0000, EMPTY),
        (1, 0x0000_0040, EMPTY),  # global, for its neighbour
        (2, 0x8100_1000, table(0x100_1000)),
        (2, 0x8100_1004, BAD),
        (2, 0x0100_1000, BAD),  # a user's address
        (2, 0xA100_1000, BAD),  # in KSEG1, not cached
        (2, 0x0000_0000, BAD),
    ],
    "mips64": [
        (1, 0x48D1_5E4F, leaf(0x1234_5000, "rwuad")),  # cached, D, V, no exec, modified, accessed, write, present
        (1, 0x48D1_5A05, leaf(0x1234_5000, "rxua")),
        (1, 0x48D1_5F0F, leaf(0x1234_5000, "rwxugad")),  # PAGE_KERNEL: global
        (1, 0x48D1_58C1, leaf(0x1234_5000, "u")),  # no exec and no read
        (1, 0x48D1_58C3, leaf(0x1234_5000, "wu")),  # the same, shared, for who only writes
        (1, 0x48D1_5E6F, leaf(0x1234_5000, "rwuad", frozen=True)),  # special
        (1, 0x0003_FFFF_FFFF_DE4F, leaf(0xFFFF_FFFF_F000, "rwuad")),  # the last frame
        (1, 0x0007_FFFF_FFFF_DE4F, BAD),
        (1, 0x100, EMPTY),  # global, for its neighbour
        (2, 0x0080_1E5F, leaf(0x20_0000, "rwuad")),  # huge
        (2, 0x0080_5E5F, BAD),  # and not aligned
        (2, 0x0080_585E, Entry(State.INVALID, 0x20_0000, "rwuad")),  # pmd_mkinvalid, and the mark of a split
        (2, 0x9800_0000_0100_1000, table(0x100_1000)),
        (2, 0x9000_0000_0100_1000, BAD),  # not cached
        (2, 0xFFFF_FFFF_8100_1000, BAD),  # in CKSEG0
        (2, 0, BAD),
        (3, 0x9800_0000_0100_1000, table(0x100_1000)),
        (3, 0x0080_1E5F, BAD),
    ],
    "sh": [
        (1, 0x0C12_3578, leaf(0xC12_3000, "rwxua")),  # PAGE_SHARED: accessed, present, user, RW, 4 KiB, cachable
        (1, 0x0C12_3558, leaf(0xC12_3000, "rxua")),  # PAGE_READONLY
        (1, 0x0C12_353E, leaf(0xC12_3000, "rwxgad")),  # PAGE_KERNEL: and dirty, shared; not the user's
        (1, 0x0C12_373E, leaf(0xC12_3000, "rwxgad", frozen=True)),
        (1, 0x0C12_3618, BAD),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0x8C00_1000, table(0xC00_1000)),
        (2, 0xAC00_1000, BAD),  # in P2, not cached
        (2, 0x8C00_1001, BAD),
        (2, 0, EMPTY),
    ],
    "xtensa": [
        (1, 0x1234_51D6, leaf(0x1234_5000, "rwuad")),  # accessed, dirty, writable, user, write-back, HW write
        (1, 0x1234_5154, leaf(0x1234_5000, "rwua")),  # PAGE_SHARED, which traps the first write
        (1, 0x1234_5115, leaf(0x1234_5000, "rxua")),  # PAGE_READONLY_EXEC
        (1, 0x1234_5107, leaf(0x1234_5000, "rwxa")),  # PAGE_KERNEL_EXEC
        (1, 0x1234_5102, leaf(0x1234_5000, "rwa")),  # not cached
        (1, 0x1234_5915, leaf(0x1234_5000, "rxua", frozen=True)),
        (1, 0x1234_511F, BAD),  # PAGE_NONE
        (1, 0x1234_510D, BAD),  # attribute 1101, reserved
        (1, 0x0000_001C, EMPTY),
        (1, 0x0000_003C, Entry(State.EMPTY, frozen=True)),
        (2, 0xD001_2000, table(0x1_2000)),
        (2, 0xD801_2000, BAD),  # in the window that is not cached
        (2, 0xD001_2004, BAD),
        (2, 0, EMPTY),
    ],
}
CASES = [
    pytest.param(ptl.arch.get(name), level, raw, meaning, id=f"{name}-{level}-{raw:x}")
    for name, examples in EXAMPLES.items()
    for level, raw, meaning in examples
]


@pytest.mark.parametrize(("arch", "level", "raw", "meaning"), CASES)
def test_a_word_means_what_the_headers_say(arch, level, raw, meaning):
    assert arch.decode(raw, level) == meaning


MADE = [
    ("m68k_coldfire", 1, 0x1234_5C3C),
    ("m68k_sun3", 1, 0xF300_091A),
    ("microblaze", 1, 0x1234_55D2),
    ("microblaze", 1, 0x1234_5452),
    ("mips32", 1, 0x1234_579D),
    ("mips32", 1, 0x1234_5605),
    ("mips64", 1, 0x48D1_5E4F),
    ("mips64", 2, 0x0080_1E5F),
    ("sh", 1, 0x0C12_353E),
    ("xtensa", 1, 0x1234_51D6),
    ("xtensa", 1, 0x1234_5154),
]


@pytest.mark.parametrize(("name", "level", "raw"), MADE, ids=lambda value: value if isinstance(value, str) else None)
def test_that_word_is_the_one_that_is_written(name, level, raw):
    arch = ptl.arch.get(name)
    meaning = arch.decode(raw, level)
    assert arch.encode(meaning.pa, meaning.flags, level) == raw


SOFT = [  # type 6 at offset 0x1234, and exclusive
    ("m68k_coldfire", 1, 0x0091_A006, 0x80),
    ("m68k_sun3", 1, 0x0009_1A06, 0x40),
    ("microblaze", 1, 0x0012_3418, 0x80),
    ("mips32", 1, 0x0246_8600, 0x02),
    ("mips64", 1, 0x0012_3406_0000, 0x80_0000),
    ("mips64", 2, 0x0012_3406_0010, 0x80_0000),  # huge, for the handler that refills the TLB
    ("sh", 1, 0x0091_A00C, 0x40),
    ("xtensa", 1, 0x0091_A19C, 0x02),
]


@pytest.mark.parametrize(("name", "level", "raw", "exclusive"), SOFT, ids=lambda value: str(value))
def test_a_swap_entry_is_linux_s(name, level, raw, exclusive):
    arch = ptl.arch.get(name)
    assert arch.encode_soft(6, 0x1234, level) == raw
    assert arch.decode_soft(raw | exclusive, level) == SoftEntry(6, 0x1234, exclusive=True)


# -- what a handler makes of an entry


def rotated(word: int, bits: int, width: int) -> int:
    return word >> bits | word << width - bits & (1 << width) - 1


@pytest.mark.parametrize(
    ("flags", "entry_lo"),
    [  # page number 0x12345 in 29-6, C = 3 in 5-3, D in 2, V in 1, G in 0
        ("rwad", 0x0048_D15E),
        ("rwa", 0x0048_D15A),
        ("rad", 0x0048_D15A),
        ("rw", 0x0048_D158),
        ("rwgad", 0x0048_D15F),
    ],
)
def test_what_the_tlb_of_mips32_gets(flags, entry_lo):
    assert ptl.arch.get("mips32").encode(0x1234_5000, flags) >> 6 == entry_lo


@pytest.mark.parametrize(
    ("flags", "entry_lo"),
    [  # RI in 63, XI in 62, and as above
        ("rwad", 0x4000_0000_0048_D15E),
        ("rxa", 0x0000_0000_0048_D15A),
        ("xa", 0x8000_0000_0048_D158),
        ("rwxgad", 0x0000_0000_0048_D15F),
    ],
)
def test_what_the_tlb_of_mips64_gets(flags, entry_lo):
    """But for the bits that only software has, which the rotation leaves where no frame number reaches."""
    seen = rotated(ptl.arch.get("mips64").encode(0x1234_5000, flags), 8, 64)
    assert seen & ~(0x3F << 56) == entry_lo


def test_what_takes_the_place_of_a_huge_page_of_mips64_is_no_address_to_follow():
    """Without H a handler takes what is there for the name of a table; with H the TLB gets it, where V and D decide."""
    huge = ptl.arch.get("mips64").level(2)
    leaf_raw = ptl.arch.get("mips64").encode(0x20_0000, "rwxad", 2)
    splitting = leaf_raw & ~huge.invalid_clear | huge.invalid_set
    software = ptl.arch.get("mips64").encode_soft(1, 2, 2)
    for raw in (splitting, huge.busy, software, software | huge.word.frozen_absent):
        assert raw & 1 << 4
        assert not raw & (1 << 9 | 1 << 10)
    assert leaf_raw & (1 << 4 | 1 << 9 | 1 << 10) == 1 << 4 | 1 << 9 | 1 << 10


def test_a_global_bit_in_an_empty_page_of_mips_does_not_fill_it():
    for name, g in (("mips32", 1 << 6), ("mips64", 1 << 8)):
        pt = ptl.PageTable(name, frames=ptl.Frames(1 << 20))
        pt.map(0, 0x1000, flags="rwg")
        cell = pt.frames.view(pt.walk(0x1000).steps[-1].table_pa + pt.arch.entry_bytes, pt.arch.entry_bytes)
        cell[:] = g.to_bytes(pt.arch.entry_bytes, "little")
        assert pt.walk(0x1000).steps[-1].state is State.EMPTY
        pt.check()
        assert pt.unmap(0x1000, 0x1000) == 0
        cell[:] = g.to_bytes(pt.arch.entry_bytes, "little")
        pt.map(0x1000, 0x2000)
        assert pt.translate(0x1000) == 0x2000
