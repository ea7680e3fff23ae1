"""The machinery itself: a machine shares its RAM, is found out when it fails, and never outlives its test."""

from __future__ import annotations

import os
import shutil

import pytest

from qemu.core import MIB
from qemu.emulator import Emulator, EmulatorError
from qemu.gdb import GdbError
from qemu.machine import missing

pytestmark = pytest.mark.skipif(bool(missing("riscv_sv39")), reason=missing("riscv_sv39"))

BARE = ("-M", "none", "-cpu", "rv64")


@pytest.fixture
def emulator():
    emulator = Emulator("riscv64", BARE, 16 * MIB, "little")
    yield emulator
    emulator.close()


def test_its_ram_is_ours(emulator):
    emulator.ram[0x1230:0x1234] = (0x00058503).to_bytes(4, "little")  # lb a0, 0(a1)
    emulator.ram[0x2000] = 0x42
    assert "0x00058503" in emulator.monitor("xp/1wx 0x1230")
    emulator.stub.step(pc=0x1230, a1=0x2000)
    assert emulator.stub.read("pc") == 0x1234
    assert emulator.stub.read("a0") == 0x42


def test_registers_are_read_as_they_were_written(emulator):
    emulator.stub.write(a0=-1, a1=0x123456789ABCDEF0)
    assert emulator.stub.read("a0") == (1 << 64) - 1
    assert emulator.stub.read("a1") == 0x123456789ABCDEF0
    with pytest.raises(KeyError):
        emulator.stub.read("no_such_register")


def test_it_runs_up_to_where_it_is_told_to_stop(emulator):
    for at in range(0x1000, 0x1010, 4):
        emulator.ram[at : at + 4] = (0x00150513).to_bytes(4, "little")  # addi a0, a0, 1
    emulator.stub.stop_at(0x100C)
    emulator.stub.run(pc=0x1000, a0=0)
    assert (emulator.stub.read("pc"), emulator.stub.read("a0")) == (0x100C, 3)


def test_what_keeps_it_from_starting_is_said():
    with pytest.raises(EmulatorError, match=r"riscv64 did not start: QEMU ended\n(?s:.*)unsupported machine"):
        Emulator("riscv64", ("-M", "no-such-machine"), 16 * MIB, "little")


def test_a_machine_that_dies_is_noticed_and_can_be_closed():
    emulator = Emulator("riscv64", BARE, 16 * MIB, "little")
    emulator._process.terminate()
    emulator._process.wait()
    with pytest.raises((EmulatorError, OSError)):
        emulator.monitor("info registers")
    with pytest.raises((GdbError, OSError)):
        emulator.stub.read("pc")
    emulator.close()


def test_it_is_gone_when_it_is_closed():
    emulator = Emulator("riscv64", BARE, 16 * MIB, "little")
    process = emulator._process.pid
    emulator.close()
    assert not os.path.exists(f"/proc/{process}")
    assert shutil.which("timeout")  # which would have ended it, had the tests not
