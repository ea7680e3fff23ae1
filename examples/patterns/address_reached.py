"""Return the address reached and retry: the inner loop works on one table, and tells the outer one how far it got.

Stands, in the second series, for mm/memory.c (28): `zap_pte_range` returns the address it reached, and the loop over
pmds goes on from there: at the same slot when the map failed, for it is something else now. Reclaim of emptied tables
(6.14) builds on it.

Nothing may be left out: unlike in skip.py, every page must be gone when the outer loop ends.
"""

from __future__ import annotations

from stage import SPAN, VA, stage

import ptl


def zap_pte_range(pt: ptl.PageTable, va: int, end: int) -> int:
    """Empty what one table maps of [va, end); returns the address reached: `va` itself when there is no table now."""
    ptes = pt.pte_map_lock(va)
    if ptes is None:
        return va
    with ptes:
        last = min(end, ptes.va + SPAN)
        while va < last:
            i = (va - ptes.va) // 4096
            if not ptes.compare_exchange(i, ptes.load(i), pt.arch.level(1).empty):
                continue  # hardware set accessed or dirty
            va += 4096
    return va


def zap_range(pt: ptl.PageTable, va: int, end: int) -> int:
    """Empty [va, end); returns how often a table was gone when it was to be mapped."""
    retries = 0
    while va < end:
        slot = pt.pmd(va)
        following = min(end, (va & -SPAN) + SPAN)
        if slot is None or slot.state is ptl.State.EMPTY:
            va = following
        elif slot.state is ptl.State.HUGE:
            if va % SPAN == 0 and following - va == SPAN:
                pt.unmap(va, SPAN)
                va = following
            else:
                pt.split(va)
        else:
            reached = zap_pte_range(pt, va, following)
            retries += reached == va
            va = reached
    return retries


def main() -> None:
    """Zap two regions, one of which is collapsed in the middle."""
    pt = stage(2)
    pt.before("pte_map_lock", lambda: pt.collapse(VA))
    print("retries:", zap_range(pt, VA, VA + 2 * SPAN), "left:", pt.lookup(VA), pt.lookup(VA + SPAN))


if __name__ == "__main__":
    main()
