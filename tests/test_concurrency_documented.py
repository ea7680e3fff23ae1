"""The promise: docs/concurrency.md lists every access to shared memory that the core makes, and no other; and it names
the moment at which every public operation happens.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from ptl import _core

ROOT = Path(__file__).parent.parent
CORE = ROOT / "src" / "ptl" / "core"
THE_LABS_OWN = {"explore.pxi", "model.pxi"}
CALL = re.compile(
    r"\b(load_relaxed|load_acquire|load_own|store_relaxed|store_release|store_then_barrier|add_own_release|exchange"
    r"|compare_exchange|fetch_add_relaxed|fetch_add|count)(?:_unhooked)?(_pointer|_32|_64)\((?:<[^>]*> )?&?([\w.\[\]]+)"
)
FENCE = re.compile(r"\bfull_barrier\(\)")

pytestmark = pytest.mark.skipif(not CORE.is_dir(), reason="the core's source is not beside the tests")


def without_faults(text: str) -> str:
    """Without what a fault does in place of the core: the indented lines after an `if is_faulty(...)`."""
    return re.sub(r"^( *)if is_faulty\([^\n]*:\n(?:\1 +[^\n]*\n)+", "", text, flags=re.MULTILINE)


def made() -> dict[tuple[str, str], str]:
    """(word, call) of each access, and a place where it is made."""
    found = {}
    for path in sorted(CORE.glob("*.pxi")):
        if path.name in THE_LABS_OWN:
            continue
        for number, line in enumerate(without_faults(path.read_text()).split("\n"), 1):
            for name, kind, word in CALL.findall(line):
                call = name + (kind if kind == "_pointer" else "")
                found[re.split(r"[.\]]", word)[-1], call] = f"{path.name}:{number}"
    return found


def documented() -> set[tuple[str, str]]:
    """(word, call) of each access that the table of section 3 has; a row without a word goes on with the last."""
    text = (ROOT / "docs" / "concurrency.md").read_text()
    section = text.split("\n## 3.")[1].split("\n## 4.")[0]
    found: set[tuple[str, str]] = set()
    words: list[str] = []
    for line in section.split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5:
            words = re.findall(r"`(\w+)`", cells[0]) or ([] if cells[0] else words)
            found |= set(product(words, re.findall(r"`(\w+)`", cells[1])))
    return found


def test_every_access_is_in_the_table():
    missing = {pair: where for pair, where in made().items() if pair not in documented()}
    assert not missing


def test_the_table_has_no_word_that_is_not_accessed():
    assert {word for word, _ in documented()} <= {word for word, _ in made()}


def test_the_fences_are_where_it_says():
    found = {
        path.name for path in CORE.glob("*.pxi") if path.name not in THE_LABS_OWN and FENCE.search(path.read_text())
    }
    assert found == {"epoch.pxi"}


PUBLIC = (
    *(_core.PageTable, _core.PteMap, _core.PteMapRw, _core.PteKernel, _core.Slot, _core.Pin),
    *(_core.EpochDomain, _core.Frames, _core.Tlb, _core.MmuGather),
)


def operations() -> set[str]:
    """Every public method, with its class where that is not PageTable."""
    return {
        name if kind is _core.PageTable else f"{kind.__name__}.{name}"
        for kind in PUBLIC
        for name, what in vars(kind).items()
        if not name.startswith("_") and callable(what)
    }


def test_every_operation_has_its_moment():
    text = (ROOT / "docs" / "concurrency.md").read_text()
    rows = text.split("\n## 5.")[1].split("\n## 6.")[0].splitlines()
    named = {name for row in rows if row.startswith("| ") for name in re.findall(r"`([\w.]+)`", row.split(" | ")[0])}
    assert operations() - named == set()
    assert named - operations() == set()
