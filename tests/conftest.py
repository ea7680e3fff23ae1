"""Stress for the tests with threads; what every test may ask for; and at the end, which oracles judged, how much."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

import judges
from ptl import _core


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress-seed", type=int, help="what tests under stress draw from; by default another each time")


def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed, in the one process that tells the others."""
    if config.option.stress_seed is None:
        config.option.stress_seed = random.randrange(1 << 32)


def pytest_report_header(config: pytest.Config) -> str:
    return f"stress: drawn again with --stress-seed={config.option.stress_seed}"


@pytest.fixture(autouse=True)
def _stress(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put a test that is marked `under_stress` there (core/stress.pxi), unless the whole process is."""
    if request.node.get_closest_marker("under_stress") is None or os.environ.get("PTL_STRESS", "0") != "0":
        yield
        return
    seed = crc32(request.node.nodeid.encode(), request.config.option.stress_seed)
    _core.put_under_stress(seed or 1)
    yield
    _core.put_under_stress(0)


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
