"""Which of QEMU's CPUs judges which architecture; and a machine of one."""

from __future__ import annotations

import machine
from qemu.core import Core
from qemu.emulator import Emulator
from qemu.arm64 import Arm64
from qemu.powerpc import Power, Power10

import ptl

BOARDS: dict[str, type[Core]] = {
    **dict.fromkeys(("arm64_4k", "arm64_4k_va39", "arm64_4k_va52", "arm64_16k", "arm64_64k", "arm64_64k_va52"), Arm64),
    "powerpc_radix_4k": Power,
    "powerpc_radix_64k": Power10,
}


class Machine(machine.Machine):
    """A page table in the RAM of a paused emulator, whose one CPU is a core for each mode; `close` ends it."""

    FEWER = 8
    """How many times fewer random cases are tried: an access takes some hundred microseconds here."""

    def __init__(self, arch: str) -> None:
        core = BOARDS[arch]
        self.pa_bits = ptl.arch.get(arch).pa_bits
        self.emulator = Emulator(core.target, core.arguments, core.ram_bytes, core.byte_order)
        try:
            ram = memoryview(self.emulator.ram)[core.frames_at : core.frames_at + machine.RAM]
            self.frames = ptl.Frames(machine.RAM, base=core.ram_base + core.frames_at, backing=ram)
            self.pt = ptl.PageTable(arch, frames=self.frames)
            self.arch = self.pt.arch
            self.cores = core.cores(self.emulator, self.pt)
        except BaseException:
            self.close()
            raise

    def some(self, count: int) -> int:
        return count // self.FEWER

    def close(self) -> None:
        """End the emulator. The table and its frames stay."""
        self.emulator.close()
