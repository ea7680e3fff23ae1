# SPDX-License-Identifier: MIT
"""Faults that a test puts in, one at a time, to show that another test fails then.

Only a build with PTL_FAULTS=1 has them, and there PTL_FAULT names the one that is in. In every other build `is_faulty` is
the constant 0, and nothing of this is compiled. That the system gives no memory can be tried in every build: allocation
is on no hot path.
"""

cdef enum Fault:
    MOVE_LOOKS_BEFORE_IT_LOCKS = 1      # mremap against retract, mended in Linux 6.12
    RETRACT_TRUSTS_ITS_LOOK = 2         # a table that was filled again is reclaimed, mended while PT_RECLAIM was reviewed
    NOTHING_IS_FROZEN = 3               # a detached table is written to: why pte_offset_map_rw_nolock has a snapshot
    ENTRY_READ_IN_HALVES = 4            # an entry of two words is torn: why such a read keeps interrupts off
    NO_FLUSH_OF_AN_ENTRY = 5
    NO_FLUSH_OF_A_RETRACT = 6
    NO_FLUSH_BEFORE_A_COPY = 7
    NO_FLUSH_BEFORE_A_HUGE_LEAF = 8
    NO_FLUSH_BEFORE_A_SPLIT = 9
    NO_FLUSH_BEFORE_A_REPLACEMENT = 10
    NO_FLUSH_BEFORE_A_CUT = 11
    NO_FLUSH_OF_A_RANGE = 12
    NO_FLUSH_OF_A_MOVE = 13
    NO_FLUSH_OF_A_GATHER = 14
    NO_FLUSH_OF_A_TABLE = 15
    SHADOW_AFTER_THE_ENTRY = 16         # two changes of one entry, and the shadow of the first is stored last
    NO_FLUSH_BEFORE_A_RUN = 17
    NO_FLUSH_BEFORE_A_RUN_IS_APART = 18

FAULTS = {
    "move looks before it locks": MOVE_LOOKS_BEFORE_IT_LOCKS,
    "retract trusts its look": RETRACT_TRUSTS_ITS_LOOK,
    "nothing is frozen": NOTHING_IS_FROZEN,
    "entry read in halves": ENTRY_READ_IN_HALVES,
    "no flush of an entry": NO_FLUSH_OF_AN_ENTRY,
    "no flush of a retract": NO_FLUSH_OF_A_RETRACT,
    "no flush before a copy": NO_FLUSH_BEFORE_A_COPY,
    "no flush before a huge leaf": NO_FLUSH_BEFORE_A_HUGE_LEAF,
    "no flush before a split": NO_FLUSH_BEFORE_A_SPLIT,
    "no flush before a replacement": NO_FLUSH_BEFORE_A_REPLACEMENT,
    "no flush before a cut": NO_FLUSH_BEFORE_A_CUT,
    "no flush of a range": NO_FLUSH_OF_A_RANGE,
    "no flush of a move": NO_FLUSH_OF_A_MOVE,
    "no flush of a gather": NO_FLUSH_OF_A_GATHER,
    "no flush of a table that is moved": NO_FLUSH_OF_A_TABLE,
    "shadow after the entry": SHADOW_AFTER_THE_ENTRY,
    "no flush before a run": NO_FLUSH_BEFORE_A_RUN,
    "no flush before a run is taken apart": NO_FLUSH_BEFORE_A_RUN_IS_APART,
}
"""Every fault that a build with PTL_FAULTS=1 can be given, by name."""

if "PTL_FAULT" in os.environ and not choose_fault(FAULTS[os.environ["PTL_FAULT"]]):
    raise ImportError("PTL_FAULT needs a build with PTL_FAULTS=1")


def fail_allocation(n, /):
    """Let the n-th allocation that this thread asks the system for from now on fail; 0 for none. For tests."""
    cdef uint64_t count = as_count(n, "n")
    let_allocation_fail(<uint32_t> min(count, <uint64_t> 0xffffffff))
