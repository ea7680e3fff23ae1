# SPDX-License-Identifier: MIT
"""Faults that a test puts in, one at a time, to show that another test fails then.

Only a build with PTL_FAULTS=1 has them. There PTL_FAULT names the one that is in from the start, and `put_in_fault` puts
in another. In every other build `is_faulty` is the constant 0, and nothing of this is compiled. ptl.lab.mutants says what
each does, and what notices it. That there is no memory, and that there are no frames, can be tried in every build: neither
is asked for on a hot path.
"""

cdef enum Fault:
    MOVE_LOOKS_BEFORE_IT_LOCKS = 1      # mremap against retract, mended in Linux 6.12
    RETRACT_TRUSTS_ITS_LOOK             # a table that was filled again is reclaimed, mended while PT_RECLAIM was reviewed
    NOTHING_IS_FROZEN                   # a detached table is written to: why pte_offset_map_rw_nolock has a snapshot
    ENTRY_READ_IN_HALVES                # an entry of two words is torn: why such a read keeps interrupts off
    NO_FLUSH_OF_AN_ENTRY
    NO_FLUSH_OF_A_RETRACT
    NO_FLUSH_BEFORE_A_COPY
    NO_FLUSH_BEFORE_A_HUGE_LEAF
    NO_FLUSH_BEFORE_A_SPLIT
    NO_FLUSH_BEFORE_A_REPLACEMENT
    NO_FLUSH_BEFORE_A_CUT
    NO_FLUSH_OF_A_RANGE
    NO_FLUSH_OF_A_MOVE
    NO_FLUSH_OF_A_GATHER
    NO_FLUSH_OF_A_TABLE
    NO_FLUSH_OF_A_COPY
    SHADOW_AFTER_THE_ENTRY              # two changes of one entry, and the shadow of the first is stored last
    NO_FLUSH_BEFORE_A_RUN
    NO_FLUSH_BEFORE_A_RUN_IS_APART
    FROZEN_LEAF_REFILLED
    # the walk and its section
    SLOT_READ_TWICE
    NO_LOOK_AT_THE_BLOCK
    WALK_OUTSIDE_A_SECTION
    SECTION_LEFT_BEFORE_THE_LAST_USE
    BUSY_TAKEN_FOR_AN_ANSWER
    SWEEP_TAKES_BUSY_FOR_EMPTY
    SWEEP_FINDS_ALL_OF_A_LEAF
    DEPTH_IGNORED
    NESTED_ENTRY_RENEWS_THE_EPOCH
    ENTRY_WITH_AN_OLD_EPOCH
    ENTRY_WITHOUT_ITS_BARRIER
    # retiring and freeing
    NO_MEMBARRIER
    NO_BARRIER_BEFORE_THE_SCAN
    NO_SCAN_BEFORE_FREEING
    FREED_BY_THE_CURRENT_EPOCH
    STAMP_BEFORE_THE_SWITCH
    STAMP_OF_THE_OWN_SECTION
    STAMP_ONE_EPOCH_EARLY
    FREED_AT_ONCE
    FREED_TWICE
    RETIRED_BEFORE_THE_SWITCH
    NEVER_RETIRED
    RETIRING_WAITS_FOR_READERS
    RECORD_KEEPS_ITS_SECTION
    PINS_NOT_COUNTED
    PINNED_AFTER_THE_SECTION
    PINS_IGNORED
    # entries
    CHANGE_IGNORES_THE_FREEZE
    CHANGE_IN_TWO_STEPS
    FAILURE_TAKEN_FOR_AN_ANSWER
    RETRACT_FREEZES_NOTHING
    COLLAPSE_FREEZES_NOTHING
    RANGE_FREEZES_NOTHING
    RUN_FREEZES_NOTHING
    MOVE_FREEZES_NOTHING
    THAW_FORGOTTEN
    THAW_OF_ONE_TOO_FEW
    RANGE_THAWS_NOTHING
    HOLE_STAYS_FROZEN
    FINAL_VALUE_STAYS_FROZEN
    USED_LOST_BY_A_STORE
    # locks
    LOCK_IN_TWO_STEPS
    PARKED_WITHOUT_THE_BIT
    UNLOCKED_WITHOUT_WAKING
    WOKEN_WITHOUT_THE_BIT
    LOWER_LOCK_FIRST
    OLD_SIDE_LOCKED_FIRST
    NO_LOOK_AFTER_LOCKING
    NO_LOOK_AFTER_LOCKING_A_MAP
    RETRACT_LOCKS_NO_CHILD
    COLLAPSE_LOCKS_NO_CHILD
    REFUSAL_KEEPS_A_LOCK
    # transitions
    POPULATE_LOCKS_NOTHING
    POPULATE_DOES_NOT_LOOK_AGAIN
    PUBLISHED_BEFORE_IT_IS_FILLED
    PUBLISHED_BY_A_PLAIN_STORE
    NO_BUSY_BETWEEN_TABLE_AND_LEAF
    USED_COLLECTED_EARLY
    WRITE_NOT_WITHHELD
    NOT_INVALID_WHILE_IT_IS_SPLIT
    SPLIT_DOES_NOT_LOOK_AGAIN
    LEAF_KEEPS_NOTHING_PARKED
    # ranges and moves
    RANGE_LOCKS_NO_HOLE
    RANGE_CHANGES_WHAT_IT_HAS_NOT_LOCKED
    RANGE_UNLOCKS_EARLY
    RANGE_KEEPS_WHAT_IT_RESERVED
    RANGE_PARKS_NOTHING
    DROPPED_LEAF_STAYS_PARKED
    MOVE_SHOWS_BOTH
    FRESH_TABLE_NOT_FROZEN
    FRESH_TABLE_NOT_LOCKED
    TABLE_COPIED_BEFORE_IT_LEAVES
    TABLE_HANDED_OVER
    FLUSHED_BEFORE_THE_SWITCH
    CHANGE_BEGINS_AFTER_THE_SWITCH
    ATTACHED_BESIDE_CHANGES
    # sharing
    GATE_WITHOUT_ITS_BARRIER
    GATE_WAITS_FOR_NOBODY
    SHARED_TABLE_CHANGED
    SHARED_TABLE_CHANGED_UNDER_ITS_LOCK
    COPY_LEAVES_NO_REFERENCE
    SHARED_TABLE_TAKEN_OVER
    LAST_REFERENCE_FREED_AT_ONCE
    SNAPSHOT_BESIDE_A_LOCK
    LOCKED_TABLE_FREED

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
    "no flush of a copy": NO_FLUSH_OF_A_COPY,
    "shadow after the entry": SHADOW_AFTER_THE_ENTRY,
    "no flush before a run": NO_FLUSH_BEFORE_A_RUN,
    "no flush before a run is taken apart": NO_FLUSH_BEFORE_A_RUN_IS_APART,
    "frozen leaf refilled": FROZEN_LEAF_REFILLED,
    # the walk and its section
    "slot read twice": SLOT_READ_TWICE,
    "no look at the block": NO_LOOK_AT_THE_BLOCK,
    "walk outside a section": WALK_OUTSIDE_A_SECTION,
    "section left before the last use": SECTION_LEFT_BEFORE_THE_LAST_USE,
    "busy taken for an answer": BUSY_TAKEN_FOR_AN_ANSWER,
    "sweep takes busy for empty": SWEEP_TAKES_BUSY_FOR_EMPTY,
    "sweep finds all of a leaf": SWEEP_FINDS_ALL_OF_A_LEAF,
    "depth ignored": DEPTH_IGNORED,
    "nested entry renews the epoch": NESTED_ENTRY_RENEWS_THE_EPOCH,
    "entry with an old epoch": ENTRY_WITH_AN_OLD_EPOCH,
    "entry without its barrier": ENTRY_WITHOUT_ITS_BARRIER,
    # retiring and freeing
    "no membarrier": NO_MEMBARRIER,
    "no barrier before the scan": NO_BARRIER_BEFORE_THE_SCAN,
    "no scan before freeing": NO_SCAN_BEFORE_FREEING,
    "freed by the current epoch": FREED_BY_THE_CURRENT_EPOCH,
    "stamp before the switch": STAMP_BEFORE_THE_SWITCH,
    "stamp of the own section": STAMP_OF_THE_OWN_SECTION,
    "stamp one epoch early": STAMP_ONE_EPOCH_EARLY,
    "freed at once": FREED_AT_ONCE,
    "freed twice": FREED_TWICE,
    "retired before the switch": RETIRED_BEFORE_THE_SWITCH,
    "never retired": NEVER_RETIRED,
    "retiring waits for readers": RETIRING_WAITS_FOR_READERS,
    "record keeps its section": RECORD_KEEPS_ITS_SECTION,
    "pins not counted": PINS_NOT_COUNTED,
    "pinned after the section": PINNED_AFTER_THE_SECTION,
    "pins ignored": PINS_IGNORED,
    # entries
    "change ignores the freeze": CHANGE_IGNORES_THE_FREEZE,
    "change in two steps": CHANGE_IN_TWO_STEPS,
    "failure taken for an answer": FAILURE_TAKEN_FOR_AN_ANSWER,
    "retract freezes nothing": RETRACT_FREEZES_NOTHING,
    "collapse freezes nothing": COLLAPSE_FREEZES_NOTHING,
    "range freezes nothing": RANGE_FREEZES_NOTHING,
    "run freezes nothing": RUN_FREEZES_NOTHING,
    "move freezes nothing": MOVE_FREEZES_NOTHING,
    "thaw forgotten": THAW_FORGOTTEN,
    "thaw of one too few": THAW_OF_ONE_TOO_FEW,
    "range thaws nothing": RANGE_THAWS_NOTHING,
    "hole stays frozen": HOLE_STAYS_FROZEN,
    "final value stays frozen": FINAL_VALUE_STAYS_FROZEN,
    "used lost by a store": USED_LOST_BY_A_STORE,
    # locks
    "lock in two steps": LOCK_IN_TWO_STEPS,
    "parked without the bit": PARKED_WITHOUT_THE_BIT,
    "unlocked without waking": UNLOCKED_WITHOUT_WAKING,
    "woken without the bit": WOKEN_WITHOUT_THE_BIT,
    "lower lock first": LOWER_LOCK_FIRST,
    "old side locked first": OLD_SIDE_LOCKED_FIRST,
    "no look after locking": NO_LOOK_AFTER_LOCKING,
    "no look after locking a map": NO_LOOK_AFTER_LOCKING_A_MAP,
    "retract locks no child": RETRACT_LOCKS_NO_CHILD,
    "collapse locks no child": COLLAPSE_LOCKS_NO_CHILD,
    "refusal keeps a lock": REFUSAL_KEEPS_A_LOCK,
    # transitions
    "populate locks nothing": POPULATE_LOCKS_NOTHING,
    "populate does not look again": POPULATE_DOES_NOT_LOOK_AGAIN,
    "published before it is filled": PUBLISHED_BEFORE_IT_IS_FILLED,
    "published by a plain store": PUBLISHED_BY_A_PLAIN_STORE,
    "no busy between table and leaf": NO_BUSY_BETWEEN_TABLE_AND_LEAF,
    "used collected early": USED_COLLECTED_EARLY,
    "write not withheld": WRITE_NOT_WITHHELD,
    "not invalid while it is split": NOT_INVALID_WHILE_IT_IS_SPLIT,
    "split does not look again": SPLIT_DOES_NOT_LOOK_AGAIN,
    "leaf keeps nothing parked": LEAF_KEEPS_NOTHING_PARKED,
    # ranges and moves
    "range locks no hole": RANGE_LOCKS_NO_HOLE,
    "range changes what it has not locked": RANGE_CHANGES_WHAT_IT_HAS_NOT_LOCKED,
    "range unlocks early": RANGE_UNLOCKS_EARLY,
    "range keeps what it reserved": RANGE_KEEPS_WHAT_IT_RESERVED,
    "range parks nothing": RANGE_PARKS_NOTHING,
    "dropped leaf stays parked": DROPPED_LEAF_STAYS_PARKED,
    "move shows both": MOVE_SHOWS_BOTH,
    "fresh table not frozen": FRESH_TABLE_NOT_FROZEN,
    "fresh table not locked": FRESH_TABLE_NOT_LOCKED,
    "table copied before it leaves": TABLE_COPIED_BEFORE_IT_LEAVES,
    "table handed over": TABLE_HANDED_OVER,
    "flushed before the switch": FLUSHED_BEFORE_THE_SWITCH,
    "change begins after the switch": CHANGE_BEGINS_AFTER_THE_SWITCH,
    "attached beside changes": ATTACHED_BESIDE_CHANGES,
    # sharing
    "gate without its barrier": GATE_WITHOUT_ITS_BARRIER,
    "gate waits for nobody": GATE_WAITS_FOR_NOBODY,
    "shared table changed": SHARED_TABLE_CHANGED,
    "shared table changed under its lock": SHARED_TABLE_CHANGED_UNDER_ITS_LOCK,
    "copy leaves no reference": COPY_LEAVES_NO_REFERENCE,
    "shared table taken over": SHARED_TABLE_TAKEN_OVER,
    "last reference freed at once": LAST_REFERENCE_FREED_AT_ONCE,
    "snapshot beside a lock": SNAPSHOT_BESIDE_A_LOCK,
    "locked table freed": LOCKED_TABLE_FREED,
}
"""Every fault that a build with PTL_FAULTS=1 can be given, by name."""


def put_in_fault(name, /):
    """Put the fault of that name into the core in place of the one that is in it; None for none.

    Whether it was done: False in a build without faults. Nothing else may use the core meanwhile. Raises KeyError.
    """
    return bool(choose_fault(0 if name is None else FAULTS[name]))


if "PTL_FAULT" in os.environ and not put_in_fault(os.environ["PTL_FAULT"]):
    raise ImportError("PTL_FAULT needs a build with PTL_FAULTS=1")


def fail_allocation(n, /):
    """Let the n-th allocation that this thread asks the system for from now on fail; 0 for none. For tests."""
    cdef uint64_t count = as_count(n, "n")
    let_allocation_fail(<uint32_t> min(count, <uint64_t> 0xffffffff))


def fail_frames(n, times=0xffffffff, /):
    """Let this thread find no frames when it asks for them the n-th time from now on, nor the next `times - 1` times; 0 for
    none. For tests.
    """
    cdef uint64_t count = as_count(n, "n"), most = as_count(times, "times")
    if count and not most:
        raise ValueError("times must be at least 1")
    let_frames_fail(<uint32_t> min(count, <uint64_t> 0xffffffff), <uint32_t> min(most, <uint64_t> 0xffffffff))
