"""Read sections and grace periods, beside those of liburcu and Concurrency Kit."""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Iterator

from ptl import _bench
from ptl._core import PageTable
from ptl.bench.measure import Contest, Side, Target
from ptl.bench.native import Program, address_of, load
from ptl.bench.pages import HUGE, PAGE, VA
from ptl.bench.peers import SECTIONS, present
from ptl.bench.settings import Size

GROUP = "sections and grace periods"
SECTIONS_A_RUN = 200_000
PAIRS = 1000


def contests(size: Size) -> Iterator[Contest]:
    """A section; a grace period."""
    yield _section()
    yield _grace()


def _calls(program: Program) -> ctypes.CDLL:
    calls = load(program)
    calls.section_loop.restype = calls.section_until.restype = ctypes.c_uint64
    calls.section_wait.restype = None
    return calls


def _section() -> Contest:
    table, word = PageTable("x86_64"), array("Q", [1])

    def peer(program: Program) -> Callable[[], None]:
        loop, count = _calls(program).section_loop, ctypes.c_uint64(SECTIONS_A_RUN)
        return lambda: loop(address_of(word), count)

    return Contest(
        key="section",
        group=GROUP,
        title="enter a read section, load a word, leave",
        unit="ns",
        ours=[Side("ptl", lambda: _bench.sections(table, word, SECTIONS_A_RUN), SECTIONS_A_RUN)],
        peers=[Side(name, peer(program), SECTIONS_A_RUN) for name, program in present(SECTIONS)],
        note="Ours is called through two function pointers, as by any other module, and finds its thread's record by "
        "itself; peers are inlined, and their threads registered. Readers of qsbr announce that they are outside "
        "once in 1024 sections.",
    )


def _grace() -> Contest:
    table = PageTable("x86_64")
    table.map(VA, 0, HUGE, page_size=PAGE)
    word = array("Q", [1])

    def ours() -> None:
        stop = array("I", [0])
        with _Reader(stop, lambda: _bench.sections_until(table, word, stop)):
            _bench.collapse_and_split(table, VA, PAIRS)

    def peer(program: Program, count: int) -> Callable[[], None]:
        calls = _calls(program)

        def run() -> None:
            stop = array("I", [0])
            with _Reader(stop, lambda: calls.section_until(address_of(word), address_of(stop))):
                calls.section_wait(ctypes.c_uint64(count))

        return run

    peers = []
    for name, program in present(SECTIONS):
        count = 20_000 if name == "ck_epoch" else 500
        peers.append(Side(name, peer(program, count), count))
    return Contest(
        key="grace",
        group=GROUP,
        title="collapse, split and retire one table beside a busy reader; peers: one grace period each",
        unit="ns",
        ours=[Side("ptl", ours, PAIRS)],
        peers=peers,
        targets=[Target("ptl", name, "at least") for name, _ in present(SECTIONS)],
        clock="wall",
        note="Ours freezes 512 entries each time, and has a grace period for many tables at once.",
    )


class _Reader:
    """A thread that reads while the block runs."""

    def __init__(self, stop: array[int], loop: Callable[[], object]) -> None:
        self.stop = stop
        self.thread = threading.Thread(target=loop, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop[0] = 1
        self.thread.join()
