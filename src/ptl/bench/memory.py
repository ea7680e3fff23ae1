"""What a page costs in bytes: ours as the table counts them, peers' as the system sees them."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
from array import array
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from ptl.bench import pages as subject
from ptl.bench.measure import Finding, Target
from ptl.bench.native import Missing, NativeMap
from ptl.bench.pages import PAGE, PAGE_SHIFT
from ptl.bench.peers import MAPS, module, present
from ptl.bench.settings import Size

GROUP = "memory"
DESCRIPTOR_BYTES = 64
"""Of each table, as `core/descriptor.pxi` asserts."""
TABLES, OURS, RESIDENT = "ptl, tables", "ptl, tables and descriptors", "ptl, resident"
ENTRY, HARDWARE = "an entry of 8 bytes", "the hardware's own tables"
PYTHON_MAPS = "dict", "BTrees.QQBTree", "cereggii.AtomicDict"


def findings(size: Size) -> Iterator[Finding]:
    """Pages in a row, and every seventh."""
    yield _finding(size.pages, 1)
    yield _finding(size.pages // 7, 7)


def _finding(count: int, stride: int) -> Finding:
    table = subject.table_of(subject.spaced(count, stride), subject.frames(count))
    tables = table.stats()["tables"]
    costs = {
        TABLES: table.nbytes / count,
        OURS: (table.nbytes + tables * DESCRIPTOR_BYTES) / count,
        ENTRY: 8.0,
        HARDWARE: _hardware_tables(count, stride) * PAGE / count,
    }
    names = [RESIDENT, *PYTHON_MAPS, *(name for name, _ in present(MAPS))]
    # A process of its own for each: what another one freed would be used again.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as processes:
        grown = processes.map(partial(resident_bytes, count=count, stride=stride), names)
        costs |= {name: more / count for name, more in zip(names, grown, strict=True) if more is not None}
    dense = stride == 1
    return Finding(
        key=f"memory-{'dense' if dense else 'spaced'}",
        group=GROUP,
        title=f"memory of {count:,} pages, " + ("in a row" if dense else f"every {stride}th of a range"),
        unit="bytes a page",
        costs={name: [cost] for name, cost in costs.items()},
        ours=[TABLES, OURS, RESIDENT],
        targets=[
            *([Target(TABLES, ENTRY, "at most", 8.1 / 8)] if dense else []),
            Target(OURS, HARDWARE, "at most", 1.03),
            *(Target(RESIDENT, name, "at least") for name in names[1:] if name in costs),
        ],
        note="Resident is by how much a fresh process grew; a table in huge pages grows by whole ones.",
    )


def _hardware_tables(count: int, stride: int) -> int:
    """How many tables of 512 entries any x86-64 needs for the same pages."""
    total, entries = 1, (count - 1) * stride + 1
    for _ in range(3):
        entries = -(-entries // 512)
        total += entries
    return total


def resident_bytes(name: str, count: int, stride: int) -> int | None:
    """By how much this process grows when it makes a map of so many pages; None when the peer is missing."""
    pages, frames = subject.spaced(count, stride), subject.frames(count)
    try:
        make = _maker(name, pages, frames)
    except Missing:
        return None
    gc.collect()
    before = _resident()
    kept = make()
    grown = _resident() - before
    del kept
    return grown


def _maker(name: str, pages: array[int], frames: array[int]) -> Callable[[], object]:
    """What makes the map; all that it needs and is no part of it is there already."""

    def pairs() -> Iterator[tuple[int, int]]:
        return zip((page >> PAGE_SHIFT for page in pages), frames, strict=True)

    if name == RESIDENT:
        return lambda: subject.table_of(pages, frames)
    if name == "dict":
        return lambda: dict(pairs())
    if name == "BTrees.QQBTree":
        tree = module(name).QQBTree
        return lambda: _filled(tree(), pairs())
    if name == "cereggii.AtomicDict":
        atomic = module("cereggii").AtomicDict
        return lambda: _filled(atomic(), pairs())
    program = dict(present(MAPS))[name]

    def native() -> NativeMap:
        made = NativeMap(program, len(pages))
        made.insert(pages, frames)
        return made

    return native


def _filled(mapping: MutableMapping[int, int], pairs: Iterator[tuple[int, int]]) -> MutableMapping[int, int]:
    for key, value in pairs:
        mapping[key] = value
    return mapping


def _resident() -> int:
    """The bytes of this process that are in memory, after what it freed has been given back."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
