"""MIPS, whose TLB is filled as Linux's handlers would: with the two entries of a pair of pages, shifted.

    leaf, mips32              31 ...... 12   11-9   8    7   6   5-0
    EntryLo                   25 ....... 6   5-3    2    1   0
                              frame number   C      D    V   G
    leaf, mips64    7    6    49 ...... 14   13-11  10   9   8   5-0
    EntryLo         63   62   41 ....... 6   5-3    2    1   0
                    RI   XI   frame number   C      D    V   G

A leaf of 2 MiB goes into both halves of a TLB entry for 2 x 1 MiB. The code lies in the window on memory that needs no
TLB. The kernel reaches every page of the TLB, and a user the same pages below that window.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.emulator import Emulator, EmulatorError
from qemu.refilled import Refilled

REGISTERS = (*(f"r{n}" for n in range(32)), *["status", "lo", "hi", "bad", "cause", "pc"])


class Mips32(Refilled):
    """A core without RI and XI. One entry of the TLB is used, and written anew for each access."""

    modes = (Mode.SUPERVISOR,)
    target = "mipsel"
    arguments = ("-M", "none", "-cpu", "24Kf")
    byte_order = "little"
    layout: ClassVar = dict.fromkeys(REGISTERS, 4)
    value_register = "r11"
    code = (
        0x818B0000,  #  0 lb $11, 0($12)
        0xA18B0000,  #  4 sb $11, 0($12)
        0x40885000,  #  8 mtc0 $8, EntryHi
        0x40891000,  # 12 mtc0 $9, EntryLo0
        0x408A1800,  # 16 mtc0 $10, EntryLo1
        0x408D2800,  # 20 mtc0 $13, PageMask
        0x40800000,  # 24 mtc0 $0, Index
        0x42000002,  # 28 tlbwi
        0x00000000,  # 32 nop
        0x408D2801,  # 36 mtc0 $13, PageGrain
    )
    LOAD, STORE, FILL, FILLED, SET_PAGE_GRAIN = 0, 4, 8, 32, 36

    WINDOW, CODE_PA = 0x8000_0000, 0x10_0000
    VECTORS: ClassVar = (0x000, 0x080, 0x180)  # of a miss, of one with 64 bits, and of all other faults
    TLB_FAULTS: ClassVar = (1, 2, 3, 19, 20)  # not writable; not valid for a load or fetch, for a store; RI; XI
    NO_MEMORY: ClassVar = (6, 7)
    STATUS = 0
    PAIR, HALVES_OF_1_MIB = 0x2000, 0x1F_E000

    def permits(self, flags: str, access: Access) -> bool:
        reads = {"r", "a"} <= set(flags)
        return reads and ({"w", "d"} <= set(flags) if access is Access.WRITE else access.letter in flags)

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE_PA)
        emulator.stub.stop_at(cls.WINDOW + cls.CODE_PA + cls.FILLED)

    @classmethod
    def translates(cls, va: int) -> bool:
        return not 0x8000_0000 <= va < 0xC000_0000

    @property
    def _code(self) -> int:
        return self.WINDOW + self.CODE_PA

    def _execute(self, va: int, access: Access) -> bool:
        start = va & ~0b11 if access is Access.EXECUTE else self._code + (self.LOAD, self.STORE)[access is Access.WRITE]
        self.stub.step(status=self.STATUS, r12=va, pc=start)
        if self.stub.read("pc") - self.WINDOW not in self.VECTORS:
            return True
        cause = self.stub.read("cause") >> 2 & 0b1_1111
        if access is Access.EXECUTE:
            return cause not in self.TLB_FAULTS or self.stub.read("bad") != start  # it may fetch a load, which faults
        if cause not in (*self.TLB_FAULTS, *self.NO_MEMORY):
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with cause {cause}")
        return cause not in self.TLB_FAULTS

    def _fill(self, va: int) -> None:
        """What the handler of a TLB miss does: two loads to the pair of entries, a shift, and no look at them."""
        table = self._word(self.pt.root, va >> 22) - self.WINDOW
        even, odd = (self._word(table, va >> 12 & 0x3FE | half) for half in (0, 1))
        self._write_tlb(va & -self.PAIR, even >> 6, odd >> 6)

    def _write_tlb(self, entry_hi: int, entry_lo_0: int, entry_lo_1: int, page_mask: int = 0) -> None:
        entry = {"r8": entry_hi, "r9": entry_lo_0, "r10": entry_lo_1, "r13": page_mask}
        self.stub.run(status=self.STATUS, **entry, pc=self._code + self.FILL)


class Mips64(Mips32):
    """A core with RI and XI, and 48 bits of physical address."""

    target = "mips64el"
    arguments = ("-M", "none", "-cpu", "I6400")
    layout: ClassVar = dict.fromkeys(REGISTERS, 8)
    code = (
        *Mips32.code[:2],
        0x40A85000,  #  8 dmtc0 $8, EntryHi
        0x40A91000,  # 12 dmtc0 $9, EntryLo0
        0x40AA1800,  # 16 dmtc0 $10, EntryLo1
        *Mips32.code[5:],
    )

    WINDOW = 0xFFFF_FFFF_8000_0000
    TABLES = 0x9800_0000_0000_0000
    STATUS = 0b111 << 5  # 64-bit addresses for all
    RI_XI_AND_LARGE_ADDRESSES = 0b111 << 29
    HUGE = 1 << 4

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        super().set_up(emulator, pt)
        page_grain = cls.WINDOW + cls.CODE_PA + cls.SET_PAGE_GRAIN
        emulator.stub.step(status=cls.STATUS, r13=cls.RI_XI_AND_LARGE_ADDRESSES, pc=page_grain)

    @classmethod
    def translates(cls, va: int) -> bool:
        return True

    def _fill(self, va: int) -> None:
        """As for 32 bits; but an entry that is marked huge is the leaf, and RI and XI are rotated to the top."""
        middle = self._word(self.pt.root, va >> 30) - self.TABLES
        entry = self._word(middle, va >> 21 & 0x1FF)
        if entry & self.HUGE:
            lower = self._entry_lo(entry)
            upper = lower + (1 << 20 - 12 << 6)
            self._write_tlb(va & -(1 << 21), lower, upper, self.HALVES_OF_1_MIB)
        else:
            even, odd = (self._word(entry - self.TABLES, va >> 12 & 0x1FE | half) for half in (0, 1))
            self._write_tlb(va & -self.PAIR, self._entry_lo(even), self._entry_lo(odd))

    @staticmethod
    def _entry_lo(raw: int) -> int:
        shifted = raw >> 6
        return shifted >> 2 | (shifted & 0b11) << 62
