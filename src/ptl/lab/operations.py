"""The core's own operations as a thread of a lab makes them, one after the other.

Each is one call of the core, on `tiny` unless the lab's table is of another architecture: pages of 4 KiB, leaf tables
of four entries, so a leaf table covers 16 KiB.
"""

from __future__ import annotations

from typing import NamedTuple

from ptl._core import UNMAPPED

FLAGS = "rwxugad"


class Operation(NamedTuple):
    """A call with its numbers; made by the functions of this module."""

    name: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        shown = ("in place" if number == UNMAPPED else f"{number:#x}" for number in self.numbers)
        return f"{self.name}({', '.join(shown)})"


def attributes(flags: str) -> int:
    """A set of attributes as the C level takes it."""
    return sum(1 << FLAGS.index(letter) for letter in flags)


def translate(va: int) -> Operation:
    """`PageTable.translate`."""
    return Operation("translate", (va,))


def lookup(va: int) -> Operation:
    """`PageTable.lookup`: the raw entry of the leaf."""
    return Operation("lookup", (va,))


def sweep(va: int, room: int = 8) -> Operation:
    """Iterate over eight pages, `room` leaves in a section: a byte for each page, the number of its frame."""
    return Operation("sweep", (va, room))


def read_twice(va: int) -> Operation:
    """Two translations of one address, the first in a section inside the section of the second."""
    return Operation("read_twice", (va,))


def map(va: int, pa: int, length: int = 4096, flags: str = "rw") -> Operation:
    """`PageTable.map`."""
    return Operation("map", (va, pa, length, attributes(flags)))


def fault(va: int, pa: int) -> Operation:
    """Map one page, and first the tables for it: two steps of the table, between which anything may happen."""
    return Operation("fault", (va, pa))


def unmap(va: int, length: int = 4096) -> Operation:
    """`PageTable.unmap`."""
    return Operation("unmap", (va, length))


def protect(va: int, length: int, flags: str) -> Operation:
    """`PageTable.protect`."""
    return Operation("protect", (va, length, attributes(flags)))


def compare_exchange(va: int, expected: int, desired: int, level: int = 1) -> Operation:
    """`PageTable.compare_exchange`, on raw entries."""
    return Operation("compare_exchange", (va, level, expected, desired))


def populate(va: int) -> Operation:
    """`PageTable.populate`."""
    return Operation("populate", (va,))


def retract(va: int) -> Operation:
    """`PageTable.retract`."""
    return Operation("retract", (va,))


def collapse(va: int, pa: int = UNMAPPED) -> Operation:
    """`PageTable.collapse`, in place unless there is a pa."""
    return Operation("collapse", (va, pa))


def split(va: int) -> Operation:
    """`PageTable.split`."""
    return Operation("split", (va,))


def make_run(va: int, page_size: int) -> Operation:
    """`PageTable.collapse`, in place, to a run of that size."""
    return Operation("make_run", (va, page_size))


def replace(va: int, pa: int, page_size: int) -> Operation:
    """`PageTable.map` of one page of that size, which may be a run, in place of whatever is there."""
    return Operation("replace", (va, pa, page_size))


def move(old: int, new: int, length: int) -> Operation:
    """`PageTable.move`."""
    return Operation("move", (old, new, length))


def map_lock(va: int, pa: int) -> Operation:
    """`pte_map_lock`, fill the entry if it is empty, unlock: 1 done, 2 taken, 0 no table."""
    return Operation("map_lock", (va, pa))


def map_rw(va: int, pa: int) -> Operation:
    """`pte_map_rw`, `try_lock`, fill the entry if it is empty, unlock: as map_lock, and 0 when the slot changed."""
    return Operation("map_rw", (va, pa))


def alloc_map_lock(va: int, pa: int) -> Operation:
    """`pte_alloc_map_lock`, fill the entry if it is empty, unlock: 1 done, 2 taken, 0 huge."""
    return Operation("alloc_map_lock", (va, pa))


def map_read(va: int) -> Operation:
    """`pte_map`, read the entry, close: what a handle reads after its section has ended."""
    return Operation("map_read", (va,))


def entries(va: int) -> Operation:
    """`pte_map_lock`, `entries`, close: a leaf table as it was at one moment, for whoever changes it under its lock."""
    return Operation("entries", (va,))


def touch(va: int, *, write: bool = False, cpu: int = 0) -> Operation:
    """What a CPU does, through its TLB: walk on a miss, set accessed, or accessed and dirty. Needs `tlbs`."""
    return Operation("touch", (va, 2 if write else 1, cpu))


def store(va: int, byte: int, *, cpu: int = 0) -> Operation:
    """As a touch that writes, and store a byte; there has to be memory."""
    return Operation("touch", (va, 2, cpu, byte + 1))


def fork() -> Operation:
    """`PageTable.fork`: the twin holds what the table holds at one moment. Needs `twin="empty"`."""
    return Operation("fork")


def on_twin(operation: Operation) -> Operation:
    """The same, on another table that may share tables with the first. Needs `twin`."""
    return Operation(f"twin {operation.name}", operation.numbers)


def attach(cpu: int = 0) -> Operation:
    """`Tlb.attach`: from here on this CPU may touch the table. Needs `unattached`."""
    return Operation("attach", (cpu,))


def enter() -> Operation:
    """Enter a section."""
    return Operation("enter")


def leave() -> Operation:
    """Leave the section."""
    return Operation("leave")


def walk(va: int) -> Operation:
    """One walk, between `enter` and `leave`."""
    return Operation("walk", (va,))


def reclaim() -> Operation:
    """`EpochDomain.reclaim`."""
    return Operation("reclaim")


def synchronize() -> Operation:
    """`EpochDomain.synchronize`."""
    return Operation("synchronize")


def end() -> Operation:
    """The thread's end, in a section or out of it: what its exit does with its record."""
    return Operation("exit")


def count_locked() -> Operation:
    """Take a short lock, add one to a counter by a load and a store, let go."""
    return Operation("count_locked")
