"""Emulated SPARC V8 CPUs with the reference MMU, in supervisor and user mode, in context 0.

The translate call does not know this MMU: a core asks by doing it. It loads or stores a byte, or jumps there, in a
machine of its own whose memory is a device, which remembers where it was last asked. The instruction that asks has to
lie somewhere too: such a machine sees one slot of the root, far from the address in question, as a leaf that maps the
page with the instruction. Programs run in an ordinary machine.

What this judge cannot say (`Cpu.unjudged` has the bits):

- Physical addresses have 32 bits here: bits above are cut.
- A page that the user may read and the kernel write (rights 5): ptl's letters have no word for it.
- Bits of an address below the size of its leaf are reserved, and so are bits 3 and 2 of an entry for a table. It adds
  them to the address.
"""

from __future__ import annotations

import struct

from mmu import FAULT, JUDGE, Access, Cpu, Mode, Program, Verdict, in_roles

import judges

try:
    import unicorn
    from unicorn import sparc_const
except ImportError:
    pass


def _register_to_memory(rd: int, op3: int, rs1: int, rs2: int, asi: int = 0) -> int:
    """A load or store between register rd and the sum of two others."""
    return 0b11 << 30 | rd << 25 | op3 << 19 | rs1 << 14 | asi << 5 | rs2


LD, LDUB, ST, STB, STA = 0x00, 0x01, 0x04, 0x05, 0x14


class Sparc32(Cpu):
    """A SuperSPARC II. Accessed and dirty are set by the walk."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    program = Program(
        code=struct.pack(
            ">7I",
            _register_to_memory(7, LD, 1, 2),  # loop: ld [%g1 + %g2], %g7
            0x8C018007,  #                             add %g6, %g7, %g6
            0x8E01C003,  #                             add %g7, %g3, %g7
            _register_to_memory(7, ST, 1, 2),  #       st %g7, [%g1 + %g2]
            0x84008004,  #                             add %g2, %g4, %g2
            0x84088005,  #                             and %g2, %g5, %g2
            0x30BFFFFA,  #                             ba,a loop
        ),
        word=4,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("PC G1 G2 G3 G4 G5 G6 G7"),
    )

    SUPERVISOR_STATE, TRAPS = 1 << 7, 1 << 5  # of the PSR
    MMU_REGISTERS = 4  # an address space identifier
    CONTROL, CONTEXT_TABLE = 0x000, 0x100
    PTD, PTE = 0b01, 0b10
    RIGHTS, OF_ALL, ODD = 0b111 << 2, 3 << 2, 5 << 2

    # A page of the machine beside the block: an instruction to begin with, those that ask, the table of contexts.
    PAGE = 0x00AB_C000
    BEGIN, ASK, CONTEXTS = PAGE, {Access.READ: 0x100, Access.WRITE: 0x108}, PAGE + 0x800

    def permits(self, flags: str, access: Access) -> bool:
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1 and raw & 0b11 == self.PTD

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_32_bits, below_address = 0xF000_0000, self.arch.level(level).span - (1 << 12) >> 4
        return above_32_bits | below_address if leaf else 0b1100

    def judged(self, level: int, raw: int) -> int:
        raw = super().judged(level, raw)
        return raw & ~self.RIGHTS if raw & self.RIGHTS == self.ODD else raw

    # -- asking

    def translate(self, va: int, access: Access) -> Verdict:
        judges.probes[JUDGE, self.arch.name] += 1
        self._asked_slot = (va >> 24) ^ 0x55
        self._seen = None
        self._set_state(self._asking)
        self._asking.reg_write(sparc_const.UC_SPARC_REG_G2, va)
        asks = va & ~3 if access is Access.EXECUTE else (self._asked_slot << 24 | self.PAGE) + self.ASK[access]
        try:
            self._asking.emu_start(asks, until=asks + 4, count=1)
        except unicorn.UcError as error:
            if error.errno == unicorn.UC_ERR_EXCEPTION:
                return FAULT
            if error.errno != unicorn.UC_ERR_FETCH_PROT:  # found, and a device is nothing to execute
                raise
        return self._seen | va & 3

    def flush(self) -> None:
        super().flush()
        self._asking.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    def _read(self, _: unicorn.Uc, offset: int, size: int, first: int) -> int:
        pa = first + offset
        if size == 1:
            self._seen = pa
            return 0
        if pa == self.pt.root + 4 * self._asked_slot:
            region = self.PAGE & -(1 << 24)
            return region >> 4 | self.OF_ALL | self.PTE | 1 << 5
        return int.from_bytes(self.pt.frames.view(pa, size), "big")

    def _write(self, _: unicorn.Uc, offset: int, size: int, value: int, first: int) -> None:
        pa = first + offset
        if size == 1:
            self._seen = pa
        else:  # accessed and dirty; this emulator hands them over in the other byte order than it reads
            self.pt.frames.view(pa, size)[:] = value.to_bytes(size, "little")

    def _fetched(self, _: unicorn.Uc, kind: int, address: int, size: int, value: int, data: object) -> bool:
        self._seen = address
        return False

    # -- making one

    def _start(self) -> unicorn.Uc:
        uc = self._machine()
        self._plug_in_ram(uc)
        self._begin(uc)
        self._set_state(uc)
        self._asking = self._machine()
        for first, end in ((0, self.PAGE), (self.PAGE + 0x1000, 1 << 32)):
            self._asking.mmio_map(first, end - first, self._read, first, self._write, first)
        self._asking.hook_add(unicorn.UC_HOOK_MEM_FETCH_PROT, self._fetched)
        self._asked_slot = 0
        self._begin(self._asking)
        return uc

    def _machine(self) -> unicorn.Uc:
        uc = self._engine(
            unicorn.UC_ARCH_SPARC,
            unicorn.UC_MODE_SPARC32 | unicorn.UC_MODE_BIG_ENDIAN,
            sparc_const.UC_CPU_SPARC32_TI_SUPERSPARC_II,
        )
        uc.mem_map(self.PAGE, 0x1000)
        uc.mem_write(self.BEGIN, struct.pack(">I", _register_to_memory(1, STA, 2, 0, self.MMU_REGISTERS)))
        uc.mem_write(self.PAGE + self.ASK[Access.READ], struct.pack(">I", _register_to_memory(1, LDUB, 2, 0)))
        uc.mem_write(self.PAGE + self.ASK[Access.WRITE], struct.pack(">I", _register_to_memory(0, STB, 2, 0)))
        uc.mem_write(self.CONTEXTS, struct.pack(">I", self.pt.root >> 4 | self.PTD))
        return uc

    def _begin(self, uc: unicorn.Uc) -> None:
        """Store into two registers of the MMU. With the second it is on, so the instruction after that is not found."""
        uc.reg_write(sparc_const.UC_SPARC_REG_PSR, self.SUPERVISOR_STATE | self.TRAPS)
        for register, value in ((self.CONTEXT_TABLE, self.CONTEXTS >> 4), (self.CONTROL, 1)):
            uc.reg_write(sparc_const.UC_SPARC_REG_G1, value)
            uc.reg_write(sparc_const.UC_SPARC_REG_G2, register)
            try:
                uc.emu_start(self.BEGIN, until=0, count=1)
            except unicorn.UcError:
                assert register == self.CONTROL

    def _set_state(self, uc: unicorn.Uc) -> None:
        state = 0 if self.mode is Mode.USER else self.SUPERVISOR_STATE
        uc.reg_write(sparc_const.UC_SPARC_REG_PSR, state | self.TRAPS)

    def _register(self, name: str) -> int:
        return getattr(sparc_const, f"UC_SPARC_REG_{name}")
