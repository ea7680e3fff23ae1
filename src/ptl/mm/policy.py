"""Locking policies: what a fault, a transition and a change of mappings take, behind one interface, to be compared.

    policy       a fault                      a transition (collapse, migrate)   a change of mappings
    epoch        the mapping's turnstile      the same                           their turnstiles, closed
    vma_lock     the mapping's lock, shared   the mapping's lock, exclusive      their locks, exclusive
    mmap_lock    the one lock, shared         the one lock, exclusive            the one lock, exclusive

A turnstile counts those inside and makes nobody wait for them but a change of the mapping itself. So under `epoch` a
fault runs beside a collapse of the same region, and each gives way to the other only at single entries, in the core;
but a fault that splits a huge page waits for the region's lock (`Regions`), which every split, collapse and migration
holds, under every policy. A read of the table takes nothing under any: here the hardware reads it, through a TLB.

P1  Whoever is inside works on a mapping that is not changed before it has left.
P2  Changes of mappings exclude each other (the space's own mutex, taken first).
P3  Whoever has got inside looks the mapping up again: it may have been replaced while it was waited for.
P4  The sizes of the leaves of a region, and of the runs of frames behind them, change under the region's lock only.
    Without it a migration and a split, or two steps of a split and a collapse, would take each other's entries apart.
P5  A wait that is interrupted leaves no trace: nobody stays locked out.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptl.mm.mapping import Mapping

Find = Callable[[], "Mapping | None"]


class ReadWriteLock:
    """A lock that many readers or one writer hold; waiting writers go first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Held together with other readers for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._writing and not self._waiting_writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Held alone for the length of the block."""
        with self._changed:
            self._waiting_writers += 1
            try:
                self._changed.wait_for(lambda: not self._writing and not self._readers)
            except BaseException:
                self._changed.notify_all()  # readers stood back for it
                raise
            finally:
                self._waiting_writers -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()


class Turnstile:
    """Counts those who work on a mapping, and keeps them out while the mapping is changed."""

    def __init__(self) -> None:
        self.lock = ReadWriteLock()
        """For `vma_lock`, which asks for more than a count."""
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Inside for the length of the block; waits while it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Nobody inside for the length of the block. Waits for those who are: they wait for no change of mappings."""
        with self._changed:
            self._closed = True
            try:
                self._changed.wait_for(lambda: not self._inside)
            except BaseException:
                self._closed = False
                self._changed.notify_all()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Regions:
    """A lock for what one huge page can map: what the lock of a folio is to the kernel. Some regions share one.

    Nobody holds two. Inside it nobody waits for a mapping; whoever is let into a mapping may take it (P4).
    """

    LOCKS = 64

    def __init__(self, region_bytes: int) -> None:
        self._region_bytes = region_bytes
        self._locks = [threading.RLock() for _ in range(self.LOCKS)]

    def held(self, va: int) -> AbstractContextManager[object]:
        """The lock of the region of an address; its holder may take it again."""
        return self._locks[va // self._region_bytes % self.LOCKS]


class Policy(ABC):
    """What to hold around the work on a mapping."""

    name: str

    @contextmanager
    def work(self, find: Find, *, transition: bool = False) -> Iterator[Mapping | None]:
        """The mapping that `find()` gives, which is not changed inside the block (P1); None when there is none."""
        while True:
            mapping = find()
            if mapping is None:
                yield None
                return
            with self._held(mapping, transition):
                if find() is mapping:  # P3
                    yield mapping
                    return

    @contextmanager
    def change(self, mappings: Iterable[Mapping]) -> Iterator[None]:
        """Nobody works on these mappings, ascending, inside the block (P2)."""
        with ExitStack() as stack:
            for lock in self._locks(mappings):
                stack.enter_context(lock)
            yield

    def _locks(self, mappings: Iterable[Mapping]) -> Iterable[AbstractContextManager[None]]:
        return map(self._alone, mappings)

    @abstractmethod
    def _held(self, mapping: Mapping, transition: bool) -> AbstractContextManager[None]:
        """What a fault or a transition holds."""

    @abstractmethod
    def _alone(self, mapping: Mapping) -> AbstractContextManager[None]:
        """What a change of the mapping holds."""


class Epoch(Policy):
    """Faults and transitions run side by side; only a change of the mapping waits for them, and they for it."""

    name = "epoch"

    def _held(self, mapping: Mapping, transition: bool) -> AbstractContextManager[None]:
        return mapping.turnstile.passed()

    def _alone(self, mapping: Mapping) -> AbstractContextManager[None]:
        return mapping.turnstile.closed()


class VmaLock(Policy):
    """One reader-writer lock a mapping."""

    name = "vma_lock"

    def _held(self, mapping: Mapping, transition: bool) -> AbstractContextManager[None]:
        return mapping.turnstile.lock.exclusive() if transition else mapping.turnstile.lock.shared()

    def _alone(self, mapping: Mapping) -> AbstractContextManager[None]:
        return mapping.turnstile.lock.exclusive()


class MmapLock(Policy):
    """One reader-writer lock around everything."""

    name = "mmap_lock"

    def __init__(self) -> None:
        self._lock = ReadWriteLock()

    def _held(self, mapping: Mapping, transition: bool) -> AbstractContextManager[None]:
        return self._lock.exclusive() if transition else self._lock.shared()

    def _alone(self, mapping: Mapping) -> AbstractContextManager[None]:
        return self._lock.exclusive()

    def _locks(self, mappings: Iterable[Mapping]) -> Iterable[AbstractContextManager[None]]:
        return (self._lock.exclusive(),)


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Epoch, VmaLock, MmapLock)}
"""The policies by name."""
