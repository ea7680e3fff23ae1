"""The promise: where software walks, an entry says what the headers of Linux say it does, computed by hand.

Each example is a word as Linux has it, by the names of its headers, and what it means. Some of the words are made
again, by `encode`; and of some it is said what a handler loads into the TLB.
"""

from __future__ import annotations

import pytest

import ptl
from ptl import State
from ptl.arch import Entry, SoftEntry
from test_worked_examples import BAD, EMPTY, cases, leaf, table
from test_worked_examples import EXAMPLES as HARDWARE_EXAMPLES

KIB, MIB = 1 << 10, 1 << 20


def part(name: str, size: int, pa: int, flags: str, frozen: bool = False) -> Entry:
    """A leaf that is part of a page of that size."""
    levels = ptl.arch.get(name).layout
    (run,) = (run for level in levels for run in level.runs if level.run_bytes(run) == size)
    return Entry(State.HUGE, pa, flags, frozen, run)


# By name: level, word, meaning
EXAMPLES: dict[str, list[tuple[int, int, Entry]]] = {
    "ia64": [
        (1, 0x0010_0000_1234_45A1, leaf(0x1234_4000, "rwua")),  # PAGE_SHARED: ED, AR 2, PL 3, A, P
        (1, 0x0010_0000_1234_41A1, leaf(0x1234_4000, "rua")),  # PAGE_READONLY
        (1, 0x0010_0000_1234_43A1, leaf(0x1234_4000, "rxua")),  # PAGE_COPY_EXEC
        (1, 0x0010_0000_1234_4661, leaf(0x1234_4000, "rwxad")),  # PAGE_KERNEL: AR 3, PL 0, D, A
        (1, 0x0010_0000_1234_4671, leaf(0x1234_4000, "rwxad")),  # PAGE_KERNEL_UC: MA 4
        (1, 0x0010_0000_1234_4E21, leaf(0x1234_4000, "rxa")),  # PAGE_GATE: AR 7, PL 0
        (1, 0x0010_0000_1234_49A1, leaf(0x1234_4000, "rua")),  # AR 4, PL 3: the user reads, and the kernel writes
        (1, 0x0010_0000_1234_4821, leaf(0x1234_4000, "rwa")),  # AR 4, PL 0
        (1, 0x0010_0000_1234_4FA1, leaf(0x1234_4000, "xua")),  # AR 7, PL 3
        (1, 0x0013_FFFF_FFFF_C661, leaf(0x3_FFFF_FFFF_C000, "rwxad")),  # the last frame
        (1, 0x0030_0000_1234_45A1, leaf(0x1234_4000, "rwua", frozen=True)),
        (1, 0x8000_0000_1234_4020, BAD),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0x0100_4000, table(0x100_4000)),
        (2, 0x0100_4001, BAD),
        (2, 0, EMPTY),
        (3, 0x0003_FFFF_FFFF_C000, table(0x3_FFFF_FFFF_C000)),
        (3, 0x0004_0000_0000_0000, BAD),
    ],
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
    "parisc": [
        (1, 0x1234_5A03, leaf(0x1234_5000, "rwu")),  # PAGE_SHARED: user, present, write, read
        (1, 0x1234_5B23, leaf(0x1234_5000, "rwuad")),  # and accessed, dirty
        (1, 0x1234_5A05, leaf(0x1234_5000, "rxu")),  # PAGE_EXECREAD
        (1, 0x1234_5A02, leaf(0x1234_5000, "wu")),  # PAGE_WRITEONLY
        (1, 0x1234_5A00, leaf(0x1234_5000, "u")),  # PAGE_NONE
        (1, 0x1234_5323, leaf(0x1234_5000, "rwad")),  # PAGE_KERNEL
        (1, 0x1234_53A3, leaf(0x1234_5000, "rwad")),  # PAGE_KERNEL_UNC
        (1, 0x1234_5325, leaf(0x1234_5000, "rxad")),  # PAGE_KERNEL_EXEC
        (1, 0x1234_5E05, leaf(0x1234_5000, "rxu", frozen=True)),  # special
        (1, 0, EMPTY),
        (1, 0x8000_0000, Entry(State.EMPTY, frozen=True)),
        (2, 0x0001_0023, table(0x100_2000)),  # address >> 8; valid, present
        (2, 0x00FF_FFF3, table(0xFFFF_F000)),
        (2, 0x0001_0021, BAD),  # not valid
        (2, 0x0100_0023, BAD),  # above 4 GiB
        (2, 0, EMPTY),
    ],
    "parisc64": [
        (1, 0x0000_00FF_FFFF_FB23, leaf(0xFF_FFFF_F000, "rwuad")),
        (1, 0x0000_0000_1234_5723, part("parisc64", MIB, 0x1234_5000, "rwad")),  # huge
        (1, 0x8000_0000_1234_5F23, part("parisc64", MIB, 0x1234_5000, "rwuad", frozen=True)),
        (1, 0x8000_0000_1234_5B23, leaf(0x1234_5000, "rwuad", frozen=True)),
        (1, 0x0000_0100_0000_0323, BAD),
        (1, 0xFFFF_FFFF_F000_03A3, Entry(State.BAD, frozen=True)),  # a device
        (2, 0x0001_0023, table(0x100_2000)),
        (2, 0x0001_0027, table(0x100_2000)),  # with PxD_FLAG_ATTACHED, up to 5.11
        (3, 0xFFFF_FFF3, table(0xFF_FFFF_F000)),
        (3, 0x0001_0022, BAD),  # not present
        (3, 0, EMPTY),
    ],
    "powerpc_8xx": [
        (1, 0x1234_5021, leaf(0x1234_5000, "rwua")),  # PAGE_SHARED: accessed, present
        (1, 0x1234_5061, leaf(0x1234_5000, "rwxua")),  # PAGE_SHARED_X
        (1, 0x1234_5621, leaf(0x1234_5000, "rua")),  # PAGE_READONLY
        (1, 0x1234_5421, leaf(0x1234_5000, "rwua")),  # PP 01, which Linux has no use for
        (1, 0x1234_5221, leaf(0x1234_5000, "ua")),  # PAGE_NONE: NA
        (1, 0x1234_5261, leaf(0x1234_5000, "xua")),  # PAGE_EXECONLY_X
        (1, 0x1234_5125, leaf(0x1234_5000, "rwugad")),  # PAGE_KERNEL: SH, dirty
        (1, 0x1234_5137, leaf(0x1234_5000, "rwugad")),  # PAGE_KERNEL_NCG: no cache, guarded
        (1, 0x1234_5665, leaf(0x1234_5000, "rxuga")),  # PAGE_KERNEL_ROX
        (1, 0x1234_5029, part("powerpc_8xx", 16 * KIB, 0x1234_5000, "rwua")),  # SPS: the second part
        (1, 0x0008_1829, part("powerpc_8xx", 512 * KIB, 0x8_1000, "rwua")),  # SPS and HUGE: the second part
        (1, 0x0008_18A9, part("powerpc_8xx", 512 * KIB, 0x8_1000, "rwua", frozen=True)),
        (1, 0x1234_5821, BAD),  # HUGE alone
        (1, 0x1234_56A1, leaf(0x1234_5000, "rua", frozen=True)),  # special
        (1, 0, EMPTY),
        (2, 0x0100_1041, table(0x100_1000)),  # user, present
        (2, 0x0100_1001, table(0x100_1000)),  # the kernel's
        (2, 0x0100_104D, table(0x100_1000)),  # half of 8 MiB
        (2, 0x0100_1040, BAD),
        (2, 0x0100_1051, BAD),  # one of _PMD_BAD
        (2, 0, EMPTY),
    ],
    "sh": [
        (1, 0x0C12_3578, leaf(0xC12_3000, "rwxua")),  # PAGE_SHARED: accessed, present, user, RW, 4 KiB, cachable
        (1, 0x0C12_3558, leaf(0xC12_3000, "rxua")),  # PAGE_READONLY
        (1, 0x0C12_353E, leaf(0xC12_3000, "rwxgad")),  # PAGE_KERNEL: and dirty, shared; not the user's
        (1, 0x0C12_373E, leaf(0xC12_3000, "rwxgad", frozen=True)),
        (1, 0x0C12_35E8, part("sh", 64 * KIB, 0xC12_3000, "rwxua")),  # PAGE_SHARED, SZ1: the fourth part
        (1, 0x0C12_35F8, part("sh", MIB, 0xC12_3000, "rwxua")),  # SZ1 and SZ0
        (1, 0x0C12_37F8, part("sh", MIB, 0xC12_3000, "rwxua", frozen=True)),
        (1, 0x0C12_3568, BAD),  # neither: 1 KiB
        (1, 0x0C12_3618, BAD),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0x8C00_1000, table(0xC00_1000)),
        (2, 0xAC00_1000, BAD),  # in P2, not cached
        (2, 0x8C00_1001, BAD),
        (2, 0, EMPTY),
    ],
    "sparc64": [
        (1, 0x8000_0000_1234_57B0, leaf(0x1234_4000, "rwxua")),  # PAGE_SHARED: clean, so not writable to hardware
        (1, 0x8000_0000_1234_5FB2, leaf(0x1234_4000, "rwxuad")),  # and dirty
        (1, 0x8000_0000_1234_5FB0, leaf(0x1234_4000, "rwxuad")),  # as pte_modify leaves it
        (1, 0x8000_0000_1234_56B0, leaf(0x1234_4000, "rxua")),  # PAGE_COPY
        (1, 0x0000_0000_1234_52B0, leaf(0x1234_4000, "rxu")),  # old
        (1, 0x8000_0000_1234_5FB6, leaf(0x1234_4000, "rwxad")),  # PAGE_KERNEL: privileged
        (1, 0x8000_07FF_FFFF_F6B1, leaf(0x7FF_FFFF_E000, "rxuga")),  # the last frame; global
        (1, 0xA000_0000_1234_57B0, part("sparc64", 64 * KIB, 0x1234_4000, "rwxua")),
        (1, 0xC000_0000_1234_57B0, part("sparc64", 512 * KIB, 0x1234_4000, "rwxua")),
        (1, 0xE000_0000_1234_57B0, part("sparc64", 4 * MIB, 0x1234_4000, "rwxua")),
        (1, 0xA400_0000_1234_57B0, part("sparc64", 64 * KIB, 0x1234_4000, "rwxua", frozen=True)),
        (1, 0xA001_0000_1234_57B0, BAD),  # of 256 MiB, in a table of 8 MiB
        (1, 0x8400_0000_1234_57B0, leaf(0x1234_4000, "rwxua", frozen=True)),
        (1, 0x0000_0000_1234_44B0, BAD),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0xE100_0000_0080_1FB2, leaf(0x80_0000, "rwxuad")),  # huge, 4 MiB in the TLB
        (2, 0x6100_0000_0080_1BB2, leaf(0x80_0000, "rwxud")),  # old
        (2, 0xA101_0000_1080_17B0, part("sparc64", 256 * MIB, 0x1080_0000, "rwxua")),  # the second part
        (2, 0xA100_0000_0080_1FB2, BAD),  # 64 KiB
        (2, 0x6180_0000_0080_1FB2, Entry(State.INVALID, 0x80_0000, "rwxuad")),  # pmdp_invalidate, and I
        (2, 0x0100_2000, table(0x100_2000)),
        (2, 0x0100_2001, BAD),
        (2, 0x8000_0000_0100_2000, BAD),
        (2, 0, EMPTY),
        (3, 0x7FF_FFFF_E000, table(0x7FF_FFFF_E000)),
        (3, 0xE100_0000_0080_1FB2, BAD),
        (4, 0x0100_2000, table(0x100_2000)),
        (4, 0x0800_0000_0000, BAD),
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


def test_every_format_of_a_machine_has_examples():
    assert {*HARDWARE_EXAMPLES, *EXAMPLES, "tiny"} == {*ptl.arch.names()}


@pytest.mark.parametrize(("arch", "level", "raw", "meaning"), cases(EXAMPLES))
def test_a_word_means_what_the_headers_say(arch, level, raw, meaning):
    assert arch.decode(raw, level) == meaning


MADE = [
    ("ia64", 1, 0x0010_0000_1234_45A1),
    ("ia64", 1, 0x0010_0000_1234_4661),
    ("ia64", 1, 0x0010_0000_1234_4FA1),
    ("m68k_coldfire", 1, 0x1234_5C3C),
    ("m68k_sun3", 1, 0xF300_091A),
    ("microblaze", 1, 0x1234_55D2),
    ("microblaze", 1, 0x1234_5452),
    ("mips32", 1, 0x1234_579D),
    ("mips32", 1, 0x1234_5605),
    ("mips64", 1, 0x48D1_5E4F),
    ("mips64", 2, 0x0080_1E5F),
    ("parisc", 1, 0x1234_5B23),
    ("parisc", 1, 0x1234_5325),
    ("parisc64", 1, 0x0000_00FF_FFFF_FB23),
    ("parisc64", 1, 0x0000_0000_1234_5723),
    ("powerpc_8xx", 1, 0x1234_5029),
    ("powerpc_8xx", 1, 0x0008_1829),
    ("powerpc_8xx", 1, 0x1234_5125),
    ("powerpc_8xx", 1, 0x1234_5621),
    ("sh", 1, 0x0C12_353E),
    ("sh", 1, 0x0C12_35E8),
    ("sh", 1, 0x0C12_35F8),
    ("sparc64", 1, 0xC000_0000_1234_57B0),
    ("sparc64", 2, 0xA101_0000_1080_17B0),
    ("sparc64", 1, 0x8000_0000_1234_57B0),
    ("sparc64", 1, 0x8000_0000_1234_5FB6),
    ("sparc64", 2, 0xE100_0000_0080_1FB2),
    ("xtensa", 1, 0x1234_51D6),
    ("xtensa", 1, 0x1234_5154),
]


@pytest.mark.parametrize(("name", "level", "raw"), MADE, ids=lambda value: value if isinstance(value, str) else None)
def test_that_word_is_the_one_that_is_written(name, level, raw):
    arch = ptl.arch.get(name)
    meaning = arch.decode(raw, level)
    assert arch.encode(meaning.pa, meaning.flags, level, run=meaning.run) == raw


SOFT = [  # type 6 at offset 0x1234, and exclusive
    ("ia64", 1, 0x0012_340C, 0x80),
    ("m68k_coldfire", 1, 0x0091_A006, 0x80),
    ("m68k_sun3", 1, 0x0009_1A06, 0x40),
    ("microblaze", 1, 0x0012_3418, 0x80),
    ("mips32", 1, 0x0246_8600, 0x02),
    ("mips64", 1, 0x0012_3406_0000, 0x80_0000),
    ("mips64", 2, 0x0012_3406_0010, 0x80_0000),  # huge, for the handler that refills the TLB
    ("parisc", 1, 0x0009_1886, 0x100),
    ("parisc64", 1, 0x0009_1886, 0x100),
    ("powerpc_8xx", 1, 0x0012_3430, 0x04),
    ("sh", 1, 0x0091_A00C, 0x40),
    ("sparc64", 1, 0x0002_4680_C000, 0x10_0000),
    ("sparc64", 2, 0x0100_0002_4680_C000, 0x10_0000),  # huge, for the code that refills the TLB
    ("xtensa", 1, 0x0091_A19C, 0x02),
]


@pytest.mark.parametrize(("name", "level", "raw", "exclusive"), SOFT, ids=lambda value: str(value))
def test_a_swap_entry_is_linux_s(name, level, raw, exclusive):
    arch = ptl.arch.get(name)
    assert arch.encode_soft(6, 0x1234, level) == raw
    assert arch.decode_soft(raw | exclusive, level) == SoftEntry(6, 0x1234, exclusive=True)


def test_what_a_change_of_protection_keeps_on_sparc64():
    """The header gives the mask as a number: address, size, special, huge, dirty, accessed, and how to cache."""
    arch = ptl.arch.get("sparc64")
    huge = arch.level(2)
    dirty_and_accessed = arch.encode(0, "rad") & ~arch.encode(0, "r") & ~(1 << 63)
    size, special, cache = 0x6001 << 48, 1 << 57, 1 << 5 | 1 << 4 | 1 << 3
    kept = huge.address.mask | huge.word.soft.base | dirty_and_accessed | size | special | cache
    assert kept == 0x6301_07FF_FFFF_EC38


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
