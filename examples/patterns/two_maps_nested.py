"""Two maps nested: a source and a destination; when the second fails, what the first holds is let go of.

Stands, in the second series, for mremap's `move_ptes` (19: -EAGAIN, and the caller loops) and fork's `copy_pte_range`
(28: a source that is gone is skipped, a destination without memory is an error); later for UFFDIO_MOVE.

Two locks of one kind need an order: by address. And the source must be looked at again under its lock: see
tests/test_history.py for what happened when it was not.
"""

from __future__ import annotations

from contextlib import ExitStack

from stage import PAGE, SPAN, VA, stage

import ptl


def move_ptes(pt: ptl.PageTable, old: int, new: int, pages: int) -> int:
    """Move pages of one table to another, entry by entry; returns how many, or -1 to be called again."""
    maps: dict[int, ptl.PteLock] = {}
    with ExitStack() as stack:
        for va in sorted((old, new)):  # by address, whichever is the source
            ptes = pt.pte_map_lock(va) if va == old else pt.pte_alloc_map_lock(va)
            if ptes is None:
                return -1
            maps[va] = stack.enter_context(ptes)
        source, target = maps[old], maps[new]
        moved = 0
        for i in range(pages):
            page = source[source.index + i]
            if page is None:
                continue
            if not source.compare_exchange(source.index + i, page.raw, pt.arch.level(1).empty):
                return -1
            moved += target.compare_exchange(target.index + i, pt.arch.level(1).empty, page.raw)
        return moved


def mremap(pt: ptl.PageTable, old: int, new: int, pages: int) -> list[int]:
    """Move pages within one region each, as often as it takes; returns what each attempt came to."""
    attempts = [move_ptes(pt, old, new, pages)]
    while attempts[-1] < 0:
        pt.split(old)
        attempts.append(move_ptes(pt, old, new, pages))
    return attempts


def main() -> None:
    """Move pages, and pages whose table becomes a huge page in the middle."""
    pt = stage()
    print(mremap(pt, VA, VA + 2 * SPAN, 4), pt.lookup(VA + 2 * SPAN))
    pt.move(VA + 2 * SPAN, VA, 4 * PAGE)
    pt.before("pte_map_lock", lambda: pt.collapse(VA))
    print(mremap(pt, VA, VA + 4 * SPAN, 4), pt.lookup(VA))


if __name__ == "__main__":
    main()
