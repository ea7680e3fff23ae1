"""Cost against size: the same look-ups from a few pages to millions."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from ptl import _bench
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Side, agree
from ptl.bench.native import NativeMap
from ptl.bench.pages import PAGE_SHIFT
from ptl.bench.peers import MAPS, present
from ptl.bench.settings import Size

GROUP = "cost against size"
LOOKUPS = 1 << 14
SLOW = "std::map, shared_mutex", "TBB skip list"
"""Shown by the table of natively translated addresses already."""


def contests(size: Size) -> Iterator[tuple[int, Contest]]:
    """For each number of pages, everybody."""
    for count in size.curve_pages:
        yield count, _contest(count)


def _contest(count: int) -> Contest:
    pages, frames = subject.spaced(count), subject.frames(count)
    table = subject.dense_table(count)
    shuffled = subject.addresses(pages, "random", LOOKUPS)
    wanted = array("Q", shuffled * (LOOKUPS // len(shuffled)))
    answers: dict[str, array[int] | list[int]] = {}

    def room(name: str) -> array[int]:
        out = subject.empty_out(len(wanted))
        answers[name] = out
        return out

    many, one = room("ptl, one call"), room("ptl, one walk each")
    mapping = dict(zip((page >> PAGE_SHIFT for page in pages), frames, strict=True))
    listed = list(wanted)

    def look_up() -> None:
        answers["dict"] = [mapping[va >> 12] | va & 4095 for va in listed]

    def native(name: str, peer: NativeMap) -> Side:
        out = room(name)
        peer.insert(pages, frames)
        return Side(name, lambda: peer.find(wanted, out), len(wanted))

    return Contest(
        key=f"curve-{count}",
        group=GROUP,
        title=f"translate random addresses of {count:,} pages in a row",
        unit="ns an address",
        ours=[
            Side("ptl, one call", lambda: table.translate(wanted, many), len(wanted)),
            Side("ptl, one walk each", lambda: _bench.walk(table, wanted, one), len(wanted)),
        ],
        peers=[
            Side("dict", look_up, len(wanted)),
            *(native(name, NativeMap(program, count)) for name, program in present(MAPS) if name not in SLOW),
        ],
        check=lambda: agree(answers),
    )
