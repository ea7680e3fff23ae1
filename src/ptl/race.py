"""The main job: readers and faults of a live process's address space race a collapser, under each locking policy.

    process --read--> image --lay_out--> pages          the same pages, regions and random numbers for each policy
                                           |
         for each policy, for each kind:   PageTable, Course, threads --seconds--> counts and latencies

Of the 2 MiB regions of the process (what one slot of level 2 covers) the fullest are collapsed and split; the next are
those in which fault threads map and unmap. Collapsed regions are filled up first, as khugepaged fills holes, and their
frames are the race's own, because an anonymous collapse really copies them. All other pages are as the process has
them.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

from ptl import _race, proc
from ptl._core import EpochDomain, Frames, PageTable
from ptl._version import __version__

POLICIES = tuple(_race.POLICIES)
KINDS = tuple(_race.KINDS)
TICK_SECONDS = 0.1
REGIONS = 8

KERNEL_PATHS = {
    "epoch": {
        "read": "a software walk (mincore, smaps) inside an RCU section, with no lock: the kernel has none such yet",
        "fault": "the entry changed by compare-exchange, as KVM's TDP MMU does it",
        "file": "collapse_pte_mapped_thp and retract_page_tables since 6.6: the two table locks, no mmap or VMA lock",
        "anonymous": (
            "collapse_huge_page if it needed no more than the two table locks: the kernel still takes its write lock"
        ),
    },
    "vma_lock": {
        "read": "a software walk under the mapping's lock, shared, as /proc/PID/maps reads since 6.17",
        "fault": "a page fault under the per-VMA lock (6.4), shared",
        "file": "collapse and retract under the mapping's lock, exclusive, for the switch only",
        "anonymous": (
            "collapse_huge_page as its vma_start_write sees it: the mapping's lock, exclusive, while 2 MiB are copied"
        ),
    },
    "mmap_lock": {
        "read": "a software walk under mmap_lock, shared, as mincore and smaps take it",
        "fault": "a page fault under mmap_lock, shared, as before 6.4",
        "file": "collapse and retract before 6.6: mmap_lock, exclusive, for the switch only",
        "anonymous": "collapse_huge_page: mmap_lock, exclusive, while 2 MiB are copied",
    },
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run: each policy for `seconds`, shared among the kinds of collapse."""

    seconds: float = 6.0
    readers: int = 1
    faulters: int = 1
    policies: Sequence[str] = POLICIES
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """The process's pages, divided: regions to collapse, regions to fault in, and pages to leave alone."""

    layout: proc.Layout
    collapsing: tuple[tuple[int, int], ...]
    """First address and mapping of each."""
    faulting: tuple[tuple[int, int], ...]
    pages: tuple[proc.Placed, ...]
    filled: int
    """How many pages of the collapsing regions were holes."""


class RaceError(ValueError):
    """The race cannot be run on this process, architecture or setting; the message says why."""


def divide(layout: proc.Layout, faulters: int) -> Field:
    """Choose the regions of a process that the race will change; the fullest are collapsed."""
    page, huge = layout.arch.page_sizes[:2]
    resident: dict[int, int] = {}
    owner: dict[int, int] = {}
    for placed in layout.pages:
        for region, bytes_inside in _by_region(placed, huge):
            resident[region] = resident.get(region, 0) + bytes_inside
            owner.setdefault(region, placed.mapping)
    ranked = sorted(resident, key=lambda region: (-resident[region], region))
    collapsing = ranked[: min(REGIONS, len(ranked) - faulters)]
    faulting = ranked[len(collapsing) : len(collapsing) + max(REGIONS, faulters)]
    if not collapsing or len(faulting) < faulters:
        raise RaceError(
            f"the process has pages in {len(ranked)} regions of {huge >> 20} MiB; "
            f"{faulters} fault threads and a collapser need at least {faulters + 1}"
        )
    changed = frozenset(collapsing) | frozenset(faulting)
    return Field(
        layout=layout,
        collapsing=tuple((region, owner[region]) for region in collapsing),
        faulting=tuple((region, owner[region]) for region in faulting),
        pages=tuple(piece for placed in layout.pages for piece in _outside(placed, changed, huge)),
        filled=sum(huge - resident[region] for region in collapsing) // page,
    )


def _by_region(placed: proc.Placed, huge: int) -> Iterator[tuple[int, int]]:
    """The huge-page regions that a run of pages lies in, and how many of its bytes lie in each."""
    va, end = placed.va, placed.va + placed.length
    while va < end:
        following = min(end, (va // huge + 1) * huge)
        yield va // huge * huge, following - va
        va = following


def _outside(placed: proc.Placed, changed: frozenset[int], huge: int) -> Iterator[proc.Placed]:
    """The parts of a run of pages that lie in none of these regions."""
    va = placed.va
    for region, length in _by_region(placed, huge):
        if region not in changed:
            pa = placed.pa + va - placed.va
            yield proc.Placed(va, pa, length, min(placed.page_size, huge), placed.flags, placed.mapping)
        va += length


def run(
    settings: Settings,
    *,
    pid: int | None = None,
    arch: str = "x86_64",
    tick: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Run the race and return its result: see `docs/race.md` for every key.

    tick: called about ten times a second with what is running and the seconds since the last call.

    Raises RaceError for settings that make no race, ProcessError for a process that cannot be read, AddressError for
    one that does not fit the architecture.
    """
    check(settings)
    image = proc.read(pid)
    field = divide(proc.lay_out(image, arch), settings.faulters)
    policies: dict[str, Any] = {}
    for policy in settings.policies:
        kinds = {kind: run_one(field, settings, policy, kind, tick) for kind in KINDS}
        both = _merge([kinds["file"], kinds["anonymous"]])
        both["wrong_translations"] = sum(numbers["wrong_translations"] for numbers in kinds.values())
        policies[policy] = {"kernel_path": KERNEL_PATHS[policy], **both, "kinds": kinds}
    seconds = settings.seconds / len(KINDS)
    for numbers in _every(policies.values()):
        elapsed = numbers.pop("seconds")
        numbers["translations_per_s"] = numbers["translations"] / elapsed
        numbers["faults_per_s"] = numbers["faults"] / elapsed
        numbers["latency_ns"] = quantiles(numbers["latency_buckets"])
        numbers["arrival_latency_ns"] = arrival_quantiles(numbers["latency_buckets"])
        numbers["fault_latency_ns"] = quantiles(numbers["fault_latency_buckets"])
    return {
        "ptl": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "arch": field.layout.arch.name,
        "pid": image.pid,
        "command": image.command,
        "pages": image.pages,
        "huge_pages": image.huge_pages,
        "mappings": len(image.mappings),
        "frame_numbers": "made up" if field.layout.frames_made_up else "real",
        "relocated": field.layout.relocated,
        "regions": len(field.collapsing),
        "fault_regions": len(field.faulting),
        "filled_pages": field.filled,
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "seconds": seconds,
        "readers": settings.readers,
        "faulters": settings.faulters,
        "collapsers": 1,
        "clock_ns": _race.clock_cost_ns(),
        "wrong_translations": sum(numbers["wrong_translations"] for numbers in policies.values()),
        "policies": policies,
    }


def check(settings: Settings) -> None:
    """Raise RaceError for settings that make no race."""
    if not 0 < settings.seconds <= 86_400:
        raise RaceError(f"seconds must be more than 0 and at most a day, not {settings.seconds}")
    if not 1 <= settings.readers <= 256 or not 1 <= settings.faulters <= REGIONS:
        raise RaceError(f"1 to 256 readers and 1 to {REGIONS} fault threads can race")
    unknown = [policy for policy in settings.policies if policy not in POLICIES]
    if unknown or not settings.policies or len(set(settings.policies)) < len(settings.policies):
        raise RaceError(f"policies must be different ones of {', '.join(POLICIES)}, not {', '.join(settings.policies)}")


def run_one(
    field: Field,
    settings: Settings,
    policy: str,
    kind: str,
    tick: Callable[[str, float], None] | None = None,
    beside: Callable[[PageTable, threading.Event], Sequence[Callable[[], None]]] | None = None,
) -> dict[str, Any]:
    """One policy and one kind of collapse on a table of its own, and what it came to.

    beside: makes more work for that table, a thread for each piece, which ends when the event is set.
    """
    arch = field.layout.arch
    domain = EpochDomain()
    frames = Frames(min(8 << 30, 1 << arch.table_bits), domain=domain)
    table = PageTable(arch, frames=frames)
    course = lay_course(field, table, policy)
    over = threading.Event()
    seed = settings.seed << 12
    readers = [_race.Runner(course, seed + 1 + number) for number in range(settings.readers)]
    faulters = [_race.Runner(course, seed + 1001 + number) for number in range(settings.faulters)]
    collapsers = [] if kind == "idle" else [_race.Runner(course, seed + 2001)]
    share = len(field.faulting) // len(faulters)
    work: list[Callable[[], None]] = [runner.read for runner in readers]
    work += [partial(runner.fault, number * share, share) for number, runner in enumerate(faulters)]
    work += [partial(runner.collapse, kind) for runner in collapsers]
    work += beside(table, over) if beside is not None else []

    def stop() -> None:
        course.stop()
        over.set()

    elapsed = run_for(settings.seconds / len(KINDS), work, stop, f"{policy}, {kind}", tick)
    if any(runner.failures for runner in faulters):
        raise RaceError(f"{policy}, {kind}: a fault thread could not map or unmap a page of its own")
    table.check()
    domain.synchronize()
    counts, epochs = table.stats(), domain.stats()
    return {
        "seconds": elapsed,
        "translations": sum(runner.done for runner in readers),
        "faults": sum(runner.done for runner in faulters),
        "latency_buckets": add_buckets(runner.latencies.buckets() for runner in readers),
        "fault_latency_buckets": add_buckets(runner.latencies.buckets() for runner in faulters),
        "collapses": counts["collapses"],
        "splits": counts["splits"],
        "retracts": counts["retracts"],
        "tables_retired": epochs["retired"],
        "tables_freed": epochs["freed"],
        "limbo_max": epochs["limbo_max"],
        "map_failures": counts["map_failures"],
        "rewalks": counts["rewalks"],
        "wrong_translations": sum(runner.wrong for runner in readers),
    }


def lay_course(field: Field, table: PageTable, policy: str) -> _race.Course:
    """Map everything, and hand the addresses to the native loops."""
    page, huge = table.arch.page_sizes[:2]
    for placed in field.pages:
        table.map(placed.va, placed.pa, placed.length, placed.flags, page_size=placed.page_size)
    collapsing = []
    for va, mapping in field.collapsing:
        run, other = table.frames.alloc(huge), table.frames.alloc(huge)
        table.map(va, run, huge, "rw", page_size=page)
        collapsing.append((va, run, other, mapping))
    faulting = [(va, table.frames.alloc(huge), mapping) for va, mapping in field.faulting]
    pages = [
        (placed.va + offset, placed.pa + offset, placed.mapping)
        for placed in field.pages
        for offset in range(0, placed.length, page)
    ]
    return _race.Course(table, policy, collapsing, faulting, pages, len(field.layout.spans))


def run_for(
    seconds: float,
    work: Sequence[Callable[[], None]],
    stop: Callable[[], None],
    what: str,
    tick: Callable[[str, float], None] | None,
) -> float:
    """Run every piece of work in a thread of its own until the time is over, then stop it; return how long it took."""
    failures: list[BaseException] = []
    start, finish = threading.Barrier(len(work) + 1), threading.Event()

    def guarded(piece: Callable[[], None]) -> None:
        try:
            start.wait()
            piece()
        except BaseException as error:
            failures.append(error)
            finish.set()

    threads = [threading.Thread(target=guarded, args=(piece,), daemon=True) for piece in work]
    for thread in threads:
        thread.start()
    start.wait()
    began = last = time.monotonic()
    try:
        while last - began < seconds and not finish.wait(min(TICK_SECONDS, seconds - (last - began))):
            now = time.monotonic()
            if tick is not None:
                tick(what, now - last)
            last = now
    finally:
        stop()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return time.monotonic() - began


# -- numbers ----------------------------------------------------------------------------------------------------------


def add_buckets(histograms: Iterable[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Histograms of the same buckets, added up."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for upper, count in histogram:
            total[upper] = total.get(upper, 0) + count
    return sorted(total.items())


def _merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of several kinds as one: counts and seconds added, the most of limbo."""
    merged: dict[str, Any] = {}
    for key, value in parts[0].items():
        values = [part[key] for part in parts]
        if isinstance(value, list):
            merged[key] = add_buckets(values)
        else:
            merged[key] = max(values) if key == "limbo_max" else sum(values)
    return merged


def _every(policies: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every dict of numbers: of the policies, and of their kinds."""
    for policy in policies:
        yield policy
        yield from policy["kinds"].values()


SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def quantiles(buckets: Sequence[tuple[int, int]]) -> dict[str, int]:
    """p50, p99, p99.9 and max in ns of the operations in a histogram; 0 of an empty one.

    >>> from ptl.race import quantiles
    >>> quantiles([(10, 500), (20, 499), (3000, 1)])
    {'p50': 10, 'p99': 20, 'p99.9': 20, 'max': 3000}
    """
    if not buckets:
        return dict.fromkeys([*SHARES, "max"], 0)
    uppers = [upper for upper, _ in buckets]
    below = list(accumulate(count for _, count in buckets))
    found = {name: uppers[bisect_left(below, share * below[-1])] for name, share in SHARES.items()}
    return {**found, "max": uppers[-1]}


def arrival_quantiles(buckets: Sequence[tuple[int, int]]) -> dict[str, int]:
    """The same for an operation that is due at a random moment: the rest of the one in progress, then a median one.

    A thread that is kept waiting begins no other operation meanwhile, so a count of operations hides how long the wait
    was (G. Tene, "How not to measure latency": coordinated omission). A random moment falls into an operation of
    duration d with a probability in proportion to d, and waits more than x with that of d - x.

    >>> from ptl.race import arrival_quantiles
    >>> arrival_quantiles([(10, 500), (20, 499), (3000, 1)])
    {'p50': 19, 'p99': 2830, 'p99.9': 2992, 'max': 3010}
    """
    if not buckets:
        return dict.fromkeys([*SHARES, "max"], 0)
    median = quantiles(buckets)["p50"]
    total = sum(upper * count for upper, count in buckets)
    found = {}
    for name, share in SHARES.items():
        # Walk down from the longest: `time` is the time in operations longer than x, less x for each of them.
        longer, time_longer, wait = 0, 0, 0.0
        for (upper, count), (below, _) in pairwise([*reversed(buckets), (0, 0)]):
            longer += count
            time_longer += upper * count
            wait = (time_longer - (1 - share) * total) / longer
            if wait >= below:
                break
        found[name] = round(wait) + median
    return {**found, "max": buckets[-1][0] + median}
