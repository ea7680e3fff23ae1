"""An address space over one `PageTable`: mappings, faults, copy-on-write, under a locking policy of choice.

Needs the extra `ptl[mm]` (sortedcontainers).
"""

from __future__ import annotations

from ptl.mm.entries import Kind
from ptl.mm.fault import Fault, SegmentationFault
from ptl.mm.mapping import Mapping
from ptl.mm.policy import POLICIES
from ptl.mm.space import AddressSpace, Advice

__all__ = ["POLICIES", "AddressSpace", "Advice", "Fault", "Kind", "Mapping", "SegmentationFault"]
