"""Any sequence of calls, on a family of spaces, against a model that is a dict of pages; frames counted after each."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest

import ptl
from ptl.mm import POLICIES, AddressSpace, Advice, SegmentationFault

from .conftest import new_space

CALLS = (
    *("mmap", "munmap", "mprotect", "read", "write", "write", "write", "write", "fork", "close"),
    *("dontneed", "guard", "unguard", "collapse", "swap", "migrate", "mremap"),
)


@dataclass(frozen=True)
class Page:
    """What the model knows of a mapped page."""

    prot: str
    data: bytes
    guarded: bool = False


class Family:
    """Spaces forked from one another, and what each should hold."""

    def __init__(self, policy: str, arch: str, seed: int) -> None:
        self.random = random.Random(seed)
        first = new_space(policy, arch)
        self.frames = first.frames
        self.page, self.huge = first._page, first._huge
        self.base = self.huge
        self.pages = (first._top - 2 * self.huge) // self.page if arch == "tiny" else 3 * (self.huge // self.page)
        self.members: list[tuple[AddressSpace, dict[int, Page]]] = [(first, {})]
        self.done: Counter[str] = Counter()

    def step(self) -> None:
        space, model = self.random.choice(self.members)
        first = self.random.randrange(self.pages)
        count = self.random.choice([1, 1, 2, 3, self.huge // self.page, self.pages // 2])
        if self.random.random() < 0.4:
            first -= first % (self.huge // self.page)
        if not model:
            first, count = 0, self.pages
        count = min(count, self.pages - first)
        name = self.random.choice(CALLS) if model else "mmap"
        try:
            getattr(self, name)(space, model, range(first, first + count))
            self.done[name] += 1
        except ptl.OutOfFrames:
            pass
        self.members[0][0].check(*(other for other, _ in self.members[1:]))

    def place(self, pages: range) -> tuple[int, int]:
        return self.base + pages[0] * self.page, len(pages) * self.page

    def some(self, model: dict[int, Page]) -> int:
        return self.random.choice(sorted(model)) if self.random.random() < 0.9 else self.random.randrange(self.pages)

    # -- one call each

    def mmap(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        va, length = self.place(pages)
        prot = self.random.choice(["rw", "rw", "rw", "r", ""])
        if model.keys() & set(pages):
            with pytest.raises(ptl.AlreadyMapped):
                space.mmap(length, prot, addr=va)
            return
        assert space.mmap(length, prot, addr=va) == va
        model.update(dict.fromkeys(pages, Page(prot, bytes(self.page))))

    def munmap(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        space.munmap(*self.place(pages))
        for page in pages:
            model.pop(page, None)

    def whole(self, call, model: dict[int, Page], pages: range) -> bool:
        """Whether a call that needs all of a range mapped was accepted."""
        if model.keys() >= set(pages):
            call()
            return True
        with pytest.raises(ptl.AddressError):
            call()
        return False

    def mprotect(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        prot = self.random.choice(["rw", "rw", "r", ""])
        if self.whole(lambda: space.mprotect(*self.place(pages), prot), model, pages):
            model.update({page: replace(model[page], prot=prot) for page in pages})

    def dontneed(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        self.advise(space, model, pages, Advice.DONTNEED, guarded=False)

    def guard(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        self.advise(space, model, pages, Advice.GUARD, guarded=True)

    def advise(
        self, space: AddressSpace, model: dict[int, Page], pages: range, advice: Advice, *, guarded: bool
    ) -> None:
        if self.whole(lambda: space.madvise(*self.place(pages), advice), model, pages):
            model.update({page: Page(model[page].prot, bytes(self.page), guarded) for page in pages})

    def unguard(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        if self.whole(lambda: space.madvise(*self.place(pages), Advice.UNGUARD), model, pages):
            model.update({page: replace(model[page], guarded=False) for page in pages})

    def collapse(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        self.whole(lambda: space.madvise(*self.place(pages), Advice.COLLAPSE), model, pages)

    def read(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        page = self.some(model)
        at = self.random.randrange(self.page - 8)
        known = model.get(page)
        if known is None or not known.prot or known.guarded:
            with pytest.raises(SegmentationFault):
                space.read(self.base + page * self.page + at, 8)
        else:
            assert space.read(self.base + page * self.page + at, 8) == known.data[at : at + 8]

    def write(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        page = self.some(model)
        at = self.random.randrange(self.page - 8)
        known, data = model.get(page), self.random.randbytes(8)
        if known is None or "w" not in known.prot or known.guarded:
            with pytest.raises(SegmentationFault):
                space.write(self.base + page * self.page + at, data)
        else:
            space.write(self.base + page * self.page + at, data)
            model[page] = replace(known, data=known.data[:at] + data + known.data[at + 8 :])

    def swap(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        space.swap_out(self.base + self.some(model) * self.page)

    def migrate(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        space.migrate(self.base + self.some(model) * self.page)

    def mremap(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        va, length = self.place(pages)
        to = self.random.randrange(self.pages - len(pages) + 1)
        try:
            space.mremap(va, length, length, new=self.base + to * self.page)
        except ptl.AddressError:
            return
        moved = {page - pages[0] + to: model.pop(page) for page in pages}
        for page in range(to, to + len(pages)):
            model.pop(page, None)
        model.update(moved)

    def fork(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        if len(self.members) < 4:
            self.members.append((space.fork(), dict(model)))

    def close(self, space: AddressSpace, model: dict[int, Page], pages: range) -> None:
        if len(self.members) > 1:
            space.close()
            self.members = [member for member in self.members if member[0] is not space]

    def end(self) -> None:
        for space, model in self.members:
            for page, known in model.items():
                if known.prot and not known.guarded:
                    assert space.read(self.base + page * self.page, self.page) == known.data
        for space, _ in self.members:
            space.close()
        assert self.frames.stats()["data_frames"] == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("arch", "seeds", "steps"), [("tiny", 12, 150), ("x86_64", 1, 80), ("riscv_sv39", 1, 80)])
def test_any_sequence(policy: str, arch: str, seeds: int, steps: int) -> None:
    done: Counter[str] = Counter()
    for seed in range(seeds):
        family = Family(policy, arch, seed)
        for _ in range(steps):
            family.step()
        family.end()
        done += family.done
    assert len(done) > 12, done
