"""The pages that everything is about: addresses, frames, and tables that hold them."""

from __future__ import annotations

from array import array
from typing import Final, Literal

from ptl import _bench
from ptl._core import PageTable

Order = Literal["random", "sequential", "clustered"]
ORDERS: Final[tuple[Order, ...]] = "random", "sequential", "clustered"

PAGE: Final = 4096
PAGE_SHIFT: Final = 12
HUGE: Final = 2 << 20
GIB: Final = 1 << 30
VA: Final = 0x1000_0000_0000
PA: Final = 1 << 32
CLUSTER: Final = 64
"""Neighbours in a clustered order."""


def spaced(count: int, stride: int = 1) -> array[int]:
    """So many pages, every `stride`-th from VA on."""
    return array("Q", range(VA, VA + count * stride * PAGE, stride * PAGE))


def frames(count: int) -> array[int]:
    """As many frames."""
    return array("Q", range(PA, PA + count * PAGE, PAGE))


def table_of(vas: array[int], pas: array[int], table: PageTable | None = None) -> PageTable:
    """A table that maps each page to each frame."""
    table = table or PageTable("x86_64")
    _bench.map_pages(table, vas, pas)
    return table


def dense_table(count: int) -> PageTable:
    """A table that maps so many pages in a row."""
    table = PageTable("x86_64")
    table.map(VA, PA, count * PAGE, page_size=PAGE)
    return table


def empty_out(count: int) -> array[int]:
    """Room for so many answers, of which none is right yet."""
    return array("Q", bytes(8 * count))


def addresses(pages: array[int], order: Order, count: int | None = None) -> array[int]:
    """An address inside each page, or inside some of them; in that order, the same in every run."""
    if order == "random":
        found = array("Q", pages)
        _bench.shuffle(found, 1)
    elif order == "clustered":
        starts = array("Q", range(0, len(pages), CLUSTER))
        _bench.shuffle(starts, 1)
        found = array("Q", (page for start in starts for page in pages[start : start + CLUSTER]))
    else:
        found = array("Q", pages)
    return array("Q", (va | i * 8 % PAGE for i, va in enumerate(found[:count])))
