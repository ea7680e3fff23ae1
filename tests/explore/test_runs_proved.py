"""The promise: whatever the order of steps, a run is made and taken apart as one, beside readers, changes and CPUs.

U2 to U5 of `core/run.pxi`, on a format whose leaves hardware walks, so that a hidden one is INVALID, and on one that
software alone walks, where the freeze hides. In both two of the eight entries of a leaf table are a page of 8 KiB.
"""

from __future__ import annotations

import pytest

import ptl
from labs import NEW, OLD, OTHER, PAGE, prove
from made_up import REFILLED_RUNS, RUNS
from ptl.arch import Arch
from ptl.lab import operations as op
from ptl.lab.operations import Operation

TWO = 2 * PAGE
EACH = pytest.mark.parametrize("arch", [RUNS, REFILLED_RUNS], ids=["hardware", "software"])


def a_run(pt: ptl.PageTable) -> None:
    """Two entries that are one page."""
    pt.map(0, OLD, TWO, page_size=TWO)


def two_pages(pt: ptl.PageTable) -> None:
    """Two entries that could be one page."""
    pt.map(0, OLD, TWO, page_size=PAGE)


TRANSITIONS = {
    "make": (op.make_run(0, TWO), two_pages),
    "map over pages": (op.replace(0, OTHER, TWO), two_pages),
    "split": (op.split(0), a_run),
    "unmap a part": (op.unmap(PAGE), a_run),
    "protect a part": (op.protect(PAGE, PAGE, "r"), a_run),
    "protect all": (op.protect(0, TWO, "r"), a_run),
    "map over a part": (op.replace(PAGE, OTHER, PAGE), a_run),
    "map over a run": (op.replace(0, OTHER, TWO), a_run),
    "move": (op.move(0, 2 * TWO, TWO), a_run),
    "move a part": (op.move(PAGE, 2 * TWO, PAGE), a_run),
}
TRANSITION = pytest.mark.parametrize("transition", TRANSITIONS)


def changes(arch: Arch) -> dict[str, Operation]:
    """What else is done to the first page, or the second."""
    alone, moved = arch.encode(OLD, "rw"), arch.encode(NEW, "rw")
    part = arch.encode(OLD, "rw", run=arch.level(1).runs[0])
    moved_part = arch.encode(NEW, "rw", run=arch.level(1).runs[0])
    return {
        "translate": op.translate(PAGE),
        "exchange a page": op.compare_exchange(0, alone, moved),
        "exchange a part": op.compare_exchange(0, part, moved),
        "exchange all": op.compare_exchange(0, part, moved_part),
        "unmap": op.unmap(PAGE),
    }


@EACH
@TRANSITION
@pytest.mark.parametrize("change", changes(RUNS))
def test_a_change_beside_a_run_that_comes_or_goes(arch: Arch, transition: str, change: str) -> None:
    operation, setup = TRANSITIONS[transition]
    prove([[changes(arch)[change]], [operation]], setup, arch=arch)


@EACH
@TRANSITION
def test_a_cpu_beside_a_run_that_comes_or_goes(arch: Arch, transition: str) -> None:
    """It never has the run and a part of it, uses nothing that was flushed, and no mark of it is lost (U4, U5)."""
    operation, setup = TRANSITIONS[transition]
    # Hardware may use a leaf that is apart and still frozen: what it marks is then that leaf's, as in no whole order.
    is_whole = arch.walker == "software" or "part" not in transition
    threads = [[op.touch(0), op.touch(PAGE, write=True)], [operation]]
    prove(threads, setup, arch=arch, tlbs=1, is_serialisable=is_whole)


@EACH
def test_a_cpu_beside_two_that_make_and_split_a_run(arch: Arch) -> None:
    prove([[op.touch(0, write=True)], [op.make_run(0, TWO)], [op.split(0)]], two_pages, arch=arch, tlbs=1)


@EACH
@TRANSITION
@pytest.mark.parametrize("first", TRANSITIONS)
def test_two_that_make_or_change_runs(arch: Arch, first: str, transition: str) -> None:
    operation, setup = TRANSITIONS[first]
    prove([[operation], [TRANSITIONS[transition][0]]], setup, arch=arch)


@EACH
@TRANSITION
def test_two_cpus_beside_a_run_that_comes_or_goes(arch: Arch, transition: str) -> None:
    operation, setup = TRANSITIONS[transition]
    is_whole = arch.walker == "software" or "part" not in transition
    threads = [[op.touch(0)], [op.touch(PAGE, write=True, cpu=1)], [operation]]
    prove(threads, setup, arch=arch, tlbs=2, is_serialisable=is_whole)
