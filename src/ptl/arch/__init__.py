"""The architectures, by name.

>>> import ptl.arch
>>> "x86_64" in ptl.arch.names()
True
>>> ptl.arch.get("riscv").name
'riscv_sv39'
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from ptl._core import State
from ptl.arch.description import (
    FLAGS,
    Arch,
    Choice,
    Entry,
    Field,
    Level,
    Pattern,
    Run,
    Shadow,
    Soft,
    SoftEntry,
    Word,
)

__all__ = [
    "FLAGS",
    "Arch",
    "Choice",
    "Entry",
    "Field",
    "Level",
    "Pattern",
    "Run",
    "Shadow",
    "Soft",
    "SoftEntry",
    "State",
    "Word",
    "aliases",
    "get",
    "names",
]


def _families() -> Iterator[Arch]:
    """Every architecture of every family: a module of this package with `ARCHITECTURES`; tiny, which is none, last."""
    modules = sorted((info.name for info in iter_modules(__path__)), key=lambda name: (name == "tiny", name))
    for name in modules:
        yield from getattr(import_module(f"{__name__}.{name}"), "ARCHITECTURES", ())


_BY_NAME: dict[str, Arch] = {arch.name: arch for arch in _families()}
_ALIASES = {"arm64": "arm64_4k", "powerpc": "powerpc_radix_64k", "riscv": "riscv_sv39"}


def names() -> tuple[str, ...]:
    """The names of all architectures."""
    return tuple(_BY_NAME)


def aliases() -> dict[str, str]:
    """The bare names of families, and the architecture that each stands for."""
    return dict(_ALIASES)


def get(name: str) -> Arch:
    """The architecture of that name; a bare family name stands for its usual member.

    Raises ValueError for an unknown name.
    """
    try:
        return _BY_NAME[_ALIASES.get(name, name)]
    except KeyError:
        raise ValueError(f"unknown architecture {name!r}; known are {', '.join(_BY_NAME)}") from None
