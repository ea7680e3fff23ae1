"""SH-4, whose TLB is filled as Linux's handler would: with the entry as it is, but for the bits that are software's.

    entry        31-29   28 ........ 12   11   10   9   8   7-0
    PTEL         0       frame number     Sp   0    0   V   size, rights, cached, dirty, shared, write-through

Before each access the whole TLB is forgotten, and two entries of it written: one for the page, and one for the code,
which a user has to reach as well. That lies in a page of its own at CODE; the code that fills is in P1, which needs no
TLB. Linux's handler marks a page accessed before it loads the entry, so the TLB does not mind whether it is. The
machine does not take memory from outside: what it has is its own, and the table is in none of it.

QEMU ends when it is asked for a byte of the CPU's registers, in the pages at physical 0x1F00_0000, 0x1F80_0000 and
0x1FC0_0000. No seed of the tests does.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.emulator import Emulator
from qemu.refilled import Refilled

PTEH, PTEL, TEA, MMUCR, EXPEVT = 0x00, 0x04, 0x0C, 0x10, 0x24
"""Registers of the MMU, from MMU on."""


def to_mmu(register: int, value: int) -> int:
    """The instruction mov.l r[value], @(register, r8)."""
    return 0x1800 | value << 4 | register >> 2


def from_mmu(register: int) -> int:
    """The instruction mov.l @(register, r8), r9."""
    return 0x5980 | register >> 2


class Sh4(Refilled):
    """An SH7751R."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "sh4"
    arguments = ("-M", "r2d")
    byte_order = "little"
    layout: ClassVar = dict.fromkeys(
        (*(f"r{n}" for n in range(16)), *["pc", "pr", "gbr", "vbr", "mach", "macl", "sr"]), 4
    )
    shares_ram = False
    traps_first_access = False
    run_sizes = (64 << 10, 1 << 20)
    value_register = "r9"
    instruction_bytes = 2
    code = (
        0x6980,  #  0 mov.b @r8, r9
        0x2890,  #  2 mov.b r9, @r8
        to_mmu(MMUCR, 9),  #  4 forget all
        to_mmu(PTEH, 10),  #  6
        to_mmu(PTEL, 11),  #  8
        0x0038,  # 10 ldtlb
        to_mmu(MMUCR, 12),  # 12 the next entry
        to_mmu(PTEH, 13),  # 14
        to_mmu(PTEL, 14),  # 16
        0x0038,  # 18 ldtlb
        0x0009,  # 20 nop
        from_mmu(EXPEVT),  # 22
        from_mmu(TEA),  # 24
    )
    LOAD, STORE, FILL, FILLED, READ_CAUSE, READ_ADDRESS = 0, 2, 4, 20, 22, 24

    P1 = 0x8000_0000
    CODE, CODE_PA = 0x5000, 0x0C00_1000
    CODE_IN_P1, VECTORS = P1 | CODE_PA, P1 | 0x0C00_8000
    MMU = 0xFF00_0000
    ENABLED, FORGET, ENTRY = 1 << 0, 1 << 2, 1 << 10
    CODE_ENTRY = CODE_PA | 1 << 8 | 1 << 6 | 1 << 4  # valid, the user's, of 4 KiB
    PRIVILEGED = 1 << 30
    MISS, OTHER = 0x400, 0x100
    REFUSED_FETCH: ClassVar = (0x040, 0x0A0)  # missing, protected
    HARDWARE = 0x1FFF_FFFF & ~(1 << 10 | 1 << 9)

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        emulator.stub.put(cls.CODE_IN_P1, cls._text())
        emulator.stub.write(vbr=cls.VECTORS)
        emulator.stub.stop_at(cls.CODE_IN_P1 + cls.FILLED)

    @classmethod
    def translates(cls, va: int) -> bool:
        return va < cls.P1 and va >> 13 != cls.CODE >> 13

    def _execute(self, va: int, access: Access) -> bool:
        start = va & ~0b1 if access is Access.EXECUTE else self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE]
        self.stub.step(r8=va, pc=start, sr=self.PRIVILEGED if self.mode is Mode.SUPERVISOR else 0)
        if self.stub.read("pc") - self.VECTORS not in (self.MISS, self.OTHER):
            return True
        if access is not Access.EXECUTE:
            return False
        cause, address = self._ask(self.READ_CAUSE), self._ask(self.READ_ADDRESS)
        return cause not in self.REFUSED_FETCH or address != start  # it may fetch no instruction, or a load

    def _ask(self, reading: int) -> int:
        """What a register of the MMU says about the last fault."""
        self.stub.step(r8=self.MMU, sr=self.PRIVILEGED, pc=self.CODE_IN_P1 + reading)
        return self.stub.read("r9")

    def _fill(self, va: int) -> None:
        """What the handler does: two loads, and a mask. Where it finds no table it loads nothing."""
        table = self._word(self.pt.root, va >> 22)
        entry = self._word(table - self.P1, va >> 12 & 0x3FF) if table else 0
        self.stub.run(
            sr=self.PRIVILEGED,
            r8=self.MMU,
            r9=self.ENABLED | self.FORGET,
            r10=self.CODE,
            r11=self.CODE_ENTRY,
            r12=self.ENABLED | self.ENTRY,
            r13=va & -(1 << 12),
            r14=entry & self.HARDWARE,
            pc=self.CODE_IN_P1 + self.FILL,
        )
