"""An address space: what the kernel's `mm_struct` is to a program, over one `PageTable`.

    program --read, write--> Tlb --walk--> PageTable <--one entry at a time-- faults, zaps, forks
                              |                ^
                          miss, fault          '--- collapser, migration
                              v
    mappings --find--> Handler.resolve

S1  A leaf is inside a mapping, grants no more than the mapping, and owns its frames once.
S2  Entries change by compare-exchange only, here as in the fault handler: beside a change of mappings there may still
    be loads and stores of the program, which set accessed and dirty.
S3  Who takes an entry out owns what it owned, and lets go of it afterwards (entries.py). So frames are counted
    exactly, whoever wins.
S4  Changes of mappings hold `_changing`, then keep faults and transitions out of the mappings concerned (policy.py).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from types import TracebackType
from typing import Self

from ptl._core import (
    AddressError,
    AlreadyMapped,
    Frames,
    Outcome,
    OutOfFrames,
    PageFault,
    PageTable,
    PteMap,
    State,
    Step,
    Tlb,
)
from ptl.collapse import Limits, ScanResult, collapse_pages
from ptl.mm.entries import FRAME_KINDS, Kind, Memory
from ptl.mm.fault import Fault, Handler, SegmentationFault
from ptl.mm.mapping import Mapping, Mappings
from ptl.mm.policy import POLICIES

FRAMES_BYTES = 1 << 30  # of address space: memory is committed as it is used


class Advice(Enum):
    """What `madvise` is told."""

    DONTNEED = "give the pages back; the next access finds zeros"
    COLLAPSE = "make huge pages now"
    HUGEPAGE = "use huge pages"
    NOHUGEPAGE = "use no huge pages"
    GUARD = "let every access fault; pages are given back"
    UNGUARD = "take the guards away"


class AddressSpace:
    """Mappings of anonymous private memory, the faults that fill them, and the program's loads and stores.

    policy: "epoch", "vma_lock" or "mmap_lock": what faults, transitions and changes of mappings take (`ptl.mm.policy`).
    arch: an architecture.
    frames: the memory; by default 1 GiB of its own, committed as it is used.
    huge_pages: whether faults of new mappings may use huge pages.

    Any number of threads may use it at once. A context manager: leaving gives everything back. Raises ValueError for an
    unknown policy.

    >>> import ptl.mm
    >>> with ptl.mm.AddressSpace() as space:
    ...     va = space.mmap(8192)
    ...     space.write(va + 4094, b"over the edge")
    ...     child = space.fork()
    ...     child.write(va + 4094, b"OVER")
    ...     space.read(va + 4094, 13), child.read(va + 4094, 13)
    ...     child.close()
    (b'over the edge', b'OVER the edge')
    """

    def __init__(
        self,
        policy: str = "epoch",
        *,
        arch: str = "x86_64",
        frames: Frames | None = None,
        huge_pages: bool = True,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"unknown policy {policy!r}; known are {', '.join(POLICIES)}")
        if frames is None:
            frames = Frames(FRAMES_BYTES)
        self._begin(policy, PageTable(arch, frames=frames), None, huge_pages)

    def _begin(self, policy: str, pt: PageTable, memory: Memory | None, huge_pages: bool) -> None:
        self.pt = pt
        self.policy = policy
        self.huge_pages = huge_pages
        self.memory = memory or Memory(pt.arch, pt.frames)
        self._policy = POLICIES[policy]()
        self._handler = Handler(pt, self.memory)
        self._page = pt.arch.level(1).span
        self._huge = pt.arch.level(2).span
        self._top = 1 << (pt.arch.va_bits - pt.arch.region_bits - pt.arch.sign_extended)
        self._mappings = Mappings()
        self._changing = threading.RLock()  # a change that ends in another
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._cpus = threading.local()

    @property
    def frames(self) -> Frames:
        """The memory."""
        return self.pt.frames

    def mappings(self) -> list[Mapping]:
        """The mappings, ascending."""
        return list(self._mappings)

    # -- changes of mappings

    def mmap(self, length: int, prot: str = "rw", *, addr: int | None = None, grows_down: bool = False) -> int:
        """Map `length` bytes of zeroed private memory, and return their address.

        prot: letters of "rwx", or "" for no access.
        addr: where; by default the first gap, aligned for huge pages when it is that long.
        grows_down: whether a fault just below makes it longer, as a stack.

        Nothing is allocated before the first access. Raises AddressError for what is no range of pages, ValueError for
        prot, AlreadyMapped when `addr` is taken, OutOfFrames when no gap is large enough. O(mappings).
        """
        self._check_prot(prot)
        self._check_range(addr or 0, length)
        with self._changing:
            if addr is None:
                addr = self._gap(length)
            elif self._mappings.overlapping(addr, addr + length):
                raise AlreadyMapped(f"va {addr:#x} with {length:#x} bytes is mapped already")
            mapping = Mapping(addr, addr + length, prot, grows_down, self.huge_pages)
            self._mappings = self._mappings.replaced((), (mapping,))
        return addr

    def munmap(self, va: int, length: int) -> None:
        """Remove whatever is mapped in a range, and give its memory back. O(pages). Raises AddressError."""
        self._check_range(va, length)
        with self._change(va, va + length) as pieces:
            self._zap(va, va + length)
            self._publish(pieces, va, va + length, lambda piece: None)

    def mprotect(self, va: int, length: int, prot: str) -> None:
        """Allow other accesses in a range, which must be mapped throughout.

        O(pages). Raises AddressError, ValueError.
        """
        self._check_prot(prot)
        self._check_range(va, length)
        with self._change(va, va + length, whole=True) as pieces:
            self._rewrite(va, va + length, lambda raw, level: self._protected(raw, level, prot))
            self._publish(pieces, va, va + length, lambda piece: _like(piece, prot=prot))

    def mremap(self, old: int, old_length: int, new_length: int, *, new: int | None = None) -> int:
        """Make a mapped range longer or shorter, where it is or elsewhere, and return its address.

        new: where to; what is there is unmapped. By default where it is, or in a gap when it cannot grow there.

        All of the old range must be one mapping. All or nothing. Raises AddressError, OutOfFrames when no gap is large
        enough or tables are missing. O(pages).
        """
        self._check_range(old, old_length)
        self._check_range(old, new_length)
        if new is not None:
            self._check_range(new, new_length)
            if new < old + old_length and old < new + new_length:
                raise AddressError(f"va {new:#x} with {new_length:#x} bytes overlaps what is moved")
        with self._changing:
            mapping = self._mappings.at(old)
            if mapping is None or not mapping.covers(old, old + old_length):
                raise AddressError(f"va {old:#x} with {old_length:#x} bytes is not one mapping")
            if new is None and new_length <= old_length:
                if new_length < old_length:
                    self.munmap(old + new_length, old_length - new_length)
                return old
            if new is None and self._grow(mapping, old + old_length, old + new_length):
                return old
            if new is None:
                new = self._gap(new_length)
            self._move(mapping, range(old, old + old_length), range(new, new + new_length))
        return new

    def _gap(self, length: int) -> int:
        """The first free place of that length, aligned for huge pages when it is that long."""
        align = self._huge if length >= self._huge else self._page
        found = self._mappings.gap(length, align, self._huge, self._top - self._page)
        if found is None:
            raise OutOfFrames(f"no gap of {length:#x} bytes in this address space")
        return found

    def _grow(self, mapping: Mapping, end: int, new_end: int) -> bool:
        """Make a mapping longer where it ends; False when it goes on there, or something else is in the way."""
        if mapping.end != end or new_end > self._top - self._page or self._mappings.overlapping(end, new_end):
            return False
        with self._policy.change((mapping,)):
            self._mappings = self._mappings.replaced((mapping,), (_like(mapping, end=new_end),))
        return True

    def _move(self, source: Mapping, old: range, new: range) -> None:
        """Move a range of a mapping, and cut or lengthen it to another's length; all or nothing."""
        moved = min(len(old), len(new))
        touched = sorted({source, *self._mappings.overlapping(new.start, new.stop)}, key=lambda mapping: mapping.start)
        with self._policy.change(touched):
            for edge in (old.start, old.start + moved, old.stop):
                self._cut(edge)
            if (new.start - old.start) % self._huge:  # no huge page fits its new place
                self._make_all_small(old.start, old.start + moved)
            # In pages, what gives way can be put back where its tables still are: that needs no memory.
            self._make_all_small(new.start, new.stop)
            replaced = self._take(new.start, new.stop)
            try:
                self.pt.move(old.start, new.start, moved)
            except BaseException:
                for va, level, raw in replaced:
                    done = self.pt.compare_exchange(va, self.pt.arch.level(level).empty, raw, level=level)
                    assert done, f"va {va:#x} was filled while nobody was inside"
                raise
            self._release(replaced)
            self._release(self._take(old.start + moved, old.stop))
            self.pt.reclaim_empty(old.start, len(old))
            self.pt.reclaim_empty(new.start, len(new))
            rest = _outside(_outside(touched, old.start, old.stop), new.start, new.stop)
            self._mappings = self._mappings.replaced(touched, [*rest, _like(source, start=new.start, end=new.stop)])

    def madvise(self, va: int, length: int, advice: Advice) -> Outcome:
        """Say what a range, which must be mapped throughout, is for: see `Advice`.

        Returns DONE; for COLLAPSE, DONE when every whole huge page in the range is one now, or else the outcome of the
        last that is not. Raises AddressError, OutOfFrames. O(pages).
        """
        self._check_range(va, length)
        if advice is Advice.COLLAPSE:
            return self._collapse_all(va, length)
        with self._change(va, va + length, whole=True) as pieces:
            if advice in (Advice.HUGEPAGE, Advice.NOHUGEPAGE):
                huge_pages = advice is Advice.HUGEPAGE
                self._publish(pieces, va, va + length, lambda piece: _like(piece, huge_pages=huge_pages))
            elif advice is Advice.GUARD:
                self._guard(va, va + length)
            else:
                self._zap(va, va + length, guards_only=advice is Advice.UNGUARD)
        return Outcome.DONE

    def _guard(self, start: int, end: int) -> None:
        """Put a guard in place of everything in a range: tables first, as only they can be missing."""
        try:
            for region in range(start & -self._huge, end, self._huge):
                with self._leaf_table(max(start, region)):
                    pass
        except OutOfFrames:
            self.pt.reclaim_empty(start, end - start)
            raise
        self._release(self._take(start, end))
        guard = self.memory.absent(Kind.GUARD)
        for page in range(start, end, self._page):
            done = self.pt.compare_exchange(page, self.pt.arch.level(1).empty, guard, level=1)
            assert done, f"va {page:#x} was filled while nobody was inside"

    def mincore(self, va: int, length: int) -> bytes:
        """Which pages of a range, which must be mapped throughout, are in memory: a 1 or 0 each. O(pages)."""
        self._check_range(va, length)
        self._check_whole(va, va + length)
        return bytes(self._is_resident(page) for page in range(va, va + length, self._page))

    def _is_resident(self, va: int) -> bool:
        step = self.pt.walk(va).steps[-1]
        if step.state is State.SOFT:
            return self.pt.arch.decode_soft(step.raw, step.level).type in FRAME_KINDS
        return step.state in (State.HUGE, State.INVALID)

    def fork(self) -> AddressSpace:
        """A copy of this space: pages are shared until one of the two stores to them.

        Raises OutOfFrames, and gives back what the copy had. O(pages).
        """
        child = AddressSpace.__new__(AddressSpace)
        child._begin(self.policy, PageTable(self.pt.arch, frames=self.frames), self.memory, self.huge_pages)
        try:
            with self._changing, self._policy.change(self._mappings):
                child._mappings = Mappings(_like(mapping) for mapping in self._mappings)
                for mapping in self._mappings:
                    for va, level, raw in self._entries(mapping.start, mapping.end):
                        self._share_with(child, va, level, raw)
        except BaseException:
            child.close()
            raise
        return child

    def _share_with(self, child: AddressSpace, va: int, level: int, raw: int) -> None:
        """Let a child have one entry, too. Nobody but hardware changes it meanwhile."""
        # Ends: a failure means that hardware has set accessed or dirty, which it does once.
        while True:
            entry = self.pt.arch.decode(raw, level)
            final = raw if entry.state is State.SOFT else self._withheld(raw, level)
            if self.pt.compare_exchange(va, raw, final, level=level):
                break
            raw = self.pt.walk(va).steps[-1].raw
        if not self.memory.hold(final, level):
            raise AssertionError(f"entry {final:#x} of va {va:#x} owns nothing")
        try:
            child._install(va, level, final)
        except BaseException:
            self.memory.release(final, level)
            raise

    def _install(self, va: int, level: int, raw: int) -> None:
        """Put an entry where nothing is, in a space that nobody else knows yet."""
        entry = self.pt.arch.decode(raw, level)
        if entry.state is State.HUGE:
            assert entry.pa is not None
            size = self.pt.arch.level(level).span
            self.pt.map(va, entry.pa, size, entry.flags.replace("a", "").replace("d", ""), page_size=size)
        elif level == 1:
            with self._leaf_table(va) as ptes:
                ptes.compare_exchange(ptes.index, self.pt.arch.level(1).empty, raw)
        else:
            size = self.pt.arch.level(level).span
            self.pt.map(
                va,
                self.pt.arch.decode_soft(raw, level).offset * self._page,
                size,
                self._handler.flags("r"),
                page_size=size,
            )
            self.pt.exchange(va, raw)

    @contextmanager
    def _leaf_table(self, va: int) -> Iterator[PteMap]:
        ptes = None
        while ptes is None:
            ptes = self.pt.pte_alloc_map(va)
            if ptes is None:
                self._make_small(va, self.pt.walk(va).steps[-1])
        with ptes:
            yield ptes

    # -- the entries of a range

    def _entries(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(va, level, raw) of every entry in a range that is not empty; nobody else changes which there are."""
        va = start
        while va < end:
            step = self.pt.walk(va).steps[-1]
            span = self.pt.arch.level(step.level).span
            first = va & -span
            if step.state is not State.EMPTY:
                yield first, step.level, step.raw
            va = first + span

    def _rewrite(self, start: int, end: int, rewrite: Callable[[int, int], int | None]) -> None:
        """Exchange every entry of a range for what `rewrite(raw, level)` says, if not None; cut what sticks out."""
        self._cut(start)
        self._cut(end)
        for va, level, seen in self._entries(start, end):
            raw = seen
            # Ends: a failure means that hardware has set accessed or dirty, which it does once.
            while (new := rewrite(raw, level)) is not None and new != raw:
                if self.pt.compare_exchange(va, raw, new, level=level):
                    break
                raw = self.pt.walk(va).steps[-1].raw

    def _cut(self, va: int) -> None:
        """Make small pages of what is huge and has an address in its middle."""
        if va < self._top:
            step = self.pt.walk(va).steps[-1]
            if va % self.pt.arch.level(step.level).span:
                self._make_small(va, step)

    def _make_small(self, va: int, step: Step) -> None:
        """Make small pages of a huge page, or of an entry in place of one."""
        if step.level > 1 and step.state is State.SOFT:
            size = self.pt.arch.level(step.level).span
            self.memory.split(self.pt.arch.decode_soft(step.raw, step.level).offset * self._page, size)
            self.pt.split(va, self._page)
        elif step.level > 1 and step.state is not State.EMPTY:
            self._handler.split(va)

    def _make_all_small(self, start: int, end: int) -> None:
        """Make small pages of everything huge in a range, and of what sticks out of it."""
        for va, _, _ in self._entries(start, end):
            self._make_small(va, self.pt.walk(va).steps[-1])

    def _zap(self, start: int, end: int, *, guards_only: bool = False) -> None:
        """Empty a range, let go of what its entries owned, and reclaim tables that became empty."""
        self._release(self._take(start, end, guards_only=guards_only))
        self.pt.reclaim_empty(start, end - start)

    def _take(self, start: int, end: int, *, guards_only: bool = False) -> list[tuple[int, int, int]]:
        """Empty a range, and return (va, level, raw) of what was there: the caller owns what that owned (S3)."""
        taken: list[tuple[int, int, int]] = []
        self._cut(start)
        self._cut(end)
        for va, level, seen in self._entries(start, end):
            raw, guard = seen, self.memory.absent(Kind.GUARD, level=level)
            # Ends: a failure means that hardware has set accessed or dirty, which it does once.
            while raw == guard or not guards_only:
                if self.pt.compare_exchange(va, raw, self.pt.arch.level(1).empty if level == 1 else guard, level=level):
                    taken.append((va, level, raw))
                    if level > 1:
                        self.pt.unmap(va, self.pt.arch.level(level).span)
                    break
                raw = self.pt.walk(va).steps[-1].raw
        return taken

    def _release(self, taken: list[tuple[int, int, int]]) -> None:
        """Let go of what entries owned that were taken out."""
        for _, level, raw in taken:
            self.memory.release(raw, level)

    def _withheld(self, raw: int, level: int) -> int:
        """A leaf that does not grant stores."""
        entry = self.pt.arch.decode(raw, level)
        assert entry.pa is not None
        flags = entry.flags.replace("w", "")
        return raw if flags == entry.flags else self.pt.arch.encode(entry.pa, flags, level)

    def _protected(self, raw: int, level: int, prot: str) -> int | None:
        """An entry under other permissions."""
        arch = self.pt.arch
        entry = arch.decode(raw, level)
        size = arch.level(level).span
        if entry.state is State.SOFT:
            soft = arch.decode_soft(raw, level)
            if soft.type != Kind.NO_ACCESS or not prot:
                return None
            pa, used = soft.offset * self._page, ""
        else:
            assert entry.pa is not None
            pa, used = entry.pa, "".join(set(entry.flags) & set("ad") & set(arch.flags))
        if not prot:
            return self.memory.absent_frames(Kind.NO_ACCESS, pa, level)
        writable = "w" in prot and not self.memory.is_shared(pa, size)
        return arch.encode(pa, self._handler.flags(prot, writable=writable) + used, level)

    # -- mappings as they are changed

    @contextmanager
    def _change(self, start: int, end: int, *, whole: bool = False) -> Iterator[list[Mapping]]:
        """The mappings of a range, with nobody else inside (S4). Raises AddressError for holes in a `whole` one."""
        with self._changing:
            if whole:
                self._check_whole(start, end)
            # With its neighbours, which it may become one with.
            touched = self._mappings.overlapping(max(start - 1, 0), end + 1)
            with self._policy.change(touched):
                yield touched

    def _publish(
        self, touched: list[Mapping], start: int, end: int, change: Callable[[Mapping], Mapping | None]
    ) -> None:
        """Replace the part of each mapping inside a range, and merge what is alike."""
        new: list[Mapping] = []
        for mapping in touched:
            if mapping.start < end and start < mapping.end:
                changed = change(_like(mapping, start=max(start, mapping.start), end=min(end, mapping.end)))
                new += [] if changed is None else [changed]
        merged: list[Mapping] = []
        for mapping in sorted([*_outside(touched, start, end), *new], key=lambda mapping: mapping.start):
            if merged and merged[-1].end == mapping.start and merged[-1].is_like(mapping):
                merged[-1] = _like(merged[-1], end=mapping.end)
            else:
                merged.append(mapping)
        self._mappings = self._mappings.replaced(touched, merged)

    def _check_whole(self, start: int, end: int) -> None:
        va = start
        for mapping in self._mappings.overlapping(start, end):
            if mapping.start > va:
                break
            va = mapping.end
        if va < end:
            raise AddressError(f"va {va:#x} is not mapped")

    def _check_range(self, va: int, length: int) -> None:
        if va % self._page or length % self._page or length <= 0:
            raise AddressError(f"va {va:#x} and length {length:#x} must be multiples of {self._page:#x}, and not 0")
        if not 0 <= va < self._top or va + length > self._top:
            raise AddressError(f"va {va:#x} with length {length:#x} is outside the {self._top:#x} bytes of this space")

    @staticmethod
    def _check_prot(prot: str) -> None:
        if set(prot) - set("rwx"):
            raise ValueError(f"prot must be letters of 'rwx', not {prot!r}")

    # -- faults, and the program

    def fault(self, va: int, access: str, *, user: bool = True) -> Fault:
        """Resolve a fault of an access "r", "w" or "x".

        Raises SegmentationFault when no mapping allows it, OutOfFrames. Under `epoch` lock-free against other faults
        but for the mapping's turnstile. O(levels), and a page's or huge page's clearing or copying.
        """
        if access not in ("r", "w", "x"):
            raise ValueError(f"access must be 'r', 'w' or 'x', not {access!r}")
        grown = False
        while True:
            with self._policy.work(lambda: self._mappings.at(va)) as mapping:
                if mapping is not None:
                    done = self._handler.resolve(mapping, va, access, user)
                    self._count(done.name.lower())
                    return done
            if grown or not self._grow_stack(va):
                raise SegmentationFault(va, access, user, False)
            grown = True

    def _grow_stack(self, va: int) -> bool:
        """Make the stack above an address longer, down to it; one page below it stays free, as a guard."""
        start = va & -self._page
        with self._changing:
            stack = self._mappings.above(va)
            if stack is None or not stack.grows_down or self._mappings.at(va) is not None:
                return self._mappings.at(va) is not None
            below = self._mappings.below(stack.start)
            if start < self._page or (below is not None and below.end > start - self._page):
                return False
            with self._policy.change((stack,)):
                self._mappings = self._mappings.replaced((stack,), (_like(stack, start=start),))
        self._count("stack_grown")
        return True

    def read(self, va: int, length: int, *, user: bool = True) -> bytes:
        """Load bytes as the program does, through this thread's Tlb; faults are resolved. Raises SegmentationFault."""
        result = bytearray()
        while len(result) < length:
            at = va + len(result)
            part = min(length - len(result), self._page - at % self._page)
            result += self._access(at, "r", user, partial(self._load, at, part, self._is_user(user)))
        return bytes(result)

    def write(self, va: int, data: bytes, *, user: bool = True) -> None:
        """Store bytes as the program does; pages before a SegmentationFault are stored."""
        done = 0
        while done < len(data):
            at = va + done
            part = data[done : done + self._page - at % self._page]
            self._access(at, "w", user, partial(self._store, at, part, self._is_user(user)))
            done += len(part)

    def _load(self, va: int, length: int, user: bool) -> bytes:
        return self.cpu().read(self.pt, va, length, user=user)

    def _store(self, va: int, data: bytes, user: bool) -> None:
        self.cpu().write(self.pt, va, data, user=user)

    def _is_user(self, user: bool) -> bool:
        return user and "u" in self.pt.arch.flags

    def _access(self, va: int, access: str, user: bool, use: Callable[[], bytes | None]) -> bytes:
        if not 0 <= va < self._top:
            raise SegmentationFault(va, access, user, False)
        # Ends: each turn follows a fault that was resolved, and somebody else's change since.
        while True:
            try:
                return use() or b""
            except PageFault:
                self.fault(va, access, user=user)

    def cpu(self) -> Tlb:
        """The Tlb of the calling thread, attached to the table."""
        tlb: Tlb | None = getattr(self._cpus, "tlb", None)
        if tlb is None:
            tlb = Tlb()
            tlb.attach(self.pt)
            self._cpus.tlb = tlb
        return tlb

    # -- transitions

    @contextmanager
    def _transition(self, va: int) -> Iterator[Mapping | None]:
        """The mapping of an address, kept as it is, and its region, whose leaves nobody else splits or moves (P4)."""
        with (
            self._policy.work(lambda: self._mappings.at(va), transition=True) as mapping,
            self._handler.regions.held(va),
        ):
            yield mapping

    def regions(self) -> list[int]:
        """The first addresses of what may become huge pages, for a `ptl.collapse.Collapser`."""
        return [
            va
            for mapping in self._mappings
            if mapping.huge_pages and mapping.prot and self._handler.huge
            for va in range(-(-mapping.start // self._huge) * self._huge, mapping.end - self._huge + 1, self._huge)
        ]

    def collapse_region(self, va: int, limits: Limits) -> ScanResult:
        """Make a huge page of one region's pages, if the limits allow; swapped pages are brought back first."""
        va &= -self._huge
        with self._transition(va) as mapping:
            if mapping is None or not mapping.prot or not mapping.huge_pages or not mapping.covers(va, va + self._huge):
                return ScanResult.NO_TABLE
            result = self._collapse(mapping, va, limits)
            if result is ScanResult.SWAPPED and self._bring_back(mapping, va):
                result = self._collapse(mapping, va, limits)
            return result

    def _collapse(self, mapping: Mapping, va: int, limits: Limits) -> ScanResult:
        return collapse_pages(
            self.pt,
            va,
            self._handler.flags(mapping.prot),
            max_ptes_none=limits.max_ptes_none,
            max_ptes_swap=limits.max_ptes_swap,
            max_ptes_shared=limits.max_ptes_shared,
        )

    def _bring_back(self, mapping: Mapping, va: int) -> bool:
        """Swap in what is swapped out of a region; False when something else is not present."""
        for page, level, raw in self._entries(va, va + self._huge):
            if self.pt.arch.decode(raw, level).state is State.SOFT:
                if self.pt.arch.decode_soft(raw, level).type != Kind.SWAP:
                    return False
                self._handler.resolve(mapping, page, next(iter(mapping.prot)), True)
        return True

    def _collapse_all(self, va: int, length: int) -> Outcome:
        self._check_whole(va, va + length)
        limits = Limits.of(entries := self.pt.arch.level(1).entries, swap=entries, shared=entries)
        outcome = Outcome.DONE
        for region in range(-(-va // self._huge) * self._huge, va + length - self._huge + 1, self._huge):
            result = self.collapse_region(region, limits)
            if result is ScanResult.NO_FRAMES:
                raise OutOfFrames(f"no frames for a huge page at va {region:#x}")
            outcome = OUTCOME_OF.get(result, outcome)
        return outcome

    def swap_out(self, va: int) -> bool:
        """Write a page to swap and give its frame back; whether that was done: a small page was there, and stayed."""
        va &= -self._page
        with self._transition(va) as mapping:
            held = self._isolate(va, 1) if mapping is not None else None
            if held is None:
                return False
            raw, waiting, pa = held
            place = self.memory.swap.put(bytes(self.frames.view(pa, self._page)))
            done = self.pt.compare_exchange(va, waiting, self.memory.absent(Kind.SWAP, place), level=1)
            assert done, f"entry {raw:#x} of va {va:#x} was changed during its migration"
            self.memory.free(pa, self._page)
        self._count("swapped_out")
        return True

    def migrate(self, va: int) -> bool:
        """Move what an address maps to other frames; whether that was done. Faults on it wait; stores are not lost."""
        with self._transition(va) as mapping:
            level = self.pt.walk(va).steps[-1].level
            size = self.pt.arch.level(level).span
            va &= -size
            held = self._isolate(va, level) if mapping is not None else None
            if held is None:
                return False
            raw, waiting, pa = held
            arch = self.pt.arch
            shared = self.memory.is_shared(pa, size)
            try:
                target = None if shared else self.frames.alloc(size)
            except OutOfFrames:
                target = None
            final = raw
            if target is not None:
                self.memory.copy(pa, target, size)
                final = arch.encode(target, arch.decode(raw, level).flags, level)
            done = self.pt.compare_exchange(va, waiting, final, level=level)
            assert done, f"entry {raw:#x} of va {va:#x} was changed during its migration"
            if target is None:
                return False
            self.memory.free(pa, size)
        self._count("migrated")
        return True

    def _isolate(self, va: int, level: int) -> tuple[int, int, int] | None:
        """Put a migration entry in place of a leaf: (the leaf, the entry, the frames); None when there is no such leaf.

        From then on only the caller changes the entry: everybody else waits for it.
        """
        step = self.pt.walk(va).steps[-1]
        if step.state is not State.HUGE or step.level != level:
            return None
        entry = self.pt.arch.decode(step.raw, level)
        assert entry.pa is not None
        waiting = self.memory.absent_frames(Kind.MIGRATION, entry.pa, level)
        if not self.pt.compare_exchange(va, step.raw, waiting, level=level):
            return None
        return step.raw, waiting, entry.pa

    # -- seeing inside

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1

    def stats(self) -> dict[str, int]:
        """Counters, as a dict: each `Fault` by its name in lower case, stack_grown, swapped_out, migrated."""
        with self._counting:
            return {name: self._counts[name] for name in (*(fault.name.lower() for fault in Fault), *OTHER_COUNTS)}

    def check(self, *family: AddressSpace) -> None:
        """Verify S1 and the owner counts of all frames, at rest, for this space and all others of its family.

        Raises AssertionError. O(pages).
        """
        spaces = (self, *family)
        owners: Counter[int] = Counter()
        places: Counter[int] = Counter()
        for space in spaces:
            space.pt.check()
            space._check_leaves(owners, places)
        for pa, count in owners.items():
            kept = self.memory.owners(pa, self._huge)
            if kept != count:
                raise AssertionError(f"the page at pa {pa:#x} has {kept} owners, and {count} entries")
        frames = len(owners) * (self._page // self.frames.frame_bytes)
        if self.frames.stats()["data_frames"] != frames:
            raise AssertionError(f"{self.frames.stats()['data_frames']} frames are in use, {frames} by entries")
        if dict(places) != self.memory.swap.uses():
            raise AssertionError(f"swap has uses {self.memory.swap.uses()}, entries {dict(places)}")

    def _check_leaves(self, owners: Counter[int], places: Counter[int]) -> None:
        for va, level, raw in self._entries(0, self._top):
            entry, size = self.pt.arch.decode(raw, level), self.pt.arch.level(level).span
            mapping = self._mappings.at(va)
            if mapping is None or not mapping.covers(va, va + size):
                raise AssertionError(f"va {va:#x} holds {entry} outside every mapping")
            pa = entry.pa
            if entry.state is State.SOFT:
                soft = self.pt.arch.decode_soft(raw, level)
                places.update([soft.offset] if soft.type == Kind.SWAP else [])
                pa = soft.offset * self._page if soft.type in FRAME_KINDS else None
            elif not mapping.prot or set(entry.flags) & set("rwxu") - self._grantable(mapping.prot):
                raise AssertionError(f"va {va:#x} grants {entry.flags!r}, its mapping {mapping.prot!r}")
            if pa is not None:
                owners.update(range(pa, pa + size, self._page))

    def _grantable(self, prot: str) -> set[str]:
        """What a leaf may grant at most."""
        return {*self.pt.arch.attributes(self._handler.flags(prot))}

    def close(self) -> None:
        """Unmap everything and give all memory back. The space can be used on."""
        for mapping in self.mappings():
            self.munmap(mapping.start, len(mapping))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


OTHER_COUNTS = ("stack_grown", "swapped_out", "migrated")

OUTCOME_OF = {
    ScanResult.TOO_EMPTY: Outcome.NOT_FULL,
    ScanResult.NO_TABLE: Outcome.NO_TABLE,
    ScanResult.TOO_SWAPPED: Outcome.IS_SOFT,
    ScanResult.SWAPPED: Outcome.IS_SOFT,
    ScanResult.BAD: Outcome.IS_BAD,
    ScanResult.CHANGED: Outcome.NO_TABLE,
}


def _outside(mappings: list[Mapping], start: int, end: int) -> list[Mapping]:
    """The parts of mappings outside a range."""
    parts: list[Mapping] = []
    for mapping in mappings:
        if mapping.end <= start or end <= mapping.start:
            parts.append(mapping)
            continue
        parts += [_like(mapping, end=start)] if mapping.start < start else []
        parts += [_like(mapping, start=end)] if end < mapping.end else []
    return parts


def _like(
    mapping: Mapping,
    *,
    start: int | None = None,
    end: int | None = None,
    prot: str | None = None,
    huge_pages: bool | None = None,
) -> Mapping:
    """A mapping like another, with a turnstile of its own."""
    return Mapping(
        mapping.start if start is None else start,
        mapping.end if end is None else end,
        mapping.prot if prot is None else prot,
        mapping.grows_down,
        mapping.huge_pages if huge_pages is None else huge_pages,
    )
