"""Emulated CPUs that walk ptl's page tables.

                  ptl.Frames, one block of bytes
                    |                        |
    ptl.PageTable: writes entries      Cpu: its RAM is that very block, its root register is `pt.root`;
                                       it reads entries, and sets accessed and dirty in them

A `Cpu` is one core in one mode of privilege. `translate` asks its MMU for one access and answers with the physical
address or `FAULT`; `run` lets it execute a small program on the mapped pages. Where there is RAM behind an address it
keeps the translation in a TLB until `flush`, so a test that forgets a flush sees what a kernel that forgets one would
see. machine.py says which core is for which architecture.

The emulator is Unicorn, in the mode in which its TLB is filled by the MMU code that it took from QEMU. The Python
package does not wrap the translate call; it is reached through ctypes in the loaded C library.

What this judge cannot say (`Cpu.unjudged` has the bits):

- x86 has 40 bits of physical address here; it faults on an address above.
- 32-bit x86 has PSE-36: bits 20 to 13 of a 4 MiB leaf are address bits 39 to 32, which ptl calls reserved.
- It does not mind bits 8 to 5, 2 and 1 of a level-3 entry of i386_pae, which are reserved.
- An x86 entry for a table may itself deny access. ptl's entries for tables never do, and its walk does not ask.
- RISC-V here is from before a CPU had to fault on bits 63 to 54 of any entry, and on D, A and U of one for a table.
- An entry that points to another place than a table. ptl knows where its tables are; a CPU does not.
- RISC-V here has no Svnapot.
- A RISC-V CPU of 32 bits answers in 32 bits, where Sv32 has frames up to 16 GiB.
- It says which access it refused, not why.
"""

from __future__ import annotations

import ctypes
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Final

import judges
import ptl

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some versions look for their library with pkg_resources
        import unicorn
        from unicorn import riscv_const, x86_const
        from unicorn.unicorn_py3.unicorn import uclib
except ImportError as error:
    MISSING = f"no emulated CPU here: {error}"
else:
    able = hasattr(uclib, "uc_vmem_translate")
    MISSING = "" if able else f"Unicorn {unicorn.__version__} cannot translate; 2.1.4 can"

MIB = 1 << 20
TCG_BUFFER = 16 * MIB  # for translated code; a GiB of addresses by default, for each core


class Access(Enum):
    """What a CPU wants to do: the attribute it needs, Unicorn's number for it, and for its refusal."""

    READ = "r", 1, 13
    WRITE = "w", 2, 12
    EXECUTE = "x", 4, 14

    def __init__(self, letter: str, number: int, refusal: int) -> None:
        self.letter, self.number, self.refusal = letter, number, refusal


class Mode(Enum):
    """The privilege that a core runs with."""

    USER = "user"
    SUPERVISOR = "supervisor"
    SUPERVISOR_SUM = "supervisor with SUM"  # RISC-V: may read and write user pages


class Fault(Enum):
    """The verdict where there is no address."""

    FAULT = "fault"


FAULT: Final = Fault.FAULT
Verdict = int | Fault

JUDGE: Final = "Unicorn"
if MISSING:
    judges.absent[JUDGE] = MISSING
else:
    judges.versions[JUDGE].add(unicorn.__version__)


@dataclass(frozen=True)
class Program:
    """An endless loop: `sum += word[offset]; word[offset] += increment; offset = offset + stride & mask`."""

    code: bytes
    word: int
    """The bytes of a word."""
    load: int
    """Which instruction of the loop loads, from 0; the next adds to the sum."""
    store: int
    instructions: int
    registers: dict[str, str]
    """Which register plays which of the ROLES."""


ROLES = ("pc", "base", "offset", "increment", "stride", "mask", "sum", "value", "address")


def in_roles(names: str) -> dict[str, str]:
    """Registers by role, from their names in that order."""
    return dict(zip(ROLES, names.split(), strict=False))


class Judge(ABC):
    """One core in one mode, whoever emulates it, with `pt.frames` as memory and `pt.root` as root of its page table."""

    modes: ClassVar[tuple[Mode, ...]]
    sets: ClassVar[str] = "ad"
    """Which of accessed and dirty the CPU sets in a leaf. The others are for software to set."""
    needs: ClassVar[str] = ""
    """Which of them a leaf must have before the CPU lets anybody use it for all that it grants."""

    def __init__(self, pt: ptl.PageTable, mode: Mode) -> None:
        self.pt = pt
        self.arch = pt.arch
        self.mode = mode

    def __repr__(self) -> str:
        return f"<{self.arch.name} {self.mode.value}>"

    @abstractmethod
    def translate(self, va: int, access: Access) -> Verdict:
        """Where this access to an address goes; as on hardware it may set accessed and dirty."""

    @abstractmethod
    def flush(self) -> None:
        """Forget every translation."""

    @abstractmethod
    def permits(self, flags: str, access: Access) -> bool:
        """Whether the manual lets a leaf with these attributes be used so in this core's mode."""

    @abstractmethod
    def goes_on(self, level: int, raw: int) -> bool:
        """Whether the CPU takes an entry of that level for one that names a table."""

    @abstractmethod
    def unjudged(self, level: int, *, leaf: bool) -> int:
        """The bits of an entry about which this emulator and ptl have no common opinion."""

    def judged(self, level: int, raw: int) -> int:
        """A leaf like this one that this emulator can judge."""
        return raw & ~self.unjudged(level, leaf=True)

    def marks_though_it_refuses(self, level: int, flags: str, access: Access) -> str:
        """Which of accessed and dirty this emulator sets in a leaf of that level where it then denies the access."""
        return ""


class Cpu(Judge):
    """A core that Unicorn emulates."""

    program: Program

    def __init__(self, pt: ptl.PageTable, mode: Mode) -> None:
        super().__init__(pt, mode)
        self._answer = ctypes.c_uint64()
        self._ram = ctypes.c_char.from_buffer(pt.frames)  # keeps the block alive, and in place
        self.uc = self._start()
        self.flush()

    # -- the MMU

    def translate(self, va: int, access: Access) -> Verdict:
        """Where this access to an address goes; as on hardware it may set accessed and dirty."""
        judges.probes[JUDGE, self.arch.name] += 1
        status = uclib.uc_vmem_translate(self.uc._uch, ctypes.c_uint64(va), access.number, ctypes.byref(self._answer))
        if status == access.refusal:
            return FAULT
        if status != unicorn.UC_ERR_OK:
            raise unicorn.UcError(status)
        return self._answer.value

    def flush(self) -> None:
        """Forget every translation."""
        self.uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    # -- execution

    def load(self, pc: int, **registers: int) -> None:
        """Get ready to execute the program, which begins at `pc`."""
        self.pc = pc
        for name, value in registers.items():
            self.uc.reg_write(self._register(self.program.registers[name]), value)

    def run(self, count: int) -> None:
        """Execute that many instructions, none of which faults."""
        judges.instructions[JUDGE, self.arch.name] += count
        self.uc.emu_start(self.pc, until=0, count=count)
        self.pc = self.register("pc")

    def step(self) -> bool:
        """Execute one instruction; False, and as before, when it faults.

        After a fault the engine is replaced: nobody handled it, so x86 takes the next for a double fault and halts in
        silence at the one after, and RISC-V has moved pc already.
        """
        kept = {name: self.register(name) for name in self.program.registers if name != "pc"}
        try:
            self.run(1)
        except unicorn.UcError as error:
            if error.errno != unicorn.UC_ERR_EXCEPTION:
                raise
            self.uc = self._start()
            self.load(self.pc, **kept)
            return False
        return True

    def register(self, name: str) -> int:
        """The value of one of the program's registers."""
        return self.uc.reg_read(self._register(self.program.registers[name]))

    @abstractmethod
    def _register(self, name: str) -> int:
        """Unicorn's number of a register."""

    # -- making one

    @abstractmethod
    def _start(self) -> unicorn.Uc:
        """An engine with everything set up."""

    def _engine(self, arch: int, mode: int, model: int | None = None) -> unicorn.Uc:
        uc = unicorn.Uc(arch, mode)
        if model is not None:
            uc.ctl_set_cpu_model(model)
        uc.ctl_set_tcg_buffer_size(TCG_BUFFER)  # before anything else: the next call makes the machine
        uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        return uc

    def _plug_in_ram(self, uc: unicorn.Uc) -> None:
        frames = self.pt.frames
        uc.mem_map_ptr(frames.base, frames.size, unicorn.UC_PROT_ALL, ctypes.addressof(self._ram))

    def _plug_in_everything_else(self, uc: unicorn.Uc, pa_bits: int) -> None:
        """For a CPU that refuses to translate to an address where there is nothing: a device, as wide as the memory."""
        frames = self.pt.frames
        for first, end in ((0, frames.base), (frames.base + frames.size, 1 << pa_bits)):
            if first != end:
                uc.mmio_map(first, end - first, _nothing, None, _ignored, None)


def _nothing(*_: object) -> int:
    return 0


def _ignored(*_: object) -> None:
    pass


class X86(Cpu):
    """Paging with CR0.WP and EFER.NXE set, and CR4.PSE, PAE and LA57 as the format needs."""

    modes = (Mode.SUPERVISOR, Mode.USER)
    program = Program(
        code=bytes.fromhex(
            "48 8b 04 37"  # loop: mov rax, [rdi + rsi]
            "48 01 c3"  #         add rbx, rax
            "48 01 d0"  #         add rax, rdx
            "48 89 04 37"  #      mov [rdi + rsi], rax
            "48 01 ce"  #         add rsi, rcx
            "4c 21 c6"  #         and rsi, r8
            "eb ea"  #            jmp loop
        ),
        word=8,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("RIP RDI RSI RDX RCX R8 RBX RAX"),
    )
    bits = 64
    sysret = bytes.fromhex("48 0f 07")

    PE, WP, PG = 1 << 0, 1 << 16, 1 << 31  # CR0
    PSE, PAE, LA57 = 1 << 4, 1 << 5, 1 << 12  # CR4
    EFER, SCE, NXE = 0xC000_0080, 1 << 0, 1 << 11
    STAR, USER_SEGMENTS = 0xC000_0081, 0x0010_0008 << 32

    def permits(self, flags: str, access: Access) -> bool:
        return access.letter in flags and (self.mode is not Mode.USER or "u" in flags)

    def goes_on(self, level: int, raw: int) -> bool:
        present, page_size = 1 << 0, 1 << 7
        return level > 1 and raw & (present | page_size) == present

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_40_bits = 0x000F_FF00_0000_0000
        write, user, no_execute = 1 << 1, 1 << 2, 1 << 63
        return above_40_bits | (0 if leaf else write | user | no_execute)

    def judged(self, level: int, raw: int) -> int:
        """A leaf like this one that this emulator can judge."""
        return raw & ~self.unjudged(level, leaf=True)

    def marks_though_it_refuses(self, level: int, flags: str, access: Access) -> str:
        return "a" if level == 3 else ""

    def _start(self) -> unicorn.Uc:
        uc = self._engine(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if self.bits == 64 else unicorn.UC_MODE_32)
        if self.mode is Mode.USER:
            self._leave_ring_0(uc)
        self._plug_in_ram(uc)
        uc.msr_write(self.EFER, uc.msr_read(self.EFER) | self.NXE)
        uc.reg_write(x86_const.UC_X86_REG_CR3, self.pt.root)
        uc.reg_write(x86_const.UC_X86_REG_CR4, self._cr4())
        uc.reg_write(x86_const.UC_X86_REG_CR0, self.PG | self.WP | self.PE)
        return uc

    def _cr4(self) -> int:
        return self.PAE | (self.LA57 if self.arch.levels == 5 else 0)

    def _leave_ring_0(self, uc: unicorn.Uc) -> None:
        """Execute a `sysret` before there is paging: segment registers refuse to be written with less privilege."""
        page = 0x1000
        uc.mem_map(page, 0x1000)
        uc.mem_write(page, self.sysret)
        uc.msr_write(self.EFER, uc.msr_read(self.EFER) | self.SCE)
        uc.msr_write(self.STAR, self.USER_SEGMENTS)
        uc.reg_write(x86_const.UC_X86_REG_RCX if self.bits == 64 else x86_const.UC_X86_REG_ECX, page)
        uc.emu_start(page, until=0, count=1)
        assert uc.reg_read(x86_const.UC_X86_REG_CS) & 3 == 3
        uc.mem_unmap(page, 0x1000)

    def _register(self, name: str) -> int:
        return getattr(x86_const, f"UC_X86_REG_{name}")


class I386(X86):
    """As X86, with 32-bit entries and 4 MiB leaves."""

    program = Program(
        code=bytes.fromhex(
            "8b 04 37"  # loop: mov eax, [edi + esi]
            "01 c3"  #          add ebx, eax
            "01 d0"  #          add eax, edx
            "89 04 37"  #       mov [edi + esi], eax
            "01 ce"  #          add esi, ecx
            "21 ee"  #          and esi, ebp
            "eb f0"  #          jmp loop
        ),
        word=4,
        load=0,
        store=3,
        instructions=7,
        registers=in_roles("EIP EDI ESI EDX ECX EBP EBX EAX"),
    )
    bits = 32
    sysret = bytes.fromhex("0f 07")

    def unjudged(self, level: int, *, leaf: bool) -> int:
        high_address = 0x001F_E000
        write, user = 1 << 1, 1 << 2
        return high_address if leaf and level == 2 else 0 if leaf else write | user

    def _cr4(self) -> int:
        return self.PSE


class I386Pae(I386):
    """As I386, with 64-bit entries, 2 MiB leaves, and four entries on top, which this CPU reads anew in each walk."""

    def goes_on(self, level: int, raw: int) -> bool:
        present = 1 << 0
        return bool(raw & present) if level == 3 else super().goes_on(level, raw)

    def unjudged(self, level: int, *, leaf: bool) -> int:
        if level < 3:
            return X86.unjudged(self, level, leaf=leaf)
        above_40_bits = 0x000F_FF00_0000_0000
        write, user, bits_8_to_5 = 1 << 1, 1 << 2, 0b1111 << 5
        return above_40_bits | write | user | bits_8_to_5

    def _cr4(self) -> int:
        return self.PAE


class Riscv(Cpu):
    """RISC-V, in S and U mode, with MXR clear."""

    modes = (Mode.SUPERVISOR, Mode.SUPERVISOR_SUM, Mode.USER)
    program = Program(
        code=b"".join(
            instruction.to_bytes(4, "little")
            for instruction in (
                0x00B502B3,  # loop: add t0, a0, a1
                0x0002B303,  #       ld t1, 0(t0)
                0x00640433,  #       add s0, s0, t1
                0x00C30333,  #       add t1, t1, a2
                0x0062B023,  #       sd t1, 0(t0)
                0x00D585B3,  #       add a1, a1, a3
                0x00E5F5B3,  #       and a1, a1, a4
                0xFE5FF06F,  #       j loop
            )
        ),
        word=8,
        load=1,
        store=4,
        instructions=8,
        registers=in_roles("PC A0 A1 A2 A3 A4 S0 T1 T0"),
    )

    MODE_OF_SATP: ClassVar = {2: 1 << 31, 3: 8 << 60, 4: 9 << 60, 5: 10 << 60}  # by levels
    SUM = 1 << 18

    def translate(self, va: int, access: Access) -> Verdict:
        """As any core; but with SUM a translation that was filled by a read would let a user page be executed too."""
        if self.mode is Mode.SUPERVISOR_SUM and access is Access.EXECUTE:
            self.flush()
        return super().translate(va, access)

    def permits(self, flags: str, access: Access) -> bool:
        if "u" in flags:
            mine = self.mode is Mode.USER or (self.mode is Mode.SUPERVISOR_SUM and access is not Access.EXECUTE)
        else:
            mine = self.mode is not Mode.USER
        return mine and access.letter in flags

    def goes_on(self, level: int, raw: int) -> bool:
        valid, read_write_execute = 0b0001, 0b1110
        return level > 1 and raw & (valid | read_write_execute) == valid

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_frame_number = 0xFFC0_0000_0000_0000
        user, accessed, dirty = 1 << 4, 1 << 6, 1 << 7
        return above_frame_number | (0 if leaf else user | accessed | dirty)

    def _start(self) -> unicorn.Uc:
        wide = self.arch.entry_bytes == 8
        uc = self._engine(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64 if wide else unicorn.UC_MODE_RISCV32)
        self._plug_in_ram(uc)
        uc.reg_write(riscv_const.UC_RISCV_REG_SATP, self.MODE_OF_SATP[self.arch.levels] | self.pt.root >> 12)
        uc.reg_write(riscv_const.UC_RISCV_REG_MSTATUS, self.SUM if self.mode is Mode.SUPERVISOR_SUM else 0)
        # Last: only M mode, in which a core begins, may write the registers above.
        uc.reg_write(riscv_const.UC_RISCV_REG_PRIV, 0 if self.mode is Mode.USER else 1)
        return uc

    def _register(self, name: str) -> int:
        return getattr(riscv_const, f"UC_RISCV_REG_{name}")


class Riscv32(Riscv):
    """As Riscv, with Sv32. The translate call answers in 32 bits, so frames above 4 GiB are not judged."""

    program = replace(
        Riscv.program,
        code=Riscv.program.code.replace(  # ld and sd become lw and sw
            (0x0002B303).to_bytes(4, "little"), (0x0002A303).to_bytes(4, "little")
        ).replace((0x0062B023).to_bytes(4, "little"), (0x0062A023).to_bytes(4, "little")),
        word=4,
    )

    def unjudged(self, level: int, *, leaf: bool) -> int:
        above_4_gib = 0b11 << 30
        user, accessed, dirty = 1 << 4, 1 << 6, 1 << 7
        return above_4_gib | (0 if leaf else user | accessed | dirty)
