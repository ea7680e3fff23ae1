"""What the sanitizers are run for they find: each run can fail.

Only in the builds of `make test-tsan` and `make test-asan`. Each test lets a process of its own do one thing wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import SANITIZERS
from ptl import _core

needs_tsan = pytest.mark.skipif("tsan" not in SANITIZERS, reason="not under ThreadSanitizer: make test-tsan")
needs_asan = pytest.mark.skipif("asan" not in SANITIZERS, reason="not under AddressSanitizer: make test-asan")


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run it as this process is run."""
    return subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=False)


@needs_tsan
def test_a_race_is_found() -> None:
    """Python looks at bytes, without a lock, that a CPU stores."""
    done = run(RACE)
    assert done.returncode == 66, done.stderr
    assert "data race" in done.stderr
    assert "copy_to_shared" in done.stderr


RACE = """
import threading, ptl
frames = ptl.Frames(1 << 20)
pt = ptl.PageTable(frames=frames)
pa = frames.alloc()
pt.map(0, pa)
cpu = ptl.tlb.Tlb()
cpu.attach(pt)
over = threading.Event()
def store():
    while not over.is_set():
        cpu.write(pt, 0, b"12345678")
thread = threading.Thread(target=store)
thread.start()
view = frames.view(pa, 8)
for _ in range(10_000):
    view.tobytes()
over.set()
thread.join()
"""


@needs_tsan
def test_what_is_ordered_is_no_race() -> None:
    """The same by another CPU."""
    done = run(
        RACE.replace("view.tobytes()", "other.read(pt, 0, 8)").replace(
            "view = ", "other = ptl.tlb.Tlb(); other.attach(pt); "
        )
    )
    assert done.returncode == 0, done.stderr


@needs_asan
def test_a_late_reader_of_a_free_table_is_found() -> None:
    """Though the memory is a table for ever, elsewhere."""
    done = run(LATE)
    assert done.returncode != 0
    assert "use-after-poison" in done.stderr
    assert "in __pyx_pf_3ptl_5_core_6PteMap" in done.stderr


LATE = """
import ptl
pt = ptl.PageTable(frames=ptl.Frames(1 << 20, domain=ptl.EpochDomain()))
pt.populate(0)
ptes = pt.pte_kernel(0)     # which pins nothing
assert ptes.load(0) == 0
pt.retract(0)
assert ptes.load(0) != 0    # retired, and not yet free: frozen
pt.frames.domain.synchronize()
ptes.load(0)
"""


@needs_asan
def test_a_leak_is_found_at_exit() -> None:
    done = run(LEAK)
    assert done.returncode != 0
    assert "detected memory leaks" in done.stderr
    assert "4321 byte" in done.stderr


LEAK = """
import ctypes, ptl
ptl.PageTable().map(0, 0)
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
malloc(4321)
"""


@needs_asan
def test_what_leaks_nothing_ends_well() -> None:
    done = run(LEAK.replace("malloc(4321)", ""))
    assert done.returncode == 0, done.stderr


@needs_asan
def test_undefined_behaviour_is_looked_for() -> None:
    """None is known that a caller could provoke; the calls of the checks are there."""
    assert b"__ubsan_handle_pointer_overflow" in Path(_core.__file__).read_bytes()
