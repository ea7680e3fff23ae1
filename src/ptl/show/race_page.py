"""A race in the browser: one page that carries everything it needs and loads nothing.

The picture of a tail is the fraction of reads (or faults) that took longer than x, on two logarithmic axes.
Every policy has one colour, one dash and one marker, the same everywhere, and can be told by any of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly has neither annotations nor stubs

from ptl.show import page, race_table
from ptl.show.race_table import BASE, NOTHING, OPERATIONS, Row
from ptl.show.units import duration, exact, plural, share, si, three

Numbers = Mapping[str, Any]
Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Style:
    """How a policy looks."""

    colour: str
    dash: str
    symbol: str
    pattern: str
    strokes: str
    """The dash as SVG has it, for a legend within text."""


_STYLES: Final[Mapping[str, Style]] = {
    "epoch": Style("#2F7FD6", "solid", "circle", "", "none"),
    "vma_lock": Style("#C98500", "dash", "square", "/", "7 4"),
    "mmap_lock": Style("#C0305A", "dot", "diamond", "x", "2 3"),
}
_OTHER: Final = Style("#777777", "dashdot", "cross", "-", "7 3 2 3")

ARRIVALS_SHOWN: Final = 100_000
"""Random moments are drawn down to one in that many."""

_TAILS: Final[Mapping[str, float]] = {"p50": 0.5, "p99": 0.01, "p99.9": 0.001}
"""The marked quantiles and the fraction that is slower."""


def render(result: Result) -> str:
    """The page."""
    return page.template("race_page.html.j2").render(
        result=result,
        title=race_table.printable(f"ptl race: {result['command']} (pid {result['pid']})"),
        facts=race_table.facts(result),
        command_line=race_table.printable(result["command_line"]),
        policies={race_table.printable(name): style(name) for name in result["policies"]},
        base=BASE if BASE in result["policies"] else None,
        kinds=race_table.kinds(result),
        kind_titles=race_table.KINDS,
        wrong=race_table.wrong_total(result),
        wrong_text=plural(race_table.wrong_total(result), "wrong translation"),
        where=[(race_table.printable(policy), kind, exact(n)) for policy, kind, n in race_table.wrong(result)],
        translations=exact(race_table.translations(result)),
        summary={kind: dict(_summary(result, kind)) for kind in race_table.kinds(result)},
        charts=page.charts(figures(result)),
        tables=list(_tables(result)),
        operations=race_table.PATHS,
        paths={race_table.printable(name): policy["kernel_path"] for name, policy in result["policies"].items()},
        clock=duration(result["clock_ns"]),
        data=page.embedded(result),
    )


def style(policy: str) -> Style:
    """The look of a policy, which is the same everywhere."""
    return _STYLES.get(policy, _OTHER)


# The numbers.


@dataclass(frozen=True, slots=True)
class _Summary:
    """What matters most of one policy under one kind of collapse."""

    tail: str
    ratio: str
    kept: str


def _summary(result: Result, kind: str) -> Iterator[tuple[str, _Summary]]:
    """A cell for each policy."""
    against = {(r.policy, r.kind): r.ratio for r in race_table.ratios(result) if r.what == "read"}
    for policy in result["policies"]:
        numbers = result["policies"][policy]["kinds"][kind]
        tail = race_table.latency(numbers, "read", "p99.9")
        ratio = 1.0 if policy == BASE else against.get((policy, kind))
        kept = _kept(result, policy, kind, "read")
        yield (
            race_table.printable(policy),
            _Summary(
                tail=NOTHING if tail is None else duration(tail),
                ratio=NOTHING if ratio is None or tail is None else f"{three(ratio)} ×",
                kept=share(kept) if kept else NOTHING,
            ),
        )


def _kept(result: Result, policy: str, kind: str, what: str) -> float | None:
    """The rate of a policy as a fraction of its own without a collapser, or None where that is unknown."""
    by_kind = result["policies"][policy]["kinds"]
    rate = OPERATIONS[what].rate
    idle = by_kind["idle"][rate] if "idle" in by_kind else 0
    return by_kind[kind][rate] / idle if idle else None


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a table of numbers."""

    name: str
    cells: list[str]
    alarm: bool


def _tables(result: Result) -> Iterator[tuple[str, list[tuple[str, list[_Line]]]]]:
    """The tables: their titles and, for each heading in them, its lines."""
    columns = [
        result["policies"][name]["kinds"][kind] for kind in race_table.kinds(result) for name in result["policies"]
    ]

    def line(row: Row) -> _Line:
        return _Line(row.full, [exact(n[row.key]) if row.key else row.show(n) for n in columns], row.alarm)

    for title, sections in (("How fast", race_table.SPEED), ("What happened", race_table.COUNTS)):
        yield title, [(section.heading, [line(row) for row in section.rows]) for section in sections]


# The pictures.


def figures(result: Result) -> dict[str, go.Figure]:
    """The figures of everything that happened: `tail-read-idle` and so on, `pace-read`, `pace-fault`."""
    found = {}
    for what in OPERATIONS:
        axes = _axes(result, what)
        for kind in race_table.kinds(result):
            if axes is not None and any(n[OPERATIONS[what].events] for _, n in _by_policy(result, kind)):
                found[f"tail-{what}-{kind}"] = _tail_figure(result, what, kind, axes)
        if what != "arrival" and any(_kept(result, policy, "idle", what) for policy in result["policies"]):
            found[f"pace-{what}"] = _pace_figure(result, what)
    return found


def _by_policy(result: Result, kind: str) -> list[tuple[str, Numbers]]:
    """The numbers of every policy under one kind."""
    return [(name, policy["kinds"][kind]) for name, policy in result["policies"].items()]


@dataclass(frozen=True, slots=True)
class _Axes:
    """The limits that all pictures of one operation share, so that they can be compared by eye."""

    shortest: float
    longest: float
    rarest: float


def _axes(result: Result, what: str) -> _Axes | None:
    """The limits for an operation, or None where there were none."""
    operation = OPERATIONS[what]
    each = [n for kind in race_table.kinds(result) for _, n in _by_policy(result, kind) if n[operation.buckets]]
    if not each:
        return None
    uppers = [upper for n in each for upper, _ in n[operation.buckets]]
    longest = max(n[operation.latency]["max"] for n in each)
    total = max(sum(number for _, number in n[operation.buckets]) for n in each)
    if what == "arrival":
        total = ARRIVALS_SHOWN
    return _Axes(max(1, min(uppers)) / 1.6, max(longest, *uppers) * 1.6, min(0.0005, 0.7 / total))


def tail(buckets: Sequence[Sequence[int]], start: float, most: float) -> tuple[list[float], list[float]]:
    """The fraction of events slower than x, as steps: each value holds up to the next x.

    It begins at `start` with all of them. A bucket says how many events took no longer than its upper edge
    and longer than the one before, so that the fraction is exact at the edges. The last bucket would end in
    zero, which a logarithm does not have; in its place the line ends at `most`, the slowest event.
    """
    total = sum(number for _, number in buckets)
    if not total:
        return [], []
    xs, ys, left = [start], [1.0], total
    for upper, number in buckets[:-1]:
        left -= number
        xs.append(upper)
        ys.append(left / total)
    return [*xs, max(most, xs[-1])], [*ys, ys[-1]]


def arrival_tail(buckets: Sequence[Sequence[int]], start: float, median: float) -> tuple[list[float], list[float]]:
    """The fraction of random moments at which a read would take longer than x, as points of a smooth line.

    A random moment waits for the rest of the operation that it falls into: longer than x with a probability in
    proportion to what is left of each duration beyond x. Then comes a median operation.
    """
    total = sum(upper * number for upper, number in buckets)
    if not total:
        return [], []
    xs, ys, longer, time_longer = [], [], 0, 0
    for upper, number in reversed(buckets):
        xs.append(upper + median)
        ys.append((time_longer - longer * upper) / total)
        longer += number
        time_longer += upper * number
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if y * ARRIVALS_SHOWN >= 1]
    return [start, *(x for x, _ in reversed(points))], [1.0, *(y for _, y in reversed(points))]


def _tail_figure(result: Result, what: str, kind: str, axes: _Axes) -> go.Figure:
    """How large a fraction was slower than x, a line for each policy."""
    operation = OPERATIONS[what]
    figure = page.figure()
    for policy, numbers in _by_policy(result, kind):
        if not numbers[operation.events]:
            continue
        look = style(policy)
        shown = race_table.printable(policy)
        quantiles = numbers[operation.latency]
        if what == "arrival":
            xs, ys = arrival_tail(numbers[operation.buckets], axes.shortest, numbers["latency_ns"]["p50"])
        else:
            xs, ys = tail(numbers[operation.buckets], axes.shortest, quantiles["max"])
        events = numbers[operation.events]
        marked = {q: quantiles[q] for q, slower in _TAILS.items() if slower * events >= 1 and quantiles[q]}
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="lines",
            line={
                "color": look.colour,
                "dash": look.dash,
                "width": 2.25,
                "shape": "linear" if what == "arrival" else "hv",
            },
            name=shown,
            legendgroup=shown,
            customdata=[f"{_one_in(y)} slower than {duration(x)}" for x, y in zip(xs, ys, strict=True)],
            hovertemplate=f"{page.plain(shown)}: %{{customdata}}<extra></extra>",
        )
        figure.add_scatter(
            x=list(marked.values()),
            y=[_TAILS[q] for q in marked],
            mode="markers",
            marker={"color": look.colour, "symbol": look.symbol, "size": 9, "line": {"width": 0}},
            name=shown,
            legendgroup=shown,
            customdata=[f"{q} {duration(value)}" for q, value in marked.items()],
            hovertemplate=f"{page.plain(shown)}: %{{customdata}}<extra></extra>",
        )
    for slower in _TAILS.values():
        figure.add_hline(y=slower, line={"color": "rgba(128, 128, 128, 0.6)", "width": 1, "dash": "dot"}, layer="below")
    figure.update_xaxes(
        type="log",
        range=[math.log10(axes.shortest), math.log10(axes.longest)],
        title={"text": f"time of a {operation.name}"},
        **page.time_ticks(axes.shortest, axes.longest),
    )
    figure.update_yaxes(
        type="log",
        range=[math.log10(axes.rarest), math.log10(1.5)],
        title={"text": "fraction of moments" if what == "arrival" else f"fraction of {what}s slower"},
        **_fraction_ticks(axes.rarest),
    )
    return figure


def _pace_figure(result: Result, what: str) -> go.Figure:
    """How much of its own pace without a collapser each policy keeps."""
    rate = OPERATIONS[what].rate
    kinds = race_table.kinds(result)
    figure = page.figure()
    highest = 1.0
    for policy in result["policies"]:
        look = style(policy)
        shown = race_table.printable(policy)
        kept = [_kept(result, policy, kind, what) for kind in kinds]
        rates = [result["policies"][policy]["kinds"][kind][rate] for kind in kinds]
        highest = max(highest, *(k for k in kept if k is not None), 0.0)
        figure.add_bar(
            orientation="h",
            y=kinds,
            x=[None if k is None else k * 100 for k in kept],
            name=shown,
            legendgroup=shown,
            marker={
                "color": look.colour,
                "line": {"width": 0},
                "pattern": {
                    "shape": look.pattern,
                    "fillmode": "overlay",
                    "fgcolor": "#fff",
                    "fgopacity": 0.85,
                    "size": 7,
                    "solidity": 0.22,
                },
            },
            text=[f"{share(k)}  {si(r)}" if k else NOTHING for k, r in zip(kept, rates, strict=True)],
            textposition="outside",
            textangle=0,
            constraintext="none",
            cliponaxis=False,
            textfont={"size": 11},
            customdata=[f"{si(r)} {what}s per second" for r in rates],
            hovertemplate=f"{page.plain(shown)}: %{{customdata}}<extra></extra>",
        )
    ticks = list(range(0, int(highest * 100) + 1, 50 if highest <= 3 else 200))
    figure.add_vline(x=100, line={"color": "rgba(128, 128, 128, 0.8)", "width": 1, "dash": "dot"}, layer="below")
    figure.update_layout(barmode="group", bargap=0.24, bargroupgap=0.12)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    figure.update_xaxes(
        range=[0, highest * 155],
        tickvals=ticks,
        ticktext=[f"{tick} %" for tick in ticks],
        title={"text": f"{what}s per second, of own idle"},
    )
    return figure


def _fraction_ticks(low: float) -> dict[str, list[Any]]:
    """Ticks at whole decades, in words."""
    powers = [power for power in range(13) if 10.0**-power >= low]
    return {"tickvals": [10.0**-power for power in powers], "ticktext": [_one_in(10.0**-power) for power in powers]}


def _one_in(fraction: float) -> str:
    """A fraction as people say it: one in how many."""
    return "all" if fraction >= 1 else f"1 in {page.whole(si(1 / fraction))}"
