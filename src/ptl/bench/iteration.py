"""Everything that a table holds: as objects one after another, merged, in columns."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ptl._core import PageTable
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Side, Target, agree
from ptl.bench.native import Missing
from ptl.bench.pages import PA, PAGE, VA
from ptl.bench.peers import module
from ptl.bench.settings import Size

GROUP = "iterate"
TREE, SORTED, LOOKED_UP = "BTrees.QQBTree, items", "SortedDict.irange, keys", "SortedDict.irange, looked up"
BLOCK = 4096
LEAVES, ITEMS, KEYS = "ptl, leaves", "ptl, items", "ptl, keys"


def contests(size: Size) -> Iterator[Contest]:
    """Objects, merged runs, columns."""
    yield _objects(size)
    yield _runs(size)
    yield _columns(size)


def _drain(things: Iterable[object]) -> None:
    """Take one after another, at the speed of C."""
    deque(things, 0)


def _peers(pairs: list[tuple[int, int]]) -> Iterator[tuple[str, Any]]:
    with suppress(Missing):
        yield "BTrees.QQBTree", module("BTrees.QQBTree").QQBTree(pairs)
    with suppress(Missing):
        yield "SortedDict", module("sortedcontainers").SortedDict(pairs)


def _objects(size: Size) -> Contest:
    """Pages in a row whose frames are not, so that each is a leaf and a run of its own."""
    count = size.pages
    pages, frames = subject.spaced(count), subject.frames(2 * count)[::2]
    table = subject.table_of(pages, frames)
    maps = dict(_peers(list(zip(pages, frames, strict=True))))
    end = VA + count * PAGE
    peers = []
    answers: dict[str, list[int]] = {LEAVES: [leaf.pa for leaf in table.values()]}
    if "BTrees.QQBTree" in maps:
        tree = maps["BTrees.QQBTree"]
        answers[TREE] = [pa for _, pa in tree.items()]
        peers.append(Side(TREE, lambda: _drain(tree.items()), count))
    if "SortedDict" in maps:
        mapping = maps["SortedDict"]
        answers[SORTED] = [mapping[va] for va in mapping.irange()]
        look_up = mapping.__getitem__
        peers.append(Side(LOOKED_UP, lambda: _drain(map(look_up, mapping.irange(VA, end))), count))
        peers.append(Side(SORTED, lambda: _drain(mapping.irange(VA, end)), count))
    return Contest(
        key="iterate-objects",
        group=GROUP,
        title=f"go through {count:,} pages, an object each",
        unit="ns a page",
        ours=[
            Side(LEAVES, lambda: _drain(table.values()), count),
            Side(ITEMS, lambda: _drain(table.items()), count),
            Side(KEYS, lambda: _drain(table), count),
        ],
        peers=peers,
        targets=[
            Target(LEAVES, TREE, "at least", 3),
            Target(LEAVES, LOOKED_UP, "at least", 3),
            Target(ITEMS, TREE, "at least"),
            Target(KEYS, SORTED, "at least"),
        ],
        note="A leaf is one object, with both addresses, size, flags and bits; an item of QQBTree is three: a pair of "
        "integers. irange makes none: its keys are objects all the time.",
        check=lambda: agree(answers),
    )


def _merge(mapping: Any) -> list[int]:
    """Where each run of pages that continue one another begins: what a user of a map writes."""
    starts, expected = [], (-1, -1)
    for va, pa in mapping.items():
        if (va, pa) != expected:
            starts.append(va)
        expected = va + PAGE, pa + PAGE
    return starts


def _runs(size: Size) -> Contest:
    """Sixteen pages of every seventeen, so that a run is sixteen pages."""
    count, length = size.pages // 16 * 16, 16
    table = PageTable("x86_64")
    for start in range(0, count // length):
        table.map(VA + start * (length + 1) * PAGE, PA + start * length * PAGE, length * PAGE, page_size=PAGE)
    pairs = [(leaf.va, leaf.pa) for leaf in table.values()]
    answers: dict[str, list[int]] = {"ptl": [run.va for run in table.runs()]}
    peers = []
    for name, mapping in _peers(pairs):
        answers[name] = _merge(mapping)
        peers.append(Side(f"{name}, a loop", partial(_merge, mapping), count))
    return Contest(
        key="iterate-runs",
        group=GROUP,
        title=f"merge {count:,} pages into runs of {length}",
        unit="ns a page",
        ours=[Side("ptl", lambda: _drain(table.runs()), count)],
        peers=peers,
        targets=[Target("ptl", side.name, "at least", 3) for side in peers],
        check=lambda: agree(answers),
    )


def _columns(size: Size) -> Contest:
    """Six columns: 34 bytes a page, read from 8."""
    count = size.pages
    table = subject.table_of(subject.spaced(count), subject.frames(2 * count)[::2])
    room = [array(kind, bytes(count * array(kind).itemsize)) for kind in "QQQBBQ"]
    two = [room[0], room[1], None, None, None, None]
    few = [array(kind, bytes(BLOCK * array(kind).itemsize)) for kind in "QQQBBQ"]

    def in_blocks() -> None:
        """As whoever looks at a block and goes on: the same room again and again."""
        found = table.export(out=few)
        while len(found) == BLOCK:
            found = table.export(found.va[-1] + found.size[-1], out=few)

    answers = {"ptl": [leaf.pa for leaf in table.values()], "columns": table.export(out=room).pa}
    peers = []
    with suppress(Missing):
        numpy = module("numpy")
        flat = numpy.zeros(count * 34, numpy.uint8)
        peers.append(Side("numpy fill", lambda: flat.fill(1), count))
    return Contest(
        key="iterate-columns",
        group=GROUP,
        title=f"{count:,} pages to arrays in one call",
        unit="ns a page",
        ours=[
            Side("ptl, six columns", lambda: table.export(out=room), count),
            Side("ptl, addresses alone", lambda: table.export(out=two), count),
            Side("ptl, six columns of 4,096", in_blocks, count),
            Side("ptl, new arrays", table.export, count),
        ],
        peers=peers,
        constants={"2 ns": 2.0},
        targets=[
            Target("ptl, six columns", "2 ns", "at most", 1),
            Target("ptl, addresses alone", "2 ns", "at most", 1),
            Target("ptl, six columns of 4,096", "2 ns", "at most", 1),
            Target("ptl, six columns", "numpy fill", "at most", 1.5),
        ],
        note="numpy fill writes as many bytes, and reads none. New arrays are counted, zeroed and filled.",
        check=lambda: agree(answers),
    )
