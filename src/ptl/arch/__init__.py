"""The architectures, by name.

>>> import ptl.arch
>>> "x86_64" in ptl.arch.names()
True
>>> ptl.arch.get("riscv").name
'riscv_sv39'
"""

from __future__ import annotations

from ptl._core import State
from ptl.arch import riscv, tiny, x86
from ptl.arch.description import FLAGS, Arch, Entry, Field, Flag, Level, Pattern, Soft, SoftEntry

__all__ = ["FLAGS", "Arch", "Entry", "Field", "Flag", "Level", "Pattern", "Soft", "SoftEntry", "State", "get", "names"]

_BY_NAME: dict[str, Arch] = {arch.name: arch for family in (x86, riscv, tiny) for arch in family.ARCHITECTURES}
_ALIASES = {"riscv": "riscv_sv39"}


def names() -> tuple[str, ...]:
    """The names of all architectures."""
    return tuple(_BY_NAME)


def get(name: str) -> Arch:
    """The architecture of that name; a bare family name stands for its usual member.

    Raises ValueError for an unknown name.
    """
    try:
        return _BY_NAME[_ALIASES.get(name, name)]
    except KeyError:
        raise ValueError(f"unknown architecture {name!r}; known are {', '.join(_BY_NAME)}") from None
