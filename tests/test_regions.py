"""The promise: an architecture whose addresses lie in regions at the two ends of the 64 bits works as any other.

ia64 has three bits at the top of an address that say which region it is in, and dozens in the middle that must be 0.
Tables are indexed by both together.
"""

from __future__ import annotations

from array import array

import pytest

import ptl
from made_up import REGIONS
from ptl import AddressError
from ptl.arch import Arch

FORMATS = [arch for arch in (*map(ptl.arch.get, ptl.arch.names()), REGIONS) if arch.region_bits]
EACH = pytest.mark.parametrize("arch", FORMATS, ids=lambda arch: arch.name)


def region(arch: Arch, number: int) -> int:
    """The first address of a region."""
    return number << 64 - arch.region_bits


@EACH
def test_each_region_has_its_own_pages(arch):
    pt = ptl.PageTable(arch)
    page = arch.page_sizes[0]
    starts = [region(arch, number) for number in range(1 << arch.region_bits)]
    for number, va in enumerate(starts):
        pt.map(va + page, (number + 1) * page)
    assert list(pt.translate(array("Q", [va + page + 5 for va in starts]))) == [
        (number + 1) * page + 5 for number in range(len(starts))
    ]
    assert len({pt.walk(va).steps[0].index for va in starts}) == len(starts)
    assert all(f"{va + page:#x}-" in pt.dump() for va in starts)
    pt.check()


@EACH
def test_between_the_regions_there_is_nothing(arch):
    pt = ptl.PageTable(arch)
    size = 1 << arch.va_bits - arch.region_bits
    page = arch.page_sizes[0]
    for va in (size, region(arch, 1) - page, region(arch, 1) + size):
        with pytest.raises(AddressError, match="not canonical"):
            pt.map(va, 0)
    with pytest.raises(AddressError, match="runs out of the canonical addresses"):
        pt.map(size - page, 0, 2 * page)
    assert list(pt.translate(array("Q", [size]))) == [ptl.UNMAPPED]


@EACH
def test_the_last_page_of_a_region(arch):
    pt = ptl.PageTable(arch)
    page, size = arch.page_sizes[0], 1 << arch.va_bits - arch.region_bits
    for number in range(1 << arch.region_bits):
        va = region(arch, number) + size - page
        pt.map(va, page)
        assert pt.lookup(va + page - 1).va == va
        assert arch.canonical((number + 1) * size - page) == va
        assert pt.unmap(region(arch, number), size) == page
    pt.check()
