"""Stress makes frequent what is rare between threads, and changes no answer.

What it is for, that a mistake is met sooner, is shown by the tests with threads that run under it. Here is what one
thread can see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import ptl
from helpers import python
from ptl import _core

PAGE, SPAN = 4096, 2 << 20
OFTEN = 300
"""A compare-exchange fails for nothing one time in eight: not once in so many has a probability of 1e-17."""


@contextmanager
def stress(seed: int) -> Iterator[None]:
    _core.put_under_stress(seed)
    try:
        yield
    finally:
        _core.put_under_stress(0)


def table() -> ptl.PageTable:
    return ptl.PageTable(frames=ptl.Frames(1 << 20, domain=ptl.EpochDomain()))


@pytest.mark.parametrize("arch", ["x86_64", "i386", "m68k_coldfire", "sparc32"])
def test_a_compare_exchange_that_fails_for_nothing_is_made_again(arch: str) -> None:
    """It is told as failed only where the value was another."""
    with stress(1):
        pt = ptl.PageTable(arch)
        page = pt.arch.page_sizes[0]
        pt.map(0, 0, page)
        for turn in range(OFTEN):
            raw = pt.lookup(0).raw
            desired = pt.arch.encode(turn % 8 * page, "rw")
            assert pt.compare_exchange(0, raw, desired)
            assert pt.lookup(0).pa == turn % 8 * page
            with pt.pte_map(0) as ptes:
                assert ptes.compare_exchange(0, desired, raw)
                assert not ptes.compare_exchange(0, desired, raw) or raw == desired


def test_a_lock_that_nobody_holds_is_taken_at_once() -> None:
    """Reclaiming tries the lock, and frees nothing when another thread is at it: here is none."""
    with stress(2):
        pt = ptl.PageTable(frames=ptl.Frames(1 << 20, domain=ptl.EpochDomain(batch_tables=100)))
        for _ in range(OFTEN):
            pt.populate(0)
            pt.retract(0)
            assert pt.frames.domain.reclaim() == 1


def test_batches_are_tiny_and_epochs_wrap() -> None:
    with stress(3):
        pt = table()
        domain = pt.frames.domain
        first = domain.stats()["epoch"]
        for _ in range(64):
            pt.populate(0)
            pt.retract(0)
            assert domain.stats()["limbo"] <= 2
        assert domain.stats()["epoch"] < first


def test_it_ends() -> None:
    with stress(4):
        pass
    domain = table().frames.domain
    assert domain.stats()["epoch"] == 1
    pt = table()
    for _ in range(10):
        pt.populate(0)
        pt.retract(0)
    assert pt.frames.domain.stats()["limbo"] == 10


def test_a_process_may_begin_under_stress() -> None:
    assert int(python("-c", FIRST_EPOCH, PTL_STRESS="5").stdout) > 1 << 40
    assert int(python("-c", FIRST_EPOCH, PTL_STRESS="0").stdout) == 1


FIRST_EPOCH = "import ptl; print(ptl.EpochDomain().stats()['epoch'])"


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.5, "1"])
def test_a_seed_is_a_number(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        _core.put_under_stress(wrong)  # type: ignore[arg-type]
