"""The promise: every example works as it is written: in the docstrings, in the README and in `docs`.

In a Markdown file the blocks fenced as `python` are one program, from top to bottom.
"""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from inspect import isroutine
from pathlib import Path
from types import ModuleType

import pytest

import ptl

ROOT = Path(__file__).parent.parent
MODULES = ["ptl", *sorted(module.name for module in pkgutil.walk_packages(ptl.__path__, "ptl."))]
PAGES = [path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))) if path.exists()]


def documented(owner: ModuleType | type, name: str) -> Iterator[tuple[str, object]]:
    """A module or class, and all that it defines, by their names. Compiled ones are no different."""
    yield name, owner
    home = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for key, thing in vars(owner).items():
        if isinstance(thing, type) and thing.__module__ == home:
            yield from documented(thing, f"{name}.{key}")
        elif isinstance(thing, property) or (isroutine(thing) and getattr(thing, "__module__", home) == home):
            yield f"{name}.{key}", thing


def examples_in(name: str) -> Iterator[doctest.DocTest]:
    """The examples of a module, a test for each docstring that has some."""
    module = importlib.import_module(name)
    for where, thing in documented(module, name):
        text = getattr(thing, "__doc__", None) or ""
        test = doctest.DocTestParser().get_doctest(text, vars(module), where, module.__file__, None)
        if test.examples:
            yield test


TESTS = [test for name in MODULES if not name.endswith("__main__") for test in examples_in(name)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_docstring(test: doctest.DocTest) -> None:
    report: list[str] = []
    failed, tried = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert tried
    assert not failed, "".join(report)


def test_no_example_in_the_sources_is_left_out() -> None:
    texts = [path.read_text() for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".pyx", ".pxi")]
    written = [line for text in texts for line in re.findall(r"^ *>>> .*", text, re.MULTILINE)]
    assert sum(len(test.examples) for test in TESTS) == len(written)


def program(page: Path) -> str:
    """The Python blocks of a page, on the lines on which they stand there."""
    inside, lines = False, []
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if program(page).strip()], ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(program(page), page, "exec"), {"__name__": "__main__"})
