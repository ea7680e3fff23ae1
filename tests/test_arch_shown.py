"""The promise: what `ptl arch` lists and draws is the description that the core runs on, bit for bit."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

import ptl
from ptl.arch import Arch
from ptl.arch.bits import Part, address_fields, leaf_fields, pages, rulers, soft_fields, table_fields
from ptl.cli import main
from qemu.machine import CORES, LISTED, REFILLED

NAMES = ptl.arch.names()
SVG = "{http://www.w3.org/2000/svg}"


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "100"}).invoke(main, ["arch", *map(str, arguments)])


@pytest.fixture(params=NAMES)
def arch(request: pytest.FixtureRequest) -> Arch:
    return ptl.arch.get(request.param)


def mask(fields, *parts: Part) -> int:
    """The bits of the fields that are there for one of these."""
    return sum((1 << field.width) - 1 << field.low for field in fields if field.part in parts)


# --- fields -----------------------------------------------------------------------------------------------------------


def test_every_bit_of_a_word_is_in_one_field(arch: Arch) -> None:
    for ruler in rulers(arch):
        above = ruler.fields[0].high + 1
        assert above in (32, 64)
        for field in ruler.fields:
            assert field.high == above - 1, ruler.title
            above = field.low
        assert above == 0


def test_the_indices_and_the_offset_of_an_address(arch: Arch) -> None:
    fields = address_fields(arch)
    assert [field.width for field in fields if field.name == "offset"] == [arch.page_shift]
    for number in range(1, arch.levels + 1):
        level = arch.level(number)
        *regions, index = [field for field in fields if field.name == f"level {number}"]
        assert index.low == level.shift
        assert index.width + sum(field.width for field in regions) == level.bits
        assert [field.high for field in regions] == ([63] if number == arch.levels and arch.region_bits else [])


def test_a_leaf_is_drawn_as_it_is_encoded(arch: Arch) -> None:
    """Each attribute and each bit of the address change the bits of their own fields only; the rest is as drawn."""
    for number in range(1, arch.levels + 1):
        if arch.level(number).leaf is None:
            continue
        fields = leaf_fields(arch, number)
        bare = arch.encode(0, "r", number)
        last = (1 << arch.pa_bits) - arch.level(number).span
        assert arch.encode(last, "r", number) ^ bare == mask(fields, Part.ADDRESS)
        choices = arch.level(number).word.attributes
        assert mask(fields, Part.ATTRIBUTE) == sum(choice.mask for choice in choices)
        for run in arch.level(number).runs:
            marked = arch.encode(0, "r", number, run=run) ^ bare
            assert marked & ~mask(fields, Part.ADDRESS) == marked & mask(fields, Part.RUN) != 0
        for field in fields:
            if field.part in (Part.FIXED, Part.WRITTEN):
                assert bare >> field.low & (1 << field.width) - 1 == int(field.name)


def test_a_field_has_the_letters_that_it_decides(arch: Arch) -> None:
    """However the other bits are, no others change with it; and each attribute has a field."""
    drawn = [field for field in leaf_fields(arch, 1) if field.part is Part.ATTRIBUTE]
    assert {letter for field in drawn for letter in field.name.removeprefix("¬").lower()} == set(arch.flags)
    values = itertools.product(*(dict(choice.values) for choice in arch.level(1).word.attributes))
    bare = arch.encode(0, "r") & ~mask(drawn, Part.ATTRIBUTE)
    leaves = {raw: arch.decode(raw) for raw in (bare | sum(chosen) for chosen in values)}
    for (raw, leaf), field in itertools.product(leaves.items(), drawn):
        for value in range(1 << field.width):
            other = leaves.get(raw & ~mask([field], Part.ATTRIBUTE) | value << field.low)
            if other is not None and leaf.state is other.state is ptl.State.HUGE:
                assert set(leaf.flags) ^ set(other.flags) <= set(field.name.removeprefix("¬").lower())


def test_an_entry_for_a_table_is_drawn_as_the_core_writes_it(arch: Arch) -> None:
    pt = ptl.PageTable(arch, frames=ptl.Frames(1 << 23))
    pt.map(0, 0)
    for step in pt.walk(0).steps[:-1]:
        fields = table_fields(arch, step.level)
        assert step.raw & mask(fields, Part.SOFTWARE, Part.OTHER) == 0
        for field in fields:
            if field.part in (Part.FIXED, Part.WRITTEN):
                assert step.raw >> field.low & (1 << field.width) - 1 == int(field.name), field


def test_software_s_entry_is_drawn_as_it_is_encoded(arch: Arch) -> None:

    def drawn(name: str) -> int:
        return mask([field for field in soft_fields(arch, 1) if field.name.partition(",")[0] == name], Part.SOFTWARE)

    one = arch.encode_soft(1, 1)
    assert arch.encode_soft(arch.soft_types - 2, 1) ^ one == drawn("type")
    assert arch.encode_soft(1, arch.soft_offsets - 2) ^ one == drawn("offset")
    assert arch.encode_soft(1, 1, exclusive=True) ^ one == drawn("E")


def test_there_is_no_ruler_of_what_a_format_lacks() -> None:
    pae = ptl.arch.get("i386_pae")
    with pytest.raises(ValueError, match="i386_pae has no leaf at level 3"):
        leaf_fields(pae, 3)
    with pytest.raises(ValueError, match="i386_pae has no tables below level 1"):
        table_fields(pae, 1)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_list_has_every_architecture() -> None:
    lines = run().output.splitlines()
    for name in NAMES:
        assert any(line.split()[:1] == [name] for line in lines), name
    assert max(map(len, lines)) <= 80


def test_the_list_for_programs() -> None:
    listed = {facts["name"]: facts for facts in json.loads(run("--json").output)}
    assert tuple(listed) == NAMES
    assert listed["x86_64"]["page_sizes"] == [1 << 12, 1 << 21, 1 << 30]
    assert listed["x86_64"]["run_sizes"] == []
    assert listed["arm64_4k"]["run_sizes"] == [64 << 10, 32 << 20, 16 << 30]
    assert listed["x86_64"]["verified_by"] == ["Unicorn", "QEMU"]
    assert json.loads(run("i386", "--json").output) == listed["i386"]


def test_what_is_said_to_be_verified_has_a_judge_in_the_tests() -> None:
    oracle = Path(__file__).parent / "oracle"
    walking = (oracle / "machine.py").read_text().partition("BOARDS = {")[2].partition("\n}")[0]
    refilled = (oracle / "mips_cpu.py").read_text().partition("\nREFILLED")[2].partition("}")[0]
    judged = sorted(re.findall(r'"(\w+)"', walking + refilled))
    assert judged == sorted(name for name in NAMES if "Unicorn" in ptl.arch.get(name).verified_by)
    by_qemu = sorted(name for name in NAMES if "QEMU" in ptl.arch.get(name).verified_by)
    assert sorted({*CORES, *LISTED, *REFILLED}) == by_qemu


def test_rulers_in_the_terminal(arch: Arch) -> None:
    output = run(arch.name).output
    for ruler in rulers(arch):
        assert f"\n{ruler.title}\n" in output
        for field in ruler.fields:
            assert f" {field.name} " in output
    assert all(len(line) <= 100 for line in output.splitlines() if line.startswith(" "))


def test_the_documentation_lists_every_format_and_who_verified_it() -> None:
    page = (Path(__file__).parent.parent / "docs" / "formats.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    assert rows == [
        [
            f"`{arch.name}`",
            arch.title,
            str(arch.levels),
            pages(arch),
            f"{arch.entry_bytes}, {arch.byte_order}",
            ", ".join(arch.verified_by) or "-",
        ]
        for arch in map(ptl.arch.get, NAMES)
    ]


def test_a_known_ruler() -> None:
    assert (
        "leaf of 4 MiB, level 2\n"
        "  31-22              21-13   12   11   10-9   8   7   6   5   4-3   2   1   0\n"
        " | physical address | 0     |    | F  |      | G | 1 | D | A |     | U | W | 1 |\n"
    ) in run("i386").output


def test_a_picture_has_a_cell_for_each_field(arch: Arch, tmp_path: Path) -> None:
    file = tmp_path / "rulers.svg"
    result = run(arch.name, "--svg", file)
    assert result.exit_code == 0
    assert str(file) in result.output
    picture = ElementTree.parse(file).getroot()
    drawn = [title.text for title in picture.iter(f"{SVG}title")]
    assert len(drawn) == sum(len(ruler.fields) for ruler in rulers(arch))
    for ruler in rulers(arch):
        for field in ruler.fields:
            assert f"bits {field.high} to {field.low}: {field.name or '-'} ({field.part.value})" in drawn
    width = float(picture.attrib["width"])
    for rect in picture.iter(f"{SVG}rect"):
        if "x" in rect.attrib:
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width


def test_a_picture_of_all_at_once_is_refused(tmp_path: Path) -> None:
    result = run("--svg", tmp_path / "rulers.svg")
    assert result.exit_code == 2
    assert "--svg draws one architecture: say which" in result.output
    assert not (tmp_path / "rulers.svg").exists()


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    result = run("pdp11")
    assert result.exit_code == 2
    assert "riscv_sv39" in result.output


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    result = run("x86_64", "--svg", tmp_path / "missing" / "rulers.svg")
    assert result.exit_code != 0
    assert "rulers.svg" in result.output
