"""The same 64 Ki pages twice: in a page table, and in a dict. Benchmarks of reads share them and change nothing."""

from __future__ import annotations

import random

import pytest
from subject import ALL, OFFSET, PA, PAGE, PAGE_SHIFT, VA, dict_of

import ptl


@pytest.fixture(scope="session")
def table() -> ptl.PageTable:
    """256 MiB of 4 KiB pages."""
    table = ptl.PageTable("x86_64")
    table.map(VA, PA, ALL, page_size=PAGE)
    return table


@pytest.fixture(scope="session")
def pages() -> dict[int, int]:
    """The same pages."""
    return dict_of(ALL)


@pytest.fixture(scope="session")
def scattered() -> list[int]:
    """100,000 of their addresses, at random."""
    dice = random.Random(1)
    return [VA + dice.randrange(ALL) for _ in range(100_000)]


@pytest.fixture(scope="session", autouse=True)
def _same(table: ptl.PageTable, pages: dict[int, int], scattered: list[int]) -> None:
    """Both sides give the same answers, or there is nothing to compare."""
    assert all(table.translate(va) == pages[va >> PAGE_SHIFT] | va & OFFSET for va in scattered[:1000])


@pytest.fixture
def empty_table() -> ptl.PageTable:
    """A table for a benchmark to change."""
    return ptl.PageTable("x86_64")
