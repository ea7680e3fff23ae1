"""The mutants: one remedy taken out of the core at a time, and what notices.

    python -m ptl.lab.mutants           try them all, and print the table of docs/mutants.md
    python -m ptl.lab.mutants NAME      try that one

A mutant is a fault of `ptl._core.FAULTS`, so this needs a build with PTL_FAULTS=1. Most are found by exploring the
core's own operations: the trial is proved without the fault, and goes wrong with it. The others are caught by a test,
or are equivalent: nothing that can be seen tells them from the core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ptl import _core, arch
from ptl._core import PageTable
from ptl.lab import operations as op
from ptl.lab.exploration import Exploration, Laboratory, Setup
from ptl.lab.operations import Operation
from ptl.lab.scenarios import PAGE, SPAN

OLD, NEW, OTHER = 0x1_0000, 0x2_0000, 0x4_0000
"""Physical addresses: what is mapped first, and what threads map."""
COPY = 0x1_8000
"""Frames of the lab's block."""
LINE = 4 * SPAN
"""Where the table above the leaf tables ends."""


@dataclass(frozen=True)
class Trial:
    """Threads of operations that are proved to go well, as long as no fault is in the core."""

    threads: tuple[tuple[Operation, ...], ...]
    setup: Setup | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None
    """Executions, where all would take too long."""

    def explore(self, fault: str | None = None) -> Exploration:
        """Explore it with a fault in the core, or none, against the serial orders of the core without it.

        Raises RuntimeError for a fault in a build without faults.
        """
        laboratory = Laboratory(self.threads, setup=self.setup, **self.options)
        if not _core.put_in_fault(fault) and fault is not None:
            raise RuntimeError("mutants need ptl built with PTL_FAULTS=1")
        try:
            return laboratory.explore(most=self.most)
        finally:
            _core.put_in_fault(None)

    def __str__(self) -> str:
        memory = ", with store buffers" if self.options.get("memory") == "tso" else ""
        return " beside ".join(", ".join(each.name for each in thread) for thread in self.threads) + memory


@dataclass(frozen=True)
class Mutant:
    """A fault, and what notices it: a trial or a test; or why it is equivalent."""

    name: str
    what: str
    """What the core does with it."""
    trial: Trial | None = None
    test: str = ""
    """The test that fails, as pytest names it, from the folder `tests` on."""
    equivalent: str = ""
    """Why nothing can notice; the trial is then proved with the fault too."""

    @property
    def caught_by(self) -> str:
        """As the table says it."""
        if self.equivalent:
            return f"nothing: {self.equivalent} ({self.trial})"
        return f"`{self.test}`" if self.test else str(self.trial)


def trial(*threads: Iterable[Operation], setup: Setup | None = None, most: int | None = None, **options: Any) -> Trial:
    """A trial of threads, on the table that `setup` makes of an empty one."""
    return Trial(tuple(tuple(thread) for thread in threads), setup, options, most)


# -- tables -----------------------------------------------------------------------------------------------------------


def leaf(pa: int) -> int:
    """The entry of a page that may be written."""
    return arch.get("tiny").encode(pa, "rw")


def empty_table(pt: PageTable) -> None:
    """A leaf table with nothing in it."""
    pt.populate(0)


def one_page(pt: PageTable) -> None:
    """A leaf table with its first entry filled."""
    pt.map(0, OLD, PAGE)


def used_page(pt: PageTable) -> None:
    """A leaf table with its first entry filled, accessed and dirty."""
    pt.map(0, OLD, PAGE, flags="rwad")


def two_pages(pt: PageTable) -> None:
    """A leaf table with its first two entries filled."""
    pt.map(0, OLD, 2 * PAGE)


def all_pages(pt: PageTable) -> None:
    """A leaf table that could be one huge leaf."""
    pt.map(0, OLD, SPAN, page_size=PAGE)


def own_tables_above(pt: PageTable, twin: PageTable) -> None:
    """Two that share the leaf table at 0, and no table above it."""
    pt.map(SPAN, NEW, PAGE)
    twin.map(SPAN, NEW, PAGE)


def tables_on_both_sides(pt: PageTable) -> None:
    """Two leaf tables; in the first a page."""
    pt.map(0, OLD, PAGE)
    pt.populate(2 * SPAN)


def huge_leaf(pt: PageTable) -> None:
    """A huge leaf."""
    pt.map(0, OLD, SPAN)


def page_after_a_hole(pt: PageTable) -> None:
    """No table for the first addresses, and a leaf table after them with one page."""
    pt.map(SPAN, OLD, PAGE)


def run_of_pages(pt: PageTable) -> None:
    """Sixteen entries that are one page of 64 KiB."""
    pt.map(0, OLD, 16 * PAGE, page_size=16 * PAGE)


def small_run(pt: PageTable) -> None:
    """Four entries that are one page of 16 KiB."""
    pt.map(0, OLD, 4 * PAGE, page_size=4 * PAGE)


def pages_with_memory(pt: PageTable) -> None:
    """A leaf table that could be one huge leaf, of frames that there are, and other frames for it."""
    pa = pt.frames.alloc(SPAN)
    copy = pt.frames.alloc(SPAN)
    assert copy == COPY, f"the other frames are at {copy:#x}"
    pt.map(0, pa, SPAN, page_size=PAGE)


def dirty_is_stored(pt: PageTable) -> str | None:
    """The first page is dirty if, and only if, the byte that was stored in it is still there."""
    leaf = pt.lookup(0)
    assert leaf is not None
    byte = pt.frames.view(leaf.pa, 1)[0]
    return None if ("d" in leaf.flags) == (byte == 7) else f"the page is {leaf.flags}, and its first byte is {byte}"


def used_before(pt: PageTable) -> None:
    """No leaf table, and a free one in which is still written what it held."""
    pt.map(0, OLD, SPAN, page_size=PAGE)
    pt.unmap(0, SPAN)
    pt.frames.domain.synchronize()


def nothing_parked(pt: PageTable) -> str | None:
    """No huge leaf is left, so no table is parked."""
    parked = pt.frames.stats()["parked"]
    return f"{parked} tables are parked, and there is no huge leaf" if parked else None


# -- trials -----------------------------------------------------------------------------------------------------------

READ_BESIDE_RETRACT = trial([op.translate(PAGE)], [op.retract(0), op.reclaim()], setup=empty_table, batch_tables=1)
MAP_BESIDE_RETRACT = trial([op.map(PAGE, NEW)], [op.retract(0), op.reclaim()], setup=empty_table, batch_tables=1)
HANDLE_BESIDE_RETRACT = trial([op.map_read(PAGE)], [op.retract(0), op.reclaim()], setup=empty_table, batch_tables=1)
LATE_READER = trial(
    [op.retract(0), op.reclaim()], [op.synchronize(), op.translate(PAGE)], setup=empty_table, batch_tables=1
)
READ_BESIDE_COLLAPSE = trial([op.translate(PAGE)], [op.collapse(0)], setup=all_pages)
EXCHANGE_BESIDE_COLLAPSE = trial(
    [op.compare_exchange(0, leaf(OLD), leaf(OLD + PAGE))], [op.collapse(0)], setup=all_pages
)
WRITE_BESIDE_COLLAPSE = trial([op.touch(0, write=True)], [op.collapse(0)], setup=all_pages, tlbs=1)
WRITE_BESIDE_SPLIT = trial([op.touch(0, write=True)], [op.split(0)], setup=huge_leaf, tlbs=1)
USE_BESIDE_UNMAP = trial([op.touch(0), op.touch(0)], [op.unmap(0)], setup=used_page, tlbs=1)
LOCK_BESIDE_RETRACT = trial([op.map_lock(PAGE, NEW)], [op.retract(0)], setup=empty_table)
LOCK_BESIDE_COLLAPSE = trial([op.map_lock(PAGE, NEW)], [op.collapse(0)], setup=all_pages)
TWO_EXCHANGES = trial(
    [op.compare_exchange(0, leaf(OLD), leaf(NEW))], [op.compare_exchange(0, leaf(OLD), leaf(OTHER))], setup=one_page
)
TWO_COUNTS = trial([op.count_locked()], [op.count_locked()], locks="inside")
TWO_POPULATES = trial([op.populate(0)], [op.populate(PAGE)])
RANGE_BESIDE_WRITER = trial(
    [op.unmap(0, 2 * PAGE)],
    [op.map(0, NEW), op.compare_exchange(PAGE, leaf(OLD + PAGE), leaf(OTHER))],
    setup=two_pages,
)
RANGE_BESIDE_COLLAPSE = trial([op.unmap(0, 2 * PAGE)], [op.collapse(0)], setup=all_pages)
RANGE_OVER_A_HOLE = trial([op.map(PAGE, NEW, SPAN)], [op.fault(PAGE, OTHER), op.unmap(SPAN)], setup=page_after_a_hole)
MOVE_OF_A_TABLE = trial([op.move(0, 2 * SPAN, SPAN)], [op.map(PAGE, NEW)], setup=one_page)
MOVE_OF_A_TABLE_AND_CHANGE = trial(
    [op.move(0, 2 * SPAN, SPAN), op.compare_exchange(2 * SPAN, leaf(OLD), leaf(NEW))], [op.translate(0)], setup=one_page
)
FORK_AND_LOOK = (op.fork(), op.on_twin(op.translate(0)))
ENDS_INSIDE = trial(
    [op.enter(), op.walk(PAGE), op.end()],
    [op.retract(0), op.reclaim()],
    setup=empty_table,
    batch_tables=1,
    is_serialisable=False,
)


def with_store_buffers(plain: Trial, **options: Any) -> Trial:
    """The same under total store order."""
    return Trial(plain.threads, plain.setup, {**plain.options, "memory": "tso", **options})


# -- the mutants ------------------------------------------------------------------------------------------------------

_ALL: Final = (
    # What other libraries and kernels shipped (docs/mutants.md says where).
    Mutant(
        "no scan before freeing",
        "an epoch is over as soon as it is advanced: nobody looks at the records",
        READ_BESIDE_RETRACT,
    ),
    Mutant(
        "stamp of the own section",
        "a table is stamped with the epoch of the retiring thread's last section",
        LATE_READER,
    ),
    Mutant(
        "entry with an old epoch",
        "a section says the epoch of the one before it",
        LATE_READER,
        equivalent="an older epoch holds more back, and never less: epochs have 48 bits, and are compared by "
        "difference; where they are counted modulo a few, an old one is taken for a new one",
    ),
    Mutant("stamp one epoch early", "a table is stamped with the epoch before", READ_BESIDE_RETRACT),
    Mutant(
        "nested entry renews the epoch",
        "a section in a section takes the newest epoch, and the outer one is forgotten",
        trial(
            [op.enter(), op.walk(PAGE), op.enter(), op.leave(), op.leave()],
            [op.retract(0), op.reclaim()],
            setup=empty_table,
            batch_tables=1,
            is_serialisable=False,
        ),
    ),
    Mutant(
        "retiring waits for readers",
        "whoever retires waits for the grace period, also in a section of its own",
        trial([op.enter(), op.retract(0), op.leave()], [op.translate(PAGE)], setup=empty_table, is_serialisable=False),
    ),
    Mutant("record keeps its section", "a thread that ends inside a section leaves its record inside", ENDS_INSIDE),
    Mutant(
        "freed by the current epoch",
        "a stamp is compared with the epoch of now, not with the oldest that somebody is inside",
        READ_BESIDE_RETRACT,
    ),
    Mutant(
        "move looks before it locks",
        "mremap classifies the old slot before it has the locks",
        test="test_history.py::test_a_table_is_retracted_while_it_is_to_be_moved",
    ),
    Mutant(
        "retract trusts its look",
        "a table that was found empty is taken out although it was filled again",
        test="test_history.py::test_a_table_that_was_filled_again_is_not_reclaimed",
    ),
    Mutant(
        "nothing is frozen",
        "no entry is frozen by anybody",
        test="test_history.py::test_nobody_writes_into_a_table_that_has_left",
    ),
    Mutant(
        "entry read in halves",
        "an entry of two words is read by two loads",
        test="test_history.py::test_an_entry_of_two_words_is_read_whole",
    ),
    # The walk and its section.
    Mutant("slot read twice", "a walk follows what a second load of the slot says (W1)", READ_BESIDE_COLLAPSE),
    Mutant(
        "no look at the block",
        "a walk follows an address outside the block (W2)",
        test="test_rules.py::test_a_table_outside_the_block_is_bad_and_never_followed",
    ),
    Mutant("walk outside a section", "translate enters no section (W3)", READ_BESIDE_RETRACT),
    Mutant(
        "section left before the last use", "map leaves its section between the walk and the entry", MAP_BESIDE_RETRACT
    ),
    Mutant(
        "busy taken for an answer", "translate does not walk again when a slot is in transition", READ_BESIDE_COLLAPSE
    ),
    Mutant(
        "sweep takes busy for empty",
        "iteration passes over a slot in transition (V4)",
        trial([op.sweep(0)], [op.collapse(0)], setup=all_pages),
    ),
    Mutant(
        "sweep finds all of a leaf",
        "iteration finds a leaf whole that was put over what it has passed (V1)",
        trial([op.sweep(0, room=1)], [op.collapse(0)], setup=all_pages),
    ),
    Mutant(
        "depth ignored",
        "the inner section's end is the end of the outer one",
        trial([op.read_twice(PAGE)], [op.retract(0), op.reclaim()], setup=empty_table, batch_tables=1),
    ),
    # Retiring and freeing.
    Mutant("no membarrier", "the reclaimer scans without a membarrier", with_store_buffers(READ_BESIDE_RETRACT)),
    Mutant(
        "entry without its barrier",
        "without membarrier, a reader enters by a plain store",
        with_store_buffers(READ_BESIDE_RETRACT, barrier="each section"),
    ),
    Mutant(
        "no barrier before the scan",
        "without membarrier, the reclaimer scans without a full barrier",
        with_store_buffers(READ_BESIDE_RETRACT, barrier="each section"),
        equivalent="the epoch's increment just before is a locked instruction, which on x86 is a full barrier; this "
        "one is for machines on which it is none",
    ),
    Mutant("stamp before the switch", "a table is stamped while its slot still names it (E2)", LATE_READER),
    Mutant(
        "retired before the switch",
        "a table is retired while its slot still names it",
        trial([op.retract(0)], [op.reclaim(), op.translate(PAGE)], setup=empty_table, batch_tables=1),
    ),
    Mutant("freed at once", "a table that has left the tree is free at once", READ_BESIDE_RETRACT),
    Mutant("freed twice", "a table is given back twice", READ_BESIDE_RETRACT),
    Mutant("never retired", "a table that was retracted is forgotten", READ_BESIDE_RETRACT),
    Mutant("pins not counted", "a handle does not count its pin (E6)", HANDLE_BESIDE_RETRACT),
    Mutant("pinned after the section", "a handle counts its pin after its section (H1)", HANDLE_BESIDE_RETRACT),
    Mutant("pins ignored", "the reclaimer frees a table that a handle pins", HANDLE_BESIDE_RETRACT),
    # Entries.
    Mutant(
        "change ignores the freeze",
        "a compare-exchange expects the frozen entry when it has met it (N2)",
        MAP_BESIDE_RETRACT,
    ),
    Mutant("change in two steps", "a compare-exchange is a load, a comparison and a store (N1)", TWO_EXCHANGES),
    Mutant(
        "failure taken for an answer",
        "a compare-exchange that failed for nothing, as a weak one may, is not made again",
        test="test_stress.py::test_a_compare_exchange_that_fails_for_nothing_is_made_again",
    ),
    Mutant("retract freezes nothing", "retract looks at the entries, and freezes none (T3)", MAP_BESIDE_RETRACT),
    Mutant("collapse freezes nothing", "collapse freezes no entry (T3)", EXCHANGE_BESIDE_COLLAPSE),
    Mutant("range freezes nothing", "a range freezes no entry (R3)", RANGE_BESIDE_WRITER),
    Mutant(
        "run freezes nothing",
        "who changes a run freezes none of its entries (U2)",
        trial([op.unmap(0)], [op.unmap(PAGE)], setup=run_of_pages, arch="arm64", frames=16),
    ),
    Mutant(
        "frozen leaf refilled",
        "where software alone walks, a refill takes a leaf of a run that is being taken apart (U4)",
        trial(
            [op.touch(0), op.touch(0)],
            [op.split(0)],
            setup=small_run,
            arch="powerpc_8xx",
            frames=16,
            tlbs=1,
            is_serialisable=False,
        ),
    ),
    Mutant("move freezes nothing", "a move freezes no entry (M1)", MOVE_OF_A_TABLE),
    Mutant(
        "thaw forgotten",
        "a transition that refuses leaves everything frozen (N3)",
        trial([op.map(PAGE, NEW)], [op.collapse(0)], setup=one_page),
    ),
    Mutant(
        "thaw of one too few",
        "a transition that refuses leaves the last entry frozen that it had frozen",
        trial([op.map(PAGE, NEW)], [op.collapse(0)], setup=one_page),
    ),
    Mutant(
        "range thaws nothing",
        "a range that refuses leaves everything frozen",
        trial([op.map(0, NEW, 2 * PAGE)], [op.unmap(0)], setup=one_page),
    ),
    Mutant(
        "hole stays frozen",
        "a range leaves what was empty frozen (R3)",
        trial([op.unmap(0, 2 * PAGE)], [op.translate(PAGE)], setup=one_page),
    ),
    Mutant(
        "final value stays frozen",
        "protect stores the new value with the freeze in it (N3)",
        trial([op.protect(0, 2 * PAGE, "r")], [op.translate(PAGE)], setup=two_pages),
    ),
    Mutant(
        "used lost by a store",
        "protect stores over frozen leaves in which hardware may still set accessed and dirty (N7)",
        trial([op.touch(0, write=True)], [op.protect(0, 2 * PAGE, "r")], setup=two_pages, tlbs=1),
    ),
    # Locks.
    Mutant("lock in two steps", "a lock is taken by a load and a store", TWO_COUNTS),
    Mutant("parked without the bit", "a thread parks without saying so in the lock word", TWO_COUNTS),
    Mutant("unlocked without waking", "nobody is woken when a lock is let go", TWO_COUNTS),
    Mutant(
        "woken without the bit",
        "a thread that was woken takes the lock as if nobody else were parked",
        trial([op.count_locked()], [op.count_locked()], [op.count_locked()], locks="inside", most=20_000),
    ),
    Mutant(
        "lower lock first",
        "a range locks from the leaf tables up (L2)",
        trial([op.unmap(PAGE, SPAN)], [op.translate(PAGE)], setup=page_after_a_hole),
    ),
    Mutant(
        "old side locked first",
        "a move locks the old side first, wherever the new one lies (L2)",
        trial([op.move(0, 2 * SPAN, PAGE)], [op.move(2 * SPAN, 0, PAGE)], setup=tables_on_both_sides),
    ),
    Mutant(
        "no look after locking",
        "a slot is not found again after its table was locked (T2)",
        trial([op.populate(0)], [op.unmap(0, LINE)], setup=page_after_a_hole),
    ),
    Mutant(
        "no look after locking a map", "a map is not looked at again when it has its lock (H4)", LOCK_BESIDE_RETRACT
    ),
    Mutant("retract locks no child", "retract does not lock the table that leaves (T1)", LOCK_BESIDE_RETRACT),
    Mutant("collapse locks no child", "collapse does not lock the table that leaves (T1)", RANGE_BESIDE_COLLAPSE),
    Mutant(
        "refusal keeps a lock",
        "retract does not unlock a table that was filled before it had the lock",
        MAP_BESIDE_RETRACT,
    ),
    # Transitions.
    Mutant("populate locks nothing", "populate does not hold the lock when it publishes", TWO_POPULATES),
    Mutant("populate does not look again", "populate trusts what it saw before it had the lock", TWO_POPULATES),
    Mutant(
        "published before it is filled",
        "a slot names a table in which is still what it held in another life",
        trial([op.populate(0)], [op.translate(PAGE)], setup=used_before),
    ),
    Mutant(
        "published by a plain store",
        "a table is published by a relaxed store",
        trial([op.populate(0)], [op.translate(PAGE)], setup=used_before, memory="tso"),
        equivalent="stores become visible in their order on x86, so what a table holds is there before its name; a "
        "machine that turns them round makes the mutant above of it, which is found",
    ),
    Mutant(
        "no busy between table and leaf", "a slot goes from table to huge leaf in one step (T4)", WRITE_BESIDE_COLLAPSE
    ),
    Mutant("used collected early", "accessed and dirty are collected before the switch (T5)", WRITE_BESIDE_COLLAPSE),
    Mutant(
        "write not withheld",
        "what a collapse copies may still be written (T6)",
        trial(
            [op.store(0, 7)],
            [op.collapse(0, COPY)],
            setup=pages_with_memory,
            invariant=dirty_is_stored,
            frames=4096,
            tlbs=1,
            is_serialisable=False,
        ),
    ),
    Mutant("not invalid while it is split", "a huge leaf stays in its slot while it is split (T4)", WRITE_BESIDE_SPLIT),
    Mutant(
        "split does not look again",
        "split trusts what it saw before it had the lock",
        trial([op.split(0)], [op.split(0)], setup=huge_leaf),
    ),
    Mutant("leaf keeps nothing parked", "collapse parks no table for the split of its leaf (F2)", READ_BESIDE_COLLAPSE),
    # Ranges and moves.
    Mutant("range locks no hole", "a hole in an upper table is looked at, and not locked (R1)", RANGE_OVER_A_HOLE),
    Mutant(
        "range changes what it has not locked",
        "a range does not start over when a slot has changed before it had the locks (R2)",
        RANGE_BESIDE_COLLAPSE,
    ),
    Mutant("range unlocks early", "a range lets go of its locks before it stores (R2)", RANGE_BESIDE_COLLAPSE),
    Mutant(
        "range keeps what it reserved",
        "a range that refuses does not give back the tables that it took",
        trial([op.map(PAGE, NEW, SPAN)], [op.translate(PAGE)], setup=page_after_a_hole),
    ),
    Mutant(
        "range parks nothing",
        "a huge leaf that a range makes parks no table (F2)",
        trial([op.map(0, OLD, SPAN)], [op.translate(PAGE)]),
    ),
    Mutant(
        "dropped leaf stays parked",
        "a huge leaf that is unmapped does not give back what it parked",
        trial([op.unmap(0, SPAN)], [op.translate(PAGE)], setup=huge_leaf, invariant=nothing_parked),
    ),
    Mutant(
        "move shows both",
        "an entry is at its new address before it leaves the old one (M3)",
        trial([op.move(0, 2 * SPAN, PAGE)], [op.translate(2 * SPAN), op.translate(0)], setup=one_page),
    ),
    Mutant(
        "fresh table not frozen",
        "a table that a move makes is published with its places free (M4)",
        trial([op.move(0, 2 * SPAN, 2 * PAGE)], [op.map(2 * SPAN + PAGE, NEW)], setup=two_pages),
    ),
    Mutant(
        "fresh table not locked",
        "a table that a move makes is published unlocked (M4)",
        trial([op.move(0, 2 * SPAN, 2 * PAGE)], [op.unmap(2 * SPAN, 2 * PAGE)], setup=two_pages),
    ),
    Mutant(
        "table copied before it leaves",
        "a table that is moved is copied while hardware may still set flags in it (M3)",
        trial([op.touch(0, write=True)], [op.move(0, 2 * SPAN, SPAN)], setup=one_page, tlbs=1),
    ),
    Mutant(
        "table handed over", "a move hands over the table itself, as the kernel does (M2)", MOVE_OF_A_TABLE_AND_CHANGE
    ),
    # Sharing.
    Mutant(
        "gate without its barrier",
        "who closes the gate does not wait until others' stores are seen (E)",
        trial(FORK_AND_LOOK, [op.map(0, NEW)], setup=empty_table, twin="empty", memory="tso"),
    ),
    Mutant(
        "gate waits for nobody",
        "a snapshot is made while changes are under way (O3)",
        trial(FORK_AND_LOOK, [op.map(0, NEW)], setup=empty_table, twin="empty"),
    ),
    Mutant(
        "shared table changed",
        "an entry of a table that other trees have too is changed (O2)",
        trial([op.unmap(0)], [op.on_twin(op.translate(0))], setup=all_pages, twin="fork"),
    ),
    Mutant(
        "shared table changed under its lock",
        "a transition freezes and retires a table that other trees have too (O2)",
        trial([op.collapse(0)], [op.on_twin(op.translate(0))], setup=all_pages, twin="fork"),
    ),
    Mutant(
        "copy leaves no reference",
        "what a copy names is not counted once more (O5)",
        trial(FORK_AND_LOOK, [op.unmap(0), op.reclaim()], setup=all_pages, twin="empty", batch_tables=1),
    ),
    Mutant(
        "shared table taken over",
        "the last who names a table changes it where it is (O4)",
        trial(
            [op.translate(0)],
            [op.unmap(PAGE), op.on_twin(op.unmap(0))],
            setup=all_pages,
            twin="fork",
            prepare=own_tables_above,
        ),
    ),
    Mutant(
        "last reference freed at once",
        "a table that no tree has any more is free before its readers have left (O6)",
        trial(
            [op.translate(0)],
            [op.unmap(PAGE), op.on_twin(op.unmap(PAGE))],
            setup=all_pages,
            twin="fork",
            prepare=own_tables_above,
        ),
    ),
    Mutant(
        "snapshot beside a lock",
        "a table is shared while somebody holds its lock (O7)",
        trial([op.fork()], [op.map_lock(0, NEW)], setup=empty_table, twin="empty"),
    ),
    Mutant(
        "locked table freed",
        "the reclaimer frees a table that another thread has found under its lock (E7)",
        test="explore/test_shares_proved.py::test_a_shared_table_is_not_reused_while_somebody_holds_its_lock",
    ),
    # Flushes and shadows.
    Mutant("flushed before the switch", "a change of an entry flushes before it is made (B1)", USE_BESIDE_UNMAP),
    Mutant(
        "change begins after the switch",
        "a change is counted when it has been made: what is not yet flushed is taken for an error (B3)",
        USE_BESIDE_UNMAP,
    ),
    Mutant(
        "attached beside changes",
        "a Tlb is used before the changes are over that did not see it attached",
        trial([op.attach(), op.touch(0), op.touch(0)], [op.collapse(0)], setup=all_pages, unattached=1),
    ),
    Mutant(
        "no flush of an entry",
        "a change of one entry flushes nothing (N4)",
        test="test_tlb.py::test_a_change_of_an_entry_flushes",
    ),
    Mutant(
        "no flush of a copy",
        "the copy of a shared table takes its place without a flush (O8)",
        test="test_share.py::test_a_cpu_forgets_what_it_found_in_a_table_that_was_copied",
    ),
    Mutant("no flush of a retract", "a retraction flushes nothing", test="test_tlb.py::test_a_retract_flushes"),
    Mutant(
        "no flush before a copy",
        "collapse does not flush before it copies (T7)",
        test="test_tlb.py::test_a_collapse_flushes_before_it_copies",
    ),
    Mutant(
        "no flush before a huge leaf",
        "collapse does not flush before the huge leaf (T7)",
        test="test_tlb.py::test_a_collapse_flushes_before_the_huge_leaf_appears",
    ),
    Mutant(
        "no flush before a split",
        "split does not flush before the small leaves (T7)",
        test="test_tlb.py::test_a_split_flushes_before_the_small_leaves_appear",
    ),
    Mutant(
        "no flush before a replacement",
        "a huge leaf that replaces a table is there before the flush (T7)",
        test="test_tlb.py::test_a_replacement_flushes_before_the_huge_leaf_appears",
    ),
    Mutant(
        "no flush before a cut",
        "a huge leaf is cut before the flush (T7)",
        test="test_tlb.py::test_a_cut_flushes_before_the_small_leaves_appear",
    ),
    Mutant("no flush of a range", "a range flushes nothing (B2)", test="test_tlb.py::test_a_range_flushes"),
    Mutant("no flush of a move", "a move flushes nothing (B2)", test="test_tlb.py::test_a_move_flushes"),
    Mutant("no flush of a gather", "a gather flushes nothing", test="test_tlb.py::test_a_gather_flushes_once"),
    Mutant(
        "no flush of a table that is moved",
        "a table that is moved is copied before the flush",
        test="test_tlb.py::test_a_move_flushes",
    ),
    Mutant(
        "no flush before a run",
        "pages become a run before the flush (U4)",
        test="test_runs.py::test_pages_are_flushed_before_they_are_a_run",
    ),
    Mutant(
        "no flush before a run is taken apart",
        "a run is taken apart before the flush (U4)",
        test="test_runs.py::test_a_run_is_flushed_before_it_is_taken_apart",
    ),
    Mutant(
        "shadow after the entry",
        "two change one entry, and the shadow of the first is stored last (N5)",
        test="test_shadows.py::test_two_who_change_one_entry_leave_the_shadow_of_the_last",
    ),
)

MUTANTS: Final[Mapping[str, Mutant]] = {mutant.name: mutant for mutant in _ALL}
"""By name."""


# -- trying them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a mutant."""

    mutant: Mutant
    proof: Exploration | None = None
    """Of its trial without the fault."""
    result: Exploration | None = None
    """With it."""

    @property
    def is_as_said(self) -> bool:
        """Whether it was found, or, if it is equivalent, was not; a test is not run here."""
        if self.proof is None or self.result is None:
            return bool(self.mutant.test)
        proved = "proved" if self.mutant.trial is None or self.mutant.trial.most is None else "bounded"
        expected = "proved" if self.mutant.equivalent else "failed"
        return self.proof.verdict == proved and self.result.verdict == expected

    def __str__(self) -> str:
        """A line of the table."""
        kind = found = proved = ""
        if self.proof is not None and self.result is not None:
            found, proved = f"{self.result.executions:,}", f"{self.proof.executions:,}"
            if not self.is_as_said:
                kind = f"NOT AS SAID: without the fault {self.proof}; with it {self.result}"
            elif self.result.kind:
                kind = f"{self.result.kind}: `{self.result.schedule}`"
            else:
                kind = self.result.verdict
        return f"| {self.mutant.name} | {self.mutant.what} | {self.mutant.caught_by} | {kind} | {found} | {proved} |"


HEAD: Final = """\
| mutant | what the core does with it | caught by | what goes wrong, and the shortest schedule | with it | without |
| --- | --- | --- | --- | --- | --- |"""


def rows(names: Iterable[str] = MUTANTS) -> Iterable[Row]:
    """Try mutants, one after the other."""
    proofs: dict[int, Exploration] = {}
    for name in names:
        mutant = MUTANTS[name]
        if mutant.trial is None:
            yield Row(mutant)
            continue
        key = id(mutant.trial)
        if key not in proofs:
            proofs[key] = mutant.trial.explore()
        yield Row(mutant, proofs[key], mutant.trial.explore(name))


def main(arguments: list[str]) -> int:
    """The command; 1 when a mutant did not come to what its line says, 2 when it cannot be asked."""
    unknown = [name for name in arguments if name not in MUTANTS]
    if unknown:
        print(f"there is no mutant {unknown[0]!r}", file=sys.stderr)
        return 2
    if not _core.put_in_fault(None):
        print("mutants need ptl built with PTL_FAULTS=1", file=sys.stderr)
        return 2
    wrong = 0
    print(HEAD)
    for row in rows(arguments or MUTANTS):
        print(row, flush=True)
        wrong += not row.is_as_said
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
