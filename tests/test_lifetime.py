"""The promise: blocks, tables, slots, handles and views can be dropped in any order, the garbage collector's included.

A table needs its block until its last table is given back, a slot or a handle needs both. Cycles that hold any of them
are taken apart in an order that nobody chooses. What goes wrong here ends the process, so it is tried in another one.
"""

from __future__ import annotations

import pytest

from helpers import python

SETUP = """
import gc, itertools, warnings
import ptl
warnings.simplefilter("ignore", ResourceWarning)

def things():
    domain = ptl.EpochDomain()
    frames = ptl.Frames(1 << 16, domain=domain)
    pt = ptl.PageTable("tiny", frames=frames)
    pt.map(0, 0x4000, 0x8000)
    pt.map(0x8000, 0x1000)
    slot = pt.pmd(0x8000)
    return [domain, frames, pt, slot, slot.lock(), pt.pte_map(0x8000), pt.pte_map_rw(0x8000), frames.view(0, 64)]
"""


def test_dropped_in_any_order():
    """By hand, each order of eight things a few times over."""
    python(
        "-c",
        SETUP
        + """
for order in itertools.islice(itertools.permutations(range(8)), 0, None, 97):
    held = dict(enumerate(things()))
    for i in order:
        del held[i]
""",
    )


@pytest.mark.parametrize("kept", [*range(8), None])
def test_dropped_by_the_garbage_collector(kept):
    """All in one cycle, and each in a cycle of its own; with one of them held on to, which still works afterwards."""
    python(
        "-c",
        SETUP
        + f"kept = {kept}\n"
        + """
for turn in range(50):
    all_of_them = things()
    survivor = None if kept is None else all_of_them[kept]
    all_of_them.append(all_of_them)
    del all_of_them
    gc.collect()
    for thing in things():
        cycle = [thing]
        cycle.append(cycle)
    del thing, cycle
    gc.collect()
    if isinstance(survivor, ptl.PageTable):
        assert survivor.translate(0x8123) == 0x1123
        assert survivor.unmap(0, 0x10000) == 0x9000
    elif isinstance(survivor, ptl.PteMap):
        assert survivor[0].pa == 0x1000
        survivor.close()
    elif isinstance(survivor, ptl.Slot):
        assert survivor.state is ptl.State.TABLE
    elif isinstance(survivor, ptl.Frames):
        assert survivor.free(survivor.alloc()) is None
""",
    )


def test_a_table_dropped_by_the_collector_gives_everything_back():
    """In a block that lives on: its tables, and what its huge leaves had parked."""
    python(
        "-c",
        SETUP
        + """
frames = ptl.Frames(1 << 16)
for turn in range(100):
    pt = ptl.PageTable("tiny", frames=frames)
    pt.map(0, 0x4000, 0x8000)
    pt.map(0x8000, 0x1000)
    cycle = [pt]
    cycle.append(cycle)
    del pt, cycle
    gc.collect()
    assert (frames.stats()["tables"], frames.stats()["parked"]) == (0, 0)
""",
    )


def test_a_buffer_stays_as_long_as_the_block_that_was_made_of_it():
    """Even when both are garbage: a view that the collector takes apart first must not take the memory with it."""
    python(
        "-c",
        SETUP
        + """
import ctypes
for turn in range(50):
    buffer = bytearray((1 << 20) + 64)
    skip = -ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % 64
    view = memoryview(buffer)[skip:]
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(1 << 20, backing=view))
    pt.map(0, 0)
    cycle = [view, pt]
    cycle.append(cycle)
    del buffer, view, pt, cycle
    gc.collect()
""",
    )
