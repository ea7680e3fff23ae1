"""One step of a collapser: each `ScanResult`, what it changed, and who owns which frames then.

`collapse_pages` looks at a leaf table, takes an aligned run of frames, copies the pages there and gives the old ones
back. Whatever it answers but COLLAPSED, nothing has changed.
"""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

import ptl
from helpers import Crew, going_on, linux_only
from ptl import State
from ptl.collapse import ScanResult, collapse_pages
from reference import contents

PAGE, SPAN, ENTRIES = 4096, 2 << 20, 512
VA = 3 * SPAN


class Region:
    """A leaf table of 512 entries, and data pages in some of them."""

    def __init__(self, arch: str = "x86_64", mebibytes: int = 32) -> None:
        self.frames = ptl.Frames(mebibytes << 20, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(arch, frames=self.frames)
        self.pt.populate(VA)
        self.pages: dict[int, int] = {}

    def fill(self, *pages: int, flags: str = "rw") -> None:
        """Map a fresh page, which says its number, in each of these entries."""
        for page in pages:
            self.pages[page] = self.frames.alloc()
            self.frames.view(self.pages[page], 2)[:] = page.to_bytes(2, "little")
            self.pt.map(VA + page * PAGE, self.pages[page], flags=flags)

    def swap_out(self, *pages: int) -> None:
        for page in pages:
            self.pt.exchange(VA + page * PAGE, self.pt.arch.encode_soft(1, page))

    def is_left_alone_as(self, result: ScanResult, **limits: int) -> None:
        """A collapse answers that, and changes nothing."""
        before = self.everything()
        assert collapse_pages(self.pt, VA + 5, "rw", **limits) is result
        assert self.everything() == before

    def everything(self) -> object:
        """What no failure changes."""
        stats = self.frames.stats()
        owners = [self.frames.owners(pa) for pa in self.pages.values()]
        return contents(self.pt), owners, stats["tables"], stats["parked"], stats["data_frames"], self.pt.check()


@pytest.fixture
def region() -> Region:
    return Region()


# -- collapsed


@pytest.mark.parametrize("arch", ["x86_64", "riscv_sv39", "i386_pae"])
def test_pages_become_one(arch: str) -> None:
    """In a run of their own, with the flags that are given; the pages are free again, and the holes are zero."""
    region = Region(arch)
    region.fill(*range(0, ENTRIES, 3), flags="rw")
    region.fill(1, flags="r")
    data = region.frames.stats()["data_frames"]
    assert collapse_pages(region.pt, VA + SPAN - 1, "rw") is ScanResult.COLLAPSED
    leaf = region.pt.lookup(VA)
    assert leaf is not None
    assert (leaf.size, set(leaf.flags) & set("rwxu")) == (SPAN, set(region.pt.arch.attributes("rw")) & set("rwxu"))
    assert region.frames.owners(leaf.pa) == 1
    for page in range(ENTRIES):
        text = bytes(region.frames.view(leaf.pa + page * PAGE, PAGE))
        assert text == (page.to_bytes(2, "little") if page in region.pages else b"").ljust(PAGE, b"\0")
    assert all(region.frames.owners(pa) == 0 for pa in region.pages.values())
    assert region.frames.stats()["data_frames"] == data - len(region.pages) + ENTRIES
    region.pt.check()
    region.frames.free(leaf.pa, SPAN)


def test_one_page_is_enough(region: Region) -> None:
    region.fill(77)
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED


def test_a_shared_page_keeps_its_other_owners(region: Region) -> None:
    """It is copied, and loses one owner: copy-on-write is over for this table."""
    region.fill(*range(ENTRIES))
    region.frames.share(region.pages[3])
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED
    assert [region.frames.owners(region.pages[page]) for page in (2, 3, 4)] == [0, 1, 0]
    assert bytes(region.frames.view(region.pages[3], 2)) == b"\3\0"
    region.frames.free(region.pages[3])


def test_accessed_and_dirty_are_collected(region: Region) -> None:
    region.fill(*range(ENTRIES))
    cpu = ptl.tlb.Tlb()
    cpu.attach(region.pt)
    cpu.read(region.pt, VA + 9 * PAGE, 1)
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED
    assert region.pt.lookup(VA).flags == "rwa"
    cpu.verify()


# -- left alone


def test_no_table(region: Region) -> None:
    region.pt.retract(VA)
    region.is_left_alone_as(ScanResult.NO_TABLE)
    region.pt.map(VA, 0, SPAN)
    region.pt.exchange(VA, region.pt.arch.encode_soft(1, 0))
    region.is_left_alone_as(ScanResult.NO_TABLE)


def test_already(region: Region) -> None:
    region.fill(*range(ENTRIES))
    assert collapse_pages(region.pt, VA, "rw")
    region.is_left_alone_as(ScanResult.ALREADY)
    region.pt.unmap(VA, SPAN)
    region.pt.map(0, 0, 1 << 30, page_size=1 << 30)
    region.is_left_alone_as(ScanResult.ALREADY)


def test_too_empty(region: Region) -> None:
    """With more holes than allowed; and always when there is nothing at all."""
    region.is_left_alone_as(ScanResult.TOO_EMPTY)
    region.is_left_alone_as(ScanResult.TOO_EMPTY, max_ptes_none=ENTRIES)
    region.fill(*range(ENTRIES - 2))
    for most in (0, 1):
        region.is_left_alone_as(ScanResult.TOO_EMPTY, max_ptes_none=most)
    assert collapse_pages(region.pt, VA, "rw", max_ptes_none=2) is ScanResult.COLLAPSED


def test_swapped(region: Region) -> None:
    """More than allowed is too much; others must be brought back first."""
    region.fill(*range(ENTRIES))
    region.swap_out(4, 5)
    for most in (0, 1):
        region.is_left_alone_as(ScanResult.TOO_SWAPPED, max_ptes_swap=most)
    region.is_left_alone_as(ScanResult.SWAPPED, max_ptes_swap=2)
    for page in (4, 5):
        region.pt.exchange(VA + page * PAGE, region.pt.arch.encode(region.pages[page], "rw"))
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED


def test_too_shared(region: Region) -> None:
    region.fill(*range(ENTRIES))
    for page in (4, 5):
        region.frames.share(region.pages[page])
    for most in (0, 1):
        region.is_left_alone_as(ScanResult.TOO_SHARED, max_ptes_shared=most)
    assert collapse_pages(region.pt, VA, "rw", max_ptes_shared=2) is ScanResult.COLLAPSED


def test_no_frames() -> None:
    """Neither a run for the contents, nor a table to park."""
    region = Region(mebibytes=4)
    region.fill(*range(ENTRIES))
    taken = [region.frames.alloc()]
    region.is_left_alone_as(ScanResult.NO_FRAMES)
    region.frames.free(taken.pop())
    with contextlib.suppress(ptl.OutOfFrames):
        while True:
            taken.append(region.frames.alloc())
    region.is_left_alone_as(ScanResult.NO_FRAMES)


@pytest.mark.parametrize("what", ["outside", "a table's frame", "inside a run", "freed", "bad"])
def test_bad(region: Region, what: str) -> None:
    """What is no page that was allocated by itself could not be given back."""
    region.fill(*range(ENTRIES))
    run = region.frames.alloc(2 * PAGE)
    region.frames.free(last := region.frames.alloc())
    entry = {
        "outside": region.pt.arch.encode(region.frames.size, "rw"),
        "a table's frame": region.pt.arch.encode(region.pt.root, "rw"),
        "inside a run": region.pt.arch.encode(run + PAGE, "rw"),
        "freed": region.pt.arch.encode(last, "rw"),
        "bad": region.pt.arch.encode_soft(1, 1) | 1 << 8,
    }[what]
    step = region.pt.walk(VA + 8 * PAGE).steps[-1]
    cell = region.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")
    before, cell[0] = cell[0], entry
    assert (region.pt.walk(VA + 8 * PAGE).steps[-1].state is State.BAD) == (what == "bad")
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.BAD
    assert cell[0] == entry
    cell[0] = before
    region.pt.check()


@linux_only
def test_changed(region: Region) -> None:
    """Between the look and the collapse: the look takes no lock, so it is over when the collapse waits for one."""
    region.fill(*range(ENTRIES))
    data = region.frames.stats()["data_frames"]
    ptes = region.pt.pte_map_lock(VA)
    assert ptes is not None
    with going_on(lambda: collapse_pages(region.pt, VA, "rw")) as results:
        assert ptes.compare_exchange(9, ptes.load(9), region.pt.arch.encode_soft(1, 9))
        ptes.close()
    assert results == [ScanResult.CHANGED]
    assert region.pt.pmd(VA).state is State.TABLE
    assert region.frames.stats()["data_frames"] == data
    region.pt.check()


@linux_only
def test_a_page_that_came_meanwhile_is_given_back_instead(region: Region) -> None:
    """Those of the entries' final values are: of the page that was there before, its owner takes care."""
    region.fill(*range(ENTRIES))
    other = region.frames.alloc()
    region.frames.view(other, 2)[:] = b"!!"
    ptes = region.pt.pte_map_lock(VA)
    assert ptes is not None
    with going_on(lambda: collapse_pages(region.pt, VA, "rw")) as results:
        assert ptes.compare_exchange(9, ptes.load(9), region.pt.arch.encode(other, "rw"))
        ptes.close()
    assert results == [ScanResult.COLLAPSED]
    assert (region.frames.owners(other), region.frames.owners(region.pages[9])) == (0, 1)
    assert bytes(region.frames.view(region.pt.translate(VA + 9 * PAGE), 2)) == b"!!"


# -- refused


def test_a_format_without_huge_leaves_of_frames(region: Region) -> None:
    """Pages smaller than a frame are nobody's to give back."""
    large = ptl.PageTable(frames=ptl.Frames(1 << 24, frame_bytes=1 << 16))
    with pytest.raises(ptl.FormatError, match="has no pages to make a leaf"):
        collapse_pages(large, 0, "rw")
    with pytest.raises(ptl.FormatError):
        collapse_pages(region.pt, VA, "q")
    with pytest.raises(TypeError):
        collapse_pages(region.pt, VA, None)
    for limit in ("max_ptes_none", "max_ptes_swap", "max_ptes_shared"):
        with pytest.raises(TypeError, match=limit):
            collapse_pages(region.pt, VA, "rw", **{limit: 1.5})
        with pytest.raises(ValueError, match=limit):
            collapse_pages(region.pt, VA, "rw", **{limit: -1})
    region.pt.check()


@pytest.mark.parametrize("level", [1, 2])
def test_who_holds_a_lock_that_it_needs_is_told(region: Region, level: int) -> None:
    region.fill(0)
    slot = region.pt.slot(VA, level)
    assert slot is not None
    with slot.lock(), pytest.raises(RuntimeError, match="would wait for itself"):
        collapse_pages(region.pt, VA, "rw")
    assert collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED


# -- beside others


def test_every_frame_has_its_owners_beside_writers() -> None:
    """Pages are unmapped and freed, and mapped, by others; when all is over, all frames are free."""
    region = Region()
    crew = Crew()

    def come_and_go(first: int) -> None:
        """Map a page and take it away again, by compare-exchange: whoever empties the entry frees it."""
        empty, mine = region.pt.arch.level(1).empty, {}
        for turn in crew.meanwhile():
            va = VA + (first + turn % 4) * PAGE
            if va in mine:
                pa = mine.pop(va)
                if exchanged(va, region.pt.arch.encode(pa, "rw"), empty):
                    region.frames.free(pa)
            else:
                pa = region.frames.alloc()
                if exchanged(va, empty, region.pt.arch.encode(pa, "rw")):
                    mine[va] = pa
                else:
                    region.frames.free(pa)

    def exchanged(va: int, old: int, new: int) -> bool:
        """Whether that entry of the leaf table was changed."""
        try:
            return region.pt.compare_exchange(va, old, new, level=1)
        except ptl.PageFault:
            return False

    def collapse() -> None:
        collapsed = 0
        while not crew.failures and collapsed < 300:
            if collapse_pages(region.pt, VA, "rw") is ScanResult.COLLAPSED:
                collapsed += 1
                pa = region.pt.lookup(VA).pa
                region.pt.unmap(VA, SPAN)
                region.frames.free(pa, SPAN)
                region.pt.populate(VA)

    crew.run(collapse, beside=(partial(come_and_go, 0), partial(come_and_go, 4)))
    region.pt.check()
    for page in range(ENTRIES):
        leaf = region.pt.lookup(VA + page * PAGE)
        if leaf is not None:
            assert leaf.size == PAGE
            region.frames.free(leaf.pa)
            region.pt.unmap(leaf.va, PAGE)
    assert region.frames.stats()["data_frames"] == 0
