"""Private tree: a table that nobody else retracts is mapped without a test, and without a pin.

Stands for patches 11 (powerpc: KVM's second-stage tree, `kvmppc_unmap_free_pmd`), 09 (parisc: `unmap_uncached_pte`), 20
(sparc: iounit and iommu) and 22 (x86: the early identity map of SME): `pte_offset_kernel`. In the second series:
vmalloc_to_page (12).

The tree belongs to its owner, who changes it under a lock of his own. KVM notes that it solves the race of table and
huge page itself. What looks like the same call on a tree that others collapse is a bug: the second half shows how it
shows.
"""

from __future__ import annotations

from stage import PAGE, SPAN, VA, stage

import ptl


def unmap_guest_table(pt: ptl.PageTable, va: int) -> int:
    """Clear one table of a guest's tree and free it; returns how many pages there were."""
    ptes = pt.pte_kernel(va)
    pages = 0
    for i in range(len(ptes)):
        if ptes[i] is not None:
            pages += ptes.compare_exchange(i, ptes.load(i), pt.arch.level(1).empty)
    pt.retract(va)
    return pages


def main() -> None:
    """Clear a guest's table; then see what becomes of an unpinned map of a tree that is not private."""
    guest = stage()
    guest.unmap(VA + 8 * PAGE, SPAN - 8 * PAGE)
    print("pages:", unmap_guest_table(guest, VA), "left:", guest.stats()["tables"], "tables")

    shared = stage()
    ptes = shared.pte_kernel(VA)
    shared.collapse(VA)
    changed = ptes.compare_exchange(0, ptes.load(0), 0)
    print("not private after all: stale", ptes.stale, "changed", changed)


if __name__ == "__main__":
    main()
