"""Software TLBs: what a CPU remembers of a table, shootdown, and batches of invalidations.

A change of a `PageTable` flushes every attached `Tlb` before it returns, so a CPU never uses what is gone; a
translation that is used all the same is an error, so a forgotten flush is a failing test.
"""

from __future__ import annotations

from ptl._core import MmuGather, ProtectionFault, StaleTranslation, Tlb

__all__ = ["MmuGather", "ProtectionFault", "StaleTranslation", "Tlb"]
