"""The promise: a kernel name is the same object as ours, never a second implementation."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import ptl
from ptl import collapse, kernel, tlb

OURS = (
    *(ptl.PageTable, ptl.PteMap, ptl.PteMapRw, ptl.PteLock, ptl.Slot),
    *(ptl.EpochDomain, ptl.Frames, tlb.Tlb, tlb.MmuGather),
)
NAMES = {name: thing for name, thing in vars(kernel).items() if name.islower() and not name.startswith("_")}
API = {
    "pte_offset_map": ptl.PageTable.pte_map,
    "pte_offset_map_ro_nolock": ptl.PageTable.pte_map_ro,
    "pte_offset_map_rw_nolock": ptl.PageTable.pte_map_rw,
    "pte_offset_map_lock": ptl.PageTable.pte_map_lock,
    "pte_alloc_map": ptl.PageTable.pte_alloc_map,
    "pte_alloc_map_lock": ptl.PageTable.pte_alloc_map_lock,
    "pte_offset_kernel": ptl.PageTable.pte_kernel,
    "pte_offset_huge": ptl.PageTable.pte_huge,
    "pte_alloc_huge": ptl.PageTable.pte_alloc_huge,
    "get_locked_pte": ptl.PageTable.locked_pte,
}


def things_of_ours() -> list[object]:
    """Every class, method and state that a kernel name may stand for."""
    members = [member for kind in OURS for member in vars(kind).values()]
    inherited = [getattr(kind, name) for kind in OURS for name in dir(kind) if not name.startswith("__")]
    return [*OURS, *members, *inherited, *ptl.State, ptl.Outcome, collapse.Collapser]


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_name_is_an_object_of_ours(name: str) -> None:
    if not inspect.ismodule(NAMES[name]) and name != "annotations":
        assert any(NAMES[name] is thing for thing in things_of_ours()), name


@pytest.mark.parametrize("name", API)
def test_the_names_that_others_rely_on(name: str) -> None:
    assert getattr(kernel, name) is API[name]


def test_no_function_is_defined_there() -> None:
    text = Path(kernel.__file__).read_text()
    assert "def " not in text
    assert "lambda" not in text


def test_kernel_code_reads_line_by_line() -> None:
    pt = ptl.PageTable()
    pte = kernel.pte_alloc_map_lock(pt, 0x1000)
    assert kernel.try_cmpxchg_pte(pte, pte.index, 0, pt.arch.encode(0x5000, "rw"))
    assert kernel.ptep_get(pte, pte.index) == pt.lookup(0x1000).raw
    kernel.pte_unmap_unlock(pte)
    kernel.zap_page_range(pt, 0x1000, 0x1000)
    assert kernel.retract_page_tables(pt, 0x1000)
    assert kernel.pte_offset_map(pt, 0x1000) is None
    assert kernel.pmd_offset(pt, 0x1000).state is kernel.pmd_none
