"""What every benchmark is about: pages of 4 KiB from one address on, and the dict that holds the same ones.

A dict that stands in for a page table has page numbers as keys and physical addresses as values.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest

PAGE, HUGE, ALL = 4 << 10, 2 << 20, 256 << 20
PAGE_SHIFT, OFFSET = 12, PAGE - 1
VA, PA = 0x7F00_0000_0000, 0x1_0000_0000
CALLS = 1000
"""How often a round repeats what is too short to be timed alone."""


def group(name: str) -> pytest.MarkDecorator:
    """The mark of benchmarks that are to be compared with each other."""
    return pytest.mark.benchmark(group=name, disable_gc=True, max_time=0.5)


def numbers(length: int) -> range:
    """The page numbers of the first `length` bytes: the keys of a dict."""
    return range(VA // PAGE, (VA + length) // PAGE)


def frames(length: int) -> range:
    """The physical addresses of the pages of the first `length` bytes."""
    return range(PA, PA + length, PAGE)


def dict_of(length: int) -> dict[int, int]:
    """The first `length` bytes as a dict."""
    return dict(zip(numbers(length), frames(length), strict=True))


def drain(calls: Iterable[object]) -> None:
    """Go through an iterator at the speed of C, for a dict has no method that removes many keys."""
    deque(calls, 0)
