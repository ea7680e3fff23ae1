"""Walker told to redo this slot: a caller whose map fails says so, and the walk that serves it looks again.

Stands, in the second series, for pagewalk and its users (09: mincore, mlock, damon, memcg, mempolicy): the callback
sets `walk->action = ACTION_AGAIN`.

The callback does not loop by itself, because only the walker knows the other states of the slot: it tests for a hole
and for a huge page before it calls. So the retry goes through the same tests.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from stage import PAGE, SPAN, VA, stage

import ptl


class Action(Enum):
    """What the walker does after a callback."""

    NEXT = "go on with the next slot"
    AGAIN = "look at this slot again"


def walk_range(
    pt: ptl.PageTable,
    va: int,
    end: int,
    *,
    hole: Callable[[int, int], None],
    huge: Callable[[int, int], None],
    table: Callable[[int, int], Action],
) -> None:
    """Call one of three functions for each slot of level 2 in [va, end)."""
    while va < end:
        following = min(end, (va & -SPAN) + SPAN)
        slot = pt.pmd(va)
        action = Action.NEXT
        if slot is None or slot.state is ptl.State.EMPTY:
            hole(va, following)
        elif slot.state is ptl.State.HUGE:
            huge(va, following)
        else:
            action = table(va, following)
        if action is Action.NEXT:
            va = following


def mincore(pt: ptl.PageTable, va: int, end: int) -> bytes:
    """Which pages of a range are there: a 1 or 0 each."""
    found = bytearray()

    def table(first: int, last: int) -> Action:
        ptes = pt.pte_map(first)
        if ptes is None:
            return Action.AGAIN
        with ptes:
            found.extend(ptes[(page - ptes.va) // PAGE] is not None for page in range(first, last, PAGE))
        return Action.NEXT

    def hole(first: int, last: int) -> None:
        found.extend(bytes((last - first) // PAGE))

    def huge(first: int, last: int) -> None:
        found.extend(b"\1" * ((last - first) // PAGE))

    walk_range(pt, va, end, hole=hole, huge=huge, table=table)
    return bytes(found)


def main() -> None:
    """Ask for a table and a hole, with a collapse in the middle."""
    pt = stage()
    pt.unmap(VA, PAGE)
    print("pages:", sum(mincore(pt, VA, VA + 2 * SPAN)))
    pt.map(VA, pt.translate(VA + PAGE) - PAGE)
    pt.before("pte_map", lambda: pt.collapse(VA))
    print("pages:", sum(mincore(pt, VA, VA + 2 * SPAN)))


if __name__ == "__main__":
    main()
