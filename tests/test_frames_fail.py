"""The promise: whenever an operation asks for frames and there are none, it raises OutOfFrames, and all is as it was.

The first, the second, the third time that it asks there are none, nor from then on, until it asks no more: every
format, every operation that takes frames. `test_out_of_frames.py` has the same by room: how many tables it takes. Here
each call that takes frames is the one that fails, whatever those before it took: tables, tables to park, data. When
there are none only once, as when another thread gives some back, the operation tries again and is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import ptl
from ptl import Outcome, OutOfFrames
from ptl._core import fail_frames
from ptl.arch import Arch
from ptl.collapse import ScanResult, collapse_pages
from reference import contents

DOMAIN = ptl.EpochDomain()
NAMES = ptl.arch.names()
MOST_BYTES = 64 << 20
MOST_CALLS = 8
"""By which one of these operations takes frames: a table on each level, and what it parks."""

Change = Callable[["Bench"], object]


@contextmanager
def no_frames(n: int, times: int = 2**32 - 1) -> Iterator[None]:
    """There are none the n-th time that this thread asks for frames, nor for so many times from then on."""
    fail_frames(n, times)
    try:
        yield
    finally:
        fail_frames(0)


class Bench:
    """A table of a format, and the sizes that its format has."""

    def __init__(self, name: str):
        size = ptl.PageTable(name).frames
        frame_bytes = size.frame_bytes
        self.frames = ptl.Frames(min(size.size, MOST_BYTES), frame_bytes=frame_bytes, domain=DOMAIN)
        self.pt = ptl.PageTable(name, frames=self.frames)
        self.arch: Arch = self.pt.arch
        self.page = 1 << self.arch.page_shift
        self.leaf_table = self.arch.level(2).span

    @property
    def has_huge(self) -> bool:
        """Whether an entry of level 2 can be a leaf."""
        return self.arch.level(2).leaf is not None

    def map_small(self, va: int, length: int) -> None:
        """Small pages, each at the address that a huge leaf there would map it to."""
        self.pt.map(va, self.leaf_table + va, length, page_size=self.page)

    def state(self) -> tuple[object, ...]:
        """All that a failure must leave alone: every table bit for bit, and what is counted.

        Not attempts, nor free tables: what has been taken and given back stays memory for tables.
        """
        attempts = ("map_failures", "rewalks", "restarts")
        counters = {name: count for name, count in self.pt.stats().items() if name not in attempts}
        domain = DOMAIN.stats()
        return self.bits(), counters, self.counted(), domain["limbo"], domain["inside"], self.pt.check()

    def counted(self) -> dict[str, int]:
        """What is taken of the frames."""
        return {name: count for name, count in self.frames.stats().items() if name != "free_tables"}

    def bits(self) -> dict[int, bytes]:
        """The bytes of every table, by its physical address."""
        found: dict[int, bytes] = {}
        tables = [(self.pt.root, self.arch.levels)]
        for pa, level in tables:
            found[pa] = bytes(self.frames.view(pa, self.arch.table_bytes(level)))
            if level > 1:
                entries = {self.arch.decode(raw, level) for raw in self._raws(found[pa], level)}
                tables += [(entry.pa, level - 1) for entry in entries if entry.state is ptl.State.TABLE]
        return found

    def _raws(self, table: bytes, level: int) -> set[int]:
        """The entries of a table, each once, without the empty one."""
        size = self.arch.level(level).word.bytes
        raws = {int.from_bytes(table[at : at + size], self.arch.byte_order) for at in range(0, len(table), size)}
        return raws - {self.arch.level(level).empty}


def nothing(bench: Bench) -> None:
    pass


def full_table(bench: Bench) -> None:
    bench.map_small(0, bench.leaf_table)


def huge_leaf(bench: Bench) -> None:
    bench.pt.map(0, 0, bench.leaf_table, page_size=bench.leaf_table)


def any_format(bench: Bench) -> bool:
    return True


def with_huge(bench: Bench) -> bool:
    return bench.has_huge


def map_and_lock(bench: Bench, name: str) -> None:
    with getattr(bench.pt, name)(0) as ptes:
        assert not ptes.stale


CHANGES: dict[str, tuple[Change, Change, Callable[[Bench], bool]]] = {
    "a table more": (nothing, lambda b: ptl.PageTable(b.arch, frames=b.frames), any_format),
    "a page": (nothing, lambda b: b.pt.map(0, 0), any_format),
    "a page by its key": (nothing, lambda b: b.pt.__setitem__(0, (0, "rw")), any_format),
    "a page unless it is there": (nothing, lambda b: b.pt.setdefault(0, (0, "rw")), any_format),
    "pages of two tables": (nothing, lambda b: b.map_small(b.leaf_table - b.page, 2 * b.page), any_format),
    "all pages of a table": (nothing, full_table, any_format),
    "a huge leaf": (nothing, huge_leaf, with_huge),
    "a huge leaf over a table": (
        full_table,
        lambda b: b.pt.map(0, 0, b.leaf_table, page_size=b.leaf_table, replace=True),
        with_huge,
    ),
    "populate": (nothing, lambda b: b.pt.populate(0), any_format),
    "pte_alloc_map": (nothing, lambda b: map_and_lock(b, "pte_alloc_map"), any_format),
    "pte_alloc_map_lock": (nothing, lambda b: map_and_lock(b, "pte_alloc_map_lock"), any_format),
    "pte_alloc_huge": (nothing, lambda b: b.pt.pte_alloc_huge(0), any_format),
    "move of a page": (full_table, lambda b: b.pt.move(0, b.leaf_table, b.page), any_format),
    "move of a table": (full_table, lambda b: b.pt.move(0, b.leaf_table, b.leaf_table), any_format),
    "collapse": (full_table, lambda b: b.pt.collapse(0), with_huge),
    "collapse to other frames": (full_table, lambda b: b.pt.collapse(0, 2 * b.leaf_table), with_huge),
}
"""What there is before, what is done, and which formats can."""

CANNOT_FAIL: dict[str, tuple[Change, Change, Callable[[Bench], bool]]] = {
    "split": (huge_leaf, lambda b: b.pt.split(0), with_huge),
    "unmap that cuts a huge leaf": (huge_leaf, lambda b: b.pt.unmap(0, b.page), with_huge),
    "protect that cuts a huge leaf": (huge_leaf, lambda b: b.pt.protect(0, b.page, "r"), with_huge),
    "a page over a huge leaf": (
        huge_leaf,
        lambda b: b.pt.map(0, b.leaf_table, b.page, replace=True),
        with_huge,
    ),
    "a page where a table is": (full_table, lambda b: b.pt.map(0, 0, b.page, replace=True), any_format),
    "unmap": (full_table, lambda b: b.pt.unmap(0, b.leaf_table), any_format),
    "protect": (full_table, lambda b: b.pt.protect(0, b.leaf_table, "r"), any_format),
    "retract": (lambda b: b.pt.populate(0), lambda b: b.pt.retract(0), any_format),
    "reclaim_empty": (lambda b: b.pt.populate(0), lambda b: b.pt.reclaim_empty(0, b.leaf_table), any_format),
}
"""What takes no frames, or those that a huge leaf has parked."""


def failures(bench: Bench, change: Change) -> int:
    """Let a change find no frames from the first time on, from the second, and so on: how often it asks."""
    before = bench.state()
    for n in itertools.count(1):
        with no_frames(n):
            try:
                change(bench)
            except OutOfFrames:
                assert bench.state() == before, f"there were none the {n}th time"
            else:
                return n - 1
    raise AssertionError


@pytest.fixture(autouse=True)
def nothing_in_limbo() -> Iterator[None]:
    """Or it would be freed when frames are missing, and the operation tried again."""
    DOMAIN.synchronize()
    yield
    DOMAIN.synchronize()


def each(changes: dict[str, tuple[Change, Change, Callable[[Bench], bool]]]) -> pytest.MarkDecorator:
    """Every change on every format that can."""
    cases = [(name, what) for what, (_, _, can) in changes.items() for name in NAMES if can(Bench(name))]
    return pytest.mark.parametrize(("name", "what"), cases, ids=[f"{what}-{name}" for name, what in cases])


@each(CHANGES)
def test_whichever_call_finds_no_frames_nothing_is_changed(name: str, what: str) -> None:
    before, change, _ = CHANGES[what]
    bench = Bench(name)
    before(bench)
    assert 0 < failures(bench, change) <= MOST_CALLS
    bench.pt.check()


@pytest.mark.parametrize("name", NAMES)
def test_data_that_cannot_be_had_takes_nothing(name: str) -> None:
    bench = Bench(name)
    assert failures(bench, lambda b: b.frames.alloc()) == 1
    assert failures(bench, lambda b: b.frames.alloc(4 * b.frames.frame_bytes)) == 1


@each(CHANGES)
def test_what_finds_no_frames_once_tries_again(name: str, what: str) -> None:
    """And comes to the same: the state is that of a table on which nothing failed."""
    before, change, _ = CHANGES[what]
    undisturbed = Bench(name)
    before(undisturbed)
    change(undisturbed)
    wanted = contents(undisturbed.pt), undisturbed.counted()
    DOMAIN.synchronize()
    for n in range(1, MOST_CALLS + 1):
        bench = Bench(name)
        before(bench)
        with no_frames(n, times=1):
            change(bench)
        assert (contents(bench.pt), bench.counted()) == wanted
        DOMAIN.synchronize()


@each(CANNOT_FAIL)
def test_what_takes_no_frames_cannot_fail(name: str, what: str) -> None:
    before, change, _ = CANNOT_FAIL[what]
    bench = Bench(name)
    before(bench)
    with no_frames(1):
        assert change(bench) is not Outcome.NOT_EMPTY
    bench.pt.check()


# -- what only some formats have: larger leaves still, runs, frames of its own


GIANT = 0x1_0000
"""The largest leaf of tiny."""


def tiny_giant(bench: Bench) -> None:
    bench.pt.map(0, 0, GIANT)


def tiny_tables(bench: Bench) -> None:
    bench.pt.map(0, bench.page, GIANT)


def pages_with_memory(bench: Bench) -> None:
    for va in range(0, bench.leaf_table, bench.page):
        bench.pt.map(va, bench.frames.alloc(bench.page), flags="rw")


def run_of(bench: Bench) -> int:
    return bench.arch.run_sizes[0]


SOME = {
    "a giant leaf": ("tiny", nothing, tiny_giant, 2),
    "a giant leaf over tables": ("tiny", tiny_tables, lambda b: b.pt.map(0, 0, GIANT, replace=True), 2),
    "leaves of each size": (
        "tiny",
        nothing,
        lambda b: b.pt.map(b.leaf_table - b.page, b.leaf_table - b.page, 2 * GIANT),
        5,
    ),
    "a giant leaf of huge ones and a hole": (
        "tiny",
        lambda b: b.pt.map(0, 0, GIANT - b.leaf_table, page_size=b.leaf_table),
        lambda b: b.pt.collapse(0, GIANT, level=3, holes=1),
        2,
    ),
    "a run": ("arm64_4k", nothing, lambda b: b.pt.map(0, 0, run_of(b), page_size=run_of(b)), 3),
    "a run of pages that are there": ("arm64_4k", full_table, lambda b: b.pt.collapse(0, page_size=run_of(b)), 0),
}
"""A format, what there is before, what is done, and how often it asks for frames."""


@pytest.mark.parametrize("what", SOME)
def test_it_asks_as_often_as_it_has_to(what: str) -> None:
    name, before, change, calls = SOME[what]
    bench = Bench(name)
    before(bench)
    assert failures(bench, change) == calls
    bench.pt.check()


def test_a_collapser_that_finds_no_frames_leaves_the_region_as_it_was() -> None:
    """It asks for a table to park, then for the frames to copy to; and does not raise, for there is a next region."""
    bench = Bench("x86_64")
    pages_with_memory(bench)
    before = bench.state()
    for n in (1, 2):
        with no_frames(n):
            assert collapse_pages(bench.pt, 0, "rw") is ScanResult.NO_FRAMES
        assert bench.state() == before
    with no_frames(3):
        assert collapse_pages(bench.pt, 0, "rw") is ScanResult.COLLAPSED
    bench.pt.check()
