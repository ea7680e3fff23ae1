"""The promise: other people's Cython can cimport a PageTable, and walk and change it without the GIL.

A module like theirs is compiled here against the `ptl` that these tests run on, in place or installed. It calls every
function that `_core.pxd` declares. What each answers and does must be what the Python method of the same name answers
and does to a table alike.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import threading
from array import array
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import ptl
from helpers import python
from ptl import Outcome

PACKAGE = Path(ptl.__file__).parent
ARCHITECTURES = (
    *("x86_64", "i386", "i386_pae", "riscv_sv39", "arm64_4k_va52", "powerpc_radix_4k"),
    *("s390", "sparc32", "mips64", "tiny"),
)
RAISED: dict[type[Exception], int] = {
    ptl.PageFault: 2,
    ptl.OutOfFrames: 100,
    ptl.AlreadyMapped: 101,
    RuntimeError: 102,
}
"""The results in place of which a method raises."""
BAD_ARGUMENT = 105
"""The result in place of which a method would have raised before it asked the core."""

PYX = """
from libc.stdint cimport uint32_t, uint64_t
from ptl._core cimport (
    PageTable, Tree, ptl_collapse, ptl_compare_exchange, ptl_lookup, ptl_map, ptl_pin, ptl_populate, ptl_protect,
    ptl_retract, ptl_split, ptl_translate, ptl_translate_many, ptl_unmap, ptl_unpin, ptl_walk,
)

def pin(PageTable table):
    cdef int result
    with nogil:
        result = ptl_pin(table.tree)
    return result

def unpin(PageTable table):
    with nogil:
        ptl_unpin(table.tree)

def walk(PageTable table, uint64_t va):
    cdef Tree *tree = table.tree
    cdef uint64_t pa
    with nogil:
        ptl_pin(tree)
        pa = ptl_walk(tree, va)
        ptl_unpin(tree)
    return pa

def translate(PageTable table, uint64_t va):
    cdef uint64_t pa
    with nogil:
        pa = ptl_translate(table.tree, va)
    return pa

def translate_many(PageTable table, uint64_t[::1] vas, uint64_t[::1] out):
    cdef uint64_t done
    with nogil:
        done = ptl_translate_many(table.tree, &vas[0], &out[0], vas.shape[0])
    return done

def lookup(PageTable table, uint64_t va):
    cdef uint64_t raw = 0
    cdef uint32_t level
    with nogil:
        level = ptl_lookup(table.tree, va, &raw)
    return level, raw

def compare_exchange(PageTable table, uint64_t va, uint32_t level, uint64_t expected, uint64_t desired):
    cdef int result
    with nogil:
        result = ptl_compare_exchange(table.tree, va, level, expected, desired)
    return result

def map(PageTable table, uint64_t va, uint64_t pa, uint64_t length, uint32_t attributes):
    cdef int result
    with nogil:
        result = ptl_map(table.tree, va, pa, length, attributes)
    return result

def unmap(PageTable table, uint64_t va, uint64_t length):
    cdef int result
    with nogil:
        result = ptl_unmap(table.tree, va, length)
    return result

def protect(PageTable table, uint64_t va, uint64_t length, uint32_t attributes):
    cdef int result
    with nogil:
        result = ptl_protect(table.tree, va, length, attributes)
    return result

def populate(PageTable table, uint64_t va):
    cdef int result
    with nogil:
        result = ptl_populate(table.tree, va)
    return result

def retract(PageTable table, uint64_t va):
    cdef int result
    with nogil:
        result = ptl_retract(table.tree, va)
    return result

def collapse(PageTable table, uint64_t va, uint64_t pa):
    cdef int result
    with nogil:
        result = ptl_collapse(table.tree, va, pa)
    return result

def split(PageTable table, uint64_t va):
    cdef int result
    with nogil:
        result = ptl_split(table.tree, va)
    return result

def walk_on(PageTable table, uint64_t va, uint64_t pa, uint64_t[::1] board, uint64_t most):
    # Walks until board[0], but no more than `most` times. board[1]: how often; board[2]: how many answers were not pa.
    cdef Tree *tree = table.tree
    cdef volatile uint64_t *shared = &board[0]
    with nogil:
        while not shared[0] and shared[1] < most:
            ptl_pin(tree)
            shared[2] += ptl_walk(tree, va) != pa
            ptl_unpin(tree)
            shared[2] += ptl_translate(tree, va) != pa
            shared[1] += 1
"""

SETUP = """
import os
import sys
from glob import glob
from Cython.Build import cythonize
from setuptools import Extension, setup

_, folder, include = sys.argv
os.chdir(folder)
modules = [Extension(path[:-4], [path], extra_compile_args=["-O1"]) for path in glob("*.pyx")]
setup(
    name="theirs",
    ext_modules=cythonize(modules, include_path=[include], compiler_directives={"freethreading_compatible": True}),
    script_args=["--quiet", "build_ext", "--inplace"],
)
"""


def in_readme() -> str:
    """The Cython of the README."""
    readme = Path(__file__).parent.parent / "README.md"
    return "".join(re.findall(r"^```cython\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules `theirs`, made of `PYX`, and `readme`."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C compiler: there is no {compiler}")
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "theirs.pyx").write_text(PYX)
    (folder / "readme.pyx").write_text(in_readme())
    python("-c", SETUP, str(folder), str(PACKAGE.parent))
    return folder


def load(folder: Path, name: str) -> Any:
    """Import a built module."""
    spec = spec_from_file_location(name, folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def theirs(built: Path) -> Any:
    """The module made of `PYX`."""
    return load(built, "theirs")


def letters(flags: str) -> int:
    """Attributes as the C level takes them."""
    return sum(1 << "rwxugad".index(letter) for letter in flags)


def picture(table: ptl.PageTable) -> str:
    """All that a table holds, but not where its own tables are."""
    return re.sub(r"( at| root) 0x[0-9a-f]+", "", table.dump())


class Twins:
    """Two tables alike: what is done to one in C is done to the other in Python, and must come to the same."""

    def __init__(self, theirs: Any, arch: str, size: int = 64 << 20) -> None:
        self.theirs = theirs
        frame_bytes = 32 if arch == "tiny" else 4096
        self.c, self.py = (ptl.PageTable(arch, frames=ptl.Frames(size, frame_bytes=frame_bytes)) for _ in range(2))
        self.page, self.huge = (self.c.arch.level(level).span for level in (1, 2))

    def _both(self, in_python: Callable[[], object], in_c: int) -> Outcome | int:
        """The common result: what Python returned, or the number of what it raised."""
        try:
            done = in_python()
            if not isinstance(done, Outcome):
                done = Outcome.ALREADY if done is False else Outcome.DONE
            assert Outcome(in_c) is done
            result: Outcome | int = done
        except tuple(RAISED) as error:
            result = next(number for kind, number in RAISED.items() if isinstance(error, kind))
            assert in_c == result
        assert picture(self.c) == picture(self.py)
        return result

    def do(self, what: str, va: int, *arguments: int) -> Outcome | int:
        """Call a method that takes the same in both."""
        call_c, call_py = getattr(self.theirs, what), getattr(self.py, what)
        return self._both(lambda: call_py(va, *arguments), call_c(self.c, va, *arguments))

    def collapse(self, va: int, pa: int | None = None) -> Outcome | int:
        in_c = self.theirs.collapse(self.c, va, ptl.UNMAPPED if pa is None else pa)
        return self._both(lambda: self.py.collapse(va, pa), in_c)

    def compare_exchange(self, va: int, level: int, old: int, new: int) -> Outcome | int:
        in_c = self.theirs.compare_exchange(self.c, va, level, old, new)
        return self._both(lambda: self.py.compare_exchange(va, old, new), in_c)

    def map(self, va: int, pa: int, length: int, flags: str = "rw") -> Outcome | int:
        in_c = self.theirs.map(self.c, va, pa, length, letters(flags))
        return self._both(lambda: self.py.map(va, pa, length, flags), in_c)

    def protect(self, va: int, length: int, flags: str) -> Outcome | int:
        in_c = self.theirs.protect(self.c, va, length, letters(flags))
        return self._both(lambda: self.py.protect(va, length, flags), in_c)

    def read(self, *addresses: int) -> None:
        """All four ways to read in C agree with those in Python, and both tables with each other."""
        many = array("Q", bytes(8 * len(addresses)))
        assert self.theirs.translate_many(self.c, array("Q", addresses), many) == len(addresses)
        assert many == self.py.translate(array("Q", addresses))
        for va in addresses:
            leaf = self.c.lookup(va)
            pa = ptl.UNMAPPED if leaf is None else leaf.pa + va - leaf.va
            assert self.theirs.walk(self.c, va) == self.theirs.translate(self.c, va) == pa
            assert self.theirs.lookup(self.c, va) == ((0, 0) if leaf is None else (leaf.level, leaf.raw))
            assert self.py.lookup(va) == leaf


@pytest.fixture(params=ARCHITECTURES)
def twins(request: pytest.FixtureRequest, theirs: Any) -> Iterator[Twins]:
    twins = Twins(theirs, request.param)
    yield twins
    twins.c.check()
    twins.py.check()


def test_every_declared_function_is_called_here() -> None:
    declared = re.findall(r"^cdef .*\b(ptl_\w+)\(", (PACKAGE / "_core.pxd").read_text(), re.MULTILINE)
    assert declared
    assert [name for name in declared if f"{name}(" not in PYX] == []


def test_reads(twins: Twins) -> None:
    page, huge = twins.page, twins.huge
    twins.map(huge, 8 * huge, page)
    twins.map(2 * huge, 4 * huge, huge)
    twins.read(0, huge - 1, huge, huge + page - 1, huge + page, 2 * huge, 3 * huge - 1, 3 * huge)
    assert twins.c.lookup(2 * huge).level == 2


@pytest.mark.parametrize("flags", ["r", "rw", "rx", "rwxu", "rwad"])
def test_attributes(twins: Twins, flags: str) -> None:
    twins.map(0, twins.huge, twins.page, flags)
    twins.map(twins.huge, twins.huge, twins.huge, flags)
    twins.read(0, twins.huge)
    assert set(twins.c.lookup(0).flags) >= set(flags)


def test_populate_and_retract(twins: Twins) -> None:
    va = twins.huge
    assert twins.do("retract", va) is Outcome.NO_TABLE
    assert twins.do("populate", va) is Outcome.DONE
    assert twins.do("populate", va) is Outcome.ALREADY
    assert twins.do("retract", va) is Outcome.DONE
    twins.map(va, va, twins.page)
    assert twins.do("retract", va) is Outcome.NOT_EMPTY
    twins.map(2 * va, va, twins.huge)
    assert twins.do("populate", 2 * va) is Outcome.IS_HUGE
    assert twins.do("retract", 2 * va) is Outcome.IS_HUGE


def test_map_and_unmap(twins: Twins) -> None:
    page, huge = twins.page, twins.huge
    assert twins.map(huge, 4 * huge, page) is Outcome.DONE
    assert twins.map(huge, 4 * huge, page) == RAISED[ptl.AlreadyMapped]
    assert twins.map(huge - page, 0, 2 * page) == RAISED[ptl.AlreadyMapped]
    assert twins.map(huge - page, 0, page) is Outcome.DONE
    assert twins.map(huge + page, 4 * huge + page, 2 * huge - page) is Outcome.DONE
    twins.read(*range(huge - page, huge + 3 * page, page), 2 * huge, 3 * huge)
    assert twins.do("unmap", huge, page) is Outcome.DONE
    assert twins.do("unmap", huge, page) is Outcome.DONE
    assert twins.do("unmap", 2 * huge + page, page) is Outcome.DONE
    twins.read(huge, 2 * huge, 2 * huge + page, 2 * huge + 2 * page)
    assert twins.do("unmap", 0, 3 * huge) is Outcome.DONE
    assert twins.c.lookup(2 * huge) is None


def test_protect(twins: Twins) -> None:
    page, huge = twins.page, twins.huge
    twins.map(huge, 4 * huge, 3 * page)
    twins.map(2 * huge, 6 * huge, huge)
    assert twins.protect(huge + page, page, "r") is Outcome.DONE
    assert twins.protect(huge, huge, "rx") is Outcome.DONE
    assert twins.protect(2 * huge + page, page, "r") is Outcome.DONE
    assert twins.protect(0, page, "r") is Outcome.DONE
    twins.read(*range(huge, huge + 4 * page, page), 2 * huge, 2 * huge + page, 2 * huge + 2 * page)
    assert twins.c.lookup(2 * huge).level == 1


def test_map_without_memory(theirs: Any) -> None:
    twins = Twins(theirs, "x86_64", size=3 * 4096)
    assert twins.map(0, 0, twins.page) == RAISED[ptl.OutOfFrames]
    assert twins.do("populate", 0) == RAISED[ptl.OutOfFrames]


def test_bad_arguments_change_nothing(theirs: Any) -> None:
    twins = Twins(theirs, "x86_64")
    page, huge, hole = twins.page, twins.huge, 1 << 50
    twins.map(0, huge, page)
    before, old = twins.c.dump(), twins.c.lookup(0).raw
    for length in 0, page // 2, 3 * page // 2:
        assert twins.theirs.map(twins.c, 5 * page, 9 * page, length, 3) == BAD_ARGUMENT
        assert twins.theirs.unmap(twins.c, 0, length) == BAD_ARGUMENT
        assert twins.theirs.protect(twins.c, 0, length, 1) == BAD_ARGUMENT
    assert twins.theirs.map(twins.c, 5 * page, 9 * page + 1, page, 3) == BAD_ARGUMENT
    assert twins.theirs.map(twins.c, 5 * page, 1 << 52, page, 3) == BAD_ARGUMENT
    assert twins.theirs.map(twins.c, hole, 0, page, 3) == BAD_ARGUMENT
    assert twins.theirs.translate(twins.c, hole) == twins.theirs.walk(twins.c, hole) == ptl.UNMAPPED
    assert twins.theirs.collapse(twins.c, 0, page) == BAD_ARGUMENT
    assert (
        twins.theirs.compare_exchange(twins.c, 0, 1, old, old | twins.c.arch.level(1).word.frozen_present)
        == BAD_ARGUMENT
    )
    for call in "populate", "retract", "split":
        assert getattr(twins.theirs, call)(twins.c, hole) == BAD_ARGUMENT
    assert twins.c.dump() == before


def test_compare_exchange(twins: Twins) -> None:
    page, huge = twins.page, twins.huge
    twins.map(0, huge, page)
    twins.map(huge, huge, huge)
    for va, level in (0, 1), (huge, 2):
        old = twins.c.lookup(va).raw
        accessed = twins.c.arch.encode(0, "ra", level) ^ twins.c.arch.encode(0, "r", level)
        elsewhere = twins.c.arch.decode(old, 3 - level).state is ptl.State.HUGE  # the same bits, on another level
        refused = Outcome.ALREADY.value if elsewhere else BAD_ARGUMENT
        assert twins.theirs.compare_exchange(twins.c, va, 3 - level, old, old ^ accessed) == refused
        assert twins.compare_exchange(va, level, old, old ^ accessed) is Outcome.DONE
        assert twins.compare_exchange(va, level, old, old ^ accessed) is Outcome.ALREADY
        twins.read(va)
    empty = twins.c.arch.level(1).empty
    assert twins.compare_exchange(2 * huge, 1, empty, empty) == RAISED[ptl.PageFault]


def test_collapse_and_split(twins: Twins) -> None:
    page, huge = twins.page, twins.huge
    va, run, other = huge, 4 * huge, 8 * huge
    assert twins.collapse(va) is Outcome.NO_TABLE
    assert twins.do("split", va) is Outcome.NOT_HUGE
    twins.map(va, run, page)
    assert twins.collapse(va) is Outcome.NOT_FULL
    twins.map(va + page, run + page, huge - page)
    assert twins.collapse(va) is Outcome.DONE
    assert twins.collapse(va) is Outcome.ALREADY
    twins.read(va, va + page + 1, va + huge - 1)
    assert twins.do("split", va + page) is Outcome.DONE
    assert twins.do("split", va) is Outcome.NOT_HUGE
    twins.read(va, va + page + 1, va + huge - 1)
    twins.do("unmap", va, page)
    twins.map(va, other, page)
    assert twins.collapse(va) is Outcome.NOT_CONTIGUOUS
    assert twins.collapse(va, other) is Outcome.DONE
    twins.read(va, va + page + 1, va + huge - 1)
    twins.do("unmap", va, page)
    twins.map(va, other, page, "r")
    assert twins.collapse(va) is Outcome.MIXED_FLAGS


def test_a_lock_that_this_thread_holds(twins: Twins) -> None:
    twins.map(0, 0, twins.huge // 2)
    with twins.c.pte_map_lock(0), twins.py.pte_map_lock(0):
        assert twins.collapse(0) == RAISED[RuntimeError]
        assert twins.do("unmap", 0, 2 * twins.page) == RAISED[RuntimeError]


def test_a_pin_keeps_tables_that_were_retired_after_it(theirs: Any) -> None:
    domain = ptl.EpochDomain()
    table = ptl.PageTable("x86_64", frames=ptl.Frames(1 << 20, domain=domain))
    table.populate(0)
    assert theirs.pin(table) == 0
    assert theirs.pin(table) == 0
    assert table.retract(0)
    domain.reclaim()
    theirs.unpin(table)
    domain.reclaim()
    assert domain.stats()["limbo"] == 1
    with pytest.raises(RuntimeError, match="inside a section"):
        domain.synchronize()
    theirs.unpin(table)
    domain.synchronize()
    assert domain.stats()["limbo"] == 0


def test_walks_beside_transitions_without_the_gil(twins: Twins) -> None:
    table, va, pa, most = twins.c, twins.huge, 4 * twins.huge, 1 << 28
    table.map(va, pa, twins.huge, page_size=twins.page)
    board = array("Q", [0, 0, 0])
    walker = threading.Thread(target=twins.theirs.walk_on, args=(table, va + 1, pa + 1, board, most))
    walker.start()
    transitions = 0
    while walker.is_alive() and (transitions < 1000 or board[1] < 100_000):
        assert table.collapse(va)
        assert table.split(va)
        transitions += 1
    board[0] = 1
    walker.join()
    assert board[1] < most, "the walks came to their end before the transitions: they held the GIL"
    assert board[2] == 0
    assert table.unmap(va, twins.huge) == twins.huge


def test_the_example_in_the_readme(built: Path) -> None:
    table = ptl.PageTable("x86_64")
    table.map(0, 1 << 30, 1 << 20)
    addresses = array("Q", [0, 4095, 70_000])
    assert load(built, "readme").total(table, addresses) == sum(table.translate(va) for va in addresses)
