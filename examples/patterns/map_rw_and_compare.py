"""Map for writing and compare: map without the lock, prepare, then lock, and write only if the slot is still the same.

Stands, after the three series, for `pte_offset_map_rw_nolock` (6.13), which hands back the pmd that it saw, for the
caller to compare under the lock (`pmd_same`): collapse of file memory, userfaultfd's move. Series B's page_vma_mapped
walk (06 to 08) is the read side.

What is prepared may take long, and needs no lock. A none entry proves nothing about a table that has left, for it is
empty, too: only the slot does.
"""

from __future__ import annotations

from stage import PAGE, VA, stage

import ptl


def set_if_same(pt: ptl.PageTable, va: int, pa: int) -> str:
    """Put a page where none is, prepared before the lock is taken."""
    ptes = pt.pte_map_rw(va)
    if ptes is None:
        return "no table"
    with ptes:
        entry = pt.arch.encode(pa, "rw")  # what takes long
        prepared(pt, va)
        if not ptes.try_lock():
            return "the slot has changed: give up"
        done = ptes.compare_exchange(ptes.index, pt.arch.level(1).empty, entry)
        return "mapped" if done else "somebody was faster"


def prepared(pt: ptl.PageTable, va: int) -> None:
    """Between the map and the lock: where `main` lets another thread in."""
    if isinstance(pt, ptl.PageTable) and hasattr(pt, "_let"):
        pt._let("prepared")


def main() -> None:
    """Map a page, and one whose empty table is retracted between the map and the lock."""
    pt = stage()
    pt.unmap(VA + PAGE, (2 << 20) - PAGE)
    print(set_if_same(pt, VA + PAGE, 0x5000))

    def zap_and_retract() -> None:
        pt.unmap(VA, 2 * PAGE)
        pt.retract(VA)

    pt.before("prepared", zap_and_retract)
    print(set_if_same(pt, VA + PAGE, 0x5000), pt.lookup(VA + PAGE))


if __name__ == "__main__":
    main()
