"""Which emulated CPU judges which architecture; and a machine of one: a page table, and a core for each mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import mmu
from arm_cpu import Arm64, ArmLpae, ArmShort
from m68k_cpu import M68040
from s390_cpu import S390
from sparc_cpu import Sparc32

import ptl
from ptl.arch import Arch

RAM = 64 * mmu.MIB


@dataclass(frozen=True)
class Board:
    """What a machine of an architecture is made of. RAM begins on a multiple of the largest page."""

    cpu: type[mmu.Cpu]
    ram_base: int
    pa_bits: int
    """How wide physical addresses may be here."""
    has_huge_leaves: bool = True
    """Whether the CPU knows the leaves above level 1 that the architecture has."""
    has_runs: bool = False
    """Whether it takes the marks of runs: RISC-V here is from before Svnapot."""


BOARDS = {
    "arm": Board(ArmShort, 0x4000_0000, 32),
    "arm_lpae": Board(ArmLpae, 0x4000_0000, 32, has_runs=True),
    **dict.fromkeys(
        ("arm64_4k", "arm64_4k_va39", "arm64_16k", "arm64_64k"), Board(Arm64, 0x10_0000_0000, 44, has_runs=True)
    ),
    "x86_64": Board(mmu.X86, 0x1_0000_0000, 40),
    "x86_64_la57": Board(mmu.X86, 0xFF_0000_0000, 40),
    "i386": Board(mmu.I386, 0x4000_0000, 32),
    "i386_pae": Board(mmu.I386Pae, 0x4000_0000, 40),
    "riscv_sv32": Board(mmu.Riscv32, 0x8000_0000, 32),
    "riscv_sv39": Board(mmu.Riscv, 0x8000_0000, 56),
    "riscv_sv48": Board(mmu.Riscv, 0x8000_0000, 56),
    "riscv_sv57": Board(mmu.Riscv, 0x8000_0000, 56),
    "m68k": Board(M68040, 0x4000_0000, 32),
    "s390": Board(S390, 0x1_0000_0000, 53, has_huge_leaves=False),
    "sparc32": Board(Sparc32, 0x4000_0000, 32),
}


def without_huge_leaves(arch: Arch) -> Arch:
    """The same architecture, with leaves on level 1 alone."""
    upper = (replace(level, leaf=None, invalid=None, busy=0) for level in arch.layout[1:])
    return replace(arch, layout=(arch.layout[0], *upper))


class Machine:
    """A page table in RAM of its own, and one core for each mode of its architecture."""

    FEWER: ClassVar[int] = 1
    """How many times fewer cases a slow judge tries."""
    cores: tuple[mmu.Judge, ...]

    def __init__(self, arch: str) -> None:
        board = BOARDS[arch]
        self.pa_bits = board.pa_bits
        self.frames = ptl.Frames(RAM, base=board.ram_base)
        known = ptl.arch.get(arch) if board.has_huge_leaves else without_huge_leaves(ptl.arch.get(arch))
        self.pt = ptl.PageTable(known, frames=self.frames)
        self.arch = self.pt.arch
        self.run_sizes = self.arch.run_sizes if board.has_runs else ()
        self.cores = tuple(board.cpu(self.pt, mode) for mode in board.cpu.modes)

    def some(self, count: int) -> int:
        """How many random cases to try, of so many."""
        return count // self.FEWER

    def sample(self, cases: list[str]) -> list[str]:
        """Which of these to try."""
        return cases[:: self.FEWER]

    def core(self, mode: mmu.Mode) -> mmu.Judge:
        """The core that runs in a mode."""
        return next(core for core in self.cores if core.mode is mode)

    def flush(self) -> None:
        """Flush every TLB: what a kernel does after it took something out of a table."""
        for core in self.cores:
            core.flush()

    def poke(self, step: ptl.Step, raw: int) -> None:
        """Write the bits of the entry at a step of a walk, past ptl, and of its shadow, if it has one; and flush."""
        level = self.arch.level(step.level)
        size = level.word.bytes
        words = {0: raw} if level.shadow is None else {0: raw, level.shadow.offset: level.shadow.of(raw)}
        for offset, word in words.items():
            at = step.table_pa + step.index * size + offset
            self.frames.view(at, size)[:] = word.to_bytes(size, self.arch.byte_order)
        self.flush()
