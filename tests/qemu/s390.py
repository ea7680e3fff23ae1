"""z/Architecture with an address space for the code and one for the judged table.

    primary space (control register 1)     the kernel's table, with one page of code
    secondary space (7)                    the judged table: loads and stores of secondary-space mode
    home space (13)                        the judged table: fetches of home-space mode

A fault of any kind stores its number in the first page of memory. As for Unicorn there is no EDAT, and the format is
judged without leaves of 1 MiB and 2 GiB.
"""

from __future__ import annotations

from typing import ClassVar

import s390_cpu
from mmu import Access, Mode

import ptl
from qemu.core import Core
from qemu.emulator import Emulator, EmulatorError


class S390(Core):
    """A region-second table on top; sets neither accessed nor dirty, and refuses what would."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    sets = ""
    needs = "ad"
    target = "s390x"
    arguments = ("-M", "s390-ccw-virtio", "-cpu", "max", "-bios", "/dev/null")
    byte_order = "big"
    has_huge_leaves = False
    value_register = "r3"
    code = (
        0xE330_4000,  #  0 llgc %r3, 0(%r4)
        0x0090_0707,  #    ; nop
        0x4230_4000,  #  8 stc %r3, 0(%r4)
        0xB20D_0000,  # 12 ptlb
        0xE330_4000,  # 16 lrag %r3, 0(%r4)
        0x0003_0707,
    )
    LOAD, AFTER_LOAD, STORE, AFTER_STORE, FLUSH, REAL_ADDRESS = 0, 6, 8, 12, 12, 16
    CONDITION = 0b11 << 44

    CODE, HANDLER = 0x1_0000, 0x4_0000
    SECONDARY_SPACE, HOME_SPACE = 0b10 << 46, 0b11 << 46
    NEW_PSW, NUMBER = 0x1D0, 0x8E
    TRANSLATION_FAULTS: ClassVar = (0x04, 0x10, 0x11, 0x12, 0x38, 0x39, 0x3A, 0x3B)
    NO_MEMORY = 0x05

    Rules = s390_cpu.S390
    _supervisor = Rules.DAT | Rules.ADDRESSES_OF_64_BITS
    INVALID, PROTECT, UPPER_INVALID = Rules.INVALID, Rules.PROTECT, Rules.UPPER_INVALID
    P, A, D, R, W = Rules.P, Rules.A, Rules.D, Rules.R, Rules.W
    permits, goes_on = Rules.permits, Rules.goes_on
    ABOVE_LINUX_S_ADDRESSES = (1 << 64) - (1 << 53)

    def unjudged(self, level: int, *, leaf: bool) -> int:
        return self.Rules.unjudged(self, level, leaf=leaf) | (self.ABOVE_LINUX_S_ADDRESSES if leaf else 0)

    def judged(self, level: int, raw: int) -> int:
        return self.Rules.judged(self, level, raw) & ~self.ABOVE_LINUX_S_ADDRESSES

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> ptl.PageTable:
        code = pt.frames.alloc(pt.arch.page_sizes[0])
        kernel = ptl.PageTable(pt.arch, frames=pt.frames)
        kernel.map(cls.CODE, code, flags="rxad")
        cls._write_code(pt.frames.view(code, pt.arch.page_sizes[0]))
        psw = cls.Rules.ADDRESSES_OF_64_BITS.to_bytes(8, "big") + cls.HANDLER.to_bytes(8, "big")
        emulator.ram[cls.NEW_PSW : cls.NEW_PSW + 16] = psw
        judged = cls._space(pt)
        emulator.stub.write(cr0=cls.Rules.NO_EXECUTE_COUNTS, cr1=cls._space(kernel), cr7=judged, cr13=judged)
        return kernel

    @classmethod
    def _space(cls, pt: ptl.PageTable) -> int:
        return pt.root | cls.Rules.PRIVATE_SPACE | cls.Rules.REGION_SECOND | cls.Rules.LENGTH

    def _use(self, va: int, access: Access) -> bool:
        if access is Access.EXECUTE:
            self.stub.step(pswm=self._state | self.HOME_SPACE, pswa=va & ~1)
        else:
            start, end = (self.LOAD, self.AFTER_LOAD) if access is Access.READ else (self.STORE, self.AFTER_STORE)
            self.stub.step(pswm=self._state | self.SECONDARY_SPACE, r4=va, pswa=self.CODE + start)
            if self.stub.read("pswa") == self.CODE + end:
                return True
        if self.stub.read("pswa") != self.HANDLER:
            return True
        number = int.from_bytes(self.emulator.ram[self.NUMBER : self.NUMBER + 2], "big")
        if access is not Access.EXECUTE and number not in (*self.TRANSLATION_FAULTS, self.NO_MEMORY):
            raise EmulatorError(f"{self} to {access.name} {va:#x} was interrupted by {number:#x}")
        if number == self.NO_MEMORY:  # behind the page, or for a table
            return self.physical(va) is not None
        return number not in self.TRANSLATION_FAULTS

    @property
    def _state(self) -> int:
        return self._supervisor | (self.Rules.PROBLEM_STATE if self.mode is Mode.USER else 0)

    def physical(self, va: int) -> int | None:
        """What the CPU itself answers (LOAD REAL ADDRESS): the monitor knows no addresses without memory."""
        self.stub.step(pswm=self._supervisor | self.SECONDARY_SPACE, r4=va, pswa=self.CODE + self.REAL_ADDRESS)
        translated = self.stub.read("pswm") & self.CONDITION == 0
        return self.stub.read("r3") if translated else None

    def _flush(self) -> None:
        self.stub.step(pswm=self._supervisor, pswa=self.CODE + self.FLUSH)
