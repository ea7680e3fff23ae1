"""ptl's tables mean to a CPU what ptl says they mean.

An emulated CPU walks the very bytes that ptl writes (mmu.py), and for every address and access its MMU must give the
verdict that ptl's own walk predicts: the same physical address, or a fault. That covers

- formats: every page size and every combination of attributes, for each privilege; both ends of the address space;
- accessed and dirty: set by the CPU, reported by ptl, merged by a collapse and inherited by a split;
- transitions: tables collapse, split, fill, empty and retract under the CPU, and under a program that runs on them;
- what a slot holds meanwhile: hardware ignores the frozen bit, and sees nothing in a slot in transition;
- entries that ptl never writes: reserved bits, misaligned leaves, and random ones.

Random cases are seeded, so that a failure repeats.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import combinations, product

import mmu
import pytest
from machine import BOARDS, RAM, Machine
from mmu import FAULT, Access, Mode

import ptl
from ptl import Outcome, State
from reference import with_attributes, withholding

pytestmark = pytest.mark.skipif(bool(mmu.MISSING), reason=mmu.MISSING)

REGION = 0x20_0000_0000  # 128 GiB: a free place in every 64-bit format's lower half
REGIONS = dict.fromkeys(("arm", "arm_lpae", "i386", "i386_pae", "m68k", "riscv_sv32", "sparc32"), 0x8000_0000)


@pytest.fixture(params=BOARDS)
def machine(request) -> Machine:
    return Machine(request.param)


@pytest.fixture
def region(machine: Machine) -> int:
    """A virtual address where nothing is mapped, aligned to the largest page."""
    return REGIONS.get(machine.arch.name, REGION)


# -- asking both sides ------------------------------------------------------------------------------------------------

Prediction = tuple[int, int | None, str]
"""An address, the physical address it has, and the attributes of its leaf."""


def by_lookup(pt: ptl.PageTable, addresses: Iterable[int]) -> Iterator[Prediction]:
    """What ptl's translations and lookups predict for each address, canonical or not."""
    vas = array("Q", addresses)
    for va, pa in zip(vas, pt.translate(vas), strict=True):
        if pa == ptl.UNMAPPED:
            yield va, None, ""
        else:
            yield va, pa, pt.lookup(va).flags


def by_walk(pt: ptl.PageTable, addresses: Iterable[int]) -> Iterator[Prediction]:
    """What the state of the entry at which ptl's walk ends predicts: hardware sees a HUGE one, and nothing else."""
    for va in addresses:
        walk = pt.walk(va)
        if walk.steps[-1].state is State.HUGE and not is_hidden(pt.arch, walk.steps[-1]):
            yield va, pt.translate(va), walk.leaf.flags
        else:
            yield va, None, ""


def is_hidden(arch: ptl.arch.Arch, step: ptl.Step) -> bool:
    """Whether an entry is frozen in a way that hardware does not ignore: where it leaves no bit to software."""
    return bool(arch.level(step.level).word.frozen_mask) and arch.decode(step.raw, step.level).frozen


def judge(machine: Machine, predictions: Iterable[Prediction]) -> None:
    """Every core gives the predicted verdict for every access."""
    for va, pa, flags in predictions:
        for core, access in product(machine.cores, Access):
            expected = pa if pa is not None and core.permits(flags, access) else FAULT
            verdict = core.translate(va, access)
            assert verdict == expected, (
                f"{core} to {access.name} {va:#x}: CPU {show(verdict)}, ptl {show(expected)} {machine.pt.walk(va)}"
            )


def show(verdict: mmu.Verdict) -> str:
    return verdict.value if verdict is FAULT else hex(verdict)


def verdicts(machine: Machine, addresses: Iterable[int]) -> list[mmu.Verdict]:
    """What every core says to every access."""
    return [core.translate(va, access) for va in addresses for core, access in product(machine.cores, Access)]


def all_flags(arch: ptl.arch.Arch) -> list[str]:
    """Every set of attributes that the format can express."""
    found = set()
    for n in range(len(arch.flags) + 1):
        for letters in combinations(arch.flags, n):
            with suppress(ptl.FormatError):
                found.add(arch.attributes("".join(letters) + arch.implied))
    return sorted(found)


def has_address(arch: ptl.arch.Arch, va: int) -> bool:
    """Whether a program of this architecture can name the address at all, canonical or not."""
    return 0 <= va < 1 << (64 if arch.va_bits > 32 else 32)


def leaf_levels(arch: ptl.arch.Arch) -> list[int]:
    return [number for number in range(1, arch.levels + 1) if arch.level(number).leaf is not None]


def huge_leaf_levels(arch: ptl.arch.Arch) -> list[int]:
    """The levels above the first that have leaves."""
    if not leaf_levels(arch)[1:]:
        pytest.skip(f"no leaf of {arch.name} that this CPU knows is huge")
    return leaf_levels(arch)[1:]


# -- the judge itself -------------------------------------------------------------------------------------------------


def test_a_cpu_believes_its_tlb_until_it_is_flushed(machine, region):
    """So that the flushes in these tests stand for the flushes of a kernel."""
    core = machine.core(Mode.SUPERVISOR)
    old, new = (machine.frames.alloc(machine.arch.page_sizes[0]) for _ in range(2))
    machine.pt.map(region, old, flags="rw" + core.needs)
    assert core.translate(region, Access.READ) == old
    machine.pt.map(region, new, flags="rw" + core.needs, replace=True)
    assert core.translate(region, Access.READ) == old
    machine.flush()
    assert core.translate(region, Access.READ) == new


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_random_mappings(machine, seed):
    """Leaves of every size with every kind of attributes: their edges, a place inside, and the neighbours outside."""
    rng = random.Random(seed)
    count = machine.some(400)
    runs = map_at_random(machine, rng, count)
    assert len(runs) > count * 5 // 8
    addresses = [va for run in runs for va in places(machine, rng, *run)]
    judge(machine, by_lookup(machine.pt, addresses))
    machine.pt.check()


def map_at_random(machine: Machine, rng: random.Random, count: int) -> list[tuple[int, int]]:
    """Map runs of leaves all over the address space, some side by side; returns first address and length of each."""
    arch, flags = machine.arch, all_flags(machine.arch)
    largest = arch.page_sizes[-1]
    runs: list[tuple[int, int]] = []
    for _ in range(count):
        sizes = (*arch.page_sizes, *machine.run_sizes)
        weights = (*(60, 30, 1)[: len(arch.page_sizes)], *(30, 1, 1)[: len(machine.run_sizes)])
        size = rng.choices(sizes, weights)[0]
        beyond = sum(rng.choice(runs)) if runs and rng.random() < 0.3 else rng.randrange(1 << arch.va_bits)
        va = arch.canonical(beyond & -size)
        if rng.random() < 0.2:  # ragged ends, so that leaves of several sizes make up the run
            length = rng.randrange(1, min(3 * arch.level(2).span, 64 << 20) >> arch.page_shift) << arch.page_shift
            pa = rng.randrange(1 << machine.pa_bits - 30 >> 1) * (2 * largest) + va % largest
            page_size = None
        else:
            length = size
            pa = rng.randrange(1 << machine.pa_bits) & -size
            page_size = size
        try:
            machine.pt.map(va, pa, length, rng.choice(flags), page_size=page_size)
        except (ptl.AlreadyMapped, ptl.AddressError):  # taken, or out of the addresses at either side
            continue
        except ptl.OutOfFrames:  # what a run of 16 GiB keeps aside is half of all frames
            continue
        runs.append((va, length))
    return runs


def places(machine: Machine, rng: random.Random, va: int, length: int) -> Iterator[int]:
    """The edges of the first and last leaves of a run, a place in each, and the neighbours of the run."""
    leaves = list(leaves_of(machine.pt, va, length))
    for leaf in {leaf.va: leaf for leaf in (*leaves[:3], *leaves[-3:])}.values():
        yield from (leaf.va, leaf.va + rng.randrange(leaf.size), leaf.va + leaf.size - 1)
    yield from (place for place in (va - 1, va + length) if has_address(machine.arch, place))


def leaves_of(pt: ptl.PageTable, va: int, length: int) -> Iterator[ptl.Leaf]:
    end = va + length
    while va < end:
        leaf = pt.lookup(va)
        yield leaf
        va = leaf.va + leaf.size


def test_the_cpu_takes_just_the_addresses_that_ptl_takes(machine):
    """With something mapped behind every entry of the root, an address faults only when it is not canonical."""
    arch, pt = machine.arch, machine.pt
    root = arch.level(arch.levels)
    page, flags = arch.page_sizes[0], "rw" + machine.cores[0].needs
    pt.map(0, 0x1234 * page, flags=flags)
    pt.map(root.span - page, 0x5432 * page, flags=flags)
    step = pt.walk(0).steps[0]
    others = [pt.walk(arch.canonical(index << root.shift)).steps[0] for index in range(1, root.entries)]
    for other in others:
        machine.poke(other, step.raw)
    edges = [sign << n for n in range(root.shift, 65) for sign in (1, -1)]
    addresses = {va % (1 << 64) for edge in edges for va in (edge - 1, edge, edge + 1)}
    predictions = list(by_lookup(pt, sorted(va for va in addresses if has_address(arch, va))))
    judge(machine, predictions)
    assert all(pa is not None for va, pa, _ in predictions if arch.canonical(va) == va)
    for other in others:
        machine.poke(other, other.raw)
    pt.check()


# -- accessed and dirty -----------------------------------------------------------------------------------------------


def test_the_cpu_sets_accessed_and_dirty_and_nothing_else(machine, region):
    """For every page size, set of attributes, mode and access, in the bits that ptl's description names."""
    arch, pt = machine.arch, machine.pt
    for level in leaf_levels(arch):
        size = arch.level(level).span
        pt.map(region, 0, size, page_size=size)
        for flags, core, access in product(all_flags(arch), machine.cores, Access):
            pt.exchange(region, arch.encode(size, flags, level))
            core.flush()
            if core.translate(region, access) is FAULT:
                gained = core.marks_though_it_refuses(level, flags, access)
            else:
                gained = "".join(letter for letter in ("ad" if access is Access.WRITE else "a") if letter in core.sets)
            leaf = pt.lookup(region)
            assert leaf.flags == arch.attributes(flags + gained), f"{core} to {access.name} {flags}"
            assert leaf.raw == arch.encode(size, flags + gained, level)
        pt.unmap(region, size)
    pt.check()


def test_the_cpu_sets_them_again_after_they_were_cleared(machine, region):
    core = machine.core(Mode.SUPERVISOR)
    machine.pt.map(region, 0, flags="rw" + core.needs)
    for _ in range(2):
        core.translate(region, Access.WRITE)
        assert {*core.sets, *core.needs} <= set(machine.pt.lookup(region).flags)
        for letter in core.sets:
            assert machine.pt.test_and_clear(region, letter)
        machine.flush()
        assert not {*core.sets} & set(machine.pt.lookup(region).flags)


def use(machine: Machine, va: int, access: Access) -> None:
    """Access an address, and do what software has to do for this CPU: set what it does not set itself."""
    core = machine.core(Mode.SUPERVISOR)
    core.translate(va, access)
    leaf, used = machine.pt.lookup(va), {"a", "d"} if access is Access.WRITE else {"a"}
    if not used <= set(leaf.flags):
        assert not used & set(core.sets)
        assert machine.pt.compare_exchange(
            va, leaf.raw, with_attributes(machine.arch, leaf.raw, leaf.level, used | set(leaf.flags))
        )


@pytest.mark.parametrize(("read", "written", "merged"), [([], [], ""), ([7], [], "a"), ([7, 300], [511], "ad")])
def test_collapse_merges_what_the_cpu_set_and_split_hands_it_down(machine, region, read, written, merged):
    arch, pt = machine.arch, machine.pt
    for level in huge_leaf_levels(arch):
        small, large = arch.level(level - 1).span, arch.level(level).span
        pt.map(region, 0, large, "rw", page_size=small)
        for i in read:
            use(machine, region + i % (large // small) * small, Access.READ)
        for i in written:
            use(machine, region + i % (large // small) * small, Access.WRITE)
        assert pt.collapse(region, level=level) is Outcome.DONE
        assert pt.lookup(region).size == large
        assert pt.lookup(region).flags == arch.attributes("rw" + merged)
        machine.flush()
        assert pt.split(region) is Outcome.DONE
        assert {leaf.flags for leaf in leaves_of(pt, region, large)} == {arch.attributes("rw" + merged)}
        pt.unmap(region, large)
        machine.flush()
    pt.check()


@pytest.mark.parametrize(("access", "inherited"), [(Access.READ, "a"), (Access.WRITE, "ad")])
def test_split_hands_down_what_the_cpu_set_in_the_huge_leaf(machine, region, access, inherited):
    arch, pt = machine.arch, machine.pt
    size = arch.level(huge_leaf_levels(arch)[-1]).span
    pt.map(region, 0, size, "rw", page_size=size)
    use(machine, region + size - 1, access)
    while pt.split(region):
        machine.flush()
        assert {leaf.flags for leaf in leaves_of(pt, region, size)} == {arch.attributes("rw" + inherited)}
    assert pt.lookup(region).size == arch.page_sizes[0]


# -- before and after -------------------------------------------------------------------------------------------------


def test_every_state_on_the_way_from_pages_to_a_huge_leaf_and_back(machine, region):
    """Pages, a leaf of each larger size, pages again, half of them protected, half unmapped, and no table at all."""
    arch, pt = machine.arch, machine.pt
    huge_leaf_levels(arch)
    size = arch.page_sizes[-1]
    page, middle = arch.page_sizes[0], arch.page_sizes[-2]
    rng = random.Random(1)
    inside = [region + at for at in (0, page - 1, page, middle - 1, middle, size // 2 - 1, size // 2, size - 1)]
    around = [region - 1, region + size]
    addresses = [*inside, *around, *(region + rng.randrange(size) for _ in range(machine.some(200)))]

    def probe():
        machine.flush()
        judge(machine, by_lookup(pt, addresses))

    probe()
    flags = "rwxu" + machine.cores[0].needs
    pt.map(region, size, size, flags, page_size=middle)
    probe()
    if middle > page:
        pt.unmap(region, middle)
        pt.map(region, size, middle, flags, page_size=page)
        probe()
        assert pt.collapse(region, level=2) is Outcome.DONE
        probe()
    assert pt.collapse(region, level=leaf_levels(arch)[-1]) is Outcome.DONE
    assert pt.lookup(region).size == size
    probe()
    assert pt.split(region) is Outcome.DONE
    probe()
    pt.split(region)
    probe()
    assert pt.protect(region + size // 2, size // 2, "ru") == size // 2
    probe()
    assert pt.unmap(region + size // 4, size // 4) == size // 4
    probe()
    assert pt.unmap(region + page, size - page) == size - page - size // 4  # the hole is passed over
    probe()
    assert pt.retract(region) is Outcome.NOT_EMPTY
    assert pt.unmap(region, page) == page
    assert pt.retract(region) is Outcome.DONE
    probe()
    pt.reclaim_empty(region, size)
    probe()
    pt.map(region, 0, size, flags, page_size=size)
    probe()
    assert pt.unmap(region + page, page) == page  # splits it all the way down
    probe()
    pt.check()


def test_every_state_on_the_way_to_a_table_full_of_pages_and_back(machine, region):
    """Nothing, pages, half of them protected, half unmapped, a table of nothing, and no table at all."""
    arch, pt = machine.arch, machine.pt
    page, size = arch.page_sizes[0], arch.level(2).span
    around = [region - 1, region, region + page, region + size // 2 - 1, region + size // 2, region + size]

    def probe():
        machine.flush()
        judge(machine, by_lookup(pt, around))

    probe()
    assert pt.populate(region) is Outcome.DONE
    probe()
    pt.map(region, size, size, "rwxu" + machine.cores[0].needs, page_size=page)
    probe()
    assert pt.protect(region + size // 2, size // 2, "ru") == size // 2
    probe()
    assert pt.unmap(region, size // 2) == size // 2
    probe()
    assert pt.unmap(region + size // 2, size // 2) == size // 2
    probe()
    assert pt.retract(region) is Outcome.DONE
    probe()
    pt.check()


# -- during: a program runs on the pages ------------------------------------------------------------------------------


class Ledger:
    """The program's loads and stores by arithmetic alone: what its memory and its sum must be after any instruction."""

    def __init__(
        self, program: mmu.Program, byte_order: str, memory: bytearray, increment: int, stride: int, mask: int
    ) -> None:
        self.program, self.byte_order, self.memory = program, byte_order, memory
        self.increment, self.stride, self.mask = increment, stride, mask
        self.at = self.offset = self.loaded = self.sum = 0

    def run(self, count: int) -> None:
        """Execute that many instructions."""
        program = self.program
        limit = 1 << 8 * program.word
        for _ in range(count):
            where = slice(self.offset, self.offset + program.word)
            if self.at == program.load:
                self.loaded = int.from_bytes(self.memory[where], self.byte_order)
            elif self.at == program.load + 1:
                self.sum = (self.sum + self.loaded) % limit
            elif self.at == program.store:
                self.memory[where] = ((self.loaded + self.increment) % limit).to_bytes(program.word, self.byte_order)
            self.at += 1
            if self.at == program.instructions:
                self.at, self.offset = 0, self.offset + self.stride & self.mask


class Running:
    """A core that executes the program on `size` bytes from `va`, and a ledger of what it should have done there.

    Words lie 64 bytes apart, and the program itself is between the first two: it runs on the pages that it writes.
    """

    def __init__(self, machine: Machine, mode: Mode, va: int, size: int, rng: random.Random) -> None:
        self.machine, self.va, self.rng = machine, va, rng
        self.core = machine.core(mode)
        program = self.core.program
        memory = bytearray(rng.randbytes(size))
        memory[8 : 8 + len(program.code)] = program.code
        constants = {"increment": rng.randrange(1, 1 << 31), "stride": 4096 + 64, "mask": size - 64}
        self.ledger = Ledger(program, machine.arch.byte_order, memory, **constants)
        for view, where in self.pages():
            view[:] = memory[where]
        self.core.load(va + 8, base=va, offset=0, sum=0, **constants)

    def pages(self) -> Iterator[tuple[memoryview, slice]]:
        """Each page's bytes, found through ptl, and its place in the program's memory."""
        page = self.machine.arch.page_sizes[0]
        starts = range(0, len(self.ledger.memory), page)
        for start, pa in zip(starts, self.machine.pt.translate(array("Q", (self.va + s for s in starts))), strict=True):
            yield self.machine.frames.view(pa, page), slice(start, start + page)

    def burst(self) -> None:
        """Execute some instructions; every load so far must have read, and every store written, the right bytes."""
        count = self.rng.randrange(1, 100)
        self.core.run(count)
        self.ledger.run(count)
        self.compare()

    def until_it_faults(self) -> int:
        """Execute instructions up to one that faults; returns which one of the loop that is."""
        while self.core.step():
            self.ledger.run(1)
        self.compare()
        return self.ledger.at

    def compare(self) -> None:
        """The sum, and all of the memory, are what arithmetic says."""
        assert self.core.register("sum") == self.ledger.sum
        assert all(bytes(view) == self.ledger.memory[where] for view, where in self.pages())


def huge_page(machine: Machine) -> int:
    """The size of the smallest huge page: what a program runs on. Ten of them have to fit."""
    size = machine.arch.level(huge_leaf_levels(machine.arch)[0]).span
    if 10 * size > RAM:
        pytest.skip(f"a huge page of {machine.arch.name} has {size >> 20} MiB, and this machine {RAM >> 20}")
    return size


MODES_THAT_RUN = pytest.mark.parametrize(("mode", "flags"), [(Mode.SUPERVISOR, "rwx"), (Mode.USER, "rwxu")])


@MODES_THAT_RUN
def test_a_program_runs_on_while_its_pages_collapse_and_split(machine, region, mode, flags):
    """In place, at every level, its code included. The addresses stay, so no byte may move."""
    arch, pt = machine.arch, machine.pt
    rng = random.Random(2)
    flags += machine.cores[0].needs
    largest, size = arch.page_sizes[-1], huge_page(machine)
    data = machine.frames.alloc(size)
    pt.map(region, data & -largest, largest, flags, page_size=largest)
    here = region + data % largest
    running = Running(machine, mode, here, size, rng)
    changes = [lambda level=level: pt.collapse(here, level=level) for level in leaf_levels(arch)[1:]]
    changes += [lambda: pt.split(here)] * len(changes)
    outcomes = Counter()
    for _ in range(250):
        outcomes[rng.choice(changes)()] += 1
        machine.flush()
        running.burst()
    assert outcomes[Outcome.DONE] > 80
    assert pt.stats()["collapses"] > 20
    assert pt.stats()["splits"] > 20
    pt.check()


@MODES_THAT_RUN
def test_a_program_runs_on_while_its_pages_move(machine, region, mode, flags):
    """Pages move one by one, then all at once by a collapse that copies; then the huge leaf is split, and so on.

    What they leave is overwritten: nothing is read from there or written there any more.
    """
    pt, frames = machine.pt, machine.frames
    rng = random.Random(3)
    flags += machine.cores[0].needs
    has_huge = len(machine.arch.page_sizes) > 1
    size, page = huge_page(machine) if has_huge else machine.arch.level(2).span, machine.arch.page_sizes[0]
    scattered = [frames.alloc(page) for _ in range(size // page)]
    rng.shuffle(scattered)
    for i, pa in enumerate(scattered):
        pt.map(region + i * page, pa, flags=flags)
    running = Running(machine, mode, region, size, rng)
    left = []

    def leave(view):
        view[:] = b"\xee" * len(view)
        left.append(view)

    for _ in range(8):
        for _ in range(10):
            va = region + rng.choice((0, running.ledger.offset, rng.randrange(size))) // page * page
            old, new = frames.view(pt.translate(va), page), frames.alloc(page)
            frames.view(new, page)[:] = old
            pt.map(va, new, flags=flags, replace=True)
            machine.flush()
            leave(old)
            running.burst()
        if not has_huge:
            continue
        assert pt.collapse(region) is Outcome.NOT_CONTIGUOUS
        running.burst()
        old, new = [view for view, _ in running.pages()], frames.alloc(size)
        assert pt.collapse(region, new) is Outcome.DONE
        machine.flush()
        for view in old:
            leave(view)
        assert pt.lookup(region).pa == new
        running.burst()
        assert pt.split(region) is Outcome.DONE
        machine.flush()
        running.burst()
    assert all(bytes(view) == b"\xee" * len(view) for view in left)
    pt.check()


@MODES_THAT_RUN
def test_a_program_that_meets_a_transition_half_way_faults_and_goes_on_after_it(machine, region, mode, flags):
    """Each state that a collapse by copy, and then a split, let a CPU see, one after the other.

    Frozen pages go on, where hardware ignores the bit. Where the right to write was withheld stores fault, and only
    they. In a slot that is BUSY or INVALID not even the next instruction is found. A fault has no effect, and the
    program can be resumed.
    """
    arch, pt = machine.arch, machine.pt
    rng = random.Random(4)
    size, slot_level = huge_page(machine), arch.level(2)
    data = machine.frames.alloc(size)
    pt.map(region, data, size, flags + "ad", page_size=arch.page_sizes[0])
    running = Running(machine, mode, region, size, rng)
    program = running.ledger.program
    slot = pt.walk(region).steps[-2]
    pages = [pt.walk(page).steps[-1] for page in range(region, region + size, arch.page_sizes[0])]
    huge = arch.encode(data, flags + "ad", 2)
    invalid = huge & ~slot_level.invalid_clear | slot_level.invalid_set
    frozen = arch.level(1).word.frozen_present

    for _ in range(3):
        running.burst()
        for page in pages:
            machine.poke(page, page.raw | frozen)
        if is_hidden(arch, pt.walk(region).steps[-1]):
            assert not running.core.step()
        else:
            running.burst()
            for page in pages:
                machine.poke(page, withholding(arch, page.raw, 1, "w") | frozen)
            assert running.until_it_faults() == program.store
        machine.poke(slot, slot_level.busy)
        assert not running.core.step()
        machine.poke(slot, huge)
        running.burst()
        machine.poke(slot, invalid)
        assert not running.core.step()
        for page in pages:
            machine.poke(page, page.raw)
        machine.poke(slot, slot.raw)
        running.burst()
    pt.check()


# -- what a slot holds in the middle of a change ----------------------------------------------------------------------


def test_hardware_ignores_the_frozen_bit_of_a_leaf(machine, region):
    """Every size, attributes and access: the same verdict with the bit as without, and the CPU leaves it set.

    Or, where hardware leaves no bit to software, it faults, while ptl goes on to translate.
    """
    arch, pt = machine.arch, machine.pt
    for level in leaf_levels(arch):
        size, frozen = arch.level(level).span, arch.level(level).word.frozen_present
        pt.map(region, 0, size, page_size=size)
        step = pt.walk(region).steps[-1]
        addresses = [region, region + size - 1]
        for flags in machine.sample(all_flags(arch)):
            raw = arch.encode(size, flags, level)
            machine.poke(step, raw)
            thawed = verdicts(machine, addresses)
            machine.poke(step, raw | frozen)
            hidden = is_hidden(arch, pt.walk(region).steps[-1])
            assert verdicts(machine, addresses) == ([FAULT] * len(thawed) if hidden else thawed), flags
            assert pt.translate(region + 5) == size + 5
            judge(machine, by_walk(pt, addresses))
            assert pt.walk(region).steps[-1].raw & frozen
        machine.poke(step, step.raw)
        pt.unmap(region, size)


def test_hardware_sees_nothing_in_a_slot_that_is_empty_frozen_or_busy(machine, region):
    arch, pt = machine.arch, machine.pt
    pt.map(region, 5 * arch.page_sizes[0], flags="rwxu" + machine.cores[0].needs)
    for step in pt.walk(region).steps:
        level = arch.level(step.level)
        machine.poke(step, level.empty | (level.word.frozen_absent if step.level == 1 else 0))
        assert pt.walk(region).steps[-1].state is State.EMPTY
        assert set(verdicts(machine, [region])) == {FAULT}
        if level.busy:
            machine.poke(step, level.busy)
            assert pt.walk(region).steps[-1].state is State.BUSY
            assert set(verdicts(machine, [region])) == {FAULT}
        machine.poke(step, step.raw)
    pt.check()


def test_hardware_sees_nothing_in_what_software_keeps(machine, region):
    """In place of a leaf of any size: every type, every bit of the offset, exclusive or not, frozen or not."""
    arch, pt = machine.arch, machine.pt
    for number in leaf_levels(arch):
        types = [arch.encode_soft(kind, 1, number) for kind in range(arch.soft_types)]
        offsets = [arch.encode_soft(0, 1 << n, number) for n in range(arch.soft_offsets.bit_length() - 1)]
        all_ones = arch.encode_soft(arch.soft_types - 1, arch.soft_offsets - 1, number, exclusive=True)
        size, frozen_absent = arch.level(number).span, arch.level(number).word.frozen_absent
        pt.map(region, 0, size, "rwxu", page_size=size)
        step = pt.walk(region).steps[-1]
        for raw, frozen in product((*types, *offsets, all_ones), (0, frozen_absent)):
            machine.poke(step, raw | frozen)
            assert pt.walk(region).steps[-1].state is State.SOFT
            assert set(verdicts(machine, [region])) == {FAULT}
        machine.poke(step, step.raw)
        pt.unmap(region, size)
    pt.check()


def test_hardware_sees_nothing_in_a_leaf_whose_size_changes(machine, region):
    """INVALID: a fault for every access, while ptl goes on to translate."""
    arch, pt = machine.arch, machine.pt
    for number in leaf_levels(arch):
        level = arch.level(number)
        if level.invalid is None:
            continue
        pt.map(region, 0, level.span, page_size=level.span)
        step = pt.walk(region).steps[-1]
        addresses = [region, region + level.span - 1]
        for flags in machine.sample(all_flags(arch)):
            machine.poke(step, arch.encode(level.span, flags, number) & ~level.invalid_clear | level.invalid_set)
            assert pt.walk(region).steps[-1].state is State.INVALID
            assert pt.lookup(region).flags == flags
            assert pt.translate(region + 5) == level.span + 5
            assert set(verdicts(machine, addresses)) == {FAULT}
        machine.poke(step, step.raw)
        pt.unmap(region, level.span)
    pt.check()


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [name for name, board in BOARDS.items() if board.has_runs], indirect=True)
def test_every_state_on_the_way_from_pages_to_a_run_and_back(machine, region):
    runs_come_and_go(machine, region)


def runs_come_and_go(machine: Machine, region: int) -> None:
    """Leaves by themselves, one page of them, half of it protected, a part unmapped, one page again, and nothing."""
    arch, pt = machine.arch, machine.pt
    flags = "rwxu" + machine.cores[0].needs

    def probe() -> None:
        machine.flush()
        judge(machine, by_lookup(pt, addresses))
        pt.check()

    for level in leaf_levels(arch):
        for run in arch.level(level).runs:
            size, page = arch.level(level).run_bytes(run), arch.level(level).span
            edges = (0, page, 2 * page, size // 2, size - page, size)
            addresses = [region + at for edge in edges for at in (edge - 1, edge, edge + 1)]
            pt.map(region, size, size, flags, page_size=page)
            probe()
            assert pt.collapse(region, page_size=size) is Outcome.DONE
            assert pt.lookup(region).size == size
            probe()
            assert pt.protect(region + size // 2, size // 2, "ru" + machine.cores[0].needs) == size // 2
            assert pt.lookup(region).size == page
            probe()
            assert pt.protect(region, size, flags) == size // 2
            assert pt.collapse(region, page_size=size) is Outcome.DONE
            assert pt.unmap(region + page, page) == page
            probe()
            pt.map(region, size, size, flags, page_size=size, replace=True)
            assert pt.lookup(region).size == size
            probe()
            assert pt.split(region) is Outcome.DONE
            probe()
            pt.unmap(region, size)
            probe()


# -- entries that ptl never writes ------------------------------------------------------------------------------------


def test_every_bit_of_an_entry_by_itself(machine, region):
    """Flip one bit of a leaf or of an entry for a table: present, size, reserved, address, attribute, software's own.

    The CPU translates where ptl's walk does, and faults where ptl calls the entry empty, software's or BAD.
    """
    arch, pt = machine.arch, machine.pt
    seen = Counter()
    for leaf_level in leaf_levels(arch):
        size = arch.level(leaf_level).span
        pt.map(region, 0, size, "rwxuad", page_size=size)
        for step in pt.walk(region).steps:
            for bit in bits_to_flip(machine, step):
                machine.poke(step, step.raw ^ bit)
                seen[pt.walk(region).steps[-1].state] += 1
                judge(machine, by_walk(pt, [region, region + size - 1]))
            machine.poke(step, step.raw)
        pt.unmap(region, size)
        pt.reclaim_empty(region, size)
    assert seen[State.HUGE]
    assert seen[State.BAD] + seen[State.SOFT]
    assert State.INVALID in seen or arch.level(2).invalid is None or arch.level(2).invalid_set  # more than one bit
    pt.check()


def bits_to_flip(machine: Machine, step: ptl.Step) -> list[int]:
    """The bits of the entry at a step that mean something to the emulator and to ptl."""
    core, leaf = machine.cores[0], step.state is State.HUGE
    aside = core.unjudged(step.level, leaf=leaf)
    if not leaf:
        aside |= machine.arch.level(step.level).address.bits
    bits = (1 << n for n in range(8 * machine.arch.level(step.level).word.bytes) if not aside >> n & 1)
    return [bit for bit in bits if not (leaf and core.goes_on(step.level, step.raw ^ bit))]


@pytest.mark.parametrize("seed", range(3))
def test_random_entries(machine, region, seed):
    """Random bits on every level: ptl's walk ends as the CPU's does. What names a table names the one that is there."""
    rng = random.Random(seed)
    arch, pt = machine.arch, machine.pt
    pt.map(region, 5 * arch.page_sizes[0], flags="rwxu" + machine.cores[0].needs)
    seen, tries = Counter(), machine.some(400)
    for step in pt.walk(region).steps:
        addresses = [region, region + arch.page_sizes[0], region + rng.randrange(arch.level(step.level).span)]
        for _ in range(tries):
            machine.poke(step, random_entry(machine, step, rng))
            seen[step.level, pt.walk(region).steps[-1].state] += 1
            judge(machine, by_walk(pt, addresses))
        machine.poke(step, step.raw)
    pt.check()
    for level in range(1, arch.levels + 1):
        assert seen[level, State.HUGE] > tries // 40
        assert seen[level, State.SOFT] + seen[level, State.BAD] > tries // 40


def random_entry(machine: Machine, step: ptl.Step, rng: random.Random) -> int:
    """Random bits for the entry at a step.

    Most are leaves as far as the address goes, or, where there is no leaf, name a table; some of them but for one bit.
    """
    level, core = machine.arch.level(step.level), machine.cores[0]
    raw = rng.getrandbits(8 * level.word.bytes)
    shape = level.leaf or level.table
    if rng.random() < 0.6:
        raw = raw & ~shape.mask | shape.value
        if rng.random() < 0.3:
            raw ^= 1 << rng.randrange(8 * level.word.bytes)
    if core.goes_on(step.level, raw):
        kept = core.unjudged(step.level, leaf=False) | level.address.bits
        return raw & ~kept | step.raw & kept
    return core.judged(step.level, raw)
