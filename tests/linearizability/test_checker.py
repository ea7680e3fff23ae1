"""The promise: the checker refuses a history if, and only if, it fits no order of its calls.

By cases; by every order of small histories, one after another, with which it agrees; and by histories that the
specification made, which it never refuses as they are.
"""

from __future__ import annotations

from itertools import permutations

from checker import first_that_fits_no_order
from hypothesis import given
from hypothesis import strategies as st
from specification import EMPTY, HUGE, TABLE, UNMAPPED, Call, Operation, Region, Result, begins_with

from ptl import arch

PAGES = 4
RUNS = [0x10_0000, 0x20_0000]
REGION = Region(arch.get("tiny"), RUNS, PAGES)
PAGE = REGION.page_bytes


# -- by cases


def call(
    begin: int, end: int, operation: Operation, answer: int, page: int = 0, pages: int = 1, argument: int = 0
) -> Call:
    return Call(begin, end, operation, page, pages, argument, 0, answer)


def fits(*calls: Call) -> bool:
    return first_that_fits_no_order(calls, begins_with(PAGES), REGION.after) == []


MAPPED = RUNS[0]


def test_a_read_beside_a_map_may_see_either():
    write = call(10, 20, Operation.MAP, Result.DONE)
    assert fits(write, call(12, 14, Operation.TRANSLATE, UNMAPPED))
    assert fits(write, call(12, 14, Operation.TRANSLATE, MAPPED))
    assert fits(write, call(20, 24, Operation.TRANSLATE, UNMAPPED))  # at the same moment: they overlap


def test_a_read_after_a_map_may_not_miss_it():
    write = call(10, 20, Operation.MAP, Result.DONE)
    assert not fits(write, call(21, 24, Operation.TRANSLATE, UNMAPPED))
    assert not fits(write, call(2, 9, Operation.TRANSLATE, MAPPED))


def test_two_reads_may_not_see_a_map_come_and_go():
    write = call(10, 30, Operation.MAP, Result.DONE)
    assert fits(write, call(11, 14, Operation.TRANSLATE, UNMAPPED), call(15, 20, Operation.TRANSLATE, MAPPED))
    assert not fits(write, call(11, 14, Operation.TRANSLATE, MAPPED), call(15, 20, Operation.TRANSLATE, UNMAPPED))


def test_of_two_maps_of_one_page_one_fails():
    first, second = (call(10, 20, Operation.MAP, Result.DONE), call(12, 22, Operation.MAP, Result.DONE))
    assert not fits(first, second)
    assert fits(first, second._replace(answer=Result.IS_MAPPED))


def test_a_range_happens_at_once_for_two_who_change():
    """Two ranges that overlap cannot both find their pages free."""
    lower = call(10, 20, Operation.MAP, Result.DONE, page=0, pages=3)
    upper = call(11, 21, Operation.MAP, Result.DONE, page=2, pages=2)
    assert not fits(lower, upper)
    assert fits(lower, upper._replace(answer=Result.IS_MAPPED))


def test_a_mapped_page_is_mapped_while_its_size_changes():
    full = call(1, 2, Operation.MAP, Result.DONE, pages=PAGES)
    for change in (call(3, 9, Operation.SPLIT, Result.DONE), call(3, 9, Operation.COLLAPSE, Result.ALREADY)):
        assert fits(full, change, call(4, 5, Operation.TRANSLATE, MAPPED))
        assert not fits(full, change, call(4, 5, Operation.TRANSLATE, UNMAPPED))


def test_the_specification_goes_round():
    """Every kind of slot is left and reached."""
    state = begins_with(PAGES)
    steps = [
        (call(0, 0, Operation.POPULATE, 0), TABLE),
        (call(0, 0, Operation.RETRACT, 0), EMPTY),
        (call(0, 0, Operation.MAP, 0, pages=PAGES), HUGE),
        (call(0, 0, Operation.SPLIT, 0), TABLE),
        (call(0, 0, Operation.COLLAPSE, 0), HUGE),
        (call(0, 0, Operation.UNMAP, 0), TABLE),
        (call(0, 0, Operation.UNMAP, 0, pages=PAGES), EMPTY),
    ]
    for step, kind in steps:
        answer, state = REGION.after(state, step)
        assert (answer, state[0]) == (Result.DONE, kind)


# -- by every order


def fits_by_enumeration(calls: list[Call]) -> bool:
    """Whether one of all orders in which no call comes before one that had ended gives these answers."""
    for order in permutations(calls):
        if any(later.end < earlier.begin for i, earlier in enumerate(order) for later in order[i + 1 :]):
            continue
        state = begins_with(PAGES)
        for each in order:
            answer, state = REGION.after(state, each)
            if answer != each.answer:
                break
        else:
            return True
    return False


@st.composite
def asked(draw: st.DrawFn) -> Call:
    """A call, not answered yet."""
    operation = draw(st.sampled_from(Operation))
    page = draw(st.integers(0, PAGES - 1))
    is_range = operation in (Operation.MAP, Operation.UNMAP, Operation.PROTECT)
    pages = draw(st.integers(1, PAGES - page)) if is_range else 1
    among = {Operation.COMPARE_EXCHANGE: len(REGION.values), Operation.PROTECT: 2}.get(operation, len(RUNS))
    argument = draw(st.integers(0, among - 1))
    return Call(0, 0, operation, page, pages, argument, draw(st.sampled_from(REGION.values)), 0)


@st.composite
def valid(draw: st.DrawFn, most: int, apart: bool = False) -> list[Call]:
    """A history that the specification made: call n happens at 10 * n, and lasts from before that to after it."""
    state, calls = begins_with(PAGES), []
    for n, each in enumerate(draw(st.lists(asked(), min_size=1, max_size=most))):
        answer, state = REGION.after(state, each)
        before, behind = (0, 0) if apart else (draw(st.integers(0, 35)), draw(st.integers(0, 35)))
        calls.append(each._replace(begin=10 * n - before, end=10 * n + behind, answer=answer, thread=n))
    return sorted(calls)


@st.composite
def corrupted(draw: st.DrawFn, histories: st.SearchStrategy[list[Call]]) -> list[Call]:
    """A history of which one call is lost, said twice, moved in time, or answered with what another was."""
    calls = draw(histories)
    i = draw(st.integers(0, len(calls) - 1))
    match draw(st.sampled_from(["lost", "twice", "moved", "answered"])):
        case "lost":
            del calls[i]
        case "twice":
            calls.append(calls[i])
        case "moved":
            by = draw(st.integers(-40, 40))
            calls[i] = calls[i]._replace(begin=calls[i].begin + by, end=calls[i].end + by)
        case "answered":
            answers = {each.answer for each in calls} | {UNMAPPED, *Result}
            calls[i] = calls[i]._replace(answer=draw(st.sampled_from(sorted(answers))))
    return calls


@given(valid(most=40))
def test_what_the_specification_gives_is_never_refused(calls: list[Call]) -> None:
    assert fits(*calls)
    assert REGION.told(calls).count("\n") == len(calls) - 1


@given(corrupted(valid(most=5)))
def test_what_is_refused_fits_no_order_at_all(calls: list[Call]) -> None:
    assert fits(*calls) == fits_by_enumeration(calls)


@given(valid(most=20, apart=True), st.data())
def test_one_wrong_answer_of_calls_that_do_not_overlap_is_always_refused(
    calls: list[Call], data: st.DataObject
) -> None:
    i = data.draw(st.integers(0, len(calls) - 1))
    wrong = calls[i]._replace(answer=data.draw(st.integers(0, UNMAPPED).filter(lambda n: n != calls[i].answer)))
    calls[i] = wrong
    assert first_that_fits_no_order(calls, begins_with(PAGES), REGION.after) == [wrong]
    assert "<- fits no order" in REGION.told(calls, [wrong])
