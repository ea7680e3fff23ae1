"""The kernel's names for what ptl has: the same objects, so kernel code can be read beside ours line by line.

A name here *is* the method or class on its right (`ptl.kernel.pte_offset_map is ptl.PageTable.pte_map`), so a function
of the kernel becomes a call with the table as its first argument:

    pte = pte_offset_map_lock(mm, pmd, addr, &ptl);        pte = pte_offset_map_lock(pt, addr)
    if (!pte)                                              if pte is None:
            return -EAGAIN;                                    raise BlockingIOError
    ...                                                    ...
    pte_unmap_unlock(pte, ptl);                            pte_unmap_unlock(pte)

What differs from the kernel: a map answers None where the kernel's answers NULL, for the same four reasons; running out
of memory is an exception, so None from an `alloc` call means one thing only; handles belong to one table and pin it
alone; no caller holds a mapping's or an address space's lock, because no transition needs one.
"""

from __future__ import annotations

from ptl._core import EpochDomain, Frames, MmuGather, Outcome, PageTable, PteLock, PteMap, PteMapRw, Slot, State, Tlb
from ptl.collapse import Collapser

# -- include/linux/mm.h, mm/pgtable-generic.c: the map that may fail
pte_offset_map = PageTable.pte_map
pte_offset_map_ro_nolock = PageTable.pte_map_ro
pte_offset_map_rw_nolock = PageTable.pte_map_rw
pte_offset_map_lock = PageTable.pte_map_lock
pte_alloc_map = PageTable.pte_alloc_map
pte_alloc_map_lock = PageTable.pte_alloc_map_lock
get_locked_pte = PageTable.locked_pte
pte_unmap = PteMap.close
pte_unmap_unlock = PteLock.close
pmd_same = PteMapRw.try_lock
"""After the lock, whether the slot is still what the snapshot says; try_lock takes the lock and compares."""

# -- the map that cannot: private trees, kernel addresses, huge pages of the leaf level
pte_alloc = PageTable.populate
pte_offset_kernel = PageTable.pte_kernel
pte_offset_huge = PageTable.pte_huge
pte_alloc_huge = PageTable.pte_alloc_huge

# -- one entry
ptep_get = PteMap.load
try_cmpxchg_pte = PteMap.compare_exchange
ptep_test_and_clear_young = PageTable.test_and_clear

# -- the slot above, and its lock
pmd_offset = PageTable.pmd
pmdp_get_lockless = Slot.load
pmd_lock = Slot.lock
pmd_trylock = Slot.try_lock
pmd_none, pmd_trans_huge, pmd_bad, is_swap_pmd = State.EMPTY, State.HUGE, State.BAD, State.SOFT
"""What the kernel asks with four predicates, in this order, is one answer here: `Slot.state`."""

# -- transitions
retract_page_tables = PageTable.retract
collapse_pte_mapped_thp = PageTable.collapse
split_huge_pmd = PageTable.split
move_page_tables = PageTable.move
zap_page_range = PageTable.unmap
change_protection = PageTable.protect
try_to_free_pte = PageTable.reclaim_empty
scan_result = Outcome
khugepaged = Collapser

# -- grace periods
rcu_read_lock = EpochDomain.pin
synchronize_rcu = EpochDomain.synchronize
rcu_barrier = EpochDomain.reclaim

# -- frames
alloc_pages = Frames.alloc
get_page = Frames.share
put_page = Frames.free
page_count = Frames.owners
split_page = Frames.split

# -- TLBs
tlb_gather_mmu = MmuGather
tlb_remove_page = MmuGather.free
tlb_finish_mmu = MmuGather.flush
flush_tlb_range = Tlb.flush
