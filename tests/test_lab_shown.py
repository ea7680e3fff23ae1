"""The promise: `ptl lab` tells every scenario as a story, on the terminal and as one page that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

click_testing = pytest.importorskip("click.testing", reason="the command needs ptl[cli]")
pytest.importorskip("rich", reason="the command needs ptl[cli]")
pytest.importorskip("jinja2", reason="the command needs ptl[cli]")

from ptl import lab  # noqa: E402
from ptl.cli import main  # noqa: E402
from ptl.lab import story  # noqa: E402
from ptl.show import lab_page, lab_text  # noqa: E402


def run(*arguments: str) -> tuple[int, str]:
    """The exit status and what is printed."""
    result = click_testing.CliRunner().invoke(main, ["lab", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def data_of(page: str) -> dict[str, object]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="story">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    told: dict[str, object] = json.loads(found[1])
    return told


def test_the_list_has_every_scenario_and_what_waits() -> None:
    status, text = run("--list")
    assert status == 0
    for name in (*lab.SCENARIOS, *lab.WAITING):
        assert name in text


@pytest.mark.parametrize("name", ["naive", "endless", "fixed", "epoch-no-fence", "core-fault-collapse"])
def test_a_scenario_is_told(name: str) -> None:
    status, text = run(name)
    assert status == 0
    assert lab.SCENARIOS[name].expected.split()[0] in text
    for letter, thread in zip("ab", lab.SCENARIOS[name].threads, strict=True):
        assert f"{letter}: {thread}" in text


def test_a_schedule_that_was_asked_for_is_told() -> None:
    status, text = run("naive", "--schedule", "a")
    assert status == 0
    assert "schedule a: nothing is wrong" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "there is no scenario"),
        (["snapshot-write"], "it waits"),
        (["naive", "--schedule", "x9"], "is no schedule"),
        (["naive", "--pct", "5"], "add nothing"),
    ],
)
def test_what_cannot_be_told_is_refused(arguments: list[str], words: str) -> None:
    status, text = run(*arguments)
    assert status == 2
    assert words in text


def test_random_schedules_prove_nothing_and_find_the_missing_fence() -> None:
    status, text = run("core-unmap-collapse", "--pct", "2000")
    assert status == 0
    assert "bounded" in text
    assert "2,000 executions" in text
    result = lab.SCENARIOS["epoch-no-fence"].laboratory().sample(1, 20_000)
    assert result.kind == "table freed under a reader"


@pytest.mark.parametrize("name", lab.SCENARIOS)
def test_the_page_carries_everything(name: str, tmp_path: Path) -> None:
    scenario = lab.SCENARIOS[name]
    result = scenario.explore()
    told = story.tell(scenario, result.schedule or "")
    page = lab_page.render(told, result)
    assert not re.search(r"https?:", page)
    assert not re.search(r"<(?:link|img|script)[^>]*\b(?:src|href)=\"(?!data:)", page)
    data = data_of(page)
    steps = data["steps"]
    assert isinstance(steps, list)
    assert len(steps) == len(told.steps)
    assert data["kind"] == result.kind


def test_the_page_follows_any_schedule_of_paths() -> None:
    """The graph in the page leads where the machine leads."""
    scenario = lab.SCENARIOS["no-recheck"]
    told = story.tell(scenario, "a2b5a3")
    graph = data_of(lab_page.render(told, None))["graph"]
    assert isinstance(graph, dict)
    node = graph["nodes"][0]
    for step in told.steps[:-1]:
        way = node["ways"][str(step.thread)]
        node = graph["nodes"][way["to"]]
    assert node["ways"][str(told.steps[-1].thread)]["kind"] == "write into a detached table"


def test_a_state_is_a_line() -> None:
    told = story.tell(lab.SCENARIOS["fixed"], "a2b3")
    assert lab_text.state_line(told.steps[1].picture) == "pmd[table 1 . . .]\ntable 1[page 0x10 . . .]\ninside: a"
