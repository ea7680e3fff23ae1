"""The remote protocol of gdb, as far as a judge needs it: registers by name, and one instruction at a time.

    $P41=9000000000000010#..    write register 0x41        $OK#..
    $s#..                       step                       $T05thread:01;#..
    $p40#..                     read register 0x40         $0000000005010004#..

Writes are not waited for: they go out with the step that needs them, so an access costs two round trips. The next
packet tells that the last one arrived; a "+" for each would be a round trip more.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Literal

TIMEOUT_SECONDS = 30
ByteOrder = Literal["little", "big"]


class GdbError(Exception):
    """The stub refused a packet, or is gone."""


class Stub:
    """One connection to a stub. `registers` has the number and the bytes of each register, by name."""

    def __init__(self, connection: socket.socket, byte_order: ByteOrder) -> None:
        self._connection = connection
        self._connection.settimeout(TIMEOUT_SECONDS)
        self._received = b""
        self._byte_order = byte_order
        self.registers: dict[str, tuple[int, int]] = {}
        self._ask("qSupported:xmlRegisters=all")
        self._describe()

    def read(self, register: str) -> int:
        """The value of a register."""
        number, _ = self.registers[register]
        answer = self._ask(f"p{number:x}")
        if answer.startswith("E"):
            raise GdbError(f"register {register} cannot be read: {answer}")
        return int.from_bytes(bytes.fromhex(answer), self._byte_order)

    def write(self, **values: int) -> None:
        """Write registers, in that order."""
        self._exchange(self._writes(values))

    def step(self, **values: int) -> None:
        """Write registers, in that order; then execute one instruction, or take the exception that it raises."""
        self._go("s", values)

    def stop_at(self, address: int) -> None:
        """From now on, `run` ends before the instruction at this address."""
        if (answer := self._ask(f"Z0,{address:x},4")) != "OK":
            raise GdbError(f"no breakpoint at {address:#x}: {answer}")

    def run(self, **values: int) -> None:
        """Write registers, in that order; then execute up to one of the instructions of `stop_at`."""
        self._go("c", values)

    def put(self, address: int, data: bytes) -> None:
        """Write memory, as the CPU sees it."""
        if (answer := self._ask(f"M{address:x},{len(data):x}:{data.hex()}")) != "OK":
            raise GdbError(f"no memory to write at {address:#x}: {answer}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _go(self, how: str, values: Mapping[str, int]) -> None:
        *_, stop = self._exchange([*self._writes(values), how])
        if not stop.startswith("T05"):
            raise GdbError(f"execution ended with {stop!r}")

    def _writes(self, values: Mapping[str, int]) -> list[str]:
        """The packets that write registers."""
        return [f"P{self.registers[name][0]:x}={self._bytes(name, value).hex()}" for name, value in values.items()]

    def _bytes(self, register: str, value: int) -> bytes:
        _, size = self.registers[register]
        return (value % (1 << 8 * size)).to_bytes(size, self._byte_order)

    def _exchange(self, packets: list[str]) -> list[str]:
        """Send packets together; all but the last are register writes, which must end well."""
        self._send(packets)
        answers = [self._receive() for _ in packets]
        for packet, answer in zip(packets, answers, strict=True):
            if packet[0] in "PG" and answer != "OK":
                raise GdbError(f"packet {packet!r} was refused with {answer!r}")
        return answers

    def _ask(self, packet: str) -> str:
        self._send([packet])
        return self._receive()

    def _send(self, packets: list[str]) -> None:
        self._connection.sendall(b"".join(b"$%b#%02x" % (data := p.encode(), sum(data) & 0xFF) for p in packets))

    def _receive(self) -> str:
        """The next packet, without its frame; acknowledgements are passed over."""
        while (match := re.search(rb"\$([^#]*)#[0-9a-f]{2}", self._received)) is None:
            data = self._connection.recv(1 << 16)
            if not data:
                raise GdbError("the stub hung up")
            self._received += data
        self._received = self._received[match.end() :]
        return re.sub(rb"}(.)", lambda escaped: bytes([escaped[1][0] ^ 0x20]), match[1], flags=re.DOTALL).decode(
            "latin-1"
        )

    def _describe(self) -> None:
        """Take numbers and sizes of registers from the target description, where the target has one."""
        number = 0
        for feature in re.findall(r'include\s+href="([^"]+)"', self._fetch("target.xml")):
            for attributes in re.findall(r"<reg\s+([^>]*)>", self._fetch(feature)):
                register = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', attributes))
                number = int(register.get("regnum", number))
                self.registers[register["name"]] = number, int(register["bitsize"]) // 8
                number += 1

    def _fetch(self, document: str) -> str:
        """A document of the target description, without comments: they may hold registers that are not there."""
        text = ""
        while True:
            answer = self._ask(f"qXfer:features:read:{document}:{len(text):x},f00")
            if answer[:1] not in ("m", "l"):
                return ""
            text += answer[1:]
            if answer[0] == "l":
                return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


class BlockStub(Stub):
    """The stub of a target that does not describe its registers, and reads and writes all of them at once."""

    def __init__(self, connection: socket.socket, byte_order: ByteOrder, layout: Mapping[str, int]) -> None:
        """`layout` has the bytes of each register, from the first to the last of those that are needed."""
        super().__init__(connection, byte_order)
        self._block: bytearray | None = None  # as long as nothing has been executed
        at = 0
        for name, size in layout.items():
            self.registers[name] = at, size
            at += size

    def read(self, register: str) -> int:
        """The value of a register."""
        at, size = self.registers[register]
        return int.from_bytes(self._registers()[at : at + size], self._byte_order)

    def _registers(self) -> bytearray:
        if self._block is None:
            self._block = bytearray.fromhex(self._ask("g"))
        return self._block

    def _writes(self, values: Mapping[str, int]) -> list[str]:
        block = self._registers()
        for name, value in values.items():
            at, size = self.registers[name]
            block[at : at + size] = self._bytes(name, value)
        return ["G" + block.hex()]

    def _go(self, how: str, values: Mapping[str, int]) -> None:
        super()._go(how, values)
        self._block = None
