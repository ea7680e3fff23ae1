"""The promise: take a remedy out of the core, and a test fails.

The extension is built once more, with faults that can be put in (`PTL_FAULTS=1`). Most are found there by exploring
what is proved without them (`python -m ptl.lab.mutants`); for the others the test that guards the remedy is run:
without a fault it passes, with its fault it must not. docs/mutants.md keeps the table.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptl import _core
from ptl.lab import mutants

ROOT = Path(__file__).parent.parent

GUARDS = {mutant.name: mutant.test for mutant in mutants.MUTANTS.values() if mutant.test}
"""The faults that a test guards against, and the test; exploring finds the others."""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the guards look at threads through /proc"),
    pytest.mark.xdist_group("faulty"),  # one process builds it, once
]


def guard(faulty: Path, tests: list[str], fault: str | None) -> subprocess.CompletedProcess[str]:
    """Run tests on that build, with a fault put in or none."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(faulty), str(ROOT / "tests")])}
    if fault is not None:
        environment["PTL_FAULT"] = fault
    options = ["-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(str(ROOT / "tests" / test) for test in tests)],
        cwd=faulty.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_fault_is_looked_for() -> None:
    assert mutants.MUTANTS.keys() == _core.FAULTS.keys()
    for mutant in mutants.MUTANTS.values():
        assert (mutant.trial is None) == bool(mutant.test), mutant.name
        assert not (mutant.equivalent and mutant.test), mutant.name


def test_every_trial_is_proved_as_long_as_there_is_no_fault() -> None:
    for name, mutant in mutants.MUTANTS.items():
        if mutant.trial is not None:
            result = mutant.trial.explore()
            assert result.verdict == ("proved" if mutant.trial.most is None else "bounded"), f"{name}: {result}"


def test_exploring_finds_the_others_and_not_the_equivalent(faulty: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ptl.lab.mutants"],
        env={**os.environ, "PYTHONPATH": str(faulty)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == list(mutants.MUTANTS)
    found = {row[0].removeprefix("| "): row[3].partition(":")[0] for row in rows}
    assert {kind: found[name] for kind, name in looked_for().items()} == {kind: kind for kind in looked_for()}


def looked_for() -> dict[str, str]:
    """What a lab looks for, and the mutant by which it is seen to find it, from the table of docs/lab.md."""
    page = (ROOT / "docs" / "lab.md").read_text(encoding="utf-8").partition("## What is looked for")[2]
    rows = [line.strip("| ").split(" | ") for line in page.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return {row[0]: row[2] for row in rows if len(row) == 3 and row[2] in mutants.MUTANTS}


def test_the_documentation_has_everything_that_is_looked_for() -> None:
    kinds = {"leak", *_core.LAB_FAILURES} - {"", "more steps than a lab keeps"}
    assert looked_for().keys() == kinds


def test_the_documentation_has_every_mutant() -> None:
    """What is removed and what catches it, word for word; how many executions it took depends on the version."""
    page = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8").splitlines()
    kept = [line.split(" | ")[:3] for line in page if line.removeprefix("| ").split(" | ")[0] in mutants.MUTANTS]
    assert kept == [str(mutants.Row(mutant)).split(" | ")[:3] for mutant in mutants.MUTANTS.values()]


def test_without_a_fault_every_guard_passes(faulty: Path) -> None:
    done = guard(faulty, list(GUARDS.values()), None)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("fault", GUARDS)
def test_with_its_fault_a_guard_fails(faulty: Path, fault: str) -> None:
    done = guard(faulty, [GUARDS[fault]], fault)
    failed = done.returncode == 1 and " failed" in done.stdout
    crashed = done.returncode < 0
    assert failed or crashed, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def test_a_soak_stops_at_a_fault_and_tells_how_to_have_it_again(faulty: Path) -> None:
    """Here each of readers and collapser is right by itself, and together they are not."""
    environment = {**os.environ, "PYTHONPATH": str(faulty), "PTL_FAULT": "busy taken for an answer"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run(sys.executable, "-m", "ptl", "race", "--soak", "120", "--seed", "1", "--policy", "epoch", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = json.loads(done.stdout)["wrong"]
    told = re.compile(r"(WrongAnswer: .* (wrong|mapped all the time)|LivelockError: .* BUSY)")
    assert told.search(wrong["what"]), wrong
    again = (run("sh", "-c", wrong["command_line"]) for _ in range(20))
    assert any(each.returncode == 1 and told.search(each.stderr) for each in again)


def test_other_builds_have_no_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ptl"],
        env={**os.environ, "PTL_FAULT": "nothing is frozen"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs a build with PTL_FAULTS=1" in done.stderr
    assert not _core.put_in_fault("nothing is frozen")
    assert mutants.main([]) == 2
