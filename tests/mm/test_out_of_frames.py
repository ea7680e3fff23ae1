"""The promise: a call of an address space that finds no frames raises OutOfFrames, and the program sees nothing of it.

The first, the second, the third time that it asks there are none, nor from then on, until it asks no more. Mappings,
what is in memory, who owns which frames and what is in swap are as they were. So is everything else, but for two
traces: the right to write that a fork withholds is given back by the next store, and huge pages in the way are small.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest

from ptl import OutOfFrames
from ptl._core import fail_frames
from ptl.mm import AddressSpace, Advice
from reference import contents

from .conftest import ARCHITECTURES, new_space

Before = Callable[["Case"], AddressSpace | None]
Change = Callable[["Case"], object]


class Case:
    """An address space, and places in it."""

    def __init__(self, arch: str):
        self.space = new_space("epoch", arch)
        self.page, self.huge = (self.space.pt.arch.level(level).span for level in (1, 2))
        self.here, self.there = 4 * self.huge, 8 * self.huge

    def map(self, length: int) -> None:
        self.space.mmap(length, addr=self.here)


class Page(NamedTuple):
    """What a page is mapped to, and what is in its first bytes."""

    pa: int
    flags: str
    bytes: bytes


def seen(space: AddressSpace, family: list[AddressSpace]) -> tuple[object, ...]:
    """What the programs can find out, and what it takes of the frames."""
    space.check(*family)
    told = [(each.mappings(), pages(each), contents(each.pt).soft) for each in (space, *family)]
    return told, space.frames.stats()["data_frames"]


def pages(space: AddressSpace) -> dict[int, Page]:
    """Every page that is there, whatever the size of its leaf, and whether it may be written now or after a fault."""
    size = space.pt.arch.level(1).span
    return {
        va + at: Page(mapped.pa + at, mapped.flags.replace("w", ""), bytes(space.frames.view(mapped.pa + at, 8)))
        for va, mapped in contents(space.pt).leaves.items()
        for at in range(0, mapped.size, size)
    }


def everything(space: AddressSpace, family: list[AddressSpace]) -> tuple[object, ...]:
    """All of it; but free tables: what has been taken and given back stays memory for tables."""
    frames = {name: count for name, count in space.frames.stats().items() if name != "free_tables"}
    return [contents(each.pt) for each in (space, *family)], frames


def untouched(case: Case) -> None:
    case.map(2 * case.huge)


def a_page(case: Case) -> None:
    case.map(case.huge - case.page)
    case.space.write(case.here, b"here")


def a_huge_page(case: Case) -> None:
    case.map(2 * case.huge)
    case.space.write(case.here, b"here")


def small_pages(case: Case) -> None:
    """A region that could be a huge page, of small ones."""
    case.map(case.huge)
    case.space.madvise(case.here, case.huge, Advice.NOHUGEPAGE)
    case.space.write(case.here, b"here")
    case.space.madvise(case.here, case.huge, Advice.HUGEPAGE)


def forked(case: Case) -> AddressSpace:
    a_page(case)
    return case.space.fork()


def swapped(case: Case) -> None:
    a_page(case)
    assert case.space.swap_out(case.here)


def moved(length: str, to: Callable[[Case], int]) -> Change:
    """The first page, or the first huge page, by `mremap`."""
    return lambda case: case.space.mremap(case.here, getattr(case, length), getattr(case, length), new=to(case))


CASES: dict[str, tuple[Before, Change]] = {
    "a first read": (untouched, lambda case: case.space.read(case.here, 1)),
    "a first write": (untouched, lambda case: case.space.write(case.here, b"x")),
    "a first write beside another": (a_page, lambda case: case.space.write(case.here + case.page, b"x")),
    "a write after a fork": (forked, lambda case: case.space.write(case.here, b"x")),
    "a read of what is in swap": (swapped, lambda case: case.space.read(case.here, 1)),
    "fork": (a_page, lambda case: case.space.fork()),
    "fork of a huge page": (a_huge_page, lambda case: case.space.fork()),
    "mremap elsewhere": (a_page, moved("page", lambda case: case.there)),
    "mremap of a huge page": (a_huge_page, moved("huge", lambda case: case.there)),
    "mremap where a huge page does not fit": (a_huge_page, moved("huge", lambda case: case.there + case.page)),
    "mremap onto something": (a_huge_page, moved("page", lambda case: case.here + case.huge + case.page)),
    "guards": (untouched, lambda case: case.space.madvise(case.here, case.page, Advice.GUARD)),
    "migrate": (a_page, lambda case: case.space.migrate(case.here)),
    "collapse": (small_pages, lambda case: case.space.madvise(case.here, case.huge, Advice.COLLAPSE)),
}
"""What there is before, and what is done."""
LEAVES_A_TRACE = {"fork", "fork of a huge page", "mremap where a huge page does not fit", "mremap onto something"}
CANNOT_FAIL: dict[str, tuple[Before, Change]] = {
    "mprotect of a part": (a_huge_page, lambda case: case.space.mprotect(case.here + case.page, case.page, "r")),
    "munmap of a part": (a_huge_page, lambda case: case.space.munmap(case.here + case.page, case.page)),
    "guards in place of a page": (a_page, lambda case: case.space.madvise(case.here, case.page, Advice.GUARD)),
    "swap_out": (a_page, lambda case: case.space.swap_out(case.here)),
}
"""What takes no frames, or those that a huge page has parked."""


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_whichever_call_finds_no_frames_nothing_is_seen_of_it(arch: str, what: str) -> None:
    before, change = CASES[what]
    case = Case(arch)
    other = before(case)
    family = [] if other is None else [other]
    was = seen(case.space, family), everything(case.space, family)
    for n in itertools.count(1):
        fail_frames(n)
        try:
            result = change(case)
            found_none = result is False  # a migration says no, and is none of the program's
        except OutOfFrames:
            found_none = True
        finally:
            fail_frames(0)
        if not found_none:
            break
        now = seen(case.space, family), everything(case.space, family)
        assert now[0] == was[0], f"there were none the {n}th time"
        assert now[1] == was[1] or what in LEAVES_A_TRACE, f"there were none the {n}th time"
    if isinstance(result, AddressSpace):
        family.append(result)
    case.space.check(*family)
    for each in (case.space, *family):
        each.close()
    assert n > 1 or what == "mremap of a huge page", "it asks for none: only some formats need a table there"
    assert case.space.frames.stats()["data_frames"] == 0


@pytest.mark.parametrize("what", CANNOT_FAIL)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_takes_no_frames_cannot_fail(arch: str, what: str) -> None:
    before, change = CANNOT_FAIL[what]
    case = Case(arch)
    before(case)
    fail_frames(1)
    try:
        change(case)
    finally:
        fail_frames(0)
    case.space.check()
    case.space.close()
