"""Say at the end of a run which oracles judged, and how much."""

from __future__ import annotations

import pytest

import judges


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
