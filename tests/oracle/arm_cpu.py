"""Emulated Arm CPUs, privileged and not, with the table of TTBR0 alone: arm64 at EL1 and EL0, and 32-bit Arm.

What this judge cannot say (`Cpu.unjudged` has the bits):

- Physical addresses of arm64 have 44 bits here. An address above is cut, or faults. A 32-bit CPU answers in 32 bits.
- A page that the user may execute and not read, or that user and kernel may execute: ptl's letters have no word for it.
- It takes leaves on levels where the manual has none.
- Bits of an address below the size of its leaf are reserved; some of them move the page here.
- It does not know the contiguous bit: each entry of a run is a leaf by itself.
- Table entries may themselves take rights away. ptl's never do, and its walk does not ask.
- Two words of 32-bit Arm with short descriptors are one entry to ptl, and to a CPU each is for itself: it takes one
  section for a leaf, of any MiB, and one that ptl calls BAD (with bit 18 or bit 0).
- What AP and APX of a section say to that CPU, to ptl the bits say that it has in place of a domain.
"""

from __future__ import annotations

from typing import ClassVar

from mmu import Access, Cpu, Mode, Program, in_roles

try:
    import unicorn
    from unicorn import arm64_const, arm_const
except ImportError:
    pass


class Arm64(Cpu):
    """Stage 1 of EL1 and EL0, with the format's granule and address width; sets neither accessed nor dirty."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    sets = ""
    needs = "a"
    program = Program(
        code=b"".join(
            instruction.to_bytes(4, "little")
            for instruction in (
                0xF8616807,  # loop: ldr x7, [x0, x1]
                0x8B0700C6,  #       add x6, x6, x7
                0x8B0200E7,  #       add x7, x7, x2
                0xF8216807,  #       str x7, [x0, x1]
                0x8B030021,  #       add x1, x1, x3
                0x8A040021,  #       and x1, x1, x4
                0x17FFFFFA,  #       b loop
            )
        ),
        word=8,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("PC X0 X1 X2 X3 X4 X6 X7"),
    )

    # crn, crm, op0, op1, op2
    SCTLR, TTBR0, TCR, MAIR = (1, 0, 3, 0, 0), (2, 0, 3, 0, 0), (2, 0, 3, 0, 2), (10, 2, 3, 0, 0)
    SCR_EL3, HCR_EL2 = (1, 1, 3, 6, 0), (1, 1, 3, 4, 0)
    SPSR, ELR = (4, 0, 3, 0, 0), (4, 0, 3, 0, 1)
    GRANULE: ClassVar = {12: 0b00, 14: 0b10, 16: 0b01}
    ERET = 0xD69F03E0

    def permits(self, flags: str, access: Access) -> bool:
        if "a" not in flags:
            return False
        if access is Access.EXECUTE:
            return "x" in flags and ("u" in flags) is (self.mode is Mode.USER)
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1 and raw & 0b11 == 0b11

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_44_bits = 0x0000_F000_0000_0000
        user, user_no_execute, kernel_no_execute = 1 << 6, 1 << 54, 1 << 53
        of_tables = 0b11111 << 59
        bits = above_44_bits | (user | user_no_execute | kernel_no_execute if leaf else of_tables)
        bits |= self.arch.level(level).span - (1 << 12) if leaf else 0
        if self.arch.level(level).leaf is None:  # it takes a leaf of any size
            bits |= 1 << 0 if leaf else 1 << 1
        return bits

    def judged(self, level: int, raw: int) -> int:
        nobody_executes = 0b11 << 53
        return raw & ~self.unjudged(level, leaf=True) | nobody_executes  # also for QEMU's core, which is no subclass

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
        self._write(uc, self.SCR_EL3, 1 << 10 | 1)  # EL2 and below have 64 bits, and are not secure
        self._write(uc, self.HCR_EL2, 1 << 31)  # EL1 too has 64 bits
        if self.mode is Mode.USER:
            self._leave_el1(uc)
        self._plug_in_ram(uc)
        granule, epd1, ips_48 = self.GRANULE[self.arch.page_shift] << 14, 1 << 23, 0b101 << 32
        self._write(uc, self.MAIR, 0xFF)  # attribute 0: normal memory, write-back
        self._write(uc, self.TCR, ips_48 | epd1 | granule | 64 - self.arch.va_bits)
        self._write(uc, self.TTBR0, self.pt.root)
        self._write(uc, self.SCTLR, 1)
        return uc

    def _leave_el1(self, uc: unicorn.Uc) -> None:
        """Execute an `eret` before there is paging."""
        page = 0x1000
        uc.mem_map(page, 0x1000)
        uc.mem_write(page, self.ERET.to_bytes(4, "little"))
        self._write(uc, self.SPSR, 0)
        self._write(uc, self.ELR, page)
        uc.emu_start(page, until=0, count=1)
        uc.mem_unmap(page, 0x1000)

    @staticmethod
    def _write(uc: unicorn.Uc, register: tuple[int, ...], value: int) -> None:
        uc.reg_write(arm64_const.UC_ARM64_REG_CP_REG, (*register, value))

    def _register(self, name: str) -> int:
        return getattr(arm64_const, f"UC_ARM64_REG_{name}")


class ArmLpae(Arm64):
    """Long descriptors in SVC and USR mode."""

    program = Program(
        code=b"".join(
            instruction.to_bytes(4, "little")
            for instruction in (
                0xE7907001,  # loop: ldr r7, [r0, r1]
                0xE0866007,  #       add r6, r6, r7
                0xE0877002,  #       add r7, r7, r2
                0xE7807001,  #       str r7, [r0, r1]
                0xE0811003,  #       add r1, r1, r3
                0xE0011004,  #       and r1, r1, r4
                0xEAFFFFF8,  #       b loop
            )
        ),
        word=4,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("PC R0 R1 R2 R3 R4 R6 R7"),
    )

    # coprocessor, 64 bits, secure, crn, crm, opc1, opc2
    SCTLR_32, TTBCR, MAIR0, TTBR0_64 = (
        (15, 0, 0, 1, 0, 0, 0),
        (15, 0, 0, 2, 0, 0, 2),
        (15, 0, 0, 10, 2, 0, 0),
        (15, 1, 0, 0, 2, 0, 0),
    )
    EAE = 1 << 31
    USR, SVC = 0x10, 0x13

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_32_bits = 0x0000_00FF_0000_0000
        beyond_the_address = 0x0000_FF00_0000_0000
        return super().unjudged(level, leaf=leaf) | above_32_bits | beyond_the_address

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
        self._plug_in_ram(uc)
        self._write_32(uc, self.MAIR0, 0xFF)
        self._write_32(uc, self.TTBCR, self.EAE)
        self._write_32(uc, self.TTBR0_64, self.pt.root)
        self._write_32(uc, self.SCTLR_32, 1)
        uc.reg_write(arm_const.UC_ARM_REG_CPSR, self.USR if self.mode is Mode.USER else self.SVC)
        return uc

    @staticmethod
    def _write_32(uc: unicorn.Uc, register: tuple[int, ...], value: int) -> None:
        uc.reg_write(arm_const.UC_ARM_REG_CP_REG, (*register, value))

    def _register(self, name: str) -> int:
        return getattr(arm_const, f"UC_ARM_REG_{name}")


class ArmShort(ArmLpae):
    """Short descriptors, in domains that all have the rights of a client; it does not look at what software keeps.

    Random sections come in pairs (`judged`), with the rights that the manual's table of AP has for what ptl keeps.
    """

    needs = "ad"

    TTBR0_32, DACR = (15, 0, 0, 2, 0, 0, 0), (15, 0, 0, 3, 0, 0, 0)
    ALL_CLIENTS = 0x5555_5555
    EXTENDED_PAGE_TABLES = 1 << 23  # as ever since Armv6

    # Of a section
    KIND, SECTION, XN, DOMAIN, AP, APX, SUPERSECTION = 0b11, 0b10, 1 << 4, 0b1111 << 5, 0b11 << 10, 1 << 15, 1 << 18
    SECTION_ADDRESS, MIB = 0xFFF0_0000, 1 << 20

    def permits(self, flags: str, access: Access) -> bool:
        if "a" not in flags or (access is Access.WRITE and "d" not in flags):
            return False
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        return level > 1 and raw & 0b11 == 0b01

    def unjudged(self, level: int, *, leaf: bool) -> int:
        if level == 1:
            return 0
        if leaf:
            twice = self.KIND | self.XN | self.AP | self.APX | self.SUPERSECTION | self.SECTION_ADDRESS
            return twice | twice << 32 | self.DOMAIN
        section, no_execution, of_two, other_half = 1 << 1, 1 << 2, 0b11 << 10, 0xFFFF_FFFF << 32
        return section | no_execution | of_two | other_half

    def judged(self, level: int, raw: int) -> int:
        if level == 1:
            return raw
        if raw & self.KIND != self.SECTION:
            return raw & ~(self.KIND | self.KIND << 32)
        u, read_only, d, a = (raw >> bit & 1 for bit in (8, 7, 6, 5))
        may_write = d and not read_only
        ap = 0b000 if not a else (0b011 if may_write else 0b111) if u else 0b001 if may_write else 0b101
        both = self.SECTION | raw & (self.SECTION_ADDRESS & ~self.MIB | self.XN)
        both |= (ap & 0b11) << 10 | ap >> 2 << 15
        return raw & ~self.unjudged(level, leaf=True) | raw & self.DOMAIN | both | (both | self.MIB) << 32

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
        self._plug_in_ram(uc)
        self._write_32(uc, self.TTBR0_32, self.pt.root)
        self._write_32(uc, self.DACR, self.ALL_CLIENTS)
        self._write_32(uc, self.SCTLR_32, self.EXTENDED_PAGE_TABLES | 1)
        uc.reg_write(arm_const.UC_ARM_REG_CPSR, self.USR if self.mode is Mode.USER else self.SVC)
        return uc
