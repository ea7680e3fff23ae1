"""A race in the terminal: who raced where, the numbers of each policy side by side, and what they stand for.

The policies are columns, grouped by kind of collapse; where the terminal is too narrow for all kinds next
to each other they come one below the other. Nothing depends on colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ptl.show.units import count, duration, plural, si, three

BASE: Final = "epoch"
"""The policy that the others are compared with."""

KINDS: Final[Mapping[str, str]] = {
    "idle": "no collapser",
    "file": "a short retract",
    "anonymous": "2 MiB copied",
}
"""The kinds of collapse in the order of their columns, and what happens in each."""

PATHS: Final[Mapping[str, str]] = {
    "read": "a read",
    "fault": "a fault",
    "file": "a file collapse",
    "anonymous": "an anonymous collapse",
}
"""The operations whose kernel path a result names."""

QUANTILES: Final = ("p50", "p99", "p99.9", "max")

NOTHING: Final = "-"
"""What stands where nothing was measured."""

_COLOURS: Final[Mapping[str, str]] = {"epoch": "blue", "vma_lock": "yellow", "mmap_lock": "magenta"}

Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that is timed: its name, and the keys of its count, its latencies, its buckets and its rate."""

    name: str
    events: str
    latency: str
    buckets: str
    rate: str


OPERATIONS: Final[Mapping[str, Operation]] = {
    "read": Operation("read", "translations", "latency_ns", "latency_buckets", "translations_per_s"),
    "arrival": Operation("read due now", "translations", "arrival_latency_ns", "latency_buckets", "translations_per_s"),
    "fault": Operation("fault", "faults", "fault_latency_ns", "fault_latency_buckets", "faults_per_s"),
}
"""What is timed, in the order of the tables. A read is looked at twice: see `ptl.race.arrival_quantiles`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of numbers: its name under its heading, its name alone, and how to write it."""

    label: str
    full: str
    show: Callable[[Numbers], str]
    key: str = ""
    """The key of a count, for those who have room for all its digits."""
    alarm: bool = False
    """Whether anything but zero is a defect."""


@dataclass(frozen=True, slots=True)
class Section:
    """Lines of numbers under one heading."""

    heading: str
    rows: tuple[Row, ...]


def latency(numbers: Numbers, what: str, quantile: str) -> int | float | None:
    """A quantile of how long an operation took, or None where there were none."""
    operation = OPERATIONS[what]
    return numbers[operation.latency][quantile] if numbers[operation.events] else None


def _latencies(what: str) -> tuple[Row, ...]:
    """A line for each quantile."""

    def line(quantile: str) -> Row:
        def show(numbers: Numbers) -> str:
            value = latency(numbers, what, quantile)
            return NOTHING if value is None else duration(value)

        return Row(quantile, f"{quantile} of a {OPERATIONS[what].name}", show)

    return tuple(line(quantile) for quantile in QUANTILES)


def _rate(key: str, events: str) -> Row:
    """A line of events per second."""
    return Row("per second", f"{events} per second", lambda n: si(n[key]) if n[key] else NOTHING)


def _count(key: str, label: str, full: str, alarm: bool = False) -> Row:
    """A line of counts."""
    return Row(label, full, lambda n: count(n[key]), key, alarm)


SPEED: Final = (
    Section("Reads", (_rate("translations_per_s", "translations"), *_latencies("read"))),
    Section("Reads due now", _latencies("arrival")),
    Section("Faults", (_rate("faults_per_s", "faults"), *_latencies("fault"))),
)

COUNTS: Final = (
    Section(
        "Collapser",
        (
            _count("collapses", "collapses", "collapses"),
            _count("splits", "splits", "splits"),
            _count("retracts", "retracts", "retracts"),
        ),
    ),
    Section(
        "Tables",
        (
            _count("tables_retired", "retired", "tables retired"),
            _count("tables_freed", "freed", "tables freed"),
            _count("limbo_max", "most in limbo", "most tables in limbo"),
        ),
    ),
    Section(
        "Faults",
        (
            _count("faults", "total", "faults"),
            _count("map_failures", "failed maps", "maps that failed"),
        ),
    ),
    Section(
        "Translations",
        (
            _count("translations", "total", "translations"),
            _count("rewalks", "begun again", "walks begun again"),
            _count("wrong_translations", "wrong", "wrong translations", alarm=True),
        ),
    ),
)

_LABEL: Final = max(len(row.label) for section in (*SPEED, *COUNTS) for row in section.rows) + 1
"""The width of the labels, one for all tables so that their columns line up."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times the base policy's latency another policy's is; None where either is unknown."""

    kind: str
    policy: str
    what: str
    ratio: float | None


def ratios(result: Mapping[str, Any], quantile: str = "p99.9") -> list[Ratio]:
    """The tail of every policy against the base policy's, per kind and operation."""
    policies = result["policies"]
    if BASE not in policies:
        return []
    found = []
    for kind in kinds(result):
        for policy in policies:
            if policy == BASE:
                continue
            for what in OPERATIONS:
                base, other = (latency(policies[p]["kinds"][kind], what, quantile) for p in (BASE, policy))
                found.append(Ratio(kind, policy, what, other / base if base and other is not None else None))
    return found


def kinds(result: Mapping[str, Any]) -> list[str]:
    """The kinds of collapse in this result, in the order of their columns."""
    have = [policy["kinds"] for policy in result["policies"].values()]
    return [kind for kind in KINDS if all(kind in k for k in have)]


def wrong(result: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Where translations went wrong: policy, kind and how many."""
    return [
        (name, kind, policy["kinds"][kind]["wrong_translations"])
        for name, policy in result["policies"].items()
        for kind in kinds(result)
        if policy["kinds"][kind]["wrong_translations"]
    ]


def wrong_total(result: Mapping[str, Any]) -> int:
    """How many translations went wrong, by the larger of the two ways to count them."""
    return max(int(result["wrong_translations"]), sum(number for _, _, number in wrong(result)))


def translations(result: Mapping[str, Any]) -> int:
    """How many translations there were in the whole race."""
    return sum(p["kinds"][kind]["translations"] for p in result["policies"].values() for kind in kinds(result))


def printable(text: object) -> str:
    """The text without control characters, for a process may call itself anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What was raced, how and where, a line each."""
    threads = (plural(result[key], noun) for key, noun in _THREADS.items())
    lock = "with the GIL" if result["gil"] else "without a GIL"
    lines = {
        "process": f"{result['command']} (pid {result['pid']}): {plural(result['pages'], 'page')}, "
        f"{plural(result['huge_pages'], 'huge page')}, {plural(result['mappings'], 'mapping')}",
        "table": f"{result['arch']}; frame numbers {result['frame_numbers']}; "
        f"addresses {'relocated' if result['relocated'] else 'not relocated'}",
        "race": f"{result['seconds']:g} s for each policy and kind; {', '.join(threads)}; "
        f"{plural(result['regions'], 'region')}",
        "machine": f"{result['machine']}; Python {result['python']} {lock}; ptl {result['ptl']}",
        "clock": f"{duration(result['clock_ns'])} to read, included in every latency",
    }
    return {key: printable(line) for key, line in lines.items()}


_THREADS: Final[Mapping[str, str]] = {"readers": "reader", "faulters": "fault thread", "collapsers": "collapser"}


def render(result: Mapping[str, Any]) -> RenderableType:
    """The whole race as one renderable for `Console.print`."""
    parts: list[RenderableType] = [_header(result)]
    parts += _titled("How fast", _Numbers(result, SPEED))
    parts += _titled("What happened", _Numbers(result, COUNTS))
    lines = list(_comparison(result))
    if lines:
        parts += _titled(f"Against {BASE}", *lines)
    parts += _titled("What the numbers stand for", _paths(result))
    return Group(*parts)


def _titled(title: str, *parts: RenderableType) -> list[RenderableType]:
    """Parts below a title."""
    return [Text(), Text(title, style="bold underline"), *parts]


def _header(result: Mapping[str, Any]) -> Table:
    """What was raced, how and where, and whether every answer was right."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in facts(result).items():
        grid.add_row(name, Text(line))
    grid.add_row("answers", _verdict(result))
    return grid


def _verdict(result: Mapping[str, Any]) -> Text:
    """One line that says whether every translation was right."""
    total = translations(result)
    bad = wrong_total(result)
    if not bad:
        return Text(f"0 wrong translations of {count(total)}", style="bold green")
    where = ", ".join(f"{printable(policy)} {kind} {count(number)}" for policy, kind, number in wrong(result))
    return Text(f"{count(bad)} WRONG TRANSLATIONS of {count(total)}{': ' if where else ''}{where}", style="bold red")


def _comparison(result: Mapping[str, Any]) -> Iterator[Text]:
    """A line for each policy and kind: how long its tail is against the base policy's."""
    tail: dict[tuple[str, str], dict[str, str]] = {}
    for r in ratios(result):
        words = tail.setdefault((r.policy, r.kind), {})
        words[r.what] = NOTHING if r.ratio is None else f"{three(r.ratio)} x {BASE}'s"
    heads = {key: f"{printable(key[0])}, {key[1]}:" for key in tail}
    width = max((len(head) for head in heads.values()), default=0)
    reads = max((len(words["read"]) for words in tail.values()), default=0)
    for key, words in tail.items():
        line = Text.assemble(
            f"{heads[key]:<{width}} p99.9 of a read ",
            (f"{words['read']:>{reads}}", "bold"),
            f"; of one due now {words['arrival']}; of a fault {words['fault']}",
        )
        yield line


def _paths(result: Mapping[str, Any]) -> Table:
    """Which path through a kernel each number stands for."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("policy", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("kernel path", overflow="fold")
    for name, policy in result["policies"].items():
        label = Text(printable(name), style=_colour(name))
        for what, path in policy["kernel_path"].items():
            table.add_row(label, Text(printable(PATHS.get(what, what))), Text(printable(path)))
            label = Text()
    return table


def _colour(policy: str) -> str:
    """The one colour of a policy."""
    return f"bold {_COLOURS.get(policy, 'cyan')}"


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Sections of numbers: kinds next to each other where they fit, else one below the other."""

    result: Mapping[str, Any]
    sections: Sequence[Section]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The widest arrangement that fits."""
        everything = kinds(self.result)
        for gap in (3, 2, 1, 0):
            block = self._block(everything, gap)
            if Measurement.get(console, options.update(width=1000), block).maximum <= options.max_width:
                yield block
                return
        for kind in everything:
            yield Padding(self._block([kind], 1), (0, 0, 1 if kind != everything[-1] else 0, 0))

    def _block(self, kinds: Sequence[str], gap: int) -> Table:
        """The labels and, to their right, one table for each kind."""
        grid = Table.grid(padding=(0, gap + 2, 0, 0))
        for _ in range(len(kinds) + 1):
            grid.add_column(no_wrap=True)
        grid.add_row(self._labels(), *(self._numbers(kind, gap) for kind in kinds))
        return grid

    def _labels(self) -> Table:
        """The names of the lines."""
        table = _plain(" ", 0)
        table.add_column("", no_wrap=True, min_width=_LABEL)
        for section in self.sections:
            table.add_row(Text(section.heading, style="bold"))
            for row in section.rows:
                table.add_row(Text(f" {row.label}"))
        return table

    def _numbers(self, kind: str, gap: int) -> Table:
        """One kind: a column for each policy."""
        table = _plain(f"{kind}: {KINDS[kind]}", gap)
        policies = self.result["policies"]
        for name in policies:
            table.add_column(Text(printable(name), style=_colour(name)), justify="right", no_wrap=True, min_width=7)
        for section in self.sections:
            table.add_row()
            for row in section.rows:
                table.add_row(*(_cell(row, policy["kinds"][kind]) for policy in policies.values()))
        return table


def _plain(title: str, gap: int) -> Table:
    """An empty table with a title on its left and a rule below its heads."""
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        min_width=len(title),
    )


def _cell(row: Row, numbers: Numbers) -> Text:
    """One number; what means nothing recedes, and what must not be stands out."""
    shown = row.show(numbers)
    if row.alarm:
        return Text(shown, style="green" if shown == "0" else "bold red reverse")
    return Text(shown, style="dim" if shown in ("0", NOTHING) else "")
