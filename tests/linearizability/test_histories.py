"""The promise: what native threads see at full speed is what some order of their calls, one by one, would have given.

Histories of thousands of overlapping calls on one region are recorded, and checked against the specification. Regions
do not share entries, so each is checked by itself. The checker is checked too: with histories that fit no order.
"""

from __future__ import annotations

import threading
from types import ModuleType

import pytest
from checker import first_that_fits_no_order
from specification import EMPTY, HUGE, TABLE, UNMAPPED, Call, Operation, Region, Result, begins_with

import ptl

PAGE = 0x1000
PAGES = 4
RUNS = [0x10_0000, 0x20_0000]
REGION = Region(RUNS, PAGE)
HUGE_BYTES = PAGES * PAGE

SINGLE = [Operation.TRANSLATE] * 3 + [
    Operation.MAP,
    Operation.UNMAP,
    Operation.COMPARE_EXCHANGE,
    Operation.COMPARE_EXCHANGE,
]
TRANSITIONS = [Operation.POPULATE, Operation.RETRACT, Operation.COLLAPSE, Operation.SPLIT]
MIXES = {
    "everything": [SINGLE + TRANSITIONS] * 3,
    "readers beside everything": [[Operation.TRANSLATE], SINGLE + TRANSITIONS, SINGLE + TRANSITIONS],
    "writers beside transitions": [SINGLE, SINGLE, [*TRANSITIONS, Operation.MAP]],
    "writers beside ranges": [
        [Operation.TRANSLATE, Operation.COMPARE_EXCHANGE],
        [Operation.TRANSLATE, Operation.COMPARE_EXCHANGE, Operation.MAP],
        [Operation.MAP, Operation.UNMAP],
    ],
}
"""What each thread chooses from."""
CALLS = 20_000
"""Of each thread: longer than it keeps its core, so that the others come in between even where there is only one."""
OVERLAPPING = 200
HISTORIES_MAX = 60


def table() -> ptl.PageTable:
    """A table in which the slot of a region at 0 is there, and nothing else."""
    pt = ptl.PageTable("tiny", frames=ptl.Frames(1 << 16, frame_bytes=32, domain=ptl.EpochDomain(batch_tables=1)))
    pt.map(2 * HUGE_BYTES, 0, PAGE, "rw")
    return pt


def history(recorder: ModuleType, mix: list[list[Operation]], count: int, seed: int) -> list[Call]:
    """What happened when as many threads as there are in the mix made that many calls each."""
    pt = table()
    entries = [raw for page in range(PAGES) for raw in (0, *(pt.arch.encode(run + page * PAGE, "rw") for run in RUNS))]
    gate = recorder.Gate(len(mix))
    recorders = [recorder.Recorder(count, seed * len(mix) + i + 1) for i in range(len(mix))]
    threads = [
        threading.Thread(target=own.run, args=(gate, pt, [int(o) for o in operations], 0, PAGE, PAGES, RUNS, entries))
        for own, operations in zip(recorders, mix, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pt.check()
    calls = [
        Call(begin, end, Operation(operation), *rest)
        for own in recorders
        for begin, end, operation, *rest in own.calls_made()
    ]
    return sorted(calls)


def overlaps(calls: list[Call]) -> int:
    """How many calls began before an earlier one had ended."""
    latest, found = 0, 0
    for call in calls:
        found += call.begin < latest
        latest = max(latest, call.end)
    return found


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_what_threads_see_fits_some_order_of_their_calls(recorder, mix):
    overlapping = 0
    for seed in range(HISTORIES_MAX):
        calls = history(recorder, mix, CALLS, seed)
        overlapping += overlaps(calls)
        assert first_that_fits_no_order(calls, begins_with(PAGES), REGION.after) == []
        if overlapping > OVERLAPPING:
            return
    pytest.fail(f"of {HISTORIES_MAX} histories only {overlapping} calls overlap: too few cores to judge by")


def test_every_answer_that_the_specification_knows_is_given(recorder):
    """So that the histories are about something."""
    wanted = {
        (Operation.MAP, Result.DONE),
        (Operation.MAP, Result.IS_MAPPED),
        (Operation.COMPARE_EXCHANGE, Result.DONE),
        (Operation.COMPARE_EXCHANGE, Result.ALREADY),
        (Operation.COMPARE_EXCHANGE, Result.NO_TABLE),
        (Operation.POPULATE, Result.DONE),
        (Operation.RETRACT, Result.DONE),
        (Operation.RETRACT, Result.NOT_EMPTY),
        (Operation.COLLAPSE, Result.NOT_FULL),
        (Operation.COLLAPSE, Result.ALREADY),
        (Operation.SPLIT, Result.DONE),
        (Operation.TRANSLATE, UNMAPPED),
        (Operation.TRANSLATE, RUNS[0]),
        (Operation.TRANSLATE, RUNS[1] + PAGE),
    }
    given = {(call.operation, call.answer) for call in history(recorder, MIXES["everything"], CALLS, 1)}
    assert wanted <= given


# -- the checker


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
