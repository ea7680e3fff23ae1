"""The promise: where empty slots name a table of nothing, a handler that does not look finds nothing there.

On mips the handler that refills the TLB follows an entry without a test. So an empty slot names a table whose entries
are all empty, and all empty slots of a level name the same one.
"""

from __future__ import annotations

import gc

import pytest

import ptl
from made_up import NOTHING_IS_A_TABLE
from ptl import Outcome, State
from ptl.arch import Arch

FORMATS = [
    arch
    for arch in (*map(ptl.arch.get, ptl.arch.names()), NOTHING_IS_A_TABLE)
    if any(level.empty_is_table for level in arch.layout)
]
EACH = pytest.mark.parametrize("arch", FORMATS, ids=lambda arch: arch.name)


def blind_walk(pt: ptl.PageTable, va: int) -> int:
    """The entry of the leaf table that a handler finds which follows whatever it reads."""
    table = pt.root
    for number in range(pt.arch.levels, 0, -1):
        level = pt.arch.level(number)
        index = va >> level.shift & level.entries - 1
        view = pt.frames.view(table + index * level.word.bytes, level.word.bytes)
        raw = int.from_bytes(view, pt.arch.byte_order)
        table = level.address.get(raw)
    return raw


def edges(arch: Arch) -> list[int]:
    """Addresses around each entry's border."""
    spans = [arch.level(number).span for number in range(1, arch.levels + 1)]
    return [arch.canonical(va) for span in spans for va in (span - arch.page_sizes[0], span, 2 * span)]


@EACH
def test_a_handler_that_does_not_look_finds_what_is_mapped_and_nothing_else(arch):
    pt = ptl.PageTable(arch)
    page = arch.page_sizes[0]
    empty = arch.level(1).empty
    assert all(blind_walk(pt, va) == empty for va in edges(arch))
    pt.map(page, 5 * page)
    assert blind_walk(pt, page) == arch.encode(5 * page, "rw")
    assert all(blind_walk(pt, va) == empty for va in edges(arch) if va != page)
    pt.unmap(page, page)
    assert pt.retract(page) is Outcome.DONE
    assert all(blind_walk(pt, va) == empty for va in edges(arch))
    pt.check()


@EACH
def test_an_empty_slot_is_empty(arch):
    pt = ptl.PageTable(arch)
    steps = pt.walk(0).steps
    assert [(step.level, step.state) for step in steps] == [(arch.levels, State.EMPTY)]
    assert pt.arch.level(arch.levels).empty == steps[0].raw
    assert pt.pte_map(0) is None
    assert pt.slot(0, arch.levels).state is State.EMPTY
    with pytest.raises(ptl.PageFault):
        pt.translate(0)


@EACH
def test_the_arch_of_a_table_names_its_own(arch):
    """What `decode` says of an entry of the table holds for that table."""
    frames = ptl.Frames(1 << 20, frame_bytes=min(4096, *(arch.table_bytes(n) for n in range(1, arch.levels + 1))))
    one, other = (ptl.PageTable(arch, frames=frames) for _ in range(2))
    number = arch.levels
    assert one.arch.level(number).empty != other.arch.level(number).empty
    assert one.arch.decode(one.walk(0).steps[0].raw, number).state is State.EMPTY
    assert other.arch.decode(one.walk(0).steps[0].raw, number).state is State.TABLE


@EACH
def test_the_tables_of_nothing_go_with_the_table(arch):
    frames = ptl.Frames(1 << 20, frame_bytes=min(4096, *(arch.table_bytes(n) for n in range(1, arch.levels + 1))))
    before = frames.stats()["tables"]
    pt = ptl.PageTable(arch, frames=frames)
    shared = sum(level.empty_is_table for level in arch.layout)
    assert frames.stats()["tables"] == before + 1 + shared
    del pt
    gc.collect()
    assert frames.stats()["tables"] == before


def test_no_room_for_the_tables_of_nothing():
    frames = ptl.Frames(64, frame_bytes=32)
    with pytest.raises(ptl.OutOfFrames, match="the tables that empty slots of nothing is a table name"):
        ptl.PageTable(NOTHING_IS_A_TABLE, frames=frames)
    assert frames.stats()["tables"] == 0
