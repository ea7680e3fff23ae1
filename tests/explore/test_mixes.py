"""Random operations of four threads, in random orders: what the proofs promise holds for more than they can visit."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from labs import PAGE, empty_table
from ptl.cli import main
from ptl.lab import mixes
from ptl.lab import operations as op
from ptl.lab.scenarios import Scenario

SEEDS = range(300)
BROKEN = Scenario(
    "mix-77",
    "a reader beside a reclaimer that has no barrier",
    "",
    "proved",
    ("reader", "retract"),
    operations=((op.translate(PAGE),), (op.retract(0), op.reclaim())),
    setup=empty_table,
    options={"memory": "tso", "barrier": "none", "batch_tables": 1},
)


def test_a_seed_chooses_everything() -> None:
    chosen = [mixes.mix(seed) for seed in SEEDS]
    assert [each.operations for each in chosen] == [mixes.mix(seed).operations for seed in SEEDS]
    assert {each.setup for each in chosen} == set(mixes.SETUPS)
    names = {each.name for scenario in chosen for thread in scenario.operations for each in thread}
    assert names == {
        *("translate", "map", "unmap", "protect", "compare_exchange", "populate", "retract", "collapse", "split"),
        *("reclaim", "move"),
    }


def test_a_mix_has_readers_or_ranges() -> None:
    """Readers see each entry of a range change by itself, so that both together fit no serial order."""
    for seed in SEEDS:
        operations = [each for thread in mixes.mix(seed).operations for each in thread]
        is_read = any(each.name == "translate" for each in operations)
        has_range = any(
            each.name == "move" or (each.name in ("map", "unmap", "protect") and mixes.SPAN in each.numbers[1:])
            for each in operations
        )
        assert not (is_read and has_range)


def test_schedules_are_counted_and_shared_among_mixes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tally = mixes.run(2 * mixes.SCHEDULES + 5, 40, seen.append)
    assert (tally.mixes, tally.schedules, tally.failed) == (3, 2 * mixes.SCHEDULES + 5, None)
    assert sorted(seen) == [5, mixes.SCHEDULES, mixes.SCHEDULES]
    assert "nothing was found" in str(tally)


def test_what_goes_wrong_is_told_with_the_seed_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = BROKEN.laboratory().sample(1, 2000)
    assert result.kind == "table freed under a reader"
    tally = mixes.Tally(2000, 1, result.steps, 1.0, (BROKEN, result))
    monkeypatch.setattr(mixes, "run", lambda *_: tally)
    told = CliRunner().invoke(main, ["lab", "--pct", "2000", "--seed", "77"])
    assert told.exit_code == 1
    assert "ptl lab --pct 2000 --seed 77" in told.stdout
    assert "table freed under a reader" in told.stdout
    assert "one went wrong" in told.stdout


def test_a_mix_that_goes_wrong_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    result = BROKEN.laboratory().sample(1, 2000)
    good = mixes.mix(1).laboratory().sample(1, 10)

    def sampled(*_: object) -> object:
        yield 1, good
        yield 77, result
        raise AssertionError("the run went on")

    monkeypatch.setattr(mixes, "_sampled", sampled)
    monkeypatch.setattr(mixes, "mix", lambda seed: BROKEN if seed == 77 else mixes.mix)
    tally = mixes.run(10**6, 1)
    assert tally.failed == (BROKEN, result)
    assert tally.mixes == 2
