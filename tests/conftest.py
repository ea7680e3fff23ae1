"""What every test may ask for; and at the end of a run, which oracles judged, and how much."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import judges

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place to import `ptl` from that has been built with faults. Who uses it is in the xdist group "faulty"."""
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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one process of several: send what was counted to the one that tells."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["judges"] = judges.report()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """In the one that tells: another process has ended."""
    output = getattr(node, "workeroutput", {})  # a process that crashed has none
    if "judges" in output:
        judges.add(output["judges"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for every judge."""
    for line in judges.lines():
        terminalreporter.write_line(line)
