"""Whole ranges in one call, and the transitions of one region."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle, repeat
from operator import and_, or_

from ptl import _bench
from ptl._core import PageTable, default_domain
from ptl.bench.limits import ENTRY_BYTES, Limits, Pages
from ptl.bench.measure import Contest, Side, Target
from ptl.bench.native import Missing
from ptl.bench.pages import HUGE, PA, PAGE, VA
from ptl.bench.peers import module
from ptl.bench.settings import Size

GROUP = "a range in one call"
TRANSITIONS = "transitions"
WRITE = 2


def contests(size: Size) -> Iterator[Contest]:
    """Map, protect, unmap; a part of a table; collapse and split."""
    yield _map(size)
    yield _protect(size)
    yield _unmap(size)
    yield _part(size)
    yield _collapse_and_split()


def _numbers(size: Size) -> range:
    return range(VA // PAGE, (VA + size.range_bytes) // PAGE)


def _frames(size: Size) -> range:
    return range(PA, PA + size.range_bytes, PAGE)


def _limits(size: Size) -> Limits | None:
    try:
        return Limits(size.range_bytes // PAGE * ENTRY_BYTES)
    except Missing:
        return None


def _mprotect(size: Size) -> list[Side]:
    """The kernel as a peer, where there is memory for its pages."""
    try:
        pages = Pages(size.kernel_bytes)
    except Missing:
        return []
    writable = cycle((False, True))
    return [
        Side("the kernel's mprotect", lambda: pages.protect(writable=next(writable)), size.kernel_bytes // PAGE),
    ]


def _clear(table: PageTable, length: int) -> None:
    """Empty the range, and have the tables back."""
    table.unmap(VA, length)
    default_domain.reclaim()


def _title(what: str, size: Size) -> str:
    return f"{what} {size.range_bytes >> 20:,} MiB of 4 KiB pages"


def _map(size: Size) -> Contest:
    table, length = PageTable("x86_64"), size.range_bytes
    count = length // PAGE
    numbers, frames = _numbers(size), _frames(size)
    kept: list[object] = []

    def make_dict() -> None:
        kept[:] = [dict(zip(numbers, frames, strict=True))]

    peers = [Side("dict", make_dict, count, kept.clear)]
    limits = _limits(size)
    if limits is not None:
        peers.append(Side("memset", limits.fill, count))
    try:
        trees = module("BTrees.QQBTree")
        pairs = list(zip(numbers, frames, strict=True))
        peers.append(Side("BTrees.QQBTree", lambda: kept.append(trees.QQBTree(pairs)), count, kept.clear))
    except Missing:
        pass
    return Contest(
        key="range-map",
        group=GROUP,
        title=_title("map", size) + ", nothing there",
        unit="ns a page",
        ours=[Side("ptl", lambda: table.map(VA, PA, length, page_size=PAGE), count, lambda: _clear(table, length))],
        peers=peers,
        targets=[
            Target("ptl", "memset", "at most", 2),
            Target("ptl", "dict", "at least", 50),
            Target("ptl", "BTrees.QQBTree", "at least"),
        ],
        note="memset writes as many bytes as the leaf tables have, to memory of the same kind. "
        "QQBTree is given a list of pairs.",
    )


def _protect(size: Size) -> Contest:
    table, length = PageTable("x86_64"), size.range_bytes
    count = length // PAGE
    table.map(VA, PA, length, page_size=PAGE)
    flags, changes = cycle(("r", "rw")), cycle(((and_, ~WRITE), (or_, WRITE)))
    pages = dict(zip(_numbers(size), _frames(size), strict=True))

    def change_dict() -> None:
        change, bits = next(changes)
        keys = _numbers(size)
        pages.update(zip(keys, map(change, map(pages.__getitem__, keys), repeat(bits)), strict=False))

    peers = [Side("dict", change_dict, count)]
    limits = _limits(size)
    if limits is not None:
        peers.append(Side("atomic exchange", limits.exchange, count))
    peers += _mprotect(size)
    return Contest(
        key="range-protect",
        group=GROUP,
        title=_title("protect", size),
        unit="ns a page",
        ours=[Side("ptl", lambda: table.protect(VA, length, next(flags)), count)],
        peers=peers,
        targets=[
            Target("ptl", "atomic exchange", "at most", 1.5),
            Target("ptl", "dict", "at least", 30),
            Target("ptl", "the kernel's mprotect", "at least", 25),
        ],
        note="The limit is one uncontended atomic exchange a page: lock-free writers may run meanwhile. "
        f"The kernel protects {size.kernel_bytes >> 20} MiB, and flushes its TLB.",
    )


def _unmap(size: Size) -> Contest:
    table, length = PageTable("x86_64"), size.range_bytes
    count = length // PAGE
    pages: dict[int, int] = {}

    def fill_dict() -> None:
        pages.update(zip(_numbers(size), _frames(size), strict=True))

    def refill() -> None:
        _clear(table, length)
        table.map(VA, PA, length, page_size=PAGE)

    peers = [Side("dict", lambda: _drain(map(pages.__delitem__, _numbers(size))), count, fill_dict)]
    limits = _limits(size)
    if limits is not None:
        peers.append(Side("atomic exchange", limits.exchange, count))
    return Contest(
        key="range-unmap",
        group=GROUP,
        title=_title("unmap", size),
        unit="ns a page",
        ours=[Side("ptl", lambda: table.unmap(VA, length), count, refill)],
        peers=peers,
        targets=[
            Target("ptl", "atomic exchange", "at most", 1.5),
            Target("ptl", "dict", "at least", 30),
        ],
        note="The tables are retired too.",
    )


def _drain(calls: Iterator[object]) -> None:
    """Go through an iterator at the speed of C, for a dict has no method that removes many keys."""
    deque(calls, 0)


def _part(size: Size) -> Contest:
    """300 pages in the middle of each of 64 tables, a call each: no table is covered, so each stays where it is."""
    regions, inside, first = 64, 300, 100
    table = PageTable("x86_64")
    table.map(VA, PA, regions * HUGE, page_size=PAGE)
    starts = [VA + number * HUGE + first * PAGE for number in range(regions)]
    length, count = inside * PAGE, regions * inside
    flags = cycle(("r", "rw"))

    def protect() -> None:
        wanted, change = next(flags), table.protect
        for start in starts:
            change(start, length, wanted)

    def unmap() -> None:
        for start in starts:
            table.unmap(start, length)

    def restore() -> None:
        for start in starts:
            table.map(start, start - VA + PA, length, page_size=PAGE, replace=True)

    ours = [Side("ptl, protect", protect, count, restore), Side("ptl, unmap", unmap, count, restore)]
    ours.append(Side("ptl, replace", restore, count))
    return Contest(
        key="range-part",
        group=GROUP,
        title=f"change {inside} pages in the middle of each of {regions} tables",
        unit="ns a page",
        ours=ours,
        peers=_mprotect(size),
        targets=[Target(side.name, "the kernel's mprotect", "at least", 25) for side in ours],
    )


def _collapse_and_split() -> Contest:
    table = PageTable("x86_64")
    table.map(VA, 0, HUGE, page_size=PAGE)
    pairs = 200
    peers = []
    try:
        limits = Limits(HUGE // PAGE * ENTRY_BYTES)
        peers.append(Side("512 atomic exchanges", _repeat(limits.exchange, pairs), pairs))
    except Missing:
        pass
    return Contest(
        key="collapse-split",
        group=TRANSITIONS,
        title="collapse one region of 512 pages in place, and split it again",
        unit="ns for the pair",
        ours=[Side("ptl", lambda: _bench.collapse_and_split(table, VA, pairs), pairs)],
        peers=peers,
        targets=[Target("ptl", "512 atomic exchanges", "at most", 1.5)],
        note="To freeze a table takes one atomic operation for each of its entries.",
    )


def _repeat(call: Callable[[], None], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            call()

    return run
