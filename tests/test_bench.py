"""The promise: every benchmark still works. Each runs once, untimed."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import python

BENCH = Path(__file__).parent.parent / "bench"


def test_every_benchmark_runs() -> None:
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "--benchmark-disable"]
    report = python("-m", "pytest", str(BENCH), *options).stdout
    collected = re.search(r"^collected (\d+) items$", report, re.MULTILINE)
    assert collected
    assert f" {collected[1]} passed in " in report
    assert [path.name for path in BENCH.glob("bench_*.py") if path.name not in report] == []
