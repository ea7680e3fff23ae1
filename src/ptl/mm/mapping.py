"""Mappings: which addresses a program may use, and how; and the ordered set of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sortedcontainers import SortedDict

from ptl.mm.policy import Turnstile


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """Addresses [start, end) that a program may access as `prot` says, a string of letters of "rwx" or "".

    Immutable: a change of a mapping is another mapping in its place.
    """

    start: int
    end: int
    prot: str
    grows_down: bool = False
    """Whether a fault below it makes it longer: a stack."""
    huge_pages: bool = True
    """Whether a fault or a collapser may use huge pages."""
    turnstile: Turnstile = field(default_factory=Turnstile, repr=False)
    """What faults pass through, and changes of mappings close."""

    def __len__(self) -> int:
        return self.end - self.start

    def is_like(self, other: Mapping) -> bool:
        """Whether two mappings side by side could be one."""
        return (self.prot, self.grows_down, self.huge_pages) == (other.prot, other.grows_down, other.huge_pages)

    def covers(self, start: int, end: int) -> bool:
        """Whether all of [start, end) is inside."""
        return self.start <= start and end <= self.end


class Mappings:
    """An immutable set of mappings that do not overlap, ordered by address: changed by making another.

    So a reader needs no lock: it holds on to the set that it has found. O(log n) to find; O(n) to change.
    """

    def __init__(self, mappings: Iterable[Mapping] = ()) -> None:
        self._by_start: SortedDict[int, Mapping] = SortedDict((mapping.start, mapping) for mapping in mappings)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._by_start.values())

    def __len__(self) -> int:
        return len(self._by_start)

    def at(self, va: int) -> Mapping | None:
        """The mapping that has this address."""
        # Not by position: that would build an index, and a set that is read must not change.
        start = next(self._by_start.irange(maximum=va, reverse=True), None)
        if start is None or va >= self._by_start[start].end:
            return None
        return self._by_start[start]

    def above(self, va: int) -> Mapping | None:
        """The first mapping that begins above an address."""
        start = next(self._by_start.irange(minimum=va, inclusive=(False, False)), None)
        return None if start is None else self._by_start[start]

    def below(self, va: int) -> Mapping | None:
        """The last mapping that begins below an address."""
        start = next(self._by_start.irange(maximum=va, inclusive=(False, False), reverse=True), None)
        return None if start is None else self._by_start[start]

    def overlapping(self, start: int, end: int) -> list[Mapping]:
        """The mappings that have addresses in [start, end), ascending."""
        first = self.at(start)
        found = [] if first is None else [first]
        found += [self._by_start[at] for at in self._by_start.irange(start, end, inclusive=(False, False))]
        return found

    def gap(self, length: int, align: int, low: int, high: int) -> int | None:
        """The first address in [low, high) with `length` free bytes behind it, a multiple of `align`."""
        start = -(-low // align) * align
        for mapping in self:
            if mapping.end <= start:
                continue
            if mapping.start >= start + length:
                break
            start = -(-mapping.end // align) * align
        return start if start + length <= high else None

    def replaced(self, old: Iterable[Mapping], new: Iterable[Mapping]) -> Mappings:
        """A set without some mappings and with others."""
        gone = {mapping.start for mapping in old}
        return Mappings([*(mapping for mapping in self if mapping.start not in gone), *new])
