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
from ptl import OutOfFrames, Outcome
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
    # what is mapped                                                           tables, then those to park
    "one page": Scene(nothing, lambda pt: pt.map(0, 0, PAGE, "rw"), 2),
    "one page beside another": Scene(lambda pt: pt.map(PAGE, 0, PAGE, "rw"), lambda pt: pt.map(0, 0, PAGE, "rw"), 0),
    "one page in the next table": Scene(lambda pt: pt.map(HUGE, 0, PAGE, "rw"), lambda pt: pt.map(0, 0, PAGE, "rw"), 1),
    "pages of two tables": Scene(nothing, lambda pt: pt.map(HUGE - PAGE, 0, 2 * PAGE, "rw"), 3),
    "pages of two halves of the tree": Scene(nothing, lambda pt: pt.map(GIANT - PAGE, 0, 2 * PAGE, "rw"), 4),
    "pages everywhere": Scene(nothing, lambda pt: pt.map(0, PAGE, END, "rw"), 4 + 16),
    "a huge leaf": Scene(nothing, lambda pt: pt.map(0, 0, HUGE, "rw"), 1 + 1),
    "huge leaves everywhere": Scene(nothing, lambda pt: pt.map(0, HUGE, END, "rw"), 4 + 16),
    "a giant leaf": Scene(nothing, lambda pt: pt.map(0, 0, GIANT, "rw"), 0 + 5),
    "giant leaves everywhere": Scene(nothing, lambda pt: pt.map(0, 0, END, "rw"), 0 + 20),
    "leaves of each size": Scene(
        nothing, lambda pt: pt.map(GIANT - HUGE - PAGE, GIANT - HUGE - PAGE, PAGE + HUGE + GIANT, "rw"), 2 + 1 + 5
    ),
    "small pages where huge ones fit": Scene(nothing, lambda pt: pt.map(0, 0, HUGE, "rw", page_size=PAGE), 2),
    "a huge leaf over a table": Scene(
        lambda pt: pt.map(0, PAGE, HUGE, "rw"), lambda pt: pt.map(0, 0, HUGE, "rw", replace=True), 1
    ),
    "a huge leaf over another": Scene(
        lambda pt: pt.map(0, HUGE, HUGE, "rw"), lambda pt: pt.map(0, 0, HUGE, "rw", replace=True), 1
    ),
    "a giant leaf over all there is": Scene(
        leaves_everywhere, lambda pt: pt.map(0, 0, GIANT, "rw", replace=True), 5
    ),
    "pages over a huge leaf": Scene(
        lambda pt: pt.map(0, 0, HUGE, "rw"), lambda pt: pt.map(PAGE, 0, PAGE, "rw", replace=True), 0
    ),
    "pages over a giant leaf": Scene(
        lambda pt: pt.map(0, 0, GIANT, "rw"), lambda pt: pt.map(0, PAGE, GIANT, "rw", replace=True), 0
    ),
    "pages over everything": Scene(
        leaves_everywhere, lambda pt: pt.map(0, PAGE, END, "rw", replace=True), 2 + 2 + 4 + 4
    ),
    "the largest leaves over everything": Scene(
        leaves_everywhere, lambda pt: pt.map(PAGE, PAGE, END - 2 * PAGE, "rw", replace=True), 1 + (1 + 1 + 3) + 2 * 5 + 2
    ),
}
SCENES["the largest leaves over everything"] = SCENES["the largest leaves over everything"]


def room_for(scene: Scene, tables: int) -> ptl.PageTable:
    """The table to begin with, in frames that have room for that many tables more."""
    model = Reference(ptl.arch.get("tiny"))
    scene.before(model)
    size = (model.table_count() + model.parked() + tables) * TABLE_BYTES
    pt = ptl.PageTable("tiny", frames=ptl.Frames(size, frame_bytes=TABLE_BYTES, domain=DOMAIN)) if size else None
    scene.before(pt)
    assert room(pt) == tables
    return pt


def room(pt: ptl.PageTable) -> int:
    """How many tables could still be taken: found out by taking them, as root tables."""
    taken = []
    while True:
        try:
            taken.append(ptl.PageTable("tiny", frames=pt.frames))
        except OutOfFrames:
            return len(taken)


def state_of(pt: ptl.PageTable) -> tuple[object, ...]:
    """All that a failure must leave alone. Not `free_tables`, nor the bytes of tables that are free."""
    frames = pt.frames.stats()
    attempts = ("map_failures", "rewalks", "restarts")
    counters = {name: count for name, count in pt.stats().items() if name not in attempts}
    return contents(pt), pt.dump(), counters, frames["tables"], frames["parked"], DOMAIN.stats()["limbo"], pt.check()


def fails(pt: ptl.PageTable, change: Change) -> None:
    """There is no room for this change, and nothing comes of it."""
    before, left = state_of(pt), room(pt)
    with pytest.raises(OutOfFrames, match="nothing was changed"):
        change(pt)
    assert state_of(pt) == before
    assert room(pt) == left


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_a_map_gets_all_its_tables_or_none(scene):
    for tables in range(scene.need):
        fails(room_for(scene, tables), scene.change)
    pt = room_for(scene, scene.need)
    model = Reference(pt.arch)
    for table in (model, pt):
        scene.before(table)
        scene.change(table)
    assert contents(pt) == model.contents()
    pt.check()
