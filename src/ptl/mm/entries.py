"""What an address space keeps in entries that are not present, and who owns the memory behind an entry.

    kind        offset             the entry owns
    SWAP        a place in Swap    one use of that place
    MIGRATION   a frame number     one share of the frames: they are being copied
    NO_ACCESS   a frame number     one share of the frames: mapped, but the mapping allows nothing
    GUARD       0                  nothing: an access is a fault for ever

Whoever takes an entry out of the table, by a compare-exchange that succeeded, owns what the entry owned.
"""

from __future__ import annotations

import threading
from enum import IntEnum

from ptl._core import AddressError, Frames, State
from ptl.arch import Arch


class Kind(IntEnum):
    """The kinds of entries that are not present: the type of the software entry."""

    SWAP = 1
    MIGRATION = 2
    NO_ACCESS = 3
    GUARD = 4


FRAME_KINDS = (Kind.MIGRATION, Kind.NO_ACCESS)
"""Kinds whose offset is a frame number."""


class Swap:
    """Pages that are not in memory: numbered places, each used by one entry or, after a fork, by several."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[int, tuple[bytes, int]] = {}
        self._next = 0

    def put(self, contents: bytes) -> int:
        """Keep a page, and return the number of its place, used once."""
        with self._lock:
            self._next += 1
            self._pages[self._next] = contents, 1
            return self._next

    def use(self, place: int) -> bytes | None:
        """Use a place once more, and return its page; None when it is gone."""
        with self._lock:
            if place not in self._pages:
                return None
            contents, uses = self._pages[place]
            self._pages[place] = contents, uses + 1
            return contents

    def drop(self, place: int) -> None:
        """Use a place once less."""
        with self._lock:
            contents, uses = self._pages.pop(place)
            if uses > 1:
                self._pages[place] = contents, uses - 1

    def uses(self) -> dict[int, int]:
        """How often each place is used."""
        with self._lock:
            return {place: uses for place, (_, uses) in self._pages.items()}


class Memory:
    """The frames and the swap of a family of address spaces: a space and those forked from it."""

    def __init__(self, arch: Arch, frames: Frames) -> None:
        self.arch = arch
        self.frames = frames
        self.swap = Swap()
        self.page = arch.level(1).span

    # -- runs of frames, which may have been split into pages since

    def pieces(self, pa: int, size: int) -> list[tuple[int, int]]:
        """The runs that some bytes now consist of: one, or pages."""
        return [(pa, size)] if size == self.page else [(pa + at, self.page) for at in range(0, size, self.page)]

    def share(self, pa: int, size: int) -> bool:
        """Own the frames once more; False, and nothing changed, when they are not all allocated any more."""
        try:
            self.frames.share(pa, size)
            return True
        except AddressError:
            if size == self.page:
                return False
        pages = self.pieces(pa, size)
        for i, (page, length) in enumerate(pages):
            try:
                self.frames.share(page, length)
            except AddressError:
                for shared, _ in pages[:i]:
                    self.frames.free(shared, length)
                return False
        return True

    def free(self, pa: int, size: int) -> None:
        """Own the frames once less."""
        try:
            self.frames.free(pa, size)
        except AddressError:
            if size == self.page:
                raise
            for piece, length in self.pieces(pa, size):
                self.frames.free(piece, length)

    def split(self, pa: int, size: int) -> None:
        """Let every page of a run be freed by itself, if that is not so already."""
        try:
            self.frames.split(pa, size, self.page)
        except AddressError:
            if not self.frames.owners(pa):
                raise

    def is_shared(self, pa: int, size: int) -> bool:
        """Whether any of the frames has another owner."""
        return any(self.frames.owners(piece) > 1 for piece, _ in self.pieces(pa, size))

    def owners(self, pa: int, run_bytes: int) -> int:
        """How many own a page, by itself or as a part of a run of `run_bytes`; at rest."""
        run = pa & -run_bytes
        owners = self.frames.owners(pa)
        if not owners and self.frames.owners(run):
            try:
                self.frames.share(run, run_bytes)
            except AddressError:
                return 0  # only its neighbour is in use
            self.frames.free(run, run_bytes)
            owners = self.frames.owners(run)
        return owners

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy the contents of frames."""
        self.frames.view(target, size)[:] = self.frames.view(source, size)

    # -- entries

    def absent(self, kind: Kind, offset: int = 0, level: int = 1) -> int:
        """The entry of that kind, for that level."""
        return self.arch.encode_soft(kind, offset, level)

    def absent_frames(self, kind: Kind, pa: int, level: int) -> int:
        """The entry of a kind whose offset is a frame number, for that level."""
        return self.absent(kind, pa // self.page, level)

    def release(self, raw: int, level: int) -> None:
        """Let go of what an entry owned that was taken out of a table."""
        entry = self.arch.decode(raw, level)
        size = self.arch.level(level).span
        if entry.state is State.HUGE:
            assert entry.pa is not None
            self.free(entry.pa, size)
        elif entry.state is State.SOFT:
            soft = self.arch.decode_soft(raw, level)
            if soft.type in FRAME_KINDS:
                self.free(soft.offset * self.page, size)
            elif soft.type == Kind.SWAP:
                self.swap.drop(soft.offset)

    def hold(self, raw: int, level: int) -> bool:
        """Own once more what an entry owns; False when it is gone by now."""
        entry = self.arch.decode(raw, level)
        size = self.arch.level(level).span
        if entry.state is State.HUGE:
            assert entry.pa is not None
            return self.share(entry.pa, size)
        soft = self.arch.decode_soft(raw, level)
        if soft.type in FRAME_KINDS:
            return self.share(soft.offset * self.page, size)
        return soft.type != Kind.SWAP or self.swap.use(soft.offset) is not None
