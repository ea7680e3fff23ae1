"""For every format: no arithmetic on addresses and ranges overflows, at either end of the address space or at the hole.

Ranges are inclusive at both ends, so the last byte of all may be the last of a range. `run` below is any range that
`is_run` lets in, and so any that an operation of the core ever sees.
"""

from types import SimpleNamespace

import pytest

import ptl.arch
from proof import CORE, Level, Number, every_level, has_leaf, number, prove, read, z3

pytestmark = pytest.mark.exhaustive

WIDE = 72  # bits: enough for any sum of two addresses

each_arch = pytest.mark.parametrize("name", ptl.arch.names())
MAP = CORE.constants["MAP"]


def wide(value: Number) -> z3.BitVecRef:
    """The same number with room above."""
    return z3.ZeroExt(WIDE - 64, value.term)


def run(level: Level) -> tuple[Number, Number, Number, list]:
    """Any range of whole pages: its first address, its length, its last address."""
    va, length = number("va"), number("length")
    page = CORE.span(level.format.level[1])
    aligned = (va | length) & (page - 1) == 0
    return va, length, va + (length - 1), [length != 0, aligned, CORE.is_run(level.format, va, length)]


def first_level(name: str) -> Level:
    return Level(ptl.arch.get(name), read(name), 1)


@each_arch
def test_a_run_ends_where_it_says_and_all_of_it_is_canonical(name):
    level = first_level(name)
    va, length, last, is_run = run(level)
    x = number("x")
    prove(wide(va) + wide(length) - 1 == wide(last), *is_run)
    prove(CORE.is_canonical(level.format, x), *is_run, x >= va, x <= last)


@each_arch
def test_every_run_is_let_in(name):
    """What does not overflow, is canonical at both ends, and has no hole and no other region in between."""
    level = first_level(name)
    arch, va, length, between = level.arch, number("va"), number("length"), number("between")
    last = va + (length - 1)
    same_half = (va ^ last) >> (64 - max(arch.region_bits, 1)) == 0
    canonical = [CORE.is_canonical(level.format, x) for x in (va, last, between)]
    inside = [length != 0, between >= va, between <= last, last >= va, same_half]
    prove(CORE.is_run(level.format, va, length), *inside, *canonical)


@each_arch
def test_two_addresses_are_told_apart_by_their_indices(name):
    level = first_level(name)
    a, b = number("a"), number("b")
    canonical = [CORE.is_canonical(level.format, x) for x in (a, b)]
    offset = CORE.span(level.own) - 1
    same = [
        CORE.slot_index(level.format.level[n], a) == CORE.slot_index(level.format.level[n], b)
        for n in range(1, level.arch.levels + 1)
    ]
    prove(a == b, *canonical, *same, a & offset == b & offset)


@every_level()
def test_an_index_lies_inside_its_table(level):
    va = number("va")
    index = CORE.slot_index(level.own, va)
    prove(index < level.described.entries)
    prove((index << level.own.entry_shift) + level.described.word.bytes <= level.own.entries << level.own.entry_shift)


@every_level()
def test_the_last_address_of_a_slot_is_exact(level):
    va, _, _, is_run = run(level)
    span = level.described.span
    first = va - (va & (span - 1))
    last = CORE.slot_last(level.own, va)
    prove(z3.And(last >= va, wide(first) + (span - 1) == wide(last)), *is_run)


@every_level()
def test_the_last_address_of_a_table_is_the_last_with_the_same_way_to_it(level):
    va, _, last, is_run = run(level)
    x = number("x")
    end = CORE.table_last(level.format, level.number, va)
    above = [
        CORE.slot_index(level.format.level[n], x) == CORE.slot_index(level.format.level[n], va)
        for n in range(level.number + 1, level.arch.levels + 1)
    ]
    inside = [*is_run, x >= va, x <= last]
    prove(end >= va, *is_run)
    prove(z3.And(*above, z3.BoolVal(True)) == (x <= end), *inside)


@every_level()
def test_a_loop_over_slots_neither_wraps_nor_leaves_its_range(level):
    va, _, last, is_run = run(level)
    end = CORE.slot_last(level.own, va)
    following = end + 1  # only computed when the slot is not the last of the range
    prove(z3.And(following > va, following <= last), *is_run, end < last)


@every_level()
def test_a_range_covers_a_slot_when_it_is_all_of_it(level):
    va, _, last, is_run = run(level)
    span = level.described.span
    exact = z3.And(va & (span - 1) == 0, wide(last) - wide(va) == span - 1)
    prove(CORE.covers(level.own, va, last) == exact, *is_run, last <= CORE.slot_last(level.own, va))


@every_level(has_leaf)
def test_a_map_makes_a_leaf_where_one_fits(level):
    va, last, pa_less_va = number("va"), number("last"), number("pa_less_va")
    op = SimpleNamespace(kind=MAP, leaf_level=0, pa_less_va=pa_less_va, tree=SimpleNamespace(format=level.format))
    aligned = (va + pa_less_va) & (level.described.span - 1) == 0
    is_leaf = CORE.is_leaf_here(op, level.number, va, last)
    prove(is_leaf == z3.And(CORE.covers(level.own, va, last), aligned))


def test_a_map_goes_on_in_physical_memory_where_it_goes_on_in_virtual():
    """`pa_less_va` is taken modulo 2**64; what it is added to lies at the same distance from the start."""
    va, pa, length, at = number("va"), number("pa"), number("length"), number("at")
    prove(at + (pa - va) == pa + (at - va))
    offset = number("offset")  # at - va
    inside = [length != 0, offset <= length - 1, z3.Not(pa + (length - 1) < pa)]
    prove(z3.And(wide(pa) + wide(offset) == wide(pa + offset), pa + offset <= pa + (length - 1)), *inside)


@every_level(has_leaf)
def test_a_leaf_can_hold_every_address_between_two_that_pages_can_hold(level):
    """What `ptl_map` checks of the first and the last page is enough for leaves of every size in between."""
    tree = SimpleNamespace(format=level.format)
    first, last, pa = number("first"), number("last"), number("pa")
    inside = [CORE.holds(tree, 1, first), CORE.holds(tree, 1, last), first <= pa, pa <= last]
    prove(CORE.holds(tree, level.number, pa), *inside, pa & (level.described.span - 1) == 0)


@every_level()
def test_the_address_of_an_index_has_that_index(level):
    """Where a dump or a check goes down: from the first address under a table to that under one of its entries."""
    base, index = number("base"), number("index")
    top = level.number == level.arch.levels
    first = z3.And(
        CORE.is_canonical(level.format, base),
        base == 0 if top else base & (level.described.entries * level.described.span - 1) == 0,
    )
    va = CORE.va_of_index(level.format, level.number, base, index)
    inside = [first, index < level.described.entries]
    prove(CORE.is_canonical(level.format, va), *inside)
    prove(CORE.slot_index(level.own, va) == index, *inside)
    for upper in range(level.number + 1, level.arch.levels + 1):
        own = level.format.level[upper]
        prove(CORE.slot_index(own, va) == CORE.slot_index(own, base), *inside)
