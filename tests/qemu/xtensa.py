"""Xtensa, whose TLB hardware fills by itself, once a handler has put the table of pages where hardware looks for it.

    TABLES + (va >> 22) * 4 KiB  -->  a table of pages, which the judge maps there as Linux's handler does
                                        '--> the CPU reads the entry of va, and loads it as it is

Before each access the entries are forgotten in which hardware may have kept the page. The code lies in the kernel's
window, which needs no TLB, and for users also at CODE. Software marks a page accessed, and the TLB does not mind
whether it did.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.core import MIB
from qemu.emulator import Emulator, EmulatorError
from qemu.refilled import Refilled


def tlb(operation: int, address: int, value: int = 0) -> int:
    """The instruction of that number on a TLB, with a[address] and a[value]."""
    return 0x50_0000 | operation << 12 | address << 8 | value << 4


FORGET_CODE, WRITE_CODE, FORGET_DATA, WRITE_DATA = 4, 6, 12, 14


class Xtensa(Refilled):
    """A DC232B."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "xtensa"
    arguments = ("-M", "none", "-cpu", "dc232b", "-device", "loader,addr=0xD0100000,cpu-num=0")  # which resets it
    byte_order = "little"
    layout: ClassVar = {
        **dict.fromkeys(("pc", *(f"ar{n}" for n in range(32))), 4),
        "special 33 to 41": 36,
        "ps": 4,
        "special 43 to 51": 36,
        "ptevaddr": 4,
        "special 53 to 91": 156,
        "exccause": 4,
        "special 93 to 103": 44,
        **{f"a{n}": 4 for n in range(16)},
    }
    frames_at = 33 * MIB  # all of it below the end of the kernel's window
    traps_first_access = False
    value_register = "a9"
    instruction_bytes = 3
    code = (
        0x00_0892,  #  0 l8ui a9, a8, 0
        0x00_4892,  #  3 s8i a9, a8, 0
        *(tlb(FORGET_DATA, n) for n in range(4, 8)),  #  6 the ways that hardware fills
        *(tlb(FORGET_CODE, n) for n in range(4, 8)),  # 18
        tlb(FORGET_DATA, 10),  # 30
        0x00_20F0,  # 33 nop
        tlb(WRITE_DATA, 10, 11),  # 36
        0x00_20F0,  # 39 nop
        tlb(WRITE_CODE, 10, 11),  # 42
    )
    LOAD, STORE, FORGET, FORGOTTEN, MAP, MAPPED, MAP_CODE = 0, 3, 6, 33, 36, 39, 42

    WINDOW = 0xD000_0000
    CODE, CODE_PA = 0x0050_0000, 0x0010_0000
    CODE_IN_WINDOW = WINDOW | CODE_PA
    TABLES, TABLES_END = 0x8000_0000, 0x8040_0000
    WAY_OF_TABLES, WAY_OF_MIB = 7, 4
    USER, WRITE_BACK, EXECUTABLE = 1 << 4, 1 << 2, 1 << 0
    EXCEPTION, IN_USER_MODE = 1 << 4, 1 << 6 | 1 << 5
    FETCH_FAULTS: ClassVar = (16, 17, 18, 20)  # missing, found twice, privileged, prohibited
    DATA_FAULTS: ClassVar = (24, 25, 26, 28, 29)  # the same, for loads and for stores
    NO_MEMORY: ClassVar = (2, 3, 12, 13, 14, 15)

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE_PA)
        emulator.stub.step(
            ptevaddr=cls.TABLES,
            ps=0,
            a10=cls.CODE | cls.WAY_OF_MIB,
            a11=cls.CODE_PA | cls.USER | cls.WRITE_BACK | cls.EXECUTABLE,
            pc=cls.CODE_IN_WINDOW + cls.MAP_CODE,
        )
        for at in (cls.FORGOTTEN, cls.MAPPED):
            emulator.stub.stop_at(cls.CODE_IN_WINDOW + at)

    @classmethod
    def translates(cls, va: int) -> bool:
        return va < cls.WINDOW and not cls.TABLES <= va < cls.TABLES_END and va >> 20 != cls.CODE >> 20

    def _execute(self, va: int, access: Access) -> bool:
        start = va & ~0b11 if access is Access.EXECUTE else self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE]
        self.stub.step(ps=self.IN_USER_MODE if self.mode is Mode.USER else 0, a8=va, pc=start)
        if not self.stub.read("ps") & self.EXCEPTION:
            return True
        cause = self.stub.read("exccause")
        if access is Access.EXECUTE:
            return cause not in self.FETCH_FAULTS  # it may fetch no instruction, or a load
        if cause not in (*self.DATA_FAULTS, *self.NO_MEMORY):
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with cause {cause}")
        return cause not in self.DATA_FAULTS

    def _fill(self, va: int) -> None:
        """What the handler does: map the table that an entry of the root names; where it names none, nothing."""
        table = self._word(self.pt.root, va >> 22)
        place = self.TABLES + ((va >> 22) << 12) | self.WAY_OF_TABLES
        ways = {f"a{4 + way}": va & -(1 << 12) | way for way in range(4)}
        self.stub.run(ps=0, **ways, a10=place, pc=self.CODE_IN_WINDOW + self.FORGET)
        if table:
            entry = table - self.WINDOW & -(1 << 12) | self.WRITE_BACK
            self.stub.run(a10=place, a11=entry, pc=self.CODE_IN_WINDOW + self.MAP)
