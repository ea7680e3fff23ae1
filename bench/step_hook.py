"""What the step hook costs while nobody is stepping: the same core built with and without it, side by side.

    python bench/step_hook.py

Builds both into a temporary directory (two minutes), loads both into this process, and walks the same addresses in turn
through each, from C: `ptl_walk`, one walk, and `ptl_translate`, which enters a section around it. What is printed is
the median of the ratios of neighbouring runs, in thread time. Functions are aligned in both builds: where a loop
happens to begin moves these numbers by several per cent, more than the hook does. What clocks cannot tell, callgrind
counts, where there is a valgrind: the instructions of one walk, the loop around it included. Needs `ptl` to be
importable.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VA, PA, PAGE = 0x7F00_0000_0000, 0x1_0000_0000, 4096
ADDRESSES, ROUNDS, PAIRS = 4096, 40, 61
COUNTED_ROUNDS = 400
"""Enough for what Python does differently from one start to the next to be nothing."""
FUNCTIONS = ("ptl_walk", "ptl_translate")
LOOP = """
#include <stdint.h>
uint64_t loop(uint64_t (*walk)(void *, uint64_t), void *tree, const uint64_t *vas, uint64_t count, uint64_t rounds)
{
    uint64_t sum = 0;
    while (rounds--)
        for (uint64_t i = 0; i < count; i++)
            sum += walk(tree, vas[i]);
    return sum;
}
"""


def build(into: Path, **macros: str) -> Path:
    """The core, built into a directory."""
    environment = os.environ | {"CFLAGS": "-falign-functions=64 -falign-loops=32", **macros}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(into), "--build-temp", str(into / "temp")],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    return next(into.glob("ptl/_core*.so"))


def load(path: Path, name: str) -> ModuleType:
    """A second copy of the core, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{name}._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def address_of(module: ModuleType, function: str) -> int:
    """Where a function of the C level begins."""
    api, capsule = ctypes.pythonapi, module.__pyx_capi__[function]
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


class Subject:
    """One build, with a table of its own."""

    def __init__(self, module: ModuleType, pages: int) -> None:
        self.module = module
        self.table = module.PageTable("x86_64")
        self.table.map(VA, PA, pages * PAGE, page_size=PAGE)
        # `tree` is the first field of a PageTable (_core.pxd).
        self.tree = ctypes.c_void_p.from_address(id(self.table) + object.__basicsize__).value

    def run(self, loop: Any, function: str, vas: array[int], rounds: int) -> None:
        """Call a function of the C level with each address, so many times over."""
        walk = address_of(self.module, function)
        loop(ctypes.c_void_p(walk), ctypes.c_void_p(self.tree), vas.buffer_info()[0], len(vas), rounds)

    def ns(self, loop: Any, function: str, vas: array[int]) -> float:
        """Thread time of one call."""
        begun = time.thread_time_ns()
        self.run(loop, function, vas, ROUNDS)
        return (time.thread_time_ns() - begun) / (len(vas) * ROUNDS)


def addresses(pages: int) -> array[int]:
    """Random ones of so many pages."""
    rng = random.Random(1)
    return array("Q", [VA + rng.randrange(pages) * PAGE for _ in range(ADDRESSES)])


def load_loop(path: Path) -> Any:
    """The loop, compiled."""
    loop = ctypes.CDLL(str(path)).loop
    loop.restype = ctypes.c_uint64
    loop.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_uint64] * 2
    return loop


def instructions(loop: Path, core: Path, function: str) -> float:
    """Of one walk, and the loop's around it: what more rounds take more, in processes of their own."""
    totals = []
    for rounds in (1, 1 + COUNTED_ROUNDS):
        done = subprocess.run(
            (
                *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                *(sys.executable, __file__, str(loop), str(core), function, str(rounds)),
            ),
            env=os.environ | {"PYTHONHASHSEED": "0"},
            check=True,
            capture_output=True,
            text=True,
        )
        collected = re.search(r"Collected : (\d+)", done.stderr)
        assert collected is not None, done.stderr
        totals.append(int(collected[1]))
    return (totals[1] - totals[0]) / (COUNTED_ROUNDS * ADDRESSES)


def counted(loop: Path, core: Path, function: str, rounds: int) -> None:
    """What `instructions` counts."""
    Subject(load(core, "counted"), 512).run(load_loop(loop), function, addresses(512), rounds)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "loop.c").write_text(LOOP)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", scratch / "loop.so", scratch / "loop.c"], check=True)
        cores = build(scratch / "without", PTL_UNSTEPPED="1"), build(scratch / "hooked")
        time_both(load_loop(scratch / "loop.so"), *cores)
        if shutil.which("valgrind") is None:
            print("instructions are counted where there is a valgrind")
            return
        for function in FUNCTIONS:
            without, hooked = (instructions(scratch / "loop.so", core, function) for core in cores)
            print(f"   512 pages  {function:14} {without:5.1f} instructions; with the hook {hooked - without:+.1f}")


def time_both(loop: Any, without: Path, hooked: Path) -> None:
    """In this process, in turn."""
    modules = load(without, "without"), load(hooked, "hooked")
    for pages in (512, 65536):
        vas = addresses(pages)
        subjects = Subject(modules[0], pages), Subject(modules[1], pages)
        for function in FUNCTIONS:
            ratios, times = [], []
            for turn in range(PAIRS + 2):
                order = subjects if turn % 2 else subjects[::-1]
                took = {subject: subject.ns(loop, function, vas) for subject in order}
                if turn >= 2:  # the first two warm up
                    ratios.append(took[subjects[1]] / took[subjects[0]])
                    times.append(took[subjects[0]])
            print(
                f"{pages:6} pages  {function:14} {statistics.median(times):5.1f} ns without; "
                f"with the hook {100 * (statistics.median(ratios) - 1):+.1f} %"
            )


if __name__ == "__main__":
    if sys.argv[1:]:
        counted(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main()
