"""A forked child has the table as it was between two changes, and none of the other threads' sections and locks.

The child has only the thread that forked. Whatever the others were doing, the child can go on reading and changing the
table; what the forking thread held it still holds; and the parent notices nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from array import array
from collections.abc import Callable
from functools import partial

import pytest

import ptl
from helpers import Crew, going_on, in_thread, linux_only, python, thread_inside

pytestmark = [
    pytest.mark.under_stress,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

PAGE = 4096
SPAN = 2 << 20
STEADY, COPIED, RANGE, SPARSE = (n << 30 for n in range(4))
HANG_SECONDS = 20
FORKS = 100


def in_child(job: Callable[[], object]) -> None:
    """Do the job in a forked child; what it raises, and a hang, is an error here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the child, which is then seen to have hung
            signal.alarm(HANG_SECONDS)
            job()
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM), "the child hung"
    assert status == 0, f"the child ended with wait status {status:#x}\n{text}"


@pytest.fixture
def domain() -> ptl.EpochDomain:
    return ptl.EpochDomain()


@pytest.fixture
def pt(domain: ptl.EpochDomain) -> ptl.PageTable:
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(512 * PAGE, domain=domain))
    pt.map(0, 0, SPAN, page_size=PAGE)
    return pt


def use(pt: ptl.PageTable, pinned: int = 0) -> None:
    """All that a table is for, in a part of it that nobody else uses; handles still hold so many tables that left."""
    va = 100 << 30
    pt.map(va, 0, 2 * SPAN, page_size=PAGE)
    assert pt.collapse(va)
    assert pt.split(va)
    assert pt.collapse(va, 4 * SPAN)
    pt.protect(va + PAGE, SPAN, "r")
    with pt.pte_map_lock(va) as ptes:
        assert ptes.compare_exchange(3, ptes.load(3), 0)
    assert pt.translate(va + 4 * PAGE) == 4 * SPAN + 4 * PAGE
    assert list(pt.translate(array("Q", [va + 5, va + 3 * PAGE]))) == [4 * SPAN + 5, ptl.UNMAPPED]
    assert pt.unmap(va, 2 * SPAN) == 2 * SPAN - PAGE
    assert pt.populate(va) in (ptl.Outcome.DONE, ptl.Outcome.ALREADY)
    assert pt.retract(va)
    pt.reclaim_empty(va, 1 << 30)
    domain = pt.frames.domain
    domain.synchronize()
    assert domain.stats()["limbo"] <= pinned
    pt.check()


def retire(pt: ptl.PageTable) -> None:
    pt.populate(100 << 30)
    assert pt.retract(100 << 30)


# -- what the child has


def test_the_child_has_a_table_of_its_own(pt: ptl.PageTable) -> None:
    def change() -> None:
        use(pt)
        pt.unmap(0, SPAN)
        in_thread(lambda: use(pt))

    in_child(change)
    assert pt.translate(PAGE) == PAGE
    use(pt)


def test_sections_of_other_threads_are_gone(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    def look() -> None:
        assert domain.stats()["inside"] == 0
        assert domain.stats()["threads"] == 1
        retire(pt)
        assert domain.reclaim() == 1
        use(pt)

    with thread_inside(domain.pin), thread_inside(domain.pin):
        in_child(look)
        retire(pt)
        assert domain.reclaim() == 0, "in the parent they are still inside"


def test_what_other_readers_held_back_is_freed(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    def look() -> None:
        assert domain.stats()["limbo"] == 1
        assert domain.reclaim() == 1

    with thread_inside(domain.pin):
        retire(pt)
        assert domain.reclaim() == 0
        in_child(look)
        assert domain.reclaim() == 0


def test_a_pin_stays_the_childs_own(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    def look() -> None:
        assert domain.stats()["inside"] == 1
        retire(pt)
        assert domain.reclaim() == 0
        with pytest.raises(RuntimeError, match="inside a section"):
            domain.synchronize()
        (stall,) = domain.stalled(0)
        assert stall.thread == threading.get_native_id()
        pin.close()
        assert domain.stats()["inside"] == 0
        assert domain.reclaim() == 1
        use(pt)

    with domain.pin() as pin, thread_inside(domain.pin):
        in_child(look)
        assert domain.stats()["inside"] == 2


def test_a_pin_of_another_thread_is_not_the_childs(domain: ptl.EpochDomain) -> None:
    pin = domain.pin()

    def look() -> None:
        with pytest.raises(RuntimeError, match="thread"):
            pin.close()
        assert domain.stats()["inside"] == 0

    with thread_inside(lambda: pin):
        in_child(look)


def test_a_lock_of_another_thread_is_free(pt: ptl.PageTable) -> None:
    def look() -> None:
        with pt.pte_map_lock(0), pt.pmd(0).lock():
            pass
        assert pt.collapse(0)
        use(pt, pinned=1)

    with thread_inside(lambda: pt.pte_map_lock(0)), thread_inside(lambda: pt.pmd(0).lock()):
        in_child(look)
        assert pt.lookup(0).size == PAGE


def test_a_lock_is_its_owners_in_whatever_domain() -> None:
    """Threads have numbers of their own in each domain: the owner of a lock is not whoever has its number elsewhere."""
    python("-W", "ignore::DeprecationWarning", "-c", NUMBERED_ALIKE)


NUMBERED_ALIKE = """
import ptl
from helpers import thread_inside
from test_fork import in_child

def lock():
    with pt.pte_map_lock(0):
        pass

with thread_inside(ptl.default_domain.pin), ptl.default_domain.pin():  # we are the second in this domain
    domain = ptl.EpochDomain()
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(1 << 20, domain=domain))
    pt.map(0, 0)
    with thread_inside(lambda: pt.pte_map_lock(0)):  # and the holder of the lock is the second in that one
        in_child(lock)
"""


def test_a_handle_of_the_forking_thread_stays_usable(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    pt.map(SPAN, 0, SPAN, page_size=PAGE)

    def look() -> None:
        assert ptes[1].pa == PAGE
        assert ptes.compare_exchange(1, ptes.load(1), pt.arch.encode(0x7000, "rw"))
        assert pt.translate(PAGE) == 0x7000
        with pytest.raises(RuntimeError, match="holds the lock"):
            pt.pte_map_lock(SPAN)
        assert locked.compare_exchange(1, locked.load(1), 0)
        locked.close()
        with pt.pte_map_lock(SPAN):
            pass
        pt.unmap(0, SPAN)
        assert ptes.stale
        domain.synchronize()
        assert domain.stats()["limbo"] == 1
        assert ptes[2].pa == 2 * PAGE
        ptes.close()
        use(pt)

    with pt.pte_map(0) as ptes, pt.pte_map_lock(SPAN) as locked:
        in_child(look)
        assert pt.translate(PAGE) == PAGE
        assert pt.translate(SPAN + PAGE) == PAGE


def test_closing_what_another_thread_held_lets_go_of_nothing(pt: ptl.PageTable) -> None:
    """The lock of another thread's handle is gone in the child; the handle must not let go of the next owner's."""
    theirs: list[object] = []

    def look() -> None:
        with pt.pte_map_lock(0):
            theirs[0].close()
            with pytest.raises(RuntimeError, match="holds the lock"):
                pt.pte_map_lock(0)
        with pt.pmd(0).lock():
            theirs[1].close()
            with pytest.raises(RuntimeError, match="holds the lock"):
                pt.pmd(0).lock()
        use(pt)

    @contextlib.contextmanager
    def both() -> object:
        with pt.pte_map_lock(0) as ptes, pt.pmd(0).lock() as slot:
            theirs.extend((ptes, slot))
            yield

    with thread_inside(both):
        in_child(look)


# -- in the middle of a change


@linux_only
def test_what_a_waiting_collapse_has_set_aside_is_given_back(pt: ptl.PageTable) -> None:
    """A collapse sets a table aside for a later split before it waits for its locks."""

    def look() -> None:
        lock.close()
        use(pt)
        assert pt.frames.stats()["parked"] == 0

    lock = pt.pmd(0).lock()
    with going_on(lambda: pt.collapse(0)), lock:
        in_child(look)
    assert pt.lookup(0).size == SPAN
    use(pt)


@linux_only
def test_what_a_waiting_collapse_has_set_aside_is_given_back_in_frames_of_its_own() -> None:
    pt = ptl.PageTable("x86_64")
    pt.map(0, 0, SPAN, page_size=PAGE)

    def look() -> None:
        lock.close()
        pt.check()

    lock = pt.pmd(0).lock()
    with going_on(lambda: pt.collapse(0)), lock:
        in_child(look)
    pt.check()


@linux_only
def test_the_tables_a_waiting_map_has_taken_are_given_back(pt: ptl.PageTable) -> None:
    """A map of a range takes all tables it needs before it waits for its locks."""

    def look() -> None:
        lock.close()
        use(pt)
        assert pt.frames.stats()["tables"] == pt.stats()["tables"]

    lock = pt.pte_map_lock(0)
    with going_on(lambda: pt.map(0, 0, 4 * SPAN, page_size=PAGE, replace=True)), lock:
        in_child(look)
    assert pt.translate(3 * SPAN) == 3 * SPAN
    use(pt)


# What runs beside a fork keeps everything in arguments: a thread without a GIL may otherwise be the owner of a variable
# that is shared between functions when its process forks, and the child's Python waits for that owner for ever.


def right(pt: ptl.PageTable) -> bool:
    known = array("Q", [STEADY + 5, STEADY + 7 * PAGE, COPIED + 9 * PAGE])
    first, second, third = pt.translate(known)
    return first == 5 and second == 7 * PAGE and third in (9 * PAGE, SPAN + 9 * PAGE)


def read(pt: ptl.PageTable, _: int) -> None:
    with pt.frames.domain.pin():
        assert right(pt)


def collapse(pt: ptl.PageTable, _: int) -> None:
    assert pt.collapse(STEADY) in (ptl.Outcome.DONE, ptl.Outcome.ALREADY)
    assert pt.split(STEADY)


def copy(pt: ptl.PageTable, turn: int) -> None:
    assert pt.collapse(COPIED, SPAN * (turn % 2)) in (ptl.Outcome.DONE, ptl.Outcome.ALREADY)
    assert pt.split(COPIED)


def ranges(pt: ptl.PageTable, turn: int) -> None:
    pt.map(RANGE + PAGE, 0, (turn % 3 + 1) * SPAN, page_size=PAGE, replace=True)
    pt.map(RANGE + SPAN, 0, SPAN, replace=True)
    pt.protect(RANGE + SPAN + PAGE, SPAN, "r")
    pt.unmap(RANGE, 4 * SPAN)


def come_and_go(pt: ptl.PageTable, turn: int) -> None:
    va = SPARSE + turn % 4 * SPAN
    pt.populate(va)
    with contextlib.suppress(ptl.AlreadyMapped):
        pt.map(va, 0)
    pt.unmap(va, PAGE)
    pt.retract(va)
    pt.reclaim_empty(SPARSE, 4 * SPAN)


def lock(pt: ptl.PageTable, _: int) -> None:
    with pt.pte_alloc_map_lock(SPARSE) as ptes:
        assert not ptes.stale


CHANGES = (read, read, collapse, copy, ranges, come_and_go, come_and_go, lock)


def over_and_over(crew: Crew, change: Callable[[ptl.PageTable, int], None], pt: ptl.PageTable) -> None:
    for turn in crew.meanwhile():
        with contextlib.suppress(ptl.OutOfFrames):  # all in limbo, behind a reader that lost its core
            change(pt, turn)


def empty(pt: ptl.PageTable) -> None:
    pt.unmap(0, 4 << 30)
    pt.reclaim_empty(0, 4 << 30)
    assert pt.check() == 1
    assert pt.frames.stats()["parked"] == 0


def look(pt: ptl.PageTable) -> None:
    assert pt.frames.domain.stats()["inside"] == 0
    assert right(pt)
    pt.check()
    use(pt, pinned=1)
    empty(pt)


def fork_often(crew: Crew, pt: ptl.PageTable, times: int) -> None:
    for _ in crew.turns(times):
        in_child(partial(look, pt))


@pytest.mark.parametrize("forking", [1, 2], ids=["one thread forks", "two threads fork"])
def test_forks_beside_every_kind_of_change(forking: int) -> None:
    """The child finds each change done or not begun: `check` passes, nothing hangs, and the parent goes on."""
    domain = ptl.EpochDomain(batch_tables=2)
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(2048 * PAGE, domain=domain))
    pt.map(STEADY, 0, SPAN, page_size=PAGE)
    pt.map(COPIED, 0, SPAN, page_size=PAGE)
    crew = Crew()
    crew.run(
        *(partial(fork_often, crew, pt, FORKS // forking) for _ in range(forking)),
        beside=tuple(partial(over_and_over, crew, change, pt) for change in CHANGES),
    )
    assert right(pt)
    use(pt)
    empty(pt)
    domain.synchronize()
    assert pt.frames.stats()["tables"] == 1
    assert domain.stats()["limbo"] == 0


def test_a_fork_of_a_fork(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    def again() -> None:
        with thread_inside(domain.pin), thread_inside(lambda: pt.pte_map_lock(0)):
            in_child(lambda: (pt.collapse(0), use(pt, pinned=1)))

    with thread_inside(domain.pin):
        in_child(again)
