"""Refault: resolve nothing, report success, and let the access happen again; it will find what is there by then.

Stands for patch 05 (m68k: `sys_atomic_cmpxchg_32` goes to its bad_access path, which forces a fault and tries again)
and, in the second series, mm/memory.c (29): a page fault whose map fails returns 0.

Right only where the access really is repeated: by the hardware, or by the loop that is written here. It tells running
out of memory (an error) from a slot that became huge (try again), which the kernel's own allocating map cannot.
"""

from __future__ import annotations

from stage import VA, stage

import ptl


def handle_fault(pt: ptl.PageTable, va: int) -> str:
    """Map a page at an address, unless something is there by now."""
    ptes = pt.pte_alloc_map_lock(va)
    if ptes is None:
        return "refault"  # huge by now: not ours to resolve
    pa = pt.frames.alloc()
    with ptes:
        if not ptes.compare_exchange(ptes.index, pt.arch.level(1).empty, pt.arch.encode(pa, "rw")):
            pt.frames.free(pa)
            return "refault"  # somebody was faster
    return "mapped a page"


def load(pt: ptl.PageTable, va: int) -> tuple[int, list[str]]:
    """The physical address of an access that is repeated until it succeeds, and what happened on the way."""
    happened: list[str] = []
    while True:
        try:
            return pt.translate(va), happened
        except ptl.PageFault:
            happened.append(handle_fault(pt, va))


def main() -> None:
    """Fault a page in, and fault where a huge page appears in the middle."""
    pt = stage()
    pt.unmap(VA, 2 << 20)
    print(load(pt, VA)[1])
    huge = pt.frames.alloc(2 << 20)
    pt.before("pte_alloc_map_lock", lambda: pt.map(VA + (2 << 20), huge, 2 << 20))
    print(load(pt, VA + (2 << 20))[1])


if __name__ == "__main__":
    main()
