"""Instructions an operation, counted by callgrind: exact, and the same on a busy machine.

A process of its own runs each operation under valgrind, between two marks; what Python adds between them is counted by
a run of nothing and taken off.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ptl import _bench
from ptl._core import Frames, PageTable
from ptl.bench import pages as subject
from ptl.bench.native import Missing, load
from ptl.bench.pages import HUGE, PAGE, VA
from ptl.bench.peers import MARKS

PAGES = 1 << 12
REGIONS = 32
READ = 0b01


def count(timeout_seconds: float = 300) -> dict[str, float]:
    """Instructions of each operation. Raises Missing when there is no valgrind, or no way to mark."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise Missing("there is no valgrind; install valgrind")
    load(MARKS)
    with tempfile.TemporaryDirectory() as directory:
        command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={directory}/out",
            sys.executable,
            "-m",
            "ptl.bench.instructions",
        ]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=timeout_seconds, env=environment
            )
        except subprocess.TimeoutExpired as error:
            raise Missing(f"valgrind took longer than {timeout_seconds:.0f} s") from error
        if done.returncode:
            ours = [line for line in done.stderr.strip().splitlines() if not line.startswith("==")]
            raise Missing(f"valgrind failed: {ours[-1] if ours else done.returncode}")
        totals = dict(_read(path) for path in Path(directory).iterdir())
    nothing = totals["nothing"]
    return {name: (totals[name] - nothing) / operations for name, (_, operations) in operations_of().items()}


def _read(path: Path) -> tuple[str, int]:
    """The mark of one dump, and its instructions."""
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
    total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    return mark[1] if mark else "", int(total[1]) if total else 0


def operations_of() -> Mapping[str, tuple[Callable[[], object], int]]:
    """What is counted, and how many operations one run of it is."""
    pages, frames = subject.spaced(PAGES), subject.frames(PAGES)
    wanted, out = subject.addresses(pages, "random"), subject.empty_out(PAGES)
    table = subject.table_of(pages, frames, _table())
    spaced = subject.spaced(PAGES, 7)
    sequential = subject.addresses(spaced, "sequential")
    spaced_table = subject.table_of(spaced, frames, _table())
    single, ranged, region = subject.table_of(pages, frames, _table()), _table(), _table()
    _bench.unmap_pages(single, pages)
    region.map(VA, 0, HUGE, page_size=PAGE)
    length = REGIONS * HUGE
    range_pages = length // PAGE
    word = subject.empty_out(1)
    return {
        "translate many, random": (lambda: table.translate(wanted, out), PAGES),
        "translate many, every 7th page": (lambda: spaced_table.translate(sequential, out), PAGES),
        "walk, pinned once": (lambda: _bench.walk(table, wanted, out), PAGES),
        "translate, pinned for each": (lambda: _bench.translate(table, wanted, out), PAGES),
        "enter and leave a section": (lambda: _bench.sections(table, word, PAGES), PAGES),
        "map one page": (lambda: _bench.map_pages(single, pages, frames), PAGES),
        "protect one page": (lambda: _bench.protect_pages(single, pages, READ), PAGES),
        "unmap one page": (lambda: _bench.unmap_pages(single, pages), PAGES),
        "map a range, a page": (lambda: ranged.map(VA, 0, length, page_size=PAGE), range_pages),
        "protect a range, a page": (lambda: ranged.protect(VA, length, "r"), range_pages),
        "unmap a range, a page": (lambda: ranged.unmap(VA, length), range_pages),
        "collapse and split a region": (lambda: _bench.collapse_and_split(region, VA, REGIONS), REGIONS),
    }


def _table() -> PageTable:
    """An empty one in little memory: under valgrind there is not much to reserve."""
    return PageTable("x86_64", frames=Frames(16 << 20))


def main() -> None:
    """Run everything once to warm up what is made on first use, of a table too, then once between marks."""
    import ctypes

    marks = load(MARKS)
    operations: dict[str, tuple[Callable[[], object], int]] = {"nothing": (lambda: None, 1), **operations_of()}
    for run, _ in operations.values():
        run()
    for name, (run, _) in operations.items():
        marks.mark_begin()
        run()
        marks.mark_end(ctypes.c_char_p(name.encode()))


if __name__ == "__main__":
    main()
