"""The promise: where software walks, an entry says what the headers of Linux say it does, computed by hand.

Each example is a word as Linux has it, by the names of its headers, and what it means. Some of the words are made
again, by `encode`.
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
        (1, 0x0000_0000_1234_5723, leaf(0x1234_5000, "rwad")),  # huge: part of a run
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
        (1, 0x0008_1829, leaf(0x8_1000, "rwua")),  # SPS and HUGE: the second part of 512 KiB
        (1, 0x1234_56A1, leaf(0x1234_5000, "rua", frozen=True)),  # special
        (1, 0, EMPTY),
        (2, 0x0100_1041, table(0x100_1000)),  # user, present
        (2, 0x0100_1001, table(0x100_1000)),  # the kernel's
        (2, 0x0100_104D, table(0x100_1000)),  # half of 8 MiB
        (2, 0x0100_1040, BAD),
        (2, 0x0100_1051, BAD),  # one of _PMD_BAD
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
        (1, 0xA000_0000_1234_57B0, leaf(0x1234_4000, "rwxua")),  # part of 64 KiB
        (1, 0x8400_0000_1234_57B0, leaf(0x1234_4000, "rwxua", frozen=True)),
        (1, 0x0000_0000_1234_44B0, BAD),  # PAGE_NONE
        (1, 0, EMPTY),
        (2, 0xE100_0000_0080_1FB2, leaf(0x80_0000, "rwxuad")),  # huge, 4 MiB in the TLB
        (2, 0x6100_0000_0080_1BB2, leaf(0x80_0000, "rwxud")),  # old
        (2, 0xA101_0000_1080_17B0, leaf(0x1080_0000, "rwxua")),  # part of 256 MiB
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
    ("ia64", 1, 0x0010_0000_1234_45A1),
    ("ia64", 1, 0x0010_0000_1234_4661),
    ("ia64", 1, 0x0010_0000_1234_4FA1),
    ("parisc", 1, 0x1234_5B23),
    ("parisc", 1, 0x1234_5325),
    ("parisc64", 1, 0x0000_00FF_FFFF_FB23),
    ("powerpc_8xx", 1, 0x1234_5125),
    ("powerpc_8xx", 1, 0x1234_5621),
    ("sparc64", 1, 0x8000_0000_1234_57B0),
    ("sparc64", 1, 0x8000_0000_1234_5FB6),
    ("sparc64", 2, 0xE100_0000_0080_1FB2),
]


@pytest.mark.parametrize(("name", "level", "raw"), MADE, ids=lambda value: value if isinstance(value, str) else None)
def test_that_word_is_the_one_that_is_written(name, level, raw):
    arch = ptl.arch.get(name)
    meaning = arch.decode(raw, level)
    assert arch.encode(meaning.pa, meaning.flags, level) == raw


SOFT = [  # type 6 at offset 0x1234, and exclusive
    ("ia64", 1, 0x0012_340C, 0x80),
    ("parisc", 1, 0x0009_1886, 0x100),
    ("parisc64", 1, 0x0009_1886, 0x100),
    ("powerpc_8xx", 1, 0x0012_3430, 0x04),
    ("sparc64", 1, 0x0002_4680_C000, 0x10_0000),
    ("sparc64", 2, 0x0100_0002_4680_C000, 0x10_0000),  # huge, for the code that refills the TLB
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
