"""Who ptl is compared with, and who of them is here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

from ptl.bench.native import Missing, Program, load

MAPS = {
    "ck_ht": Program("ck_ht.c", ("ck",), "libck-dev"),
    "JudyL": Program("judy.c", ("Judy",), "libjudy-dev"),
    "TBB hash map": Program("tbb_hash.cpp", ("tbb",), "libtbb-dev"),
    "TBB skip list": Program("tbb_map.cpp", ("tbb",), "libtbb-dev"),
    "rculfhash": Program("rculfhash.c", ("urcu-cds", "urcu-memb", "urcu-common"), "liburcu-dev"),
    "std::map, shared_mutex": Program("std_map.cpp"),
}
SECTIONS = {
    "urcu memb": Program("urcu_section.c", ("urcu-memb", "urcu-common"), "liburcu-dev"),
    "urcu bp": Program("urcu_section.c", ("urcu-bp", "urcu-common"), "liburcu-dev", ("-DFLAVOUR_BP",)),
    "urcu qsbr": Program("urcu_section.c", ("urcu-qsbr", "urcu-common"), "liburcu-dev", ("-DFLAVOUR_QSBR",)),
    "ck_epoch": Program("ck_epoch.c", ("ck",), "libck-dev"),
}
BARE = Program("bare.c")
LIMITS = Program("limits.c")
MARKS = Program("marks.c", (), "valgrind")
MODULES = "numpy", "BTrees.QQBTree", "sortedcontainers", "cereggii", "unicorn", "volatility3"


def module(name: str) -> ModuleType:
    """A Python peer. Raises Missing when it is not installed or does not work here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Missing(f"there is no module {error.name}; install ptl[bench]") from error
    except Exception as error:
        raise Missing(f"{name} cannot be imported: {error}") from error


def missing() -> Iterator[tuple[str, str]]:
    """The name of each peer that cannot take part, and why."""
    attempts: dict[str, Callable[[], object]] = {name: partial(module, name) for name in MODULES}
    for programs in (MAPS, SECTIONS, {"bare loads": BARE, "the machine's limits": LIMITS, "callgrind's marks": MARKS}):
        attempts |= {name: partial(load, program) for name, program in programs.items()}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Missing as reason:
            yield name, str(reason)


def present(programs: dict[str, Program]) -> Iterator[tuple[str, Program]]:
    """Those that can take part."""
    for name, program in programs.items():
        try:
            load(program)
        except Missing:
            continue
        yield name, program
