"""The promise: what the reductions leave out makes no difference.

Plain enumeration, sleep sets alone, and source sets come to the same classes, outcomes and states at rest; and the two
engines come to the same number of classes for the same protocol.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from labs import NEW, OLD, OTHER, PAGE, SPAN, Setup, Threads, all_pages, empty_table, huge_leaf, leaf, nothing, one_page
from ptl import lab
from ptl.lab import machine, states
from ptl.lab import operations as op
from ptl.lab.machine import Step

SMALL: dict[str, tuple[Threads, Setup]] = {
    "map and translate": ([[op.map(PAGE, NEW)], [op.translate(PAGE)]], one_page),
    "map and map": ([[op.map(PAGE, NEW)], [op.map(PAGE, OTHER)]], one_page),
    "map and unmap": ([[op.map(PAGE, NEW)], [op.unmap(PAGE)]], one_page),
    "two exchanges": (
        [[op.compare_exchange(0, leaf(OLD), leaf(NEW))], [op.compare_exchange(0, leaf(NEW), leaf(OTHER))]],
        one_page,
    ),
    "a section and reclaim": ([[op.enter(), op.leave()], [op.reclaim()]], nothing),
    "counting": ([[op.count_locked()], [op.count_locked()]], nothing),
}
LARGER: dict[str, tuple[Threads, Setup, dict[str, Any]]] = {
    "exchange and collapse": ([[op.compare_exchange(0, leaf(OLD), leaf(NEW))], [op.collapse(0)]], one_page, {}),
    "read and retract": ([[op.translate(PAGE)], [op.retract(0), op.reclaim()]], empty_table, {"batch_tables": 1}),
    "the same with store buffers": (
        [[op.translate(PAGE)], [op.retract(0), op.reclaim()]],
        empty_table,
        {"batch_tables": 1, "memory": "tso"},
    ),
    "split and split": ([[op.split(0)], [op.split(0)]], huge_leaf, {}),
    "unmap and collapse": ([[op.unmap(PAGE)], [op.collapse(0)]], all_pages, {}),
    "move and unmap": ([[op.move(0, 2 * SPAN, SPAN)], [op.unmap(2 * SPAN, SPAN)]], one_page, {}),
    "three maps and locks": (
        [[op.map_lock(PAGE, NEW)], [op.map_lock(PAGE, OTHER)], [op.retract(0)]],
        empty_table,
        {},
    ),
    "the lock from inside": ([[op.count_locked()], [op.count_locked()]], nothing, {"locks": "inside"}),
    "synchronize": ([[op.translate(PAGE)], [op.retract(0), op.synchronize()]], empty_table, {"batch_tables": 1}),
}


def seen(laboratory: lab.Laboratory, reduction: str) -> tuple[object, ...]:
    """Whether it was all, and how many classes, outcomes and states at rest there are."""
    told = laboratory.model.explore(laboratory.judge, reduction=reduction, any_outcome=True)
    assert told["failure"] is None
    return told["complete"], told["classes"], told["outcomes"], told["worlds"]


@pytest.mark.parametrize("name", SMALL)
def test_the_core_by_plain_enumeration(name: str) -> None:
    threads, setup = SMALL[name]
    laboratory = lab.Laboratory(threads, setup=setup)
    assert seen(laboratory, "none") == seen(laboratory, "sleep") == seen(laboratory, "source")


@pytest.mark.parametrize("name", LARGER)
def test_the_core_by_sleep_sets(name: str) -> None:
    threads, setup, options = LARGER[name]
    laboratory = lab.Laboratory(threads, setup=setup, **options)
    assert seen(laboratory, "sleep") == seen(laboratory, "source")


def test_source_sets_run_each_class_once() -> None:
    """Under sequential consistency as many executions as classes: nothing is run twice here."""
    for name in ("exchange and collapse", "move and unmap", "three maps and locks"):
        threads, setup, options = LARGER[name]
        laboratory = lab.Laboratory(threads, setup=setup, **options)
        told = laboratory.model.explore(laboratory.judge)
        assert told["executions"] == told["classes"]


def count() -> Generator[Step, int, None]:
    """What `count_locked` does, as a path."""
    yield machine.lock(machine.PMD)
    old = yield machine.load(machine.PMD, 3)
    yield machine.store(machine.PMD, 3, old + (1 << 12))
    yield machine.unlock(machine.PMD)


def test_both_engines_count_the_same_classes() -> None:
    for threads in (2, 3):
        by_states = lab.explore([count] * threads, start=machine.start(threads, {}, {}))
        by_replay = lab.explore([[op.count_locked()]] * threads)
        assert by_states.verdict == by_replay.verdict == "proved"
        assert by_states.classes == by_replay.classes == (2 if threads == 2 else 6)


def test_interleavings_are_counted_as_they_are_enumerated() -> None:
    scenario = lab.SCENARIOS["fixed"]
    assert scenario.start is not None
    graph = states.explore(scenario.paths, scenario.start)

    def ways(node: states.Node) -> int:
        return sum(ways(after) for _, after in graph.edges[node]) or 1

    assert ways(graph.root) == states.interleavings(graph)


def test_what_lies_on_a_generators_stack_is_part_of_where_it_is() -> None:
    """Two threads of one path that differ only in a value not yet in a variable are in different states."""
    table = machine.start(2, {0: machine.table_entry(1)}, {})

    def adds() -> Generator[Step, int, None]:
        total = (yield machine.load(1, 0)) + (yield machine.load(1, 1))
        yield machine.store(1, 2, total)

    def changes() -> Generator[Step, int, None]:
        yield machine.store(1, 0, 1 << 12)

    totals = set()
    graph = states.explore([adds, changes], table)
    for (state, where), following in graph.edges.items():
        if not following and not any(where):
            totals.add(state.entry(1, 2))
    assert totals == {0, 1 << 12}
