"""The promise: a range operation changes the bytes from its first to its last, and nothing else, wherever they lie.

Every page-aligned range of the `tiny` architecture's 64 pages, on every one of a small set of starting states, for
every operation, compared with the `Reference`. Then the edges of real address spaces: the first byte and the last, and
both sides of the hole between the canonical halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import ptl
from helpers import Crew
from ptl.tlb import Tlb
from reference import Reference, Taken, contents

PAGE, HUGE, GIANT = TINY_SIZES = 0x1000, 0x4000, 0x10000
TINY_END = 4 * GIANT
DOMAIN = ptl.EpochDomain()
"""So that nobody else's tables are in limbo."""


def nothing(pt: ptl.PageTable | Reference) -> None:
    """An empty table."""


def one_page(pt: ptl.PageTable | Reference) -> None:
    """One page in the middle of a table."""
    pt.map(GIANT + HUGE + PAGE, 0x9000, PAGE, "rw")


def a_full_table(pt: ptl.PageTable | Reference) -> None:
    """A table full of pages, that could be a huge leaf."""
    pt.map(GIANT + HUGE, 0x40000, HUGE, "rwu", page_size=PAGE)


def a_huge_leaf(pt: ptl.PageTable | Reference) -> None:
    """A leaf on level 2."""
    pt.map(GIANT + HUGE, 0x40000, HUGE, "rwd")


def a_giant_leaf(pt: ptl.PageTable | Reference) -> None:
    """A leaf in the root."""
    pt.map(GIANT, 0x40000, GIANT, "rwa")


def a_mixture(pt: ptl.PageTable | Reference) -> None:
    """Leaves of each size, holes, tables full, half full and empty, from the first byte to the last."""
    pt.map(0, 0x50000, HUGE, "rx")
    pt.map(HUGE + PAGE, 0x1000, 2 * PAGE, "rw")
    pt.map(GIANT, 0x40000, GIANT, "rwu")
    pt.map(2 * GIANT + HUGE, 0x80000, HUGE, "rw", page_size=PAGE)
    pt.map(3 * GIANT - PAGE, 0x1000, PAGE, "rw")
    pt.unmap(3 * GIANT - PAGE, PAGE)
    pt.map(3 * GIANT, 0x90000, 2 * HUGE, "rw")
    pt.map(4 * GIANT - PAGE, 0xF000, PAGE, "rxg")


STATES = (nothing, one_page, a_full_table, a_huge_leaf, a_giant_leaf, a_mixture)


def ranges(granule: int = PAGE, end: int = TINY_END) -> Iterator[tuple[int, int]]:
    """Every range of whole granules, as first address and length."""
    for first in range(0, end, granule):
        for last in range(first + granule, end + 1, granule):
            yield first, last - first


class Case:
    """One starting state, made again and again in one table, and the reference beside it."""

    def __init__(self, state: Callable[[ptl.PageTable | Reference], None]) -> None:
        self.frames = ptl.Frames(1 << 16, frame_bytes=32, domain=DOMAIN)
        self.pt = ptl.PageTable("tiny", frames=self.frames)
        self.state = state
        self.root_only = contents(self.pt)
        self.begin()

    def begin(self) -> None:
        """Make the starting state, in a table with nothing in it."""
        self.model = Reference(self.pt.arch)
        self.state(self.model)
        self.state(self.pt)

    def same(self) -> None:
        """The table is what the reference is; then everything goes, and nothing is left behind."""
        assert contents(self.pt) == self.model.contents()
        assert self.pt.check() == self.model.table_count()
        assert self.frames.stats()["parked"] == self.model.parked()
        mapped = sum(leaf.size for leaf in self.model.leaves.values())
        assert self.pt.unmap(0, TINY_END) == mapped
        assert contents(self.pt) == self.root_only
        assert self.frames.stats()["parked"] == 0
        self.begin()

    def map(self, va: int, pa: int, length: int, *, page_size: int | None = None, replace: bool) -> None:
        """Map in both, which is refused in both or in neither; then compare."""
        try:
            self.model.map(va, pa, length, "rwg", page_size, replace)
        except Taken:
            with pytest.raises(ptl.AlreadyMapped):
                self.pt.map(va, pa, length, "rwg", page_size=page_size)
        else:
            self.pt.map(va, pa, length, "rwg", page_size=page_size, replace=replace)
        self.same()

    def close(self) -> None:
        """No table was lost on the way."""
        self.pt.unmap(0, TINY_END)
        DOMAIN.synchronize()
        assert DOMAIN.stats()["limbo"] == 0
        stats = self.frames.stats()
        assert (stats["tables"], stats["parked"]) == (1, 0)


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def case(request):
    """Each starting state in turn."""
    case = Case(request.param)
    case.same()
    yield case
    case.close()


def test_unmap_of_every_range(case):
    for va, length in ranges():
        assert case.pt.unmap(va, length) == case.model.unmap(va, length)
        case.same()


@pytest.mark.parametrize("flags", ["rw", "rxg"])
def test_protect_of_every_range(case, flags):
    for va, length in ranges():
        assert case.pt.protect(va, length, flags) == case.model.protect(va, length, flags)
        case.same()


@pytest.mark.parametrize("replace", [False, True])
def test_map_of_every_range(case, replace):
    """Physical and virtual addresses are aligned alike, so that the largest leaves fit."""
    for va, length in ranges():
        case.map(va, GIANT + va, length, replace=replace)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("offset", [PAGE, HUGE, 3 * HUGE + 3 * PAGE])
def test_map_of_unlike_alignment(case, replace, offset):
    """What the frames are aligned to bounds the size of the leaves. Every range that meets the second giant entry."""
    for va, length in ranges(end=2 * GIANT + HUGE):
        if va + length > GIANT - HUGE:
            case.map(va, va + offset, length, replace=replace)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("page_size", TINY_SIZES)
def test_map_of_one_size(case, replace, page_size):
    """Every range that this size can tile; the smallest only where it meets the second giant entry."""
    for va, length in ranges(page_size):
        if page_size > PAGE or (va + length > GIANT - HUGE and va < 2 * GIANT + HUGE and length <= GIANT):
            case.map(va, 0x40000 + va, length, page_size=page_size, replace=replace)


def test_reclaim_of_every_range(case):
    """Tables that are empty go, whole or not they lie in the range; others stay."""
    for va, length in ranges():
        for pt in (case.pt, case.model):
            pt.populate(2 * GIANT)
            pt.populate(3 * GIANT + 2 * HUGE)
        assert case.pt.reclaim_empty(va, length) is case.model.reclaim_empty(va, length)
        case.same()


# -- the edges of real address spaces

SIGN_EXTENDED = [name for name in ptl.arch.names() if ptl.arch.get(name).sign_extended]


def halves(arch: ptl.arch.Arch) -> list[tuple[int, int]]:
    """The runs of addresses that no range leaves, halves or regions or all of them, as (first address, end)."""
    length = 1 << arch.va_bits - (arch.region_bits or arch.sign_extended)
    firsts = [arch.canonical(number) for number in range(0, 1 << arch.va_bits, length)]
    return [(first, first + length) for first in firsts]


@pytest.mark.parametrize("name", ptl.arch.names())
def test_first_and_last_byte(name):
    """A leaf of every size at either end of every half: mapped, read to its last byte, protected, unmapped."""
    pt = ptl.PageTable(name)
    model = Reference(pt.arch)
    for first, end in halves(pt.arch):
        for size in pt.arch.page_sizes:
            for va in (first, end - size):
                for table in (pt, model):
                    table.map(va, 5 * pt.arch.page_sizes[-1], size, "rw")
                assert pt.lookup(va).size == size
                assert pt.translate(va) == 5 * pt.arch.page_sizes[-1]
                assert pt.translate(va + size - 1) == 5 * pt.arch.page_sizes[-1] + size - 1
                assert contents(pt) == model.contents()
                assert pt.protect(va, size, "r") == model.protect(va, size, "r") == size
                assert pt.unmap(va, size) == model.unmap(va, size) == size
                pt.check()
                assert contents(pt) == model.contents()
        assert pt.reclaim_empty(first, end - first) is model.reclaim_empty(first, end - first)
    assert pt.stats()["tables"] == 1


@pytest.mark.parametrize("name", ptl.arch.names())
def test_a_whole_half_at_once(name):
    """Pages at both ends of every half; unmap and protect of one half leave the other alone."""
    pt = ptl.PageTable(name)
    page, huge = (pt.arch.level(number).span for number in (1, 2))
    for first, end in halves(pt.arch):
        pt.map(first, 0, 2 * page, "rw")
        pt.map(first + huge, 0, huge, "rw")
        pt.map(end - huge, 0, huge, "rw", page_size=page)
    for first, end in halves(pt.arch):
        assert pt.protect(first, end - first, "r") == 2 * (page + huge)
        assert pt.protect(first, end - first, "r") == 0
        pt.check()
        assert pt.unmap(first, end - first) == 2 * (page + huge)
        assert pt.unmap(first, end - first) == 0
        assert pt.lookup(first) is None
        assert pt.lookup(end - 1) is None
        pt.check()
    assert pt.stats()["tables"] == 1
    assert pt.frames.stats()["parked"] == 0


@pytest.mark.parametrize("name", SIGN_EXTENDED)
def test_the_halves_do_not_touch(name):
    """The last page of the lower half and the first of the upper one are neighbours only in the root."""
    pt = ptl.PageTable(name)
    page = pt.arch.page_sizes[0]
    (_, end), (first, _) = halves(pt.arch)
    pt.map(end - page, 0x10000, page, "rw")
    pt.map(first, 0x20000, page, "rw")
    assert pt.translate(end - 1) == 0x10000 + page - 1
    assert pt.translate(first) == 0x20000
    assert pt.unmap(end - page, page) == page
    assert pt.lookup(end - 1) is None
    assert pt.translate(first) == 0x20000


# -- what a cut leaves behind


def test_a_huge_leaf_is_split_where_it_is_cut():
    """One page unmapped in a giant leaf: leaves of the next size elsewhere, pages only around the hole."""
    pt = ptl.PageTable("tiny")
    pt.map(0, GIANT, GIANT, "rwxd")
    assert pt.unmap(HUGE + PAGE, PAGE) == PAGE
    sizes = {va: pt.lookup(va) and pt.lookup(va).size for va in range(0, GIANT, PAGE)}
    pages = {HUGE: PAGE, HUGE + PAGE: None, HUGE + 2 * PAGE: PAGE, HUGE + 3 * PAGE: PAGE}
    assert sizes == dict.fromkeys(range(0, GIANT, PAGE), HUGE) | pages
    assert {pt.lookup(va).flags for va, size in sizes.items() if size} == {"rwxd"}
    assert all(pt.translate(va) == GIANT + va for va, size in sizes.items() if size)
    assert pt.stats()["splits"] == 2


def test_a_whole_table_is_one_change_of_the_slot():
    """Unmapping all that a table spans takes the table; unmapping all but a page leaves it."""
    pt = ptl.PageTable("tiny")
    pt.map(0, PAGE, GIANT, "rw")
    assert pt.stats()["tables"] == 6
    assert pt.unmap(PAGE, HUGE - PAGE) == HUGE - PAGE
    assert pt.stats()["tables"] == 6
    assert pt.unmap(0, HUGE) == PAGE
    assert pt.stats()["tables"] == 5
    assert pt.unmap(0, GIANT) == GIANT - HUGE
    assert pt.stats()["tables"] == 1


def test_protect_counts_what_changed():
    """Leaves that had the attributes already, and holes, are not counted; accessed and dirty stay."""
    pt = ptl.PageTable("tiny")
    pt.map(0, 0, PAGE, "rw")
    pt.map(2 * PAGE, 0, PAGE, "rwxad")
    assert pt.protect(0, HUGE, "rw") == PAGE
    assert pt.lookup(2 * PAGE).flags == "rwad"
    assert pt.protect(0, HUGE, "rw") == 0
    assert pt.protect(0, HUGE, "rwd") == PAGE
    assert [pt.lookup(va).flags for va in (0, 2 * PAGE)] == ["rwd", "rwad"]


# -- beside others, at full speed --------------------------------------------------------------------------------------

FULL = 0x1000


@pytest.mark.parametrize("flags", ["rw", "rwad"])
def test_what_others_do_in_a_range_is_never_lost(flags):
    """CPUs that set dirty in one of two neighbours, a writer who maps and unmaps the other; protect beside them.

    Not under stress: there two neighbours are never changed by one operation (core/atomic.h).
    """
    pt, cpu, crew, pages = ptl.PageTable(), Tlb(), Crew(), range(0, 2048 * FULL, 2 * FULL)
    cpu.attach(pt)
    pt.map(0, 1 << 32, 2048 * FULL, flags, page_size=FULL)

    def touch():
        for turn in crew.turns(20000):
            va = pages[turn % len(pages)]
            cpu.translate(pt, va, "w")
            assert "d" in pt.lookup(va).flags
            if turn % 3 == 0:
                assert pt.test_and_clear(va, "d")

    def change():
        for turn in crew.turns(20000):
            va = pages[turn % len(pages)] + FULL
            assert pt.unmap(va, FULL) == FULL
            assert va not in pt
            pt.map(va, va, FULL, flags)
            assert pt.translate(va) == va

    def protect():
        for turn in crew.meanwhile():
            pt.protect(turn % 2 * FULL, 2046 * FULL, "rwx" if turn % 3 else "rw")

    crew.run(touch, change, beside=(protect,))
    assert len(pt) == 2048
    pt.check()


# -- addresses in two pieces ------------------------------------------------------------------------------------------

CUT = {"arm64_64k_va52": 1 << 48, "arm64_4k_va52": 1 << 50}
"""Formats whose entries hold an address in two pieces, and the physical address at which the second begins."""


@pytest.mark.parametrize("name", CUT)
def test_a_run_of_frames_may_cross_the_address_at_which_entries_cut_it(name):
    pt = ptl.PageTable(name)
    page, huge = pt.arch.page_sizes[:2]
    pa = CUT[name] - 4 * page
    pt.map(huge, pa, huge, "rw")
    assert [pt.translate(huge + offset) - pa for offset in range(0, huge, page)] == list(range(0, huge, page))
