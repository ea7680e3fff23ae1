"""The promise: a table is a mapping of leaves by their first address, with all that a dict has, in order of addresses.

What iteration finds, and beside whom, is in `test_sweep.py`; random sequences against a model in `test_model.py`.
"""

from __future__ import annotations

import copy
import pickle
import random
from array import array
from collections import ChainMap
from collections.abc import Mapping, MutableMapping

import pytest
from sortedcontainers import SortedDict

import ptl
from helpers import Crew
from layouts import PAGE, put_soft

HUGE, END = 2 << 20, 1 << 64
BAD_KEYS = [
    (-1, ptl.AddressError),
    (END, ptl.AddressError),
    (1 << 47, ptl.AddressError),
    (1.5, TypeError),
    (True, TypeError),
    ("0", TypeError),
    (None, TypeError),
]


@pytest.fixture
def pt() -> ptl.PageTable:
    """Two pages, a huge leaf, software's own entry."""
    pt = ptl.PageTable()
    pt.map(PAGE, 0x5000, 2 * PAGE)
    pt.map(HUGE, 4 * HUGE, HUGE, "r")
    put_soft(pt, 8 * PAGE, PAGE, 7)
    return pt


# -- what it is -------------------------------------------------------------------------------------------------------


def test_it_is_a_mapping(pt: ptl.PageTable) -> None:
    assert isinstance(pt, MutableMapping)
    assert issubclass(ptl.PageTable, Mapping)
    assert isinstance(pt[:], Mapping)
    match pt:
        case {0x1000: ptl.Leaf(pa=pa)}:
            assert pa == 0x5000
        case _:
            pytest.fail("not matched")


def test_it_has_all_that_a_mapping_has() -> None:
    assert not {name for name in dir(MutableMapping) if not name.startswith("_")} - set(dir(ptl.PageTable))


def test_the_same_loops_as_over_a_sorted_dict(pt: ptl.PageTable) -> None:
    same = SortedDict(pt.items())
    assert list(pt) == list(pt.keys()) == list(same) == [PAGE, 2 * PAGE, HUGE]
    assert list(pt.values()) == list(same.values())
    assert list(pt.items()) == list(same.items())
    assert list(pt[2 * PAGE : HUGE + PAGE]) == list(same.irange(2 * PAGE, HUGE))
    assert len(pt) == len(same)
    assert pt == same
    assert dict(pt) == dict(same)


def test_views_are_live_and_have_the_operations_of_sets(pt: ptl.PageTable) -> None:
    keys, items, values = pt.keys(), pt.items(), pt.values()
    assert (len(keys), len(items), len(values)) == (3, 3, 3)
    assert keys & {PAGE, 7 * PAGE} == {PAGE}
    assert (PAGE, pt[PAGE]) in items
    assert (2 * PAGE, pt[PAGE]) not in items
    assert pt[HUGE] in values
    pt.map(7 * PAGE, 0)
    assert list(keys) == [PAGE, 2 * PAGE, 7 * PAGE, HUGE]
    assert keys & {PAGE, 7 * PAGE} == {PAGE, 7 * PAGE}


def test_order_is_that_of_addresses_and_backwards_there_is_none(pt: ptl.PageTable) -> None:
    with pytest.raises(TypeError):
        reversed(pt)
    with pytest.raises(TypeError):
        reversed(pt[:])


def test_a_table_is_true_when_anything_is_mapped(pt: ptl.PageTable) -> None:
    assert pt
    pt.clear()
    assert not pt
    put_soft(pt, 0, PAGE, 7)
    assert not pt


# -- reading by key ---------------------------------------------------------------------------------------------------


def test_a_key_is_the_first_address_of_a_leaf(pt: ptl.PageTable) -> None:
    for va, leaf in pt.items():
        assert pt[va] == pt.lookup(va) == pt.get(va) == leaf
        assert va in pt


@pytest.mark.parametrize("va", [0, 3 * PAGE, 8 * PAGE, HUGE + PAGE, PAGE + 1, 1 << 40, END - PAGE])
def test_what_is_no_key(pt: ptl.PageTable, va: int) -> None:
    """A hole, software's own, the inside of a leaf: `KeyError`, which is also a page fault."""
    assert va not in pt
    assert pt.get(va) is None
    assert pt.pop(va, "nothing") == "nothing"
    for call in (lambda: pt[va], lambda: pt.pop(va), lambda: pt.__delitem__(va)):
        with pytest.raises(KeyError) as error:
            call()
        assert isinstance(error.value, ptl.PageFault)
        assert error.value.va == va
        assert hex(va) in str(error.value)
    assert len(pt) == 3


def test_the_inside_of_a_leaf_is_told_from_a_hole(pt: ptl.PageTable) -> None:
    with pytest.raises(KeyError, match="the first address of no leaf"):
        pt[HUGE + PAGE]
    with pytest.raises(KeyError, match="not mapped"):
        pt[5 * PAGE]
    assert pt.lookup(HUGE + PAGE).va == HUGE


def test_who_expects_a_key_error_gets_one(pt: ptl.PageTable) -> None:
    assert ChainMap({}, pt).get(5 * PAGE) is None
    assert ChainMap({}, pt)[PAGE] == pt[PAGE]


@pytest.mark.parametrize(("key", "error"), BAD_KEYS)
def test_a_key_that_is_no_address(pt: ptl.PageTable, key: object, error: type[Exception]) -> None:
    leaf = pt[PAGE]
    for call in (
        lambda: pt[key],
        lambda: key in pt,
        lambda: pt.get(key),
        lambda: pt.pop(key),
        lambda: pt.pop(key, None),
        lambda: pt.setdefault(key, leaf),
        lambda: pt.__setitem__(key, leaf),
        lambda: pt.__delitem__(key),
        lambda: pt[:][key],
        lambda: key in pt[:],
    ):
        with pytest.raises(error):
            call()
    assert list(pt) == [PAGE, 2 * PAGE, HUGE]


def test_keys_of_other_integer_types(pt: ptl.PageTable) -> None:
    class Address:
        def __index__(self) -> int:
            return PAGE

    assert pt[Address()] == pt[PAGE]
    assert Address() in pt
    del pt[Address()]
    assert PAGE not in pt


# -- ranges -----------------------------------------------------------------------------------------------------------


def test_a_range_is_a_view(pt: ptl.PageTable) -> None:
    view = pt[2 * PAGE : HUGE + PAGE]
    assert isinstance(view, ptl.LeafRange)
    assert list(view) == [2 * PAGE, HUGE]
    assert view[HUGE].size == PAGE
    assert view[2 * PAGE] == pt[2 * PAGE]
    assert PAGE not in view
    assert HUGE + PAGE not in view
    pt.map(5 * PAGE, 0)
    assert list(view.keys()) == [2 * PAGE, 5 * PAGE, HUGE]
    assert view == dict(view.items())
    assert view != pt[:]
    assert hex(HUGE + PAGE) in repr(view)


def test_a_range_that_cuts_a_leaf_begins_with_the_rest_of_it(pt: ptl.PageTable) -> None:
    view = pt[HUGE + PAGE : HUGE + 3 * PAGE]
    assert list(view) == [HUGE + PAGE]
    leaf = view[HUGE + PAGE]
    assert (leaf.va, leaf.pa, leaf.size, leaf.flags) == (HUGE + PAGE, 4 * HUGE + PAGE, 2 * PAGE, "r")
    assert list(view.values()) == [leaf]
    with pytest.raises(KeyError):
        view[HUGE]
    with pytest.raises(KeyError):
        view[HUGE + 2 * PAGE]


def test_ranges_without_ends(pt: ptl.PageTable) -> None:
    assert list(pt[:]) == list(pt)
    assert list(pt[2 * PAGE :]) == [2 * PAGE, HUGE]
    assert list(pt[: 2 * PAGE]) == [PAGE]
    with pytest.raises(TypeError, match="no step"):
        pt[::2]
    with pytest.raises(TypeError):
        pt[0:PAGE] = pt[PAGE]
    with pytest.raises(TypeError):
        del pt[0:PAGE]


# -- changing by key --------------------------------------------------------------------------------------------------


def test_a_page_by_its_frame_and_flags(pt: ptl.PageTable) -> None:
    pt[5 * PAGE] = 0x9000, "rx"
    assert pt[5 * PAGE] == ptl.Leaf(5 * PAGE, 0x9000, PAGE, "rx", 1, pt.arch.encode(0x9000, "rx"))
    pt[5 * PAGE] = 0xA000, "r"
    assert pt[5 * PAGE].pa == 0xA000


def test_a_leaf_may_be_put_anywhere(pt: ptl.PageTable) -> None:
    pt[6 * HUGE] = pt[HUGE]
    leaf = pt[6 * HUGE]
    assert (leaf.va, leaf.pa, leaf.size, leaf.flags, leaf.level) == (6 * HUGE, 4 * HUGE, HUGE, "r", 2)


def test_what_is_there_gives_way(pt: ptl.PageTable) -> None:
    """A page in a huge leaf, which is split; a huge leaf over pages, which are gone."""
    pt[HUGE + PAGE] = 0x9000, "rw"
    assert pt[HUGE + PAGE].pa == 0x9000
    assert pt[HUGE].size == PAGE
    assert len(pt[HUGE : 2 * HUGE]) == 512
    pt[0] = ptl.Leaf(0, 4 * HUGE, HUGE, "r", 2, 0)
    assert list(pt[:HUGE]) == [0]


def test_a_run_stays_one() -> None:
    pt = ptl.PageTable("arm64")
    pt.map(0x10000, 0x40000, 0x10000, page_size=0x10000)
    pt[0x80000] = pt[0x10000]
    assert pt[0x80000].size == 0x10000
    del pt[0x80000]
    assert list(pt) == [0x10000]


def test_a_part_of_a_leaf_is_put_in_the_largest_that_fit(pt: ptl.PageTable) -> None:
    pt[8 * HUGE + PAGE] = pt[HUGE + PAGE :][HUGE + PAGE]
    assert len(pt[8 * HUGE : 9 * HUGE]) == 511
    assert pt.translate(9 * HUGE - 1) == 5 * HUGE - 1


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0x9000, TypeError),
        ((0x9000,), TypeError),
        ((0x9000, "r", 1), TypeError),
        ([0x9000, "r"], TypeError),
        (None, TypeError),
        ((0x9000, None), TypeError),
        ((0x9001, "r"), ptl.AddressError),
        ((-PAGE, "r"), ptl.AddressError),
        ((1 << 60, "r"), ptl.AddressError),
        ((1.5, "r"), TypeError),
        ((0x9000, "q"), ptl.FormatError),
        (ptl.Leaf(0, 0, HUGE, "r", 2, 0), ptl.AddressError),
    ],
)
def test_a_value_that_is_no_leaf(pt: ptl.PageTable, value: object, error: type[Exception]) -> None:
    before = pt.dump()
    for call in (lambda: pt.__setitem__(5 * PAGE, value), lambda: pt.setdefault(5 * PAGE, value)):
        with pytest.raises(error):
            call()
    assert pt.dump() == before


def test_del_and_pop_and_popitem(pt: ptl.PageTable) -> None:
    leaves = list(pt.values())
    del pt[PAGE]
    assert pt.pop(HUGE) == leaves[2]
    assert pt.popitem() == (2 * PAGE, leaves[1])
    with pytest.raises(KeyError, match="empty"):
        pt.popitem()
    with pytest.raises(TypeError):
        pt.pop(PAGE, 1, 2)
    assert pt.lookup(8 * PAGE) is None
    with pytest.raises(ptl.AlreadyMapped):
        pt.map(8 * PAGE, 0)  # software's own is no leaf, and stays
    pt.check()


@pytest.mark.parametrize("name", ["x86_64", "i386", "ia64", "riscv_sv39", "tiny", "s390"])
def test_clear_leaves_nothing(name: str) -> None:
    pt = ptl.PageTable(name)
    page, part = pt.arch.level(1).span, 1 << pt.arch.va_bits - (pt.arch.region_bits or pt.arch.sign_extended)
    for number in range((1 << pt.arch.va_bits) // part):
        for va in (number * part, (number + 1) * part - page):
            pt.map(pt.arch.canonical(va), 0, page)
            put_soft(pt, pt.arch.canonical(va + (page if va == number * part else -page)), page, 7)
    pt.clear()
    assert not pt
    assert sum(gap.length for gap in pt.gaps()) == 1 << pt.arch.va_bits
    assert pt.check() == 1


def test_setdefault(pt: ptl.PageTable) -> None:
    there = pt[PAGE]
    assert pt.setdefault(PAGE, (0x9000, "r")) == there
    assert pt.setdefault(5 * PAGE, (0x9000, "r")) == pt[5 * PAGE]
    assert pt[5 * PAGE].pa == 0x9000
    with pytest.raises(ptl.PageFault):
        pt.setdefault(HUGE + PAGE, (0x9000, "r"))  # inside a leaf
    with pytest.raises(ptl.PageFault):
        pt.setdefault(8 * PAGE, (0x9000, "r"))  # software's


def test_update(pt: ptl.PageTable) -> None:
    copied = ptl.PageTable()
    copied.update(pt)
    assert copied == pt
    copied.update({5 * PAGE: (0x9000, "r")})
    copied.update([(6 * PAGE, copied[5 * PAGE])])
    assert list(copied) == [PAGE, 2 * PAGE, 5 * PAGE, 6 * PAGE, HUGE]
    copied.update()
    with pytest.raises(TypeError):
        copied.update(a=1)


def test_another_architecture_takes_what_it_can(pt: ptl.PageTable) -> None:
    """Sizes that it does not have become the largest that fit."""
    other = ptl.PageTable("i386")
    other.update(pt)
    assert other.translate(HUGE + 5) == 4 * HUGE + 5
    assert len(other[HUGE : 2 * HUGE]) == 512


# -- equal, and the same ----------------------------------------------------------------------------------------------


def test_tables_are_equal_when_they_hold_the_same(pt: ptl.PageTable) -> None:
    same, other = ptl.PageTable(), ptl.PageTable()
    same.update(pt)
    assert pt == same == dict(pt.items())
    assert pt != other
    assert pt == pt
    other.update(same)
    other.protect(PAGE, PAGE, "r")
    assert pt != other
    assert pt != 5
    assert pt != list(pt)


def test_a_table_has_no_hash(pt: ptl.PageTable) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(pt)
    with pytest.raises(TypeError, match="unhashable"):
        hash(pt[:])


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [ptl.Leaf(PAGE, END - PAGE, PAGE, "rw", 1, END - 1), ptl.Run(PAGE, 0, 3 * PAGE, "r"), ptl.Gap(0, END - PAGE)],
    ids=lambda record: type(record).__name__,
)
def test_records(record: object) -> None:
    assert copy.copy(record) == pickle.loads(pickle.dumps(record)) == record
    assert hash(copy.copy(record)) == hash(record)
    with pytest.raises(AttributeError):
        record.va = 5
    assert "va=0x" in repr(record)


@pytest.mark.parametrize("field", ["va", "pa", "size", "level", "raw"])
@pytest.mark.parametrize("value", [-1, END, 1.5, True, None])
def test_a_leaf_by_hand(field: str, value: object) -> None:
    fields = {"va": 0, "pa": 0, "size": PAGE, "flags": "r", "level": 1, "raw": 0}
    with pytest.raises((ValueError, TypeError)):
        ptl.Leaf(**fields | {field: value})


# -- columns ----------------------------------------------------------------------------------------------------------


def columns_of(pt: ptl.PageTable) -> list[tuple[object, ...]]:
    bits = {letter: 1 << bit for bit, letter in enumerate("rwxugad")}
    return [
        (leaf.va, leaf.pa, leaf.size, sum(bits[letter] for letter in leaf.flags), leaf.level, leaf.raw)
        for leaf in pt.values()
    ]


def rows(leaves: ptl.Leaves) -> list[tuple[object, ...]]:
    return list(zip(leaves.va, leaves.pa, leaves.size, leaves.flags, leaves.level, leaves.raw, strict=True))


def test_columns_have_the_fields_of_leaves(pt: ptl.PageTable) -> None:
    found = pt.export()
    assert rows(found) == columns_of(pt)
    assert len(found) == 3
    assert [column.typecode for column in (found.va, found.flags, found.level, found.raw)] == ["Q", "B", "B", "Q"]


def test_columns_go_where_they_are_told(pt: ptl.PageTable) -> None:
    room = [array(kind, [7] * 5) for kind in "QQQBBQ"]
    found = pt.export(out=room)
    assert rows(found) == columns_of(pt)
    assert [list(column[3:]) for column in room] == [[7, 7]] * 6
    assert found.va.obj is room[0]
    again = pt.export(2 * PAGE, out=ptl.Leaves(*room))
    assert rows(again) == columns_of(pt)[1:]


def test_as_many_as_there_is_room_for(pt: ptl.PageTable) -> None:
    room = [array(kind, [7] * 2) for kind in "QQQBBQ"]
    assert rows(pt.export(out=room)) == columns_of(pt)[:2]
    assert rows(pt.export(room[0][-1] + room[2][-1], out=room)) == columns_of(pt)[2:]
    assert len(pt.export(out=[array(kind) for kind in "QQQBBQ"])) == 0


def test_columns_that_nobody_wants(pt: ptl.PageTable) -> None:
    pt.map(1 << 30, 0, 10000 * PAGE, page_size=PAGE)
    va, level = array("Q", bytes(8 * 20000)), array("B", bytes(20000))
    found = pt.export(out=(va, None, None, None, level, None))
    assert list(found.va) == list(pt)
    assert list(found.level) == [leaf.level for leaf in pt.values()]
    assert found.pa is found.raw is None
    only = pt.export(out=(None, None, None, None, level, None))
    assert list(only.level) == list(found.level)
    assert len(only) == len(found) == len(pt)


def test_numpy_and_anything_else_with_a_buffer(pt: ptl.PageTable) -> None:
    room = [bytearray(8 * 4), memoryview(bytearray(4))]
    found = pt.export(out=(memoryview(room[0]).cast("Q"), None, None, room[1], None, None))
    assert list(found.va) == list(pt)
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    found = pt.export()
    assert numpy.asarray(found.pa).tolist() == [leaf.pa for leaf in pt.values()]
    columns = [numpy.zeros(3, numpy.uint64) for _ in range(3)]
    pt.export(out=(*columns, None, None, None))
    assert columns[0].tolist() == list(pt)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        ([], ValueError),
        ([None] * 6, ValueError),
        ([array("Q", [0])] * 5, ValueError),
        ([array("Q", [0])] * 6, TypeError),
        ([array("B", [0]), None, None, None, None, None], TypeError),
        ([array("Q", [0]), array("Q", [0, 0]), None, None, None, None], ValueError),
        ([array("Q", [0]), None, None, array("B", [0, 0]), None, None], ValueError),
        ([b"12345678", None, None, None, None, None], (TypeError, BufferError)),
        ([None, None, None, b"1", None, None], (TypeError, BufferError)),
        ([None, None, None, array("H", [0]), None, None], TypeError),
        ([5, None, None, None, None, None], TypeError),
        (5, TypeError),
    ],
)
def test_columns_that_are_none(pt: ptl.PageTable, out: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        pt.export(out=out)
    if isinstance(out, list):
        for column in out:
            if isinstance(column, array):
                column.append(1)  # nobody holds on to it
                column.pop()


# -- beside each other ------------------------------------------------------------------------------------------------


def test_of_several_who_pop_a_page_one_gets_it() -> None:
    pt = ptl.PageTable()
    crew, turns = Crew(), 300
    got: list[list[int]] = [[], []]

    def take(mine: list[int]) -> None:
        for turn in crew.turns(turns * 16):
            leaf = pt.pop(turn % 16 * PAGE, None)
            if leaf is not None:
                mine.append(leaf.pa)

    given = 0

    def give() -> None:
        nonlocal given
        dice = random.Random(1)
        for turn in crew.turns(turns * 16):
            va = dice.randrange(16) * PAGE
            try:
                pt.map(va, turn * PAGE)
            except ptl.AlreadyMapped:
                continue
            given += 1

    crew.run(lambda: take(got[0]), lambda: take(got[1]), give)
    left = [leaf.pa for leaf in pt.values()]
    everything = got[0] + got[1] + left
    assert len(set(everything)) == len(everything) == given


def test_of_several_who_set_a_default_all_get_the_same() -> None:
    pt = ptl.PageTable()
    crew = Crew()
    got: dict[int, list[int]] = {0: [], 1: []}

    def ask(me: int) -> None:
        for turn in crew.turns(400):
            got[me].append(pt.setdefault(turn * PAGE, (me * PAGE, "r")).pa)

    crew.run(lambda: ask(0), lambda: ask(1))
    assert got[0] == got[1] == [leaf.pa for leaf in pt.values()]
