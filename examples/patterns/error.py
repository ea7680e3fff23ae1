"""Error: no table is a failure that the caller reports, and whoever asked decides.

Stands for patches 15 (s390: `gmap_make_secure` answers -ENXIO) and 01 (arm: `pin_page_for_write` answers 0, and the
copy takes the slow path). In the second series: userfaultfd's fill answers -EAGAIN (15), mremap's `move_ptes` too
(19).

Right when the caller's caller can do something better than wait: fault the page in, take a slower path, tell the
program.
"""

from __future__ import annotations

from stage import PAGE, VA, stage

import ptl


class NotResident(Exception):
    """The page is not there to be made secure: -ENXIO."""


def make_secure(pt: ptl.PageTable, va: int) -> ptl.Leaf:
    """Take a page from its user, who may not read it any more; returns what was mapped."""
    ptes = pt.locked_pte(va)
    if ptes is None:
        raise NotResident(hex(va))
    with ptes:
        page = ptes[ptes.index]
        if page is None:
            raise NotResident(hex(va))
        if not ptes.compare_exchange(ptes.index, page.raw, pt.arch.level(1).empty):
            raise NotResident(hex(va))
        return page


def main() -> None:
    """Make a page secure, and one that has become part of a huge page."""
    pt = stage()
    print("secure:", make_secure(pt, VA + PAGE))
    pt.map(VA + PAGE, pt.translate(VA) + PAGE)
    pt.collapse(VA)
    try:
        make_secure(pt, VA + PAGE)
    except NotResident as error:
        print("-ENXIO:", error)


if __name__ == "__main__":
    main()
