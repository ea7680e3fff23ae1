"""The promise of `ptl race`: on the pages of a live process, under every locking policy, no translation is ever wrong,
and no table that left the tree is lost. If one were wrong, it would be seen: shown, counted, and in the exit status.

From the outside in: the command and its JSON; what it refuses; wrong answers, told and true; then its parts: how the
pages are divided and laid out, and how durations become quantiles.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ptl
from helpers import Crew, python
from ptl import _race, proc, race
from ptl.cli import main
from ptl.proc import Extent, Layout, Mapping, Placed, ProcessImage

PAGE, HUGE = 4 << 10, 2 << 20
NO_PID = 1 << 22 | 1
"""More than Linux can give to a process."""

POLICIES = ("epoch", "vma_lock", "mmap_lock")
KEYS = {"arch", "pid", "pages", "wrong_translations", "policies"}
POLICY_KEYS = {
    "translations",
    "translations_per_s",
    "faults",
    "latency_ns",
    "collapses",
    "splits",
    "retracts",
    "tables_retired",
    "tables_freed",
    "limbo_max",
    "map_failures",
    "rewalks",
}
QUANTILES = ("p50", "p99", "p99.9", "max")
SHORT = "--seconds", 0.15
"""Long enough to go through everything, but not for every thread to get a turn on a busy machine."""

examples = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
linux_only = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs /proc/self/pagemap")


class Child:
    """A process with 32 MiB of pages of its own, which waits."""

    PROGRAM = f"""
import mmap
memory = mmap.mmap(-1, {32 << 20})
for page in range(0, {32 << 20}, {PAGE}):
    memory[page] = 1
print("ready", flush=True)
input()
"""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.pid = self.process.pid

    def end(self) -> None:
        """Kill it and leave it as a zombie."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def bury(self) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.bury()


def invoke(*arguments: object) -> Result:
    """Run `ptl race`."""
    return CliRunner().invoke(main, ["race", *map(str, arguments)])


def raced(*arguments: object) -> dict[str, Any]:
    """Run `ptl race --json`, which must end well, and return its object."""
    result = invoke(*SHORT, "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal(*arguments: object) -> str:
    """Run `ptl race`, which must refuse, and return its one message."""
    result = invoke(*SHORT, *arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), f"a traceback: {result.exception!r}"
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    return errors[0].removeprefix("Error: ")


# -- what it says -----------------------------------------------------------------------------------------------------


def assert_is_sound(found: dict[str, Any], policies: tuple[str, ...] = POLICIES) -> None:
    """The keys that are promised, with numbers that fit together."""
    assert found.keys() >= KEYS
    assert found["pages"] > 0
    assert found["wrong_translations"] == 0
    assert tuple(found["policies"]) == policies
    for policy in found["policies"].values():
        assert policy.keys() >= POLICY_KEYS
        assert tuple(policy["latency_ns"]) == QUANTILES
        durations = [policy["latency_ns"][name] for name in QUANTILES]
        assert durations == sorted(durations)
        assert (durations[0] > 0) == (policy["translations"] > 0) == (policy["translations_per_s"] > 0)
        assert policy["splits"] == policy["collapses"]
        assert policy["tables_retired"] == policy["collapses"] + policy["retracts"]
        assert policy["tables_freed"] == policy["tables_retired"]
        assert 0 <= policy["limbo_max"] <= policy["tables_retired"]
        assert all(type(policy[name]) is int for name in POLICY_KEYS - {"translations_per_s", "latency_ns"})


@linux_only
def test_the_command_races_its_own_process() -> None:
    found = json.loads(python("-m", "ptl", "race", "--seconds", "0.6", "--json").stdout)
    assert_is_sound(found)
    assert found["arch"] == "x86_64"
    assert found["command"] == Path(sys.executable).name[:15]
    for policy in found["policies"].values():
        assert all(policy[name] > 0 for name in ("translations", "faults", "collapses", "limbo_max"))


@linux_only
def test_another_process(child: Child) -> None:
    found = raced("--pid", child.pid)
    assert_is_sound(found)
    assert found["pid"] == child.pid
    assert found["pages"] >= (32 << 20) // PAGE


@linux_only
@pytest.mark.parametrize("policies", [("epoch",), ("mmap_lock", "epoch")])
def test_chosen_policies_in_that_order(child: Child, policies: tuple[str, ...]) -> None:
    options = [word for policy in policies for word in ("--policy", policy)]
    assert_is_sound(raced("--pid", child.pid, *options), policies)


@linux_only
def test_several_threads_of_a_role(child: Child) -> None:
    found = raced("--pid", child.pid, "--readers", 3, "--faulters", 2, "--policy", "epoch")
    assert_is_sound(found, ("epoch",))
    assert (found["readers"], found["faulters"]) == (3, 2)


@linux_only
@pytest.mark.parametrize("arch", ["i386", "i386_pae", "riscv_sv39"])
def test_another_architecture_gets_relocated_addresses_and_says_so(child: Child, arch: str) -> None:
    options = "--pid", child.pid, "--arch", arch, "--policy", "epoch"
    found = raced(*options)
    assert_is_sound(found, ("epoch",))
    assert found["arch"] == arch
    assert found["relocated"] is True
    shown = invoke(*SHORT, *options)
    assert shown.exit_code == 0
    assert "addresses relocated" in shown.stdout


@linux_only
def test_the_page(child: Child, tmp_path: Path) -> None:
    page = tmp_path / "race.html"
    result = invoke(*SHORT, "--pid", child.pid, "--policy", "epoch", "--html", page)
    assert result.exit_code == 0, result.output
    assert f"the page is in {page}" in result.stderr.replace("\n", "")
    assert list(tmp_path.iterdir()) == [page]
    text = page.read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    addresses = re.findall(r"""<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)\s*=\s*["']?([^"'>\s]*)""", text)
    assert [address for address in addresses if not address.startswith("data:")] == []


# -- what it refuses --------------------------------------------------------------------------------------------------


@linux_only
def test_a_process_that_is_gone() -> None:
    assert refusal("--pid", NO_PID) == f"no such process: pid {NO_PID} is gone"


@linux_only
def test_a_process_without_an_address_space() -> None:
    """A zombie; a kernel thread looks the same."""
    child = Child()
    child.end()
    message = refusal("--pid", child.pid)
    child.bury()
    assert message == f"pid {child.pid} has no address space: it is a kernel thread or a zombie"


@linux_only
def test_a_kernel_thread() -> None:
    threads = [path.parent for path in Path("/proc").glob("*/comm") if path.read_bytes() == b"kthreadd\n"]
    if not threads:
        pytest.skip("no kernel thread in sight")
    assert refusal("--pid", threads[0].name).endswith("it is a kernel thread or a zombie")


AS_NOBODY = """
import os, sys
from click.testing import CliRunner
from ptl.cli import main
CliRunner().invoke(main, ["race", "--pid", "4194305"])      # import everything while that is allowed
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
result = CliRunner().invoke(main, ["race", "--pid", sys.argv[1]])
print(result.exit_code, repr(result.exception), result.stderr)
"""


@linux_only
def test_a_process_that_may_not_be_looked_at() -> None:
    forbidden = str(os.getpid() if os.geteuid() == 0 else 1)
    said = python("-c", AS_NOBODY, forbidden).stdout
    assert said.startswith("2 SystemExit(2)")
    assert f"Error: cannot read /proc/{forbidden}/maps: permission denied" in said


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_is_positive(pid: int) -> None:
    assert refusal("--pid", pid) == f"pid must be positive, not {pid}"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "86401"])
def test_seconds_are_more_than_none_and_no_more_than_a_day(seconds: str) -> None:
    assert refusal("--seconds", seconds).startswith("seconds must be more than 0 and at most a day, not ")


@pytest.mark.parametrize("option", ["--readers", "--faulters"])
@pytest.mark.parametrize("count", [-1, 0, 257])
def test_there_are_some_threads_of_each_role_but_not_too_many(option: str, count: int) -> None:
    assert refusal(option, count) == "1 to 256 readers and 1 to 8 fault threads can race"


@pytest.mark.parametrize(
    "arguments", [("--seconds", "soon"), ("--readers", "1.5"), ("--policy", "none"), ("--arch", "pdp11")]
)
def test_what_is_no_value(arguments: tuple[str, str]) -> None:
    assert refusal(*arguments).startswith(f"Invalid value for '{arguments[0]}': '{arguments[1]}' is not ")


def test_a_policy_twice() -> None:
    assert "policies must be different ones" in refusal("--policy", "epoch", "--policy", "epoch")


@linux_only
def test_an_architecture_that_is_too_small(child: Child) -> None:
    message = refusal("--arch", "tiny", "--pid", child.pid)
    assert message == f"process {child.pid} maps more than the 0x40000 bytes that tiny can address"


def test_a_page_that_would_be_a_directory(tmp_path: Path) -> None:
    assert "Is a directory" in refusal("--html", tmp_path)


def test_a_page_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    page = tmp_path / "none" / "race.html"
    assert refusal("--html", page) == f"Invalid value for '--html': '{page}': No such file or directory"


@linux_only
@pytest.mark.parametrize("page", ["/proc/race.html", "/dev/full"])
def test_a_page_that_cannot_be_written(child: Child, page: str) -> None:
    result = invoke(*SHORT, "--pid", child.pid, "--policy", "epoch", "--html", page)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), f"a traceback: {result.exception!r}"
    assert page in result.stderr


# -- wrong answers ----------------------------------------------------------------------------------------------------


@linux_only
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_translations_are_shown_and_make_the_exit_status_1(
    child: Child, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    honest = race.run
    monkeypatch.setattr(race, "run", lambda *args, **options: {**honest(*args, **options), "wrong_translations": 3})
    result = invoke(*SHORT, "--pid", child.pid, "--policy", "epoch", *["--json"] * as_json)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    if as_json:
        assert json.loads(result.stdout)["wrong_translations"] == 3
    else:
        assert "3 WRONG TRANSLATIONS" in result.stdout


@linux_only
@pytest.mark.parametrize("kind", race.KINDS)
def test_a_wrong_translation_counts_whatever_the_collapser_was_doing(
    child: Child, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    honest = race.run_one

    def run_one(field: race.Field, settings: race.Settings, policy: str, its: str, tick: Any) -> dict[str, Any]:
        numbers = honest(field, settings, policy, its, tick)
        return {**numbers, "wrong_translations": 5 if its == kind else 0}

    monkeypatch.setattr(race, "run_one", run_one)
    result = invoke(*SHORT, "--pid", child.pid, "--policy", "epoch", "--json")
    assert json.loads(result.stdout)["wrong_translations"] == 5
    assert result.exit_code == 1


@linux_only
@pytest.mark.parametrize("policy", POLICIES)
def test_a_table_that_lies_is_found_out(child: Child, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """All pages that nobody changes are moved after the race has noted where they should be."""
    honest = race.lay_course

    def lying(field: race.Field, table: ptl.PageTable, policy: str) -> _race.Course:
        course = honest(field, table, policy)
        for placed in field.pages:
            table.map(placed.va, 0, placed.length, placed.flags, replace=True)
        return course

    monkeypatch.setattr(race, "lay_course", lying)
    result = invoke("--seconds", 0.6, "--pid", child.pid, "--policy", policy, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["wrong_translations"] > 0
    assert found["policies"][policy]["wrong_translations"] > 0


class Track:
    """A small course: a region to collapse, one to fault in, and a page, each of which may be expected elsewhere."""

    def __init__(self, policy: str, *, collapsing_off: int = 0, faulting_off: int = 0, page_off: int = 0) -> None:
        self.domain = ptl.EpochDomain()
        self.table = ptl.PageTable("x86_64", frames=ptl.Frames(16 << 20, domain=self.domain))
        run, other, fault_run, page = (self.table.frames.alloc(n) for n in (HUGE, HUGE, HUGE, PAGE))
        self.table.map(HUGE, run, HUGE, page_size=PAGE)
        self.table.map(2 * HUGE, fault_run, HUGE, page_size=PAGE)
        self.table.map(3 * HUGE, page)
        self.course = _race.Course(
            self.table,
            policy,
            [(HUGE, run + collapsing_off, other + collapsing_off, 0)],
            [(2 * HUGE, fault_run + faulting_off, 0)],
            [(3 * HUGE, page + page_off, 1)],
            2,
        )

    def read(self, least: int = 100_000) -> _race.Runner:
        """One reader, alone, for at least so many translations."""
        reader = _race.Runner(self.course, 1)
        thread = threading.Thread(target=reader.read)
        thread.start()
        while thread.is_alive() and reader.done < least:
            thread.join(0.001)
        self.course.stop()
        thread.join()
        return reader


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("where", ["collapsing_off", "faulting_off", "page_off"])
def test_a_wrong_expectation_is_noticed(policy: str, where: str) -> None:
    reader = Track(policy, **{where: PAGE}).read()
    assert 0 < reader.wrong < reader.done


@pytest.mark.parametrize("policy", POLICIES)
def test_every_answer_is_checked(policy: str) -> None:
    reader = Track(policy, collapsing_off=PAGE, faulting_off=PAGE, page_off=PAGE).read()
    assert reader.wrong == reader.done


@pytest.mark.parametrize("policy", POLICIES)
def test_right_expectations_are_never_wrong(policy: str) -> None:
    reader = Track(policy).read()
    assert reader.wrong == 0
    assert sum(count for _, count in reader.latencies.buckets()) == reader.done


def test_threads_may_begin_again() -> None:
    """After a stop, nobody does more than the operation it is in, until the course is resumed; then for so long."""
    track = Track("epoch")
    track.table.unmap(2 * HUGE, HUGE)
    reader, faulter, collapser = (_race.Runner(track.course, seed) for seed in (1, 2, 3))

    def everybody() -> list[int]:
        reader.read(nanoseconds=1_000_000)
        faulter.fault(0, 1, naps=False, nanoseconds=1_000_000)
        return [reader.done, faulter.done, collapser.done]

    track.course.stop()
    collapser.collapse("file")
    assert everybody() == [0, 0, 0]
    track.course.resume()
    first = everybody()
    assert first[0] > 0 < first[1]
    track.course.stop()
    assert everybody() == first
    track.table.check()


def test_every_line_of_entries_is_touched() -> None:
    track = Track("epoch")
    toucher = _race.Runner(track.course, 1)
    thread = threading.Thread(target=toucher.touch_lines)
    thread.start()
    while toucher.done < 1:
        thread.join(0.001)
    track.course.stop()
    thread.join()
    accessed = [n for n in range(512) if "a" in track.table.lookup(HUGE + n * PAGE).flags]
    assert accessed == (list(range(0, 512, 8)) if toucher.done % 2 else [])
    assert track.table.stats()["collapses"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["file", "anonymous"])
def test_all_roles_together(policy: str, kind: str) -> None:
    track = Track(policy)
    track.table.unmap(2 * HUGE, HUGE)
    reader, faulter, collapser = (_race.Runner(track.course, seed) for seed in (1, 2, 3))
    crew, before = Crew(), track.domain.stats()["retired"]

    def end() -> None:
        while not crew.failures and (reader.done < 20_000 or faulter.done < 2_000 or collapser.done < 20):
            crew.over.wait(0.001)
        track.course.stop()

    crew.run(reader.read, lambda: faulter.fault(0, 1), lambda: collapser.collapse(kind), end)
    assert reader.wrong == 0
    assert faulter.failures == collapser.failures == 0
    assert collapser.splits == collapser.collapses == collapser.done
    track.table.check()
    track.domain.synchronize()
    counts = track.domain.stats()
    assert counts["freed"] == counts["retired"] == before + collapser.collapses + collapser.retracts


# -- how pages are divided --------------------------------------------------------------------------------------------

REGIONS = 40


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Runs of pages, small and huge, in a few regions; one mapping each."""
    arch = ptl.arch.get("x86_64")
    borders = draw(st.lists(st.integers(0, REGIONS * 512), min_size=2, max_size=40, unique=True).map(sorted))
    pages = []
    for number, (first, last) in enumerate(zip(borders[::2], borders[1::2], strict=False)):
        huge = first % 512 == last % 512 == 0 and draw(st.booleans())
        pa = draw(st.integers(0, 1000)) * HUGE
        pages.append(Placed(first * PAGE, pa, (last - first) * PAGE, HUGE if huge else PAGE, "rw", number))
    spans = tuple((placed.va, placed.va + placed.length - 1) for placed in pages)
    return Layout(arch, spans, tuple(pages), relocated=False, frames_made_up=True)


def page_by_page(pages: tuple[Placed, ...]) -> dict[int, tuple[int, str, int]]:
    """Where each page goes, as what, and in which mapping; no page twice."""
    found = {}
    for placed in pages:
        for offset in range(0, placed.length, PAGE):
            assert placed.va + offset not in found
            found[placed.va + offset] = (placed.pa + offset, placed.flags, placed.mapping)
    return found


@examples
@given(layout=layouts(), faulters=st.integers(1, 8))
def test_regions_and_pages_are_apart_and_together_are_all(layout: Layout, faulters: int) -> None:
    pages = page_by_page(layout.pages)
    inside: dict[int, int] = {}
    for va in pages:
        inside[va // HUGE * HUGE] = inside.get(va // HUGE * HUGE, 0) + 1
    if len(inside) <= faulters:
        with pytest.raises(race.RaceError, match=f"need at least {faulters + 1}"):
            race.divide(layout, faulters)
        return
    field = race.divide(layout, faulters)
    collapsing, faulting = ([va for va, _ in regions] for regions in (field.collapsing, field.faulting))
    changed = {*collapsing, *faulting}
    assert len(changed) == len(collapsing) + len(faulting)
    assert changed <= inside.keys()
    assert 1 <= len(collapsing) <= race.REGIONS
    assert faulters <= len(faulting) <= race.REGIONS
    assert page_by_page(field.pages) == {va: page for va, page in pages.items() if va // HUGE * HUGE not in changed}
    assert all(placed.va % placed.page_size == placed.length % placed.page_size == 0 for placed in field.pages)


@examples
@given(layout=layouts())
def test_the_fullest_regions_are_collapsed_and_their_holes_counted(layout: Layout) -> None:
    pages = page_by_page(layout.pages)
    inside: dict[int, int] = {}
    owners: dict[int, set[int]] = {}
    for va, (_, _, mapping) in pages.items():
        inside[va // HUGE * HUGE] = inside.get(va // HUGE * HUGE, 0) + 1
        owners.setdefault(va // HUGE * HUGE, set()).add(mapping)
    if len(inside) < 2:
        return
    field = race.divide(layout, 1)
    full = [inside[va] for va, _ in (*field.collapsing, *field.faulting)]
    assert full == sorted(inside.values(), reverse=True)[: len(full)]
    assert field.filled == sum(HUGE // PAGE - inside[va] for va, _ in field.collapsing)
    assert all(mapping in owners[va] for va, mapping in (*field.collapsing, *field.faulting))


# -- where pages go ---------------------------------------------------------------------------------------------------

ARCHITECTURES = ("x86_64", "i386", "i386_pae", "riscv_sv39")
TOP = 1 << 47


@st.composite
def images(draw: st.DrawFn) -> ProcessImage:
    """A process with some mappings and some of their pages resident; low addresses, high ones or both."""
    spread = draw(st.sampled_from((1 << 16, 1 << 24, TOP // PAGE)))
    borders = draw(st.lists(st.integers(1, spread), min_size=2, max_size=12, unique=True).map(sorted))
    known = draw(st.booleans())
    mappings, extents = [], []
    for first, last in zip(borders[::2], borders[1::2], strict=False):
        last = min(last, first + 5000)
        mappings.append(Mapping(first * PAGE, last * PAGE, "rw-p", 0, ""))
        unit = draw(st.sampled_from((1, 512)))
        numbers = range(-(-first // unit), last // unit + 1)
        cuts = draw(st.lists(st.sampled_from(numbers), max_size=6, unique=True).map(sorted)) if numbers else []
        for low, high in zip(cuts[::2], cuts[1::2], strict=False):
            pfn = draw(st.integers(1, 1 << 13)) * 512 + low * unit % 512 if known else None
            length = (high - low) * unit * PAGE
            extents.append(Extent(low * unit * PAGE, length, unit * PAGE, pfn, draw(st.booleans()), False, False))
    return ProcessImage(1, "made up", tuple(mappings), tuple(extents), known, huge_pages_known=True)


@pytest.mark.parametrize("name", ARCHITECTURES)
@examples
@given(image=images())
def test_mappings_stay_apart_and_keep_their_distance_from_a_huge_page(name: str, image: ProcessImage) -> None:
    arch = ptl.arch.get(name)
    top = 1 << arch.va_bits - arch.sign_extended
    layout = proc.lay_out(image, arch)
    assert layout.relocated == any(extent.va + extent.length > top for extent in image.extents)
    spans = layout.spans
    for mapping, (first, last) in zip(image.mappings, spans, strict=True):
        assert last - first + 1 == mapping.length
        assert (first - mapping.start) % arch.page_sizes[1] == 0
        assert first == mapping.start or layout.relocated
        assert last < top or not layout.relocated
    assert all(before < after for (_, before), (after, _) in pairwise(spans))


@pytest.mark.parametrize("name", ARCHITECTURES)
@examples
@given(image=images())
def test_pages_stay_where_they_are_in_their_mappings_and_share_no_made_up_frame(name: str, image: ProcessImage) -> None:
    arch = ptl.arch.get(name)
    layout = proc.lay_out(image, arch)
    frames: set[int] = set()
    for extent, placed in zip(image.extents, layout.pages, strict=True):
        mapping, (first, last) = image.mappings[placed.mapping], layout.spans[placed.mapping]
        assert placed.va - first == extent.va - mapping.start
        assert placed.va + placed.length - 1 <= last
        assert placed.length == extent.length
        assert placed.page_size == (extent.page_size if extent.page_size in arch.page_sizes else PAGE)
        assert placed.va % placed.page_size == placed.pa % placed.page_size == 0
        assert ("w" in placed.flags) == extent.writable
        assert placed.pa + placed.length <= 1 << arch.pa_bits
        if layout.frames_made_up:
            run = set(range(placed.pa, placed.pa + placed.length, PAGE))
            assert not run & frames
            frames |= run
        else:
            assert placed.pa == extent.pfn * PAGE
    if image.frame_numbers_known and name == "x86_64":
        assert not layout.frames_made_up


def test_mappings_that_do_not_fit_together() -> None:
    mappings = tuple(Mapping(start, start + (3 << 30), "rw-p", 0, "") for start in (1 << 40, 2 << 40))
    image = ProcessImage(7, "large", mappings, (Extent(1 << 40, PAGE, PAGE, None, True, False, False),), False, True)
    with pytest.raises(ptl.AddressError, match="process 7 maps more than the 0x100000000 bytes that i386"):
        proc.lay_out(image, "i386")


@linux_only
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_snapshot_is_the_image_page_by_page(child: Child, monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    image = proc.read(child.pid)
    monkeypatch.setattr(proc, "read", lambda pid: {child.pid: image}[pid])
    table, layout = proc.snapshot(child.pid, arch=arch), proc.lay_out(image, arch)
    for extent, placed in zip(image.extents, layout.pages, strict=True):
        for offset in range(0, extent.length, PAGE):
            leaf = table.lookup(placed.va + offset)
            assert leaf.pa + placed.va + offset - leaf.va == placed.pa + offset
            assert (leaf.size > PAGE) == (extent.page_size in table.arch.page_sizes[1:])
            assert ("w" in leaf.flags) == extent.writable
    half = 1 << table.arch.va_bits - table.arch.sign_extended
    assert table.unmap(0, half) == image.pages * PAGE


# -- numbers ----------------------------------------------------------------------------------------------------------

histograms = st.dictionaries(st.integers(1, 10_000), st.integers(1, 400), min_size=1, max_size=12).map(
    lambda counts: sorted(counts.items())
)
SHARES = {"p50": Fraction(1, 2), "p99": Fraction(99, 100), "p99.9": Fraction(999, 1000)}


@examples
@given(histogram=histograms)
def test_a_quantile_is_the_shortest_duration_that_enough_operations_keep_to(histogram: list[tuple[int, int]]) -> None:
    durations = sorted(duration for duration, count in histogram for _ in range(count))
    ranks = {name: math.ceil(share * len(durations)) for name, share in SHARES.items()}
    expected = {name: durations[rank - 1] for name, rank in ranks.items()}
    assert race.quantiles(histogram) == {**expected, "max": durations[-1]}


@examples
@given(histogram=histograms)
def test_an_operation_that_is_due_at_a_random_moment_waits_for_the_one_in_progress(
    histogram: list[tuple[int, int]],
) -> None:
    """Against the definition: the wait w for which the share of all time with more than w to go is 1 - share."""
    total = sum(duration * count for duration, count in histogram)
    found = race.arrival_quantiles(histogram)
    median = race.quantiles(histogram)["p50"]

    def later(wait: Fraction) -> Fraction:
        return Fraction(sum(max(0, duration - wait) * count for duration, count in histogram), total)

    for name, share in SHARES.items():
        wait = Fraction(found[name] - median)
        assert later(max(Fraction(0), wait - 1)) >= 1 - share >= later(wait + 1), name
    assert found["max"] == histogram[-1][0] + median


def test_without_operations_there_is_nothing_to_wait_for() -> None:
    assert race.quantiles([]) == race.arrival_quantiles([]) == dict.fromkeys(QUANTILES, 0)
