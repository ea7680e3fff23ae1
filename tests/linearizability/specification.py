"""What one region of a page table does when one call is made after another: the sequential specification.

A region is a slot of level 2 and the pages under it. Its state is `(kind, pages)`: what the slot holds, and for each
page the run of frames that it is mapped to, counted from 1, or 0. `after` gives a call's answer and the next state.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

EMPTY, TABLE, HUGE = "empty", "table", "huge"
UNMAPPED = 2**64 - 1
State = tuple[str, tuple[int, ...]]


class Operation(IntEnum):
    """Numbered as the recorder numbers them."""

    TRANSLATE = 0
    MAP = 1
    UNMAP = 2
    COMPARE_EXCHANGE = 3
    POPULATE = 4
    RETRACT = 5
    COLLAPSE = 6
    SPLIT = 7


class Result(IntEnum):
    """Of the C level, which answers by number."""

    DONE = 0
    ALREADY = 1
    NO_TABLE = 2
    NOT_HUGE = 3
    IS_HUGE = 4
    NOT_EMPTY = 5
    NOT_FULL = 6
    NOT_CONTIGUOUS = 7
    IS_MAPPED = 101


class Call(NamedTuple):
    """One call, when it began and ended, and what it answered."""

    begin: int
    end: int
    operation: Operation
    page: int
    pages: int
    argument: int
    following: int
    answer: int


def begins_with(pages: int) -> State:
    """A region that nobody has touched."""
    return EMPTY, (0,) * pages


class Region:
    """The specification for regions whose runs of frames begin at these physical addresses."""

    def __init__(self, runs: list[int], page_bytes: int):
        self.runs, self.page_bytes = runs, page_bytes

    def after(self, state: State, call: Call) -> tuple[int, State]:
        """The answer of a call in a state, and the state after it."""
        how: Callable[[State, Call], tuple[int, State]] = getattr(self, call.operation.name.lower())
        return how(state, call)

    def translate(self, state: State, call: Call) -> tuple[int, State]:
        run = state[1][call.page]
        return (self.runs[run - 1] + call.page * self.page_bytes if run else UNMAPPED), state

    def map(self, state: State, call: Call) -> tuple[int, State]:
        pages = state[1]
        covered = range(call.page, call.page + call.pages)
        if any(pages[i] for i in covered):
            return Result.IS_MAPPED, state
        pages = tuple(call.argument + 1 if i in covered else run for i, run in enumerate(pages))
        return Result.DONE, (HUGE if call.pages == len(pages) else TABLE, pages)

    def unmap(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if call.pages == len(pages):
            return Result.DONE, begins_with(len(pages))
        covered = range(call.page, call.page + call.pages)
        pages = tuple(0 if i in covered else run for i, run in enumerate(pages))
        return Result.DONE, (EMPTY if kind == EMPTY else TABLE, pages)

    def compare_exchange(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if kind == EMPTY:
            return Result.NO_TABLE, state
        if kind == HUGE or pages[call.page] != call.argument:
            return Result.ALREADY, state
        return Result.DONE, (kind, (*pages[: call.page], call.following, *pages[call.page + 1 :]))

    def populate(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if kind == EMPTY:
            return Result.DONE, (TABLE, pages)
        return (Result.ALREADY if kind == TABLE else Result.IS_HUGE), state

    def retract(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if kind != TABLE:
            return (Result.NO_TABLE if kind == EMPTY else Result.IS_HUGE), state
        return (Result.NOT_EMPTY, state) if any(pages) else (Result.DONE, (EMPTY, pages))

    def collapse(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if kind != TABLE:
            return (Result.NO_TABLE if kind == EMPTY else Result.ALREADY), state
        for run in pages:  # in their order: the first obstacle is the answer
            if run == 0:
                return Result.NOT_FULL, state
            if run != pages[0]:
                return Result.NOT_CONTIGUOUS, state
        return Result.DONE, (HUGE, pages)

    def split(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        return (Result.DONE, (TABLE, pages)) if kind == HUGE else (Result.NOT_HUGE, state)
