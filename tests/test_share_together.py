"""The promise: snapshots and forks are made, changed and dropped by any thread at any moment, and show one moment each.

Beside writers of pages and of ranges, transitions, readers, and forks of the whole process.
"""

from __future__ import annotations

import os
import random
from array import array
from functools import partial

import pytest

from helpers import Crew
from reference import contents
from sharing import Bench, everything_given_back

pytestmark = pytest.mark.under_stress

PAGE, SPAN = 0x1000, 0x4000


@pytest.mark.parametrize("name", ["x86_64", "i386", "tiny"])
def test_a_snapshot_shows_one_moment(name: str) -> None:
    """One thread changes pages in turn, another ranges as one; snapshots fit between two changes."""
    bench = Bench(name, megabytes=16)
    pt, page, span = bench.pt, bench.page, bench.span
    first, second = 2 * span + 2 * page, 3 * span + page  # in two leaf tables
    pt.map(first, 0, page)
    pt.map(second, 0, page)
    crew = Crew()

    def one_page_after_the_other() -> None:
        for turn in crew.turns(400):
            for va in (first, second):
                entry = pt.arch.encode((turn + 1) % 4 * page, "rw")
                pt.exchange(va, entry)

    def a_range_at_once() -> None:
        for turn in crew.meanwhile():
            pt.map(0, (1 + turn % 2) * span, span, page_size=page, replace=True)

    def transitions() -> None:
        for _ in crew.meanwhile():
            pt.collapse(0)
            pt.split(0)
            pt.reclaim_empty(0, 4 * span)

    def snapshots() -> None:
        for turn in crew.meanwhile():
            kept = pt.snapshot() if turn % 2 else pt.fork()
            numbers = [kept.translate(va) // page for va in (first, second)]
            assert (numbers[0] - numbers[1]) % 4 in (0, 1), "the second page is changed after the first"
            assert len({leaf.pa - leaf.va for leaf in kept[0:span].values()}) == 1, "a range is changed at one moment"
            again = [kept.translate(va) // page for va in (first, second)]
            assert again == numbers, "a snapshot stays what it was"
            if turn % 2 == 0:
                kept.clear()

    crew.run(one_page_after_the_other, beside=(a_range_at_once, transitions, snapshots))
    pt.check()


def test_readers_see_what_is_always_there() -> None:
    """Pages that nobody unmaps translate throughout, while the tables on the way to them are shared and copied."""
    bench = Bench("x86_64", megabytes=16)
    pt, page = bench.pt, bench.page
    steady = array("Q", range(0, 64 * page, page))
    expected = [bench.span + va for va in steady]
    crew = Crew()

    def forks() -> None:
        for turn in crew.turns(300):
            fork = pt.fork()
            fork.unmap(64 * page + turn % 64 * page, page)
            assert [*fork.translate(steady)] == expected
            fork.clear()

    def changes() -> None:
        for turn in crew.meanwhile():
            va = 128 * page + turn % 64 * page
            pt.protect(va, page, "r")
            pt.protect(va, page, "rw")

    def reads() -> None:
        for _ in crew.meanwhile():
            assert [*pt.translate(steady)] == expected

    crew.run(forks, beside=(changes, reads))
    pt.check()
    assert len(contents(pt).leaves) == len(contents(Bench("x86_64").pt).leaves)


def test_each_fork_is_its_threads_alone() -> None:
    """Threads that change tables which share all the rest, and drop them, disturb nobody."""
    bench = Bench("x86_64", megabytes=16)
    frames, before = bench.frames, contents(bench.pt)
    crew = Crew()

    def lives(number: int) -> None:
        draw = random.Random(number)
        for _ in crew.turns(60):
            fork = bench.pt.fork()
            mine: dict[int, int] = {}
            for _ in range(8):
                va = draw.randrange(64) * PAGE
                fork.map(va, number * SPAN, PAGE, replace=True)
                mine[va] = number * SPAN
            for va in range(0, 64 * PAGE, PAGE):
                assert fork.translate(va) == mine.get(va, bench.span + va)

    crew.run(*(partial(lives, number) for number in range(1, 4)))
    assert contents(bench.pt) == before
    bench.pt.check()
    bench.pt = None
    assert everything_given_back(frames)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_process_may_fork_while_tables_are_shared() -> None:
    """The child has whole tables: no snapshot is cut in two, and none is waited for that nobody makes any more."""
    bench = Bench("x86_64", megabytes=16)
    pt = bench.pt
    crew = Crew()

    def shares() -> None:
        for turn in crew.meanwhile():
            fork = pt.fork()
            fork.unmap(turn % 16 * PAGE, PAGE)
            pt.protect(turn % 16 * PAGE, PAGE, "r" if turn % 32 < 16 else "rw")

    def forks() -> None:
        for _ in crew.turns(20):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    kept = pt.snapshot()
                    pt.unmap(0, bench.span)
                    pt.check()
                    kept.check()
                    status = 0 if len(kept[0 : bench.span]) == bench.entries else 2
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            assert status == 0

    crew.run(forks, beside=(shares,))
    pt.check()
