"""A run of the benchmark suite in the terminal: for each work what every side costs, and ours beside each peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ptl.show.units import plural, share, three

Result = Mapping[str, Any]
Finding = Mapping[str, Any]

RATIO: Final = (
    "ratio: how many times cheaper ours is than the peer; where the target is ≤, how many times dearer. "
    "The median of all rounds, ± half the distance between the quartiles."
)

_MARKS: Final = {True: "met", None: ""}
_COLOURS: Final = {True: "green", False: "red", None: ""}


def render(result: Result) -> RenderableType:
    """Everything: the machine, a table a group, instructions, who was missing, and how many targets are met."""
    parts: list[RenderableType] = [Text(line) for line in facts(result).values()]
    parts.append(Text(f"\n{RATIO}"))
    for group, findings in groups(result).items():
        parts += [Text(f"\n{group}", style="bold"), *(_finding(finding) for finding in findings)]
    if result["curves"]:
        parts += [Text("\ncost against size", style="bold"), _curves(result["curves"])]
    if result["instructions"]:
        parts += [Text("\ninstructions an operation", style="bold"), _instructions(result["instructions"])]
    if result["missing"]:
        parts.append(Text("\nmissing", style="bold"))
        parts += [Padding(Text(f"{each['name']}: {each['why']}"), (0, 0, 0, 2)) for each in result["missing"]]
    parts.append(Text(f"\n{summary(result)}"))
    return Group(*parts)


def facts(result: Result) -> dict[str, str]:
    """Where and how it was run, by what the line is about."""
    gil = "with the GIL" if result["gil"] else "without the GIL"
    return {
        "ptl": f"ptl {result['ptl']}, Python {result['python']} {gil}",
        "machine": ", ".join(part for part in (result["machine"], result["processor"]) if part),
    }


def groups(result: Result) -> dict[str, list[Finding]]:
    """The findings under the headings they belong to, in the order of the run."""
    found: dict[str, list[Finding]] = {}
    for finding in result["findings"]:
        found.setdefault(finding["group"], []).append(finding)
    return found


def judged(result: Result) -> list[tuple[Finding, Mapping[str, Any]]]:
    """Every comparison that has a target, with its finding."""
    return [(f, c) for f in result["findings"] for c in f["comparisons"] if c["target"] is not None]


def summary(result: Result) -> str:
    """How many targets are met."""
    every = [comparison for _, comparison in judged(result)]
    met = sum(comparison["is_met"] for comparison in every)
    return f"{met} of {plural(len(every), 'target')} met"


def ratio(comparison: Mapping[str, Any]) -> str:
    """How many times cheaper ours is, or dearer, as the target counts it; and half the distance of the quartiles."""
    spread = comparison["ratio"]
    half = (spread["high"] - spread["low"]) / 2
    around = f" ± {share(half / spread['median'])}" if half and spread["median"] else ""
    return f"{three(spread['median'])}{around}"


def verdict(comparison: Mapping[str, Any]) -> str:
    """Whether the target is met, or by how much it is missed."""
    if comparison["is_met"] is False:
        return f"missed {three(comparison['missed_by'])} x"
    return _MARKS[comparison["is_met"]]


def target(comparison: Mapping[str, Any]) -> str:
    """The target, or nothing."""
    sign = {"at most": "≤", "at least": "≥"}[comparison["bound"]]
    return "" if comparison["target"] is None else f"{sign} {three(comparison['target'])}"


def cost(finding: Finding, name: str) -> str:
    """What one side costs."""
    return three(finding["costs"][name]["median"])


def _finding(finding: Finding) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("ours")
    table.add_column("", justify="right")
    table.add_column("peer")
    table.add_column("", justify="right")
    table.add_column("ratio", no_wrap=True)
    table.add_column("target", no_wrap=True)
    table.add_column("", no_wrap=True)
    for comparison in finding["comparisons"]:
        table.add_row(
            comparison["ours"],
            cost(finding, comparison["ours"]),
            comparison["peer"],
            cost(finding, comparison["peer"]),
            ratio(comparison),
            target(comparison),
            Text(verdict(comparison), style=_COLOURS[comparison["is_met"]]),
        )
    title = Text(f"{finding['title']}; {finding['unit']}", style="italic")
    note = [Padding(Text(finding["note"], style="dim"), (0, 0, 1, 1))] if finding["note"] else []
    return Padding(Group(title, table, *note), (0, 0, 0, 1))


def _curves(curves: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("pages", justify="right")
    for name in curves[0]["costs"]:
        table.add_column(f"{name}, ns", justify="right")
    for point in curves:
        table.add_row(f"{point['pages']:,}", *(cost(point, name) for name in point["costs"]))
    return table


def _instructions(counts: Mapping[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    for name, number in counts.items():
        table.add_row(name, three(number))
    return table


def lines(result: Result) -> Iterator[tuple[Finding, list[dict[str, str]]]]:
    """Each finding and its lines in words, for a page."""
    for finding in result["findings"]:
        yield (
            finding,
            [
                {
                    "ours": comparison["ours"],
                    "ours_cost": cost(finding, comparison["ours"]),
                    "peer": comparison["peer"],
                    "peer_cost": cost(finding, comparison["peer"]),
                    "ratio": ratio(comparison),
                    "target": target(comparison),
                    "verdict": verdict(comparison),
                    "class": {True: "good", False: "bad", None: ""}[comparison["is_met"]],
                }
                for comparison in finding["comparisons"]
            ],
        )
