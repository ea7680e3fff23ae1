"""Histories of calls whose every step is dictated: what came of a schedule, on the core itself, with no luck in it.

The step hook stops each thread before each access to shared memory (ptl.lab), and a schedule says who goes on. Time is
the number of steps: a call begins with its first and ends with its last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from specification import UNMAPPED, Call, Operation, Region

import ptl
from ptl._core import Model
from ptl.lab import operations as op

Setup = Callable[[ptl.PageTable], object]


def ask(
    operation: Operation, page: int = 0, pages: int = 1, argument: int = 0, following: int = 0, thread: int = 0
) -> Call:
    """A call that has not been made yet."""
    return Call(0, 0, operation, page, pages, argument, following, 0, thread)


class Dictated:
    """A region of a table, and threads that each make some calls on it.

    setup: what the table is before. Where a call is a touch, each thread is a CPU with a TLB that is not checked: what
    it uses is told, right or wrong.
    """

    def __init__(self, region: Region, threads: Sequence[Sequence[Call]], setup: Setup):
        self.region, self.threads = region, threads
        pages_bytes = region.pages * region.page_bytes
        frames = ptl.Frames(64 * 32, frame_bytes=32, domain=ptl.EpochDomain())
        self.table = ptl.PageTable(region.arch, frames=frames)
        self.table.map(2 * pages_bytes, 0, region.page_bytes, "rw")  # so that the region's slot is there
        setup(self.table)
        self.tlbs: list[ptl.tlb.Tlb] = []
        if any(call.operation == Operation.TOUCH for calls in threads for call in calls):
            self.tlbs = [ptl.tlb.Tlb(sets=1, ways=4, check=False) for _ in threads]
            for tlb in reversed(self.tlbs):  # the last one attached is the first CPU
                tlb.attach(self.table)
        self.model = Model(
            self.table,
            [[self._operation(call, i) for call in calls] for i, calls in enumerate(threads)],
        )

    def history(self, schedule: Iterable[int]) -> list[Call]:
        """What the calls answered under that schedule, and then, one after another, what every page is translated to.

        Raises RuntimeError when they do not end.
        """
        times: dict[tuple[int, int], tuple[int, int]] = {}
        now = 0

        def watch(step: tuple[Any, ...]) -> None:
            nonlocal now
            now += 1
            begin, _ = times.get(step[:2], (now, now))
            times[step[:2]] = begin, now

        in_the_end: list[int] = []

        def read_all() -> None:
            for page in range(self.region.pages):
                try:
                    in_the_end.append(self.table.translate(page * self.region.page_bytes))
                except ptl.PageFault:
                    in_the_end.append(UNMAPPED)

        stuck = self.model.replay(schedule, watch, judge=read_all, checked=False)
        if stuck is not None:
            raise RuntimeError(f"{stuck[0]} of thread {stuck[1]}")
        calls = [
            call._replace(begin=times[i, j][0], end=times[i, j][1], answer=answer, thread=i)
            for i, (asked, answers) in enumerate(zip(self.threads, self.model.results(), strict=False))
            for j, (call, answer) in enumerate(zip(asked, answers, strict=True))
        ]
        for page, answer in enumerate(in_the_end):
            now += 1
            last = ask(Operation.TRANSLATE, page, thread=len(self.threads))
            calls.append(last._replace(begin=now, end=now, answer=answer))
        return sorted(calls)

    def histories(self, switches: int) -> Iterator[list[Call]]:
        """Of every schedule of two threads that changes from one to the other at most so often before one has ended."""
        seen = set()
        for schedule in self._schedules(switches):
            history = self.history(schedule)
            if tuple(history) not in seen:
                seen.add(tuple(history))
                yield history

    def _schedules(self, switches: int) -> Iterator[list[int]]:
        steps = []
        for first in range(2):
            counts = [0, 0]

            def watch(step: tuple[Any, ...], counts: list[int] = counts) -> None:
                counts[step[0]] += 1

            self.model.replay([first], watch, checked=False)
            steps.append(counts)
        most = [max(counts) for counts in zip(*steps, strict=True)]
        for first in range(2):
            yield [first]
            for begun in range(1, most[first]):
                yield [first] * begun + [1 - first]
                if switches > 1:
                    for other in range(1, most[1 - first]):
                        yield [first] * begun + [1 - first] * other + [first]

    def _operation(self, call: Call, cpu: int) -> tuple[str | int, ...]:
        """As the lab makes it."""
        region, at = self.region, call.page * self.region.page_bytes
        length = call.pages * region.page_bytes
        match call.operation:
            case Operation.TRANSLATE:
                made = op.translate(at)
            case Operation.LOOKUP:
                made = op.lookup(at)
            case Operation.MAP:
                made = op.map(at, region.pa(call.argument + 1, call.page), length)
            case Operation.UNMAP:
                made = op.unmap(at, length)
            case Operation.PROTECT:
                made = op.protect(at, length, "r" if call.argument else "rw")
            case Operation.COMPARE_EXCHANGE:
                expected, desired = (region.entry(value, call.page) for value in (call.argument, call.following))
                made = op.compare_exchange(at, expected, desired)
            case Operation.POPULATE:
                made = op.populate(at)
            case Operation.RETRACT:
                made = op.retract(at)
            case Operation.COLLAPSE:
                made = op.collapse(at)
            case Operation.SPLIT:
                made = op.split(at)
            case Operation.READ_TABLE:
                made = op.entries(at)
            case Operation.TOUCH:
                made = op.touch(at, cpu=cpu)
        return made.name, *made.numbers
