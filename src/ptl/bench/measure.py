"""Measure things against each other: in turn, within one run, many times.

A machine that does other work too has no times worth keeping, but whatever slows one side for a while slows the other:
so sides take turns, every round runs each of them once, and what is kept is the ratio within a round. Its median, and
the quartiles that say how far to trust it, are the result.

    round 1    ours   peer A  peer B        ratio of round 1: peer A / ours, peer B / ours
    round 2    peer A peer B  ours          the order rotates, so nobody always comes after the same
    ...
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Bound = Literal["at most", "at least"]
Clock = Literal["cpu", "wall"]
CLOCKS: dict[Clock, Callable[[], int]] = {"cpu": time.thread_time_ns, "wall": time.perf_counter_ns}


@dataclass(frozen=True, slots=True)
class Side:
    """One way to do the work of a contest: `run` does it `operations` times, after an untimed `prepare`."""

    name: str
    run: Callable[[], Any]
    operations: int
    prepare: Callable[[], object] = lambda: None
    tells: bool = False
    """Whether `run` returns its own nanoseconds: a difference, which no clock around it shows."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a side of ours is to reach: *at most* so many times the cost of a peer, *at least* so many times its speed.

    times: None to compare the two without a target.
    """

    ours: str
    peer: str
    bound: Bound
    times: float | None = None


LEAST = 0.01
"""Of a cost, in nanoseconds or bytes, where a ratio is taken: what no clock here can tell from nothing."""


@dataclass(frozen=True, slots=True)
class Quartiles:
    """The middle of many samples, and the half of them around it."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quartiles:
        """Of at least one sample."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One side of ours beside one peer: a line of the report."""

    ours: str
    peer: str
    bound: Bound
    ratio: Quartiles
    target: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached by the median; None where there is none."""
        if self.target is None:
            return None
        return self.ratio.median <= self.target if self.bound == "at most" else self.ratio.median >= self.target

    @property
    def missed_by(self) -> float:
        """How many times better it would have to be: 1 or less when the target is met."""
        if self.target is None:
            return 1.0
        ratio = self.ratio.median
        return ratio / self.target if self.bound == "at most" else self.target / ratio if ratio else float("inf")


@dataclass(frozen=True, slots=True)
class Finding:
    """What each side costs, sample by sample: sample *i* of every side was taken in round *i*."""

    key: str
    group: str
    title: str
    unit: str
    costs: Mapping[str, Sequence[float]]
    ours: Sequence[str]
    targets: Sequence[Target] = ()
    note: str = ""

    def comparisons(self) -> list[Comparison]:
        """Each target; and ours beside every peer that no target names."""
        found = [
            Comparison(t.ours, t.peer, t.bound, self.ratio(t.ours, t.peer, t.bound), t.times)
            for t in self.targets
            if t.ours in self.costs and t.peer in self.costs
        ]
        named = {comparison.peer for comparison in found} | set(self.ours)
        for peer in self.costs:
            if peer not in named and self.ours[0] in self.costs:
                ratio = self.ratio(self.ours[0], peer, "at least")
                found.append(Comparison(self.ours[0], peer, "at least", ratio, None))
        return found

    def ratio(self, ours: str, peer: str, bound: Bound) -> Quartiles:
        """Cost of ours over that of the peer for *at most*, the inverse for *at least*; round by round."""
        over, under = (ours, peer) if bound == "at most" else (peer, ours)
        pairs = zip(self.costs[over], self.costs[under], strict=True)
        return Quartiles.of([max(a, LEAST) / max(b, LEAST) for a, b in pairs])


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds until `seconds` are over, but never fewer or more than so many."""

    seconds: float
    least_rounds: int = 5
    most_rounds: int = 101

    def part(self, share: float) -> Effort:
        """The same with a share of the time."""
        return Effort(self.seconds * share, self.least_rounds, self.most_rounds)


@dataclass(slots=True)
class Contest:
    """Several sides that do the same work, in the unit of one operation of it."""

    key: str
    group: str
    title: str
    unit: str
    ours: Sequence[Side]
    peers: Sequence[Side]
    targets: Sequence[Target] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    """Costs that a target names and nobody has to measure."""
    clock: Clock = "cpu"
    note: str = ""
    check: Callable[[], None] = field(default=lambda: None)
    """Raises when the sides do not give the same answers: then there is nothing to compare."""

    def measure(self, effort: Effort) -> Finding:
        """Run everybody once untimed, check, then take turns."""
        sides = [*self.ours, *self.peers]
        now = CLOCKS[self.clock]
        costs: dict[str, list[float]] = {side.name: [] for side in sides}
        for side in sides:
            side.prepare()
            side.run()
        self.check()
        gc.collect()
        enabled = gc.isenabled()
        gc.disable()
        try:
            end = time.monotonic() + effort.seconds
            for turn in range(effort.most_rounds):
                if turn >= effort.least_rounds and time.monotonic() >= end:
                    break
                first = turn % len(sides)
                for side in (*sides[first:], *sides[:first]):
                    side.prepare()
                    begun = now()
                    told = side.run()
                    taken = told if side.tells else now() - begun
                    costs[side.name].append(taken / side.operations)
        finally:
            if enabled:
                gc.enable()
        rounds = len(costs[sides[0].name])
        return Finding(
            self.key,
            self.group,
            self.title,
            self.unit,
            costs | {name: [cost] * rounds for name, cost in self.constants.items()},
            [side.name for side in self.ours],
            self.targets,
            self.note,
        )


class Disagreement(AssertionError):
    """Two sides of a contest gave different answers."""


def agree(answers: Mapping[str, Sequence[int]]) -> None:
    """Raise Disagreement unless all answers are the same, position by position."""
    (first, expected), *others = answers.items()
    for name, found in others:
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            if a != b:
                raise Disagreement(f"answer {i} is {a:#x} by {first} and {b:#x} by {name}")
