"""The rules of concurrency, one at a time: what each actor does when it meets another in the middle of a change.

The middle of a change is made to last here: the test takes the lock that the change would hold, and writes into the
live table what the change would leave there for a moment: a frozen entry, a slot between table and huge leaf, a huge
leaf being split. Last come bits that nobody would have written.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from array import array
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import ptl
from helpers import Crew, in_thread, python

ARCHITECTURES = (
    *("x86_64", "i386", "i386_pae", "riscv_sv39", "arm64_4k_va52", "powerpc_radix_4k"),
    *("s390", "sparc32", "mips64", "tiny"),
)
FRAMES = 64
Call = Callable[["World"], object]


class World:
    """A table with pages mapped at `va`, a table with nothing in it at `empty`, and a huge leaf at `huge`."""

    def __init__(self, arch: str, base: int = 0, strict: bool = False) -> None:
        self.arch = ptl.arch.get(arch)
        frame_bytes = min(4096, self.arch.table_bytes(1))
        self.frames = ptl.Frames(FRAMES * frame_bytes, base=base, frame_bytes=frame_bytes, domain=ptl.EpochDomain())
        self.pt = ptl.PageTable(self.arch, frames=self.frames, strict=strict)
        self.page, self.span = 1 << self.arch.page_shift, self.arch.level(2).span
        self.va, self.empty, self.huge = self.span, 2 * self.span, 3 * self.span
        self.pa, self.huge_pa = 4 * self.span, 8 * self.span
        self.pt.map(self.va, self.pa, self.span, "rw", page_size=self.page)
        self.pt.populate(self.empty)
        self.pt.map(self.huge, self.huge_pa, self.span, "rw")

    def leaf(self, pa: int, level: int = 1) -> int:
        return self.arch.encode(pa, "rw", level)

    def cell(self, va: int, level: int) -> memoryview:
        """The entry of an address on a level, as a memoryview of one integer, which lies as the format has it."""
        step = next(step for step in self.pt.walk(va).steps if step.level == level)
        size = self.arch.level(level).word.bytes
        return self.frames.view(step.table_pa + step.index * size, size).cast("Q" if size == 8 else "I")

    @contextlib.contextmanager
    def holding(self, va: int, level: int, raw: int) -> Iterator[None]:
        """The entry holds these bits for the length of the block."""
        cell = self.cell(va, level)
        before = cell[0]
        cell[0] = int.from_bytes(raw.to_bytes(cell.itemsize, self.arch.byte_order), sys.byteorder)
        try:
            yield
        finally:
            cell[0] = before

    @contextlib.contextmanager
    def changing(self, va: int, level: int, raw: int) -> Iterator[None]:
        """Somebody is in the middle of changing that entry, and has written these bits for now."""
        with self.pt.slot(va, level).lock(), self.holding(va, level, raw):
            yield

    def frozen(self, raw: int, level: int = 1) -> int:
        return raw | self.arch.level(level).word.frozen_bit(raw)

    def invalid(self, raw: int) -> int:
        level = self.arch.level(2)
        return raw & ~level.invalid_clear | level.invalid_set

    def after_waiting(self, call: Call, va: int, level: int, raw: int) -> object:
        """What the call returns that walked again and again as long as somebody was changing that entry."""
        results: list[object] = []
        crew = Crew()
        begun = self.pt.stats()["rewalks"]

        def change() -> None:
            with self.changing(va, level, raw):
                caller = threading.Thread(target=lambda: results.append(call(self)))
                caller.start()
                while self.pt.stats()["rewalks"] < begun + 6 and caller.is_alive():
                    pass
                assert caller.is_alive(), f"it did not wait, and came to {results}"
            caller.join()

        crew.run(change)
        self.pt.check()
        return results[0]


@pytest.fixture(params=ARCHITECTURES)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


# -- a frozen entry


def test_a_reader_gets_the_value_of_a_frozen_entry(world: World) -> None:
    pt = world.pt
    for level, va, pa in ((1, world.va, world.pa), (2, world.huge, world.huge_pa)):
        with world.changing(va, level, world.frozen(world.leaf(pa, level), level)):
            assert pt.translate(va + 5) == pa + 5
            assert list(pt.translate(array("Q", [va + 5, va]))) == [pa + 5, pa]
            assert pt.lookup(va).pa == pt.walk(va).leaf.pa == pa
            assert pt.lookup(va).flags == world.arch.decode(world.leaf(pa, level), level).flags
            assert pt.slot(va, level).state is ptl.State.HUGE
    with world.changing(world.empty, 1, world.frozen(world.arch.level(1).empty)):
        assert pt.lookup(world.empty) is None
        assert list(pt.translate(array("Q", [world.empty]))) == [ptl.UNMAPPED]
        with pytest.raises(ptl.PageFault) as fault:
            pt.translate(world.empty)
        assert (fault.value.level, fault.value.state) == (1, ptl.State.EMPTY)


LEAF_CHANGES: dict[str, Callable[[ptl.PageTable, int, int, int], object]] = {
    "compare_exchange": lambda pt, va, old, new: pt.compare_exchange(va, old, new),
    "exchange": lambda pt, va, old, new: pt.exchange(va, new) == old,
    "test_and_clear": lambda pt, va, old, new: pt.test_and_clear(va, "w"),
}


@pytest.mark.parametrize("change", LEAF_CHANGES)
@pytest.mark.parametrize("level", [1, 2])
def test_who_changes_a_leaf_waits_while_it_is_frozen(world: World, change: str, level: int) -> None:
    """...for it to thaw, or to leave with its table; then the change is done where the leaf is."""
    va, pa = (world.va, world.pa) if level == 1 else (world.huge, world.huge_pa)
    old, new = world.leaf(pa, level), world.leaf(5 * world.span, level)
    call = partial(LEAF_CHANGES[change], world.pt, va, old, new)
    assert world.after_waiting(lambda _: call(), va, level, world.frozen(old)) is True
    left = world.pt.lookup(va)
    assert (left.flags, left.pa) == (world.arch.attributes("r"), pa) or left.raw == new


def test_nobody_expects_a_frozen_value(world: World) -> None:
    """Who has seen an entry frozen, and expects it so, is told that it is another: frozen and thawed."""
    frozen, new = world.frozen(world.leaf(world.pa)), world.leaf(5 * world.span)
    with world.changing(world.va, 1, frozen):
        assert not world.pt.compare_exchange(world.va, frozen, new)
    assert not world.pt.compare_exchange(world.va, frozen, new)
    assert world.pt.translate(world.va) == world.pa


@pytest.mark.parametrize(
    ("call", "pa"),
    [
        (lambda world: world.pt.map(world.empty, world.pa), "pa"),
        (lambda world: world.pt.exchange(world.empty, world.leaf(world.pa)), "pa"),
        (lambda world: world.pt.compare_exchange(world.empty, world.arch.level(1).empty, world.leaf(world.pa)), "pa"),
        (lambda world: world.pt.unmap(world.empty, world.page), None),
    ],
    ids=["map", "exchange", "compare_exchange", "unmap"],
)
def test_who_fills_an_empty_entry_waits_while_it_is_frozen(world: World, call: Call, pa: str | None) -> None:
    world.after_waiting(call, world.empty, 1, world.frozen(world.arch.level(1).empty))
    leaf = world.pt.lookup(world.empty)
    assert (leaf and leaf.pa) == (pa and world.pa)


def test_who_unmaps_a_page_waits_while_it_is_frozen(world: World) -> None:
    call: Call = lambda world: world.pt.unmap(world.va, world.page)  # noqa: E731
    assert world.after_waiting(call, world.va, 1, world.frozen(world.leaf(world.pa))) == world.page
    assert world.pt.lookup(world.va) is None


def test_a_map_says_that_a_frozen_page_is_in_the_way(world: World) -> None:
    """It need not wait: the address was mapped at that moment."""
    with world.changing(world.va, 1, world.frozen(world.leaf(world.pa))), pytest.raises(ptl.AlreadyMapped):
        in_thread(lambda: world.pt.map(world.va, world.pa))


def test_a_handle_does_not_wait_for_a_frozen_entry(world: World) -> None:
    """It may be the last contents of a table that has left, and frozen for good."""
    old, new = world.leaf(world.pa), world.leaf(5 * world.span)
    with world.pt.pte_map(world.va) as ptes:
        with world.changing(world.va, 1, world.frozen(old)):
            for expected in (old, world.frozen(old)):
                assert not ptes.compare_exchange(0, expected, new)
            assert ptes[0].pa == world.pa
            assert ptes.load(0) == world.frozen(old)
        assert ptes.compare_exchange(0, old, new)


@pytest.mark.parametrize(
    "refused",
    [
        lambda world: world.pt.map(world.empty, 0, 2 * world.span, page_size=world.page),
        lambda world: world.pt.map(world.empty, 0, 2 * world.span),
        lambda world: world.pt.map(world.va - world.span, 0, 2 * world.span, page_size=world.page),
        lambda world: world.pt.map(world.va, 0, 2 * world.page),
    ],
)
def test_a_refused_change_leaves_nothing_frozen(world: World, refused: Call) -> None:
    with pytest.raises(ptl.AlreadyMapped):
        refused(world)
    for outcome in (
        world.pt.retract(world.va),
        world.pt.collapse(world.empty),
        world.pt.collapse(world.huge),
        world.pt.split(world.va),
    ):
        assert not outcome
    world.pt.check()
    assert world.pt.compare_exchange(world.va, world.leaf(world.pa), world.leaf(5 * world.span))


# -- a slot between table and huge leaf


WAIT_WHILE_BUSY: dict[str, Call] = {
    "translate": lambda world: world.pt.translate(world.va + 5) == world.pa + 5,
    "translate many": lambda world: list(world.pt.translate(array("Q", [world.huge, world.va]))) == both(world),
    "lookup": lambda world: world.pt.lookup(world.va).pa == world.pa,
    "compare_exchange": lambda world: world.pt.compare_exchange(world.va, world.leaf(world.pa), world.leaf(0)),
    "exchange": lambda world: world.pt.exchange(world.va, world.leaf(0)) == world.leaf(world.pa),
    "test_and_clear": lambda world: world.pt.test_and_clear(world.va, "w"),
    "map one page": lambda world: already_mapped(world),
    "unmap one page": lambda world: world.pt.unmap(world.va, world.page) == world.page,
    "populate": lambda world: world.pt.populate(world.va) is ptl.Outcome.ALREADY,
    "split": lambda world: world.pt.split(world.va) is ptl.Outcome.NOT_HUGE,
}


def both(world: World) -> list[int]:
    return [world.huge_pa, world.pa]


def already_mapped(world: World) -> bool:
    with pytest.raises(ptl.AlreadyMapped):
        world.pt.map(world.va, 0)
    return True


@pytest.mark.parametrize("call", WAIT_WHILE_BUSY)
def test_between_table_and_huge_leaf_an_address_is_no_fault(world: World, call: str) -> None:
    """Whoever needs to know what is there walks again until it is one or the other."""
    assert world.after_waiting(WAIT_WHILE_BUSY[call], world.va, 2, world.arch.level(2).busy) is True


def test_between_table_and_huge_leaf_there_is_no_table(world: World) -> None:
    """The fallible map does not wait."""
    with world.changing(world.va, 2, world.arch.level(2).busy):
        for call in (world.pt.pte_map, world.pt.pte_map_ro, world.pt.pte_map_rw, world.pt.pte_map_lock):
            assert call(world.va) is None
        slot = world.pt.pmd(world.va)
        assert slot.state is ptl.State.BUSY
        assert slot.load() == world.arch.level(2).busy
        step = world.pt.walk(world.va).steps[-1]
        assert (step.level, step.state) == (2, ptl.State.BUSY)
        assert "BUSY" in world.pt.walk(world.va).fault
        assert "BUSY" in world.pt.dump()
    world.pt.check()


NEVER_ENDS: dict[str, Call] = {
    name: WAIT_WHILE_BUSY[name] for name in WAIT_WHILE_BUSY if name not in ("map one page", "translate many")
}
NEVER_ENDS["translate many"] = lambda world: world.pt.translate(array("Q", [world.huge, world.va]))
NEVER_ENDS["map one page"] = lambda world: world.pt.map(world.va, 0)
NEVER_ENDS["pte_alloc_map"] = lambda world: world.pt.pte_alloc_map(world.va)


def test_nobody_waits_for_ever() -> None:
    """A slot that stays as it is for as long as anybody is willing to wait is an error that names it.

    All at once, because each takes as long as that.
    """
    world = World("x86_64")
    crew = Crew()
    messages: dict[str, str] = {}

    def give_up(name: str) -> None:
        with pytest.raises(ptl.LivelockError) as error:
            NEVER_ENDS[name](world)
        messages[name] = str(error.value)

    with world.holding(world.va, 2, world.arch.level(2).busy):
        crew.run(*(partial(give_up, name) for name in NEVER_ENDS))
    wrong = {
        name: message
        for name, message in messages.items()
        if not all(word in message for word in (f"{world.va:#x}"[:-1], "level-2", "BUSY"))
    }
    assert not wrong
    world.pt.check()


# -- a huge leaf being split


def test_a_huge_leaf_being_split_still_maps(world: World) -> None:
    """Hardware does not see it; software does."""
    pt, va, pa = world.pt, world.huge, world.huge_pa
    with world.changing(va, 2, world.invalid(world.leaf(pa, 2))):
        assert pt.translate(va + world.page + 5) == pa + world.page + 5
        assert list(pt.translate(array("Q", [va + 5]))) == [pa + 5]
        assert pt.lookup(va).pa == pt.walk(va).leaf.pa == pa
        assert pt.lookup(va).size == world.span
        assert pt.pmd(va).state is ptl.State.INVALID
        assert pt.pte_map(va) is None
        assert pt.pte_map_lock(va) is None
        assert pt.pte_alloc_map(va) is None
        assert pt.populate(va) is ptl.Outcome.IS_HUGE
    pt.check()


@pytest.mark.parametrize("change", [*LEAF_CHANGES, "split"])
def test_who_changes_a_huge_leaf_waits_for_its_split(world: World, change: str) -> None:
    va, old, new = world.huge, world.leaf(world.huge_pa, 2), world.leaf(5 * world.span, 2)
    if change == "split":
        call: Call = lambda world: bool(world.pt.split(va))  # noqa: E731
    else:
        call = lambda world: LEAF_CHANGES[change](world.pt, va, old, new)  # noqa: E731
    assert world.after_waiting(call, va, 2, world.invalid(old)) is True


# -- bits that nobody wrote


def outside(world: World) -> list[int]:
    """Addresses at which no whole table lies inside the block."""
    base, end = world.frames.base, world.frames.base + world.frames.size
    table = world.arch.table_bytes(1)
    low = base - table if base else end + 3 * table
    granule = 1 << (world.arch.level(2).address.mask & -world.arch.level(2).address.mask).bit_length() - 1
    granule <<= world.arch.level(2).address.left_shift
    straddling = end - table + granule
    highest = world.arch.level(2).address.get(world.arch.level(2).address.mask)
    return [end, low, straddling, end + table, highest]


@pytest.mark.parametrize("base", [0, 1 << 24])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_table_outside_the_block_is_bad_and_never_followed(arch: str, base: int) -> None:
    world = World(arch, base, strict=True)
    pt, va = world.pt, world.va
    for level in range(2, world.arch.levels + 1):
        for pa in outside(world):
            description = world.arch.level(level)
            with world.holding(va, level, description.table_set | description.address.put(pa)):
                assert pt.slot(va, level).state is ptl.State.BAD
                with pytest.raises(ptl.PageFault) as fault:
                    pt.translate(va)
                assert (fault.value.level, fault.value.state) == (level, ptl.State.BAD)
                assert list(pt.translate(array("Q", [va]))) == [ptl.UNMAPPED]
                assert pt.lookup(va) is None
                assert pt.walk(va).steps[-1].state is ptl.State.BAD
                assert pt.pte_map_ro(va) is None
                for fallible in (pt.pte_map, pt.pte_map_rw, pt.pte_map_lock, pt.pte_alloc_map, pt.pte_alloc_map_lock):
                    with pytest.raises(ptl.FormatError, match="BAD"):
                        fallible(va)
                assert pt.slot(va, level - 1) is None
                assert pt.populate(va) is ptl.Outcome.IS_BAD
                assert pt.split(va) is ptl.Outcome.NOT_HUGE
                assert pt.retract(va, level=level) is ptl.Outcome.IS_BAD
                for change in (
                    partial(pt.map, va, 0),
                    partial(pt.map, va, 0, world.span - world.page),
                    partial(pt.unmap, va, world.page),
                    partial(pt.protect, va, world.page, "r"),
                ):
                    with pytest.raises(ptl.FormatError, match="BAD"):
                        change()
                with pytest.raises(ptl.PageFault):
                    pt.compare_exchange(va, 0, 0)
                with pytest.raises(ptl.InvariantError, match="I1"):
                    pt.check()
                assert "BAD" in pt.dump()
    pt.check()


@pytest.mark.parametrize("call", ["pte_map", "pte_map_rw", "pte_map_lock", "pte_alloc_map", "pte_alloc_map_lock"])
def test_the_fallible_map_empties_a_bad_slot(world: World, call: str) -> None:
    """As the kernel's pmd_clear_bad does, and counts it; a map that promises to change nothing leaves it."""
    pt, va, description = world.pt, world.va, world.arch.level(2)
    with world.holding(va, 2, description.table_set | description.address.put(outside(world)[0])):
        assert pt.pte_map_ro(va) is None
        assert pt.pmd(va).state is ptl.State.BAD
        assert getattr(pt, call)(va) is None
        assert pt.stats()["bad_cleared"] == 1
        assert pt.pmd(va).state is ptl.State.EMPTY
        with pt.pte_alloc_map(va) as ptes:
            assert ptes[0] is None
        assert pt.retract(va)
    pt.check()


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES if name != "s390"])  # where an entry tells its level
def test_a_table_that_names_itself_ends_at_the_leaf_level(arch: str) -> None:
    """A walk has as many turns as there are levels, whatever the entries say."""
    world = World(arch)
    pt, top = world.pt, world.arch.level(world.arch.levels)
    for index in range(top.entries):
        va = index << top.shift
        if world.arch.sign_extended and va >> world.arch.va_bits - 1:
            va |= -1 << world.arch.va_bits
        va &= (1 << 64) - 1
        with world.holding(va, world.arch.levels, top.table_set | top.address.put(pt.root)):
            assert len(pt.walk(va).steps) == world.arch.levels
            assert len({step.table_pa for step in pt.walk(va).steps}) <= world.arch.levels
            pt.lookup(va)
    itself = top.table_set | top.address.put(pt.root)
    with world.holding(0, world.arch.levels, itself), pytest.raises(ptl.InvariantError, match="I"):
        pt.check()
    pt.check()


def hostile(arch: str, seed: int) -> None:
    """Fill a block with bits, some of them like tables inside it, and read thousands of addresses through them."""
    rng = random.Random(seed)
    world = World(arch)
    memory, size = memoryview(world.frames), world.frames.size
    before = bytes(memory)
    entry = world.arch.entry_bytes
    tables = [world.arch.level(level) for level in range(2, world.arch.levels + 1)]
    likely = rng.choice((0, 0.1, 0.5)) if world.arch.level(1).entries <= 4 else rng.choice((0, 0.002))
    for offset in range(0, size, entry):
        raw = rng.getrandbits(8 * entry)
        if rng.random() < likely:
            description = rng.choice(tables)
            raw = description.table_set | description.address.put(rng.randrange(size + size // 4))
        memory[offset : offset + entry] = raw.to_bytes(entry, world.arch.byte_order)
    vas = []
    for _ in range(2000):
        va = rng.getrandbits(world.arch.va_bits)
        if world.arch.sign_extended and va >> world.arch.va_bits - 1:
            va |= (1 << 64) - (1 << world.arch.va_bits)
        vas.append(va)
    many = world.pt.translate(array("Q", vas))
    for va, pa in zip(vas, many, strict=True):
        leaf = world.pt.lookup(va)
        assert pa == (ptl.UNMAPPED if leaf is None else leaf.pa + va - leaf.va)
        assert world.pt.walk(va).leaf == leaf
        ptes = world.pt.pte_map(va)
        if ptes is not None:
            with ptes:
                assert ptes.load(ptes.index) == world.pt.walk(va).steps[-1].raw
    world.pt.dump()
    with contextlib.suppress(ptl.InvariantError):
        world.pt.check()
    if seed % 2:
        memory[:] = before
        world.pt.check()


def reading_random_images() -> None:
    """As a program of its own: `python test_rules.py`."""
    for arch in ARCHITECTURES:
        for seed in range(6):
            hostile(arch, seed)
            print(arch, seed, flush=True)


def test_no_image_makes_a_reader_crash() -> None:
    """Nor the end of the table that was read from it."""
    shown = python(__file__).stdout
    assert shown.splitlines()[-1] == f"{ARCHITECTURES[-1]} 5"


@pytest.mark.parametrize(
    "change",
    [
        "pt.retract(0)",
        "pt.collapse(0)",
        "pt.collapse(0, 2 << 20)",
        "pt.reclaim_empty(0, 4 << 20)",
        "pt.unmap(0, 2 << 20)",
        "pt.map(0, 0, 2 << 20, replace=True)",
    ],
)
@pytest.mark.parametrize("full", ["0", "i << 12 | 3"], ids=["empty", "full"])
def test_no_change_takes_data_for_a_table(change: str, full: str) -> None:
    """An entry may name a frame inside the block that is no table: nobody detaches and frees that."""
    python("-c", NO_TABLE.format(change=change, full=full))


NO_TABLE = """
import contextlib, ptl
frames = ptl.Frames(1 << 20)
data = frames.alloc(4096)
pt = ptl.PageTable("x86_64", frames=frames)
for pa in (0x80000, data):  # a frame that was never handed out, and one that was
    pt.populate(0)
    step = pt.walk(0).steps[-2]
    slot = frames.view(step.table_pa + 8 * step.index, 8).cast("Q")
    table = slot[0]
    entries = frames.view(pa, 4096).cast("Q")
    for i in range(512):
        entries[i] = {full}
    slot[0] = pa | 7
    with contextlib.suppress(ptl.FormatError):
        {change}
    ptl.default_domain.synchronize()
    slot[0] = table
    pt.check()
frames.free(data)
"""


if __name__ == "__main__":
    sys.exit(reading_random_images())
