"""Tables broken on purpose, and what happened on them: python broken.py NAME, with a `ptl` built with PTL_FAULTS=1.

Each is the core with one remedy taken out (`ptl._core.FAULTS`), and two threads whose calls show it. Every schedule
with few changes of thread is run; the first history that the checker refuses is printed. Without the fault it refuses
none.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from checker import first_that_fits_no_order
from dictated import Dictated, Setup, ask
from specification import EMPTY, TABLE, Call, Operation, Region, State

import ptl
from ptl._core import put_in_fault

REGION = Region(ptl.arch.get("tiny"), [0x10_0000, 0x20_0000], pages=4)
PAGE, SPAN = REGION.page_bytes, REGION.pages * REGION.page_bytes


@dataclass(frozen=True)
class Before:
    """What a region holds before the calls, and what that is in the specification."""

    setup: Setup
    state: State


ALL_PAGES = Before(lambda pt: pt.map(0, REGION.runs[0], SPAN, "rw", page_size=PAGE), (TABLE, (1, 1, 1, 1)))
TWO_PAGES = Before(lambda pt: pt.map(0, REGION.runs[0], 2 * PAGE, "rw"), (TABLE, (1, 1, 0, 0)))
ONE_PAGE = Before(lambda pt: pt.map(0, REGION.runs[0], PAGE, "rw"), (TABLE, (1, 0, 0, 0)))
USED_PAGE = Before(lambda pt: pt.map(0, REGION.runs[0], PAGE, "rwad"), (TABLE, (1, 0, 0, 0)))
EMPTY_TABLE = Before(lambda pt: pt.populate(0), (TABLE, (0, 0, 0, 0)))
NOTHING = Before(lambda pt: None, (EMPTY, (0, 0, 0, 0)))


@dataclass(frozen=True)
class Broken:
    """A fault, what it breaks, and two threads that show it."""

    fault: str
    before: Before
    threads: tuple[tuple[Call, ...], ...]
    switches: int = 1
    """How often the schedules change from one thread to the other."""

    def refused(self, *, fault: bool) -> tuple[list[Call], list[Call], int]:
        """The first history that fits no order, the calls in it that do not, and how many histories were checked.

        Raises RuntimeError for a fault in a build without faults.
        """
        dictated = Dictated(REGION, self.threads, self.before.setup)
        if fault and not put_in_fault(self.fault):
            raise RuntimeError("broken tables need ptl built with PTL_FAULTS=1")
        checked = 0
        try:
            for history in dictated.histories(self.switches):
                checked += 1
                wrong = first_that_fits_no_order(history, self.before.state, REGION.after)
                if wrong:
                    return history, wrong, checked
        finally:
            put_in_fault(None)
        return [], [], checked


BROKEN = {
    "a lost update": Broken(
        "change in two steps",
        ONE_PAGE,
        (
            (ask(Operation.COMPARE_EXCHANGE, argument=1, following=2),),
            (ask(Operation.COMPARE_EXCHANGE, argument=1, following=3),),
        ),
    ),
    "a read of what was unmapped before": Broken(
        "no flush of an entry", USED_PAGE, ((ask(Operation.TOUCH), ask(Operation.TOUCH)), (ask(Operation.UNMAP),))
    ),
    "a read of what a range unmapped before": Broken(
        "no flush of a range",
        USED_PAGE,
        ((ask(Operation.TOUCH), ask(Operation.TOUCH)), (ask(Operation.UNMAP, pages=2),)),
    ),
    "a torn range": Broken(
        "range freezes nothing",
        TWO_PAGES,
        (
            (ask(Operation.UNMAP, pages=2),),
            (ask(Operation.MAP, argument=1), ask(Operation.COMPARE_EXCHANGE, 1, argument=1, following=2)),
        ),
    ),
    "a fault lost by a collapse": Broken(
        "collapse freezes nothing",
        ALL_PAGES,
        ((ask(Operation.COMPARE_EXCHANGE, 1, argument=1, following=2),), (ask(Operation.COLLAPSE),)),
    ),
    "a fault lost by a retraction": Broken(
        "retract freezes nothing", EMPTY_TABLE, ((ask(Operation.MAP, 1),), (ask(Operation.RETRACT),))
    ),
    "an unmap lost by a collapse": Broken(
        "collapse locks no child", ALL_PAGES, ((ask(Operation.UNMAP, pages=2),), (ask(Operation.COLLAPSE),))
    ),
    "a table read at two moments": Broken(
        "range unlocks early", TWO_PAGES, ((ask(Operation.READ_TABLE),), (ask(Operation.UNMAP, pages=2),)), switches=2
    ),
    "a page that is there, and not found": Broken(
        "busy taken for an answer", ALL_PAGES, ((ask(Operation.TRANSLATE, 1),), (ask(Operation.COLLAPSE),))
    ),
    "two tables for one slot": Broken(
        "populate does not look again",
        NOTHING,
        ((ask(Operation.POPULATE), ask(Operation.MAP, 1)), (ask(Operation.POPULATE),)),
        switches=2,
    ),
}
"""By what is broken."""


def main(name: str) -> int:
    """Print the first history that is refused; 1 when none is."""
    history, wrong, checked = BROKEN[name].refused(fault=True)
    if not wrong:
        print(f"{checked} histories, and none is refused")
        return 1
    print(REGION.told(history, wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
