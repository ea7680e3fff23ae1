"""The promise: every byte of a block of frames is a table's, somebody's data, or free, and never two of these.

`alloc` returns zeroed bytes, aligned to their length rounded up to a power of two of frames, that overlap nothing; what
every owner has freed can be had again, and in the end as large as it was at the beginning. Whatever the block is made
of, the bytes of the tables in it are those that the hardware would read.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import ptl
from helpers import SANITIZERS, Crew
from ptl import Outcome, OutOfFrames
from reference import contents

pytestmark = pytest.mark.under_stress

DOMAIN = ptl.EpochDomain()
FRAME = 64
"""Small, so that a block of few bytes has many frames; and a table of `tiny` fits into one."""


def rounded(length: int) -> int:
    """What `alloc` makes of a length."""
    return max(FRAME, 1 << (length - 1).bit_length())


class Run(NamedTuple):
    """What was allocated, the byte that it was filled with, and how many owners it has."""

    pa: int
    length: int
    byte: int
    owners: int = 1


class Allocation(RuleBasedStateMachine):
    """Runs of frames and tables come and go; the model is a list of intervals."""

    runs: list[Run]
    tables: list[ptl.PageTable]

    @initialize(frames=st.integers(1, 96), skip=st.integers(0, 40))
    def begin(self, frames, skip):
        """A block of any size, that begins anywhere in physical memory."""
        self.frames = ptl.Frames(frames * FRAME, base=skip * FRAME, frame_bytes=FRAME, domain=DOMAIN)
        self.runs, self.tables, self.turn = [], [], 0

    def is_free(self, pa: int, size: int) -> bool:
        """Whether nobody has any of these bytes."""
        used = [(run.pa, rounded(run.length)) for run in self.runs] + [(pt.root, FRAME) for pt in self.tables]
        return all(pa + size <= start or start + length <= pa for start, length in used)

    @rule(length=st.one_of(st.integers(1, 8 * FRAME), st.sampled_from([FRAME << n for n in range(7)])))
    def alloc(self, length):
        before = self.frames.stats()
        try:
            pa = self.frames.alloc(length)
        except OutOfFrames:
            assert self.frames.stats() == before
            return
        size = rounded(length)
        assert pa % size == 0
        assert self.is_free(pa, size)
        view = self.frames.view(pa, size)
        assert bytes(view) == bytes(size)
        self.turn = self.turn % 255 + 1
        view[:] = bytes([self.turn]) * size
        self.runs.append(Run(pa, length, self.turn))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def free(self, data):
        """One owner less; with the last the run is gone."""
        run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        self.frames.free(run.pa, run.length)
        if run.owners > 1:
            self.runs.append(run._replace(owners=run.owners - 1))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def share(self, data):
        i = data.draw(st.integers(0, len(self.runs) - 1))
        self.frames.share(self.runs[i].pa, self.runs[i].length)
        self.runs[i] = self.runs[i]._replace(owners=self.runs[i].owners + 1)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), parts=st.integers(0, 3))
    def split(self, data, parts):
        """Each part is a run by itself, with as many owners."""
        run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        size = rounded(run.length)
        into = max(FRAME, size >> parts)
        self.frames.split(run.pa, size, into)
        self.runs += [run._replace(pa=pa, length=into) for pa in range(run.pa, run.pa + size, into)]

    @rule()
    def take_a_table(self):
        try:
            pt = ptl.PageTable("tiny", frames=self.frames)
        except OutOfFrames:
            return
        assert self.is_free(pt.root, FRAME)
        self.tables.append(pt)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def drop_a_table(self, data):
        self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))

    @invariant()
    def bytes_and_counters_agree(self):
        for run in self.runs:
            assert bytes(self.frames.view(run.pa, rounded(run.length))) == bytes([run.byte]) * rounded(run.length)
            assert self.frames.owners(run.pa) == run.owners
        stats = self.frames.stats()
        assert stats["data_frames"] == sum(rounded(run.length) for run in self.runs) // FRAME
        assert stats["tables"] == len(self.tables)
        assert stats["tables"] + stats["free_tables"] + stats["data_frames"] <= stats["frames"]


Allocation.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAllocation = Allocation.TestCase


# -- as large as it was

LENGTHS = st.lists(st.integers(1, 16 * FRAME), min_size=1, max_size=40)


def come_and_go(frames: ptl.Frames, lengths: list[int], order: list[int]) -> None:
    """Allocate as many of these as fit, and free them in another order."""
    runs = []
    for length in lengths:
        try:
            runs.append((frames.alloc(length), length))
        except OutOfFrames:
            break
    for key in order:
        if runs:
            frames.free(*runs.pop(key % len(runs)))
    for run in runs:
        frames.free(*run)
    assert frames.stats()["data_frames"] == 0


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, order=st.lists(st.integers(0, 99), max_size=40))
def test_buddies_meet_again(lengths, order):
    """A block that was one run of data is one again, in whatever order its parts come back."""
    frames = ptl.Frames(64 * FRAME, base=64 * FRAME, frame_bytes=FRAME)
    frames.free(frames.alloc(64 * FRAME), 64 * FRAME)
    come_and_go(frames, lengths, order)
    assert frames.alloc(64 * FRAME) == 64 * FRAME


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, order=st.lists(st.integers(0, 99), max_size=40))
def test_a_block_is_whole_when_all_is_freed(lengths, order):
    """What could be had of a new block can be had of one whose data has all come back."""
    frames = ptl.Frames(64 * FRAME, base=64 * FRAME, frame_bytes=FRAME)
    come_and_go(frames, lengths, order)
    assert frames.alloc(64 * FRAME) == 64 * FRAME


def test_a_fragmented_block():
    """Every second frame is free: single frames can be had, and nothing longer; then the others come back."""
    frames = ptl.Frames(16 * FRAME, frame_bytes=FRAME)
    runs = sorted(frames.alloc(FRAME) for _ in range(16))
    assert runs == list(range(0, 16 * FRAME, FRAME))
    with pytest.raises(OutOfFrames):
        frames.alloc(FRAME)
    for pa in runs[::2]:
        frames.free(pa, FRAME)
    with pytest.raises(OutOfFrames):
        frames.alloc(FRAME + 1)
    assert sorted(frames.alloc(FRAME) for _ in range(8)) == runs[::2]
    for pa in runs:
        frames.free(pa, FRAME)
    for size in (8 * FRAME, 8 * FRAME):
        frames.alloc(size)


@pytest.mark.parametrize("mebibytes", [1, 2, 3, 4, 8, 16])
def test_a_frame_of_data_leaves_room_for_tables(mebibytes):
    """However the block is divided, one frame of data does not take what a table needs."""
    frames = ptl.Frames(mebibytes << 20, domain=DOMAIN)
    frames.alloc()
    pt = ptl.PageTable("x86_64", frames=frames)
    pt.map(0, 0)
    assert pt.stats()["tables"] == 4


def test_a_table_that_was_is_not_data():
    """Memory that has held a table is only ever a table again."""
    frames = ptl.Frames(16 * FRAME, frame_bytes=FRAME, domain=DOMAIN)
    tables = [ptl.PageTable("tiny", frames=frames) for _ in range(10)]
    roots = {pt.root for pt in tables}
    tables.clear()
    data = {frames.alloc() for _ in range(16 - 10)}
    assert data.isdisjoint(roots)
    with pytest.raises(OutOfFrames):
        frames.alloc()
    tables = [ptl.PageTable("tiny", frames=frames) for _ in range(10)]
    assert {pt.root for pt in tables} == roots


# -- owners


@pytest.fixture
def frames() -> ptl.Frames:
    return ptl.Frames(64 * FRAME, base=64 * FRAME, frame_bytes=FRAME, domain=DOMAIN)


def test_what_is_shared_is_free_when_every_owner_has_freed_it(frames):
    pa = frames.alloc(3 * FRAME)
    assert frames.owners(pa) == 1
    for owners in (2, 3):
        frames.share(pa, 3 * FRAME)
        assert frames.owners(pa) == owners
    frames.view(pa, 1)[:] = b"x"
    for owners in (2, 1, 0):
        assert bytes(frames.view(pa, 1)) == b"x"
        frames.free(pa, 4 * FRAME)  # what it was rounded up to is the same run
        assert frames.owners(pa) == owners
    assert frames.stats()["data_frames"] == 0
    with pytest.raises(ptl.AddressError, match="was not allocated"):
        frames.free(pa, 3 * FRAME)


def test_parts_of_a_run_have_its_owners(frames):
    pa = frames.alloc(8 * FRAME)
    frames.share(pa, 8 * FRAME)
    frames.split(pa, 8 * FRAME, 8 * FRAME)
    assert frames.owners(pa) == 2
    frames.split(pa, 8 * FRAME, 2 * FRAME)
    assert [frames.owners(pa + i * FRAME) for i in range(9)] == [2, 0] * 4 + [0]
    frames.free(pa + 2 * FRAME, 2 * FRAME)
    assert [frames.owners(pa + i * FRAME) for i in range(0, 8, 2)] == [2, 1, 2, 2]
    with pytest.raises(ptl.AddressError, match="was not allocated"):
        frames.free(pa, 8 * FRAME)
    for part in range(pa, pa + 8 * FRAME, 2 * FRAME):
        while frames.owners(part):
            frames.free(part, 2 * FRAME)
    assert frames.alloc(64 * FRAME) == 64 * FRAME


NOT_A_RUN = {
    "the middle of a run": lambda frames, pa: (pa + FRAME, FRAME),
    "a part of a run": lambda frames, pa: (pa, FRAME),
    "more than a run": lambda frames, pa: (pa, 8 * FRAME),
    "no frame": lambda frames, pa: (pa + 1, 4 * FRAME),
    "before the block": lambda frames, pa: (0, 4 * FRAME),
    "after the block": lambda frames, pa: (128 * FRAME, 4 * FRAME),
    "a table": lambda frames, pa: (ROOTS[0].root, FRAME),
    "longer than the block": lambda frames, pa: (pa, 1 << 40),
}
ROOTS: list[ptl.PageTable] = []


@pytest.mark.parametrize("run", NOT_A_RUN.values(), ids=NOT_A_RUN)
def test_only_a_run_has_owners(frames, run):
    """What `alloc` did not return is not shared, not split and not freed, and nothing changes."""
    ROOTS[:] = [ptl.PageTable("tiny", frames=frames)]
    pa = frames.alloc(4 * FRAME)
    before = frames.stats()
    first, length = run(frames, pa)
    for call in (
        lambda: frames.share(first, length),
        lambda: frames.free(first, length),
        lambda: frames.split(first, length, FRAME),
    ):
        with pytest.raises(ptl.AddressError):
            call()
        assert (frames.stats(), frames.owners(pa)) == (before, 1)
    assert frames.owners(first) == (1 if first == pa else 0)
    ROOTS.clear()


def test_a_run_is_split_into_less(frames):
    pa = frames.alloc(4 * FRAME)
    for into in (0, 8 * FRAME):
        with pytest.raises(ValueError, match="cannot be split"):
            frames.split(pa, 4 * FRAME, into)
    for wrong in (1.5, None, True):
        with pytest.raises(TypeError):
            frames.split(pa, 4 * FRAME, wrong)
    assert frames.owners(pa) == 1


def test_every_owner_is_counted_beside_others(frames):
    """Threads that share, free and look at one run: it is free exactly when all are done with it."""
    pa = frames.alloc(2 * FRAME)
    crew = Crew()

    def own() -> None:
        for _ in crew.turns(5000):
            frames.share(pa, 2 * FRAME)
            assert frames.owners(pa) >= 2
            frames.free(pa, 2 * FRAME)

    crew.run(own, own, own)
    assert frames.owners(pa) == 1
    frames.free(pa, 2 * FRAME)
    assert frames.stats()["data_frames"] == 0


# -- where the block begins


@pytest.mark.parametrize("name", ptl.arch.names())
@pytest.mark.parametrize(("base", "frame_bytes"), [(0, 4096), (0x3000, 4096), (0x1040, 64), (0x30, 16)])
def test_tables_are_aligned_in_physical_memory(name, base, frame_bytes):
    """To their own size, wherever the block begins and however small its frames are; so is data."""
    arch = ptl.arch.get(name)
    frames = ptl.Frames(1 << 20, base=base, frame_bytes=frame_bytes, domain=DOMAIN)
    pt = ptl.PageTable(arch, frames=frames)
    page, huge = (arch.level(number).span for number in (1, 2))
    pt.map(huge - page, 0, 2 * page)
    pt.map(2 * huge, 0, page)
    for va in (huge - page, huge, 2 * huge):
        for step in pt.walk(va).steps:
            assert step.table_pa % arch.table_bytes(step.level) == 0
            assert base <= step.table_pa <= base + frames.size - arch.table_bytes(step.level)
    for length in (frame_bytes, 4096, 3 * 4096):
        pa = frames.alloc(length)
        assert pa % (1 << (length - 1).bit_length()) == 0
        assert frames.view(pa, length).nbytes == length
    pt.check()


def test_a_block_at_the_end_of_physical_memory():
    frames = ptl.Frames(1 << 16, base=(1 << 52) - (1 << 16), domain=DOMAIN)
    pt = ptl.PageTable("x86_64", frames=frames)
    pa = frames.alloc(1 << 14)
    assert pa + (1 << 14) == 1 << 52
    pt.map(0, pa, 1 << 14)
    assert pt.translate((1 << 14) - 1) == (1 << 52) - 1
    pt.check()


# -- where a table may not lie


HIDING = [arch.name for arch in map(ptl.arch.get, ptl.arch.names()) if any(x.hides_table_at_0 for x in arch.layout)]
EACH_HIDING = pytest.mark.parametrize("name", HIDING)


def populated(pt: ptl.PageTable) -> set[int]:
    """Where ten tables of pages are."""
    vas = range(0, 10 * pt.arch.level(2).span, pt.arch.level(2).span)
    for va in vas:
        pt.populate(va)
    return {pt.walk(va).steps[-1].table_pa for va in vas}


def frames_for(arch: ptl.arch.Arch) -> ptl.Frames:
    """From address 0 on, with room for some tables, and frames as large as those of pages."""
    size = arch.table_bytes(1)
    return ptl.Frames(max(1 << 16, 64 * size), frame_bytes=size, domain=DOMAIN)


def test_some_formats_cannot_name_a_table_at_address_0():
    assert set(HIDING) == {"ia64", "m68k_coldfire", "m68k_sun3", "sparc64"}


@EACH_HIDING
def test_no_table_lies_where_an_entry_could_not_name_it(name):
    """Whoever had the first frame before; a root may lie there, which no entry names."""
    arch = ptl.arch.get(name)
    frames = frames_for(arch)
    pt = ptl.PageTable(arch, frames=frames)
    assert pt.root == 0
    assert 0 not in populated(pt)
    pt.check()
    del pt
    pt = ptl.PageTable(arch, frames=frames)
    assert 0 not in {pt.root, *populated(pt)}
    pt.check()


@EACH_HIDING
def test_a_frame_at_0_that_others_had_is_not_taken(name):
    arch = ptl.arch.get(name)
    frames = frames_for(arch)
    other, pt = ptl.PageTable("x86_64", frames=frames), ptl.PageTable(arch, frames=frames)
    assert other.root == 0
    del other  # which gives its root back
    assert 0 not in populated(pt)
    pt.check()
    frames = frames_for(arch)
    other, kept = ptl.PageTable(arch, frames=frames), ptl.PageTable("x86_64", frames=frames)
    del other
    pt = ptl.PageTable(arch, frames=frames)
    assert 0 not in {pt.root, *populated(pt)}
    kept.check()


def test_a_parked_table_at_0_stays_parked():
    """A huge leaf may be waiting for it, of whoever can name it; so there is no room for who could not."""
    frames = ptl.Frames(5 << 12, frame_bytes=1 << 12, domain=DOMAIN)
    others, pt = [ptl.PageTable("x86_64", frames=frames) for _ in range(2)], ptl.PageTable("i386", frames=frames)
    assert others[0].root == 0
    pt.map(0, 0, 2 << 22)
    del others[0], others[0]  # the frame at 0 first: so the other one is taken first
    pt.map(2 << 22, 0, 1 << 22)
    assert (frames.stats()["tables"], frames.stats()["parked"]) == (1, 3)
    with pytest.raises(OutOfFrames, match="for a table that is not at pa 0"):
        ptl.PageTable("m68k_coldfire", frames=frames)
    assert [pt.split(i << 22) for i in range(3)] == [Outcome.DONE] * 3
    assert 0 in {pt.walk(i << 22).steps[-1].table_pa for i in range(3)}
    pt.check()


def test_a_block_is_within_what_an_entry_can_name():
    """Of tables; leaves reach further."""
    for arch in map(ptl.arch.get, ptl.arch.names()):
        if arch.table_bits == arch.pa_bits:
            continue
        with pytest.raises(ValueError, match=f"is beyond the {arch.table_bits} bits that {arch.name} has"):
            ptl.PageTable(arch, frames=ptl.Frames(1 << 16, base=1 << arch.table_bits, domain=DOMAIN))
        frames = ptl.Frames(1 << 16, base=(1 << arch.table_bits) - (1 << 16), domain=DOMAIN)
        pt = ptl.PageTable(arch, frames=frames)
        page = arch.page_sizes[0]
        pt.map(0, (1 << arch.pa_bits) - page)
        assert pt.translate(page - 1) == (1 << arch.pa_bits) - 1
        pt.check()
    assert ptl.arch.get("mips32").table_bits == 29


# -- what the block is made of


SIZE = 1 << 20
GARBAGE = bytes(range(1, 256)) * (SIZE // 255 + 1)


@contextmanager
def a_file(tmp_path: Path) -> Iterator[tuple[object, Callable[[], bytes]]]:
    """A path that nothing is at yet."""
    path = tmp_path / "frames"
    yield path, path.read_bytes
    assert path.stat().st_mode & 0o777 == 0o600


@contextmanager
def a_longer_file(tmp_path: Path) -> Iterator[tuple[object, Callable[[], bytes]]]:
    """The path, as a string, of a file with something in it: beyond the block it stays as it is."""
    path = tmp_path / "frames"
    path.write_bytes(GARBAGE[:SIZE] + b"beyond")
    yield str(path), path.read_bytes
    assert path.read_bytes()[SIZE:] == b"beyond"


@contextmanager
def shared_memory(_: Path) -> Iterator[tuple[object, Callable[[], bytes]]]:
    """What another process can attach to by name."""
    memory = SharedMemory(create=True, size=SIZE)
    try:
        yield memory, lambda: bytes(memory.buf)
        memory.close()  # fails while anything is exported
    finally:
        memory.unlink()


@contextmanager
def a_bytearray(_: Path) -> Iterator[tuple[object, Callable[[], bytes]]]:
    """The part of one that begins on a multiple of 64, full of something."""
    buffer = bytearray(GARBAGE[:SIZE] + bytes(64))
    skip = -ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % 64
    view = memoryview(buffer)[skip:]
    yield view, lambda: bytes(buffer[skip:])
    view.release()  # fails while anything is exported


@contextmanager
def an_anonymous_map(_: Path) -> Iterator[tuple[object, Callable[[], bytes]]]:
    """Pages of the system's own."""
    pages = mmap.mmap(-1, SIZE)
    yield pages, lambda: pages[:]
    pages.close()  # fails while anything is exported


BACKINGS = (a_file, a_longer_file, shared_memory, a_bytearray, an_anonymous_map)


@pytest.mark.skipif("asan" in SANITIZERS, reason="looks at free tables, which are out of bounds in this build")
@pytest.mark.parametrize("backing", BACKINGS, ids=lambda backing: backing.__name__)
@pytest.mark.parametrize("name", ptl.arch.names())
def test_the_backing_holds_the_bits(backing, name, tmp_path):
    """Tables and data are to be read in the backing itself; and it is let go with the block."""
    with backing(tmp_path) as (memory, read):
        frames = ptl.Frames(SIZE, base=0x10000, backing=memory, domain=DOMAIN)
        pt = ptl.PageTable(name, frames=frames)
        page = pt.arch.page_sizes[0]
        pa, va = frames.alloc(page), 8 * page
        assert read()[pa - 0x10000 :][:page] == bytes(page)
        frames.view(pa, 5)[:] = b"hello"
        pt.map(va, pa)
        for step in pt.walk(va).steps:
            size = pt.arch.level(step.level).word.bytes
            at = step.table_pa - 0x10000 + step.index * size
            assert int.from_bytes(read()[at : at + size], pt.arch.byte_order) == step.raw
        assert read()[pt.translate(va) - 0x10000 :][:5] == b"hello"
        assert read()[:SIZE] == bytes(frames)
        pt.check()
        del pt, frames


@pytest.mark.parametrize("name", ptl.arch.names())
def test_tables_are_visible_and_changeable_in_the_view(name):
    """What a walk shows is in the bytes, and what hardware would set there is in the next walk."""
    pt = ptl.PageTable(name, frames=ptl.Frames(1 << 18, base=0x40000, domain=DOMAIN))
    pt.map(0, 0, flags="rw")
    root = pt.frames.view(pt.root, pt.arch.table_bytes(pt.arch.levels))
    top = pt.walk(0).steps[0]
    assert int.from_bytes(root[: pt.arch.level(top.level).word.bytes], pt.arch.byte_order) == top.raw
    leaf = pt.walk(0).steps[-1]
    view = pt.frames.view(leaf.table_pa + leaf.index * pt.arch.entry_bytes, pt.arch.entry_bytes)
    accessed = pt.arch.encode(0, "rwad")
    view[:] = accessed.to_bytes(pt.arch.entry_bytes, pt.arch.byte_order)
    assert pt.lookup(0).flags == pt.arch.attributes("rwad")
    assert pt.lookup(0).raw == accessed


def test_a_view_keeps_the_block():
    frames = ptl.Frames(1 << 16, domain=DOMAIN)
    view = frames.view(frames.alloc(), 4096)
    view[:4] = b"here"
    del frames
    assert bytes(view[:4]) == b"here"


def test_the_block_as_a_buffer():
    frames = ptl.Frames(1 << 16, base=1 << 20, domain=DOMAIN)
    with memoryview(frames) as view:
        assert (view.nbytes, view.readonly, view.format) == (1 << 16, False, "B")
        view[-1] = 7
    assert frames.view((1 << 20) + (1 << 16) - 1, 1)[0] == 7
    assert (frames.size, frames.base, frames.frame_bytes) == (1 << 16, 1 << 20, 4096)
    assert frames.view(1 << 20, 0).nbytes == 0


# -- shared by several tables


def tables_of_nothing(arch: ptl.arch.Arch) -> int:
    """How many tables a tree has besides its own, that empty slots name."""
    return sum(level.empty_is_table for level in arch.layout)


def test_tables_of_several_architectures_share_a_block():
    """Of different sizes, from 32 bytes to 4 KiB, side by side; each is what it would be alone, and all come back."""
    frames = ptl.Frames(1 << 22, base=0x5000, frame_bytes=32, domain=DOMAIN)
    alone = ptl.Frames(1 << 22, base=0x5000, frame_bytes=32, domain=DOMAIN)
    pts = {name: ptl.PageTable(name, frames=frames) for name in ptl.arch.names()}
    for turn in range(3):
        for pt in pts.values():
            page, huge = (pt.arch.level(number).span for number in (1, 2))
            pt.map(turn * page, 0, page)
            pt.map((turn + 1) * huge, huge, huge)
        for pt in pts.values():
            page, huge = (pt.arch.level(number).span for number in (1, 2))
            assert pt.unmap((turn + 1) * huge + page, page) == page
            pt.check()
    for name, pt in pts.items():
        page, huge = (pt.arch.level(number).span for number in (1, 2))
        twin = ptl.PageTable(name, frames=alone)
        for turn in range(3):
            twin.map(turn * page, 0, page)
            twin.map((turn + 1) * huge, huge, huge)
            twin.unmap((turn + 1) * huge + page, page)
        assert contents(pt) == contents(twin)
    needed = {name: pt.stats()["tables"] + tables_of_nothing(pt.arch) for name, pt in pts.items()}
    assert frames.stats()["tables"] == sum(needed.values())
    while pts:
        name, pt = pts.popitem()
        del pt
        needed.pop(name)
        assert frames.stats()["tables"] == sum(needed.values())
    assert frames.stats()["parked"] == 0
