"""What several test files need."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ptl

SANITIZERS = tuple(name for name in ("asan", "tsan") if hasattr(ctypes.CDLL(None), f"__{name}_init"))
"""Those that this process runs under."""

SWITCH_SECONDS = 1e-5
"""How long a thread may keep the GIL: short, so that threads meet each other in many places."""


class Crew:
    """Threads that start together; when one of them fails, all stop, and `run` raises what it raised.

    A job with an end of its own counts its turns with `turns`. One that keeps others company goes on for `meanwhile`.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failures: list[BaseException] = []

    def turns(self, count: int) -> Iterator[int]:
        """0 to count - 1, or fewer when another job failed."""
        for turn in range(count):
            if self.failures:
                return
            yield turn

    def meanwhile(self) -> Iterator[int]:
        """0, 1, 2 and so on until every counted job has ended."""
        turn = 0
        while not self.over.is_set():
            yield turn
            turn += 1

    def run(self, *jobs: Callable[[], object], beside: tuple[Callable[[], object], ...] = ()) -> None:
        """Run each job in a thread of its own, and those `beside` them until the jobs have ended."""
        barrier = threading.Barrier(len(jobs) + len(beside))
        counted, company = (
            [threading.Thread(target=self._do, args=(job, barrier)) for job in all_] for all_ in (jobs, beside)
        )
        with switching_often():
            for thread in (*counted, *company):
                thread.start()
            for thread in counted:
                thread.join()
            self.over.set()
            for thread in company:
                thread.join()
        if self.failures:
            raise self.failures[0]

    def _do(self, job: Callable[[], object], barrier: threading.Barrier) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as failure:  # raised again by `run`
            self.failures.append(failure)
            self.over.set()


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads lose the GIL after few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def thread_inside(section: Callable[[], object]) -> Iterator[threading.Thread]:
    """Another thread that has entered `section()`, a context manager, and leaves it at the end of the block."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with section():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        entered.wait()
        yield thread
    finally:
        leave.set()
        thread.join()


def in_thread(call: Callable[[], object]) -> object:
    """What `call()` returns or raises in a thread of its own."""
    result: list[object] = []
    crew = Crew()
    crew.run(lambda: result.append(call()))
    return result[0]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python like this one, on the same `ptl`, with more environment variables; it must end well."""
    paths = [str(Path(ptl.__file__).parent.parent), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


linux_only = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at threads through /proc")


@contextmanager
def going_on(call: Callable[[], object]) -> Iterator[list[object]]:
    """Another thread in the middle of `call()`, which is to end after the block; the list then has what it returned.

    Begins the block when the thread sleeps in the system, waiting for something. Leave inside the block what it needs.
    """
    done: list[object] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as failure:  # raised again below
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        _wait_until_asleep(thread)
        yield done
    finally:
        thread.join()
    if failures:
        raise failures[0]


def _wait_until_asleep(thread: threading.Thread) -> None:
    stat = Path(f"/proc/self/task/{thread.native_id}/stat")
    asleep = 0  # times in a row: a thread may also wait for the GIL, which each look gives it
    while asleep < 50 and thread.is_alive():
        try:
            asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0
        except (FileNotFoundError, ProcessLookupError):
            return
