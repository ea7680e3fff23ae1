"""The promise: what software keeps in an entry that is not present comes back, and is never taken for anything else.

On every format, for every type and offset, exclusive or not, frozen or not, on every level that has leaves; and the
core, which reads the same description, agrees. What Linux defines is where Linux has it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptl
from made_up import MADE_UP, architecture
from ptl import FormatError, Outcome, State
from ptl.arch import Arch, Entry, SoftEntry
from reference import entries

NAMES = [*ptl.arch.names(), *MADE_UP]
WITH_HUGE_LEAVES = [name for name in NAMES if len(architecture(name).page_sizes) > 1]
EACH = pytest.mark.parametrize("arch", [architecture(name) for name in NAMES], ids=NAMES)


def leaf_levels(arch: Arch) -> list[int]:
    """The levels that have leaves."""
    return [level for level in range(1, arch.levels + 1) if arch.level(level).leaf is not None]


def ends_and_bits(count: int) -> list[int]:
    """Of the numbers below a power of two: 0, the last, each single bit, and all bits but one."""
    bits = [1 << bit for bit in range(count.bit_length() - 1)]
    return sorted({0, count - 1, *bits, *(count - 1 - bit for bit in bits)})


def soft_entries(arch: Arch) -> Iterator[SoftEntry]:
    """Every type with every offset that has one bit set, or one clear, or all the same."""
    offsets = ends_and_bits(arch.soft_offsets)
    for kind, offset, exclusive in itertools.product(range(arch.soft_types), offsets, (False, True)):
        if SoftEntry(kind, offset, exclusive) != looks_empty(arch):
            yield SoftEntry(kind, offset, exclusive)


def looks_empty(arch: Arch, level: int = 1) -> SoftEntry | None:
    """The entry that cannot be: its bits are those of an empty one."""
    soft = arch.level(level).word.soft
    if soft.base & ~arch.level(level).empty:
        return None
    return SoftEntry(0, arch.soft_offsets - 1 if soft.inverted_offset else 0)


def any_soft_entry(arch: Arch) -> st.SearchStrategy[SoftEntry]:
    """Any type with any offset."""
    kinds, offsets = st.integers(0, arch.soft_types - 1), st.integers(0, arch.soft_offsets - 1)
    return st.builds(SoftEntry, kinds, offsets, st.booleans()).filter(lambda entry: entry != looks_empty(arch))


def encode(arch: Arch, entry: SoftEntry, level: int = 1) -> int:
    return arch.encode_soft(entry.type, entry.offset, level, exclusive=entry.exclusive)


# -- the description by itself


def is_kept(arch: Arch, entry: SoftEntry) -> None:
    """The entry comes back, and is SOFT wherever there are leaves; so is its frozen twin."""
    for level in leaf_levels(arch):
        raw, word = encode(arch, entry, level), arch.level(level).word
        assert 0 <= raw < 1 << 8 * word.bytes
        for bits, frozen in ((raw, False), (raw | word.frozen_absent, True)):
            assert arch.decode_soft(bits, level) == entry
            assert arch.decode(bits, level) == Entry(State.SOFT, frozen=frozen)


@EACH
def test_every_type_is_kept_with_every_bit_of_the_offset(arch):
    for entry in soft_entries(arch):
        is_kept(arch, entry)


@EACH
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_software_entry_is_kept(arch, data):
    is_kept(arch, data.draw(any_soft_entry(arch)))


@EACH
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_two_software_entries_differ_in_their_bits(arch, data):
    one, other = data.draw(any_soft_entry(arch)), data.draw(any_soft_entry(arch))
    assert (encode(arch, one) == encode(arch, other)) is (one == other)


def is_one_piece(mask: int) -> bool:
    """Whether the bits follow one another."""
    return mask.bit_count() == (mask // (mask & -mask)).bit_length()


@EACH
def test_types_and_offsets_are_as_many_as_their_bits(arch):
    for level in leaf_levels(arch):
        soft = arch.level(level).word.soft
        assert is_one_piece(soft.type_mask)
        assert is_one_piece(soft.offset_mask) or len(leaf_levels(arch)) == 1
        assert soft.exclusive.bit_count() == 1
        assert arch.soft_types == 1 << soft.type_mask.bit_count() > 1
        assert arch.soft_offsets == 1 << soft.offset_mask.bit_count() > 1


def test_an_offset_with_a_gap_is_refused_where_huge_leaves_are_split():
    """An offset is counted up there, page by page."""
    tiny = ptl.arch.get("tiny")
    soft = replace(tiny.level(1).word.soft, offset_mask=0b11 << 5 | 0b11 << 8)
    gap = replace(tiny.level(1).word, soft=soft)
    for levels in ({0}, {1}, {0, 1, 2}):
        layout = tuple(replace(level, word=gap) if i in levels else level for i, level in enumerate(tiny.layout))
        with pytest.raises(FormatError, match="must be in one piece where huge leaves are split"):
            ptl.PageTable(replace(tiny, layout=layout))


@EACH
def test_an_offset_can_be_the_number_of_any_frame(arch):
    as_linux = {"riscv_sv32": 20, "sparc32": 20, "arm_lpae": 24, "mips32": 19}  # frames below 4, 64 and 2 GiB
    bits = as_linux.get(arch.name, arch.pa_bits - arch.page_shift)
    assert arch.soft_offsets >= 1 << bits


@EACH
def test_no_field_touches_a_bit_that_decides(arch):
    """What tells present from absent, what freezes, what is busy; and no other field."""
    for level in leaf_levels(arch):
        word = arch.level(level).word
        soft, busy = word.soft, arch.level(level).busy
        fields = [soft.type_mask, soft.offset_mask, soft.exclusive]
        for mask, taken in itertools.product(fields, (soft.base, word.present_mask, word.frozen_absent, busy)):
            assert not mask & taken
        for one, other in itertools.combinations(fields, 2):
            assert not one & other
        assert not soft.base & word.frozen_absent


@EACH
def test_what_would_be_an_empty_entry_is_refused(arch):
    entry = looks_empty(arch)
    if entry is None:
        for level in leaf_levels(arch):
            assert arch.level(level).word.soft.base & ~arch.level(level).empty  # so there is no such entry
        return
    refusal = f"type 0 with offset {entry.offset:#x} is what .* has for an empty entry"
    for level in leaf_levels(arch):  # and what splits into one
        with pytest.raises(FormatError, match=refusal):
            encode(arch, entry, level)
        assert arch.encode_soft(0, entry.offset, level, exclusive=True)


@EACH
def test_what_does_not_fit_is_refused(arch):
    for kind in (-1, arch.soft_types, 1 << 64):
        with pytest.raises(FormatError, match=f"type {kind} does not fit"):
            arch.encode_soft(kind, 0)
    for offset in (-1, arch.soft_offsets, 1 << 64):
        with pytest.raises(FormatError, match=f"offset {offset:#x} does not fit"):
            arch.encode_soft(1, offset)


@EACH
def test_only_software_s_entries_are_decoded(arch):
    """Not a leaf, a table, an empty or a busy entry, or a huge leaf that is being split."""
    for level in leaf_levels(arch):
        geometry = arch.level(level)
        word, leaf = geometry.word, arch.encode(geometry.span, "rw", level)
        others = [geometry.empty, geometry.empty | word.frozen_absent, leaf, leaf | word.frozen_present]
        if level > 1:
            others.append(geometry.table_set | geometry.address.put(arch.table_bytes(level - 1)))
            others.append(leaf & ~geometry.invalid_clear | geometry.invalid_set)
            others.append(geometry.busy)
        for raw in others:
            with pytest.raises(FormatError, match=f"entry {raw:#x} of {arch.name} is .*, not SOFT"):
                arch.decode_soft(raw, level)
    for raw in (-1, 1 << 8 * arch.entry_bytes):
        with pytest.raises(ValueError, match="does not fit"):
            arch.decode_soft(raw)


def linux_x86(kind: int, offset: int) -> int:
    return kind << 59 | (~offset & (1 << 50) - 1) << 9


def linux_arm(kind: int, offset: int) -> int:
    return kind << 2 | offset << 8


def linux_arm64(kind: int, offset: int) -> int:
    return kind << 6 | offset << 12


def linux_ia64(kind: int, offset: int) -> int:
    return kind << 1 | offset << 8


def linux_m68k(kind: int, offset: int) -> int:
    return kind << 4 | offset << 12


def linux_m68k_coldfire(kind: int, offset: int) -> int:
    return kind | offset << 11


def linux_m68k_sun3(kind: int, offset: int) -> int:
    return kind | offset << 7


def linux_microblaze(kind: int, offset: int) -> int:
    return (kind | offset << 6) << 2


def linux_mips32(kind: int, offset: int) -> int:
    return kind << 8 | offset << 13


def linux_mips64(kind: int, offset: int) -> int:
    return kind << 16 | offset << 24


def linux_parisc(kind: int, offset: int) -> int:
    return kind | (offset & 0b111) << 5 | offset >> 3 << 10


def linux_powerpc(kind: int, offset: int) -> int:
    return 1 << 62 | kind | offset << 12


def linux_powerpc_8xx(kind: int, offset: int) -> int:
    return kind << 3 | offset << 8


def linux_riscv(kind: int, offset: int) -> int:
    return kind << 7 | offset << 12


def linux_sh(kind: int, offset: int) -> int:
    return (kind | offset << 10) << 1


def linux_sparc32(kind: int, offset: int) -> int:
    return kind << 7 | offset << 12


def linux_sparc64(kind: int, offset: int) -> int:
    return kind << 13 | offset << 21


def linux_s390(kind: int, offset: int) -> int:
    return 0x600 | kind << 2 | offset << 12


def linux_xtensa(kind: int, offset: int) -> int:
    return 0x1C | kind << 6 | offset << 11


LINUX = {
    **dict.fromkeys(("arm", "arm_lpae"), linux_arm),
    "ia64": linux_ia64,
    "m68k": linux_m68k,
    "m68k_coldfire": linux_m68k_coldfire,
    "m68k_sun3": linux_m68k_sun3,
    "microblaze": linux_microblaze,
    "mips32": linux_mips32,
    "mips64": linux_mips64,
    "parisc": linux_parisc,
    "parisc64": linux_parisc,
    "s390": linux_s390,
    "sh": linux_sh,
    "sparc32": linux_sparc32,
    "xtensa": linux_xtensa,
    **dict.fromkeys(("arm64_4k", "arm64_4k_va39", "arm64_4k_va52", "arm64_16k", "arm64_64k"), linux_arm64),
    **dict.fromkeys(("powerpc_radix_4k", "powerpc_radix_64k"), linux_powerpc),
    "powerpc_8xx": linux_powerpc_8xx,
    "sparc64": linux_sparc64,
    **dict.fromkeys(("x86_64", "x86_64_la57", "i386_pae"), linux_x86),  # PAE: the same here, and not Linux's
    **dict.fromkeys(("riscv_sv32", "riscv_sv39", "riscv_sv48", "riscv_sv57"), linux_riscv),
}
EXCLUSIVE = {
    **dict.fromkeys(("arm", "arm_lpae"), 1 << 7),
    "ia64": 1 << 7,
    "m68k": 1 << 11,
    "m68k_coldfire": 1 << 7,
    "m68k_sun3": 1 << 6,
    "microblaze": 1 << 7,
    "mips32": 1 << 1,
    "mips64": 1 << 23,
    "parisc": 1 << 8,
    "parisc64": 1 << 8,
    "s390": 1 << 11,
    "sh": 1 << 6,
    "sparc32": 1 << 6,
    "xtensa": 1 << 1,
    **dict.fromkeys(("arm64_4k", "arm64_4k_va39", "arm64_4k_va52", "arm64_16k", "arm64_64k"), 1 << 2),
    **dict.fromkeys(("powerpc_radix_4k", "powerpc_radix_64k"), 1 << 5),
    "powerpc_8xx": 1 << 2,
    "sparc64": 1 << 20,
    **dict.fromkeys(("x86_64", "x86_64_la57"), 1 << 3),
    **dict.fromkeys(("riscv_sv32", "riscv_sv39", "riscv_sv48", "riscv_sv57"), 1 << 6),
}


@pytest.mark.parametrize("name", LINUX)
def test_the_bits_are_linux_s(name):
    """Of a type and an offset; and the exclusive bit."""
    arch, linux = ptl.arch.get(name), LINUX[name]
    for entry in soft_entries(arch):
        if not entry.exclusive:
            assert encode(arch, entry) == linux(entry.type, entry.offset)
    assert name not in EXCLUSIVE or arch.level(1).word.soft.exclusive == EXCLUSIVE[name]


@pytest.mark.parametrize(("level", "kind"), [(2, 0b00), (3, 0b01)])
def test_on_s390_linux_has_other_bits_in_place_of_a_huge_leaf(level, kind):
    s390 = ptl.arch.get("s390")
    for entry in soft_entries(s390):
        if not entry.exclusive:
            assert encode(s390, entry, level) == 0x30 | kind << 2 | entry.type << 6 | entry.offset << 12


def test_on_i386_the_type_is_where_linux_has_it():
    i386 = ptl.arch.get("i386")
    for kind in range(i386.soft_types):
        assert i386.encode_soft(kind, 0) == kind << 1 | i386.level(1).word.soft.base
    assert i386.soft_types == 32


# -- the core, on the same bits


class Live:
    """A table of an architecture with one leaf of each size."""

    def __init__(self, arch: Arch) -> None:
        self.pt = ptl.PageTable(arch, frames=ptl.Frames(1 << 24))
        self.places = {level: arch.level(level).span for level in leaf_levels(arch)}
        for level, va in self.places.items():
            size = arch.level(level).span
            self.pt.map(va, 0, size, page_size=size)


@functools.cache
def live(name: str) -> Live:
    return Live(architecture(name))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_core_takes_a_software_entry_in_place_of_a_leaf_of_any_size(name, data):
    pt, arch = live(name).pt, architecture(name)
    pages = arch.page_sizes[-1] >> arch.page_shift
    entry = data.draw(any_soft_entry(arch).filter(lambda entry: entry.offset + pages < arch.soft_offsets))
    for level, va in live(name).places.items():
        leaf, raw = pt.lookup(va).raw, encode(arch, entry, level)
        assert pt.exchange(va, raw) == leaf
        end = pt.walk(va).steps[-1]
        assert (end.level, end.state, end.raw) == (level, State.SOFT, raw)
        assert pt.slot(va, level).state is State.SOFT
        assert pt.lookup(va) is None
        with pytest.raises(ptl.PageFault) as fault:
            pt.translate(va)
        assert (fault.value.level, fault.value.state) == (level, State.SOFT)
        pt.check()
        assert pt.compare_exchange(va, raw, leaf)
        assert pt.translate(va + 1) == 1


@pytest.mark.parametrize("name", WITH_HUGE_LEAVES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_split_counts_the_offset_up_in_pages(name, data):
    arch = architecture(name)
    level = data.draw(st.sampled_from(leaf_levels(arch)[1:]))
    smaller = leaf_levels(arch)[leaf_levels(arch).index(level) - 1]
    pages = arch.level(smaller).span >> arch.page_shift
    whole = arch.level(level).span >> arch.page_shift
    entry = data.draw(any_soft_entry(arch).filter(lambda entry: entry.offset + whole < arch.soft_offsets))
    pt, va = Live(arch).pt, arch.level(level).span
    pt.exchange(va, encode(arch, entry, level))
    assert pt.split(va) is Outcome.DONE
    table = next(step for step in pt.walk(va).steps if step.level == smaller)
    for i, raw in enumerate(entries(pt, table.table_pa, smaller)):
        assert arch.decode_soft(raw, smaller) == SoftEntry(entry.type, entry.offset + i * pages, entry.exclusive)
        assert arch.decode(raw, smaller).state is State.SOFT
    pt.check()


@pytest.mark.parametrize("name", WITH_HUGE_LEAVES)
def test_an_entry_whose_pages_have_no_offsets_is_refused_in_place_of_a_huge_leaf(name):
    """So that a split can always count them up, and never makes an empty entry."""
    arch = architecture(name)
    pt = Live(arch).pt
    for level in leaf_levels(arch)[1:]:
        pages, va = arch.level(level).span >> arch.page_shift, arch.level(level).span
        leaf = pt.lookup(va).raw
        for offset in range(arch.soft_offsets - pages, arch.soft_offsets, pages - 1):
            raw = arch.encode_soft(1, offset, level)
            with pytest.raises(FormatError, match=f"entry {raw:#x} has no offsets left for all pages of level {level}"):
                pt.exchange(va, raw)
            with pytest.raises(FormatError, match="no offsets left"):
                pt.compare_exchange(va, leaf, raw, level=level)
        if (entry := looks_empty(arch)) is not None:
            with pytest.raises(FormatError):
                pt.exchange(va, arch.level(level).word.soft.put(entry.type, entry.offset, entry.exclusive))
        assert pt.lookup(va).raw == leaf
        assert pt.exchange(va, arch.encode_soft(0, arch.soft_offsets - pages - 1, level)) == leaf
        assert pt.split(va, arch.page_sizes[0]) is Outcome.DONE
    pt.check()


@pytest.mark.parametrize("name", WITH_HUGE_LEAVES)
def test_what_would_read_as_busy_while_it_is_frozen_is_refused_in_place_of_a_huge_leaf(name):
    arch = architecture(name)
    level, word = arch.level(2), arch.level(2).word
    raw = level.busy & ~word.frozen_absent
    if level.leaf is None or raw == level.busy or arch.decode(raw, 2).state is not State.SOFT:
        pytest.skip(f"{name} has nothing that freezing turns into BUSY")
    pt = ptl.PageTable(arch)
    pt.map(level.span, 0, level.span, "rw")
    leaf = pt.lookup(level.span).raw
    with pytest.raises(FormatError):
        pt.compare_exchange(level.span, leaf, raw, level=2)
    assert pt.lookup(level.span).raw == leaf
