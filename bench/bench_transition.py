"""Collapse one region of 512 pages into a leaf of 2 MiB, and split it again: both together are one round.

In place the peer is a dict that does the same with its keys: see that the 512 frames are one run, replace them by one
key of another dict, and back. By copy the peer is the copy of 2 MiB alone.
"""

from __future__ import annotations

from itertools import cycle

from pytest_benchmark.fixture import BenchmarkFixture
from subject import HUGE, PAGE, VA, dict_of, drain, frames, group, numbers

import ptl

IN_PLACE = "transition 1: collapse in place and split"
BY_COPY = "transition 2: collapse by copy and split"


@group(IN_PLACE)
def test_in_place(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    empty_table.map(VA, 0, HUGE, page_size=PAGE)
    collapse, split = empty_table.collapse, empty_table.split

    def run() -> bool:
        return bool(collapse(VA)) and bool(split(VA))

    assert benchmark(run)


@group(IN_PLACE)
def test_dict(benchmark: BenchmarkFixture) -> None:
    small, huge = dict_of(HUGE), {}
    keys, key = numbers(HUGE), VA // HUGE

    def run() -> None:
        first = small[keys[0]]
        if list(map(small.__getitem__, keys)) == list(range(first, first + HUGE, PAGE)):
            huge[key] = first
            drain(map(small.__delitem__, keys))
        first = huge.pop(key)
        small.update(zip(keys, range(first, first + HUGE, PAGE), strict=True))

    benchmark(run)
    assert list(small.values()) == list(frames(HUGE))


@group(BY_COPY)
def test_by_copy(benchmark: BenchmarkFixture) -> None:
    frames = ptl.Frames(16 << 20)
    table = ptl.PageTable("x86_64", frames=frames)
    runs = frames.alloc(HUGE), frames.alloc(HUGE)
    table.map(VA, runs[0], HUGE, page_size=PAGE)
    collapse, split, targets = table.collapse, table.split, cycle((runs[1], runs[0]))

    def run() -> bool:
        return bool(collapse(VA, next(targets))) and bool(split(VA))

    assert benchmark(run)


@group(BY_COPY)
def test_copy_alone(benchmark: BenchmarkFixture) -> None:
    source, target = memoryview(bytearray(HUGE)), memoryview(bytearray(HUGE))

    def run() -> None:
        target[:] = source

    benchmark(run)
