"""QEMU's CPUs judge."""

from __future__ import annotations

import pytest
from mmu import FAULT, Mode
from qemu.machine import BOARDS, Machine
from test_unicorn import (  # noqa: F401
    test_every_bit_of_an_entry_by_itself,
    test_every_state_on_the_way_from_pages_to_a_huge_leaf_and_back,
    test_hardware_ignores_the_frozen_bit_of_a_leaf,
    test_hardware_ignores_the_frozen_bit_of_an_entry_for_a_table,
    test_hardware_sees_nothing_in_a_huge_leaf_that_is_being_split,
    test_hardware_sees_nothing_in_a_slot_that_is_frozen_empty_or_busy,
    test_hardware_sees_nothing_in_what_software_keeps,
    test_random_entries,
    test_random_mappings,
    test_the_cpu_sets_accessed_and_dirty_and_nothing_else,
    test_the_cpu_sets_them_again_after_they_were_cleared,
    test_the_cpu_takes_just_the_addresses_that_ptl_takes,
)


@pytest.fixture(params=BOARDS)
def machine(request):
    machine = Machine(request.param)
    yield machine
    machine.close()


@pytest.fixture
def region(machine):
    return 0x20_0000_0000


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
