"""Many addresses in one call, from Python and natively."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import suppress

from ptl import _bench
from ptl._core import UNMAPPED
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Side, Target, agree
from ptl.bench.native import Missing, NativeMap
from ptl.bench.pages import ORDERS, PAGE, PAGE_SHIFT, VA, Order
from ptl.bench.peers import BARE, MAPS, module, present
from ptl.bench.settings import Size

GROUP = "many addresses in one call"
OURS = "ptl"
STRIDE = 7


def contests(size: Size) -> Iterator[Contest]:
    """From Python in three orders; then natively."""
    for order in ORDERS:
        yield _from_python(size, order)
    yield _natively(size)


def _from_python(size: Size, order: Order) -> Contest:
    """Every seventh page of a range, so that each eighth of a cache line holds one entry that is wanted, or none."""
    pages, frames = subject.spaced(size.pages, STRIDE), subject.frames(size.pages)
    table = subject.table_of(pages, frames)
    wanted = subject.addresses(pages, order)
    out = subject.empty_out(len(wanted))
    answers: dict[str, array[int] | list[int]] = {OURS: out}

    def ours() -> None:
        table.translate(wanted, out)

    peers = [*_of_python(pages, frames, wanted, answers), *_of_numpy(pages, frames, wanted, answers)]
    random = order == "random"
    targets = [
        Target(OURS, "dict", "at least", 30),
        Target(OURS, "cereggii.AtomicDict", "at least", 30),
        Target(OURS, "numpy.searchsorted", "at least", 12),
    ]
    return Contest(
        key=f"batch-python-{order}",
        group=GROUP,
        title=f"translate {len(wanted):,} addresses from Python, {order}: every 7th page, "
        f"{table.nbytes >> 20} MiB of tables",
        unit="ns an address",
        ours=[Side(OURS, ours, len(wanted))],
        peers=peers,
        targets=[
            *(targets if random else []),
            Target(OURS, "numpy.take", "at most", 1.2 if random else 1.1),
        ],
        note="numpy.take is the limit: one access to a flat array as long as the range, with its indices at hand.",
        check=lambda: agree(answers),
    )


def _of_python(
    pages: array[int], frames: array[int], wanted: array[int], answers: dict[str, array[int] | list[int]]
) -> Iterator[Side]:
    numbers = [page >> PAGE_SHIFT for page in pages]
    listed = list(wanted)

    def side(name: str, mapping: dict[int, int]) -> Side:
        def run() -> None:
            answers[name] = [mapping[va >> 12] | va & 4095 for va in listed]

        return Side(name, run, len(listed))

    yield side("dict", dict(zip(numbers, frames, strict=True)))
    with suppress(Missing):
        yield side("BTrees.QQBTree", module("BTrees.QQBTree").QQBTree(list(zip(numbers, frames, strict=True))))
    with suppress(Missing):
        yield side("cereggii.AtomicDict", module("cereggii").AtomicDict(dict(zip(numbers, frames, strict=True))))


def _of_numpy(
    pages: array[int], frames: array[int], wanted: array[int], answers: dict[str, array[int] | list[int]]
) -> Iterator[Side]:
    try:
        numpy = module("numpy")
    except Missing:
        return
    keys = numpy.frombuffer(pages, numpy.uint64) >> PAGE_SHIFT
    values = numpy.frombuffer(frames, numpy.uint64)
    addresses = numpy.frombuffer(wanted, numpy.uint64)
    shift, offset, none = numpy.uint64(PAGE_SHIFT), numpy.uint64(PAGE - 1), numpy.uint64(UNMAPPED)

    def search() -> None:
        number = addresses >> shift
        at = numpy.searchsorted(keys, number)
        answers["numpy.searchsorted"] = numpy.where(keys[at] == number, values[at] | addresses & offset, none)

    flat = numpy.zeros(len(pages) * STRIDE, numpy.uint64)
    flat[::STRIDE] = values
    indices = ((addresses - numpy.uint64(VA)) >> shift).astype(numpy.intp)
    taken = numpy.zeros(len(wanted), numpy.uint64)

    def take() -> None:
        numpy.take(flat, indices, out=taken, mode="clip")

    yield Side("numpy.searchsorted", search, len(wanted))
    yield Side("numpy.take", take, len(wanted))


def _natively(size: Size) -> Contest:
    """Pages in a row, as many as fill 32 MiB of tables; a sample of them is looked up."""
    pages, frames = subject.spaced(size.dense_pages), subject.frames(size.dense_pages)
    table = subject.dense_table(size.dense_pages)
    wanted = subject.addresses(pages, "random", size.native_lookups)
    answers: dict[str, array[int]] = {}

    def room(name: str) -> array[int]:
        return answers.setdefault(name, subject.empty_out(len(wanted)))

    batch, scalar = "ptl, one call", "ptl, one walk each"
    batched, walked = room(batch), room(scalar)

    def translate() -> None:
        table.translate(wanted, batched)

    def walk() -> None:
        _bench.walk(table, wanted, walked)

    def peer(name: str, native: NativeMap) -> Side:
        out = room(name)
        native.insert(pages, frames)
        return Side(name, lambda: native.find(wanted, out), len(wanted))

    faster = {"ck_ht": (18, 4), "JudyL": (22, 5), "TBB hash map": (16, 3.5)}
    programs = dict(present(MAPS | {"bare loads": BARE}))
    return Contest(
        key="batch-native",
        group=GROUP,
        title=f"translate {len(wanted):,} random addresses natively, of {size.dense_pages:,} pages in a row",
        unit="ns an address",
        ours=[Side(batch, translate, len(wanted)), Side(scalar, walk, len(wanted))],
        peers=[peer(name, NativeMap(program, len(pages))) for name, program in programs.items()],
        targets=[
            *(Target(batch, name, "at least", times) for name, (times, _) in faster.items()),
            *(Target(scalar, name, "at least", times) for name, (_, times) in faster.items()),
            Target(scalar, "rculfhash", "at least", 11),
            Target(scalar, "std::map, shared_mutex", "at least", 40),
        ],
        note="Each peer is given its final size before it is filled, in ascending order. Bare loads check nothing.",
        check=lambda: agree(answers),
    )
