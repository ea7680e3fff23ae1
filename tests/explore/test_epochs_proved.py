"""The promise: what is retired during a section is not reused before its end, in every order, also with store buffers.

C9 and C10; E1 to E6 of epoch.pxi. With `batch_tables=1` each retired table begins a grace period at once.
"""

from __future__ import annotations

import pytest

from labs import PAGE, empty_table, fails, prove
from ptl.lab import operations as op

READER = (op.translate(PAGE),)
RETRACT = (op.retract(0), op.reclaim())


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("barrier", ["membarrier", "each section"])
def test_entry_beside_advance(barrier: str, memory: str) -> None:
    prove([READER, RETRACT], empty_table, batch_tables=1, barrier=barrier, memory=memory)


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("barrier", ["membarrier", "each section"])
def test_a_section_in_a_section(barrier: str, memory: str) -> None:
    prove([(op.read_twice(PAGE),), RETRACT], empty_table, batch_tables=1, barrier=barrier, memory=memory)


def test_an_entry_without_its_fence_is_found_under_store_buffers() -> None:
    result = fails([READER, RETRACT], empty_table, batch_tables=1, barrier="none", memory="tso")
    assert result.kind == "table freed under a reader"


def test_without_store_buffers_it_is_not() -> None:
    """Sequential consistency hides the mistake: that is why there are store buffers."""
    prove([READER, RETRACT], empty_table, batch_tables=1, barrier="none")


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_two_readers(memory: str) -> None:
    prove([READER, READER, RETRACT], empty_table, batch_tables=1, memory=memory)


def test_retiring_beside_advancing() -> None:
    prove([READER, (op.retract(0),), (op.reclaim(),)], empty_table, batch_tables=1)


def test_synchronize_waits_for_the_reader() -> None:
    prove([READER, (op.retract(0), op.synchronize())], empty_table, batch_tables=1)


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_a_thread_ends_inside_a_section(memory: str) -> None:
    ending = (op.enter(), op.walk(PAGE), op.end())
    prove([ending, RETRACT], empty_table, batch_tables=1, memory=memory, is_serialisable=False)


def test_a_reader_that_stays_inside_holds_the_table_back() -> None:
    staying = (op.enter(), op.walk(PAGE))
    prove([staying, RETRACT], empty_table, batch_tables=1, is_serialisable=False, is_left_inside=True)
