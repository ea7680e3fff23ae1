"""The machine on which a path written in Python runs: a few tables of four entries, in the bits of `tiny`, and locks.

    table 0: the PMD table      [ slot | slot | slot | slot ]
    table 1, 2, ...             [ entry | entry | entry | entry ]   free until `alloc`, or named by a slot

A path is a generator that yields one step after another and is sent what the step found:

    def touch(table, index):
        yield lock(table)
        old = yield load(table, index)
        yield store(table, index, old | ACCESSED)
        yield unlock(table)

The whole state is a value: it can be kept, compared, and gone back to. `apply` does one step, and changes no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from ptl.arch.tiny import ADDRESS, LEAF, P

T = TypeVar("T")

ENTRIES, ENTRY_BYTES = 4, 8
TABLE_BYTES = ENTRIES * ENTRY_BYTES
PMD, SLOT = 0, 0
"""The table that holds the slots, and the slot that scenarios are about."""
EMPTY = 0
HUGE = P | LEAF | 0x8000
"""A huge leaf."""


def table_entry(table: int) -> int:
    """The entry that names a table."""
    return P | table * TABLE_BYTES & ADDRESS.mask


def page(number: int) -> int:
    """A leaf of level 1."""
    return P | number << 12


def is_table(entry: int) -> bool:
    """Whether an entry of the PMD table names a table."""
    return entry & (P | LEAF) == P


def table_of(entry: int) -> int:
    """The table that it names."""
    return (entry & ADDRESS.mask) // TABLE_BYTES


class Wrong(Exception):
    """A step that a correct path never makes: `kind` is one of the things a lab looks for."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a path: made by the functions below."""

    kind: str
    table: int = -1
    index: int = -1
    value: int = 0
    expected: int = 0
    words: str = ""

    def __str__(self) -> str:
        place = f"{name(self.table)}[{self.index}]"
        match self.kind:
            case "load":
                return f"load {place}"
            case "store":
                return f"{place} = {shown(self.table, self.value)}"
            case "compare_exchange":
                return f"{place}: {shown(self.table, self.expected)} -> {shown(self.table, self.value)}"
            case "enter" | "leave" | "alloc" | "reclaim":
                return self.kind
            case "claim":
                return "is right" if self.value else self.words
            case _:
                return f"{self.kind} {name(self.table)}"


def load(table: int, index: int) -> Step:
    """Read an entry: sends its value."""
    return Step("load", table, index)


def store(table: int, index: int, value: int) -> Step:
    """Write an entry."""
    return Step("store", table, index, value)


def compare_exchange(table: int, index: int, expected: int, value: int) -> Step:
    """Write an entry if it is what is expected: sends what was found."""
    return Step("compare_exchange", table, index, value, expected)


def lock(table: int) -> Step:
    """Take a table's lock: waits until it is free."""
    return Step("lock", table)


def unlock(table: int) -> Step:
    """Let go of a table's lock."""
    return Step("unlock", table)


def enter() -> Step:
    """Enter a read section."""
    return Step("enter")


def leave() -> Step:
    """Leave it."""
    return Step("leave")


def alloc() -> Step:
    """Take a free table: sends its number."""
    return Step("alloc")


def free(table: int) -> Step:
    """Hand a table back at once."""
    return Step("free", table)


def retire(table: int) -> Step:
    """Hand a table over, to be freed when every section that is inside now has been left."""
    return Step("retire", table)


def reclaim() -> Step:
    """Free what was retired: waits for its readers."""
    return Step("reclaim")


def claim(holds: bool, words: str = "") -> Step:
    """What the path knows by now to be true; where it is not, the words say what is wrong."""
    return Step("claim", value=int(holds), words=words)


def name(table: int) -> str:
    """What people call a table."""
    return "pmd" if table == PMD else f"table {table}"


def shown(table: int, entry: int) -> str:
    """An entry in words."""
    if entry == EMPTY:
        return "EMPTY"
    if table == PMD:
        return "HUGE" if not is_table(entry) else name(table_of(entry))
    return f"page {entry >> 12:#x}"


class State(NamedTuple):
    """Everything that threads share."""

    memory: bytes
    life: tuple[str, ...]
    """Of each table: free, private, live, retired."""
    locks: tuple[int, ...]
    """Of each table: the thread that holds its lock, or -1."""
    inside: tuple[int, ...]
    """Of each thread: how deep in a section."""
    limbo: tuple[tuple[int, frozenset[int]], ...]
    """Retired tables, and the threads that each still waits for."""

    def entry(self, table: int, index: int) -> int:
        """The bits of an entry."""
        at = table * TABLE_BYTES + index * ENTRY_BYTES
        return int.from_bytes(self.memory[at : at + ENTRY_BYTES], "little")

    def is_named(self, table: int) -> bool:
        """Whether a slot of the PMD table names it; that table itself is always there."""
        slots = (self.entry(PMD, index) for index in range(ENTRIES))
        return table == PMD or any(is_table(slot) and table_of(slot) == table for slot in slots)


def start(threads: int, slots: dict[int, int], entries: dict[tuple[int, int], int], tables: int = 4) -> State:
    """A machine whose PMD table has these slots, and whose tables have these entries."""
    memory = bytearray(tables * TABLE_BYTES)
    named = {table_of(slot) for slot in slots.values() if is_table(slot)}
    for (table, index), value in ({(PMD, index): value for index, value in slots.items()} | entries).items():
        at = table * TABLE_BYTES + index * ENTRY_BYTES
        memory[at : at + ENTRY_BYTES] = value.to_bytes(ENTRY_BYTES, "little")
    life = tuple("live" if table == PMD or table in named else "free" for table in range(tables))
    return State(bytes(memory), life, (-1,) * tables, (0,) * threads, ())


def is_enabled(state: State, step: Step) -> bool:
    """Whether a step can be made now."""
    if step.kind == "lock":
        return state.locks[step.table] == -1
    if step.kind == "reclaim":
        return not state.limbo or any(not waiting for _, waiting in state.limbo)
    if step.kind == "alloc":
        return "free" in state.life
    return True


def apply(state: State, thread: int, step: Step) -> tuple[State, int]:
    """The state after a step of a thread, and what the step found. Raises Wrong."""
    table = step.table
    match step.kind:
        case "load":
            _must_be_alive(state, table)
            return state, state.entry(table, step.index)
        case "store" | "compare_exchange":
            return _write(state, step)
        case "lock":
            _must_be_alive(state, table)
            return state._replace(locks=_put(state.locks, table, thread)), 0
        case "unlock":
            if state.locks[table] != thread:
                raise Wrong("unbalanced", f"{name(table)} is unlocked by a thread that does not hold its lock")
            return state._replace(locks=_put(state.locks, table, -1)), 0
        case "claim":
            if not step.value:
                raise Wrong("broken invariant", step.words)
            return state, 0
        case "enter":
            return state._replace(inside=_put(state.inside, thread, state.inside[thread] + 1)), 0
        case "leave":
            return _leave(state, thread), 0
        case "alloc":
            fresh = state.life.index("free")
            at = fresh * TABLE_BYTES
            memory = state.memory[:at] + bytes(TABLE_BYTES) + state.memory[at + TABLE_BYTES :]
            return state._replace(memory=memory, life=_put(state.life, fresh, "private")), fresh
        case "free":
            return _free(state, table), 0
        case "retire":
            if state.life[table] != "live":
                raise Wrong("double free", f"{name(table)} is retired, and is {state.life[table]}")
            waiting = frozenset(other for other, depth in enumerate(state.inside) if depth and other != thread)
            return state._replace(life=_put(state.life, table, "retired"), limbo=(*state.limbo, (table, waiting))), 0
        case "reclaim":
            for place, (retired, waiting) in enumerate(state.limbo):
                if not waiting:
                    left = state._replace(limbo=state.limbo[:place] + state.limbo[place + 1 :])
                    return _free(left, retired), 0
            return state, 0
    raise ValueError(f"a machine has no step {step.kind!r}")


def at_rest(state: State) -> None:
    """Look at a machine whose threads have all ended. Raises Wrong."""
    for table, holder in enumerate(state.locks):
        if holder != -1:
            raise Wrong("unbalanced", f"the lock of {name(table)} is held for ever")
    if any(state.inside):
        raise Wrong("unbalanced", "a section is never left")
    for table, life in enumerate(state.life):
        if life == "live" and not state.is_named(table):
            raise Wrong("leak", f"{name(table)} is in no slot, and nobody has handed it back")
        if life == "private":
            raise Wrong("leak", f"{name(table)} was taken, and nobody has it")


def touches(state: State, thread: int, step: Step) -> frozenset[tuple[object, bool]]:
    """The words that a step reads, and those it writes (True): steps that share none that is written commute."""
    table = step.table
    word = ("entry", table, step.index)
    match step.kind:
        case "load":
            return frozenset({(word, False), (("life", table), False)})
        case "store" | "compare_exchange":
            found = {(word, True), (("life", table), False), (("place", table), False)}
            old = state.entry(table, step.index)
            for entry in (old, step.value):
                if table == PMD and is_table(entry):
                    found |= {(("place", table_of(entry)), True), (("life", table_of(entry)), False)}
            return frozenset(found)
        case "lock" | "unlock":
            return frozenset({(("lock", table), True), (("life", table), False)})
        case "enter" | "leave":
            return frozenset({(("inside", thread), True)})
        case "claim":
            return frozenset()
        case "alloc":
            return frozenset({("pool", True)} | {(("life", each), True) for each in range(len(state.life))})
        case "free":
            return frozenset({("pool", True), (("life", table), True)})
        case "retire":
            inside = {(("inside", each), False) for each in range(len(state.inside))}
            return frozenset({("limbo", True), (("life", table), True)} | inside)
    inside = {(("inside", each), False) for each in range(len(state.inside))}
    return frozenset({("limbo", True), ("pool", True)} | {(("life", each), True) for each, _ in state.limbo} | inside)


def _write(state: State, step: Step) -> tuple[State, int]:
    table, found = step.table, state.entry(step.table, step.index)
    _must_be_alive(state, table)
    if step.kind == "compare_exchange" and found != step.expected:
        return state, found
    if state.life[table] != "private" and not state.is_named(table):
        raise Wrong("write into a detached table", f"{name(table)}[{step.index}], and no slot names that table")
    life = state.life
    if table == PMD and is_table(step.value):
        named = table_of(step.value)
        if life[named] not in ("private", "live"):
            raise Wrong("use of a freed table", f"a slot is made to name {name(named)}, which is {life[named]}")
        life = _put(life, named, "live")
    at = table * TABLE_BYTES + step.index * ENTRY_BYTES
    memory = state.memory[:at] + step.value.to_bytes(ENTRY_BYTES, "little") + state.memory[at + ENTRY_BYTES :]
    return state._replace(memory=memory, life=life), found


def _leave(state: State, thread: int) -> State:
    depth = state.inside[thread] - 1
    if depth < 0:
        raise Wrong("unbalanced", "a section is left that was not entered")
    limbo = state.limbo
    if depth == 0:
        limbo = tuple((table, waiting - {thread}) for table, waiting in limbo)
    return state._replace(inside=_put(state.inside, thread, depth), limbo=limbo)


def _free(state: State, table: int) -> State:
    if state.life[table] == "free":
        raise Wrong("double free", f"{name(table)} is free already")
    if state.is_named(table):
        raise Wrong("use of a freed table", f"{name(table)} is freed, and a slot names it")
    return state._replace(life=_put(state.life, table, "free"))


def _must_be_alive(state: State, table: int) -> None:
    if state.life[table] == "free":
        raise Wrong("use of a freed table", f"{name(table)} was freed, and may be anything by now")


def _put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])
