"""The architectures in the terminal: all of them in a table, or the bit rulers of one.

63   62-59   58-53   52   51-12              ...
| ¬X |       |       | F  | physical address | ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.table import Table

from ptl.arch import Arch
from ptl.arch.bits import BitField, entry_sizes, legend, pages, rulers, size


def facts(arch: Arch) -> dict[str, Any]:
    """What the table says of an architecture, for programs to read: sizes in bytes, widths in bits."""
    return {
        "name": arch.name,
        "title": arch.title,
        "levels": arch.levels,
        "va_bits": arch.va_bits,
        "pa_bits": arch.pa_bits,
        "page_sizes": list(arch.page_sizes),
        "run_sizes": list(arch.run_sizes),
        "entry_bytes": arch.entry_bytes,
        "byte_order": arch.byte_order,
        "walker": arch.walker,
        "verified_by": list(arch.verified_by),
        "source": arch.source,
    }


def table(archs: Iterable[Arch]) -> Table:
    """A row for each architecture; VA and PA are widths in bits."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    shown.add_column("name", no_wrap=True)
    for heading in ("lv", "VA", "PA"):
        shown.add_column(heading, justify="right")
    for heading in ("page sizes", "entry", "walker", "verified by"):
        shown.add_column(heading)
    for column in shown.columns[4:]:
        column.no_wrap = True
    for arch in archs:
        sizes = sorted(arch.page_sizes + arch.run_sizes)
        shown.add_row(
            arch.name,
            str(arch.levels),
            str(arch.va_bits),
            str(arch.pa_bits),
            " ".join(size(each).replace(" ", "").removesuffix("iB") for each in sizes),
            f"{arch.entry_bytes}B {arch.byte_order[0].upper()}E",
            arch.walker,
            ", ".join(arch.verified_by) or "-",
        )
    return shown


def text(arch: Arch, width: int) -> str:
    """An architecture's facts, rulers and legend, as lines of at most `width` characters where a field allows it."""
    return "\n".join(_lines(arch, width))


def _lines(arch: Arch, width: int) -> Iterator[str]:
    yield f"{arch.name}: {arch.title}"
    yield f"{arch.levels} levels, walked by {arch.walker}; pages of {pages(arch)}"
    yield f"entries of {entry_sizes(arch)} bytes, {arch.byte_order} endian; verified by {_judges(arch)}"
    yield f"source: {arch.source}"
    for ruler in rulers(arch):
        yield ""
        yield ruler.title
        for row in _rows(ruler.fields, width):
            yield "  ".join(["", *(_bits(field).ljust(_cell(field) + 1) for field in row)]).rstrip()
            yield " |" + "|".join(f" {field.name.ljust(_cell(field))} " for field in row) + "|"
    yield ""
    yield from (f"{name:>4}  {word}" for name, word in legend(arch).items())
    if arch.implied:
        yield f"Every leaf grants {', '.join(arch.implied)}: there is no bit to withhold it."


def _judges(arch: Arch) -> str:
    return ", ".join(arch.verified_by) or "nobody but its description"


def _bits(field: BitField) -> str:
    return str(field.high) if field.width == 1 else f"{field.high}-{field.low}"


def _cell(field: BitField) -> int:
    return max(len(field.name), len(_bits(field)))


def _rows(fields: Iterable[BitField], width: int) -> Iterator[list[BitField]]:
    """The fields in rows that fit, each with one field at least."""
    row: list[BitField] = []
    used = 2
    for field in fields:
        if row and used + _cell(field) + 3 > width:
            yield row
            row, used = [], 2
        row.append(field)
        used += _cell(field) + 3
    yield row
