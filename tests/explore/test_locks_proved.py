"""The promise: the fallible map and lock say yes for a table that stays, and no for one that leaves, in every order.

C7 and H1 to H4; and the short lock itself, stepped through from inside, parking and waking included (lock.pxi).
"""

from __future__ import annotations

import pytest

from labs import NEW, OTHER, PAGE, SPAN, Setup, all_but_one, empty_table, huge_leaf, one_page, prove
from ptl.lab import operations as op
from ptl.lab.operations import Operation

MAPS = {
    "map_lock": op.map_lock(PAGE, NEW),
    "map_rw": op.map_rw(PAGE, NEW),
    "alloc_map_lock": op.alloc_map_lock(PAGE, NEW),
}
AGAINST: dict[str, tuple[tuple[Operation, ...], Setup]] = {
    "collapse that succeeds": ((op.collapse(0),), all_but_one),
    "collapse that refuses": ((op.collapse(0),), one_page),
    "retract": ((op.retract(0),), empty_table),
    "split": ((op.split(0),), huge_leaf),
    "move": ((op.move(0, 2 * SPAN, SPAN),), one_page),
    "unmap of a range": ((op.unmap(0, SPAN),), one_page),
    "map of a range": ((op.map(0, OTHER, SPAN),), empty_table),
    "protect of a range": ((op.protect(0, SPAN, "r"),), one_page),
}


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("name", MAPS)
def test_a_map_that_may_fail(name: str, against: str) -> None:
    operations, setup = AGAINST[against]
    # alloc_map_lock populates first: two steps of the table, between which it may go again.
    is_whole = not (name == "alloc_map_lock" and against in ("retract", "move", "unmap of a range"))
    prove([[MAPS[name]], operations], setup, is_serialisable=is_whole)


@pytest.mark.parametrize("second", MAPS)
@pytest.mark.parametrize("first", MAPS)
def test_two_maps_and_a_retraction(first: str, second: str) -> None:
    prove([[MAPS[first]], [MAPS[second]], [op.retract(0)]], empty_table, is_serialisable=False)


def test_the_lock_keeps_others_out() -> None:
    """Two threads count under it: no count is lost, and nobody sleeps for ever."""
    assert prove([[op.count_locked()], [op.count_locked()]], locks="inside").classes == 40
    prove([[op.count_locked(), op.count_locked()], [op.count_locked()]], locks="inside")


def test_the_lock_under_store_buffers() -> None:
    prove([[op.count_locked()], [op.count_locked()]], locks="inside", memory="tso")


def test_three_threads_park_and_wake() -> None:
    """Bounded: three threads have 826,776 classes, which take a while."""
    from ptl import lab

    laboratory = lab.Laboratory([[op.count_locked()]] * 3, locks="inside")
    result = laboratory.explore(most=100_000)
    assert result.verdict == "bounded", result


def test_locks_from_inside_beside_a_transition() -> None:
    prove([[op.unmap(0, SPAN)], [op.retract(0)]], one_page, locks="inside")
    prove([[op.map_lock(PAGE, NEW)], [op.collapse(0)]], one_page, locks="inside")
