"""A machine inside QEMU, paused from the first instruction on, with its RAM in our hands.

           one block of bytes, in memory, that no directory lists
             |                                     |
    ptl.Frames: tables and pages           QEMU: RAM of a machine that never runs by itself
                                             |                    |
                                           the monitor          the gdb stub: write registers, step one instruction
                                           gva2gpa, info mem

Both channels are socket pairs, so there is no port to find, no file to leave behind, and nobody else can connect. QEMU
runs under `timeout`: whatever happens to the tests, it is gone LIFETIME_SECONDS after it began.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

import judges
from qemu.gdb import BlockStub, ByteOrder, GdbError, Stub

TIMEOUT_SECONDS = 30
LIFETIME_SECONDS = 600

JUDGE = "QEMU"


class EmulatorError(Exception):
    """QEMU could not do what it was asked, or is gone."""


class Emulator:
    """One paused machine. Its RAM is `ram`; `close` ends it."""

    def __init__(
        self,
        target: str,
        arguments: tuple[str, ...],
        ram_bytes: int,
        byte_order: ByteOrder,
        layout: Mapping[str, int] | None = None,
    ) -> None:
        """`layout` has the registers of a target that does not describe them (BlockStub)."""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by _end()
        block = os.memfd_create("ram")
        os.truncate(block, ram_bytes)
        self.ram = mmap.mmap(block, ram_bytes)
        monitor, its_monitor = socket.socketpair()
        gdb, its_gdb = socket.socketpair()
        theirs = (block, its_monitor.fileno(), its_gdb.fileno())
        try:
            self._process = subprocess.Popen(
                [
                    *("timeout", "--kill-after=5", str(LIFETIME_SECONDS)),
                    *(f"qemu-system-{target}", *arguments),
                    *("-S", "-nodefaults", "-display", "none", "-m", f"{ram_bytes >> 20}M"),
                    "-object",
                    f"memory-backend-file,id=ram,size={ram_bytes},mem-path=/proc/self/fd/{block},share=on",
                    *("-machine", "memory-backend=ram"),
                    *("-chardev", f"socket,id=monitor,fd={its_monitor.fileno()}"),
                    *("-mon", "chardev=monitor,mode=control"),
                    *("-chardev", f"socket,id=gdb,fd={its_gdb.fileno()}", "-gdb", "chardev:gdb"),
                ],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
            )
        finally:
            its_monitor.close()
            its_gdb.close()
            os.close(block)
        monitor.settimeout(TIMEOUT_SECONDS)
        self._monitor = monitor
        self._lines = monitor.makefile("rwb")
        try:
            version = self._receive()["QMP"]["version"]["qemu"]
            judges.versions[JUDGE].add(f"{version['major']}.{version['minor']}.{version['micro']}")
            self._command("qmp_capabilities")
            self.stub = BlockStub(gdb, byte_order, layout) if layout else Stub(gdb, byte_order)
        except (OSError, EmulatorError, GdbError) as error:
            gdb.close()
            raise EmulatorError(f"qemu-system-{target} did not start: {error}\n{self._end()}") from error

    def monitor(self, command: str) -> str:
        """What the human monitor prints for a command."""
        printed = self._command("human-monitor-command", **{"command-line": command})
        assert isinstance(printed, str)
        return printed.replace("\r\n", "\n")

    def physical(self, va: int) -> int | None:
        """Where the monitor says that an address leads, in the mode that the CPU is in; None for nowhere."""
        printed = self.monitor(f"gva2gpa {va:#x}")
        match = re.match(r"gpa: (?:0x)?([0-9a-f]+)|Unmapped", printed)
        if match is None:
            raise EmulatorError(f"gva2gpa {va:#x} printed {printed!r}")
        return int(match[1], 16) if match[1] else None

    def close(self) -> None:
        """End the machine, and wait for that."""
        self.stub.close()
        self._end()

    def _end(self) -> str:
        """End the process; what it printed."""
        with suppress(OSError):  # it may be gone, and what was to be sent with it
            self._lines.close()
        self._monitor.close()
        self._process.terminate()  # which `timeout` hands on, and insists on
        self._process.wait(TIMEOUT_SECONDS)
        with self._errors:
            self._errors.seek(0)
            return self._errors.read().decode(errors="replace")

    def _command(self, name: str, **arguments: object) -> object:
        self._lines.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()
        while True:
            answer = self._receive()
            if "error" in answer:
                raise EmulatorError(f"{name} failed: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def _receive(self) -> dict:
        """The next message of the monitor, whatever it is about."""
        line = self._lines.readline()
        if not line:
            raise EmulatorError("QEMU ended")
        return json.loads(line)
