"""Again: no table where there was one a moment ago means that it has changed; look again from the top.

Stands for patches 15 (s390: `set_guest_storage_key` and its kin, the model of them all) and 19 (sparc64:
`get_user_insn`, with interrupts off). In the second series: userfaultfd's `must_wait` (14), hmm (13), migrate_device
(24).

Why it ends: the loop begins by looking at the live slot, with the same classifier that the map uses. A slot that is
empty now, or huge, leaves the loop by another way; only one that is a table again maps again. A loop that kept
testing an old copy of the slot, or did not know a state that the classifier knows, would never end.
"""

from __future__ import annotations

from stage import PAGE, VA, stage

import ptl


def set_storage_key(pt: ptl.PageTable, va: int, key: str) -> str:
    """Mark the page at an address as `key` says ("d" for changed), whatever size it has; says how it was done."""
    turns = 0
    while True:
        turns += 1
        slot = pt.pmd(va)
        if slot is None or slot.state is ptl.State.EMPTY:
            return "nothing mapped"
        if slot.state is ptl.State.HUGE:
            with_slot = slot.lock()
            if with_slot is None or slot.state is not ptl.State.HUGE:
                continue
            with with_slot:
                leaf = pt.lookup(va)
                if leaf is not None and pt.compare_exchange(va, leaf.raw, dirty(pt, leaf, key), level=leaf.level):
                    return f"huge page, turn {turns}"
            continue
        ptes = pt.pte_map_lock(va)
        if ptes is None:
            continue  # again: the slot is not a table any more
        with ptes:
            page = ptes[ptes.index]
            if page is None:
                return "nothing mapped"
            if ptes.compare_exchange(ptes.index, page.raw, dirty(pt, page, key)):
                return f"page, turn {turns}"


def dirty(pt: ptl.PageTable, leaf: ptl.Leaf, key: str) -> int:
    """The entry of a leaf with one attribute more."""
    return pt.arch.encode(leaf.pa, leaf.flags + key, leaf.level)


def main() -> None:
    """Set a key in a table, and in one that becomes a huge page in the middle."""
    pt = stage()
    print(set_storage_key(pt, VA + PAGE, "d"))
    pt.before("pte_map_lock", lambda: pt.collapse(VA))
    print(set_storage_key(pt, VA, "d"), pt.lookup(VA))


if __name__ == "__main__":
    main()
