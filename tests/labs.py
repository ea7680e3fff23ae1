"""What the tests that explore the core have in common: small tables, and the threads that meet on them.

`tiny` has pages of 4 KiB and leaf tables of four entries: a leaf table covers 16 KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ptl
from ptl import arch, lab
from ptl.lab import operations as op
from ptl.lab.operations import Operation

PAGE, SPAN = 0x1000, 0x4000
OLD, NEW, OTHER = 0x1_0000, 0x2_0000, 0x4_0000
"""Physical addresses: what is mapped first, and what threads map."""
TINY = arch.get("tiny")
SOFT = TINY.encode_soft(2, 5)
"""An entry of software's own, as of a page that migrates."""

Threads = Sequence[Sequence[Operation]]
Setup = Callable[[ptl.PageTable], object]


def leaf(pa: int) -> int:
    """The entry of a page that may be written."""
    return TINY.encode(pa, "rw")


def nothing(pt: ptl.PageTable) -> None:
    """No table but the root."""


def empty_table(pt: ptl.PageTable) -> None:
    """A leaf table with nothing in it."""
    pt.populate(0)


def one_page(pt: ptl.PageTable) -> None:
    """A leaf table with its first entry filled."""
    pt.map(0, OLD, PAGE)


def all_but_one(pt: ptl.PageTable) -> None:
    """A leaf table whose second entry is empty."""
    pt.map(0, OLD, SPAN, page_size=PAGE)
    pt.unmap(PAGE, PAGE)


def all_pages(pt: ptl.PageTable) -> None:
    """A leaf table that could be one huge leaf."""
    pt.map(0, OLD, SPAN, page_size=PAGE)


def huge_leaf(pt: ptl.PageTable) -> None:
    """A huge leaf."""
    pt.map(0, OLD, SPAN)


def two_tables(pt: ptl.PageTable) -> None:
    """Two leaf tables, on either side of the line where the table above them ends."""
    pt.map(4 * SPAN - SPAN, OLD, 2 * SPAN, page_size=PAGE)


MIGRATION = (op.compare_exchange(0, leaf(OLD), SOFT), op.compare_exchange(0, SOFT, leaf(NEW)))
"""The first page is taken to another frame; meanwhile software's entry is in its place."""


def prove(threads: Threads, setup: Setup = nothing, **options: Any) -> lab.Exploration:
    """Explore every interleaving; all must be well, and there must be more than one."""
    result = lab.explore(threads, setup=setup, **options)
    assert result.verdict == "proved", result
    assert result.classes is not None
    return result


def fails(threads: Threads, setup: Setup = nothing, **options: Any) -> lab.Exploration:
    """Explore until something is wrong, and see it go wrong again from the schedule that is told."""
    result = lab.explore(threads, setup=setup, **options)
    assert result.verdict == "failed", result
    assert result.schedule is not None
    return result
