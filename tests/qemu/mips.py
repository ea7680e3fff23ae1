"""MIPS, whose TLB is filled as Linux's handler would: with the two entries of a pair of pages, shifted.

    leaf, mips32    31 ...... 12   11-9   8    7   6   5-0
    EntryLo         25 ....... 6   5-3    2    1   0
                    frame number   C      D    V   G

All addresses but those from 0x8000_0000 on, for a GiB, go through the TLB; the code lies there. The kernel reaches
every page of the TLB, and a user the same pages below.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.core import Core
from qemu.emulator import Emulator, EmulatorError

KSEG0 = 0x8000_0000


class Mips32(Core):
    """A core without RI and XI. One entry of the TLB is used, and written anew for each access."""

    modes = (Mode.SUPERVISOR,)
    sets = ""
    target = "mipsel"
    arguments = ("-M", "none", "-cpu", "24Kf")
    byte_order = "little"
    layout: ClassVar = dict.fromkeys((*(f"r{n}" for n in range(32)), *["status", "lo", "hi", "bad", "cause", "pc"]), 4)
    value_register = "r11"
    CODE, LOAD, STORE, FILL, FILLED = 0x8010_0000, 0, 4, 8, 28
    code = (
        0x818B0000,  #  0 lb $11, 0($12)
        0xA18B0000,  #  4 sb $11, 0($12)
        0x40885000,  #  8 mtc0 $8, EntryHi
        0x40891000,  # 12 mtc0 $9, EntryLo0
        0x408A1800,  # 16 mtc0 $10, EntryLo1
        0x40800000,  # 20 mtc0 $0, Index
        0x42000002,  # 24 tlbwi
        0x00000000,  # 28 nop
    )
    VECTORS: ClassVar = (0x8000_0000, 0x8000_0180)  # of a miss, and of all other faults
    TLB_FAULTS: ClassVar = (1, 2, 3)  # not writable, not valid for a load or a fetch, for a store
    NO_MEMORY: ClassVar = (6, 7)
    ENTRY_LO_SHIFT = 6

    def permits(self, flags: str, access: Access) -> bool:
        reads = {"r", "a"} <= set(flags)
        return reads and ({"w", "d"} <= set(flags) if access is Access.WRITE else access.letter in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1

    def unjudged(self, level: int, *, leaf: bool) -> int:
        return 0

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE - KSEG0)
        emulator.stub.stop_at(cls.CODE + cls.FILLED)

    @classmethod
    def translates(cls, va: int) -> bool:
        """Whether an address goes through the TLB."""
        return not 0x8000_0000 <= va < 0xC000_0000

    def _use(self, va: int, access: Access) -> bool:
        self._fill(va)
        start = va & ~0b11 if access is Access.EXECUTE else self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE]
        self.stub.step(status=0, r12=va, pc=start)
        if self.stub.read("pc") not in self.VECTORS:
            return True
        cause = self.stub.read("cause") >> 2 & 0b1_1111
        if access is Access.EXECUTE:
            return cause not in self.TLB_FAULTS or self.stub.read("bad") != start  # it may fetch a load, which faults
        if cause not in (*self.TLB_FAULTS, *self.NO_MEMORY):
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with cause {cause}")
        return cause not in self.TLB_FAULTS

    def _fill(self, va: int) -> None:
        """What the handler of a TLB miss does: two loads to the pair of entries, a shift, and no look at them."""
        table = self._word(self.pt.root + (va >> 22) * 4) - KSEG0
        even, odd = (self._word(table + (va >> 12 & 0x3FF & ~1) * 4 + at) for at in (0, 4))
        shift = self.ENTRY_LO_SHIFT
        self.stub.run(status=0, r8=va & ~0x1FFF, r9=even >> shift, r10=odd >> shift, pc=self.CODE + self.FILL)

    def _word(self, pa: int) -> int:
        return int.from_bytes(self.pt.frames.view(pa, 4), "little")

    def _flush(self) -> None:
        """Nothing is kept: see `_fill`."""
