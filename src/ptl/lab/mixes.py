"""Mixes: random operations of four threads, too many interleavings to run them all, by random schedules (PCT).

    seed --mix--> Scenario: a table, four threads of two operations --sample--> so many schedules
      |
      '-- seed + 1, seed + 2, ... on every core, until there are enough schedules or one goes wrong

What holds for a mix holds for the proofs: some serial order of the eight whole operations gives the same. A reader sees
each entry of a range change by itself, so mixes have readers or ranges, and not both.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context

from ptl import arch
from ptl._core import PageTable
from ptl.lab import operations as op
from ptl.lab.exploration import Exploration
from ptl.lab.operations import Operation
from ptl.lab.scenarios import PAGE, SPAN, Scenario

THREADS, OPERATIONS = 4, 2
SCHEDULES = 2000
"""Of one mix: learning what its 2520 serial orders give costs about as much."""
OLD, NEW, OTHER = 0x1_0000, 0x2_0000, 0x4_0000


def _nothing(pt: PageTable) -> None:
    """No table but the root."""


def _empty(pt: PageTable) -> None:
    pt.populate(0)


def _two_pages(pt: PageTable) -> None:
    pt.map(0, OLD, 2 * PAGE)


def _full(pt: PageTable) -> None:
    pt.map(0, OLD, SPAN, page_size=PAGE)


def _huge(pt: PageTable) -> None:
    pt.map(0, OLD, SPAN)


SETUPS = (_nothing, _empty, _two_pages, _full, _huge)
_Make = Callable[[random.Random], Operation]


def _va(rng: random.Random) -> int:
    """A page of the first leaf table, now and then of its neighbour."""
    return rng.choice((0, PAGE, 2 * PAGE, 3 * PAGE, SPAN))


def _exchange(rng: random.Random) -> Operation:
    encode = arch.get("tiny").encode
    va = _va(rng) % SPAN
    return op.compare_exchange(va, encode(OLD + va, "rw"), encode(rng.choice((NEW, OTHER)), "r"))


ANYWHERE: tuple[_Make, ...] = (
    lambda rng: op.map(_va(rng), rng.choice((NEW, OTHER))),
    lambda rng: op.unmap(_va(rng)),
    lambda rng: op.protect(_va(rng), PAGE, rng.choice(("r", "rw"))),
    _exchange,
    lambda rng: op.populate(_va(rng)),
    lambda rng: op.retract(_va(rng)),
    lambda rng: op.collapse(0),
    lambda rng: op.split(0),
    lambda rng: op.reclaim(),
)
BESIDE_NO_RANGE: tuple[_Make, ...] = (lambda rng: op.translate(_va(rng)),)
BESIDE_NO_READER: tuple[_Make, ...] = (
    lambda rng: op.map(0, NEW, SPAN),
    lambda rng: op.map(2 * PAGE, NEW, SPAN),
    lambda rng: op.unmap(PAGE, SPAN),
    lambda rng: op.protect(2 * PAGE, SPAN, "r"),
    lambda rng: op.move(0, SPAN, SPAN),
)


def mix(seed: int) -> Scenario:
    """The mix of a seed.

    >>> from ptl.lab import mixes
    >>> mixes.mix(3).operations == mixes.mix(3).operations != mixes.mix(4).operations
    True
    """
    rng = random.Random(seed)
    makes = ANYWHERE + 2 * rng.choice((BESIDE_NO_RANGE, BESIDE_NO_READER))
    setup = rng.choice(SETUPS)
    return Scenario(
        f"mix-{seed}",
        f"the core: mix {seed}, from {setup.__name__.strip('_').replace('_', ' ')}",
        "Operations drawn at random.",
        "proved",
        tuple(f"thread {number + 1}" for number in range(THREADS)),
        operations=tuple(tuple(rng.choice(makes)(rng) for _ in range(OPERATIONS)) for _ in range(THREADS)),
        setup=setup,
        options={"batch_tables": rng.choice((1, 64))},
    )


@dataclass(frozen=True)
class Tally:
    """What all mixes came to."""

    schedules: int
    mixes: int
    steps: int
    seconds: float
    failed: tuple[Scenario, Exploration] | None = None
    """The first mix that went wrong, and how."""

    def __str__(self) -> str:
        counts = f"{self.schedules:,} random schedules of {self.mixes:,} mixes, {self.steps:,} steps"
        return f"{counts} in {self.seconds:.0f} s: {'one went wrong' if self.failed else 'nothing was found'}"


def run(schedules: int, seed: int, tick: Callable[[int], None] | None = None) -> Tally:
    """Sample the mixes of `seed` and the seeds after it, on every core, until there were so many schedules.

    tick: called after each mix with how many schedules it had.
    """
    begun = time.perf_counter()
    done = steps = mixes = 0
    failed = None
    # Each core a process of its own, not a copy of one that may have threads.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for number, result in _sampled(pool, schedules, seed):
            done, steps, mixes = done + result.executions, steps + result.steps, mixes + 1
            if tick is not None:
                tick(result.executions)
            if result.kind:
                failed = mix(number), result
                break
        pool.shutdown(cancel_futures=True)
    return Tally(done, mixes, steps, time.perf_counter() - begun, failed)


def _sampled(pool: ProcessPoolExecutor, schedules: int, seed: int) -> Iterator[tuple[int, Exploration]]:
    """Each mix's number and result, as they come; no more at a time than keeps every core busy."""
    seeds = count(seed)
    running: dict[Future[Exploration], int] = {}
    asked = 0
    while running or asked < schedules:
        while asked < schedules and len(running) < 2 * (os.cpu_count() or 1):
            number = next(seeds)
            most = min(SCHEDULES, schedules - asked)
            running[pool.submit(_sample, number, most)] = number
            asked += most
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future.result()


def _sample(seed: int, schedules: int) -> Exploration:
    return mix(seed).laboratory().sample(seed, schedules)
