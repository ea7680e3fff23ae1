"""The promise: when the system gives no memory there is a MemoryError, and everything is as it was.

The first, the second, the third allocation that an operation makes fails, and so on until it succeeds. Which operations
allocate at all is part of the promise: those that make something, and the first that a thread does in a domain.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import ptl
from ptl._core import fail_allocation

PAGE, HUGE, GIANT = 0x1000, 0x4000, 0x10000
Operation = Callable[[], object]


@contextmanager
def failing(n: int) -> Iterator[None]:
    """The n-th allocation of this thread fails."""
    fail_allocation(n)
    try:
        yield
    finally:
        fail_allocation(0)


def failures(operation: Operation, state: Callable[[], object]) -> int:
    """Let each allocation of an operation fail in turn until it succeeds: how many there are."""
    before = state()
    for n in itertools.count(1):
        with failing(n):
            try:
                operation()
            except (MemoryError, OSError):
                assert state() == before
            else:
                return n - 1
    raise AssertionError


def outcome_in_a_new_thread(operation: Operation, n: int) -> object:
    """What the operation returns, or the MemoryError that it raises, in a thread whose n-th allocation fails."""
    outcome: list[object] = []

    def work() -> None:
        fail_allocation(n)
        try:
            outcome.append(operation())
        except MemoryError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return outcome[0]


@contextmanager
def no_record_to_spare(domain: ptl.EpochDomain) -> Iterator[None]:
    """Threads keep every record that earlier ones have left behind."""
    end, holders, is_taken = threading.Event(), [], True

    def hold(answered: threading.Event, taken: list[bool]) -> None:
        fail_allocation(1)
        try:
            with domain.pin():
                taken.append(True)
        except MemoryError:
            taken.append(False)
        answered.set()
        if taken[0]:
            end.wait()

    try:
        while is_taken:
            answered, taken = threading.Event(), []
            holders.append(threading.Thread(target=hold, args=(answered, taken)))
            holders[-1].start()
            answered.wait()
            is_taken = taken[0]
        yield
    finally:
        end.set()
        for holder in holders:
            holder.join()


# -- what makes something


def stats_of(domain: ptl.EpochDomain) -> tuple[object, ...]:
    stats = domain.stats()
    return stats["limbo"], stats["inside"], stats["retired"]


MAKERS: dict[str, tuple[Callable[[], object], int]] = {
    "anonymous frames": (lambda: ptl.Frames(16 * PAGE), 3),
    "frames in a buffer": (lambda: ptl.Frames(PAGE, backing=mmap.mmap(-1, PAGE)), 2),
    "a table and its frames": (lambda: ptl.PageTable("tiny"), 4),
    "a Tlb": (lambda: ptl.tlb.Tlb(), 1),
}


@pytest.mark.parametrize(("make", "count"), MAKERS.values(), ids=MAKERS)
def test_what_is_made_is_made_whole_or_not_at_all(make, count):
    ptl.default_domain.synchronize()
    assert failures(make, lambda: stats_of(ptl.default_domain)) == count


def test_a_table_in_frames_that_are_there_takes_nothing_of_them_when_it_fails():
    frames = ptl.Frames(16 * PAGE)
    assert failures(lambda: ptl.PageTable("tiny", frames=frames), frames.stats) == 1


def test_a_file_that_cannot_be_mapped_leaves_frames_unmade(tmp_path):
    assert failures(lambda: ptl.Frames(PAGE, backing=tmp_path / "frames"), lambda: None) == 3


def test_a_tlb_that_cannot_be_attached_is_not():
    pt, tlb = ptl.PageTable("tiny"), ptl.tlb.Tlb()
    pt.map(0, PAGE, PAGE, "rw")
    assert failures(lambda: tlb.attach(pt), lambda: (pt.dump(), pt.check(), tlb.stats())) == 1


# -- what a thread does first


def a_section(domain: ptl.EpochDomain) -> None:
    with domain.pin():
        pass


OPERATIONS: dict[str, Callable[[ptl.PageTable], object]] = {
    "translate": lambda pt: pt.translate(0),
    "lookup": lambda pt: pt.lookup(0),
    "walk": lambda pt: pt.walk(0),
    "map": lambda pt: pt.map(2 * PAGE, 0, PAGE),
    "map of a range": lambda pt: pt.map(GIANT, 0, GIANT),
    "unmap": lambda pt: pt.unmap(0, PAGE),
    "unmap of a range": lambda pt: pt.unmap(0, GIANT),
    "protect": lambda pt: pt.protect(0, GIANT, "r"),
    "compare_exchange": lambda pt: pt.compare_exchange(0, pt.arch.encode(0, "rw"), pt.arch.encode(PAGE, "rw")),
    "exchange": lambda pt: pt.exchange(0, pt.arch.encode(PAGE, "rw")),
    "test_and_clear": lambda pt: pt.test_and_clear(0, "d"),
    "pte_map": lambda pt: pt.pte_map(0).close(),
    "pte_map_lock": lambda pt: pt.pte_map_lock(0).close(),
    "pte_alloc_map_lock": lambda pt: pt.pte_alloc_map_lock(GIANT).close(),
    "populate": lambda pt: pt.populate(GIANT),
    "retract": lambda pt: pt.retract(2 * HUGE),
    "collapse": lambda pt: pt.collapse(3 * HUGE),
    "split": lambda pt: pt.split(HUGE),
    "reclaim_empty": lambda pt: pt.reclaim_empty(0, 2 * GIANT),
    "move": lambda pt: pt.move(0, GIANT, HUGE),
    "a section": lambda pt: a_section(pt.frames.domain),
}


def a_table_of_everything(domain: ptl.EpochDomain) -> ptl.PageTable:
    """A page, a huge leaf, an empty table, a full one."""
    pt = ptl.PageTable("tiny", frames=ptl.Frames(1 << 16, frame_bytes=32, domain=domain))
    pt.map(0, 0, PAGE, "rw")
    pt.map(HUGE, HUGE, HUGE, "rw")
    pt.populate(2 * HUGE)
    pt.map(3 * HUGE, 3 * HUGE, HUGE, "rw", page_size=PAGE)
    return pt


def bits_of(pt: ptl.PageTable) -> tuple[object, ...]:
    """The memory, bit for bit, and everything that is counted beside it."""
    return bytes(pt.frames), pt.frames.stats(), pt.stats(), stats_of(pt.frames.domain), pt.check()


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_thread_that_gets_no_record_changes_nothing(operation):
    domain = ptl.EpochDomain()
    pt = a_table_of_everything(domain)
    with no_record_to_spare(domain):
        before = bits_of(pt)
        assert isinstance(outcome_in_a_new_thread(lambda: operation(pt), 1), MemoryError)
        assert bits_of(pt) == before
        assert not isinstance(outcome_in_a_new_thread(lambda: operation(pt), 2), MemoryError)
        pt.check()
