"""The promise: whatever happens beside it, a sweep finds each page that is mapped all the time once, and in order.

C12 of docs/concurrency.md, on the core itself: each test visits every interleaving. What a sweep finds is compared,
page by page, with what it finds before or after whatever the other thread does; only one page changes, or none.
"""

from __future__ import annotations

import pytest

import ptl
from labs import MIGRATION, NEW, OLD, PAGE, SPAN, Setup, all_but_one, all_pages, empty_table, huge_leaf, one_page, prove
from ptl._core import Model
from ptl.lab import operations as op
from ptl.lab.operations import Operation

BESIDE: dict[str, tuple[tuple[Operation, ...], Setup]] = {
    "a collapse": ((op.collapse(0),), all_pages),
    "a collapse that refuses": ((op.collapse(0),), all_but_one),
    "a split": ((op.split(0),), huge_leaf),
    "a retract": ((op.retract(0),), empty_table),
    "a populate": ((op.populate(SPAN),), one_page),
    "a move": ((op.move(0, 2 * SPAN, SPAN),), one_page),
    "a migration": (MIGRATION, all_pages),
    "an unmap that splits": ((op.unmap(PAGE),), huge_leaf),
    "a map": ((op.map(PAGE, NEW),), all_but_one),
    "a protect": ((op.protect(0, 2 * PAGE, "r"),), all_pages),
}
"""What changes the mapping of one page, or of none."""


@pytest.mark.parametrize("room", [1, 2, 8])
@pytest.mark.parametrize("beside", BESIDE)
def test_a_sweep_beside(beside: str, room: int) -> None:
    operations, setup = BESIDE[beside]
    prove([[op.sweep(0, room)], operations], setup)


@pytest.mark.parametrize("room", [1, 8])
def test_a_sweep_beside_a_collapse_and_a_split(room: int) -> None:
    prove([[op.sweep(0, room)], (op.collapse(0), op.split(0))], all_pages)


def test_a_sweep_beside_a_split_and_a_collapse() -> None:
    prove([[op.sweep(0, 1)], (op.split(0), op.collapse(0))], huge_leaf)


def test_a_sweep_that_begins_inside_a_leaf() -> None:
    prove([[op.sweep(2 * PAGE, 1)], (op.split(0),)], huge_leaf)


def test_two_sweeps_beside_a_collapse() -> None:
    prove([[op.sweep(0, 2)], [op.sweep(0, 8)], (op.collapse(0),)], all_pages)


def test_a_sweep_keeps_what_it_reads_from_being_reused() -> None:
    prove([[op.sweep(0, 1)], (op.unmap(0), op.retract(0), op.reclaim())], one_page, batch_tables=1)


def test_what_a_sweep_tells() -> None:
    """Each page's frame in a byte: the judge of the tests above sees it all."""
    pt = ptl.PageTable("tiny", frames=ptl.Frames(64 * PAGE))
    all_pages(pt)
    model = Model(pt, [[("sweep", 0, 2)]])
    model.replay([], None)
    assert model.results() == [[sum(OLD // PAGE + i << 8 * i for i in range(SPAN // PAGE))]]
