"""How to prove something about every format: what z3 is asked, and which levels of which formats there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

z3 = pytest.importorskip("z3", reason="z3 is not installed (pip install --group proof)")

from core_source import Core, Number, Zeroed, number, read_format, truth  # noqa: E402
from core_source import is_the_same as is_the_same  # noqa: E402

import ptl.arch  # noqa: E402
from ptl.arch import FLAGS, State  # noqa: E402

EFFORT = 50_000_000
"""In z3's own measure: some ten seconds. What is proved here takes a thousandth of it; what takes more is put badly."""

CORE = Core("words.pxi", "format.pxi", "range.pxi", "table.pxi", "native.pxi")


@dataclass(frozen=True)
class Level:
    """One level of one format, as the core reads it."""

    arch: Any
    format: Zeroed
    number: int

    @property
    def own(self) -> Zeroed:
        return self.format.level[self.number]

    @property
    def described(self) -> ptl.arch.Level:
        return self.arch.level(self.number)

    def fits(self, raw: Number) -> Any:
        return raw <= (1 << 8 * self.described.word.bytes) - 1

    def is_physical(self, pa: Number) -> Any:
        return pa <= (1 << self.arch.pa_bits) - 1

    def entry(self, name: str = "raw") -> tuple[Number, list]:
        """Any entry, and that it fits its word."""
        raw = number(name)
        return raw, [self.fits(raw)]

    def is_state(self, raw: Number, *states: State) -> Any:
        """Whether the classifier says one of these."""
        found = CORE.classify(self.format, self.number, raw)
        return z3.Or(*(found == int(state) for state in states))

    def stored_entry(self, name: str = "raw") -> tuple[Number, list]:
        """Any entry that somebody may store here by hand."""
        raw = number(name)
        return raw, [self.fits(raw), CORE.is_settable(SimpleNamespace(format=self.format), self.number, raw)]

    def leaf_pa(self, name: str = "pa") -> tuple[Number, list]:
        """Any physical address that a leaf of this level may be asked to map."""
        pa = number(name)
        return pa, [pa & (self.described.span - 1) == 0, self.is_physical(pa)]

    def attribute_bits(self, name: str = "bits") -> tuple[Number, list]:
        """The bits of any set of attributes that the format can grant."""
        bits = number(name)
        values = {self.own.attributes.bits[asked] for asked in attribute_sets(self.arch.name)}
        return bits, [z3.Or(*(bits == value for value in values))]


@cache
def attribute_sets(name: str) -> dict[int, int]:
    """Every set of attributes that may be asked for, as the core numbers them, and what is granted then."""
    arch, sets = ptl.arch.get(name), {}
    for size in range(1, len(FLAGS) + 1):
        for letters in combinations(FLAGS, size):
            try:
                granted = arch.attributes("".join(letters))
            except ptl.FormatError:
                continue
            sets[attribute_number(granted)] = attribute_number(granted)
            sets[attribute_number("".join(letters))] = attribute_number(granted)
    return sets


def attribute_number(flags: str) -> int:
    return sum(1 << FLAGS.index(letter) for letter in flags)


@cache
def read(name: str) -> Zeroed:
    return read_format(CORE, ptl.arch.get(name))


def every_level(wanted: Any = lambda level: True) -> pytest.MarkDecorator:
    """Run a proof for each level of each format that is wanted."""
    levels = [
        Level(ptl.arch.get(name), read(name), level)
        for name in ptl.arch.names()
        for level in range(1, ptl.arch.get(name).levels + 1)
    ]
    return pytest.mark.parametrize(
        "level", [pytest.param(x, id=f"{x.arch.name}-{x.number}") for x in levels if wanted(x)]
    )


def has_leaf(level: Level) -> bool:
    return bool(level.own.has_leaf)


def has_huge_leaf(level: Level) -> bool:
    return level.number > 1 and has_leaf(level)


def has_tables(level: Level) -> bool:
    return level.number > 1


def prove(claim: Any, *premises: Any) -> None:
    """Fail, with a counterexample, unless the claim follows from the premises for all numbers."""
    claim = truth(claim)
    if claim is True:
        return
    solver = z3.Solver()
    solver.set("rlimit", EFFORT)
    solver.add(*(truth(premise) for premise in premises))
    assert solver.check() == z3.sat, "the premises contradict each other"
    solver.add(z3.Not(claim))
    answer = solver.check()
    if answer == z3.sat:
        model = solver.model()
        pytest.fail("not so for " + ", ".join(f"{name} = {model[name].as_long():#x}" for name in model.decls()))
    assert answer == z3.unsat, f"z3 does not know: {solver.reason_unknown()}"
