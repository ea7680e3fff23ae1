"""The promise: what native threads see at full speed is what some order of their calls, one by one, would have given.

Histories of thousands of overlapping calls on one region are recorded, and checked against the specification. Regions
do not share entries, so each is checked by itself.
"""

from __future__ import annotations

import threading
from types import ModuleType

import pytest
from checker import first_that_fits_no_order
from specification import UNMAPPED, Call, Operation, Region, Result, begins_with

import ptl

RUNS = [0x10_0000, 0x20_0000]
PAGES = 4
REGION = Region(ptl.arch.get("tiny"), RUNS, PAGES)
PAGE = REGION.page_bytes
HUGE_BYTES = PAGES * PAGE

READS = [Operation.TRANSLATE, Operation.LOOKUP]
RANGES = [Operation.MAP, Operation.UNMAP, Operation.PROTECT]
SINGLE = [*READS, Operation.TRANSLATE, *RANGES, Operation.COMPARE_EXCHANGE, Operation.COMPARE_EXCHANGE]
TRANSITIONS = [Operation.POPULATE, Operation.RETRACT, Operation.COLLAPSE, Operation.SPLIT]
MIXES = {
    "everything": [SINGLE + TRANSITIONS] * 3,
    "readers beside everything": [READS, SINGLE + TRANSITIONS, SINGLE + TRANSITIONS],
    "writers beside transitions": [SINGLE, SINGLE, [*TRANSITIONS, Operation.MAP]],
    "writers beside ranges": [
        [Operation.COMPARE_EXCHANGE],
        [Operation.COMPARE_EXCHANGE, Operation.MAP],
        RANGES,
    ],
    "tables read beside ranges": [[Operation.READ_TABLE], RANGES + TRANSITIONS, RANGES + TRANSITIONS],
}
"""What each thread chooses from."""
CALLS = 20_000
"""Of each thread: longer than it keeps its core, so that the others come in between even where there is only one."""
SLOWER = 10
"""How many native calls take as long as one that reads a table, which goes through Python."""
RANGES_ONLY = {"tables read beside ranges"}
"""A table's lock keeps ranges and transitions out, and no single change of an entry."""
OVERLAPPING = 200
HISTORIES_MAX = 60


def table() -> ptl.PageTable:
    """A table in which the slot of a region at 0 is there, and nothing else."""
    pt = ptl.PageTable("tiny", frames=ptl.Frames(1 << 16, frame_bytes=32, domain=ptl.EpochDomain(batch_tables=1)))
    pt.map(2 * HUGE_BYTES, 0, PAGE, "rw")
    return pt


def history(recorder: ModuleType, mix: str, count: int, seed: int) -> list[Call]:
    """What happened when as many threads as there are in the mix made that many calls each."""
    pt, chosen, least = table(), MIXES[mix], 2 if mix in RANGES_ONLY else 1
    is_seen = any(each in READS for operations in chosen for each in operations)
    gate = recorder.Gate(len(chosen))
    recorders = [
        recorder.Recorder(count // (SLOWER if Operation.READ_TABLE in operations else 1), seed * len(chosen) + i + 1)
        for i, operations in enumerate(chosen)
    ]
    threads = [
        threading.Thread(
            target=own.run,
            args=(gate, pt, [*map(int, operations)], 0, PAGE, PAGES, RUNS, REGION.entries, least, is_seen),
        )
        for own, operations in zip(recorders, chosen, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pt.check()
    return sorted(
        Call(begin, end, Operation(operation), *rest, thread)
        for thread, own in enumerate(recorders)
        for begin, end, operation, *rest in own.calls_made()
    )


def overlaps(calls: list[Call]) -> int:
    """How many calls began before an earlier one had ended."""
    latest, found = 0, 0
    for call in calls:
        found += call.begin < latest
        latest = max(latest, call.end)
    return found


@pytest.mark.parametrize("mix", MIXES)
def test_what_threads_see_fits_some_order_of_their_calls(recorder, mix):
    overlapping = 0
    for seed in range(HISTORIES_MAX):
        calls = history(recorder, mix, CALLS, seed)
        overlapping += overlaps(calls)
        wrong = first_that_fits_no_order(calls, begins_with(PAGES), REGION.after)
        assert not wrong, REGION.told(calls, wrong)
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
        (Operation.PROTECT, Result.DONE),
        (Operation.LOOKUP, UNMAPPED),
        (Operation.LOOKUP, REGION.entry(1, 0)),
        (Operation.LOOKUP, REGION.entry(3, PAGES - 1)),
        (Operation.LOOKUP, REGION.entry(2, 0, level=2)),
        (Operation.SPLIT, Result.DONE),
        (Operation.TRANSLATE, UNMAPPED),
        (Operation.TRANSLATE, RUNS[0]),
        (Operation.TRANSLATE, RUNS[1] + PAGE),
    }
    given = {(call.operation, call.answer) for call in history(recorder, "everything", CALLS, 1)}
    assert wanted <= given


def test_tables_are_read_while_they_are_there(recorder):
    """With nothing, with this and with that in them, and when there is none."""
    seen: set[int] = set()
    for seed in range(HISTORIES_MAX):
        calls = history(recorder, "tables read beside ranges", CALLS, seed)
        seen |= {call.answer for call in calls if call.operation == Operation.READ_TABLE}
        if UNMAPPED in seen and len(seen) > 4:
            return
    pytest.fail(f"of {HISTORIES_MAX} histories only {len(seen)} tables differ: too few cores to judge by")
