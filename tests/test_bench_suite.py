"""The promise: `ptl bench` measures what it says, everybody gives the same answers, and whoever is missing is named.

Nothing here looks at how fast anything is.
"""

from __future__ import annotations

import io
import json
import math
from array import array
from html.parser import HTMLParser
from typing import Any

import pytest

import ptl
from helpers import python
from ptl import _bench, bench
from ptl.bench import native, peers
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Disagreement, Effort, Finding, Quartiles, Side, Target, agree
from ptl.bench.native import NativeMap
from ptl.bench.settings import Size

TINY = Size(
    effort=Effort(0, 2, 2),
    pages=700,
    dense_pages=600,
    native_lookups=300,
    range_bytes=4 << 20,
    kernel_bytes=1 << 20,
    curve_pages=(64, 512),
    race_seconds=0.02,
)

ABSENT = dict(peers.missing())
PRESENT_MAPS = sorted(name for name in {**peers.MAPS, "bare loads": peers.BARE} if name not in ABSENT)


# -- ratios -----------------------------------------------------------------------------------------------------------


def finding(ours: list[float], peer: list[float], *targets: Target) -> Finding:
    return Finding("key", "group", "title", "ns", {"ours": ours, "peer": peer}, ["ours"], targets)


def test_a_ratio_is_of_what_was_measured_in_one_round() -> None:
    """The machine was three times slower in the second round: no ratio shows it."""
    (line,) = finding([10, 30, 10], [50, 150, 50], Target("ours", "peer", "at least", 4)).comparisons()
    assert line.ratio == Quartiles(5, 5, 5)
    assert line.is_met is True
    assert line.missed_by <= 1


@pytest.mark.parametrize(
    ("bound", "times", "is_met", "missed_by"),
    [
        ("at most", 2.0, True, 1.0),
        ("at most", 1.0, False, 2.0),
        ("at least", 0.5, True, 1.0),
        ("at least", 4, False, 8),
    ],
)
def test_a_target(bound: Any, times: float, is_met: bool, missed_by: float) -> None:
    (line,) = finding([20.0] * 3, [10.0] * 3, Target("ours", "peer", bound, times)).comparisons()
    assert (line.is_met, line.missed_by) == (is_met, missed_by)
    assert line.ratio.median == (2.0 if bound == "at most" else 0.5)


def test_a_peer_without_a_target_is_compared_too() -> None:
    (line,) = finding([1.0], [3.0]).comparisons()
    assert (line.peer, line.ratio.median, line.is_met) == ("peer", 3.0, None)


def test_a_target_of_who_is_missing_is_left_out() -> None:
    lines = finding([1.0], [3.0], Target("ours", "somebody else", "at least", 2)).comparisons()
    assert [line.peer for line in lines] == ["peer"]


def test_sides_take_turns_and_nobody_is_always_first() -> None:
    calls: list[str] = []
    sides = [Side(name, lambda name=name: calls.append(name), 1, lambda: calls.append("-")) for name in "abc"]
    contest = Contest("key", "group", "title", "ns", sides[:1], sides[1:])
    found = contest.measure(Effort(0, 4, 4))
    assert "".join(calls) == "-a-b-c" + "-a-b-c" + "-b-c-a" + "-c-a-b" + "-a-b-c"
    assert {name: len(samples) for name, samples in found.costs.items()} == {"a": 4, "b": 4, "c": 4}


def test_who_disagrees_is_not_measured() -> None:
    runs: list[str] = []

    def check() -> None:
        agree({"ours": [1, 2], "peer": [1, 3]})

    side = Side("ours", lambda: runs.append("ours"), 1)
    with pytest.raises(Disagreement, match="answer 1 is 0x2 by ours and 0x3 by peer"):
        Contest("key", "group", "title", "ns", [side], [], check=check).measure(Effort(0))
    assert runs == ["ours"]


# -- peers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({**peers.MAPS, "bare loads": peers.BARE}))
def test_a_native_peer_answers_as_ptl_does(name: str) -> None:
    if name in ABSENT:
        pytest.skip(f"{name}: {ABSENT[name]}")
    pages, frames = subject.spaced(2000, 3), subject.frames(2000)
    table = subject.table_of(pages, frames)
    wanted = subject.addresses(pages, "random")
    peer = NativeMap({**peers.MAPS, "bare loads": peers.BARE}[name], len(pages))
    peer.insert(pages, frames)
    for changed in False, True:
        if changed:
            peer.protect(pages)
        out, ours = subject.empty_out(len(wanted)), subject.empty_out(len(wanted))
        peer.find(wanted, out)
        _bench.walk(table, wanted, ours)
        assert out == ours == table.translate(wanted)
    if name != "bare loads":
        out = subject.empty_out(1)
        peer.find(array("Q", [pages[-1] + 4096]), out)
        assert out[0] == ptl.UNMAPPED
    peer.close()


def test_our_own_loops_do_what_they_say() -> None:
    pages, frames = subject.spaced(600), subject.frames(600)
    table = subject.table_of(pages, frames)
    wanted = subject.addresses(pages, "random")
    expected = [table.translate(va) for va in wanted]
    for loop in _bench.walk, _bench.translate:
        out = subject.empty_out(len(wanted))
        loop(table, wanted, out)
        assert list(out) == expected
    for chain in _bench.walk_chain, _bench.translate_chain:
        out = subject.empty_out(len(wanted))
        chain(table, wanted, out, 0)
        assert list(out) == expected
    _bench.protect_pages(table, pages, 0b01)
    assert {table.lookup(va).flags for va in pages} == {"r"}
    _bench.collapse_and_split(table, pages[0], 3)
    assert table.stats()["splits"] == 3
    _bench.unmap_pages(table, pages)
    assert set(table.translate(wanted)) == {ptl.UNMAPPED}
    _bench.faults(table, pages[:8], frames[:8], 2)
    assert table.lookup(pages[0]) is None
    with pytest.raises(_bench.Failed):
        _bench.map_pages(table, array("Q", [1]), array("Q", [0]))
    assert _bench.sections(table, array("Q", [2]), 10) == 20
    assert _bench.sections_until(table, array("Q", [2]), array("I", [1])) == 0
    table.check()


def test_a_shuffle_is_a_permutation_and_the_same_each_time() -> None:
    numbers, again = array("Q", range(1000)), array("Q", range(1000))
    _bench.shuffle(numbers, 1)
    _bench.shuffle(again, 1)
    assert numbers == again
    assert list(numbers) != sorted(numbers) == list(range(1000))


def test_orders_ask_for_the_same_pages() -> None:
    pages = subject.spaced(1000, 7)
    asked = {order: subject.addresses(pages, order) for order in subject.ORDERS}
    for vas in asked.values():
        assert sorted(va >> 12 for va in vas) == [page >> 12 for page in pages]
    assert len({tuple(vas) for vas in asked.values()}) == 3


def test_who_is_missing_is_named(tmp_path: Any) -> None:
    """Without a compiler, and without the Python peers, the suite measures what is left."""
    program = (
        "import json, sys\n"
        f"for name in {[name.split('.')[0] for name in peers.MODULES]}: sys.modules[name] = None\n"
        "from ptl import bench\nimport test_bench_suite as t\n"
        "r = bench.run(t.TINY, ['batch', 'single', 'ranges', 'iteration', 'reclamation', 'scaling', 'curves'])\n"
        "print(json.dumps({'missing': [m['name'] for m in r['missing']],\n"
        "    'sides': sorted({n for f in r['findings'] for n in f['costs']})}))"
    )
    environment = {"CC": "no-such-compiler", "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    result = json.loads(python("-c", program, **environment).stdout)
    everybody = [
        *peers.MODULES,
        *peers.MAPS,
        *peers.SECTIONS,
        "bare loads",
        "the machine's limits",
        "callgrind's marks",
    ]
    assert sorted(result["missing"]) == sorted(everybody)
    assert {"ptl", "dict"} <= set(result["sides"])
    assert not {*peers.MAPS, "numpy.take", "memset"} & set(result["sides"])
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(native.Missing, match="install libnothing-dev"):
        native.load(native.Program("judy.c", ("no-such-library",), "libnothing-dev"))


# -- the whole --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A run of everything but callgrind, as small as it gets."""
    return bench.run(TINY, [part for part in bench.PARTS if part != "instructions"])


def test_every_number_is_one(result: dict[str, Any]) -> None:
    for each in (*result["findings"], *result["curves"]):
        rounds = {len(samples) for samples in each["samples"].values()}
        assert len(rounds) == 1, each["key"]
        assert each["ours"][0] in each["costs"], each["key"]
        assert len(each["costs"]) > 1 or ABSENT, each["key"]
        for name, samples in each["samples"].items():
            assert all(math.isfinite(cost) and cost >= 0 for cost in samples), (each["key"], name)
            cost = each["costs"][name]
            assert min(samples) <= cost["low"] <= cost["median"] <= cost["high"] <= max(samples)
        for line in each["comparisons"]:
            assert line["ratio"]["low"] <= line["ratio"]["median"] <= line["ratio"]["high"]
            assert (line["is_met"] is None) == (line["target"] is None)


def test_every_work_has_a_name_of_its_own(result: dict[str, Any]) -> None:
    keys = [each["key"] for each in (*result["findings"], *result["curves"])]
    assert len(set(keys)) == len(keys)
    assert len({each["title"] for each in result["findings"]}) == len(result["findings"])


def test_memory_is_what_the_tables_have(result: dict[str, Any]) -> None:
    dense = next(each for each in result["findings"] if each["key"] == "memory-dense")
    table = subject.dense_table(TINY.pages)
    assert dense["costs"]["ptl, tables"]["median"] == table.nbytes / TINY.pages
    assert dense["costs"]["the hardware's own tables"] == dense["costs"]["ptl, tables"]


def test_the_result_is_json(result: dict[str, Any]) -> None:
    again = json.loads(json.dumps(result))
    for key in again.keys() - {"races"}:
        assert again[key] == result[key]
    assert len(again["races"]) == len(result["races"]) > 0


def test_the_tables_show_every_comparison(result: dict[str, Any]) -> None:
    from rich.console import Console

    from ptl.show import bench_table

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(bench_table.render(result))
    console.file.close()
    text = console.export_text()
    for each in result["findings"]:
        assert each["title"] in " ".join(text.split())
    assert text.count("missed ") == sum(
        line["is_met"] is False for each in result["findings"] for line in each["comparisons"]
    )
    assert bench_table.summary(result) in text


class Page(HTMLParser):
    """The elements by id, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_everything(result: dict[str, Any]) -> None:
    from ptl.show import bench_page

    instructions = {"walk": 12.5}
    html = bench_page.render({**result, "instructions": instructions, "command_line": "ptl bench <&>"})
    page = Page(html)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    drawn = {f"cost-{each['key']}" for each in result["findings"]} | {"curve"}
    assert drawn <= set(page.ids)
    data = html.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["findings"] == result["findings"]
    assert "src=" not in html.split("<body>")[1].split("plotly")[0]


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no parts walk"):
        bench.run(TINY, ["walk"])


def test_the_command(tmp_path: Any) -> None:
    page = tmp_path / "bench.html"
    done = python("-m", "ptl", "bench", "--quick", "--part", "reclamation", "--json", "--html", str(page))
    assert [each["group"] for each in json.loads(done.stdout)["findings"]] == ["sections and grace periods"] * 2
    assert "sections and grace periods" in page.read_text(encoding="utf-8")


def test_instructions_are_counted() -> None:
    from ptl.bench import instructions

    try:
        counts = instructions.count()
    except native.Missing as reason:
        pytest.skip(str(reason))
    assert set(counts) == set(instructions.operations_of())
    assert all(1 < number < 1e6 for number in counts.values())
    assert counts["walk, pinned once"] < counts["translate, pinned for each"]
