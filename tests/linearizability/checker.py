"""Is a history of overlapping calls what some order of them, one after another, would have given?

The order must put a call before another that began after it had ended. Every order is tried that the answers allow, all
at once, in the order of time: a *configuration* is a state of the specification, and which of the calls that are under
way have happened in it. When a call ends, it must have happened in a configuration; the others are given up. No
configuration left means that there is no such order. Equal ones are one, so nothing is tried twice.

Sources: J. Wing and C. Gong, "Testing and verifying concurrent objects", 1993; G. Lowe, "Testing for linearizability",
2017 (just-in-time linearization).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from specification import Call

State = TypeVar("State", bound=Hashable)
After = Callable[[State, Call], tuple[int, State]]


def first_that_fits_no_order(calls: Iterable[Call], begin: State, after: After[State]) -> list[Call]:
    """Nothing, or the call that fits no order and those that were under way when it ended."""
    calls = list(calls)
    ends = [(call.end, 1, i) for i, call in enumerate(calls)]
    begins = [(call.begin, 0, i) for i, call in enumerate(calls)]  # at the same moment: they overlap
    under_way: set[int] = set()
    configurations: set[tuple[State, frozenset[int]]] = {(begin, frozenset())}
    for _, is_end, i in sorted(begins + ends):
        if not is_end:
            under_way.add(i)
            continue
        configurations = {
            (state, happened - {i})
            for state, happened in everything_that_may_have_happened(configurations, under_way, calls, after)
            if i in happened
        }
        if not configurations:
            return [calls[i], *(calls[j] for j in under_way - {i})]
        under_way.remove(i)
    return []


def everything_that_may_have_happened(
    configurations: set[tuple[State, frozenset[int]]], under_way: set[int], calls: list[Call], after: After[State]
) -> set[tuple[State, frozenset[int]]]:
    """The configurations, and all that calls under way lead to from them, one by one, with the answers they gave."""
    found, new = set(configurations), list(configurations)
    while new:
        state, happened = new.pop()
        for i in under_way - happened:
            answer, following = after(state, calls[i])
            following_configuration = (following, happened | {i})
            if answer == calls[i].answer and following_configuration not in found:
                found.add(following_configuration)
                new.append(following_configuration)
    return found
