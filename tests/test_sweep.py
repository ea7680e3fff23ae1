"""The promise: going through a table, page by page or merged or for what is free, finds what it holds: in order, once,
and cut where the range cuts it; beside writers too.

C12 of docs/concurrency.md. `tests/explore/test_sweeps_proved.py` has every interleaving with a transition;
`tests/test_model.py` every format after random changes.
"""

from __future__ import annotations

import random
from array import array
from itertools import pairwise

import pytest

import ptl
from helpers import Crew
from layouts import PAGE, build, put_soft
from made_up import MADE_UP, architecture
from reference import contents

NAMES = [*ptl.arch.names(), *MADE_UP]
AHEAD, SLOTS = 128, 4096
"""As in core/mapping.pxi and core/sweep.pxi."""
HUGE, END = 2 << 20, 1 << 64


def table(layout: object) -> ptl.PageTable:
    """Of tiny, from address 0: see `layouts`."""
    pt = ptl.PageTable("tiny")
    build(pt, layout, 3, 0)
    return pt


def pieces(leaves: object) -> list[tuple[int, int, int]]:
    return [(leaf.va, leaf.pa, leaf.size) for leaf in leaves]


def pages(leaves: object, size: int = PAGE) -> list[tuple[int, int]]:
    """What leaves map, page by page."""
    return [(leaf.va + at, leaf.pa + at) for leaf in leaves for at in range(0, leaf.size, size)]


def in_blocks(pt: ptl.PageTable, room: int, lo: int = 0, hi: int | None = None):
    """The leaves of a range, found `room` at a time, and before each time a stop for others to change the table."""
    out = [array(kind, [0] * room) for kind in "QQQBBQ"]
    while True:
        yield None
        found = pt.export(lo, hi, out=out)
        for i in range(len(found)):
            flags = "".join(letter for bit, letter in enumerate("rwxugad") if found.flags[i] >> bit & 1)
            yield ptl.Leaf(found.va[i], found.pa[i], found.size[i], flags, found.level[i], found.raw[i])
        if len(found) < room:
            return
        lo = found.va[-1] + found.size[-1]
        if lo == END:
            return


# -- everything, in order ---------------------------------------------------------------------------------------------


def fill(pt: ptl.PageTable) -> None:
    """Leaves of each size at both ends of each part of the addresses, and software's entries between them."""
    arch = pt.arch
    part = 1 << arch.va_bits - (arch.region_bits or arch.sign_extended)
    page = arch.level(1).span
    for number in range((1 << arch.va_bits) // part):
        first = arch.canonical(number * part)
        pt.map(first, page * number, page)
        put_soft(pt, first + 2 * page, page, 7)
        at = first + part
        for size in sorted(arch.page_sizes + arch.run_sizes):
            at = (at - size) // size * size
            if at > first + 4 * page and size < 1 << arch.pa_bits:
                pt.map(at, 0, size, "r", page_size=size)


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_of_every_format(name: str) -> None:
    """Whatever the levels, the width of an entry, its order of bytes; from the first page of all to the last."""
    pt = ptl.PageTable(architecture(name))
    fill(pt)
    expected = [(va, *leaf) for va, leaf in sorted(contents(pt).leaves.items())]
    assert [(leaf.va, leaf.size, leaf.pa, leaf.flags) for leaf in pt.values()] == expected
    assert all(leaf == pt.lookup(leaf.va) for leaf in pt.values())
    assert len(pt) == len(expected) > 1


@pytest.mark.parametrize("name", NAMES)
def test_leaves_and_gaps_and_what_is_softwares_are_everything(name: str) -> None:
    pt = ptl.PageTable(architecture(name))
    fill(pt)
    arch, page = pt.arch, pt.arch.level(1).span
    pieces = [(gap.va, gap.length) for gap in pt.gaps()] + [(leaf.va, leaf.size) for leaf in pt.values()]
    pieces += [(va, page) for va in contents(pt).soft]
    pieces.sort()
    part = 1 << arch.va_bits - (arch.region_bits or arch.sign_extended)
    for (va, length), (after, _) in pairwise(pieces):
        assert va + length == after or va + length == va // part * part + part
    assert sum(length for _, length in pieces) == 1 << arch.va_bits


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_of_all_kinds(name: str) -> None:
    """Leaves in a row are read many at once: for as long as they are leaves, and each with the flags that it has."""
    pt = ptl.PageTable(architecture(name))
    page, dice = pt.arch.level(1).span, random.Random(name)
    at, end = 0, min(400 * page, 1 << pt.arch.va_bits - 1)
    while at < end:
        length = min(dice.choice((1, 3, 9, 30, 90)) * page, end - at)
        kind = dice.choice(("hole", "soft", "r", "rw", "rwa", "mixed"))
        if kind == "soft":
            put_soft(pt, at, page, 7)
        for va in range(at, at + length if kind not in ("hole", "soft") else at, page):
            pt.map(va, dice.randrange(1 << 10) * page, page, dice.choice(("rw", "rwad")) if kind == "mixed" else kind)
        at += length
    expected = [pt.lookup(va) for va in sorted(contents(pt).leaves)]
    assert list(pt.values()) == list(filter(None, in_blocks(pt, 1000))) == expected
    assert list(filter(None, in_blocks(pt, 37))) == expected


def test_an_empty_table_has_nothing() -> None:
    pt = ptl.PageTable()
    assert (list(pt), list(pt.runs()), len(pt), bool(pt)) == ([], [], 0, False)
    assert [len(column) for column in (pt.export().va, pt.export().flags)] == [0, 0]


@pytest.mark.parametrize(
    "count", [1, AHEAD - 1, AHEAD, AHEAD + 1, 3 * AHEAD, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS + 5]
)
@pytest.mark.parametrize("step", [1, 2, 300])
def test_any_number_of_leaves(count: int, step: int) -> None:
    """Around what an iterator finds at once, and what a section looks at."""
    pt = ptl.PageTable()
    vas = [number * step * PAGE for number in range(count)]
    for number, va in enumerate(vas):
        pt.map(va, number * PAGE)
    assert list(pt) == vas
    assert list(pt.export().pa) == [number * PAGE for number in range(count)]
    assert [gap.va for gap in pt.gaps(0, vas[-1] + PAGE)] == ([] if step == 1 else [va + PAGE for va in vas[:-1]])
    assert len(list(pt.runs())) == (1 if step == 1 else count)


def test_far_apart() -> None:
    """Nothing for longer than a section goes on."""
    pt = ptl.PageTable()
    vas = [0, 1 << 30, 1 << 39, (1 << 47) - PAGE, END - (1 << 47), END - PAGE]
    for va in vas:
        pt.map(va, 0)
    assert list(pt) == vas
    assert [(gap.va, gap.va + gap.length) for gap in pt.gaps()] == [
        (PAGE, vas[1]),
        (vas[1] + PAGE, vas[2]),
        (vas[2] + PAGE, vas[3]),
        (vas[4] + PAGE, vas[5]),
    ]


# -- what a leaf is ---------------------------------------------------------------------------------------------------


def test_a_run_of_entries_is_one_leaf() -> None:
    """Accessed and dirty of any entry are its own."""
    pt = ptl.PageTable("arm64")
    pt.map(0x10000, 0x40000, 0x20000, page_size=0x10000)
    entry = pt.walk(0x13000).steps[-1]
    used = pt.arch.encode(0x43000, "rwa", run=pt.arch.decode(entry.raw).run)
    pt.frames.view(entry.table_pa + 8 * entry.index, 8)[:] = used.to_bytes(8, "little")
    first, second = pt.values()
    assert (first.va, first.size, second.va, second.size) == (0x10000, 0x10000, 0x20000, 0x10000)
    assert first == pt.lookup(0x10000)
    assert "a" in first.flags
    assert "a" not in second.flags
    assert pieces(pt[0x14000:0x22000].values()) == [(0x14000, 0x44000, 0xC000), (0x20000, 0x50000, 0x2000)]


def test_what_is_no_leaf_is_passed_over() -> None:
    pt = table((("L", "S", ".", "L"), "S", (".", ".", ".", "."), "L"))
    assert list(pt) == [0, 0x3000, 0xC000]
    assert [(gap.va, gap.length) for gap in pt.gaps()] == [(0x2000, 0x1000), (0x8000, 0x4000), (0x10000, 0x30000)]


def test_a_bad_entry_is_neither_mapped_nor_free() -> None:
    pt = table((("L", ".", ".", "L"), ".", ".", "."))
    entry = pt.walk(0x1000).steps[-2]
    beyond = entry.raw | 1 << 40  # a table where there is no memory
    pt.frames.view(entry.table_pa + 8 * (entry.index + 1), 8)[:] = beyond.to_bytes(8, "little")
    assert pt.pmd(0x4000).state is ptl.State.BAD
    assert list(pt) == [0, 0x3000]
    assert [gap.va for gap in pt.gaps()] == [0x1000, 0x8000]


# -- ranges -----------------------------------------------------------------------------------------------------------

CUT = (("L", "L", ".", "L"), "L", ".", ("L", ".", "L", "L"))
"""Four tables' worth of tiny: 16 pages."""


@pytest.mark.parametrize("first", range(17))
def test_a_range_cuts(first: int) -> None:
    """Every range of sixteen pages: what lies in it, and no more."""
    pt = table(CUT)
    lo = first * PAGE
    for hi in range(lo, 17 * PAGE, PAGE):
        inside = [(va, pa) for va, pa in pages(pt.values()) if lo <= va < hi]
        assert pages(pt[lo:hi].values()) == inside
        assert [(run.va + at, run.pa + at) for run in pt.runs(lo, hi) for at in range(0, run.length, PAGE)] == inside
        free = {gap.va + at for gap in pt.gaps(lo, hi) for at in range(0, gap.length, PAGE)}
        assert free == set(range(lo, hi, PAGE)) - {va for va, _ in inside}
        assert len(pt[lo:hi]) == len(list(pt[lo:hi])) == len(pt.export(lo, hi))
        assert bool(pt[lo:hi]) == bool(inside)


def test_a_range_that_ends_before_it_begins() -> None:
    pt = table(CUT)
    for call in (pt.runs, pt.gaps, pt.export, lambda lo, hi: pt[lo:hi]):
        with pytest.raises(ptl.AddressError, match="below"):
            call(2 * PAGE, PAGE)


def test_the_ends_need_not_be_canonical() -> None:
    pt = ptl.PageTable()
    pt.map(END - PAGE, 0)
    pt.map((1 << 47) - PAGE, 0)
    hole = 1 << 60
    assert list(pt[hole:]) == [END - PAGE]
    assert list(pt[:hole]) == [(1 << 47) - PAGE]
    assert list(pt[hole : hole + PAGE]) == list(pt.gaps(hole, hole + PAGE)) == []
    assert list(pt[END - PAGE : END]) == [END - PAGE]


# -- merged -----------------------------------------------------------------------------------------------------------


def test_leaves_of_different_sizes_are_one_run() -> None:
    pt = ptl.PageTable()
    pt.map(HUGE - PAGE, 5 * HUGE - PAGE, HUGE + 2 * PAGE)
    assert len(pt) == 3
    assert list(pt.runs()) == [ptl.Run(HUGE - PAGE, 5 * HUGE - PAGE, HUGE + 2 * PAGE, "rw")]


@pytest.mark.parametrize("other", ["frame", "hole", "flags", "accessed"])
def test_what_is_no_continuation_begins_a_run(other: str) -> None:
    pt = ptl.PageTable()
    pt.map(0, 0x100000, 4 * PAGE)
    if other == "frame":
        pt.map(2 * PAGE, 0, replace=True)
    elif other == "hole":
        pt.unmap(2 * PAGE, PAGE)
    elif other == "flags":
        pt.protect(2 * PAGE, PAGE, "r")
    else:
        pt.protect(2 * PAGE, PAGE, "rwa")
    assert [run.va for run in pt.runs()] == [0, 2 * PAGE, 3 * PAGE] if other != "hole" else [0, 3 * PAGE]


def test_a_run_longer_than_many_sections() -> None:
    pt = ptl.PageTable()
    pt.map(0, 0, 10 * SLOTS * PAGE, page_size=PAGE)
    pt.map(END - PAGE, 0)
    assert [(run.va, run.length) for run in pt.runs()] == [(0, 10 * SLOTS * PAGE), (END - PAGE, PAGE)]


# -- what is free -----------------------------------------------------------------------------------------------------


def test_a_gap_is_what_can_be_mapped() -> None:
    """Wherever a map of one page is refused, there is no gap; wherever there is one, the whole of it can be mapped."""
    pt = table(CUT)
    free = {gap.va + at for gap in pt.gaps() for at in range(0, gap.length, PAGE)}
    for va in range(0, 1 << 18, PAGE):
        try:
            pt.map(va, 0)
        except ptl.AlreadyMapped:
            assert va not in free
        else:
            assert va in free
            pt.unmap(va, PAGE)
    for gap in list(pt.gaps()):
        pt.map(gap.va, 0, gap.length)
    assert list(pt.gaps()) == []


def first_fit(pt: ptl.PageTable, length: int, align: int, lo: int, hi: int) -> int | None:
    for gap in pt.gaps(lo, hi):
        va = -(-gap.va // align) * align
        if va + length <= gap.va + gap.length:
            return va
    return None


@pytest.mark.parametrize("align", [PAGE, 2 * PAGE, 4 * PAGE, 16 * PAGE])
@pytest.mark.parametrize("length", [PAGE, 2 * PAGE, 3 * PAGE, 5 * PAGE, 48 * PAGE, 64 * PAGE])
def test_the_lowest_gap_that_is_long_enough(length: int, align: int) -> None:
    pt = table(CUT)
    for lo in range(0, 1 << 18, 3 * PAGE):
        for hi in (1 << 18, 20 * PAGE + lo):
            expected = first_fit(pt, length, align, lo, hi)
            if expected is None:
                with pytest.raises(LookupError, match="no gap"):
                    pt.find_gap(length, align, lo=lo, hi=hi)
            else:
                assert pt.find_gap(length, align, lo=lo, hi=hi) == expected


def test_a_gap_behind_many_that_are_too_short() -> None:
    pt = ptl.PageTable()
    for number in range(5 * AHEAD):
        pt.map(2 * number * PAGE, 0)
    assert pt.find_gap(PAGE) == PAGE
    assert pt.find_gap(2 * PAGE) == (10 * AHEAD - 1) * PAGE


def test_no_gap_crosses_the_halves() -> None:
    pt = ptl.PageTable("riscv_sv39")
    half = 1 << 38
    assert pt.find_gap(half) == 0
    with pytest.raises(LookupError):
        pt.find_gap(half + PAGE)


# -- while it changes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize("change", ["collapse", "split", "collapse, split", "split, collapse"])
def test_a_change_of_size_between_two_sections_loses_and_doubles_no_page(change: str, stop: int, room: int) -> None:
    """Eight pages; the first four, or the second, become one leaf, or its parts, after so many stops."""
    for va in (0, 4 * PAGE):
        pt = table((("L",) * 4 if change.startswith("collapse") else "L",) * 2 + (".", "."))
        pt.map(0, 0x100000, 8 * PAGE, page_size=PAGE if change.startswith("collapse") else None, replace=True)
        expected, found, stops = pages(pt.values()), [], 0
        for leaf in in_blocks(pt, room):
            if leaf is not None:
                found.append(leaf)
                continue
            if stops == stop:
                for step in change.split(", "):
                    assert getattr(pt, step)(va)
            stops += 1
        assert pages(found) == expected


def test_the_rest_of_a_leaf_that_was_put_over_what_is_passed_is_found_cut() -> None:
    pt = ptl.PageTable("tiny")
    pt.map(0, 0x10000, 4 * PAGE, page_size=PAGE)
    blocks = in_blocks(pt, 1)
    assert [next(blocks), next(blocks).va, next(blocks)] == [None, 0, None]
    pt.collapse(0)
    rest = next(blocks)
    assert (rest.va, rest.pa, rest.size, rest.level) == (PAGE, 0x11000, 3 * PAGE, 2)


def test_a_table_may_be_emptied_while_it_is_gone_through() -> None:
    """By the one who goes through it: the loop that a dict forbids."""
    pt = ptl.PageTable()
    pt.map(0, 0, 3 * AHEAD * PAGE)
    for number, va in enumerate(pt):
        assert va == number * PAGE
        del pt[va]
    assert not pt


def test_what_is_added_before_is_not_found_and_what_is_added_far_behind_is() -> None:
    pt = ptl.PageTable()
    pt.map(HUGE, 0)
    found = []
    for va in pt:
        found.append(va)
        if va == HUGE:
            pt.map(0, 0)
            pt.map(5 * HUGE, 0)
    assert found == [HUGE] or found == [HUGE, 5 * HUGE]
    assert list(pt) == [0, HUGE, 5 * HUGE]


def test_threads_go_through_beside_a_collapser() -> None:
    """Two regions are collapsed and split all the time; others come and go: what stays is found once each time."""
    pt = ptl.PageTable()
    steady, coming = HUGE, 4 * HUGE
    pt.map(steady, 8 * HUGE, 2 * HUGE, page_size=PAGE)
    expected = [(va, va + 7 * HUGE) for va in range(steady, steady + 2 * HUGE, PAGE)]
    crew = Crew()

    def check(leaves: list[ptl.Leaf]) -> None:
        assert all(a.va + a.size <= b.va for a, b in pairwise(leaves))
        assert pages(leaf for leaf in leaves if leaf.va < coming) == expected
        assert all(leaf.pa == leaf.va for leaf in leaves if leaf.va >= coming)

    def iterate() -> None:
        for _ in crew.meanwhile():
            check(list(pt.values()))

    def in_columns() -> None:
        for _ in crew.meanwhile():
            columns = pt.export()
            check([ptl.Leaf(*row, "", 1, 0) for row in zip(columns.va, columns.pa, columns.size, strict=True)])

    def merge() -> None:
        for _ in crew.meanwhile():
            found = [run for run in pt.runs() if run.va < coming]
            assert pages(ptl.Leaf(run.va, run.pa, run.length, "", 1, 0) for run in found) == expected
            assert not any(steady <= gap.va < steady + 2 * HUGE for gap in pt.gaps())

    def collapse() -> None:
        for turn in crew.turns(1500):
            va = steady + turn % 2 * HUGE
            assert pt.collapse(va)
            assert pt.split(va)

    def come_and_go() -> None:
        dice = random.Random(1)
        for _ in crew.meanwhile():
            va = coming + dice.randrange(512) * PAGE
            pt.map(va, va, 40 * PAGE, page_size=PAGE, replace=True)
            pt.unmap(coming, 3 * HUGE)

    crew.run(collapse, beside=(iterate, in_columns, merge, come_and_go))
    assert pt.stats()["collapses"] == 1500
    pt.check()


def test_one_iterator_is_one_threads() -> None:
    """Several that share one get each leaf once, or are told that another is inside."""
    pt = ptl.PageTable()
    count = 20 * AHEAD
    pt.map(0, 0, count * PAGE, page_size=PAGE)
    shared, crew = iter(pt), Crew()
    found: list[list[int]] = [[], []]

    def take(mine: list[int]) -> None:
        while True:
            try:
                mine.append(next(shared))
            except ValueError:
                continue
            except StopIteration:
                return

    crew.run(lambda: take(found[0]), lambda: take(found[1]))
    assert sorted(found[0] + found[1]) == [number * PAGE for number in range(count)]


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (-1, ptl.AddressError),
        (END + PAGE, ptl.AddressError),
        (1.5, TypeError),
        (True, TypeError),
        (1, ptl.AddressError),
    ],
)
@pytest.mark.parametrize("name", ["runs", "gaps", "export", "slice"])
def test_a_bound_that_is_none(name: str, bad: object, error: type[Exception]) -> None:
    pt = ptl.PageTable()
    call = (lambda lo, hi: pt[lo:hi]) if name == "slice" else getattr(pt, name)
    for bounds in ((bad, None), (0, bad)):
        with pytest.raises(error):
            call(*bounds)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0,), ptl.AddressError),
        ((1,), ptl.AddressError),
        ((-PAGE,), ptl.AddressError),
        ((1.5,), TypeError),
        ((True,), TypeError),
        ((PAGE, 1), ptl.AddressError),
        ((PAGE, 3 * PAGE), ptl.AddressError),
        ((PAGE, 0), ptl.AddressError),
        ((PAGE, True), TypeError),
        ((1 << 48,), LookupError),
    ],
)
def test_a_gap_that_is_none(arguments: tuple[object, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        ptl.PageTable().find_gap(*arguments)


def test_nobody_makes_an_iterator_by_hand() -> None:
    with pytest.raises(TypeError):
        ptl.LeafIterator()
    with pytest.raises(TypeError):
        ptl.LeafIterator.__new__(ptl.LeafIterator).__reduce__()
    with pytest.raises(StopIteration):
        next(ptl.LeafIterator.__new__(ptl.LeafIterator))
