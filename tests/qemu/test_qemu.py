"""ptl's tables mean to QEMU's CPUs, too, what ptl says they mean.

Most of the spec is that of test_unicorn.py, kept by CPUs that execute each access (core.py), with fewer random cases,
for an access takes a hundred times longer here. They judge what no other does: powerpc's radix trees, arm64 with 52
bits, and the reserved bits of RISC-V. Besides, QEMU's monitor has walks of its own, and lists what x86 and RISC-V
tables map.

What these judges cannot say (`Core.unjudged` has the bits):

- Power has leaves on the top level, and frames up to bit 56 and tables up to 59, where Linux and ptl end at 53. It does
  not mind the bits of an address below the size of its leaf. It may take a leaf table for one of another page size.
- Memory types: Power fetches nothing from memory of devices.
- arm64: as for Unicorn, but with all 48 or 52 bits of an address.
- RISC-V has leaves on every level. With Svnapot it minds no reserved bit above the frame number.
- s390: as for Unicorn; and a page may lie above Linux's 53 bits of address.
- m68k: as for Unicorn.
- `info tlb` shows 50 bits of an address.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from machine import RAM
from mmu import FAULT, Mode
from test_unicorn import (  # noqa: F401
    REGION,
    REGIONS,
    by_lookup,
    has_address,
    leaves_of,
    map_at_random,
    runs_come_and_go,
    test_every_bit_of_an_entry_by_itself,
    test_every_state_on_the_way_from_pages_to_a_huge_leaf_and_back,
    test_hardware_ignores_the_frozen_bit_of_a_leaf,
    test_hardware_sees_nothing_in_a_leaf_whose_size_changes,
    test_hardware_sees_nothing_in_a_slot_that_is_empty_frozen_or_busy,
    test_hardware_sees_nothing_in_what_software_keeps,
    test_random_entries,
    test_random_mappings,
    test_the_cpu_sets_accessed_and_dirty_and_nothing_else,
    test_the_cpu_sets_them_again_after_they_were_cleared,
    test_the_cpu_takes_just_the_addresses_that_ptl_takes,
)

import judges
from qemu import listings
from qemu.core import Cpu
from qemu.emulator import JUDGE
from qemu.machine import CORES, LISTED, WITH_RUNS, Machine, missing


def machine_of(name: str, cpu: type[Cpu] | None = None) -> Machine:
    if why := missing(name):
        pytest.skip(why)
    return Machine(name, cpu)


@pytest.fixture(params=CORES)
def machine(request) -> Iterator[Machine]:
    with closing(machine_of(request.param)) as machine:
        yield machine


@pytest.fixture
def region(machine: Machine) -> int:
    """A virtual address where nothing is mapped, aligned to the largest page."""
    return REGIONS.get(machine.arch.name, REGION)


@pytest.mark.parametrize("mode", [Mode.SUPERVISOR, Mode.USER])
def test_loads_and_stores_reach_the_frame_and_the_tlb_is_believed_until_it_is_flushed(machine, region, mode):
    """What `translate` says is where bytes go; and the flushes in these tests stand for the flushes of a kernel."""
    core, pt = machine.core(mode), machine.pt
    page = machine.arch.page_sizes[0]
    old, new = (machine.frames.alloc(page) for _ in range(2))
    old_byte, new_byte = (machine.frames.view(pa, 8)[7:] for pa in (old, new))
    old_byte[0], new_byte[0] = 0x11, 0x22
    flags = "rw" + core.needs + ("u" if mode is Mode.USER else "")
    va = region + 7

    pt.map(region, old, flags=flags)
    assert core.load(va) == 0x11
    pt.map(region, new, flags=flags, replace=True)
    assert core.load(va) == 0x11
    core.flush()
    assert core.load(va) == 0x22
    assert core.store(va, 0x33)
    assert (old_byte[0], new_byte[0]) == (0x11, 0x33)
    pt.unmap(region, page)
    assert core.load(va) == 0x33
    core.flush()
    assert core.load(va) is FAULT
    assert not core.store(va, 0x44)


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_RUNS)
def test_every_state_on_the_way_from_pages_to_a_run_and_back(name):
    """Of Svnapot too, which no other judge knows."""
    with closing(machine_of(name, WITH_RUNS[name])) as machine:
        runs_come_and_go(machine, REGION)


@pytest.mark.parametrize("name", [name for name in WITH_RUNS if WITH_RUNS[name] is not CORES[name]])
def test_random_mappings_and_entries_with_runs(name):
    """Where it takes another CPU than for all else."""
    with closing(machine_of(name, WITH_RUNS[name])) as machine:
        test_random_mappings(machine, 0)
        test_random_entries(machine, REGION, 0)


# -- where the monitor says that addresses lead -----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*CORES, *LISTED}))
def test_thousands_of_mappings_lead_where_ptl_says(name):
    """Leaves of every size, all over the address space: a place in each, and the first address behind each."""
    rng = random.Random(6)
    with closing(machine_of(name)) as machine:
        count = min(1500, RAM // (machine.arch.levels * machine.arch.table_bytes(2)))
        runs = map_at_random(machine, rng, count)
        assert len(runs) > count // 2
        places = [place for va, length in runs for place in (va + rng.randrange(length), va + length)]
        needs = set(machine.cores[0].needs) if machine.cores else set()
        for va, pa, flags in by_lookup(machine.pt, (va for va in places if has_address(machine.arch, va))):
            if pa is None or needs <= set(flags):
                assert machine.physical(va) == pa, f"{va:#x}: {machine.pt.walk(va)}"
                judges.probes[JUDGE, name] += 1


# -- what the monitor lists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", LISTED)
def test_the_monitor_lists_every_leaf_as_ptl_wrote_it(name, seed):
    """Hundreds of random mappings: address, physical address, size, and every attribute; and no other."""
    rng = random.Random(seed)
    with closing(machine_of(name)) as machine:
        machine.pa_bits = min(machine.pa_bits, listings.X86_PA_BITS)
        arch, pt = machine.arch, machine.pt
        runs = map_at_random(machine, rng, 400)
        leaves = sorted(
            {leaf.va: leaf for run in runs for leaf in leaves_of(pt, *run)}.values(), key=lambda leaf: leaf.va
        )
        assert len(leaves) > 250
        monitor = machine.emulator.monitor
        if arch.name.startswith("riscv"):
            assert listings.riscv_runs(monitor("info mem"), arch) == listings.riscv_runs_expected(leaves, arch)
        else:
            assert listings.x86_leaves(monitor("info tlb"), arch) == listings.x86_leaves_expected(leaves, arch)
            if arch.levels < 5:  # QEMU 7.2 looks for the end of five levels for minutes
                assert listings.x86_runs(monitor("info mem"), arch) == listings.x86_runs_expected(leaves, arch)
        judges.probes[JUDGE, name] += len(leaves)
