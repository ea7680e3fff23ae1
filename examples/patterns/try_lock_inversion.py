"""Try-lock inversion: the lower lock is held, and the upper one is needed; only trying is allowed.

Stands, after the three series, for the reclaim of emptied tables in MADV_DONTNEED (6.14): the fast path holds the
table's lock since the zap began, and tries the pmd's; when it gets it, the table is known to be empty, for nobody
could fill it. The slow path lets go, takes both in order, and looks at every entry again.

The serious bug here was to believe in the fast path's knowledge after the lock had been let go in between: see
`retract trusts its look` in tests/test_faults.py.
"""

from __future__ import annotations

import threading

from stage import SPAN, VA, stage

import ptl


def zap_and_reclaim(pt: ptl.PageTable, va: int) -> str:
    """Empty a region and give its table back; says on which path."""
    ptes = pt.pte_map_lock(va)
    if ptes is None:
        return "no table"
    slot = pt.pmd(va)
    with ptes:
        for i in range(len(ptes)):
            while not ptes.compare_exchange(i, ptes.load(i), pt.arch.level(1).empty):
                pass  # hardware set accessed or dirty
        above = slot.try_lock() if slot is not None else None
    if above is None:
        path = "slow: the upper lock was held by another"
    else:
        path = "fast: both locks"
        above.close()
    # In the core a retract always looks again, with both locks held and every entry frozen: that is the slow path, and
    # it costs a microsecond. So there is no fast one to go wrong.
    return f"{path}; {pt.retract(va).name}"


def main() -> None:
    """Reclaim a table, and one whose slot is locked by another thread meanwhile."""
    pt = stage(2)
    print(zap_and_reclaim(pt, VA))
    slot = pt.pmd(VA + SPAN)
    assert slot is not None
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        lock = slot.lock()
        assert lock is not None
        with lock:
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    pt.before("retract", done.set)
    print(zap_and_reclaim(pt, VA + SPAN))
    other.join()


if __name__ == "__main__":
    main()
