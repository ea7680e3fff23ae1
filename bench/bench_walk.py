"""One address a call, from Python: 1000 random addresses of 64 Ki pages in each round.

A dict needs the page number first and the offset added after. `test_dict_of_page_numbers` is told the page numbers and
gives no offset: the least that Python can do.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from subject import ALL, CALLS, HUGE, OFFSET, PA, PAGE, PAGE_SHIFT, VA, group

import ptl

Pages = dict[int, int]


@pytest.fixture
def some(scattered: list[int]) -> list[int]:
    """The addresses of a round."""
    return scattered[:CALLS]


@group("walk 1: the physical address of 1000 addresses")
def test_translate(benchmark: BenchmarkFixture, table: ptl.PageTable, some: list[int]) -> None:
    translate = table.translate

    def run() -> None:
        for va in some:
            translate(va)

    benchmark(run)


@group("walk 1: the physical address of 1000 addresses")
def test_translate_huge(benchmark: BenchmarkFixture, empty_table: ptl.PageTable, some: list[int]) -> None:
    empty_table.map(VA, PA, ALL, page_size=HUGE)
    translate = empty_table.translate

    def run() -> None:
        for va in some:
            translate(va)

    benchmark(run)


@group("walk 1: the physical address of 1000 addresses")
def test_dict(benchmark: BenchmarkFixture, pages: Pages, some: list[int]) -> None:
    shift, offset = PAGE_SHIFT, OFFSET

    def run() -> None:
        for va in some:
            pages[va >> shift] | va & offset

    benchmark(run)


@group("walk 1: the physical address of 1000 addresses")
def test_dict_of_page_numbers(benchmark: BenchmarkFixture, pages: Pages, some: list[int]) -> None:
    page_numbers = [va >> PAGE_SHIFT for va in some]

    def run() -> None:
        for number in page_numbers:
            pages[number]

    benchmark(run)


@group("walk 2: what maps 1000 addresses")
def test_lookup(benchmark: BenchmarkFixture, table: ptl.PageTable, some: list[int]) -> None:
    lookup = table.lookup

    def run() -> None:
        for va in some:
            lookup(va)

    benchmark(run)


@group("walk 2: what maps 1000 addresses")
def test_walk(benchmark: BenchmarkFixture, table: ptl.PageTable, some: list[int]) -> None:
    walk = table.walk

    def run() -> None:
        for va in some:
            walk(va)

    benchmark(run)


@group("walk 2: what maps 1000 addresses")
def test_dict_of_tuples(benchmark: BenchmarkFixture, pages: Pages, some: list[int]) -> None:
    shift, get = PAGE_SHIFT, {number: (pa, PAGE, "rw") for number, pa in pages.items()}.get

    def run() -> None:
        for va in some:
            get(va >> shift)

    benchmark(run)
