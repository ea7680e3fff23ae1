"""What it costs to hold something: a read section, a leaf table mapped, a leaf table locked. 1000 times in each round.

The peer is a `threading.Lock` that nobody else wants, taken and let go in the same way.
"""

from __future__ import annotations

import threading
from itertools import repeat

from pytest_benchmark.fixture import BenchmarkFixture
from subject import CALLS, VA, group

import ptl

WITH = "handle 1: a with block, 1000 times"
CLOSE = "handle 2: open and close, 1000 times"


@group(WITH)
def test_pin(benchmark: BenchmarkFixture) -> None:
    pin = ptl.default_domain.pin

    def run() -> None:
        for _ in repeat(None, CALLS):
            with pin():
                pass

    benchmark(run)


@group(WITH)
def test_pte_map(benchmark: BenchmarkFixture, table: ptl.PageTable) -> None:
    pte_map = table.pte_map

    def run() -> None:
        for _ in repeat(None, CALLS):
            with pte_map(VA):
                pass

    benchmark(run)


@group(WITH)
def test_pte_map_lock(benchmark: BenchmarkFixture, table: ptl.PageTable) -> None:
    pte_map_lock = table.pte_map_lock

    def run() -> None:
        for _ in repeat(None, CALLS):
            with pte_map_lock(VA):
                pass

    benchmark(run)


@group(WITH)
def test_lock(benchmark: BenchmarkFixture) -> None:
    lock = threading.Lock()

    def run() -> None:
        for _ in repeat(None, CALLS):
            with lock:
                pass

    benchmark(run)


@group(CLOSE)
def test_pte_map_close(benchmark: BenchmarkFixture, table: ptl.PageTable) -> None:
    pte_map = table.pte_map

    def run() -> None:
        for _ in repeat(None, CALLS):
            pte_map(VA).close()

    benchmark(run)


@group(CLOSE)
def test_pte_map_lock_close(benchmark: BenchmarkFixture, table: ptl.PageTable) -> None:
    pte_map_lock = table.pte_map_lock

    def run() -> None:
        for _ in repeat(None, CALLS):
            pte_map_lock(VA).close()

    benchmark(run)


@group(CLOSE)
def test_lock_acquire_release(benchmark: BenchmarkFixture) -> None:
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def run() -> None:
        for _ in repeat(None, CALLS):
            acquire()
            release()

    benchmark(run)
