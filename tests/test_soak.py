"""The promise of `ptl race --soak`: rounds that all differ, until something is wrong; then how to have it again.

`tests/test_faults.py` lets it loose on a core with a fault in it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ptl
from ptl import race, soak
from ptl.cli import main

SEEDS = range(400)

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="sends signals to threads as Linux does"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["race", *map(str, arguments)])


# -- what a seed chooses


def test_a_seed_chooses_everything() -> None:
    rounds = [soak.choose(seed) for seed in SEEDS]
    assert rounds == [soak.choose(seed) for seed in SEEDS]
    assert {each.arch for each in rounds} == set(soak.FORMATS)
    assert {each.policy for each in rounds} == set(race.POLICIES)
    for knob in ("kind", "readers", "faulters", "stress", "membarrier"):
        assert len({getattr(each, knob) for each in rounds}) > 1, knob


def test_formats_of_every_shape_take_part() -> None:
    assert {"x86_64", "i386", "riscv_sv39", "arm64_4k", "s390", "sparc32", "mips64"} <= set(soak.FORMATS)


# -- a round


def round_of(**wanted: object) -> soak.Round:
    """The first round in which that was chosen."""
    return next(each for each in map(soak.choose, SEEDS) if all(getattr(each, k) == v for k, v in wanted.items()))


@pytest.mark.parametrize("stress", [True, False])
def test_a_round_ends_well(stress: bool) -> None:
    numbers = soak.play(round_of(stress=stress), seconds=0.3)
    assert numbers["wrong_translations"] == 0
    assert numbers["translations"] > 0
    assert ptl.EpochDomain().stats()["epoch"] == 1, "the stress has ended"


def test_a_wrong_answer_is_seen_by_who_comes_and_goes() -> None:
    """And ends the round: here a page that is always mapped, and is mapped elsewhere behind the round's back."""
    this = round_of(stress=False, faulters=1)
    field = soak._field(this)
    placed = field.pages[-1]

    def spoil(table: ptl.PageTable, over: threading.Event) -> list[Callable[[], None]]:
        return [
            lambda: table.map(placed.va, 0, placed.length, replace=True),
            partial(soak._come_and_go, field, table, over),
        ]

    settings = race.Settings(3.0, faulters=1)
    with pytest.raises(soak.WrongAnswer, match=rf"va {placed.va + placed.length - 1:#x} is not translated"):
        race.run_one(field, settings, this.policy, this.kind, beside=spoil)


def test_a_page_that_is_lost_is_seen() -> None:
    this = round_of(stress=False, faulters=1)
    field = soak._field(this)
    table = ptl.PageTable(this.arch)
    with pytest.raises(soak.WrongAnswer, match="mapped all the time"):
        soak._look(field, table)


def test_a_child_that_finds_something_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    look = soak._look

    def lying(field: race.Field, table: ptl.PageTable) -> None:
        if os.getpid() != parent:
            raise soak.WrongAnswer("only in the child")
        look(field, table)

    monkeypatch.setattr(soak, "_look", lying)
    with pytest.raises(soak.WrongAnswer, match="child ended with wait status 0x100"):
        soak.play(round_of(stress=False), seconds=1)


def test_frames_that_do_not_follow_one_another_are_seen() -> None:
    field = soak._field(round_of(arch="x86_64"))
    encode = field.layout.arch.encode
    soak._must_be_one_run(field, [encode(n << 12, "rw") for n in range(512)])
    with pytest.raises(soak.WrongAnswer):
        soak._must_be_one_run(field, [encode(n << 12, "rw") for n in (*range(511), 1024)])


# -- all of it


def test_a_soak_goes_on_until_the_time_is_over() -> None:
    result = invoke("--soak", 0, "--seed", 7, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["rounds"], found["wrong"]) == (1, None)
    assert found["formats"] == {soak.choose(7).arch: 1}
    assert found["translations"] > 0
    shown = invoke("--soak", 0, "--policy", "epoch")
    assert shown.exit_code == 0
    assert "1 rounds in" in shown.stdout
    assert "under epoch" in shown.stdout
    assert "no wrong answer" in shown.stdout


def test_what_goes_wrong_is_told_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the process of the round cannot begin, for this build has no faults."""
    monkeypatch.setenv("PTL_FAULT", "freed twice")
    result = invoke("--soak", 60, "--seed", 11, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["rounds"] == 1
    wrong = found["wrong"]
    assert wrong["what"] == "ImportError: PTL_FAULT needs a build with PTL_FAULTS=1"
    assert "Traceback" in wrong["output"]
    chosen = soak.choose(11)
    assert {name: wrong[name] for name in ("seed", "arch", "policy", "kind")} == {
        "seed": 11,
        "arch": chosen.arch,
        "policy": chosen.policy,
        "kind": chosen.kind,
    }
    again = subprocess.run(wrong["command_line"], shell=True, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert wrong["what"] in again.stderr
    text = " ".join(invoke("--soak", 60, "--seed", 11).stdout.split())
    for told in (wrong["what"], "ptl.soak 11", f"arch {chosen.arch}", f"policy {chosen.policy}", ptl.__version__):
        assert told in text


@pytest.mark.parametrize(
    ("program", "what"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it was ended by SIGSEGV"),
        ("import time; time.sleep(100)", "it did not end within 2 s"),
    ],
)
def test_a_crash_and_a_hang_end_the_soak(monkeypatch: pytest.MonkeyPatch, program: str, what: str) -> None:
    python = [*soak.choose(3).command[:3], "-c", program]
    monkeypatch.setattr(soak.Round, "command", python)
    monkeypatch.setattr(soak, "HANG_SECONDS", 0)
    result = soak.run(60, seed=3)
    assert result["rounds"] == 1
    assert result["wrong"]["what"] == what
    assert "in <module>" in result["wrong"]["output"], "faulthandler says where"
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


@pytest.mark.parametrize("other", [("--pid", 1), ("--arch", "i386"), ("--seconds", 3), ("--html", "x.html")])
def test_what_means_nothing_with_a_soak_is_refused(other: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = invoke("--soak", 0, *other)
    assert result.exit_code == 2
    assert f"{other[0]} means nothing with --soak" in result.stderr
    assert invoke("--seed", 1).exit_code == 2


def test_a_round_is_asked_for_by_its_seed() -> None:
    assert soak.main([]) == 2
    with pytest.raises(ValueError, match="invalid literal"):
        soak.main(["one"])
