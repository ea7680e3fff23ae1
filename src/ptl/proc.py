"""The address space of a live Linux process: its mappings, and which of their pages are in memory.

`read` takes both from /proc: the mappings from /proc/PID/maps, the pages from /proc/PID/pagemap. Where the
kernel offers it (Linux 6.7 and later), the PAGEMAP_SCAN request names the resident ranges first, so that a
reservation of many TiB costs nothing, and it also says exactly which pages are huge. Elsewhere the whole of
each mapping is read, at 8 bytes for each 4 KiB, and huge pages are inferred from /proc/PID/smaps.

The process keeps running while it is read: the result is a picture of a moving thing, exact only for those
parts that did not change in the meantime. Frame numbers need CAP_SYS_ADMIN. Device memory and other ranges
without ordinary pages have no pagemap and so appear as mappings only.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple, Self

from ptl._core import AddressError, Frames, PageTable
from ptl.arch import Arch
from ptl.arch import get as get_arch

__all__ = ["Extent", "Layout", "Mapping", "Placed", "ProcessError", "ProcessImage", "lay_out", "read", "snapshot"]

PAGE = 4096
HUGE_PAGE = 2 << 20


class ProcessError(OSError):
    """The address space of a process cannot be read; the message says why, `errno` is the system's number."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps.

    `start` and `end` (exclusive) are virtual addresses, `offset` is a position in the file; all in bytes.
    `permissions` is as the kernel prints it, for instance "rw-p". `path` is a file, with " (deleted)" behind
    it if the kernel says so, or a name such as "[heap]", or empty.
    """

    start: int
    end: int
    permissions: str
    offset: int
    path: str

    @property
    def length(self) -> int:
        """The size in bytes."""
        return self.end - self.start

    @property
    def readable(self) -> bool:
        """Whether the process may read it."""
        return self.permissions[0] == "r"

    @property
    def writable(self) -> bool:
        """Whether the process may write it."""
        return self.permissions[1] == "w"

    @property
    def executable(self) -> bool:
        """Whether the process may execute it."""
        return self.permissions[2] == "x"

    @property
    def shared(self) -> bool:
        """Whether its writes are seen by others, as opposed to private copies."""
        return self.permissions[3] == "s"


@dataclass(frozen=True, slots=True)
class Extent:
    """A maximal run of resident pages of one mapping that have the same attributes and consecutive frames.

    `va` and `length` are in bytes, `page_size` is 4096 or 2 MiB; a 1 GiB page is reported as 512 of 2 MiB.
    `pfn` is the number of the first 4 KiB frame, or None where the kernel hides it; runs are then longer, as
    they do not end where the frames jump. `writable` and `executable` are the mapping's: a page that is
    still to be copied on write may be read-only in the real page table. `file` is true for pages of files
    and of shared memory. Pages stay resident, and are listed, after their mapping lost all its permissions.
    """

    va: int
    length: int
    page_size: int
    pfn: int | None
    writable: bool
    executable: bool
    file: bool


@dataclass(frozen=True, slots=True)
class ProcessImage:
    """What `read` saw of one process.

    `command` is the kernel's short name of it, at most 15 bytes. `mappings` and `extents` are in order of
    address. `frame_numbers_known` is true if every extent has its `pfn`. `huge_pages_known` is false if some
    huge page may be reported as small ones; small ones are never reported as huge.
    """

    pid: int
    command: str
    mappings: tuple[Mapping, ...]
    extents: tuple[Extent, ...]
    frame_numbers_known: bool
    huge_pages_known: bool

    @property
    def pages(self) -> int:
        """How much is resident, in pages of 4 KiB; huge pages count as 512."""
        return sum(extent.length for extent in self.extents) // PAGE

    @property
    def huge_pages(self) -> int:
        """The number of resident pages of 2 MiB."""
        return sum(extent.length for extent in self.extents if extent.page_size == HUGE_PAGE) // HUGE_PAGE


def read(pid: int | None = None, *, proc: Path = Path("/proc")) -> ProcessImage:
    """Read the address space of a process.

    `pid` is its number, None the calling process; `proc` is where the proc file system is mounted.

    Raises ProcessError if the process does not exist, ends while it is read, has no address space (a kernel
    thread, a zombie) or may not be looked at, and if the system is not Linux with pages of 4096 bytes;
    ValueError if `pid` is not positive and TypeError if it is not an int.
    """
    if pid is None:
        pid = os.getpid()
    elif isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"pid must be an int, not {type(pid).__name__}")
    elif pid <= 0:
        raise ValueError(f"pid must be positive, not {pid}")
    if not proc.is_dir():
        raise ProcessError(f"not Linux: no {proc}")
    page_size = os.sysconf("SC_PAGE_SIZE")
    if page_size != PAGE:
        raise ProcessError(f"this system has pages of {page_size} bytes; only {PAGE} is supported")
    with _Files(proc, pid) as files:
        return _read(files)


@dataclass(frozen=True, slots=True)
class Placed:
    """A run of resident pages where it goes in a page table: addresses, `length` and `page_size` in bytes."""

    va: int
    pa: int
    length: int
    page_size: int
    flags: str
    mapping: int
    """The number of its mapping in `Layout.spans`."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The pages of a process as an architecture can hold them.

    `spans` are the first and last address of each mapping. `relocated` tells that the mappings were packed
    together, each at its old distance from a huge-page boundary, because the process uses addresses that the
    architecture does not have; `frames_made_up` that the frame numbers are invented: the system hides them, or
    they are wider than the architecture's physical addresses.
    """

    arch: Arch
    spans: tuple[tuple[int, int], ...]
    pages: tuple[Placed, ...]
    relocated: bool
    frames_made_up: bool


def lay_out(image: ProcessImage, arch: str | Arch = "x86_64") -> Layout:
    """Fit the pages of a process to an architecture.

    Raises AddressError when all mappings together are larger than its addresses or its physical memory.
    """
    arch = get_arch(arch) if isinstance(arch, str) else arch
    page, huge = arch.page_sizes[:2]
    top = 1 << arch.va_bits - arch.sign_extended
    relocated = any(extent.va + extent.length > top for extent in image.extents)
    spans, moved, cursor = [], [], 0
    for mapping in image.mappings:
        start = mapping.start
        if relocated:
            start = cursor + mapping.start % huge
            cursor = -(-(start + mapping.length) // huge) * huge
            if cursor > top:
                raise AddressError(
                    f"process {image.pid} maps more than the {top:#x} bytes that {arch.name} can address"
                )
        spans.append((start, start + mapping.length - 1))
        moved.append(start - mapping.start)
    frames_made_up = any(
        extent.pfn is None or extent.pfn * PAGE + extent.length > 1 << arch.pa_bits for extent in image.extents
    )
    pages, number, free = [], 0, huge
    for extent in image.extents:
        while extent.va >= image.mappings[number].end:
            number += 1
        size = extent.page_size if extent.page_size in arch.page_sizes else page
        if frames_made_up or extent.pfn is None:
            pa = -(-free // size) * size
            free = pa + extent.length
            if free > 1 << arch.pa_bits:
                raise AddressError(f"process {image.pid} has more pages than {arch.name} has physical memory")
        else:
            pa = extent.pfn * PAGE
        flags = "r" + "w" * extent.writable + "x" * extent.executable + "u"
        pages.append(Placed(extent.va + moved[number], pa, extent.length, size, flags, number))
    return Layout(arch, tuple(spans), tuple(pages), relocated, frames_made_up)


def snapshot(pid: int | None = None, *, arch: str | Arch = "x86_64", frames: Frames | None = None) -> PageTable:
    """The resident pages of a live process, its own by default, as a PageTable.

    Huge pages stay huge where the architecture has that size. Frame numbers are invented where the system hides
    them, and addresses moved where the architecture has fewer: `lay_out` tells. O(pages).

    Raises ProcessError when the process cannot be read, AddressError when it does not fit, OutOfFrames.
    """
    layout = lay_out(read(pid), arch)
    table = PageTable(layout.arch, frames=frames)
    for placed in layout.pages:
        table.map(placed.va, placed.pa, placed.length, placed.flags, page_size=placed.page_size)
    return table


# --- the files ---------------------------------------------------------------------------------------------


class _Files:
    """The files of one process, opened through its directory, so that a reused pid is never mistaken for it."""

    def __init__(self, proc: Path, pid: int) -> None:
        self.proc = proc
        self.pid = pid
        self.reading = False
        """Whether an address space was found, so that the lack of one means that it went away."""
        self._path = proc / str(pid)
        with self.naming(""):
            self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Turn the system's errors into ProcessError, for the file of that name."""
        try:
            yield
        except ProcessError:
            raise
        except OSError as error:
            failure = ProcessError(self._explain(error, name))
            failure.errno = error.errno
            raise failure from error

    def _explain(self, error: OSError, name: str) -> str:
        file = self._path / name
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"cannot read {file}: permission denied; run as its owner or with CAP_SYS_PTRACE"
        gone = error.errno in (errno.ENOENT, errno.ESRCH) and not os.path.isdir(self._path)
        if self.reading and (gone or error.errno == errno.ESRCH):
            return self.ended
        if gone:
            return f"no such process: pid {self.pid} is gone"
        if error.errno == errno.ESRCH:
            return self.empty
        if error.errno == errno.ENOENT:
            return f"not Linux: no {file}"
        return f"cannot read {file}: {(error.strerror or str(error)).lower()}"

    @property
    def empty(self) -> str:
        return f"pid {self.pid} has no address space: it is a kernel thread or a zombie"

    @property
    def ended(self) -> str:
        return f"pid {self.pid} is gone: it ended, or changed its program, while it was read"

    @contextmanager
    def open(self, name: str) -> Iterator[FileIO]:
        """Open a file unbuffered; errors while it is open are errors of this file."""
        with self.naming(name), open(name, "rb", buffering=0, opener=self._open) as file:
            yield file

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags, dir_fd=self._folder)


def _read(files: _Files) -> ProcessImage:
    with files.open("maps") as maps:
        mappings = tuple(_parse_maps(maps.read()))
        if not mappings:
            # Also the case of a process that ended since its directory was opened.
            raise ProcessError(files.empty)
        files.reading = True
        with files.open("comm") as comm:
            command = os.fsdecode(comm.read().removesuffix(b"\n"))
        with files.open("pagemap") as pagemap:
            found, huge_pages_known = _read_pages(files, pagemap.fileno(), mappings)
            extents = tuple(_inside(found, mappings))
        # The pagemap of a dead address space reads as empty and not as an error (PAGEMAP_SCAN reports one on
        # some kernels), so what came from it is worth something only if the address space that `maps` was
        # opened on is still alive. This covers exec as well, because `maps` was opened first.
        if not os.pread(maps.fileno(), 1, 0):
            raise ProcessError(files.ended)
    return ProcessImage(
        pid=files.pid,
        command=command,
        mappings=mappings,
        extents=extents,
        frame_numbers_known=bool(extents) and all(extent.pfn is not None for extent in extents),
        huge_pages_known=huge_pages_known,
    )


def _inside(extents: Iterable[Extent], mappings: Sequence[Mapping]) -> Iterator[Extent]:
    """Leave out pages that came into memory, in mappings of their own, after the mappings were read."""
    starts = [mapping.start for mapping in mappings]
    end = 0
    for extent in extents:
        number = bisect_right(starts, extent.va) - 1
        if number >= 0 and end <= extent.va and extent.va + extent.length <= mappings[number].end:
            end = extent.va + extent.length
            yield extent


# --- maps --------------------------------------------------------------------------------------------------

_MAPS_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) \S+ \d+ *(.*)", re.DOTALL)


def _parse_maps(text: bytes) -> Iterator[Mapping]:
    # Not splitlines(): the kernel escapes only the line feed, so a path may contain any other line break.
    for line in text.split(b"\n"):
        if line:
            match = _MAPS_LINE.fullmatch(line)
            if match is None:
                raise ProcessError(f"unexpected line in maps: {os.fsdecode(line)!r}")
            start, end, permissions, offset, path = match.groups()
            yield Mapping(
                start=int(start, 16),
                end=int(end, 16),
                permissions=permissions.decode(),
                offset=int(offset, 16),
                path=os.fsdecode(path.replace(rb"\012", b"\n")),
            )


# --- pages -------------------------------------------------------------------------------------------------


class _Run(NamedTuple):
    """Resident pages from `start` to `end` with the same `file` and consecutive frames, of any page size."""

    start: int
    end: int
    pfn: int | None
    file: bool

    def huge_slots(self) -> range:
        """The addresses in this run where a huge page can be: its frames must be aligned as well."""
        if self.pfn is not None and (self.start - self.pfn * PAGE) % HUGE_PAGE:
            return range(0)
        return range(-(-self.start // HUGE_PAGE) * HUGE_PAGE, self.end - HUGE_PAGE + 1, HUGE_PAGE)


def _read_pages(files: _Files, pagemap: int, mappings: Iterable[Mapping]) -> tuple[list[Extent], bool]:
    """The extents, and whether all huge pages among them are known."""
    extents: list[Extent] = []
    known = True
    scan = _can_scan(pagemap)
    usage = {} if scan else _read_smaps(files)
    for mapping in mappings:
        if scan:
            spans, huge = _scan(pagemap, mapping.start, mapping.end)
            runs = list(_read_runs(pagemap, spans))
        else:
            used = usage.get(mapping.start)
            if mapping.permissions.startswith("---") and used is not None and not any(used):
                continue  # a bare reservation: often huge, and nothing in it
            runs = list(_read_runs(pagemap, [(mapping.start, mapping.end)]))
            found = _infer_huge(runs, used, files.proc / "kpageflags")
            known = known and found is not None
            huge = found or set()
        extents += (
            Extent(start, end - start, size, pfn, mapping.writable, mapping.executable, run.file)
            for run in runs
            for start, end, size, pfn in _cut(run, huge)
        )
    return extents, known


_PRESENT = 1 << 63
_FILE = 1 << 61
_PFN = (1 << 55) - 1
_KEPT = _PRESENT | _FILE | _PFN

_TOP_BYTE = 7 if sys.byteorder == "little" else 0
_PRESENT_TOPS = re.compile(rb"[\x80-\xff]+")
_CHUNK = 8 << 16
"""How much of pagemap to read at once, in bytes: the words of 256 MiB."""

_UNREADABLE = frozenset({errno.EFAULT, errno.EIO, errno.EINVAL, errno.EOVERFLOW})
"""What pagemap may say of addresses outside user space, such as [vsyscall]; usually it just ends there."""


def _read_chunks(pagemap: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (address, words from there on) until `end` or the end of what can be read."""
    while start < end:
        try:
            raw = os.pread(pagemap, min((end - start) // PAGE * 8, _CHUNK), start // PAGE * 8)
        except OSError as error:
            if error.errno in _UNREADABLE:
                return
            raise
        raw = raw[: len(raw) // 8 * 8]
        if not raw:
            return
        yield start, raw
        start += len(raw) // 8 * PAGE


def _read_runs(pagemap: int, spans: Iterable[tuple[int, int]]) -> Iterator[_Run]:
    """Read the words of these address ranges, which are in order, and yield the resident runs in them."""
    start, pages, head, expected = 0, 0, 0, 0

    def run() -> _Run:
        return _Run(start, start + pages * PAGE, head & _PFN or None, bool(head & _FILE))

    for first, last in spans:
        for base, raw in _read_chunks(pagemap, first, last):
            words = array("Q", raw)
            # Bit 63 is the top bit of the top byte: the search for present pages can be left to a regular
            # expression, so that long gaps cost no Python code for each page.
            for hit in _PRESENT_TOPS.finditer(raw[_TOP_BYTE::8]):
                va = base + hit.start() * PAGE
                if va != start + pages * PAGE:
                    if pages:
                        yield run()
                    start, pages, expected = va, 0, 0  # no present word is 0
                for word in words[hit.start() : hit.end()]:
                    word &= _KEPT
                    if word != expected:
                        if pages:
                            yield run()
                        start, pages, head = start + pages * PAGE, 0, word
                    pages += 1
                    expected = word + 1 if word & _PFN else word
    if pages:
        yield run()


def _cut(run: _Run, huge: Container[int]) -> Iterator[tuple[int, int, int, int | None]]:
    """Yield (start, end, page size, frame) of the parts of a run in small and in huge pages."""
    parts: list[tuple[int, int, int]] = []
    rest = run.start
    for slot in run.huge_slots():
        if slot in huge:
            first = slot
            if rest < slot:
                parts.append((rest, slot, PAGE))
            elif parts:  # right behind another huge page
                first = parts.pop()[0]
            rest = slot + HUGE_PAGE
            parts.append((first, rest, HUGE_PAGE))
    if rest < run.end:
        parts.append((rest, run.end, PAGE))
    for start, end, size in parts:
        yield start, end, size, None if run.pfn is None else run.pfn + (start - run.start) // PAGE


# --- with PAGEMAP_SCAN -------------------------------------------------------------------------------------

_PAGEMAP_SCAN = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg) of linux/fs.h.

Machines that number their requests differently (MIPS, PowerPC, SPARC) refuse it like an older kernel does.
"""

_SCAN_ARGUMENT = struct.Struct("=12Q")
_WALK_END = struct.Struct("=32xQ")
_PAGE_IS_PRESENT = 1 << 3
_PAGE_IS_HUGE = 1 << 6
_REGIONS = 1024
"""How many regions, of three words each, to ask for at once."""

_NO_SCAN = frozenset({errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES})


def _can_scan(pagemap: int) -> bool:
    """Whether the kernel knows the request."""
    try:
        _scan(pagemap, 0, PAGE)
    except OSError as error:
        if error.errno in _NO_SCAN:
            return False
        raise
    return True


def _scan(pagemap: int, start: int, end: int) -> tuple[list[tuple[int, int]], set[int]]:
    """Ask for the resident pages between two addresses: their ranges, and the addresses of the huge ones."""
    import fcntl  # here, because only Unix has it and the rest of the module can then say what is missing

    spans: list[tuple[int, int]] = []
    huge: set[int] = set()
    regions = array("Q", bytes(24 * _REGIONS))
    while start < end:
        argument = bytearray(
            _SCAN_ARGUMENT.pack(
                _SCAN_ARGUMENT.size,
                0,  # flags
                start,
                end,
                0,  # walk_end, the kernel's answer
                regions.buffer_info()[0],
                _REGIONS,
                0,  # max_pages: no limit
                0,  # category_inverted
                _PAGE_IS_PRESENT,  # category_mask: all of these
                0,  # category_anyof_mask
                _PAGE_IS_PRESENT | _PAGE_IS_HUGE,  # return_mask
            )
        )
        try:
            count: int = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        except OSError as error:
            if error.errno == errno.EFAULT:  # outside user space: [vsyscall]
                break
            raise
        for index in range(0, 3 * count, 3):
            low, high, categories = regions[index : index + 3]
            if spans and spans[-1][1] == low:
                spans[-1] = spans[-1][0], high
            else:
                spans.append((low, high))
            if categories & _PAGE_IS_HUGE:
                huge.update(_Run(low, high, None, False).huge_slots())
        (reached,) = _WALK_END.unpack_from(argument)
        if reached <= start:
            break
        start = reached
    return spans, huge


# --- without it --------------------------------------------------------------------------------------------


class _Usage(NamedTuple):
    """What smaps says of one mapping, in bytes: `resident` of it in all, and `huge` in huge pages."""

    resident: int
    huge: int


_SMAPS_FIELD = re.compile(rb"(\w+): +(\d+) kB")


def _read_smaps(files: _Files) -> dict[int, _Usage]:
    """Usage by the start of the mapping; empty if smaps cannot be read."""
    try:
        with files.open("smaps") as smaps:
            text = smaps.read()
    except ProcessError:
        return {}
    usage: dict[int, _Usage] = {}
    start: int | None = None
    fields: dict[bytes, int] = {}
    for line in [*text.split(b"\n"), b"0-0 ---p 0 0 0"]:  # one more header, to end the last mapping
        if header := _MAPS_LINE.fullmatch(line):
            if start is not None:
                usage[start] = _usage(fields)
            start, fields = int(header[1], 16), {}
        elif field := _SMAPS_FIELD.match(line):
            fields[field[1]] = int(field[2]) << 10
    return usage


def _usage(fields: dict[bytes, int]) -> _Usage:
    huge = sum(fields.get(name, 0) for name in (b"AnonHugePages", b"ShmemPmdMapped", b"FilePmdMapped"))
    hugetlb = sum(fields.get(name, 0) for name in (b"Private_Hugetlb", b"Shared_Hugetlb"))
    if fields.get(b"KernelPageSize", 0) >= HUGE_PAGE:
        huge += hugetlb
    return _Usage(fields.get(b"Rss", 0) + hugetlb, huge)


def _infer_huge(runs: Iterable[_Run], used: _Usage | None, kpageflags: Path) -> set[int] | None:
    """The addresses of the huge pages of one mapping, or None if they cannot be told from small ones.

    Neither pagemap nor kpageflags shows how a page is mapped: a huge page may be mapped in small pieces. The
    sum in smaps settles it when it equals the size of all places where a huge page can be. (Only the huge
    zero page escapes: smaps leaves it out, and it is then taken for small pages.)
    """
    slots = {slot: run for run in runs for slot in run.huge_slots()}
    if not slots or (used is not None and not used.huge):
        return set()
    if used is None:
        return None
    if len(slots) * HUGE_PAGE != used.huge:
        slots = {slot: run for slot, run in slots.items() if _is_large(slot, run, kpageflags)}
    return set(slots) if len(slots) * HUGE_PAGE == used.huge else None


_HEAD = 1 << 15
_TAIL = 1 << 16
_HUGETLB = 1 << 17
_THP = 1 << 22


def _is_large(slot: int, run: _Run, kpageflags: Path) -> bool:
    """Whether the frames at this address are one large page; also true if that is not to be found out."""
    if run.pfn is None:
        return True
    pfn = run.pfn + (slot - run.start) // PAGE
    try:
        with open(kpageflags, "rb", buffering=0) as file:
            first, *others = array("Q", os.pread(file.fileno(), HUGE_PAGE // PAGE * 8, pfn * 8))
    except (OSError, ValueError):  # not permitted, or nothing there
        return True
    whole = first & (_HEAD | _TAIL) and all(flags & _TAIL for flags in others)
    return bool(whole and first & (_THP | _HUGETLB))
