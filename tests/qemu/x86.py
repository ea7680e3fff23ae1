"""x86 as QEMU's monitor reads it, which lists all mappings with every flag. Unicorn's CPUs execute (mmu.py)."""

from __future__ import annotations

from typing import ClassVar

import ptl
from qemu.core import Cpu
from qemu.emulator import Emulator


class X86Long(Cpu):
    """In long mode, with four levels or five."""

    target = "x86_64"
    arguments = ("-M", "pc", "-cpu", "max,la57=on")
    byte_order = "little"
    EFER: ClassVar = 1 << 8 | 1 << 10 | 1 << 11  # LME, LMA, NXE
    PSE, PAE, LA57 = 1 << 4, 1 << 5, 1 << 12
    PE, WP, PG = 1 << 0, 1 << 16, 1 << 31

    @classmethod
    def set_up(cls, emulator: Emulator, pt: ptl.PageTable) -> None:
        emulator.stub.write(cr3=pt.root, cr4=cls._cr4(pt), efer=cls.EFER, cr0=cls.PG | cls.WP | cls.PE)

    @classmethod
    def _cr4(cls, pt: ptl.PageTable) -> int:
        return cls.PAE | (cls.LA57 if pt.arch.levels == 5 else 0)


class I386(X86Long):
    """With 32-bit entries and 4 MiB leaves."""

    EFER = 0

    @classmethod
    def _cr4(cls, pt: ptl.PageTable) -> int:
        return cls.PSE


class I386Pae(I386):
    """With 64-bit entries and 2 MiB leaves."""

    EFER = 1 << 11

    @classmethod
    def _cr4(cls, pt: ptl.PageTable) -> int:
        return cls.PAE
