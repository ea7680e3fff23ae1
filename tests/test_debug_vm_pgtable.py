"""What the kernel asks of every architecture when it boots (its mm/debug_vm_pgtable.c), asked of every format here.

First of entries as numbers, then of entries in a live table, on level 1 and on every level that has huge leaves.

Some of the kernel's checks have nothing to ask here, for no format has an attribute for it: entries that are special,
devmap, without access (protnone), soft-dirty, or write-protected by userfaultfd. Where the kernel parks a table beside
a huge entry before it sets one, `map` does, and `check` counts them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import ptl
from made_up import MADE_UP, architecture
from ptl import Outcome, State
from ptl.arch import Arch, SoftEntry
from reference import granting, with_attributes, withholding

NAMES = [*ptl.arch.names(), *MADE_UP]
EACH = pytest.mark.parametrize("arch", [architecture(name) for name in NAMES], ids=NAMES)


def leaf_levels(arch: Arch) -> list[int]:
    """The levels that have leaves."""
    return [level for level in range(1, arch.levels + 1) if arch.level(level).leaf is not None]


def each(levels: list[tuple[str, int]]) -> pytest.MarkDecorator:
    """A case for each of these levels of formats."""
    cases = [pytest.param(architecture(name), level, id=f"{name}-{level}") for name, level in levels]
    return pytest.mark.parametrize(("arch", "level"), cases)


LEAVES = [(name, level) for name in NAMES for level in leaf_levels(architecture(name))]
EACH_LEAF = each(LEAVES)
EACH_HUGE = each([(name, level) for name, level in LEAVES if level > 1])
EACH_UPPER = each([(name, level) for name in NAMES for level in range(2, architecture(name).levels + 1)])


# -- entries as numbers -----------------------------------------------------------------------------------------------


def protections(arch: Arch) -> Iterator[str]:
    """Every set of rights that the format can say: the kernel's table of protections."""
    for count in range(1, 6):
        for letters in itertools.combinations("rwxug", count):
            try:
                yield arch.attributes("".join(letters))
            except ptl.FormatError:
                continue


def entries(arch: Arch, level: int) -> Iterator[int]:
    """A leaf of each protection, neither young nor dirty, and each with one of the highest addresses, both."""
    last = (1 << arch.pa_bits) - arch.level(level).span
    for flags in protections(arch):
        yield arch.encode(arch.level(level).span, flags, level)
        yield arch.encode(last, flags + "ad", level)


def invalid(arch: Arch, raw: int, level: int) -> int:
    """The kernel's mkinvalid: what a huge leaf looks like while it is being split."""
    return raw & ~arch.level(level).invalid_clear | arch.level(level).invalid_set


@EACH_LEAF
@pytest.mark.parametrize("letter", "adw")
def test_young_and_old_dirty_and_clean_write_and_wrprotect_undo_each_other(arch, level, letter):
    """And change nothing else: where the leaf is, that it is one, and what else it grants."""
    for raw in entries(arch, level):
        before = arch.decode(raw, level)
        with_it, without = granting(arch, raw, level, letter), withholding(arch, raw, level, letter)
        if letter != "w" or "r" in before.flags or not arch.write_needs_read:
            after = arch.decode(with_it, level)
            assert set(after.flags) == {*arch.attributes("".join({*before.flags, letter}))}
            assert (after.state, after.pa) == (State.HUGE, before.pa)
            if set(after.flags) != {*before.flags, letter}:
                continue  # where the right to write brings the right to read, it stays
        after = arch.decode(without, level)
        assert set(after.flags) == {*before.flags} - {letter}
        assert (after.state, after.pa) == (State.HUGE, before.pa)
        assert withholding(arch, with_it, level, letter) == without
        assert granting(arch, without, level, letter) == with_it
        assert raw in (with_it, without)


@EACH_LEAF
def test_wrprotect_never_makes_dirty_and_keeps_dirty(arch, level):
    for raw in entries(arch, level):
        clean, dirty = withholding(arch, raw, level, "d"), granting(arch, raw, level, "d")
        assert "d" not in arch.decode(withholding(arch, clean, level, "w"), level).flags
        assert "d" in arch.decode(withholding(arch, dirty, level, "w"), level).flags


@EACH_HUGE
def test_a_huge_leaf_is_a_leaf_and_bad_as_a_table(arch, level):
    geometry = arch.level(level)
    for raw in entries(arch, level):
        for bits in (raw, raw | arch.level(level).word.frozen_present):
            assert arch.decode(bits, level).state is State.HUGE
            assert not geometry.table.matches(bits)


@EACH_HUGE
def test_an_invalid_huge_leaf_is_still_a_leaf_to_software(arch, level):
    geometry = arch.level(level)
    for raw in entries(arch, level):
        before, after = arch.decode(raw, level), arch.decode(invalid(arch, raw, level), level)
        assert (after.state, after.pa, after.flags) == (State.INVALID, before.pa, before.flags)
        assert not geometry.table.matches(invalid(arch, raw, level))
        assert not geometry.leaf.matches(invalid(arch, raw, level))  # hardware sees none


@EACH_UPPER
def test_a_populated_entry_is_not_bad(arch, level):
    geometry = arch.level(level)
    below = arch.table_bytes(level - 1)
    for pa in (0, below, (1 << arch.table_bits) - below)[geometry.table_set == geometry.empty :]:
        raw = geometry.table_set | geometry.address.put(pa)
        assert arch.decode(raw, level).state is State.TABLE
        assert arch.decode(raw, level).pa == pa


@EACH_LEAF
def test_a_frame_number_comes_back_from_a_leaf(arch, level):
    span = arch.level(level).span
    pas = {1 << bit for bit in range(span.bit_length() - 1, arch.pa_bits)}
    for pa in (0, *pas, sum(pas)):
        assert arch.decode(arch.encode(pa, "r", level), level).pa == pa


def extremes(arch: Arch) -> Iterator[tuple[int, int]]:
    """No bits and all bits of type and offset, but for the pair, if any, that is an empty entry."""
    for kind, offset in itertools.product((0, arch.soft_types - 1), (0, arch.soft_offsets - 1)):
        nothing = kind == 0 and offset == (arch.soft_offsets - 1 if arch.level(1).word.soft.inverted_offset else 0)
        if not nothing or arch.level(1).word.soft.base & ~arch.level(1).empty:
            yield kind, offset


@EACH_LEAF
def test_a_swap_entry_with_all_bits_of_type_and_offset_comes_back(arch, level):
    """And one with none of them; on every level, for the kernel's swap entries of pages and of huge pages are alike."""
    for kind, offset in extremes(arch):
        raw = arch.encode_soft(kind, offset, level)
        assert arch.decode(raw, level).state is State.SOFT
        assert arch.decode_soft(raw, level) == SoftEntry(kind, offset)
        assert arch.encode_soft(kind, offset, level) == raw


@EACH_LEAF
def test_exclusive_is_no_part_of_the_swap_entry(arch, level):
    """It is set and cleared by itself, and the entry is one of swap before and after."""
    for kind, offset in extremes(arch):
        shared, exclusive = (arch.encode_soft(kind, offset, level, exclusive=alone) for alone in (False, True))
        assert shared ^ exclusive == arch.level(level).word.soft.exclusive
        assert arch.decode_soft(shared, level) == SoftEntry(kind, offset, exclusive=False)
        assert arch.decode_soft(exclusive, level) == SoftEntry(kind, offset, exclusive=True)
        assert arch.decode(exclusive, level).state is State.SOFT


def frame_number_bits(arch: Arch) -> int:
    """How wide the numbers of frames are that can move: those that fit a swap entry."""
    return min(arch.pa_bits - arch.page_shift, arch.soft_offsets.bit_length() - 1)


@EACH
def test_a_frame_number_comes_back_from_a_swap_entry(arch):
    bits = frame_number_bits(arch)
    for pfn in (0, *(1 << bit for bit in range(bits)), (1 << bits) - 1):
        assert arch.decode_soft(arch.encode_soft(1, pfn)).offset == pfn


class Migration(NamedTuple):
    """The kernel's migration entries: two of the types of its swap entries, and the number of the frame that moves."""

    arch: Arch
    level: int = 1

    def readable(self, pfn: int) -> int:
        return self.arch.encode_soft(self.arch.soft_types - 2, pfn, self.level)

    def writable(self, pfn: int) -> int:
        return self.arch.encode_soft(self.arch.soft_types - 1, pfn, self.level)

    def is_one(self, raw: int) -> bool:
        return self.arch.decode_soft(raw, self.level).type >= self.arch.soft_types - 2

    def is_writable(self, raw: int) -> bool:
        return self.arch.decode_soft(raw, self.level).type == self.arch.soft_types - 1

    def frame(self, raw: int) -> int:
        return self.arch.decode_soft(raw, self.level).offset << self.arch.page_shift


@EACH
def test_a_migration_entry_says_whether_it_may_be_written(arch):
    migration = Migration(arch)
    pfn = (1 << frame_number_bits(arch)) - 1
    writable, readable = migration.writable(pfn), migration.readable(pfn)
    assert migration.is_one(writable)
    assert migration.is_writable(writable)
    assert migration.is_one(readable)
    assert not migration.is_writable(readable)
    assert migration.frame(writable) == migration.frame(readable) == pfn << arch.page_shift
    assert migration.readable(arch.decode_soft(writable).offset) == readable  # what fork makes of it
    assert not migration.is_one(arch.encode_soft(0, pfn))


# -- a live table -----------------------------------------------------------------------------------------------------


class Live:
    """A table, and an address where one leaf of a level belongs."""

    def __init__(self, arch: Arch, level: int) -> None:
        self.frames = ptl.Frames(1 << 24, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(arch, frames=self.frames)
        self.arch, self.level = self.pt.arch, level
        self.span = arch.level(level).span
        self.va, self.pa = self.span, 4 * self.span

    def set(self, flags: str = "rw") -> int:
        """A leaf there, and its bits."""
        self.pt.map(self.va, self.pa, self.span, flags, page_size=self.span)
        return self.pt.lookup(self.va).raw

    def cell(self) -> memoryview:
        """The entry itself, as bytes of physical memory."""
        step = next(step for step in self.pt.walk(self.va).steps if step.level == self.level)
        size = self.arch.level(self.level).word.bytes
        return self.frames.view(step.table_pa + step.index * size, size)

    def plant(self, raw: int) -> None:
        """Write bits into the entry past the table, as only this test does."""
        self.cell()[:] = raw.to_bytes(self.arch.level(self.level).word.bytes, self.arch.byte_order)

    def state(self) -> State:
        return self.pt.slot(self.va, self.level).state

    def flags(self) -> set[str]:
        return set(self.pt.lookup(self.va).flags)

    def is_none(self) -> bool:
        """Nothing is left of a leaf: no entry, no address, no table parked for its split."""
        cell = int.from_bytes(self.cell(), self.arch.byte_order)
        return (
            cell == self.arch.level(self.level).empty
            and self.state() is State.EMPTY
            and self.pt.lookup(self.va) is None
            and self.frames.stats()["parked"] == 0
        )


@EACH_LEAF
def test_what_is_set_is_there_and_what_is_cleared_is_none(arch, level):
    live = Live(arch, level)
    raw = live.set("rwad")
    assert raw == arch.encode(live.pa, "rwad", level)
    assert live.state() is State.HUGE
    assert (live.frames.stats()["parked"] > 0) is (level > 1)
    live.pt.check()
    assert live.pt.unmap(live.va, live.span) == live.span
    assert live.is_none()
    live.pt.check()


@EACH
def test_get_and_clear_returns_what_was_there(arch):
    """The kernel's ptep_get_and_clear, with and without `full`."""
    live = Live(arch, 1)
    empty = arch.level(1).empty
    raw = live.set("rwad")
    assert live.pt.exchange(live.va, empty) == raw
    assert live.is_none()
    assert live.pt.exchange(live.va, empty) == empty
    live.pt.check()


@EACH_LEAF
def test_wrprotect_on_a_live_entry(arch, level):
    live = Live(arch, level)
    raw = live.set("rwad")
    assert live.pt.test_and_clear(live.va, "w")
    assert live.flags() == set(arch.attributes("rad"))
    assert live.pt.lookup(live.va).raw == withholding(arch, raw, level, "w")
    assert not live.pt.test_and_clear(live.va, "w")
    live.pt.check()


@EACH_LEAF
def test_set_access_flags_on_a_live_entry(arch, level):
    """From clean and write-protected to written: one change, of an entry that is as it was last seen."""
    live = Live(arch, level)
    seen = live.set("r")
    written = with_attributes(arch, seen, level, {*arch.decode(seen, level).flags, *"wda"})
    assert live.pt.compare_exchange(live.va, seen, written)
    assert live.flags() == set(arch.attributes("rwad"))
    assert not live.pt.compare_exchange(live.va, seen, written)
    assert live.pt.translate(live.va) == live.pa
    live.pt.check()


@EACH_LEAF
def test_test_and_clear_young_on_a_live_entry(arch, level):
    live = Live(arch, level)
    live.set("rwad")
    assert live.pt.test_and_clear(live.va, "a")
    assert live.flags() == set(arch.attributes("rwd"))
    assert not live.pt.test_and_clear(live.va, "a")
    assert live.pt.translate(live.va) == live.pa
    live.pt.check()


@EACH_HUGE
def test_a_live_huge_leaf_is_no_table_and_nobody_clears_it_as_bad(arch, level):
    """The kernel's pmd_bad is true of it, and its classifier asks for huge first."""
    live = Live(arch, level)
    raw = live.set()
    for bits in (raw, invalid(arch, raw, level)):
        live.plant(bits)
        assert live.pt.pte_map(live.va) is live.pt.pte_map_rw(live.va) is live.pt.pte_map_lock(live.va) is None
        assert live.pt.populate(live.va) is Outcome.IS_HUGE
        assert live.pt.slot(live.va, level).load() == bits
        assert live.pt.translate(live.va + 1) == live.pa + 1
        assert live.pt.lookup(live.va).size == live.span
    assert live.pt.stats()["bad_cleared"] == 0
    live.plant(raw)
    live.pt.check()


@EACH_UPPER
def test_populate_makes_tables_that_are_not_bad(arch, level):
    """On every level there is, from an empty root."""
    live = Live(arch, level)
    if level == arch.levels:
        assert live.state() is State.EMPTY
    else:
        assert live.pt.slot(live.va, level) is None
    assert live.pt.populate(live.va) is Outcome.DONE
    assert live.state() is State.TABLE
    with live.pt.pte_map(live.va) as ptes:
        assert all(ptes.load(i) == arch.level(1).empty for i in range(len(ptes)))
    assert live.pt.stats()["bad_cleared"] == 0
    live.pt.check()


def frozen_bits(arch: Arch, level: int) -> int:
    """Both of them."""
    return arch.level(level).word.frozen_present | arch.level(level).word.frozen_absent


def garbage(arch: Arch, level: int, seed: int) -> int:
    """Random bits, but for those that freeze: they are for a transition to clear, and everybody else waits."""
    return random.Random(seed).getrandbits(8 * arch.level(level).word.bytes) & ~frozen_bits(arch, level)


@EACH
@pytest.mark.parametrize("seed", range(16))
def test_an_entry_with_garbage_is_none_once_it_is_cleared(arch, seed):
    live = Live(arch, 1)
    raw = live.set()
    live.plant((raw | garbage(arch, 1, seed)) & ~frozen_bits(arch, 1))
    assert live.pt.unmap(live.va, live.span) == live.span
    assert live.is_none()
    live.set()
    live.plant(garbage(arch, 1, seed))
    live.pt.unmap(live.va, live.span)
    assert live.is_none()
    live.pt.check()


@EACH
def test_a_bad_slot_with_garbage_is_none_once_it_is_cleared(arch):
    """By the fallible map, as the kernel does it; then a table can be populated there."""
    live = Live(arch, 2)
    live.pt.populate(live.va)
    live.pt.retract(live.va)
    cleared = 0
    for seed in range(2000):
        raw = garbage(arch, 2, seed)
        if arch.decode(raw, 2).state is State.BAD:
            live.plant(raw)
            assert live.state() is State.BAD
            assert live.pt.pte_map(live.va) is None
            cleared += 1
            assert live.pt.stats()["bad_cleared"] == cleared
            assert live.is_none()
    assert cleared > 50
    assert live.pt.populate(live.va) is Outcome.DONE
    live.pt.check()


@EACH_LEAF
def test_a_swap_entry_in_a_live_table(arch, level):
    """All bits of type and offset, and the exclusive bit set and cleared there; then the leaf is back."""
    live = Live(arch, level)
    raw = live.set("rwad")
    room = arch.level(level).span >> arch.page_shift if level > 1 else 0  # for the offsets of all its pages
    last = arch.soft_types - 1, arch.soft_offsets - 1 - room
    shared, exclusive = arch.encode_soft(*last, level), arch.encode_soft(*last, level, exclusive=True)
    assert live.pt.exchange(live.va, shared) == raw
    assert live.state() is State.SOFT
    assert live.pt.lookup(live.va) is None
    assert live.pt.slot(live.va, level).load() == shared
    assert live.pt.compare_exchange(live.va, shared, exclusive)
    assert arch.decode_soft(live.pt.slot(live.va, level).load(), level) == SoftEntry(*last, exclusive=True)
    assert live.pt.compare_exchange(live.va, exclusive, shared)
    assert not live.pt.compare_exchange(live.va, exclusive, raw)
    live.pt.check()
    assert live.pt.compare_exchange(live.va, shared, raw)
    assert live.pt.lookup(live.va).flags == arch.attributes("rwad")
    live.pt.check()


@EACH_LEAF
def test_a_migration_in_a_live_table(arch, level):
    """Leaf, migration entry, leaf somewhere else; who comes meanwhile finds no leaf and no table."""
    live = Live(arch, level)
    migration = Migration(arch, level)
    old = live.set("rwd")
    entry = migration.writable(live.pa >> arch.page_shift)
    assert live.pt.compare_exchange(live.va, old, entry)
    with pytest.raises(ptl.PageFault) as fault:
        live.pt.translate(live.va)
    assert (fault.value.level, fault.value.state) == (level, State.SOFT)
    assert not live.pt.compare_exchange(live.va, old, entry)
    if level > 1:
        assert live.pt.pte_map(live.va) is live.pt.pte_map_lock(live.va) is None
        assert live.pt.stats()["bad_cleared"] == 0
    found = live.pt.slot(live.va, level).load()
    assert migration.is_writable(found)
    assert migration.frame(found) == live.pa
    assert live.pt.compare_exchange(live.va, entry, arch.encode(8 * live.span, "rwd", level))
    assert live.pt.translate(live.va + 1) == 8 * live.span + 1
    live.pt.check()


@EACH_HUGE
def test_a_huge_mapping_of_kernel_memory(arch, level):
    """The kernel's huge vmap: set where nothing was, cleared to nothing, though a table was there before and after."""
    live = Live(arch, level)
    live.pt.populate(live.va)
    assert live.pt.reclaim_empty(live.va, live.span) is Outcome.DONE
    for flags in protections(arch):
        live.set(flags)
        assert live.state() is State.HUGE
        assert live.flags() == set(flags)
        assert live.pt.unmap(live.va, live.span) == live.span
        if level < arch.levels:
            live.pt.reclaim_empty(live.va, live.span)  # the table that held the slot, now empty
        live.pt.check()
    assert live.pt.lookup(live.va) is None
    assert live.frames.stats()["parked"] == 0
    assert live.pt.populate(live.va) is Outcome.DONE
