"""Small tables by description, for tests that go through all of them.

"."    nothing              ("L", ".")            a leaf table of two pages, the second not mapped
"L"    a leaf               (("L", "L"), "S")     a table with a leaf table and software's huge entry
"S"    software's entry
"""

from __future__ import annotations

import ptl

PAGE = 0x1000

Layout = str | tuple["Layout", ...]
"""What a slot holds: a letter, or a table with so many slots."""


def level_of(pt: ptl.PageTable, size: int) -> int:
    """The level of leaves of that size."""
    return next(number for number, level in enumerate(pt.arch.layout, 1) if level.span == size)


def put_soft(pt: ptl.PageTable, va: int, size: int, offset: int) -> None:
    """Software's own entry, in place of a leaf of that size."""
    pt.map(va, 0, size, page_size=size)
    pt.exchange(va, pt.arch.encode_soft(3, offset, level_of(pt, size)))


def build(pt: ptl.PageTable, layout: Layout, level: int, va: int) -> None:
    """Make an empty slot of that level, whose table is there, hold that; each leaf maps an address of its own."""
    span = pt.arch.level(level).span
    if layout == "L":
        pt.map(va, 0x10_0000 + va, span, "rw" if va & span else "rx", page_size=span)
    elif layout == "S":
        put_soft(pt, va, span, 0x100 + va // PAGE)
    elif layout != ".":
        pt.populate(va)
        if level > 2:
            pt.retract(va)
        for i, inner in enumerate(layout):
            build(pt, inner, level - 1, va + i * pt.arch.level(level - 1).span)
