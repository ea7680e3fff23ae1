"""The promise: at every call site that may meet a vanished table, the example of its pattern does the right thing.

Each test lets the map fail by a real change of another thread, between the caller's look and its map (`Stage.before`),
and asks for the outcome; and that nothing stays held: the table can be retracted and reused afterwards.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import ptl

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path for path in (ROOT / "examples" / "patterns").glob("*.py") if path.stem != "stage")
PAGE, SPAN, VA = 4096, 2 << 20, 1 << 30


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "patterns"))


def example(name: str) -> ModuleType:
    return import_module(name)


@pytest.fixture
def pt() -> Iterator[ptl.PageTable]:
    """A region of pages, on a stage; at the end nothing holds on to any table."""
    pt = example("stage").stage()
    yield pt
    pt.check()
    pt.unmap(0, 1 << 40)
    pt.frames.domain.synchronize()
    assert pt.frames.domain.stats()["limbo"] == 0, "a map was not closed"


def collapse(pt: ptl.PageTable, va: int = VA) -> Callable[[], object]:
    def change() -> None:
        assert pt.collapse(va)

    return change


def zap_and_retract(pt: ptl.PageTable, va: int = VA) -> Callable[[], object]:
    def change() -> None:
        pt.unmap(va, SPAN - PAGE)
        pt.unmap(va + SPAN - PAGE, PAGE)
        assert pt.retract(va)

    return change


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_skip(pt, change) -> None:
    show = example("skip").show_pte
    assert "*pte=" in show(pt, VA)
    pt.before("pte_map", change(pt))
    assert "*pte=" not in show(pt, VA)


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_cleanup_exit(pt, change) -> None:
    module = example("cleanup_exit")
    module.lazy_mode.clear()
    pt.before("pte_map", change(pt))
    assert module.flush_hash_table_pmd_range(pt, VA) == 0
    assert module.lazy_mode == ["entered", "left"]
    pt.split(VA)


@pytest.mark.parametrize(
    ("change", "answer"), [(collapse, "huge page, turn 2"), (zap_and_retract, "nothing mapped")], ids=["huge", "gone"]
)
def test_again(pt, change, answer) -> None:
    pt.before("pte_map_lock", change(pt))
    assert example("again").set_storage_key(pt, VA, "d") == answer
    leaf = pt.lookup(VA)
    assert (leaf is None) is (answer == "nothing mapped")
    assert leaf is None or "d" in leaf.flags


def test_error(pt) -> None:
    module = example("error")
    assert module.make_secure(pt, VA + PAGE).va == VA + PAGE
    pt.map(VA + PAGE, pt.translate(VA) + PAGE)
    pt.before("locked_pte", collapse(pt))
    with pytest.raises(module.NotResident):
        module.make_secure(pt, VA + PAGE)
    assert pt.translate(VA + PAGE) == pt.translate(VA) + PAGE


def test_warn_and_continue(pt) -> None:
    """The page whose table is gone is left out, the others are done."""
    pt.map(VA + SPAN, 0x5000, 2 * PAGE)
    pt.before("pte_map_lock", collapse(pt))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        assert example("warn_and_continue").unmap_ldt(pt, VA + SPAN - 2 * PAGE, 4) == 2
    assert [str(one.message) for one in said] == [
        f"no table for the alias at {VA + SPAN - n * PAGE:#x}" for n in (2, 1)
    ]
    assert pt.lookup(VA + SPAN) is None


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_guard(pt, change) -> None:
    flush = example("guard").flush_signal_frame
    assert flush(pt, VA + 64) == pt.translate(VA + 64)
    pt.before("pte_map", change(pt))
    assert flush(pt, VA + 64) is None


def test_private_tree(pt) -> None:
    """Not a test, not a pin: so it must be private. If it is not, changes are refused all the same."""
    pt.unmap(VA + 8 * PAGE, SPAN - 8 * PAGE)
    ptes = pt.pte_kernel(VA)
    assert example("private_tree").unmap_guest_table(pt, VA) == 8
    assert ptes.stale
    assert not ptes.compare_exchange(0, ptes.load(0), pt.arch.encode(0, "r"))
    with pytest.raises(ptl.PageFault):
        pt.pte_kernel(VA)


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_kernel_or_user(pt, change) -> None:
    module = example("kernel_or_user")
    pt.map(module.KERNEL, 0x5000)
    assert module.tlb_miss(pt, module.KERNEL) == pt.arch.encode(0x5000, "rwa")
    pt.before("pte_map", change(pt))
    assert module.tlb_miss(pt, VA) == -1
    pt.unmap(module.KERNEL, PAGE)


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_copy_out(pt, change) -> None:
    flush = example("copy_out").flush_cache_page
    pt.protect(VA, SPAN, "rwa")
    assert flush(pt, VA) == f"flush {pt.translate(VA):#x}"
    pt.before("pte_map", change(pt))
    assert flush(pt, VA) == "nothing to flush"


def test_balance_through_helper(pt) -> None:
    """The helper that ends carries the map; a pointer that was handed over does not outlive it (patch 07)."""
    module = example("balance_through_helper")
    pt.before("pte_map_lock", collapse(pt))
    assert not module.protect_page(pt, VA + PAGE)
    pt.split(VA)
    ptes = pt.pte_map(VA)
    assert module.update_tlb(pt, VA) == ptes.load(0)
    ptes.close()
    pt.before("pte_map", collapse(pt))
    assert module.update_tlb(pt, VA) == 0
    with pytest.raises(ValueError, match="closed"):
        module.refill_from_pointer(ptes, 0)


@pytest.mark.parametrize("arch", ["arm64_4k", "riscv_sv39"])
def test_huge_at_leaf_level(arch) -> None:
    """A run is one page, whatever is collapsed beside it."""
    module = example("huge_at_leaf_level")
    pt = example("stage").stage(arch=arch)
    va = VA + 4 * SPAN
    module.set_huge_pte(pt, va, 0x10_0000)
    helper = threading.Thread(target=collapse(pt))
    helper.start()
    page = module.huge_ptep_get(pt, va + 9 * PAGE)
    helper.join()
    assert (page.pa, page.size) == (0x10_0000, 64 << 10)
    assert pt.collapse(va) is not ptl.Outcome.DONE
    assert module.huge_ptep_set_wrprotect(pt, va + PAGE)
    assert "w" not in module.huge_ptep_get(pt, va).flags
    assert module.huge_ptep_clear(pt, va + PAGE) == 64 << 10
    assert module.huge_ptep_get(pt, va) is None


def test_copy_of_the_slot(pt) -> None:
    pt.protect(VA + 5 * PAGE, PAGE, "rwa")
    old = pt.pte_map_ro(VA)
    pt.protect(VA, SPAN, "rw")
    assert pt.collapse(VA)
    assert example("copy_of_the_slot").scan_for_flush(old) == [VA + 5 * PAGE]
    assert example("copy_of_the_slot").scan_for_flush(pt.pte_map_ro(VA)) == []


@pytest.mark.parametrize("end", [VA + SPAN, VA + SPAN - 8 * PAGE])
@pytest.mark.parametrize("change", [collapse, zap_and_retract])
def test_address_reached(pt, change, end) -> None:
    pt.before("pte_map_lock", change(pt))
    assert example("address_reached").zap_range(pt, VA, end) == 1
    assert pt.lookup(VA) is pt.lookup(end - PAGE) is None


@pytest.mark.parametrize(("change", "pages"), [(collapse, 512), (zap_and_retract, 0)], ids=["huge", "gone"])
def test_redo_this_slot(pt, change, pages) -> None:
    pt.before("pte_map", change(pt))
    assert sum(example("redo_this_slot").mincore(pt, VA, VA + 2 * SPAN)) == pages


def test_refault(pt) -> None:
    huge = pt.frames.alloc(SPAN)
    pt.before("pte_alloc_map_lock", lambda: pt.map(VA + SPAN, huge, SPAN))
    assert example("refault").load(pt, VA + SPAN) == (huge, ["refault"])


def test_refault_tells_running_out_of_memory() -> None:
    pt = ptl.PageTable(frames=ptl.Frames(2 * PAGE))
    with pytest.raises(ptl.OutOfFrames):
        example("refault").load(pt, VA)


@pytest.mark.parametrize("change", [collapse, zap_and_retract])
@pytest.mark.parametrize(
    ("when", "answer"), [("pte_map_rw", "no table"), ("prepared", "the slot has changed: give up")]
)
def test_map_rw_and_compare(pt, change, when, answer) -> None:
    pt.before(when, change(pt))
    before = pt.translate(VA + PAGE)
    assert example("map_rw_and_compare").set_if_same(pt, VA + PAGE, 0x5000) == answer
    assert pt.lookup(VA + PAGE) is None or pt.translate(VA + PAGE) == before


def test_try_lock_inversion(pt) -> None:
    reclaim = example("try_lock_inversion").zap_and_reclaim
    slot = pt.pmd(VA)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with slot.lock():
            held.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    assert slot.try_lock() is None
    pt.before("retract", done.set)
    assert reclaim(pt, VA) == "slow: the upper lock was held by another; DONE"
    other.join()
    pt.map(VA, 0x5000)
    assert reclaim(pt, VA) == "fast: both locks; DONE"
    assert reclaim(pt, VA) == "no table"


@pytest.mark.parametrize("call", ["pte_map_lock", "pte_alloc_map_lock"])
def test_two_maps_nested(pt, call) -> None:
    """Either may fail; what the other holds is let go of, or the second attempt would wait for ever."""
    old, new = VA, VA + 2 * SPAN
    if call == "pte_alloc_map_lock":
        pt.before(call, lambda: pt.map(new, pt.frames.alloc(SPAN), SPAN))
        assert example("two_maps_nested").move_ptes(pt, old, new, 4) == -1
        return
    pt.before(call, collapse(pt))
    before = pt.translate(old)
    assert example("two_maps_nested").mremap(pt, old, new, 4) == [-1, 4]
    assert pt.translate(new) == before
    assert pt.lookup(old) is None


# -- as programs, and in the documentation


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path) -> None:
    package = str(Path(ptl.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env={"PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 1


def test_every_patch_leads_to_its_example() -> None:
    """Each row of the first table names one of the 23 patches, and an example whose head names that patch."""
    rows = re.findall(r"^\| (\d\d) \|.*\]\(([^)]*)\) \|$", (ROOT / "docs" / "patterns.md").read_text(), re.MULTILINE)
    assert {number for number, _ in rows} == {f"{number:02}" for number in range(1, 24)}
    for number, link in rows:
        path = (ROOT / "docs" / link).resolve()
        assert path in EXAMPLES, link
        head = path.read_text().split('"""')[1]
        assert re.search(rf"\b{number}\b", head), f"{path.name} does not say that it stands for patch {number}"


def test_every_pattern_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "patterns.md").read_text()
    assert all(f"../examples/patterns/{path.name}" in text for path in EXAMPLES)
    assert len(EXAMPLES) == 18
