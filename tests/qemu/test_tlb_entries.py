"""What a kernel's handler puts into a TLB from ptl's entries means to the CPU what ptl says that they mean.

The architectures whose tables software walks. Before each access the judge does what Linux's handler does (mips.py): it
walks to the entry, and moves that into the TLB, as it is but for a shift or a mask (xtensa.py: it walks to the table,
and the CPU reads the entry). So a right that the CPU has to trap for software's sake (the first write, often the first
access) must be missing from the very bits; and what is software's must not get there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pytest
from mmu import FAULT, Access, Mode
from test_unicorn import all_flags, by_lookup, by_walk, judge, verdicts

from ptl import State
from qemu.machine import REFILLED, Machine, missing


@pytest.fixture(params=REFILLED)
def machine(request) -> Iterator[Machine]:
    if why := missing(request.param):
        pytest.skip(why)
    with closing(Machine(request.param)) as machine:
        yield machine


def places(machine: Machine, rng: random.Random, size: int = 0) -> Iterator[int]:
    """Addresses of leaves of that size, or of pages, all over what the TLB translates, without end."""
    arch = machine.arch
    size = size or arch.page_sizes[0]
    while True:
        va = arch.canonical(rng.randrange(1 << arch.va_bits) & -size)
        if machine.cores[0].translates(va):
            yield va


def test_every_set_of_attributes_at_random_places(machine):
    """Leaves of every size: their ends, a place inside, and the neighbour, mapped or not, that shares a TLB entry."""
    rng = random.Random(1)
    arch, pt = machine.arch, machine.pt
    flags = all_flags(arch)
    for size in arch.page_sizes:
        mapped = list(islice(places(machine, rng, size), 100))
        for n, va in enumerate(mapped):
            for page, attributes in ((va, flags[n % len(flags)]), (va ^ size, rng.choice(flags))):
                if page == va or rng.random() < 0.5:
                    pa = rng.randrange(1 << machine.pa_bits) & -size
                    pt.map(page, pa, size, attributes, page_size=size, replace=True)
        inside = (at for va in mapped for at in (va, va + rng.randrange(size), va + size - 1, (va ^ size) + 5))
        judge(machine, by_lookup(pt, inside))
    pt.check()


def test_each_bit_of_the_frame_number(machine):
    arch, pt = machine.arch, machine.pt
    for size in arch.page_sizes:
        va = next(places(machine, random.Random(2), size))
        for bit in range(size.bit_length() - 1, machine.pa_bits):
            pt.map(va, 1 << bit, size, "rwad", page_size=size, replace=True)
            judge(machine, by_lookup(pt, [va + 5]))
        pt.unmap(va, size)


def test_loads_and_stores_reach_the_frame(machine):
    core, pt = machine.core(Mode.SUPERVISOR), machine.pt
    if not core.shares_ram:
        pytest.skip("the RAM of this machine is its own")
    va = next(places(machine, random.Random(3)))
    byte = machine.frames.view(pa := machine.frames.alloc(machine.arch.page_sizes[0]), 8)[7:]
    byte[0] = 0x11
    pt.map(va, pa, flags="rwad")
    assert core.load(va + 7) == 0x11
    assert core.store(va + 7, 0x22)
    assert byte[0] == 0x22
    pt.unmap(va, machine.arch.page_sizes[0])
    assert core.load(va + 7) is FAULT


@pytest.mark.parametrize("machine", [name for name, core in REFILLED.items() if core.run_sizes], indirect=True)
def test_any_entry_of_a_run_is_all_of_its_page(machine):
    """The one that the TLB was filled with lets through every address of the page, to its frame, and none beside it."""
    rng = random.Random(8)
    core, pt = machine.core(Mode.USER), machine.pt
    assert set(core.run_sizes) <= set(machine.arch.run_sizes)
    for size in core.run_sizes:
        for va in islice((va for va in places(machine, rng, size) if va >> 23), 10):
            pa = rng.randrange(1 << machine.pa_bits) & -size
            pt.map(va, pa, size, "rwuad", page_size=size, replace=True)
            last = va + size - 1
            for filled, used in ((va, last), (last, va), rng.choices(range(va, last), k=2)):
                assert core.translate_from(filled, used, Access.READ) == pt.translate(used) == pa + used - va
            assert core.translate_from(va, va ^ size, Access.READ) is FAULT
            assert pt.split(va + size // 2)
            assert core.translate_from(va, last, Access.READ) is FAULT
            pt.unmap(va, size)


@pytest.mark.parametrize("machine", [name for name, core in REFILLED.items() if core.traps_first_access], indirect=True)
def test_a_first_access_traps_and_what_software_then_writes_does_not(machine):
    core, arch, pt = machine.core(Mode.SUPERVISOR), machine.arch, machine.pt
    va, pa = next(places(machine, random.Random(4))), 5 * arch.page_sizes[0]
    pt.map(va, pa, flags="rw")
    assert core.translate(va, Access.READ) is FAULT
    pt.compare_exchange(va, pt.lookup(va).raw, arch.encode(pa, "rwa"))
    assert core.translate(va, Access.READ) == pa
    assert pt.test_and_clear(va, "a")
    assert core.translate(va, Access.READ) is FAULT


def test_a_first_write_traps_and_what_software_then_writes_does_not(machine):
    core, arch, pt = machine.core(Mode.SUPERVISOR), machine.arch, machine.pt
    va, pa = next(places(machine, random.Random(4))), 5 * arch.page_sizes[0]
    pt.map(va, pa, flags="rwa")
    assert core.translate(va, Access.READ) == pa
    assert core.translate(va, Access.WRITE) is FAULT
    pt.compare_exchange(va, pt.lookup(va).raw, arch.encode(pa, "rwad"))
    assert core.translate(va, Access.WRITE) == pa
    assert pt.test_and_clear(va, "d")
    assert core.translate(va, Access.WRITE) is FAULT


def test_the_frozen_bit_does_not_matter(machine):
    arch, pt = machine.arch, machine.pt
    va = next(places(machine, random.Random(5)))
    pt.map(va, 0)
    step = pt.walk(va).steps[-1]
    for flags in all_flags(arch):
        raw = arch.encode(arch.page_sizes[0], flags)
        machine.poke(step, raw)
        thawed = verdicts(machine, [va + 5])
        machine.poke(step, raw | arch.level(1).word.frozen_present)
        assert pt.walk(va).steps[-1].state is State.HUGE
        assert verdicts(machine, [va + 5]) == thawed, flags
    machine.poke(step, step.raw)


def test_the_cpu_sees_nothing_in_what_is_empty_or_software_s(machine):
    """Every type, every bit of the offset, exclusive or not, frozen or not."""
    arch, pt = machine.arch, machine.pt
    va = next(places(machine, random.Random(6)))
    pt.map(va, 0, flags="rwad")
    step = pt.walk(va).steps[-1]
    kept = [arch.encode_soft(kind, 1) for kind in range(arch.soft_types)]
    kept += [arch.encode_soft(0, 1 << n) for n in range(arch.soft_offsets.bit_length() - 1)]
    kept += [arch.encode_soft(arch.soft_types - 1, arch.soft_offsets - 1, exclusive=True), arch.level(1).empty]
    for raw in kept:
        for frozen in (0, arch.level(1).word.frozen_absent):
            machine.poke(step, raw | frozen)
            assert pt.walk(va).steps[-1].state in (State.SOFT, State.EMPTY)
            assert set(verdicts(machine, [va])) == {FAULT}
            judge(machine, by_walk(pt, [va]))
    machine.poke(step, step.raw)
    pt.unmap(va, arch.page_sizes[0])
    assert pt.retract(va)
    assert set(verdicts(machine, [va])) == {FAULT}  # the slot above names a table of nothing, or no table
    pt.check()
