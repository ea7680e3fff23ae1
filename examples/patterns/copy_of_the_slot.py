"""Map through a copy of the slot: look at the table that a slot named, after the slot has changed.

Stands for patch 19 (sparc64: `tlb_batch_pmd_scan` gets the old value of the pmd, and scans the table that it named
for what must be flushed; NULL: return). In the kernel's collapse of anonymous memory: the table is detached, and
mapped through the copy of the pmd on the stack.

Here the copy is a map that was made before the change: it pins the table, so its last contents stay readable after
the slot names something else. Reading through it is right; what is written there is lost, so it is refused.
"""

from __future__ import annotations

from stage import PAGE, VA, stage

import ptl


def scan_for_flush(old: ptl.PteMap | None) -> list[int]:
    """The addresses of the pages that a detached table had mapped, and that were used."""
    if old is None:
        return []
    with old:
        return [leaf.va for i in range(len(old)) if (leaf := old[i]) is not None and "a" in leaf.flags]


def main() -> None:
    """Collapse a region, then scan what was there; and a region that had no table."""
    pt = stage()
    for page in (1, 5, 7):
        pt.protect(VA + page * PAGE, PAGE, "rwa")
    old = pt.pte_map_ro(VA)
    pt.collapse(VA)
    print("to flush:", [hex(va) for va in scan_for_flush(old)])
    print("to flush:", scan_for_flush(pt.pte_map_ro(VA)))


if __name__ == "__main__":
    main()
