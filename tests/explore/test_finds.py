"""The promise: what a lab looks for, it finds, by the shortest way; and a bound is said to be one."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

import ptl
from labs import OLD, PAGE, SPAN, all_pages, empty_table, fails, one_page
from ptl import lab
from ptl._core import Model
from ptl.lab import machine
from ptl.lab import operations as op
from ptl.lab.machine import Step

Path = Generator[Step, int, None]
START = machine.start(2, {0: machine.table_entry(1)}, {})


def locks_upwards() -> Path:
    yield machine.lock(1)
    yield machine.lock(machine.PMD)
    yield machine.unlock(machine.PMD)
    yield machine.unlock(1)


def locks_downwards() -> Path:
    yield machine.lock(machine.PMD)
    yield machine.lock(1)
    yield machine.unlock(1)
    yield machine.unlock(machine.PMD)


def takes_out_and_frees() -> Path:
    slot = yield machine.load(machine.PMD, 0)
    if machine.is_table(slot):
        yield machine.store(machine.PMD, 0, machine.EMPTY)
        yield machine.free(machine.table_of(slot))


def takes_out_and_forgets() -> Path:
    yield machine.store(machine.PMD, 0, machine.EMPTY)


def stays_inside() -> Path:
    yield machine.enter()


def keeps_a_lock() -> Path:
    yield machine.lock(machine.PMD)


def unlocks_what_it_has_not() -> Path:
    yield machine.unlock(machine.PMD)


def leaves_what_it_has_not() -> Path:
    yield machine.leave()


def takes_and_forgets() -> Path:
    yield machine.alloc()


def frees_what_is_named() -> Path:
    yield machine.free(1)


def waits_for_itself() -> Path:
    yield machine.lock(machine.PMD)
    yield machine.lock(machine.PMD)


def goes_round() -> Path:
    while True:
        slot = yield machine.load(machine.PMD, 0)
        if not machine.is_table(slot):
            return


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        ("deadlock", [locks_upwards, locks_downwards]),
        ("deadlock", [waits_for_itself]),
        ("double free", [takes_out_and_frees, takes_out_and_frees]),
        ("leak", [takes_out_and_forgets]),
        ("leak", [takes_and_forgets]),
        ("unbalanced", [stays_inside]),
        ("unbalanced", [keeps_a_lock]),
        ("unbalanced", [unlocks_what_it_has_not]),
        ("unbalanced", [leaves_what_it_has_not]),
        ("use of a freed table", [frees_what_is_named]),
        ("livelock", [goes_round]),
    ],
)
def test_a_mistake_in_a_path(kind: str, paths: list[Callable[[], Path]]) -> None:
    result = lab.explore(paths, start=START)
    assert result.kind == kind, result
    assert result.schedule


def test_a_wait_that_others_end_is_no_livelock() -> None:
    """A thread that goes round until another has done something is fair enough: the other is always able to."""
    result = lab.explore([goes_round, takes_out_and_frees], start=START)
    assert result.verdict == "proved", result
    assert result.interleavings is None  # there is no end to how often it may look


def test_the_shortest_schedule_is_told() -> None:
    """Breadth first: no failing schedule of fewer steps exists."""
    result = lab.explore([locks_upwards, locks_downwards], start=START)
    assert result.schedule == "ab"


def test_an_invariant_of_ones_own() -> None:
    def keeps_its_page(pt: ptl.PageTable) -> str | None:
        return None if pt.translate(0) == OLD else "the first page is gone"

    result = fails([[op.unmap(0)], [op.collapse(0)]], all_pages, invariant=lambda pt: _none_of(keeps_its_page, pt))
    assert (result.kind, result.detail) == ("broken invariant", "the first page is gone")


def _none_of(keeps: Callable[[ptl.PageTable], str | None], pt: ptl.PageTable) -> str | None:
    try:
        return keeps(pt)
    except ptl.PageFault:
        return "the first page is gone"


def test_a_reader_that_stays_inside_without_being_allowed_to_is_a_leak() -> None:
    staying = (op.enter(), op.walk(PAGE))
    result = fails([staying, (op.retract(0), op.reclaim())], empty_table, batch_tables=1, is_serialisable=False)
    assert result.kind == "leak"


def test_a_bound_is_said_to_be_one() -> None:
    threads = [(op.translate(PAGE),), (op.retract(0), op.reclaim())]
    options = {"setup": empty_table, "batch_tables": 1, "barrier": "none", "memory": "tso"}
    assert lab.explore(threads, preemptions=0, **options).verdict == "bounded"
    assert lab.explore(threads, preemptions=2, **options).kind == "table freed under a reader"
    assert lab.explore([[op.unmap(0)], [op.collapse(0)]], setup=all_pages, most=3).verdict == "bounded"


def test_more_preemptions_see_no_less() -> None:
    laboratory = lab.Laboratory([[op.unmap(PAGE)], [op.collapse(0)]], setup=all_pages)
    classes = [laboratory.model.explore(laboratory.judge, bound=bound)["classes"] for bound in range(5)]
    every = laboratory.model.explore(laboratory.judge)["classes"]
    assert classes == sorted(classes)
    assert classes[0] < every
    assert classes[-1] <= every


def test_the_world_is_as_it_was_afterwards() -> None:
    laboratory = lab.Laboratory([[op.unmap(0, SPAN)], [op.fault(PAGE, OLD)]], setup=one_page)
    before = laboratory.table.dump(), laboratory.table.frames.stats(), laboratory.table.stats()
    assert laboratory.explore().verdict == "proved"
    laboratory.sample(1, 100)
    assert (laboratory.table.dump(), laboratory.table.frames.stats(), laboratory.table.stats()) == before
    laboratory.table.check()
    laboratory.table.map(SPAN, OLD, PAGE)
    assert laboratory.table.translate(SPAN) == OLD


@pytest.mark.parametrize(
    ("threads", "options"),
    [
        ([], {}),
        ([[]], {}),
        ([[("translate", 0)]] * 5, {}),
        ([[("translate", 0)] * 9], {}),
        ([[("fly", 0)]], {}),
        ([[("translate", -1)]], {}),
        ([[("translate", 0)]], {"memory": "arm"}),
        ([[("translate", 0)]], {"locks": "half"}),
        ([[("translate", 0)]], {"barrier": "some"}),
    ],
)
def test_what_a_lab_cannot_drive_is_refused(threads: list[list[tuple[str, int]]], options: dict[str, str]) -> None:
    pt = ptl.PageTable("tiny", frames=ptl.Frames(2048, frame_bytes=32, domain=ptl.EpochDomain()))
    with pytest.raises(ValueError, match=r"lab|memory|barrier|number|outside"):
        Model(pt, threads, **options)


def test_only_tlbs_that_are_attached_to_nothing_can_be_attached_and_four_cpus_are_the_most() -> None:
    pt = ptl.PageTable("tiny", frames=ptl.Frames(2048, frame_bytes=32, domain=ptl.EpochDomain()))
    tlbs = [ptl.tlb.Tlb() for _ in range(5)]
    with pytest.raises(ValueError, match="at most 4 CPUs"):
        Model(pt, [[("translate", 0)]], unattached=tlbs)
    tlbs[0].attach(pt)
    with pytest.raises(ValueError, match="at most 4 CPUs"):
        Model(pt, [[("translate", 0)]], unattached=tlbs[1:])
    with pytest.raises(ValueError, match="attached to nothing"):
        Model(pt, [[("translate", 0)]], unattached=tlbs[:1])


def test_a_cpu_may_touch_from_its_attachment_on() -> None:
    """In every order it sees the page or not; and the TLB that a replay has filled is empty again for the next."""
    laboratory = lab.Laboratory([[op.attach(), op.touch(0)], [op.unmap(0)]], setup=one_page, unattached=1)
    assert laboratory.explore().verdict == "proved"
    assert laboratory.model.replay([0], None) is None
    assert laboratory.model.results()[0] == [0, OLD]
    assert laboratory.model.replay([1], None) is None
    assert laboratory.model.results()[0] == [0, ptl.UNMAPPED]


def test_what_judges_raise_is_raised_and_leaves_no_lab_behind() -> None:
    laboratory = lab.Laboratory([[op.unmap(0)], [op.collapse(0)]], setup=all_pages)

    def judge() -> str | None:
        raise KeyError("no opinion")

    with pytest.raises(KeyError, match="no opinion"):
        laboratory.model.explore(judge)
    assert laboratory.table.translate(0) == OLD
    assert laboratory.explore().verdict == "proved"
