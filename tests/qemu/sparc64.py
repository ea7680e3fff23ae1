"""UltraSPARC, whose TLBs are filled as Linux's handlers would: with the entry as it is.

Entry 0 of either TLB is written anew for each access; that of instructions only when the handler finds the entry
executable. The code is fetched without the MMU, as in the state after a reset (RED), which loads and stores do not
mind; a jump into the table leaves that state. The machine does not take memory from outside: what it has is its own,
and the table is in none of it.
"""

from __future__ import annotations

import re
from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.emulator import Emulator, EmulatorError
from qemu.refilled import Refilled
from test_refill import walk_sparc64


def to_asi(value: int, address: int, asi: int) -> int:
    """The instruction stxa %g[value], [%g[address]] asi."""
    return 0b11 << 30 | value << 25 | 0x1E << 19 | address << 14 | asi << 5


def to_privileged(register: int, value: int) -> int:
    """The instruction wrpr %g[value], 0, register."""
    return 0b10 << 30 | register << 25 | 0x32 << 19 | value << 14 | 1 << 13


class Sparc64(Refilled):
    """An UltraSPARC IIi, which has 41 bits of physical address."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "sparc64"
    arguments = ("-M", "sun4u", "-cpu", "TI-UltraSparc-IIi")
    byte_order = "big"
    layout: ClassVar = {
        **{f"r{n}": 8 for n in range(32)},
        **{f"f{n}": 4 for n in range(32)},
        **{f"d{n}": 8 for n in range(32, 64, 2)},
        **dict.fromkeys(("pc", "npc", "state"), 8),
    }
    pa_bits = 41
    shares_ram = False
    run_sizes = (64 << 10, 512 << 10, 4 << 20)
    value_register = "r3"
    TL, TBA = 7, 5
    TAG_ACCESS = 0x30
    code = (
        0xC608_4000,  #  0 ldub [%g1], %g3
        0xC628_4000,  #  4 stb %g3, [%g1]
        to_privileged(TL, 0),  #  8
        to_asi(2, 1, 0x58),  # 12 tag of the next entry for data
        to_asi(3, 0, 0x5D),  # 16 entry 0 for data
        to_asi(2, 1, 0x50),  # 20 and for instructions
        to_asi(4, 0, 0x55),  # 24
        0x0100_0000,  # 28 nop
        to_privileged(TL, 0),  # 32
        to_privileged(TBA, 2),  # 36 vectors
        to_asi(3, 0, 0x45),  # 40 switches of the MMUs
    )
    CODE, VECTORS = 0x180_1000, 0x180_8000
    LOAD, STORE, FILL, FILLED, SET_UP = 0, 4, 8, 28, 32
    RED, PRIVILEGED, WINDOW = 1 << 13, 1 << 10, 7
    BOTH_MMUS = 0b11 << 2
    EXECUTABLE = 1 << 12
    REFUSALS: ClassVar = (0x08, 0x30, 0x64, 0x68, 0x6C)  # privileged code, data; code, data missing; protected

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        emulator.stub.put(cls.CODE, cls._text())
        for at in (cls.SET_UP, cls.SET_UP + 4, cls.SET_UP + 8):
            pc = cls.CODE + at
            state = cls.RED | cls.PRIVILEGED | cls.WINDOW
            emulator.stub.step(r2=cls.VECTORS, r3=cls.BOTH_MMUS, pc=pc, npc=pc + 4, state=state)
        emulator.stub.stop_at(cls.CODE + cls.FILLED)

    def physical(self, va: int) -> int | None:
        """Where the entry of the TLB leads, as the monitor lists it."""
        listed = self.emulator.monitor("info tlb")
        match = re.search(r"DMMU dump\n\[00\] VA: ([0-9a-f]+), PA: ([0-9a-f]+), +(8k|64k|512k|4M)", listed)
        if match is None:
            raise EmulatorError(f"info tlb printed {listed!r}")
        size = {"8k": 1 << 13, "64k": 1 << 16, "512k": 1 << 19, "4M": 1 << 22}[match[3]]
        return int(match[2], 16) & -size | va & size - 1

    def _execute(self, va: int, access: Access) -> bool:
        privileged = self.PRIVILEGED if self.mode is Mode.SUPERVISOR else 0
        if access is Access.EXECUTE:
            start, state = va & ~0b11, privileged | self.WINDOW
        else:
            start = self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE]
            state = self.RED | privileged | self.WINDOW
        self.stub.step(r1=va, pc=start, npc=start + 4, state=state)
        trap, rest = divmod(self.stub.read("pc") - self.VECTORS, 32)
        return rest != 0 or trap not in self.REFUSALS

    def _fill(self, va: int) -> None:
        """What the handlers of TLB misses do; where they find nothing, an entry that is not valid."""
        entry = walk_sparc64(self.pt.frames, self.pt.root, va) or 0
        code = entry if entry & self.EXECUTABLE else 0
        pc = self.CODE + self.FILL
        state = self.RED | self.PRIVILEGED | self.WINDOW
        self.stub.run(r1=self.TAG_ACCESS, r2=va & -(1 << 13), r3=entry, r4=code, pc=pc, npc=pc + 4, state=state)
