"""Where software walks, the TLB that a handler fills from ptl's tables gives the verdicts that ptl predicts.

The handler is like Linux's and the core that executes it is emulated (mips_cpu.py). It follows whatever is in a slot:
so this judges the names of tables, those of nothing among them, and what the TLB makes of a leaf, whatever its size.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import product

import mmu
import pytest
from mips_cpu import REFILLED, Mips32
from mmu import FAULT, Access, Mode

import ptl
from ptl import Outcome, State

pytestmark = pytest.mark.skipif(bool(mmu.MISSING), reason=mmu.MISSING)

RAM = 16 << 20
FLAGS = [a + b + c for a, b, c in product(("r", "rw", "x", "rx", "rwx", "w"), ("", "g"), ("", "a", "d", "ad"))]


class Machine:
    """A page table in RAM of its own, and a core that a handler serves."""

    def __init__(self, name: str) -> None:
        self.pt = ptl.PageTable(name, frames=ptl.Frames(RAM))
        self.arch = self.pt.arch
        self.core: Mips32 = REFILLED[name](self.pt, Mode.USER)
        self.end = min(1 << self.arch.va_bits, 1 << 31 if self.arch.va_bits == 32 else 1 << 64)
        """Of the addresses that go through the tables and that a user has."""

    def judge(self, addresses: Iterable[int]) -> None:
        """For every access the CPU says what ptl's lookup predicts."""
        for va, access in product(addresses, Access):
            leaf = self.pt.lookup(va)
            is_valid = leaf is not None and self.pt.walk(va).steps[-1].state is State.HUGE
            expected = self.pt.translate(va) if is_valid and self.core.permits(leaf.flags, access) else FAULT
            assert self.core.translate(va, access) == expected, f"{access.name} {va:#x}: {self.pt.walk(va)}"


@pytest.fixture(params=REFILLED)
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


def edges(first: int, size: int) -> list[int]:
    """Both ends of a range, a place inside, and the neighbours of it."""
    return [first - 1, first, first + size // 3, first + size - 1, first + size]


@pytest.mark.parametrize("seed", range(4))
def test_random_mappings(machine, seed):
    """Leaves of every size with every kind of attributes, some side by side, anywhere in memory."""
    rng, pt, arch = random.Random(seed), machine.pt, machine.arch
    addresses = [0, machine.end - 1]
    for _ in range(100):
        size = rng.choice(arch.page_sizes)
        va = (rng.choice(addresses[1:]) if rng.random() < 0.3 else rng.randrange(machine.end)) & -size
        pa = rng.randrange(1 << arch.pa_bits) & -size
        try:
            pt.map(va, pa, size, rng.choice(FLAGS), page_size=size)
        except ptl.AlreadyMapped:
            continue
        addresses += [at for at in edges(va, size) if 0 <= at < machine.end]
    machine.judge(addresses)
    pt.check()


def test_every_set_of_attributes(machine):
    """On a leaf of each size; frozen too, which hardware does not see."""
    pt, arch = machine.pt, machine.arch
    for number, level in enumerate(arch.layout, 1):
        if level.leaf is None:
            continue
        pt.map(level.span, level.span, level.span, page_size=level.span)
        step = pt.walk(level.span).steps[-1]
        cell = pt.frames.view(step.table_pa + step.index * level.word.bytes, level.word.bytes)
        for flags, frozen in product(FLAGS, (0, level.word.frozen_present)):
            cell[:] = (arch.encode(level.span, flags, number) | frozen).to_bytes(level.word.bytes, arch.byte_order)
            machine.judge([level.span, 2 * level.span - 1])
        cell[:] = step.raw.to_bytes(level.word.bytes, arch.byte_order)
        pt.unmap(level.span, level.span)


def test_every_state_of_a_table_on_the_way(machine):
    """Nothing, a table, a table full of pages, half of it, a table of nothing, and nothing."""
    pt, arch = machine.pt, machine.arch
    size, page = arch.level(2).span, arch.page_sizes[0]
    where = [va for at in (0, size // 2, size - page) for va in edges(size + at, page)]
    machine.judge(where)
    assert pt.populate(size) is Outcome.DONE
    machine.judge(where)
    pt.map(size, 4 * size, size, "rwxad", page_size=page)
    machine.judge(where)
    pt.unmap(size, size // 2)
    machine.judge(where)
    pt.unmap(size + size // 2, size // 2)
    machine.judge(where)
    assert pt.retract(size) is Outcome.DONE
    machine.judge(where)
    pt.reclaim_empty(0, 4 * size)
    machine.judge(where)
    pt.check()


def test_every_state_of_a_huge_page_on_the_way():
    """Pages, a huge page, one that is being split, software's, a busy slot, and pages again."""
    machine = Machine("mips64")
    pt, arch, huge = machine.pt, machine.arch, machine.arch.level(2)
    where = edges(huge.span, huge.span)
    pt.map(huge.span, 4 * huge.span, huge.span, "rwad", page_size=arch.page_sizes[0])
    machine.judge(where)
    assert pt.collapse(huge.span) is Outcome.DONE
    machine.judge(where)
    step = pt.walk(huge.span).steps[-1]
    cell = pt.frames.view(step.table_pa + 8 * step.index, 8)
    software = arch.encode_soft(3, 0x1234, 2, exclusive=True)
    splitting = step.raw & ~huge.invalid_clear | huge.invalid_set
    for raw in (splitting, huge.busy, software, software | huge.word.frozen_absent):
        cell[:] = raw.to_bytes(8, arch.byte_order)
        assert {machine.core.translate(va, access) for va in where for access in Access} == {FAULT}
    cell[:] = step.raw.to_bytes(8, arch.byte_order)
    machine.judge(where)
    assert pt.split(huge.span) is Outcome.DONE
    machine.judge(where)
    pt.check()
