"""Emulated z/Architecture CPUs, in supervisor and problem state, with the primary address space alone.

What this judge cannot say (`Cpu.unjudged` has the bits):

- It has no EDAT: every entry above level 1 is one for a table. It judges the format without leaves of 1 MiB and 2 GiB.
- What is software's: hardware sees what Linux makes of it, the invalid bit and the protection bit.
- Entries for tables may themselves protect. ptl's never do, and its walk does not ask.
- A table may be shorter, as the entry for it says. ptl's never are, and such an entry is BAD.
- It does not mind the common-segment bit in an entry of a region table, which is reserved.
"""

from __future__ import annotations

import struct

from mmu import Access, Cpu, Mode, Program, in_roles

try:
    import unicorn
    from unicorn import s390x_const
except ImportError:
    pass


class S390(Cpu):
    """A region-second table on top; sets neither accessed nor dirty, and refuses what would."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    sets = ""
    needs = "ad"
    program = Program(
        code=bytes.fromhex(
            "e372 1000 0004"  # loop: lg %r7, 0(%r2,%r1)
            "b908 0067"  #           agr %r6, %r7
            "b908 0073"  #           agr %r7, %r3
            "e372 1000 0024"  #      stg %r7, 0(%r2,%r1)
            "b908 0024"  #           agr %r2, %r4
            "b980 0025"  #           ngr %r2, %r5
            "a7f4 fff2"  #           j loop
        ),
        word=8,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("PC R1 R2 R3 R4 R5 R6 R7"),
    )

    INVALID, PROTECT, UPPER_INVALID = 1 << 10, 1 << 9, 1 << 5
    P, A, D, R, W = (1 << bit for bit in (0, 2, 3, 4, 5))
    NO_EXECUTE_COUNTS = 1 << 20  # of control register 0
    PRIVATE_SPACE, REGION_SECOND, LENGTH = 1 << 8, 0b10 << 2, 0b11  # of control register 1
    DAT, PROBLEM_STATE, ADDRESSES_OF_64_BITS = 1 << 58, 1 << 48, 0b11 << 31  # of a PSW

    def permits(self, flags: str, access: Access) -> bool:
        if "a" not in flags or (access is Access.WRITE and "d" not in flags):
            return False
        return access.letter in flags

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1 and not raw & self.UPPER_INVALID

    def unjudged(self, level: int, *, leaf: bool) -> int:
        if level == 1:
            return self.P | self.A | self.D | self.R | self.W
        edat_leaf, length, common = 1 << 10, 0b1100_0011, 1 << 4
        return edat_leaf | self.PROTECT | (0 if level == 2 else length | common)

    def judged(self, level: int, raw: int) -> int:
        """With what is software's as Linux has it for these bits of the hardware's."""
        if level == 1 and not raw & self.INVALID:
            raw |= self.P | self.R | self.A
            raw = raw & ~(self.D | self.W) if raw & self.PROTECT else raw | self.D | self.W
        return raw

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_S390X, unicorn.UC_MODE_BIG_ENDIAN, s390x_const.UC_CPU_S390X_MAX)
        self._load_control_registers(uc)
        self._plug_in_ram(uc)
        self._plug_in_everything_else(uc, self.arch.pa_bits)
        state = self.PROBLEM_STATE if self.mode is Mode.USER else 0
        uc.reg_write(s390x_const.UC_S390X_REG_PSWM, self.DAT | self.ADDRESSES_OF_64_BITS | state)
        return uc

    def _load_control_registers(self, uc: unicorn.Uc) -> None:
        """Execute a `lctlg 0,1,0x1008` before there is translation."""
        page = 0x1000
        uc.mem_map(page, 0x1000)
        uc.mem_write(page, bytes.fromhex("eb01 0008 012f"))
        space = self.pt.root | self.PRIVATE_SPACE | self.REGION_SECOND | self.LENGTH
        uc.mem_write(page + 8, struct.pack(">QQ", self.NO_EXECUTE_COUNTS, space))
        uc.emu_start(page, until=0, count=1)
        uc.mem_unmap(page, 0x1000)

    def _register(self, name: str) -> int:
        return getattr(s390x_const, f"UC_S390X_REG_{name}")
