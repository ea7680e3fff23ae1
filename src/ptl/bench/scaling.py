"""Threads without the GIL: one, as many as there are cores, and more."""

from __future__ import annotations

import ctypes
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ptl import _bench
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Finding, Quartiles, Side, Target
from ptl.bench.native import Missing, NativeMap, load
from ptl.bench.pages import HUGE, PAGE
from ptl.bench.peers import LIMITS, MAPS, present
from ptl.bench.settings import Size

GROUP = "scaling"
REGION_PAGES = HUGE // PAGE
THREADS = 1, 2, 4
FAULT_ROUNDS = 1000
"""Milliseconds: what it takes to start a thread should not count."""
CACHE_LINE_WORDS = 16
"""Two lines: the hardware fetches them in pairs."""


def contests(size: Size) -> Iterator[Contest]:
    """Reads, batches, faults; and what one line costs that two cores want."""
    yield _reads(size)
    yield _batches(size)
    yield _faults(apart=True)
    yield _faults(apart=False)
    yield from _one_line()
    yield from _locked(size)


def together(calls: Sequence[Callable[[], object]]) -> None:
    """Run each in a thread of its own, from one moment on."""
    start = threading.Barrier(len(calls))
    failures: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            start.wait()
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _name(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def _sides(call_of: Callable[[int], Callable[[], object]], operations: int) -> list[Side]:
    """The same work for each thread; cost is of one operation among all of them."""
    sides = []
    for threads in THREADS:
        calls = [call_of(number) for number in range(threads)]
        sides.append(Side(_name(threads), partial(together, calls), threads * operations))
    return sides


def _contest(key: str, title: str, sides: Sequence[Side], target: float | None, note: str = "") -> Contest:
    one, two, four = (_name(threads) for threads in THREADS)
    cores = os.cpu_count() or 1
    return Contest(
        key=key,
        group=GROUP,
        title=title,
        unit="ns an operation, of all threads together",
        ours=sides[1:],
        peers=sides[:1],
        targets=[
            Target(two, one, "at least", target if cores >= 2 else None),
            Target(four, one, "at least", 0.9 * target if target and cores == 2 else None),
        ],
        clock="wall",
        note=note,
    )


def _reads(size: Size) -> Contest:
    pages = subject.spaced(size.pages)
    table = subject.dense_table(size.pages)
    wanted = subject.addresses(pages, "random")

    def call_of(number: int) -> Callable[[], object]:
        out = subject.empty_out(len(wanted))
        return lambda: _bench.translate(table, wanted, out)

    return _contest(
        "scaling-reads", "translate one address in each section, natively", _sides(call_of, len(wanted)), 1.9
    )


def _batches(size: Size) -> Contest:
    pages = subject.spaced(size.pages)
    table = subject.dense_table(size.pages)
    wanted = array("Q", subject.addresses(pages, "random") * 4)

    def call_of(number: int) -> Callable[[], object]:
        out = subject.empty_out(len(wanted))
        return lambda: table.translate(wanted, out)

    return _contest("scaling-batches", "translate many addresses in one call", _sides(call_of, len(wanted)), 1.9)


def _faults(*, apart: bool) -> Contest:
    """Map and unmap single pages: each thread in a region of its own, or all in turn of one."""
    count = REGION_PAGES // max(THREADS)
    every = subject.spaced(max(THREADS) * REGION_PAGES)
    frames = subject.frames(count)
    table = subject.table_of(every, subject.frames(len(every)))
    _bench.unmap_pages(table, every)

    def call_of(number: int) -> Callable[[], object]:
        first, step = (number * REGION_PAGES, 1) if apart else (number, max(THREADS))
        mine = every[first : first + count * step : step]
        return lambda: _bench.faults(table, mine, frames, FAULT_ROUNDS)

    return _contest(
        "scaling-faults" if apart else "scaling-faults-one-table",
        "map and unmap one page in each call, "
        + ("each thread in a region of its own" if apart else "all threads in one table, on neighbouring entries"),
        _sides(call_of, 2 * count * FAULT_ROUNDS),
        1.7 if apart else None,
        "" if apart else "Eight entries share a cache line: this is what a line that moves between cores costs.",
    )


def _one_line() -> Iterator[Contest]:
    """Atomic additions: each thread to a line of its own, and all to one."""
    try:
        add = load(LIMITS).limit_add
    except Missing:
        return
    add.restype = None
    words = array("Q", bytes(8 * CACHE_LINE_WORDS * (max(THREADS) + 1)))
    start, _ = words.buffer_info()
    count = 1_000_000
    for apart in True, False:

        def call_of(number: int, apart: bool = apart) -> Callable[[], object]:
            place = ctypes.c_void_p(start + 8 * CACHE_LINE_WORDS * (number if apart else 0))
            return lambda: (add(place, ctypes.c_uint64(count)), words)

        yield _contest(
            "scaling-line-apart" if apart else "scaling-line",
            "the machine: add to a word atomically, " + ("a line for each thread" if apart else "one line for all"),
            _sides(call_of, count),
            None,
        )


def _locked(size: Size) -> Iterator[Contest]:
    """The same reads of a map behind a reader-writer lock."""
    name = "std::map, shared_mutex"
    for _, program in present({name: MAPS[name]}):
        pages, frames = subject.spaced(1 << 14), subject.frames(1 << 14)
        native = NativeMap(program, len(pages))
        native.insert(pages, frames)
        wanted = subject.addresses(pages, "random")

        def call_of(number: int, native: NativeMap = native, wanted: array[int] = wanted) -> Callable[[], object]:
            out = subject.empty_out(len(wanted))
            return lambda: native.find(wanted, out)

        yield _contest(
            "scaling-locked", f"the same reads of a {name}", _sides(call_of, len(wanted)), None, "For comparison."
        )


# -- the model --------------------------------------------------------------------------------------------------------

LINES_MOVED = {"scaling-reads": 0, "scaling-batches": 0, "scaling-faults": 0, "scaling-faults-one-table": 1}
"""Lines that an operation of two threads fetches from the other core, counted in the source (docs/performance.md)."""


def prediction(findings: Sequence[Finding]) -> Iterator[Finding]:
    """What the model says of two threads, from one thread and what a line costs on its way; beside what was measured.

    A thread takes as long for an operation as it does alone, and for each line that has to come from the other core as
    much longer as an addition to a shared word does.
    """
    costs = {finding.key: finding.costs for finding in findings}
    if (os.cpu_count() or 1) < 2 or not {"scaling-line", *LINES_MOVED} <= costs.keys():
        return
    one, two, _ = (_name(threads) for threads in THREADS)

    def median(key: str, side: str) -> float:
        return Quartiles.of(costs[key][side]).median

    move_ns = max(0.0, 2 * median("scaling-line", two) - median("scaling-line", one))
    for key, lines in LINES_MOVED.items():
        predicted = (median(key, one) + lines * move_ns) / 2
        yield Finding(
            key=f"model-{key}",
            group=GROUP,
            title=f"the model, {lines} lines moved: " + next(each.title for each in findings if each.key == key),
            unit="ns an operation, of two threads together",
            costs={"measured": [median(key, two)], "predicted": [predicted]},
            ours=["measured"],
            targets=[Target("measured", "predicted", "at most")],
            note=f"A line that moves costs {move_ns:.0f} ns here.",
        )
