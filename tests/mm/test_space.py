"""An address space, call by call, under every policy: what a program sees, and what a fault says."""

from __future__ import annotations

import contextlib
import random

import pytest

import ptl
from ptl.mm import AddressSpace, Advice, Fault, Kind, SegmentationFault

from .conftest import new_space

# -- mappings


def test_memory_is_zero_until_it_is_written(space: AddressSpace, page: int) -> None:
    va = space.mmap(4 * page)
    assert space.read(va + page - 2, 4) == bytes(4)
    space.write(va + page - 2, b"edge")
    assert space.read(va + page - 3, 6) == b"\0edge\0"


def test_nothing_is_allocated_before_it_is_used(space: AddressSpace, huge: int) -> None:
    space.mmap(huge)
    assert space.frames.stats()["data_frames"] == 0


def test_mappings_go_where_they_are_told(space: AddressSpace, page: int, huge: int) -> None:
    assert space.mmap(2 * page, addr=huge) == huge
    with pytest.raises(ptl.AlreadyMapped):
        space.mmap(page, addr=huge + page)
    assert space.mmap(page, addr=huge + 2 * page) == huge + 2 * page
    gap = space.mmap(page)
    assert space._mappings.at(gap) is not None
    assert [mapping.start for mapping in space.mappings()] == sorted({huge, huge + 2 * page, gap})


def test_a_long_mapping_is_aligned_for_huge_pages(space: AddressSpace, page: int, huge: int) -> None:
    space.mmap(page)
    assert space.mmap(huge) % huge == 0


def test_an_unmapped_hole_faults(space: AddressSpace, page: int) -> None:
    va = space.mmap(3 * page)
    space.write(va, bytes(3 * page))
    space.munmap(va + page, page)
    space.munmap(va + page, page)  # holes are passed over
    space.read(va, page)
    space.read(va + 2 * page, page)
    with pytest.raises(SegmentationFault) as fault:
        space.read(va + page, 1)
    assert not fault.value.present
    assert len(space.mappings()) == 2


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_huge_page_is_cut_anywhere(space: AddressSpace, page: int, huge: int, cut: int) -> None:
    va = space.mmap(huge)
    data = random.Random(cut).randbytes(huge)
    space.write(va, data)
    at = (0, huge // 2, huge - page)[cut]
    space.munmap(va + at, page)
    kept = [n for n in range(0, huge, page) if n != at]
    assert all(space.read(va + n, page) == data[n : n + page] for n in kept)
    assert space.frames.stats()["data_frames"] * space.frames.frame_bytes == huge - page


# -- bad input


def test_bad_input_changes_nothing(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(2 * page, addr=huge)
    space.write(va, b"kept")
    before = space.mappings(), space.pt.dump()
    for call in (
        lambda: space.mmap(0),
        lambda: space.mmap(page + 1),
        lambda: space.mmap(page, addr=1),
        lambda: space.mmap(page, addr=space._top),
        lambda: space.munmap(va + 1, page),
        lambda: space.munmap(va, -page),
        lambda: space.mprotect(va, 4 * page, "r"),
        lambda: space.madvise(va, 4 * page, Advice.DONTNEED),
        lambda: space.madvise(va, 4 * page, Advice.COLLAPSE),
        lambda: space.mincore(va, 4 * page),
        lambda: space.mremap(va + 8 * page, page, page),
        lambda: space.mremap(va, 2 * page, 2 * page, new=va + page),
    ):
        with pytest.raises(ptl.AddressError):
            call()
    for call in (
        lambda: space.mmap(page, "rq"),
        lambda: space.mprotect(va, page, "u"),
        lambda: space.fault(va, "rw"),
        lambda: AddressSpace("rcu"),
    ):
        with pytest.raises(ValueError, match=r"prot|access|policy"):
            call()
    assert (space.mappings(), space.pt.dump()) == before


def test_running_out_of_frames_changes_nothing(policy: str) -> None:
    space = AddressSpace(policy, frames=ptl.Frames(12 * 4096))
    va = space.mmap(64 * 4096)
    written = 0
    with contextlib.suppress(ptl.OutOfFrames):
        for written in range(64):
            space.write(va + written * 4096, b"x")
    assert 4 < written < 63
    space.check()
    with pytest.raises(ptl.OutOfFrames):
        space.fork()
    space.check()
    assert all(space.read(va + page * 4096, 1) == b"x" for page in range(written))
    space.close()
    assert space.frames.stats()["data_frames"] == 0


# -- faults


def needs_huge_pages(space: AddressSpace) -> None:
    if not space.pt.arch.page_sizes[1:]:
        pytest.skip(f"{space.pt.arch.name} has no huge pages")


def test_faults_say_what_they_did(space: AddressSpace, page: int, huge: int) -> None:
    needs_huge_pages(space)
    va = space.mmap(huge + page, addr=2 * huge)
    assert space.fault(va, "r") is Fault.DEMAND_ZERO_HUGE
    assert space.fault(va + page, "w") is Fault.SPURIOUS
    assert space.fault(va + huge, "w") is Fault.DEMAND_ZERO
    child = space.fork()
    assert space.fault(va + huge, "w") is Fault.COPIED
    assert child.fault(va + huge, "w") is Fault.REUSED
    assert child.fault(va, "w") is Fault.COPIED
    space.check(child)
    assert child.swap_out(va + huge)
    assert child.fault(va + huge, "r") is Fault.SWAPPED_IN
    child.close()


def test_faults_report_as_hardware_does(space: AddressSpace, page: int) -> None:
    va = space.mmap(page, "r")
    for present in (False, True):
        with pytest.raises(SegmentationFault) as fault:
            space.write(va + 5, b"x")
        error = fault.value
        assert (error.va, error.access, error.user, error.present) == (va, "w", True, present)
        assert error.error_code == present | 2 | 4
        assert ("protection" in str(error)) is present
        space.read(va, 1)
    with pytest.raises(SegmentationFault) as fault:
        space.fault(va + page, "x", user=False)
    assert fault.value.error_code == 16


def test_a_stack_grows_down_to_its_guard(space: AddressSpace, page: int, huge: int) -> None:
    space.mmap(page, addr=huge)
    top = huge + 4 * page if space.pt.arch.name == "tiny" else huge + 16 * page
    space.mmap(page, addr=top, grows_down=True)
    space.write(top - page, b"deeper")
    assert space.mappings()[-1].start == top - page
    space.write(huge + 2 * page, b"deepest")
    with pytest.raises(SegmentationFault):
        space.write(huge + page, b"the guard")
    assert space.stats()["stack_grown"] >= 1
    assert space.read(top - page, 6) == b"deeper"


def test_a_guard_faults_for_ever(space: AddressSpace, page: int) -> None:
    va = space.mmap(3 * page)
    space.write(va, b"a" * 3 * page)
    space.madvise(va + page, page, Advice.GUARD)
    with pytest.raises(SegmentationFault):
        space.read(va + page, 1)
    assert space.pt.arch.decode_soft(space.pt.walk(va + page).steps[-1].raw).type == Kind.GUARD
    assert space.read(va + 2 * page, 1) == b"a"
    space.madvise(va, 3 * page, Advice.UNGUARD)
    assert space.read(va, 3 * page) == b"a" * page + bytes(page) + b"a" * page


# -- protection


def test_what_was_protected_comes_back(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(huge + 2 * page, addr=2 * huge)
    data = random.Random(1).randbytes(huge + 2 * page)
    space.write(va, data)
    for prot in ("r", "", "r", "", "rw"):
        space.mprotect(va + page, huge, prot)
        for at in (page, huge):
            if prot:
                assert space.read(va + at, page) == data[at : at + page]
            else:
                with pytest.raises(SegmentationFault):
                    space.read(va + at, 1)
            if prot != "rw":
                with pytest.raises(SegmentationFault):
                    space.write(va + at, b"x")
        assert space.read(va, page) == data[:page]
        space.check()
    space.write(va + page, b"x")


def test_protection_does_not_undo_copy_on_write(space: AddressSpace, page: int) -> None:
    va = space.mmap(page)
    space.write(va, b"parent")
    child = space.fork()
    child.mprotect(va, page, "r")
    child.mprotect(va, page, "rw")
    child.write(va, b"child!")
    assert space.read(va, 6) == b"parent"
    space.check(child)
    child.close()


# -- moving


def test_a_mapping_moves_with_its_contents(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(huge, addr=huge)
    data = random.Random(2).randbytes(huge)
    space.write(va, data)
    va = space.mremap(va, huge, huge, new=5 * huge)
    assert space.read(va, huge) == data
    va = space.mremap(va, huge, huge, new=7 * huge + page)  # no huge page fits there
    assert space.read(va, huge) == data
    with pytest.raises(SegmentationFault):
        space.read(5 * huge, 1)


def test_a_mapping_grows_and_shrinks(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(2 * page, addr=huge)
    space.write(va, b"x" * 2 * page)
    assert space.mremap(va, 2 * page, 3 * page) == va
    space.mmap(page, addr=va + 3 * page)
    elsewhere = space.mremap(va, 3 * page, 4 * page)
    assert elsewhere != va
    assert space.read(elsewhere, 4 * page) == b"x" * 2 * page + bytes(2 * page)
    assert space.mremap(elsewhere, 4 * page, page) == elsewhere
    with pytest.raises(SegmentationFault):
        space.read(elsewhere + page, 1)


# -- fork


def test_parent_and_child_go_their_own_ways(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(huge + page, addr=2 * huge)
    space.write(va, b"before" * ((huge + page) // 6))
    family = [space, space.fork()]
    family.append(family[1].fork())
    for number, member in enumerate(family):
        for at in (0, huge - 3, huge + 1):
            member.write(va + at, bytes([number] * 6))
        space.check(*family[1:])
    for number, member in enumerate(family):
        assert member.read(va, 8) == bytes([number] * 6) + b"be"
        assert member.read(va + huge - 3, 6) == bytes([number] * 6)
    for member in family[1:]:
        member.close()


def test_the_last_owner_need_not_copy(space: AddressSpace, page: int) -> None:
    va = space.mmap(page)
    space.write(va, b"x")
    space.fork().close()
    assert space.fault(va, "w") is Fault.REUSED


# -- advice


def test_dontneed_gives_tables_back_too(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(2 * huge, addr=2 * huge)
    space.madvise(va, 2 * huge, Advice.NOHUGEPAGE)
    tables = space.pt.stats()["tables"]
    space.write(va, b"x" * 2 * huge)
    assert space.pt.stats()["tables"] > tables
    assert space.madvise(va, 2 * huge, Advice.DONTNEED)
    assert space.pt.stats()["tables"] == 1
    assert space.read(va, 4) == bytes(4)


def test_collapse_on_demand(space: AddressSpace, page: int, huge: int) -> None:
    needs_huge_pages(space)
    va = space.mmap(huge, addr=2 * huge)
    space.madvise(va, huge, Advice.NOHUGEPAGE)
    space.write(va + page, b"y" * page)
    assert space.madvise(va, huge, Advice.COLLAPSE) is ptl.Outcome.NO_TABLE
    space.madvise(va, huge, Advice.HUGEPAGE)
    assert space.madvise(va, huge, Advice.COLLAPSE)
    assert space.pt.lookup(va).size == huge
    assert space.read(va, 3 * page) == bytes(page) + b"y" * page + bytes(page)


@pytest.mark.parametrize("arch", ["m68k_sun3", "mips32", "xtensa"])
def test_a_format_without_huge_pages(arch: str) -> None:
    """Everything is done in pages; and a huge one, asked for, is an error."""
    space = new_space(arch=arch)
    page, region = space.pt.arch.page_sizes[0], space.pt.arch.level(2).span
    assert space.pt.arch.page_sizes == (page,)
    va = space.mmap(region + page, addr=2 * region)
    assert [space.fault(va + page, access) for access in "rw"] == [Fault.DEMAND_ZERO, Fault.SPURIOUS]
    space.write(va + region - 2, b"edge")
    with space.fork() as child:
        assert child.fault(va + region, "w") is Fault.COPIED
        child.write(va + region, b"child")
        assert space.swap_out(va + page)
        assert space.fault(va + page, "r") is Fault.SWAPPED_IN
        space.check(child)
    assert space.read(va + region - 3, 6) == b"\0edge\0"
    with pytest.raises(ptl.FormatError, match="has no pages to make a leaf of level 2 of"):
        space.madvise(va, region, Advice.COLLAPSE)
    space.mprotect(va, region, "r")
    with pytest.raises(SegmentationFault):
        space.write(va + page, b"x")
    space.check()
    space.close()
    assert space.frames.stats()["data_frames"] == 0


def test_which_pages_are_there(space: AddressSpace, page: int) -> None:
    va = space.mmap(4 * page)
    space.madvise(va, 4 * page, Advice.NOHUGEPAGE)
    space.write(va + page, b"x")
    space.write(va + 2 * page, b"x")
    space.swap_out(va + 2 * page)
    assert space.mincore(va, 4 * page) == b"\0\1\0\0"
    space.mprotect(va, 4 * page, "")
    assert space.mincore(va, 4 * page) == b"\0\1\0\0"


def test_a_page_moves_to_other_frames(space: AddressSpace, page: int, huge: int) -> None:
    va = space.mmap(2 * huge, addr=2 * huge)
    space.write(va, b"huge")
    space.madvise(va + huge, huge, Advice.NOHUGEPAGE)
    space.write(va + huge, b"small")
    for at, data in ((va, b"huge"), (va + huge, b"small")):
        before = space.pt.translate(at)
        assert space.migrate(at)
        assert space.pt.translate(at) != before
        assert space.read(at, len(data)) == data
    assert not space.migrate(va + huge + page)
