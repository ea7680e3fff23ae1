"""Map, protect and unmap: 512 pages a call each, 2 and 256 MiB of 4 KiB pages in a call, 256 MiB of 2 MiB pages.

Each round begins with the range as the operation needs it, and with no table waiting to be freed; that is not timed.
The dict maps with `dict.update`, and protects with attribute bits in its values.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, repeat
from operator import and_, or_

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from subject import ALL, HUGE, PA, PAGE, VA, dict_of, drain, frames, group, numbers

import ptl

WRITE = 1 << 1
EACH = list(range(VA, VA + HUGE, PAGE))

ONE, FEW, MANY, GIANT = (
    "512 pages, a call each",
    "512 pages in a call",
    "256 MiB of 4 KiB in a call",
    "256 MiB of 2 MiB",
)


def empty(table: ptl.PageTable, length: int) -> Callable[[], None]:
    """What leaves the range with nothing in it."""

    def setup() -> None:
        table.unmap(VA, length)
        ptl.default_domain.synchronize()

    return setup


def full(table: ptl.PageTable, length: int, page_size: int = PAGE) -> Callable[[], None]:
    """What leaves the range mapped, whatever it was."""
    before = empty(table, length)

    def setup() -> None:
        before()
        table.map(VA, PA, length, page_size=page_size)

    return setup


def rounds(length: int) -> int:
    """So many that a benchmark takes well under a second."""
    return 20 if length == ALL else 200


def sizes(kind: str) -> pytest.MarkDecorator:
    """Both lengths of a range, in groups of that name."""
    small = pytest.param(HUGE, marks=group(f"range: {kind} {FEW}"), id="few")
    large = pytest.param(ALL, marks=group(f"range: {kind} {MANY}"), id="many")
    return pytest.mark.parametrize("length", [small, large])


# -- map --------------------------------------------------------------------------------------------------------------


@group(f"range: map {ONE}")
def test_map_each(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    map_page, pas = empty_table.map, list(frames(HUGE))

    def run() -> None:
        for va, pa in zip(EACH, pas, strict=True):
            map_page(va, pa)

    benchmark.pedantic(run, setup=empty(empty_table, HUGE), rounds=200, warmup_rounds=1)
    assert empty_table.unmap(VA, HUGE) == HUGE


@group(f"range: map {ONE}")
def test_map_each_dict(benchmark: BenchmarkFixture) -> None:
    keys, pas = list(numbers(HUGE)), list(frames(HUGE))

    def run(pages: dict[int, int]) -> None:
        for key, pa in zip(keys, pas, strict=True):
            pages[key] = pa

    benchmark.pedantic(run, setup=lambda: (({},), {}), rounds=200, warmup_rounds=1)


@sizes("map")
def test_map(benchmark: BenchmarkFixture, empty_table: ptl.PageTable, length: int) -> None:
    def run() -> None:
        empty_table.map(VA, PA, length, page_size=PAGE)

    benchmark.pedantic(run, setup=empty(empty_table, length), rounds=rounds(length), warmup_rounds=1)
    assert empty_table.unmap(VA, length) == length


@sizes("map")
def test_map_dict(benchmark: BenchmarkFixture, length: int) -> None:
    def run(pages: dict[int, int]) -> None:
        pages.update(zip(numbers(length), frames(length), strict=True))

    benchmark.pedantic(run, setup=lambda: (({},), {}), rounds=rounds(length), warmup_rounds=1)


@group(f"range: map {GIANT}")
def test_map_huge(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    def run() -> None:
        empty_table.map(VA, PA, ALL)

    benchmark.pedantic(run, setup=empty(empty_table, ALL), rounds=200, warmup_rounds=1)
    assert empty_table.lookup(VA).size == HUGE


@group(f"range: map {GIANT}")
def test_map_huge_dict(benchmark: BenchmarkFixture) -> None:
    def run(pages: dict[int, int]) -> None:
        pages.update(zip(range(VA // HUGE, (VA + ALL) // HUGE), range(PA, PA + ALL, HUGE), strict=True))

    benchmark.pedantic(run, setup=lambda: (({},), {}), rounds=200, warmup_rounds=1)


# -- protect ----------------------------------------------------------------------------------------------------------


@group(f"range: protect {ONE}")
def test_protect_each(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    protect, flags = empty_table.protect, cycle(("r", "rw"))
    full(empty_table, HUGE)()

    def run() -> None:
        wanted = next(flags)
        for va in EACH:
            protect(va, PAGE, wanted)

    benchmark.pedantic(run, rounds=200, warmup_rounds=1)


@group(f"range: protect {ONE}")
def test_protect_each_dict(benchmark: BenchmarkFixture) -> None:
    pages, flags = {key: pa | WRITE for key, pa in dict_of(HUGE).items()}, cycle((0, WRITE))

    def run() -> None:
        wanted, keep = next(flags), ~WRITE
        for key in numbers(HUGE):
            pages[key] = pages[key] & keep | wanted

    benchmark.pedantic(run, rounds=200, warmup_rounds=1)


@sizes("protect")
def test_protect(benchmark: BenchmarkFixture, empty_table: ptl.PageTable, length: int) -> None:
    flags = cycle(("r", "rw"))
    full(empty_table, length)()

    changed = benchmark.pedantic(
        lambda: empty_table.protect(VA, length, next(flags)), rounds=rounds(length), warmup_rounds=1
    )
    assert changed == length


@sizes("protect")
def test_protect_dict(benchmark: BenchmarkFixture, length: int) -> None:
    pages = {key: pa | WRITE for key, pa in dict_of(length).items()}
    changes = cycle(((and_, ~WRITE), (or_, WRITE)))

    def run() -> None:
        change, bits = next(changes)
        keys = numbers(length)
        pages.update(zip(keys, map(change, map(pages.__getitem__, keys), repeat(bits)), strict=True))

    benchmark.pedantic(run, rounds=rounds(length), warmup_rounds=1)
    assert len(pages) == length // PAGE


@group(f"range: protect {GIANT}")
def test_protect_huge(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    flags = cycle(("r", "rw"))
    full(empty_table, ALL, HUGE)()
    changed = benchmark.pedantic(lambda: empty_table.protect(VA, ALL, next(flags)), rounds=200, warmup_rounds=1)
    assert changed == ALL


@group(f"range: protect {GIANT}")
def test_protect_huge_dict(benchmark: BenchmarkFixture) -> None:
    keys = range(VA // HUGE, (VA + ALL) // HUGE)
    pages = dict(zip(keys, range(PA | WRITE, PA + ALL, HUGE), strict=True))
    changes = cycle(((and_, ~WRITE), (or_, WRITE)))

    def run() -> None:
        change, bits = next(changes)
        pages.update(zip(keys, map(change, map(pages.__getitem__, keys), repeat(bits)), strict=True))

    benchmark.pedantic(run, rounds=200, warmup_rounds=1)


# -- unmap ------------------------------------------------------------------------------------------------------------


@group(f"range: unmap {ONE}")
def test_unmap_each(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    unmap = empty_table.unmap

    def run() -> None:
        for va in EACH:
            unmap(va, PAGE)

    benchmark.pedantic(run, setup=full(empty_table, HUGE), rounds=200, warmup_rounds=1)
    assert empty_table.unmap(VA, HUGE) == 0


@group(f"range: unmap {ONE}")
def test_unmap_each_dict(benchmark: BenchmarkFixture) -> None:
    def run(pages: dict[int, int]) -> None:
        for key in numbers(HUGE):
            del pages[key]

    benchmark.pedantic(run, setup=lambda: ((dict_of(HUGE),), {}), rounds=200, warmup_rounds=1)


@sizes("unmap")
def test_unmap(benchmark: BenchmarkFixture, empty_table: ptl.PageTable, length: int) -> None:
    changed = benchmark.pedantic(
        lambda: empty_table.unmap(VA, length),
        setup=full(empty_table, length),
        rounds=rounds(length),
        warmup_rounds=1,
    )
    assert changed == length


@sizes("unmap")
def test_unmap_dict(benchmark: BenchmarkFixture, length: int) -> None:
    def run(pages: dict[int, int]) -> None:
        drain(map(pages.__delitem__, numbers(length)))

    benchmark.pedantic(run, setup=lambda: ((dict_of(length),), {}), rounds=rounds(length), warmup_rounds=1)


@group(f"range: unmap {GIANT}")
def test_unmap_huge(benchmark: BenchmarkFixture, empty_table: ptl.PageTable) -> None:
    changed = benchmark.pedantic(
        lambda: empty_table.unmap(VA, ALL), setup=full(empty_table, ALL, HUGE), rounds=200, warmup_rounds=1
    )
    assert changed == ALL


@group(f"range: unmap {GIANT}")
def test_unmap_huge_dict(benchmark: BenchmarkFixture) -> None:
    keys = range(VA // HUGE, (VA + ALL) // HUGE)

    def run(pages: dict[int, int]) -> None:
        drain(map(pages.__delitem__, keys))

    benchmark.pedantic(run, setup=lambda: ((dict.fromkeys(keys, PA),), {}), rounds=200, warmup_rounds=1)
