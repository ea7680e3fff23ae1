"""The promise: whatever the order of their steps, what calls are answered fits an order; a broken table is found out.

The steps of each history are dictated, so nothing here depends on luck: the same checker that judges native threads
accepts every history of the core, and refuses one of each broken table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken import ALL_PAGES, BROKEN, EMPTY_TABLE, NOTHING, ONE_PAGE, REGION, TWO_PAGES, Before
from checker import first_that_fits_no_order
from dictated import Dictated, ask
from hypothesis import given
from hypothesis import strategies as st
from specification import Call, Operation

HERE = Path(__file__).parent


# -- the core


@pytest.mark.parametrize("name", BROKEN)
def test_no_history_of_a_whole_table_is_refused(name: str) -> None:
    """Of the very threads that tell a broken one."""
    history, wrong, checked = BROKEN[name].refused(fault=False)
    assert not wrong, REGION.told(history, wrong)
    assert checked > 10


READS = [Operation.TRANSLATE, Operation.LOOKUP]
RANGES = [Operation.MAP, Operation.UNMAP, Operation.PROTECT]
WRITES = [each for each in Operation if each not in (*READS, Operation.READ_TABLE, Operation.TOUCH)]
BUT_COMPARE = [each for each in WRITES if each != Operation.COMPARE_EXCHANGE]
"""No lock of a table keeps a compare-exchange out, and it would miss the accessed bits that a CPU sets."""
MIXES: dict[str, tuple[list[Operation], range]] = {
    "readers": (WRITES + READS * 2, range(1, 2)),
    "writers": (WRITES, range(1, REGION.pages + 1)),
    "tables read": ([*BUT_COMPARE, Operation.READ_TABLE], range(2, REGION.pages + 1)),
    "CPUs": (BUT_COMPARE + [Operation.TOUCH] * 3, range(1, 2)),
}
"""What is chosen from, and how many pages a change has: one where readers, who see each entry of a range change by
itself, look on; more where a table's lock must keep it out."""


@st.composite
def asked(draw: st.DrawFn, among: list[Operation], sizes: range) -> Call:
    operation = draw(st.sampled_from(among))
    if operation in RANGES:
        pages = draw(st.sampled_from(sizes))
        page = draw(st.integers(0, REGION.pages - pages))
    else:
        page, pages = draw(st.integers(0, REGION.pages - 1)), 1
    values = REGION.values if operation == Operation.COMPARE_EXCHANGE else range(2)
    return ask(operation, page, pages, draw(st.sampled_from(values)), draw(st.sampled_from(REGION.values)))


@pytest.mark.parametrize("mix", MIXES)
@given(st.data(), st.sampled_from([NOTHING, EMPTY_TABLE, ONE_PAGE, TWO_PAGES, ALL_PAGES]))
def test_what_threads_are_answered_fits_an_order_under_any_schedule(
    mix: str, data: st.DataObject, before: Before
) -> None:
    calls = asked(*MIXES[mix])
    threads = data.draw(st.lists(st.lists(calls, min_size=1, max_size=3), min_size=2, max_size=3))
    dictated = Dictated(REGION, threads, before.setup)
    turns = st.lists(st.tuples(st.integers(0, len(threads) - 1), st.integers(1, 30)), max_size=12)
    for turn in data.draw(st.lists(turns, min_size=1, max_size=5)):
        history = dictated.history([thread for thread, steps in turn for _ in range(steps)])
        wrong = first_that_fits_no_order(history, before.state, REGION.after)
        assert not wrong, REGION.told(history, wrong)


# -- broken tables


@pytest.mark.xdist_group("faulty")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_refused(faulty: Path, name: str) -> None:
    """And the history that shows it can be read."""
    done = subprocess.run(
        [sys.executable, str(HERE / "broken.py"), name],
        env={**os.environ, "PYTHONPATH": str(faulty)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " gives " in done.stdout
    assert done.stdout.count("<- fits no order") == 1
