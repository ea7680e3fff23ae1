"""Change one entry: 1000 changes of accessed, to and fro, in each round.

A dict has no compare-exchange: `test_dict_set` stores unconditionally, which is less; `test_dict_with_lock` compares
and stores under a lock, which is the same.
"""

from __future__ import annotations

import threading
from itertools import repeat

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from subject import CALLS, PA, VA, group

import ptl

NAME = "entry: change one entry, 1000 times"
KEY = VA >> 12


@pytest.fixture
def values(empty_table: ptl.PageTable) -> tuple[int, int]:
    """The raw entry of a page, and the same with accessed."""
    empty_table.map(VA, PA)
    raw = empty_table.lookup(VA).raw
    return raw, raw ^ empty_table.arch.encode(0, "ra") ^ empty_table.arch.encode(0, "r")


@group(NAME)
def test_compare_exchange(benchmark: BenchmarkFixture, empty_table: ptl.PageTable, values: tuple[int, int]) -> None:
    change, (old, new) = empty_table.compare_exchange, values

    def run() -> None:
        for _ in repeat(None, CALLS // 2):
            change(VA, old, new)
            change(VA, new, old)

    benchmark(run)
    assert change(VA, old, new)


@group(NAME)
def test_compare_exchange_in_mapped_table(
    benchmark: BenchmarkFixture, empty_table: ptl.PageTable, values: tuple[int, int]
) -> None:
    old, new = values
    with empty_table.pte_map(VA) as entries:
        change, index = entries.compare_exchange, entries.index

        def run() -> None:
            for _ in repeat(None, CALLS // 2):
                change(index, old, new)
                change(index, new, old)

        benchmark(run)
        assert change(index, old, new)


@group(NAME)
def test_dict_set(benchmark: BenchmarkFixture, values: tuple[int, int]) -> None:
    (old, new), key = values, KEY
    entries = {key: old}

    def run() -> None:
        for _ in repeat(None, CALLS // 2):
            entries[key] = new
            entries[key] = old

    benchmark(run)


@group(NAME)
def test_dict_with_lock(benchmark: BenchmarkFixture, values: tuple[int, int]) -> None:
    (old, new), key, lock = values, KEY, threading.Lock()
    entries = {key: old}

    def run() -> None:
        for _ in repeat(None, CALLS // 2):
            with lock:
                if entries[key] == old:
                    entries[key] = new
            with lock:
                if entries[key] == new:
                    entries[key] = old

    benchmark(run)
