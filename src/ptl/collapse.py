"""The collapser: what khugepaged does, as a thread of its own beside running readers and writers.

    regions ---> look at the entries ---> bring back what is swapped ---> collapse by copy ---> next region
                 (without a lock)         (the owner of the region)       (the two tables' locks)

Each step runs in the core without the GIL, and holds no lock but those of the two tables that it changes: no reader and
no writer of other regions ever waits for it. The thread scans `pages_to_scan` entries, then sleeps `sleep_seconds`.

Source: Linux mm/khugepaged.c, whose knobs (Documentation/admin-guide/mm/transhuge.rst) have the same names here.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol, Self

from ptl._core import AddressError, PageTable, ScanResult, collapse_pages

__all__ = ["Collapser", "Collapsible", "Limits", "Ranges", "ScanResult", "collapse_pages"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a region may lack, in entries, and still be collapsed; None for the default.

    max_ptes_none: empty entries, which become zero memory (default: all but one).
    max_ptes_swap: entries whose pages must be brought back first (default: an eighth).
    max_ptes_shared: entries whose frames have other owners too, and are copied for this one (default: half).
    """

    max_ptes_none: int
    max_ptes_swap: int
    max_ptes_shared: int

    @classmethod
    def of(cls, entries: int, none: int | None = None, swap: int | None = None, shared: int | None = None) -> Limits:
        """The limits for tables of that many entries. Raises ValueError for one that is not 0 to `entries`."""
        limits = cls(
            entries - 1 if none is None else none,
            entries // 8 if swap is None else swap,
            entries // 2 if shared is None else shared,
        )
        for name in cls.__slots__:
            if not 0 <= getattr(limits, name) <= entries:
                raise ValueError(f"{name} must be 0 to {entries}, not {getattr(limits, name)}")
        return limits


class Collapsible(Protocol):
    """Where a collapser works: a `ptl.mm.AddressSpace`, or `Ranges` of a bare table."""

    @property
    def pt(self) -> PageTable:
        """The table."""

    def regions(self) -> Iterable[int]:
        """The first addresses of the regions that may become huge, ascending."""

    def collapse_region(self, va: int, limits: Limits) -> ScanResult:
        """Look at one region, and make it huge if the limits allow."""


class Ranges:
    """Ranges of a bare table, for a collapser: (va, length, flags) each.

    The pages must come from `Frames.alloc` one by one: a collapse gives them back and takes a run of its own.
    """

    def __init__(self, pt: PageTable, ranges: Sequence[tuple[int, int, str]]) -> None:
        self.pt = pt
        self._span = pt.arch.level(2).span
        self._flags: dict[int, str] = {}
        for va, length, flags in ranges:
            pt.arch.attributes(flags)
            if va % self._span or length % self._span:
                raise AddressError(f"va {va:#x} and length {length:#x} must be multiples of {self._span:#x}")
            self._flags.update(dict.fromkeys(range(va, va + length, self._span), flags))

    def regions(self) -> Iterable[int]:
        """The first address of each huge page in the ranges, ascending."""
        return sorted(self._flags)

    def collapse_region(self, va: int, limits: Limits) -> ScanResult:
        """As `collapse_pages`; what is swapped is not brought back."""
        return collapse_pages(
            self.pt,
            va,
            self._flags[va],
            max_ptes_none=limits.max_ptes_none,
            max_ptes_swap=limits.max_ptes_swap,
            max_ptes_shared=limits.max_ptes_shared,
        )


class Activity(Enum):
    """What a collapser's thread is to do."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"


class Collapser:
    """A thread that collapses regions of small pages into huge leaves, over and over.

    where: an address space, or `Ranges`.
    pages_to_scan: how many entries it looks at before it sleeps.
    sleep_seconds: for how long.
    max_ptes_none, max_ptes_swap, max_ptes_shared: see `Limits`.

    A context manager: started on entering, stopped on leaving; also stopped when the interpreter exits. `scan` does the
    same work in the calling thread. Raises ValueError for numbers that make no sense.

    >>> import ptl
    >>> frames = ptl.Frames(64 << 20)
    >>> pt = ptl.PageTable(frames=frames)
    >>> for i in range(512):
    ...     pt.map(0x200000 + i * 4096, frames.alloc())
    >>> collapser = ptl.collapse.Collapser(ptl.collapse.Ranges(pt, [(0x200000, 0x200000, "rw")]))
    >>> collapser.scan()
    Counter({<ScanResult.COLLAPSED: 0>: 1})
    >>> pt.lookup(0x200000).size == 2 << 20
    True
    """

    def __init__(
        self,
        where: Collapsible,
        *,
        pages_to_scan: int = 4096,
        sleep_seconds: float = 10.0,
        max_ptes_none: int | None = None,
        max_ptes_swap: int | None = None,
        max_ptes_shared: int | None = None,
    ) -> None:
        if pages_to_scan < 1 or sleep_seconds < 0:
            raise ValueError(
                f"pages_to_scan {pages_to_scan} must be positive, sleep_seconds {sleep_seconds} not below 0"
            )
        entries = where.pt.arch.level(1).entries
        self.where = where
        self.pages_to_scan = pages_to_scan
        self.sleep_seconds = sleep_seconds
        self.limits = Limits.of(entries, max_ptes_none, max_ptes_swap, max_ptes_shared)
        self._entries = entries
        self._cursor = -1  # the region looked at last
        self._results: Counter[ScanResult] = Counter()
        self._full_scans = 0
        self._error: BaseException | None = None
        self._make_thread_state()
        _all.add(self)

    def _make_thread_state(self) -> None:
        """What belongs to the thread: new in a forked child, which does not have it."""
        self._scanning = threading.Lock()  # one region at a time, whoever asks
        self._changed = threading.Condition()
        self._wanted = Activity.STOPPED
        self._resting = True
        self._thread: threading.Thread | None = None

    # -- the thread

    @property
    def activity(self) -> Activity:
        """What the thread has been told to do."""
        return self._wanted

    def start(self) -> None:
        """Begin, or go on after `pause`. Does nothing while it runs."""
        with self._changed:
            if self._wanted is Activity.STOPPED:
                self._error = None
                self._thread = threading.Thread(target=self._run, name="ptl collapser", daemon=True)
                self._tell(Activity.RUNNING)
                self._resting = False
                self._thread.start()
                atexit.register(self.stop)
            else:
                self._tell(Activity.RUNNING)

    def pause(self) -> None:
        """Rest until `start`; when this returns, no step is under way. Does nothing while it is stopped."""
        with self._changed:
            if self._wanted is not Activity.STOPPED:
                self._tell(Activity.PAUSED)
                self._changed.wait_for(lambda: self._resting)

    def stop(self) -> None:
        """End the thread; when this returns, it has ended. Raises what ended it before, if something did."""
        atexit.unregister(self.stop)
        with self._changed:
            self._tell(Activity.STOPPED)
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _tell(self, activity: Activity) -> None:
        self._wanted = activity
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._may_go_on():
                self.scan(self.pages_to_scan)
                with self._changed:
                    self._changed.wait_for(lambda: self._wanted is not Activity.RUNNING, self.sleep_seconds)
        except BaseException as error:  # raised again by `stop`
            self._error = error
        finally:
            with self._changed:
                self._resting = True
                self._changed.notify_all()

    def _may_go_on(self) -> bool:
        """Rest while paused; whether there is more to do."""
        with self._changed:
            while self._wanted is Activity.PAUSED:
                self._resting = True
                self._changed.notify_all()
                self._changed.wait()
            self._resting = False
            return self._wanted is Activity.RUNNING

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()

    # -- the work

    def scan(self, pages: int | None = None) -> Counter[ScanResult]:
        """Look at all regions once, or at the next until `pages` were looked at, and return how it went with each.

        In the calling thread; its own thread waits meanwhile. Ends early when the thread is told to stop.
        """
        before = Counter(self._results)
        regions = list(self.where.regions())
        turns = len(regions) if pages is None else min(len(regions), max(1, pages // self._entries))
        first = next((i for i, va in enumerate(regions) if va > self._cursor), 0) if pages is not None else 0
        in_thread = threading.current_thread() is self._thread
        if not regions:
            self._full_scans += 1
        for turn in range(turns):
            if in_thread and self._wanted is not Activity.RUNNING:
                break
            i = (first + turn) % len(regions)
            with self._scanning:
                self._results[self.where.collapse_region(regions[i], self.limits)] += 1
                self._cursor = regions[i]
                self._full_scans += i == len(regions) - 1
        return self._results - before

    def stats(self) -> dict[str, int]:
        """Counters, as a dict: each `ScanResult` by its name in lower case, scanned (regions), and full_scans."""
        with self._scanning:
            return {
                **{result.name.lower(): self._results[result] for result in ScanResult},
                "scanned": self._results.total(),
                "full_scans": self._full_scans,
            }


_all: weakref.WeakSet[Collapser] = weakref.WeakSet()


def _forget_threads() -> None:
    """In a forked child: no collapser has a thread."""
    for collapser in list(_all):
        atexit.unregister(collapser.stop)
        collapser._make_thread_state()


os.register_at_fork(after_in_child=_forget_threads)
