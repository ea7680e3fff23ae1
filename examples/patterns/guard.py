"""Guard: one test stands for "no table" and for "nothing in it"; what follows the map is done only if it was mapped.

Stands for patch 06 (microblaze: writing a signal frame; NULL or not present: no cache line to flush; unmap only if
mapped).

Right when the work is an optimisation or a repair of something that exists only if the page does.
"""

from __future__ import annotations

from stage import VA, stage

import ptl


def flush_signal_frame(pt: ptl.PageTable, va: int) -> int | None:
    """The physical address of the cache line to flush, or None when there is none."""
    line = None
    ptes = pt.pte_map(va)
    if ptes is not None:
        if (page := ptes[ptes.index]) is not None:
            line = page.pa + (va - page.va)
        ptes.close()
    return line


def main() -> None:
    """Flush a line, and one whose table leaves in the middle."""
    pt = stage()
    print("flush", hex(flush_signal_frame(pt, VA + 64) or 0))

    def unmap() -> None:
        pt.unmap(VA, 2 << 20)

    pt.before("pte_map", unmap)
    print("flush", flush_signal_frame(pt, VA + 64))


if __name__ == "__main__":
    main()
