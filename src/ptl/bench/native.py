"""The native peers: compiled when they are first used, and kept in a cache directory.

Each is one file in `bench/native`, linked against a library of the system. One whose library, or whose compiler, is not
there is missing: the suite says so and goes on.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent / "native"
OPTIONS = ("-O3", "-fPIC", "-shared", "-fvisibility=hidden")


class Missing(Exception):
    """A peer that cannot take part; the message says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """A source file and what it takes to build it."""

    file: str
    libraries: tuple[str, ...] = ()
    package: str = ""
    """The Debian package that has them."""
    options: tuple[str, ...] = ()


def cache_directory() -> Path:
    """Where compiled peers are kept: `ptl` in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptl"


@cache
def load(program: Program) -> ctypes.CDLL:
    """The compiled program. Raises Missing when it cannot be had."""
    return ctypes.CDLL(str(_build(program)))


def _build(program: Program) -> Path:
    source = SOURCES / program.file
    is_c = source.suffix == ".c"
    compiler = os.environ.get("CC" if is_c else "CXX") or ("cc" if is_c else "c++")
    if shutil.which(compiler) is None:
        raise Missing(f"there is no compiler {compiler}")
    options = [*OPTIONS, "-std=gnu11" if is_c else "-std=c++17", *program.options]
    libraries = [f"-l{name}" for name in program.libraries]
    target = cache_directory() / f"{source.stem}-{_digest([compiler, *options, *libraries])}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}")
    command = [compiler, *options, str(source), "-o", str(unfinished), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        error = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        wanted = f"; install {program.package}" if program.package else ""
        raise Missing(f"it does not compile: {error.split('error: ')[-1].split(': ')[0]}{wanted}")
    unfinished.rename(target)
    return target


def _digest(command: Sequence[str]) -> str:
    """What the result depends on: all sources, the command, the machine."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    digest.update("\0".join([*command, platform.machine(), *platform.libc_ver()]).encode())
    return digest.hexdigest()[:16]


# -- arguments --------------------------------------------------------------------------------------------------------


def address_of(numbers: array[int]) -> ctypes.c_void_p:
    """Where an array begins; valid until it is resized."""
    return ctypes.c_void_p(numbers.buffer_info()[0])


class NativeMap:
    """A map of `bench/native/peer.h`."""

    def __init__(self, program: Program, count: int) -> None:
        self.calls = load(program)
        for name in ("peer_new", "peer_find", "peer_insert", "peer_protect", "peer_delete"):
            getattr(self.calls, name).restype = None
        self.calls.peer_new.restype = ctypes.c_void_p
        self.calls.peer_insert.restype = ctypes.c_int
        self.map: ctypes.c_void_p | None = None
        self.map = ctypes.c_void_p(self.calls.peer_new(ctypes.c_uint64(count)))
        if not self.map:
            raise MemoryError(f"no memory for {program.file}")

    def insert(self, vas: array[int], pas: array[int]) -> None:
        """Map each page to each frame."""
        if self.calls.peer_insert(self.map, address_of(vas), address_of(pas), ctypes.c_uint64(len(vas))):
            raise MemoryError("no memory for the pages of a peer")

    def find(self, vas: array[int], out: array[int]) -> None:
        """Translate each address."""
        self.calls.peer_find(self.map, address_of(vas), address_of(out), ctypes.c_uint64(len(vas)))

    def protect(self, vas: array[int]) -> None:
        """Change a flag of each page."""
        self.calls.peer_protect(self.map, address_of(vas), ctypes.c_uint64(len(vas)))

    def close(self) -> None:
        """Free everything."""
        if self.map:
            self.calls.peer_delete(self.map)
            self.map = None

    def __del__(self) -> None:
        self.close()
