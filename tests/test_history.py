"""Four bugs that this design produced in the kernel, each made to happen again: it must not.

`tests/test_faults.py` takes each of the four remedies out, and shows that its test fails then.
"""

from __future__ import annotations

import threading
from array import array

import pytest

import ptl
from helpers import going_on, linux_only

GIB = 1 << 30
SPAN = 2 << 20
PAGE = 4096


@pytest.fixture
def pt() -> ptl.PageTable:
    return ptl.PageTable("x86_64", frames=ptl.Frames(1 << 20, domain=ptl.EpochDomain(batch_tables=1)))


@linux_only
def test_a_table_is_retracted_while_it_is_to_be_moved(pt: ptl.PageTable) -> None:
    """The kernel's mremap read the old slot before it had taken the locks, and installed what was no table any more.

    Mended in 6.12. The mover waits for the new slot's table, which we hold; meanwhile the old slot is retracted.
    """
    new, old = 1 * GIB, 5 * GIB
    pt.populate(old)
    pt.populate(new + SPAN)
    slot = pt.slot(new, 2)
    lock = slot.lock()
    with going_on(lambda: pt.move(old, new, SPAN)) as moved:
        assert pt.retract(old)
        pt.frames.domain.synchronize()
        lock.close()
    assert moved == [ptl.Outcome.NO_TABLE]
    assert pt.pmd(new).state is ptl.State.EMPTY
    assert pt.pmd(old).state is ptl.State.EMPTY
    pt.check()


@linux_only
def test_a_table_that_was_filled_again_is_not_reclaimed(pt: ptl.PageTable) -> None:
    """Reclaim believed a table to be empty because it had been, before its lock was let go (found in review, 6.14)."""
    va = GIB
    pt.populate(va)
    entry = pt.arch.encode(0x5000, "rw")
    ptes = pt.pte_map_lock(va)
    with going_on(lambda: pt.retract(va)) as retracted:
        assert ptes.compare_exchange(ptes.index, pt.arch.level(1).empty, entry)
        ptes.close()
    assert retracted == [ptl.Outcome.NOT_EMPTY]
    assert pt.translate(va) == 0x5000
    pt.check()


def test_nobody_writes_into_a_table_that_has_left(pt: ptl.PageTable) -> None:
    """A map pins the table's memory, not its place: what was written through it was lost.

    So the kernel's map for writing has a snapshot of the slot to compare with.
    """
    va = GIB
    pt.populate(va)
    with pt.pte_map(va) as ptes:
        assert pt.retract(va)
        assert ptes.stale
        assert not ptes.compare_exchange(ptes.index, pt.arch.level(1).empty, pt.arch.encode(0x5000, "rw"))
    assert pt.lookup(va) is None
    pt.check()


def test_an_entry_of_two_words_is_read_whole() -> None:
    """A 32-bit kernel reads an entry of PAE in two loads; the halves came from two values.

    Here both words are one atomic load. The two values differ in both.
    """
    pt = ptl.PageTable("i386_pae")
    va = GIB
    values = [pt.arch.encode(pa, "rw") for pa in (0x1_0000_1000, 0x2_0000_2000)]
    pt.map(va, 0x1_0000_1000)
    over = threading.Event()

    def exchange() -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            pt.exchange(va, values[turn % 2])

    writer = threading.Thread(target=exchange)
    writer.start()
    try:
        seen = set(pt.translate(array("Q", [va]) * 2000))
    finally:
        over.set()
        writer.join()
    assert seen <= {0x1_0000_1000, 0x2_0000_2000}
