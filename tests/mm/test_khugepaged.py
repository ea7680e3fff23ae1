"""The cases of the kernel's own test of khugepaged (tools/testing/selftests/mm/khugepaged.c).

In both of its contexts, the daemon and madvise. Every case looks at the contents afterwards.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator

import pytest

import ptl
from helpers import Crew, python
from ptl.collapse import Activity, Collapser, Limits, Ranges, ScanResult
from ptl.mm import AddressSpace, Advice

from .conftest import new_space

PAGE, HUGE = 4096, 2 << 20
ENTRIES = HUGE // PAGE
VA = 8 * HUGE


class Region:
    """One region of a space, filled with pages that can be told apart, small ones."""

    def __init__(self, space: AddressSpace, regions: int = 1) -> None:
        self.space = space
        self.pt = space.pt
        self.length = regions * HUGE
        self.data = bytearray(self.length)
        space.mmap(self.length, addr=VA)
        space.madvise(VA, self.length, Advice.NOHUGEPAGE)

    def fill(self, *pages: int) -> None:
        """Write to pages, by default to all."""
        for page in pages or range(self.length // PAGE):
            self.data[page * PAGE : (page + 1) * PAGE] = bytes([page % 251 + 1]) * PAGE
            self.space.write(VA + page * PAGE, self.data[page * PAGE : (page + 1) * PAGE])

    def may_be_huge(self) -> None:
        self.space.madvise(VA, self.length, Advice.HUGEPAGE)

    def is_huge(self, va: int = VA) -> bool:
        leaf = self.pt.lookup(va)
        return leaf is not None and leaf.size == HUGE

    def contents_are_right(self) -> bool:
        return self.space.read(VA, self.length) == bytes(self.data)


Collapse = Callable[..., list[ScanResult]]


@pytest.fixture(params=["daemon", "madvise"])
def collapse(request: pytest.FixtureRequest, region: Region) -> Collapse:
    """Collapse every region of the space; what the collapser said of each."""

    def by_daemon(**limits: int) -> list[ScanResult]:
        collapser = Collapser(region.space, sleep_seconds=0, pages_to_scan=ENTRIES, **limits)
        region.may_be_huge()
        collapser.start()
        while collapser.stats()["full_scans"] == 0:
            threading.Event().wait(0.001)
        collapser.stop()
        return [result for result in ScanResult if collapser.stats()[result.name.lower()]]

    def by_madvise(**limits: int) -> list[ScanResult]:
        """As MADV_COLLAPSE, in the calling thread; it ignores the daemon's limits unless a test gives some."""
        region.may_be_huge()
        asked = Limits.of(
            ENTRIES, limits.get("max_ptes_none"), limits.get("max_ptes_swap"), limits.get("max_ptes_shared")
        )
        return [region.space.collapse_region(va, asked) for va in region.space.regions()]

    return by_daemon if request.param == "daemon" else by_madvise


@pytest.fixture
def space(policy: str) -> Iterator[AddressSpace]:
    space = new_space(policy)
    yield space
    space.check()
    space.close()
    assert space.frames.stats()["data_frames"] == 0


@pytest.fixture
def region(space: AddressSpace) -> Region:
    return Region(space)


def test_a_huge_page_at_the_fault_is_split_by_a_partial_dontneed(space: AddressSpace) -> None:
    va = space.mmap(HUGE, addr=VA)
    space.write(va, b"x" * HUGE)
    assert space.pt.lookup(va).size == HUGE
    space.madvise(va, PAGE, Advice.DONTNEED)
    assert space.pt.pmd(va).state is ptl.State.TABLE
    assert space.read(va, HUGE) == bytes(PAGE) + b"x" * (HUGE - PAGE)


def test_a_full_table(region: Region, collapse: Collapse) -> None:
    region.fill()
    assert ScanResult.COLLAPSED in collapse()
    assert region.is_huge()
    assert region.contents_are_right()


def test_several_tables(space: AddressSpace, request: pytest.FixtureRequest) -> None:
    region = Region(space, 4)
    region.fill()
    region.may_be_huge()
    assert Collapser(space).scan() == {ScanResult.COLLAPSED: 4}
    assert all(region.is_huge(VA + n * HUGE) for n in range(4))
    assert region.contents_are_right()


def test_an_empty_table_is_left_alone(region: Region, collapse: Collapse) -> None:
    region.pt.populate(VA)
    assert collapse() == [ScanResult.TOO_EMPTY]
    assert not region.is_huge()
    region.space.madvise(VA, HUGE, Advice.DONTNEED)


def test_no_table_at_all(region: Region, collapse: Collapse) -> None:
    assert collapse() == [ScanResult.NO_TABLE]


def test_a_single_page(region: Region, collapse: Collapse) -> None:
    region.fill(7)
    assert ScanResult.COLLAPSED in collapse()
    assert region.contents_are_right()


@pytest.mark.parametrize(("empty", "huge"), [(64, True), (65, False)])
def test_max_ptes_none(region: Region, collapse: Collapse, empty: int, huge: bool) -> None:
    region.fill(*range(ENTRIES - empty))
    results = collapse(max_ptes_none=64)
    assert results[0] is (ScanResult.COLLAPSED if huge else ScanResult.TOO_EMPTY)
    assert region.is_huge() is huge
    assert region.contents_are_right()


@pytest.mark.parametrize(("swapped", "huge"), [(1, True), (8, True), (9, False)])
def test_max_ptes_swap(region: Region, collapse: Collapse, swapped: int, huge: bool) -> None:
    region.fill()
    for page in range(swapped):
        assert region.space.swap_out(VA + page * 3 * PAGE)
    results = collapse(max_ptes_swap=8)
    assert results[0] is (ScanResult.COLLAPSED if huge else ScanResult.TOO_SWAPPED)
    assert region.is_huge() is huge
    assert region.contents_are_right()


def test_one_page_of_what_was_huge(region: Region, collapse: Collapse) -> None:
    """The rest was given back: what is left is one page of a compound that is no more."""
    region.may_be_huge()
    region.fill()
    assert region.is_huge()
    region.space.madvise(VA + PAGE, HUGE - PAGE, Advice.DONTNEED)
    region.data[PAGE:] = bytes(HUGE - PAGE)
    assert ScanResult.COLLAPSED in collapse()
    assert region.contents_are_right()


def test_a_table_full_of_what_was_huge(region: Region, collapse: Collapse) -> None:
    """Split in the table and in the frames, and collapsed again."""
    region.may_be_huge()
    region.fill()
    region.space.mprotect(VA, PAGE, "r")
    region.space.mprotect(VA, PAGE, "rw")
    assert not region.is_huge()
    assert ScanResult.COLLAPSED in collapse()
    assert region.contents_are_right()


def test_a_table_of_pages_of_different_huge_pages(space: AddressSpace, collapse: Collapse, region: Region) -> None:
    """Assembled by mremap, a page of each of many huge pages."""
    other = space.mmap(8 * HUGE, addr=VA + 4 * HUGE)
    for n in range(8):
        space.write(other + n * HUGE, bytes([n + 1]) * PAGE)
        assert space.pt.lookup(other + n * HUGE).size == HUGE
        space.mremap(other + n * HUGE, PAGE, PAGE, new=VA + n * PAGE)
        region.data[n * PAGE : (n + 1) * PAGE] = bytes([n + 1]) * PAGE
    space.munmap(other, 8 * HUGE)
    space.madvise(VA + 8 * PAGE, HUGE - 8 * PAGE, Advice.HUGEPAGE)
    assert ScanResult.NO_TABLE in collapse() or region.is_huge()
    assert region.contents_are_right()


def test_after_a_fork_a_small_page_is_shared(region: Region, collapse: Collapse) -> None:
    region.fill(5)
    child = region.space.fork()
    region.fill(*range(6, ENTRIES))
    assert ScanResult.COLLAPSED in collapse(max_ptes_shared=1)
    assert region.contents_are_right()
    assert child.read(VA + 5 * PAGE, PAGE) == bytes(region.data[5 * PAGE : 6 * PAGE])
    region.space.check(child)
    child.close()


def test_after_a_fork_a_huge_page_is_shared(region: Region, collapse: Collapse) -> None:
    region.may_be_huge()
    region.fill()
    child = region.space.fork()
    region.fill(0)  # splits it, and copies a page
    assert ScanResult.COLLAPSED in collapse(max_ptes_shared=ENTRIES)
    assert region.contents_are_right()
    assert child.read(VA, HUGE) == bytes(region.data)
    region.space.check(child)
    child.close()


@pytest.mark.parametrize(("shared", "huge"), [(256, True), (257, False)])
def test_max_ptes_shared(region: Region, collapse: Collapse, shared: int, huge: bool) -> None:
    region.fill()
    child = region.space.fork()
    region.fill(*range(shared, ENTRIES))  # these become its own again
    results = collapse(max_ptes_shared=256)
    assert results[0] is (ScanResult.COLLAPSED if huge else ScanResult.TOO_SHARED)
    assert region.is_huge() is huge
    assert region.contents_are_right()
    region.space.check(child)
    child.close()


def test_what_is_huge_already_is_left(region: Region, collapse: Collapse) -> None:
    region.may_be_huge()
    region.fill()
    before = region.pt.lookup(VA)
    assert collapse() == [ScanResult.ALREADY]
    assert region.pt.lookup(VA).pa == before.pa


def test_a_slot_left_cleared_is_filled_by_the_next_fault(region: Region) -> None:
    """The kernel's "retracted" case: the table is gone, the slot empty; then the huge page is installed."""
    region.fill()
    region.space.madvise(VA, HUGE, Advice.DONTNEED)
    assert region.pt.pmd(VA) is None or region.pt.pmd(VA).state is ptl.State.EMPTY
    region.may_be_huge()
    region.fill()
    assert region.is_huge()
    assert region.contents_are_right()


# -- the thread


def test_the_thread_runs_rests_and_ends(region: Region) -> None:
    region.fill()
    region.may_be_huge()
    collapser = Collapser(region.space, sleep_seconds=0)
    assert collapser.activity is Activity.STOPPED
    collapser.pause()
    assert collapser.activity is Activity.STOPPED
    collapser.start()
    while not region.is_huge():
        threading.Event().wait(0.001)
    collapser.pause()
    scanned = collapser.stats()["scanned"]
    region.pt.split(VA)
    assert collapser.stats()["scanned"] == scanned
    collapser.start()
    collapser.start()
    while collapser.stats()["scanned"] == scanned:
        threading.Event().wait(0.001)
    collapser.stop()
    collapser.stop()
    assert collapser.activity is Activity.STOPPED
    assert not [thread for thread in threading.enumerate() if thread.name == "ptl collapser"]
    region.space.frames.split(region.pt.translate(VA), HUGE, PAGE)


def test_what_ended_the_thread_is_raised(space: AddressSpace) -> None:
    class Broken(Ranges):
        def collapse_region(self, va: int, limits: Limits) -> ScanResult:
            raise OSError("broken")

    collapser = Collapser(Broken(space.pt, [(VA, HUGE, "rw")]), sleep_seconds=0)
    collapser.start()
    assert collapser._thread is not None
    collapser._thread.join()
    with pytest.raises(OSError, match="broken"):
        collapser.stop()
    collapser.stop()


def test_numbers_that_make_no_sense(space: AddressSpace) -> None:
    for wrong in ({"pages_to_scan": 0}, {"sleep_seconds": -1}, {"max_ptes_none": 513}, {"max_ptes_shared": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Collapser(space, **wrong)
    with pytest.raises(ptl.AddressError):
        Ranges(space.pt, [(VA + PAGE, HUGE, "rw")])
    with pytest.raises(ptl.FormatError):
        Ranges(space.pt, [(VA, HUGE, "q")])


def test_a_budget_is_kept(space: AddressSpace) -> None:
    region = Region(space, 4)
    region.fill()
    region.may_be_huge()
    collapser = Collapser(space)
    for scanned in (1, 2, 3, 4, 5):
        collapser.scan(ENTRIES)
        assert collapser.stats()["scanned"] == scanned
    assert collapser.stats()["full_scans"] == 1
    assert collapser.stats()["collapsed"] == 4


def test_the_interpreter_may_end_while_it_runs() -> None:
    python("-c", ENDING)


ENDING = """
import ptl, ptl.mm
space = ptl.mm.AddressSpace()
va = space.mmap(8 << 20)
space.write(va, b"x" * (8 << 20))
ptl.collapse.Collapser(space, sleep_seconds=0).start()
"""


def test_a_forked_child_has_no_collapser(space: AddressSpace) -> None:
    region = Region(space)
    region.fill()
    region.may_be_huge()
    with Collapser(space, sleep_seconds=0) as collapser:
        pid = os.fork()
        if pid == 0:
            right = collapser.activity is Activity.STOPPED
            collapser.scan()
            os._exit(0 if right and region.is_huge() else 1)
        assert os.waitpid(pid, 0)[1] == 0


# -- beside readers and writers


def test_a_collapser_beside_a_busy_program(policy: str) -> None:
    """Stores, loads, forks, zaps and swaps in four threads, while everything is collapsed over and over."""
    space = new_space(policy)
    crew = Crew()
    regions = 3
    space.mmap((regions + 1) * HUGE, addr=VA)

    def program(number: int) -> None:
        rng = random.Random(number)
        mine: dict[int, bytes] = {}
        for _ in crew.turns(250):
            page = rng.randrange(number, regions * ENTRIES, 3)
            va = VA + page * PAGE
            match rng.randrange(6):
                case 0:
                    space.swap_out(va)
                case 1:
                    space.migrate(va)
                case 2 if page in mine:
                    space.madvise(va, PAGE, Advice.DONTNEED)
                    mine[page] = bytes(8)
                case _:
                    assert space.read(va + 16, 8) == mine.get(page, bytes(8))
                    mine[page] = rng.randbytes(8)
                    space.write(va + 16, mine[page])
        for page, data in mine.items():
            assert space.read(VA + page * PAGE + 16, 8) == data

    def fork() -> None:
        for _ in crew.meanwhile():
            child = space.fork()
            child.write(VA, b"child")
            child.close()

    def cut() -> None:
        """Another part of the same mapping comes and goes."""
        for _ in crew.meanwhile():
            va = VA + regions * HUGE
            space.munmap(va, HUGE)
            space.mmap(HUGE, addr=va)
            space.write(va + PAGE, b"x")
            space.mprotect(va, 2 * PAGE, "r")

    with Collapser(space, sleep_seconds=0, pages_to_scan=ENTRIES) as collapser:
        crew.run(*(lambda number=number: program(number) for number in range(3)), beside=(fork, cut))
    assert collapser.stats()["scanned"]
    space.check()
    space.close()
    assert space.frames.stats()["data_frames"] == 0
