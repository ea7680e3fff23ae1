"""The promise: a run of entries that are one larger page is set, found, changed, moved and split as one.

Runs are made when asked for by size, and by nothing else. All of a run stays one; a part of it that changes takes it
apart, and no CPU sees both. What any of its entries has of accessed and dirty, all of the run has. The made-up format
`runs` has 32 pages, few enough to try every range; a run there is two entries with addresses of their own, four with
that of the first, or two huge leaves. `refilled runs` is the same for software alone: it has no value that hides a
leaf from hardware, and a page by itself has a mark of its own.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple

import pytest

import ptl
from helpers import Crew, going_on, linux_only
from made_up import MADE_UP, REFILLED_RUNS, RUNS, architecture
from ptl import AddressError, FormatError, Outcome, State
from ptl.arch import Arch, Pattern, Run
from ptl.tlb import StaleTranslation, Tlb
from reference import Reference, contents, entries, granting, kinds

DOMAIN = ptl.EpochDomain()
PAGE, TWO, FOUR, HUGE, TWO_HUGE = 0x1000, 0x2000, 0x4000, 0x8000, 0x1_0000
END = 1 << RUNS.va_bits
FORMATS = [name for name in (*ptl.arch.names(), *MADE_UP) if architecture(name).run_sizes]
EACH_RUN = pytest.mark.parametrize(
    ("arch", "size"),
    [
        pytest.param(architecture(name), size, id=f"{name}-{size:#x}")
        for name in FORMATS
        for size in architecture(name).run_sizes
    ],
)


BOTH = pytest.mark.parametrize("arch", [RUNS, REFILLED_RUNS], ids=["hardware", "software"])


def table(arch: Arch = RUNS, frames: ptl.Frames | None = None) -> ptl.PageTable:
    """An empty table."""
    granule = min(4096, *(arch.table_bytes(level) for level in range(1, arch.levels + 1)))
    return ptl.PageTable(arch, frames=frames or ptl.Frames(1 << 27, frame_bytes=granule, domain=DOMAIN))


class Place(NamedTuple):
    """Where a run is, in a table and in memory: with neighbours on both sides in its table, whatever the format."""

    pt: ptl.PageTable
    va: int
    pa: int
    size: int
    page: int
    """The size of one of its leaves by itself."""
    level: int
    run: Run

    def raws(self) -> list[int]:
        """Its entries as they are stored."""
        step = self.pt.walk(self.va).steps[-1]
        assert step.level == self.level
        return list(entries(self.pt, step.table_pa, self.level)[step.index : step.index + self.run.entries])

    def mark(self, n: int, letters: str) -> None:
        """Set accessed or dirty in one of its entries, as hardware does."""
        step = self.pt.walk(self.va + n * self.page).steps[-1]
        raw = step.raw
        for letter in letters:
            raw = granting(self.pt.arch, raw, self.level, letter)
        size = self.pt.arch.level(self.level).word.bytes
        view = self.pt.frames.view(step.table_pa + step.index * size, size)
        view[:] = raw.to_bytes(size, self.pt.arch.byte_order)

    def leaves(self) -> list[ptl.Leaf]:
        """What is mapped in it."""
        found: dict[int, ptl.Leaf] = {}
        for va in range(self.va, self.va + self.size, self.page):
            leaf = self.pt.lookup(va)
            if leaf is not None:
                found[leaf.va] = leaf
        return list(found.values())


def place(arch: Arch = RUNS, size: int = FOUR, flags: str = "rw") -> Place:
    """A run."""
    level, run = kinds(arch)[size]
    assert run is not None
    pt = table(arch)
    pt.map(size, 2 * size, size, flags, page_size=size)
    return Place(pt, size, 2 * size, size, arch.level(level).span, level, run)


# -- making them, and finding them


@EACH_RUN
def test_a_run_is_found_as_one_page(arch, size):
    run = place(arch, size, "rx")
    pt, va, pa = run.pt, run.va, run.pa
    for offset in {0, 1, run.page - 1, run.page, size // 2 + 7, size - run.page, size - 1}:
        leaf, walk = pt.lookup(va + offset), pt.walk(va + offset)
        assert (leaf.va, leaf.pa, leaf.size, leaf.flags) == (va, pa, size, arch.attributes("rx"))
        assert (leaf.level, leaf.raw) == (run.level, run.raws()[offset // run.page])
        assert walk.leaf == leaf
        assert (walk.steps[-1].raw, walk.steps[-1].state) == (leaf.raw, State.HUGE)
        assert pt.translate(va + offset) == pa + offset
        assert list(pt.translate(array("Q", [va + offset]))) == [pa + offset]
    for outside in (va - 1, va + size):
        assert arch.canonical(outside) != outside or pt.lookup(outside) is None
    pt.check()


@EACH_RUN
def test_its_entries_are_what_encode_says(arch, size):
    run = place(arch, size, "rw")
    raws = run.raws()
    assert raws == [arch.encode(run.pa + n * run.page, "rw", run.level, run=run.run) for n in range(run.run.entries)]
    for n, raw in enumerate(raws):
        entry = arch.decode(raw, run.level)
        assert (entry.state, entry.run) == (State.HUGE, run.run)
        assert entry.pa == run.pa + (0 if run.run.is_base else n * run.page)


def test_sixteen_pages_with_the_contiguous_bit():
    """arm64: each entry has its own address, and bit 52."""
    run = place(ptl.arch.get("arm64_4k"), 0x10000)
    alone = run.pt.arch.encode(0x2_0000, "rw")
    assert run.raws() == [1 << 52 | alone + n * 0x1000 for n in range(16)]


def test_sixteen_pages_of_svnapot():
    """riscv: all entries are the same, with bit 63, the frame number of the first, and 1000 in its low bits."""
    run = place(ptl.arch.get("riscv_sv39"), 0x10000)
    assert run.raws() == [1 << 63 | 0x2_8000 >> 2 | 0b111] * 16


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("arm64_4k", (64 << 10, 32 << 20, 16 << 30)),
        ("arm64_4k_va39", (64 << 10, 32 << 20, 16 << 30)),
        ("arm64_4k_va52", (64 << 10, 32 << 20, 16 << 30)),
        ("arm64_16k", (2 << 20, 1 << 30)),
        ("arm64_64k", (2 << 20, 16 << 30)),
        ("arm_lpae", (64 << 10, 32 << 20)),
        ("riscv_sv39", (64 << 10,)),
        ("riscv_sv48", (64 << 10,)),
        ("riscv_sv57", (64 << 10,)),
        ("sh", (64 << 10, 1 << 20)),
        ("sparc64", (64 << 10, 512 << 10, 4 << 20, 256 << 20)),
        ("parisc64", (1 << 20,)),
        ("powerpc_8xx", (16 << 10, 512 << 10)),
        ("parisc", ()),
        ("riscv_sv32", ()),
        ("x86_64", ()),
    ],
)
def test_the_sizes_that_formats_have(name, sizes):
    arch = ptl.arch.get(name)
    assert arch.run_sizes == sizes
    assert not {*sizes} & {*arch.page_sizes}


@EACH_RUN
def test_nobody_makes_a_run_who_was_not_asked_to(arch, size):
    pt = table(arch)
    pt.map(size, size, size)
    assert pt.lookup(size).size in arch.page_sizes
    assert pt.lookup(size).size < size


def test_a_table_of_its_own_is_filled_with_runs():
    """And the levels above with those of that level."""
    pt = table()
    pt.map(HUGE, 0, HUGE, page_size=FOUR)
    pt.map(TWO_HUGE, 0, TWO_HUGE, page_size=TWO_HUGE)
    assert [pt.lookup(va).size for va in (HUGE, HUGE + FOUR, TWO_HUGE, TWO_HUGE + HUGE)] == [FOUR] * 2 + [TWO_HUGE] * 2
    assert pt.dump().splitlines()[1:] == [
        f"  0x8000 level 1 table at {pt.walk(HUGE).steps[-1].table_pa:#x}",
        "    0x8000-0x10000 -> 0x0 rw 2 x 0x4000",
        "  0x10000-0x20000 -> 0x0 rw 1 x 0x10000",
    ]
    pt.check()


# -- every range


LAYOUTS: dict[str, Callable[[ptl.PageTable | Reference], object]] = {
    "fours": lambda pt: pt.map(0, END, END, "rw", page_size=FOUR),
    "huge ones": lambda pt: pt.map(0, END, END, "rw", page_size=TWO_HUGE),
    "all sizes": lambda pt: [
        pt.map(0, END, TWO, "rx", page_size=TWO),
        pt.map(FOUR, END, FOUR, "rw", page_size=FOUR),
        pt.map(HUGE, END, HUGE, "rw", page_size=HUGE),
        pt.map(TWO_HUGE, END, TWO_HUGE, "rx", page_size=TWO_HUGE),
    ],
}
CHANGES: dict[str, Callable[[ptl.PageTable | Reference, int, int], object]] = {
    "unmap": lambda pt, va, length: pt.unmap(va, length),
    "protect": lambda pt, va, length: pt.protect(va, length, "rwxd"),
    "map": lambda pt, va, length: pt.map(va, va, length, "rw", replace=True),
    "map pages": lambda pt, va, length: pt.map(va, PAGE, length, "rw", page_size=PAGE, replace=True),
    "map twos": lambda pt, va, length: pt.map(va, va & -TWO, length, "rw", page_size=TWO, replace=True),
    "map fours": lambda pt, va, length: pt.map(va, va & -FOUR, length, "rw", page_size=FOUR, replace=True),
}
GRANULE = {"map twos": TWO, "map fours": FOUR}


def ranges(granule: int) -> Iterator[tuple[int, int]]:
    """Every range of whole granules: its first address and length."""
    for first, end in itertools.combinations(range(0, END + 1, granule), 2):
        yield first, end - first


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_range(layout, change, arch):
    """What is all of a run stays one; the rest is leaves by themselves; and nothing else changes."""
    frames = ptl.Frames(1 << 14, frame_bytes=64, domain=ptl.EpochDomain())
    pt = table(arch, frames)
    for va, length in ranges(GRANULE.get(change, PAGE)):
        model = Reference(arch)
        for each in (model, pt):
            LAYOUTS[layout](each)
        assert CHANGES[change](pt, va, length) == CHANGES[change](model, va, length)
        assert contents(pt) == model.contents(), (hex(va), hex(length))
        assert pt.check() == model.table_count()
        assert frames.stats()["parked"] == model.parked()
        pt.unmap(0, END)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_range_that_is_refused_leaves_runs_as_they_are(layout):
    """A map of what is taken freezes all it needs before it looks, and has to undo that."""
    pt = table()
    LAYOUTS[layout](pt)
    before = contents(pt)
    for va, length in ranges(PAGE):
        if pt.lookup(va) or pt.lookup(va + length - 1):
            with pytest.raises(ptl.AlreadyMapped):
                pt.map(va, 0, length, page_size=PAGE)
        with broken_last_entry(pt), pytest.raises(ptl.FormatError, match="holds a BAD entry"):
            pt.protect(va, END - va, "r")
    assert contents(pt) == before
    pt.check()


@contextmanager
def broken_last_entry(pt: ptl.PageTable) -> Iterator[None]:
    """The last entry of all is BAD meanwhile: a range that reaches it is refused when all else is frozen."""
    step = pt.walk(END - 1).steps[-1]
    view = pt.frames.view(step.table_pa + step.index * 8, 8)
    view[:] = (1 | 1 << 58 | 1 << 5).to_bytes(8, "little")
    yield
    view[:] = step.raw.to_bytes(8, "little")


# -- one entry


@BOTH
def test_a_part_that_changes_takes_it_apart(arch):
    """By every way to change one entry; each leaf then has what any of them had of accessed and dirty."""
    soft = arch.encode_soft(1, 2)
    for size, page in itertools.product((TWO, FOUR), range(4)):
        if page * PAGE >= size:
            continue
        for change in ("unmap", "exchange", "compare_exchange", "handle", "lock", "map"):
            run = place(arch, size)
            run.mark(run.run.entries - 1, "ad")
            va, pt = run.va + page * PAGE, run.pt
            raw, empty = pt.lookup(va).raw, arch.level(1).empty
            if change == "unmap":
                assert pt.unmap(va, PAGE) == PAGE
            elif change == "exchange":
                assert pt.exchange(va, soft) == raw
            elif change == "compare_exchange":
                assert pt.compare_exchange(va, raw, empty)
            elif change == "handle":
                with pt.pte_map(va) as ptes:
                    assert ptes.compare_exchange(ptes.index, raw, empty)
            elif change == "lock":
                with pt.pte_map_lock(va) as ptes:
                    assert ptes.compare_exchange(ptes.index, raw, empty)
            else:
                pt.map(va, 0, replace=True)
            others = [leaf for leaf in run.leaves() if leaf.va != va]
            assert [(leaf.va, leaf.pa, leaf.size, leaf.flags) for leaf in others] == [
                (run.va + n * PAGE, run.pa + n * PAGE, PAGE, arch.attributes("rwad"))
                for n in range(run.run.entries)
                if n != page
            ]
            assert (pt.lookup(va) is None) is (change != "map")
            pt.check()


@BOTH
def test_an_entry_of_a_run_for_an_entry_of_a_run_changes_all(arch):
    """The others follow, to the frames beside; and keep what they had of accessed and dirty that was not expected."""
    for size, page in itertools.product((TWO, FOUR), range(4)):
        if page * PAGE >= size:
            continue
        run = place(arch, size)
        other = (page + 1) % run.run.entries
        run.mark(page, "d")
        run.mark(other, "a")
        va, pt = run.va + page * PAGE, run.pt
        new = arch.encode(8 * FOUR + page * PAGE, "rx", run=run.run)
        assert pt.compare_exchange(va, pt.lookup(va).raw, new)
        (leaf,) = run.leaves()
        assert (leaf.pa, leaf.size, leaf.flags) == (8 * FOUR, size, arch.attributes("rxa"))
        assert [arch.decode(raw).flags for raw in run.raws()].count(RUNS.attributes("rxa")) == 1
        pt.check()


def test_what_was_not_expected_is_not_changed():
    """Another value, or a frozen one: False; and a run that is not aligned, or was none, is refused."""
    run = place()
    raw = run.pt.lookup(run.va).raw
    assert not run.pt.compare_exchange(run.va, raw ^ 1 << 56, RUNS.level(1).empty)
    alone = RUNS.encode(0, "rw")
    with pytest.raises(FormatError, match="a run of 0x4000 bytes, and the entry of va 0x0 is in no such run"):
        run.pt.exchange(0, raw)
    run.pt.map(0, 0)
    with pytest.raises(FormatError, match="map with page_size=0x4000 makes one"):
        run.pt.compare_exchange(0, alone, raw)
    pair = place(size=TWO)
    off_by_one = RUNS.encode(4 * TWO + PAGE, "rw", run=pair.run)
    with pytest.raises(FormatError, match="is in no such run"):
        pair.pt.exchange(pair.va, off_by_one)
    with pair.pt.pte_map(pair.va) as ptes, pytest.raises(FormatError, match="is in no such run"):
        ptes.compare_exchange(ptes.index + 4, RUNS.level(1).empty, off_by_one)
    assert len(pair.leaves()) == len(run.leaves()) == 1
    for each in (run, pair):
        each.pt.check()


@EACH_RUN
def test_accessed_and_dirty_are_those_of_any_entry(arch, size):
    """As long as one has them, all have; and who clears them is told once, whichever entry is asked."""
    letters = [letter for letter in "ad" if letter in arch.flags]
    for n, letter in itertools.product((0, 1, kinds(arch)[size][1].entries - 1), letters):
        run = place(arch, size)
        pt = run.pt
        assert not pt.test_and_clear(run.va, letter)
        run.mark(n, letter)
        for va in (run.va, run.va + size - 1):
            assert pt.lookup(va).flags == pt.walk(va).leaf.flags == arch.attributes("rw" + letter)
        if run.level == 1:
            with pt.pte_map(run.va) as ptes:
                assert ptes[ptes.index].flags == arch.attributes("rw" + letter)
        assert pt.test_and_clear(run.va + size // 2, letter)
        assert not pt.test_and_clear(run.va, letter)
        assert [arch.decode(raw, run.level).flags for raw in run.raws()] == [arch.attributes("rw")] * run.run.entries
        (leaf,) = run.leaves()
        assert leaf.size == size
        pt.check()


@EACH_RUN
def test_what_is_withdrawn_is_withdrawn_from_all(arch, size):
    run = place(arch, size, "rw")
    assert run.pt.test_and_clear(run.va + run.page, "w")
    assert not run.pt.test_and_clear(run.va, "w")
    (leaf,) = run.leaves()
    assert (leaf.size, leaf.flags) == (size, arch.attributes("r"))
    run.pt.check()


@EACH_RUN
def test_all_of_it_keeps_it_whole(arch, size):
    run = place(arch, size)
    run.mark(1, "ad")
    assert run.pt.protect(run.va, size, "rx") == size
    (leaf,) = run.leaves()
    assert (leaf.size, leaf.flags) == (size, arch.attributes("rxad"))
    assert run.pt.unmap(run.va, size) == size
    assert run.leaves() == []
    run.pt.check()


@EACH_RUN
@pytest.mark.parametrize("pages", [1, 2])
def test_a_range_that_cuts_a_run_takes_it_apart_even_when_nothing_else_changes(arch, size, pages):
    """However many pages: one alone, which has a way of its own through the core, is no exception."""
    run = place(arch, size, "rx")
    cut = min(pages * run.page, size - run.page)
    assert run.pt.protect(run.va, cut, "rx") == 0
    assert size not in [leaf.size for leaf in run.leaves()]
    run.pt.check()


def test_a_part_of_a_run_of_a_table_that_has_left_does_not_change():
    run = place(size=TWO)
    ptes = run.pt.pte_map(run.va)
    raw = ptes.load(ptes.index)
    run.pt.map(0, 0, HUGE, page_size=HUGE, replace=True)
    assert ptes.stale
    assert ptes[ptes.index].size == TWO
    assert not ptes.compare_exchange(ptes.index, ptes.load(ptes.index), RUNS.level(1).empty)
    assert not ptes.compare_exchange(ptes.index, raw, RUNS.level(1).empty)
    ptes.close()


# -- transitions


@EACH_RUN
def test_split_and_collapse_are_inverse(arch, size):
    run = place(arch, size, "rw")
    before = run.raws()
    tables = run.pt.stats()["tables"]
    run.mark(1, "d")
    assert run.pt.split(run.va + size // 2) is Outcome.DONE
    assert [(leaf.size, leaf.flags) for leaf in run.leaves()] == [(run.page, arch.attributes("rwd"))] * run.run.entries
    assert run.pt.split(run.va) is (Outcome.NOT_HUGE if run.level == 1 else Outcome.DONE)
    if run.level > 1:
        assert run.pt.collapse(run.va, level=run.level)
    assert run.pt.test_and_clear(run.va, "d")
    assert run.pt.protect(run.va, size, "rw") == 0
    for va in range(run.va, run.va + size, run.page):
        run.pt.test_and_clear(va, "d")
    assert run.pt.collapse(run.va + size - 1, page_size=size) is Outcome.DONE
    assert run.raws() == before
    assert run.pt.collapse(run.va, page_size=size) is Outcome.ALREADY
    assert run.pt.stats()["tables"] == tables
    run.pt.check()


@BOTH
def test_a_split_makes_leaves_of_any_smaller_size(arch):
    sizes = kinds(arch)
    for size, smaller in itertools.product(sizes, sizes):
        pt = table(arch)
        pt.map(TWO_HUGE, TWO_HUGE, size, page_size=size)
        if smaller < size:
            assert pt.split(TWO_HUGE + size - 1, page_size=smaller) is Outcome.DONE
        else:
            assert pt.split(TWO_HUGE, page_size=smaller) is Outcome.ALREADY
        for va in range(TWO_HUGE, TWO_HUGE + size, PAGE):
            assert pt.lookup(va).size == min(size, smaller)
            assert pt.translate(va) == va
        pt.check()


@BOTH
def test_a_collapse_makes_leaves_of_any_larger_size(arch):
    """Of leaves of any smaller size in one table; of runs too."""
    sizes = kinds(arch)
    for size, larger in itertools.product(sizes, sizes):
        pt = table(arch)
        pt.map(0, TWO_HUGE, TWO_HUGE, page_size=size)
        outcome = pt.collapse(PAGE, page_size=larger) if larger > PAGE else None
        if size == larger > PAGE:
            assert outcome is Outcome.ALREADY
        elif size > larger > PAGE:
            assert outcome is (Outcome.IS_HUGE if larger != HUGE else Outcome.ALREADY)
        elif larger == TWO_HUGE:
            assert outcome is (Outcome.DONE if size == HUGE else Outcome.NOT_HUGE)
        elif larger > PAGE:
            assert outcome is Outcome.DONE
        assert pt.lookup(PAGE).size == (larger if outcome is Outcome.DONE else size)
        for va in range(0, TWO_HUGE, PAGE):
            assert pt.translate(va) == TWO_HUGE + va
        pt.check()


def test_what_cannot_be_one_page_is_not_made_one():
    def refused(change: Callable[[ptl.PageTable], object], outcome: Outcome) -> None:
        pt = table()
        pt.map(FOUR, FOUR, FOUR, page_size=PAGE)
        change(pt)
        before = contents(pt)
        assert pt.collapse(FOUR, page_size=FOUR) is outcome
        assert contents(pt) == before
        pt.check()

    refused(lambda pt: pt.unmap(FOUR + PAGE, PAGE), Outcome.NOT_FULL)
    refused(lambda pt: pt.unmap(FOUR, FOUR), Outcome.NOT_FULL)
    refused(lambda pt: pt.protect(FOUR + PAGE, PAGE, "r"), Outcome.MIXED_FLAGS)
    refused(lambda pt: pt.map(FOUR, PAGE, FOUR, page_size=PAGE, replace=True), Outcome.NOT_CONTIGUOUS)
    refused(lambda pt: pt.map(FOUR, 0, PAGE, replace=True), Outcome.NOT_CONTIGUOUS)
    refused(lambda pt: pt.exchange(FOUR + PAGE, RUNS.encode_soft(1, 2)), Outcome.IS_SOFT)
    refused(lambda pt: pt.map(0, 0, HUGE, page_size=HUGE, replace=True), Outcome.IS_HUGE)
    refused(lambda pt: pt.unmap(0, HUGE), Outcome.NO_TABLE)


def test_a_run_is_made_elsewhere():
    """With the contents, zeros for the holes, and the attributes that are asked for."""
    frames = ptl.Frames(1 << 18, base=FOUR, frame_bytes=PAGE, domain=DOMAIN)
    pt = ptl.PageTable(RUNS, frames=frames)
    for n in (0, 1, 3):
        pa = frames.alloc()
        frames.view(pa, PAGE)[:] = bytes([n + 1]) * PAGE
        pt.map(n * PAGE, pa, flags="rx" if n else "rw")
    new = frames.alloc(FOUR)
    frames.view(new, FOUR)[:] = b"?" * FOUR
    assert pt.collapse(0, new, page_size=FOUR, flags="rx") is Outcome.NOT_FULL
    assert pt.collapse(0, new, page_size=FOUR, holes=1) is Outcome.MIXED_FLAGS
    assert pt.collapse(0, new, page_size=FOUR, holes=1, flags="rx") is Outcome.DONE
    assert (pt.lookup(0).pa, pt.lookup(0).size, pt.lookup(0).flags) == (new, FOUR, "rx")
    assert bytes(frames.view(new, FOUR)) == b"".join(bytes([n]) * PAGE for n in (1, 2, 0, 4))
    pt.check()


def test_holes_of_a_run_of_huge_leaves_can_be_split():
    """Each leaf parks what its own split takes, those in place of holes too."""
    pt = table()
    pt.map(0, 0, HUGE, page_size=HUGE)
    pt.populate(HUGE)
    pt.retract(HUGE)
    assert pt.collapse(0, TWO_HUGE, page_size=TWO_HUGE, holes=1) is Outcome.DONE
    pt.check()
    assert pt.split(0, page_size=PAGE) is Outcome.DONE
    assert pt.translate(HUGE + PAGE) == TWO_HUGE + HUGE + PAGE
    pt.check()


# -- moving


@BOTH
def test_every_move(arch):
    """Each range of two tables to each place behind them: what still fits is one page there, the rest is not."""
    for (va, length), new in itertools.product(ranges(PAGE), range(TWO_HUGE, END, PAGE)):
        if va + length > FOUR or new + length > TWO_HUGE + HUGE:
            continue
        pt = table(arch)
        pt.map(0, END, FOUR, page_size=FOUR)
        assert pt.move(va, new, length) is Outcome.DONE
        whole = length == FOUR and new % FOUR == 0
        for at in range(0, FOUR, PAGE):
            moved = va <= at < va + length
            leaf = pt.lookup(new + at - va if moved else at)
            assert leaf.size == (FOUR if whole else PAGE)
            assert pt.translate(new + at - va if moved else at) == END + at
            assert not moved or pt.lookup(at) is None
        pt.check()


@EACH_RUN
def test_a_run_moves_as_one(arch, size):
    run = place(arch, size)
    run.mark(1, "d")
    before = run.raws()
    assert run.pt.move(run.va, 0, size) is Outcome.DONE
    assert run.leaves() == []
    moved = run._replace(va=0)
    assert moved.raws() == before
    assert moved.pt.lookup(0).size == size
    moved.pt.check()


def test_a_table_with_runs_moves():
    pt = table()
    pt.map(0, 0, TWO, page_size=TWO)
    pt.map(FOUR, FOUR, FOUR, page_size=FOUR)
    assert pt.move(0, TWO_HUGE, HUGE) is Outcome.DONE
    assert [pt.lookup(TWO_HUGE + at).size for at in (0, FOUR)] == [TWO, FOUR]
    pt.check()


def test_a_run_of_huge_leaves_moves_over_empty_tables():
    pt = table()
    pt.map(0, 0, TWO_HUGE, page_size=TWO_HUGE)
    pt.populate(TWO_HUGE + HUGE)
    assert pt.move(0, TWO_HUGE, TWO_HUGE) is Outcome.DONE
    assert pt.lookup(TWO_HUGE).size == TWO_HUGE
    pt.check()


# -- bad input, no memory, what is broken


@EACH_RUN
def test_bad_input_changes_nothing(arch, size):
    run = place(arch, size)
    pt = run.pt
    before = contents(pt)
    odd = run.page
    for va, pa, length in ((odd, 0, size), (0, odd, size), (0, 0, size + odd), (0, 0, odd)):
        with pytest.raises(AddressError, match=r"multiples? of the page size"):
            pt.map(va, pa, length, page_size=size)
    for call in (
        lambda: pt.map(0, 0, 3 * size, page_size=3 * size),
        lambda: pt.split(run.va, page_size=3 * size),
        lambda: pt.collapse(run.va, page_size=3 * size),
    ):
        with pytest.raises(AddressError, match=f"{size}"):  # the sizes that there are
            call()
    with pytest.raises(AddressError, match="is no run of"):
        pt.collapse(run.va, odd, page_size=size)
    with pytest.raises(ValueError, match="two ways to say"):
        pt.collapse(run.va, level=2, page_size=size)
    with pytest.raises(ptl.AlreadyMapped):
        pt.map(run.va, 0, size, page_size=size)
    assert contents(pt) == before


def test_without_frames_nothing_is_made():
    """Each huge leaf of a run parks what it takes to split it: all of them, or none."""
    for spare in range(3):
        frames = ptl.Frames(64 * (1 + spare), frame_bytes=64, domain=ptl.EpochDomain())
        pt = ptl.PageTable(RUNS, frames=frames)
        if spare < 2:
            with pytest.raises(ptl.OutOfFrames):
                pt.map(0, 0, TWO_HUGE, page_size=TWO_HUGE)
            assert pt.lookup(0) is None
        else:
            pt.map(0, 0, TWO_HUGE, page_size=TWO_HUGE)
            assert frames.stats()["parked"] == 2
            pt.unmap(PAGE, PAGE)
            assert pt.translate(TWO) == TWO
        pt.check()


def test_a_run_that_is_not_whole_is_found_by_the_check():
    for size, n, bit in itertools.product((TWO, FOUR), range(4), (52, 62, 63, 40)):
        if n * PAGE >= size:
            continue
        run = place(size=size)
        step = run.pt.walk(run.va + n * PAGE).steps[-1]
        view = run.pt.frames.view(step.table_pa + step.index * 8, 8)
        view[:] = (step.raw ^ 1 << bit).to_bytes(8, "little")
        with pytest.raises(ptl.InvariantError, match=r"[UI]1: entry "):
            run.pt.check()
        view[:] = step.raw.to_bytes(8, "little")
        run.pt.check()


def test_a_foreign_hand_that_wrote_half_a_run_breaks_nothing_else():
    """Neighbours that are no part of it stay what they are."""
    pt = table()
    pt.map(PAGE, 0, flags="rx")
    step = pt.walk(0).steps[-1]
    pt.frames.view(step.table_pa, 8)[:] = RUNS.encode(FOUR, "rw", run=RUNS.level(1).runs[1]).to_bytes(8, "little")
    assert pt.exchange(0, RUNS.level(1).empty)
    assert pt.lookup(0) is None
    assert (pt.lookup(PAGE).size, pt.lookup(PAGE).flags) == (PAGE, "rx")
    pt.check()


@pytest.mark.parametrize(
    "run",
    [Run(entries=3, marks=Pattern(1 << 62, 1 << 62)), Run(entries=16, marks=Pattern(1 << 62, 1 << 62))],
    ids=["three", "more than there are"],
)
def test_runs_that_cannot_be_are_refused(run):
    layout = (replace(RUNS.level(1), runs=(run,)), RUNS.level(2))
    with pytest.raises(FormatError, match=f"a run of {run.entries} entries needs a table of at least as many"):
        ptl.PageTable(replace(RUNS, layout=layout))


def test_runs_that_hardware_sees_need_what_hides_them():
    layout = (replace(RUNS.level(1), invalid=None), RUNS.level(2))
    with pytest.raises(FormatError, match="runs that hardware walks needs what an invalid leaf looks like"):
        ptl.PageTable(replace(RUNS, layout=layout))


def test_too_many_kinds_of_runs_are_refused():
    layout = (replace(RUNS.level(1), runs=RUNS.level(1).runs * 3), RUNS.level(2))
    with pytest.raises(FormatError, match="a level has at most 4 kinds of runs"):
        ptl.PageTable(replace(RUNS, layout=layout))


# -- what a CPU sees


class Machine:
    """A run of data, and a CPU."""

    def __init__(self, arch: str = "runs", size: int = FOUR, flags: str = "rw") -> None:
        self.frames = ptl.Frames(1 << 22, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(architecture(arch), frames=self.frames)
        self.cpu = Tlb(sets=256)
        self.cpu.attach(self.pt)
        self.size, self.page = size, self.pt.arch.level(1).span
        self.pa = self.frames.alloc(size)
        self.va = size
        self.pt.map(self.va, self.pa, size, flags, page_size=size)

    def use(self) -> None:
        """A store to each page."""
        for at in range(0, self.size, self.page):
            self.cpu.write(self.pt, self.va + at, b"x")


RUNS_OF_PAGES = pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("runs", TWO),
        ("runs", FOUR),
        ("refilled runs", TWO),
        ("refilled runs", FOUR),
        ("arm64_4k", 1 << 16),
        ("riscv_sv39", 1 << 16),
        ("sh", 1 << 16),
        ("sparc64", 1 << 19),
        ("parisc64", 1 << 20),
        ("powerpc_8xx", 1 << 14),
    ],
)


@RUNS_OF_PAGES
def test_a_cpu_remembers_a_run_once(arch, size):
    machine = Machine(arch, size)
    machine.use()
    assert machine.cpu.stats()["misses"] == 1
    assert machine.cpu.verify() == 1
    assert machine.pt.lookup(machine.va).flags == machine.pt.arch.attributes("rwad")
    for at in (0, size // 2 + 5, size - 1):
        assert machine.cpu.translate(machine.pt, machine.va + at) == machine.pa + at


@RUNS_OF_PAGES
def test_a_run_is_flushed_before_it_is_taken_apart(arch, size):
    """By what is done to a part of it: once before, and once with the change, as for a huge leaf that is cut."""
    changes: dict[str, Callable[[Machine], object]] = {
        "split": lambda machine: machine.pt.split(machine.va),
        "exchange": lambda machine: machine.pt.exchange(machine.va, machine.pt.arch.level(1).empty),
        "withdraw": lambda machine: machine.pt.test_and_clear(machine.va, "d"),
        "unmap": lambda machine: machine.pt.unmap(machine.va, machine.page),
        "protect": lambda machine: machine.pt.protect(machine.va, machine.page, "r"),
        "move": lambda machine: machine.pt.move(machine.va, 0, machine.page),
        "map": lambda machine: machine.pt.map(machine.va, 0, machine.page, replace=True),
    }
    for name, change in changes.items():
        machine = Machine(arch, size)
        machine.use()
        flushes = machine.cpu.stats()["flushes"]
        change(machine)
        assert machine.cpu.stats()["flushes"] == flushes + (1 if name in ("split", "exchange", "withdraw") else 2)
        assert machine.cpu.stats()["dropped"] == 1
        machine.cpu.translate(machine.pt, machine.va + size - 1)
        machine.cpu.verify()


@RUNS_OF_PAGES
def test_pages_are_flushed_before_they_are_a_run(arch, size):
    machine = Machine(arch, size)
    machine.pt.split(machine.va)
    machine.use()
    pages = size // machine.page
    assert machine.cpu.verify() == pages
    assert machine.pt.collapse(machine.va, page_size=size)
    assert machine.cpu.stats()["dropped"] == pages
    machine.use()
    assert machine.cpu.verify() == 1
    machine.pt.split(machine.va)
    machine.use()
    machine.pt.map(machine.va, machine.pa, size, page_size=size, replace=True)
    machine.use()
    assert machine.cpu.verify() == 1


@RUNS_OF_PAGES
def test_all_of_a_run_is_flushed_with_the_change(arch, size):
    for change in (
        lambda machine: machine.pt.unmap(machine.va, size),
        lambda machine: machine.pt.protect(machine.va, size, "r"),
        lambda machine: machine.pt.move(machine.va, 0, size),
    ):
        machine = Machine(arch, size)
        machine.use()
        change(machine)
        assert machine.cpu.stats()["dropped"] == 1
        assert machine.cpu.verify() == 0


@linux_only
def test_a_refill_waits_for_a_frozen_leaf_where_software_alone_walks():
    """A foreign hand has frozen one entry of a run: no CPU takes it until it is thawed, and any other it does."""
    machine = Machine("refilled runs", TWO)
    step = machine.pt.walk(machine.va).steps[-1]
    view = machine.frames.view(step.table_pa + 8 * step.index, 8)
    view[:] = (step.raw | REFILLED_RUNS.level(1).word.frozen_present).to_bytes(8, "little")
    with going_on(lambda: machine.cpu.translate(machine.pt, machine.va)) as done:
        assert machine.pt.translate(machine.va) == machine.pa
        view[:] = step.raw.to_bytes(8, "little")
    assert done == [machine.pa]


def test_hardware_takes_a_frozen_leaf():
    """It does not know that bit."""
    machine = Machine("runs", TWO)
    step = machine.pt.walk(machine.va).steps[-1]
    view = machine.frames.view(step.table_pa + 8 * step.index, 8)
    view[:] = (step.raw | RUNS.level(1).word.frozen_present).to_bytes(8, "little")
    assert machine.cpu.translate(machine.pt, machine.va) == machine.pa
    view[:] = step.raw.to_bytes(8, "little")


def test_a_run_and_its_pages_at_once_are_an_error():
    """Nothing in ptl lets it come to that: a foreign hand has written the entries."""
    machine = Machine()
    machine.use()
    step = machine.pt.walk(machine.va).steps[-1]
    for n in range(4):
        view = machine.frames.view(step.table_pa + 8 * (step.index + n), 8)
        view[:] = RUNS.encode(machine.pa + n * PAGE, "rwad").to_bytes(8, "little")
    with pytest.raises(StaleTranslation):
        machine.cpu.read(machine.pt, machine.va + PAGE, 1)


# -- threads


@linux_only
def test_a_change_of_a_part_waits_for_the_lock_of_the_table():
    run = place()
    lock = run.pt.pte_map_lock(run.va)
    raw = run.pt.lookup(run.va).raw
    with going_on(lambda: run.pt.compare_exchange(run.va, raw, RUNS.level(1).empty)) as done:
        assert run.leaves()[0].size == FOUR
        lock.close()
    assert done == [True]
    assert len(run.leaves()) == 3


def test_who_holds_the_lock_changes_runs_under_it():
    run = place()
    with run.pt.pte_map_lock(run.va):
        run.mark(2, "d")
        assert run.pt.test_and_clear(run.va, "d")
        assert run.pt.compare_exchange(run.va, run.raws()[0], RUNS.level(1).empty)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            run.pt.unmap(run.va + PAGE, TWO)
    run.pt.check()


@pytest.mark.parametrize(
    ("arch", "size"),
    [("runs", FOUR), ("refilled runs", FOUR), ("arm64_4k", 1 << 16), ("riscv_sv39", 1 << 16), ("powerpc_8xx", 1 << 14)],
)
def test_readers_beside_a_run_that_comes_and_goes(arch, size):
    """Whatever becomes of the run, every address is mapped to its frame, and each page is of one of the two sizes."""
    run = place(architecture(arch), size)
    pt, crew = run.pt, Crew()
    vas = array("Q", range(run.va, run.va + size, run.page))
    pas = [va - run.va + run.pa for va in vas]

    def read() -> None:
        for _ in crew.meanwhile():
            assert list(pt.translate(vas)) == pas
            for va in vas:
                leaf = pt.lookup(va)
                assert leaf.size in (run.page, size)
                assert leaf.pa - leaf.va == run.pa - run.va
                assert pt.translate(va + 5) == va - run.va + run.pa + 5

    def split_and_collapse() -> None:
        made = 0
        for _ in crew.turns(300):
            pt.split(run.va)
            made += bool(pt.collapse(run.va, page_size=size))
        assert made

    def change_a_part() -> None:
        for turn in crew.meanwhile():
            va = vas[turn % len(vas)]
            raw = pt.lookup(va).raw
            with suppress(FormatError):  # it was hidden when it was read
                pt.compare_exchange(va, raw, raw)  # a run for a run, or a page for a page
            pt.protect(va, run.page, "rw")

    crew.run(split_and_collapse, beside=(read, change_a_part))
    pt.check()


@pytest.mark.parametrize(
    ("arch", "size"), [("runs", FOUR), ("refilled runs", FOUR), ("riscv_sv39", 1 << 16), ("powerpc_8xx", 1 << 14)]
)
def test_no_store_is_forgotten(arch, size):
    """What a CPU has dirtied is dirty until somebody clears it, whatever becomes of the run meanwhile."""
    machine = Machine(arch, size)
    pt, crew = machine.pt, Crew()

    def store_and_clear() -> None:
        for turn in crew.turns(300):
            va = machine.va + turn % (size // machine.page) * machine.page
            machine.cpu.write(pt, va, b"x")
            assert "d" in pt.lookup(va).flags
            assert pt.test_and_clear(va, "d")

    def split_and_collapse() -> None:
        for _ in crew.meanwhile():
            pt.split(machine.va)
            pt.collapse(machine.va, page_size=size)

    crew.run(store_and_clear, beside=(split_and_collapse,))
    pt.check()
    machine.cpu.verify()
