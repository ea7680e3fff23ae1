"""Paths through the machine that a student reads and edits: a fault and a collapse, as they were, and as they are.

    fault       finds the leaf table through the slot, locks it, fills an entry
    collapse    locks both tables, empties the slot, hands the leaf table back, makes the slot huge

The names follow the kernel's story of 2023: until then a lock kept the slot from changing; since then the map may fail.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from ptl.lab.machine import (
    EMPTY,
    HUGE,
    PMD,
    SLOT,
    Step,
    alloc,
    claim,
    enter,
    free,
    is_table,
    leave,
    load,
    lock,
    reclaim,
    retire,
    store,
    table_entry,
    table_of,
    unlock,
)

Path = Generator[Step, int, None]
MakesPath = Callable[[], Path]


def naive_fault(index: int, page: int) -> MakesPath:
    """The map cannot fail: what the slot said once is believed."""

    def path() -> Path:
        slot = yield load(PMD, SLOT)
        if not is_table(slot):
            return
        table = table_of(slot)
        yield lock(table)
        old = yield load(table, index)
        if old == EMPTY:
            yield store(table, index, page)
        yield unlock(table)

    return path


def fallible_fault(index: int, page: int) -> MakesPath:
    """Inside a section, and the slot is read again when the lock is held."""

    def path() -> Path:
        while True:
            yield enter()
            slot = yield load(PMD, SLOT)
            if not is_table(slot):
                yield leave()
                return
            table = table_of(slot)
            yield lock(table)
            again = yield load(PMD, SLOT)
            if again == slot:
                old = yield load(table, index)
                if old == EMPTY:
                    yield store(table, index, page)
                yield unlock(table)
                yield leave()
                return
            yield unlock(table)
            yield leave()

    return path


def fault(index: int, page: int) -> MakesPath:
    """As fallible_fault, and a slot that is empty gets a table first."""

    def path() -> Path:
        while True:
            yield enter()
            slot = yield load(PMD, SLOT)
            if is_table(slot):
                table = table_of(slot)
                yield lock(table)
                again = yield load(PMD, SLOT)
                if again == slot:
                    old = yield load(table, index)
                    if old == EMPTY:
                        yield store(table, index, page)
                    yield unlock(table)
                    yield leave()
                    return
                yield unlock(table)
                yield leave()
                continue
            yield leave()
            if slot != EMPTY:
                return
            fresh = yield alloc()
            yield lock(PMD)
            slot = yield load(PMD, SLOT)
            if slot == EMPTY:
                yield store(PMD, SLOT, table_entry(fresh))
                yield unlock(PMD)
            else:
                yield unlock(PMD)
                yield free(fresh)

    return path


def unchecked_fault(index: int, page: int) -> MakesPath:
    """Inside a section, but the slot is not read again when the lock is held."""

    def path() -> Path:
        yield enter()
        slot = yield load(PMD, SLOT)
        if is_table(slot):
            table = table_of(slot)
            yield lock(table)
            old = yield load(table, index)
            if old == EMPTY:
                yield store(table, index, page)
            yield unlock(table)
        yield leave()

    return path


def endless_fault(index: int, page: int) -> MakesPath:
    """As fallible_fault, but it begins again whenever there is no table."""

    def path() -> Path:
        while True:
            yield enter()
            slot = yield load(PMD, SLOT)
            if is_table(slot):
                table = table_of(slot)
                yield lock(table)
                again = yield load(PMD, SLOT)
                if again == slot:
                    yield store(table, index, page)
                    yield unlock(table)
                    yield leave()
                    return
                yield unlock(table)
            yield leave()

    return path


def collapse(*, deferred: bool, final: int = HUGE) -> MakesPath:
    """Table, empty, huge; the table is freed when its readers have left (deferred), or at once."""

    def path() -> Path:
        yield lock(PMD)
        slot = yield load(PMD, SLOT)
        if not is_table(slot):
            yield unlock(PMD)
            return
        table = table_of(slot)
        yield lock(table)
        yield store(PMD, SLOT, EMPTY)
        yield unlock(table)
        yield retire(table) if deferred else free(table)
        if final != EMPTY:
            yield store(PMD, SLOT, final)
        yield unlock(PMD)
        if deferred:
            yield reclaim()

    return path


def retract() -> MakesPath:
    """Table to empty."""
    return collapse(deferred=True, final=EMPTY)


def move(*, looks_again: bool) -> MakesPath:
    """Hand the table of one slot over to the next. The kernel's mremap, until 6.12, looked only before it locked."""

    def path() -> Path:
        slot = yield load(PMD, SLOT)
        if not is_table(slot):
            return
        yield lock(PMD)
        if looks_again:
            slot = yield load(PMD, SLOT)
        if is_table(slot):
            yield store(PMD, SLOT, EMPTY)
            yield store(PMD, SLOT + 1, slot)
        yield unlock(PMD)

    return path


def reclaim_empty(*, looks_again: bool, entries: int = 2) -> MakesPath:
    """Free a table that is found empty. The kernel's reclaim, in review, looked only before it locked."""

    def path() -> Path:
        yield enter()
        slot = yield load(PMD, SLOT)
        empty = is_table(slot)
        if empty:
            table = table_of(slot)
            yield lock(table)
            for index in range(entries):
                entry = yield load(table, index)
                empty = empty and entry == EMPTY
            yield unlock(table)
        yield leave()
        if not empty:
            return
        yield lock(PMD)
        now = yield load(PMD, SLOT)
        if now == slot:
            yield lock(table)
            if looks_again:
                for index in range(entries):
                    entry = yield load(table, index)
                    empty = empty and entry == EMPTY
            if empty:
                yield store(PMD, SLOT, EMPTY)
            yield unlock(table)
            if empty:
                yield retire(table)
        yield unlock(PMD)
        yield reclaim()

    return path


LOW, HIGH = 0, 1
"""The two words of one entry, on a machine that loads one word at a time."""


def change_in_halves(words: int) -> MakesPath:
    """Change an entry of two words as such a machine has to: not present, then the high word, then the low one."""

    def path() -> Path:
        yield store(1, LOW, EMPTY)
        yield store(1, HIGH, words)
        yield store(1, LOW, words)

    return path


def read_in_halves(*, looks_again: bool) -> MakesPath:
    """Read an entry of two words, both of which say the same when they belong together."""

    def path() -> Path:
        while True:
            low = yield load(1, LOW)
            high = yield load(1, HIGH)
            again = (yield load(1, LOW)) if looks_again else low
            if again == low:
                break
        yield claim(low in (EMPTY, high), "torn: the halves of two values were taken for one")

    return path
