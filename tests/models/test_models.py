"""The Promela models of the protocols: Spin visits every state of each, and every mutant of each is caught.

As it stands a model holds. `-DVARIANT_...` makes another form of it that holds too, `-DMUTANT_...` breaks one rule, and
`-DWITNESS_...` asserts that a state the proof is about is never reached, which must be false.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "models").rglob("*.pml"))
CORE = ROOT / "src" / "ptl" / "core"
MEMORY_MIB = 4096

pytestmark = pytest.mark.exhaustive

needs_spin = pytest.mark.skipif(shutil.which("spin") is None, reason="Spin is not installed (Debian: apt install spin)")


def switches(model: Path, kind: str) -> list[str]:
    """The names of that kind that a model looks at."""
    return sorted(set(re.findall(rf"\b{kind}_[A-Z_]+", model.read_text())))


def cases(kind: str) -> list:
    return [pytest.param(m, s, id=f"{m.stem}-{s}") for m in MODELS for s in switches(m, kind)]


def errors(model: Path, folder: Path, *names: str) -> int:
    """How many errors Spin finds, at most one: it stops there. Raises when it could not visit every state."""
    defines = [f"-D{name}" for name in names]
    subprocess.run(["spin", *defines, "-a", model], cwd=folder, check=True, capture_output=True)
    compiler = ["gcc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c"]
    subprocess.run(compiler, cwd=folder, check=True)
    said = subprocess.run(["./pan", "-m1000000"], cwd=folder, check=True, capture_output=True, text=True).stdout
    found = re.search(r"errors: (\d+)\n\s*(\d+) states, stored", said)
    assert found, said
    assert "max search depth too small" not in said, said
    if found[1] == "0":
        assert "Search not completed" not in said, said
        print(f"{int(found[2]):,} states")
    return int(found[1])


@needs_spin
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_a_model_holds(model, tmp_path):
    assert errors(model, tmp_path) == 0


@needs_spin
@pytest.mark.parametrize(("model", "variant"), cases("VARIANT"))
def test_a_variant_holds(model, variant, tmp_path):
    assert errors(model, tmp_path, variant) == 0


@needs_spin
@pytest.mark.parametrize(("model", "mutant"), cases("MUTANT"))
def test_a_mutant_is_caught(model, mutant, tmp_path):
    assert errors(model, tmp_path, mutant) == 1


@needs_spin
@pytest.mark.parametrize(("model", "witness"), cases("WITNESS"))
def test_what_a_model_is_about_happens_in_it(model, witness, tmp_path):
    assert errors(model, tmp_path, witness) == 1


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_a_model_names_the_code_that_it_stands_for(model):
    head = model.read_text().split("*/")[0]
    if "design" in model.parts:
        assert "not in the core yet" in head
        return
    claimed = re.findall(r"^ \*     (\w+\.(?:pxi|h)) +((?:.|\n \* {8,})+)$", head, re.MULTILINE)
    assert claimed, "no file of the core is named"
    for file, names in claimed:
        source = (CORE / file).read_text()
        for name in re.findall(r"\w+", names.replace("*", " ")):
            assert re.search(rf"\b{name}\(", source), f"{file} has no {name}"
