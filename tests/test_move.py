"""The promise: a move takes all that a range holds to another address, or changes nothing.

What is moved is bit for bit what it was; only a leaf that the range cuts, or that does not fit its new address, comes
in smaller leaves. Compared with a model that knows entries by address: for every range of a small table, and for random
ones of real formats. Then what a reader, a CPU, a writer and another mover see in the middle of it.
"""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

import ptl
from helpers import Crew, in_thread
from layouts import Layout, build, put_soft
from made_up import BINARY
from ptl import AddressError, AlreadyMapped, Outcome, State
from ptl.arch import Arch
from reference import entries

DOMAIN = ptl.EpochDomain()
PAGE = 0x1000


class Model:
    """Every entry that is in use and is no table, by address, as its level and its bits; and the tables."""

    def __init__(self, arch: Arch, held: dict[int, tuple[int, int]], tables: set[tuple[int, int]]) -> None:
        self.arch, self.held, self.tables = arch, held, tables

    @classmethod
    def of(cls, pt: ptl.PageTable) -> Model:
        """What the bytes of a table say."""
        arch = pt.arch
        model = cls(arch, {}, set())
        tables = [(pt.root, arch.levels, 0)]
        while tables:
            pa, level, first = tables.pop()
            for i, raw in enumerate(entries(pt, pa, level)):
                if raw == arch.level(level).empty:
                    continue
                va = arch.canonical(first + i * arch.level(level).span)
                entry = arch.decode(raw, level)
                assert not entry.frozen, f"{raw:#x} is frozen at {va:#x}"
                if entry.state is State.TABLE:
                    model.tables.add((level - 1, va))
                    tables.append((entry.pa, level - 1, va))
                else:
                    assert entry.state in (State.HUGE, State.SOFT), f"{raw:#x} is {entry.state.name} at {va:#x}"
                    model.held[va] = level, raw
        return model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and (self.held, self.tables) == (other.held, other.tables)

    def __repr__(self) -> str:
        held = ", ".join(f"{va:#x}: {level}/{raw:#x}" for va, (level, raw) in sorted(self.held.items()))
        return f"<{held}; tables {sorted((level, hex(va)) for level, va in self.tables)}>"

    def span(self, level: int) -> int:
        """The bytes that one entry of that level covers."""
        return self.arch.level(level).span

    def holds(self, lo: int, length: int) -> bool:
        """Whether any entry in a range is in use."""
        return any(va < lo + length and lo < va + self.span(level) for va, (level, _) in self.held.items())

    def move(self, old: int, new: int, length: int) -> Outcome | None:
        """What `PageTable.move` does; None where it raises AlreadyMapped."""
        if self.holds(new, length):
            return None
        if not self.holds(old, length):
            return Outcome.NO_TABLE
        distance = new - old
        if distance % self.span(2) == 0:  # leaf tables that have something in them go whole
            for level, first in list(self.tables):
                inside = old <= first and first + self.span(2) <= old + length
                if level == 1 and inside and self.holds(first, self.span(2)):
                    self.tables.remove((1, first))
        for va, (level, raw) in list(self.held.items()):
            del self.held[va]
            self._move(va, level, raw, old, length, distance)
        return Outcome.DONE

    def _move(self, va: int, level: int, raw: int, old: int, length: int, distance: int) -> None:
        """Put an entry where it belongs then, whole or in smaller ones."""
        span = self.span(level)
        if va + span <= old or old + length <= va:
            self.held[va] = level, raw
        elif level == 1 or (old <= va and va + span <= old + length and distance % span == 0):
            target = va + distance
            self.held[target] = level, raw
            self.tables = {(n, at) for n, at in self.tables if n >= level or not target <= at < target + span}
            self.tables |= {(n, target & -self.span(n + 1)) for n in range(level, self.arch.levels)}
        else:
            self.tables.add((level - 1, va))
            for i in range(self.arch.level(level - 1).entries):
                piece = self._piece(level, raw, i)
                self._move(va + i * self.span(level - 1), level - 1, piece, old, length, distance)

    def _piece(self, level: int, raw: int, i: int) -> int:
        """Entry i of what an entry of that level splits into."""
        entry, span = self.arch.decode(raw, level), self.span(level - 1)
        if entry.state is State.HUGE:
            assert entry.pa is not None
            return self.arch.encode(entry.pa + i * span, entry.flags, level - 1)
        soft = self.arch.decode_soft(raw, level)
        return self.arch.encode_soft(soft.type, soft.offset + i * span // self.span(1), exclusive=soft.exclusive)


def moved(pt: ptl.PageTable, old: int, new: int, length: int) -> Outcome | None:
    """As `Model.move`, of a real table."""
    try:
        return pt.move(old, new, length)
    except AlreadyMapped:
        return None


# -- every range of a small table

LEAF_TABLES: tuple[Layout, ...] = ((".", "."), ("L", "."), ("L", "L"), (".", "S"))
OLD_UPPER: tuple[Layout, ...] = (
    ".", "L", "S", *((a, b) for a in (".", "L", "S", *LEAF_TABLES) for b in (".", "L", *LEAF_TABLES))
)  # fmt: skip
NEW_UPPER: tuple[Layout, ...] = (
    ".", (".", "."), ((".", "."), "."), ((".", "."), (".", ".")), (".", "L"), (("L", "."), (".", ".")), ("S", "."), "L",
)  # fmt: skip


@pytest.mark.parametrize("upper", NEW_UPPER, ids=repr)
def test_every_move_in_a_small_table(upper: Layout) -> None:
    """Whatever is at the old address and at the new one; each range either way."""
    pages, half = 8, 4 * PAGE
    frames = ptl.Frames(64 * 32, frame_bytes=32, domain=DOMAIN)
    ranges = [
        (old * PAGE, new * PAGE, length * PAGE)
        for length in range(1, 5)
        for old in range(pages - length + 1)
        for new in range(pages - length + 1)
        if abs(old - new) >= length
    ]
    for layout in OLD_UPPER:
        for old, new, length in ranges:
            pt = ptl.PageTable(BINARY, frames=frames)
            build(pt, layout, 3, 0)
            build(pt, upper, 3, half)
            model = Model.of(pt)
            where = f"{layout} {upper} {old:#x} {new:#x} {length:#x} {model}"
            outcome = model.move(old, new, length)
            assert moved(pt, old, new, length) is outcome, where
            assert Model.of(pt) == model, where
            pt.check()
    del pt
    DOMAIN.synchronize()
    assert (frames.stats()["tables"], frames.stats()["parked"]) == (0, 0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("arch", ["tiny", "x86_64", "i386", "i386_pae", "riscv_sv39"])
def test_random_moves(arch: str, seed: int) -> None:
    """One after another, in what the last one left."""
    rng = random.Random(f"{arch} {seed}")
    pt = ptl.PageTable(arch)
    huge = pt.arch.level(2).span
    pages = huge // PAGE
    top = (1 << pt.arch.va_bits) - 4 * huge
    regions = [*range(0, 4 * huge, huge), *(pt.arch.canonical(top + i * huge) for i in range(4))]

    def anywhere() -> tuple[int, int]:
        """An address, and a length that stays in its four regions."""
        region = rng.randrange(8)
        page = rng.choice([0, 0, rng.randrange(pages)])
        most = (4 - region % 4) * pages - page
        count = min(most, rng.choice([1, 2, rng.randrange(1, pages), pages, pages, 2 * pages, 3 * pages]))
        return regions[region] + page * PAGE, count * PAGE

    for _ in range(60):
        va, length = anywhere()
        other, _ = anywhere()
        kind = rng.random()
        model = Model.of(pt)
        if kind < 0.3:
            if not model.holds(va, length):
                target = huge * rng.randrange(8) + rng.choice([va % huge, 0])
                pt.map(va, target, length, rng.choice(["rw", "rx", "rwad"]))
        elif kind < 0.4:
            size = rng.choice([PAGE, huge])
            va &= -size
            if not model.holds(va, size):
                put_soft(pt, va, size, rng.randrange(1 << 10))
        elif kind < 0.45:
            pt.unmap(va, length)
        elif abs(va - other) >= length and pt.arch.canonical(other + length - 1) == other + length - 1:
            outcome = model.move(va, other, length)
            assert moved(pt, va, other, length) is outcome
            assert Model.of(pt) == model
            pt.check()


# -- what is kept, and what is not

HUGE, GIANT = 0x4000, 0x1_0000
"""The sizes of tiny's larger leaves."""


def test_every_bit_of_an_entry_is_kept() -> None:
    """Accessed and dirty, and the bits that the format leaves to software."""
    pt = ptl.PageTable("x86_64")
    for va, size, level in ((0, PAGE, 1), (2 << 20, 2 << 20, 2), (1 << 30, 1 << 30, 3)):
        raw = pt.arch.encode(size, "rwugad", level) | 0b111 << 9 | 0xF << 59
        pt.map(va, size, size)
        pt.exchange(va, raw)
        assert pt.move(va, va + (100 << 30), size) is Outcome.DONE
        assert pt.lookup(va) is None
        assert (pt.lookup(va + (100 << 30)).raw, pt.lookup(va + (100 << 30)).level) == (raw, level)
    pt.check()


def test_a_giant_leaf_comes_in_the_largest_leaves_that_fit() -> None:
    pt = ptl.PageTable("x86_64")
    pt.map(0, 1 << 30, 1 << 30)
    for distance, size in ((1 << 30, 1 << 30), (2 << 20, 2 << 20), (PAGE, PAGE)):
        va = 8 << 30
        assert pt.move(0, va + distance, 1 << 30) is Outcome.DONE
        for offset in (0, PAGE + 5, (1 << 30) - 1):
            leaf = pt.lookup(va + distance + offset)
            assert (leaf.size, leaf.pa + va + distance + offset - leaf.va) == (size, (1 << 30) + offset)
        assert pt.lookup(va + distance - 1) is pt.lookup(va + distance + (1 << 30)) is None
        pt.check()
        assert pt.unmap(va + distance, 1 << 30) == 1 << 30
        pt.map(0, 1 << 30, 1 << 30)


def test_a_reader_of_a_table_that_was_moved_sees_its_last_contents() -> None:
    """And changes nothing: the table is a copy at the new address, and the old one has left."""
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(1 << 20, domain=ptl.EpochDomain(batch_tables=1)))
    pt.map(0, 0x5000, 4 * PAGE)
    with pt.pte_map(0) as late:
        assert pt.move(0, 1 << 30, 2 << 20) is Outcome.DONE
        assert late.stale
        pt.unmap(1 << 30, 2 * PAGE)
        pt.frames.domain.synchronize()
        assert [late[i].pa for i in range(4)] == [0x5000 + i * PAGE for i in range(4)]
        assert late[4] is None
        for i in (0, 4):
            assert not late.compare_exchange(i, late.load(i), pt.arch.encode(0x9000, "rw"))
            assert not late.compare_exchange(
                i, late.load(i) & ~pt.arch.level(1).word.frozen_present, pt.arch.encode(0x9000, "rw")
            )
    with pt.pte_map(1 << 30) as ptes:
        assert not ptes.stale
        assert [ptes[i] and ptes[i].pa for i in range(5)] == [None, None, 0x7000, 0x8000, None]
    pt.frames.domain.synchronize()
    assert pt.frames.domain.stats()["limbo"] == 0


def test_a_move_is_counted_when_there_was_anything() -> None:
    pt = ptl.PageTable("tiny")
    pt.map(0, 0, PAGE)
    assert pt.move(HUGE, 2 * HUGE, HUGE) is Outcome.NO_TABLE
    assert pt.stats()["moves"] == 0
    assert pt.move(0, 2 * HUGE, HUGE) is Outcome.DONE
    assert pt.stats()["moves"] == 1


# -- what changes nothing


@contextmanager
def nothing_changes(pt: ptl.PageTable) -> Iterator[None]:
    """Neither an entry nor a table nor a count, but for those of attempts."""

    def everything() -> object:
        frames = pt.frames.stats()
        attempts = ("map_failures", "rewalks", "restarts")
        counts = {name: count for name, count in pt.stats().items() if name not in attempts}
        return pt.dump(), Model.of(pt), counts, frames["tables"], frames["parked"], pt.check()

    before = everything()
    yield
    assert everything() == before


@pytest.fixture
def full() -> ptl.PageTable:
    """A page, a huge leaf, a giant leaf and software's entry, each at the first of its giant slot but the last."""
    pt = ptl.PageTable("tiny")
    pt.map(0, 0, PAGE)
    pt.map(GIANT, GIANT, HUGE, page_size=HUGE)
    pt.map(2 * GIANT, 2 * GIANT, GIANT)
    put_soft(pt, 3 * GIANT + HUGE, HUGE, 7)
    return pt


@pytest.mark.parametrize("new", [0, GIANT, GIANT + PAGE, 2 * GIANT + 5 * PAGE, 3 * GIANT + HUGE], ids=hex)
@pytest.mark.parametrize("length", [PAGE, 2 * PAGE], ids=hex)
def test_a_move_takes_no_place_that_is_taken(full: ptl.PageTable, new: int, length: int) -> None:
    for old in (3 * GIANT + HUGE + 2 * PAGE, 3 * GIANT):
        with nothing_changes(full), pytest.raises(AlreadyMapped, match=f"va {new:#x} holds"):
            full.move(old, new, length)


@pytest.mark.parametrize(
    ("old", "new", "length", "why"),
    [
        (0, 0, PAGE, "overlap"),
        (0, PAGE, 2 * PAGE, "overlap"),
        (GIANT + PAGE, GIANT, 2 * PAGE, "overlap"),
        (1, HUGE, PAGE, "multiples"),
        (0, HUGE + 1, PAGE, "multiples"),
        (0, HUGE, PAGE + 1, "multiples"),
        (0, HUGE, 0, "length must not be 0"),
        (0, 4 * GIANT, PAGE, "not canonical"),
        (4 * GIANT, 0, PAGE, "not canonical"),
        (0, 4 * GIANT - PAGE, 2 * PAGE, "runs out"),
        (4 * GIANT - PAGE, 0, 2 * PAGE, "runs out"),
        (-1, 0, PAGE, "outside 0 to"),
        (0, 1 << 64, PAGE, "outside 0 to"),
        (0, HUGE, 1 << 64, "outside 0 to"),
    ],
)
def test_a_range_to_move_is_whole_pages_and_apart(
    full: ptl.PageTable, old: int, new: int, length: int, why: str
) -> None:
    with nothing_changes(full), pytest.raises(AddressError, match=why):
        full.move(old, new, length)


@pytest.mark.parametrize("wrong", [None, 1.0, "0", True], ids=repr)
def test_addresses_to_move_are_integers(full: ptl.PageTable, wrong: object) -> None:
    for arguments in ((wrong, HUGE, PAGE), (0, wrong, PAGE), (0, HUGE, wrong)):
        with nothing_changes(full), pytest.raises(TypeError):
            full.move(*arguments)


@pytest.mark.parametrize("length", [PAGE, HUGE], ids=hex)
def test_a_bad_entry_is_not_moved(length: int) -> None:
    """Nor moved over."""
    pt = ptl.PageTable("x86_64")
    span = 2 << 20
    pt.map(0, 0, 2 * PAGE)
    pt.map(8 * span, 0, span)
    step = pt.walk(8 * span).steps[-1]
    cell = pt.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")
    leaf, cell[0] = cell[0], pt.arch.encode(0, "rw", 2) | 1 << 13
    assert pt.pmd(8 * span).state is State.BAD
    for old, new in ((8 * span, 16 * span), (0, 8 * span)):
        with pytest.raises((ptl.FormatError, AlreadyMapped)):
            pt.move(old, new, span)
        assert cell[0] == pt.arch.encode(0, "rw", 2) | 1 << 13
        assert pt.pmd(16 * span).state is State.EMPTY
        assert pt.translate(PAGE) == PAGE
    cell[0] = leaf
    pt.check()


SCENES: dict[str, tuple[Callable[[ptl.PageTable], object], tuple[int, int, int], int]] = {
    # what is there before, the move, and how many tables it takes, worked out by hand
    "a page beside another": (lambda pt: pt.map(0, 0, PAGE), (0, PAGE, PAGE), 0),
    "a page to the next table": (lambda pt: pt.map(0, 0, PAGE), (0, HUGE, PAGE), 1),
    "a page to the next table of tables": (lambda pt: pt.map(0, 0, PAGE), (0, GIANT, PAGE), 2),
    "two pages to two tables": (lambda pt: pt.map(0, 0, 2 * PAGE), (0, 2 * HUGE - PAGE, 2 * PAGE), 2),
    "a leaf table": (lambda pt: pt.map(0, PAGE, HUGE), (0, HUGE, HUGE), 1),
    "a leaf table to the next table of tables": (lambda pt: pt.map(0, PAGE, HUGE), (0, GIANT, HUGE), 2),
    "a leaf table into an empty one": (
        lambda pt: [pt.map(0, PAGE, HUGE), pt.populate(GIANT)],
        (0, GIANT, HUGE),
        0,
    ),
    "four leaf tables": (lambda pt: pt.map(0, PAGE, GIANT), (0, GIANT, GIANT), 5),
    "four leaf tables, unaligned": (lambda pt: pt.map(0, PAGE, GIANT), (0, GIANT + PAGE, GIANT), 1 + 4 + 2),
    "a huge leaf": (lambda pt: pt.map(0, 0, HUGE), (0, HUGE, HUGE), 0),
    "a huge leaf to the next table of tables": (lambda pt: pt.map(0, 0, HUGE), (0, GIANT, HUGE), 1),
    "a huge leaf over an empty table": (lambda pt: [pt.map(0, 0, HUGE), pt.populate(GIANT)], (0, GIANT, HUGE), 0),
    "a huge leaf, unaligned": (lambda pt: pt.map(0, 0, HUGE), (0, 2 * HUGE - PAGE, HUGE), 2),
    "a part of a huge leaf": (lambda pt: pt.map(0, 0, HUGE), (PAGE, HUGE + PAGE, 2 * PAGE), 1),
    "a giant leaf": (lambda pt: pt.map(0, 0, GIANT), (0, GIANT, GIANT), 0),
    "a giant leaf in huge ones": (lambda pt: pt.map(0, 0, GIANT), (0, GIANT + HUGE, GIANT), 2),
    "a giant leaf in pages": (lambda pt: pt.map(0, 0, GIANT), (0, GIANT + PAGE, GIANT), 1 + 4 + 2),
    "software's huge entry, unaligned": (lambda pt: put_soft(pt, 0, HUGE, 5), (0, 2 * HUGE - PAGE, HUGE), 2),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_all_tables_of_a_move_or_none(
    scene: tuple[Callable[[ptl.PageTable], object], tuple[int, int, int], int],
) -> None:
    before, move, need = scene
    roomy = ptl.PageTable("tiny")
    before(roomy)
    model = Model.of(roomy)
    held = roomy.frames.stats()["tables"] + roomy.frames.stats()["parked"]
    assert model.move(*move) is Outcome.DONE
    for tables in range(need + 1):
        pt = ptl.PageTable("tiny", frames=ptl.Frames((held + tables) * 32, frame_bytes=32, domain=DOMAIN))
        before(pt)
        if tables < need:
            with nothing_changes(pt), pytest.raises(ptl.OutOfFrames, match="nothing was changed"):
                pt.move(*move)
        else:
            assert pt.move(*move) is Outcome.DONE
            assert Model.of(pt) == model
            pt.check()


@pytest.mark.parametrize("held", [0, 2 << 20, 1 << 30], ids=["old", "beside", "new"])
def test_who_holds_a_lock_that_a_move_needs_is_told(held: int) -> None:
    pt = ptl.PageTable("x86_64")
    pt.map(0, 0, 4 << 20, page_size=PAGE)
    pt.populate(1 << 30)
    with pt.pte_map_lock(held):
        with nothing_changes(pt), pytest.raises(RuntimeError, match="would wait for itself"):
            pt.move(PAGE, (1 << 30) + PAGE, 3 << 20)
        assert in_thread(lambda: pt.move(PAGE, 4 << 30, PAGE)) if held else True
    pt.check()


# -- in the middle of it


@pytest.mark.parametrize("arch", ["x86_64", "i386", "riscv_sv39"])
@pytest.mark.parametrize("kind", ["pages", "a table", "a huge leaf"])
def test_nobody_sees_an_address_at_both_places(arch: str, kind: str) -> None:
    """It leaves the old place before it appears at the new one: whoever sees it there finds it here no more.

    The readers look at the places in the other direction than it goes, so it is seen at one of them at most.
    """
    pt = ptl.PageTable(arch)
    span = pt.arch.level(2).span
    length = {"pages": 3 * PAGE, "a table": span, "a huge leaf": span}[kind]
    offsets = [0, length - PAGE] if kind == "pages" else [0, 5 * PAGE, span - PAGE]
    places = [place * span for place in range(1, 33)]
    batches = {offset: array("Q", [place + offset for place in reversed(places)]) for offset in offsets}
    rounds = sightings = 0
    crew = Crew()

    def mover() -> None:
        nonlocal rounds
        while not crew.failures and (rounds < 100 or sightings < 1000):
            pt.map(places[0], 8 * span, length, page_size=span if kind == "a huge leaf" else PAGE)
            for old, new in itertools.pairwise(places):
                assert pt.move(old, new, length) is Outcome.DONE
            assert pt.unmap(places[-1], length) == length
            rounds += 1

    def reader() -> None:
        nonlocal sightings
        for turn in crew.meanwhile():
            offset = offsets[turn % len(offsets)]
            began = rounds
            seen = [pa for pa in pt.translate(batches[offset]) if pa != ptl.UNMAPPED]
            assert set(seen) <= {8 * span + offset}
            if rounds == began:
                assert len(seen) <= 1
                sightings += len(seen)

    crew.run(mover, beside=(reader, reader))
    pt.check()


def test_moves_in_opposite_directions_end() -> None:
    """They take the same locks in one order, whichever way they go; and nothing is lost or doubled."""
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(64 << 20, domain=ptl.EpochDomain()))
    here, there, span = 2 << 30, 7 << 30, 2 << 20
    pt.map(here, 0, 2 * span, page_size=PAGE)
    pt.map(here + 2 * span, 2 * span, span)
    done = {here: 0, there: 0}
    crew = Crew()

    def mover(old: int, new: int, offset: int, length: int) -> None:
        turn = 0
        while not crew.failures and (turn < 1500 or min(done.values()) < 50):
            turn += 1
            outcome = moved(pt, old + offset, new + offset, length)
            assert outcome in (None, Outcome.DONE, Outcome.NO_TABLE)
            done[old] += outcome is Outcome.DONE

    crew.run(
        partial(mover, here, there, 0, 3 * span),
        partial(mover, there, here, 0, 3 * span),
        partial(mover, here, there, PAGE, 2 * span),
        partial(mover, there, here, PAGE, 2 * span),
    )
    for offset in range(0, 3 * span, PAGE):
        leaves = [leaf for place in (here, there) if (leaf := pt.lookup(place + offset)) is not None]
        assert [leaf.pa + offset % leaf.size for leaf in leaves] == [offset]
    pt.check()


def test_no_change_of_an_entry_is_lost() -> None:
    """A compare-exchange beside moves either came before, and is moved, or meets the freeze and looks again."""
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(64 << 20, domain=ptl.EpochDomain()))
    places, span = (2 << 30, 7 << 30), 2 << 20
    pt.map(places[0], 0, 4 * PAGE)
    crew = Crew()
    changes = dict.fromkeys(range(4), 0)

    def change(page: int) -> None:
        """Count in an entry's address, wherever the entry is."""
        for turn in crew.meanwhile():
            va = places[turn % 2] + page * PAGE
            leaf = pt.lookup(va)
            if leaf is None:
                continue
            try:
                changes[page] += pt.compare_exchange(va, leaf.raw, pt.arch.encode(leaf.pa + span, "rw"))
            except ptl.PageFault:
                continue

    def mover() -> None:
        turn = 0
        while not crew.failures and (turn < 3000 or min(changes[0], changes[3]) < 100 or turn % 2):
            length = (span, 4 * PAGE)[turn // 2 % 2]
            assert pt.move(places[turn % 2], places[1 - turn % 2], length) is Outcome.DONE
            turn += 1

    crew.run(mover, beside=(partial(change, 0), partial(change, 3)))
    for page in range(4):
        assert pt.translate(places[0] + page * PAGE) == page * PAGE + changes[page] * span
    pt.check()


def test_a_cpu_forgets_a_table_before_it_is_copied() -> None:
    """Once for each table, and once with the range: then nobody sets accessed or dirty where it has been read."""
    pt, cpu = ptl.PageTable("x86_64"), ptl.tlb.Tlb()
    cpu.attach(pt)
    span = 2 << 20
    pt.map(0, 0, 3 * span, page_size=PAGE)
    before = cpu.stats()["flushes"]
    assert pt.move(0, 1 << 30, 3 * span) is Outcome.DONE
    assert cpu.stats()["flushes"] == before + 3 + 1


def test_no_store_of_a_cpu_goes_unmarked() -> None:
    """A CPU may be about to set dirty in the old table while its entries are copied: it is set in the new one then."""
    frames = ptl.Frames(1 << 20, domain=ptl.EpochDomain())
    pt, cpu = ptl.PageTable("tiny", frames=frames), ptl.tlb.Tlb()
    cpu.attach(pt)
    places = (0, GIANT)
    last = HUGE - PAGE  # its entry is the last to be copied
    for va in range(0, HUGE, PAGE):
        pt.map(va, frames.alloc())
    crew = Crew()

    def anywhere(call: Callable[[int], object]) -> object:
        """What it returns at the one of the two places where the page is."""
        for turn in crew.meanwhile():
            try:
                return call(places[turn % 2] + last)
            except ptl.PageFault:
                continue
        return None

    def is_dirty(va: int) -> bool:
        leaf = pt.lookup(va)
        if leaf is None:
            raise ptl.PageFault(va, 1, State.EMPTY)
        return "d" in leaf.flags

    def mover() -> None:
        for turn in crew.turns(2_000_000):
            pt.move(places[turn % 2], places[1 - turn % 2], HUGE)

    def store() -> None:
        for turn in crew.meanwhile():
            anywhere(lambda va: pt.test_and_clear(va, "d"))
            stored = anywhere(lambda va: cpu.write(pt, va, b"x") or True)
            assert anywhere(is_dirty) is not False or not stored, f"store {turn} left no mark"

    crew.run(mover, beside=(store,))
    cpu.verify()
    pt.check()
