"""What the machine and its kernel do at best: `native/limits.c`, on memory of its own."""

from __future__ import annotations

import ctypes

from ptl._core import Frames, PageTable
from ptl.bench.native import Missing, load
from ptl.bench.pages import HUGE
from ptl.bench.peers import LIMITS

ENTRY_BYTES = 8


class Limits:
    """The machine's own operations, on memory of the same kind as tables are in."""

    def __init__(self, table_bytes: int) -> None:
        self.calls = load(LIMITS)
        self.bytes = table_bytes
        self.frames = Frames(2 * table_bytes + HUGE)
        at = self.frames.alloc(table_bytes)
        self.memory = ctypes.c_char.from_buffer(self.frames.view(at, table_bytes))
        self.calls.limit_exchange.restype = ctypes.c_uint64
        for name in ("limit_fill", "limit_add"):
            getattr(self.calls, name).restype = None

    def fill(self) -> None:
        """Write every byte."""
        self.calls.limit_fill(ctypes.byref(self.memory), 1, ctypes.c_uint64(self.bytes))

    def exchange(self) -> None:
        """Exchange every word."""
        self.calls.limit_exchange(
            ctypes.byref(self.memory), ctypes.c_uint64(self.bytes // ENTRY_BYTES), ctypes.c_uint64(1)
        )


class Pages:
    """Pages of this process, whose tables the kernel changes, and copies when it forks."""

    def __init__(self, length: int) -> None:
        self.calls = load(LIMITS)
        self.length = length
        self.calls.limit_pages.restype = ctypes.c_void_p
        self.calls.limit_fork.restype = ctypes.c_uint64
        self.calls.limit_give_back.restype = None
        self.pages = ctypes.c_void_p(self.calls.limit_pages(ctypes.c_uint64(length)))
        if not self.pages:
            raise Missing(f"no memory for {length} bytes of pages")

    def protect(self, *, writable: bool) -> None:
        """Let the kernel change the protection of every page."""
        if self.calls.limit_protect(self.pages, ctypes.c_uint64(self.length), writable):
            raise OSError("the kernel refused to protect pages")

    def fork(self) -> int:
        """By how many nanoseconds a fork takes longer because of them."""
        return int(self.calls.limit_fork(self.pages, ctypes.c_uint64(self.length)))

    def __del__(self) -> None:
        if getattr(self, "pages", None):
            self.calls.limit_give_back(self.pages, ctypes.c_uint64(self.length))


class Copies:
    """The same tables, copied one by one to memory that is there."""

    def __init__(self, table: PageTable) -> None:
        self.calls = load(LIMITS)
        self.calls.limit_copy_tables.restype = ctypes.c_uint64
        self.table = table
        self.source = ctypes.c_char.from_buffer(table.frames.view(table.frames.base, table.frames.size))
        self.target = ctypes.create_string_buffer(table.nbytes)

    def copy(self) -> int:
        """Copy all; the number of tables."""
        return int(
            self.calls.limit_copy_tables(
                ctypes.byref(self.source),
                ctypes.c_uint64(self.table.root),
                self.table.arch.levels,
                self.target,
                ctypes.c_uint64(0),
            )
        )
