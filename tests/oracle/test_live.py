"""A program goes on while another thread changes the table under it.

    the CPU's thread                         the other thread
    step an instruction, on the very bytes   collapse, split, migrate: no lock that the CPU knows, no stop
    a fault? try it again                    shoot down: ask for a flush, and wait until the CPU has done it
    asked for a flush? flush, say so

The emulator walks the table without the GIL, in the middle of whatever the other thread is doing. Every load and store
must land where arithmetic says. What the CPU holds in its TLB it holds until it flushes, so whoever relies on a
translation being gone waits for that, as a kernel waits for its interrupts to be answered; a collapse in place does
not, for what is held still leads to the same bytes.

Accessed and dirty are set beforehand: this emulator writes them without an atomic operation.
"""

from __future__ import annotations

import random
import threading

import mmu
import pytest
from machine import Machine
from mmu import Mode
from test_unicorn import Running

from helpers import Crew
from ptl import Outcome, State

pytestmark = pytest.mark.skipif(bool(mmu.MISSING), reason=mmu.MISSING)

REGION = 0x20_0000_0000
CHANGES = 120
MIGRATION = 7  # the type of the entry that a page has while it is on its way


class LiveCpu:
    """A core that steps through the program in a thread of its own, and can be asked to flush."""

    def __init__(self, running: Running) -> None:
        self.core, self.ledger = running.core, running.ledger
        self.asked, self.flushed = 0, 0
        self.answered = threading.Condition()
        self.steps = self.faults = 0

    def go(self, crew: Crew) -> None:
        """Execute until the others have done their job."""
        for _ in crew.meanwhile():
            if self.core.step():
                self.ledger.run(1)
                self.steps += 1
            else:
                self.faults += 1
            if self.asked != self.flushed:
                self.core.flush()
                with self.answered:
                    self.flushed = self.asked
                    self.answered.notify_all()

    def shoot_down(self, crew: Crew) -> None:
        """Wait until no translation from before is in use. Called by one thread."""
        with self.answered:
            self.asked += 1
            while self.flushed != self.asked and not crew.failures:
                self.answered.wait(0.05)


@pytest.mark.parametrize(("mode", "flags"), [(Mode.SUPERVISOR, "rwxad"), (Mode.USER, "rwxuad")])
@pytest.mark.parametrize(
    "name", ["x86_64", "arm64_4k", "riscv_sv39", "arm_lpae", "i386_pae", "arm", "m68k", "s390", "sparc32"]
)
def test_a_program_runs_on_while_a_thread_collapses_splits_and_migrates(name, mode, flags):
    """Or only migrates, on a CPU without huge leaves."""
    machine = Machine(name)
    arch, pt, frames = machine.arch, machine.pt, machine.frames
    rng = random.Random(5)
    region = REGION if arch.va_bits > 32 else 0x8000_0000
    page, size = (arch.level(number).span for number in (1, 2))
    has_huge_leaves = size in arch.page_sizes
    pt.map(region, frames.alloc(size), size, flags)
    running = Running(machine, mode, region, size, rng)
    cpu, crew, done = LiveCpu(running), Crew(), dict.fromkeys(("collapse", "split", "migrate"), 0)

    def move_elsewhere(va: int) -> bool:
        """A page to other frames, by the kernel's protocol; False where there is no page."""
        leaf = pt.lookup(va)
        if leaf is None or leaf.size != page:
            return False
        waiting = arch.encode_soft(MIGRATION, leaf.pa >> arch.page_shift)
        assert pt.exchange(leaf.va, waiting) == leaf.raw
        cpu.shoot_down(crew)
        new = frames.alloc(page)
        frames.view(new, page)[:] = frames.view(leaf.pa, page)
        frames.view(leaf.pa, page)[:] = b"\xee" * page
        assert pt.walk(leaf.va).steps[-1].state is State.SOFT
        assert pt.exchange(leaf.va, arch.encode(new, leaf.flags)) == waiting
        return True

    def move_all_back() -> None:
        """Every page to one run of frames again, so that they can collapse in place."""
        target = frames.alloc(size)
        for va in range(region, region + size, page):
            pt.exchange(va, arch.encode_soft(MIGRATION, pt.translate(va) >> arch.page_shift))
        cpu.shoot_down(crew)
        for va in range(region, region + size, page):
            old = arch.decode_soft(pt.walk(va).steps[-1].raw).offset << arch.page_shift
            frames.view(target + va - region, page)[:] = frames.view(old, page)
            pt.exchange(va, arch.encode(target + va - region, flags))

    def change() -> None:
        for turn in crew.turns(CHANGES):
            if turn % 40 == 39 or not has_huge_leaves:
                pt.split(region)
                for _ in range(8 if has_huge_leaves else 1):
                    done["migrate"] += move_elsewhere(region + rng.choice((0, cpu.ledger.offset)) // page * page)
                if has_huge_leaves:
                    move_all_back()
            elif pt.lookup(region).size == size:
                assert pt.split(region) is Outcome.DONE
                done["split"] += 1
            else:
                assert pt.collapse(region) is Outcome.DONE
                done["collapse"] += 1

    crew.run(change, beside=(lambda: cpu.go(crew),))
    machine.flush()
    running.compare()
    running.burst()
    assert all(done[change] > 20 for change in (done if has_huge_leaves else ["migrate"])), done
    assert cpu.steps + cpu.faults >= cpu.asked > 0
    pt.check()
