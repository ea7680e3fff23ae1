"""Readers while a collapser never stops: `ptl race` on this process, idle against collapsing, policy against policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ptl import race
from ptl.bench.measure import Finding, Target
from ptl.bench.settings import Size

GROUP = "readers while a collapser never stops"
REPEATS = 5
Result = Mapping[str, Any]


def results(size: Size, tick: Callable[[], None] = lambda: None) -> list[Result]:
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

    for what, latency, pace in ("read", "latency_ns", "translations_per_s"), ("fault", "fault_latency_ns", "faults_per_s"):
        kinds = {"idle": "no collapser", "file": "file", "anonymous": "anonymous"}
        is_target = what == "read"
        yield Finding(
            key=f"race-{what}-tail",
            group=GROUP,
            title=f"p99.9 of a {what}, no lock taken",
            unit="ns",
            costs={name: cost("epoch", kind, lambda n: n[latency]["p99.9"]) for kind, name in kinds.items()},
            ours=["file", "anonymous"],
            targets=[Target(kind, "no collapser", "at most", 1.2 if is_target else None) for kind in ("file", "anonymous")],
        )
        yield Finding(
            key=f"race-{what}-pace",
            group=GROUP,
            title=f"one {what}, no lock taken",
            unit="ns, of the rate",
            costs={name: cost("epoch", kind, lambda n: 1e9 / n[pace]) for kind, name in kinds.items()},
            ours=["file", "anonymous"],
            targets=[Target(kind, "no collapser", "at least", 0.9 if is_target else None) for kind in ("file", "anonymous")],
        )
    for kind in "file", "anonymous":
        for key, title, latency in (
            ("made", "p99.9 of the reads that are made", "latency_ns"),
            ("due", "p99.9 of a read that is due at a random moment", "arrival_latency_ns"),
        ):
            yield Finding(
                key=f"race-{kind}-{key}",
                group=GROUP,
                title=f"{title}, collapser of the {kind} kind",
                unit="ns",
                costs={policy: cost(policy, kind, lambda n: n[latency]["p99.9"]) for policy in race.POLICIES},
                ours=["epoch"],
                targets=[
                    Target("epoch", "mmap_lock", "at least", 100 if (kind, key) == ("anonymous", "due") else None),
                    Target("epoch", "vma_lock", "at least"),
                ],
                note="A read that waits keeps its thread from beginning others, so those made hide how long it waited."
                if key == "due"
                else "",
            )
