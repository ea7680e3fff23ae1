"""One address, or one page, in each call."""

from __future__ import annotations

import ctypes
import warnings
from array import array
from collections.abc import Callable, Iterator

from ptl import _bench
from ptl._core import Frames, PageTable
from ptl.bench import pages as subject
from ptl.bench.measure import Contest, Side, Target, agree
from ptl.bench.native import Missing, NativeMap, Program, address_of
from ptl.bench.pages import PAGE, PAGE_SHIFT, VA
from ptl.bench.peers import BARE, MAPS, module, present
from ptl.bench.settings import Size

WALKS = "one walk"
CHANGES = "one page in each call"
HOT_PAGES = 512
HOT_LOOKUPS = 1 << 16
CALLS = 1000
"""How often what is too short to be timed alone is repeated."""
CHANGED_PAGES = 1 << 15
READ, READ_WRITE = 0b01, 0b11


def contests(size: Size) -> Iterator[Contest]:
    """Walks, then single changes."""
    yield _hot(chained=True)
    yield _hot(chained=False)
    yield _from_python()
    yield _changes()


def _hot(*, chained: bool) -> Contest:
    """The tables of 512 pages, which stay in the first-level cache: what a walk costs when memory costs nothing."""
    pages, frames = subject.spaced(HOT_PAGES), subject.frames(HOT_PAGES)
    table = subject.table_of(pages, frames)
    wanted = array("Q", subject.addresses(pages, "random") * (HOT_LOOKUPS // HOT_PAGES))
    answers = {name: subject.empty_out(len(wanted)) for name in ("pinned once", "pinned for each", "four bare loads")}
    once, each, bare = answers.values()
    if chained:
        ours = [
            Side("pinned once", lambda: _bench.walk_chain(table, wanted, once, 0), len(wanted)),
            Side("pinned for each", lambda: _bench.translate_chain(table, wanted, each, 0), len(wanted)),
        ]
    else:
        ours = [
            Side("pinned once", lambda: _bench.walk(table, wanted, once), len(wanted)),
            Side("pinned for each", lambda: _bench.translate(table, wanted, each), len(wanted)),
        ]
    peers = []
    for name, program in present({"four bare loads": BARE}):
        native = NativeMap(program, len(pages))
        native.insert(pages, frames)
        peers.append(Side(name, _bare(native, wanted, bare, chained=chained), len(wanted)))
    return Contest(
        key="walk-hot-chain" if chained else "walk-hot",
        group=WALKS,
        title="walk, everything in the first-level cache, natively; "
        + ("each address waits for the answer before it" if chained else "as many at once as the core can"),
        unit="ns a walk",
        ours=ours,
        peers=peers,
        targets=[
            Target("pinned once", "four bare loads", "at most", 1.3 if chained else None),
            Target("pinned for each", "four bare loads", "at most", 1.6 if chained else None),
        ],
        note="Bare loads follow pointers: no format, no check of what an entry is, no section.",
        check=lambda: agree(answers) if peers else None,
    )


def _bare(native: NativeMap, wanted: array[int], out: array[int], *, chained: bool) -> Callable[[], None]:
    if not chained:
        return lambda: native.find(wanted, out)
    chain = native.calls.bare_chain
    chain.restype = None
    count, nothing = ctypes.c_uint64(len(wanted)), ctypes.c_uint64(0)
    return lambda: chain(native.map, address_of(wanted), address_of(out), count, nothing)


# -- one translate from Python ----------------------------------------------------------------------------------------


def _from_python() -> Contest:
    """A thousand random addresses of 2048 pages, a call each."""
    count = 2048
    memory = Frames(2 * count * PAGE)  # volatility3 wants the pages inside
    table = PageTable("x86_64", frames=memory)
    table.map(VA, memory.base, count * PAGE, page_size=PAGE)
    some = list(subject.addresses(subject.spaced(count), "random", CALLS))
    answers: dict[str, list[int]] = {"translate": [table.translate(va) for va in some]}
    ours = [Side("translate", _calls(table.translate, some), CALLS)]
    numbers = [va >> PAGE_SHIFT for va in some]
    pages = dict(
        zip(range(VA // PAGE, VA // PAGE + count), range(memory.base, memory.base + count * PAGE, PAGE), strict=True)
    )
    answers["dict"] = [pages[number] | va & PAGE - 1 for number, va in zip(numbers, some, strict=True)]
    peers = [Side("dict", _items(pages, numbers), CALLS)]
    makers: tuple[tuple[str, Callable[[], Callable[[], None]]], ...] = (
        ("cereggii.AtomicDict", lambda: _items(module("cereggii").AtomicDict(pages), numbers)),
        ("volatility3", lambda: _volatility(table, memory, some, answers)),
        ("Unicorn", lambda: _unicorn(table, memory, some, answers)),
    )
    for name, make in makers:
        try:
            peers.append(Side(name, make(), CALLS))
        except Missing:
            continue
    return Contest(
        key="translate-python",
        group=WALKS,
        title=f"translate one address in each call from Python: {CALLS:,} of {count:,} pages",
        unit="ns a call",
        ours=ours,
        peers=peers,
        targets=[
            Target("translate", "dict", "at most", 2.5),
            Target("translate", "cereggii.AtomicDict", "at least", 1),
            Target("translate", "volatility3", "at least", 50),
            Target("translate", "Unicorn", "at least"),
        ],
        note="dict and AtomicDict are given page numbers, and give no offset back. Every line includes the loop.",
        check=lambda: agree(answers),
    )


def _calls(call: Callable[[int], object], arguments: list[int]) -> Callable[[], None]:
    def run() -> None:
        for argument in arguments:
            call(argument)

    return run


def _items(mapping: dict[int, int], keys: list[int]) -> Callable[[], None]:
    def run() -> None:
        for key in keys:
            mapping[key]

    return run


def _volatility(table: PageTable, memory: Frames, some: list[int], answers: dict[str, list[int]]) -> Callable[[], None]:
    """The layer of 64-bit Intel tables over a copy of the bytes: it takes nothing else."""
    intel, physical = module("volatility3.framework.layers.intel"), module("volatility3.framework.layers.physical")
    context = module("volatility3.framework.contexts").Context()
    context.layers.add_layer(physical.BufferDataLayer(context, "memory", "memory", bytes(memory)))
    context.config["tables.memory_layer"] = "memory"
    context.config["tables.page_map_offset"] = table.root
    layer = intel.Intel32e(context, "tables", "tables")
    answers["volatility3"] = [layer.translate(va)[0] for va in some]
    return _calls(layer.translate, some)


def _unicorn(table: PageTable, memory: Frames, some: list[int], answers: dict[str, list[int]]) -> Callable[[], None]:
    """The emulated MMU over the same bytes; Python's package does not wrap the call, so it goes through ctypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some versions look for their library with pkg_resources
        unicorn, constants = module("unicorn"), module("unicorn.x86_const")
        library = module("unicorn.unicorn_py3.unicorn").uclib
    if not hasattr(library, "uc_vmem_translate"):
        raise Missing(f"Unicorn {unicorn.__version__} cannot translate; 2.1.4 can")
    cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    cpu.ctl_set_tcg_buffer_size(16 << 20)
    cpu.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
    cpu.mem_map_ptr(memory.base, memory.size, unicorn.UC_PROT_ALL, ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    efer, no_execute = 0xC000_0080, 1 << 11
    cpu.msr_write(efer, cpu.msr_read(efer) | no_execute)
    cpu.reg_write(constants.UC_X86_REG_CR3, table.root)
    cpu.reg_write(constants.UC_X86_REG_CR4, 1 << 5)  # PAE
    cpu.reg_write(constants.UC_X86_REG_CR0, 1 << 31 | 1 << 16 | 1)  # PG, WP, PE
    answer = ctypes.c_uint64()
    engine, place = cpu._uch, ctypes.byref(answer)
    translate = library.uc_vmem_translate
    read = 1

    def ask(va: int) -> int:
        if translate(engine, ctypes.c_uint64(va), read, place):
            raise LookupError(f"the emulated CPU faults at {va:#x}")
        return answer.value

    answers["Unicorn"] = [ask(va) for va in some]
    addresses = [ctypes.c_uint64(va) for va in some]

    def run() -> None:
        for va in addresses:
            translate(engine, va, read, place)
        assert cpu

    return run


# -- one page in each call --------------------------------------------------------------------------------------------


def _changes() -> Contest:
    """Pages in a row, whose tables are there; a peer inserts them into an empty map, then changes what is there."""
    pages, frames = subject.spaced(CHANGED_PAGES), subject.frames(CHANGED_PAGES)
    count = len(pages)
    table = subject.table_of(pages, frames)
    granted = [READ]

    def protect() -> None:
        granted.append(granted.pop(0) ^ READ ^ READ_WRITE)
        _bench.protect_pages(table, pages, granted[0])

    def restore() -> None:
        _bench.unmap_pages(table, pages)
        _bench.map_pages(table, pages, frames)

    ours = [
        Side(
            "ptl, map",
            lambda: _bench.map_pages(table, pages, frames),
            count,
            lambda: _bench.unmap_pages(table, pages),
        ),
        Side("ptl, protect", protect, count),
        Side("ptl, unmap", lambda: _bench.unmap_pages(table, pages), count, restore),
    ]
    ours[1] = Side("ptl, protect", protect, count, restore)
    peers = [side for name, program in present(MAPS) for side in _changes_of(name, program, pages, frames)]
    least = {"TBB hash map": 6, "JudyL": 10, "rculfhash": 40}
    return Contest(
        key="change-one",
        group=CHANGES,
        title=f"map and protect one page in each call, natively: {count:,} pages in a row, tables there",
        unit="ns a page",
        ours=ours,
        peers=peers,
        targets=[
            *(Target("ptl, map", f"{name}, insert", "at least", least.get(name)) for name in MAPS),
            *(Target("ptl, protect", f"{name}, insert", "at least", times) for name, times in least.items()),
            *(Target("ptl, protect", f"{name}, change", "at least") for name in MAPS),
        ],
        note="Ours is atomic and safe beside transitions; JudyL is for one thread, ck_ht for one writer.",
    )


def _changes_of(name: str, program: Program, pages: array[int], frames: array[int]) -> Iterator[Side]:
    """Insertion into a map made anew for each round, and changes in one that is full."""
    fresh: list[NativeMap] = []

    def renew() -> None:
        for old in fresh:
            old.close()
        fresh[:] = [NativeMap(program, len(pages))]

    full = NativeMap(program, len(pages))
    full.insert(pages, frames)
    yield Side(f"{name}, insert", lambda: fresh[0].insert(pages, frames), len(pages), renew)
    yield Side(f"{name}, change", lambda: full.protect(pages), len(pages))
