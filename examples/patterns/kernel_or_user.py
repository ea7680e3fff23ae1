"""Kernel or user: one function for both kinds of address, and an unmap that matches the map.

The kernel's table is mapped without a test, the user's with one, and only what was mapped with a pin is unmapped.

Stands for patch 05 (m68k: `load_ksp_mmu` and `cf_tlb_miss`). In the second series: walk_pte_range (10) retries for
users and uses `pte_offset_kernel` for the kernel.

The two ways must come together again in one exit, or the pin of one is lost, or the other lets go of what it does not
hold. Here a context manager does that: a map of a private tree is one, too, and has nothing to let go of.
"""

from __future__ import annotations

from stage import VA, stage

import ptl

KERNEL = 0xFFFF_8000_0000_0000


def tlb_miss(pt: ptl.PageTable, va: int) -> int:
    """The entry to load for an address, marked as accessed, or -1 for a fault."""
    ptes: ptl.PteMap | None = pt.pte_kernel(va) if va >= KERNEL else pt.pte_map(va)
    if ptes is None:
        return -1
    with ptes:
        page = ptes[ptes.index]
        if page is None:
            return -1
        entry = pt.arch.encode(page.pa, page.flags + "a")
        return entry if ptes.compare_exchange(ptes.index, page.raw, entry) else -1


def main() -> None:
    """Miss on a kernel's and on a user's address, and on one whose table leaves in the middle."""
    pt = stage()
    pt.map(KERNEL, 0x5000)
    print("kernel", hex(tlb_miss(pt, KERNEL)))
    print("user  ", hex(tlb_miss(pt, VA)))
    pt.before("pte_map", lambda: pt.collapse(VA))
    print("user  ", tlb_miss(pt, VA))


if __name__ == "__main__":
    main()
