"""The promise: an architecture is one description, read alike by the core and by its own `encode` and `decode`.

What is encoded is decoded again. What `decode` says of the bits of an entry, on any level, is what `walk`, `lookup` and
`Slot.state` say of the same bits in a live table: for every combination of the bits that mean something, and for random
ones. The fields of an entry do not overlap, and what is empty, busy, frozen or invalid cannot be taken for anything
else. An architecture that no one has thought of, given as an `Arch`, works as the real ones do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptl
from made_up import BIG_ENDIAN, BIG_ENDIAN_32, MADE_UP, architecture
from ptl import AddressError, FormatError, Outcome, State
from ptl.arch import FLAGS, Arch, Choice, Entry
from reference import Reference, contents, software_entry

DOMAIN = ptl.EpochDomain()
DEPENDENT = {"ia64", "mips32", "powerpc_8xx", "powerpc_radix_4k", "powerpc_radix_64k", "sparc32"}
"""Where an attribute cannot be had without another."""
NAMES = [*ptl.arch.names(), *MADE_UP]
EACH = pytest.mark.parametrize("arch", [architecture(name) for name in NAMES], ids=NAMES)
EACH_LEVEL = pytest.mark.parametrize(
    ("arch", "level"),
    [
        pytest.param(architecture(name), level, id=f"{name}-{level}")
        for name in NAMES
        for level in range(1, architecture(name).levels + 1)
    ],
)


def flag_sets(arch: Arch) -> Iterator[str]:
    """Every set of attributes that the format can say."""
    for count in range(1, len(FLAGS) + 1):
        for letters in itertools.combinations(FLAGS, count):
            try:
                arch.attributes("".join(letters))
            except FormatError:
                continue
            yield "".join(letters)


def leaf_levels(arch: Arch) -> list[int]:
    """The levels that have leaves."""
    return [level for level in range(1, arch.levels + 1) if arch.level(level).leaf is not None]


# -- the description by itself


@EACH
def test_what_is_encoded_is_decoded_again(arch):
    for level in leaf_levels(arch):
        span = arch.level(level).span
        for pa in (0, span, (1 << arch.pa_bits) // 2, (1 << arch.pa_bits) - span):
            for flags in flag_sets(arch):
                raw = arch.encode(pa, flags, level)
                assert raw < 1 << 8 * arch.level(level).word.bytes
                assert arch.decode(raw, level) == Entry(State.HUGE, pa, arch.attributes(flags), False)


@EACH
def test_attributes_are_in_one_order(arch):
    for flags in flag_sets(arch):
        granted = arch.attributes(flags)
        assert arch.attributes(flags[::-1].upper() + flags) == granted
        assert set(granted) >= set(flags) | set(arch.implied)
        assert arch.attributes(granted) == granted
        if arch.name not in DEPENDENT:
            assert set(granted) == set(flags) | set(arch.implied)
        assert [FLAGS.index(letter) for letter in granted] == sorted(FLAGS.index(letter) for letter in granted)


@EACH
def test_a_frozen_leaf_is_the_same_leaf(arch):
    for level in leaf_levels(arch):
        span = arch.level(level).span
        for flags in flag_sets(arch):
            raw = arch.encode(span, flags, level)
            word = arch.level(level).word
            assert not word.is_frozen(raw)
            assert word.present(raw | word.frozen_present)
            entry = arch.decode(raw | word.frozen_present, level)
            assert entry == Entry(State.HUGE, span, arch.attributes(flags), True)


@EACH
def test_an_invalid_leaf_is_the_same_leaf(arch):
    """While its size changes, software still reads what it maps; and a run comes back as it was, where it has not.

    A run that only software walks is hidden by its freeze alone: it need not be invalid.
    """
    for level in leaf_levels(arch):
        geometry = arch.level(level)
        if geometry.invalid is None:
            assert level == 1
            assert not geometry.runs or arch.walker == "software"
            continue
        for flags, run in itertools.product(flag_sets(arch), (None, *geometry.runs)):
            pa = geometry.span if run is None else geometry.run_bytes(run)
            raw = arch.encode(pa, flags, level, run=run)
            hidden = raw & ~geometry.invalid_clear | geometry.invalid_set
            entry = arch.decode(hidden, level)
            assert (entry.state, entry.pa, entry.flags) == (State.INVALID, pa, arch.attributes(flags))
            assert entry.run == run
            if geometry.runs and arch.walker == "hardware":
                assert hidden & ~geometry.invalid_set | geometry.invalid_clear == raw
                frozen = hidden | geometry.word.frozen_present
                assert geometry.is_frozen(frozen)
                assert arch.decode(frozen, level).state is State.INVALID


@EACH
def test_entries_of_runs_are_leaves_with_marks(arch):
    """Marks overlap nothing but the low bits of an address that all entries share; and a leaf by itself has others."""
    for level in leaf_levels(arch):
        geometry = arch.level(level)
        others = geometry.word.frozen_present | geometry.word.present_mask
        for choice in geometry.word.attributes:
            others |= choice.bits
        for run in geometry.runs:
            shared = geometry.leaf_address.bits & ~geometry.address_in_run(run).bits
            assert not run.marks.mask & others
            assert not run.marks.matches(geometry.leaf_set)
            assert not run.marks.mask & geometry.leaf_address.bits & ~shared
            assert run.marks.mask & ~geometry.leaf_address.bits
            assert bool(shared) is run.is_base
            for pa, flags in itertools.product((0, (1 << arch.pa_bits) - geometry.run_bytes(run)), flag_sets(arch)):
                for n in (0, 1, run.entries - 1):
                    raw = arch.encode(pa + n * geometry.span, flags, level, run=run)
                    at = pa if run.is_base else pa + n * geometry.span
                    assert arch.decode(raw, level) == Entry(State.HUGE, at, arch.attributes(flags), False, run)
        for flags in flag_sets(arch):
            assert arch.decode(arch.encode(geometry.span, flags, level), level).run is None


@EACH_LEVEL
def test_a_table_is_a_table(arch, level):
    geometry = arch.level(level)
    if level == 1:
        assert geometry.table is None
        return
    below = arch.table_bytes(level - 1)
    for pa in (0, below, (1 << arch.table_bits) - below)[geometry.table_set == geometry.empty :]:
        assert geometry.address.holds(pa)
        raw = geometry.table_set | geometry.address.put(pa)
        assert arch.decode(raw, level) == Entry(State.TABLE, pa)


@EACH_LEVEL
def test_what_is_empty_busy_or_frozen_is_nothing_else(arch, level):
    geometry = arch.level(level)
    assert arch.decode(geometry.empty, level) == Entry(State.EMPTY)
    assert geometry.freezes is (level in (1, *leaf_levels(arch)))
    if level == 1:
        assert arch.decode(geometry.empty | geometry.word.frozen_absent, level) == Entry(State.EMPTY, frozen=True)
        assert geometry.empty | geometry.word.frozen_absent != geometry.empty
    if geometry.freezes:
        soft = software_entry(arch, level)
        assert arch.decode(soft, level) == Entry(State.SOFT)
        assert arch.decode(soft | geometry.word.frozen_absent, level) == Entry(State.SOFT, frozen=True)
    if level == 1 or not geometry.freezes:
        assert geometry.busy == 0
        assert (geometry.invalid is not None) is (bool(geometry.runs) and arch.walker == "hardware")
    else:
        assert arch.decode(geometry.busy, level) == Entry(State.BUSY, frozen=True)
        assert geometry.busy not in (geometry.empty, geometry.empty | geometry.word.frozen_absent, soft)


@EACH_LEVEL
def test_fields_do_not_overlap(arch, level):
    """Address, each attribute, the frozen bit, and what makes a leaf or a table."""
    geometry, word = arch.level(level), arch.level(level).word
    leaf_address = geometry.leaf_address.bits if level in leaf_levels(arch) else 0
    kinds = [pattern.mask & ~leaf_address for pattern in (geometry.table, geometry.leaf) if pattern]
    assert not geometry.table_set & geometry.address.bits
    if geometry.freezes:
        masks = [leaf_address, word.frozen_present, *(choice.bits for choice in word.attributes)]
        for one, other in itertools.combinations(masks, 2):
            assert not one & other
        if geometry.leaf is not None:
            assert not geometry.leaf.mask & word.frozen_present
        assert not geometry.leaf_set & (leaf_address | word.frozen_present)
        assert not word.frozen_absent & word.present_mask
        assert word.frozen_present.bit_count() == word.frozen_absent.bit_count() == 1
        assert word.frozen_mask & word.frozen_present == (word.frozen_present if word.frozen_mask else 0)
    for choice in word.attributes:
        assert choice.mask
        assert len({value for value, _ in choice.values}) == len(choice.values) > 1
        assert all(value & ~choice.bits == 0 for value, _ in choice.values)
        assert choice.put(choice.letters)[1] == choice.letters  # whatever is asked for, something grants it
    everything = word.frozen_present | leaf_address
    kinds += [choice.bits for choice in word.attributes]
    for mask in (*kinds, word.present_mask, word.frozen_absent, geometry.busy, geometry.empty):
        everything |= mask
    assert everything < 1 << 8 * word.bytes


@EACH
def test_levels_follow_one_another(arch):
    for below, above in itertools.pairwise(arch.layout):
        assert above.shift == below.shift + below.bits
    assert arch.layout[-1].shift + arch.layout[-1].bits == arch.va_bits
    assert arch.layout[0].leaf is not None
    assert arch.page_shift == arch.layout[0].shift
    assert arch.page_sizes == tuple(arch.level(level).span for level in leaf_levels(arch))
    assert arch.levels == len(arch.layout)
    assert set(arch.flags) <= set(FLAGS)
    assert not set(arch.flags) & set(arch.implied)
    assert {"r", "w"} <= set(arch.flags) | set(arch.implied)
    assert arch.source
    assert arch.title


@EACH
def test_encode_refuses_what_the_format_cannot_hold(arch):
    for level in range(1, arch.levels + 1):
        span = arch.level(level).span
        if level not in leaf_levels(arch):
            with pytest.raises(FormatError, match="no leaf at level"):
                arch.encode(0, "r", level)
            continue
        for pa in (1, span - 1, span // 2):
            with pytest.raises(AddressError, match="is not a multiple"):
                arch.encode(pa, "r", level)
        for pa in (1 << arch.pa_bits, -span, 1 << 64):
            with pytest.raises(AddressError, match="is outside"):
                arch.encode(pa, "r", level)
        for flags in ("", "g", "q", "r?"):
            with pytest.raises(FormatError, match="flag"):
                arch.encode(0, flags, level)
    for level in (0, -1, arch.levels + 1):
        with pytest.raises(ValueError, match="has levels 1 to"):
            arch.encode(0, "r", level)
        with pytest.raises(ValueError, match="has levels 1 to"):
            arch.decode(0, level)
    for raw in (-1, 1 << 8 * arch.entry_bytes):
        with pytest.raises(ValueError, match="does not fit"):
            arch.decode(raw)


def test_names():
    assert len(set(ptl.arch.names())) == len(ptl.arch.names())
    for name in ptl.arch.names():
        assert ptl.arch.get(name).name == name
    assert "tiny" in ptl.arch.names()
    assert ptl.arch.get("riscv") is ptl.arch.get("riscv_sv39")
    assert ptl.PageTable().arch is ptl.arch.get("x86_64")


def test_the_four_entries_on_top_of_pae_say_present_and_where():
    """Everything else in them is reserved, or tells how to cache the table; anything reserved makes them BAD."""
    arch = ptl.arch.get("i386_pae")
    pt = ptl.PageTable(arch, frames=ptl.Frames(1 << 16, domain=DOMAIN))
    assert arch.table_bytes(3) == 32
    assert arch.page_sizes == (1 << 12, 1 << 21)
    for va in range(0, 1 << 32, 1 << 30):
        pt.map(va, 0x1000, flags="rwxug")
        step, below = pt.walk(va).steps[:2]
        assert (step.level, step.index, step.table_pa) == (3, va >> 30, pt.root)
        assert step.raw == below.table_pa | 1
        assert below.raw & 0xFFF == 0b111
        ignored, cached = (1 << bit for bit in (9, 10)), (1 << bit for bit in (3, 4))
        for bit in (*ignored, *cached):
            assert arch.decode(step.raw | bit, 3).state is State.TABLE
        for bit in (*range(1, 3), *range(5, 9), *range(52, 64)):
            assert arch.decode(step.raw | 1 << bit, 3).state is State.BAD
    pt.check()


def test_a_top_table_that_its_register_cannot_name_is_refused():
    """PAE's CR3 has 32 bits. The memory is given back, and may still hold tables of other formats."""
    high = ptl.Frames(1 << 16, base=1 << 32, domain=DOMAIN)
    with pytest.raises(AddressError, match="at pa 0x100000000 is beyond the 32 bits that i386_pae has for it"):
        ptl.PageTable("i386_pae", frames=high)
    assert high.stats()["tables"] == 0
    assert ptl.PageTable("x86_64", frames=high).root == 1 << 32
    low = ptl.Frames(1 << 16, base=(1 << 32) - (1 << 16), domain=DOMAIN)
    assert ptl.PageTable("i386_pae", frames=low).root < 1 << 32


def test_what_hardware_sets_late_in_an_empty_entry_does_not_fill_it():
    """A CPU that still held a translation of powerpc may set accessed or dirty after the entry was emptied."""
    bench = Bench(ptl.arch.get("powerpc_radix_4k"))
    pt, va = bench.pt, bench.va
    late = bench.arch.encode(0, "rad") ^ bench.arch.encode(0, "r")
    with bench.holding(1, late):
        assert pt.walk(va).steps[-1].state is State.EMPTY
        pt.check()
        assert pt.unmap(va, 1 << 12) == 0
    with bench.holding(1, late):
        pt.map(va, 1 << 12)
        assert pt.lookup(va).raw == bench.arch.encode(1 << 12, "rw")
    pt.unmap(va, 1 << 12)
    with bench.holding(1, late):
        assert pt.retract(va) is Outcome.DONE
        assert pt.walk(va).steps[-1].level == 2


def test_an_address_in_two_pieces():
    """LPA2 keeps bits 51 and 50 of an address in bits 9 and 8 of an entry, for leaves and for tables."""
    frames = ptl.Frames(1 << 23, base=(1 << 52) - (1 << 23), domain=DOMAIN)
    pt = ptl.PageTable("arm64_4k_va52", frames=frames)
    for level, pa in ((1, (1 << 52) - (1 << 12)), (2, (0b10 << 50) + (1 << 21)), (3, 0b01 << 50)):
        size = pt.arch.level(level).span
        pt.map(size, pa, size, page_size=size)
        assert pt.translate(2 * size - 1) == pa + size - 1
        *tables, leaf = pt.walk(size).steps
        assert all(step.raw >> 8 & 0b11 == 0b11 for step in tables)
        assert leaf.raw >> 8 & 0b11 == pa >> 50
        assert pt.split(size) is (Outcome.DONE if level > 1 else Outcome.NOT_HUGE)
        assert pt.translate(2 * size - 1) == pa + size - 1
        assert pt.collapse(size, level=level) if level > 1 else True
        assert pt.lookup(size).pa == pa
        pt.unmap(size, size)
    pt.check()


@pytest.mark.parametrize("suffices", [False, True])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_right_that_traps_on_first_use(suffices, is_inverted):
    """The bit that lets hardware pass goes with the right and its use; read alone it grants what hardware would."""
    right = Choice.inverted("w", 1) if is_inverted else Choice.bit("w", 1)
    choice = Choice.trapping(right, Choice.bit("d", 2), 0b1000, suffices=suffices)
    assert choice.mask == 0b1110
    assert len(dict(choice.values)) == 8
    for flags in ("", "w", "d", "wd"):
        raw, granted = choice.put(flags)
        assert (set(granted), bool(raw & 0b1000)) == (set(flags), flags == "wd")
        assert set(choice.get(raw ^ 0b1000)) == ({*flags, "w"} if suffices and flags != "wd" else set(flags))


# -- the core, on the same bits


class Bench:
    """A table with one page, and the way to put any bits into any entry on the way to it."""

    def __init__(self, arch: Arch) -> None:
        self.pt = ptl.PageTable(arch, frames=ptl.Frames(1 << 18, domain=DOMAIN))
        self.arch = self.pt.arch
        self.va = arch.level(2).span + arch.level(1).span
        self.pt.map(self.va, 0)
        self.steps = {step.level: step for step in self.pt.walk(self.va).steps}
        self.slots = {level: self.pt.slot(self.va, level) for level in self.steps}

    @contextmanager
    def holding(self, level: int, raw: int) -> Iterator[None]:
        """These bits are in the entry on that level."""
        step = self.steps[level]
        self._put(step, raw)
        try:
            yield
        finally:
            self._put(step, step.raw)

    def _put(self, step: ptl.Step, raw: int) -> None:
        geometry = self.arch.level(step.level)
        words = {0: raw} if geometry.shadow is None else {0: raw, geometry.shadow.offset: geometry.shadow.of(raw)}
        size = geometry.word.bytes
        for offset, word in words.items():
            view = self.pt.frames.view(step.table_pa + step.index * size + offset, size)
            view[:] = word.to_bytes(size, self.arch.byte_order)

    def expected(self, level: int, raw: int) -> Entry:
        """What the description says; but a table that would not lie inside the block is bad."""
        entry = self.arch.decode(raw, level)
        if entry.state is State.TABLE and entry.pa > self.pt.frames.size - self.arch.table_bytes(level - 1):
            return Entry(State.BAD, frozen=entry.frozen)
        return entry

    def agree(self, level: int, raw: int) -> None:
        """The core reads these bits on that level as the description does."""
        entry = self.expected(level, raw)
        with self.holding(level, raw):
            walk = self.pt.walk(self.va)
            step = walk.steps[self.arch.levels - level]
            assert (step.level, step.raw, step.state) == (level, raw, entry.state), entry
            assert self.slots[level].load() == raw
            assert self.slots[level].state is entry.state
            if entry.state is State.TABLE:
                return
            assert len(walk.steps) == self.arch.levels - level + 1
            if entry.state in (State.HUGE, State.INVALID):
                geometry, run = self.arch.level(level), entry.run
                size = geometry.span if run is None else geometry.run_bytes(run)
                page = size if run is not None and run.is_base else geometry.span  # that entry.pa is the address of
                assert (walk.leaf.pa, walk.leaf.flags, walk.leaf.level) == (entry.pa & -size, entry.flags, level)
                assert (walk.leaf.raw, walk.leaf.size, walk.fault) == (raw, size, None)
                assert self.pt.lookup(self.va) == walk.leaf
                assert self.pt.translate(self.va) == entry.pa + self.va % page
            else:
                assert walk.leaf is None
                assert entry.state.name in walk.fault
                if entry.state is not State.BUSY:  # which is waited for
                    assert self.pt.lookup(self.va) is None
            if level == 1:
                with self.pt.pte_map(self.va) as ptes:
                    changed = ptes.compare_exchange(self.steps[1].index, raw, self.arch.level(1).empty)
                assert changed is not entry.frozen


def _bits(masks: Iterable[int]) -> list[int]:
    """Every bit of some masks by itself."""
    return [1 << bit for mask in masks for bit in range(mask.bit_length()) if mask >> bit & 1]


def bits_that_differ(arch: Arch, level: int) -> list[int]:
    """One bit of each kind: bits that the description mentions in the same places all do the same."""
    geometry = arch.level(level)
    word = geometry.word
    mentions = [geometry.leaf_address.bits, geometry.address.bits, geometry.leaf_any, geometry.leaf_set]
    mentions += [geometry.table_set, geometry.empty, geometry.busy, word.present_mask]
    mentions += [word.frozen_present, word.frozen_absent, *_bits(choice.mask for choice in word.attributes)]
    for pattern in (
        *(geometry.table, geometry.leaf, geometry.leaf_never, geometry.invalid),
        *(run.marks for run in geometry.runs),
    ):
        mentions += (pattern.mask, pattern.value) if pattern is not None else ()
    bits = [1 << bit for bit in range(8 * word.bytes)]
    return list({tuple(bool(mask & bit) for mask in mentions): bit for bit in bits}.values())


def combinations_of_bits(arch: Arch, level: int, most: int) -> Iterator[int]:
    """What these bits can be together: all of it, or where there are more than `most` of them one in a few."""
    bits = bits_that_differ(arch, level)
    assert len(bits) > 7
    step = 1 if len(bits) <= most else (1 << len(bits) - most) - 1  # odd: every bit is often 0 and often 1
    for chosen in range(0, 1 << len(bits), step):
        yield sum(bit for i, bit in enumerate(bits) if chosen >> i & 1)


@EACH_LEVEL
def test_the_core_agrees_on_every_combination_of_bits(arch, level):
    """A few thousand entries, and as many kinds of them as there are; where there are too many, one in a few."""
    bench = Bench(arch)
    for raw in combinations_of_bits(bench.arch, level, 14):
        bench.agree(level, raw)


@EACH_LEVEL
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_core_agrees_on_random_bits(arch, level, data):
    """Any bits at all, and those of well-known entries with a few bits changed."""
    bench = Bench(arch)
    arch = bench.arch
    geometry = arch.level(level)
    known = [0, geometry.empty, geometry.busy, bench.steps[level].raw]
    if geometry.leaf is not None:
        leaf = arch.encode(geometry.span, "rw", level)
        known += [software_entry(arch, level), leaf, leaf & ~geometry.invalid_clear | geometry.invalid_set]
        known += [arch.encode(0, "rw", level, run=run) for run in geometry.runs]
    entries = st.integers(0, (1 << 8 * geometry.word.bytes) - 1)
    bits = st.sets(st.integers(0, 8 * geometry.word.bytes - 1), max_size=4)
    changed = st.builds(lambda raw, flips: raw ^ sum(1 << bit for bit in flips), st.sampled_from(known), bits)
    for raw in data.draw(st.lists(st.one_of(entries, changed), min_size=1, max_size=20)):
        bench.agree(level, raw)


@EACH
def test_the_core_checks_what_a_table_at_rest_must_not_hold(arch):
    """In a leaf table: an entry that is frozen, or present and nothing that the format defines."""
    bench = Bench(arch)
    for raw in combinations_of_bits(arch, 1, 14):
        entry = arch.decode(raw)
        with bench.holding(1, raw):
            if entry.frozen or entry.state in (State.BAD, State.INVALID):
                with pytest.raises(ptl.InvariantError, match=f"I1: .*{raw:#x}"):
                    bench.pt.check()
            elif entry.run is not None:
                with pytest.raises(ptl.InvariantError, match=f"U1: .*{raw:#x}"):
                    bench.pt.check()
            else:
                bench.pt.check()


@EACH
def test_what_the_core_writes_is_what_encode_says(arch):
    """Leaves of every size, with every set of attributes."""
    pt = ptl.PageTable(arch)
    for level in leaf_levels(arch):
        span = arch.level(level).span
        for flags in flag_sets(arch):
            pt.map(span, 0, span, flags, replace=True)
            assert pt.lookup(span).raw == arch.encode(0, flags, level)
            assert pt.lookup(span).flags == arch.attributes(flags)
        pt.unmap(span, span)


@EACH
def test_what_the_core_changes_is_what_encode_says(arch):
    """Every attribute of a leaf of any size given and taken again: what other bits follow from it do so each time."""
    pt = ptl.PageTable(arch)
    for level in leaf_levels(arch):
        span = arch.level(level).span
        pt.map(span, 0, span, "r", page_size=span)
        for flags in flag_sets(arch):
            pt.protect(span, span, flags)
            leaf = pt.lookup(span)
            assert (leaf.raw, leaf.flags) == (arch.encode(0, leaf.flags, level), arch.attributes(flags))
            for letter in {"a", "d"} & set(leaf.flags):
                pt.test_and_clear(span, letter)
                leaf = pt.lookup(span)
                assert leaf.raw == arch.encode(0, leaf.flags, level)
        pt.unmap(span, span)


def test_what_is_written_along_is_not_looked_at():
    """And is right again after the next change: the rights that hardware sees of a pair of Arm's sections."""
    arch = ptl.arch.get("arm")
    bench, level = Bench(arch), arch.level(2)
    along = [bit for choice in level.word.attributes for bit in _bits([choice.along])]
    assert len(along) == 9  # four of each word, and XN of the second
    for bit in along:
        raw = arch.encode(level.span, "rwuad", 2) ^ bit
        bench.agree(2, raw)
        assert arch.decode(raw, 2) == Entry(State.HUGE, level.span, "rwuad")
        with bench.holding(2, raw):
            bench.pt.protect(bench.va & -level.span, level.span, "rux")
            assert bench.pt.lookup(bench.va).raw == arch.encode(level.span, "rxuad", 2)


# -- architectures that no machine has


def each_of(names: Iterable[str]) -> pytest.MarkDecorator:
    """A case for each of these formats."""
    names = list(names)
    return pytest.mark.parametrize("arch", [architecture(name) for name in names], ids=names)


@each_of(name for name in NAMES if architecture(name).page_sizes[1:])
def test_a_made_up_architecture_works(arch):
    """Or a real one: mapped, translated, split, protected, collapsed in place and elsewhere, unmapped."""
    pt, model = ptl.PageTable(arch, frames=ptl.Frames(1 << 26, domain=DOMAIN)), Reference(arch)
    page, huge = arch.page_sizes[:2]
    same = (pt, model)

    def compare() -> None:
        assert contents(pt) == model.contents()
        pt.check()

    for table in same:
        table.map(huge, 4 * huge, 2 * huge, "rw")
        table.map(page, page, page, "rx")
    compare()
    assert pt.translate(3 * huge - 1) == 6 * huge - 1
    assert [table.split(huge) for table in same] == [Outcome.DONE] * 2
    compare()
    assert [table.protect(huge, huge, "rwd") for table in same] == [huge] * 2
    assert [table.protect(2 * huge, page, "rwa") for table in same] == [page] * 2
    compare()
    assert [table.collapse(huge) for table in same] == [Outcome.DONE] * 2
    assert [table.collapse(2 * huge) for table in same] == [Outcome.DONE] * 2
    assert pt.lookup(2 * huge).flags == arch.attributes("rwa")
    compare()
    for table in same:
        table.map(0, 9 * page, huge, "rw", page_size=page, replace=True)
    assert [table.collapse(0) for table in same] == [Outcome.NOT_CONTIGUOUS] * 2
    assert [table.collapse(0, 8 * huge) for table in same] == [Outcome.DONE] * 2
    compare()
    assert pt.translate(page) == 8 * huge + page
    assert [table.unmap(page, 2 * huge) for table in same] == [2 * huge] * 2
    compare()
    assert [table.unmap(0, 4 * huge) for table in same] == [huge] * 2
    assert pt.reclaim_empty(0, 4 * huge) is model.reclaim_empty(0, 4 * huge)
    compare()
    assert pt.stats()["tables"] == 1


@each_of(name for name in NAMES if not architecture(name).page_sizes[1:])
def test_an_architecture_without_huge_leaves_works(arch):
    """Tables fill and empty; nothing collapses into a leaf, or splits."""
    pt, model = ptl.PageTable(arch, frames=ptl.Frames(1 << 26, domain=DOMAIN)), Reference(arch)
    page, full = (arch.level(number).span for number in (1, 2))
    same = (pt, model)

    def compare() -> None:
        assert contents(pt) == model.contents()
        pt.check()

    for table in same:
        table.map(full - page, 8 * full, full + 2 * page, "rw")
    compare()
    assert pt.translate(2 * full - 1) == 9 * full + page - 1
    assert [table.protect(full, page, "rd") for table in same] == [page] * 2
    assert [table.split(full) for table in same] == [Outcome.NOT_HUGE] * 2
    for level in range(2, arch.levels + 1):
        with pytest.raises(FormatError, match=f"has no leaf at level {level}"):
            pt.collapse(full, level=level)
    compare()
    assert [table.retract(full) for table in same] == [Outcome.NOT_EMPTY] * 2
    assert [table.unmap(full, full - page) for table in same] == [full - page] * 2
    assert [table.retract(full) for table in same] == [Outcome.NOT_EMPTY] * 2
    assert [table.unmap(0, 4 * full) for table in same] == [3 * page] * 2
    assert pt.reclaim_empty(0, 4 * full) is model.reclaim_empty(0, 4 * full)
    compare()
    assert pt.stats()["tables"] == 1


@pytest.mark.parametrize("arch", [BIG_ENDIAN, BIG_ENDIAN_32], ids=lambda arch: arch.name)
def test_bytes_lie_in_the_stated_order(arch):
    """Of every entry on the way, tables and leaves; and the little-endian twin has them the other way round."""
    twin = replace(arch, byte_order="little")
    pages = {}
    for each in (arch, twin):
        pt = ptl.PageTable(each, frames=ptl.Frames(1 << 16, base=0x30000, domain=DOMAIN))
        pt.map(0, 0x1234000, flags="rwd")
        pt.map(each.page_sizes[1], each.page_sizes[1], each.page_sizes[1])
        for va in (0, each.page_sizes[1]):
            for step in pt.walk(va).steps:
                at = step.table_pa + step.index * each.entry_bytes
                in_memory = bytes(pt.frames.view(at, each.entry_bytes))
                assert in_memory == step.raw.to_bytes(each.entry_bytes, each.byte_order)
        assert pt.lookup(0).raw == arch.encode(0x1234000, "rwd")
        pages[each.byte_order] = bytes(pt.frames)
    size = arch.entry_bytes
    swapped = b"".join(pages["big"][i : i + size][::-1] for i in range(0, len(pages["big"]), size))
    assert swapped == pages["little"] != pages["big"]


def test_an_arch_object_is_the_architecture():
    assert ptl.PageTable(BIG_ENDIAN).arch is BIG_ENDIAN
    assert "big-endian" in repr(ptl.PageTable(BIG_ENDIAN))


@pytest.mark.parametrize(
    "odd",
    [
        {"byte_order": "middle"},
        {"byte_order": "native"},
        {"layout": ptl.arch.get("tiny").layout * 2},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_what_the_core_cannot_read_is_refused(odd):
    with pytest.raises(FormatError, match="made up: at most 5 levels of entries of 4 or 8 bytes, little or big endian"):
        ptl.PageTable(replace(ptl.arch.get("tiny"), name="made up", **odd))


@pytest.mark.parametrize("masks", [[0b111111], [0], [1 << i for i in range(8)]], ids=["six bits", "no bit", "eight"])
def test_choices_that_the_core_has_no_room_for_are_refused(masks):
    tiny = ptl.arch.get("tiny")
    choices = tuple(Choice(mask, ((0, ""), (mask, "w"))) for mask in masks)
    word = replace(tiny.level(1).word, attributes=choices)
    with pytest.raises(FormatError, match="a word has at most 7 choices, each of 1 to 5 bits"):
        ptl.PageTable(replace(tiny, layout=tuple(replace(level, word=word) for level in tiny.layout)))
