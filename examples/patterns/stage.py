"""The stage of the examples beside this file: a page table that another thread changes at the worst moment.

`stage.before("pte_map", change)` lets another thread run `change()` to its end just before the next `pte_map` looks
at the slot: after the caller has looked, and before it has mapped. What fails then fails for the reason it would fail
for in a busy system; only the moment is chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import SupportsIndex

import ptl

SPAN = 2 << 20
PAGE = 4096
VA = 1 << 30


class Stage(ptl.PageTable):
    """A table with data frames, whose maps can be preceded by a change of another thread."""

    def __init__(self, *_: object, **__: object) -> None:
        self._changes: dict[str, Callable[[], object]] = {}

    def before(self, call: str, change: Callable[[], object]) -> None:
        """Let another thread run `change` before the next call of that name."""
        self._changes[call] = change

    def _let(self, call: str) -> None:
        change = self._changes.pop(call, None)
        if change is not None:
            other = threading.Thread(target=change)
            other.start()
            other.join()

    def pte_map(self, va: SupportsIndex, /) -> ptl.PteMap | None:
        """As PageTable's."""
        self._let("pte_map")
        return super().pte_map(va)

    def pte_map_rw(self, va: SupportsIndex, /) -> ptl.PteMapRw | None:
        """As PageTable's."""
        self._let("pte_map_rw")
        return super().pte_map_rw(va)

    def pte_map_lock(self, va: SupportsIndex, /) -> ptl.PteLock | None:
        """As PageTable's."""
        self._let("pte_map_lock")
        return super().pte_map_lock(va)

    def retract(self, va: SupportsIndex, /, *, level: SupportsIndex = 2) -> ptl.Outcome:
        """As PageTable's."""
        self._let("retract")
        return super().retract(va, level=level)

    def locked_pte(self, va: SupportsIndex, /) -> ptl.PteLock | None:
        """As PageTable's."""
        self._let("locked_pte")
        return super().locked_pte(va)

    def pte_alloc_map_lock(self, va: SupportsIndex, /) -> ptl.PteLock | None:
        """As PageTable's."""
        self._let("pte_alloc_map_lock")
        return super().pte_alloc_map_lock(va)


def stage(regions: int = 1, arch: str = "x86_64") -> Stage:
    """A table with `regions` of 2 MiB mapped page by page from VA, to frames that could be huge pages."""
    frames = ptl.Frames(64 << 20)
    pt = Stage(arch, frames=frames)
    for region in range(regions):
        pt.map(VA + region * SPAN, frames.alloc(SPAN), SPAN, page_size=PAGE)
    return pt
