"""Skip: no table means nothing is mapped there, and that is an answer.

Stands for patches 01 (arm: `show_pte`, `adjust_pte`), 02 (arm64: `show_pte`), 12 (powerpc: `subpage_prot`) and, where
a contract makes it complete, 15 (s390: `__zap_zero_pages` stops, because core mm inserts no table that could hold a
zero page once they are forbidden). In the second series: fault-around gives up (05), swapoff skips (22), "various"
(17).

Right when the caller only reports, or when a table that appears later cannot hold what the caller looks for. Wrong when
the caller must have dealt with every page before it goes on: then see again.py.
"""

from __future__ import annotations

from stage import VA, stage

import ptl


def show_pte(pt: ptl.PageTable, va: int) -> str:
    """The entries on the way to an address, as far as they go: what the kernel prints when it dies."""
    slot = pt.pmd(va)
    if slot is None:
        return "*pgd is none"
    line = f"*pmd={slot.load():016x}"
    ptes = pt.pte_map(va)
    if ptes is None:
        return line
    with ptes:
        return f"{line}, *pte={ptes.load(ptes.index):016x}"


def main() -> None:
    """Show an entry, and one whose table becomes a huge page in the middle."""
    pt = stage()
    print("a table:   ", show_pte(pt, VA))
    pt.before("pte_map", lambda: pt.collapse(VA))
    print("collapsed: ", show_pte(pt, VA))


if __name__ == "__main__":
    main()
