"""Which of QEMU's CPUs judges which architecture; and a machine of one."""

from __future__ import annotations

import os
import shutil

import machine

import ptl
from qemu.arm64 import Arm64
from qemu.core import Core, Cpu
from qemu.emulator import Emulator
from qemu.m68k import M68040
from qemu.microblaze import MicroBlaze
from qemu.mips import Mips32, Mips64
from qemu.parisc import Parisc
from qemu.powerpc import Power, Power10
from qemu.refilled import Refilled
from qemu.riscv import Riscv, Riscv32, RiscvSvnapot
from qemu.s390 import S390
from qemu.sh import Sh4
from qemu.sparc64 import Sparc64
from qemu.x86 import I386, I386Pae, X86Long
from qemu.xtensa import Xtensa

CORES: dict[str, type[Core]] = {
    **dict.fromkeys(("arm64_4k", "arm64_4k_va39", "arm64_4k_va52", "arm64_16k", "arm64_64k", "arm64_64k_va52"), Arm64),
    "m68k": M68040,
    "powerpc_radix_4k": Power,
    "powerpc_radix_64k": Power10,
    "riscv_sv32": Riscv32,
    **dict.fromkeys(("riscv_sv39", "riscv_sv48", "riscv_sv57"), Riscv),
    "s390": S390,
}
"""Those that execute every access."""

WITH_RUNS: dict[str, type[Core]] = {
    **{name: core for name, core in CORES.items() if core.has_runs},
    **dict.fromkeys(("riscv_sv39", "riscv_sv48", "riscv_sv57"), RiscvSvnapot),
}
"""Those that know runs of entries that are one page."""

LISTED: dict[str, type[Cpu]] = {
    "i386": I386,
    "i386_pae": I386Pae,
    **dict.fromkeys(("x86_64", "x86_64_la57"), X86Long),
    **{name: core for name, core in CORES.items() if core in (Riscv, Riscv32)},
}
"""Those whose mappings the monitor lists."""

REFILLED: dict[str, type[Refilled]] = {
    "microblaze": MicroBlaze,
    "mips32": Mips32,
    "mips64": Mips64,
    "parisc": Parisc,
    "sh": Sh4,
    "sparc64": Sparc64,
    "xtensa": Xtensa,
}
"""Those that know no root: the judge finds the entry, or its table, and hands it over as the kernel's handler does."""


def cpu_of(arch: str) -> type[Cpu]:
    """The CPU that judges an architecture."""
    return {**LISTED, **CORES, **REFILLED}[arch]


def missing(arch: str) -> str:
    """Why there is no such machine here; empty when there is one."""
    if not hasattr(os, "memfd_create"):
        return "this system has no memory to share by number (memfd_create)"
    program = f"qemu-system-{cpu_of(arch).target}"
    return "" if shutil.which(program) else f"{program} is not installed"


class Machine(machine.Machine):
    """A page table in the RAM of a paused emulator, whose one CPU is a core for each mode; `close` ends it."""

    FEWER = 13  # an access takes some hundred microseconds

    def __init__(self, arch: str, cpu: type[Cpu] | None = None) -> None:
        cpu = cpu or cpu_of(arch)
        self.pa_bits = min(ptl.arch.get(arch).pa_bits, cpu.pa_bits)
        self.emulator = Emulator(cpu.target, cpu.arguments, cpu.ram_bytes, cpu.byte_order, cpu.layout)
        try:
            ram = memoryview(self.emulator.ram)[cpu.frames_at : cpu.frames_at + machine.RAM]
            self.frames = ptl.Frames(machine.RAM, base=cpu.frames_at, backing=ram)
            known = ptl.arch.get(arch) if cpu.has_huge_leaves else machine.without_huge_leaves(ptl.arch.get(arch))
            self.pt = ptl.PageTable(known, frames=self.frames)
            self.arch = self.pt.arch
            self.run_sizes = self.arch.run_sizes if cpu.has_runs else ()
            self.shared = cpu.set_up(self.emulator, self.pt)
            modes = cpu.modes if issubclass(cpu, Core) else ()
            self.cores = tuple(cpu(self.emulator, self.pt, mode, self.shared) for mode in modes)
        except BaseException:
            self.close()
            raise

    def physical(self, va: int) -> int | None:
        """Where the monitor says that an address leads; None for nowhere."""
        return self.cores[0].physical(va) if self.cores else self.emulator.physical(va)

    def close(self) -> None:
        """End the emulator. The table and its frames stay."""
        self.emulator.close()
