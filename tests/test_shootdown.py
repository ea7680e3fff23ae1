"""The finer points of TLBs: who is flushed, of what, and when; and what a CPU may rely on meanwhile.

`tests/test_tlb.py` has one test for each place that flushes. Here are the geometry of a Tlb, its tags, the accesses
that formats grant, what a CPU does at a slot in transition, and who may be attached or detached in the middle of a
change.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from functools import partial

import pytest

import ptl
from helpers import Crew, going_on, linux_only, python
from made_up import architecture
from ptl import PageFault, State
from ptl.tlb import MmuGather, ProtectionFault, StaleTranslation, Tlb

pytestmark = pytest.mark.under_stress

PAGE, SPAN = 4096, 2 << 20
FORMATS = (
    *("tiny", "x86_64", "i386", "i386_pae", "riscv_sv39", "riscv_sv57", "big-endian", "nothing is not zero"),
    *("arm64_4k", "powerpc_radix_4k", "s390", "sparc32", "two kinds of entry", "mips64"),
)


class Machine:
    """A table with data frames, and a CPU."""

    def __init__(self, arch: str = "x86_64", frames: ptl.Frames | None = None, **geometry: int) -> None:
        self.frames = frames or ptl.Frames(32 << 20, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(architecture(arch), frames=self.frames)
        self.cpu = Tlb(**geometry)
        self.cpu.attach(self.pt)

    def data(self, va: int, pages: int = 1, flags: str = "rw") -> int:
        """Map fresh data."""
        pa = self.frames.alloc(pages * PAGE)
        self.pt.map(va, pa, pages * PAGE, flags, page_size=PAGE)
        return pa

    def misses(self, *vas: int) -> int:
        """How many of these addresses the CPU had to look up, one after another."""
        before = self.cpu.stats()["misses"]
        for va in vas:
            self.cpu.translate(self.pt, va)
        return self.cpu.stats()["misses"] - before


@pytest.fixture
def machine() -> Machine:
    return Machine()


# -- geometry


@pytest.mark.parametrize(("sets", "ways"), [(1, 1), (1, 4), (4, 1), (3, 2), (16, 4)])
def test_a_set_has_so_many_ways(sets: int, ways: int) -> None:
    """A page's number says which set it may be in; there the one used longest ago makes room."""
    machine = Machine(sets=sets, ways=ways)
    machine.pt.map(0, 0, 64 * SPAN, page_size=PAGE)
    same = [n * sets * PAGE for n in range(ways + 1)]
    other = [(n * sets + 1) * PAGE for n in range(ways)] if sets > 1 else []
    assert machine.misses(*same[:ways]) == ways
    assert machine.misses(*other) == len(other)
    assert machine.misses(*same[:ways], *other) == 0
    assert machine.misses(same[ways]) == 1
    assert machine.misses(*same[1:ways], *other) == 0
    assert machine.misses(same[0]) == 1


def test_each_size_is_remembered_by_its_own_number(machine: Machine) -> None:
    """A giant page, a huge one and a small one, each found for all of its addresses."""
    places = {1 << 30: (1 << 30, 3), 2 << 30: (SPAN, 2), 3 << 30: (PAGE, 1)}
    for va, (size, _) in places.items():
        machine.pt.map(va, 4 * size, size, page_size=size)
    for va, (size, level) in places.items():
        assert machine.misses(va, va + size // 2 + 7, va + size - 1) == 1
        assert machine.cpu.translate(machine.pt, va + size - 1) == 5 * size - 1
        assert machine.pt.walk(va).leaf.level == level
    assert machine.cpu.verify() == 3


def test_a_flush_by_hand(machine: Machine) -> None:
    """Of all addresses or of some; nobody needs it."""
    machine.pt.map(0, 0, 4 * PAGE, page_size=PAGE)
    pages = [page * PAGE for page in range(4)]
    assert machine.misses(*pages) == 4
    machine.cpu.flush(machine.pt, PAGE, 2 * PAGE)
    assert machine.misses(*pages) == 2
    machine.cpu.flush(machine.pt)
    assert machine.misses(*pages) == 4
    with pytest.raises(ptl.AddressError):
        machine.cpu.flush(machine.pt, 1 << 60, PAGE)


# -- tags


def test_only_what_overlaps_is_flushed(machine: Machine) -> None:
    machine.pt.map(0, 0, 8 * PAGE, page_size=PAGE)
    machine.pt.map(SPAN, 0, SPAN)
    pages = [page * PAGE for page in range(8)]
    machine.misses(*pages, SPAN)
    machine.pt.protect(2 * PAGE, 3 * PAGE, "r")
    assert machine.cpu.stats()["dropped"] == 3
    assert machine.misses(*pages, SPAN) == 3
    machine.pt.unmap(SPAN + 5 * PAGE, PAGE)
    assert machine.misses(*pages) == 0


def test_every_attached_cpu_is_flushed_and_no_other(machine: Machine) -> None:
    cpus = [machine.cpu, Tlb(), Tlb()]
    machine.cpu.detach(machine.pt)
    for cpu in cpus:
        cpu.attach(machine.pt)
    machine.data(0)
    for cpu in cpus:
        cpu.translate(machine.pt, 0)
    cpus[1].detach(machine.pt)
    before = cpus[1].stats()["flushes"]
    machine.pt.unmap(0, PAGE)
    assert [cpu.stats()["dropped"] for cpu in cpus] == [1, 1, 1], "detaching forgets, too"
    assert cpus[1].stats()["flushes"] == before
    cpus[1].attach(machine.pt)
    for cpu in cpus:
        with pytest.raises(PageFault):
            cpu.translate(machine.pt, 0)


def test_a_number_that_is_free_is_given_again(machine: Machine) -> None:
    """To another table, whose addresses mean something else."""
    machine.data(0)
    machine.cpu.translate(machine.pt, 0)
    machine.cpu.detach(machine.pt)
    other = ptl.PageTable(frames=machine.frames)
    other.map(0, 7 * PAGE)
    machine.cpu.attach(other)
    assert machine.cpu.translate(other, 0) == 7 * PAGE


def test_tables_of_two_formats_do_not_mix() -> None:
    """What is a global page's bit in the one is another's in the other: x86's accessed is RISC-V's global."""
    frames = ptl.Frames(1 << 20)
    cpu = Tlb()
    tables = [ptl.PageTable(arch, frames=frames) for arch in ("x86_64", "riscv_sv39", "tiny", "i386")]
    for n, pt in enumerate(tables):
        cpu.attach(pt)
        pt.map(0, n * PAGE)
    for _ in range(2):
        for n, pt in enumerate(tables):
            assert cpu.translate(pt, 0) == n * PAGE
    assert cpu.stats()["misses"] == 4


def test_a_global_page_is_global_for_its_own_format() -> None:
    frames, cpu = ptl.Frames(1 << 20), Tlb()
    x86, riscv = (ptl.PageTable(arch, frames=frames) for arch in ("x86_64", "riscv_sv39"))
    for pt, pa, flags in ((x86, PAGE, "rwg"), (riscv, 2 * PAGE, "rw")):
        cpu.attach(pt)
        pt.map(0, pa, flags=flags)
    assert (cpu.translate(x86, 0), cpu.translate(riscv, 0)) == (PAGE, 2 * PAGE)


def test_a_global_page_stays_when_its_table_is_detached_elsewhere(machine: Machine) -> None:
    """Detaching forgets global pages, as nobody knows whose they are."""
    other = ptl.PageTable(frames=machine.frames)
    machine.cpu.attach(other)
    for pt in (machine.pt, other):
        pt.map(0, 0, PAGE, "rwg")
    machine.cpu.translate(other, 0)
    machine.cpu.detach(machine.pt)
    assert machine.cpu.translate(other, 0) == 0
    machine.cpu.verify()


# -- access


@pytest.mark.parametrize("arch", FORMATS)
@pytest.mark.parametrize("flags", ["r", "rw", "rx", "rwx", "ru", "rwu", "rxu", "rwxu"])
def test_what_a_leaf_grants(arch: str, flags: str) -> None:
    """Small or huge: exactly what `lookup` says that it grants."""
    for level in (1, 2):
        machine = Machine(arch)
        size = machine.pt.arch.level(level).span
        machine.pt.map(size, size, size, flags, page_size=size)
        granted = set(machine.pt.lookup(size).flags)
        for access in "rwx":
            for user in (False, True):
                use = partial(machine.cpu.translate, machine.pt, 2 * size - 1, access, user=user)
                if access in granted and (not user or "u" in granted):
                    assert use() == 2 * size - 1
                    assert use() == 2 * size - 1
                else:
                    for _ in range(2):
                        with pytest.raises(ProtectionFault) as fault:
                            use()
                        assert (fault.value.va, fault.value.level, fault.value.state) == (
                            2 * size - 1,
                            level,
                            State.HUGE,
                        )
                        assert (fault.value.access, fault.value.user) == (access, user)


@pytest.mark.parametrize("arch", FORMATS)
def test_accessed_and_dirty_that_were_cleared_are_set_again(arch: str) -> None:
    """Clearing flushes, so the next use walks, and marks."""
    machine = Machine(arch)
    size = machine.pt.arch.level(2).span
    machine.pt.map(0, 0, PAGE)
    machine.pt.map(size, size, size, page_size=size)
    for va in (0, size):
        for _ in range(2):
            machine.cpu.translate(machine.pt, va, "w")
            assert set("ad") <= set(machine.pt.lookup(va).flags)
            for flag in "ad":
                assert machine.pt.test_and_clear(va, flag)
            assert not set("ad") & set(machine.pt.lookup(va).flags)
            machine.cpu.translate(machine.pt, va, "r")
            assert set("ad") & set(machine.pt.lookup(va).flags) == {"a"}


def test_a_first_store_through_a_clean_translation_marks(machine: Machine) -> None:
    machine.data(0)
    machine.cpu.read(machine.pt, 0, 1)
    assert machine.misses(0) == 0
    machine.cpu.write(machine.pt, 0, b"x")
    assert machine.pt.lookup(0).flags == "rwad"
    assert machine.cpu.stats()["misses"] == 2


def test_faults_of_a_cpu_say_where(machine: Machine) -> None:
    machine.data(0, flags="r")
    machine.pt.map(SPAN, 0, SPAN)
    machine.pt.exchange(SPAN, machine.pt.arch.encode_soft(1, 5))
    for va, level, state in ((PAGE, 1, State.EMPTY), (SPAN + 5, 2, State.SOFT), (1 << 40, 4, State.EMPTY)):
        with pytest.raises(PageFault) as missing:
            machine.cpu.read(machine.pt, va, 1)
        assert (missing.value.va, missing.value.level, missing.value.state) == (va, level, state)
    with pytest.raises(ProtectionFault) as denied:
        machine.cpu.write(machine.pt, 3, b"x", user=True)
    copy = pickle.loads(pickle.dumps(denied.value))
    assert str(copy) == str(denied.value) == "va 0x3 does not grant user access 'w'"
    assert (copy.va, copy.access, copy.user, copy.state) == (3, "w", True, State.HUGE)


# -- bytes


def test_what_comes_before_a_fault_is_stored(machine: Machine) -> None:
    pa = machine.data(0)
    with pytest.raises(PageFault) as fault:
        machine.cpu.write(machine.pt, PAGE - 3, b"abcdef")
    assert fault.value.va == PAGE
    assert bytes(machine.frames.view(pa + PAGE - 3, 3)) == b"abc"
    with pytest.raises(PageFault):
        machine.cpu.read(machine.pt, PAGE - 3, 6)


def test_bytes_cross_pages_of_all_sizes(machine: Machine) -> None:
    run = machine.frames.alloc(SPAN)
    machine.pt.map(SPAN, run, SPAN)
    machine.data(SPAN - PAGE)
    machine.data(2 * SPAN)
    data = bytes(range(256)) * (SPAN // 256) + b"the end"
    machine.cpu.write(machine.pt, SPAN - 4, data)
    assert machine.cpu.read(machine.pt, SPAN - 4, len(data)) == data
    assert machine.cpu.verify() == 3


def test_bytes_are_any_that_can_be_read(machine: Machine) -> None:
    machine.data(0)
    for data in (b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"xabc")[1:]):
        machine.cpu.write(machine.pt, 0, b"\0\0\0")
        machine.cpu.write(machine.pt, 0, data)
        assert machine.cpu.read(machine.pt, 0, 3) == b"abc"
    machine.cpu.write(machine.pt, PAGE, b"")
    assert machine.cpu.read(machine.pt, PAGE, 0) == b""
    for wrong in ("abc", 3, None, memoryview(b"abcd")[::2]):
        with pytest.raises((TypeError, ValueError, BufferError)):
            machine.cpu.write(machine.pt, 0, wrong)
    for call in (
        lambda: machine.cpu.read(machine.pt, 1 << 47, 1),
        lambda: machine.cpu.read(machine.pt, (1 << 47) - 1, 2),
    ):
        with pytest.raises(ptl.AddressError):
            call()


# -- a slot in transition


@linux_only
@pytest.mark.parametrize("kind", ["INVALID", "BUSY"])
def test_a_cpu_waits_for_a_slot_in_transition(machine: Machine, kind: str) -> None:
    """Hardware faults there; and whoever handles the fault waits for the lock of the table."""
    machine.pt.map(SPAN, 4 * SPAN, SPAN)
    geometry = machine.pt.arch.level(2)
    step = machine.pt.walk(SPAN).steps[-1]
    cell = machine.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")
    leaf, slot = cell[0], machine.pt.slot(SPAN, 2)
    assert slot is not None
    lock = slot.lock()
    cell[0] = leaf & ~geometry.invalid_clear | geometry.invalid_set if kind == "INVALID" else geometry.busy
    assert slot.state.name == kind
    with going_on(lambda: machine.cpu.translate(machine.pt, SPAN + 5)) as answers:
        cell[0] = leaf
        lock.close()
    assert answers == [4 * SPAN + 5]
    machine.cpu.verify()


# -- nothing is stored after


def test_nothing_is_stored_through_what_was_taken_away(machine: Machine) -> None:
    """When the change has returned, the frame is somebody else's."""
    pa = machine.data(0)
    owner = Machine(frames=machine.frames)  # of the frame, in the end; meanwhile it looks at it
    owner.pt.map(0, pa)
    crew = Crew()
    takes: dict[str, Callable[[], object]] = {
        "unmap": lambda: machine.pt.unmap(0, PAGE),
        "protect": lambda: machine.pt.protect(0, PAGE, "r"),
        "exchange": lambda: machine.pt.exchange(0, machine.pt.arch.level(1).empty),
        "withdraw": lambda: machine.pt.test_and_clear(0, "w"),
        "move": lambda: machine.pt.move(0, 8 * SPAN, SPAN),
        "gather": lambda: gathered(),
    }

    def gathered() -> None:
        with MmuGather(machine.pt) as gather:
            gather.unmap(0, 2 * PAGE)

    def store() -> None:
        for turn in crew.meanwhile():
            try:
                machine.cpu.write(machine.pt, 8, turn.to_bytes(8, "little"))
            except PageFault:
                continue

    def look() -> bytes:
        return owner.cpu.read(owner.pt, 8, 8)

    def take() -> None:
        for _ in crew.turns(100):
            for name, change in takes.items():
                before = look()
                while look() == before and not crew.failures:
                    pass  # until the CPU stores there
                change()
                owner.cpu.write(owner.pt, 8, b"\xff" * 8)
                for _ in range(20):
                    machine.pt.lookup(0)
                assert look() == b"\xff" * 8, name
                machine.pt.unmap(8 * SPAN, PAGE)
                machine.pt.map(0, pa, replace=True)

    crew.run(take, beside=(store,))
    machine.cpu.verify()


# -- attached and detached in the middle


@linux_only
def test_a_cpu_that_is_attached_while_a_gather_waits_is_flushed(machine: Machine) -> None:
    """The gather began when nobody was attached, and frees the frames of what the CPU has used since."""
    pt = ptl.PageTable(frames=machine.frames)
    pages = [machine.frames.alloc() for _ in range(2)]
    for n, pa in enumerate(pages):
        pt.map(n * PAGE, pa)
    gather = MmuGather(pt)
    ptes = pt.pte_map_lock(0)
    assert ptes is not None
    with going_on(lambda: gather.unmap(0, 2 * PAGE)) as unmapped:
        machine.cpu.attach(pt)
        machine.cpu.write(pt, 0, b"x")
        ptes.close()
    assert unmapped == [2 * PAGE]
    for pa in pages:
        gather.free(pa)
    gather.flush()
    machine.cpu.verify()
    with pytest.raises(PageFault):
        machine.cpu.write(pt, 0, b"y")


@linux_only
@pytest.mark.parametrize("change", ["unmap", "collapse", "move"])
def test_a_cpu_that_is_attached_while_a_change_waits_is_flushed(machine: Machine, change: str) -> None:
    pt = ptl.PageTable(frames=machine.frames)
    pt.map(0, machine.frames.alloc(SPAN), SPAN, page_size=PAGE)
    ptes = pt.pte_map_lock(0)
    assert ptes is not None
    calls: dict[str, Callable[[], object]] = {
        "unmap": lambda: pt.unmap(0, 2 * PAGE),
        "collapse": lambda: pt.collapse(0),
        "move": lambda: pt.move(0, 4 * SPAN, SPAN),
    }
    with going_on(calls[change]) as done:
        machine.cpu.attach(pt)
        machine.cpu.write(pt, 0, b"x")
        ptes.close()
    assert done
    machine.cpu.verify()
    assert machine.cpu.stats()["dropped"] == 1


def test_attaching_waits_for_no_reader(machine: Machine) -> None:
    """Every change looks for CPUs inside the gate, so those inside sections have nothing to do with it."""
    pt = ptl.PageTable(frames=machine.frames)
    pt.map(0, machine.frames.alloc())
    with machine.frames.domain.pin():
        machine.cpu.attach(pt)
        machine.cpu.write(pt, 0, b"x")
        pt.unmap(0, PAGE)
    assert machine.cpu.stats()["dropped"] == 1


def test_cpus_come_and_go_beside_changes() -> None:
    """Attached and detached at any moment, and dropped while attached."""
    machine = Machine()
    pa = machine.frames.alloc(SPAN)
    crew = Crew()

    def cpu() -> None:
        for turn in crew.turns(400):
            cpu = Tlb(sets=2, ways=2)
            cpu.attach(machine.pt)
            for page in range(8):
                try:
                    assert cpu.translate(machine.pt, page * PAGE, "rw"[turn % 2]) == pa + page * PAGE
                except PageFault:
                    continue
            if turn % 3:
                cpu.detach(machine.pt)

    def change() -> None:
        for _ in crew.meanwhile():
            machine.pt.map(0, pa, SPAN, page_size=PAGE)
            machine.pt.collapse(0)
            machine.pt.unmap(2 * PAGE, PAGE)
            machine.pt.unmap(0, SPAN)

    crew.run(cpu, cpu, beside=(change,))
    machine.pt.check()


def test_a_dropped_cpu_is_not_flushed(machine: Machine) -> None:
    cpu = Tlb()
    cpu.attach(machine.pt)
    machine.data(0)
    cpu.translate(machine.pt, 0)
    del cpu
    gc.collect()
    machine.pt.unmap(0, PAGE)
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(machine.cpu)


def test_a_cpu_dropped_in_a_cycle_is_not_flushed(machine: Machine) -> None:
    """The collector may have emptied all of the cycle before the CPU's end; the sanitizers see what is flushed then."""

    class Owner:
        pass

    for _ in range(5):
        owner = Owner()
        owner.cpu, owner.itself = Tlb(), owner  # type: ignore[attr-defined]
        owner.cpu.attach(machine.pt)  # type: ignore[attr-defined]
        del owner
        gc.collect()
    machine.data(0)
    machine.pt.unmap(0, PAGE)
    machine.cpu.verify()


def test_a_cpu_keeps_its_tables() -> None:
    """It may be the last to know of them."""
    cpu = Tlb()
    pt = ptl.PageTable("tiny")
    cpu.attach(pt)
    pt.map(0, PAGE)
    cpu.translate(pt, 0)
    del pt
    gc.collect()
    assert cpu.verify() == 1


# -- a gather


def test_a_gather_flushes_from_the_first_address_to_the_last(machine: Machine) -> None:
    """And gathers again after a flush."""
    machine.pt.map(0, 0, 16 * PAGE, page_size=PAGE)
    machine.pt.map(SPAN, 0, SPAN)
    pages = [page * PAGE for page in range(16)]
    machine.misses(*pages, SPAN)
    with MmuGather(machine.pt) as gather:
        assert gather.unmap(8 * PAGE, PAGE) == PAGE
        assert gather.protect(4 * PAGE, PAGE, "r") == PAGE
        assert gather.unmap(32 * PAGE, PAGE) == 0
        gather.flush()
        machine.cpu.verify()
        dropped = machine.cpu.stats()["dropped"]
        assert 2 <= dropped <= 12
        assert gather.unmap(SPAN, SPAN) == SPAN
    machine.cpu.verify()
    assert machine.cpu.stats()["dropped"] == dropped + 1
    assert machine.misses(0, PAGE) == 0


def test_gathers_inside_each_other(machine: Machine) -> None:
    """Each flushes its own."""
    machine.pt.map(0, 0, 4 * PAGE, page_size=PAGE)
    machine.misses(0, PAGE, 2 * PAGE)
    with MmuGather(machine.pt) as outer:
        outer.unmap(0, PAGE)
        with MmuGather(machine.pt) as inner:
            inner.unmap(2 * PAGE, PAGE)
        with pytest.raises(PageFault):
            machine.cpu.translate(machine.pt, 2 * PAGE)
        assert machine.cpu.translate(machine.pt, 0) == 0, "not flushed yet"
    with pytest.raises(PageFault):
        machine.cpu.translate(machine.pt, 0)
    machine.cpu.verify()


def test_a_gather_with_nothing_in_it_flushes_nothing(machine: Machine) -> None:
    before = machine.cpu.stats()["flushes"]
    with MmuGather(machine.pt):
        pass
    assert machine.cpu.stats()["flushes"] == before


def test_a_huge_leaf_that_a_gather_cuts_is_forgotten_at_once(machine: Machine) -> None:
    """Before the small leaves appear: they must not meet the huge one. The rest is flushed at the end."""
    machine.pt.map(0, 0, SPAN)
    machine.misses(0)
    with MmuGather(machine.pt) as gather:
        gather.unmap(4 * PAGE, PAGE)
        with pytest.raises(PageFault):
            machine.cpu.translate(machine.pt, 4 * PAGE)
        assert machine.misses(0, PAGE) == 2
    machine.cpu.verify()


def test_frames_that_are_not_the_gather_s_to_free(machine: Machine) -> None:
    """The error comes with the flush, and after it."""
    pa = machine.data(0)
    machine.misses(0)
    gather = MmuGather(machine.pt)
    gather.unmap(0, PAGE)
    gather.free(pa)
    gather.free(pa + PAGE, PAGE)
    with pytest.raises(ptl.AddressError):
        gather.flush()
    machine.cpu.verify()
    gather.flush()
    assert machine.frames.owners(pa) == 0


def test_a_gather_that_is_dropped_flushes(machine: Machine) -> None:
    machine.data(0)
    machine.misses(0)
    gather = MmuGather(machine.pt)
    gather.unmap(0, PAGE)
    del gather
    gc.collect()
    machine.cpu.verify()
    assert machine.cpu.stats()["dropped"] == 1


def test_a_gather_in_a_cycle_flushes_when_it_is_collected() -> None:
    """In a process of its own, which must end well."""
    python("-c", CYCLE)


CYCLE = """
import gc, ptl
class Gather(ptl.tlb.MmuGather): pass
pt = ptl.PageTable()
cpu = ptl.tlb.Tlb()
cpu.attach(pt)
pt.map(0x1000, 0x2000)
cpu.translate(pt, 0x1000)
gather = Gather(pt)
gather.unmap(0x1000, 0x1000)
gather.itself = gather
del gather
gc.collect()
cpu.verify()
assert cpu.stats()["dropped"] == 1
"""


# -- errors of the flushes


def test_without_checks_a_stale_translation_is_used(machine: Machine) -> None:
    """As hardware does."""
    cpu = Tlb(check=False)
    cpu.attach(machine.pt)
    pa = machine.data(0)
    for each in (cpu, machine.cpu):
        each.translate(machine.pt, 0)
    step = machine.pt.walk(0).steps[-1]
    machine.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")[0] = 0
    assert cpu.translate(machine.pt, 0) == pa
    with pytest.raises(StaleTranslation):
        machine.cpu.translate(machine.pt, 0)
    with pytest.raises(PageFault):  # it is said once
        machine.cpu.translate(machine.pt, 0)
    with pytest.raises(StaleTranslation):
        cpu.verify()


@pytest.mark.parametrize(
    ("flags", "is_stale"),
    [("rw", False), ("rwx", False), ("rwg", False), ("rwad", False), ("r", True), ("rx", True)],
)
def test_a_translation_is_stale_when_it_grants_more(machine: Machine, flags: str, is_stale: bool) -> None:
    """More rights in the table, accessed and dirty need no flush."""
    pa = machine.data(0)
    machine.cpu.write(machine.pt, 0, b"x")
    step = machine.pt.walk(0).steps[-1]
    machine.frames.view(step.table_pa + 8 * step.index, 8).cast("Q")[0] = machine.pt.arch.encode(pa, flags)
    if is_stale:
        with pytest.raises(StaleTranslation):
            machine.cpu.translate(machine.pt, 0)
    else:
        assert machine.cpu.translate(machine.pt, 0) == pa
        assert machine.cpu.verify() == 1


# -- migration


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("by", ["exchange", "compare_exchange"])
def test_a_page_that_leaves_is_flushed(machine: Machine, level: int, by: str) -> None:
    """Of any size; and coming back needs no flush."""
    size = machine.pt.arch.level(level).span
    machine.pt.map(size, 2 * size, size, page_size=size)
    machine.misses(size, 2 * size - 1)
    leaf, soft = machine.pt.lookup(size).raw, machine.pt.arch.encode_soft(1, 5)

    def change(old: int, new: int) -> None:
        if by == "exchange":
            assert machine.pt.exchange(size, new) == old
        else:
            assert machine.pt.compare_exchange(size, old, new)

    change(leaf, soft)
    assert machine.cpu.stats()["dropped"] == 1
    with pytest.raises(PageFault):
        machine.cpu.translate(machine.pt, size)
    flushes = machine.cpu.stats()["flushes"]
    change(soft, leaf)
    assert machine.cpu.stats()["flushes"] == flushes
    assert machine.cpu.translate(machine.pt, 2 * size - 1) == 3 * size - 1
