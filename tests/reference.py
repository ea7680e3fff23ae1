"""A page table the slow and obvious way, for tests to compare the real one with.

`Reference` knows leaves by their first address and the tables above them, and nothing of bits, locks or frames. Its
methods have the names and the meaning of those of `ptl.PageTable`. `contents` reads a real table's bytes out of
physical memory with the architecture's own `decode`, and says the same of it in the same words.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ptl import Outcome, PageTable, State
from ptl.arch import Arch, Run


class Mapped(NamedTuple):
    """What a leaf maps its addresses to, and how."""

    size: int
    pa: int
    flags: str


class Taken(Exception):
    """A range of a `map` without `replace` has something in it."""


class Contents(NamedTuple):
    """Everything that a table holds: what two tables that are the same have in common."""

    leaves: dict[int, Mapped]
    soft: dict[int, int]
    tables: set[tuple[int, int]]


class Reference:
    """Leaves by first address, software's entries by address, and tables by level and first address."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.kinds = kinds(arch)
        self.leaves: dict[int, Mapped] = {}
        self.soft: dict[int, int] = {}
        self.tables: set[tuple[int, int]] = set()

    # -- geometry

    def span(self, level: int) -> int:
        """The bytes that one entry of that level covers."""
        return self.arch.level(level).span

    def level_of(self, size: int) -> int:
        """The level of leaves of that size."""
        return self.kinds[size][0]

    def parked_for(self, size: int) -> int:
        """How many tables it takes to split a leaf of that size down to the smallest pages."""
        tables = 0
        for level in range(2, self.level_of(size) + 1):
            tables = 1 + self.arch.level(level - 1).entries * tables
        return tables * (size // self.span(self.level_of(size)))

    # -- reading

    def contents(self) -> Contents:
        """All there is."""
        return Contents(self.leaves, self.soft, self.tables)

    def table_count(self) -> int:
        """How many tables there are, with the root."""
        return 1 + len(self.tables)

    def parked(self) -> int:
        """How many tables the huge leaves hold back for a split."""
        sizes = Counter(leaf.size for leaf in self.leaves.values())
        return sum(count * self.parked_for(size) for size, count in sizes.items())

    def lookup(self, va: int) -> tuple[int, Mapped] | None:
        """The leaf that maps an address, with its first address."""
        for size in self.kinds:
            leaf = self.leaves.get(va & -size)
            if leaf is not None and leaf.size == size:
                return va & -size, leaf
        return None

    def translate(self, va: int) -> int | None:
        """The physical address, or None."""
        found = self.lookup(va)
        return None if found is None else found[1].pa + va - found[0]

    def states(self, va: int) -> list[State]:
        """What the slots on the way to an address hold, from the root down."""
        states = []
        for level in range(self.arch.levels, 0, -1):
            slot = va & -self.span(level)
            if level > 1 and (level - 1, slot) in self.tables:
                states.append(State.TABLE)
                continue
            found = self.lookup(va)
            if found is not None and self.level_of(found[1].size) == level:
                states.append(State.HUGE)
            else:
                states.append(State.SOFT if level == 1 and slot in self.soft else State.EMPTY)
            break
        return states

    def raw(self, va: int) -> int:
        """The bits of the entry that decides about an address."""
        found = self.lookup(va)
        if found is not None:
            level, run = self.kinds[found[1].size]
            pa = found[1].pa + (va & -self.span(level)) - found[0]
            return self.arch.encode(pa, found[1].flags, level, run=run)
        level = self.arch.levels + 1 - len(self.states(va))
        return self.soft.get(va & -self.span(1), self.arch.level(level).empty)

    def clipped(self, lo: int, hi: int) -> list[tuple[int, int, int, str]]:
        """What the leaves map in a range, in order: (va, pa, size, flags) of each, cut at its ends."""
        found = []
        for va, leaf in sorted(self.leaves.items()):
            first, end = max(va, lo), min(va + leaf.size, hi)
            if first < end:
                found.append((first, leaf.pa + first - va, end - first, leaf.flags))
        return found

    def free(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """Where a range has nothing, software's own neither: (first, end), none across the end of a half or region."""
        arch = self.arch
        part = 1 << arch.va_bits - (arch.region_bits or arch.sign_extended)
        sizes = {va: leaf.size for va, leaf in self.leaves.items()} | dict.fromkeys(self.soft, self.span(1))
        taken = sorted(sizes.items())
        gaps = []
        for first in (arch.canonical(part * i) for i in range((1 << arch.va_bits) // part)):
            at, end = max(first, lo), min(first + part, hi)
            for va, size in taken if at < end else ():
                if va + size > at and va < end:
                    if at < va:
                        gaps.append((at, va))
                    at = va + size
            if at < end:
                gaps.append((at, end))
        return gaps

    def inside(self, lo: int, hi: int) -> list[int]:
        """The first addresses of the leaves that lie in a range."""
        return [va for va, leaf in self.leaves.items() if lo <= va and va + leaf.size <= hi]

    def is_taken(self, lo: int, hi: int) -> bool:
        """Whether any entry in a range is in use."""
        return any(va < hi and lo < va + leaf.size for va, leaf in self.leaves.items()) or any(
            lo <= va < hi for va in self.soft
        )

    # -- ranges

    def plan(self, va: int, pa: int, length: int, page_size: int | None = None) -> list[tuple[int, int, int]]:
        """The leaves of a map: the largest that fit, or all of one size, as (va, pa, size)."""
        leaves = []
        end = va + length
        while va < end:
            size = page_size or max(s for s in self.arch.page_sizes if not (va | pa) % s and va + s <= end)
            leaves.append((va, pa, size))
            va, pa = va + size, pa + size
        return leaves

    def map(self, va: int, pa: int, length: int, flags: str, page_size: int | None = None, replace: bool = False):
        if not replace and self.is_taken(va, va + length):
            raise Taken
        granted = self.arch.attributes(flags)
        plan = self.plan(va, pa, length, page_size)
        for start, _, size in plan:
            while (found := self.lookup(start)) is not None and found[1].size > size:
                self.split(start)
        self._drop_entries(va, va + length)
        for start, target, size in plan:
            if size > self.span(1):
                self._drop_tables(start, start + size)
            self._make_tables(start, self.level_of(size))
            self.leaves[start] = Mapped(size, target, granted)

    def unmap(self, va: int, length: int) -> int:
        self._cut(va)
        self._cut(va + length)
        self._drop_tables(va, va + length)
        return self._drop_entries(va, va + length)

    def protect(self, va: int, length: int, flags: str) -> int:
        self._cut(va)
        self._cut(va + length)
        changed = 0
        for start in self.inside(va, va + length):
            leaf = self.leaves[start]
            new = leaf._replace(flags=self.arch.attributes(flags + "".join(set(leaf.flags) & set("ad"))))
            if new != leaf:
                self.leaves[start] = new
                changed += leaf.size
        return changed

    # -- transitions

    def populate(self, va: int) -> Outcome:
        *_, last = self.states(va)
        if len(self.states(va)) == self.arch.levels:
            return Outcome.ALREADY
        if last is State.HUGE:
            return Outcome.IS_HUGE
        self._make_tables(va, 1)
        return Outcome.DONE

    def split(self, va: int) -> Outcome:
        found = self.lookup(va)
        if found is None or found[1].size == self.span(1):
            return Outcome.NOT_HUGE
        start, leaf = found
        level, run = self.kinds[leaf.size]
        del self.leaves[start]
        if run is None:
            level -= 1
            self.tables.add((level, start))
        for offset in range(0, leaf.size, self.span(level)):
            self.leaves[start + offset] = Mapped(self.span(level), leaf.pa + offset, leaf.flags)
        return Outcome.DONE

    def collapse(
        self, va: int, pa: int | None = None, level: int | None = None, page_size: int | None = None
    ) -> Outcome:
        size = page_size or self.span(level or 2)
        level, run = self.kinds[size]
        below = level if run else level - 1
        reason = self._why_no_table(va, below + 1)
        found = self.lookup(va)
        if reason is not None:
            return Outcome.ALREADY if found is not None and self.level_of(found[1].size) == level else reason
        if run and found is not None and found[1].size >= size:
            return Outcome.ALREADY if found[1].size == size else Outcome.IS_HUGE
        start = va & -size
        step = self.span(below)
        first = self._entry(start, step)
        flags: set[str] = set()
        for slot in range(start, start + size, step):  # the first entry in the way decides
            leaf = self._entry(slot, step)
            if (below - 1, slot) in self.tables:
                return Outcome.NOT_HUGE
            if slot in self.soft and below == 1:
                return Outcome.IS_SOFT
            if leaf is None or first is None:
                return Outcome.NOT_FULL
            if pa is None and leaf.pa != first.pa + slot - start:
                return Outcome.NOT_CONTIGUOUS
            if set(leaf.flags) - set("ad") != set(first.flags) - set("ad"):
                return Outcome.MIXED_FLAGS
            if pa is None and first.pa % size:
                return Outcome.NOT_CONTIGUOUS
            flags |= set(leaf.flags)
        assert first is not None
        self._drop_tables(start, start + size)
        self._drop_entries(start, start + size)
        granted = self.arch.attributes("".join(flags))
        self.leaves[start] = Mapped(size, first.pa if pa is None else pa, granted)
        return Outcome.DONE

    def retract(self, va: int, level: int = 2) -> Outcome:
        reason = self._why_no_table(va, level)
        if reason is not None:
            return reason
        start = va & -self.span(level)
        end = start + self.span(level)
        if self.is_taken(start, end) or any(n < level - 1 and start <= first < end for n, first in self.tables):
            return Outcome.NOT_EMPTY
        self.tables.remove((level - 1, start))
        return Outcome.DONE

    def reclaim_empty(self, va: int, length: int) -> Outcome:
        outcomes = set()
        for level in range(2, self.arch.levels + 1):
            for n, first in sorted(self.tables):
                if n == level - 1 and first < va + length and va < first + self.span(level):
                    outcomes.add(self.retract(first, level))
        if not outcomes:
            return Outcome.NO_TABLE
        return Outcome.DONE if Outcome.DONE in outcomes else Outcome.NOT_EMPTY

    # -- how

    def _entry(self, va: int, size: int) -> Mapped | None:
        """The leaf of that size, by itself or part of a run, that is in the slot of an address."""
        found = self.lookup(va)
        if found is None or self.span(self.level_of(found[1].size)) != size:
            return None
        return Mapped(size, found[1].pa + va - found[0], found[1].flags)

    def _why_no_table(self, va: int, level: int) -> Outcome | None:
        """What a transition answers that finds no table in the slot of that level; None when there is one."""
        if level > self.arch.levels or (level - 1, va & -self.span(level)) in self.tables:
            return None
        return Outcome.IS_HUGE if self.states(va)[-1] is State.HUGE else Outcome.NO_TABLE

    def _cut(self, boundary: int) -> None:
        """Split whatever leaf has this address inside, until none has."""
        while (found := self.lookup(boundary)) is not None and found[0] != boundary:
            self.split(boundary)

    def _drop_tables(self, lo: int, hi: int) -> None:
        """Remove every table whose slot lies in a range."""
        self.tables = {(n, va) for n, va in self.tables if not (lo <= va and va + self.span(n + 1) <= hi)}

    def _drop_entries(self, lo: int, hi: int) -> int:
        """Remove every entry of a range; the bytes that were in use."""
        dropped = 0
        for va in self.inside(lo, hi):
            dropped += self.leaves.pop(va).size
        for va in [va for va in self.soft if lo <= va < hi]:
            del self.soft[va]
            dropped += self.span(1)
        return dropped

    def _make_tables(self, va: int, level: int) -> None:
        """The tables down to one of that level."""
        self.tables.update((n, va & -self.span(n + 1)) for n in range(level, self.arch.levels))


def kinds(arch: Arch) -> dict[int, tuple[int, Run | None]]:
    """Every size of a leaf, smallest first, with its level and the run that it is."""
    found: dict[int, tuple[int, Run | None]] = {}
    for level in range(1, arch.levels + 1):
        geometry = arch.level(level)
        if geometry.leaf is not None:
            found[geometry.span] = level, None
            found |= {geometry.run_bytes(run): (level, run) for run in geometry.runs}
    return dict(sorted(found.items()))


def with_attributes(arch: Arch, raw: int, level: int, flags: Iterable[str]) -> int:
    """A leaf of that level with these attributes in place of its own."""
    for choice in arch.level(level).word.attributes:
        raw = raw & ~choice.bits | choice.put(flags)[0]
    return raw


def granting(arch: Arch, raw: int, level: int, letter: str) -> int:
    """The kernel's mkyoung, mkdirty, mkwrite."""
    choice = next(choice for choice in arch.level(level).word.attributes if letter in choice.letters)
    return raw & ~choice.bits | choice.put({*choice.get(raw), letter})[0]


def withholding(arch: Arch, raw: int, level: int, letter: str) -> int:
    """The kernel's mkold, mkclean, wrprotect."""
    choice = next(choice for choice in arch.level(level).word.attributes if letter in choice.letters)
    return raw & ~choice.bits | choice.put({*choice.get(raw)} - {letter})[0]


def software_entry(arch: Arch, level: int = 1) -> int:
    """Bits that the format reads as software's own on that level, which has leaves."""
    return arch.encode_soft(1, 2, level)


def entries(pt: PageTable, pa: int, level: int) -> array:
    """The raw entries of a table, out of physical memory."""
    geometry = pt.arch.level(level)
    raws = array(
        "Q" if geometry.word.bytes == 8 else "I", bytes(pt.frames.view(pa, geometry.entries * geometry.word.bytes))
    )
    if pt.arch.byte_order != sys.byteorder:
        raws.byteswap()
    return raws


def contents(pt: PageTable) -> Contents:
    """What the bytes of a real table say. Fails on a frozen entry, and on a state that no slot has at rest."""
    arch = pt.arch
    decode = _decoder(arch)
    found = Contents({}, {}, set())
    tables = [(pt.root, arch.levels, 0)]
    while tables:
        pa, level, first = tables.pop()
        empty, span = arch.level(level).empty, arch.level(level).span
        for i, raw in enumerate(entries(pt, pa, level)):
            if raw == empty:
                continue
            va = arch.canonical(first + i * span)
            state, address, flags, frozen, run = decode(raw, level)
            assert not frozen, f"{raw:#x} is frozen at {va:#x}"
            if run is not None:
                size = run.entries * span
                found.leaves.setdefault(va & -size, Mapped(size, address, flags))
                expected = Mapped(size, address if run.is_base else address - va % size, flags)
                assert found.leaves[va & -size] == expected, f"{raw:#x} is in no run at {va:#x}"
            elif state is State.HUGE:
                found.leaves[va] = Mapped(span, address, flags)
            elif state is State.SOFT:
                found.soft[va] = raw
            else:
                assert state is State.TABLE, f"{raw:#x} is {state.name} at {va:#x}"
                found.tables.add((level - 1, va))
                tables.append((address, level - 1, first + i * span))
    return found


def _decoder(arch: Arch):
    """The architecture's own `decode`, as a tuple and remembered: tests read the same bytes again and again."""
    known = _DECODED.setdefault(id(arch), (arch, {}))[1]

    def decode(raw: int, level: int):
        if (raw, level) not in known:
            entry = arch.decode(raw, level)
            known[raw, level] = entry.state, entry.pa, entry.flags, entry.frozen, entry.run
        return known[raw, level]

    return decode


_DECODED: dict[int, tuple[Arch, dict]] = {}
