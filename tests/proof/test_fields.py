"""For every format, every level and every value: what an entry is made of comes out again, and nothing else changes.

What is run on z3's bit vectors is the text of core/format.pxi itself (core_source.py); `prove` shows a counterexample.
"""

import pytest

from proof import (
    CORE,
    Number,
    attribute_number,
    attribute_sets,
    every_level,
    has_huge_leaf,
    has_leaf,
    has_tables,
    is_the_same,
    number,
    prove,
    z3,
)
from ptl.arch import State

pytestmark = pytest.mark.exhaustive

VA = number("va")
"""The address whose entry is read: it matters where a run of entries maps what is larger."""


def names_a_table_when_empty(level):
    """Whether an empty entry would be that of a table: of the one with nothing in it, or of one at address 0."""
    return level.own.empty_is_table or (level.number > 1 and CORE.table_make(level.own, 0) == level.own.empty)


@every_level(has_leaf)
def test_a_leaf_comes_back_with_its_address_and_is_one(level):
    pa, pa_is_good = level.leaf_pa()
    bits, bits_are_good = level.attribute_bits()
    raw = CORE.leaf_make(level.own, pa, bits)
    premises = pa_is_good + bits_are_good
    prove(CORE.leaf_address(level.own, raw, VA) == pa, *premises)
    prove(level.is_state(raw, State.HUGE), *premises)
    prove(z3.Not(CORE.is_frozen(level.own, raw)), *premises)
    prove(level.fits(raw), *premises)


@every_level(has_leaf)
def test_a_leaf_grants_what_was_asked_for_whatever_its_address(level):
    raw, fits = level.entry()
    attributes = level.own.attributes
    prove(CORE.attributes_of(level.own, raw) == CORE.attributes_of(level.own, raw & attributes.mask), *fits)
    pa, pa_is_good = level.leaf_pa()
    bits, bits_are_good = level.attribute_bits()
    prove(CORE.leaf_make(level.own, pa, bits) & attributes.mask == bits, *pa_is_good, *bits_are_good)
    for asked, granted in attribute_sets(level.arch.name).items():
        assert CORE.attributes_of(level.own, attributes.bits[asked]) == granted


@every_level(has_tables)
def test_a_table_comes_back_with_its_address_and_is_one(level):
    pa = number("pa")
    aligned = pa & (level.arch.table_bytes(level.number - 1) - 1) == 0
    premises = [aligned, pa <= (1 << level.arch.table_bits) - 1]
    raw = CORE.table_make(level.own, pa)
    prove(CORE.entry_address(level.own, raw) == pa, *premises)
    if names_a_table_when_empty(level):
        premises.append(raw != level.own.empty)  # no other table lies there (frames.pxi, F4)
    prove(level.is_state(raw, State.TABLE), *premises)
    prove(z3.Not(CORE.is_frozen(level.own, raw)), *premises)


@every_level()
def test_the_fields_of_an_entry_share_no_bit(level):
    own, soft = level.own, level.described.word.soft
    if level.own.has_leaf:
        assert own.leaf_bits & own.attributes.mask == 0
        assert own.leaf_bits & own.leaf_set == 0
        assert own.leaf_bits & own.frozen_present == 0
        assert own.attributes.mask & own.frozen_present == 0
        assert soft.type_mask & soft.offset_mask == 0
        assert (soft.type_mask | soft.offset_mask) & soft.exclusive == 0
        fields = soft.type_mask | soft.offset_mask | soft.exclusive
        assert fields & (own.present_mask | own.frozen_absent | own.busy) == 0
    if level.number > 1:
        assert level.described.address.bits & own.table_set == 0


@every_level()
def test_an_entry_is_one_thing_only(level):
    """The order in which the classifier asks decides nothing but between empty and a table of nothing."""
    raw, fits = level.entry()
    own = level.own
    is_table = raw & own.table_mask == own.table_value
    is_busy = z3.And(raw == own.busy, own.busy != 0)
    kinds = [is_table, CORE.is_leaf(own, raw), is_busy, CORE.is_invalid(own, raw)]
    prove(z3.AtMost(*(z3.BoolVal(k) if isinstance(k, bool) else k for k in kinds), 1), *fits)
    others = kinds[1:] if names_a_table_when_empty(level) else kinds
    prove(z3.Implies(CORE.is_empty(own, raw), z3.Not(z3.Or(*others))), *fits)


@every_level(has_leaf)
def test_freezing_changes_nothing_that_is_read(level):
    raw, premises = level.stored_entry()
    own = level.own
    frozen = raw | CORE.frozen_bit(own, raw)
    prove(CORE.is_frozen(own, frozen), *premises)
    prove(CORE.thawed(own, frozen) == raw, *premises)
    prove(
        CORE.classify(level.format, level.number, frozen) == CORE.classify(level.format, level.number, raw), *premises
    )
    is_leaf = [*premises, level.is_state(raw, State.HUGE)]
    prove(CORE.leaf_address(own, frozen, VA) == CORE.leaf_address(own, raw, VA), *is_leaf)
    prove(CORE.attributes_of(own, frozen) == CORE.attributes_of(own, raw), *is_leaf)
    if own.shadow.offset:
        prove(CORE.shadow_of(own, frozen) == CORE.shadow_of(own, raw), *premises)


@every_level(has_leaf)
def test_what_is_empty_stays_so_when_it_is_frozen(level):
    own = level.own
    frozen = own.empty | own.frozen_absent
    for raw in (own.empty, frozen):
        assert CORE.classify(level.format, level.number, raw) == State.EMPTY
    if level.number == 1:
        assert CORE.is_frozen(own, frozen)
        assert CORE.thawed(own, frozen) == own.empty


@every_level(has_huge_leaf)
def test_busy_is_nothing_that_hardware_follows(level):
    assert CORE.classify(level.format, level.number, level.own.busy) == State.BUSY
    raw, premises = level.stored_entry()
    prove(raw | CORE.frozen_bit(level.own, raw) != level.own.busy, *premises)


@every_level(lambda level: has_huge_leaf(level) and level.described.invalid is not None)
def test_a_leaf_that_is_being_split_still_says_what_it_maps(level):
    own = level.own
    pa, pa_is_good = level.leaf_pa()
    bits, bits_are_good = level.attribute_bits()
    leaf = CORE.leaf_make(own, pa, bits)
    for raw in (leaf, leaf | own.frozen_present):
        invalid = raw & ~own.invalid_clear | own.invalid_set
        prove(level.is_state(invalid, State.INVALID), *pa_is_good, *bits_are_good)
        prove(CORE.leaf_address(own, invalid, VA) == pa, *pa_is_good, *bits_are_good)
        prove(CORE.attributes_of(own, invalid) == CORE.attributes_of(own, leaf), *pa_is_good, *bits_are_good)


@every_level(has_leaf)
def test_new_attributes_change_neither_address_nor_kind(level):
    raw, fits = level.entry()
    own = level.own
    is_leaf = [*fits, level.is_state(raw, State.HUGE)]
    used = attribute_number("ad")
    for asked in {
        sum(1 << i for i in range(7) if (granted & ~used) >> i & 1) for granted in attribute_sets(level.arch.name)
    }:
        if asked not in attribute_sets(level.arch.name):
            continue
        new = CORE.attributes_replaced(own, raw, asked)
        prove(
            z3.And(level.is_state(new, State.HUGE), CORE.leaf_address(own, new, VA) == CORE.leaf_address(own, raw, VA)),
            *is_leaf,
        )


@every_level(has_leaf)
def test_what_software_keeps_is_never_anything_else(level):
    soft, own = level.described.word.soft, level.own
    kind, offset, only = number("type"), number("offset"), number("exclusive")
    raw = soft.base | kind & soft.type_mask | (offset & soft.offset_mask) ^ soft.flip | only & soft.exclusive
    assert isinstance(raw, Number)
    prove(level.is_state(raw, State.SOFT), raw != own.empty)
    prove(level.is_state(raw | own.frozen_absent, State.SOFT), raw != own.empty)


@every_level(lambda level: has_leaf(level) and level.number < level.arch.levels and not level.own.high_mask)
def test_neighbours_differ_by_one_step(level):
    """A table of leaves is filled by adding to the first: as good as making each, where addresses are in one piece."""
    own = level.own
    pa, pa_is_good = level.leaf_pa()
    i = number("i")
    last = pa + i * level.described.span
    premises = [*pa_is_good, i < level.described.entries, last >= pa, level.is_physical(last)]
    prove(CORE.leaf_make(own, pa, 0) + i * CORE.leaf_step(own) == CORE.leaf_make(own, last, 0), *premises)


@every_level(lambda level: bool(level.described.runs))
def test_a_leaf_becomes_part_of_a_run_and_is_the_same_leaf_again(level):
    """With its address and attributes, frozen or not; and what it is a part of can be told."""
    own, span = level.own, level.described.span
    bits, bits_are_good = level.attribute_bits()
    for run in own.run[: len(level.described.runs)]:
        first, i = number("pa"), number("i")
        pa = first + i * span
        va = VA & ~(run.bytes - 1) | i * span
        aligned = [first & (run.bytes - 1) == 0, i < run.entries, level.is_physical(first), *bits_are_good]
        leaf = CORE.leaf_make(own, pa, bits)
        part = CORE.run_marked(run, leaf)
        prove(level.is_state(part, State.HUGE), *aligned)
        prove(CORE.is_frozen(own, part | own.frozen_present), *aligned)
        for raw in (part, part | own.frozen_present):
            prove(is_the_same(CORE.run_of(own, raw), run), *aligned)
            prove(CORE.leaf_address(own, raw, va) == pa, *aligned)
            prove(CORE.attributes_of(own, raw) == CORE.attributes_of(own, leaf), *aligned)
        prove(CORE.run_unmarked(own, part, va) == leaf, *aligned)
    alone, alone_is_good = level.leaf_pa()
    raw = CORE.leaf_make(own, alone, bits)
    prove(z3.Not(CORE.may_be_run(own, raw)), *alone_is_good, *bits_are_good)
