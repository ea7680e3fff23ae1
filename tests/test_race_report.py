"""What people see of a race: the tables in the terminal and the page in the browser."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from ptl.race import arrival_quantiles
from ptl.show import race_page, race_table
from ptl.show.units import count, duration, exact, si, three

Result = dict[str, Any]
Mode = tuple[float, float, float]
"""A part of a distribution of latencies: its weight, its median in ns, and its spread."""

POLICIES = ("epoch", "vma_lock", "mmap_lock")
KINDS = ("idle", "file", "anonymous")
QUANTILES = ("p50", "p99", "p99.9", "max")
VOID = {"br", "col", "hr", "img", "input", "link", "meta"}

PATHS = {
    "epoch": {
        "read": "none in mainline yet: a walk without locks inside an epoch, as gup_fast() with interrupts off",
        "fault": "none in mainline yet: cmpxchg of the entry alone",
        "file": "retract_page_tables(), with the table freed after a grace period (pte_free_defer())",
        "anonymous": "collapse_huge_page(), with entries frozen while the copy runs",
    },
    "vma_lock": {
        "read": "lock_vma_under_rcu(), then the page-table lock: a fault that finds its page (minor)",
        "fault": "lock_vma_under_rcu(), then do_anonymous_page()",
        "file": "retract_page_tables(): the page-table locks alone",
        "anonymous": "collapse_huge_page(): vma_start_write() for as long as the copy runs",
    },
    "mmap_lock": {
        "read": "mmap_read_lock(), then walk_page_range(): pagemap, smaps, and faults before 6.4",
        "fault": "mmap_read_lock(), then handle_mm_fault()",
        "file": "retract_page_tables() before 6.6: mmap_write_trylock()",
        "anonymous": "collapse_huge_page(): mmap_write_lock() for as long as the copy runs",
    },
}

BODY: Mode = (1.0, 95, 0.32)
RESCHEDULED: Mode = (4e-6, 2.2e6, 0.7)
READS: dict[tuple[str, str], list[Mode]] = {
    ("epoch", "idle"): [(1.0, 92, 0.30), (6e-4, 1800, 0.5), RESCHEDULED],
    ("epoch", "file"): [(1.0, 94, 0.31), (9e-4, 1900, 0.5), RESCHEDULED],
    ("epoch", "anonymous"): [(1.0, 96, 0.33), (1.4e-3, 2100, 0.5), RESCHEDULED],
    ("vma_lock", "idle"): [(1.0, 128, 0.28), (7e-4, 1900, 0.5), RESCHEDULED],
    ("vma_lock", "file"): [(1.0, 134, 0.30), (6e-3, 3100, 0.6), RESCHEDULED],
    ("vma_lock", "anonymous"): [(1.0, 137, 0.30), (5e-3, 210_000, 0.6), RESCHEDULED],
    ("mmap_lock", "idle"): [(1.0, 121, 0.28), (7e-4, 1900, 0.5), RESCHEDULED],
    ("mmap_lock", "file"): [(1.0, 139, 0.34), (4e-2, 4200, 0.7), RESCHEDULED],
    ("mmap_lock", "anonymous"): [(1.0, 150, 0.35), (4e-2, 320_000, 0.6), (2e-5, 4e6, 0.5)],
}


def buckets(total: int, modes: list[Mode], steps: int = 16) -> list[list[int]]:
    """A histogram with so many steps to a doubling, of which the empty buckets are left out."""
    weights = sum(weight for weight, _, _ in modes)

    def below(x: float) -> float:
        tail = (w * 0.5 * math.erfc(-math.log(x / median) / (spread * math.sqrt(2))) for w, median, spread in modes)
        return sum(tail) / weights

    edges = [2 ** (i / steps) for i in range(4 * steps, 34 * steps)]
    filled: list[list[int]] = []
    done = 0
    for edge in edges:
        here = round(total * below(edge)) - done
        if here > 0:
            filled.append([round(edge), here])
            done += here
    return filled


def quantiles(histogram: list[list[int]]) -> dict[str, int]:
    """The quantiles as the upper edges of the buckets that hold them."""
    total = sum(number for _, number in histogram)
    if not total:
        return dict.fromkeys(QUANTILES, 0)
    found = {"max": histogram[-1][0]}
    for name, fraction in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        done = 0
        for upper, number in histogram:
            done += number
            if done >= fraction * total:
                found[name] = upper
                break
    return {name: found[name] for name in QUANTILES}


def numbers(policy: str, kind: str, seconds: float = 2.0, steps: int = 16) -> dict[str, Any]:
    """What one policy did under one kind of collapse."""
    modes = READS[policy, kind]
    mean = sum(weight * median * math.exp(spread**2 / 2) for weight, median, spread in modes)
    reads = round(seconds * 1e9 / (mean + 110))
    faults = round(reads / 23)
    fault_modes = [
        (weight, median * 4.5 if median < 1000 else median * 1.3, spread) for weight, median, spread in modes
    ]
    collapses = {"idle": 0, "file": 61_204, "anonymous": 3_187}[kind] - POLICIES.index(policy) * 211 * (kind != "idle")
    epoch = policy == "epoch"
    read_buckets, fault_buckets = buckets(reads, modes, steps), buckets(faults, fault_modes, steps)
    return {
        "translations": sum(number for _, number in read_buckets),
        "translations_per_s": sum(number for _, number in read_buckets) / seconds,
        "faults": sum(number for _, number in fault_buckets),
        "faults_per_s": sum(number for _, number in fault_buckets) / seconds,
        "latency_ns": quantiles(read_buckets),
        "arrival_latency_ns": arrival_quantiles(read_buckets),
        "fault_latency_ns": quantiles(fault_buckets),
        "collapses": collapses if kind == "anonymous" else 0,
        "splits": collapses - 1 if kind == "anonymous" else 0,
        "retracts": collapses if kind == "file" else 0,
        "tables_retired": collapses,
        "tables_freed": collapses - 3 * epoch * (kind != "idle"),
        "limbo_max": (17 if kind == "file" else 5) if epoch and kind != "idle" else 0,
        "map_failures": 12 if kind == "anonymous" else 0,
        "rewalks": {"idle": 0, "file": 48_113, "anonymous": 1_204_331}[kind] if epoch else 0,
        "wrong_translations": 0,
        "latency_buckets": read_buckets,
        "fault_latency_buckets": fault_buckets,
    }


def sample(policies: tuple[str, ...] = POLICIES, steps: int = 16) -> Result:
    """A result as `ptl race` makes it."""
    report: Result = {
        "ptl": "0.1.0",
        "python": "3.11.7",
        "machine": "x86_64, 2 cores, Linux 6.18",
        "command_line": "ptl race --seconds 6",
        "arch": "x86_64",
        "pid": 123,
        "command": "python3",
        "pages": 4177,
        "huge_pages": 0,
        "mappings": 85,
        "frame_numbers": "made up",
        "relocated": False,
        "gil": True,
        "seconds": 2.0,
        "readers": 1,
        "faulters": 1,
        "collapsers": 1,
        "regions": 8,
        "clock_ns": 26,
        "wrong_translations": 0,
        "policies": {},
    }
    for policy in policies:
        each = {kind: numbers(policy, kind, steps=steps) for kind in KINDS}
        busy = [each["file"], each["anonymous"]]
        total: dict[str, Any] = {
            key: sum(n[key] for n in busy) for key, value in busy[0].items() if isinstance(value, int | float)
        }
        for what in ("latency", "fault_latency"):
            merged: dict[int, int] = {}
            for n in busy:
                for upper, number in n[f"{what}_buckets"]:
                    merged[upper] = merged.get(upper, 0) + number
            total[f"{what}_buckets"] = [list(pair) for pair in sorted(merged.items())]
            total[f"{what}_ns"] = quantiles(total[f"{what}_buckets"])
        report["policies"][policy] = {"kernel_path": PATHS[policy], **total, "kinds": each}
    return report


def without_faults() -> Result:
    """A race in which no fault happened, and under the kind `file` no read either."""
    report = sample()
    for policy in report["policies"].values():
        for kind, n in policy["kinds"].items():
            for what in ("faults", "translations") if kind == "file" else ("faults",):
                latency = "fault_latency" if what == "faults" else "latency"
                n[what] = n[f"{what}_per_s"] = 0
                n[f"{latency}_ns"] = dict.fromkeys(QUANTILES, 0)
                n[f"{latency}_buckets"] = []
    return report


def with_wrong() -> Result:
    """A race that found two wrong translations."""
    report = sample()
    report["policies"]["vma_lock"]["kinds"]["file"]["wrong_translations"] = 2
    report["policies"]["vma_lock"]["wrong_translations"] = 2
    report["wrong_translations"] = 2
    return report


def text(report: Mapping[str, Any], width: int, colour: bool = False) -> str:
    """The terminal's view."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    console.print(race_table.render(report))
    return out.getvalue()


@pytest.fixture(scope="module")
def report() -> Result:
    return sample()


@pytest.fixture(scope="module")
def page(report: Result) -> str:
    return race_page.render(report)


# The table.


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_every_number_is_in_the_table(report: Result, width: int) -> None:
    shown = text(report, width)
    flat = " ".join(shown.split())
    assert "…" not in shown
    assert "..." not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert all(policy in shown for policy in POLICIES)
    assert all(f"{kind}: " in shown for kind in KINDS)
    for policy in POLICIES:
        for kind in KINDS:
            n = report["policies"][policy]["kinds"][kind]
            for key, value in n.items():
                if key.endswith("_ns"):
                    assert all(duration(value[quantile]) in flat for quantile in QUANTILES)
                elif key.endswith("_per_s"):
                    assert si(value) in flat
                elif not key.endswith("_buckets"):
                    assert count(value) in flat


LINES: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("Reads", lambda _: ""),
    (" per second", lambda n: si(n["translations_per_s"])),
    (" p50", lambda n: duration(n["latency_ns"]["p50"])),
    (" p99", lambda n: duration(n["latency_ns"]["p99"])),
    (" p99.9", lambda n: duration(n["latency_ns"]["p99.9"])),
    (" max", lambda n: duration(n["latency_ns"]["max"])),
    ("Reads due now", lambda _: ""),
    (" p50", lambda n: duration(n["arrival_latency_ns"]["p50"])),
    (" p99", lambda n: duration(n["arrival_latency_ns"]["p99"])),
    (" p99.9", lambda n: duration(n["arrival_latency_ns"]["p99.9"])),
    (" max", lambda n: duration(n["arrival_latency_ns"]["max"])),
    ("Faults", lambda _: ""),
    (" per second", lambda n: si(n["faults_per_s"])),
    (" p50", lambda n: duration(n["fault_latency_ns"]["p50"])),
    (" p99", lambda n: duration(n["fault_latency_ns"]["p99"])),
    (" p99.9", lambda n: duration(n["fault_latency_ns"]["p99.9"])),
    (" max", lambda n: duration(n["fault_latency_ns"]["max"])),
    ("Collapser", lambda _: ""),
    (" collapses", lambda n: count(n["collapses"])),
    (" splits", lambda n: count(n["splits"])),
    (" retracts", lambda n: count(n["retracts"])),
    ("Tables", lambda _: ""),
    (" retired", lambda n: count(n["tables_retired"])),
    (" freed", lambda n: count(n["tables_freed"])),
    (" most in limbo", lambda n: count(n["limbo_max"])),
    ("Faults", lambda _: ""),
    (" total", lambda n: count(n["faults"])),
    (" failed maps", lambda n: count(n["map_failures"])),
    ("Translations", lambda _: ""),
    (" total", lambda n: count(n["translations"])),
    (" begun again", lambda n: count(n["rewalks"])),
    (" wrong", lambda n: count(n["wrong_translations"])),
]
"""What stands in the lines of the tables, from the first to the last."""


@pytest.mark.parametrize("width", [100, 140])
def test_columns_hold_the_numbers_of_their_policy_and_kind(report: Result, width: int) -> None:
    everything = [report["policies"][policy]["kinds"][kind] for kind in KINDS for policy in POLICIES]
    shown = text(report, width).partition("How fast")[2].partition("Against epoch")[0].splitlines()
    found = [line for line in shown if re.match(r"\w| \w", line) and not line.startswith("What happened")]
    assert len(found) == len(LINES)
    for line, (label, expected) in zip(found, LINES, strict=True):
        assert line.startswith(f"{label} ")
        cells = re.findall(r"[\d.,]+(?: (?:ns|µs|ms|s|k|M)\b)?", line.removeprefix(label))
        assert cells == [cell for cell in map(expected, everything) if cell]


@pytest.mark.parametrize("width", [60, 100, 140])
def test_the_header_and_the_paths_are_there(report: Result, width: int) -> None:
    flat = " ".join(text(report, width).split())
    for fact in (
        "python3 (pid 123)",
        "4,177 pages",
        "0 huge pages",
        "85 mappings",
        "frame numbers made up",
        "addresses not relocated",
        "2 s for each policy and kind",
        "1 reader, 1 fault thread, 1 collapser",
        "2 cores",
        "with the GIL",
        "26.0 ns",
    ):
        assert fact in flat
    if width >= 100:
        for path in PATHS["mmap_lock"].values():
            assert path.split()[0] in flat


def test_ratios_are_against_epoch(report: Result) -> None:
    shown = text(report, 100)
    tail = [
        report["policies"][policy]["kinds"]["anonymous"]["latency_ns"]["p99.9"] for policy in ("mmap_lock", "epoch")
    ]
    assert re.search(
        rf"mmap_lock, anonymous: +p99\.9 of a read +{re.escape(three(tail[0] / tail[1]))} x epoch's", shown
    )
    assert not re.search(r"^epoch, ", shown, re.M)


def test_wrong_translations_are_flagged(report: Result) -> None:
    good, bad = text(report, 100), text(with_wrong(), 100)
    assert "0 wrong translations of" in good
    assert "WRONG" not in good
    assert "2 WRONG TRANSLATIONS of" in bad
    assert "vma_lock file 2" in bad
    assert "\x1b[1;32m0 wrong" in text(report, 100, colour=True)
    assert "\x1b[1;31m2 WRONG" in text(with_wrong(), 100, colour=True)


def test_wrong_translations_are_flagged_wherever_they_are_counted(report: Result) -> None:
    only_total = copy.deepcopy(report)
    only_total["wrong_translations"] = 7
    only_part = with_wrong()
    only_part["wrong_translations"] = 0
    assert "7 WRONG TRANSLATIONS" in text(only_total, 100)
    assert "2 WRONG TRANSLATIONS" in text(only_part, 100)


def test_what_did_not_happen_is_a_dash() -> None:
    lines = text(without_faults(), 100).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() == "Faults")
    for line in lines[start + 1 : start + 6]:
        assert line.split()[-9:] == ["-"] * 9
    assert "of a fault -" in "\n".join(lines)


@pytest.mark.parametrize("policies", [("epoch",), ("mmap_lock",), ("vma_lock", "mmap_lock")])
def test_any_subset_of_policies_is_shown(policies: tuple[str, ...]) -> None:
    subset = sample(policies)
    shown = text(subset, 100)
    assert "Against epoch" not in shown
    assert all(kind in shown for kind in KINDS)
    assert_balanced(race_page.render(subset))


def test_names_are_neither_markup_nor_control_sequences(report: Result) -> None:
    hostile = {**report, "command": "[bold]x[/bold]\x1b[2J\nend"}
    shown = text(hostile, 140)
    assert "[bold]x[/bold]\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "\x1b" not in shown


# The page.


class Page(HTMLParser):
    """Elements that do not close, attributes that load something, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: dict[str, str] = {}
        self.text: list[str] = []
        self._script = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        self._script = (dict(attrs).get("id") or "") if tag == "script" else ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)


def parse(html: str) -> Page:
    parser = Page()
    parser.feed(html)
    parser.close()
    return parser


def assert_balanced(html: str) -> Page:
    parsed = parse(html)
    assert not parsed.mistakes
    assert not parsed.open
    return parsed


def words(parsed: Page) -> str:
    return " ".join(" ".join(parsed.text).split())


def test_the_page_is_one_balanced_document(page: str) -> None:
    parsed = assert_balanced(page)
    assert page.startswith("<!doctype html>")
    assert ("html", "lang", "en") in parsed.attributes
    for tag in ("title", "main", "h1"):
        assert parsed.tags.count(tag) == 1
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing(page: str) -> None:
    parsed = parse(page)
    for _, name, value in parsed.attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset"):
            assert value.startswith(("#", "data:")), (name, value)
        assert "url(" not in value
    style = "".join(re.findall(r"<style>(.*?)</style>", page.partition("<body>")[0], re.S))
    assert "url(" not in style
    assert "@import" not in style
    policy = [value for tag, name, value in parsed.attributes if tag == "meta" and name == "content"]
    assert any("default-src 'none'" in value for value in policy)


def test_plotly_is_inlined_once(page: str) -> None:
    assert page.count("* plotly.js v") == 1


def test_the_raw_data_round_trips(page: str, report: Result) -> None:
    parsed = parse(page)
    assert json.loads(parsed.scripts["data"]) == report
    assert "</" not in parsed.scripts["data"]


def test_every_number_is_on_the_page(page: str, report: Result) -> None:
    shown = words(parse(page))
    for policy in POLICIES:
        for path in PATHS[policy].values():
            assert path in shown
        for kind in KINDS:
            n = report["policies"][policy]["kinds"][kind]
            for key in ("latency_ns", "fault_latency_ns"):
                assert all(duration(value) in shown for value in n[key].values())
            assert si(n["translations_per_s"]) in shown
            assert si(n["faults_per_s"]) in shown
            for key, value in n.items():
                if isinstance(value, int):
                    assert exact(value) in shown, key
    for fact in ("ptl race --seconds 6", "x86_64, 2 cores, Linux 6.18", "python3 (pid 123)", "4,177 pages"):
        assert fact in shown


def test_every_policy_has_its_own_look_everywhere(report: Result) -> None:
    figures = race_page.figures(report)
    looks: dict[str, set[tuple[str, str]]] = {policy: set() for policy in POLICIES}
    for figure in figures.values():
        for trace in figure.data:
            if trace.type == "scatter" and trace.mode == "lines":
                looks[trace.legendgroup].add((trace.line.color, trace.line.dash))
            else:
                looks[trace.legendgroup].add((trace.marker.color, ""))
    colours = {policy: {colour for colour, _ in seen} for policy, seen in looks.items()}
    dashes = {policy: {dash for _, dash in seen if dash} for policy, seen in looks.items()}
    for kind in (colours, dashes):
        assert all(len(seen) == 1 for seen in kind.values())
        assert len(set.union(*kind.values())) == len(POLICIES)


def test_tails_fall_and_stay_within_their_axes(report: Result) -> None:
    for name, figure in race_page.figures(report).items():
        if not name.startswith("tail"):
            continue
        low_x, high_x = figure.layout.xaxis.range
        high_y, low_y = max(figure.layout.yaxis.range), min(figure.layout.yaxis.range)
        for trace in figure.data:
            pairs = [(math.log10(x), math.log10(y)) for x, y in zip(trace.x, trace.y, strict=True) if x is not None]
            assert pairs == sorted(pairs, key=lambda pair: (pair[0], -pair[1]))
            assert all(low_x <= x <= high_x and low_y <= y <= high_y for x, y in pairs)
            assert all(a[1] >= b[1] for a, b in pairwise(pairs))


def test_the_tail_is_the_fraction_slower() -> None:
    xs, ys = race_page.tail([[10, 90], [20, 9], [40, 1]], start=1, most=33)
    assert list(zip(xs, ys, strict=True)) == [(1, 1.0), (10, 0.1), (20, 0.01), (33, 0.01)]
    assert race_page.tail([[10, 4]], start=1, most=8) == ([1, 8], [1.0, 1.0])
    assert race_page.tail([], start=1, most=0) == ([], [])


def test_wrong_translations_are_flagged_on_the_page(page: str) -> None:
    assert "0 wrong translations" in words(parse(page))
    bad = parse(race_page.render(with_wrong()))
    assert "2 wrong translations" in words(bad)
    assert "vma_lock, file: 2" in words(bad)
    assert any(name == "class" and "bad" in value.split() for _, name, value in bad.attributes)
    assert not any(name == "class" and "bad" in value.split() for _, name, value in parse(page).attributes)


@pytest.mark.parametrize("name", ["</script><b>", "<!--", '"><img src=x onerror=alert(1)>', "]]>&amp;'`{{ 7 * 7 }}"])
def test_hostile_names_are_text(report: Result, name: str) -> None:
    hostile = {**report, "command": name, "command_line": f"ptl race {name}", "machine": name}
    html = race_page.render(hostile)
    parsed = assert_balanced(html)
    assert json.loads(parsed.scripts["data"]) == hostile
    assert f"{name} (pid 123)" in words(parsed)
    assert f"ptl race {name}" in words(parsed)
    assert "b" not in parsed.tags
    assert "img" not in parsed.tags


def test_empty_buckets_are_fine() -> None:
    html = race_page.render(without_faults())
    shown = words(assert_balanced(html))
    assert "No faults happened" in shown
    assert "No reads happened" in shown
    figures = race_page.figures(without_faults())
    assert "tail-read-idle" in figures
    assert "tail-read-file" not in figures
    assert "tail-fault-idle" not in figures


def test_nothing_at_all_happened() -> None:
    nothing = without_faults()
    for policy in nothing["policies"].values():
        for kind in KINDS:
            policy["kinds"][kind] = copy.deepcopy(policy["kinds"]["file"])
    assert_balanced(race_page.render(nothing))
    assert "-" in text(nothing, 100)


def test_coarse_buckets_are_fine() -> None:
    assert_balanced(race_page.render(sample(steps=1)))


def test_the_page_does_not_depend_on_when_it_is_made(page: str, report: Result) -> None:
    assert race_page.render(report) == page
