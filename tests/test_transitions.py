"""The transitions of a slot, each in all its forms; and that a slot has no others.

A collapse fills holes and gives flags; a split makes leaves of any smaller size; software's entry takes the place of a
huge leaf and goes the same ways. Last, every call is tried on every state of a slot on every level, and whatever the
slot is afterwards must be an edge that this call may take.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

import ptl
from layouts import PAGE, Layout, build, put_soft
from made_up import BINARY
from ptl import AddressError, Outcome, PageFault, State
from ptl.arch import SoftEntry
from ptl.tlb import MmuGather, Tlb

HUGE, GIANT = 0x4000, 0x1_0000
"""The sizes of tiny's larger leaves."""
FORMATS = (
    *("tiny", "x86_64", "x86_64_la57", "i386", "i386_pae", "riscv_sv39", "riscv_sv57"),
    *("arm_lpae", "arm64_4k", "arm64_4k_va52", "powerpc_radix_4k", "s390", "sparc32", "mips64", "sparc64"),
)


def flags_of(pt: ptl.PageTable, va: int) -> set[str]:
    """The attributes of a leaf."""
    leaf = pt.lookup(va)
    assert leaf is not None
    return set(leaf.flags)


# -- collapse: holes and flags


class Pages:
    """A leaf table of `tiny`, with some of its four pages mapped to data, each full of its own number."""

    def __init__(self, pages: tuple[int, ...], flags: tuple[str, ...] = ()) -> None:
        self.frames = ptl.Frames(1 << 20, frame_bytes=PAGE, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable("tiny", frames=self.frames)
        self.pt.populate(0)
        for n, page in enumerate(pages):
            pa = self.frames.alloc()
            self.frames.view(pa, PAGE)[:] = bytes([page + 1]) * PAGE
            self.pt.map(page * PAGE, pa, flags=flags[n] if flags else "rw")
        self.run = self.frames.alloc(HUGE)
        self.frames.view(self.run, HUGE)[:] = b"?" * HUGE

    def contents(self) -> bytes:
        """The first byte of each page of the new frames, all of whose bytes must be the same."""
        firsts = []
        for page in range(4):
            text = bytes(self.frames.view(self.run + page * PAGE, PAGE))
            assert text == text[:1] * PAGE
            firsts.append(text[0])
        return bytes(firsts)


@pytest.mark.parametrize("pages", [(n,) for n in range(4)] + [(0, 3), (1, 2), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3)])
def test_holes_become_zero(pages: tuple[int, ...]) -> None:
    table = Pages(pages)
    holes = 4 - len(pages)
    for allowed in range(holes):
        assert table.pt.collapse(0, table.run, holes=allowed) is Outcome.NOT_FULL
        assert table.contents() == b"????"
        table.pt.check()
    assert table.pt.collapse(0, table.run, holes=holes) is Outcome.DONE
    assert table.contents() == bytes(page + 1 if page in pages else 0 for page in range(4))
    leaf = table.pt.lookup(0)
    assert leaf is not None
    assert (leaf.pa, leaf.size) == (table.run, HUGE)
    table.pt.check()


def test_a_table_of_holes_is_no_page() -> None:
    table = Pages(())
    for allowed in (0, 3, 4, 1 << 40):
        assert table.pt.collapse(0, table.run, holes=allowed) is Outcome.NOT_FULL
    assert table.pt.retract(0) is Outcome.DONE


def test_holes_need_frames_of_their_own() -> None:
    table = Pages((0,))
    with pytest.raises(ValueError, match="holes need pa"):
        table.pt.collapse(0, holes=1)
    with pytest.raises(ValueError, match="holes"):
        table.pt.collapse(0, table.run, holes=-1)
    with pytest.raises(TypeError, match="holes"):
        table.pt.collapse(0, table.run, holes=1.0)
    table.pt.check()


@pytest.mark.parametrize("size", [HUGE, PAGE], ids=["huge", "page"])
def test_holes_of_a_table_of_huge_leaves_can_be_split(size: int) -> None:
    """The giant leaf parks the tables of its holes too: however full the frames are, it can be split to pages."""
    frames = ptl.Frames(1 << 20, frame_bytes=32, domain=ptl.EpochDomain())
    pt = ptl.PageTable("tiny", frames=frames)
    pt.map(0, 0x10_0000, HUGE, page_size=HUGE)
    pt.map(3 * HUGE, 0x20_0000, HUGE, page_size=HUGE)
    assert pt.collapse(0, 0x30_0000, level=3, holes=2) is Outcome.DONE
    pt.check()
    assert pt.split(0, size) is Outcome.DONE
    pt.check()
    assert all(pt.translate(va) == 0x30_0000 + va for va in range(0, GIANT, PAGE))
    pt.unmap(0, GIANT)
    assert frames.stats()["parked"] == 0


def test_a_table_is_parked_for_each_hole_that_is_there_and_no_more() -> None:
    frames = ptl.Frames(7 * 32, frame_bytes=32, domain=ptl.EpochDomain())
    pt = ptl.PageTable("tiny", frames=frames)
    pt.map(0, 0x10_0000, 3 * HUGE, page_size=HUGE)  # room is left for one hole, and three are allowed
    assert pt.collapse(0, 0x30_0000, level=3, holes=3) is Outcome.DONE
    pt.check()


def test_without_room_to_park_for_holes_there_is_no_collapse() -> None:
    """Two holes need a table each, beside the one of the giant leaf itself."""
    for room in range(4):
        held = 2 + 2  # two tables, and two that are parked
        frames = ptl.Frames((held + room) * 32, frame_bytes=32, domain=ptl.EpochDomain())
        pt = ptl.PageTable("tiny", frames=frames)
        pt.map(0, 0x10_0000, 2 * HUGE, page_size=HUGE)
        before = pt.dump(), frames.stats()["tables"], frames.stats()["parked"]
        if room < 3:
            with pytest.raises(ptl.OutOfFrames, match="nothing was changed"):
                pt.collapse(0, 0x30_0000, level=3, holes=2)
            assert (pt.dump(), frames.stats()["tables"], frames.stats()["parked"]) == before
        else:
            assert pt.collapse(0, 0x30_0000, level=3, holes=2) is Outcome.DONE
        pt.check()


@pytest.mark.parametrize("given", ["r", "rw", "rx", "rwxug", "rwd", "rwa"])
@pytest.mark.parametrize("own", ["rw", "r", "rxu", "rwa", "rwd", "rwad"])
def test_flags_that_are_given_need_not_agree(own: str, given: str) -> None:
    """Permissions are those given; accessed and dirty are set when any page had them, or when they are given."""
    table = Pages((0, 1, 2, 3), ("rw", own, "rw", "rx"))
    assert table.pt.collapse(0, table.run) is Outcome.MIXED_FLAGS
    assert table.pt.collapse(0, table.run, flags=given) is Outcome.DONE
    assert flags_of(table.pt, 0) == {"r"} | set(given) | set(own) & set("ad")


@pytest.mark.parametrize("arch", FORMATS)
def test_flags_are_given_in_place_too(arch: str) -> None:
    pt = ptl.PageTable(arch)
    page, span = pt.arch.page_sizes[0], pt.arch.level(2).span
    pt.map(0, span, span, "rw", page_size=page)
    pt.protect(page, page, "rx")
    assert pt.collapse(0) is Outcome.MIXED_FLAGS
    assert pt.collapse(0, flags="rwxd") is Outcome.DONE
    assert flags_of(pt, 5) == set(pt.arch.attributes("rwxd"))
    assert pt.translate(span - 1) == 2 * span - 1
    pt.check()


def test_flags_of_a_collapse_are_letters() -> None:
    table = Pages((0, 1, 2, 3))
    with pytest.raises(ptl.FormatError):
        table.pt.collapse(0, table.run, flags="rwq")
    with pytest.raises(TypeError, match="flags"):
        table.pt.collapse(0, table.run, flags=3)
    table.pt.check()


# -- split: to any smaller size

SPLITS = [
    (name, size, into)
    for name in FORMATS
    for size in ptl.arch.get(name).page_sizes
    for into in (None, *ptl.arch.get(name).page_sizes)
    if into is None or into < size
]


@pytest.mark.parametrize(("arch", "size", "into"), SPLITS)
def test_a_split_makes_leaves_of_one_size(arch: str, size: int, into: int | None) -> None:
    pt = ptl.PageTable(arch)
    sizes = pt.arch.page_sizes
    if size == sizes[0]:
        pt.map(0, size, size)
        assert pt.split(0) is Outcome.NOT_HUGE
        return
    target = into or max(smaller for smaller in sizes if smaller < size)
    flags = pt.arch.attributes("rwua")
    pt.map(size, 2 * size, size, flags, page_size=size)
    parked, tables = pt.frames.stats()["parked"], pt.stats()["tables"]
    assert pt.split(size + size // 2 + 5, into) is Outcome.DONE
    made = sum(
        size // pt.arch.level(n + 1).span
        for n in range(1, pt.arch.levels)
        if target < pt.arch.level(n + 1).span <= size
    )
    assert pt.stats()["tables"] == tables + made
    assert pt.frames.stats()["parked"] == parked - made
    for offset in sorted({0, target - 1, target, size // 2, size - target, size - 1}):
        leaf = pt.lookup(size + offset)
        assert leaf is not None
        assert (leaf.size, leaf.va + offset % target) == (target, size + offset)
        assert (leaf.pa + offset % target, leaf.flags) == (2 * size + offset, flags)
    assert pt.lookup(size - 1) is pt.lookup(2 * size) is None
    pt.check()
    assert pt.unmap(size, size) == size
    pt.check()


@pytest.mark.parametrize("arch", FORMATS)
def test_a_split_to_what_it_is_has_been_done(arch: str) -> None:
    pt = ptl.PageTable(arch)
    small, huge, *_ = pt.arch.page_sizes
    pt.map(0, 0, small)
    pt.map(huge, huge, huge)
    assert pt.split(0, small) is Outcome.ALREADY
    assert pt.split(0, huge) is Outcome.ALREADY
    assert pt.split(huge, huge) is Outcome.ALREADY
    assert pt.split(2 * huge, small) is Outcome.NOT_HUGE
    for size in (0, 3 * small, 2 * huge):
        with pytest.raises(AddressError, match="has no pages of"):
            pt.split(huge, size)
    with pytest.raises(TypeError):
        pt.split(huge, 1.0)
    assert pt.pmd(huge).state is State.HUGE
    pt.check()


# -- software's entry in place of a huge leaf

HUGE_SIZES = [(name, size) for name in FORMATS for size in ptl.arch.get(name).page_sizes[1:]]
EACH_HUGE_SIZE = pytest.mark.parametrize(("arch", "size"), HUGE_SIZES)


class Migrating:
    """A huge leaf, and software's entry to put in its place."""

    def __init__(self, arch: str, size: int) -> None:
        self.pt = ptl.PageTable(arch)
        self.arch, self.size, self.va, self.pa = self.pt.arch, size, size, 2 * size
        self.level = next(n for n in range(2, self.arch.levels + 1) if self.arch.level(n).span == size)
        self.pt.map(self.va, self.pa, size, page_size=size)
        self.leaf = self.raw
        self.soft = self.arch.encode_soft(2, 0x300, self.level)
        self.parked = self.pt.frames.stats()["parked"]

    @property
    def raw(self) -> int:
        return self.slot.load()

    @property
    def slot(self) -> ptl.Slot:
        slot = self.pt.slot(self.va, self.level)
        assert slot is not None
        return slot

    def leave(self) -> None:
        assert self.pt.exchange(self.va, self.soft) == self.leaf
        assert self.slot.state is State.SOFT

    def span(self, va: int) -> int:
        """The bytes that the entry which decides about an address covers."""
        return self.arch.level(self.pt.walk(va).steps[-1].level).span

    def offset(self, va: int) -> int:
        """Of software's entry that stands for an address."""
        *_, step = self.pt.walk(va).steps
        assert step.state is State.SOFT
        soft = self.arch.decode_soft(step.raw, step.level)
        assert soft == SoftEntry(2, soft.offset)
        return soft.offset


@EACH_HUGE_SIZE
def test_a_huge_page_leaves_and_comes_back(arch: str, size: int) -> None:
    """By compare-exchange, both ways; its parked tables stay with it."""
    page = Migrating(arch, size)
    assert page.pt.compare_exchange(page.va + 5, page.leaf, page.soft) is True
    assert page.pt.compare_exchange(page.va, page.leaf, page.soft) is False
    assert page.slot.state is State.SOFT
    assert page.pt.frames.stats()["parked"] == page.parked
    page.pt.check()
    back = page.arch.encode(4 * size, "rw", page.level)
    assert page.pt.compare_exchange(page.va + size - 1, page.soft, back, level=page.level) is True
    assert page.pt.translate(page.va + 5) == 4 * size + 5
    page.pt.check()
    assert page.pt.unmap(page.va, size) == size
    assert page.pt.frames.stats()["parked"] == 0


@EACH_HUGE_SIZE
def test_nothing_is_mapped_where_a_huge_page_has_left(arch: str, size: int) -> None:
    page = Migrating(arch, size)
    page.leave()
    pt, va = page.pt, page.va
    with pytest.raises(PageFault) as fault:
        pt.translate(va + 5)
    assert (fault.value.level, fault.value.state) == (page.level, State.SOFT)
    assert pt.lookup(va) is None
    for name in ("pte_map", "pte_map_ro", "pte_map_rw", "pte_map_lock", "pte_alloc_map", "pte_alloc_map_lock"):
        assert getattr(pt, name)(va) is None
    for call in (pt.pte_kernel, pt.pte_alloc_huge, lambda va: pt.test_and_clear(va, "w")):
        with pytest.raises(PageFault):
            call(va)
    assert pt.populate(va) is Outcome.IS_SOFT
    assert pt.retract(va, level=page.level) is Outcome.IS_SOFT
    assert pt.collapse(va, level=page.level) is Outcome.IS_SOFT
    assert pt.protect(va, size, "r") == 0
    assert pt.protect(va, page.arch.page_sizes[0], "r") == 0
    with pytest.raises(ptl.AlreadyMapped, match="SOFT"):
        pt.map(va, 0)
    with pytest.raises(ptl.AlreadyMapped, match="SOFT"):
        pt.map(va, 0, size)
    assert page.raw == page.soft
    pt.check()


@pytest.mark.parametrize(("arch", "size", "into"), [case for case in SPLITS if case[:2] in HUGE_SIZES])
def test_software_s_entry_is_split_with_offsets_counted(arch: str, size: int, into: int | None) -> None:
    """As the kernel splits a huge migration entry: each smaller one says which of the pages it stands for."""
    page = Migrating(arch, size)
    page.leave()
    target = into or max(smaller for smaller in page.arch.page_sizes if smaller < size)
    smallest = page.arch.page_sizes[0]
    assert page.pt.split(page.va + size // 2, into) is Outcome.DONE
    for offset in (0, target, size // 2, size - smallest):
        assert page.span(page.va + offset) == target
        assert page.offset(page.va + offset) == 0x300 + (offset - offset % target) // smallest
    page.pt.check()
    assert page.pt.unmap(page.va, size) == size
    page.pt.check()
    assert page.pt.frames.stats()["parked"] == 0


@EACH_HUGE_SIZE
def test_a_part_of_a_huge_page_that_has_left(arch: str, size: int) -> None:
    """What cuts software's huge entry splits it; the rest stays what it was."""
    for cut in ("unmap", "map", "map the largest"):
        page = Migrating(arch, size)
        page.leave()
        smaller, smallest = max(other for other in page.arch.page_sizes if other < size), page.arch.page_sizes[0]
        length = smaller if cut == "map the largest" else smallest
        if cut == "unmap":
            assert page.pt.unmap(page.va + smaller, length) == length
            assert page.pt.walk(page.va + smaller).steps[-1].state is State.EMPTY
        else:
            page.pt.map(page.va + smaller, 4 * size, length, replace=True)
            assert page.pt.lookup(page.va + smaller).pa == 4 * size
            assert page.pt.lookup(page.va + smaller).size == length
        assert page.offset(page.va) == 0x300
        last = page.span(page.va + size - smallest)
        assert page.offset(page.va + size - last) == 0x300 + (size - last) // smallest
        page.pt.check()


@EACH_HUGE_SIZE
def test_a_huge_page_that_has_left_is_replaced(arch: str, size: int) -> None:
    page = Migrating(arch, size)
    page.leave()
    page.pt.map(page.va, 4 * size, size, replace=True)
    assert page.pt.lookup(page.va).size == size
    assert page.pt.frames.stats()["parked"] == page.parked
    page.pt.check()


@EACH_HUGE_SIZE
def test_tables_that_are_dropped_give_back_what_they_had_parked(arch: str, size: int) -> None:
    """A tree that ends with software's huge entries in it, too."""
    frames = ptl.Frames(64 << 20, domain=ptl.EpochDomain())
    pt = ptl.PageTable(arch, frames=frames)
    put_soft(pt, size, size, 9)
    assert frames.stats()["parked"] > 0
    del pt
    assert (frames.stats()["parked"], frames.stats()["tables"]) == (0, 0)


def test_software_s_entry_of_a_giant_page_collapses_with_nothing() -> None:
    """Neither as one of four, nor under a leaf that would take its place."""
    pt = ptl.PageTable("tiny")
    pt.map(0, 0, GIANT, page_size=HUGE)
    pt.exchange(HUGE, pt.arch.encode_soft(1, 5))
    assert pt.collapse(0, level=3) is Outcome.IS_SOFT
    assert pt.collapse(0, GIANT, level=3, holes=4) is Outcome.IS_SOFT
    pt.check()


# -- no other edge

Call = Callable[[], object]
Edge = tuple[State, State]
E, T, H, S, B = State.EMPTY, State.TABLE, State.HUGE, State.SOFT, State.BAD

POPULATES = {"populate", "pte_alloc_map", "pte_alloc_map_lock", "locked_pte", "pte_alloc_huge"}
MAPS = {"pte_map", "pte_map_rw", "pte_map_lock", "pte_alloc_map", "pte_alloc_map_lock", "locked_pte"}
CUTS = {"unmap", "protect", "map over", "move away", "gather"}

UPPER_EDGES: dict[Edge, set[str]] = {
    (E, T): {"map", "map over", "move here", *POPULATES},
    (E, H): {"map", "map over", "move here"},
    (E, S): {"move here"},
    (T, E): {"retract", "reclaim_empty", "unmap", "gather", "move away"},
    (T, H): {"collapse", "map", "map over", "move here"},
    (T, S): {"move here"},
    (H, T): {"split", *CUTS},
    (H, E): {"unmap", "gather", "move away"},
    (H, S): {"exchange", "compare_exchange"},
    (S, T): {"split", *CUTS} - {"protect"},
    (S, E): {"unmap", "gather", "move away"},
    (S, H): {"exchange", "compare_exchange", "map over"},
    (B, E): {"unmap", "gather", *MAPS},
    (B, T): {"map over"},
    (B, H): {"map over"},
}
"""On a level above the leaf tables: what a slot may become by one call, and by which. T to H goes through BUSY, H to T
through INVALID, for as long as the call takes. A map and a move without more need the table to be empty."""

ENTRY = {"exchange", "compare_exchange", "entry"}
LEAF_EDGES: dict[Edge, set[str]] = {
    (E, H): {"map", "map over", "move here", *ENTRY},
    (E, S): {"move here", *ENTRY},
    (H, E): {"unmap", "gather", "move away", *ENTRY},
    (H, S): ENTRY,
    (S, E): {"unmap", "gather", "move away", *ENTRY},
    (S, H): {"map over", *ENTRY},
    (B, E): {"unmap", "gather", *ENTRY},
    (B, H): {"map over", *ENTRY},
    (B, S): ENTRY,
}
"""In a leaf table, where an entry is a page, nothing, or software's."""

STATES: dict[int, tuple[Layout, ...]] = {
    1: (".", "L", "S", "B"),
    2: (".", "L", "S", "B", (".", "."), ("L", "."), ("L", "L"), ("L", "S")),
    3: (".", "L", "S", "B", (".", "."), ((".", "."), "."), ("L", "L"), (("L", "."), "L"), (("L", "L"), "S")),
}
"""What a slot of `BINARY` may hold."""

VA = 0x4000
"""The upper half of its addresses; the lower one is for what is moved there, or comes from there."""
FRAMES = ptl.Frames(1 << 20, frame_bytes=32, domain=ptl.EpochDomain())


def bad_entry(level: int) -> int:
    """Present, and nothing that the format defines: not aligned, or on level 1 a bit of the levels above."""
    raw = BINARY.encode(0, "rw", level) | (1 << 5 if level > 1 else 0)
    raw = raw if level > 1 else BINARY.encode(0, "rw", 2) & ~1
    assert BINARY.decode(raw, level).state is B
    return raw


class Scene:
    """A table in which the slot of VA on some level holds something."""

    def __init__(self, level: int, what: Layout) -> None:
        self.level, self.size = level, BINARY.level(level).span
        self.pt = ptl.PageTable(BINARY, frames=FRAMES)
        if level < 3:
            self.pt.populate(VA)
        if level == 2:
            self.pt.retract(VA)
        if what == "B":
            cell = self.cell()
            cell[0] = bad_entry(level)
        else:
            build(self.pt, what, level, VA)
        self.cpu = Tlb(sets=1, ways=16)
        self.cpu.attach(self.pt)
        for va in range(0, 2 * VA, PAGE):
            self.uses(va)

    def uses(self, va: int) -> int | None:
        """The physical address that the CPU uses."""
        try:
            return self.cpu.translate(self.pt, va)
        except PageFault:
            return None

    def nothing_is_stale(self) -> None:
        """The CPU uses what the table says, and remembers nothing else."""
        self.cpu.verify()
        for va in range(0, 2 * VA, PAGE):
            leaf = self.pt.lookup(va)
            assert self.uses(va) == (None if leaf is None else leaf.pa + va - leaf.va)

    def cell(self) -> memoryview:
        """The entry itself, to be written behind the table's back."""
        step = next(step for step in self.pt.walk(VA).steps if step.level == self.level)
        return FRAMES.view(step.table_pa + 8 * step.index, 8).cast("Q")

    @property
    def state(self) -> State | None:
        """What the slot holds; None when the table that held it has gone."""
        slot = self.pt.slot(VA, self.level)
        return None if slot is None else slot.state


def entries_of(level: int) -> dict[str, int]:
    """An entry of every kind, for any level."""
    geometry = BINARY.level(level)
    leaf = BINARY.encode(0x10_0000, "rw", level)
    kinds = {
        "empty": geometry.empty,
        "leaf": leaf,
        "soft": BINARY.encode_soft(1, 1),
        "bad": bad_entry(level),
        "frozen": leaf | BINARY.level(1).word.frozen_present,
    }
    if level > 1:
        kinds |= {"table": 1 | 0x40, "busy": geometry.busy, "invalid": leaf & ~geometry.invalid_clear}
    return kinds


def calls(scene: Scene) -> Iterator[tuple[str, Call]]:
    """Every public call that could have to do with the slot, by the name of what it does."""
    pt, size, half = scene.pt, scene.size, max(PAGE, scene.size // 2)
    ranges = {(VA, size), (VA, PAGE), (VA, half), (VA + size - half, half)}
    other = 0x10_0000
    yield "read", lambda: pt.translate(VA)
    yield "read", lambda: pt.lookup(VA)
    yield "read", lambda: pt.walk(VA).leaf
    yield "read", pt.dump
    yield "read", lambda: scene.cpu.translate(pt, VA, "w")
    yield "read", lambda: pt.test_and_clear(VA, "w")
    for va, length in ranges:
        for flags in ("rw", "rx"):
            yield "protect", lambda va=va, length=length, flags=flags: pt.protect(va, length, flags)
        yield "unmap", lambda va=va, length=length: pt.unmap(va, length)
        yield "gather", lambda va=va, length=length: MmuGather(pt).__enter__().unmap(va, length)
        yield "gather", lambda va=va, length=length: MmuGather(pt).__enter__().protect(va, length, "rx")
        yield "reclaim_empty", lambda va=va, length=length: pt.reclaim_empty(va, length)
        for pa in (other, other + PAGE):
            for page in (None, *BINARY.page_sizes):
                for name in ("map", "map over"):
                    yield (
                        name,
                        lambda va=va, pa=pa, length=length, page=page, name=name: pt.map(
                            va, pa, length, page_size=page, replace=name == "map over"
                        ),
                    )
        for there in (0, PAGE, half):
            if there + length <= VA:
                yield "move away", lambda va=va, there=there, length=length: pt.move(va, there, length)
                for what in ("pages", "a leaf", "software's"):
                    yield (
                        "move here",
                        lambda va=va, there=there, length=length, what=what: (
                            put(scene, what),
                            pt.move(there, va, length),
                        ),
                    )
    for level in range(1, 4):
        for raw in entries_of(level).values():
            yield "exchange", lambda raw=raw: pt.exchange(VA, raw)
            yield "compare_exchange", lambda raw=raw: pt.compare_exchange(VA, pt.walk(VA).steps[-1].raw, raw)
            for name in ("pte_map", "pte_map_rw", "pte_map_lock", "pte_kernel", "pte_huge"):
                if scene.level == 1:
                    yield "entry", lambda raw=raw, name=name: change_entry(getattr(pt, name)(VA), raw)
    for name in sorted(MAPS | {"pte_map_ro"}):
        yield name, lambda name=name: close(getattr(pt, name)(VA))
    for name in ("pte_kernel", "pte_huge", "pte_alloc_huge", "populate", "pmd"):
        yield name, lambda name=name: getattr(pt, name)(VA)
    for level in (2, 3):
        yield "retract", lambda level=level: pt.retract(VA, level=level)
        for pa in (None, other):
            for holes in (0, 2) if pa else (0,):
                yield (
                    "collapse",
                    lambda level=level, pa=pa, holes=holes: pt.collapse(VA, pa, level=level, holes=holes, flags="rw"),
                )
    yield "collapse", lambda: ptl.collapse.collapse_pages(pt, VA, "rw")
    for page in (None, *BINARY.page_sizes):
        yield "split", lambda page=page: pt.split(VA, page)
    for level in (1, 2, 3):
        yield "lock", lambda level=level: close(pt.slot(VA, level) and pt.slot(VA, level).lock())


def put(scene: Scene, what: str) -> None:
    """Something to move to the slot, at address 0."""
    if what == "software's":
        put_soft(scene.pt, 0, scene.size, 4)
    else:
        scene.pt.map(0, 0x10_0000, VA, page_size=PAGE if what == "pages" else None)


def change_entry(ptes: ptl.PteMap, raw: int) -> None:
    with ptes:
        ptes.compare_exchange(ptes.index, ptes.load(ptes.index), raw)


def close(handle: ptl.PteMap | None) -> None:
    if handle is not None:
        handle.close()


REFUSALS = (ValueError, LookupError, TypeError, MemoryError)
"""What a call raises that is refused; TypeError where there is no handle to use."""


@pytest.mark.parametrize(("levels", "legal"), [((1,), LEAF_EDGES), ((2, 3), UPPER_EDGES)], ids=["pages", "upper"])
def test_a_slot_takes_no_other_edge(levels: tuple[int, ...], legal: dict[Edge, set[str]]) -> None:
    """Every state of a slot, then every call: what became of it must be an edge of that call; and all edges occur.

    A CPU that had used every page before uses none of what the call took away.
    """
    taken: dict[Edge, set[str]] = {}
    scenes = [(level, what) for level in levels for what in STATES[level]]
    for case in scenes:
        for number in range(sum(1 for _ in calls(Scene(*case)))):
            scene = Scene(*case)
            name, call = next(itertools.islice(calls(scene), number, None))
            before = scene.state
            assert before is not None
            refusal = None
            try:
                call()
            except REFUSALS as error:
                refusal = error
            after = scene.state
            if after is not None and after is not before:
                taken.setdefault((before, after), set()).add(name)
                assert refusal is None, f"{name} raised {refusal!r}, and made {after.name} of {case}"
            if after is B:
                scene.cell()[0] = BINARY.level(scene.level).empty
            scene.pt.check()
            scene.nothing_is_stale()
    assert taken == legal
