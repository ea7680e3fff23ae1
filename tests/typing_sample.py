"""Uses of ptl whose types mypy must find as asserted: never run, only checked, by `make lint`."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import assert_type

import ptl
from ptl import arch, proc


def numbers_and_buffers(pt: ptl.PageTable, view: memoryview) -> None:
    assert_type(pt.translate(0x1000), int)
    assert_type(pt.translate(array("Q", [0x1000])), "array[int]")
    assert_type(pt.translate(view), "array[int]")
    assert_type(pt.translate(view, out=bytearray(8)), bytearray)
    assert_type(pt.translate(view, array("Q", [0])), "array[int]")
    assert_type(pt.map(0x1000, 0x2000, 0x1000, "rw", page_size=4096, replace=True), None)
    assert_type(pt.unmap(0x1000, 0x1000), int)
    assert_type(pt.protect(0x1000, 0x1000, "r"), int)
    assert_type(pt.exchange(0x1000, 0), int)
    assert_type(pt.compare_exchange(0x1000, 0, 1), bool)
    assert_type(pt.test_and_clear(0x1000, "a"), bool)


def wrong_arguments(pt: ptl.PageTable) -> None:
    """Each line is an error: if mypy accepted it, it would complain of the comment."""
    pt.translate(1.5)  # type: ignore[call-overload]
    pt.translate([0x1000])  # type: ignore[call-overload]
    pt.translate(0x1000, out=bytearray(8))  # type: ignore[call-overload]
    pt.lookup(va=0x1000)  # type: ignore[call-arg]
    pt.map(0x1000, 0x2000, 0x1000, "rw", 4096)  # type: ignore[call-arg]
    pt.arch = arch.get("tiny")  # type: ignore[misc]
    with pt.pte_map(0x1000):  # type: ignore[union-attr]
        pass


def as_a_mapping(pt: ptl.PageTable) -> None:
    assert_type(pt[0x1000], ptl.Leaf)
    assert_type(pt[0x1000:], ptl.LeafRange)
    assert_type(list(pt), list[int])
    assert_type(list(pt[:].values()), list[ptl.Leaf])
    assert_type(list(pt.items()), list[tuple[int, ptl.Leaf]])
    assert_type(pt.get(0x1000), ptl.Leaf | None)
    assert_type(pt.pop(0x1000, "none"), ptl.Leaf | str)
    assert_type(list(pt.runs(0x1000)), list[ptl.Run])
    assert_type(list(pt.gaps()), list[ptl.Gap])
    assert_type(pt.find_gap(0x1000, lo=0x1000), int)
    assert_type(pt.export(out=(bytearray(8), None, None, None, None, None)), ptl.Leaves)
    pt[0x1000] = 0x2000, "r"
    pt[0x2000] = pt[0x1000]
    pt[0x1000] = 0x2000  # type: ignore[assignment]
    pt["0x1000"]  # type: ignore[call-overload]


def records(pt: ptl.PageTable) -> None:
    if (leaf := pt.lookup(0x1000)) is not None:
        assert_type((leaf.pa, leaf.flags), tuple[int, str])
    walk = pt.walk(0x1000)
    assert_type((walk.leaf, walk.fault), tuple[ptl.Leaf | None, str | None])
    for step in walk.steps:
        match step:
            case ptl.Step(state=ptl.State.TABLE, table_pa=pa):
                assert_type(pa, int)


def handles(pt: ptl.PageTable) -> None:
    if (ptes := pt.pte_alloc_map(0x1000)) is not None:
        with ptes as still:
            assert_type(still, ptl.PteMap)
            assert_type(still[-1], ptl.Leaf | None)
            assert_type(still.compare_exchange(0, still.load(0), 0), bool)
    if (locked := pt.pte_map_lock(0x1000)) is not None:
        with locked:
            assert_type(locked, ptl.PteLock)
    if (later := pt.pte_map_rw(0x1000)) is not None:
        with later:
            assert_type(later.try_lock(), bool)
    if (slot := pt.pmd(0x1000)) is not None and (held := slot.lock()) is not None:
        with held:
            assert_type(held.slot.state, ptl.State)


def transitions(pt: ptl.PageTable) -> None:
    assert_type(pt.populate(0x1000), ptl.Outcome)
    assert_type(pt.collapse(0x20_0000, 0x40_0000, level=2), ptl.Outcome)
    if not pt.split(0x20_0000):
        assert_type(pt.retract(0x20_0000) is ptl.Outcome.NOT_EMPTY, bool)


def memory(path: Path) -> None:
    domain = ptl.EpochDomain(batch_tables=8)
    frames = ptl.Frames(1 << 20, base=1 << 30, backing=path, domain=domain)
    assert_type(ptl.PageTable(arch.get("tiny"), frames=frames).frames, ptl.Frames)
    assert_type(frames.view(frames.alloc(), 16), memoryview)
    assert_type(memoryview(frames), memoryview)
    with domain.pin():
        assert_type(ptl.default_domain.reclaim(), int)
    assert_type(domain.stats()["limbo"], int)
    assert_type(domain.stalled(0.5), list[ptl.Stall])


def errors() -> None:
    try:
        assert_type(proc.snapshot(arch="riscv_sv39").arch, arch.Arch)
    except ptl.PageFault as fault:
        assert_type((fault.va, fault.level, fault.state), tuple[int, int, ptl.State])
