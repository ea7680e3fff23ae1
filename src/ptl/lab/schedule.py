"""Schedules as short strings: which thread goes on, step by step.

    a7b3a      thread a makes seven steps, b three, then a goes on; a letter alone is one step
    a7 A b     a capital letter makes the oldest store of that thread's buffer visible (store buffers)

After the last letter the thread that ran last goes on as far as it can, then the others in their order: so a schedule
need only say where that is not enough. A thread that waits for its own store buffer empties it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

THREADS = 4
LETTERS = "abcdABCD"
"""By actor: four threads, and the store buffer of each."""

_PART = re.compile(r"([abcdABCD])(\d*)")


def parse(text: str) -> list[int]:
    """The actors of a schedule, one a step.

    >>> parse("a3b A2")
    [0, 0, 0, 1, 4, 4]
    """
    actors: list[int] = []
    rest = text.replace(" ", "")
    if _PART.sub("", rest):
        raise ValueError(f"{text!r} is no schedule: it is made of letters from {LETTERS}, each with a count or alone")
    for letter, count in _PART.findall(rest):
        actors += [LETTERS.index(letter)] * (int(count) if count else 1)
    return actors


def text_of(actors: Iterable[int]) -> str:
    """The inverse.

    >>> text_of([0, 0, 0, 1, 4, 4])
    'a3bA2'
    """
    return "".join(f"{LETTERS[actor]}{count if count > 1 else ''}" for actor, count in runs(actors))


def runs(actors: Iterable[int]) -> list[tuple[int, int]]:
    """Actors, and how many steps each makes in turn."""
    return [(actor, len(list(run))) for actor, run in groupby(actors)]


def actors_of(parts: Iterable[tuple[int, int]]) -> list[int]:
    """The inverse of `runs`."""
    return [actor for actor, count in parts for _ in range(count)]


def preemptions(actors: Sequence[int]) -> int:
    """How often one thread follows another in it, which is at least how often one was preempted."""
    threads = [actor for actor in actors if actor < THREADS]
    return sum(before != after for before, after in pairwise(threads))
