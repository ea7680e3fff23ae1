"""A story of the lab in a terminal: a column for each thread, and the state after each step that changed it."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ptl.lab.exploration import Exploration
from ptl.lab.scenarios import Scenario
from ptl.lab.schedule import LETTERS
from ptl.lab.story import Picture, Story

MARK = "bold red"
COLUMN = 34
"""Characters that a thread's column needs; the rest is for the state."""


def catalogue(scenarios: Mapping[str, Scenario], waiting: Mapping[str, str]) -> RenderableType:
    """All scenarios, and those that wait for a part of the library."""
    table = Table(box=None, pad_edge=False)
    for heading in ("scenario", "drives", "comes to", "about"):
        table.add_column(heading)
    for scenario in scenarios.values():
        table.add_row(scenario.name, "the core" if scenario.is_of_core else "paths", scenario.expected, scenario.title)
    for name, why in waiting.items():
        table.add_row(Text(name, "dim"), Text("waiting", "dim"), "", Text(why, "dim"))
    return table


def render(story: Story, result: Exploration | None) -> RenderableType:
    """The story of a schedule, its verdict, and what exploring came to."""
    scenario = story.scenario
    table = Table(
        title=scenario.title, title_justify="left", title_style="bold", caption_justify="left", pad_edge=False
    )
    table.add_column("step", justify="right")
    for letter, name in zip(LETTERS, scenario.threads, strict=False):
        table.add_column(f"{letter}: {name}", min_width=16, max_width=COLUMN)
    table.add_column("after it")
    clash = story.clash or ()
    before = state_line(story.begin)
    table.add_row("", *("" for _ in scenario.threads), Text(before))
    operations = [""] * len(scenario.threads)
    for number, step in enumerate(story.steps):
        if step.operation != operations[step.thread]:
            operations[step.thread] = step.operation
            table.add_row("", *_cells(scenario, step.thread, Text(step.operation, "italic")), "")
        text = Text(step.text, MARK if number in clash else "")
        if step.actor != step.thread:
            text.append(" (store buffer)", "dim")
        after = state_line(step.picture)
        table.add_row(str(number + 1), *_cells(scenario, step.thread, text), Text("" if after == before else after))
        before = after
    lines: list[RenderableType] = [table, Text()]
    lines.append(Text(verdict(story), MARK if story.kind else "bold green"))
    if story.clash is not None:
        early, late = (story.steps[place] for place in story.clash)
        lines.append(
            Text(
                f"step {story.clash[0] + 1} by {LETTERS[early.thread]} clashes with step {story.clash[1] + 1} by "
                f"{LETTERS[late.thread]}: {early.text}; {late.text}"
            )
        )
    lines.append(Text(scenario.story, "italic"))
    if result is not None:
        run = "these executions" if result.verdict == "bounded" else "exploring every interleaving"
        lines.append(Text(f"{run}: {result}"))
    return Group(*lines)


def verdict(story: Story) -> str:
    """How the schedule ends, in a line."""
    schedule = f"schedule {story.schedule}" if story.schedule else "each thread after the other"
    if not story.kind:
        return f"{schedule}: nothing is wrong"
    return f"{schedule}: {story.kind}: {story.detail}"


def state_line(picture: Picture) -> str:
    """A picture in a line: the tables that are in use, sections, locks, limbo, store buffers."""
    parts = []
    for table in picture.tables:
        if table.use not in ("live", "private"):
            continue
        shown = " ".join(entry or "." for entry in table.entries)
        lock = f" locked by {table.holder}" if table.holder else ""
        pins = f" {table.pins} pins" if table.pins else ""
        use = " private" if table.use == "private" else ""
        parts.append(f"{table.name.removesuffix(')').replace(' (level ', '/')}[{shown}]{use}{lock}{pins}")
    inside = [LETTERS[number] for number, thread in enumerate(picture.threads) if thread.inside]
    if inside:
        parts.append(f"inside: {' '.join(inside)}")
    if picture.limbo:
        parts.append(f"limbo: {', '.join(picture.limbo)}")
    for number, thread in enumerate(picture.threads):
        if thread.buffer:
            parts.append(f"buffer of {LETTERS[number]}: {', '.join(thread.buffer)}")
    return "\n".join(parts)


def _cells(scenario: Scenario, thread: int, text: Text) -> list[Text | str]:
    cells: list[Text | str] = [""] * len(scenario.threads)
    cells[thread] = text
    return cells
