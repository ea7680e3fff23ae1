"""The promise: every scenario of the lab comes to what it says, and its schedule shows it again."""

from __future__ import annotations

import pytest

from ptl import lab
from ptl.lab import schedule as schedules
from ptl.lab import story


@pytest.mark.parametrize("name", lab.SCENARIOS)
def test_a_scenario_comes_to_what_it_says(name: str) -> None:
    scenario = lab.SCENARIOS[name]
    result = scenario.explore()
    assert (result.kind or result.verdict) == scenario.expected, result
    told = story.tell(scenario, result.schedule or "")
    assert told.kind == result.kind
    assert (told.clash is not None) == (scenario.expected not in ("proved", "livelock"))


def test_the_scale_is_that_of_a_classroom() -> None:
    """Two faults against two collapses: states that are visited in seconds, of more interleavings than can be run."""
    result = lab.SCENARIOS["fixed-2x2"].explore()
    assert result.interleavings is not None
    assert result.interleavings > 10**9
    assert result.states < 20_000
    assert result.classes is not None
    assert result.classes < 10_000


def test_what_waits_is_no_scenario() -> None:
    assert lab.WAITING
    assert not set(lab.WAITING) & set(lab.SCENARIOS)


@pytest.mark.parametrize("text", ["", "a", "a3b", "b14a4b", "a2 B b3", "aAaA2"])
def test_a_schedule_is_read_and_written(text: str) -> None:
    actors = schedules.parse(text)
    assert schedules.parse(schedules.text_of(actors)) == actors


@pytest.mark.parametrize("text", ["x", "a3e", "3a", "a-b"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no schedule"):
        schedules.parse(text)


def test_any_schedule_can_be_told() -> None:
    scenario = lab.SCENARIOS["naive"]
    told = story.tell(scenario, "a")
    assert not told.kind
    assert [step.thread for step in told.steps] == sorted(step.thread for step in told.steps)
    assert story.tell(scenario, "b").kind == ""
