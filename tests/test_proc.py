"""`ptl.proc`: what is read of a process, from files made up here and from processes that really run."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from ptl import proc
from ptl.proc import Extent, Mapping, ProcessError, ProcessImage

PAGE = 4096
HUGE = 2 << 20
PID = 42

linux_only = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="needs /proc/self/pagemap")


# --- a proc file system made up of ordinary files ----------------------------------------------------------


def present(pfn: int = 0, *, file: bool = False) -> int:
    """A pagemap word of a resident page."""
    return 1 << 63 | file << 61 | pfn


def run_of(va: int, pages: int, pfn: int = 0, *, file: bool = False) -> dict[int, int]:
    """The pagemap words of resident pages in consecutive frames, by address; frame 0 hides the frames."""
    return {va + index * PAGE: present(pfn and pfn + index, file=file) for index in range(pages)}


class FakeProc:
    """A tree like /proc with one process in it. Its pagemap does not know PAGEMAP_SCAN, as on older kernels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / str(PID)
        self.folder.mkdir()
        (self.folder / "comm").write_text("made up\n")
        self.maps("")
        self.pagemap({})

    def maps(self, text: str | bytes) -> None:
        (self.folder / "maps").write_bytes(text if isinstance(text, bytes) else text.encode())

    def pagemap(self, words: dict[int, int]) -> None:
        self._sparse(self.folder / "pagemap", {va // PAGE: word for va, word in words.items()})

    def smaps(self, text: str) -> None:
        (self.folder / "smaps").write_text(text)

    def kpageflags(self, flags: dict[int, int]) -> None:
        self._sparse(self.root / "kpageflags", flags)

    def read(self) -> ProcessImage:
        return proc.read(PID, proc=self.root)

    def extents(self) -> tuple[Extent, ...]:
        return self.read().extents

    @staticmethod
    def _sparse(path: Path, words: dict[int, int]) -> None:
        with path.open("wb") as file:
            for index, word in words.items():
                file.seek(index * 8)
                file.write(struct.pack("=Q", word))


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def line(start: int, end: int, permissions: str = "rw-p", path: str = "") -> str:
    """A line of maps."""
    return f"{start:08x}-{end:08x} {permissions} 00000000 00:00 0 {path}\n"


def spans(extents: tuple[Extent, ...]) -> list[tuple[int, int]]:
    """Address and number of small pages of each extent."""
    return [(extent.va, extent.length // PAGE) for extent in extents]


# --- maps --------------------------------------------------------------------------------------------------


def paths(fake: FakeProc, *names: bytes) -> list[str]:
    """What becomes of these names at the end of a line of maps."""
    fake.maps(b"".join(b"%x000-%x000 r--p 00000000 fe:00 12    %s\n" % (n, n + 1, s) for n, s in enumerate(names, 1)))
    return [mapping.path for mapping in fake.read().mappings]


def test_a_line_of_maps_becomes_a_mapping(fake: FakeProc) -> None:
    fake.maps("00400000-0040b000 r-xs 00002000 fe:00 338944                     /usr/bin/cat\n")
    (mapping,) = fake.read().mappings
    assert mapping == Mapping(0x400000, 0x40B000, "r-xs", 0x2000, "/usr/bin/cat")
    assert mapping.length == 0xB000
    assert (mapping.readable, mapping.writable, mapping.executable, mapping.shared) == (True, False, True, True)


def test_a_private_mapping_without_permissions(fake: FakeProc) -> None:
    fake.maps(line(0x1000, 0x2000, "---p"))
    (mapping,) = fake.read().mappings
    assert (mapping.readable, mapping.writable, mapping.executable, mapping.shared) == (False,) * 4


def test_an_anonymous_mapping_has_no_path(fake: FakeProc) -> None:
    fake.maps("1000-2000 rw-p 00000000 00:00 0 \n3000-4000 rw-p 00000000 00:00 0\n")
    assert [mapping.path for mapping in fake.read().mappings] == ["", ""]


def test_special_names_stay_as_they_are(fake: FakeProc) -> None:
    names = [b"[heap]", b"[stack]", b"[vdso]", b"[anon:my arena]", b"anon_inode:[eventpoll]", b"/memfd:x (deleted)"]
    assert paths(fake, *names) == [name.decode() for name in names]


def test_paths_may_hold_spaces_and_any_other_character(fake: FakeProc) -> None:
    assert paths(fake, b"/a  b /c ", b"/tab\there", b"/carriage\rreturn", b"/form\x0cfeed", "/größe".encode()) == [
        "/a  b /c ",
        "/tab\there",
        "/carriage\rreturn",
        "/form\x0cfeed",
        "/größe",
    ]


def test_an_escaped_line_feed_in_a_path_is_put_back(fake: FakeProc) -> None:
    assert paths(fake, rb"/two\012lines") == ["/two\nlines"]


def test_a_path_that_is_not_text_keeps_its_bytes(fake: FakeProc) -> None:
    assert [os.fsencode(path) for path in paths(fake, b"/\xff\xfe")] == [b"/\xff\xfe"]


def test_a_line_of_another_form_is_refused(fake: FakeProc) -> None:
    fake.maps("not a mapping\n")
    with pytest.raises(ProcessError, match="unexpected line in maps: 'not a mapping'"):
        fake.read()


def test_the_command_is_the_kernels_short_name(fake: FakeProc) -> None:
    fake.maps(line(0x1000, 0x2000))
    image = fake.read()
    assert (image.pid, image.command) == (PID, "made up")


# --- runs of pages -----------------------------------------------------------------------------------------


def test_neighbours_in_consecutive_frames_are_one_extent(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x12000, 3, pfn=700))
    assert fake.extents() == (Extent(0x12000, 3 * PAGE, PAGE, 700, True, False, False),)


def test_nothing_resident_gives_no_extents(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    image = fake.read()
    assert (image.extents, image.pages, image.huge_pages, image.frame_numbers_known) == ((), 0, 0, False)


def test_a_gap_ends_a_run_even_if_the_frames_go_on(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x10000, 2, pfn=700) | run_of(0x13000, 2, pfn=702))
    assert spans(fake.extents()) == [(0x10000, 2), (0x13000, 2)]


def test_a_swapped_page_is_a_gap(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x10000, 3, pfn=700) | {0x11000: 1 << 62 | 701})
    assert spans(fake.extents()) == [(0x10000, 1), (0x12000, 1)]


def test_a_jump_of_the_frames_ends_a_run(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x10000, 2, pfn=700) | run_of(0x12000, 3, pfn=800))
    assert [(extent.va, extent.pfn) for extent in fake.extents()] == [(0x10000, 700), (0x12000, 800)]


def test_the_same_frame_twice_is_two_extents(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap({0x10000: present(700), 0x11000: present(700)})
    assert spans(fake.extents()) == [(0x10000, 1), (0x11000, 1)]


def test_pages_of_a_file_and_private_copies_are_apart(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000, path="/lib/x.so"))
    fake.pagemap(run_of(0x10000, 2, file=True) | run_of(0x12000, 1))
    assert [(extent.va, extent.file) for extent in fake.extents()] == [(0x10000, True), (0x12000, False)]


def test_soft_dirty_exclusive_and_write_protected_do_not_matter(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(
        {
            0x10000: present(700) | 1 << 55,
            0x11000: present(701) | 1 << 56,
            0x12000: present(702) | 1 << 57,
            0x13000: 1 << 55,  # a hole may be soft-dirty too
        }
    )
    assert spans(fake.extents()) == [(0x10000, 3)]


def test_a_mapping_border_ends_a_run(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x12000) + line(0x12000, 0x14000))
    fake.pagemap(run_of(0x10000, 4, pfn=700))
    assert spans(fake.extents()) == [(0x10000, 2), (0x12000, 2)]


def test_permissions_come_from_the_mapping(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x11000, "r-xp") + line(0x11000, 0x12000, "rw-p") + line(0x12000, 0x13000, "r--p"))
    fake.pagemap(run_of(0x10000, 3, pfn=700))
    assert [(extent.writable, extent.executable) for extent in fake.extents()] == [
        (False, True),
        (True, False),
        (False, False),
    ]


def test_pages_outside_the_mappings_are_not_looked_at(fake: FakeProc) -> None:
    fake.maps(line(0x11000, 0x12000))
    fake.pagemap(run_of(0x10000, 4, pfn=700))
    assert spans(fake.extents()) == [(0x11000, 1)]


def test_hidden_frame_numbers_are_none_and_do_not_split(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x10000, 5))
    image = fake.read()
    assert not image.frame_numbers_known
    assert image.extents == (Extent(0x10000, 5 * PAGE, PAGE, None, True, False, False),)


def test_visible_frame_numbers_are_said_to_be_known(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000))
    fake.pagemap(run_of(0x10000, 5, pfn=700))
    assert fake.read().frame_numbers_known


def test_a_run_goes_on_across_the_pieces_in_which_pagemap_is_read(fake: FakeProc) -> None:
    border = 256 << 20
    fake.maps(line(0x1000, 1 << 30))
    fake.pagemap(run_of(border - 4 * PAGE, 12, pfn=700))
    assert spans(fake.extents()) == [(border - 4 * PAGE, 12)]


def test_pages_in_a_mapping_with_long_gaps_are_found(fake: FakeProc) -> None:
    first, middle, last = 1 << 40, (1 << 40) + (3 << 30), (1 << 40) + (8 << 30) - PAGE
    fake.maps(line(first, last + PAGE))
    fake.pagemap({first: present(1), middle: present(2), last: present(3)})
    assert spans(fake.extents()) == [(first, 1), (middle, 1), (last, 1)]


def test_a_bare_reservation_is_not_read_at_all(fake: FakeProc) -> None:
    start, end = 1 << 40, 17 << 40
    fake.maps(line(start, end, "---p"))
    fake.smaps(line(start, end, "---p") + "Rss:                   0 kB\n")
    fake.pagemap({start: present(700)})  # in contradiction to smaps, so that reading it would show
    assert fake.extents() == ()


def test_a_mapping_that_lost_its_permissions_keeps_its_pages(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x20000, "---p"))
    fake.smaps(line(0x10000, 0x20000, "---p") + "Rss:                   8 kB\n")
    fake.pagemap(run_of(0x10000, 2, pfn=700))
    assert spans(fake.extents()) == [(0x10000, 2)]


def test_vsyscall_is_a_mapping_without_pages(fake: FakeProc) -> None:
    fake.maps(line(0x10000, 0x11000) + line(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, "--xp", "[vsyscall]"))
    fake.pagemap(run_of(0x10000, 1, pfn=700))
    image = fake.read()
    assert image.mappings[-1].path == "[vsyscall]"
    assert spans(image.extents) == [(0x10000, 1)]


# --- huge pages where the kernel does not name them --------------------------------------------------------


def smaps_of(start: int, end: int, *, huge: int = 0, field: str = "AnonHugePages", page: int = PAGE) -> str:
    """An entry of smaps with that many bytes in huge pages."""
    return (
        line(start, end)
        + f"Size: {(end - start) >> 10:>20} kB\nKernelPageSize: {page >> 10} kB\nRss: {huge >> 10:>10} kB\n"
        + f"{field}: {huge >> 10:>10} kB\nVmFlags: rd wr mr mw me ac sd hg\n"
    )


def large_page(pfn: int) -> dict[int, int]:
    """The kpageflags of a transparent huge page of 512 frames."""
    return {pfn + index: 1 << 22 | 1 << (16 if index else 15) for index in range(512)}


def test_smaps_counting_every_place_for_a_huge_page_makes_them_huge(fake: FakeProc) -> None:
    fake.maps(line(HUGE - 2 * PAGE, 4 * HUGE))
    fake.smaps(smaps_of(HUGE - 2 * PAGE, 4 * HUGE, huge=2 * HUGE))
    fake.pagemap(run_of(HUGE - 2 * PAGE, 2 + 1024 + 3))
    image = fake.read()
    assert image.huge_pages_known
    assert [(extent.va, extent.length, extent.page_size) for extent in image.extents] == [
        (HUGE - 2 * PAGE, 2 * PAGE, PAGE),
        (HUGE, 2 * HUGE, HUGE),
        (3 * HUGE, 3 * PAGE, PAGE),
    ]
    assert (image.pages, image.huge_pages) == (1029, 2)


@pytest.mark.parametrize("field", ["AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"])
def test_huge_pages_of_every_kind_count(fake: FakeProc, field: str) -> None:
    fake.maps(line(HUGE, 2 * HUGE))
    fake.smaps(smaps_of(HUGE, 2 * HUGE, huge=HUGE, field=field))
    fake.pagemap(run_of(HUGE, 512, pfn=1024))
    assert fake.extents() == (Extent(HUGE, HUGE, HUGE, 1024, True, False, False),)


@pytest.mark.parametrize(("page", "huge_pages"), [(64 << 10, 0), (HUGE, 2), (1 << 30, 2)])
def test_hugetlb_pages_count_from_2_mib_on(fake: FakeProc, page: int, huge_pages: int) -> None:
    fake.maps(line(HUGE, 3 * HUGE))
    fake.smaps(smaps_of(HUGE, 3 * HUGE, huge=2 * HUGE, field="Private_Hugetlb", page=page))
    fake.pagemap(run_of(HUGE, 1024, pfn=1024))
    assert fake.read().huge_pages == huge_pages


def test_small_pages_in_the_place_of_a_huge_one_stay_small(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 2 * HUGE))
    fake.smaps(smaps_of(HUGE, 2 * HUGE, huge=0))
    fake.pagemap(run_of(HUGE, 512, pfn=1024))
    image = fake.read()
    assert image.huge_pages_known
    assert image.extents == (Extent(HUGE, HUGE, PAGE, 1024, True, False, False),)


def test_frames_that_are_not_aligned_are_no_huge_page(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 3 * HUGE))
    fake.smaps(smaps_of(HUGE, 3 * HUGE, huge=HUGE))
    fake.pagemap(run_of(HUGE, 512, pfn=1025) | run_of(2 * HUGE, 512, pfn=2048))
    assert [(extent.va, extent.page_size) for extent in fake.extents()] == [(HUGE, PAGE), (2 * HUGE, HUGE)]


def test_the_flags_of_the_frames_tell_huge_pages_from_small_ones(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 3 * HUGE))
    fake.smaps(smaps_of(HUGE, 3 * HUGE, huge=HUGE))
    fake.pagemap(run_of(HUGE, 1024, pfn=1024))
    fake.kpageflags(large_page(1536))
    image = fake.read()
    assert image.huge_pages_known
    assert image.extents == (
        Extent(HUGE, HUGE, PAGE, 1024, True, False, False),
        Extent(2 * HUGE, HUGE, HUGE, 1536, True, False, False),
    )


def test_many_smaller_large_pages_are_not_one_huge_page(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 3 * HUGE))
    fake.smaps(smaps_of(HUGE, 3 * HUGE, huge=HUGE))
    fake.pagemap(run_of(HUGE, 1024, pfn=1024))
    of_64_kib = {pfn: 1 << 22 | 1 << (16 if pfn % 16 else 15) for pfn in range(1024, 1536)}
    fake.kpageflags(of_64_kib | large_page(1536))
    assert [(extent.va, extent.page_size) for extent in fake.extents()] == [(HUGE, PAGE), (2 * HUGE, HUGE)]


def unclear(fake: FakeProc) -> ProcessImage:
    """One huge page in a mapping, and two places where it can be."""
    fake.maps(line(HUGE, 3 * HUGE))
    fake.smaps(smaps_of(HUGE, 3 * HUGE, huge=HUGE))
    fake.pagemap(run_of(HUGE, 1024, pfn=1024))
    return fake.read()


def test_without_the_flags_an_unclear_case_is_small_pages_and_said_to_be_unknown(fake: FakeProc) -> None:
    image = unclear(fake)
    assert (image.huge_pages, image.huge_pages_known) == (0, False)


def test_a_huge_page_mapped_in_pieces_leaves_the_case_unclear(fake: FakeProc) -> None:
    fake.kpageflags(large_page(1024) | large_page(1536))
    image = unclear(fake)
    assert (image.huge_pages, image.huge_pages_known) == (0, False)


def test_without_smaps_huge_pages_are_unknown_where_there_could_be_one(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 2 * HUGE))
    fake.pagemap(run_of(HUGE, 512))
    image = fake.read()
    assert (image.huge_pages, image.huge_pages_known) == (0, False)


def test_without_smaps_there_is_certainly_none_where_none_can_be(fake: FakeProc) -> None:
    fake.maps(line(HUGE, 2 * HUGE))
    fake.pagemap(run_of(HUGE, 511))
    assert fake.read().huge_pages_known


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", [True, False, "1", 1.0, b"1"])
def test_a_pid_is_an_int(pid: Any) -> None:
    with pytest.raises(TypeError, match=f"pid must be an int, not {type(pid).__name__}"):
        proc.read(pid)


@pytest.mark.parametrize("pid", [0, -1])
def test_a_pid_is_positive(pid: int) -> None:
    with pytest.raises(ValueError, match=f"pid must be positive, not {pid}"):
        proc.read(pid)


def test_a_process_that_is_not_there(fake: FakeProc) -> None:
    with pytest.raises(ProcessError, match=r"^no such process: pid 43 is gone$") as caught:
        proc.read(43, proc=fake.root)
    assert caught.value.errno == errno.ENOENT


def test_a_system_without_proc(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"not Linux: no .*/nothing$"):
        proc.read(PID, proc=tmp_path / "nothing")


@pytest.mark.parametrize("name", ["maps", "pagemap"])
def test_a_proc_of_another_system(fake: FakeProc, name: str) -> None:
    fake.maps(line(0x1000, 0x2000))
    (fake.folder / name).unlink()
    with pytest.raises(ProcessError, match=f"not Linux: no .*/{PID}/{name}$"):
        fake.read()


def test_an_empty_address_space(fake: FakeProc) -> None:
    with pytest.raises(ProcessError, match="pid 42 has no address space: it is a kernel thread or a zombie"):
        fake.read()


def test_pages_of_another_size(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 16384}.__getitem__)
    with pytest.raises(ProcessError, match="this system has pages of 16384 bytes; only 4096 is supported"):
        fake.read()


def test_an_error_of_the_system_is_passed_on_with_its_reason(fake: FakeProc, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.maps(line(0x1000, 0x2000))

    def no_memory(*_: object) -> bytes:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "pread", no_memory)
    with pytest.raises(ProcessError, match=f"cannot read .*/{PID}/pagemap: cannot allocate memory") as caught:
        fake.read()
    assert caught.value.errno == errno.ENOMEM


# --- processes that run ------------------------------------------------------------------------------------


@contextmanager
def anonymous(length: int) -> Iterator[tuple[mmap.mmap, int]]:
    """A private anonymous mapping and its address; in small pages unless advised otherwise."""
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages does not know the advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    anchor = ctypes.c_char.from_buffer(memory)
    try:
        yield memory, ctypes.addressof(anchor)
    finally:
        del anchor
        memory.close()


PageFacts = tuple[int, int | None, bool, bool, bool]
"""Page size, frame, writable, executable, file."""


def pages_in(image: ProcessImage, start: int, length: int) -> dict[int, PageFacts]:
    """The resident 4 KiB pages of a range by address, with all that is said of them.

    By page because the kernel may merge the range with its neighbours, so that extents reach beyond it.
    """
    return {
        extent.va + offset: (
            extent.page_size,
            None if extent.pfn is None else extent.pfn + offset // PAGE,
            extent.writable,
            extent.executable,
            extent.file,
        )
        for extent in image.extents
        for offset in range(0, extent.length, PAGE)
        if start <= extent.va + offset < start + length
    }


@contextmanager
def older_kernel() -> Iterator[None]:
    """Let PAGEMAP_SCAN fail as it does before Linux 6.7."""

    def unknown_request(*_: object) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "ioctl", unknown_request)
        yield


def has_scan() -> bool:
    """Whether this kernel is said to have PAGEMAP_SCAN: Linux 6.7, in the numbering this module knows."""
    major, minor = map(int, re.findall(r"\d+", os.uname().release)[:2])
    return (major, minor) >= (6, 7) and os.uname().machine in ("x86_64", "aarch64", "riscv64")


@pytest.fixture(params=["scan", "older kernel"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """The two ways to find the resident pages."""
    if request.param == "scan":
        if not has_scan():
            pytest.skip(f"no PAGEMAP_SCAN on Linux {os.uname().release}")
        yield "scan"
    else:
        with older_kernel():
            yield "older kernel"


class Child:
    """A Python process that runs some code and then waits. The two talk in lines of text."""

    def __init__(self, code: str = "") -> None:
        program = f"{code}\nprint('ready', flush=True)\ninput()"
        command = [sys.executable, "-I", "-S", "-c", program]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._process.__exit__(None, None, None)

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def end(self, *, reap: bool = True) -> None:
        """End it; without `reap` it stays in the table as a zombie."""
        self._process.kill()
        if reap:
            self._process.wait()
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


NOBODY = 65534


def without_privileges(report: Callable[[], str]) -> str:
    """What a function says when it runs as an ordinary user."""
    if os.geteuid() != 0:
        return report()
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(into, report().encode())
        except OSError as error:
            os.write(into, f"failed: {error}".encode())
        finally:  # whatever happens, only one process is to go on with the tests
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    return answer


def error_of(pid: int) -> str:
    """The message with which a process is refused."""
    try:
        proc.read(pid)
    except ProcessError as error:
        return str(error)
    return "no error"


@linux_only
def test_the_kernel_is_asked_for_the_resident_pages_if_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_scan():
        pytest.skip(f"no PAGEMAP_SCAN on Linux {os.uname().release}")
    served = 0
    original = fcntl.ioctl

    def counting(fd: int, request: int, argument: bytearray) -> int:
        nonlocal served
        result: int = original(fd, request, argument)
        served += 1
        return result

    monkeypatch.setattr(fcntl, "ioctl", counting)
    image = proc.read()
    assert served >= len(image.mappings) - 1  # all but [vsyscall], where it fails


@linux_only
def test_exactly_the_touched_pages_of_a_mapping_are_resident(way: str) -> None:
    touched = [0, 1, 2, 5, 8, 9, 63, 200, 1023]
    with anonymous(1024 * PAGE) as (memory, address):
        for page in touched:
            memory[page * PAGE] = 1
        pages = pages_in(proc.read(), address, 1024 * PAGE)
    assert list(pages) == [address + page * PAGE for page in touched]
    assert {(size, writable, executable, file) for size, _, writable, executable, file in pages.values()} == {
        (PAGE, True, False, False)
    }


@linux_only
def test_shared_memory_counts_as_a_file(way: str) -> None:
    with mmap.mmap(-1, 4 * PAGE) as memory:
        memory[PAGE] = 1
        anchor = ctypes.c_char.from_buffer(memory)
        pages = pages_in(proc.read(), ctypes.addressof(anchor), 4 * PAGE)
        assert [(va - ctypes.addressof(anchor), page[-1]) for va, page in pages.items()] == [(PAGE, True)]
        del anchor


@linux_only
def test_pages_of_a_mapping_that_lost_its_permissions_are_still_there(way: str) -> None:
    with anonymous(8 * PAGE) as (memory, address):
        memory[3 * PAGE] = 1
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address), 8 * PAGE, 0) == 0
        pages = pages_in(proc.read(), address, 8 * PAGE)
    assert [(va - address, page[2]) for va, page in pages.items()] == [(3 * PAGE, False)]


@linux_only
def test_both_ways_agree_on_a_mapping_at_rest() -> None:
    if not has_scan():
        pytest.skip(f"no PAGEMAP_SCAN on Linux {os.uname().release}")
    with anonymous(4096 * PAGE) as (memory, address):
        for page in range(4096):
            if page * page % 7 in (1, 2):
                memory[page * PAGE] = 1
        scanned = pages_in(proc.read(), address, 4096 * PAGE)
        with older_kernel():
            read = pages_in(proc.read(), address, 4096 * PAGE)
    assert len(scanned) == sum(page * page % 7 in (1, 2) for page in range(4096))
    assert scanned == read


@linux_only
def test_more_regions_than_fit_one_answer(way: str) -> None:
    with anonymous(8192 * PAGE) as (memory, address):
        for page in range(0, 8192, 2):
            memory[page * PAGE] = 1
        pages = pages_in(proc.read(), address, 8192 * PAGE)
    assert list(pages) == list(range(address, address + 8192 * PAGE, 2 * PAGE))


@linux_only
def test_a_large_reservation_is_a_mapping_without_pages(way: str) -> None:
    length = 16 << 30
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    none, private_anonymous_noreserve = 0, 0x2 | 0x20 | 0x4000
    address = libc.mmap(None, ctypes.c_size_t(length), none, private_anonymous_noreserve, -1, ctypes.c_long(0))
    assert address not in (None, ctypes.c_void_p(-1).value)
    try:
        image = proc.read()
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
    assert any(mapping.start <= address and address + length <= mapping.end for mapping in image.mappings)
    assert not pages_in(image, address, length)


@linux_only
def test_every_extent_lies_in_one_mapping_and_they_are_in_order(way: str) -> None:
    image = proc.read()
    mappings = iter(image.mappings)
    mapping, end = next(mappings), 0
    for extent in image.extents:
        while mapping.end <= extent.va:
            mapping = next(mappings)
        assert mapping.start <= extent.va
        assert end <= extent.va < extent.va + extent.length <= mapping.end
        assert (extent.writable, extent.executable) == (mapping.writable, mapping.executable)
        end = extent.va + extent.length
    assert image.pages == sum(extent.length for extent in image.extents) // PAGE


@linux_only
def test_none_is_the_own_process() -> None:
    image = proc.read()
    assert image.pid == os.getpid()
    assert image.command == Path("/proc/self/comm").read_text().rstrip("\n")
    assert {"[stack]", "[vdso]"} <= {mapping.path for mapping in image.mappings}


@linux_only
def test_another_process_by_its_pid(way: str) -> None:
    code = (
        "import ctypes, mmap\n"
        f"memory = mmap.mmap(-1, {64 * PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "try: memory.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "except OSError: pass\n"
        f"for page in (1, 2, 40): memory[page * {PAGE}] = 1\n"
        "print(ctypes.addressof(ctypes.c_char.from_buffer(memory)))\n"
    )
    with Child(code) as child:
        address = int(child.hear())
        assert child.hear() == "ready"
        image = proc.read(child.pid)
    assert image.pid == child.pid
    assert [(va - address) // PAGE for va in pages_in(image, address, 64 * PAGE)] == [1, 2, 40]


@linux_only
def test_a_process_that_has_ended() -> None:
    with Child() as child:
        pass
    assert error_of(child.pid) == f"no such process: pid {child.pid} is gone"


@linux_only
def test_a_zombie() -> None:
    with Child() as child:
        child.end(reap=False)
        message = error_of(child.pid)
    assert message == f"pid {child.pid} has no address space: it is a kernel thread or a zombie"


def error_if(event: Callable[[], object], pid: int) -> str:
    """The message if this happens after the mappings of the process were read, and before its pages are."""
    events = [event]
    inner = fcntl.ioctl  # the real one or that of an older kernel

    def ioctl(fd: int, request: int, argument: bytearray) -> int:
        while events:
            events.pop()()
        result: int = inner(fd, request, argument)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "ioctl", ioctl)
        message = error_of(pid)
    assert not events
    return message


@linux_only
@pytest.mark.parametrize("reap", [True, False])
def test_a_process_that_ends_while_it_is_read(way: str, reap: bool) -> None:
    with Child() as child:
        assert child.hear() == "ready"
        message = error_if(lambda: child.end(reap=reap), child.pid)
    assert message == f"pid {child.pid} is gone: it ended, or changed its program, while it was read"


@linux_only
def test_a_process_that_changes_its_program_while_it_is_read(way: str) -> None:
    code = (
        "import os, sys\n"
        "print('old', flush=True)\n"
        "input()\n"
        "os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', 'print(\"new\", flush=True); input()'])\n"
    )

    def change() -> None:
        child.tell("change")
        assert child.hear() == "new"

    with Child(code) as child:
        assert child.hear() == "old"
        message = error_if(change, child.pid)
    assert message == f"pid {child.pid} is gone: it ended, or changed its program, while it was read"


@linux_only
def test_a_process_that_may_not_be_looked_at() -> None:
    not_dumpable = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)"  # 4 is PR_SET_DUMPABLE
    with Child(not_dumpable) as child:
        assert child.hear() == "ready"
        message = without_privileges(lambda: error_of(child.pid))
    assert message == f"cannot read /proc/{child.pid}/maps: permission denied; run as its owner or with CAP_SYS_PTRACE"


@linux_only
def test_without_privileges_the_frames_stay_hidden() -> None:
    owner: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}

    def report() -> str:
        image = proc.read(process.pid)
        pfns = {extent.pfn for extent in image.extents}
        return f"{image.frame_numbers_known} {pfns} {image.pages > 0} {image.huge_pages_known}"

    with subprocess.Popen(["sleep", "1000"], **owner) as process:
        try:
            answer = without_privileges(report)
        finally:
            process.kill()
    assert answer == "False {None} True True"


# --- huge pages that the kernel really gives ---------------------------------------------------------------


def huge_bytes(address: int) -> int:
    """AnonHugePages of the own mapping with this address, in bytes, by a plain reading of smaps."""
    inside = False
    for text in Path("/proc/self/smaps").read_text().splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", text):
            inside = int(header[1], 16) <= address < int(header[2], 16)
        elif inside and text.startswith("AnonHugePages:"):
            return int(text.split()[1]) << 10
    return 0


@contextmanager
def with_huge_pages(count: int) -> Iterator[tuple[mmap.mmap, int, int]]:
    """A mapping, its address, and the offset in it from which on `count` huge pages are in use.

    Skips the test if the system does not give them.
    """
    with anonymous((count + 2) * HUGE) as (memory, address):
        offset = -address % HUGE
        try:
            memory.madvise(mmap.MADV_HUGEPAGE, offset, count * HUGE)
        except OSError as error:
            pytest.skip(f"no MADV_HUGEPAGE: {error}")
        for page in range(count):
            memory[offset + page * HUGE] = 1
        given = huge_bytes(address + offset)
        if given != count * HUGE:
            pytest.skip(f"the system gave {given // HUGE} of {count} huge pages")
        # What is huge stays so; without this, khugepaged may fill what the test takes apart while it looks.
        memory.madvise(mmap.MADV_NOHUGEPAGE, offset, count * HUGE)
        yield memory, address, offset


def huge_in(image: ProcessImage, start: int, length: int) -> list[int]:
    """The addresses in a range that are in huge pages, in steps of 2 MiB."""
    pages = pages_in(image, start, length)
    return [va for va, (size, *_) in pages.items() if size == HUGE and va % HUGE == 0]


@linux_only
def test_a_huge_page_is_reported_as_one(way: str) -> None:
    with with_huge_pages(2) as (memory, address, offset):
        memory[offset + 2 * HUGE] = 1  # a small page right behind them
        image = proc.read()
    start = address + offset
    assert image.huge_pages_known or way != "scan"  # elsewhere in the process the other way may be unsure
    assert huge_in(image, address, 4 * HUGE) == [start, start + HUGE]
    pages = pages_in(image, address, 4 * HUGE)
    assert len(pages) == 1025
    assert pages[start + 2 * HUGE][0] == PAGE


@linux_only
def test_the_frames_of_a_huge_page_are_consecutive_and_aligned(way: str) -> None:
    with with_huge_pages(1) as (_, address, offset):
        image = proc.read()
    if not image.frame_numbers_known:
        pytest.skip("frame numbers are hidden without CAP_SYS_ADMIN")
    (extent,) = (extent for extent in image.extents if extent.va == address + offset)
    assert (extent.length, extent.page_size) == (HUGE, HUGE)
    assert extent.pfn is not None
    assert extent.pfn % 512 == 0


@linux_only
def test_a_huge_page_with_a_hole_is_small_pages(way: str) -> None:
    with with_huge_pages(2) as (memory, address, offset):
        memory.madvise(mmap.MADV_DONTNEED, offset + 7 * PAGE, PAGE)
        image = proc.read()
    start = address + offset
    assert image.huge_pages_known or way != "scan"  # elsewhere in the process the other way may be unsure
    assert huge_in(image, address, 4 * HUGE) == [start + HUGE]
    pages = pages_in(image, address, 4 * HUGE)
    assert len(pages) == 1023
    assert start + 7 * PAGE not in pages


@linux_only
def test_a_huge_page_mapped_in_pieces_is_small_pages() -> None:
    if not has_scan():
        pytest.skip(f"no PAGEMAP_SCAN on Linux {os.uname().release}")
    with with_huge_pages(2) as (_, address, offset):
        start = address + offset
        libc = ctypes.CDLL(None, use_errno=True)
        # To and fro: the mapping is whole again, the page stays in one piece, its page table entries do not.
        for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
            assert libc.mprotect(ctypes.c_void_p(start + PAGE), PAGE, protection) == 0
        assert huge_bytes(start) == HUGE
        scanned = proc.read()
        with older_kernel():
            read = proc.read()
    assert huge_in(scanned, address, 4 * HUGE) == [start + HUGE]
    assert len(pages_in(scanned, address, 4 * HUGE)) == 1024
    # The other way cannot tell which of the two it is, and says so.
    assert huge_in(read, address, 4 * HUGE) == []
    assert (scanned.huge_pages_known, read.huge_pages_known) == (True, False)
