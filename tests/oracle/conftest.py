"""Say at the end of a run which oracles judged, and how much."""

import mmu


def pytest_terminal_summary(terminalreporter):
    """Print one line for every oracle."""
    terminalreporter.write_line(mmu.summary())
