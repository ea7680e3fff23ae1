"""Skip through a cleanup exit: no table ends the work, but not before what was begun is ended.

Stands for patches 12 (powerpc: `flush_hash_table_pmd_range` leaves lazy-mmu mode and restores interrupts on one
exit), 19 (sparc32 compat: `flush_signal_insns` enables interrupts again) and 05 (m68k ColdFire: six early returns of
`cf_tlb_miss` folded into one that unmaps and restores interrupts).

The map may fail after something was switched off. An early return there would leave it off: so there is one way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stage import PAGE, SPAN, VA, stage

import ptl

lazy_mode: list[str] = []


@contextmanager
def lazy_mmu_mode() -> Iterator[None]:
    """What must be left again, whatever happens."""
    lazy_mode.append("entered")
    try:
        yield
    finally:
        lazy_mode.append("left")


def flush_hash_table_pmd_range(pt: ptl.PageTable, va: int) -> int:
    """Count the pages of one table that would have to leave the hash table."""
    flushed = 0
    with lazy_mmu_mode():
        ptes = pt.pte_map(va)
        if ptes is not None:
            with ptes:
                flushed = sum(ptes[i] is not None for i in range(len(ptes)))
    return flushed


def main() -> None:
    """Flush a table, and one that is retracted in the middle."""
    pt = stage()
    pt.unmap(VA + 8 * PAGE, SPAN - 8 * PAGE)
    print("flushed:", flush_hash_table_pmd_range(pt, VA), lazy_mode)

    def zap_and_retract() -> None:
        pt.unmap(VA, PAGE * 8)
        pt.retract(VA)

    pt.before("pte_map", zap_and_retract)
    print("retracted:", flush_hash_table_pmd_range(pt, VA), lazy_mode)


if __name__ == "__main__":
    main()
