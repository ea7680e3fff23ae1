"""The whole suite, in order; and its result as one object that JSON can hold.

contests --measure--> findings --> result --> table, page, JSON
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ptl._version import __version__
from ptl.bench import (
    batch,
    curves,
    instructions,
    iteration,
    memory,
    peers,
    races,
    ranges,
    readers,
    reclamation,
    scaling,
    sharing,
    single,
)
from ptl.bench.measure import Contest, Finding, Quartiles
from ptl.bench.native import Missing
from ptl.bench.settings import Size

Tick = Callable[[str], None]
SECTIONS = {
    "batch": batch.contests,
    "single": single.contests,
    "ranges": ranges.contests,
    "iteration": iteration.contests,
    "sharing": sharing.contests,
    "reclamation": reclamation.contests,
    "scaling": scaling.contests,
}
"""The parts that are nothing but contests."""
PARTS: Sequence[str] = (*SECTIONS, "memory", "curves", "race", "instructions")


def run(size: Size, parts: Sequence[str] = PARTS, tick: Tick = lambda what: None) -> dict[str, Any]:
    """Measure the parts asked for and return the result: see `docs/performance.md` for every key.

    tick: called with a few words before each thing that is measured.

    Raises ValueError for a part that there is not, Disagreement when a peer gives another answer than ptl.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"there are no parts {', '.join(unknown)}; those of the suite are {', '.join(PARTS)}")
    tick("the peers: compiling those that are new")
    result: dict[str, Any] = {
        "ptl": __version__,
        "python": platform.python_version(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "processor": _processor(),
        "compiler": sysconfig.get_config_var("CC") or "",
        "parts": list(parts),
        "missing": [{"name": name, "why": why} for name, why in peers.missing()],
        "findings": [],
        "curves": [],
        "races": [],
        "instructions": {},
    }
    measured = list(_contests(size, parts, tick))
    result["findings"] += [_plain(finding) for finding in (*measured, *scaling.prediction(measured))]
    if "memory" in parts:
        tick("memory")
        result["findings"] += [_plain(finding) for finding in memory.findings(size)]
    if "curves" in parts:
        for count, contest in curves.contests(size):
            tick(contest.title)
            result["curves"].append({"pages": count, **_plain(contest.measure(size.effort.part(0.25)))})
    if "race" in parts:
        tick(readers.GROUP)
        result["findings"] += [_plain(finding) for finding in readers.findings(size, lambda: tick(readers.GROUP))]
        tick("races of readers against a collapser")
        found = races.results(size, lambda: tick("races of readers against a collapser"))
        result["races"] = found
        result["findings"] += [_plain(finding) for finding in races.findings(found)]
    if "instructions" in parts:
        tick("instructions, counted by callgrind")
        try:
            result["instructions"] = instructions.count()
        except Missing as reason:
            result["missing"].append({"name": "callgrind", "why": str(reason)})
    return result


def _contests(size: Size, parts: Sequence[str], tick: Tick) -> Iterator[Finding]:
    for part, contests in SECTIONS.items():
        if part not in parts:
            continue
        contest: Contest | None
        for contest in contests(size):
            tick(contest.title)
            yield contest.measure(size.effort)
            contest = None  # and all its tables and maps, before the next are made
            gc.collect()


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding as JSON holds it: the raw samples, and what follows from them."""
    return {
        "key": finding.key,
        "group": finding.group,
        "title": finding.title,
        "unit": finding.unit,
        "note": finding.note,
        "ours": list(finding.ours),
        "costs": {name: asdict(Quartiles.of(samples)) for name, samples in finding.costs.items()},
        "samples": {name: list(samples) for name, samples in finding.costs.items()},
        "comparisons": [
            {**asdict(comparison), "is_met": comparison.is_met, "missed_by": comparison.missed_by}
            for comparison in finding.comparisons()
        ],
    }


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
