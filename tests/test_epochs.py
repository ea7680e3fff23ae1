"""A retired table is freed when every reader that could be inside it has left, and not before.

Which readers those are, who may end a section, what holds back what, and what a domain says about it: each one here
step by step, with other threads standing where the test put them.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

import ptl
from helpers import in_thread, python, thread_inside

pytestmark = pytest.mark.under_stress

TABLE = 4096
SPAN = 2 << 20


@pytest.fixture
def domain() -> ptl.EpochDomain:
    """One in which no grace period begins by itself after the few tables that a test retires."""
    return ptl.EpochDomain(batch_tables=100)


@pytest.fixture
def pt(domain: ptl.EpochDomain) -> ptl.PageTable:
    return table_in(domain)


def table_in(domain: ptl.EpochDomain) -> ptl.PageTable:
    """A page table whose tables are retired to that domain."""
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(512 * TABLE, domain=domain))
    pt.populate(0)
    return pt


def retire(pt: ptl.PageTable, tables: int = 1) -> None:
    """Let that many tables leave the tree."""
    for _ in range(tables):
        pt.populate(0)
        assert pt.retract(0) is ptl.Outcome.DONE


# -- who holds back what


def test_without_readers_a_retired_table_is_freed_at_once(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    retire(pt)
    assert domain.stats()["limbo"] == 1
    assert domain.stats()["limbo_bytes"] == TABLE
    assert domain.reclaim() == 1
    assert domain.reclaim() == 0
    stats = domain.stats()
    assert stats["limbo"] == stats["limbo_bytes"] == 0
    assert stats["retired"] == stats["freed"] == 1


def test_a_table_retired_beside_a_reader_waits_until_it_leaves(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    with thread_inside(domain.pin):
        in_use = pt.frames.stats()["tables"]
        retire(pt)
        for _ in range(5):
            assert domain.reclaim() == 0
        assert domain.stats()["limbo"] == 1
        assert pt.frames.stats()["tables"] == in_use, "the table is not to be reused yet"
    assert domain.reclaim() == 1
    assert pt.frames.stats()["tables"] == pt.stats()["tables"] == in_use - 1


def test_a_reader_that_came_later_holds_back_nothing_earlier(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    with contextlib.ExitStack() as later:
        with thread_inside(domain.pin):
            retire(pt)
            assert domain.reclaim() == 0
            later.enter_context(thread_inside(domain.pin))
        assert domain.stats()["inside"] == 1
        assert domain.reclaim() == 1
        retire(pt)
        assert domain.reclaim() == 0, "but this one it does"


def test_a_nested_section_ends_with_the_outer_one(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    with domain.pin():
        with domain.pin():
            retire(pt)
        pt.lookup(0)  # enters and leaves a section of its own
        with domain.pin():
            assert in_thread(domain.reclaim) == 0
        assert domain.stats()["inside"] == 1
        assert in_thread(domain.reclaim) == 0
    assert domain.stats()["inside"] == 0
    assert domain.reclaim() == 1


def test_sections_nested_as_deep_as_a_counter_goes_stay_sections(domain: ptl.EpochDomain) -> None:
    with contextlib.ExitStack() as sections:
        with contextlib.suppress(RuntimeError):  # or it says that this is too deep
            for _ in range(1 << 16):
                sections.enter_context(domain.pin())
        assert domain.stats()["inside"] == 1
    assert domain.stats()["inside"] == 0


def test_domains_do_not_hold_each_other_back(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    other = ptl.EpochDomain()
    beside = table_in(other)
    with thread_inside(other.pin):
        retire(pt)
        retire(beside)
        assert domain.reclaim() == 1
        assert other.reclaim() == 0
        domain.synchronize()
    with other.pin():
        domain.synchronize()
    assert other.reclaim() == 1


def test_a_reader_of_the_table_holds_back_what_a_pin_does(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    """Translating enters the section of the table's own domain and leaves it."""
    pt.map(0, 0)
    before = domain.stats()["threads"]
    assert pt.translate(5) == 5
    assert domain.stats()["inside"] == 0
    assert domain.stats()["threads"] == before


# -- pins


def test_a_pin_is_left_by_the_thread_that_entered_it(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    pin = domain.pin()
    with pin:
        retire(pt)
        with pytest.raises(RuntimeError, match="thread"):
            in_thread(pin.close)
        assert not pin.closed
        assert in_thread(domain.reclaim) == 0
    assert domain.reclaim() == 1


def test_a_pin_is_entered_and_left_once_at_a_time(domain: ptl.EpochDomain) -> None:
    pin = domain.pin()
    with pytest.raises(ValueError, match="closed"):
        pin.close()
    with pin, pytest.raises(RuntimeError, match="entered already"):
        pin.__enter__()
    assert domain.stats()["inside"] == 0
    with pytest.raises(ValueError, match="closed"):
        pin.close()
    with pin:
        assert domain.stats()["inside"] == 1


def test_a_dropped_pin_leaves_and_warns(domain: ptl.EpochDomain) -> None:
    with pytest.warns(ResourceWarning, match="Pin was dropped"):
        domain.pin().__enter__()
    assert domain.stats()["inside"] == 0


def test_a_pin_dropped_by_another_thread_stays_until_its_own_ends(domain: ptl.EpochDomain) -> None:
    pins = [domain.pin()]
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        pins[0].__enter__()
        entered.set()
        leave.wait()

    reader = threading.Thread(target=stay)
    reader.start()
    entered.wait()
    with pytest.warns(ResourceWarning, match="Pin was dropped"):
        pins.clear()
    assert domain.stats()["inside"] == 1
    leave.set()
    reader.join()
    domain.synchronize()  # returns when the thread has ended for the system, too
    assert domain.stats()["inside"] == 0


def test_the_end_of_a_thread_ends_its_section(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    pins = []
    thread = threading.Thread(target=lambda: pins.append(domain.pin().__enter__()))
    thread.start()
    retire(pt)
    thread.join()
    domain.synchronize()
    assert domain.stats()["limbo"] == domain.stats()["inside"] == 0
    with pytest.raises(RuntimeError, match="thread"):
        pins[0].close()
    with pytest.warns(ResourceWarning, match="Pin was dropped"):
        pins.clear()
    assert domain.stats()["inside"] == 0


def test_a_pin_of_an_ended_thread_is_not_that_of_its_successor(domain: ptl.EpochDomain) -> None:
    """A thread that inherits the record of one that ended inside does not inherit its pin."""
    pins = []

    def enter() -> None:
        pins.append(domain.pin().__enter__())

    def close() -> None:
        with domain.pin():
            pins[0].close()

    in_thread(enter)
    domain.synchronize()
    with pytest.raises(RuntimeError, match="thread"):
        in_thread(close)
    assert domain.stats()["inside"] == 0
    with pytest.warns(ResourceWarning, match="Pin was dropped"):
        pins.clear()


# -- synchronize


def test_synchronize_waits_for_those_inside(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    waiting = threading.Thread(target=domain.synchronize)
    with thread_inside(domain.pin):
        retire(pt)
        begun = domain.stats()["grace_periods"]
        waiting.start()
        while domain.stats()["grace_periods"] < begun + 3:  # it looks again and again
            pass
        assert waiting.is_alive()
        assert domain.stats()["limbo"] == 1
    waiting.join()
    assert domain.stats()["limbo"] == 0


def test_synchronize_inside_a_section_would_wait_for_itself(domain: ptl.EpochDomain) -> None:
    with domain.pin():
        with pytest.raises(RuntimeError, match="inside a section"):
            domain.synchronize()
        with domain.pin(), pytest.raises(RuntimeError, match="inside a section"):
            domain.synchronize()
    domain.synchronize()


def test_synchronize_is_interrupted_by_a_signal_handler_that_raises(domain: ptl.EpochDomain) -> None:
    """A program that waits for a stuck reader can be stopped with control-C."""
    begun = domain.stats()["grace_periods"]
    main, interrupted = threading.get_ident(), [False]

    def interrupt(*_: object) -> None:
        if domain.stats()["grace_periods"] > begun and not interrupted[0]:
            interrupted[0] = True
            raise KeyboardInterrupt

    def insist() -> None:
        while not interrupted[0]:
            signal.pthread_kill(main, signal.SIGUSR1)

    sender = threading.Thread(target=insist)
    with handling(signal.SIGUSR1, interrupt), thread_inside(domain.pin):
        sender.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                domain.synchronize()
        finally:
            interrupted[0] = True
            sender.join()


@contextlib.contextmanager
def handling(number: signal.Signals, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# -- stalls


def test_stalled_says_who_and_how_much(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    assert domain.stalled(0) == []
    with thread_inside(domain.pin) as reader:
        retire(pt, 3)
        (stall,) = domain.stalled(0)
        assert stall.thread == reader.native_id
        assert stall.held_tables == 3
        assert stall.held_bytes == 3 * TABLE
        (again,) = domain.stalled(0)
        assert again.seconds > stall.seconds >= 0, "it is the same section, and goes on"
        assert domain.stalled(3600) == []
    assert domain.stalled(0) == []


def test_stalled_counts_from_the_section_not_from_the_thread(domain: ptl.EpochDomain) -> None:
    """A thread that is often inside, and never long, is not stalled."""
    for _ in range(50):
        with domain.pin():
            begun = time.monotonic()
            (stall,) = domain.stalled(0)
            assert stall.seconds <= time.monotonic() - begun


def test_a_stall_is_warned_of_once(pt: ptl.PageTable, domain: ptl.EpochDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptl._core, "STALL_SECONDS", 0.0)
    with thread_inside(domain.pin) as reader:
        retire(pt)
        with pytest.warns(ptl.EpochStall, match=rf"thread {reader.native_id} .* holds back 1 table"):
            domain.reclaim()
        domain.reclaim()  # a second warning would be an error here
        domain.reclaim()
    domain.reclaim()
    with thread_inside(domain.pin):
        retire(pt)
        with pytest.warns(ptl.EpochStall):
            domain.reclaim()


def test_synchronize_warns_of_whom_it_waits_for(domain: ptl.EpochDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptl._core, "STALL_SECONDS", 0.0)
    entered, leave = threading.Event(), threading.Event()
    shown = []

    def show(message: Warning, *_: object) -> None:
        shown.append(message)
        leave.set()

    def stay() -> None:
        with domain.pin():
            entered.set()
            leave.wait()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        reader = threading.Thread(target=stay)
        reader.start()
        entered.wait()
        domain.synchronize()
        reader.join()
    assert [type(message) for message in shown] == [ptl.EpochStall]


def test_a_section_begun_while_others_are_warned_of_is_young(
    pt: ptl.PageTable, domain: ptl.EpochDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning about one reader takes a while; a reader who comes meanwhile has not been inside for ages."""
    shown: list[str] = []
    with contextlib.ExitStack() as readers:
        monkeypatch.setattr(ptl._core, "STALL_SECONDS", 0.0)

        def show(message: Warning, *_: object) -> None:
            shown.append(str(message))
            if len(shown) == 1:
                readers.enter_context(domain.pin())
                in_thread(lambda: domain.stalled(0))

        readers.enter_context(thread_inside(domain.pin))  # its record is newer than ours, and looked at first
        retire(pt)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", show)
            domain.reclaim()
    seconds = [float(text.partition("for ")[2].partition(" s")[0]) for text in shown]
    assert seconds
    assert max(seconds) < 1e6


# -- limbo


def test_limbo_max_remembers(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    with thread_inside(domain.pin):
        retire(pt, 5)
        domain.reclaim()
    domain.synchronize()
    retire(pt, 2)
    stats = domain.stats()
    assert (stats["limbo"], stats["limbo_max"], stats["retired"], stats["freed"]) == (2, 5, 7, 5)


def test_a_grace_period_waits_for_a_batch() -> None:
    domain = ptl.EpochDomain(batch_tables=5)
    pt = table_in(domain)
    retire(pt, 4)
    assert domain.stats()["grace_periods"] == 0
    retire(pt)
    assert domain.stats()["grace_periods"] == 1
    assert domain.stats()["limbo"] == 0


def test_a_grace_period_waits_for_no_more_than_so_many_bytes() -> None:
    domain = ptl.EpochDomain(batch_tables=1000)
    pt = ptl.PageTable("x86_64", frames=ptl.Frames(64 << 20, frame_bytes=1 << 16, domain=domain))
    retire(pt, 20)
    assert domain.stats()["limbo_max"] * (1 << 16) <= 512 << 10
    assert domain.stats()["grace_periods"] > 0


def test_nobody_frees_a_heap_of_tables_at_once(domain: ptl.EpochDomain) -> None:
    """What piled up behind a slow reader is handed back a few tables an operation, and no operation waits for it."""
    domain = ptl.EpochDomain(batch_tables=1)
    pt = table_in(domain)
    with thread_inside(domain.pin):
        retire(pt, 200)
        assert domain.stats()["freed"] == 0
    before = 0
    for _ in range(100):
        retire(pt)
        freed = domain.stats()["freed"]
        assert freed - before <= 16
        before = freed
    assert domain.stats()["limbo"] == 0


def test_what_is_dropped_with_tables_in_limbo_goes_when_its_readers_have_left(domain: ptl.EpochDomain) -> None:
    with thread_inside(domain.pin):
        for _ in range(3):
            pt = table_in(domain)
            retire(pt, 5)
            frames = pt.frames
            del pt
            gc.collect()
            frames.stats()
            del frames
            gc.collect()
        assert domain.stats()["limbo"] == 15
    domain.synchronize()
    stats = domain.stats()
    assert stats["limbo"] == 0
    assert stats["freed"] == stats["retired"] == 15


@pytest.mark.parametrize(
    "cycle",
    [
        "ring = [pt]; ring.append(ring)",
        "pt.me = pt",
        "pt.slot_of_mine = pt.pmd(0)",
        "pt.handle = pt.pte_map(0)",
        "pt.handle = pt.pte_map_lock(0)",
        "pt.handle = pt.pmd(0).lock()",
        "ring = [pt.frames, pt]; ring.append(ring)",
        "ring = [domain, pt.frames, pt]; ring.append(ring)",
        "pt.section = domain.pin().__enter__(); pt.me = pt",
    ],
)
def test_a_table_in_a_reference_cycle_is_collected(cycle: str) -> None:
    """The collector clears what is in a cycle in an order of its own."""
    python(
        "-W",
        "ignore::ResourceWarning",
        "-c",
        "import gc, ptl\n"
        "class Named(ptl.PageTable): pass\n"
        "domain = ptl.EpochDomain()\n"
        "pt = Named('x86_64', frames=ptl.Frames(1 << 20, domain=domain))\n"
        "pt.map(0, 0, 4 << 20)\n"
        "pt.split(0)\n"
        f"{cycle}\n"
        "ring = pt = domain = None\n"
        "gc.collect()\n",
    )


# -- domains and threads


def test_a_process_has_sixteen_domains_at_a_time_and_numbers_come_back() -> None:
    gc.collect()
    domains: list[ptl.EpochDomain] = []
    with pytest.raises(MemoryError, match="16 epoch domains"):
        domains.extend(ptl.EpochDomain() for _ in range(17))
    assert 1 <= len(domains) <= 15, "the default domain is one of the sixteen"
    for _ in range(100):
        domains.pop()
        domains.append(ptl.EpochDomain())
        assert domains[-1].stats()["retired"] == 0
    with pytest.raises(MemoryError):
        ptl.EpochDomain()


def test_a_number_comes_back_with_the_readers_it_still_has() -> None:
    """A thread may outlive its pin and the domain; what it could be reading stays untouched until it ends."""
    gc.collect()
    full: list[ptl.EpochDomain] = []
    entered, leave = threading.Event(), threading.Event()
    domain = ptl.EpochDomain()
    pins = [domain.pin()]

    def stay() -> None:
        pins[0].__enter__()
        entered.set()
        leave.wait()

    with contextlib.suppress(MemoryError):
        full.extend(ptl.EpochDomain() for _ in range(16))
    reader = threading.Thread(target=stay)
    reader.start()
    entered.wait()
    retire(table_in(domain))
    with pytest.warns(ResourceWarning, match="Pin was dropped"):
        pins.clear()
    del domain
    domain = ptl.EpochDomain()  # the only number that is free
    assert domain.stats()["inside"] == 1
    assert domain.stats()["limbo"] == 1
    assert domain.reclaim() == 0
    leave.set()
    reader.join()
    domain.synchronize()
    assert domain.stats()["limbo"] == 0


def test_threads_come_and_go(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    """Records of threads that have ended serve those that come after them."""
    pt.map(0, 0)

    def read() -> None:
        for va in range(10):
            assert pt.translate(va) == va
        with warnings.catch_warnings():
            pins.append(domain.pin().__enter__())

    most = 0
    for _ in range(300):
        pins: list[object] = []
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        domain.synchronize()  # the sections end when the threads have ended for the system
        most = max(most, domain.stats()["threads"])
        with pytest.warns(ResourceWarning):
            pins.clear()
    assert most <= 8
    assert domain.stats()["inside"] == 0


def test_a_domain_belongs_to_its_process() -> None:
    assert ptl.default_domain.stats()["barrier"] in ("membarrier", "each section")
    with pytest.raises(TypeError):
        ptl.default_domain.__reduce__()
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="batch_tables"):
            ptl.EpochDomain(batch_tables=wrong)


# -- signals


def test_a_signal_handler_may_read_in_the_middle_of_a_section(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    """It leaves the section as it found it."""
    pt.map(0, 0x5000)
    answers: list[int] = []

    def read(*_: object) -> None:
        answers.append(pt.translate(1))
        with domain.pin():
            answers.append(domain.stats()["inside"])

    with handling(signal.SIGUSR1, read):
        signal.raise_signal(signal.SIGUSR1)
        assert domain.stats()["inside"] == 0
        with domain.pin():
            signal.raise_signal(signal.SIGUSR1)
            assert domain.stats()["inside"] == 1
            retire_elsewhere(pt)
            signal.raise_signal(signal.SIGUSR1)
            assert in_thread(domain.reclaim) == 0
    assert domain.stats()["inside"] == 0
    assert domain.reclaim() == 1
    assert answers == [0x5001, 1] * 3


def test_a_signal_handler_may_change_the_table(pt: ptl.PageTable, domain: ptl.EpochDomain) -> None:
    """Python runs it between two operations, wherever the timer struck."""
    pt.map(0, 0, SPAN, page_size=4096)
    calls = []

    def change(*_: object) -> None:
        calls.append(pt.collapse(0))
        assert pt.translate(0x1234) == 0x1234

    with handling(signal.SIGALRM, change):
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        try:
            while len(calls) < 50:
                with domain.pin():
                    assert pt.translate(0x1234) == 0x1234
                    pt.split(0)
                domain.reclaim()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    pt.check()
    domain.synchronize()
    assert domain.stats()["limbo"] == 0


def retire_elsewhere(pt: ptl.PageTable) -> None:
    pt.populate(4 * SPAN)
    assert pt.retract(4 * SPAN)
