"""Many addresses a call: 100,000 addresses of 64 Ki pages, at random and in sequence.

The dict has its addresses in a list, which a comprehension goes through fastest; the table has them in an
`array.array("Q")`. `test_translate_out` writes to an array that is there already.
"""

from __future__ import annotations

from array import array

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from subject import OFFSET, PAGE, PAGE_SHIFT, VA, group

import ptl

COUNT = 100_000
MANY = group("batch 1: 100,000 random addresses at once")
SEQUENCE = group("batch 2: 100,000 addresses in sequence at once")
both = pytest.mark.parametrize("order", [pytest.param("random", marks=MANY), pytest.param("sequence", marks=SEQUENCE)])


@pytest.fixture
def addresses(order: str, scattered: list[int]) -> list[int]:
    """In that order; in sequence each page is asked for twice."""
    return scattered if order == "random" else [VA + i * PAGE // 2 for i in range(COUNT)]


@both
def test_translate(benchmark: BenchmarkFixture, table: ptl.PageTable, addresses: list[int]) -> None:
    vas = array("Q", addresses)
    found = benchmark(table.translate, vas)
    assert list(found[:10]) == [table.translate(va) for va in addresses[:10]]


@both
def test_translate_out(benchmark: BenchmarkFixture, table: ptl.PageTable, addresses: list[int]) -> None:
    vas, out = array("Q", addresses), array("Q", bytes(8 * COUNT))
    benchmark(table.translate, vas, out)
    assert list(out[-10:]) == [table.translate(va) for va in addresses[-10:]]


@both
def test_a_call_each(benchmark: BenchmarkFixture, table: ptl.PageTable, addresses: list[int]) -> None:
    translate = table.translate
    found = benchmark(lambda: [translate(va) for va in addresses])
    assert len(found) == COUNT


@both
def test_dict(benchmark: BenchmarkFixture, pages: dict[int, int], addresses: list[int]) -> None:
    shift, offset = PAGE_SHIFT, OFFSET
    found = benchmark(lambda: [pages[va >> shift] | va & offset for va in addresses])
    assert len(found) == COUNT
