"""The promise: many addresses in one call get the answers that each would get by itself.

Whatever a table holds, in whatever order it is asked for, at every length around a block and a chunk; and beside
transitions, when each answer was true at some moment of the call.
"""

from __future__ import annotations

import random
from array import array

import pytest

import ptl
from helpers import Crew
from layouts import put_soft

BLOCK, CHUNK, REGIONS = 128, 4096, 64
"""As in core/batch.pxi."""


def one_by_one(pt: ptl.PageTable, vas: array[int]) -> list[int]:
    answers = []
    for va in vas:
        try:
            answers.append(pt.translate(va))
        except (ptl.PageFault, ptl.AddressError):
            answers.append(ptl.UNMAPPED)
    return answers


class Mixture:
    """A table with something of everything: leaves of each size, holes, software's entries; and addresses in it."""

    def __init__(self, arch: str) -> None:
        self.pt = pt = ptl.PageTable(arch)
        self.dice = random.Random(arch)
        spans = [level.span for level in pt.arch.layout]
        entries = [level.entries for level in pt.arch.layout]
        page, leaf_table = spans[0], spans[0] * entries[0]
        # As far as an address of this half, and a frame, goes.
        self.end = min(spans[-1] * entries[-1], 1 << pt.arch.va_bits - pt.arch.sign_extended - pt.arch.region_bits)
        places = {leaf_table * number for number in (1, 2, 3, 5, min(64, self.end // leaf_table - 1))}
        self.interesting: list[int] = []
        for place in sorted(place for place in places if place + leaf_table <= self.end):
            for i in range(0, entries[0], 3):
                pt.map(place + i * page, self.dice.randrange(1 << 12) * page, page, page_size=page)
            self.interesting.append(place)
        if pt.arch.layout[1].leaf is not None and 6 * leaf_table <= self.end:
            pt.map(4 * leaf_table, 0, spans[1], page_size=spans[1])
            self.interesting.append(4 * leaf_table)
        put_soft(pt, leaf_table + page, page, 7)
        self.window = leaf_table

    def addresses(self, count: int) -> array[int]:
        """Most of them near something, some anywhere, some that are not canonical."""
        dice, found = self.dice, []
        for _ in range(count):
            kind = dice.randrange(16)
            if kind == 0:
                found.append(dice.randrange(self.end))
            elif kind == 1:
                found.append(dice.randrange(1 << 64))
            else:
                found.append(dice.choice(self.interesting) + dice.randrange(self.window))
        return array("Q", found)


@pytest.fixture(params=ptl.arch.names())
def mixture(request: pytest.FixtureRequest) -> Mixture:
    return Mixture(request.param)


def test_a_batch_answers_as_one_call_each(mixture: Mixture) -> None:
    vas = mixture.addresses(2 * CHUNK + 100)
    answers = mixture.pt.translate(vas)
    assert list(answers) == one_by_one(mixture.pt, vas)
    assert ptl.UNMAPPED in answers
    assert len(set(answers)) > 50


def test_the_order_does_not_matter(mixture: Mixture) -> None:
    vas = array("Q", sorted(mixture.addresses(CHUNK)))
    assert list(mixture.pt.translate(vas)) == one_by_one(mixture.pt, vas)


@pytest.mark.parametrize(
    "count", sorted({0, *(n + d for n in (1, BLOCK, 2 * BLOCK, 3 * BLOCK, CHUNK, CHUNK + BLOCK) for d in (-1, 0, 1))})
)
def test_every_length(count: int) -> None:
    mixture = Mixture("x86_64")
    vas = mixture.addresses(count)
    assert list(mixture.pt.translate(vas)) == one_by_one(mixture.pt, vas)


def test_nothing_is_written_past_the_answers() -> None:
    mixture = Mixture("riscv_sv39")
    vas = mixture.addresses(BLOCK + 5)
    room = array("Q", [7] * (len(vas) + 1))
    mixture.pt.translate(vas, memoryview(room)[: len(vas)])
    assert list(room) == [*one_by_one(mixture.pt, vas), 7]


def test_more_regions_than_are_remembered() -> None:
    """Regions that fall on one place of what is remembered do not get each other's tables."""
    pt = ptl.PageTable("x86_64")
    region = 1 << 30
    vas = array("Q", [number * region * REGIONS // 2 + 0x5000 for number in range(8)])
    for i, va in enumerate(vas):
        pt.map(va, (i + 1) << 20)
    asked = array("Q", list(vas) * 40)
    assert list(pt.translate(asked)) == [(i + 1) << 20 for i in range(8)] * 40


def test_a_region_that_is_gone_in_the_next_call() -> None:
    """What was remembered ends with the section: no answer comes from a table of an earlier call."""
    pt = ptl.PageTable("x86_64")
    vas = array("Q", range(0, 200 * 4096, 4096))
    for turn in range(5):
        pt.map(0, turn << 30, 200 * 4096)
        assert list(pt.translate(vas)) == [(turn << 30) + va for va in vas]
        pt.unmap(0, 1 << 30)
        assert list(pt.translate(vas)) == [ptl.UNMAPPED] * 200
        ptl.default_domain.reclaim()


def test_beside_transitions_every_answer_was_true() -> None:
    """Regions are collapsed and split, and others filled and retracted, while batches go through all of them."""
    pt = ptl.PageTable("x86_64")
    page, huge = 4096, 2 << 20
    steady, coming = 0, 8 * huge
    pt.map(steady, huge, 4 * huge, page_size=page)
    vas = [va | 5 for va in range(steady, 4 * huge, 7 * page)]
    vas += [coming + number * page for number in range(0, 512, 5)]
    random.Random(3).shuffle(vas)
    asked = array("Q", vas * 3)
    right = [{va + huge} if va < coming else {va, ptl.UNMAPPED} for va in asked]
    crew = Crew()

    def read() -> None:
        out = array("Q", bytes(8 * len(asked)))
        for _ in crew.meanwhile():
            pt.translate(asked, out)
            wrong = [(hex(va), hex(pa)) for va, pa, may in zip(asked, out, right, strict=True) if pa not in may]
            assert not wrong

    def collapse() -> None:
        for turn in crew.turns(2000):
            va = steady + turn % 4 * huge
            assert pt.collapse(va)
            assert pt.split(va)

    def come_and_go() -> None:
        for _ in crew.meanwhile():
            pt.map(coming, coming, huge, page_size=page)
            pt.unmap(coming, huge)

    crew.run(collapse, beside=(read, come_and_go))
    assert pt.stats()["collapses"] == 2000
