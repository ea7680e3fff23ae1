"""A 68040 in supervisor state, with one root table for the kernel and the user.

Code, stack and vectors lie in 16 MiB behind the frames, which transparent translation lets the supervisor reach as
they are; the judged table maps them likewise, so that nothing else is mapped there. Loads and stores of a user are
those that the supervisor may execute in its place (MOVES). To fetch, the CPU really drops its privilege.

An access fault has one vector, and QEMU does not say whether the table or the bus refused. So there is RAM everywhere,
of which the host gives what is touched.
"""

from __future__ import annotations

from typing import ClassVar

import m68k_cpu
from mmu import Access, Mode

import ptl
from qemu.core import MIB, Core
from qemu.emulator import Emulator, EmulatorError


class M68040(Core):
    """Sets accessed and dirty."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "m68k"
    arguments = ("-M", "none", "-cpu", "m68040")
    byte_order = "big"
    ram_bytes = 4096 * MIB
    value_register = "d1"
    code = (
        0x1210_4E71,  #  0 move.b (a0), d1; nop
        0x1081_4E71,  #  4 move.b d1, (a0); nop
        0x0E10_1000,  #  8 moves.b (a0), d1
        0x0E10_1800,  # 12 moves.b d1, (a0)
        0xF518_4E71,  # 16 pflusha; nop
    )
    LOAD: ClassVar = {Mode.SUPERVISOR: 0, Mode.USER: 8}
    STORE: ClassVar = {Mode.SUPERVISOR: 4, Mode.USER: 12}
    FLUSH = 16

    OWN, OWN_BYTES = 0xB00_0000, 16 * MIB
    VECTORS, CODE, BOOT, STACK, HANDLERS = OWN, OWN + 0x1000, OWN + 0x2000, OWN + 0x4000, OWN + 0x5000
    """The handler of vector n would be at HANDLERS + 2 * n; nothing is there."""
    ACCESS_FAULT = 2
    SUPERVISOR_STATE, TRANSPARENT_TO_THE_SUPERVISOR = 0x2700, OWN | 1 << 15 | 0b01 << 13
    USER_DATA = 1
    MOVEC = 0x4E7B_0000
    SFC, DFC, TC, ITT0, DTT0, VBR, URP, SRP = 0x000, 0x001, 0x003, 0x004, 0x006, 0x801, 0x806, 0x807

    Rules = m68k_cpu.M68040
    permits, goes_on, unjudged, judged = Rules.permits, Rules.goes_on, Rules.unjudged, Rules.judged
    marks_though_it_refuses = Rules.marks_though_it_refuses
    ENABLE, KIND, LEAF, INDIRECT = Rules.ENABLE, Rules.KIND, Rules.LEAF, Rules.INDIRECT
    WRITE_PROTECTED = Rules.WRITE_PROTECTED

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        pt.map(cls.OWN, cls.OWN, cls.OWN_BYTES, flags="rwxad")
        cls._write_code(emulator.ram, cls.CODE)
        vectors = b"".join((cls.HANDLERS + 2 * n).to_bytes(4, "big") for n in range(256))
        emulator.ram[cls.VECTORS : cls.VECTORS + len(vectors)] = vectors
        boot = cls.BOOT
        for register, value in (
            (cls.VBR, cls.VECTORS),
            (cls.SFC, cls.USER_DATA),
            (cls.DFC, cls.USER_DATA),
            (cls.URP, pt.root),
            (cls.SRP, pt.root),
            (cls.ITT0, cls.TRANSPARENT_TO_THE_SUPERVISOR),
            (cls.DTT0, cls.TRANSPARENT_TO_THE_SUPERVISOR),
            (cls.TC, cls.ENABLE),
        ):
            emulator.ram[boot : boot + 4] = (cls.MOVEC | register).to_bytes(4, "big")
            emulator.stub.step(ps=cls.SUPERVISOR_STATE, d0=value, pc=boot)
            boot += 4
        if emulator.stub.read("pc") != boot:
            raise EmulatorError(f"the control registers were left at {emulator.stub.read('pc'):#x}")

    def _use(self, va: int, access: Access) -> bool:
        if access is Access.EXECUTE:
            start = va & ~0b11
            self.stub.write(ps=self.SUPERVISOR_STATE, sp=self.STACK)
            self.stub.step(ps=0 if self.mode is Mode.USER else self.SUPERVISOR_STATE, pc=start)
        else:
            start = self.CODE + (self.LOAD if access is Access.READ else self.STORE)[self.mode]
            self.stub.step(ps=self.SUPERVISOR_STATE, sp=self.STACK, a0=va, pc=start)
        return self.stub.read("pc") != self.HANDLERS + 2 * self.ACCESS_FAULT

    def _flush(self) -> None:
        self.stub.step(ps=self.SUPERVISOR_STATE, pc=self.CODE + self.FLUSH)
