"""The promise: ranges are serialisable against ranges, transitions, lockers and single changes, in every order (C4)."""

from __future__ import annotations

import pytest

import ptl
from labs import NEW, OLD, OTHER, PAGE, SPAN, Setup, all_pages, huge_leaf, leaf, nothing, one_page, prove, two_tables
from ptl.lab import operations as op
from ptl.lab.operations import Operation

LINE = 4 * SPAN
"""Where the table above the leaf tables ends."""
BOTH_SIDES = LINE - PAGE
RANGES: dict[str, Operation] = {
    "unmap": op.unmap(BOTH_SIDES, 2 * PAGE),
    "protect": op.protect(BOTH_SIDES, 2 * PAGE, "r"),
    "map": op.map(BOTH_SIDES, NEW, 2 * PAGE),
    "larger": op.unmap(BOTH_SIDES - PAGE, 4 * PAGE),
}


def without_line(pt: ptl.PageTable) -> None:
    """Two leaf tables around the line, and nothing in the four pages around it."""
    two_tables(pt)
    pt.unmap(LINE - 2 * PAGE, 4 * PAGE)


@pytest.mark.parametrize("setup", [two_tables, without_line, nothing], ids=["full", "holes", "nothing"])
@pytest.mark.parametrize("second", RANGES)
@pytest.mark.parametrize("first", RANGES)
def test_two_ranges_across_one_line(first: str, second: str, setup: Setup) -> None:
    prove([[RANGES[first]], [RANGES[second]]], setup)


@pytest.mark.parametrize("name", ["unmap", "protect", "map"])
def test_a_range_beside_changes_of_single_entries(name: str) -> None:
    """Lock-free writers on either side of the line: each comes before the range, or after it."""
    below, above = LINE - PAGE, LINE
    first, second = OLD + SPAN - PAGE, OLD + SPAN
    prove(
        [
            [RANGES[name]],
            [
                op.compare_exchange(below, leaf(first), leaf(OTHER)),
                op.compare_exchange(above, leaf(second), leaf(OTHER)),
            ],
        ],
        two_tables,
    )


def test_a_range_beside_two_writers() -> None:
    prove(
        [
            [op.protect(0, 2 * PAGE, "r")],
            [op.compare_exchange(0, leaf(OLD), leaf(NEW))],
            [op.compare_exchange(0, leaf(OLD), leaf(OTHER))],
        ],
        one_page,
    )


def used_and_not(pt: ptl.PageTable) -> None:
    """Four pages: accessed and dirty; accessed; neither; a hole."""
    for number, flags in enumerate(("rwad", "rwa", "rw")):
        pt.map(number * PAGE, OLD + number * PAGE, PAGE, flags)


@pytest.mark.parametrize("page", range(4))
@pytest.mark.parametrize(
    "operation",
    [op.protect(0, 4 * PAGE, "r"), op.protect(0, 4 * PAGE, "rwx"), op.unmap(PAGE, 3 * PAGE), op.unmap(0, SPAN)],
    ids=["protect", "protect, writable", "unmap a part", "unmap"],
)
def test_a_cpu_beside_a_range(operation: Operation, page: int) -> None:
    """What it sets in a leaf that stays is never lost, whatever was set before (N7); and no store undoes a change."""
    prove([[op.touch(page * PAGE), op.touch(page * PAGE, write=True)], [operation]], used_and_not, tlbs=1)


@pytest.mark.parametrize("name", ["protect", "unmap"])
def test_final_values_beside_writers_with_store_buffers(name: str) -> None:
    """Plain stores (N7): they are out before the range has returned, and no lock-free writer overtakes them."""
    operation = op.protect(0, 2 * PAGE, "r") if name == "protect" else op.unmap(0, 2 * PAGE)
    prove([[operation, op.translate(2 * PAGE)], [op.unmap(2 * PAGE), op.translate(0)]], used_and_not, memory="tso")


def test_ranges_that_cut_one_huge_leaf() -> None:
    prove([[op.unmap(0)], [op.protect(PAGE, PAGE, "r")]], huge_leaf)
    prove([[op.unmap(0)], [op.split(0)]], huge_leaf)


def test_a_range_beside_a_table_that_comes_and_goes() -> None:
    """It finds a huge leaf and nothing to lock below; then a table that leaves again: no bad entry, but a restart."""
    prove([[op.protect(0, 2 * PAGE, "r")], [op.collapse(0), op.split(0), op.collapse(0)]], all_pages)


def test_a_range_beside_moves() -> None:
    prove([[op.move(0, 2 * SPAN, SPAN)], [op.unmap(2 * SPAN, SPAN)]], one_page)
    prove([[op.move(0, 2 * SPAN, SPAN)], [op.move(2 * SPAN, 0, SPAN)]], one_page)
