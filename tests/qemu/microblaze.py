"""MicroBlaze, whose TLB is filled as Linux's handler would: with the entry, but for the bits that are software's.

    leaf         31 ............. 12   11  10  9   8   7   6   5   4   3   2   1   0
                 physical address      F   A   X   WR  D   W       U   Wt  I   P   G
    TLBLO        frame number          0   0   X   WR  zone = U........Wt  I   0   G

Zone 0 is out of a user's reach, and in zone 1 the rights of the entry hold, as Linux has it. Two entries of the TLB are
used: one for the page, written anew for each access, and one for the page at CODE in which the code lies. The handler
asks whether an entry is present, and marks it accessed, so the TLB does not mind whether it is. Linux's lets every page
be executed; this one leaves that to the entry.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.emulator import Emulator, EmulatorError
from qemu.refilled import Refilled

ZPR, TLBX, TLBLO, TLBHI = 0x1001, 0x1002, 0x1003, 0x1004


def mts(register: int, value: int) -> int:
    """The instruction mts register, r[value]."""
    return 0x9400_C000 | value << 16 | register


class MicroBlaze(Refilled):
    """A little-endian core with the whole MMU."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "microblazeel"
    arguments = ("-M", "none", "-cpu", "microblaze-cpu", "-device", "loader,addr=0x100000,cpu-num=0")  # which resets it
    byte_order = "little"
    layout: ClassVar = dict.fromkeys((*(f"r{n}" for n in range(32)), *["pc", "msr", "ear", "esr"]), 4)
    traps_first_access = False
    value_register = "r9"
    code = (
        0xE128_0000,  #  0 lbui r9, r8, 0
        0xF128_0000,  #  4 sbi r9, r8, 0
        mts(ZPR, 3),  #  8
        mts(TLBX, 4),  # 12
        mts(TLBLO, 5),  # 16
        mts(TLBHI, 6),  # 20
        0x8000_0000,  # 24 nop
    )
    LOAD, STORE, FILL, FILLED = 0, 4, 8, 24

    KERNEL = 0xC000_0000
    CODE, CODE_PA = 0x5000, 0x10_0000
    ZONES = 0b00 << 30 | 0b01 << 28
    SOFTWARE = 0xCE2
    PRESENT, USER, EXECUTABLE = 1 << 1, 1 << 4, 1 << 9
    VALID_4K = 1 << 7 | 1 << 6
    TRANSLATED, IN_USER_MODE, EXCEPTION = 1 << 13, 1 << 11, 1 << 9
    FETCH_FAULTS: ClassVar = (17, 19)  # not executable; missing
    DATA_FAULTS: ClassVar = (16, 18)

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE_PA)
        emulator.stub.stop_at(cls.CODE_PA + cls.FILLED)
        cls._write_tlb(emulator, 1, cls.CODE, cls.CODE_PA | cls.USER | cls.EXECUTABLE, valid=True)

    @classmethod
    def translates(cls, va: int) -> bool:
        return va >> 13 != cls.CODE >> 13

    def _execute(self, va: int, access: Access) -> bool:
        start = va & ~0b11 if access is Access.EXECUTE else self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE]
        mode = self.IN_USER_MODE if self.mode is Mode.USER else 0
        self.stub.step(msr=self.TRANSLATED | mode, r8=va, pc=start)
        if not self.stub.read("msr") & self.EXCEPTION:
            return True
        cause = self.stub.read("esr") & 0b1_1111
        if cause not in (self.FETCH_FAULTS if access is Access.EXECUTE else self.DATA_FAULTS):
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with cause {cause}")
        return False

    def _fill(self, va: int) -> None:
        """What the handler does; where it finds nothing, an entry that is not valid."""
        table = self._word(self.pt.root, va >> 22) & -(1 << 12)
        entry = self._word(table - self.KERNEL, va >> 12 & 0x3FF) if table else 0
        self._write_tlb(self.emulator, 0, va & -(1 << 12), entry & ~self.SOFTWARE, valid=bool(entry & self.PRESENT))

    @classmethod
    def _write_tlb(cls, emulator: Emulator, index: int, page: int, entry: int, *, valid: bool) -> None:
        tag = page | (cls.VALID_4K if valid else 0)
        emulator.stub.run(msr=0, r3=cls.ZONES, r4=index, r5=entry, r6=tag, pc=cls.CODE_PA + cls.FILL)
