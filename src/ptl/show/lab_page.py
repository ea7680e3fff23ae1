"""A story of the lab in the browser: one page that carries everything it needs and loads nothing.

It steps forward and back through a schedule. For a scenario of paths the page carries every state, so any schedule that
is typed in can be followed there; for one of the core it shows the schedule that it was made for.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import jinja2

from ptl.lab import machine, states
from ptl.lab.exploration import Exploration
from ptl.lab.schedule import LETTERS
from ptl.lab.story import Picture, Story, picture_of
from ptl.show.lab_text import verdict

STATES_MOST = 3000
"""Of a scenario whose states are put into the page."""


def render(story: Story, result: Exploration | None) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ptl.show", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("lab_page.html.j2").render(
        scenario=story.scenario,
        result=result,
        verdict=verdict(story),
        story=_data(story),
        letters=LETTERS,
        has_graph=_graph(story) is not None,
    )


def _data(story: Story) -> str:
    """The story as JSON that may stand in a script element."""
    data: dict[str, Any] = {
        "threads": [f"{letter}: {name}" for letter, name in zip(LETTERS, story.scenario.threads, strict=False)],
        "begin": _picture(story.begin),
        "steps": [
            {
                "thread": step.thread,
                "buffer": step.actor != step.thread,
                "text": step.text,
                "site": step.site,
                "operation": step.operation,
                "picture": _picture(step.picture),
            }
            for step in story.steps
        ],
        "kind": story.kind,
        "detail": story.detail,
        "schedule": story.schedule,
        "clash": story.clash,
        "graph": _graph(story),
    }
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _picture(picture: Picture) -> dict[str, Any]:
    return asdict(picture)


def _graph(story: Story) -> dict[str, Any] | None:
    """Every state of a scenario of paths: its picture, and by thread the step that leads on; None if too many."""
    scenario = story.scenario
    if scenario.is_of_core or scenario.start is None:
        return None
    threads = states.Threads(scenario.paths)
    root: states.Node = scenario.start, threads.begin()
    numbers: dict[states.Node, int] = {root: 0}
    waiting, nodes = [root], []
    while waiting:
        state, where = waiting.pop(0)
        ways: dict[str, Any] = {}
        for thread, place in enumerate(where):
            if not place:
                continue
            step = threads.step(thread, place)
            if not machine.is_enabled(state, step):
                ways[str(thread)] = {"text": f"{step} (waits)"}
                continue
            try:
                after, found = machine.apply(state, thread, step)
            except machine.Wrong as wrong:
                ways[str(thread)] = {"text": str(step), "kind": wrong.kind, "detail": wrong.detail}
                continue
            moved = list(where)
            moved[thread] = threads.after(thread, place, found)
            node: states.Node = after, tuple(moved)
            if node not in numbers:
                numbers[node] = len(numbers)
                waiting.append(node)
                if len(numbers) > STATES_MOST:
                    return None
            text = f"{step}: {machine.shown(step.table, found)}" if step.kind == "load" else str(step)
            ways[str(thread)] = {"text": text, "to": numbers[node]}
        trouble = states.wrong_at_rest(state, scenario.ensures) if not any(where) else None
        nodes.append({"picture": _picture(picture_of(state)), "ways": ways, "wrong": trouble})
    return {"nodes": nodes}
