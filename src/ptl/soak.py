"""The soak: rounds of the race, each different, for as long as asked or until the first wrong answer.

    seed --choose--> Round: format, policy, kind, threads, knobs
                       |
                       '--python -m ptl.soak SEED--> the race, beside: threads that come and go, forks, signals
                                                       |
                             ends well; or wrong answer, broken invariant, leak, crash, hang: told with the same command

A round is a process of its own, so a crash or a hang ends the round and not the soak. All that is chosen comes from the
seed, so the seed alone repeats the round; but not the order in which real threads meet: what is rare may take several
tries.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ptl import arch, proc, race
from ptl._core import PageFault, PageTable, PteMap, put_under_stress
from ptl._version import __version__

ROUND_SECONDS = 2.0
HANG_SECONDS = 60
"""For a round longer than it should take: a busy machine, and stress, make it several times as long."""
SPAN_MAX = 4 << 20
"""The largest span of a level-2 slot: a collapse by copy copies it."""
PAGES_MIN = 64
"""That a leaf table has to hold: so many a fault thread maps before it unmaps them."""
FORMATS = tuple(
    form.name
    for form in map(arch.get, arch.names())
    if len(form.page_sizes) > 1
    and form.page_sizes[1] == form.level(2).span <= SPAN_MAX
    and form.page_sizes[1] >= PAGES_MIN * form.page_sizes[0]
)
"""Those whose leaf tables can become one huge leaf."""
FORK_PAUSE_SECONDS = 0.05
SIGNAL_PAUSE_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Round:
    """What one round is made of; all of it is chosen by the seed."""

    seed: int
    arch: str
    policy: str
    kind: str
    readers: int
    faulters: int
    stress: bool
    """Whether steps are delayed and fail, batches are tiny, and epochs wrap (core/stress.pxi)."""
    membarrier: bool
    """Whether the reclaimer has the barrier of a section, or the reader."""

    @property
    def command(self) -> list[str]:
        """What repeats it."""
        return [sys.executable, "-X", "faulthandler", "-m", "ptl.soak", str(self.seed)]

    @property
    def environment(self) -> dict[str, str]:
        """What the process has to begin with."""
        return {"PTL_MEMBARRIER": str(int(self.membarrier))}

    @property
    def command_line(self) -> str:
        """Both, for a shell."""
        return shlex.join([*(f"{name}={value}" for name, value in self.environment.items()), *self.command])


def choose(seed: int) -> Round:
    """The round of a seed.

    >>> from ptl import soak
    >>> soak.choose(1) == soak.choose(1) != soak.choose(2)
    True
    """
    rng = random.Random(seed)
    return Round(
        seed=seed,
        arch=rng.choice(FORMATS),
        policy=rng.choice(race.POLICIES),
        kind=rng.choice(("file", "anonymous")),
        readers=rng.choice((1, 2, 3)),
        faulters=rng.choice((1, 2)),
        stress=rng.random() < 0.75,
        membarrier=rng.random() < 0.75,
    )


# -- one round --------------------------------------------------------------------------------------------------------


class WrongAnswer(AssertionError):
    """What should never happen, and did; the message says what."""


def play(this: Round, seconds: float = ROUND_SECONDS) -> dict[str, Any]:
    """Run one round in this process, for the main thread, and return what `race.run_one` counts.

    Raises WrongAnswer; InvariantError and LivelockError of the table are raised as they are.
    """
    settings = race.Settings(seconds * len(race.KINDS), this.readers, this.faulters, (this.policy,), this.seed)
    field = _field(this)
    put_under_stress(this.seed if this.stress else 0)
    try:
        with _signals():
            numbers = race.run_one(field, settings, this.policy, this.kind, beside=partial(_companions, field))
    finally:
        put_under_stress(0)
    if numbers["wrong_translations"]:
        raise WrongAnswer(f"{numbers['wrong_translations']} of {numbers['translations']} translations were wrong")
    if numbers["tables_retired"] != numbers["tables_freed"]:
        raise WrongAnswer(f"{numbers['tables_retired']} tables were retired and {numbers['tables_freed']} freed")
    return numbers


def _field(this: Round) -> race.Field:
    """Few regions, so that threads meet: two to collapse, one for each fault thread, and pages that nobody changes."""
    form = arch.get(this.arch)
    page, huge = form.page_sizes[:2]
    regions = [(number * huge, 0) for number in range(2 + this.faulters)]
    first = 4 * huge
    pages = (
        proc.Placed(first, huge, huge, huge, "rw", 0),
        *(
            proc.Placed(first + huge + n * page, (2 * n + 1) * page, page, page, "rw", 0)
            for n in range(0, huge // page, 2)
        ),
    )
    span = 0, first + 2 * huge - 1
    layout = proc.Layout(form, (span,), pages, relocated=False, frames_made_up=True)
    return race.Field(layout, tuple(regions[:2]), tuple(regions[2:]), pages, filled=0)


def _companions(field: race.Field, table: PageTable, over: threading.Event) -> list[Callable[[], None]]:
    """What runs beside the race, until it is over."""
    return [partial(run, field, table, over) for run in (_come_and_go, _fork, _interrupt)]


def _look(field: race.Field, table: PageTable) -> None:
    """Translate what is always mapped; in regions that are collapsed by copy only the offset is known."""
    page = field.layout.arch.page_sizes[0]
    try:
        for placed in field.pages:
            if table.translate(placed.va + page - 1) != placed.pa + page - 1:
                raise WrongAnswer(f"va {placed.va + page - 1:#x} is not translated to pa {placed.pa + page - 1:#x}")
        for va, _ in field.collapsing:
            if table.translate(va + 5) % page != 5:
                raise WrongAnswer(f"va {va + 5:#x} is translated to {table.translate(va + 5):#x}")
    except PageFault as fault:
        raise WrongAnswer(f"va {fault.va:#x} is mapped all the time, and was reported unmapped") from fault


def _come_and_go(field: race.Field, table: PageTable, over: threading.Event) -> None:
    """Threads that begin, look, and end, and leave a table pinned to this one."""
    while not over.is_set():
        failures: list[BaseException] = []
        left: list[PteMap | None] = []

        def live(failures: list[BaseException] = failures, left: list[PteMap | None] = left) -> None:
            try:
                _look(field, table)
                left.append(table.pte_map(field.collapsing[0][0]))
            except BaseException as failure:  # raised below
                failures.append(failure)

        threads = [threading.Thread(target=live) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ptes in left:
            if ptes is not None:
                with ptes:
                    _must_be_one_run(field, ptes.entries())
        if failures:
            raise failures[0]


def _must_be_one_run(field: race.Field, raws: Sequence[int]) -> None:
    """A table of a region that is collapsed maps frames that follow one another, also after it has left the tree."""
    form = field.layout.arch
    leaves = [form.decode(raw & ~form.level(1).word.frozen_bit(raw)).pa for raw in raws]
    page = form.page_sizes[0]
    if leaves[0] is None or leaves != [leaves[0] + n * page for n in range(len(raws))]:
        raise WrongAnswer("a table that was pinned maps frames that do not follow one another")


def _fork(field: race.Field, table: PageTable, over: threading.Event) -> None:
    """Children that look, check, change, and end."""
    while not over.wait(FORK_PAUSE_SECONDS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: it is what is tried
            pid = os.fork()
        if pid == 0:
            _be_child(field, table)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            raise WrongAnswer("a forked child hung")
        if status:
            raise WrongAnswer(f"a forked child ended with wait status {status:#x}")


def _be_child(field: race.Field, table: PageTable) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(HANG_SECONDS // 2)
        table.check()
        for va, _ in field.collapsing:
            table.collapse(va)
            table.split(va)
        _look(field, table)
        table.check()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


@contextmanager
def _signals() -> Iterator[None]:
    """A signal that does nothing but interrupt."""
    before = signal.signal(signal.SIGURG, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGURG, before)


def _interrupt(field: race.Field, table: PageTable, over: threading.Event) -> None:
    """Signals to each thread, wherever it is, by the system's number: it may have ended since it was looked up."""
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    while not over.wait(SIGNAL_PAUSE_SECONDS):
        if tgkill is None:  # to whichever thread the system chooses
            os.kill(os.getpid(), signal.SIGURG)
            continue
        for thread in threading.enumerate():
            if thread.native_id is not None:
                tgkill(os.getpid(), thread.native_id, signal.SIGURG)


def main(arguments: Sequence[str]) -> int:
    """`python -m ptl.soak SEED`: one round. What it came to as a line of JSON, or what was wrong, and status 1."""
    if len(arguments) != 1:
        print("usage: python -m ptl.soak SEED", file=sys.stderr)
        return 2
    numbers = play(choose(int(arguments[0])))
    print(json.dumps({name: number for name, number in numbers.items() if not name.endswith("buckets")}))
    return 0


# -- all rounds -------------------------------------------------------------------------------------------------------


def run(
    seconds: float,
    seed: int,
    policies: Sequence[str] = race.POLICIES,
    tick: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Run the rounds of `seed` and the seeds after it, at least one, until the time is over or an answer is wrong.

    tick: called some times a second with what is running and the seconds since the last call.

    Returns what was run, and under "wrong" None, or the round that was: what was wrong, all that was chosen, the
    command line that repeats it, and what it printed.
    """
    began = last = time.monotonic()
    rounds: list[Round] = []
    done: Counter[str] = Counter()
    wrong = None

    def tell(what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if tick is not None:
            tick(what, now - last)
        last = now

    while wrong is None and (not rounds or time.monotonic() - began < seconds):
        this = choose(seed)
        seed += 1
        if this.policy not in policies:
            continue
        rounds.append(this)
        what = _run_apart(this, done, tell)
        if what is not None:
            wrong = {"what": what[0], **asdict(this), "command_line": this.command_line, "output": what[1]}
    return {
        "ptl": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "seconds": time.monotonic() - began,
        "rounds": len(rounds),
        "formats": dict(Counter(each.arch for each in rounds)),
        "policies": dict(Counter(each.policy for each in rounds)),
        **done,
        "wrong": wrong,
    }


COUNTED = ("translations", "faults", "collapses", "splits", "retracts", "tables_retired")


def _run_apart(this: Round, done: Counter[str], tell: Callable[[str], None]) -> tuple[str, str] | None:
    """Run a round in a process of its own and add up what it did; what was wrong, and what it printed, or None."""
    deadline = time.monotonic() + ROUND_SECONDS + HANG_SECONDS
    with subprocess.Popen(
        this.command,
        env={**os.environ, **this.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    tell(f"{this.arch}, {this.policy}, {this.kind}")
                    if time.monotonic() > deadline:
                        process.send_signal(signal.SIGABRT)  # faulthandler tells where each thread is
                        _, errors = process.communicate()
                        return f"it did not end within {ROUND_SECONDS + HANG_SECONDS:.0f} s", errors
        finally:
            process.kill()
    if process.returncode < 0:
        return f"it was ended by {signal.Signals(-process.returncode).name}", errors
    if process.returncode:
        return errors.strip().rpartition("\n")[2], errors
    numbers = json.loads(output)
    for name in COUNTED:
        done[name] += numbers[name]
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
