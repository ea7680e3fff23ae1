"""The promise: take a remedy out of the core, and a test fails.

The extension is built once more, with faults that can be put in (`PTL_FAULTS=1`), and each test that guards a remedy is
run on it: without a fault it passes, with its fault it must not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ptl import _core

ROOT = Path(__file__).parent.parent

GUARDS = {
    "move looks before it locks": "test_history.py::test_a_table_is_retracted_while_it_is_to_be_moved",
    "retract trusts its look": "test_history.py::test_a_table_that_was_filled_again_is_not_reclaimed",
    "nothing is frozen": "test_history.py::test_nobody_writes_into_a_table_that_has_left",
    "entry read in halves": "test_history.py::test_an_entry_of_two_words_is_read_whole",
    "no flush of an entry": "test_tlb.py::test_a_change_of_an_entry_flushes",
    "no flush of a retract": "test_tlb.py::test_a_retract_flushes",
    "no flush before a copy": "test_tlb.py::test_a_collapse_flushes_before_it_copies",
    "no flush before a huge leaf": "test_tlb.py::test_a_collapse_flushes_before_the_huge_leaf_appears",
    "no flush before a split": "test_tlb.py::test_a_split_flushes_before_the_small_leaves_appear",
    "no flush before a replacement": "test_tlb.py::test_a_replacement_flushes_before_the_huge_leaf_appears",
    "no flush before a cut": "test_tlb.py::test_a_cut_flushes_before_the_small_leaves_appear",
    "no flush of a range": "test_tlb.py::test_a_range_flushes",
    "no flush of a move": "test_tlb.py::test_a_move_flushes",
    "no flush of a gather": "test_tlb.py::test_a_gather_flushes_once",
    "no flush of a table that is moved": "test_tlb.py::test_a_move_flushes",
    "shadow after the entry": "test_shadows.py::test_two_who_change_one_entry_leave_the_shadow_of_the_last",
    "no flush before a run": "test_runs.py::test_pages_are_flushed_before_they_are_a_run",
    "no flush before a run is taken apart": "test_runs.py::test_a_run_is_flushed_before_it_is_taken_apart",
}
"""Every fault, and the test that guards against it."""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the guards look at threads through /proc"),
    pytest.mark.xdist_group("faulty"),  # one process builds it, once
]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place to import `ptl` from that has been built with faults."""
    tree = tmp_path_factory.mktemp("faulty")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__"))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env={**os.environ, "PTL_FAULTS": "1", "PTL_OPTIMIZE": "-O1"},
        check=True,
        capture_output=True,
    )
    return tree / "src"


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


def test_every_fault_has_its_guard() -> None:
    assert GUARDS.keys() == _core.FAULTS.keys()


def test_without_a_fault_every_guard_passes(faulty: Path) -> None:
    done = guard(faulty, list(GUARDS.values()), None)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("fault", GUARDS)
def test_with_its_fault_a_guard_fails(faulty: Path, fault: str) -> None:
    done = guard(faulty, [GUARDS[fault]], fault)
    failed = done.returncode == 1 and " failed" in done.stdout
    crashed = done.returncode < 0
    assert failed or crashed, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def test_histories_of_a_table_that_does_not_freeze_fit_no_order(faulty: Path) -> None:
    history = "linearizability/test_histories.py::test_what_threads_see_fits_some_order_of_their_calls"
    done = guard(faulty, [history], "nothing is frozen")
    assert done.returncode == 1, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "first_that_fits_no_order" in done.stdout


def test_other_builds_have_no_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ptl"],
        env={**os.environ, "PTL_FAULT": "nothing is frozen"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs a build with PTL_FAULTS=1" in done.stderr
