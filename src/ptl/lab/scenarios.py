"""The scenarios: a story each, with what it must come to.

Those of the machine are paths that a student edits; those of the core are the operations that everybody uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ptl._core import PageTable
from ptl.lab import machine, paths
from ptl.lab import operations as op
from ptl.lab.exploration import Exploration, Laboratory, explore_paths
from ptl.lab.machine import State, page, table_entry
from ptl.lab.operations import Operation
from ptl.lab.paths import MakesPath
from ptl.lab.states import Ensures

PAGE, SPAN = 0x1000, 0x4000


@dataclass(frozen=True)
class Scenario:
    """Threads, where they start, and what is expected of them."""

    name: str
    title: str
    story: str
    """Why it goes well, or wrong; two or three sentences."""
    expected: str
    """The verdict "proved", or the kind of failure."""
    threads: tuple[str, ...]
    """What each thread is called."""
    paths: tuple[MakesPath, ...] = ()
    start: State | None = None
    ensures: Ensures | None = None
    operations: tuple[tuple[Operation, ...], ...] = ()
    setup: Callable[[PageTable], object] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_of_core(self) -> bool:
        """Whether it drives the core itself."""
        return bool(self.operations)

    def laboratory(self) -> Laboratory:
        """The core's table and threads, for a scenario of the core."""
        return Laboratory(self.operations, setup=self.setup, **self.options)

    def explore(self) -> Exploration:
        """Every interleaving."""
        if self.is_of_core:
            return self.laboratory().explore()
        assert self.start is not None
        return explore_paths(self.paths, self.start, self.ensures)


def _machine(threads: int, *, filled: bool = True) -> State:
    return machine.start(threads, {0: table_entry(1)}, {(1, 0): page(0x10)} if filled else {})


def _keeps_page(index: int, value: int) -> Ensures:
    """The page that a fault has filled in is still mapped, somewhere."""

    def ensures(state: State) -> str | None:
        slot = state.entry(machine.PMD, machine.SLOT)
        if machine.is_table(slot) and state.entry(machine.table_of(slot), index) == value:
            return None
        return f"lost update: the fault filled entry {index}, and nothing is there"

    return ensures


def _full(pt: PageTable) -> None:
    pt.map(0, 0x1_0000, SPAN, page_size=PAGE)


def _one(pt: PageTable) -> None:
    pt.map(0, 0x1_0000, PAGE)


def _empty(pt: PageTable) -> None:
    pt.populate(0)


_ALL: Final = (
    Scenario(
        "naive",
        "a map that cannot fail, beside a collapse",
        "The fault believes what the slot said once. The collapse empties the slot and frees the table before the "
        "fault has locked it.",
        "use of a freed table",
        ("fault", "collapse"),
        paths=(paths.naive_fault(1, page(1)), paths.collapse(deferred=False)),
        start=_machine(2),
    ),
    Scenario(
        "fallible-no-grace",
        "the fallible map, but tables are freed at once",
        "The fault looks at the slot again when it has the lock. That is too late: the lock lies in a table that was "
        "freed. Looking again is not enough, the freeing has to wait for readers.",
        "use of a freed table",
        ("fault", "collapse"),
        paths=(paths.fallible_fault(1, page(1)), paths.collapse(deferred=False)),
        start=_machine(2),
    ),
    Scenario(
        "no-recheck",
        "freeing waits for readers, but nobody looks again",
        "The table's memory is safe, since its reader is inside a section. But the table left the tree while the fault "
        "waited for its lock, and what is written into it is lost.",
        "write into a detached table",
        ("fault", "collapse"),
        paths=(paths.unchecked_fault(1, page(1)), paths.collapse(deferred=True)),
        start=_machine(2),
    ),
    Scenario(
        "endless",
        '"again" without an end',
        "The fault begins again whenever it finds no table. Beside a retraction, which leaves the slot empty for good, "
        "that never ends: every caller of a fallible map has to know what it does about a no.",
        "livelock",
        ("fault", "retract"),
        paths=(paths.endless_fault(1, page(1)), paths.retract()),
        start=_machine(2),
    ),
    Scenario(
        "fixed",
        "the fix: map inside a section, look again under the lock, free later",
        "Whatever the order: either the fault locks the table while it is in the tree, and the collapse waits; or it "
        "sees that the slot has changed.",
        "proved",
        ("fault", "collapse"),
        paths=(paths.fallible_fault(1, page(1)), paths.collapse(deferred=True)),
        start=_machine(2),
    ),
    Scenario(
        "fixed-2x1",
        "the fix, two faults and a collapse",
        "The same with two faults, in different entries of one table.",
        "proved",
        ("fault 1", "fault 2", "collapse"),
        paths=(
            paths.fallible_fault(1, page(1)),
            paths.fallible_fault(2, page(2)),
            paths.collapse(deferred=True),
        ),
        start=_machine(3),
    ),
    Scenario(
        "fixed-2x2",
        "the fix, two faults and two collapses",
        "The same with two collapses: the second finds no table.",
        "proved",
        ("fault 1", "fault 2", "collapse 1", "collapse 2"),
        paths=(
            paths.fallible_fault(1, page(1)),
            paths.fallible_fault(2, page(2)),
            paths.collapse(deferred=True),
            paths.collapse(deferred=True),
        ),
        start=_machine(4),
    ),
    Scenario(
        "mremap",
        "the kernel's mremap, before 6.12",
        "The mover looked at the old slot before it took the lock, and moved what it had seen. Meanwhile the table was "
        "retracted: what it puts into the new slot is no table any more.",
        "use of a freed table",
        ("move", "retract"),
        paths=(paths.move(looks_again=False), paths.retract()),
        start=_machine(2, filled=False),
    ),
    Scenario(
        "mremap-fixed",
        "the kernel's mremap, since 6.12",
        "The slot is read under the lock that keeps it.",
        "proved",
        ("move", "retract"),
        paths=(paths.move(looks_again=True), paths.retract()),
        start=_machine(2, filled=False),
    ),
    Scenario(
        "pt-reclaim",
        "reclaim of empty tables, as it was in review",
        "The table was found empty under its lock, which was then let go, because the upper lock has to be taken "
        "first. In between a fault fills an entry, and the table is taken out of the tree with it.",
        "broken invariant",
        ("fault", "reclaim"),
        paths=(paths.fault(1, page(1)), paths.reclaim_empty(looks_again=False)),
        start=_machine(2, filled=False),
        ensures=_keeps_page(1, page(1)),
    ),
    Scenario(
        "pt-reclaim-fixed",
        "reclaim of empty tables, as it was merged",
        "The table is looked at again when both locks are held.",
        "proved",
        ("fault", "reclaim"),
        paths=(paths.fault(1, page(1)), paths.reclaim_empty(looks_again=True)),
        start=_machine(2, filled=False),
        ensures=_keeps_page(1, page(1)),
    ),
    Scenario(
        "torn",
        "an entry of two words, read word by word",
        "A 32-bit machine loads an entry of 64 bits in two steps. In between it becomes another one, and the halves of "
        "both are taken for an entry that never was.",
        "broken invariant",
        ("read", "change"),
        paths=(paths.read_in_halves(looks_again=False), paths.change_in_halves(page(2))),
        start=machine.start(2, {0: table_entry(1)}, {(1, paths.LOW): page(1), (1, paths.HIGH): page(1)}),
    ),
    Scenario(
        "torn-fixed",
        "an entry of two words, read until it holds still",
        "The low word is read again. It is cleared first and written last, so if it is the same, the high word belongs "
        "to it: as long as no two values have the same low word. The core loads 64 bits at once.",
        "proved",
        ("read", "change"),
        paths=(paths.read_in_halves(looks_again=True), paths.change_in_halves(page(2))),
        start=machine.start(2, {0: table_entry(1)}, {(1, paths.LOW): page(1), (1, paths.HIGH): page(1)}),
    ),
    Scenario(
        "epoch-no-fence",
        "the entry of an epoch without its fence, under store buffers",
        "A reader says that it is inside by a store. That store waits in its processor's buffer while the loads that "
        "follow are made; the reclaimer finds nobody inside, and frees the table that the reader is in.",
        "table freed under a reader",
        ("reader", "retract"),
        operations=((op.translate(PAGE),), (op.retract(0), op.reclaim())),
        setup=_empty,
        options={"memory": "tso", "barrier": "none", "batch_tables": 1},
    ),
    Scenario(
        "epoch-membarrier",
        "the entry of an epoch with the reclaimer's membarrier, under store buffers",
        "The reclaimer makes every running thread execute a barrier before it looks who is inside. The reader has paid "
        "nothing.",
        "proved",
        ("reader", "retract"),
        operations=((op.translate(PAGE),), (op.retract(0), op.reclaim())),
        setup=_empty,
        options={"memory": "tso", "batch_tables": 1},
    ),
    Scenario(
        "core-fault-collapse",
        "the core: a fault beside a collapse",
        "The fault takes no lock: it changes an entry by compare-exchange, which fails when the entry is frozen.",
        "proved",
        ("fault", "collapse"),
        operations=((op.fault(PAGE, 0x1_1000),), (op.collapse(0),)),
        setup=_one,
    ),
    Scenario(
        "core-fork-maps",
        "the core: a fork of the table beside two maps",
        "The fork waits until no change is under way, and shares the leaf table; whoever maps afterwards copies it. "
        "So the fork has no page, or the first, or both, and never the second without the first.",
        "proved",
        ("fork", "maps"),
        operations=(
            (op.fork(), op.on_twin(op.translate(PAGE)), op.on_twin(op.translate(0))),
            (op.map(0, 0x2_0000), op.map(PAGE, 0x2_0000)),
        ),
        setup=lambda pt: pt.populate(0),
        options={"twin": "empty"},
    ),
    Scenario(
        "core-unmap-collapse",
        "the core: unmap of one page beside a collapse",
        "Either the page is gone before its entry is frozen, and the table is not full; or the unmap finds a huge "
        "leaf, and splits it.",
        "proved",
        ("unmap", "collapse"),
        operations=((op.unmap(PAGE),), (op.collapse(0),)),
        setup=_full,
    ),
)

SCENARIOS: Final[Mapping[str, Scenario]] = {scenario.name: scenario for scenario in _ALL}
"""By name."""

WAITING: Final[Mapping[str, str]] = {
    "neutralise-leave": "a reclaimer that does not wait for a slow reader, beside its exit: so far they all wait",
    "snapshot-write": "a write beside a snapshot that shares its table: tables are not shared so far",
}
"""Scenarios for parts of the library that do not exist yet."""
