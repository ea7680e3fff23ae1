"""Copy out, then unmap: read what is needed into locals, let go, and only then act on it.

Stands for patches 08 (parisc: three cache flushes read flags and frame from `get_ptep`, unmap, then flush) and 23
(xtensa: the TLB check reads the value, unmaps, returns the value).

What is done with the value may sleep, or take long; a map in the kernel must not be held over that. The value may be
out of date by then: it was true when it was read, and acting on it must be harmless if it is not true any more.
"""

from __future__ import annotations

from stage import VA, stage

import ptl


def flush_cache_page(pt: ptl.PageTable, va: int) -> str:
    """Flush the cache lines of a page, by its physical address; says what was flushed."""
    ptes = pt.pte_map(va)
    if ptes is None:
        return "nothing to flush"
    with ptes:
        page = ptes[ptes.index]  # a copy: the map is not needed for what follows
    if page is None or "a" not in page.flags:
        return "never used: nothing to flush"
    return f"flush {page.pa:#x}"


def main() -> None:
    """Flush a page that was used, one that was not, and one whose table leaves in the middle."""
    pt = stage()
    pt.protect(VA, 4096, "rwa")
    print(flush_cache_page(pt, VA))
    print(flush_cache_page(pt, VA + 4096))
    pt.before("pte_map", lambda: pt.collapse(VA))
    print(flush_cache_page(pt, VA))


if __name__ == "__main__":
    main()
