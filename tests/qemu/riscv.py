"""RISC-V in M mode, which translates as S or U mode would (MPRV) when it loads and stores, and goes there to fetch.

As the specification of 2021 has it, and unlike Unicorn: reserved bits fault, on entries for tables too.
"""

from __future__ import annotations

from typing import ClassVar

import mmu
from mmu import Access, Mode

import ptl
from qemu.core import Core
from qemu.emulator import Emulator, EmulatorError


class Riscv(Core):
    """Sets accessed and dirty."""

    modes = (Mode.SUPERVISOR, Mode.SUPERVISOR_SUM, Mode.USER)
    target = "riscv64"
    arguments = ("-M", "none", "-cpu", "rv64")
    byte_order = "little"
    value_register = "a0"
    LOAD, STORE, FLUSH = 0, 4, 8
    code = (
        0x00058503,  # lb a0, 0(a1)
        0x00A58023,  # sb a0, 0(a1)
        0x12000073,  # sfence.vma
    )
    CODE, VECTOR = 0x3F5_5000, 0x3F5_5400
    """Below the frames, where no test maps anything: what M mode fetches and what MPRV reaches share QEMU's TLB."""

    M, S, U = 3, 1, 0
    MPRV, SUM, MXR, MPP_SHIFT = 1 << 17, 1 << 18, 1 << 19, 11
    ALL_ADDRESSES, MAY_DO_ALL = -1, 0b0001_1111  # a physical memory protection that protects from nothing
    PAGE_FAULT: ClassVar = {Access.EXECUTE: 12, Access.READ: 13, Access.WRITE: 15}
    NO_MEMORY: ClassVar = {Access.EXECUTE: 1, Access.READ: 5, Access.WRITE: 7}

    permits = mmu.Riscv.permits
    goes_on = mmu.Riscv.goes_on

    def unjudged(self, level: int, *, leaf: bool) -> int:
        takes_any_size = 1 << 0 if self.arch.level(level).leaf is None else 0
        return takes_any_size if leaf else 0

    def judged(self, level: int, raw: int) -> int:
        raw &= ~self.unjudged(level, leaf=True)
        napot = 1 << 63
        return raw & ~napot if self.arch.level(level).run_of(raw) and not self.has_runs else raw

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE)
        satp = mmu.Riscv.MODE_OF_SATP[pt.arch.levels] | pt.root >> 12
        emulator.stub.write(pmpaddr0=cls.ALL_ADDRESSES, pmpcfg0=cls.MAY_DO_ALL, satp=satp, mtvec=cls.VECTOR)

    def _use(self, va: int, access: Access) -> bool:
        if access is Access.EXECUTE:
            self.stub.step(priv=self._privilege, mstatus=self._sum, pc=va & ~0b11)
            done = self.stub.read("pc") != self.VECTOR
        else:
            pc = self.CODE + (self.LOAD if access is Access.READ else self.STORE)
            mstatus = self.MPRV | self._privilege << self.MPP_SHIFT | self._sum
            self.stub.step(priv=self.M, mstatus=mstatus, a1=va, pc=pc)
            done = self.stub.read("pc") == pc + 4
        if done:
            return True
        cause = self.stub.read("mcause")
        if cause != self.PAGE_FAULT[access] and access is not Access.EXECUTE and cause != self.NO_MEMORY[access]:
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with cause {cause}")
        return cause != self.PAGE_FAULT[access]

    def physical(self, va: int) -> int | None:
        self.stub.write(mstatus=self.SUM | self.MXR, priv=self.S)  # may read whatever is mapped
        return super().physical(va)

    def _flush(self) -> None:
        self.stub.step(priv=self.M, mstatus=0, pc=self.CODE + self.FLUSH)

    @property
    def _privilege(self) -> int:
        return self.U if self.mode is Mode.USER else self.S

    @property
    def _sum(self) -> int:
        return self.SUM if self.mode is Mode.SUPERVISOR_SUM else 0


class RiscvSvnapot(Riscv):
    """As Riscv, with 16 pages that are one. It then minds no reserved bit above the frame number."""

    arguments = ("-M", "none", "-cpu", "rv64,svnapot=true")
    has_runs = True

    def unjudged(self, level: int, *, leaf: bool) -> int:
        reserved = 0x7FC0_0000_0000_0000
        return super().unjudged(level, leaf=leaf) | reserved


class Riscv32(Riscv):
    """With Sv32, and frames of 34 bits."""

    target = "riscv32"
    arguments = ("-M", "none", "-cpu", "rv32")
