"""What the monitor's `info tlb` and `info mem` list, and what ptl expects them to.

    x86    info tlb   0000000080000000: 00000000c0000000 XGP-----W            each leaf, with its bits
           info mem   0000000040000000-0000000040001000 0000000000001000 urw   runs with equal rights
    riscv  info mem   0000000000001000 0000000000001000 0000000000001000 rwx--ad   runs of adjacent frames

An address here has the low bits of the address space alone: the monitor does not always extend its sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ptl import Leaf
from ptl.arch import FLAGS, Arch

X86_PA_BITS = 50
"""How much of a physical address `info tlb` prints of a 64-bit entry."""


def x86_leaves(printed: str, arch: Arch) -> list[tuple[int, int, str]]:
    """Address, physical address and flags of each line of `info tlb`."""
    rows = re.findall(r"^([0-9a-f]{16}): ([0-9a-f]{16}) (\S{9})$", printed, re.MULTILINE)
    assert len(rows) == len(printed.splitlines()), printed[:500]
    return [(_low(int(va, 16), arch), int(pa, 16) % (1 << X86_PA_BITS), flags) for va, pa, flags in rows]


def x86_leaves_expected(leaves: Iterable[Leaf], arch: Arch) -> list[tuple[int, int, str]]:
    """The same, of ptl's leaves."""

    def flags(leaf: Leaf) -> str:
        granted = {letter.upper() for letter in leaf.flags} - {"R", "X"}
        withheld = {"X"} if "x" in arch.flags and "x" not in leaf.flags else set()
        large = {"P"} if leaf.level > 1 else set()
        return _columns("XGPDACTUW", granted | withheld | large)

    return [(_low(leaf.va, arch), leaf.pa, flags(leaf)) for leaf in leaves]


Run = tuple[int, int, int, str]
"""Address, length, physical address, flags."""


def x86_runs(printed: str, arch: Arch) -> list[Run]:
    """What `info mem` prints, which knows no physical addresses: they are as the addresses here."""
    rows = re.findall(r"^([0-9a-f]{16})-[0-9a-f]{16} ([0-9a-f]{16}) (\S{3})$", printed, re.MULTILINE)
    assert len(rows) == len(printed.splitlines()), printed[:500]
    starts = [(_low(int(va, 16), arch), _low(int(length, 16), arch), flags) for va, length, flags in rows]
    return _merged((va, length, va, flags) for va, length, flags in starts)


def x86_runs_expected(leaves: Iterable[Leaf], arch: Arch) -> list[Run]:
    """The same, of ptl's leaves."""
    starts = [(_low(leaf.va, arch), leaf) for leaf in leaves]
    return _merged((va, leaf.size, va, _columns("urw", leaf.flags)) for va, leaf in starts)


def riscv_runs(printed: str, arch: Arch) -> list[Run]:
    """What `info mem` prints."""
    rows = re.findall(r"^([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) ([rwxugad-]{7})$", printed, re.MULTILINE)
    assert len(rows) == len(printed.splitlines()) - len(("the title", "a rule")), printed[:500]
    return _merged((_low(int(va, 16), arch), int(length, 16), int(pa, 16), flags) for va, pa, length, flags in rows)


def riscv_runs_expected(leaves: Iterable[Leaf], arch: Arch) -> list[Run]:
    """The same, of ptl's leaves."""
    return _merged((_low(leaf.va, arch), leaf.size, leaf.pa, _columns(FLAGS, leaf.flags)) for leaf in leaves)


def _columns(letters: str, shown: Iterable[str]) -> str:
    """One column a letter, with a dash for those that are not there."""
    return "".join(letter if letter in shown else "-" for letter in letters)


def _merged(runs: Iterable[Run]) -> list[Run]:
    """The same mappings in as few runs as can say it: the monitor begins a new one with some tables."""
    merged: list[Run] = []
    for run in runs:
        va, length, pa, flags = run
        if merged:
            before, size, frame, same = merged[-1]
            if (before + size, frame + size, same) == (va, pa, flags):
                merged[-1] = before, size + length, frame, same
                continue
        merged.append(run)
    return merged


def _low(va: int, arch: Arch) -> int:
    return va % (1 << arch.va_bits)
