"""`explore`: every interleaving of a few threads, by one of two engines, and what came of it.

threads of operations      the core itself, replayed once for each class of interleavings     (ptl._core.Model)
threads of Python          the states of a small machine, each visited once                   (ptl.lab.states)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from ptl import arch as architectures
from ptl._core import UNMAPPED, EpochDomain, Frames, InvariantError, Model, PageTable, Tlb
from ptl.arch import Arch
from ptl.lab import schedule as schedules
from ptl.lab import states
from ptl.lab.machine import State
from ptl.lab.operations import Operation
from ptl.lab.paths import MakesPath

Twin: TypeAlias = Literal["empty", "fork", "snapshot"]
Verdict: TypeAlias = Literal["proved", "bounded", "failed"]
Setup: TypeAlias = Callable[[PageTable], object]
Prepare: TypeAlias = Callable[[PageTable, PageTable], object]
Invariant: TypeAlias = Callable[[PageTable], str | None]
"""Called at each new state of rest: None, or what is wrong."""

NO_SERIAL_ORDER = "no serial order gives this result"
NAMES_OF_TABLES = re.compile("(?:root|table at) (0x[0-9a-f]+)")
SHORTEN_EXECUTIONS = 20_000
"""How many executions are spent on each number of preemptions to find a schedule with fewer."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """What came of exploring."""

    engine: Literal["core", "states"]
    verdict: Verdict
    """proved: every interleaving, and nothing is wrong. bounded: nothing is wrong in those that were run. failed."""
    executions: int
    """How many were run (core), or steps from state to state (states)."""
    classes: int | None
    """Interleavings that differ in more than the order of steps that commute; None when not counted."""
    interleavings: int | None
    """How many in all; None when not counted, or when there is no end to them."""
    states: int
    """Different states at rest (core), or of everything (states)."""
    steps: int
    longest: int
    """Steps of the longest execution."""
    seconds: float
    kind: str = ""
    """What went wrong, in a word."""
    detail: str = ""
    schedule: str | None = None
    """The shortest schedule found that goes wrong."""

    def __bool__(self) -> bool:
        """Whether nothing is wrong."""
        return self.verdict != "failed"

    def __str__(self) -> str:
        counts = [
            f"{number:,} {what}"
            for number, what in (
                (self.interleavings, "interleavings"),
                (self.classes, "classes"),
                (self.executions if self.verdict == "bounded" else None, "executions"),
                (self.states, "states" if self.engine == "states" else "states at rest"),
                (self.steps, "steps"),
            )
            if number is not None
        ]
        words = f"{self.verdict}: {self.kind}, {self.detail}" if self.kind else self.verdict
        where = f"; schedule {self.schedule}" if self.schedule is not None else ""
        return f"{words}{where} ({', '.join(counts)} in {self.seconds:.2f} s)"


@dataclass
class Laboratory:
    """A table of the core, the threads that work on it, and the ways to run them."""

    threads: Sequence[Sequence[Operation]]
    setup: Setup | None = None
    invariant: Invariant | None = None
    arch: str | Arch = "tiny"
    frames: int = 64
    batch_tables: int = 64
    memory: str = "sc"
    locks: str = "whole"
    barrier: str = "membarrier"
    is_serialisable: bool = True
    """Whether each execution has to give what some serial order of whole operations gives."""
    is_left_inside: bool = False
    """Whether threads end inside a section, so that tables may stay in limbo."""
    tlbs: int = 0
    """How many CPUs use the table, each with a TLB that every change flushes."""
    unattached: int = 0
    """How many CPUs more there are, that an operation may attach; they are numbered after the others."""
    twin: Twin | None = None
    """What other table there is in the same frames: an empty one, for an operation that forks, or one that shares."""
    prepare: Prepare | None = None
    """Called with both tables, before anything is explored."""
    other: PageTable | None = field(init=False, default=None)
    table: PageTable = field(init=False)
    model: Model = field(init=False)
    _tlbs: list[Tlb] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        described = architectures.get(self.arch) if isinstance(self.arch, str) else self.arch
        frame_bytes = min(described.table_bytes(level) for level in range(1, described.levels + 1))
        domain = EpochDomain(batch_tables=self.batch_tables)
        frames = Frames(self.frames * frame_bytes, frame_bytes=frame_bytes, domain=domain)
        self.table = PageTable(described, frames=frames)
        if self.setup is not None:
            self.setup(self.table)
        self._tlbs = [Tlb(sets=1, ways=2) for _ in range(self.tlbs)]
        for tlb in self._tlbs:
            tlb.attach(self.table)
        if self.twin == "empty":
            self.other = PageTable(described, frames=frames)
        elif self.twin is not None:
            self.other = self.table.fork() if self.twin == "fork" else self.table.snapshot()
        if self.prepare is not None and self.other is not None:
            self.prepare(self.table, self.other)
        self.model = Model(
            self.table,
            [[(each.name, *each.numbers) for each in operations] for operations in self.threads],
            memory=self.memory,
            locks=self.locks,
            barrier=self.barrier,
            unattached=[Tlb(sets=1, ways=2) for _ in range(self.unattached)],
            twin=self.other,
        )
        if self.is_serialisable:
            self.model.explore(self.judge, serial=True)

    def judge(self) -> str | None:
        """Look at the world at rest: None, or what is wrong."""
        table = self.table
        both = [table] if self.other is None else [table, self.other]
        try:
            for each in both:
                each.check()
        except InvariantError as error:
            return str(error)
        table.frames.domain.reclaim()
        waiting = table.frames.domain.stats()["limbo"]
        named = set().union(*(NAMES_OF_TABLES.findall(each.dump()) for each in both))
        lost = table.frames.stats()["tables"] - len(named) - (waiting if self.is_left_inside else 0)
        if lost:
            return f"leak: {lost} tables are in nobody's hands"
        return self.invariant(table) if self.invariant is not None else None

    def explore(self, *, preemptions: int | None = None, most: int | None = None) -> Exploration:
        """Every interleaving; or those with at most so many preemptions, or at most so many executions."""
        begun = time.perf_counter()
        told = self.model.explore(self.judge, bound=preemptions, most=most, any_outcome=not self.is_serialisable)
        is_bounded = preemptions is not None or not told["complete"]
        return self._result(told, "bounded" if is_bounded else "proved", begun, shorten=preemptions is None)

    def sample(self, seed: int, most: int, *, changes: int = 3) -> Exploration:
        """Random schedules (PCT): thread with the highest priority first, priorities changed at a few random steps."""
        begun = time.perf_counter()
        length = self.model.sample(self.judge, seed, most=1, changes=0, length=1, any_outcome=True)["longest"]
        told = self.model.sample(
            self.judge, seed, most=most, changes=changes, length=length, any_outcome=not self.is_serialisable
        )
        return self._result(told, "bounded", begun, shorten=True)

    def _result(self, told: Mapping[str, Any], verdict: Verdict, begun: float, *, shorten: bool) -> Exploration:
        kind = detail = ""
        text = None
        if told["failure"] is not None:
            verdict = "failed"
            kind, detail = words_of(told["failure"])
            text = self._shortest(told["schedule"], kind) if shorten else schedules.text_of(told["schedule"])
            if kind == NO_SERIAL_ORDER:
                detail = self._returned(text)
        return Exploration(
            engine="core",
            verdict=verdict,
            executions=told["executions"] + told["redundant"],
            classes=told["classes"] if verdict == "proved" else None,
            interleavings=None,
            states=told["worlds"],
            steps=told["steps"],
            longest=told["longest"],
            seconds=time.perf_counter() - begun,
            kind=kind,
            detail=detail,
            schedule=text,
        )

    def _shortest(self, actors: list[int], kind: str) -> str:
        """A schedule that fails in the same way, with as few preemptions as can be found, and no needless end."""
        for bound in range(schedules.preemptions(actors)):
            told = self.model.explore(
                self.judge, bound=bound, most=SHORTEN_EXECUTIONS, any_outcome=not self.is_serialisable
            )
            failure = told["failure"]
            if failure is not None and words_of(failure)[0] == kind and told["schedule"] is not None:
                actors = told["schedule"]
                break
        parts = schedules.runs(actors)
        for place in range(len(parts) - 1, -1, -1):  # a store buffer that its thread waits for empties itself
            fewer = parts[:place] + parts[place + 1 :]
            if parts[place][0] >= schedules.THREADS and self._fails(fewer, kind):
                parts = fewer
        while len(parts) > 1 and self._fails(parts[:-1], kind):
            parts = parts[:-1]
        if self._fails([*parts[:-1], (parts[-1][0], 1)], kind):
            parts[-1] = parts[-1][0], 1
        return schedules.text_of(schedules.actors_of(parts))

    def _returned(self, schedule: str) -> str:
        """What each operation returned under a schedule: pages as addresses, everything else as the C level says it."""
        self.model.replay(schedules.parse(schedule), None)
        words = []
        for letter, operations, results in zip(schedules.LETTERS, self.threads, self.model.results(), strict=False):
            for operation, result in zip(operations, results, strict=False):
                told = "nothing mapped" if result == UNMAPPED else f"{result:#x}"
                words.append(f"{letter}: {operation} gives {told}")
        return "; ".join(words)

    def _fails(self, parts: Sequence[tuple[int, int]], kind: str) -> bool:
        failure = self.model.replay(schedules.actors_of(parts), None, judge=self.judge)
        return failure is not None and words_of(failure)[0] == kind


def words_of(failure: tuple[str, int, tuple[str | int, ...] | None, str | None]) -> tuple[str, str]:
    """A failure of the core in words: its kind, and more about it."""
    kind, actor, where, wrong = failure
    if wrong is not None:
        return ("leak" if wrong.startswith("leak") else kind), wrong
    detail = f"by thread {schedules.LETTERS[actor]}"
    if where:
        detail += f", {place_of(where)}"
    return kind, detail


def place_of(name: tuple[object, ...]) -> str:
    """What `Model` calls an address, in words."""
    match name:
        case ():
            return ""
        case ("entry", table, _level, index):
            return f"table {table}[{index}]"
        case ("table", number, field_name):
            return f"table {number}" + (f" {field_name}" if field_name else "")
        case ("record", thread, field_name):
            return f"{schedules.LETTERS[cast(int, thread)]}'s {field_name}"
    return str(name[0])


def explore(
    threads: Sequence[Sequence[Operation]] | Sequence[MakesPath],
    *,
    setup: Setup | None = None,
    start: State | None = None,
    invariant: Invariant | None = None,
    ensures: states.Ensures | None = None,
    arch: str | Arch = "tiny",
    frames: int = 64,
    batch_tables: int = 64,
    memory: str = "sc",
    locks: str = "whole",
    barrier: str = "membarrier",
    is_serialisable: bool = True,
    is_left_inside: bool = False,
    tlbs: int = 0,
    unattached: int = 0,
    twin: Twin | None = None,
    prepare: Prepare | None = None,
    preemptions: int | None = None,
    most: int | None = None,
) -> Exploration:
    """Run every interleaving of a few threads, one atomic step at a time, and say what is wrong in any of them.

    threads: of operations of the core (`ptl.lab.operations`), after `setup(table)`; or paths, functions that return a
        generator of steps (`ptl.lab.paths`), from the state `start`.
    invariant, ensures: called at rest, with the table or the state: None, or what is wrong.
    memory: "sc", or "tso" for a store buffer a thread. locks: "whole", or "inside" to step through the lock itself.
    barrier: whose the barrier of a section is: "membarrier", "each section", or "none", the mistake.
    is_serialisable: whether each execution has to give what some serial order of whole operations gives.
    is_left_inside: whether threads end inside a section, so that tables may stay in limbo.
    tlbs: how many CPUs use the table, each with a TLB that every change flushes.
    unattached: how many CPUs more there are, that `attach` lets use it.
    twin: what other table there is in the same frames, for operations `on_twin`: "empty", "fork" or "snapshot".
    prepare: called with both of them before anything is explored.
    preemptions, most: bounds; then nothing is proved.

    Blocking; gives up the GIL for the core. Raises ValueError for what a lab cannot drive.

    >>> from ptl import lab
    >>> from ptl.lab import operations as op
    >>> result = lab.explore(
    ...     [[op.unmap(0x1000)], [op.collapse(0)]], setup=lambda pt: pt.map(0, 0x10000, 0x4000, page_size=4096)
    ... )
    >>> result.verdict
    'proved'
    """
    if not threads:
        raise ValueError("a lab needs at least one thread")
    if callable(threads[0]):
        if start is None:
            raise ValueError("paths need the state that they start from: start=ptl.lab.machine.start(...)")
        return explore_paths(cast(Sequence[MakesPath], threads), start, ensures)
    laboratory = Laboratory(
        cast(Sequence[Sequence[Operation]], threads),
        setup=setup,
        invariant=invariant,
        arch=arch,
        frames=frames,
        batch_tables=batch_tables,
        memory=memory,
        locks=locks,
        barrier=barrier,
        is_serialisable=is_serialisable,
        is_left_inside=is_left_inside,
        tlbs=tlbs,
        unattached=unattached,
        twin=twin,
        prepare=prepare,
    )
    return laboratory.explore(preemptions=preemptions, most=most)


def explore_paths(paths: Iterable[MakesPath], start: State, ensures: states.Ensures | None = None) -> Exploration:
    """Visit every state of paths written in Python."""
    begun = time.perf_counter()
    graph = states.explore(list(paths), start, ensures)
    kind, detail, way = graph.wrong or ("", "", None)
    ways = states.interleavings(graph) if way is None else None
    edges = sum(len(following) for following in graph.edges.values())
    return Exploration(
        engine="states",
        verdict="proved" if way is None else "failed",
        executions=edges,
        classes=states.classes(graph) if way is None and ways is not None else None,
        interleavings=ways,
        states=len(graph.edges),
        steps=edges,
        longest=states.longest(graph) if ways is not None else 0,
        seconds=time.perf_counter() - begun,
        kind=kind,
        detail=detail,
        schedule=None if way is None else schedules.text_of(way),
    )
