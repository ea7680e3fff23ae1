"""A whole table at one moment: shared, beside copied."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from ptl._core import PageTable, default_domain
from ptl.bench.limits import Copies, Pages
from ptl.bench.measure import Contest, Disagreement, Side, Target
from ptl.bench.native import Missing
from ptl.bench.pages import HUGE, PA, PAGE, VA
from ptl.bench.settings import Size

GROUP = "a snapshot"
SNAPSHOTS = 100
"""In one measurement: one alone is as short as a look at the clock."""
CHANGED = 64
"""Leaf tables in which a page is changed after a snapshot."""


def contests(size: Size) -> Iterator[Contest]:
    """A snapshot by itself; and with the copies that changes after it take."""
    table = PageTable("x86_64")
    table.map(VA, PA, size.range_bytes, page_size=PAGE)
    yield _snapshot(table, size)
    yield _changes(table, size)


def _snapshot(table: PageTable, size: Size) -> Contest:
    count = size.range_bytes // PAGE
    pages = dict(zip(range(count), range(0, size.range_bytes, PAGE), strict=True))

    def snapshots() -> None:
        for _ in range(SNAPSHOTS):
            table.snapshot()

    peers = [Side("dict.copy", pages.copy, count)]
    eager: Copies | None = None
    try:
        eager, kernel = Copies(table), Pages(size.kernel_bytes)
    except Missing:
        pass
    else:
        peers.append(Side("an eager copy", eager.copy, count))
        peers.append(Side("the kernel's fork", kernel.fork, size.kernel_bytes // PAGE, tells=True))

    def check() -> None:
        if eager is not None and eager.copy() != table.stats()["tables"]:
            raise Disagreement("the eager copy has another number of tables")

    return Contest(
        key="snapshot",
        group=GROUP,
        title=f"a snapshot of {size.range_bytes >> 20:,} MiB of 4 KiB pages",
        unit="ns a page",
        ours=[Side("ptl", snapshots, SNAPSHOTS * count)],
        peers=peers,
        targets=[
            Target("ptl", "an eager copy", "at least", 65),
            Target("ptl", "the kernel's fork", "at least", 300),
            Target("ptl", "dict.copy", "at least", 1000),
        ],
        note="Ours is made and dropped again. The eager copy goes to memory that is there, and is no PageTable. "
        f"The kernel's is what {size.kernel_bytes >> 20} MiB of pages add to a fork, in the parent.",
        check=check,
    )


def _changes(table: PageTable, size: Size) -> Contest:
    """What sharing puts off has to be paid for: a page in each of some leaf tables is changed after the snapshot."""
    regions = size.range_bytes // HUGE
    places = [VA + region * HUGE for region in range(0, regions, max(1, regions // CHANGED))]
    kept: list[PageTable] = []
    flags = cycle(("r", "rw"))

    def change() -> None:
        wanted = next(flags)
        for va in places:
            table.protect(va, PAGE, wanted)

    def share_and_change() -> None:
        kept.append(table.snapshot())
        change()

    def drop() -> None:
        kept.clear()
        default_domain.reclaim()

    peers = []
    try:
        eager = Copies(table)
    except Missing:
        pass
    else:

        def copy_and_change() -> None:
            eager.copy()
            change()

        peers.append(Side("an eager copy", copy_and_change, 1))
    return Contest(
        key="snapshot-changes",
        group=GROUP,
        title=f"a snapshot of {size.range_bytes >> 20:,} MiB, and a page changed in each of {len(places)} leaf tables",
        unit="ns for all",
        ours=[Side("ptl", share_and_change, 1, drop)],
        peers=peers,
        targets=[Target("ptl", "an eager copy", "at least")],
        note="The first change in a leaf table copies it.",
    )
