"""Warn and continue: this cannot happen; if it does, say so once, leave that page out, and finish the others.

Stands for patch 21 (x86: unmapping the LDT, `get_locked_pte` answers NULL: WARN_ON_ONCE, skip clear and unlock, go
on). In the second series: debug_vm_pgtable and page_table_check (16).

Right when nobody else may have changed this part of the table, so a failure is a bug elsewhere, and stopping half-way
would make it worse.
"""

from __future__ import annotations

import warnings

from stage import PAGE, SPAN, VA, stage

import ptl


def unmap_ldt(pt: ptl.PageTable, va: int, pages: int) -> int:
    """Clear the alias of a segment table, page by page; returns how many pages were cleared."""
    cleared = 0
    for page in range(va, va + pages * PAGE, PAGE):
        ptes = pt.pte_map_lock(page)
        if ptes is None:
            warnings.warn(f"no table for the alias at {page:#x}", RuntimeWarning, stacklevel=2)
            continue
        with ptes:
            cleared += ptes.compare_exchange(ptes.index, ptes.load(ptes.index), pt.arch.level(1).empty)
    return cleared


def main() -> None:
    """Clear an alias, and one of whose two tables somebody has made a huge page."""
    pt = stage(2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        print("cleared:", unmap_ldt(pt, VA, 4), "warned:", len(said))
        end = VA + SPAN - 2 * PAGE
        pt.before("pte_map_lock", lambda: pt.collapse(VA + SPAN))
        print("cleared:", unmap_ldt(pt, end, 4), "warned:", len(said))


if __name__ == "__main__":
    main()
