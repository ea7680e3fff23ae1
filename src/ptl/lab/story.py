"""A schedule as a story: what each thread did, step by step, and how the tables looked after it.

Both engines tell it in the same words: a step, and a picture of the tables, locks, pins, sections and limbo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptl._core import TABLE_USES
from ptl._core import State as EntryState
from ptl.arch import Entry
from ptl.lab import machine, states
from ptl.lab import schedule as schedules
from ptl.lab.exploration import Laboratory, place_of, words_of
from ptl.lab.machine import State
from ptl.lab.scenarios import Scenario

Place = tuple[object, ...]
ACCESSORS = ("load_shaped", "exchange_shaped", "entry_compare_exchange")
"""Functions of the core that say no more than the step does."""


@dataclass(frozen=True, slots=True)
class TableView:
    """A table as a picture shows it."""

    name: str
    use: str
    """live, private, retired, free."""
    holder: str
    """The letter of the thread that holds its lock, or nothing."""
    pins: int
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThreadView:
    """A thread as a picture shows it."""

    inside: int
    """How deep in a section."""
    holds: tuple[str, ...]
    """The locks that it holds, those of tables apart."""
    buffer: tuple[str, ...]
    """Stores that nobody else sees yet."""
    is_waiting: bool
    is_done: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that threads share, at one moment."""

    tables: tuple[TableView, ...]
    threads: tuple[ThreadView, ...]
    limbo: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoryStep:
    """One step of a story."""

    actor: int
    text: str
    site: str
    """The function of the core, or nothing."""
    operation: str
    """Which of the thread's operations it belongs to."""
    tables: frozenset[int]
    """The tables that it is about."""
    is_change: bool
    picture: Picture

    @property
    def thread(self) -> int:
        """The thread that made it, or whose store buffer did."""
        return self.actor % schedules.THREADS


@dataclass(frozen=True, slots=True)
class Story:
    """A schedule, told."""

    scenario: Scenario
    begin: Picture
    steps: tuple[StoryStep, ...]
    kind: str
    """What went wrong, or nothing."""
    detail: str
    schedule: str

    @property
    def clash(self) -> tuple[int, int] | None:
        """The two steps that clash: the last, and the last before it by another thread it does not commute with."""
        if not self.kind or not self.steps:
            return None
        last = len(self.steps) - 1
        final = self.steps[last]
        for place in range(last - 1, -1, -1):
            step = self.steps[place]
            if step.thread != final.thread and (step.is_change or final.is_change) and step.tables & final.tables:
                return place, last
        return None


def tell(scenario: Scenario, schedule: str, laboratory: Laboratory | None = None) -> Story:
    """The story of a schedule. Raises ValueError for what is no schedule."""
    actors = schedules.parse(schedule)
    if scenario.is_of_core:
        return _tell_core(scenario, laboratory or scenario.laboratory(), schedule, actors)
    return _tell_machine(scenario, schedule, actors)


# -- the machine ------------------------------------------------------------------------------------------------------


def _tell_machine(scenario: Scenario, schedule: str, actors: Sequence[int]) -> Story:
    assert scenario.start is not None
    steps = []
    wrong = ("", "")
    before = scenario.start
    read: dict[int, int] = {}
    for seen in states.replay(scenario.paths, scenario.start, actors, scenario.ensures):
        step = seen.step
        about = {step.table} if step.table >= 0 else set()
        if step.kind in ("store", "compare_exchange") and step.table == machine.PMD:
            about |= {machine.table_of(each) for each in (before.entry(step.table, step.index), step.value) if each}
        text = str(step)
        if step.kind == "claim":
            about = {read[seen.thread]}
        elif step.kind == "load":
            read[seen.thread] = step.table
            text += f": {machine.shown(step.table, seen.found)}"
        elif step.kind == "alloc":
            text += f": {machine.name(seen.found)}"
            about = {seen.found}
        elif step.kind == "reclaim":
            freed = [machine.name(table) for table, _ in before.limbo if (table, frozenset()) not in seen.state.limbo]
            about = {table for table, _ in before.limbo}
            text += f": frees {', '.join(freed)}" if freed else ": nothing to free"
        is_change = step.kind in ("store", "compare_exchange", "free", "retire", "reclaim")
        steps.append(StoryStep(seen.thread, text, "", "", frozenset(about), is_change, picture_of(seen.state)))
        before = seen.state
        if seen.wrong is not None:
            wrong = seen.wrong
            break
    if not wrong[0] and scenario.expected == "livelock" and _goes_round(scenario.start, steps):
        wrong = "livelock", "these steps can follow one another for ever"
    return Story(scenario, picture_of(scenario.start), tuple(steps), *wrong, schedule)


def _goes_round(start: State, steps: Sequence[StoryStep]) -> bool:
    """Whether a thread was stopped because it had been where it was, in the same state."""
    return bool(steps) and any(step.picture == steps[-1].picture for step in steps[:-1])


def picture_of(state: State) -> Picture:
    """A machine as a picture."""
    tables = []
    for table, life in enumerate(state.life):
        holder = state.locks[table]
        entries = tuple(machine.shown(table, state.entry(table, index)) for index in range(machine.ENTRIES))
        tables.append(
            TableView(
                machine.name(table), life, schedules.LETTERS[holder] if holder >= 0 else "", 0,
                tuple("" if entry == "EMPTY" else entry for entry in entries),
            )
        )  # fmt: skip
    return Picture(
        tuple(tables),
        tuple(ThreadView(depth, (), (), False, False) for depth in state.inside),
        tuple(_in_limbo(table, waiting) for table, waiting in state.limbo),
    )


def _in_limbo(table: int, waiting: frozenset[int]) -> str:
    readers = " ".join(schedules.LETTERS[each] for each in sorted(waiting))
    return f"{machine.name(table)}, waits for {readers or 'nobody'}"


# -- the core ---------------------------------------------------------------------------------------------------------


def _tell_core(scenario: Scenario, laboratory: Laboratory, schedule: str, actors: Sequence[int]) -> Story:
    steps: list[StoryStep] = []

    def watch(seen: tuple[Any, ...]) -> None:
        actor, operation, kind, where, value, expected, found, changed, site = seen
        if actor >= schedules.THREADS:
            site = "store buffer"
        elif site in ACCESSORS:
            site = ""
        steps.append(
            StoryStep(
                actor=actor,
                text=_text_of(laboratory, kind, where, value, expected, found, changed),
                site=site,
                operation=str(scenario.operations[actor % schedules.THREADS][operation]),
                tables=_tables_of(laboratory, where, (found, value)),
                is_change=changed,
                picture=_picture(laboratory),
            )
        )

    failure = laboratory.model.replay(actors, watch, judge=laboratory.judge)
    kind, detail = words_of(failure) if failure is not None else ("", "")
    return Story(scenario, _first_picture(laboratory), tuple(steps), kind, detail, schedule)


def _first_picture(laboratory: Laboratory) -> Picture:
    """Before the first step: the world is as it was set up, and no thread has begun."""
    now = _picture(laboratory)
    return Picture(now.tables, tuple(ThreadView(0, (), (), False, False) for _ in now.threads), now.limbo)


def _text_of(
    laboratory: Laboratory, kind: str, where: Place, value: int, expected: int, found: int, changed: bool
) -> str:
    """A step of the core in words."""
    place = place_of(where)
    before, after = _word(laboratory, where, found), _word(laboratory, where, value)
    match kind:
        case "load":
            return f"load {place}: {before}"
        case "store":
            return f"{place} = {after}"
        case "exchange":
            return f"{place}: {before} -> {after}"
        case "compare_exchange" if found != expected:
            return f"{place} is {before}, not {_word(laboratory, where, expected)}"
        case "compare_exchange":
            return f"{place}: {before} -> {after}" if changed else f"{place} is {before}"
        case "add":
            return f"{place} + {_signed(value)}" if changed else f"read {place}: {before}"
        case "lock":
            return f"lock {place.removesuffix(' lock')}"
        case "again":
            return "walk again"
        case "park" | "unpark":
            return f"{kind} at {place}"
    return kind


def _tables_of(laboratory: Laboratory, where: Place, raws: Sequence[int]) -> frozenset[int]:
    """The tables that a step is about: the one that is touched, and those that the values name."""
    match where:
        case ("table", int(number), _):
            return frozenset({number})
        case ("entry", int(number), int(level), _):
            entries = (laboratory.table.arch.decode(raw, level) for raw in raws)
            named = {_number(laboratory, entry) for entry in entries if entry.state is EntryState.TABLE}
            return frozenset({number} | named)
    return frozenset()


def _word(laboratory: Laboratory, where: Place, raw: int) -> str:
    """A value as it is to be read at that place."""
    match where:
        case ("entry", _, int(level), _):
            return entry_text(laboratory, raw, level) or "empty"
        case ("table", _, "use"):
            return TABLE_USES[raw]
        case ("table", _, "lock"):
            return "free" if raw == 0 else "held"
        case ("record", _, "section"):
            return f"inside since {raw >> 16}" if raw & 0xFFFF else "outside"
        case ("the epoch",):
            return str(raw >> 16)
        case ("limbo",):
            return "empty" if raw == 0 else "a table"
    return f"{raw:#x}" if raw > 9 else str(raw)


def _number(laboratory: Laboratory, entry: Entry) -> int:
    """The table that an entry names."""
    assert entry.pa is not None
    frames = laboratory.table.frames
    return (entry.pa - frames.base) // frames.frame_bytes


def entry_text(laboratory: Laboratory, raw: int, level: int) -> str:
    """An entry as a picture shows it; nothing for an empty one."""
    entry = laboratory.table.arch.decode(raw, level)
    ice = "*" if entry.frozen and entry.state is not EntryState.BUSY else ""
    match entry.state:
        case EntryState.EMPTY:
            return ice
        case EntryState.TABLE:
            return f"table {_number(laboratory, entry)}"
        case EntryState.HUGE:
            word = "huge" if level > 1 else "page"
            used = "".join(letter for letter in "ad" if letter in (entry.flags or ""))
            return f"{word} {entry.pa:#x}{' ' + used if used else ''}{ice}"
    return f"{entry.state.name}{ice}"


def _signed(value: int) -> str:
    return str(value - (1 << 64) if value >> 63 else value)


def _picture(laboratory: Laboratory) -> Picture:
    model = laboratory.model
    owners = model.owners()
    tables = []
    limbo = []
    for number, (use, lock, pins, level, raws) in enumerate(model.tables_now()):
        entries = tuple(entry_text(laboratory, raw, level) for raw in raws)
        holder = "" if lock == 0 else schedules.LETTERS[owners.index(lock >> 1)] if lock >> 1 in owners else "?"
        if use == "retired":
            limbo.append(f"table {number}")
        if use != "free" or lock or pins:
            tables.append(TableView(f"table {number} (level {level})", use, holder, pins, entries))
    threads = [
        ThreadView(
            depth,
            tuple(place_of(each) for each in held if each and each[0] != "table"),
            tuple(f"{place_of(where)} = {_word(laboratory, where, value)}" for where, value in buffer),
            waits,
            done,
        )
        for done, depth, waits, held, buffer in model.threads_now()
    ]
    return Picture(tuple(tables), tuple(threads), tuple(limbo))
