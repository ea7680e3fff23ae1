"""The promise: what is wrong is refused with an error that says what, and nothing has changed.

Integers where addresses, lengths, levels and entries are meant: no float, no bool, no string, nothing negative, nothing
that does not fit. Ranges that are whole pages of one canonical half. Flags and entries that the format can express.
Buffers of 8-byte integers. Handles that are open. After each refusal every byte of the physical memory and every
counter is what it was.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import pickle
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import pytest

import ptl
from helpers import in_thread
from ptl import AddressError, AlreadyMapped, FormatError, Outcome, OutOfFrames, PageFault, State
from reference import software_entry

DOMAIN = ptl.EpochDomain()
ALL = pytest.mark.parametrize("pt", ptl.arch.names(), indirect=True)
NOT_INTEGERS = (1.5, 4096.0, True, False, "4096", "0x1000", b"", [0], 1j, object)
NOT_64_BITS = (-1, -4096, 1 << 64, 1 << 70, -(1 << 70))


@pytest.fixture
def pt(request: pytest.FixtureRequest) -> ptl.PageTable:
    """A table with a page at one huge page, a huge leaf at two and a table with nothing in it at three."""
    pt = ptl.PageTable(getattr(request, "param", "tiny"), frames=ptl.Frames(1 << 20, domain=DOMAIN))
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    pt.map(huge, page, page, "rw")
    pt.map(2 * huge, huge, huge, "rw")
    pt.populate(3 * huge)
    return pt


def state_of(pt: ptl.PageTable) -> tuple[object, ...]:
    """All that a refused call must leave alone.

    Not what counts attempts; and not `free_tables`: a map may take tables before it sees that it must not use them, and
    gives them back as free ones.
    """
    attempts = ("map_failures", "rewalks", "restarts", "free_tables")
    counters = {name: n for name, n in {**pt.stats(), **pt.frames.stats()}.items() if name not in attempts}
    return bytes(pt.frames), counters, DOMAIN.stats(), pt.dump(), pt.check()


@contextmanager
def refused(pt: ptl.PageTable, error: type[Exception], match: str | None = None) -> Iterator[None]:
    """What is inside raises this error, and nothing else happens."""
    before = state_of(pt)
    with pytest.raises(error, match=match):
        yield
    assert state_of(pt) == before


# -- addresses

TAKE_AN_ADDRESS: dict[str, Callable[[ptl.PageTable, object], object]] = {
    "translate": lambda pt, va: pt.translate(va),
    "lookup": lambda pt, va: pt.lookup(va),
    "walk": lambda pt, va: pt.walk(va),
    "map": lambda pt, va: pt.map(va, 0),
    "map of a range": lambda pt, va: pt.map(va, 0, 2 * pt.arch.page_sizes[0], replace=True),
    "unmap": lambda pt, va: pt.unmap(va, pt.arch.page_sizes[0]),
    "protect": lambda pt, va: pt.protect(va, pt.arch.page_sizes[0], "rw"),
    "compare_exchange": lambda pt, va: pt.compare_exchange(va, 0, 0),
    "exchange": lambda pt, va: pt.exchange(va, 0),
    "test_and_clear": lambda pt, va: pt.test_and_clear(va, "w"),
    "pte_map": lambda pt, va: pt.pte_map(va),
    "pte_map_ro": lambda pt, va: pt.pte_map_ro(va),
    "pte_map_rw": lambda pt, va: pt.pte_map_rw(va),
    "pte_map_lock": lambda pt, va: pt.pte_map_lock(va),
    "pte_alloc_map": lambda pt, va: pt.pte_alloc_map(va),
    "pte_alloc_map_lock": lambda pt, va: pt.pte_alloc_map_lock(va),
    "pmd": lambda pt, va: pt.pmd(va),
    "slot": lambda pt, va: pt.slot(va, 1),
    "populate": lambda pt, va: pt.populate(va),
    "retract": lambda pt, va: pt.retract(va),
    "collapse": lambda pt, va: pt.collapse(va),
    "split": lambda pt, va: pt.split(va),
    "reclaim_empty": lambda pt, va: pt.reclaim_empty(va, pt.arch.page_sizes[0]),
}
EACH_CALL = pytest.mark.parametrize("call", TAKE_AN_ADDRESS.values(), ids=TAKE_AN_ADDRESS)


@EACH_CALL
@pytest.mark.parametrize("va", [*(value for value in NOT_INTEGERS if value != b""), None], ids=repr)
def test_an_address_is_an_integer(pt, call, va):
    with refused(pt, TypeError, "va must be an integer, not"):
        call(pt, va)


@EACH_CALL
@pytest.mark.parametrize("va", NOT_64_BITS)
def test_an_address_has_64_bits(pt, call, va):
    with refused(pt, AddressError, f"va {va:#x} is outside"):
        call(pt, va)


@EACH_CALL
@ALL
def test_an_address_is_canonical(pt, call):
    bits = pt.arch.va_bits
    outside = [1 << bits, (1 << 64) - (1 << bits) if not pt.arch.sign_extended else 3 << bits - 1]
    outside += [1 << bits - 1, (1 << 64) - (1 << bits)] if pt.arch.sign_extended else [(1 << 64) - 4096]
    for va in outside:
        with refused(pt, AddressError, f"va {va:#x} is not canonical"):
            call(pt, va)


def test_an_integer_is_whatever_says_so(pt):
    """Through `__index__`, and asked once."""

    class Page:
        asked = 0

        def __index__(self) -> int:
            self.asked += 1
            return 0x4000

    page = Page()
    assert pt.translate(page) == 0x1000
    assert page.asked == 1
    assert pt.lookup(ctypes.c_size_t(0x4000).value).pa == 0x1000


def test_errors_of_index_itself_come_through(pt):
    class Broken:
        def __index__(self) -> int:
            raise ZeroDivisionError

    with refused(pt, ZeroDivisionError):
        pt.translate(Broken())


# -- ranges

TAKE_A_RANGE: dict[str, Callable[[ptl.PageTable, object, object], object]] = {
    "map": lambda pt, va, length: pt.map(va, 0, length),
    "map with replace": lambda pt, va, length: pt.map(va, 0, length, replace=True),
    "unmap": lambda pt, va, length: pt.unmap(va, length),
    "protect": lambda pt, va, length: pt.protect(va, length, "rw"),
    "reclaim_empty": lambda pt, va, length: pt.reclaim_empty(va, length),
}
EACH_RANGE = pytest.mark.parametrize("call", TAKE_A_RANGE.values(), ids=TAKE_A_RANGE)


@EACH_RANGE
@pytest.mark.parametrize("length", NOT_INTEGERS, ids=repr)
def test_a_length_is_an_integer(pt, call, length):
    with refused(pt, TypeError, "length must be an integer, not"):
        call(pt, 0, length)


@pytest.mark.parametrize("name", ["unmap", "protect", "reclaim_empty"])
def test_a_length_is_needed(pt, name):
    """Only `map` has a default."""
    with refused(pt, TypeError, "length must be an integer, not NoneType"):
        TAKE_A_RANGE[name](pt, 0, None)


@EACH_RANGE
@pytest.mark.parametrize("length", NOT_64_BITS)
def test_a_length_has_64_bits(pt, call, length):
    with refused(pt, AddressError, f"length {length:#x} is outside"):
        call(pt, 0, length)


@EACH_RANGE
@ALL
def test_a_range_is_whole_pages(pt, call):
    page = pt.arch.page_sizes[0]
    for va, length in [(1, page), (page - 1, page), (0, 1), (0, page + 1), (0, page - 1), (page // 2, page // 2)]:
        with refused(pt, AddressError, "multiples of the page size"):
            call(pt, va, length)


@EACH_RANGE
@ALL
def test_a_range_is_not_empty(pt, call):
    for va in (0, pt.arch.level(2).span):
        with refused(pt, AddressError, "length must not be 0"):
            call(pt, va, 0)


@EACH_RANGE
@ALL
def test_a_range_ends_inside(pt, call):
    """Neither in the hole between the halves or regions, nor beyond the last address, nor past 2**64 and round."""
    page = pt.arch.page_sizes[0]
    half = 1 << pt.arch.va_bits - (pt.arch.region_bits or pt.arch.sign_extended)
    ranges = [(0, half + page), (half - page, 2 * page), (page, half), (page, (1 << 64) - page), (0, (1 << 64) - page)]
    if pt.arch.sign_extended:
        upper = (1 << 64) - half
        ranges += [
            (half - page, upper - half + 2 * page),  # from one half to the other
            (0, upper + page),
            (upper, half + page),
            ((1 << 64) - page, 2 * page),
            ((1 << 64) - page, (1 << 64) - page),
        ]
    for va, length in ranges:
        with refused(pt, AddressError, "runs out of the canonical addresses"):
            call(pt, va, length)


# -- physical addresses

TAKE_A_FRAME: dict[str, Callable[[ptl.PageTable, object], object]] = {
    "map": lambda pt, pa: pt.map(0, pa),
    "map of the largest page": lambda pt, pa: pt.map(0, pa, pt.arch.page_sizes[-1], page_size=pt.arch.page_sizes[-1]),
    "map with replace": lambda pt, pa: pt.map(pt.arch.level(2).span, pa, replace=True),
    "collapse": lambda pt, pa: pt.collapse(pt.arch.level(2).span, pa),
}
EACH_FRAME = pytest.mark.parametrize("call", TAKE_A_FRAME.values(), ids=TAKE_A_FRAME)


@EACH_FRAME
@pytest.mark.parametrize("pa", NOT_INTEGERS, ids=repr)
def test_a_frame_is_an_integer(pt, call, pa):
    with refused(pt, TypeError, "pa must be an integer, not"):
        call(pt, pa)


@EACH_FRAME
@pytest.mark.parametrize("pa", NOT_64_BITS)
def test_a_frame_has_64_bits(pt, call, pa):
    with refused(pt, AddressError, f"pa {pa:#x} is outside"):
        call(pt, pa)


@EACH_FRAME
@ALL
def test_a_frame_is_aligned_and_within_the_physical_addresses(pt, call):
    bits = pt.arch.pa_bits
    if call is TAKE_A_FRAME["collapse"] and len(pt.arch.page_sizes) == 1:
        with refused(pt, FormatError, "has no leaf at level 2"):
            call(pt, 1)
        return
    for pa in (1, pt.arch.page_sizes[0] - 1, 1 << bits, (1 << 64) - pt.arch.level(2).span):
        with refused(pt, AddressError, f"pa {pa:#x}"):
            call(pt, pa)


@ALL
def test_a_range_of_frames_ends_within_the_physical_addresses(pt):
    page = pt.arch.page_sizes[0]
    for length in (2 * page, pt.arch.level(2).span):
        with refused(pt, AddressError, "is beyond the"):
            pt.map(0, (1 << pt.arch.pa_bits) - page, length)
    pt.map(0, (1 << pt.arch.pa_bits) - page, page)
    assert pt.translate(page - 1) == (1 << pt.arch.pa_bits) - 1


# -- page sizes and levels


@ALL
def test_a_page_size_is_one_of_the_format(pt):
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    for size in {0, 1, 2 * page, page + huge, huge // 2, 2 * max(pt.arch.page_sizes), 1 << 63} - {*pt.arch.run_sizes}:
        with refused(pt, AddressError, "has no pages of"):
            pt.map(0, 0, page, page_size=size)


@pytest.mark.parametrize("size", NOT_INTEGERS, ids=repr)
def test_a_page_size_is_an_integer(pt, size):
    with refused(pt, TypeError, "page_size must be an integer, not"):
        pt.map(0, 0, page_size=size)


@pytest.mark.parametrize("size", NOT_64_BITS)
def test_a_page_size_has_64_bits(pt, size):
    with refused(pt, ValueError, f"page_size {size} is outside"):
        pt.map(0, 0, page_size=size)


@ALL
def test_a_page_size_tiles_the_range(pt):
    """The address, the frame and the length are multiples of it."""
    page = pt.arch.page_sizes[0]
    for size in pt.arch.page_sizes[1:]:
        for va, pa, length in [(page, 0, size), (0, page, size), (0, 0, page), (0, 0, size + page)]:
            with refused(pt, AddressError, "multiple"):
                pt.map(va, pa, length, page_size=size)


TAKE_A_LEVEL: dict[str, tuple[int, Callable[[ptl.PageTable, object], object]]] = {
    "slot": (1, lambda pt, level: pt.slot(0, level)),
    "retract": (2, lambda pt, level: pt.retract(0, level=level)),
    "collapse": (2, lambda pt, level: pt.collapse(0, level=level)),
}
EACH_LEVEL = pytest.mark.parametrize(("least", "call"), TAKE_A_LEVEL.values(), ids=TAKE_A_LEVEL)


@EACH_LEVEL
@ALL
def test_a_level_is_one_of_the_format(pt, least, call):
    for level in (least - 1, pt.arch.levels + 1, -1, 1 << 32, 1 << 64):
        with refused(pt, ValueError, "level"):
            call(pt, level)


@EACH_LEVEL
@pytest.mark.parametrize("level", NOT_INTEGERS, ids=repr)
def test_a_level_is_an_integer(pt, least, call, level):
    with refused(pt, TypeError, "level must be an integer, not"):
        call(pt, level)


@pytest.mark.parametrize("name", ["slot", "retract"])
def test_none_is_no_level_where_one_is_needed(pt, name):
    """A collapse without one takes the level from the page size."""
    with refused(pt, TypeError, "level must be an integer, not"):
        TAKE_A_LEVEL[name][1](pt, None)


@ALL
def test_a_collapse_needs_a_leaf_on_its_level(pt):
    for level in range(2, pt.arch.levels + 1):
        if pt.arch.level(level).leaf is None:
            with refused(pt, FormatError, f"no leaf at level {level}"):
                pt.collapse(0, level=level)
            with refused(pt, FormatError, f"no leaf at level {level}"):
                pt.collapse(0, 0, level=level)


# -- what is there already


@ALL
def test_a_mapping_is_not_mapped_over(pt):
    """Wherever in the range it lies, and whatever its size, unless `replace` says so."""
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    taken = [
        (huge, page),
        (huge, 2 * page),
        (huge - page, 2 * page),
        (huge - page, 3 * page),
        (0, huge + page),
        (huge, huge),
        (2 * huge, page),
        (3 * huge - page, page),
        (3 * huge - page, 2 * page),
        (2 * huge - page, 2 * page),
        (2 * huge, huge),
        (huge + page, 2 * huge),
        (0, 4 * huge),
    ]
    for va, length in taken:
        with refused(pt, AlreadyMapped, "replace=True would replace it"):
            pt.map(va, 0, length)


@ALL
def test_a_software_entry_is_not_mapped_over(pt):
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    pt.exchange(huge, software_entry(pt.arch))
    assert pt.walk(huge).steps[-1].state is State.SOFT
    for va, length in [(huge, page), (0, huge + page), (huge, huge)]:
        with refused(pt, AlreadyMapped, "SOFT"):
            pt.map(va, 0, length)


# -- flags

TAKE_FLAGS: dict[str, Callable[[ptl.PageTable, object], object]] = {
    "map": lambda pt, flags: pt.map(0, 0, flags=flags),
    "protect": lambda pt, flags: pt.protect(0, pt.arch.page_sizes[0], flags),
}
EACH_FLAGS = pytest.mark.parametrize("call", TAKE_FLAGS.values(), ids=TAKE_FLAGS)


@EACH_FLAGS
@ALL
def test_flags_are_letters_that_grant_access(pt, call):
    for flags in ("q", "rq", "rw ", "r,w", "rw\0"):
        with refused(pt, FormatError, "unknown flag"):
            call(pt, flags)
    for flags in ("", "u", "gad"):
        with refused(pt, FormatError, "grant no access"):
            call(pt, flags)


@EACH_FLAGS
@pytest.mark.parametrize("flags", [5, True, b"rw", ["r"], ("r", "w"), {"r"}, 1.5], ids=repr)
def test_flags_are_a_string(pt, call, flags):
    with refused(pt, TypeError, "flags"):
        call(pt, flags)


@pytest.mark.parametrize("pt", ["riscv_sv39"], indirect=True)
@EACH_FLAGS
def test_flags_that_the_format_reserves(pt, call):
    for flags in ("w", "wx", "wu"):
        with refused(pt, FormatError, "'w' needs 'r'"):
            call(pt, flags)


@EACH_FLAGS
def test_flags_that_the_format_has_no_bit_for(call):
    tiny = ptl.arch.get("tiny")
    word = tiny.level(1).word
    word = replace(word, attributes=tuple(choice for choice in word.attributes if choice.letters != "g"))
    arch = replace(tiny, name="tiny_without_g", layout=tuple(replace(level, word=word) for level in tiny.layout))
    pt = ptl.PageTable(arch, frames=ptl.Frames(1 << 16, domain=DOMAIN))
    with refused(pt, FormatError, "no bit for flag 'g'"):
        call(pt, "rg")


@ALL
def test_a_flag_to_clear_is_one_that_can_be_withheld(pt):
    huge = pt.arch.level(2).span
    for flag in ("", "q", "wu", "rw", *pt.arch.implied):
        with refused(pt, FormatError, "flag"):
            pt.test_and_clear(huge, flag)


@pytest.mark.parametrize("flag", [5, True, None, b"w", ["w"]], ids=repr)
def test_a_flag_to_clear_is_a_string(pt, flag):
    with refused(pt, TypeError, "flag"):
        pt.test_and_clear(0x4000, flag)


@ALL
def test_a_flag_is_not_cleared_where_that_leaves_no_leaf(pt):
    """Where permissions make the leaf, an entry without any access is none."""
    huge = pt.arch.level(2).span
    if pt.arch.level(1).leaf_any:
        pt.protect(huge, huge, "r")
        with refused(pt, FormatError, "would be"):
            pt.test_and_clear(huge, "r")


@ALL
def test_a_flag_is_cleared_only_of_a_leaf(pt):
    for va in (0, 3 * pt.arch.level(2).span):
        with refused(pt, PageFault, "is not mapped"):
            pt.test_and_clear(va, "w")


# -- raw entries


def bad_leaf(arch: ptl.arch.Arch) -> int | None:
    """The bits of an entry that is present and nothing that the format defines, on level 1."""
    bits = [1 << bit for bit in range(8 * arch.entry_bytes)]
    pairs = (sum(pair) for n in (1, 2) for pair in itertools.combinations(bits, n))
    return next((raw for raw in pairs if arch.decode(raw).state is State.BAD), None)


def is_settable(arch: ptl.arch.Arch, level: int, raw: int) -> bool:
    """Whether anybody may store this entry by hand on a level: leaves and software's, and on level 1 empty ones."""
    if arch.level(level).leaf is None or raw >> 8 * arch.level(level).word.bytes:
        return False
    entry = arch.decode(raw, level)
    return not entry.frozen and (entry.state in (State.HUGE, State.SOFT) or (level == 1 and entry.state is State.EMPTY))


def not_settable(arch: ptl.arch.Arch, level: int) -> dict[str, int]:
    """Entries that nobody may store by hand on a level."""
    geometry = arch.level(level)
    leaf = arch.encode(0, "r", level)
    soft = software_entry(arch)
    word = geometry.word
    entries = {"frozen leaf": leaf | word.frozen_present}
    if level == 1:
        entries |= {"frozen": geometry.empty | word.frozen_absent, "frozen soft": soft | word.frozen_absent}
        bad = bad_leaf(arch)
        return entries if bad is None else entries | {"bad": bad}
    invalid = leaf & ~geometry.invalid_clear | geometry.invalid_set
    return entries | {
        "table": geometry.table_set | geometry.address.put(arch.table_bytes(level - 1)),
        "empty": geometry.empty,
        "frozen soft": soft | word.frozen_absent,
        "busy": geometry.busy,
        "invalid": invalid,
    }


SET_AN_ENTRY: dict[str, Callable[[ptl.PageTable, int, object], object]] = {
    "exchange": lambda pt, va, raw: pt.exchange(va, raw),
    "compare_exchange": lambda pt, va, raw: pt.compare_exchange(va, pt.walk(va).steps[-1].raw, raw),
}
EACH_SET = pytest.mark.parametrize("call", SET_AN_ENTRY.values(), ids=SET_AN_ENTRY)


def decisive(pt: ptl.PageTable) -> list[tuple[int, int]]:
    """Where in the table one entry decides: its level, and an address."""
    huge = pt.arch.level(2).span
    return [(1, huge), (1, 3 * huge), *([(2, 2 * huge)] if huge in pt.arch.page_sizes else [])]


@EACH_SET
@ALL
def test_an_entry_keeps_its_kind(pt, call):
    """A leaf table takes leaves, software's entries and empty ones; a huge leaf the first two; nothing frozen."""
    for level, va in decisive(pt):
        for raw in not_settable(pt.arch, level).values():
            with refused(pt, FormatError, f"{raw:#x}"):
                call(pt, va, raw)


@ALL
def test_an_entry_that_suits_another_level_is_a_mismatch(pt):
    """Somebody may have split or collapsed since the caller looked; what suits no level is an error even then."""
    for level, va in decisive(pt):
        for raw in not_settable(pt.arch, level).values():
            if any(is_settable(pt.arch, other, raw) for other in range(1, pt.arch.levels + 1)):
                before = state_of(pt)
                assert pt.compare_exchange(va, software_entry(pt.arch), raw) is False
                assert state_of(pt) == before
            else:
                with refused(pt, FormatError, f"{raw:#x}"):
                    pt.compare_exchange(va, software_entry(pt.arch), raw)


@EACH_SET
@ALL
def test_an_entry_fits(pt, call):
    for raw in (-1, 1 << 64, 1 << 8 * pt.arch.entry_bytes, (1 << 64) - 1):
        with refused(pt, ValueError, "entry"):
            call(pt, pt.arch.level(2).span, raw)


@EACH_SET
@pytest.mark.parametrize("raw", [*NOT_INTEGERS, None], ids=repr)
def test_an_entry_is_an_integer(pt, call, raw):
    with refused(pt, TypeError, "entry must be an integer, not"):
        call(pt, 0x4000, raw)


@pytest.mark.parametrize("raw", [*NOT_INTEGERS, None], ids=repr)
def test_an_expected_entry_is_an_integer(pt, raw):
    with refused(pt, TypeError, "entry must be an integer, not"):
        pt.compare_exchange(0x4000, raw, 0)


@ALL
def test_an_entry_is_set_only_where_one_decides(pt):
    """With neither a leaf table nor a huge leaf there is nothing to change."""
    for call in (lambda: pt.exchange(0, 0), lambda: pt.compare_exchange(0, 0, 0)):
        with refused(pt, PageFault, f"its level-{len(pt.walk(0).steps) and pt.walk(0).steps[-1].level} slot is EMPTY"):
            call()


@ALL
def test_entries_of_a_mapped_table(pt):
    huge = pt.arch.level(2).span
    with pt.pte_map(huge) as ptes:
        for raw in not_settable(pt.arch, 1).values():
            with refused(pt, FormatError, f"{raw:#x}"):
                ptes.compare_exchange(0, ptes.load(0), raw)
        for raw in (-1, 1 << 64, 1 << 8 * pt.arch.entry_bytes):
            for expected, desired in [(raw, 0), (0, raw)]:
                with refused(pt, ValueError, "entry"):
                    ptes.compare_exchange(0, expected, desired)
        for index in (len(ptes), -len(ptes) - 1, 1 << 64, -(1 << 64)):
            for call in (ptes.load, ptes.__getitem__, lambda i: ptes.compare_exchange(i, 0, 0)):
                with refused(pt, IndexError, f"index {index} is outside"):
                    call(index)
        for index in (1.5, True, "0", None, slice(0, 1)):
            for call in (ptes.load, ptes.__getitem__, lambda i: ptes.compare_exchange(i, 0, 0)):
                with refused(pt, TypeError):
                    call(index)
    with pt.pte_map_ro(huge) as ptes, refused(pt, TypeError, "read-only"):
        ptes.compare_exchange(0, ptes.load(0), 0)


# -- buffers

BIG_ENDIAN = (ctypes.c_uint64.__ctype_be__ * 4)()
NOT_ADDRESSES = {
    "bytes": bytes(32),
    "bytearray": bytearray(32),
    "4-byte integers": array("I", range(4)),
    "floats": array("d", range(4)),
    "big-endian": BIG_ENDIAN,
    "structures": (ctypes.c_uint32 * 2 * 4)(),
}


@pytest.mark.parametrize("buffer", NOT_ADDRESSES.values(), ids=NOT_ADDRESSES)
def test_a_buffer_holds_8_byte_integers(pt, buffer):
    with refused(pt, TypeError, "addresses must be a buffer of 8-byte integers"):
        pt.translate(buffer)
    if not memoryview(buffer).readonly:
        with refused(pt, TypeError, "addresses must be a buffer of 8-byte integers"):
            pt.translate(array("Q", range(4)), buffer)


def test_a_buffer_is_contiguous(pt):
    every_second = memoryview(array("Q", range(8)))[::2]
    with refused(pt, BufferError):
        pt.translate(every_second)
    with refused(pt, BufferError):
        pt.translate(array("Q", range(4)), every_second)


def test_out_is_a_writable_buffer(pt):
    vas = array("Q", range(4))
    with refused(pt, BufferError):
        pt.translate(vas, memoryview(array("Q", range(4))).toreadonly())
    for out in ([0] * 4, 4, "four"):
        with refused(pt, TypeError):
            pt.translate(vas, out)


@pytest.mark.parametrize("length", [0, 3, 5])
def test_out_has_as_many_addresses(pt, length):
    out = array("Q", [7] * length)
    with refused(pt, ValueError, f"out has room for {length} addresses, not 4"):
        pt.translate(array("Q", range(4)), out)
    assert list(out) == [7] * length


def test_out_is_for_a_buffer(pt):
    with refused(pt, TypeError, "out is for a buffer"):
        pt.translate(0x4000, array("Q", [0]))


def test_a_refused_buffer_is_let_go(pt):
    """An array that is still exported cannot grow."""
    vas, out = array("Q", range(4)), array("Q", range(3))
    with refused(pt, ValueError):
        pt.translate(vas, out)
    floats = array("d", range(4))
    with refused(pt, TypeError):
        pt.translate(floats)
    with refused(pt, TypeError):
        pt.translate(vas, floats)
    for buffer in (vas, out, floats):
        buffer.append(0)


def test_buffers_that_are_good(pt):
    """Any shape, signed or not, in place, of no address; what is not canonical or not mapped is all ones."""
    vas = [0x4000, 0x4FFF, 0, 1 << 63]
    pas = [0x1000, 0x1FFF, ptl.UNMAPPED, ptl.UNMAPPED]
    assert list(pt.translate(array("Q", vas))) == pas
    assert list(pt.translate((ctypes.c_uint64 * 4)(*vas))) == pas
    assert list(pt.translate(array("q", [0x4000, -1]))) == [0x1000, ptl.UNMAPPED]
    assert list(pt.translate(memoryview(bytes(array("Q", vas))).cast("Q", (2, 2)))) == pas
    assert list(pt.translate(array("Q"))) == []
    same = array("Q", vas)
    assert pt.translate(same, same) is same
    assert list(same) == pas


# -- handles

OPEN_A_HANDLE: dict[str, Callable[[ptl.PageTable], object]] = {
    "pte_map": lambda pt: pt.pte_map(0x4000),
    "pte_map_ro": lambda pt: pt.pte_map_ro(0x4000),
    "pte_map_rw": lambda pt: pt.pte_map_rw(0x4000),
    "pte_map_rw, locked": lambda pt: locked(pt.pte_map_rw(0x4000)),
    "pte_map_lock": lambda pt: pt.pte_map_lock(0x4000),
    "pte_alloc_map": lambda pt: pt.pte_alloc_map(0x4000),
    "pte_alloc_map_lock": lambda pt: pt.pte_alloc_map_lock(0x4000),
    "slot lock": lambda pt: pt.slot(0x4000, 1).lock(),
}
EACH_HANDLE = pytest.mark.parametrize("open_handle", OPEN_A_HANDLE.values(), ids=OPEN_A_HANDLE)


def locked(ptes):
    """The same map, holding its table's lock."""
    assert ptes.try_lock()
    return ptes


def nothing_is_held(pt: ptl.PageTable) -> None:
    """Fails unless nothing is held: no lock, no section, and no pin that would keep a retired table from reuse."""
    assert in_thread(pt.check) == 4
    assert DOMAIN.stats()["inside"] == 0
    pt.unmap(0x4000, 0x1000)
    assert pt.retract(0x4000) is Outcome.DONE
    DOMAIN.synchronize()
    assert pt.frames.stats()["tables"] == 3


@EACH_HANDLE
def test_a_handle_lets_go(pt, open_handle):
    handle = open_handle(pt)
    assert handle.closed is False
    handle.close()
    assert handle.closed is True
    del handle
    nothing_is_held(pt)


@EACH_HANDLE
def test_a_handle_lets_go_at_the_end_of_its_block(pt, open_handle):
    class Mishap(Exception):
        pass

    def mishap() -> None:
        with open_handle(pt) as handle:
            assert handle.closed is False
            raise Mishap

    with pytest.raises(Mishap) as raised:
        mishap()
    del raised
    nothing_is_held(pt)


@pytest.mark.parametrize("name", ["pte_map", "pte_map_ro", "pte_map_rw", "pte_alloc_map"])
def test_an_open_map_holds_its_table(pt, name):
    """As long as it is open, and no longer: `nothing_is_held` would see it."""
    with OPEN_A_HANDLE[name](pt):
        pt.unmap(0x4000, 0x1000)
        assert pt.retract(0x4000) is Outcome.DONE
        DOMAIN.synchronize()
        assert pt.frames.stats()["tables"] == 4
    DOMAIN.synchronize()
    assert pt.frames.stats()["tables"] == 3


@pytest.mark.parametrize("name", ["pte_map_rw, locked", "pte_map_lock", "pte_alloc_map_lock", "slot lock"])
def test_an_open_lock_is_held(pt, name):
    """Another thread sees it, so `nothing_is_held` would."""
    with OPEN_A_HANDLE[name](pt), pytest.raises(ptl.InvariantError, match="I6"):
        in_thread(pt.check)
    nothing_is_held(pt)


@EACH_HANDLE
def test_a_handle_is_closed_once(pt, open_handle):
    handle = open_handle(pt)
    handle.close()
    with refused(pt, ValueError, "is closed"):
        handle.close()
    with refused(pt, ValueError, "is closed"), handle:
        pass
    del handle
    nothing_is_held(pt)


@EACH_HANDLE
def test_a_closed_handle_is_of_no_use(pt, open_handle):
    handle = open_handle(pt)
    handle.close()
    uses: list[Callable[[], object]] = []
    if isinstance(handle, ptl.PteMap):
        assert "closed" in repr(handle)
        uses += [lambda: handle[0], lambda: handle.load(0), lambda: handle.stale]
        uses += [lambda: handle.compare_exchange(0, 0, 0)]
    if hasattr(handle, "try_lock"):
        uses += [handle.try_lock, handle.unlock]
    for use in uses:
        with refused(pt, ValueError, "is closed"):
            use()
    assert in_thread(pt.check) == 4


@EACH_HANDLE
def test_a_handle_that_is_dropped_closes_itself_and_warns(pt, open_handle):
    with pytest.warns(ResourceWarning, match="was dropped without being closed"):
        open_handle(pt)
    nothing_is_held(pt)


def test_a_pin_that_is_dropped_closes_itself_and_warns(pt):
    with pytest.warns(ResourceWarning, match="Pin was dropped without being closed"):
        DOMAIN.pin().__enter__()
    nothing_is_held(pt)


@EACH_HANDLE
def test_a_handle_is_not_pickled(pt, open_handle):
    with open_handle(pt) as handle, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(handle)


def test_what_belongs_to_one_process_is_not_pickled(pt):
    for thing in (pt, pt.frames, DOMAIN):
        with refused(pt, TypeError, "cannot be pickled"):
            pickle.dumps(thing)


@pytest.mark.parametrize("name", ["pte_map_rw, locked", "pte_map_lock", "pte_alloc_map_lock", "slot lock"])
def test_a_thread_does_not_wait_for_itself(pt, name):
    """Whatever needs a lock that this thread holds says so, and changes nothing."""
    handle = OPEN_A_HANDLE[name](pt)
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    calls: list[Callable[[], object]] = [
        lambda: pt.pte_map_lock(huge),
        lambda: pt.pte_alloc_map_lock(huge),
        lambda: pt.slot(huge, 1).lock(),
        lambda: pt.map(huge + page, 0, 2 * page),
        lambda: pt.map(0, 0, huge + page, replace=True),
        lambda: pt.unmap(0, 4 * huge),
        lambda: pt.unmap(huge, huge),
        lambda: pt.protect(huge, 2 * page, "rwx"),
        lambda: pt.collapse(huge),
    ]
    for call in calls:
        with refused(pt, RuntimeError, "holds the lock"):
            call()
    handle.close()
    del handle
    nothing_is_held(pt)


def test_a_lock_is_taken_and_let_go_in_turn(pt):
    with pt.pte_map_rw(0x4000) as ptes:
        with refused(pt, RuntimeError, "does not hold the lock"):
            ptes.unlock()
        assert ptes.try_lock()
        with refused(pt, RuntimeError, "holds the lock of its table already"):
            ptes.try_lock()
        ptes.unlock()
        with refused(pt, RuntimeError, "does not hold the lock"):
            ptes.unlock()
    nothing_is_held(pt)


def test_a_pin_belongs_to_its_thread(pt):
    pin = DOMAIN.pin()
    with refused(pt, ValueError, "is closed"):
        pin.close()
    with pin:
        with pytest.raises(RuntimeError, match="entered already"):
            pin.__enter__()
        with pytest.raises(RuntimeError, match="by the thread that entered it"):
            in_thread(pin.close)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            DOMAIN.synchronize()
        assert DOMAIN.stats()["inside"] == 1
    nothing_is_held(pt)


# -- making things


@pytest.mark.parametrize("arch", [None, 5, b"tiny", object, ptl.PageTable])
def test_an_architecture_is_a_name_or_an_arch(arch):
    with pytest.raises(TypeError, match="arch"):
        ptl.PageTable(arch)


@pytest.mark.parametrize("arch", ["", "x86", "X86_64", "tiny "])
def test_an_architecture_is_a_known_one(arch):
    with pytest.raises(ValueError, match="unknown architecture"):
        ptl.PageTable(arch)
    with pytest.raises(ValueError, match="unknown architecture"):
        ptl.arch.get(arch)


@pytest.mark.parametrize("frames", [5, 1 << 20, bytearray(1 << 16), "frames"], ids=type)
def test_frames_are_frames(frames):
    with pytest.raises(TypeError, match="frames must be"):
        ptl.PageTable("tiny", frames=frames)


def test_frames_are_within_the_physical_addresses():
    for base in (1 << 32, (1 << 32) - (1 << 16) + 4096):
        with pytest.raises(ValueError, match="beyond the 32 bits that i386 has for a table's address"):
            ptl.PageTable("i386", frames=ptl.Frames(1 << 16, base=base))
    assert ptl.PageTable("i386", frames=ptl.Frames(1 << 16, base=(1 << 32) - (1 << 16))).root == 0xFFFF0000


def test_frames_have_room_for_a_root():
    for size in (2048, 4096):
        frames = ptl.Frames(size, frame_bytes=64)
        frames.alloc(64)
        with pytest.raises(OutOfFrames, match="no room"):
            ptl.PageTable("x86_64", frames=frames)
        assert frames.stats()["tables"] == 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 6144])
def test_a_size_is_whole_frames(size):
    with pytest.raises(ValueError, match="must be multiples"):
        ptl.Frames(size)


@pytest.mark.parametrize("base", [1, 4095, 4097, 2048])
def test_a_base_is_a_whole_frame(base):
    with pytest.raises(ValueError, match="must be multiples"):
        ptl.Frames(4096, base=base)


def test_a_block_ends_within_64_bits():
    with pytest.raises(ValueError, match="past the end"):
        ptl.Frames(1 << 20, base=(1 << 64) - (1 << 16))


@pytest.mark.parametrize("frame_bytes", [0, 1, 8, 24, 4095, 5000])
def test_a_frame_is_a_power_of_two(frame_bytes):
    with pytest.raises(ValueError, match="frame_bytes must be a power of two"):
        ptl.Frames(1 << 16, frame_bytes=frame_bytes)


@pytest.mark.parametrize("value", [*NOT_INTEGERS, None], ids=repr)
def test_sizes_are_integers(value):
    for make in (
        lambda: ptl.Frames(value),
        lambda: ptl.Frames(4096, base=value),
        lambda: ptl.Frames(4096, frame_bytes=value),
        lambda: ptl.EpochDomain(batch_tables=value),
    ):
        with pytest.raises(TypeError, match="must be an integer, not"):
            make()


@pytest.mark.parametrize("value", NOT_64_BITS)
def test_sizes_have_64_bits(value):
    for make in (
        lambda: ptl.Frames(value),
        lambda: ptl.Frames(4096, base=value),
        lambda: ptl.Frames(4096, frame_bytes=value),
        lambda: ptl.EpochDomain(batch_tables=value),
    ):
        with pytest.raises(ValueError, match="is outside 0 to"):
            make()


def test_a_batch_has_tables():
    with pytest.raises(ValueError, match="at least 1"):
        ptl.EpochDomain(batch_tables=0)


def test_a_backing_holds_the_block(tmp_path):
    anonymous = mmap.mmap(-1, 8192)
    with pytest.raises(ValueError, match="the buffer must hold"):
        ptl.Frames(16384, backing=anonymous)
    with pytest.raises(ValueError, match="begin on a multiple of 64"):
        ptl.Frames(4096, backing=memoryview(anonymous)[8:])
    anonymous.close()  # fails while anything is exported
    with pytest.raises(BufferError):
        ptl.Frames(4096, backing=bytes(8192))
    for backing in (5, 1.5, ["buffer"], object()):
        with pytest.raises(TypeError):
            ptl.Frames(4096, backing=backing)
    for path in (tmp_path, tmp_path / "missing" / "file"):
        with pytest.raises(OSError, match=str(tmp_path)):
            ptl.Frames(4096, backing=path)


def test_a_domain_is_an_epoch_domain():
    for domain in (5, "default", object()):
        with pytest.raises(TypeError):
            ptl.Frames(4096, domain=domain)


# -- frames


@pytest.fixture
def frames() -> ptl.Frames:
    """Sixteen frames from 64 KiB on, one of them handed out."""
    frames = ptl.Frames(1 << 16, base=1 << 16)
    assert frames.alloc() == 0x1F000
    return frames


@contextmanager
def frames_refuse(frames: ptl.Frames, error: type[Exception], match: str | None = None) -> Iterator[None]:
    """What is inside raises this error, and nothing else happens."""
    before = frames.stats(), bytes(frames)
    with pytest.raises(error, match=match):
        yield
    assert (frames.stats(), bytes(frames)) == before


@pytest.mark.parametrize(
    ("pa", "length"),
    [
        (0x1E000, 4096),  # not handed out
        (0x10000, 4096),  # where tables will be
        (0x1F000, 8192),  # longer than it was
        (0x1F800, 4096),  # inside
        (0x1F000, 0),
        (0x1F000, 1 << 16),
        (0x1F000, 1 << 20),  # longer than all
        (0x20000, 4096),  # beyond
        (0xF000, 4096),  # before
        (0, 4096),
        ((1 << 64) - 4096, 4096),
    ],
)
def test_only_what_was_handed_out_is_given_back(frames, pa, length):
    with frames_refuse(frames, AddressError, "was not allocated"):
        frames.free(pa, length)


def test_nothing_is_given_back_twice(frames):
    frames.free(0x1F000)
    with frames_refuse(frames, AddressError, "was not allocated"):
        frames.free(0x1F000)


def test_a_table_is_not_given_back(frames):
    pt = ptl.PageTable("x86_64", frames=frames)
    with frames_refuse(frames, AddressError, "was not allocated"):
        frames.free(pt.root)


def test_more_than_all_is_not_handed_out(frames):
    for length in (1 << 16, (1 << 16) + 1, 1 << 40, (1 << 64) - 1):
        with frames_refuse(frames, OutOfFrames):
            frames.alloc(length)


def test_nothing_is_not_handed_out(frames):
    with frames_refuse(frames, ValueError, "0"):
        frames.alloc(0)


@pytest.mark.parametrize("value", [*NOT_INTEGERS], ids=repr)
def test_frames_take_integers(frames, value):
    for call in (
        lambda: frames.alloc(value),
        lambda: frames.free(value),
        lambda: frames.free(0x1F000, value),
        lambda: frames.view(value, 1),
        lambda: frames.view(0x10000, value),
    ):
        with frames_refuse(frames, TypeError, "must be an integer, not"):
            call()


@pytest.mark.parametrize("value", NOT_64_BITS)
def test_frames_take_64_bits(frames, value):
    for call in (
        lambda: frames.alloc(value),
        lambda: frames.free(value),
        lambda: frames.free(0x1F000, value),
        lambda: frames.view(value, 1),
        lambda: frames.view(0x10000, value),
    ):
        with frames_refuse(frames, AddressError, "is outside"):
            call()


@pytest.mark.parametrize(
    ("pa", "length"),
    [(0, 1), (0xFFFF, 1), (0xFFFF, 2), (0x20000, 1), (0x1FFFF, 2), (0x10000, 0x10001), (0x10000, (1 << 64) - 1)],
)
def test_a_view_is_inside(frames, pa, length):
    with frames_refuse(frames, AddressError, "are not inside"):
        frames.view(pa, length)


# -- a corrupt image


@pytest.mark.parametrize("seed", range(20))
def test_a_walk_of_anything_ends(seed):
    """Whatever the bytes of the tables are, a walk ends in an answer or an error and never outside the block."""
    random = Random(seed)
    pt = ptl.PageTable("tiny", frames=ptl.Frames(1 << 12, base=1 << 12, frame_bytes=32, domain=DOMAIN))
    pt.map(0, 0x1000, 0x40000)
    good = bytes(pt.frames)

    def anything() -> int:
        """Random bits; or a leaf, or a table inside the block or outside."""
        leaf = pt.arch.encode(random.randrange(1 << 10) << 12, "rw")
        table = pt.arch.level(2).table_set | pt.arch.level(2).address.put(random.randrange(0, 1 << 14, 32))
        return random.choice([random.getrandbits(64), leaf, table, table])

    view = memoryview(pt.frames)
    for at in range(0, len(view), 8):
        view[at : at + 8] = anything().to_bytes(8, "little")
    vas = array("Q", range(0, 1 << 18, 0x800))
    answers = list(pt.translate(vas))
    for va, answer in zip(vas, answers, strict=True):
        walk = pt.walk(va)
        assert len(walk.steps) <= 3
        assert all(pt.frames.base <= step.table_pa < pt.frames.base + pt.frames.size for step in walk.steps)
        assert pt.lookup(va) == walk.leaf
        if walk.leaf is None:
            assert answer == ptl.UNMAPPED
        else:
            assert answer == walk.leaf.pa + va - walk.leaf.va == pt.translate(va)
    assert pt.dump()
    with pytest.raises(ptl.InvariantError):
        pt.check()
    view[:] = good
    pt.check()
