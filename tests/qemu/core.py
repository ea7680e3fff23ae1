"""A CPU that QEMU emulates, as a judge: it executes one instruction, and either that happens or the CPU faults.

    load [va]      the step ends behind the instruction: permitted      ends at the vector of a data fault: refused
    store [va]     the same
    jump to va     the step ends anywhere else: permitted               ends at the vector of a fetch fault: refused

Where a permitted access goes is what the monitor answers to gva2gpa. Accesses are real ones: through the TLB, with
their privilege, and hardware sets accessed and dirty in the table. Most of them go to addresses without memory, which a
CPU notices only after it has translated: no fault of the table's.

The monitor does not use the TLB, and does not set anything.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from typing import ClassVar

from mmu import FAULT, Access, Fault, Judge, Mode, Verdict

import judges
import ptl
from qemu.emulator import JUDGE, Emulator, EmulatorError
from qemu.gdb import ByteOrder

MIB = 1 << 20


class Cpu(ABC):
    """Which emulator it is, and how its CPU is pointed at a page table."""

    target: ClassVar[str]
    """Which qemu-system it is."""
    arguments: ClassVar[tuple[str, ...]]
    byte_order: ClassVar[ByteOrder]
    """In which the stub writes registers, and the CPU reads code."""
    layout: ClassVar[dict[str, int]] = {}
    """The bytes of each register, where the stub does not describe them."""
    ram_bytes: ClassVar[int] = 160 * MIB
    """RAM begins at physical address 0."""
    shares_ram: ClassVar[bool] = True
    """Whether its RAM is in our hands."""
    pa_bits: ClassVar[int] = 64
    """How wide its physical addresses are, at most."""
    has_huge_leaves: ClassVar[bool] = True
    """Whether it knows the leaves that the format has above level 1."""
    frames_at: ClassVar[int] = 96 * MIB
    """Where in RAM frames begin. What is below belongs to the board. No power of two lies among the tables: stores are
    real, and tests flip single bits of addresses."""
    has_runs: ClassVar[bool] = False
    """Whether it takes the marks of runs that the format has."""

    @classmethod
    @abstractmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> object:
        """Point the CPU at the table; returns what has to live as long, or what all cores need to know."""


class Core(Judge, Cpu):
    """One core in one mode. All cores of a machine are one CPU, which is put into the mode before each access."""

    code: ClassVar[tuple[int, ...]]
    """The instructions that it executes."""
    instruction_bytes: ClassVar[int] = 4
    value_register: ClassVar[str]
    """What they load into and store from."""

    def __init__(self, emulator: Emulator, pt: ptl.PageTable, mode: Mode, shared: object) -> None:
        super().__init__(pt, mode)
        self.emulator, self.stub = emulator, emulator.stub
        self._shared = shared
        self._stale = True

    def translate(self, va: int, access: Access) -> Verdict:
        """Where this access to an address goes; as on hardware it may set accessed and dirty."""
        if not self._reach(va, access):
            return FAULT
        pa = self.physical(va)
        if pa is None:
            raise EmulatorError(f"{self} may {access.name} {va:#x}, which the monitor cannot translate")
        return pa

    def load(self, va: int) -> int | Fault:
        """The byte that the CPU reads there."""
        return self.stub.read(self.value_register) if self._reach(va, Access.READ) else FAULT

    def store(self, va: int, byte: int) -> bool:
        """Let the CPU write a byte there; False when it faults."""
        self.stub.write(**{self.value_register: byte})
        return self._reach(va, Access.WRITE)

    def physical(self, va: int) -> int | None:
        """Where the monitor says that an address leads; None for nowhere."""
        return self.emulator.physical(va)

    def flush(self) -> None:
        """Forget every translation, before the next access."""
        self._stale = True

    def _reach(self, va: int, access: Access) -> bool:
        """Do it, with what the TLB holds; False when it faults."""
        judges.probes[JUDGE, self.arch.name] += 1
        if self._stale:
            self._flush()
            self._stale = False
        return self._use(va, access)

    @classmethod
    def _write_code(cls, memory: mmap.mmap | memoryview, at: int = 0) -> None:
        """Write the instructions."""
        text = cls._text()
        memory[at : at + len(text)] = text

    @classmethod
    def _text(cls) -> bytes:
        return b"".join(word.to_bytes(cls.instruction_bytes, cls.byte_order) for word in cls.code)

    @abstractmethod
    def _use(self, va: int, access: Access) -> bool:
        """Do it; False when it faults."""

    @abstractmethod
    def _flush(self) -> None:
        """Execute what flushes the TLB."""
