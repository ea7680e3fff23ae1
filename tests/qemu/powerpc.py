"""POWER9 and POWER10 in hypervisor state, with a table of radix tables.

    partition table                   process table
    0: host root, process table  -->  0: kernel's root: the code, at the top of all addresses (quadrant 3)
    1: not valid                      1: the table that is judged, of process 1 (quadrant 0)

The root of partition 0 translates nothing but the address of the process table. Quadrants 1 and 2, other ways to
name what a guest has mapped, lead to partition 1: nowhere.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.core import MIB, Core
from qemu.emulator import Emulator, EmulatorError

VALID, LEAF = 1 << 63, 1 << 62
FAR_FRAMES, FAR_TABLES = (1 << 57) - (1 << 53), (1 << 60) - (1 << 53)
ROOT_BITS, ADDRESS_BITS = 13, 52
SIZE_OF_THE_ADDRESS_SPACE = (ADDRESS_BITS - 31 & 0b111) << 5 | (ADDRESS_BITS - 31 >> 3) << 61
HOST_RADIX = 1 << 63
MEMORY_TYPE = 0b11 << 4


class Power(Core):
    """Sets accessed and dirty."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "ppc64"
    arguments = ("-M", "powernv9")
    byte_order = "big"
    ram_bytes = 1024 * MIB  # the least that the board takes without a warning
    frames_at = 384 * MIB  # above the firmware
    LOAD, STORE, FLUSH = 0, 4, 8
    value_register = "r3"
    code = (
        0x88640000,  # lbz r3, 0(r4)
        0x98640000,  # stb r3, 0(r4)
        0x7C0003E4,  # slbia
        0x7C4004AC,  # ptesync
    )

    CODE = 0xC000_0000_0001_0000
    LPCR_HR, LPCR_UPRT = 1 << 20, 1 << 22
    MSR_SF, MSR_HV, MSR_PR, MSR_IR, MSR_DR = 1 << 63, 1 << 60, 1 << 14, 1 << 5, 1 << 4
    DATA_FAULTS: ClassVar = (0x300, 0x380, 0xE00)  # of a page, of an address outside, of a partition
    FETCH_FAULTS: ClassVar = (0x400, 0x480, 0xE20)
    MACHINE_CHECK = 0x200

    def permits(self, flags: str, access: Access) -> bool:
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1 and raw & (VALID | LEAF) == VALID

    def unjudged(self, level: int, *, leaf: bool) -> int:
        if leaf:
            takes_any_size = VALID if self.arch.level(level).leaf is None else 0
            return FAR_FRAMES | MEMORY_TYPE | (self.arch.level(level).span - 1 & -(1 << 12)) | takes_any_size
        is_of_5_or_9_bits = (5 ^ 9) if level == 2 else 0
        return FAR_TABLES | LEAF | is_of_5_or_9_bits

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> object:
        frames, name = pt.frames, pt.arch.name
        page = pt.arch.page_sizes[0]
        code, process_table, partition_table = (frames.alloc(page) for _ in range(3))
        kernel, host = ptl.PageTable(name, frames=frames), ptl.PageTable(name, frames=frames)
        kernel.map(cls.CODE & (1 << ADDRESS_BITS) - 1, code, flags="rxua")
        host.map(process_table, process_table, flags="rwad")
        cls._write_code(frames.view(code, page))
        cls._write_table(frames, partition_table, HOST_RADIX | cls._root(host), HOST_RADIX | process_table)
        cls._write_table(frames, process_table, cls._root(kernel), 0, cls._root(pt), 0)
        emulator.stub.write(ptcr=partition_table, lpcr=cls.LPCR_HR | cls.LPCR_UPRT, pid=1, lpidr=1)
        return kernel, host

    @staticmethod
    def _root(pt: ptl.PageTable) -> int:
        return SIZE_OF_THE_ADDRESS_SPACE | pt.root | ROOT_BITS

    @staticmethod
    def _write_table(frames: ptl.Frames, pa: int, *words: int) -> None:
        text = b"".join(word.to_bytes(8, "big") for word in words)
        frames.view(pa, len(text))[:] = text

    @property
    def _msr(self) -> int:
        user = self.MSR_PR if self.mode is Mode.USER else 0
        return self.MSR_SF | self.MSR_HV | self.MSR_IR | self.MSR_DR | user

    def _use(self, va: int, access: Access) -> bool:
        if access is Access.EXECUTE:
            self.stub.step(msr=self._msr, pc=va & ~0b11)
            return self.stub.read("pc") not in self.FETCH_FAULTS
        pc = self.CODE + (self.LOAD if access is Access.READ else self.STORE)
        self.stub.step(msr=self._msr, r4=va, pc=pc)
        reached = self.stub.read("pc")
        if reached in self.DATA_FAULTS:
            return False
        if reached not in (pc + 4, self.MACHINE_CHECK):
            raise EmulatorError(f"{self} to {access.name} {va:#x} went to {reached:#x}")
        return True

    def physical(self, va: int) -> int | None:
        self.stub.write(msr=self._msr)  # the monitor asks in the mode that the CPU is in
        return super().physical(va)

    def _flush(self) -> None:
        self.stub.step(msr=self._msr & ~self.MSR_PR, pc=self.CODE + self.FLUSH)
        self.stub.step()


class Power10(Power):
    """The next model."""

    arguments = ("-M", "powernv10")
