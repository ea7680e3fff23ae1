"""The promise: where hardware reads a shadow of each entry, it reads what the entry says.

A shadow is a word of its own, so it cannot change in the same instant as its entry. But whoever changes an entry has it
frozen meanwhile, so the last shadow stored is the last entry's, and no flush comes before the shadow.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import ptl
import ptl.tlb
from helpers import going_on, linux_only
from made_up import SHADOWED

PAGE, HUGE = SHADOWED.page_sizes[:2]
LEAF = SHADOWED.level(1)
FORMATS = [arch for arch in (*map(ptl.arch.get, ptl.arch.names()), SHADOWED) if arch.layout[0].shadow is not None]
EACH = pytest.mark.parametrize("arch", FORMATS, ids=lambda arch: arch.name)


def hardware(pt: ptl.PageTable, va: int) -> int:
    """What hardware reads for a page: the word behind the entry."""
    step, leaf = pt.walk(va).steps[-1], pt.arch.level(1)
    assert step.level == 1
    assert leaf.shadow is not None
    view = pt.frames.view(step.table_pa + step.index * leaf.word.bytes + leaf.shadow.offset, leaf.word.bytes)
    return int.from_bytes(view, pt.arch.byte_order)


def huge_size(pt: ptl.PageTable) -> int:
    return pt.arch.page_sizes[1]


CHANGES: dict[str, Callable[[ptl.PageTable], object]] = {
    "map": lambda pt: pt.map(PAGE, 5 * PAGE, flags="rwad"),
    "map of a range": lambda pt: pt.map(PAGE, 5 * PAGE, 2 * PAGE, "rwad"),
    "unmap": lambda pt: pt.unmap(0, PAGE),
    "unmap of a range": lambda pt: pt.unmap(0, 2 * PAGE),
    "protect": lambda pt: pt.protect(0, PAGE, "r"),
    "replace": lambda pt: pt.map(0, 7 * PAGE, 2 * PAGE, "ra", page_size=PAGE, replace=True),
    "exchange": lambda pt: pt.exchange(0, pt.arch.encode(9 * PAGE, "rwad")),
    "exchange for software's": lambda pt: pt.exchange(0, pt.arch.encode_soft(1, 2)),
    "test and clear": lambda pt: pt.test_and_clear(0, "a"),
    "move": lambda pt: pt.move(0, PAGE, PAGE),
    "move of a table": lambda pt: pt.move(0, 2 * huge_size(pt), huge_size(pt)),
    "collapse that is refused": lambda pt: pt.collapse(0),
    "split": lambda pt: pt.split(huge_size(pt)),
    "cut": lambda pt: pt.protect(huge_size(pt), PAGE, "r"),
    "split of software's": lambda pt: (
        pt.exchange(huge_size(pt), pt.arch.encode_soft(1, 2, 2)),
        pt.split(huge_size(pt)),
    ),
    "collapse by copy": lambda pt: pt.collapse(0, 4 * huge_size(pt), holes=huge_size(pt) // PAGE - 1),
}


@EACH
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_leaves_the_shadow_of_the_entry(arch, change):
    pt = ptl.PageTable(arch)
    huge = huge_size(pt)
    pt.map(0, 3 * PAGE, flags="rwad")
    pt.map(huge, huge, huge, "rwad")
    change(pt)
    for va in range(0, 4 * huge, PAGE):
        step = pt.walk(va).steps[-1]
        if step.level == 1:
            assert hardware(pt, va) == arch.level(1).shadow.of(step.raw)
    pt.check()


@EACH
def test_pages_that_become_a_huge_leaf_and_pages_again_have_their_shadows(arch):
    """Hardware reads no shadow while they are one, and of each page what it was, dirty now if any was."""
    pt = ptl.PageTable(arch)
    size = huge_size(pt)
    pages = range(0, size, PAGE)
    pt.map(0, size, size, "rwa", page_size=PAGE)
    assert pt.protect(PAGE, PAGE, "rwad") == PAGE
    shown = [hardware(pt, va) for va in pages]
    assert len(set(shown)) == len(shown)
    for turn in range(2):
        assert pt.collapse(0)
        assert pt.lookup(0).raw == arch.encode(size, "rwad", 2)
        assert pt.split(0)
        again = [hardware(pt, va) for va in pages]
        assert (again == shown) is (turn == 1)
        assert again[1] == shown[1]
        shown = again
    pt.check()


def test_hardware_is_shown_a_page_when_it_was_accessed_and_lets_write_when_it_is_dirty():
    pt = ptl.PageTable(SHADOWED)
    pt.map(0, 3 * PAGE, flags="rw")
    assert hardware(pt, 0) == 0
    tlb = ptl.tlb.Tlb()
    tlb.attach(pt)
    tlb.translate(pt, 0, "r")
    read_only = hardware(pt, 0)
    assert read_only >> 62 == 0b10
    tlb.translate(pt, 0, "w")
    assert hardware(pt, 0) == read_only | 1 << 62
    pt.check()


@EACH
def test_freezing_an_entry_does_not_change_its_shadow(arch):
    """So hardware goes on as if nothing were under way."""
    level = arch.level(1)
    for flags in ("r", "rw", "rwxuad"):
        raw = arch.encode(4 * level.span, flags)
        assert level.shadow.of(raw | level.word.frozen_present) == level.shadow.of(raw)
    assert level.shadow.of(level.empty | level.word.frozen_absent) == level.shadow.of(level.empty) == 0


@linux_only
def test_two_who_change_one_entry_leave_the_shadow_of_the_last():
    """The first has waited for a frozen entry, without the GIL, and stores its entry; the second comes at once."""
    pt = ptl.PageTable(SHADOWED)
    pt.map(0, 3 * PAGE, flags="rwad")
    step = pt.walk(0).steps[-1]
    entry = pt.frames.view(step.table_pa, LEAF.word.bytes)
    first = SHADOWED.encode(5 * PAGE, "rwad")
    entry[:] = (step.raw | LEAF.word.frozen_present).to_bytes(LEAF.word.bytes, SHADOWED.byte_order)
    with going_on(lambda: pt.exchange(0, first)):
        entry[:] = step.raw.to_bytes(LEAF.word.bytes, SHADOWED.byte_order)
        while pt.walk(0).steps[-1].raw != first:
            time.sleep(0)
        assert pt.protect(0, 2 * PAGE, "ra") == PAGE  # a range: it freezes, and goes another way than the first
    assert pt.lookup(0).pa == 5 * PAGE
    pt.check()


def test_check_finds_a_shadow_of_something_else():
    pt = ptl.PageTable(SHADOWED)
    pt.map(0, 3 * PAGE, flags="rwad")
    step = pt.walk(0).steps[-1]
    view = pt.frames.view(step.table_pa + step.index * LEAF.word.bytes + LEAF.shadow.offset, LEAF.word.bytes)
    kept, view[:] = bytes(view), bytes(LEAF.word.bytes)
    with pytest.raises(ptl.InvariantError, match="S1: entry 0 of the level-1 table"):
        pt.check()
    view[:] = kept
    pt.check()
