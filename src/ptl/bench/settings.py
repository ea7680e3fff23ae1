"""How large and how long: the whole suite, or a quick look."""

from __future__ import annotations

from dataclasses import dataclass

from ptl.bench.measure import Effort


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers of pages and operations, and how long to measure each contest."""

    effort: Effort
    pages: int
    """Of a batch, every seventh of a range."""
    dense_pages: int
    native_lookups: int
    range_bytes: int
    """What is mapped, protected and unmapped at once."""
    kernel_bytes: int
    """What the kernel protects."""
    curve_pages: tuple[int, ...]
    race_seconds: float
    """For each policy and kind of collapse."""


WHOLE = Size(
    effort=Effort(8.0),
    pages=1 << 20,
    dense_pages=4 << 20,
    native_lookups=1 << 18,
    range_bytes=1 << 30,
    kernel_bytes=256 << 20,
    curve_pages=tuple(1 << n for n in range(6, 23, 2)),
    race_seconds=5.0,
)
QUICK = Size(
    effort=Effort(0.7),
    pages=1 << 17,
    dense_pages=1 << 19,
    native_lookups=1 << 15,
    range_bytes=256 << 20,
    kernel_bytes=32 << 20,
    curve_pages=tuple(1 << n for n in range(8, 19, 5)),
    race_seconds=0.3,
)
