"""The promise: what needs memory for tables gets all of it or none, and when there is none nothing has changed.

Each operation is tried with room for 0, 1, 2, ... more tables until it succeeds. Every failure raises `OutOfFrames` and
leaves the tree, the bytes of its tables, the counters and the room as they were; the first success comes exactly when
there is room for the tables that the result has more, and for those that its huge leaves may be split into. A split
needs no room: the leaf has parked it. Tables in limbo are room, once their readers have left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

import ptl
from helpers import thread_inside
from ptl import Outcome, OutOfFrames
from reference import Reference, contents

PAGE, HUGE, GIANT = 0x1000, 0x4000, 0x10000
END = 4 * GIANT
TABLE_BYTES = 32
DOMAIN = ptl.EpochDomain()

Change = Callable[[ptl.PageTable | Reference], object]


class Scene(NamedTuple):
    """A table to begin with, and what is then done to it."""

    before: Change
    change: Change
    need: int
    """How many tables that takes, worked out by hand."""


def nothing(pt: ptl.PageTable | Reference) -> None:
    pass


def leaves_everywhere(pt: ptl.PageTable | Reference) -> None:
    """A page, a huge leaf and a giant one, with holes between them."""
    pt.map(PAGE, 0, PAGE, "rw")
    pt.map(2 * HUGE, 2 * HUGE, HUGE, "rw")
    pt.map(2 * GIANT, 2 * GIANT, GIANT, "rw")


SCENES = {
    # how many tables it takes, then how many to park for a split: 1 for a huge leaf, 5 for a giant one
    "one page": Scene(nothing, lambda pt: pt.map(0, 0, PAGE, "rw"), 2),
    "one page beside another": Scene(lambda pt: pt.map(PAGE, 0, PAGE, "rw"), lambda pt: pt.map(0, 0, PAGE, "rw"), 0),
    "one page in the next table": Scene(lambda pt: pt.map(HUGE, 0, PAGE, "rw"), lambda pt: pt.map(0, 0, PAGE, "rw"), 1),
    "pages of two tables": Scene(nothing, lambda pt: pt.map(HUGE - PAGE, 0, 2 * PAGE, "rw"), 3),
    "pages of two tables of tables": Scene(nothing, lambda pt: pt.map(GIANT - PAGE, 0, 2 * PAGE, "rw"), 4),
    "pages everywhere": Scene(nothing, lambda pt: pt.map(0, PAGE, END, "rw"), 4 + 16),
    "a huge leaf": Scene(nothing, lambda pt: pt.map(0, 0, HUGE, "rw"), 1 + 1),
    "huge leaves everywhere": Scene(nothing, lambda pt: pt.map(0, HUGE, END, "rw"), 4 + 16),
    "a giant leaf": Scene(nothing, lambda pt: pt.map(0, 0, GIANT, "rw"), 5),
    "giant leaves everywhere": Scene(nothing, lambda pt: pt.map(0, 0, END, "rw"), 20),
    "leaves of each size": Scene(
        nothing,
        lambda pt: pt.map(GIANT - HUGE - PAGE, GIANT - HUGE - PAGE, PAGE + HUGE + GIANT, "rw"),
        2 + (1 + 5),
    ),
    "small pages where huge ones fit": Scene(nothing, lambda pt: pt.map(0, 0, HUGE, "rw", page_size=PAGE), 2),
    "a huge leaf over a table": Scene(
        lambda pt: pt.map(0, PAGE, HUGE, "rw"), lambda pt: pt.map(0, 0, HUGE, "rw", replace=True), 1
    ),
    "a huge leaf over another": Scene(
        lambda pt: pt.map(0, HUGE, HUGE, "rw"), lambda pt: pt.map(0, 0, HUGE, "rw", replace=True), 1
    ),
    "a giant leaf over tables": Scene(leaves_everywhere, lambda pt: pt.map(0, 0, GIANT, "rw", replace=True), 5),
    "a page over a huge leaf": Scene(
        lambda pt: pt.map(0, 0, HUGE, "rw"), lambda pt: pt.map(PAGE, 0, PAGE, "rw", replace=True), 0
    ),
    "pages over a giant leaf": Scene(
        lambda pt: pt.map(0, 0, GIANT, "rw"), lambda pt: pt.map(0, PAGE, GIANT, "rw", replace=True), 0
    ),
    "pages over everything": Scene(
        leaves_everywhere,
        lambda pt: pt.map(0, PAGE, END, "rw", replace=True),
        2 + (1 + 4) + 0 + (1 + 4),  # the second huge leaf and the third giant one are split
    ),
    "the largest leaves over everything": Scene(
        leaves_everywhere,
        lambda pt: pt.map(PAGE, PAGE, END - 2 * PAGE, "rw", replace=True),
        3 * 1 + 5 + 5 + (2 + 3 * 1),
    ),
    "populate": Scene(nothing, lambda pt: pt.populate(0), 2),
    "populate the next table": Scene(lambda pt: pt.map(HUGE, 0, PAGE, "rw"), lambda pt: pt.populate(0), 1),
    "collapse": Scene(lambda pt: pt.map(0, HUGE, HUGE, "rw", page_size=PAGE), lambda pt: pt.collapse(0), 1),
    "collapse elsewhere": Scene(lambda pt: pt.map(0, PAGE, HUGE, "rw"), lambda pt: pt.collapse(0, HUGE), 1),
    "collapse of huge leaves": Scene(
        lambda pt: pt.map(0, GIANT, GIANT, "rw", page_size=HUGE), lambda pt: pt.collapse(0, None, level=3), 1
    ),
}


def table_with(before: Change, tables: int = 0) -> ptl.PageTable:
    """A table to begin with, in frames that have room for that many tables more."""
    model = Reference(ptl.arch.get("tiny"))
    before(model)
    size = (model.table_count() + model.parked() + tables) * TABLE_BYTES
    pt = ptl.PageTable("tiny", frames=ptl.Frames(size, frame_bytes=TABLE_BYTES, domain=DOMAIN))
    before(pt)
    assert room(pt) == tables
    return pt


def room(pt: ptl.PageTable) -> int:
    """How many tables could still be had: found out by having them, as root tables."""
    taken = []
    while True:
        try:
            taken.append(ptl.PageTable("tiny", frames=pt.frames))
        except OutOfFrames:
            return len(taken)


def state_of(pt: ptl.PageTable) -> tuple[object, ...]:
    """All that a failure must leave alone; not what counts attempts, and not the bytes of free tables."""
    frames, domain = pt.frames.stats(), DOMAIN.stats()
    attempts = ("map_failures", "rewalks", "restarts")
    counters = {name: count for name, count in pt.stats().items() if name not in attempts}
    held = frames["tables"], frames["parked"], frames["data_frames"], domain["limbo"], domain["inside"]
    return contents(pt), pt.dump(), counters, held, pt.check()


def fails(pt: ptl.PageTable, change: Change) -> None:
    """There is no room for this change, and nothing comes of it."""
    before, left = state_of(pt), room(pt)
    with pytest.raises(OutOfFrames, match="nothing was changed"):
        change(pt)
    assert state_of(pt) == before
    assert room(pt) == left


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_all_tables_or_none(scene):
    for tables in range(scene.need):
        fails(table_with(scene.before, tables), scene.change)
    pt, model = table_with(scene.before, scene.need), Reference(ptl.arch.get("tiny"))
    scene.before(model)
    assert scene.change(pt) is scene.change(model)
    assert contents(pt) == model.contents()
    pt.check()
    pt.unmap(0, END)
    pt.reclaim_empty(0, END)
    DOMAIN.synchronize()
    stats = pt.frames.stats()
    assert (stats["tables"], stats["parked"]) == (1, 0)


@pytest.mark.parametrize("name", ["pte_alloc_map", "pte_alloc_map_lock"])
def test_a_map_that_populates_gets_all_its_tables_or_none(name):
    """And holds nothing when it fails."""
    for tables in range(2):
        fails(table_with(nothing, tables), lambda pt: getattr(pt, name)(0))
    pt = table_with(nothing, 2)
    with getattr(pt, name)(0) as ptes:
        assert ptes.stale is False
    assert contents(pt).tables == {(2, 0), (1, 0)}


@pytest.mark.parametrize("name", ["x86_64", "riscv_sv39"])
def test_a_giant_leaf_parks_what_it_may_be_split_into(name):
    """A table of huge leaves, and one of pages for each of them; on top of the tables that lead to the leaf."""
    arch = ptl.arch.get(name)
    need = arch.levels - 3 + 1 + 512
    for tables in (need - 1, need):
        pt = ptl.PageTable(name, frames=ptl.Frames((1 + tables) << 12, domain=DOMAIN))
        if tables < need:
            with pytest.raises(OutOfFrames, match="nothing was changed"):
                pt.map(0, 0, 1 << 30)
            assert pt.check() == pt.frames.stats()["tables"] == 1
            assert pt.frames.stats()["parked"] == 0
        else:
            pt.map(0, 0, 1 << 30)
            assert pt.frames.stats()["parked"] == 1 + 512
            pt.check()


# -- a split never fails

CUTS: dict[str, Change] = {
    "split": lambda pt: [pt.split(va) for va in (0, PAGE, HUGE)],
    "unmap": lambda pt: pt.unmap(HUGE - PAGE, 2 * PAGE),
    "protect": lambda pt: pt.protect(HUGE - PAGE, 2 * PAGE, "rx"),
    "map of pages": lambda pt: pt.map(HUGE - PAGE, 0, 2 * PAGE, "rx", replace=True),
    "map of all pages": lambda pt: pt.map(0, PAGE, GIANT, "rx", replace=True),
    "unmap of all but a page": lambda pt: pt.unmap(0, GIANT - PAGE),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_split_never_fails(cut):
    """However full the frames are: a giant leaf has parked the tables of all its pages."""
    pt, model = table_with(lambda pt: pt.map(0, GIANT, GIANT, "rw")), Reference(ptl.arch.get("tiny"))
    model.map(0, GIANT, GIANT, "rw")
    assert cut(pt) == cut(model)
    assert contents(pt) == model.contents()
    assert pt.frames.stats()["parked"] == model.parked()
    pt.check()


def test_everything_can_be_split():
    """Frames full of giant leaves become frames full of the tables of their pages."""
    pt = table_with(lambda pt: pt.map(0, 0, END, "rw"))
    for size in (GIANT, HUGE):
        for va in range(0, END, size):
            assert pt.split(va) is Outcome.DONE
            pt.check()
    assert pt.stats()["tables"] == 1 + 4 + 16
    assert room(pt) == pt.frames.stats()["parked"] == 0
    assert all(pt.translate(va) == va for va in range(0, END, PAGE))


def test_parked_tables_are_for_splits_only():
    """They are free and yet not to be had, until their leaf is gone."""
    pt = table_with(lambda pt: pt.map(0, 0, GIANT, "rw"))
    for change in (lambda: pt.populate(GIANT), lambda: pt.map(GIANT, 0, PAGE), lambda: pt.map(GIANT, GIANT, GIANT)):
        fails(pt, lambda _, change=change: change())
    pt.unmap(0, GIANT)
    assert room(pt) == 5
    pt.map(GIANT, GIANT, GIANT)


def test_data_and_tables_do_not_share_frames():
    """Data takes room from tables, but never what is parked."""
    frames = ptl.Frames(16 << 12, domain=DOMAIN)
    pt = ptl.PageTable("riscv_sv39", frames=frames)
    pt.map(0, 0, 2 << 20)
    data = [frames.alloc() for _ in range(16 - 3)]  # all but the root, a table, and the one parked
    assert len(set(data)) == 13
    with pytest.raises(OutOfFrames):
        frames.alloc()
    with pytest.raises(OutOfFrames, match="nothing was changed"):
        pt.map(2 << 20, 0)
    assert pt.split(0) is Outcome.DONE
    pt.check()


# -- limbo


def as_many_tables_as_can_be(pt: ptl.PageTable | Reference) -> None:
    """Pages that no huge leaf can map."""
    pt.map(0, PAGE, END, "rw")


AGAIN: dict[str, Change] = {
    "map": lambda pt: pt.map(0, PAGE, END, "rw"),
    "map of giant leaves": lambda pt: pt.map(0, 0, END, "rw"),
    "populate": lambda pt: [pt.populate(va) for va in range(0, END, HUGE)],
    "pte_alloc_map": lambda pt: pt.pte_alloc_map(0).close(),
}


@pytest.mark.parametrize("change", AGAIN.values(), ids=AGAIN)
def test_limbo_is_reclaimed_before_giving_up(change):
    pt = table_with(as_many_tables_as_can_be)
    pt.unmap(0, END)
    assert DOMAIN.stats()["limbo"] == 20
    change(pt)
    pt.check()
    DOMAIN.synchronize()


def test_limbo_is_reclaimed_for_a_leaf_to_park():
    """A table that has left makes room for a collapse."""
    pt = table_with(lambda pt: pt.map(0, GIANT, 2 * HUGE, "rw", page_size=PAGE))
    fails(pt, lambda pt: pt.collapse(0))
    pt.unmap(HUGE, HUGE)
    assert DOMAIN.stats()["limbo"] == 1
    assert pt.collapse(0) is Outcome.DONE
    pt.check()
    DOMAIN.synchronize()


@pytest.mark.parametrize("reader", [DOMAIN.pin, lambda: thread_inside(DOMAIN.pin)], ids=["this thread", "another"])
@pytest.mark.parametrize("change", AGAIN.values(), ids=AGAIN)
def test_limbo_is_no_room_while_a_reader_is_inside(change, reader):
    """One that entered before the tables left, and may still be looking at them."""
    pt = table_with(as_many_tables_as_can_be)
    with reader():
        pt.unmap(0, END)
        fails(pt, change)
    change(pt)
    pt.check()
    DOMAIN.synchronize()


def test_a_table_that_a_handle_pins_is_no_room():
    """It holds back its own table, and no other."""
    pt = table_with(as_many_tables_as_can_be)
    with pt.pte_map(0):
        pt.unmap(0, END)
        DOMAIN.synchronize()
        assert room(pt) == 19
        fails(pt, lambda pt: pt.map(0, PAGE, END, "rw"))
        pt.map(HUGE, PAGE, END - HUGE, "rw")
        fails(pt, lambda pt: pt.populate(0))
    assert pt.populate(0) is Outcome.DONE
    pt.check()
