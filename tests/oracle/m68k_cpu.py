"""Emulated 68040s, in supervisor and user mode, with one root table for both.

What this judge cannot say (`Cpu.unjudged` has the bits):

- An indirect entry names another, which it goes on to read; ptl calls it BAD.
- Table entries may themselves be write protected. ptl's never are, and its walk does not ask.
- It sets accessed and dirty in a supervisor's page before it refuses it to a user.
"""

from __future__ import annotations

from mmu import Access, Cpu, Mode, Program, in_roles

try:
    import unicorn
    from unicorn import m68k_const
except ImportError:
    pass


class M68040(Cpu):
    """Pages of 4 KiB, and no transparent translation."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    program = Program(
        code=bytes.fromhex(
            "2430 1800"  # loop: move.l (a0,d1.l), d2
            "d682"  #           add.l d2, d3
            "d484"  #           add.l d4, d2
            "2182 1800"  #      move.l d2, (a0,d1.l)
            "d285"  #           add.l d5, d1
            "c286"  #           and.l d6, d1
            "60ee"  #           bra.s loop
        ),
        word=4,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("PC A0 D1 D4 D5 D6 D3 D2"),
    )

    ENABLE, SUPERVISOR_STATE = 1 << 15, 1 << 13
    KIND, LEAF, INDIRECT, WRITE_PROTECTED = 0b11, 0b01, 0b10, 1 << 2

    def permits(self, flags: str, access: Access) -> bool:
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        table = 0b10
        return level > 1 and bool(raw & table)

    def unjudged(self, level: int, *, leaf: bool) -> int:
        return 0 if leaf else self.WRITE_PROTECTED

    def judged(self, level: int, raw: int) -> int:
        return raw | self.LEAF if level == 1 and raw & self.KIND == self.INDIRECT else raw

    def marks_though_it_refuses(self, level: int, flags: str, access: Access) -> str:
        return "ad" if access is Access.WRITE and "w" in flags else "a"

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_M68K, unicorn.UC_MODE_BIG_ENDIAN, m68k_const.UC_CPU_M68K_M68040)
        self._plug_in_ram(uc)
        uc.reg_write(m68k_const.UC_M68K_REG_CR_SRP, self.pt.root)
        uc.reg_write(m68k_const.UC_M68K_REG_CR_URP, self.pt.root)
        uc.reg_write(m68k_const.UC_M68K_REG_CR_TC, self.ENABLE)
        uc.reg_write(m68k_const.UC_M68K_REG_SR, 0 if self.mode is Mode.USER else self.SUPERVISOR_STATE)
        return uc

    def _register(self, name: str) -> int:
        return getattr(m68k_const, f"UC_M68K_REG_{name}")
