"""A run of the benchmark suite in the browser: one page with every table, plots, and the raw data inside.

A finding is drawn as bars, one a side, on an axis of its own from 0; the whiskers are the quartiles. Curves of cost
against size have two logarithmic axes. The distributions of latencies are those of `ptl race`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly has neither annotations nor stubs

from ptl.show import bench_table, page, race_page
from ptl.show.units import duration, si, three

Result = Mapping[str, Any]
Finding = Mapping[str, Any]

_OURS: Final = "#2F7FD6"
_PEER: Final = "#9AA3AB"
_LINES: Final = ("#2F7FD6", "#11919B", "#C98500", "#C0305A", "#7A52C7", "#5C7A29", "#777777", "#B0561F")
_DASHES: Final = ("solid", "dash", "dot", "dashdot")
_SYMBOLS: Final = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star", "hourglass")
_SPREAD: Final = 40.0
"""Beyond that ratio of the longest bar to the shortest the axis is logarithmic."""

TAILS: Final = ("tail-read-idle", "tail-read-file", "tail-read-anonymous", "tail-arrival-anonymous")
"""Of the figures of a race, those that are shown."""


def render(result: Result) -> str:
    """The page."""
    return page.template("bench_page.html.j2").render(
        result=result,
        facts=bench_table.facts(result),
        about_ratio=bench_table.RATIO,
        summary=bench_table.summary(result),
        missed=[
            (finding["title"], comparison, bench_table.ratio(comparison), bench_table.target(comparison))
            for finding, comparison in bench_table.judged(result)
            if not comparison["is_met"]
        ],
        groups=bench_table.groups(result),
        lines={finding["key"]: rows for finding, rows in bench_table.lines(result)},
        charts=page.charts(figures(result)),
        tails=TAILS,
        instructions={name: three(number) for name, number in result["instructions"].items()},
        data=page.embedded(result),
    )


def figures(result: Result) -> dict[str, go.Figure]:
    """The figures: `cost-KEY` of each finding, `curve`, and the tails of the last race."""
    found = {f"cost-{finding['key']}": _bars(finding) for finding in result["findings"]}
    if result["curves"]:
        found["curve"] = _curve(result["curves"])
    if result["races"]:
        drawn = race_page.figures(result["races"][-1])
        found |= {name: drawn[name] for name in TAILS if name in drawn}
    return found


def _bars(finding: Finding) -> go.Figure:
    """A bar for each side, ours in colour."""
    figure = page.figure()
    costs = finding["costs"]
    names = list(costs)
    medians = [costs[name]["median"] for name in names]
    figure.add_bar(
        orientation="h",
        y=[page.plain(name) for name in names],
        x=medians,
        marker={"color": [_OURS if name in finding["ours"] else _PEER for name in names], "line": {"width": 0}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [costs[name]["high"] - costs[name]["median"] for name in names],
            "arrayminus": [costs[name]["median"] - costs[name]["low"] for name in names],
            "thickness": 1,
            "width": 3,
            "color": "#888",
        },
        text=[three(median) for median in medians],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    shortest, longest = min(medians), max(costs[name]["high"] for name in names)
    if shortest > 0 and longest / shortest > _SPREAD:
        low, high = math.floor(math.log10(shortest)), math.log10(longest)
        ticks = [10.0**power for power in range(low, math.ceil(high) + 1)]
        figure.update_xaxes(
            type="log",
            range=[low, high + 0.12 * (high - low)],
            tickvals=ticks,
            ticktext=[page.whole(si(tick)) if tick >= 1 else f"{tick:g}" for tick in ticks],
        )
    else:
        figure.update_xaxes(range=[0, longest * 1.15 or 1], nticks=6)
    figure.update_xaxes(title={"text": page.plain(finding["unit"])})
    return figure


def _curve(curves: list[Finding]) -> go.Figure:
    """Cost against the number of pages, a line for each side."""
    figure = page.figure()
    pages = [point["pages"] for point in curves]
    lowest, highest = math.inf, 0.0
    for i, name in enumerate(curves[0]["costs"]):
        costs = [point["costs"][name]["median"] for point in curves]
        lowest, highest = min(lowest, *costs), max(highest, *costs)
        figure.add_scatter(
            x=pages,
            y=costs,
            mode="lines+markers",
            name=page.plain(name),
            line={"color": _LINES[i % len(_LINES)], "dash": _DASHES[i % len(_DASHES)], "width": 2},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 7},
            customdata=[f"{duration(cost)} at {number:,} pages" for number, cost in zip(pages, costs, strict=True)],
            hovertemplate=f"{page.plain(name)}: %{{customdata}}<extra></extra>",
        )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    figure.update_xaxes(
        type="log", title={"text": "pages"}, tickvals=pages, ticktext=[page.whole(si(n)) for n in pages]
    )
    figure.update_yaxes(type="log", title={"text": "an address"}, **page.time_ticks(lowest / 1.6, highest * 1.6))
    return figure
