"""What one region of a page table does when one call is made after another: the sequential specification.

A region is a slot of level 2 and the pages under it. Its state is `(kind, pages)`: what the slot holds, and for each
page its *value*: 0 for nothing, otherwise the run of frames that it is mapped to, counted from 1, and once more with
as many added where it is read-only. `after` gives a call's answer and the next state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from itertools import product
from typing import NamedTuple

from ptl.arch import Arch

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
    PROTECT = 8
    LOOKUP = 9
    READ_TABLE = 10
    """All entries of the leaf table, read under its lock."""
    TOUCH = 11
    """A translation through a CPU's TLB; only histories whose order is dictated have it."""


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
    MIXED_FLAGS = 8
    IS_SOFT = 9
    IS_BAD = 10
    IS_MAPPED = 101


class Call(NamedTuple):
    """One call, when it began and ended, and what it answered."""

    begin: int
    end: int
    operation: Operation
    page: int
    pages: int
    argument: int
    """Of a map, the run; of a protect, whether read-only; of a compare-exchange, the value that is expected."""
    following: int
    """Of a compare-exchange, the value that is desired."""
    answer: int
    thread: int = 0


def begins_with(pages: int) -> State:
    """A region that nobody has touched."""
    return EMPTY, (0,) * pages


class Region:
    """The specification for regions of that format whose runs of frames begin at these physical addresses."""

    def __init__(self, arch: Arch, runs: list[int], pages: int):
        self.arch, self.runs, self.pages = arch, runs, pages
        self.page_bytes = 1 << arch.page_shift

    @property
    def values(self) -> range:
        """What a page can be."""
        return range(1 + 2 * len(self.runs))

    def run_of(self, value: int) -> int:
        """The run of a value that is not 0."""
        return (value - 1) % len(self.runs)

    def pa(self, value: int, page: int) -> int:
        """The physical address of a page with a value that is not 0."""
        return self.runs[self.run_of(value)] + page * self.page_bytes

    def entry(self, value: int, page: int, level: int = 1) -> int:
        """The raw entry of a page with that value."""
        flags = "rw" if value <= len(self.runs) else "r"
        return self.arch.encode(self.pa(value, page), flags, level) if value else 0

    @property
    def entries(self) -> list[int]:
        """Of each page, the entry of each value."""
        return [self.entry(value, page) for page, value in product(range(self.pages), self.values)]

    def packed(self, numbers: Iterable[int | None]) -> int:
        """What READ_TABLE answers: 16 bits for each page, the number of what it is mapped to and one; 0 for None."""
        return sum(0 if number is None else number + 1 << 16 * i for i, number in enumerate(numbers))

    def after(self, state: State, call: Call) -> tuple[int, State]:
        """The answer of a call in a state, and the state after it."""
        how: Callable[[State, Call], tuple[int, State]] = getattr(self, call.operation.name.lower())
        return how(state, call)

    def translate(self, state: State, call: Call) -> tuple[int, State]:
        value = state[1][call.page]
        return (self.pa(value, call.page) if value else UNMAPPED), state

    touch = translate

    def lookup(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        value = pages[call.page]
        if not value:
            return UNMAPPED, state
        return (self.entry(value, 0, 2) if kind == HUGE else self.entry(value, call.page)), state

    def read_table(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if kind != TABLE:
            return UNMAPPED, state
        return self.packed(self.pa(v, i) // self.page_bytes if v else None for i, v in enumerate(pages)), state

    def map(self, state: State, call: Call) -> tuple[int, State]:
        pages = state[1]
        covered = range(call.page, call.page + call.pages)
        if any(pages[i] for i in covered):
            return Result.IS_MAPPED, state
        pages = tuple(call.argument + 1 if i in covered else value for i, value in enumerate(pages))
        return Result.DONE, (HUGE if call.pages == len(pages) else TABLE, pages)

    def unmap(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        if call.pages == len(pages):
            return Result.DONE, begins_with(len(pages))
        covered = range(call.page, call.page + call.pages)
        pages = tuple(0 if i in covered else value for i, value in enumerate(pages))
        return Result.DONE, (EMPTY if kind == EMPTY else TABLE, pages)

    def protect(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        covered = range(call.page, call.page + call.pages)
        pages = tuple(
            1 + self.run_of(value) + len(self.runs) * call.argument if value and i in covered else value
            for i, value in enumerate(pages)
        )
        return Result.DONE, (TABLE if kind == HUGE and call.pages < len(pages) else kind, pages)

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
        for value in pages:  # in their order: the first obstacle is the answer
            if value == 0:
                return Result.NOT_FULL, state
            if self.run_of(value) != self.run_of(pages[0]):
                return Result.NOT_CONTIGUOUS, state
            if value != pages[0]:
                return Result.MIXED_FLAGS, state
        return Result.DONE, (HUGE, pages)

    def split(self, state: State, call: Call) -> tuple[int, State]:
        kind, pages = state
        return (Result.DONE, (TABLE, pages)) if kind == HUGE else (Result.NOT_HUGE, state)

    # -- in words

    def told(self, history: Iterable[Call], wrong: Iterable[Call] = (), before: int = 12) -> str:
        """A history for people: a line for each call, in the order in which they ended, marked those that are wrong.

        Of a long one, only the last calls before the wrong ones, and what overlaps with these.
        """
        calls, marked = sorted(history, key=lambda call: (call.end, call.begin)), list(wrong)
        if marked:
            first, last = min(call.begin for call in marked), max(call.end for call in marked)
            ended = sum(call.end < first for call in calls)
            calls = [call for call in calls[max(ended - before, 0) :] if call.begin <= last]
        start = min((call.begin for call in calls), default=0)
        lines = []
        for call in calls:
            times = f"{call.begin - start:>6} .. {call.end - start:<6}"
            mark = "" if call not in marked else "   <- fits no order" if call == marked[0] else "   <- beside it"
            lines.append(f"{times} {chr(ord('a') + call.thread)}: {self.asked(call)} gives {self.answered(call)}{mark}")
        return "\n".join(lines)

    def asked(self, call: Call) -> str:
        """A call without its answer."""
        name, where = call.operation.name.lower(), f"page {call.page}"
        if call.pages > 1:
            where = f"pages {call.page} to {call.page + call.pages - 1}"
        match call.operation:
            case Operation.MAP:
                return f"{name} {where} to {self.value_told(call.argument + 1)}"
            case Operation.PROTECT:
                return f"{name} {where} {'read-only' if call.argument else 'writable'}"
            case Operation.COMPARE_EXCHANGE:
                return f"{name} {where} from {self.value_told(call.argument)} to {self.value_told(call.following)}"
            case Operation.TRANSLATE | Operation.LOOKUP | Operation.TOUCH | Operation.UNMAP:
                return f"{name} {where}"
        return name

    def answered(self, call: Call) -> str:
        """Its answer."""
        if call.operation in (Operation.TRANSLATE, Operation.TOUCH, Operation.LOOKUP):
            if call.answer == UNMAPPED:
                return "nothing"
            for value, page, level in product(self.values[1:], range(self.pages), (1, 2)):
                if page and level == 2:
                    continue
                if call.operation == Operation.LOOKUP and call.answer == self.entry(value, page, level):
                    return self.value_told(value) + (", huge" if level == 2 else "")
                if call.operation != Operation.LOOKUP and call.answer == self.pa(value, page):
                    return f"run {self.run_of(value)}, page {page}"
            return f"{call.answer:#x}"
        if call.operation == Operation.READ_TABLE:
            if call.answer == UNMAPPED:
                return "no table"
            numbers = [call.answer >> 16 * i & 0xFFFF for i in range(self.pages)]
            return "pages " + " ".join(f"{number - 1:#x}" if number else "-" for number in numbers)
        return next((result.name.lower() for result in Result if result == call.answer), str(call.answer))

    def value_told(self, value: int) -> str:
        """What a page is."""
        return f"run {self.run_of(value)}" + (" read-only" if value > len(self.runs) else "") if value else "nothing"
