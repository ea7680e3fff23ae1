"""What the tests of tables that share theirs have in common."""

from __future__ import annotations

import ptl
from layouts import put_soft
from ptl.arch import Arch

DOMAIN = ptl.EpochDomain()


class Bench:
    """A table of a format with small pages, a huge leaf, software's entry and an empty table, and room for copies."""

    def __init__(self, name: str, *, megabytes: int = 64) -> None:
        size = ptl.PageTable(name).frames
        self.frames = ptl.Frames(min(size.size, megabytes << 20), frame_bytes=size.frame_bytes, domain=DOMAIN)
        self.pt = ptl.PageTable(name, frames=self.frames)
        self.arch: Arch = self.pt.arch
        self.page = 1 << self.arch.page_shift
        self.span = self.arch.level(2).span
        self.entries = self.span // self.page
        self.has_huge = self.arch.level(2).leaf is not None
        self.pt.map(0, self.span, self.span, page_size=self.page)
        if self.has_huge:
            self.pt.map(self.span, self.span, self.span, page_size=self.span)
        put_soft(self.pt, 2 * self.span, self.page, 5)
        self.pt.map(2 * self.span + self.page, 0, self.page)
        self.pt.populate(3 * self.span)


def everything_given_back(frames: ptl.Frames) -> bool:
    """Whether no table is left, in limbo or parked, of tables that nobody has any more."""
    DOMAIN.synchronize()
    DOMAIN.reclaim()
    stats = frames.stats()
    return stats["tables"] == stats["parked"] == 0
