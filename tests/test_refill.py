"""The promise: the code with which Linux refills a TLB finds in a table what `translate` finds.

Where software walks there is no hardware to ask. Here are the walks of its handlers once more, with their own shifts
and tests and nothing of this project's descriptions; what a handler loads is then read as the manual of the processor
has it. Whatever a table holds in the middle of a change, a handler finds a page, or nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import ptl
from ptl import Frames
from ptl.arch import Arch

Loaded = tuple[int, str]
"""A physical address, and which of r, w, x and u pass without a fault."""
Refill = Callable[[Frames, int, int], Loaded | None]
ALL = (1 << 64) - 1


def load(frames: Frames, pa: int, size: int, order: str) -> int:
    return int.from_bytes(frames.view(pa, size), order)


def walk_sparc64(frames: Frames, root: int, va: int) -> int | None:
    """arch/sparc/include/asm/tsb.h, USER_PGTABLE_WALK_TL1: what goes into the TLB."""
    entry, huge = root, False
    for bits in (53, 43, 33, 23):
        offset = (va << 64 - bits & ALL) >> 64 - 13 & ~0b111
        entry = load(frames, entry + offset, 8, "big")
        if entry == 0:
            return None
        huge = bits == 33 and bool(entry & 1 << 56)
        if huge:
            break
    if not entry >> 63:
        return None
    return entry & ~(1 << 22) | va & 1 << 22 if huge else entry


def refill_sparc64(frames: Frames, root: int, va: int) -> Loaded | None:
    """And what that means, by the UltraSPARC User's Manual, 6.2, and that of UltraSPARC-IV+, which has more sizes."""
    entry = walk_sparc64(frames, root, va)
    if entry is None:
        return None
    page_bits = {0b000: 13, 0b001: 16, 0b010: 19, 0b011: 22, 0b101: 28}[entry >> 61 & 0b11 | entry >> 46 & 0b100]
    pa = entry & (1 << 43) - (1 << page_bits) | va & (1 << page_bits) - 1
    return pa, "r" + "w" * (entry >> 1 & 1) + "x" * (entry >> 12 & 1) + "u" * (~entry >> 2 & 1)


def walk_parisc(frames: Frames, root: int, va: int) -> int | None:
    """arch/parisc/kernel/entry.S, L2_ptep: what is made into what goes into the TLB."""
    entry = load(frames, root + 4 * (va >> 22), 4, "big")
    if not entry & 1:
        return None
    entry = load(frames, ((entry & ~0xF) << 8) + 4 * (va >> 12 & 0x3FF), 4, "big")
    return entry if entry & 1 << 9 else None


def refill_parisc(frames: Frames, root: int, va: int) -> Loaded | None:
    """And what that means."""
    entry = walk_parisc(frames, root, va)
    return None if entry is None else parisc_page(entry, va, 32)


def refill_parisc64(frames: Frames, root: int, va: int) -> Loaded | None:
    """arch/parisc/kernel/entry.S, L3_ptep and L2_ptep."""
    table = root
    for index in (va >> 32 & 0x3FF, va >> 21 & 0x7FF):
        entry = load(frames, table + 4 * index, 4, "big")
        if not entry & 1:
            return None
        table = entry << 8 & ~0xFFF
    return parisc_page(load(frames, table + 8 * (va >> 12 & 0x1FF), 8, "big"), va, 40)


def parisc_page(entry: int, va: int, physical_bits: int) -> Loaded | None:
    """make_insert_tlb. The processor leaves out the bits of an address that it has not got, or that are in its page."""
    if not entry & 1 << 9:
        return None
    assert not entry & (1 << 6 | 1 << 4 | 1 << 3)  # no trap on access or on a store, no gateway
    rights = "r" * (entry & 1) + "w" * (entry >> 1 & entry >> 5 & 1) + "x" * (entry >> 2 & 1)
    page = 1 << 20 if physical_bits == 40 and entry >> 10 & 1 else 1 << 12
    return entry & (1 << physical_bits) - page | va & page - 1, rights + "u" * (entry >> 11 & 1)


def refill_ia64(frames: Frames, root: int, va: int) -> Loaded | None:
    """arch/ia64/kernel/ivt.S, vhpt_miss, of another region than 5; the Itanium manual's table of access rights."""
    region, rest = va >> 61, va << 3 & ALL
    if rest >> 36 + 14 - 3:
        return None
    rest >>= 3
    entry = load(frames, root | region << 14 - 3 | (rest >> 36 & 0xFF) << 3, 8, "little")
    for shift in (25, 14):
        if entry == 0:
            return None
        entry = load(frames, entry | (rest >> shift & 0x7FF) << 3, 8, "little")
    accessed, dirty = entry >> 5 & 1, entry >> 6 & 1
    if not entry & 1 or not accessed:
        return None
    privilege, rights = entry >> 7 & 0b11, entry >> 9 & 0b111
    assert privilege in (0, 3)
    to_user, to_kernel = (
        ("r", "r"),
        ("rx", "rx"),
        ("rw", "rw"),
        ("rwx", "rwx"),
        ("r", "rw"),
        ("rx", "rwx"),
        ("rwx", "rw"),
        ("x", "rx"),
    )[rights]
    passes = to_user + "u" if privilege == 3 else to_kernel
    return entry & (1 << 50) - (1 << 14) | va & 0x3FFF, passes if dirty else passes.replace("w", "")


def refill_powerpc_8xx(frames: Frames, root: int, va: int) -> Loaded | None:
    """arch/powerpc/kernel/head_8xx.S, DataStoreTLBMiss and InstructionTLBMiss; MPC860 User's Manual, table 9-4."""
    level_1 = load(frames, root + 4 * (va >> 22), 4, "big")
    if not level_1 & 1:  # the handler reads at address 0 then, and what it loads is not valid
        return None
    entry = load(frames, level_1 & 0xFFFF_F000 | (va >> 12 & 0x3FF) << 2, 4, "big")
    access_group = level_1 & 0x1C0 | entry & 0x20
    if not access_group & 0x20:
        return None
    size = level_1 & 0b1100 | entry >> 9 & 0b0100  # for MD_TWC, whose page size is in these two bits
    data = entry & ~0x8F0 | 0xF0
    code = entry & ~0xF00 | (entry & 0x40) << 4 | 0xF0 | 0x200
    if not data & 1:
        return None
    protection = data >> 9 & 1, data >> 10 & 0b11  # PowerPC or extended, and of these
    passes = {(0, 0b00): "rw", (1, 0b00): "", (1, 0b01): "r"}[protection]
    executable = {0b00: "", 0b01: "x"}[code >> 10 & 0b11]
    if not data & 1 << 8:  # change
        passes = passes.replace("w", "")
    page = {(0b00, 0): 4 << 10, (0b00, 1): 16 << 10, (0b01, 1): 512 << 10}[size >> 2, data >> 3 & 1]
    return data & -page | va & page - 1, passes + executable + "u" * (access_group >> 6 & 1)


REFILLS: dict[str, Refill] = {
    "ia64": refill_ia64,
    "parisc": refill_parisc,
    "parisc64": refill_parisc64,
    "powerpc_8xx": refill_powerpc_8xx,
    "sparc64": refill_sparc64,
}
CASES = [(ptl.arch.get(name), refill) for name, refill in REFILLS.items()]
EACH = pytest.mark.parametrize(("arch", "refill"), CASES, ids=REFILLS)


def expected(pt: ptl.PageTable, va: int) -> Loaded | None:
    """What a handler should load: nothing where it waits for a page to be marked accessed."""
    leaf = pt.lookup(va)
    if leaf is None:
        return None
    if "a" not in leaf.flags and "parisc" not in pt.arch.name:  # whose handler marks it
        return None
    passes = "".join(letter for letter in leaf.flags if letter in "rwxu")
    return pt.translate(va), passes if "d" in leaf.flags else passes.replace("w", "")


def same(found: Loaded | None, wanted: Loaded | None) -> bool:
    """An entry that lets nothing pass is as good as none."""

    def as_set(loaded: Loaded | None) -> tuple[int, frozenset[str]] | None:
        return None if loaded is None or not set(loaded[1]) - {"u"} else (loaded[0], frozenset(loaded[1]))

    return as_set(found) == as_set(wanted)


def some_flags(arch: Arch, rng: random.Random) -> str:
    letters = "".join(rng.sample(arch.flags, rng.randint(1, len(arch.flags)))) + rng.choice(("a", "ad", ""))
    return letters if set(letters) & set("rwx") else letters + rng.choice("rx")


def new_table(arch: Arch) -> ptl.PageTable:
    """With memory that does not begin at 0; all formats can name tables there."""
    return ptl.PageTable(arch, frames=Frames(1 << 22, base=1 << 24, domain=ptl.EpochDomain()))


def some_addresses(arch: Arch, rng: random.Random) -> list[int]:
    """In a few neighbouring places of every level, at both ends."""
    spans = [arch.level(level).span for level in range(1, arch.levels + 1)]
    numbers = {sum(rng.choice((0, 1, 2)) * span for span in spans) for _ in range(40)}
    numbers |= {(1 << arch.va_bits) - 1 - number for number in list(numbers)[:10]}
    return [arch.canonical(number % (1 << arch.va_bits) & -spans[0]) for number in numbers]


@EACH
@pytest.mark.parametrize("seed", range(5))
def test_a_handler_finds_what_translate_finds(arch, refill, seed):
    """Random pages of every size with random flags, mapped and unmapped: their first and last bytes, and others.

    Of a run any entry is enough: the TLB gets all of the page, the frames at its beginning too.
    """
    rng = random.Random(seed)
    pt = new_table(arch)
    addresses = some_addresses(arch, rng)
    for _ in range(60):
        va, size = rng.choice(addresses), rng.choice(arch.page_sizes + arch.run_sizes)
        va &= -size
        if rng.random() < 0.2:
            pt.unmap(va, size)
        else:
            pa = rng.randrange((1 << arch.pa_bits) // size) * size
            pt.map(va, pa, size, some_flags(arch, rng), page_size=size, replace=True)
        for at in (va, va + size - 1, va + size // 2, *rng.sample(addresses, 5)):
            assert same(refill(pt.frames, pt.root, at), expected(pt, at)), hex(at)
    pt.check()


@EACH
def test_a_handler_sees_each_right_and_each_mark(arch, refill):
    """Every set of flags that the format can say."""
    pt = new_table(arch)
    for number in range(1 << len(arch.flags)):
        flags = "".join(letter for bit, letter in enumerate(arch.flags) if number >> bit & 1)
        if set(flags) & set("rwx"):
            pt.map(0, 1 << 30, flags=flags, replace=True)
            assert same(refill(pt.frames, pt.root, 5), expected(pt, 5)), flags


@EACH
def test_a_frozen_page_is_the_same_page_to_a_handler(arch, refill):
    """Linux's do not look at the freeze. And what is not there is not there, whatever else is in the entry.

    With runs in the table a handler must look: that is asked of `ptl.tlb`, in `test_runs.py`.
    """
    pt = new_table(arch)
    pt.map(0, 1 << 30, flags="rwxad")
    before = refill(pt.frames, pt.root, 5)
    step, word = pt.walk(0).steps[-1], arch.level(1).word
    cell = pt.frames.view(step.table_pa + step.index * word.bytes, word.bytes)
    cell[:] = (step.raw | word.frozen_present).to_bytes(word.bytes, arch.byte_order)
    assert before is not None
    assert refill(pt.frames, pt.root, 5) == before == expected(pt, 5)
    largest = arch.encode_soft(arch.soft_types - 1, arch.soft_offsets - 1, exclusive=True)
    for absent in (0, word.frozen_absent, largest, largest | word.frozen_absent):
        cell[:] = absent.to_bytes(word.bytes, arch.byte_order)
        assert refill(pt.frames, pt.root, 5) is None
    cell[:] = step.raw.to_bytes(word.bytes, arch.byte_order)


@pytest.mark.parametrize("privilege", [0, 3])
@pytest.mark.parametrize("rights", range(8))
def test_access_rights_of_ia64_that_are_not_written(rights, privilege):
    """But may be met."""
    pt = new_table(ptl.arch.get("ia64"))
    pt.map(0, 1 << 30, flags="rad")
    raw = pt.lookup(0).raw & ~(0b11111 << 7) | rights << 9 | privilege << 7
    pt.exchange(0, raw)
    assert same(refill_ia64(pt.frames, pt.root, 5), expected(pt, 5))


def test_what_takes_the_place_of_a_huge_page_of_sparc64_is_no_address_to_follow():
    """A leaf that is being split, a slot that is busy, software's entry: the handler neither follows nor loads them."""
    arch = ptl.arch.get("sparc64")
    pt = new_table(arch)
    huge = arch.level(2)
    pt.map(0, huge.span, huge.span, "rwxad")
    assert refill_sparc64(pt.frames, pt.root, 5 << 20) == (huge.span + (5 << 20), "rwx")
    leaf, slot = pt.lookup(0).raw, pt.walk(0).steps[-1]
    assert slot.level == 2
    cell = pt.frames.view(slot.table_pa + 8 * slot.index, 8)
    splitting = leaf & ~huge.invalid_clear | huge.invalid_set
    soft = [arch.encode_soft(1, offset, 2) for offset in (0, 2, 0x1234, arch.soft_offsets - 1)]
    for raw in (splitting, huge.busy, *soft, *(entry | huge.word.frozen_absent for entry in soft)):
        cell[:] = raw.to_bytes(8, "big")
        assert refill_sparc64(pt.frames, pt.root, 5 << 20) is None
    cell[:] = leaf.to_bytes(8, "big")
    pt.check()
