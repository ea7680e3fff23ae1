"""The promise: a snapshot is what the table held at one moment, and stays so; a fork begins there and goes its own way.

Whatever is changed in one of several tables that share theirs, and however, no other shows it. The first change of a
region copies the tables on the way to it, and the next one copies nothing. Who goes first, and in which order they go,
makes no difference: in the end every table has been given back.
"""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Callable

import pytest

import ptl
from helpers import going_on, linux_only
from ptl import AddressError, Outcome, OutOfFrames
from ptl._core import fail_frames
from ptl.collapse import collapse_pages
from reference import Contents, Reference, contents
from sharing import Bench, everything_given_back

PAGE, SPAN = 0x1000, 0x4000
NAMES = ptl.arch.names()


Change = Callable[[Bench, ptl.PageTable], object]


def by_handle(bench: Bench, pt: ptl.PageTable) -> object:
    with pt.pte_map(0) as ptes:
        return ptes.compare_exchange(1, ptes.load(1), pt.arch.level(1).empty)


def by_locked_handle(bench: Bench, pt: ptl.PageTable) -> object:
    with pt.pte_map_lock(0) as ptes:
        return ptes.compare_exchange(1, ptes.load(1), pt.arch.level(1).empty)


def by_lockable_handle(bench: Bench, pt: ptl.PageTable) -> object:
    with pt.pte_map_rw(0) as ptes:
        return ptes.try_lock() and ptes.compare_exchange(1, ptes.load(1), pt.arch.level(1).empty)


def by_unpinned_handle(bench: Bench, pt: ptl.PageTable) -> object:
    ptes = pt.pte_kernel(0)
    return ptes.compare_exchange(1, ptes.load(1), pt.arch.level(1).empty)


def by_gather(bench: Bench, pt: ptl.PageTable) -> object:
    with ptl.tlb.MmuGather(pt) as gather:
        return gather.unmap(0, 2 * bench.page)


def by_cpu(bench: Bench, pt: ptl.PageTable) -> object:
    cpu = ptl.tlb.Tlb()
    cpu.attach(pt)
    cpu.translate(pt, 0, "w")
    return pt.lookup(0).flags != "rw" or pytest.skip("the format has neither accessed nor dirty")


def by_collapse(bench: Bench, pt: ptl.PageTable) -> object:
    if not bench.has_huge:
        pytest.skip("no leaf of level 2")
    return pt.collapse(0) is Outcome.DONE


def by_split(bench: Bench, pt: ptl.PageTable) -> object:
    if not bench.has_huge:
        pytest.skip("no leaf of level 2")
    return pt.split(bench.span) is Outcome.DONE


def by_run(bench: Bench, pt: ptl.PageTable) -> object:
    if not bench.arch.run_sizes or bench.arch.run_sizes[0] >= bench.span:
        pytest.skip("no run in a leaf table")
    return pt.collapse(0, page_size=bench.arch.run_sizes[0]) is Outcome.DONE


def in_a_run(bench: Bench, pt: ptl.PageTable) -> object:
    by_run(bench, pt)
    return pt.unmap(0, bench.page)


CHANGES: dict[str, Change] = {
    "map": lambda bench, pt: pt.map(2 * bench.span + 2 * bench.page, 0, bench.page) is None,
    "map a range": lambda bench, pt: pt.map(3 * bench.span, 0, 3 * bench.page) is None,
    "map over it": lambda bench, pt: pt.map(0, 0, bench.span, replace=True) is None,
    "unmap": lambda bench, pt: pt.unmap(0, bench.page),
    "unmap a range": lambda bench, pt: pt.unmap(bench.page, bench.page * (bench.entries - 2)),
    "unmap a table": lambda bench, pt: pt.unmap(0, bench.span),
    "unmap a part of a huge leaf": lambda bench, pt: pt.unmap(bench.span, bench.page) or not bench.has_huge,
    "unmap all": lambda bench, pt: pt.clear() is None,
    "protect": lambda bench, pt: pt.protect(0, bench.page, "r") or pt.lookup(0).flags == "rw",
    "protect a range": lambda bench, pt: pt.protect(0, bench.span, "r") or pt.lookup(0).flags == "rw",
    "compare_exchange": lambda bench, pt: pt.compare_exchange(0, pt.lookup(0).raw, pt.lookup(bench.page).raw),
    "exchange": lambda bench, pt: pt.exchange(0, bench.arch.level(1).empty),
    "test_and_clear": lambda bench, pt: (
        pytest.skip("no write bit") if "w" in bench.arch.attributes("r") else pt.test_and_clear(0, "w")
    ),
    "delete": lambda bench, pt: pt.pop(bench.page),
    "populate": lambda bench, pt: pt.populate(4 * bench.span if bench.arch.va_bits > 16 else 0) is not None,
    "retract": lambda bench, pt: pt.retract(3 * bench.span) is Outcome.DONE,
    "collapse": by_collapse,
    "collapse to a run": by_run,
    "a change in a run": in_a_run,
    "split": by_split,
    "move": lambda bench, pt: pt.move(0, 3 * bench.span, bench.span) is Outcome.DONE,
    "move a part": lambda bench, pt: pt.move(0, 3 * bench.span + bench.page, bench.page) is Outcome.DONE,
    "reclaim_empty": lambda bench, pt: pt.reclaim_empty(0, 4 * bench.span) is Outcome.DONE,
    "pte_map": by_handle,
    "pte_map_lock": by_locked_handle,
    "pte_map_rw": by_lockable_handle,
    "pte_kernel": by_unpinned_handle,
    "a gather": by_gather,
    "a CPU": by_cpu,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_no_change_shows_in_another_table(name: str, change: str) -> None:
    """Made in the table itself, then in a fork of it, each time beside all others."""
    bench = Bench(name)
    before = contents(bench.pt)
    tables = {"table": bench.pt, "fork": bench.pt.fork(), "snapshot": bench.pt.snapshot()}
    expected = dict.fromkeys(tables, before)
    for changed in ("table", "fork"):
        assert CHANGES[change](bench, tables[changed])
        expected[changed] = contents(tables[changed])
        for other, pt in tables.items():
            assert contents(pt) == expected[other], f"{changed} was changed, and {other} shows it"
            pt.check()
    assert expected["table"] == expected["fork"], "the same change of the same contents"


READS: dict[str, Callable[[Bench, ptl.PageTable], object]] = {
    "translate": lambda bench, pt: pt.translate(bench.page),
    "many": lambda bench, pt: [*pt.translate(array("Q", range(0, 4 * bench.span, bench.page)))],
    "lookup": lambda bench, pt: pt.lookup(0),
    "walk": lambda bench, pt: pt.walk(bench.page).leaf,
    "iteration": lambda bench, pt: [*pt.values()],
    "runs": lambda bench, pt: [*pt.runs()],
    "gaps": lambda bench, pt: [*pt.gaps()],
    "export": lambda bench, pt: [*pt.export().raw],
    "pte_map_ro": lambda bench, pt: [*pt.pte_map_ro(0).__enter__().entries()],
    "slot": lambda bench, pt: pt.pmd(0).state,
    "equality": lambda bench, pt: pt == bench.pt,
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", ["x86_64", "i386", "arm", "m68k", "sparc32", "tiny"])
def test_a_snapshot_is_read_as_any_table(name: str, read: str) -> None:
    bench = Bench(name)
    assert READS[read](bench, bench.pt.snapshot()) == READS[read](bench, bench.pt)


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "test_and_clear"])
def test_a_snapshot_refuses_to_change(change: str) -> None:
    bench = Bench("x86_64")
    snapshot = bench.pt.snapshot()
    before = contents(snapshot), bench.frames.stats()
    with pytest.raises(TypeError, match="snapshot cannot be changed"):
        CHANGES[change](bench, snapshot)
    assert (contents(snapshot), bench.frames.stats()) == before


def test_a_snapshot_refuses_even_what_would_change_nothing() -> None:
    """So a program learns of its mistake on the first day, not on the one on which there is something to change."""
    snapshot = ptl.PageTable().snapshot()
    calls: list[Callable[[], object]] = [
        lambda: snapshot.unmap(0, PAGE),
        lambda: snapshot.protect(0, PAGE, "r"),
        lambda: snapshot.retract(0),
        lambda: snapshot.split(0),
        lambda: collapse_pages(snapshot, 0, "rw"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="snapshot cannot be changed"):
            call()


def test_a_snapshot_of_a_snapshot_and_a_fork_of_one() -> None:
    bench = Bench("tiny")
    first = bench.pt.snapshot()
    bench.pt.clear()
    second, fork = first.snapshot(), first.fork()
    fork.unmap(0, PAGE)
    assert contents(first) == contents(second) != contents(fork)
    assert PAGE in first
    assert set(first) - set(fork) == {0}


@pytest.mark.parametrize("name", NAMES)
def test_it_costs_one_table_however_much_is_mapped(name: str) -> None:
    bench = Bench(name)
    tables = bench.frames.stats()["tables"]
    kept = [bench.pt.snapshot() for _ in range(3)]
    assert bench.frames.stats()["tables"] == tables + len(kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_change_copies_the_tables_on_the_way_and_the_next_nothing(name: str) -> None:
    bench = Bench(name)
    snapshot = bench.pt.snapshot()
    bench.pt.unmap(0, bench.page)
    copies = bench.pt.stats()["copies"]
    assert copies == bench.arch.levels - 1
    bench.pt.unmap(bench.page, bench.page)
    bench.pt.protect(2 * bench.page, bench.page, "r")
    assert bench.pt.stats()["copies"] == copies
    assert snapshot.stats()["copies"] == 0


def test_what_leaves_whole_is_not_copied() -> None:
    """And needs no frame: a range that covers a table lets go of it; only those that it cuts are copied."""
    bench = Bench("x86_64")
    bench.pt.map(1 << 30, 0, 1 << 30, page_size=PAGE)
    snapshot = bench.pt.snapshot()
    before = contents(snapshot)
    fork = snapshot.fork()
    fail_frames(1)
    try:
        fork.clear()
    finally:
        fail_frames(0)
    assert (len(fork), fork.stats()["copies"], fork.stats()["tables"]) == (0, 0, 1)
    assert bench.pt.unmap((1 << 30) + PAGE, (1 << 30) - 2 * PAGE) == (1 << 30) - 2 * PAGE
    assert bench.pt.stats()["copies"] == 2 + 2, "those on the way, and the two leaf tables at its ends"
    bench.pt.map(0, 0, bench.span, page_size=bench.span, replace=True)
    assert bench.pt.stats()["copies"] == 4 + 1, "the table that holds the slot"
    assert contents(snapshot) == before
    for pt in (bench.pt, snapshot, fork):
        pt.check()


def test_what_is_mapped_in_a_shared_table_is_in_the_way_of_a_map() -> None:
    bench = Bench("x86_64")
    snapshot = bench.pt.snapshot()
    with pytest.raises(ptl.AlreadyMapped, match="va 0x0 "):
        bench.pt.map(0, 0, bench.span, page_size=bench.span)
    bench.pt.map(3 * bench.span, 0, bench.span, page_size=bench.span)  # an empty table is not
    assert bench.pt.lookup(3 * bench.span).size == bench.span
    assert contents(snapshot) != contents(bench.pt)
    bench.pt.check()


@pytest.mark.parametrize("call", ["unmap", "map", "map over it"])
def test_what_no_format_defines_is_met_as_in_any_table(call: str) -> None:
    """A bad entry in a table that leaves: what happens does not depend on who else has the table."""
    outcomes = []
    for is_shared in (False, True):
        bench = Bench("x86_64")
        kept = [bench.pt.snapshot()] if is_shared else []
        bench.frames.view(bench.pt.walk(0).steps[-1].table_pa + 8 * 3, 8)[:] = (1 << 7).to_bytes(8, "little")
        assert bench.pt.walk(3 * PAGE).steps[-1].state is ptl.State.BAD
        try:
            if call == "unmap":
                outcomes.append(str(bench.pt.unmap(0, bench.span)))
            else:
                bench.pt.map(0, 0, bench.span, page_size=bench.span, replace=call == "map over it")
                outcomes.append("mapped")
        except (ptl.FormatError, ptl.AlreadyMapped) as error:
            outcomes.append(str(error))
        del kept
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("name", ["tiny", "x86_64", "arm", "m68k"])
def test_tables_go_in_any_order(name: str, order: tuple[int, ...]) -> None:
    bench = Bench(name)
    frames = bench.frames
    fork = bench.pt.fork()
    tables: list[ptl.PageTable | None] = [bench.pt, fork, bench.pt.snapshot(), fork.snapshot()]
    fork.unmap(0, bench.page)
    bench.pt.unmap(bench.page, bench.page)
    expected = [contents(pt) for pt in tables]
    del fork
    bench.pt = None
    for gone in order:
        tables[gone] = None
        for i, pt in enumerate(tables):
            if pt is not None:
                pt.check()
                assert contents(pt) == expected[i]
                if i < 2:
                    pt.map(0, 0, 2 * bench.page, replace=True)  # in memory that others may just have given back
                    expected[i] = contents(pt)
    del pt
    assert everything_given_back(frames)


def test_the_tables_that_its_huge_leaves_need_are_parked_for_each() -> None:
    """A split cannot fail for memory, in whichever of the tables it is."""
    bench = Bench("x86_64")
    fork = bench.pt.fork()
    fork.unmap(bench.span, bench.page)
    while True:
        try:
            ptl.PageTable(frames=bench.frames).fork().populate(0)
            keep = bench.frames.alloc(bench.frames.frame_bytes)
            assert keep
        except OutOfFrames:
            break
    assert bench.pt.split(bench.span) is Outcome.DONE
    assert fork.lookup(bench.span + bench.page).size == bench.page


# -- no room ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["snapshot", "fork"])
@pytest.mark.parametrize("name", ["tiny", "x86_64", "i386", "arm", "m68k", "ia64"])
def test_without_a_frame_for_the_top_table_nothing_happens(name: str, call: str) -> None:
    bench = Bench(name)
    bench.pt.map(0, 0, bench.page, replace=True)
    for n in itertools.count(1):
        before = contents(bench.pt), bench.frames.stats(), bench.pt.stats()["tables"]
        fail_frames(n)
        try:
            kept = getattr(bench.pt, call)()
        except OutOfFrames:
            assert (contents(bench.pt), {**bench.frames.stats(), "free_tables": 0}, bench.pt.stats()["tables"]) == (
                before[0],
                {**before[1], "free_tables": 0},
                before[2],
            )
            bench.pt.check()
            continue
        finally:
            fail_frames(0)
        assert n > 1
        assert contents(kept) == contents(bench.pt)
        return


@pytest.mark.parametrize("change", ["map", "unmap", "protect a range", "move", "split", "pte_map", "a CPU"])
def test_without_a_frame_for_a_copy_nothing_changes(change: str) -> None:
    """Some tables may be copies by then; what they say is the same."""
    bench = Bench("x86_64")
    snapshot = bench.pt.snapshot()
    before = contents(bench.pt)
    failures = 0
    for n in itertools.count(1):
        fail_frames(n)
        try:
            CHANGES[change](bench, bench.pt)
        except OutOfFrames:
            failures += 1
            assert contents(bench.pt) == contents(snapshot) == before
            bench.pt.check()
            continue
        finally:
            fail_frames(0)
        assert failures
        assert contents(snapshot) == before
        return


def test_the_top_table_of_a_snapshot_has_to_lie_where_its_register_reaches() -> None:
    frames = ptl.Frames(1 << 16, base=(1 << 32) - 4 * 32, frame_bytes=32)  # room for four top tables below 4 GiB
    pt = ptl.PageTable("i386_pae", frames=frames)
    kept = [pt.snapshot() for _ in range(3)]
    with pytest.raises(AddressError, match="beyond"):
        pt.snapshot()
    pt.check()
    assert all(each.check() for each in kept)


# -- locks and handles -------------------------------------------------------------------------------------------------


def test_a_handle_that_was_there_before_is_stale() -> None:
    bench = Bench("x86_64")
    with bench.pt.pte_map(0) as ptes:
        assert not ptes.stale
        snapshot = bench.pt.snapshot()
        assert ptes.stale
        assert not ptes.compare_exchange(0, ptes.load(0), 0)
        bench.pt.unmap(0, PAGE)
        assert ptes[0] == snapshot.lookup(0), "what it reads is the snapshot's table now"
    with bench.pt.pte_map(PAGE) as ptes:
        assert ptes.compare_exchange(1, ptes.load(1), 0)


def test_a_lockable_handle_that_was_there_before_is_not_locked() -> None:
    pt = Bench("x86_64").pt
    with pt.pte_map_rw(0) as ptes:
        snapshot = pt.snapshot()
        assert not ptes.try_lock()
    assert snapshot.check()


@pytest.mark.parametrize("lock", ["pte_map_lock", "Slot.lock", "pte_map_rw"])
def test_the_thread_that_holds_a_lock_is_told(lock: str) -> None:
    pt = Bench("x86_64").pt
    held = {
        "pte_map_lock": lambda: pt.pte_map_lock(0),
        "Slot.lock": lambda: pt.pmd(0).lock(),
        "pte_map_rw": lambda: pt.pte_map_rw(0),
    }[lock]()
    if lock == "pte_map_rw":
        assert held.try_lock()
    with pytest.raises(RuntimeError, match="would wait for itself"):
        pt.snapshot()
    held.close()
    assert pt.snapshot() == pt


@linux_only
@pytest.mark.parametrize("call", ["snapshot", "fork"])
def test_it_waits_for_the_lock_of_another_thread(call: str) -> None:
    """While a table is locked it is its tree's alone, and what its holder changes is changed at one moment."""
    pt = Bench("x86_64").pt
    ptes = pt.pte_map_lock(0)
    with going_on(getattr(pt, call)) as done:
        assert ptes.compare_exchange(0, ptes.load(0), 0)
        pt.map(1 << 30, 0, PAGE)  # the rest of the table may be changed meanwhile
        assert ptes.compare_exchange(1, ptes.load(1), 0)
        assert not done
        ptes.close()
    (kept,) = done
    assert isinstance(kept, ptl.PageTable)
    assert set(kept) & {0, PAGE, 1 << 30} == {1 << 30}


def test_a_lock_of_another_table_does_not_matter() -> None:
    bench = Bench("x86_64")
    other = ptl.PageTable(frames=bench.frames)
    other.populate(0)
    with other.pte_map_lock(0):
        assert bench.pt.snapshot() == bench.pt


# -- CPUs -------------------------------------------------------------------------------------------------------------


def test_a_cpu_marks_only_what_is_its_tables_own() -> None:
    bench = Bench("x86_64")
    cpu = ptl.tlb.Tlb()
    cpu.attach(bench.pt)
    cpu.translate(bench.pt, 0, "w")
    snapshot = bench.pt.snapshot()
    cpu.translate(bench.pt, PAGE, "w")
    assert (bench.pt[0].flags, bench.pt[PAGE].flags) == ("rwad", "rwad")
    assert (snapshot[0].flags, snapshot[PAGE].flags) == ("rwad", "rw")
    cpu.verify()


def test_a_cpu_forgets_what_it_found_in_a_table_that_was_copied() -> None:
    bench = Bench("x86_64")
    cpu = ptl.tlb.Tlb()
    cpu.attach(bench.pt)
    cpu.translate(bench.pt, 0)
    snapshot = bench.pt.snapshot()
    bench.pt.unmap(2 * PAGE, PAGE)
    assert cpu.stats()["dropped"] == 1
    assert snapshot.check()


def test_no_cpu_uses_a_snapshot() -> None:
    with pytest.raises(TypeError, match="snapshot cannot be changed"):
        ptl.tlb.Tlb().attach(Bench("x86_64").pt.snapshot())


# -- at random ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["tiny", "x86_64", "i386_pae", "arm", "m68k", "mips64"])
def test_forks_of_forks_go_as_their_models_do(name: str, seed: int) -> None:
    """Up to six tables that share theirs, each with a model of its own, changed at random and dropped at random."""
    draw = random.Random(f"{name} {seed}")
    bench = Bench(name)
    frames, page, span = bench.frames, bench.page, bench.span
    pt = ptl.PageTable(name, frames=frames)
    bench.pt = None
    family: list[tuple[ptl.PageTable, Reference]] = [(pt, Reference(pt.arch))]
    for _ in range(60):
        pt, model = draw.choice(family)
        va, length = draw.randrange(3) * span + draw.randrange(4) * page, draw.choice((page, 2 * page, span))
        pa = draw.randrange(4) * span + va % span
        match draw.choice(("map", "unmap", "protect", "fork", "drop", "collapse")):
            case "map":
                pt.map(va, pa, length, replace=True)
                model.map(va, pa, length, "rw", replace=True)
            case "unmap":
                assert pt.unmap(va, length) == model.unmap(va, length)
            case "protect":
                assert pt.protect(va, length, "r") == model.protect(va, length, "r")
            case "collapse" if bench.has_huge:
                assert pt.collapse(va) is model.collapse(va)
            case "fork" if len(family) < 6:
                copy = Reference(pt.arch)
                copy.leaves, copy.soft, copy.tables = dict(model.leaves), dict(model.soft), set(model.tables)
                family.append((pt.fork(), copy))
            case "drop" if len(family) > 1:
                family.remove((pt, model))
        for each, its in family:
            assert contents(each) == its.contents()
            each.check()
    del pt, each
    family.clear()
    assert everything_given_back(frames)


def test_contents_are_compared_with_something() -> None:
    """The comparison that these tests rest on tells a page from none, and one frame from another."""
    bench = Bench("tiny")
    before: Contents = contents(bench.pt)
    bench.pt.unmap(0, PAGE)
    after = contents(bench.pt)
    bench.pt.map(0, 0, PAGE)
    assert before != after != contents(bench.pt) != before
