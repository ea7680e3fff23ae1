"""A CPU that knows no root of a table: before each access the judge does what a kernel's handler of TLB misses does."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from mmu import FAULT, Access, Mode, Verdict

from qemu.core import Core


class Refilled(Core):
    """One core in one mode. What its TLB has of a page is written anew for each access."""

    sets = ""
    traps_first_access: ClassVar[bool] = True
    """Whether a page that is not marked accessed traps. Elsewhere the handler marks it, and the TLB does not mind."""
    run_sizes: ClassVar[tuple[int, ...]] = ()
    """The sizes of runs that its TLB knows."""

    def translate_from(self, filled: int, va: int, access: Access) -> Verdict:
        """Where an access to an address goes with what the handler finds for another."""
        self._fill(filled)
        return self.physical(va) if self._execute(va, access) else FAULT

    def permits(self, flags: str, access: Access) -> bool:
        granted = set(flags)
        if (self.mode is Mode.USER and "u" not in granted) or (self.traps_first_access and "a" not in granted):
            return False
        return {"w", "d"} <= granted if access is Access.WRITE else access.letter in granted

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1

    def unjudged(self, level: int, *, leaf: bool) -> int:
        return 0

    @classmethod
    def translates(cls, va: int) -> bool:
        """Whether an address goes through the TLB, and neither it nor its neighbour is where the judge has its code."""
        return True

    def _use(self, va: int, access: Access) -> bool:
        self._fill(va)
        return self._execute(va, access)

    @abstractmethod
    def _fill(self, va: int) -> None:
        """Do what the handler does."""

    @abstractmethod
    def _execute(self, va: int, access: Access) -> bool:
        """Execute the access; False when it faults."""

    def _word(self, table: int, index: int) -> int:
        """An entry of a table at a physical address."""
        size = self.arch.entry_bytes
        return int.from_bytes(self.pt.frames.view(table + index * size, size), self.arch.byte_order)

    def _flush(self) -> None:
        """Nothing is kept: see `_fill`."""
