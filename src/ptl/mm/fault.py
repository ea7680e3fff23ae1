"""The fault handler: what happens when a program accesses an address that its table does not grant.

    entry              what happens when the mapping allows the access; otherwise a SegmentationFault
    EMPTY              a zeroed huge page, or page, is mapped: DEMAND_ZERO
    a leaf, to store   with one owner: REUSED; with several: COPIED
    SWAP               its page is brought back: SWAPPED_IN
    MIGRATION          wait, and look again
    GUARD              SegmentationFault all the same

D1  A page appears by one compare-exchange of the entry that was looked at. Who loses gives back what it prepared, and
    looks again.
D2  What is copied from is owned once more meanwhile, and looked at again after: it cannot be freed and used for
    something else behind an entry that looks the same.
D3  A frame loses its owner after the exchange that took the entry away; the exchange has flushed every TLB by then.
"""

from __future__ import annotations

import time
from enum import Enum

from ptl._core import AlreadyMapped, OutOfFrames, PageFault, PageTable, State
from ptl.mm.entries import Kind, Memory
from ptl.mm.mapping import Mapping
from ptl.mm.policy import Regions


class Fault(Enum):
    """What the handler did."""

    DEMAND_ZERO = "a zeroed page was mapped"
    DEMAND_ZERO_HUGE = "a zeroed huge page was mapped"
    COPIED = "a shared page was copied for a store"
    REUSED = "a page that nobody else has was made writable"
    SWAPPED_IN = "a page was brought back"
    SPURIOUS = "the access was granted already"


class SegmentationFault(Exception):
    """An access that no mapping allows.

    va; access: "r", "w" or "x"; user: whether the program made it; present: whether a page was there (protection).
    """

    def __init__(self, va: int, access: str, user: bool, present: bool) -> None:
        super().__init__(va, access, user, present)
        self.va, self.access, self.user, self.present = va, access, user, present

    @property
    def error_code(self) -> int:
        """The error code of an x86 page fault: present 1, write 2, user 4, instruction fetch 16."""
        return self.present | (self.access == "w") << 1 | self.user << 2 | (self.access == "x") << 4

    def __str__(self) -> str:
        kinds = {"r": "load from", "w": "store to", "x": "fetch from"}
        why = "protection" if self.present else "nothing mapped"
        return f"{'user' if self.user else 'kernel'} {kinds[self.access]} {self.va:#x}: {why}"


class Handler:
    """Resolves faults of one table. Each call runs inside the mapping (policy.py, P1)."""

    def __init__(self, pt: PageTable, memory: Memory) -> None:
        self.pt = pt
        self.memory = memory
        self.page = memory.page
        self.huge = pt.arch.level(2).span if pt.arch.level(2).leaf is not None else 0
        self.regions = Regions(pt.arch.level(2).span)

    def flags(self, prot: str, *, writable: bool = True) -> str:
        """The attributes of a leaf of a mapping: the user's, readable where the format cannot do without."""
        arch = self.pt.arch
        letters = {letter for letter in prot if writable or letter != "w"} & (
            set(arch.flags) | set(arch.implied) | {"w"}
        )
        letters |= {"r"} if not letters or ("w" in letters and arch.write_needs_read) else set()
        return "".join(letters) + ("u" if "u" in arch.flags else "")

    def resolve(self, mapping: Mapping, va: int, access: str, user: bool) -> Fault:
        """Make one access possible. Raises SegmentationFault, OutOfFrames."""
        va &= -self.page
        # Ends: each turn follows a change by somebody else.
        while True:
            step = self.pt.walk(va).steps[-1]
            present = step.state in (State.HUGE, State.INVALID)
            if access not in self.flags(mapping.prot) or not mapping.prot:
                raise SegmentationFault(va, access, user, present)
            if step.state in (State.INVALID, State.BUSY):
                time.sleep(0)
                continue
            if step.state is State.EMPTY:
                done = self._zero(mapping, va)
            elif step.state is State.HUGE:
                done = self._store(mapping, va, step.level, step.raw, access)
            elif step.state is State.SOFT:
                done = self._return(mapping, va, step.level, step.raw, access, user)
            else:
                raise PageFault(va, step.level, step.state)
            if done is not None:
                return done

    # -- nothing there

    def _zero(self, mapping: Mapping, va: int) -> Fault | None:
        region = va & -self.huge if self.huge else 0
        if self.huge and mapping.huge_pages and mapping.covers(region, region + self.huge) and self._is_free(region):
            done = self._zeroed(mapping, region, self.huge)
            if done is not None:
                return done
        return self._zeroed(mapping, va, self.page)

    def _is_free(self, region: int) -> bool:
        """Whether there is no leaf table where a huge page would be."""
        slot = self.pt.pmd(region)
        return slot is None or slot.state is State.EMPTY

    def _zeroed(self, mapping: Mapping, va: int, size: int) -> Fault | None:
        """Map zeroed memory; None when somebody was faster, or there is none of that size but there may be pages."""
        try:
            pa = self.memory.frames.alloc(size)
        except OutOfFrames:
            if size == self.page:
                raise
            return None
        try:
            self.pt.map(va, pa, size, self.flags(mapping.prot), page_size=size)
        except AlreadyMapped:
            self.memory.frames.free(pa, size)
            return None
        except BaseException:
            self.memory.frames.free(pa, size)
            raise
        return Fault.DEMAND_ZERO if size == self.page else Fault.DEMAND_ZERO_HUGE

    # -- a page that does not grant the access

    def _store(self, mapping: Mapping, va: int, level: int, raw: int, access: str) -> Fault | None:
        entry = self.pt.arch.decode(raw, level)
        assert entry.pa is not None
        if access in entry.flags:
            return Fault.SPURIOUS
        size = self.pt.arch.level(level).span
        writable = "w" in mapping.prot and not self.memory.is_shared(entry.pa, size)
        if access != "w" or writable:
            return (
                Fault.REUSED if self._exchange(va, level, raw, self._leaf(mapping, entry.pa, level, writable)) else None
            )
        if size > self.page:
            self.split(va)
            return None
        return self._copy(mapping, va, raw, entry.pa)

    def _copy(self, mapping: Mapping, va: int, raw: int, pa: int) -> Fault | None:
        """Give the page that is mapped to others, too, and a copy to this mapping."""
        if not self.memory.share(pa, self.page):
            return None
        try:
            if self.pt.walk(va).steps[-1].raw != raw:  # D2
                return None
            copy = self.memory.frames.alloc(self.page)
            self.memory.copy(pa, copy, self.page)
            if self._exchange(va, 1, raw, self._leaf(mapping, copy, 1, True)):
                self.memory.free(pa, self.page)
                return Fault.COPIED
            self.memory.free(copy, self.page)
            return None
        finally:
            self.memory.free(pa, self.page)

    def split(self, va: int) -> None:
        """Make small pages of the huge one that maps an address, in the table and in the frames."""
        with self.regions.held(va):
            leaf = self.pt.lookup(va)
            if leaf is not None and leaf.size > self.page:
                self.memory.split(leaf.pa, leaf.size)
                self.pt.split(va, self.page)

    # -- something of our own

    def _return(self, mapping: Mapping, va: int, level: int, raw: int, access: str, user: bool) -> Fault | None:
        soft = self.pt.arch.decode_soft(raw, level)
        if soft.type == Kind.SWAP:
            return self._swap_in(mapping, va, raw, soft.offset)
        if soft.type == Kind.MIGRATION:
            time.sleep(0)
            return None
        raise SegmentationFault(va, access, user, False)

    def _swap_in(self, mapping: Mapping, va: int, raw: int, place: int) -> Fault | None:
        contents = self.memory.swap.use(place)
        if contents is None:
            return None
        try:
            pa = self.memory.frames.alloc(self.page)
            self.memory.frames.view(pa, self.page)[:] = contents
            if self._exchange(va, 1, raw, self._leaf(mapping, pa, 1, True)):
                self.memory.swap.drop(place)
                return Fault.SWAPPED_IN
            self.memory.free(pa, self.page)
            return None
        finally:
            self.memory.swap.drop(place)

    # -- one entry

    def _leaf(self, mapping: Mapping, pa: int, level: int, writable: bool) -> int:
        return self.pt.arch.encode(pa, self.flags(mapping.prot, writable=writable), level)

    def _exchange(self, va: int, level: int, raw: int, new: int) -> bool:
        """Compare-exchange of the entry that was seen, if it still decides on that level."""
        return self.pt.compare_exchange(va, raw, new, level=level)
