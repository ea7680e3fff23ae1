"""Huge page at the leaf level: a run of ordinary entries that is set, read, changed and cleared as one page.

Stands for patches 03 (arm64: contiguous entries), 04 (ia64), 10 (parisc), 13 (powerpc 8xx: the allocating side only),
14 (riscv: Svnapot), 17 (sh) and 18 (sparc): hugetlb's `pte_alloc_huge` and `pte_offset_huge`.

hugetlb's tables are never retracted to make a transparent huge page, and have locks of their own: so the map is the
kernel's kind, without a test and without a pin. Allocating can fail for memory only. The kernel sets and clears each
entry of the run by itself, and each architecture has its own loop for that; here the size says which entries they are.
"""

from __future__ import annotations

from stage import VA, stage

import ptl

SIZE = 64 << 10  # 16 entries of 4 KiB: arm64's contiguous run, riscv's only Svnapot order


def set_huge_pte(pt: ptl.PageTable, va: int, pa: int) -> None:
    """Map 64 KiB as one page. Raises OutOfFrames."""
    pt.pte_alloc_huge(va)
    pt.map(va, pa, SIZE, page_size=SIZE)


def huge_ptep_get(pt: ptl.PageTable, va: int) -> ptl.Leaf | None:
    """The page that maps an address: accessed and dirty when any entry of its run is."""
    ptes = pt.pte_huge(va)
    return ptes[ptes.index]


def huge_ptep_set_wrprotect(pt: ptl.PageTable, va: int) -> bool:
    """Make the page read-only, all of its run; whether it was writable."""
    return pt.test_and_clear(va, "w")


def huge_ptep_clear(pt: ptl.PageTable, va: int) -> int:
    """Unmap the page, all of its run; returns how many bytes that was."""
    return pt.unmap(va & -SIZE, SIZE)


def main() -> None:
    """Set, use, protect and clear a 64 KiB page, beside a collapse of the region next to it."""
    pt = stage(arch="arm64_4k")
    va = VA + (4 << 20)
    cpu = ptl.tlb.Tlb()
    cpu.attach(pt)
    set_huge_pte(pt, va, pt.frames.alloc(SIZE))
    cpu.write(pt, va + SIZE // 2, b"to its ninth part")
    print("set     ", huge_ptep_get(pt, va))
    print("entries ", [hex(raw) for raw in pt.pte_huge(va).entries()[:2]], "and", SIZE // 4096 - 2, "more")
    pt.collapse(VA)
    print("refused ", pt.collapse(va).name)  # its table has holes, and its frames begin elsewhere
    print("protects", huge_ptep_set_wrprotect(pt, va), huge_ptep_get(pt, va))
    print("cleared ", huge_ptep_clear(pt, va + SIZE // 2), huge_ptep_get(pt, va))


if __name__ == "__main__":
    main()
