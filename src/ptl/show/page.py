"""What all pages share: each is one file that loads nothing; their figures, and how those write numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import jinja2
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly has neither annotations nor stubs
import plotly.io  # type: ignore[import-untyped]  # the same

from ptl.show.units import duration

FONT: Final = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
FAINT: Final = "rgba(128, 128, 128, 0.28)"
_CONFIG: Final = {"displayModeBar": False, "displaylogo": False, "responsive": True, "showTips": False}


def template(name: str) -> jinja2.Template:
    """A template of this package."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ptl.show", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def embedded(result: Mapping[str, Any]) -> str:
    """The result as JSON that cannot end the element it stands in."""
    text = json.dumps(result)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def charts(figures: Mapping[str, go.Figure]) -> dict[str, str]:
    """The figures as HTML, of which the first brings plotly.js with it."""
    html: dict[str, str] = {}
    for name, figure in figures.items():
        html[name] = plotly.io.to_html(
            figure,
            config=_CONFIG,
            include_plotlyjs=not html,
            full_html=False,
            default_height="22rem",
            div_id=name,
        )
    return html


def figure() -> go.Figure:
    """An empty figure; the colours of its text and its ground are the page's."""
    axis = {
        "gridcolor": FAINT,
        "linecolor": FAINT,
        "zeroline": False,
        "automargin": True,
        "tickangle": 0,
        "fixedrange": True,
        "ticks": "",
    }
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": "#555"},
            "margin": {"l": 12, "r": 10, "t": 12, "b": 12, "pad": 4},
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": "#22262a", "font": {"family": FONT, "color": "#fff"}},
            "dragmode": False,
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def time_ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Ticks at whole decades with their units; at 1, 2 and 5 where there are few decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    values = [step * 10**power for power in range(first, last + 1) for step in steps]
    values = [value for value in values if low <= value <= high]
    return {"tickvals": values, "ticktext": ["<br>".join(whole(duration(value)).split()) for value in values]}


def whole(text: str) -> str:
    """A number of three digits without the zeros that a tick does not need.

    >>> whole("10.0 µs"), whole("1.00 k"), whole("1.25 M"), whole("100 ns")
    ('10 µs', '1 k', '1.25 M', '100 ns')
    """
    number, _, unit = text.partition(" ")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{number} {unit}".rstrip()


def plain(text: str) -> str:
    """A name without what plotly takes for markup or for a template."""
    return "".join(c for c in text if c not in "<>&%{}")
