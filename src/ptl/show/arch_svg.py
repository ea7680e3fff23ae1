"""The bit rulers of an architecture as a picture: one cell a bit, drawn from the description that the core runs on."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from ptl.arch import Arch
from ptl.arch.bits import BitField, Part, entry_sizes, legend, pages, rulers

BIT = 16
"""The width of a bit, in pixels, as the next ones."""
MARGIN = 20
ROW = 74
LEGEND_COLUMN = 250
NARROWEST = 600  # room for the title
LETTER = 6.7
"""The width of a letter of the names, on average."""

COLOURS = {
    Part.INDEX: "#cfe3f7",
    Part.ADDRESS: "#d9ead3",
    Part.ATTRIBUTE: "#fce5b6",
    Part.FIXED: "#e3e3e3",
    Part.RUN: "#f7d6d0",
    Part.WRITTEN: "#f3f3f3",
    Part.ALONG: "#fdf5e2",
    Part.SOFTWARE: "#e6d8f2",
    Part.OTHER: "#ffffff",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A field as it is drawn."""

    x: int
    width: int
    name: str
    colour: str
    field: BitField


def render(arch: Arch) -> str:
    """An SVG document, complete by itself."""
    drawn = rulers(arch)
    used = {field.part for ruler in drawn for field in ruler.fields}
    bits = max(ruler.fields[0].high + 1 for ruler in drawn)
    width = max(bits * BIT, NARROWEST) + 2 * MARGIN
    rows = [(ruler.title, _cells(ruler.fields, bits)) for ruler in drawn]
    environment = Environment(
        loader=PackageLoader("ptl.show", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("arch_svg.svg.j2").render(
        arch=arch,
        pages=pages(arch),
        entry_sizes=entry_sizes(arch),
        rows=rows,
        parts=[(part.value, COLOURS[part]) for part in Part if part in used],
        legend="   ".join(f"{name} {word.partition(':')[0]}" for name, word in legend(arch).items()),
        width=width,
        columns=(width - 2 * MARGIN) // LEGEND_COLUMN,
        legend_column=LEGEND_COLUMN,
        row=ROW,
        margin=MARGIN,
    )


def _cells(fields: tuple[BitField, ...], bits: int) -> list[Cell]:
    """The fields from left to right, bit 0 of every ruler at the right edge."""
    return [
        Cell(
            x=MARGIN + (bits - 1 - field.high) * BIT,
            width=field.width * BIT,
            name=_fitting(field),
            colour=COLOURS[field.part],
            field=field,
        )
        for field in fields
    ]


def _fitting(field: BitField) -> str:
    """The name, or a shorter one where there is no room for it."""
    if len(field.name) * LETTER <= field.width * BIT:
        return field.name
    return field.name.replace("level ", "L").replace("physical ", "").replace(" of the table", "")
