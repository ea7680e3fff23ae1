"""Any number of threads may read and change one table at once.

Whatever the others do: an address that is always mapped always translates, to a frame that was mapped there; no change
of an entry is lost; what a lock guards changes under that lock only; nothing leaks, and every table that left the tree
is freed exactly once.

Each region of the table below has its own traffic and its own promise, all at the same time:

    steady    collapsed in place, split, protected: every address translates to its one frame; dirty is never lost
    flip      collapsed by copy between two runs of frames: every address translates into one of the two
    shared    single entries, each bit with one owner, under range changes: no owner ever misses one of its changes
    guarded   entries changed under the table's lock: they agree whenever somebody holds it
    churn     ranges mapped and unmapped: an address translates to its one frame or not at all
    sparse    a page now and then, its table populated and retracted: the same
"""

from __future__ import annotations

import json
import random
import threading
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import pytest

import ptl
from helpers import Crew, python

pytestmark = pytest.mark.under_stress

T = TypeVar("T")

ARCHITECTURES = (
    *("x86_64", "i386", "i386_pae", "riscv_sv39", "arm64_4k_va52", "powerpc_radix_4k"),
    *("sparc32", "mips64", "tiny"),
)
OWN_BITS = {  # bits that software owns and no transition touches
    "x86_64": (9, 10, 11),
    "i386": (9, 10),
    "i386_pae": (9, 10),
    "riscv_sv39": (8,),
    "arm64_4k_va52": (57, 58),
    "powerpc_radix_4k": (9, 10),
    "sparc32": (),
    "mips64": (13,),
    "tiny": (1, 2, 3),
}
BATCH = 2048
SAMPLE = 32
FRAMES = 512
"""So few that tables in limbo run them out when a reader loses its core: then whoever needs one waits for readers."""


class World:
    """One table with its five regions; `alike` is what a reader may see."""

    def __init__(self, arch: str, batch_tables: int | None) -> None:
        self.domain = ptl.EpochDomain() if batch_tables is None else ptl.EpochDomain(batch_tables=batch_tables)
        frame_bytes = 32 if arch == "tiny" else 4096
        self.pt = ptl.PageTable(
            arch, frames=ptl.Frames(FRAMES * frame_bytes, frame_bytes=frame_bytes, domain=self.domain)
        )
        self.page = 1 << self.pt.arch.page_shift
        self.span = self.pt.arch.level(2).span
        self.entries = self.span // self.page
        self.crew = Crew()
        self.counts: Counter[str] = Counter()
        self.counting = threading.Lock()
        above = 4 * self.span if self.pt.arch.levels == 2 else self.pt.arch.level(3).span
        self.steady, self.flip, self.shared, self.guarded = (n * self.span for n in range(4))
        self.churn, self.sparse = above, above + self.span
        self.churn_bytes = 2 * self.span
        self.run, self.other_run, self.frame, self.page_run, self.churn_run = (n * 4 * self.span for n in range(1, 6))
        self.pt.map(self.steady, self.run, self.span, "rw", page_size=self.page)
        self.pt.map(self.flip, self.other_run, self.span, "rw", page_size=self.page)
        self.pt.map(self.shared, self.page_run, self.span, "rw", page_size=self.page)
        self.pt.map(self.guarded, self.frame, self.page, "rw")
        self.pt.map(self.guarded + self.page, self.frame, self.page, "rw")
        self.bits = [1 << bit for bit in OWN_BITS[arch]]

    def sample(self, va: int, length: int) -> list[int]:
        """Addresses in all of a region, not only first bytes of pages."""
        step = max(1, length // self.page // SAMPLE) * self.page
        return [address + address // self.page % self.page for address in range(va, va + length, step)]

    def allowed(self) -> set[tuple[int, int]]:
        """Every pair of an address and an answer for it that is right."""
        pairs = {(va, self.run + va - self.steady) for va in self.sample(self.steady, self.span)}
        for run in (self.run, self.other_run):
            pairs |= {(va, run + va - self.flip) for va in self.sample(self.flip, self.span)}
        pairs |= {(va, self.page_run + va - self.shared) for va in self.sample(self.shared, self.span)}
        for va in self.sample(self.churn, self.churn_bytes):
            pairs |= {(va, self.frame_of(va)), (va, ptl.UNMAPPED)}
        return pairs

    def have(self, change: Callable[..., T], *arguments: object, **options: object) -> T:
        """Do what may need tables; when all are in limbo nothing has changed, so wait for readers and go on."""
        while True:
            try:
                return change(*arguments, **options)
            except ptl.OutOfFrames:
                self.domain.synchronize()

    def count(self, what: str, number: int) -> None:
        with self.counting:
            self.counts[what] += number

    # -- readers

    def read_many(self, calls: int) -> None:
        allowed = self.allowed()
        some = sorted({va for va, _ in allowed})
        vas = array("Q", (some * (BATCH // len(some) + 1))[:BATCH])
        out = array("Q", bytes(8 * BATCH))
        for _ in self.crew.turns(calls):
            self.pt.translate(vas, out)
            wrong = set(zip(vas, out, strict=True)) - allowed
            assert not wrong
        self.count("translations", BATCH * calls)

    def read_one(self, calls: int, seed: int) -> None:
        allowed = self.allowed()
        vas = [va for va, _ in allowed]
        rng = random.Random(seed)
        for _ in self.crew.turns(calls):
            va = rng.choice(vas)
            try:
                answer = self.pt.translate(va)
            except ptl.PageFault:
                answer = ptl.UNMAPPED
            assert (va, answer) in allowed
            leaf = self.pt.lookup(va)
            assert (va, ptl.UNMAPPED if leaf is None else leaf.pa + va - leaf.va) in allowed
            leaf = self.pt.walk(va).leaf
            if leaf is not None:
                assert (va, leaf.pa + va - leaf.va) in allowed
        self.count("scalar reads", 3 * calls)

    # -- steady

    def collapse_and_split(self) -> None:
        for _ in self.crew.meanwhile():
            outcome = self.have(self.pt.collapse, self.steady)
            assert outcome in (ptl.Outcome.DONE, ptl.Outcome.ALREADY, ptl.Outcome.MIXED_FLAGS)
            assert self.pt.split(self.steady + self.page) in (ptl.Outcome.DONE, ptl.Outcome.NOT_HUGE)
            self.count("collapses", outcome is ptl.Outcome.DONE)

    def protect_steady(self) -> None:
        for turn in self.crew.meanwhile():
            self.pt.protect(self.steady, self.span, "rw")
            self.pt.protect(self.steady + self.page, self.page * (1 + turn % (self.entries - 1)), "rw")

    def set_and_clear_dirty(self, calls: int) -> None:
        """The one owner of the region's dirty bit always finds it as it left it."""
        rng = random.Random(1)
        for _ in self.crew.turns(calls):
            va = self.steady + rng.randrange(self.entries) * self.page
            while True:
                leaf = self.pt.lookup(va)
                dirty = self.pt.arch.encode(leaf.pa, "rwd", leaf.level)
                if self.pt.compare_exchange(va, leaf.raw, dirty):
                    break
            assert self.pt.test_and_clear(va, "d")
        self.count("dirty set and cleared", calls)

    # -- flip

    def collapse_by_copy(self) -> None:
        for turn in self.crew.meanwhile():
            target = self.run if turn % 2 else self.other_run
            assert self.have(self.pt.collapse, self.flip, target) in (ptl.Outcome.DONE, ptl.Outcome.ALREADY)
            self.pt.split(self.flip)
            self.count("copies", 1)

    # -- shared

    def toggle(self, bit: int, calls: int) -> None:
        """Change a bit that only we change: it is always as we left it, or a change of ours was lost."""
        rng = random.Random(bit)
        pages = rng.sample(range(self.entries), min(self.entries, 8))
        left = dict.fromkeys(pages, 0)
        for turn in self.crew.turns(calls):
            index = rng.choice(pages)
            va = self.shared + index * self.page
            while True:
                if turn % 2:
                    raw = self.pt.lookup(va).raw
                    assert raw & bit == left[index]
                    done = self.pt.compare_exchange(va, raw, self.thawed(raw) ^ bit)
                else:
                    with self.pt.pte_map(va) as ptes:
                        raw = ptes.load(index)
                        assert raw & bit == left[index]
                        done = ptes.compare_exchange(index, raw, self.thawed(raw) ^ bit)
                if done:
                    break
            left[index] ^= bit
        for index in pages:
            assert self.pt.lookup(self.shared + index * self.page).raw & bit == left[index]
        self.count("bits toggled", calls)

    def thawed(self, raw: int) -> int:
        """The value without the mark of a transition in flight; a compare-exchange that meets the mark fails."""
        return raw & ~self.pt.arch.level(1).word.frozen_bit(raw)

    def protect_shared(self) -> None:
        for turn in self.crew.meanwhile():
            first = turn % self.entries
            va = self.shared + first * self.page
            self.pt.protect(va, self.page * (1 + turn % (self.entries - first)), "rw" if turn % 3 else "r")

    # -- guarded

    def change_under_lock(self, calls: int, how: str) -> None:
        """Two entries map the same frame whenever the lock is held, and only its holder moves them on."""
        for _ in self.crew.turns(calls):
            while True:
                with getattr(self, how)() as ptes:
                    if how == "try_lock" and not ptes.try_lock():
                        continue
                    first, second = ptes[0], ptes[1]
                    assert first.pa == second.pa
                    for index, leaf in ((0, first), (1, second)):
                        moved = self.pt.arch.encode(leaf.pa + self.page, leaf.flags)
                        assert ptes.compare_exchange(index, leaf.raw, moved)
                    break
        self.count("moved under lock", calls)

    def lock(self) -> ptl.PteLock:
        return self.pt.pte_map_lock(self.guarded)

    def alloc_lock(self) -> ptl.PteLock:
        return self.pt.pte_alloc_map_lock(self.guarded)

    def try_lock(self) -> ptl.PteMap:
        return self.pt.pte_map_rw(self.guarded)

    def disturb_guarded(self) -> None:
        both = 2 * self.page
        for turn in self.crew.meanwhile():
            assert self.pt.protect(self.guarded, both, "r" if turn % 2 else "rw") in (0, self.page, both)
            assert self.pt.retract(self.guarded) is ptl.Outcome.NOT_EMPTY
            assert self.have(self.pt.collapse, self.guarded) in (
                ptl.Outcome.NOT_FULL,
                ptl.Outcome.NOT_CONTIGUOUS,
                ptl.Outcome.MIXED_FLAGS,
            )

    # -- churn

    def map_and_unmap(self, calls: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in self.crew.turns(calls):
            first, last = sorted(rng.sample(range(self.entries + 1), 2))
            if rng.random() < 0.3:
                first, last = 0, self.entries
            va, length = self.churn + first * self.page, (last - first) * self.page
            match rng.randrange(7):
                case 0:
                    with suppress(ptl.AlreadyMapped):
                        self.have(self.pt.map, va, self.frame_of(va), length)
                case 1:
                    size = rng.choice((None, self.page))
                    self.have(self.pt.map, va, self.frame_of(va), length, replace=True, page_size=size)
                case 2:
                    assert 0 <= self.pt.protect(va, length, rng.choice(("r", "rw"))) <= length
                case 3:
                    assert 0 <= self.pt.unmap(va, length) <= length
                case 4:
                    self.have(self.pt.collapse, va)
                case 5:
                    self.pt.split(va)
                case 6:
                    self.pt.reclaim_empty(self.churn, self.churn_bytes)
        self.count("range changes", calls)

    # -- sparse

    def come_and_go(self, calls: int, seed: int) -> None:
        rng = random.Random(seed)
        for _ in self.crew.turns(calls):
            va = self.sparse + rng.randrange(self.entries) * self.page
            match rng.randrange(6):
                case 0:
                    assert self.have(self.pt.populate, va) in (ptl.Outcome.DONE, ptl.Outcome.ALREADY)
                case 1:
                    with suppress(ptl.AlreadyMapped):
                        self.have(self.pt.map, va, self.frame_of(va))
                    self.pt.unmap(va, self.page)
                case 2:
                    self.pt.retract(va)
                case 3:
                    self.pt.reclaim_empty(self.sparse, self.span)
                case 4:
                    self.look(self.pt.pte_map(va), va)
                case 5:
                    ptes = self.pt.pte_map_lock(va)
                    assert ptes is None or not ptes.stale
                    self.look(ptes, va)
        self.count("transitions", calls)

    def look(self, ptes: ptl.PteMap | None, va: int) -> None:
        """A table of ours maps the address to its frame or not at all, whether it has left the tree or not."""
        if ptes is not None:
            with ptes:
                leaf = ptes[ptes.index]
            assert leaf is None or leaf.pa == self.frame_of(va)

    def frame_of(self, va: int) -> int:
        return self.churn_run + va - self.churn

    # -- all of it

    def play(self, scale: int) -> None:
        """Let everybody loose; `scale` multiplies the number of operations."""
        lockers = ("lock", "alloc_lock", "try_lock")
        self.crew.run(
            partial(self.read_many, 40 * scale),
            partial(self.read_many, 40 * scale),
            partial(self.read_one, 150 * scale, 1),
            partial(self.set_and_clear_dirty, 50 * scale),
            *(partial(self.toggle, bit, 100 * scale) for bit in self.bits),
            *(partial(self.change_under_lock, 30 * scale, how) for how in lockers),
            *(partial(self.map_and_unmap, 40 * scale, seed) for seed in (2, 3)),
            *(partial(self.come_and_go, 60 * scale, seed) for seed in (4, 5)),
            beside=(
                self.collapse_and_split,
                self.protect_steady,
                self.collapse_by_copy,
                self.protect_shared,
                self.disturb_guarded,
            ),
        )
        moved = (self.pt.lookup(self.guarded).pa - self.frame) // self.page
        assert moved == self.counts["moved under lock"] == len(lockers) * 30 * scale

    def settle(self) -> None:
        """At rest everything is accounted for; and with nothing mapped, nothing is left but the root."""
        self.pt.check()
        self.assert_all_freed()
        self.pt.unmap(0, self.churn + self.churn_bytes)
        self.pt.reclaim_empty(0, self.churn + self.churn_bytes)
        assert self.pt.check() == 1
        self.assert_all_freed()
        assert self.pt.frames.stats()["parked"] == 0

    def assert_all_freed(self) -> None:
        self.domain.synchronize()
        epochs, tree, memory = self.domain.stats(), self.pt.stats(), self.pt.frames.stats()
        assert epochs["limbo"] == epochs["limbo_bytes"] == epochs["inside"] == 0
        assert epochs["freed"] == epochs["retired"] == tree["retired"]
        shared = sum(level.empty_is_table for level in self.pt.arch.layout)
        assert memory["tables"] == tree["tables"] + shared


@pytest.mark.parametrize("batch_tables", [1, None], ids=["reused at once", "reused in batches"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_everybody_at_once(arch: str, batch_tables: int | None) -> None:
    world = World(arch, batch_tables)
    world.play(scale=40)
    world.settle()
    assert world.counts["collapses"] > 0
    assert world.counts["copies"] > 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_collapse_by_copy_carries_the_contents(arch: str) -> None:
    """A reader who stays inside from translating to reading finds each page's own contents, wherever they are moved.

    The run that was left is overwritten as soon as `synchronize` says that nobody can still be reading it.
    """
    domain = ptl.EpochDomain()
    geometry = ptl.arch.get(arch)
    page, span = 1 << geometry.page_shift, geometry.level(2).span
    frames = ptl.Frames(max(8 * span, 1 << 20), domain=domain)
    pt = ptl.PageTable(arch, frames=frames)
    contents = [index.to_bytes(4, "little") * (page // 4) for index in range(span // page)]
    scattered = [frames.alloc(page) for _ in contents]
    for index in range(0, len(scattered) - 1, 2):  # so that no two neighbours are neighbours in memory
        scattered[index], scattered[index + 1] = scattered[index + 1], scattered[index]
    for index, (pa, content) in enumerate(zip(scattered, contents, strict=True)):
        frames.view(pa, page)[:] = content
        pt.map(index * page, pa)
    runs = [frames.alloc(span), frames.alloc(span)]
    rubbish = b"\xee" * span
    crew = Crew()

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in crew.meanwhile():
            index = rng.randrange(len(contents))
            with domain.pin():
                content = bytes(frames.view(pt.translate(index * page), page))
            assert content == contents[index]

    def move() -> None:
        for turn in crew.turns(100):
            target = runs[turn % 2]
            frames.view(target, span)[:] = rubbish
            assert pt.collapse(0, target) is ptl.Outcome.DONE
            assert pt.translate(page) == target + page
            assert pt.split(0)
            domain.synchronize()

    crew.run(move, beside=(partial(read, 1), partial(read, 2)))
    pt.check()


def test_wrapping_epochs_and_a_barrier_in_each_section() -> None:
    """The same where the system has no membarrier, and past the largest epoch."""
    shown = python(__file__, PTL_STRESS="1", PTL_MEMBARRIER="0").stdout
    for line in shown.splitlines():
        stats = json.loads(line)
        assert stats["barrier"] == "each section"
        assert stats["epoch"] < stats["first_epoch"], "the epoch has not wrapped"
    print(shown)


def main() -> None:
    """A short run of everything; what it came to, as a line of JSON for each architecture."""
    worlds = {arch: World(arch, batch_tables=1) for arch in ARCHITECTURES}  # each with a domain never used before
    for arch, world in worlds.items():
        first = world.domain.stats()["epoch"]
        world.play(scale=2)
        world.settle()
        print(json.dumps({"arch": arch, "first_epoch": first, **world.counts, **world.domain.stats()}))


if __name__ == "__main__":
    main()
