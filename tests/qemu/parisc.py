"""PA-RISC 1.1, whose TLB is filled as Linux's handler would: with an address, and what may be done there.

    leaf        31 ............. 12   11  10  9   8   7   6   5   4   3   2   1   0
                physical address      U   F   1   A  unc  T   D   B  gate X   W   R
    address     31-25      24 ............. 5     4-0
                0          frame number           0
    protection  31-30   29  28  27  26  25  24    23-22  21-20   19   18-0
                0       T   D   B  gate X   W     R U    U U     unc  0

23-22 is the least privileged level (0 is the kernel's, 3 a user's) that reads, and 21-20 the one that writes; between
the two lie those that execute. So the kernel reads every page, and executes none of a user's; a user executes what can
be read. The handler asks whether an entry is present, and marks it accessed, so the TLB does not mind whether it is.
The code is fetched without the TLB.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Mode

import ptl
from qemu.emulator import Emulator, EmulatorError
from qemu.refilled import Refilled
from test_refill import walk_parisc


def insert(*, data: bool, address: bool, value: int) -> int:
    """The instruction idtlba, idtlbp, iitlba or iitlbp r[value], (r3)."""
    return 0x0460_0000 | value << 16 | data << 12 | address << 6


class Parisc(Refilled):
    """A PA-7300LC."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    target = "hppa"
    arguments = ("-M", "none", "-cpu", "hppa-cpu")
    byte_order = "big"
    layout: ClassVar = dict.fromkeys(
        ("psw", *(f"r{n}" for n in range(1, 32)), *["sar", "iaoq_f", "iasq_f", "iaoq_b", "iasq_b"]), 4
    )
    traps_first_access = False
    value_register = "r5"
    code = (
        0x4065_0000,  #  0 ldb 0(r3), r5
        0x6065_0000,  #  4 stb r5, 0(r3)
        insert(data=True, address=True, value=4),  #  8
        insert(data=True, address=False, value=6),  # 12
        insert(data=False, address=True, value=4),  # 16
        insert(data=False, address=False, value=6),  # 20
        0x0800_0240,  # 24 nop
        0x01C3_1840,  # 28 mtctl r3, cr14: where vectors are
        0x0460_1200,  # 32 pdtlb (r3)
        0x0460_0200,  # 36 pitlb (r3)
        0x0800_0240,  # 40 nop
    )
    LOAD, STORE, FILL, FILLED, SET_VECTORS, FORGET, FORGOTTEN = 0, 4, 8, 24, 28, 32, 40

    CODE, VECTORS = 0x10_0000, 0x20_0000
    USER_LEVEL = 3
    DATA_TRANSLATED, CODE_TRANSLATED = 1 << 1, 1 << 18
    TRAPS = range(1, 32)
    FETCH_FAULTS: ClassVar = (6, 7)  # missing; protected
    DATA_FAULTS: ClassVar = (15, 18, 20, 26)  # missing; protected in general; not dirty; access rights

    def permits(self, flags: str, access: Access) -> bool:
        granted, user = set(flags), self.mode is Mode.USER
        if user and "u" not in granted:
            return False
        if access is Access.READ:
            return "r" in granted or not user
        if access is Access.WRITE:
            return {"w", "d"} <= granted
        return {"r", "x"} <= granted if user else "x" in granted and "u" not in granted

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        cls._write_code(emulator.ram, cls.CODE)
        pc = cls.CODE + cls.SET_VECTORS
        emulator.stub.step(psw=0, r3=cls.VECTORS, iaoq_f=pc, iaoq_b=pc + 4)
        for at in (cls.FILLED, cls.FORGOTTEN):
            emulator.stub.stop_at(cls.CODE + at)

    def physical(self, va: int) -> int | None:
        """Where the monitor says that an address leads; None for nowhere. A trap has ended translation."""
        self.stub.write(psw=self.DATA_TRANSLATED)
        return super().physical(va)

    def _execute(self, va: int, access: Access) -> bool:
        level = self.USER_LEVEL if self.mode is Mode.USER else 0
        if access is Access.EXECUTE:
            start, psw = va & ~0b11, self.CODE_TRANSLATED | self.DATA_TRANSLATED
        else:
            start, psw = self.CODE + (self.LOAD, self.STORE)[access is Access.WRITE], self.DATA_TRANSLATED
        self.stub.step(psw=psw, r3=va, iaoq_f=start | level, iaoq_b=start + 4 | level)
        trap, rest = divmod(self.stub.read("iaoq_f") - self.VECTORS, 32)
        if rest or trap not in self.TRAPS:
            return True
        if access is Access.EXECUTE:
            return trap not in self.FETCH_FAULTS  # it may fetch a break, or a load
        if trap not in self.DATA_FAULTS:
            raise EmulatorError(f"{self} to {access.name} {va:#x} ended with trap {trap}")
        return False

    def _fill(self, va: int) -> None:
        """What the handler does; where it finds nothing, nothing is left in the TLB."""
        entry = walk_parisc(self.pt.frames, self.pt.root, va)
        start = self.CODE + (self.FORGET if entry is None else self.FILL)
        address, protection = (0, 0) if entry is None else self._inserted(entry)
        self.stub.run(psw=0, r3=va & -(1 << 12), r4=address, r6=protection, iaoq_f=start, iaoq_b=start + 4)

    @staticmethod
    def _inserted(entry: int) -> tuple[int, int]:
        """An address and a protection, as arch/parisc/kernel/entry.S, make_insert_tlb_11, has them."""
        protection = (entry & 0x7F) << 23 | (entry >> 7 & 1) << 19
        if entry >> 11 & 1:
            protection |= 0b111 << 20
        return entry >> 12 << 5, protection
