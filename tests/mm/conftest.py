"""What the tests of address spaces share: spaces of a small memory, under each policy, whose frames all come back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ptl
from ptl.mm import POLICIES, AddressSpace

ARCHITECTURES = ("tiny", "x86_64", "riscv_sv39", "i386", "arm64_4k", "s390", "sparc32", "arm", "mips64")


def new_space(policy: str = "epoch", arch: str = "x86_64", *, huge_pages: bool = True) -> AddressSpace:
    """A space with frames of its own: 1 MiB for `tiny`, else 64 MiB."""
    frame_bytes = min(4096, ptl.arch.get(arch).table_bytes(1))
    frames = ptl.Frames(1 << 20 if arch == "tiny" else 64 << 20, frame_bytes=frame_bytes, domain=ptl.EpochDomain())
    return AddressSpace(policy, arch=arch, frames=frames, huge_pages=huge_pages)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def space(policy: str, arch: str) -> Iterator[AddressSpace]:
    space = new_space(policy, arch)
    yield space
    space.check()
    space.close()
    assert space.frames.stats()["data_frames"] == 0


@pytest.fixture
def page(space: AddressSpace) -> int:
    return space.pt.arch.level(1).span


@pytest.fixture
def huge(space: AddressSpace) -> int:
    return space.pt.arch.level(2).span
