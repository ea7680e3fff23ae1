"""The promise: a fork holds what the table held at one moment, and from then on no change of one shows in the other.

O1 to O7 of core/share.pxi, on the core itself: each test visits every interleaving, but where it says how many
preemptions. The lab checks at each step that nobody changes a table that two trees have.
"""

from __future__ import annotations

from typing import Any

import pytest

import ptl
from labs import NEW, OLD, OTHER, PAGE, SPAN, Setup, all_pages, empty_table, huge_leaf, leaf, one_page, prove
from ptl import lab
from ptl.lab import operations as op
from ptl.lab.operations import Operation, on_twin

SEEN = (op.fork(), on_twin(op.translate(0)), on_twin(op.translate(PAGE)))
"""What a fork shows, page by page, after it was made."""

BESIDE_A_FORK: dict[str, tuple[tuple[Operation, ...], Setup]] = {
    "two maps": ((op.map(0, NEW), op.map(PAGE, NEW)), empty_table),
    "two maps, the second page first": ((op.map(PAGE, NEW), op.map(0, NEW)), empty_table),
    "a change of an entry": ((op.compare_exchange(0, leaf(OLD), leaf(NEW)), op.unmap(PAGE)), all_pages),
    "a range": ((op.unmap(0, 2 * PAGE),), all_pages),
    "a range of all": ((op.unmap(0, SPAN),), all_pages),
    "a protect": ((op.protect(0, 2 * PAGE, "r"),), all_pages),
    "a collapse": ((op.collapse(0),), all_pages),
    "a split": ((op.split(0),), huge_leaf),
    "a populate": ((op.populate(SPAN),), one_page),
    "a retract": ((op.retract(0),), empty_table),
    "a move": ((op.move(0, 2 * SPAN, SPAN),), one_page),
    "a lock": ((op.map_lock(0, NEW),), empty_table),
}


@pytest.mark.parametrize("beside", BESIDE_A_FORK)
def test_a_fork_beside(beside: str) -> None:
    operations, setup = BESIDE_A_FORK[beside]
    prove([SEEN, operations], setup, twin="empty")


@pytest.mark.parametrize("beside", ["two maps", "a range", "a lock"])
def test_a_fork_beside_with_store_buffers(beside: str) -> None:
    """The gate's barrier is the reclaimer's kind: a store that nobody sees yet, and a membarrier."""
    operations, setup = BESIDE_A_FORK[beside]
    prove([SEEN, operations], setup, twin="empty", memory="tso")


@pytest.mark.parametrize("steps", [op.map_rw(0, NEW), op.fault(SPAN, NEW)], ids=str)
def test_a_fork_in_the_middle_of_two_steps(steps: Operation) -> None:
    """A handle and then its lock, a table and then its entry: a fork may come between, and no serial order has that."""
    prove([[steps], [op.fork(), on_twin(op.translate(0))]], empty_table, twin="empty", is_serialisable=False)


def test_a_fork_beside_two_writers() -> None:
    """With at most two preemptions."""
    threads = [[op.fork(), on_twin(op.translate(0))], [op.map(0, NEW)], [op.unmap(PAGE)]]
    explored = lab.explore(threads, setup=all_but_the_first, twin="empty", preemptions=2)
    assert explored.verdict == "bounded", explored


def all_but_the_first(pt: ptl.PageTable) -> None:
    """A leaf table whose first entry is empty."""
    pt.map(PAGE, OLD + PAGE, SPAN - PAGE, page_size=PAGE)


def test_a_fork_beside_a_cpu() -> None:
    """What a CPU marks, it marks before, or in a copy."""
    prove([[op.fork(), on_twin(op.lookup(0))], [op.touch(0), op.touch(0, write=True)]], one_page, twin="empty", tlbs=1)


def own_tables_above(pt: ptl.PageTable, twin: ptl.PageTable) -> None:
    """Both have copies of the upper tables: the leaf table at 0 is what they share."""
    pt.map(SPAN, NEW, PAGE)
    twin.map(SPAN, NEW, PAGE)


SHARING: dict[str, Any] = {"twin": "fork", "prepare": own_tables_above, "batch_tables": 1}

TOGETHER: dict[str, tuple[Operation, Operation, Setup]] = {
    "an unmap each": (op.unmap(0), op.unmap(PAGE), all_pages),
    "a change of an entry each": (
        op.compare_exchange(0, leaf(OLD), leaf(NEW)),
        op.compare_exchange(0, leaf(OLD), leaf(OTHER)),
        one_page,
    ),
}


@pytest.mark.parametrize("together", TOGETHER)
def test_two_trees_copy_what_they_share(together: str) -> None:
    """Both at once: each has a copy, and who lets go last gives the table away."""
    mine, its, setup = TOGETHER[together]
    prove([[mine], [on_twin(its)]], setup, **SHARING)


LEAVES: dict[str, tuple[tuple[Operation, ...], Setup]] = {
    "a reader of the other": ((on_twin(op.translate(0)), op.reclaim()), all_pages),
    "a reader": ((op.translate(0), op.reclaim()), all_pages),
    "the same": ((op.unmap(0, SPAN),), all_pages),
    "the same in the other": ((on_twin(op.unmap(0, SPAN)),), all_pages),
    "a retract": ((op.retract(0),), empty_table),
}


@pytest.mark.parametrize("beside", LEAVES)
def test_a_table_that_leaves_is_let_go_of(beside: str) -> None:
    """R6: neither locked nor copied, and kept for whoever else has it, or is still inside."""
    operations, setup = LEAVES[beside]
    prove([[op.unmap(0, SPAN)], operations], setup, **SHARING)


@pytest.mark.parametrize("beside", [op.unmap(0), op.map(PAGE, NEW)], ids=str)
def test_a_table_that_leaves_beside_who_wants_a_copy(beside: Operation) -> None:
    """With at most three preemptions."""
    explored = lab.explore([[op.unmap(0, SPAN)], [beside]], setup=one_page, preemptions=3, **SHARING)
    assert explored.verdict == "bounded", explored


def test_a_fork_beside_a_table_that_leaves() -> None:
    prove([SEEN, [op.unmap(0), op.unmap(0, SPAN)]], all_pages, twin="empty")


STRUCTURE: dict[str, tuple[Operation, Operation, Setup]] = {
    "a map each": (op.map(0, NEW), op.map(0, OTHER), empty_table),
    "a protect each": (op.protect(0, SPAN, "r"), op.protect(0, 2 * PAGE, "rx"), all_pages),
    "a collapse each": (op.collapse(0), op.collapse(0), all_pages),
    "a collapse and an unmap": (op.collapse(0), op.unmap(0), all_pages),
    "a move and an unmap": (op.move(0, 2 * SPAN, SPAN), op.unmap(0), one_page),
    "a retract and a map": (op.retract(0), op.map(0, NEW), empty_table),
}


@pytest.mark.parametrize("together", STRUCTURE)
def test_more_changes_of_what_two_trees_share(together: str) -> None:
    """With at most two preemptions."""
    mine, its, setup = STRUCTURE[together]
    explored = lab.explore([[mine], [on_twin(its)]], setup=setup, preemptions=2, **SHARING)
    assert explored.verdict == "bounded", explored


def test_two_threads_want_a_copy() -> None:
    """One makes it, and both use it."""
    prove([[op.unmap(0)], [op.unmap(PAGE)]], all_pages, **SHARING)


def test_a_reader_in_a_table_that_its_tree_has_left_sees_no_change_of_the_other() -> None:
    """Case 44 of docs/concurrency.md: the last who names a table copies it all the same."""
    prove([[op.translate(0)], [op.unmap(PAGE), on_twin(op.unmap(0))]], all_pages, **SHARING)


def test_a_table_that_both_have_left_is_kept_for_its_readers() -> None:
    prove([[op.translate(0)], [op.unmap(PAGE), on_twin(op.unmap(PAGE)), op.reclaim()]], all_pages, **SHARING)


def huge_leaf_and_page(pt: ptl.PageTable) -> None:
    """A huge leaf, and a leaf table beside it."""
    huge_leaf(pt)
    pt.map(SPAN, OTHER, PAGE)


def test_a_shared_table_is_not_reused_while_somebody_holds_its_lock() -> None:
    """Case 46 of docs/concurrency.md. Both trees leave the table, without its lock; with at most two preemptions."""
    leaving = [op.unmap(SPAN), on_twin(op.unmap(SPAN)), op.reclaim(), op.populate(4 * SPAN)]
    explored = lab.explore([[op.split(0)], leaving], setup=huge_leaf_and_page, twin="fork", preemptions=2)
    assert explored.verdict == "bounded", explored


def test_a_snapshot_is_read_beside_changes() -> None:
    prove([[on_twin(op.sweep(0))], [op.unmap(0, SPAN), op.reclaim()]], all_pages, twin="snapshot", batch_tables=1)
