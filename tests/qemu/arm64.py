"""64-bit Arm at EL1, which also tries what EL0 may do.

    TTBR0: the table that is judged           TTBR1: the kernel's, with one page of code and vectors

Loads and stores of EL0 are those that EL1 may execute in its place (LDTR, STTR). To fetch, the CPU really goes to EL0.
"""

from __future__ import annotations

from typing import ClassVar

import arm_cpu
from mmu import Access, Mode

import ptl
from qemu.core import Core
from qemu.emulator import Emulator, EmulatorError


def system(op0: int, op1: int, crn: int, crm: int, op2: int, register: int = 0) -> int:
    """The instruction that writes general register `register` to a system register, or operates on the TLB."""
    return 0xD500_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | register


class Arm64(Core):
    """Stage 1 with the format's granule and widths. Hardware sets neither accessed nor dirty, as TCR asks."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    sets = ""
    needs = "a"
    has_runs = True
    target = "aarch64"
    arguments = ("-M", "none", "-cpu", "max")
    byte_order = "little"
    value_register = "x3"
    code = (
        0x39400003,  #  0 ldrb w3, [x0]
        0x39000003,  #  4 strb w3, [x0]
        0x38400803,  #  8 ldtrb w3, [x0]
        0x38000803,  # 12 sttrb w3, [x0]
        system(3, 0, 4, 0, 1),  # 16 msr elr_el1, x0
        system(3, 0, 4, 0, 0, 1),  # 20 msr spsr_el1, x1
        0xD69F03E0,  # 24 eret
        system(1, 0, 8, 7, 0, 31),  # 28 tlbi vmalle1
    )
    LOAD: ClassVar = {Mode.SUPERVISOR: 0, Mode.USER: 8}
    STORE: ClassVar = {Mode.SUPERVISOR: 4, Mode.USER: 12}
    LEAVE, FLUSH = 16, 28

    SCR_EL3, HCR_EL2 = system(3, 6, 1, 1, 0), system(3, 4, 1, 1, 0)
    SPSR_EL3, ELR_EL3 = system(3, 6, 4, 0, 0), system(3, 6, 4, 0, 1)
    MAIR, TCR, VBAR = system(3, 0, 10, 2, 0), system(3, 0, 2, 0, 2), system(3, 0, 12, 0, 0)
    TTBR0, TTBR1, SCTLR = system(3, 0, 2, 0, 0), system(3, 0, 2, 0, 1), system(3, 0, 1, 0, 0)
    ERET = 0xD69F03E0
    GRANULE: ClassVar = {12: 0b00 << 14 | 0b10 << 30, 14: 0b10 << 14 | 0b01 << 30, 16: 0b01 << 14 | 0b11 << 30}
    TCR_DS, SCTLR_SPAN = 1 << 59, 1 << 23  # addresses of 52 bits; an exception leaves PAN clear
    EL0, EL1, EL_MASK = 0x3C0, 0x3C5, 0b1100
    VECTORS, FROM_EL1, FROM_EL0 = 0x800, 0x200, 0x400
    FETCH_ABORT_OF_EL0, FETCH_ABORT = 0x20, 0x21
    NO_MEMORY = 0x10
    WALK_WITHOUT_MEMORY: ClassVar = (0x13, 0x14, 0x15, 0x16, 0x17)

    permits = arm_cpu.Arm64.permits
    goes_on = arm_cpu.Arm64.goes_on

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_44_bits = 0x0000_F000_0000_0000
        return arm_cpu.Arm64.unjudged(self, level, leaf=leaf) & ~above_44_bits

    def judged(self, level: int, raw: int) -> int:
        nobody_executes = 0b11 << 53
        return super().judged(level, raw) | nobody_executes

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> tuple[int, ptl.PageTable]:
        arch, frames, stub = pt.arch, pt.frames, emulator.stub
        page = arch.page_sizes[0]
        code, boot = frames.alloc(page), frames.alloc(page)
        kernel = ptl.PageTable(arch.name, frames=frames)
        kernel.map(page, code, flags="rxa")
        cls._write_code(frames.view(code, page))
        code_va = -(1 << arch.va_bits) % (1 << 64) + page
        size = 64 - arch.va_bits
        wide = arch.pa_bits == 52
        tcr = cls.GRANULE[arch.page_shift] | size << 16 | size | (0b110 if wide else 0b101) << 32
        if wide and arch.page_shift < 16:
            tcr |= cls.TCR_DS
        for register, value in (
            (cls.SCR_EL3, 1 << 10 | 1),  # EL2 and below have 64 bits, and are not secure
            (cls.HCR_EL2, 1 << 31),  # EL1 too has 64 bits
            (cls.MAIR, 0xFF),  # attribute 0: normal memory, write-back
            (cls.TCR, tcr),
            (cls.TTBR0, pt.root),
            (cls.TTBR1, kernel.root),
            (cls.VBAR, code_va + cls.VECTORS),
            (cls.SCTLR, cls.SCTLR_SPAN | 1),
            (cls.SPSR_EL3, cls.EL1),
            (cls.ELR_EL3, code_va),
            (cls.ERET, 0),
        ):
            frames.view(boot, 4)[:] = register.to_bytes(4, "little")
            stub.step(x0=value, pc=boot)
            boot += 4
        if stub.read("pc") != code_va or stub.read("cpsr") & cls.EL_MASK != cls.EL1 & cls.EL_MASK:
            raise EmulatorError(f"the way to EL1 ended at {stub.read('pc'):#x}")
        return code_va, kernel

    def _use(self, va: int, access: Access) -> bool:
        if access is Access.EXECUTE:
            return self._fetch(va & ~0b11)
        pc = self._code + (self.LOAD if access is Access.READ else self.STORE)[self.mode]
        self.stub.step(x0=va, pc=pc)
        reached = self.stub.read("pc")
        if reached == pc + 4:
            return True
        if reached != self._code + self.VECTORS + self.FROM_EL1:
            raise EmulatorError(f"{self} to {access.name} {va:#x} went to {reached:#x}")
        return self._is_external(va, access)

    def _fetch(self, va: int) -> bool:
        if self.mode is Mode.USER:
            self.stub.step(x0=va, x1=self.EL0, pc=self._code + self.LEAVE)
            self.stub.step()
            self.stub.step()
            self.stub.step()
        else:
            self.stub.step(pc=va)
        if self.stub.read("cpsr") & self.EL_MASK == 0:
            self.stub.step(pc=self._code)  # it may not: so it is at EL1 again
            return True
        faults = self._syndrome() >> 26 in (self.FETCH_ABORT_OF_EL0, self.FETCH_ABORT)
        entered = self.stub.read("pc") - self._code - self.VECTORS in (self.FROM_EL0, self.FROM_EL1)
        return not entered or not faults or self._is_external(va, Access.EXECUTE)

    def _is_external(self, va: int, access: Access) -> bool:
        """Whether the abort says that there is no memory, or, if not, that the address has no translation."""
        status = self._syndrome() & 0b11_1111
        if status in self.WALK_WITHOUT_MEMORY:
            raise EmulatorError(f"{self} to {access.name} {va:#x} met a table where there is no memory")
        return status == self.NO_MEMORY

    def _syndrome(self) -> int:
        return self.stub.read("ESR_EL1")

    @property
    def _code(self) -> int:
        return self._shared[0]

    def _flush(self) -> None:
        self.stub.step(pc=self._code + self.FLUSH)
