"""The promise: whatever is done to a table, in whatever order, it holds what a dict would hold.

One state machine for every architecture. Each step is done to a `PageTable` and to a `Reference`; answers and errors
must be the same, and after each step the bytes in physical memory, read with the architecture's own `decode`, must say
what the reference says: leaves, software's entries, tables. So must the counters, and `check()` must find nothing.
In the end nothing is mapped, and nothing but the root is left: no table in the tree, in limbo or parked.

The addresses come from a few places where something can go wrong (the borders of tables, the ends of the address space
and of its canonical halves), so that steps meet each other's leaves.
"""

from __future__ import annotations

import functools
import sys
from array import array

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import ptl
from made_up import MADE_UP, architecture
from ptl import Outcome, State
from reference import Reference, Taken, contents, software_entry

DOMAIN = ptl.EpochDomain()
"""So that nobody else's tables are in limbo."""


class Geometry:
    """The addresses, lengths and attributes that the machine of one architecture draws from."""

    def __init__(self, arch: ptl.arch.Arch) -> None:
        self.arch = arch
        self.page, self.huge = arch.level(1).span, arch.level(2).span
        self.end = 1 << arch.va_bits
        self.part = self.end >> (arch.region_bits or arch.sign_extended)
        self.parts = [arch.canonical(first) for first in range(0, self.end, self.part)]
        """Where the runs of addresses begin that no range leaves: halves, or regions."""
        spans = [arch.level(level).span for level in range(2, arch.levels + 1)]
        borders = {0, 2 * self.huge, *spans, self.end // 2, self.end}
        near = {0, self.page, 2 * self.page, self.huge - self.page, self.huge, self.huge + self.page, 2 * self.huge}
        near |= set(arch.run_sizes)
        inside = {border + sign * d for border in borders for d in near for sign in (1, -1)}
        self.starts = sorted(arch.canonical(va) for va in inside if 0 <= va < self.end)
        pages = {1, 2, 3, self.huge // self.page - 1, self.huge // self.page, self.huge // self.page + 1}
        self.lengths = sorted({n * self.page for n in pages} | {2 * self.huge, 3 * self.huge, *spans, *arch.run_sizes})
        self.flags = [flags for flags in ("rx", "rw", "rwxu", "rwxugad", "x", "ra", "rwd") if is_flags(arch, flags)]
        self.clearable = [letter for letter in "wugad" if letter in arch.flags]
        self.giant = max(arch.page_sizes + arch.run_sizes)
        top = (1 << arch.pa_bits) - 8 * self.giant
        self.targets = sorted({0, self.giant, self.page, self.huge, top if top > 0 else 0})
        """What a physical address differs by from the virtual one, within a few of the largest pages."""

    def last(self, va: int) -> int:
        """The end of the addresses that a range from va may cover."""
        first = next(first for first in self.parts if first <= va < first + self.part)
        return first + self.part

    def target(self, va: int, delta: int) -> int:
        """A physical address as aligned as delta lets it be."""
        return (va % (4 * self.giant) + delta) % (1 << self.arch.pa_bits)


def merged(leaves: list[tuple[int, int, int, str]]) -> list[tuple[int, int, int, str]]:
    """Leaves as runs: each that goes on where the one before ends becomes part of it."""
    runs: list[tuple[int, int, int, str]] = []
    for va, pa, size, flags in leaves:
        if runs and runs[-1] == (va - runs[-1][2], pa - runs[-1][2], runs[-1][2], flags):
            va, pa, size = *runs[-1][:2], runs.pop()[2] + size
        runs.append((va, pa, size, flags))
    return runs


def is_flags(arch: ptl.arch.Arch, flags: str) -> bool:
    """Whether the format can say these attributes."""
    try:
        arch.attributes(flags)
    except ptl.FormatError:
        return False
    return True


@functools.cache
def machine_for(name: str) -> type[RuleBasedStateMachine]:
    """The state machine of one architecture."""
    arch = architecture(name)
    geometry = Geometry(arch)
    soft = software_entry(arch)
    starts, lengths, flag_sets = (st.sampled_from(x) for x in (geometry.starts, geometry.lengths, geometry.flags))
    page_sizes = st.sampled_from((None, None, *arch.page_sizes, *arch.run_sizes))
    run_sizes = st.sampled_from(arch.run_sizes or (None,))
    leaf_levels = st.sampled_from([level for level in range(2, arch.levels + 1) if arch.level(level).leaf])
    where_leaves_are_huge = precondition(lambda _: len(arch.page_sizes) > 1)
    where_there_are_runs = precondition(lambda _: bool(arch.run_sizes))
    upper_levels = st.integers(2, arch.levels)
    granule = min(4096, *(arch.table_bytes(level) for level in range(1, arch.levels + 1)))

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            size = 64 * max(geometry.giant, geometry.huge)
            self.frames = ptl.Frames(min(1 << 32, 1 << arch.table_bits, size), frame_bytes=granule, domain=DOMAIN)
            self.pt = ptl.PageTable(arch, frames=self.frames)
            self.model = Reference(self.pt.arch)
            self.runs: list[int] = []

        @initialize()
        def two_runs_of_frames(self) -> None:
            """To collapse into. Copying is tested where it is short: other formats have theirs beyond the block."""
            if geometry.huge <= 4 << 20:
                self.runs = [self.frames.alloc(geometry.huge) for _ in range(2)]
            else:
                self.runs = [(1 << arch.pa_bits) - n * geometry.huge for n in (1, 2)]

        def clip(self, va: int, length: int, granule: int = geometry.page) -> tuple[int, int]:
            """A range of whole granules that stays in the half of the addresses that it begins in."""
            va = va & -granule
            return va, min(max(length & -granule, granule), geometry.last(va) - va)

        def end_level(self, va: int) -> int:
            """The level of the slot that ends the walk of an address."""
            return arch.levels + 1 - len(self.model.states(va))

        # -- ranges

        @rule(
            va=starts,
            length=lengths,
            delta=st.sampled_from(geometry.targets),
            flags=flag_sets,
            page_size=page_sizes,
            replace=st.booleans(),
        )
        def map(self, va, length, delta, flags, page_size, replace):
            va, length = self.clip(va, length, page_size or geometry.page)
            pa = geometry.target(va, delta) & -(page_size or geometry.page)
            leaf = page_size or max(size for size in arch.page_sizes if not (va | pa) % size)
            entry = max(size for size in arch.page_sizes if size <= leaf)
            affordable = max((4 if entry > geometry.huge else 1536) * entry, leaf)
            length = min(length, affordable // leaf * leaf, (1 << arch.pa_bits) - pa)
            try:
                self.model.map(va, pa, length, flags, page_size, replace)
            except Taken:
                with pytest.raises(ptl.AlreadyMapped):
                    self.pt.map(va, pa, length, flags, page_size=page_size, replace=replace)
            else:
                assert self.pt.map(va, pa, length, flags, page_size=page_size, replace=replace) is None

        @rule(va=starts, length=lengths)
        def unmap(self, va, length):
            va, length = self.clip(va, length)
            assert self.pt.unmap(va, length) == self.model.unmap(va, length)

        @rule(va=starts, length=lengths, flags=flag_sets)
        def protect(self, va, length, flags):
            va, length = self.clip(va, length)
            assert self.pt.protect(va, length, flags) == self.model.protect(va, length, flags)

        # -- transitions

        @rule(va=starts)
        def populate(self, va):
            assert self.pt.populate(va) is self.model.populate(va)

        @where_leaves_are_huge
        @rule(va=starts, level=leaf_levels)
        def collapse(self, va, level):
            assert self.pt.collapse(va, level=level) is self.model.collapse(va, None, level)

        @where_leaves_are_huge
        @rule(va=starts, level=leaf_levels, run=st.integers(0, 1))
        def collapse_elsewhere(self, va, level, run):
            pa = self.runs[run] if level == 2 else geometry.target(va & -geometry.giant, run * geometry.giant)
            assert self.pt.collapse(va, pa, level=level) is self.model.collapse(va, pa, level)

        @where_leaves_are_huge
        @rule(
            va=starts,
            delta=st.sampled_from(geometry.targets),
            flags=flag_sets,
            level=leaf_levels,
            spoil=st.sampled_from([None, None, "hole", "soft", "flags", "use", "frame", "table"]),
            index=st.sampled_from([0, 1, -1]),
        )
        def fill_and_collapse(self, va, delta, flags, level, spoil, index):
            """A table full of leaves, which chance would hardly find, or nearly: one entry may be in the way."""
            length, size = arch.level(level).span, arch.level(level - 1).span
            va &= -length
            pa = geometry.target(va, delta) & -size
            odd = va + index % arch.level(level - 1).entries * size
            for table in (self.model, self.pt):
                table.map(va, pa, length, flags, page_size=size, replace=True)
                if spoil == "hole":
                    table.unmap(odd, size)
                elif spoil == "flags":
                    table.protect(odd, size, "rwx" if "w" not in flags else "rx")
                elif spoil == "use":
                    table.protect(odd, size, flags + "ad")
                elif spoil == "frame":
                    table.map(odd, (pa + size) % (1 << arch.pa_bits), size, flags, page_size=size, replace=True)
                elif spoil == "table":
                    table.split(odd)
            if spoil == "soft" and level == 2:
                self.pt.exchange(odd, soft)
                del self.model.leaves[odd]
                self.model.soft[odd] = soft
            outcome = self.model.collapse(va, None, level)
            if spoil in (None, "use"):  # accessed and dirty are merged
                assert outcome is (Outcome.NOT_CONTIGUOUS if pa % length else Outcome.DONE)
            assert self.pt.collapse(va, level=level) is outcome

        @where_there_are_runs
        @rule(va=starts, size=run_sizes)
        def collapse_to_a_run(self, va, size):
            assert self.pt.collapse(va, page_size=size) is self.model.collapse(va, page_size=size)

        @where_there_are_runs
        @rule(va=starts, size=run_sizes, delta=st.sampled_from(geometry.targets), flags=flag_sets)
        def fill_and_collapse_to_a_run(self, va, size, delta, flags):
            """Leaves by themselves that could be one; and where they are part of a larger one, that is taken apart."""
            level, _ = self.model.kinds[size]
            va &= -size
            pa = geometry.target(va, delta) & -arch.level(level).span
            for table in (self.model, self.pt):
                table.map(va, pa, size, flags, page_size=arch.level(level).span, replace=True)
            assert self.model.collapse(va, page_size=size) is (Outcome.NOT_CONTIGUOUS if pa % size else Outcome.DONE)
            assert self.pt.collapse(va, page_size=size) is (Outcome.NOT_CONTIGUOUS if pa % size else Outcome.DONE)

        @rule(va=starts)
        def split(self, va):
            assert self.pt.split(va) is self.model.split(va)

        @rule(va=starts, level=upper_levels)
        def retract(self, va, level):
            assert self.pt.retract(va, level=level) is self.model.retract(va, level)

        @rule(va=starts, length=lengths)
        def reclaim_empty(self, va, length):
            va, length = self.clip(va, length)
            assert self.pt.reclaim_empty(va, length) is self.model.reclaim_empty(va, length)

        # -- one entry

        @rule(
            va=starts,
            delta=st.sampled_from(geometry.targets),
            flags=flag_sets,
            kind=st.sampled_from([State.HUGE, State.HUGE, State.EMPTY, State.SOFT]),
            how=st.sampled_from(["exchange", "compare_exchange", "compare_exchange with another value"]),
        )
        def change_entry(self, va, delta, flags, kind, how):
            level, old = self.end_level(va), self.model.raw(va)
            first = va & -arch.level(level).span
            found = self.model.lookup(va)
            if level > 1 and found is None:
                for change in (lambda: self.pt.exchange(va, soft), lambda: self.pt.compare_exchange(va, old, soft)):
                    with pytest.raises(ptl.PageFault):
                        change()
                return
            pa = geometry.target(first, delta) & -arch.level(level).span
            if kind is State.HUGE or level > 1:
                new = arch.encode(pa, flags, level)
            else:
                new = soft if kind is State.SOFT else arch.level(1).empty
            if how == "exchange":
                assert self.pt.exchange(va, new) == old
            elif how == "compare_exchange":
                assert self.pt.compare_exchange(va, old, new) is True
            else:
                assert self.pt.compare_exchange(va, old ^ soft, new) is False
                return
            if found is not None and self.model.kinds[found[1].size][1] is not None:
                assert self.model.split(va)  # a part of a run that changes by itself
            self.model.leaves.pop(first, None)
            self.model.soft.pop(first, None)
            entry = arch.decode(new, level)
            if entry.state is State.HUGE:
                self.model.map(first, pa, arch.level(level).span, flags)
            elif entry.state is State.SOFT:
                self.model.soft[first] = new

        @rule(va=starts)
        def put_a_software_entry(self, va):
            """In a leaf table that there may not have been, where a later map must find it."""
            assert self.pt.populate(va) is self.model.populate(va)
            if self.end_level(va) == 1:
                assert self.pt.exchange(va, soft) == self.model.raw(va)
                while (found := self.model.lookup(va)) is not None and found[1].size > geometry.page:
                    self.model.split(va)
                self.model.leaves.pop(va, None)
                self.model.soft[va] = soft

        @rule(va=starts, flag=st.sampled_from(geometry.clearable))
        def test_and_clear(self, va, flag):
            found = self.model.lookup(va)
            if found is None:
                with pytest.raises(ptl.PageFault):
                    self.pt.test_and_clear(va, flag)
                return
            first, leaf = found
            assert self.pt.test_and_clear(va, flag) is (flag in leaf.flags)
            self.model.leaves[first] = leaf._replace(flags=leaf.flags.replace(flag, ""))

        # -- reading

        @rule(data=st.data(), offset=st.integers(-1, 1))
        def read_at_an_edge(self, data, offset):
            """The first and the last byte of a leaf, and their neighbours: scalar, in words, and step by step."""
            edges = {va + offset for va in geometry.starts}
            for first in list(self.model.leaves)[:8]:
                edges |= {first + offset, first + self.model.leaves[first].size + offset}
            va = data.draw(st.sampled_from(sorted(va for va in edges if va >= 0 and arch.canonical(va) == va)))
            states, found, pa = self.model.states(va), self.model.lookup(va), self.model.translate(va)
            leaf, walk = self.pt.lookup(va), self.pt.walk(va)
            if found is None:
                with pytest.raises(ptl.PageFault) as fault:
                    self.pt.translate(va)
                assert (fault.value.va, fault.value.level, fault.value.state) == (va, self.end_level(va), states[-1])
                assert leaf is None
                assert walk.fault == str(fault.value)
            else:
                first, mapped = found
                assert self.pt.translate(va) == pa
                assert (leaf.va, leaf.size, leaf.pa, leaf.flags) == (first, *mapped)
                assert (leaf.level, leaf.raw) == (self.end_level(va), self.model.raw(va))
                assert walk.fault is None
            assert walk.leaf == leaf
            assert [step.state for step in walk.steps] == states
            assert [step.level for step in walk.steps] == list(range(arch.levels, arch.levels - len(states), -1))
            assert walk.steps[-1].raw == self.model.raw(va)

        @rule()
        def read_all_edges_at_once(self):
            vas = array("Q", geometry.starts)
            for va in list(self.model.leaves)[:64]:
                vas.extend((va, va + self.model.leaves[va].size - 1))
            expected = [self.model.translate(va) for va in vas]
            assert list(self.pt.translate(vas)) == [ptl.UNMAPPED if pa is None else pa for pa in expected]

        @rule(lo=st.sampled_from([0, *geometry.starts]), pages=st.sampled_from([0, 1, 3, 700, None]))
        def go_through(self, lo, pages):
            """Leaves, one after another and in columns; merged; and what they leave free: each as the model has it."""
            hi = None if pages is None else min(lo + pages * geometry.page, 1 << 64)
            leaves = self.model.clipped(lo, 1 << 64 if hi is None else hi)
            raws = [self.model.raw(va) for va, *_ in leaves]
            view = self.pt[lo:hi]
            assert [(va, leaf.pa, leaf.size, leaf.flags) for va, leaf in view.items()] == leaves
            assert [leaf.raw for leaf in view.values()] == raws
            assert list(view) == [va for va, *_ in leaves]
            assert len(view) == len(leaves)
            columns = self.pt.export(lo, hi)
            assert list(zip(columns.va, columns.pa, columns.size, strict=True)) == [leaf[:3] for leaf in leaves]
            assert list(columns.raw) == raws
            runs = [(run.va, run.pa, run.length, run.flags) for run in self.pt.runs(lo, hi)]
            assert runs == merged(leaves)
            gaps = [(gap.va, gap.va + gap.length) for gap in self.pt.gaps(lo, hi)]
            assert gaps == self.model.free(lo, 1 << 64 if hi is None else hi)

        @rule(va=starts)
        def look_up_by_key(self, va):
            leaf = self.model.leaves.get(va)
            assert (va in self.pt) == (leaf is not None)
            found = self.pt.get(va)
            assert (found and (found.pa, found.size, found.flags)) == (leaf and (leaf.pa, leaf.size, leaf.flags))

        @rule(va=starts, delta=st.sampled_from(geometry.targets), flags=flag_sets)
        def store_by_key(self, va, delta, flags):
            va &= -geometry.page
            pa = geometry.target(va, delta) & -geometry.page
            self.pt[va] = pa, flags
            self.model.map(va, pa, geometry.page, flags, geometry.page, replace=True)

        @rule(va=starts, how=st.sampled_from(["del", "pop", "copy"]))
        def take_by_key(self, va, how):
            leaf = self.model.leaves.get(va)
            if leaf is None:
                with pytest.raises(KeyError):
                    del self.pt[va]
                return
            taken = self.pt[va]
            if how == "del":
                del self.pt[va]
            else:
                assert self.pt.pop(va) == taken
            self.model.unmap(va, leaf.size)
            if how == "copy":
                self.pt[va] = taken
                self.model.map(va, taken.pa, taken.size, taken.flags, taken.size)

        # -- always

        @invariant()
        def bytes_say_what_the_model_says(self):
            assert contents(self.pt) == self.model.contents()

        @invariant()
        def counters_agree(self):
            assert self.pt.check() == self.pt.stats()["tables"] == self.model.table_count()
            assert self.frames.stats()["parked"] == self.model.parked()
            assert DOMAIN.stats()["inside"] == 0

        # -- the end

        @rule(leaf_by_leaf=st.booleans())
        def start_over(self, leaf_by_leaf):
            """Unmap everything: all at once, or leaf by leaf and then the tables."""
            if leaf_by_leaf:
                for va, leaf in self.model.leaves.items():
                    assert self.pt.unmap(va, leaf.size) == leaf.size
                for va in self.model.soft:
                    assert self.pt.unmap(va, geometry.page) == geometry.page
                for va in geometry.parts:
                    self.pt.reclaim_empty(va, geometry.part)
            else:
                mapped = sum(leaf.size for leaf in self.model.leaves.values()) + geometry.page * len(self.model.soft)
                assert sum(self.pt.unmap(va, geometry.part) for va in geometry.parts) == mapped
            self.model = Reference(self.pt.arch)
            DOMAIN.synchronize()
            assert DOMAIN.stats()["limbo"] == 0
            stats = self.frames.stats()
            data_frames = len(self.runs) * geometry.huge // self.frames.frame_bytes if geometry.huge <= 4 << 20 else 0
            empty = sum(level.empty_is_table for level in arch.layout)
            assert (stats["tables"], stats["parked"], stats["data_frames"]) == (1 + empty, 0, data_frames)

        def teardown(self):
            if sys.exc_info()[0] is None:
                self.start_over(False)
                self.counters_agree()

    return Machine


NAMES = [*ptl.arch.names(), *MADE_UP]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_holds_what_a_dict_would(name):
    is_small = architecture(name).level(1).entries < 16
    run_state_machine_as_test(
        machine_for(name),
        settings=settings(
            max_examples=200 if is_small else max(10, 200 // len(NAMES)),  # half a minute for all of them
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
