"""Balance through a helper: what one function maps and another ends with must carry the map, not only the lock.

Stands for patches 16 (s390: `gmap_pte_op_end(ptep, ptl)` gets the pte as well, so that it can unmap), 12 (powerpc: xmon
unmaps on both ways out) and 07 (mips: `update_mmu_cache`).

Patch 07 as it shipped: keep the walk, and "add pte_unmap() to balance pte_offset_map()"; a map that fails is not
handled in any useful way there. Its first version dropped the walk, because `update_mmu_cache` receives the pte from
its caller, and used that pointer (HAVE-PTR). It broke the boot and was replaced. The lesson that this example draws
from it (an inference: the mails say that it broke, not how a reader should remember it): a pointer that was handed
over is not a map. Only who has mapped knows what it points to, and for how long; `refill_from_pointer` below is that
mistake, made here.
"""

from __future__ import annotations

from dataclasses import dataclass

from stage import PAGE, VA, stage

import ptl


@dataclass
class Operation:
    """An entry that is being worked on, and the map that keeps it."""

    ptes: ptl.PteLock
    index: int


def pte_op_begin(pt: ptl.PageTable, va: int) -> Operation | None:
    """Map and lock; None, and nothing held, when there is no table."""
    ptes = pt.pte_map_lock(va)
    return None if ptes is None else Operation(ptes, ptes.index)


def pte_op_end(operation: Operation) -> None:
    """Unlock and unmap: one call for the two, so neither is forgotten."""
    operation.ptes.close()


def protect_page(pt: ptl.PageTable, va: int) -> bool:
    """Make one page read-only; whether there was one."""
    operation = pte_op_begin(pt, va)
    if operation is None:
        return False
    try:
        page = operation.ptes[operation.index]
        if page is None:
            return False
        return operation.ptes.compare_exchange(operation.index, page.raw, pt.arch.encode(page.pa, "r"))
    finally:
        pte_op_end(operation)


def update_tlb(pt: ptl.PageTable, va: int) -> int:
    """Patch 07 as it shipped: walk, read, unmap. 0 is an entry that faults again."""
    ptes = pt.pte_map(va)
    if ptes is None:
        return 0
    with ptes:
        return ptes.load(ptes.index)


def refill_from_pointer(ptes: ptl.PteMap, index: int) -> int:
    """Patch 07 as it was first: read through the pointer that somebody else has mapped, and perhaps unmapped."""
    return ptes.load(index)


def main() -> None:
    """Work on an entry through helpers, beside a collapse; then refill a TLB both ways."""
    pt = stage()
    print("protected:", protect_page(pt, VA + PAGE))
    pt.protect(VA, 2 << 20, "rw")
    pt.before("pte_map_lock", lambda: pt.collapse(VA))
    print("protected:", protect_page(pt, VA + PAGE))
    pt.split(VA)

    ptes = pt.pte_map(VA)
    assert ptes is not None
    print("walked:", hex(update_tlb(pt, VA)))
    ptes.close()  # the caller has done its part
    pt.collapse(VA)
    print("walked again:", update_tlb(pt, VA))
    try:
        refill_from_pointer(ptes, 0)
    except ValueError as error:
        print("through the pointer:", error)


if __name__ == "__main__":
    main()
