"""The promise: after a change of a table has returned, no CPU uses what it took away; a forgotten flush is an error.

Each place in the core that flushes has a test here that fails when it does not (`tests/test_faults.py` leaves each
out).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

import ptl
from helpers import Crew, python
from ptl.tlb import MmuGather, ProtectionFault, StaleTranslation, Tlb

PAGE, SPAN = 4096, 2 << 20
VA = 4 * SPAN


class Machine:
    """A table whose region at VA is mapped page by page to data, and a CPU that has used its first pages."""

    def __init__(self, arch: str = "x86_64") -> None:
        self.frames = ptl.Frames(64 << 20, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(arch, frames=self.frames)
        self.cpu = Tlb()
        self.cpu.attach(self.pt)
        self.run = self.frames.alloc(SPAN)
        self.pt.map(VA, self.run, SPAN, "rw", page_size=PAGE)

    def use(self, *offsets: int) -> None:
        """Let the CPU remember these addresses, written to."""
        for offset in offsets or (0, PAGE, 5 * PAGE):
            self.cpu.write(self.pt, VA + offset, b"x")

    def forged(self, va: int, raw: int) -> None:
        """Write an entry behind the table's back."""
        step = self.pt.walk(va).steps[-1]
        self.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")[0] = raw


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- what a CPU remembers


def test_what_was_used_is_found_again(machine: Machine) -> None:
    for _ in range(3):
        assert machine.cpu.translate(machine.pt, VA + 5) == machine.run + 5
    assert (machine.cpu.stats()["misses"], machine.cpu.stats()["hits"]) == (1, 2)


def test_the_one_used_longest_ago_makes_room() -> None:
    machine = Machine()
    cpu = Tlb(sets=1, ways=2)
    cpu.attach(machine.pt)
    for page in (0, 1, 0, 2, 0):  # 2 takes the place of 1
        cpu.translate(machine.pt, VA + page * PAGE)
    assert cpu.stats()["misses"] == 3
    cpu.translate(machine.pt, VA + PAGE)
    assert cpu.stats()["misses"] == 4


def test_a_huge_page_is_remembered_once(machine: Machine) -> None:
    machine.pt.collapse(VA)
    for page in range(0, 512, 37):
        assert machine.cpu.translate(machine.pt, VA + page * PAGE) == machine.run + page * PAGE
    assert machine.cpu.stats()["misses"] == 1


def test_two_tables_do_not_mix(machine: Machine) -> None:
    other = ptl.PageTable(frames=machine.frames)
    other.map(VA, machine.run + PAGE)
    machine.cpu.attach(other)
    assert machine.cpu.translate(machine.pt, VA) == machine.run
    assert machine.cpu.translate(other, VA) == machine.run + PAGE
    other.unmap(VA, PAGE)
    assert machine.cpu.translate(machine.pt, VA) == machine.run
    assert machine.cpu.stats()["misses"] == 2


def test_two_tables_with_one_number_do(machine: Machine) -> None:
    """Whoever gives a number away again must flush: here nobody did."""
    other = ptl.PageTable(frames=machine.frames)
    other.map(VA, machine.run + PAGE)
    cpu = Tlb()
    cpu.attach(machine.pt, 7)
    cpu.attach(other, asid=7)
    cpu.translate(machine.pt, VA)
    with pytest.raises(StaleTranslation):
        cpu.translate(other, VA)


def test_a_global_page_is_everybodys(machine: Machine) -> None:
    tables = [machine.pt, ptl.PageTable(frames=machine.frames)]
    machine.cpu.attach(tables[1])
    for pt in tables:
        pt.map(0, machine.run, flags="rwg")
    for pt in tables:
        assert machine.cpu.translate(pt, 0) == machine.run
    assert machine.cpu.stats()["misses"] == 1
    tables[0].unmap(0, PAGE)
    assert machine.cpu.translate(tables[1], 0) == machine.run
    assert machine.cpu.stats()["misses"] == 2


def test_accessed_and_dirty_are_set_as_by_hardware(machine: Machine) -> None:
    assert machine.pt.lookup(VA).flags == "rw"
    machine.cpu.read(machine.pt, VA, 1)
    assert machine.pt.lookup(VA).flags == "rwa"
    machine.cpu.write(machine.pt, VA, b"x")
    assert machine.pt.lookup(VA).flags == "rwad"


def test_faults_say_what_was_missing(machine: Machine) -> None:
    with pytest.raises(ptl.PageFault) as missing:
        machine.cpu.read(machine.pt, VA - 1, 1)
    assert not isinstance(missing.value, ProtectionFault)
    machine.pt.protect(VA, PAGE, "r")
    with pytest.raises(ProtectionFault) as denied:
        machine.cpu.write(machine.pt, VA, b"x")
    assert (denied.value.va, denied.value.access, denied.value.user) == (VA, "w", False)
    with pytest.raises(ProtectionFault, match="user access 'r'"):
        machine.cpu.read(machine.pt, VA, 1, user=True)
    with pytest.raises(ProtectionFault, match="'x'"):
        machine.cpu.translate(machine.pt, VA, "x")
    with pytest.raises(ValueError, match="access must be"):
        machine.cpu.translate(machine.pt, VA, "rw")


def test_more_rights_need_no_flush(machine: Machine) -> None:
    """A right that the CPU does not know of yet is looked up again, as by hardware."""
    machine.pt.protect(VA, PAGE, "r")
    machine.cpu.read(machine.pt, VA, 1)
    machine.forged(VA, machine.pt.arch.encode(machine.run, "rwa"))
    machine.cpu.write(machine.pt, VA, b"x")
    assert machine.pt.lookup(VA).flags == "rwad"


def test_bytes_cross_pages(machine: Machine) -> None:
    data = bytes(range(256)) * 48
    machine.pt.exchange(VA + PAGE, machine.pt.arch.encode(machine.frames.alloc(), "rw"))
    machine.cpu.write(machine.pt, VA + 100, data)
    assert machine.cpu.read(machine.pt, VA + 100, len(data)) == data
    assert bytes(machine.frames.view(machine.run + 100, 16)) == data[:16]


def test_there_is_no_memory_outside_the_frames(machine: Machine) -> None:
    machine.pt.map(0, machine.frames.size)
    with pytest.raises(ptl.PageFault):
        machine.cpu.read(machine.pt, 0, 1)
    assert machine.cpu.translate(machine.pt, 0) == machine.frames.size


def test_attaching_has_its_errors(machine: Machine) -> None:
    with pytest.raises(ValueError, match="attached already"):
        machine.cpu.attach(machine.pt)
    machine.cpu.detach(machine.pt)
    with pytest.raises(KeyError):
        machine.cpu.detach(machine.pt)
    with pytest.raises(ValueError, match="not attached"):
        machine.cpu.read(machine.pt, VA, 1)
    with pytest.raises(ValueError, match="asid"):
        machine.cpu.attach(machine.pt, asid=1 << 16)
    for wrong in ({"sets": 0}, {"ways": 257}):
        with pytest.raises(ValueError, match="sets must be"):
            Tlb(**wrong)


# -- errors of the flushes are found


def test_what_the_table_does_not_have_is_an_error(machine: Machine) -> None:
    machine.use(0)
    machine.forged(VA, 0)
    with pytest.raises(StaleTranslation):
        machine.cpu.verify()
    with pytest.raises(StaleTranslation, match="forgotten"):
        machine.cpu.read(machine.pt, VA, 1)


def test_two_sizes_are_an_error(machine: Machine) -> None:
    machine.use(0)
    leaf = machine.pt.walk(VA).steps[-2]
    table = machine.frames.view(leaf.table_pa + 8 * leaf.index, 8).cast("Q")
    before, table[0] = table[0], machine.pt.arch.encode(machine.run, "rwad", 2)
    machine.cpu.read(machine.pt, VA + 3 * PAGE, 1)
    with pytest.raises(StaleTranslation, match="two sizes"):
        machine.cpu.read(machine.pt, VA, 1)
    table[0] = before


# -- every change flushes

ENTRY_CHANGES: dict[str, Callable[[Machine, int], object]] = {
    "unmap": lambda machine, new: machine.pt.unmap(VA, PAGE),
    "exchange": lambda machine, new: machine.pt.exchange(VA, new),
    "compare_exchange": lambda machine, new: machine.pt.compare_exchange(VA, machine.pt.lookup(VA).raw, new),
    "test_and_clear": lambda machine, new: machine.pt.test_and_clear(VA, "w"),
    "handle": lambda machine, new: change_by_handle(machine, new),
}


def change_by_handle(machine: Machine, new: int) -> None:
    with machine.pt.pte_map(VA) as ptes:
        assert ptes.compare_exchange(0, ptes.load(0), new)


@pytest.mark.parametrize("change", ENTRY_CHANGES)
def test_a_change_of_an_entry_flushes(machine: Machine, change: str) -> None:
    machine.use()
    ENTRY_CHANGES[change](machine, machine.pt.arch.encode(machine.run + PAGE, "rw"))
    assert machine.cpu.stats()["dropped"] == 1
    machine.cpu.verify()
    if change == "unmap":
        with pytest.raises(ptl.PageFault):
            machine.cpu.read(machine.pt, VA, 1)
    elif change == "test_and_clear":
        with pytest.raises(ProtectionFault):
            machine.cpu.write(machine.pt, VA, b"x")
    else:
        assert machine.cpu.translate(machine.pt, VA) == machine.run + PAGE


def test_a_retract_flushes(machine: Machine) -> None:
    """Nothing is mapped then, but a CPU may remember the table: so the flush is counted, not seen."""
    machine.pt.populate(0)
    before = machine.cpu.stats()["flushes"]
    assert machine.pt.retract(0)
    assert machine.cpu.stats()["flushes"] == before + 1


def test_a_collapse_flushes_before_it_copies(machine: Machine) -> None:
    """Once before, and once before the huge leaf: by then nobody has stored in the old frames since they were read."""
    machine.use()
    before = machine.cpu.stats()["flushes"]
    assert machine.pt.collapse(VA, machine.frames.alloc(SPAN))
    assert machine.cpu.stats()["flushes"] == before + 2
    assert machine.cpu.stats()["dropped"] == 3
    assert machine.cpu.read(machine.pt, VA + 5 * PAGE, 1) == b"x"


def test_no_store_beside_a_collapse_is_lost(machine: Machine) -> None:
    """A CPU that can store in the small pages loses that right before its page is copied."""
    others = [machine.run, machine.frames.alloc(SPAN)]
    crew = Crew()
    stores = 0

    def store() -> None:
        nonlocal stores
        stored = dict.fromkeys(range(7), bytes(8))
        for turn in crew.meanwhile():
            page = turn % 7
            assert machine.cpu.read(machine.pt, VA + page * PAGE, 8) == stored[page], f"a store to page {page} is lost"
            data = turn.to_bytes(8, "little")
            try:
                machine.cpu.write(machine.pt, VA + page * PAGE, data)
            except ProtectionFault:
                continue  # while it is copied
            stored[page] = data
            stores += 1

    def collapse() -> None:
        for turn in crew.turns(200):
            enough = stores + 14  # each small page has been stored in
            while stores < enough and not crew.failures:
                time.sleep(0)
            assert machine.pt.collapse(VA, others[(turn + 1) % 2])
            assert machine.pt.split(VA)

    crew.run(collapse, beside=(store,))
    machine.cpu.verify()


def test_a_collapse_flushes_before_the_huge_leaf_appears(machine: Machine) -> None:
    machine.use()
    machine.pt.collapse(VA)
    assert machine.cpu.stats()["dropped"] == 3
    machine.use()
    assert machine.cpu.stats()["misses"] == 4
    machine.cpu.verify()


@pytest.mark.parametrize("size", [None, PAGE])
def test_a_split_flushes_before_the_small_leaves_appear(machine: Machine, size: int | None) -> None:
    machine.pt.collapse(VA)
    machine.use()
    machine.pt.split(VA, size)
    assert machine.cpu.stats()["dropped"] == 1
    machine.use()
    assert machine.cpu.stats()["misses"] == 4


def test_a_replacement_flushes_before_the_huge_leaf_appears(machine: Machine) -> None:
    """Once before, and once with the range."""
    machine.use()
    before = machine.cpu.stats()["flushes"]
    machine.pt.map(VA, machine.frames.alloc(SPAN), SPAN, replace=True)
    assert machine.cpu.stats()["flushes"] == before + 2
    assert machine.cpu.stats()["dropped"] == 3


@pytest.mark.parametrize("change", ["unmap", "protect", "move"])
def test_a_cut_flushes_before_the_small_leaves_appear(machine: Machine, change: str) -> None:
    """Once before, and once with the range."""
    machine.pt.collapse(VA)
    machine.use()
    before = machine.cpu.stats()["flushes"]
    if change == "unmap":
        machine.pt.unmap(VA, 4 * PAGE)
    elif change == "protect":
        machine.pt.protect(VA, 4 * PAGE, "r")
    else:
        machine.pt.move(VA, 0, 4 * PAGE)
    assert machine.cpu.stats()["flushes"] == before + 2
    assert machine.cpu.stats()["dropped"] == 1
    machine.cpu.write(machine.pt, VA + 5 * PAGE, b"x")
    machine.cpu.verify()


@pytest.mark.parametrize("change", ["unmap", "protect", "map", "whole table"])
def test_a_range_flushes(machine: Machine, change: str) -> None:
    machine.use()
    match change:
        case "unmap":
            machine.pt.unmap(VA, 4 * PAGE)
        case "protect":
            machine.pt.protect(VA, 4 * PAGE, "r")
        case "map":
            machine.pt.map(VA, 0, 4 * PAGE, "rw", replace=True)
        case "whole table":
            machine.pt.unmap(VA, SPAN)
    assert machine.cpu.stats()["dropped"] == (3 if change == "whole table" else 2)
    machine.cpu.verify()


@pytest.mark.parametrize("length", [2 * PAGE, SPAN])
def test_a_move_flushes(machine: Machine, length: int) -> None:
    """A table that is moved whole once more, before its entries are copied: hardware may still mark them."""
    machine.use()
    before = machine.cpu.stats()["flushes"]
    machine.pt.move(VA, VA + 2 * SPAN, length)
    assert machine.cpu.stats()["flushes"] == before + (2 if length == SPAN else 1)
    assert machine.cpu.stats()["dropped"] == (3 if length == SPAN else 2)
    machine.cpu.verify()
    with pytest.raises(ptl.PageFault):
        machine.cpu.read(machine.pt, VA, 1)
    assert machine.cpu.read(machine.pt, VA + 2 * SPAN, 1) == b"x"


# -- many changes, one flush


def test_a_gather_flushes_once(machine: Machine) -> None:
    machine.use()
    before = machine.cpu.stats()["flushes"]
    with MmuGather(machine.pt) as gather:
        for page in range(0, 64, 2):
            assert gather.unmap(VA + page * PAGE, PAGE) == PAGE
        assert gather.protect(VA + 5 * PAGE, PAGE, "r") == PAGE
        assert machine.cpu.stats()["flushes"] == before
        assert machine.cpu.read(machine.pt, VA, 1) == b"x"  # not yet flushed, and known not to be
    assert machine.cpu.stats()["flushes"] == before + 1
    assert machine.cpu.stats()["dropped"] == 3
    machine.cpu.verify()


def test_a_gather_frees_after_the_flush(machine: Machine) -> None:
    pa = machine.frames.alloc()
    machine.pt.map(0, pa)
    machine.cpu.write(machine.pt, 0, b"last")
    with MmuGather(machine.pt) as gather:
        gather.unmap(0, PAGE)
        gather.free(pa)
        assert machine.frames.owners(pa) == 1
        gather.flush()
        assert machine.frames.owners(pa) == 0
        machine.cpu.verify()


def test_a_gather_that_fails_flushes_what_it_did(machine: Machine) -> None:
    machine.use()

    def fail() -> None:
        with MmuGather(machine.pt) as gather:
            gather.unmap(VA, PAGE)
            gather.unmap(VA + 1, PAGE)

    with pytest.raises(ptl.AddressError):
        fail()
    machine.cpu.verify()
    assert machine.cpu.stats()["dropped"] == 1


# -- all at once


@pytest.mark.parametrize("arch", ["x86_64", "riscv_sv39"])
def test_many_cpus_beside_many_changes(arch: str) -> None:
    """Each CPU has pages of its own to store in; the others read along. Nothing is lost, nothing is stale."""
    machine = Machine(arch)
    crew = Crew()
    runs = [machine.run, machine.frames.alloc(SPAN)]
    places = [VA, VA + 2 * SPAN]

    def program(number: int) -> None:
        cpu = Tlb(sets=4, ways=2)
        cpu.attach(machine.pt)
        stored = dict.fromkeys(range(number, 512, 3), 0)
        for turn in crew.turns(1500):
            page = number + turn * 7 % 170 * 3
            for place in places:
                try:
                    seen = int.from_bytes(cpu.read(machine.pt, place + page * PAGE, 8), "little")
                    assert seen == stored[page], f"page {page} holds {seen}, not {stored[page]}"
                    cpu.write(machine.pt, place + page * PAGE, turn.to_bytes(8, "little"))
                    stored[page] = turn
                    break
                except ptl.PageFault:
                    continue  # it is being copied, or is at the other place

    def change() -> None:
        for turn in crew.meanwhile():
            machine.pt.collapse(places[0], runs[(turn + 1) % 2])
            machine.pt.protect(places[0], 8 * PAGE, "r")
            machine.pt.protect(places[0], SPAN, "rw")
            machine.pt.split(places[0])
            machine.pt.move(places[0], places[1], SPAN)
            places.reverse()

    crew.run(*(partial(program, number) for number in range(3)), beside=(change,))
    machine.pt.check()


def test_a_forked_child_has_cpus_of_its_own() -> None:
    python("-c", FORK)


FORK = """
import os, threading, ptl
frames = ptl.Frames(1 << 24)
pt = ptl.PageTable(frames=frames)
pt.map(0, frames.alloc(2 << 20), 2 << 20, page_size=4096)
over = threading.Event()
def work():
    cpu = ptl.tlb.Tlb(); cpu.attach(pt); cpus.append(cpu)
    while not over.is_set():
        cpu.write(pt, 4096, b"x")
def change():
    while not over.is_set():
        pt.protect(0, 8192, "rw"); pt.unmap(8192, 4096); pt.map(8192, 0)
cpus = []
threads = [threading.Thread(target=job) for job in (work, work, change)]
for thread in threads: thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        for cpu in cpus:
            cpu.verify(); cpu.write(pt, 4096, b"y")
        pt.unmap(0, 2 << 20)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
over.set()
for thread in threads: thread.join()
"""
