"""`ptl race` on this process, idle against collapsing, policy against policy: where cores are few, they are shared.

What a lock costs without that is in readers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from ptl import race
from ptl.bench.measure import Bound, Finding, Target
from ptl.bench.settings import Size

GROUP = "ptl race as it is: more threads than cores, where those are few"
REPEATS = 3
IDLE = "no collapser"
COLLAPSING = "file", "anonymous"
Result = Mapping[str, Any]


def results(size: Size, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """The race, several times over."""
    settings = race.Settings(seconds=len(race.KINDS) * size.race_seconds)
    found = []
    for _ in range(REPEATS):
        found.append(race.run(settings))
        tick()
    return found


def findings(races: Sequence[Result]) -> Iterator[Finding]:
    """The tail and the pace of reads and faults, idle against collapsing; then the policies against each other."""

    def cost(policy: str, kind: str, of: Callable[[Mapping[str, Any]], float]) -> list[float]:
        return [of(each["policies"][policy]["kinds"][kind]) for each in races]

    def tail(latency: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda numbers: numbers[latency]["p99.9"]

    def pace(rate: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda numbers: 1e9 / numbers[rate] if numbers[rate] else 0.0

    names = {"idle": IDLE, "file": "file", "anonymous": "anonymous"}
    for what, latency, rate in (
        ("read", "latency_ns", "translations_per_s"),
        ("fault", "fault_latency_ns", "faults_per_s"),
    ):
        for key, title, unit, of, bound in (
            ("tail", f"race: p99.9 of a {what}, no lock taken", "ns", tail(latency), "at most"),
            ("pace", f"race: one {what}, no lock taken", "ns, of the rate", pace(rate), "at least"),
        ):
            yield Finding(
                key=f"race-{what}-{key}",
                group=GROUP,
                title=title,
                unit=unit,
                costs={name: cost("epoch", kind, of) for kind, name in names.items()},
                ours=COLLAPSING,
                targets=[Target(kind, IDLE, cast(Bound, bound)) for kind in COLLAPSING],
            )
    for kind in COLLAPSING:
        for key, title, latency in (
            ("made", "race: p99.9 of the reads that are made", "latency_ns"),
            ("due", "race: p99.9 of a read that is due at a random moment", "arrival_latency_ns"),
        ):
            yield Finding(
                key=f"race-{kind}-{key}",
                group=GROUP,
                title=f"{title}, collapser of the {kind} kind",
                unit="ns",
                costs={policy: cost(policy, kind, tail(latency)) for policy in race.POLICIES},
                ours=["epoch"],
                targets=[Target("epoch", "mmap_lock", "at least"), Target("epoch", "vma_lock", "at least")],
            )
