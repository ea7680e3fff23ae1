"""The promise: whatever the order of their steps, an operation on a page and a transition come to what some serial
order gives, and leave every invariant whole.

C1, C3 and C5 of docs/concurrency.md, on the core itself: each test visits every interleaving.
"""

from __future__ import annotations

import pytest

from labs import (
    MIGRATION,
    NEW,
    OLD,
    OTHER,
    PAGE,
    SPAN,
    Setup,
    all_but_one,
    all_pages,
    empty_table,
    huge_leaf,
    leaf,
    nothing,
    one_page,
    prove,
)
from ptl.lab import operations as op
from ptl.lab.operations import Operation

TRANSITIONS: dict[str, tuple[tuple[Operation, ...], Setup]] = {
    "collapse that succeeds": ((op.collapse(0),), all_pages),
    "collapse that refuses": ((op.collapse(0),), one_page),
    "collapse that depends on the other": ((op.collapse(0),), all_but_one),
    "collapse to other frames": ((op.collapse(0, OTHER),), all_pages),
    "retract": ((op.retract(0),), empty_table),
    "split": ((op.split(0),), huge_leaf),
    "reclaim of what becomes empty": ((op.unmap(0), op.retract(0)), one_page),
    "move": ((op.move(0, 2 * SPAN, SPAN),), one_page),
    "migrate": (MIGRATION, all_pages),
    "populate": ((op.populate(0),), nothing),
}
SINGLE = {
    "translate": op.translate(PAGE),
    "translate the first": op.translate(0),
    "map": op.map(PAGE, OLD + PAGE),
    "unmap": op.unmap(PAGE),
    "unmap the first": op.unmap(0),
    "compare-exchange": op.compare_exchange(0, leaf(OLD), leaf(NEW)),
    "protect": op.protect(0, 2 * PAGE, "r"),
}
COMPOSED = {
    "fault": op.fault(PAGE, OLD + PAGE),
    "alloc_map_lock": op.alloc_map_lock(PAGE, OLD + PAGE),
}
"""Two steps of the table, the first is populate: beside retract and move, no whole order need give what they do."""


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("single", SINGLE)
def test_an_operation_beside_a_transition(single: str, transition: str) -> None:
    operations, setup = TRANSITIONS[transition]
    prove([[SINGLE[single]], operations], setup)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_lookup_beside_a_transition(transition: str) -> None:
    """What is found has no mark of the transition; but a collapse by copy withholds the right to write (T6)."""
    operations, setup = TRANSITIONS[transition]
    prove([[op.lookup(0)], operations], setup, is_serialisable=transition != "collapse to other frames")


def test_a_lookup_beside_a_range_that_cuts_a_huge_leaf() -> None:
    prove([[op.lookup(0)], [op.protect(PAGE, PAGE, "r")]], huge_leaf)
    prove([[op.lookup(PAGE)], [op.unmap(PAGE, PAGE)]], huge_leaf)


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("composed", COMPOSED)
def test_a_fault_beside_a_transition(composed: str, transition: str) -> None:
    operations, setup = TRANSITIONS[transition]
    takes_tables = any(each.name in ("retract", "move") for each in operations)
    prove([[COMPOSED[composed]], operations], setup, is_serialisable=not takes_tables)


@pytest.mark.parametrize("second", TRANSITIONS)
@pytest.mark.parametrize("first", TRANSITIONS)
def test_two_transitions(first: str, second: str) -> None:
    operations, setup = TRANSITIONS[first]
    prove([operations, TRANSITIONS[second][0]], setup)


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_cpu_beside_a_transition(transition: str, write: bool) -> None:
    """Accessed and dirty are never lost, no translation is used after the flush that takes it away (T5, T7, C11)."""
    operations, setup = TRANSITIONS[transition]
    # A collapse by copy withholds the right to write for a while (T6), which no whole order does.
    is_whole = transition != "collapse to other frames"
    prove([[op.touch(0), op.touch(0, write=write)], operations], setup, tlbs=1, is_serialisable=is_whole)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_a_cpu_that_comes_beside_a_transition(transition: str) -> None:
    """A change either knows of its TLB, or is over before the TLB is used (B3)."""
    operations, setup = TRANSITIONS[transition]
    is_whole = transition != "collapse to other frames"
    prove([[op.attach(), op.touch(0), op.touch(0)], operations], setup, unattached=1, is_serialisable=is_whole)


def test_two_cpus_beside_a_collapse() -> None:
    prove([[op.touch(0, write=True)], [op.touch(0, write=True, cpu=1)], [op.collapse(0)]], all_pages, tlbs=2)


def test_two_faults_beside_a_collapse() -> None:
    prove([[op.fault(PAGE, NEW)], [op.fault(2 * PAGE, OTHER)], [op.collapse(0)]], one_page)
    prove([[op.fault(PAGE, NEW)], [op.fault(PAGE, OTHER)], [op.collapse(0)]], one_page)


def test_two_faults_beside_two_collapses() -> None:
    result = prove([[op.fault(PAGE, NEW)], [op.fault(2 * PAGE, OTHER)], [op.collapse(0)], [op.collapse(0)]], one_page)
    assert result.classes is not None
    assert result.classes > 100


def test_two_faults_beside_a_retraction() -> None:
    prove([[op.fault(PAGE, NEW)], [op.fault(2 * PAGE, OTHER)], [op.retract(0)]], empty_table, is_serialisable=False)


def test_a_reader_beside_a_collapse_and_a_split() -> None:
    prove([[op.translate(PAGE)], [op.translate(2 * PAGE)], [op.collapse(0), op.split(0)]], all_pages)
