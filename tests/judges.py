"""Which emulated CPUs judged what in this run: counted where they judge, told at the end by conftest.py.

A run may be spread over several processes (pytest-xdist): each sends what it counted to the one that tells.
"""

from __future__ import annotations

from collections import Counter, defaultdict

probes: Counter[tuple[str, str]] = Counter()
"""How many accesses were judged, by judge and architecture."""
instructions: Counter[tuple[str, str]] = Counter()
"""How many instructions of a program were executed, by judge and architecture."""
versions: defaultdict[str, set[str]] = defaultdict(set)
"""Of each judge that is there."""
absent: dict[str, str] = {}
"""Why a judge is not there."""

Report = tuple[dict[str, int], dict[str, int], dict[str, list[str]], dict[str, str]]


def report() -> Report:
    """What this process counted, in types that can be sent to another."""
    return (
        {" ".join(key): count for key, count in probes.items()},
        {" ".join(key): count for key, count in instructions.items()},
        {judge: sorted(known) for judge, known in versions.items()},
        dict(absent),
    )


def add(other: Report) -> None:
    """Count what another process counted."""
    for counter, counts in zip((probes, instructions), other, strict=False):
        for key, count in counts.items():
            judge, arch = key.split(" ", 1)
            counter[judge, arch] += count
    for judge, known in other[2].items():
        versions[judge] |= set(known)
    absent.update(other[3])


def lines() -> list[str]:
    """One line for each judge."""
    told = [f"oracles: no {judge} ({why})" for judge, why in sorted(absent.items())]
    for judge, known in sorted(versions.items()):
        judged = []
        for name, arch in sorted(probes.keys() | instructions.keys()):
            if name == judge:
                executed = instructions[judge, arch]
                judged.append(
                    f"{arch} ({probes[judge, arch]:,} probes{f', {executed:,} instructions' if executed else ''})"
                )
        told.append(f"oracles: {judge} {' and '.join(sorted(known))} judged {', '.join(judged) or 'nothing'}")
    return told
