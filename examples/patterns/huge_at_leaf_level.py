"""Huge page at the leaf level: a run of ordinary entries that is set, read and cleared as one page.

Stands for patches 03 (arm64: contiguous entries), 04 (ia64), 10 (parisc), 13 (powerpc 8xx: the allocating side only),
14 (riscv: Svnapot), 17 (sh) and 18 (sparc): hugetlb's `pte_alloc_huge` and `pte_offset_huge`.

hugetlb's tables are never retracted to make a transparent huge page, and have locks of their own: so the map is the
kernel's kind, without a test and without a pin. Allocating can fail for memory only.
"""

from __future__ import annotations

from stage import PAGE, VA, stage

import ptl

RUN = 16  # entries of one 64 KiB page: arm64's contiguous run, riscv's only Svnapot order


def set_huge_pte(pt: ptl.PageTable, va: int, pa: int) -> None:
    """Map 64 KiB as one page. Raises OutOfFrames."""
    ptes = pt.pte_alloc_huge(va)
    for i in range(RUN):
        assert ptes.compare_exchange(ptes.index + i, pt.arch.level(1).empty, pt.arch.encode(pa + i * PAGE, "rw"))


def huge_ptep_get(pt: ptl.PageTable, va: int) -> ptl.Leaf | None:
    """The page that maps an address: accessed and dirty when any entry of its run is."""
    ptes = pt.pte_huge(va)
    first = ptes.index & -RUN
    run = [ptes[i] for i in range(first, first + RUN)]
    head = run[0]
    if head is None:
        return None
    used = {flag for leaf in run if leaf for flag in leaf.flags if flag in "ad"}
    flags = "".join(flag for flag in ptl.arch.FLAGS if flag in {*head.flags, *used})
    return ptl.Leaf(head.va, head.pa, RUN * PAGE, flags, 1, head.raw)


def huge_ptep_clear(pt: ptl.PageTable, va: int) -> int:
    """Unmap the page, all of its run; returns how many entries there were."""
    ptes = pt.pte_huge(va)
    first = ptes.index & -RUN
    return sum(
        ptes.compare_exchange(i, ptes.load(i), pt.arch.level(1).empty) for i in range(first, first + RUN) if ptes[i]
    )


def main() -> None:
    """Set, use and clear a 64 KiB page, beside a collapse of the region next to it."""
    pt = stage()
    va = VA + (4 << 20)
    set_huge_pte(pt, va, 0x10_0000)
    ptes = pt.pte_huge(va)
    raw = ptes.load(5)
    ptes.compare_exchange(
        5, raw, raw | pt.arch.encode(0, "rd") ^ pt.arch.encode(0, "r")
    )  # what a store to its sixth part does
    print("set    ", huge_ptep_get(pt, va + 3 * PAGE))
    pt.collapse(VA)
    print("refused", pt.collapse(va).name)  # a table with holes does not become a transparent huge page
    print("cleared", huge_ptep_clear(pt, va + 3 * PAGE), huge_ptep_get(pt, va))


if __name__ == "__main__":
    main()
