"""Readers and faults beside a collapser that never stops, with a core for each thread: what a lock costs them.

    core 0 .. n-2    readers, or fault threads, of which each operation is timed
    core n-1         the collapser: of the same table; of another table, which is the base of the ratios; or nobody;
                     or a thread that writes to the same entries, as hardware does, and makes no transitions

The collapser of another table makes all the noise that one of the same makes (the clock of the cores, the shared cache,
the interrupts of its grace periods) but meets no reader. Rounds are short and take turns, so that what happens seldom,
such as a host that takes a core, is in few rounds, and not in their median. A round in which the scheduler took a core
from a reader is begun again: how threads share too few cores is another question. A reader that gives its core up by
itself, to wait for somebody, is not spared: that is what a lock costs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from ptl import _race, arch, proc, race
from ptl._core import EpochDomain, Frames, PageTable
from ptl.bench.measure import Finding, Target
from ptl.bench.pages import GIB, HUGE, PA, PAGE, VA
from ptl.bench.settings import Size

GROUP = "readers and faults beside a collapser that never stops, a core for each thread"
ROUND_NS = 5_000_000
ROUNDS_A_SECOND = 40
"""For each second that the other races take, of which each is a round of every side."""
POOLED = 10
"""So many rounds are one sample of the operations made: in one alone, some sides make too few to have a thousandth."""
ATTEMPTS = 5
OTHER_PAGES = 1 << 15
ROLES = "read", "fault"
KINDS = "file", "anonymous"
TOUCH = "touch"
ELSEWHERE = "epoch, collapser on another table"
ALONE = "epoch, no collapser"
TOUCHED = "epoch, entries touched, no transition"
Buckets = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Side:
    """A course, and the one that the collapser is on, which may be another, or none."""

    course: _race.Course
    collapsed: _race.Course | None
    kind: str


@dataclass(frozen=True, slots=True)
class Round:
    """What came out of one round of a side."""

    cost_ns: float
    """Of an operation: the time of all readers over what they did."""
    buckets: Buckets
    is_preempted: bool


def findings(size: Size, tick: Callable[[], None] = lambda: None) -> Iterator[Finding]:
    """For both roles and both kinds: the tail of operations that are due and that are made, and the pace."""
    cores = _cores()
    if len(cores) < 2:
        return
    sides, rounds = _sides(), max(2 * POOLED, round(size.race_seconds * ROUNDS_A_SECOND))
    with _Crew(cores) as crew:
        for role in ROLES:
            found: dict[tuple[str, str], list[Round]] = {key: [] for key in sides}
            order = list(sides)
            for turn in range(rounds):
                first = turn % len(order)
                for key in (*order[first:], *order[:first]):
                    found[key].append(crew.undisturbed(sides[key], role, turn))
            for kind in KINDS:
                yield from _of_kind(role, kind, {name: found[each, name] for each, name in found if each == kind})
            tick()


def _sides() -> dict[tuple[str, str], Side]:
    """By kind and name. A policy has one course, whoever is beside it."""
    field = _field()
    courses = {policy: _course(field, policy) for policy in race.POLICIES}
    other = _course(field, "epoch")
    sides = {}
    for kind in KINDS:
        for policy, course in courses.items():
            sides[kind, policy] = Side(course, course, kind)
        sides[kind, ELSEWHERE] = Side(courses["epoch"], other, kind)
        sides[kind, ALONE] = Side(courses["epoch"], None, kind)
    sides["file", TOUCHED] = Side(courses["epoch"], courses["epoch"], TOUCH)
    return sides


def _field() -> race.Field:
    """Regions to collapse, regions to fault in, and pages that nobody changes, each kind a mapping of its own."""
    collapsing = tuple((VA + n * HUGE, 0) for n in range(race.REGIONS))
    faulting = tuple((VA + GIB + n * HUGE, 1) for n in range(race.REGIONS))
    pages = (proc.Placed(VA + 2 * GIB, PA, OTHER_PAGES * PAGE, PAGE, "rw", 2),)
    spans = tuple((VA + n * GIB, VA + (n + 1) * GIB - 1) for n in range(3))
    layout = proc.Layout(arch.get("x86_64"), spans, pages, relocated=False, frames_made_up=True)
    return race.Field(layout, collapsing, faulting, pages, filled=0)


def _course(field: race.Field, policy: str) -> _race.Course:
    return race.lay_course(field, PageTable("x86_64", frames=Frames(GIB, domain=EpochDomain())), policy)


class _Crew:
    """A thread for each core. Whoever asks for rounds stays on the collapser's, so that it takes none from a reader."""

    def __init__(self, cores: Sequence[int]) -> None:
        self.cores = cores
        self.pool = ThreadPoolExecutor(len(cores))

    def __enter__(self) -> Self:
        self.allowed = _stay_on({self.cores[-1]})
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()
        _stay_on(self.allowed)

    def undisturbed(self, side: Side, role: str, seed: int) -> Round:
        """The first round in which the scheduler took no core from a reader, or the last of some."""
        for _ in range(ATTEMPTS):
            found = self.round(side, role, seed)
            if not found.is_preempted:
                break
        return found

    def round(self, side: Side, role: str, seed: int) -> Round:
        """The readers read or fault for the time of a round, while the collapser, if there is one, collapses."""
        *of_readers, of_collapser = self.cores
        readers = [_race.Runner(side.course, (seed << 12) + number) for number in range(len(of_readers))]
        courses = [side.course] if side.collapsed is None else [side.course, side.collapsed]
        ready = threading.Barrier(len(readers) + len(courses[1:]))

        def operate(number: int) -> tuple[int, bool]:
            """One reader's round: how long it was, and whether the scheduler took the core."""
            share = race.REGIONS // len(readers)
            _stay_on({of_readers[number]})
            ready.wait()
            before, begun = _preemptions(), time.perf_counter_ns()
            try:
                if role == "read":
                    readers[number].read(nanoseconds=ROUND_NS)
                else:
                    readers[number].fault(number * share, share, naps=False, nanoseconds=ROUND_NS)
            finally:
                for course in courses:
                    course.stop()
            return time.perf_counter_ns() - begun, _preemptions() > before

        def collapse(course: _race.Course) -> None:
            _stay_on({of_collapser})
            ready.wait()
            runner = _race.Runner(course, seed)
            if side.kind == TOUCH:
                runner.touch_lines()
            else:
                runner.collapse(side.kind)

        for course in courses:
            course.resume()
        collapsing = [self.pool.submit(collapse, course) for course in courses[1:]]
        reading = [self.pool.submit(operate, number) for number in range(len(readers))]
        spent_ns, preempted = zip(*(each.result() for each in reading), strict=True)
        for each in collapsing:
            each.result()
        wrong = sum(runner.wrong + runner.failures for runner in readers)
        if wrong:
            raise race.RaceError(f"{side.course.policy_name}, {side.kind}: {wrong} wrong translations or failed faults")
        return Round(
            cost_ns=sum(spent_ns) / sum(runner.done for runner in readers),
            buckets=race.add_buckets(runner.latencies.buckets() for runner in readers),
            is_preempted=any(preempted),
        )


def _cores() -> Sequence[int]:
    """Those to use: one for the collapser, and no more for readers than there are regions to fault in."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return cores[: race.REGIONS + 1]


def _stay_on(cores: set[int]) -> set[int]:
    """Keep this thread on these cores, where the system can be told; returns those that it was on."""
    if not hasattr(os, "sched_setaffinity"):
        return cores
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    return before


def _preemptions() -> int:
    """How often the scheduler took the core from this thread, where the system counts it."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (ImportError, AttributeError):
        return 0


def _of_kind(role: str, kind: str, rounds: Mapping[str, Sequence[Round]]) -> Iterator[Finding]:
    """An operation that is due; those that are made; the pace."""
    is_read = role == "read"
    mmap_times = 100 if is_read and kind == "anonymous" else None

    def finding(
        key: str, title: str, unit: str, costs: Mapping[str, Sequence[float]], note: str, *targets: Target
    ) -> Finding:
        key, title = f"readers-{role}-{kind}-{key}", f"{title}, collapser of the {kind} kind"
        return Finding(key, GROUP, title, unit, costs, ["epoch"], targets, note)

    def costs(of: Callable[[Sequence[Round]], float], pooled: int) -> dict[str, list[float]]:
        return {
            name: [of(of_side[first : first + pooled]) for first in range(0, len(of_side) - pooled + 1, pooled)]
            for name, of_side in rounds.items()
        }

    def tail(quantiles: Callable[[Buckets], Mapping[str, int]]) -> Callable[[Sequence[Round]], float]:
        return lambda pool: quantiles(race.add_buckets(each.buckets for each in pool))["p99.9"]

    preempted = [each.is_preempted for of_side in rounds.values() for each in of_side]
    yield finding(
        "due",
        f"p99.9 of a {role} that is due at a random moment",
        "ns",
        costs(tail(race.arrival_quantiles), 1),
        f"The scheduler took a core from a reader {ATTEMPTS} times in {sum(preempted)} of {len(preempted)} rounds.",
        Target("epoch", ELSEWHERE, "at most", 1.2 if is_read else None),
        Target("epoch", ALONE, "at most"),
        Target("epoch", "mmap_lock", "at least"),
        Target("epoch", "vma_lock", "at least"),
        Target(ALONE, "mmap_lock", "at least"),
    )
    yield finding(
        "made",
        f"p99.9 of the {role}s that are made",
        "ns",
        costs(tail(race.quantiles), POOLED),
        "A thread that waits makes no others meanwhile: so this hides waits, most of those who wait most.",
        Target("epoch", ELSEWHERE, "at most"),
        Target("epoch", ALONE, "at most"),
        Target("epoch", "mmap_lock", "at least", mmap_times),
        Target("epoch", "vma_lock", "at least"),
    )
    yield finding(
        "pace",
        f"one {role}",
        "ns, of the rate",
        costs(lambda pool: pool[0].cost_ns, 1),
        "Lines that another core has just written have to come from there, whatever it wrote them for.",
        Target("epoch", ELSEWHERE, "at least", 0.9 if is_read else None),
        Target("epoch", ALONE, "at least"),
        Target("epoch", TOUCHED, "at least"),
        Target(TOUCHED, ELSEWHERE, "at least"),
        Target("epoch", "mmap_lock", "at least"),
        Target("epoch", "vma_lock", "at least"),
    )
