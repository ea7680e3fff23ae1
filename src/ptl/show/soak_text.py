"""What a soak came to, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

KNOBS = ("arch", "policy", "kind", "readers", "faulters", "stress", "membarrier")


def render(result: dict[str, Any]) -> RenderableType:
    """The result of `ptl.soak.run`."""
    return Group(*_lines(result))


def _lines(result: dict[str, Any]) -> Iterator[Text]:
    yield Text(
        f"{result['rounds']} rounds in {result['seconds']:.0f} s on {len(result['formats'])} formats"
        f" under {', '.join(sorted(result['policies']))}"
    )
    yield Text(
        f"{result.get('translations', 0):,} translations, {result.get('faults', 0):,} faults,"
        f" {result.get('collapses', 0):,} collapses, {result.get('tables_retired', 0):,} tables retired and freed"
    )
    wrong = result["wrong"]
    if wrong is None:
        yield Text("no wrong answer", style="green")
        return
    yield Text(f"\nwrong in the last round: {wrong['what']}", style="bold red")
    yield Text("  " + ", ".join(f"{knob} {wrong[knob]}" for knob in KNOBS))
    yield Text(f"  ptl {result['ptl']}, Python {result['python']}, {result['machine']}")
    yield Text("repeat it, several times if need be, with:")
    yield Text(f"  {wrong['command_line']}")
    yield Text("\n" + wrong["output"].rstrip())
