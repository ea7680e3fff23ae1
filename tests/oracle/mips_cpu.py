"""Emulated MIPS cores, whose TLB a handler like Linux's refills from ptl's tables before each access.

    va --> refill(va): follows the tables through KSEG0 or XKPHYS, without a test, and writes a pair of pages to the TLB
      '--> the core translates by its TLB: a page that is not valid, or not valid for writes, traps

The handler is a few instructions that the core itself executes (RELEASE_1, RELEASE_6): as those that Linux's
arch/mips/mm/tlbex.c puts together, with the address in a register, for there is no trap to begin with.

What this judge cannot say: what is present, for the handler does not ask, but loads whatever is valid; how a page is
cached; and anything of addresses from 2 GiB on of mips32, which do not go through the tables, or are the kernel's.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Cpu, Mode, Verdict

import ptl

try:
    import unicorn
    from unicorn import mips_const
except ImportError:
    pass

VA, PGD, K0, K1 = 4, 5, 26, 27  # registers
ENTRY_LO_0, ENTRY_LO_1, PAGE_MASK, ENTRY_HI = 2, 3, 5, 10  # of coprocessor 0
PAGE_GRAIN, RIE_XIE_ELPA = 1, 0b111 << 29  # read and execute inhibited, and large physical addresses


def _computed(rd: int, rs: int, rt: int, shift: int, function: int) -> int:
    return rs << 21 | rt << 16 | rd << 11 | shift << 6 | function


def _immediate(opcode: int, rt: int, rs: int, value: int) -> int:
    return opcode << 26 | rs << 21 | rt << 16 | value


def sll(rd: int, rt: int, shift: int) -> int:
    return _computed(rd, 0, rt, shift, 0x00)


def srl(rd: int, rt: int, shift: int) -> int:
    return _computed(rd, 0, rt, shift, 0x02)


def dsrl(rd: int, rt: int, shift: int) -> int:
    return _computed(rd, 0, rt, shift, 0x3A)


def drotr(rd: int, rt: int, shift: int) -> int:
    return _computed(rd, 1, rt, shift, 0x3A)


def addu(rd: int, rs: int, rt: int) -> int:
    return _computed(rd, rs, rt, 0, 0x21)


def daddu(rd: int, rs: int, rt: int) -> int:
    return _computed(rd, rs, rt, 0, 0x2D)


def daddiu(rt: int, rs: int, value: int) -> int:
    return _immediate(0x19, rt, rs, value)


def andi(rt: int, rs: int, value: int) -> int:
    return _immediate(0x0C, rt, rs, value)


def lui(rt: int, value: int) -> int:
    return _immediate(0x0F, rt, 0, value)


def ori(rt: int, rs: int, value: int) -> int:
    return _immediate(0x0D, rt, rs, value)


def lw(rt: int, offset: int, base: int) -> int:
    return _immediate(0x23, rt, base, offset)


def ld(rt: int, offset: int, base: int) -> int:
    return _immediate(0x37, rt, base, offset)


def beqz(rs: int, instructions: int) -> int:
    return _immediate(0x04, 0, rs, instructions)


def mtc0(rt: int, register: int, select: int = 0) -> int:
    return 0x10 << 26 | 4 << 21 | rt << 16 | register << 11 | select


def dmtc0(rt: int, register: int) -> int:
    return 0x10 << 26 | 5 << 21 | rt << 16 | register << 11


TLBWI, NOP = 0x4200_0002, 0

RELEASE_1 = (
    mtc0(VA, ENTRY_HI),
    srl(K0, VA, 22),
    sll(K0, K0, 2),
    addu(K1, PGD, K0),
    lw(K1, 0, K1),  # the name of a table of pages, maybe of nothing
    srl(K0, VA, 10),
    andi(K0, K0, 0xFF8),
    addu(K1, K1, K0),
    lw(K0, 0, K1),
    lw(K1, 4, K1),
    srl(K0, K0, 6),
    mtc0(K0, ENTRY_LO_0),
    srl(K1, K1, 6),
    mtc0(K1, ENTRY_LO_1),
    mtc0(0, PAGE_MASK),
    TLBWI,
    NOP,
)

PAIR_OF_PAGES = (
    dsrl(K1, VA, 9),
    andi(K1, K1, 0xFF0),
    daddu(K0, K0, K1),
    ld(K1, 8, K0),
    ld(K0, 0, K0),
    drotr(K0, K0, 8),
    dmtc0(K0, ENTRY_LO_0),
    drotr(K1, K1, 8),
    dmtc0(K1, ENTRY_LO_1),
    mtc0(0, PAGE_MASK),
    TLBWI,
    NOP,
)
HALVES_OF_A_HUGE_PAGE = (
    drotr(K0, K0, 8),
    dmtc0(K0, ENTRY_LO_0),
    daddiu(K0, K0, (1 << 21) >> 7),  # a MiB on
    dmtc0(K0, ENTRY_LO_1),
    lui(K1, 0x001F),
    ori(K1, K1, 0xE000),  # the mask of a pair of MiB
    mtc0(K1, PAGE_MASK),
    TLBWI,
    NOP,
)
RELEASE_6 = (
    dmtc0(VA, ENTRY_HI),
    dsrl(K0, VA, 27),
    andi(K0, K0, 0x1FF8),
    daddu(K0, PGD, K0),
    ld(K0, 0, K0),  # the name of a table of level 2, maybe of nothing
    dsrl(K1, VA, 18),
    andi(K1, K1, 0xFF8),
    daddu(K0, K0, K1),
    ld(K0, 0, K0),  # the name of a table of pages, maybe of nothing, or H
    andi(K1, K0, 1 << 4),
    beqz(K1, 1 + len(HALVES_OF_A_HUGE_PAGE) + 2),
    NOP,
    *HALVES_OF_A_HUGE_PAGE,
    beqz(0, 1 + len(PAIR_OF_PAGES)),
    NOP,
    *PAIR_OF_PAGES,
)


class Mips32(Cpu):
    """A 24Kf in user mode."""

    modes = (Mode.USER,)
    sets = ""
    needs = "ad"

    MODEL: ClassVar[str] = "MIPS32_24KF"
    HANDLER: ClassVar[tuple[int, ...]] = RELEASE_1
    WINDOW: ClassVar[int] = 0x8000_0000
    CODE: ClassVar[int] = 0x1FC0_0000
    PAIR_BYTES: ClassVar[int] = 1 << 13
    KERNEL: ClassVar[int] = 0
    USER: ClassVar[int] = 0b10 << 3

    def translate(self, va: int, access: Access) -> Verdict:
        """What the TLB says after the handler."""
        self._execute(self.HANDLER, va & -self.PAIR_BYTES, self.WINDOW | self.pt.root)
        self.uc.reg_write(mips_const.UC_MIPS_REG_CP0_STATUS, self.USER)
        return super().translate(va, access)

    def permits(self, flags: str, access: Access) -> bool:
        """Valid is what may be read and was; valid for writes what was written besides, and may be."""
        return {*("rwad" if access is Access.WRITE else "ra")} <= {*flags}

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1

    def unjudged(self, level: int, *, leaf: bool) -> int:
        return 0

    def _execute(self, code: tuple[int, ...], *arguments: int) -> None:
        """Execute a few instructions in kernel mode."""
        self.uc.mem_write(self.CODE, b"".join(word.to_bytes(4, "little") for word in code))
        self.uc.reg_write(mips_const.UC_MIPS_REG_CP0_STATUS, self.KERNEL)
        for register, argument in enumerate(arguments, VA):
            self.uc.reg_write(getattr(mips_const, f"UC_MIPS_REG_{register}"), argument)
        start = self.WINDOW | self.CODE
        self.uc.emu_start(start, start + 4 * len(code))

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_MIPS, self._kind(), getattr(mips_const, f"UC_CPU_{self.MODEL}"))
        self._plug_in_ram(uc)
        uc.mem_map(self.CODE, 0x1000)
        return uc

    def _kind(self) -> int:
        return unicorn.UC_MODE_MIPS32 | unicorn.UC_MODE_LITTLE_ENDIAN

    def _register(self, name: str) -> int:
        return getattr(mips_const, f"UC_MIPS_REG_{name}")


class Mips64(Mips32):
    """An I6400 in user mode, with pages that cannot be read, or executed."""

    MODEL = "MIPS64_I6400"
    HANDLER = RELEASE_6
    WINDOW = 0x9800_0000_0000_0000
    WIDE = 0b101 << 5
    KERNEL, USER = WIDE, WIDE | 0b10 << 3

    def __init__(self, pt: ptl.PageTable, mode: Mode) -> None:
        super().__init__(pt, mode)
        self._execute((mtc0(VA, PAGE_MASK, PAGE_GRAIN), NOP), RIE_XIE_ELPA)

    def permits(self, flags: str, access: Access) -> bool:
        """As above; and what is executed must be executable."""
        return super().permits(flags, access) and (access is not Access.EXECUTE or "x" in flags)

    def _kind(self) -> int:
        return unicorn.UC_MODE_MIPS64 | unicorn.UC_MODE_LITTLE_ENDIAN


REFILLED: dict[str, type[Mips32]] = {"mips32": Mips32, "mips64": Mips64}
"""Who judges which architecture."""
