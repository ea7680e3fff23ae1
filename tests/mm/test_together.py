"""What changes the same memory at once; what fails in the middle; and waits that are cut short."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import ptl.mm.space
from ptl.mm import AddressSpace, Advice
from ptl.mm.mapping import Mapping, Mappings
from ptl.mm.policy import ReadWriteLock, Turnstile

from .conftest import new_space

pytestmark = pytest.mark.under_stress


def run_together(*jobs: Callable[[], None]) -> None:
    """Run each job in a thread of its own, all begun at once; raises the first error of any."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        start.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(params=["tiny", "x86_64"])
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


def held_by_others(space: AddressSpace, va: int) -> bool:
    """Whether another thread would wait for the region of an address."""
    lock: Any = space._handler.regions.held(va)
    free: list[bool] = []

    def attempt() -> None:
        free.append(lock.acquire(blocking=False))
        if free[0]:
            lock.release()

    run_together(attempt)
    return not free[0]


@pytest.mark.parametrize("transition", ["split", "migrate", "swap_out", "collapse"])
def test_the_leaves_of_a_region_change_under_its_lock(
    transition: str, policy: str, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4; cases 23 and 24. Looked at in the middle of each, where another would do harm."""
    space = new_space(policy, arch, huge_pages=transition in ("split", "migrate"))
    huge = space.pt.arch.level(2).span
    va = space.mmap(huge)
    space.write(va, b"x")
    seen: list[bool] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            seen.append(held_by_others(space, va))
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    assert not held_by_others(space, va)
    if transition == "split":
        watch(space.memory, "split")
        with space.fork():
            space.write(va, b"y")
    elif transition == "migrate":
        watch(space.memory, "copy")
        assert space.migrate(va)
    elif transition == "swap_out":
        watch(space.memory.swap, "put")
        assert space.swap_out(va)
    else:
        space.madvise(va, huge, Advice.HUGEPAGE)
        watch(ptl.mm.space, "collapse_pages")
        space.madvise(va, huge, Advice.COLLAPSE)
    assert seen
    assert all(seen)
    assert not held_by_others(space, va)
    space.close()


def test_splits_migrations_and_collapses_of_the_same_region(policy: str, arch: str) -> None:
    """Cases 23 and 24: each takes the leaf of the region apart, and all of them again and again."""
    space = new_space(policy, arch)
    page, huge = space.pt.arch.level(1).span, space.pt.arch.level(2).span
    turns = 150 if arch == "tiny" else 25
    va = space.mmap(huge)
    last = va + huge - page

    def migrate() -> None:
        for _ in range(turns):
            space.migrate(va)

    def collapse() -> None:
        for _ in range(turns):
            space.madvise(va, huge, Advice.COLLAPSE)

    def store() -> None:
        for turn in range(turns):
            with space.fork():  # a store to what is shared splits the huge page
                space.write(last, turn.to_bytes(4, "little"))
            assert space.read(last, 4) == turn.to_bytes(4, "little")

    def swap() -> None:
        for _ in range(turns):
            space.swap_out(va + page)

    space.write(va, b"first")
    space.write(va + page, b"other")
    run_together(migrate, collapse, store, swap)
    assert space.read(va, 5) + space.read(va + page, 5) == b"firstother"
    space.check()
    space.close()
    assert space.frames.stats()["data_frames"] == 0


def test_mremap_looks_mappings_up_when_nobody_else_can_change_them(policy: str) -> None:
    """Case 25. What it finds decides what it does, so it must still be so then."""
    space = new_space(policy, "tiny")
    page = space.pt.arch.level(1).span
    changing: Any = space._changing
    held: list[bool] = []

    class Watched(Mappings):
        def at(self, va: int) -> Mapping | None:
            held.append(changing._is_owned())
            return super().at(va)

    va = space.mmap(2 * page, addr=4 * page)
    for call in (
        lambda: space.mremap(va, page, page, new=8 * page),
        lambda: space.mremap(8 * page, page, 2 * page),
        lambda: space.mremap(8 * page, 2 * page, page),
    ):
        space._mappings = Watched(space.mappings())
        held.clear()
        call()
        assert held
        assert all(held)
    space.close()


def test_no_mapping_is_lost_beside_another_change(policy: str) -> None:
    """Case 25: a mapping is looked up again once nobody else can change it."""
    space = new_space(policy, "tiny")
    page = space.pt.arch.level(1).span
    va = space.mmap(8 * page, addr=space.pt.arch.level(2).span)

    def protect() -> None:
        for turn in range(200):
            for at in range(va, va + 4 * page, page):
                with suppress(ValueError):  # not mapped there, at the moment
                    space.mprotect(at, page, "r" if turn % 2 else "rw")

    def move() -> None:
        for _ in range(200):
            with suppress(ValueError):  # no longer one mapping
                space.mremap(va + 4 * page, 4 * page, 4 * page, new=va + 12 * page)
                space.mremap(va + 12 * page, 4 * page, 4 * page, new=va + 4 * page)

    run_together(protect, move)
    assert sum(map(len, space.mappings())) == 8 * page
    space.check()
    space.close()


# --- out of frames: nothing changes (case 26) -----------------------------------------------------------------------


def contents(space: AddressSpace) -> dict[int, Any]:
    """Every entry of a space by its address, with its bytes, however large its page is; and its mappings."""
    arch = space.pt.arch
    page = arch.level(1).span
    seen: dict[int, Any] = {}
    for va, level, raw in space._entries(0, space._top):
        entry = arch.decode(raw, level)
        for at in range(0, arch.level(level).span, page):
            seen[va + at] = (
                raw if entry.pa is None else (set(entry.flags), bytes(space.frames.view(entry.pa + at, page)))
            )
    seen |= {-1 - mapping.start: (mapping.end, mapping.prot) for mapping in space.mappings()}
    return seen


def with_few_frames(prepare: Callable[[AddressSpace], Callable[[], Any]]) -> int:
    """Make one call with 0, 1, 2... free frames until it succeeds; before that it must change nothing."""
    for free in range(1000):
        space = new_space("epoch", "tiny")
        call = prepare(space)
        taken = []
        with suppress(MemoryError):
            while True:
                taken.append(space.frames.alloc(space.frames.frame_bytes))
        for _ in range(free):
            space.frames.free(taken.pop(), space.frames.frame_bytes)
        before = contents(space)
        try:
            call()
            done = True
        except MemoryError:
            assert contents(space) == before
            done = False
        for pa in taken:
            space.frames.free(pa, space.frames.frame_bytes)
        space.check()
        space.close()
        if done:
            return free
    raise AssertionError("it never succeeds")


def filled(space: AddressSpace, va: int, length: int) -> None:
    space.mmap(length, addr=va)
    for page in range(va, va + length, space.pt.arch.level(1).span):
        space.write(page, page.to_bytes(4, "little"))


@pytest.mark.parametrize("aligned", [True, False])
def test_a_move_onto_something_without_frames_changes_nothing(aligned: bool) -> None:
    def prepare(space: AddressSpace) -> Callable[[], Any]:
        page, huge = space.pt.arch.level(1).span, space.pt.arch.level(2).span
        old, new = 4 * huge, 8 * huge + (0 if aligned else page)
        filled(space, old, huge + page)
        filled(space, new, page)  # the rest of the new range has no table
        return lambda: space.mremap(old, huge + page, huge + page, new=new)

    assert with_few_frames(prepare) > 0


def test_guards_without_frames_change_nothing() -> None:
    def prepare(space: AddressSpace) -> Callable[[], Any]:
        page, huge = space.pt.arch.level(1).span, space.pt.arch.level(2).span
        space.mmap(4 * huge, addr=4 * huge)
        space.write(4 * huge + page, b"kept")
        return lambda: space.madvise(4 * huge, 4 * huge, Advice.GUARD)

    assert with_few_frames(prepare) > 0


def test_a_guard_replaces_a_swapped_and_a_huge_page(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(2 * huge, addr=2 * huge)
    space.write(va, b"huge")
    space.madvise(va + page, huge, Advice.GUARD)
    assert space.read(va, 4) == b"huge"
    assert space.mincore(va, huge)[:2] == b"\1\0"


# --- waits that are cut short (case 27) -----------------------------------------------------------------------------


class Interrupted(threading.Condition):
    """A condition whose waits end as they do when the user presses Control-C."""

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        raise KeyboardInterrupt


def interrupt(lock: Any, enter: Callable[[], Any]) -> None:
    real, lock._changed = lock._changed, Interrupted()
    with pytest.raises(KeyboardInterrupt), enter():
        pass
    lock._changed = real


def test_an_interrupted_wait_leaves_a_lock_open() -> None:
    lock = ReadWriteLock()
    interrupt(lock, lock.exclusive)
    assert (lock._waiting_writers, lock._writing, lock._readers) == (0, False, 0)
    interrupt(lock, lock.shared)
    assert (lock._waiting_writers, lock._writing, lock._readers) == (0, False, 0)


def test_an_interrupted_wait_leaves_a_turnstile_open() -> None:
    turnstile = Turnstile()
    interrupt(turnstile, turnstile.closed)
    assert (turnstile._closed, turnstile._inside) == (False, 0)
    interrupt(turnstile, turnstile.passed)
    assert (turnstile._closed, turnstile._inside) == (False, 0)


# --- check() sees (case 28) -----------------------------------------------------------------------------------------


def test_check_sees_a_page_that_was_freed_and_another_that_was_lost() -> None:
    space = new_space("epoch", "tiny", huge_pages=False)
    page, huge = space.pt.arch.level(1).span, space.pt.arch.level(2).span
    va = space.mmap(huge)
    pages = []
    for at in range(va, va + huge, page):
        space.write(at, b"x")
        pages.append(space.pt.translate(at))
    space.check()
    space.frames.alloc(page)  # lost
    space.frames.free(next(pa for pa in pages if pa % huge), page)  # and so as many as entries are in use
    with pytest.raises(AssertionError, match="has 0 owners, and 1 entries"):
        space.check()


@pytest.mark.parametrize("prot", ["rw", "r", ""])
def test_check_sees_a_leaf_that_grants_more_than_its_mapping(prot: str) -> None:
    space = new_space("epoch", "x86_64")
    va = space.mmap(4096, prot)
    pa = space.frames.alloc(4096)
    space.pt.map(va, pa, 4096, "rxu")
    with pytest.raises(AssertionError, match="grants"):
        space.check()
