"""A handle on a table keeps that one table readable, for as long as Python likes, and nothing else waits for it.

What each fallible call returns where there is no table, what a handle sees when its table leaves the tree, what a lock
keeps out and what it does not, and what becomes of a handle that is closed twice, dropped, or used when it is over.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ptl
from helpers import going_on, in_thread, linux_only, python

pytestmark = pytest.mark.under_stress

PAGE = 4096
SPAN = 2 << 20
TABLE, EMPTY, HUGE, SOFT = 1 << 30, 2 << 30, 3 << 30, 4 << 30
"""Where the table below has a leaf table, a hole, a huge leaf, and a software entry on level 2."""

MAPS = ("pte_map", "pte_map_ro", "pte_map_rw", "pte_map_lock")
ALLOC_MAPS = ("pte_alloc_map", "pte_alloc_map_lock")


@pytest.fixture
def domain() -> ptl.EpochDomain:
    return ptl.EpochDomain(batch_tables=1)


@pytest.fixture
def pt(domain: ptl.EpochDomain) -> ptl.PageTable:
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(64 * PAGE, domain=domain))
    pt.map(TABLE, 0x1000, 4 * PAGE, "rw")
    pt.populate(EMPTY)
    pt.retract(EMPTY)
    pt.map(HUGE, 0, SPAN)
    pt.map(SOFT, 0, SPAN)
    pt.exchange(SOFT, pt.arch.encode_soft(1, 5))
    domain.synchronize()
    return pt


def plant(pt: ptl.PageTable, va: int, level: int, raw: int) -> None:
    """Write an entry behind the table's back."""
    step = pt.walk(va).steps[-1]
    assert step.level == level
    pt.frames.view(step.table_pa + 8 * step.index, 8)[:] = raw.to_bytes(8, "little")


@pytest.fixture
def frozen(pt: ptl.PageTable) -> int:
    return pt.arch.level(1).word.frozen_present


def tables_held(pt: ptl.PageTable) -> bool:
    """Whether a handle or a lock holds on to any table of the tree: none can be retired and freed then."""
    pt.check()
    pt.unmap(TABLE, SPAN)
    pt.frames.domain.synchronize()
    return pt.frames.domain.stats()["limbo"] > 0


# -- what comes back


@pytest.mark.parametrize("name", MAPS)
def test_a_map_of_a_table(pt: ptl.PageTable, name: str) -> None:
    with getattr(pt, name)(TABLE + 2 * PAGE + 5) as ptes:
        assert (ptes.va, ptes.index, len(ptes)) == (TABLE, 2, 512)
        assert ptes[2].pa == 0x3000
        assert ptes[2].va == TABLE + 2 * PAGE
        assert ptes[-1] is None
        assert ptes.load(2) == ptes[2].raw
        assert ptes.table_pa == pt.walk(TABLE).steps[-1].table_pa
        assert ptes.snapshot == pt.walk(TABLE).steps[-2].raw
        assert not ptes.stale
        assert not ptes.closed
        for index in (512, -513):
            with pytest.raises(IndexError):
                ptes.load(index)
    assert ptes.closed
    assert not tables_held(pt)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("va", [EMPTY, HUGE, SOFT, 100 << 30])
def test_none_and_nothing_held_where_there_is_no_table(pt: ptl.PageTable, name: str, va: int) -> None:
    failures = pt.stats()["map_failures"]
    assert getattr(pt, name)(va) is None
    assert pt.stats()["map_failures"] == failures + 1
    pt.unmap(SOFT, SPAN)
    assert not tables_held(pt)
    assert pt.collapse(va) is not ptl.Outcome.DONE  # the lock is free, or this thread would be told


@pytest.mark.parametrize("name", ALLOC_MAPS)
def test_an_alloc_map_makes_the_table(pt: ptl.PageTable, name: str) -> None:
    for va in (EMPTY, 100 << 30, TABLE):
        with getattr(pt, name)(va + PAGE) as ptes:
            assert ptes.va == va
            assert ptes.compare_exchange(1, ptes.load(1), pt.arch.encode(0x9000, "rw"))
        assert pt.translate(va + PAGE) == 0x9000


@pytest.mark.parametrize("name", ALLOC_MAPS)
@pytest.mark.parametrize("va", [HUGE, SOFT])
def test_an_alloc_map_is_none_where_something_is_in_the_way(pt: ptl.PageTable, name: str, va: int) -> None:
    assert getattr(pt, name)(va) is None
    pt.unmap(SOFT, SPAN)
    assert not tables_held(pt)


@pytest.mark.parametrize("name", ALLOC_MAPS)
def test_an_alloc_map_without_frames_raises(name: str) -> None:
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(2 * PAGE, domain=ptl.EpochDomain()))
    with pytest.raises(ptl.OutOfFrames):
        getattr(pt, name)(0)


def test_a_locked_entry_is_an_alloc_map_lock(pt: ptl.PageTable) -> None:
    """The kernel's name for it."""
    with pt.locked_pte(EMPTY + PAGE) as ptes:
        assert isinstance(ptes, ptl.PteLock)
        assert (ptes.va, ptes.index) == (EMPTY, 1)
        assert ptes.compare_exchange(1, ptes.load(1), pt.arch.encode(0x9000, "rw"))
    assert pt.translate(EMPTY + PAGE) == 0x9000
    assert pt.locked_pte(HUGE) is pt.locked_pte(SOFT) is None


# -- a table that nobody else retracts


@pytest.mark.parametrize("name", ["pte_kernel", "pte_huge", "pte_alloc_huge"])
def test_a_kernel_s_table_is_not_pinned(pt: ptl.PageTable, domain: ptl.EpochDomain, name: str) -> None:
    """There is nothing to close, and nothing held back; it can all the same be read and changed like the others."""
    ptes = getattr(pt, name)(TABLE + 2 * PAGE + 5)
    assert (ptes.va, ptes.index, len(ptes)) == (TABLE, 2, 512)
    assert (ptes[2].pa, ptes.load(2), ptes[4]) == (0x3000, ptes[2].raw, None)
    assert ptes.table_pa == pt.walk(TABLE).steps[-1].table_pa
    assert not ptes.closed
    assert not ptes.stale
    with ptes as same:
        assert same is ptes
    ptes.close()
    ptes.close()
    assert ptes.compare_exchange(2, ptes.load(2), pt.arch.encode(0x9000, "rw"))
    assert pt.translate(TABLE + 2 * PAGE) == 0x9000
    with domain.pin():  # which keeps it readable
        pt.unmap(TABLE, SPAN)
        assert not ptes.compare_exchange(2, ptes.load(2), 0)
        assert ptes.stale
    assert not tables_held(pt)
    del ptes
    gc.collect()


@pytest.mark.parametrize("name", ["pte_kernel", "pte_huge"])
def test_a_kernel_s_table_has_to_be_there(pt: ptl.PageTable, name: str) -> None:
    for va, level, state in (
        (EMPTY, 2, ptl.State.EMPTY),
        (HUGE, 2, ptl.State.HUGE),
        (SOFT, 2, ptl.State.SOFT),
        (100 << 39, 4, ptl.State.EMPTY),
    ):
        with pytest.raises(ptl.PageFault) as fault:
            getattr(pt, name)(va)
        assert (fault.value.va, fault.value.level, fault.value.state) == (va, level, state)
    assert not tables_held(pt)


def test_a_kernel_s_table_is_made(pt: ptl.PageTable) -> None:
    for va in (EMPTY, 100 << 30):
        ptes = pt.pte_alloc_huge(va + PAGE)
        assert (ptes.va, ptes.index) == (va, 1)
        assert ptes.compare_exchange(1, 0, pt.arch.encode(0x9000, "rw"))
        assert pt.translate(va + PAGE) == 0x9000
    for va, state in ((HUGE, ptl.State.HUGE), (SOFT, ptl.State.SOFT)):
        with pytest.raises(ptl.PageFault) as fault:
            pt.pte_alloc_huge(va)
        assert fault.value.state is state
    full = ptl.PageTable("x86_64", frames=ptl.Frames(2 * PAGE, domain=ptl.EpochDomain()))
    with pytest.raises(ptl.OutOfFrames):
        full.pte_alloc_huge(0)


# -- all entries at once


@pytest.mark.parametrize("arch", ["x86_64", "i386", "riscv_sv39", "tiny"])
@pytest.mark.parametrize("name", [*MAPS, "pte_kernel"])
def test_all_entries_of_a_table(arch: str, name: str) -> None:
    pt = ptl.PageTable(arch)
    pt.map(0, PAGE, 2 * PAGE)
    pt.exchange(2 * PAGE, pt.arch.encode_soft(1, 7))
    with getattr(pt, name)(0) as ptes:
        raws = ptes.entries()
        assert (raws.typecode, len(raws)) == ("Q", len(ptes))
        assert list(raws) == [ptes.load(i) for i in range(len(ptes))]
        assert [pt.arch.decode(raw).state.name for raw in raws[:4]] == ["HUGE", "HUGE", "SOFT", "EMPTY"]
        raws[0] = 0
        assert pt.translate(0) == PAGE, "they are a copy"


def test_all_entries_of_a_table_that_left(pt: ptl.PageTable, frozen: int) -> None:
    """Its last contents, each frozen."""
    with pt.pte_map_ro(TABLE) as ptes:
        before = ptes.entries()
        pt.unmap(TABLE, SPAN)
        after = ptes.entries()
        assert [raw & ~frozen for raw in after[:4]] == list(before[:4])
        assert all(pt.arch.decode(raw).frozen for raw in after)
    with pytest.raises(ValueError, match="is closed"):
        ptes.entries()


def test_a_map_without_write_changes_nothing(pt: ptl.PageTable) -> None:
    with pt.pte_map_ro(TABLE) as ptes:
        with pytest.raises(TypeError, match="read-only"):
            ptes.compare_exchange(0, ptes.load(0), 0)
        assert ptes[0].pa == 0x1000


@pytest.mark.parametrize("name", ["pte_map", "pte_map_rw", "pte_map_lock", *ALLOC_MAPS])
def test_an_entry_changes_if_it_is_what_was_expected(pt: ptl.PageTable, name: str, frozen: int) -> None:
    with getattr(pt, name)(TABLE) as ptes:
        raw = ptes.load(0)
        moved = pt.arch.encode(0x7000, "r")
        assert not ptes.compare_exchange(0, raw + PAGE, moved)
        assert ptes.compare_exchange(0, raw, moved)
        assert not ptes.compare_exchange(0, raw, moved)
        assert pt.translate(TABLE) == 0x7000
        assert ptes.compare_exchange(0, moved, 0)
        assert pt.lookup(TABLE) is None
        assert ptes.compare_exchange(0, 0, raw)
        for unfit in (raw | frozen, pt.arch.level(1).word.frozen_absent):
            with pytest.raises(ptl.FormatError):
                ptes.compare_exchange(0, raw, unfit)
        assert ptes.load(0) == raw


# -- a table that leaves


@pytest.mark.parametrize("name", ["pte_map", "pte_map_ro", "pte_map_rw"])
@pytest.mark.parametrize("leave", ["collapse", "unmap", "replace", "retract"])
def test_a_handle_sees_the_last_contents_of_a_table_that_left(
    pt: ptl.PageTable, domain: ptl.EpochDomain, name: str, leave: str
) -> None:
    """However long ago that was, and whatever was allocated since: the table is not reused while the handle lives."""
    if leave == "retract":
        pt.unmap(TABLE, 4 * PAGE)
    else:
        pt.map(TABLE, 0, SPAN, page_size=PAGE, replace=True)
    with getattr(pt, name)(TABLE) as ptes:
        last = [ptes[index] and ptes[index].pa for index in range(512)]
        assert not ptes.stale
        match leave:
            case "collapse":
                assert pt.collapse(TABLE)
            case "unmap":
                assert pt.unmap(TABLE, SPAN) == SPAN
            case "replace":
                pt.map(TABLE, SPAN, SPAN, replace=True)
            case "retract":
                assert pt.retract(TABLE)
        assert ptes.stale
        assert "stale" in repr(ptes)
        churn(pt)
        domain.synchronize()
        assert domain.stats()["limbo"] == 1, "it waits for the handle, and nothing else does"
        assert [ptes[index] and ptes[index].pa for index in range(512)] == last
        if name != "pte_map_ro":
            word = pt.arch.level(1).word
            for expected in (ptes.load(0), ptes.load(0) & ~word.frozen_present & ~word.frozen_absent):
                assert not ptes.compare_exchange(0, expected, pt.arch.encode(0x9000, "r"))
        if name == "pte_map_rw":
            assert not ptes.try_lock()
    domain.reclaim()
    assert domain.stats()["limbo"] == 0
    assert pt.frames.stats()["tables"] == pt.stats()["tables"]
    pt.check()


def churn(pt: ptl.PageTable) -> None:
    """Use every free frame for a table, fill it, and let it go."""
    for _ in range(3):
        made = 0
        with contextlib.suppress(ptl.OutOfFrames):
            for made in range(1, 100):
                pt.map((made << 21) + PAGE, 0xAAA000, SPAN - 2 * PAGE, page_size=PAGE)
        assert made > 20
        pt.unmap(0, 1 << 30)
        pt.reclaim_empty(0, 1 << 30)


def test_two_handles_hold_a_table_until_both_are_closed(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    first, second, slot = pt.pte_map(TABLE), pt.pte_map_ro(TABLE), pt.slot(TABLE, 1)
    pt.unmap(TABLE, SPAN)
    for release in (first.close, second.close):
        domain.synchronize()
        assert domain.stats()["limbo"] == 1
        release()
    assert slot.load() & pt.arch.level(2).word.frozen_present
    domain.synchronize()
    assert domain.stats()["limbo"] == 1
    del slot
    domain.synchronize()
    assert domain.stats()["limbo"] == 0


def test_a_handle_outlives_every_other_name_of_its_table(pt: ptl.PageTable) -> None:
    ptes, slot = pt.pte_map(TABLE), pt.pmd(TABLE)
    del pt
    gc.collect()
    with ptes:
        assert ptes[3].pa == 0x4000
    assert slot.state is ptl.State.TABLE


# -- locks


LOCKS: dict[str, Callable[[ptl.PageTable], object]] = {
    "pte_map_lock": lambda pt: pt.pte_map_lock(TABLE),
    "pte_alloc_map_lock": lambda pt: pt.pte_alloc_map_lock(TABLE),
    "slot on level 1": lambda pt: pt.slot(TABLE, 1).lock(),
}
BLOCKED: dict[str, Callable[[ptl.PageTable], object]] = {
    "map": lambda pt: pt.map(TABLE + 8 * PAGE, 0, 2 * PAGE),
    "replace": lambda pt: pt.map(TABLE, 0, PAGE, replace=True),
    "unmap": lambda pt: pt.unmap(TABLE, 2 * PAGE),
    "unmap the table": lambda pt: pt.unmap(TABLE, SPAN),
    "protect": lambda pt: pt.protect(TABLE, 2 * PAGE, "r"),
    "collapse": lambda pt: pt.collapse(TABLE),
    "pte_map_lock": lambda pt: closed(pt.pte_map_lock(TABLE)),
    "pte_alloc_map_lock": lambda pt: closed(pt.pte_alloc_map_lock(TABLE)),
    "slot.lock": lambda pt: closed(pt.slot(TABLE, 1).lock()),
    "try_lock": lambda pt: locked_once(pt.pte_map_rw(TABLE)),
}
BLOCKED_ABOVE: dict[str, Callable[[ptl.PageTable], object]] = {
    "retract": lambda pt: pt.retract(EMPTY + SPAN),
    "collapse": lambda pt: pt.collapse(EMPTY + SPAN),
    "populate": lambda pt: pt.populate(EMPTY),
    "split": lambda pt: pt.split(EMPTY + 2 * SPAN),
    "unmap": lambda pt: pt.unmap(EMPTY + SPAN, SPAN),
    "reclaim_empty": lambda pt: pt.reclaim_empty(EMPTY, 1 << 30),
    "slot.lock": lambda pt: closed(pt.pmd(EMPTY).lock()),
}


def closed(handle: object) -> str:
    handle.close()
    return "closed"


def locked_once(ptes: ptl.PteMap) -> bool:
    with ptes:
        return ptes.try_lock()


@linux_only
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("blocked", BLOCKED)
def test_a_lock_keeps_out_what_would_change_the_table(pt: ptl.PageTable, lock: str, blocked: str) -> None:
    entries = pt.frames.view(pt.walk(TABLE).steps[-1].table_pa, PAGE)
    before = bytes(entries)
    handle = LOCKS[lock](pt)
    with going_on(lambda: BLOCKED[blocked](pt)) as done, handle:
        assert not done
        assert bytes(entries) == before
    assert done
    pt.check()


@linux_only
@pytest.mark.parametrize("blocked", BLOCKED_ABOVE)
def test_the_lock_of_a_slot_keeps_transitions_out(pt: ptl.PageTable, blocked: str) -> None:
    pt.populate(EMPTY + SPAN)
    pt.map(EMPTY + 2 * SPAN, 0, SPAN)
    entries = pt.frames.view(pt.walk(EMPTY).steps[-1].table_pa, PAGE)
    before = bytes(entries)
    handle = pt.pmd(EMPTY).lock()
    assert handle.slot.level == 2
    with going_on(lambda: BLOCKED_ABOVE[blocked](pt)) as done, handle:
        assert not done
        assert bytes(entries) == before
    assert done
    pt.unmap(SOFT, SPAN)
    pt.check()


def test_a_lock_keeps_out_no_lock_free_call(pt: ptl.PageTable) -> None:
    def change() -> bool:
        assert pt.translate(TABLE) == 0x1000
        assert pt.lookup(TABLE + PAGE).pa == 0x2000
        assert pt.walk(TABLE).leaf.pa == 0x1000
        assert list(pt.translate(memoryview(TABLE.to_bytes(8, "little")).cast("Q"))) == [0x1000]
        pt.map(TABLE + 10 * PAGE, 0x5000)
        assert pt.unmap(TABLE + 10 * PAGE, PAGE) == PAGE
        leaf = pt.lookup(TABLE)
        assert pt.compare_exchange(TABLE, leaf.raw, pt.arch.encode(leaf.pa, "rwd"))
        assert pt.test_and_clear(TABLE, "d")
        with pt.pte_map(TABLE) as ptes, pt.pte_map_rw(TABLE) as more:
            assert ptes.compare_exchange(0, more.load(0), leaf.raw)
        pt.map(TABLE + SPAN, 0x5000, 8 * PAGE)
        return pt.unmap(TABLE + SPAN, SPAN) == 8 * PAGE

    with pt.pte_map_lock(TABLE):
        assert in_thread(change), "from another thread"
        assert change(), "and from this one"


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("blocked", BLOCKED)
def test_a_thread_that_would_wait_for_itself_is_told(pt: ptl.PageTable, lock: str, blocked: str) -> None:
    entries = pt.frames.view(pt.walk(TABLE).steps[-1].table_pa, PAGE)
    before = bytes(entries)
    with LOCKS[lock](pt):
        with pytest.raises(RuntimeError, match="holds the lock"):
            BLOCKED[blocked](pt)
        assert bytes(entries) == before
    BLOCKED[blocked](pt)
    pt.unmap(SOFT, SPAN)
    pt.check()


@pytest.mark.parametrize("blocked", BLOCKED_ABOVE)
def test_a_thread_that_would_wait_for_its_lock_of_a_slot_is_told(pt: ptl.PageTable, blocked: str) -> None:
    pt.populate(EMPTY + SPAN)
    pt.map(EMPTY + 2 * SPAN, 0, SPAN)
    with pt.pmd(EMPTY).lock(), pytest.raises(RuntimeError, match="holds the lock"):
        BLOCKED_ABOVE[blocked](pt)
    BLOCKED_ABOVE[blocked](pt)
    pt.unmap(SOFT, SPAN)
    pt.check()


def test_a_retraction_that_needs_its_own_lock_is_told(pt: ptl.PageTable) -> None:
    pt.populate(EMPTY)
    with pt.pte_map_lock(EMPTY) as ptes:
        with pytest.raises(RuntimeError, match="holds the lock"):
            pt.retract(EMPTY)
        with pytest.raises(RuntimeError, match="holds the lock"):
            pt.reclaim_empty(EMPTY, SPAN)
        assert not ptes.stale
    assert pt.retract(EMPTY)


@linux_only
def test_who_waited_for_a_table_that_left_maps_again(pt: ptl.PageTable) -> None:
    """A lock taken at last on a table that is gone is let go, and the slot read again."""

    def map_and_close() -> str:
        ptes = pt.pte_map_lock(TABLE)
        if ptes is None:
            return "no table"
        with ptes:
            return "stale" if ptes.stale else "live"

    pt.map(TABLE, 0, SPAN, page_size=PAGE, replace=True)
    ptes = pt.pte_map_lock(TABLE)
    with going_on(lambda: pt.collapse(TABLE)) as collapsed, going_on(map_and_close) as mapped, ptes:
        assert not collapsed
        assert not mapped
    assert collapsed == [ptl.Outcome.DONE]
    assert mapped in (["no table"], ["live"])
    assert pt.pte_map_lock(TABLE) is None
    pt.unmap(SOFT, SPAN)
    pt.check()


@linux_only
def test_locks_of_two_tables_are_two_locks(pt: ptl.PageTable) -> None:
    pt.populate(EMPTY)
    with pt.pte_map_lock(TABLE), pt.pte_map_lock(EMPTY), pt.pmd(TABLE).lock():
        assert in_thread(lambda: pt.populate(100 << 30)) is ptl.Outcome.DONE
    pt.unmap(SOFT, SPAN)
    pt.check()


def test_try_lock_fails_when_the_slot_has_changed(pt: ptl.PageTable) -> None:
    with pt.pte_map_rw(TABLE) as ptes:
        assert ptes.try_lock()
        with pytest.raises(RuntimeError, match="already"):
            ptes.try_lock()
        ptes.unlock()
        with pytest.raises(RuntimeError, match="does not hold"):
            ptes.unlock()
        pt.unmap(TABLE, SPAN)
        assert not ptes.try_lock()
        pt.populate(TABLE)
        assert not ptes.try_lock(), "another table is in its place"
        assert closed(pt.pte_map_lock(TABLE)), "and that one is not locked"
    with pt.pte_map_rw(TABLE) as ptes:
        assert ptes.try_lock()  # leaving the map lets go of the lock
    assert in_thread(lambda: closed(pt.pte_map_lock(TABLE)))


@linux_only
def test_a_lock_may_be_let_go_by_another_thread(pt: ptl.PageTable) -> None:
    """Its owner is the thread that took it, whoever closes it."""
    handle = pt.pte_map_lock(TABLE)
    in_thread(handle.close)
    assert closed(pt.pte_map_lock(TABLE))


@linux_only
def test_a_lock_is_not_inherited(pt: ptl.PageTable) -> None:
    """A thread that comes after one that ended with a lock waits for it like everybody else."""
    handles: list[ptl.PteLock] = []
    taker = threading.Thread(target=lambda: handles.append(pt.pte_map_lock(TABLE)))
    taker.start()
    taker.join()
    with going_on(lambda: closed(pt.pte_map_lock(TABLE))) as done, handles[0]:
        assert not done
    assert done == ["closed"]


# -- the end of a handle


HANDLES: dict[str, Callable[[ptl.PageTable], object]] = {
    **{name: lambda pt, name=name: getattr(pt, name)(TABLE) for name in (*MAPS, *ALLOC_MAPS)},
    "slot.lock": lambda pt: pt.pmd(TABLE).lock(),
}


@pytest.mark.parametrize("name", HANDLES)
def test_a_handle_is_closed_once(pt: ptl.PageTable, name: str) -> None:
    handle = HANDLES[name](pt)
    assert not handle.closed
    handle.close()
    assert handle.closed
    with pytest.raises(ValueError, match="closed"):
        handle.close()
    with pytest.raises(ValueError, match="closed"):
        handle.__enter__()
    with HANDLES[name](pt) as handle:
        pass
    assert handle.closed
    del handle
    assert not tables_held(pt)


def test_a_closed_handle_is_of_no_use(pt: ptl.PageTable) -> None:
    with pt.pte_map_rw(TABLE) as ptes:
        pass
    for use in (
        lambda: ptes[0],
        lambda: ptes.load(0),
        lambda: ptes.compare_exchange(0, 0, 0),
        lambda: ptes.stale,
        ptes.try_lock,
        ptes.unlock,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(ptes)


@pytest.mark.parametrize("name", HANDLES)
def test_a_dropped_handle_lets_go_and_warns(pt: ptl.PageTable, name: str) -> None:
    handle = HANDLES[name](pt)
    with pytest.warns(ResourceWarning, match=f"{type(handle).__name__} was dropped without being closed"):
        del handle
    assert not tables_held(pt)


def test_a_dropped_map_lets_go_of_the_lock_it_took(pt: ptl.PageTable) -> None:
    ptes = pt.pte_map_rw(TABLE)
    assert ptes.try_lock()
    with pytest.warns(ResourceWarning):
        del ptes
    assert not tables_held(pt)


def test_an_error_inside_the_block_closes_the_handle(pt: ptl.PageTable) -> None:
    with pytest.raises(ZeroDivisionError), pt.pte_map_lock(TABLE):
        raise ZeroDivisionError
    assert closed(pt.pte_map_lock(TABLE))


def test_a_handle_closed_by_two_threads_at_once_is_closed_once(pt: ptl.PageTable) -> None:
    barrier = threading.Barrier(2)
    shared: list[ptl.PteMap] = []
    closers = [0, 0]

    def close(me: int) -> None:
        for _ in range(1000):
            if me == 0:
                shared.append(pt.pte_map(TABLE))
            barrier.wait()
            with contextlib.suppress(ValueError):
                shared[-1].close()
                closers[me] += 1
            barrier.wait()

    other = threading.Thread(target=close, args=(1,))
    other.start()
    close(0)
    other.join()
    assert sum(closers) == 1000
    pt.unmap(SOFT, SPAN)
    pt.check()


SCRIPT = """
import ptl, warnings
pt = ptl.PageTable("x86_64")
pt.map(0, 0)
handle = pt.{name}(0)
"""


@pytest.mark.parametrize("name", ["pte_map", "pte_map_lock"])
def test_with_ptl_debug_the_warning_says_where(tmp_path: Path, name: str) -> None:
    script = tmp_path / "careless.py"
    script.write_text(SCRIPT.format(name=name) + "del handle\n")
    where = f"opened at {script}:5"
    assert where in python("-W", "always", str(script), PTL_DEBUG="1").stderr
    quiet = python("-W", "always", str(script), PTL_DEBUG="0").stderr
    assert where not in quiet
    assert "was dropped without being closed" in quiet


@pytest.mark.parametrize("name", ["pte_map", "pte_map_lock", "pmd"])
@pytest.mark.parametrize("last", ["", "del pt", "ring = [handle, pt]; ring.append(ring)"])
def test_a_handle_left_open_at_the_end_of_the_program_is_no_crash(name: str, last: str) -> None:
    python("-c", SCRIPT.format(name=name) + last)


# -- slots


def test_a_slot_on_every_level(pt: ptl.PageTable) -> None:
    steps = pt.walk(TABLE + 5).steps
    for step in steps:
        slot = pt.slot(TABLE + 5, step.level)
        assert slot.level == step.level
        assert slot.load() == step.raw
        assert slot.state is step.state
        assert slot.va == TABLE & -(1 << 12 + 9 * (step.level - 1))
    assert pt.pmd(TABLE).level == 2
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="level"):
            pt.slot(TABLE, wrong)
    for va, state in ((EMPTY, "EMPTY"), (HUGE, "HUGE"), (SOFT, "SOFT"), (TABLE, "TABLE")):
        assert pt.pmd(va).state.name == state
        assert state in repr(pt.pmd(va))
    assert pt.pmd(100 << 39) is None
    assert pt.slot(100 << 39, 3) is None
    assert pt.slot(100 << 39, 4).state is ptl.State.EMPTY
    assert pt.slot(EMPTY, 1) is None
    plant(pt, EMPTY, 2, pt.arch.level(2).busy)
    assert pt.pmd(EMPTY).state is ptl.State.BUSY
    plant(pt, EMPTY, 2, 1 << 7)
    assert pt.pmd(EMPTY).state is ptl.State.INVALID
    plant(pt, EMPTY, 2, 1 | 1 << 50)
    assert pt.pmd(EMPTY).state is ptl.State.BAD, "a table beyond the block"


def test_a_slot_follows_its_entry_and_not_its_table(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    slot = pt.pmd(TABLE)
    pt.unmap(TABLE, SPAN)
    assert slot.state is ptl.State.EMPTY
    pt.map(TABLE, 0, SPAN)
    assert slot.state is ptl.State.HUGE
    pt.unmap(TABLE, 1 << 30)
    assert slot.state is ptl.State.HUGE, "the table that holds it has left, and its last contents stay"
    assert slot.lock() is None
    churn(pt)
    assert slot.state is ptl.State.HUGE
    pt.map(TABLE, 0, PAGE)
    assert slot.lock() is None, "another table is in its place"
    assert closed(pt.pmd(TABLE).lock())
    domain.synchronize()
    assert domain.stats()["limbo"] == 1
    del slot
    domain.synchronize()
    assert domain.stats()["limbo"] == 0


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_lock_of_a_slot_on_every_level(pt: ptl.PageTable, level: int) -> None:
    slot = pt.slot(TABLE, level)
    with slot.lock() as held:
        assert held.slot is slot
        with pytest.raises(RuntimeError, match="holds the lock"):
            slot.lock()
    assert in_thread(lambda: closed(slot.lock())) == "closed"


@pytest.mark.parametrize("make", [*HANDLES.values(), lambda pt: pt.frames.domain.pin()])
def test_a_handle_belongs_to_its_process(pt: ptl.PageTable, make: Callable[[ptl.PageTable], object]) -> None:
    with make(pt) as handle, pytest.raises(TypeError, match="pickled"):
        handle.__reduce__()
