/* SPDX-License-Identifier: MIT
 *
 * One slot above tables of two entries. Two readers without locks; two threads that change: single entries by
 * compare-exchange, both by a range operation that locks the leaf table alone, the slot by every transition.
 *
 *     EMPTY --populate--> TABLE --collapse, BUSY in between--> HUGE --split, INVALID in between--> TABLE
 *                         TABLE --retract--> EMPTY             HUGE --unmap--> EMPTY
 *
 * Stands for, in src/ptl/core:
 *     walk.pxi        walk_shaped, translate
 *     entry.pxi       entry_change, entry_freeze, entry_thaw, page_map, page_unmap
 *     transition.pxi  table_lock, populate, retract, collapse, collapse_locked, split, slot_invalidate
 *     range.pxi       range_lock_level, range_freeze, commit_covered
 *     frames.pxi      tables_park, table_take_parked, tables_take
 *
 * Memory: sequential consistency. Every access to an entry or a slot here is a read-modify-write or an acquire load, so
 * there is nothing to buffer; publish.pml is about the plain stores to private tables.
 *
 * Reclaiming is what epoch.pml proves of it: a retired table is given back when nobody who held it is inside any more.
 *
 * Properties: a translation was true at a moment inside the read (C1); an entry that is changed holds what it ought to (C3,
 * C4); a table that leaves says what the slot says afterwards (T3); a split has its table (C6); nothing deadlocks.
 */

#define TABLES 2
#ifndef CHANGES
#define CHANGES 2               /* of each writer */
#endif

#define NONE 0                  /* what a slot holds: this, a table from 1 on, or one of those below */
#define INVALID 7
#define HUGE 8
#define BUSY 9
#define IS_TABLE(s) ((s) >= 1 && (s) <= TABLES)

#define MAPPED 1                /* the bits of an entry */
#define FROZEN 2
#define ENTRY(t, i) entry[2 * (t) + (i)]

#define FREE 0
#define USED 1
#define RETIRED 2

byte slot = 1;
byte entry[2 * (TABLES + 1)];
byte use[TABLES + 1];
byte parked;                    /* free tables that huge leaves own */
bit upper_lock;                 /* of the table that holds the slot */
bit lock[TABLES + 1];

/* Not in the core: */
bit truth[2];                   /* what the table as a whole says of the two pages */
byte held[4];                   /* the table that a thread inside a section may still touch: two readers, two writers */
byte page[2];                   /* of each reader */
byte seen[2];                   /* the values that it had since the read began, as bits; 0 outside a read */

inline set_truth(i, value) {
    truth[i] = value;
    if :: seen[0] && page[0] == (i) -> seen[0] = seen[0] | (1 << truth[i]) :: else fi;
    if :: seen[1] && page[1] == (i) -> seen[1] = seen[1] | (1 << truth[i]) :: else fi
}

#define NOBODY_HOLDS(t) (held[0] != (t) && held[1] != (t) && held[2] != (t) && held[3] != (t))
#ifdef MUTANT_REUSE_AT_ONCE
#define CAN_COME_BACK(t) (use[t] == RETIRED)
#else
#define CAN_COME_BACK(t) (use[t] == RETIRED && NOBODY_HOLDS(t))
#endif
#define IS_FREE(t) (use[t] == FREE || CAN_COME_BACK(t))
#define FREE_TABLES (IS_FREE(1) + IS_FREE(2))

#ifdef MUTANT_PARKED_TABLES_ARE_TAKEN
#define CAN_TAKE (FREE_TABLES > 0)
#else
#define CAN_TAKE (FREE_TABLES > parked)
#endif

inline take(t) {                /* a private table that nobody has parked, or NONE */
    d_step {
        if
        :: !CAN_TAKE -> t = NONE
        :: else -> pop(t)
        fi
    }
}

inline take_parked(t) {
    d_step {
        parked--;
        assert(FREE_TABLES > 0);                                                        /* C6 */
        pop(t)
    }
}

inline pop(t) {
    if :: IS_FREE(1) -> t = 1 :: else -> t = 2 fi;
    use[t] = USED
}

inline freeze(t, i, value) {    /* compare-exchange until it is done */
#ifdef MUTANT_NOTHING_IS_FROZEN
    value = ENTRY(t, i)
#else
    d_step { value = ENTRY(t, i); ENTRY(t, i) = ENTRY(t, i) | FROZEN }
#endif
}

inline thaw(t, i) {
    d_step { ENTRY(t, i) = ENTRY(t, i) & MAPPED }
}

inline walk(s) {                /* inside a section from here on */
    atomic { s = slot; held[me] = (IS_TABLE(s) -> s : NONE) }
}

proctype reader(byte me) {
    byte s, value;
    d_step { if :: true -> page[me] = 0 :: true -> page[me] = 1 fi; seen[me] = 1 << truth[page[me]] };
again:
    walk(s);
    if
    :: s == NONE -> value = 0
    :: s == HUGE || s == INVALID -> value = 1
    :: s == BUSY ->
#ifdef MUTANT_BUSY_IS_NOT_MAPPED
        value = 0
#else
        slot != BUSY;
        goto again
#endif
    :: IS_TABLE(s) ->
#ifdef MUTANT_SLOT_IS_READ_TWICE
        s = slot;
        if :: IS_TABLE(s) :: else -> s = NONE fi;
#endif
        value = ENTRY(s, page[me]) & MAPPED                 /* frozen or not */
    fi;
    d_step {
        assert(seen[me] & (1 << value));                                                /* C1 */
        held[me] = NONE;
        seen[me] = 0;
        page[me] = 0;
        s = 0;
        value = 0
    }
}

inline change_one_entry(i) {    /* page_map, page_unmap: compare-exchange, without a lock */
    walk(s);
    if
    :: IS_TABLE(s) ->
        value = ENTRY(s, i);
        d_step {
            if
#ifdef MUTANT_THE_FREEZE_IS_IGNORED
            :: ENTRY(s, i) == value ->
#else
            :: !(value & FROZEN) && ENTRY(s, i) == value ->
#endif
                assert(truth[i] == (value & MAPPED));                                   /* C3 */
                ENTRY(s, i) = value ^ MAPPED;
                set_truth(i, !truth[i])
            :: else                             /* frozen, or changed: walk again, which is another try of this choice */
            fi
        }
    :: else
    fi;
    d_step { held[me] = NONE; s = 0; value = 0 }
}

inline change_a_range() {       /* unmap both pages, with the lock of the leaf table alone */
    s = slot;
    if
    :: IS_TABLE(s) ->
        atomic { lock[s] == 0 -> lock[s] = 1 };
#ifndef MUTANT_NO_WALK_AFTER_THE_LOCK
        if
        :: slot != s -> lock[s] = 0; s = NONE
        :: else
        fi;
#endif
        if
        :: s != NONE ->
            freeze(s, 0, value);
            freeze(s, 1, other);
            d_step { assert(truth[0] == (value & MAPPED)); ENTRY(s, 0) = 0; set_truth(0, 0) };      /* C4 */
            d_step { assert(truth[1] == (other & MAPPED)); ENTRY(s, 1) = 0; set_truth(1, 0) };
            lock[s] = 0
        :: else
        fi
    :: else
    fi;
    d_step { s = 0; value = 0; other = 0 }
}

inline populate() {
    atomic { upper_lock == 0 -> upper_lock = 1 };
    if
    :: slot == NONE ->
        take(t);
        if
        :: t != NONE ->
            ENTRY(t, 0) = 0;
            ENTRY(t, 1) = 0;
            slot = t
        :: else
        fi
    :: else
    fi;
    d_step { t = 0; upper_lock = 0 }
}

inline collapse_or_retract() {
    atomic { upper_lock == 0 -> upper_lock = 1 };
    s = slot;
    if
    :: IS_TABLE(s) ->
#ifndef MUTANT_THE_CHILD_IS_NOT_LOCKED
        atomic { lock[s] == 0 -> lock[s] = 1 };
#endif
#ifdef MUTANT_DECIDE_BEFORE_THE_FREEZE
        d_step { value = ENTRY(s, 0); other = ENTRY(s, 1) };
        d_step { ENTRY(s, 0) = value | FROZEN; ENTRY(s, 1) = ENTRY(s, 1) | FROZEN };
#else
        freeze(s, 0, value);
        freeze(s, 1, other);
#endif
        if
        :: value && other ->
            d_step {                            /* park a table for the leaf, or let it be */
                if
#ifdef MUTANT_NOTHING_IS_PARKED
                :: true -> parked++
#else
                :: CAN_TAKE -> parked++
#endif
                :: else -> value = 0
                fi
            };
            if
            :: value ->
                slot = BUSY;
                d_step { assert(truth[0] && truth[1]); slot = HUGE };                   /* T3 */
                t = s
            :: else
            fi
        :: !value && !other ->
            d_step { assert(!truth[0] && !truth[1]); slot = NONE };                     /* T3 */
            t = s
        :: else
        fi;
#ifdef MUTANT_THAW_WHAT_LEAVES
        thaw(s, 0);
        thaw(s, 1);
#else
        if
        :: t == NONE -> thaw(s, 0); thaw(s, 1)
        :: else
        fi;
#endif
        lock[s] = 0;
        if :: t != NONE -> use[t] = RETIRED :: else fi
    :: else
    fi;
    d_step { s = 0; t = 0; value = 0; other = 0; upper_lock = 0 }
}

inline split_or_unmap() {
    atomic { upper_lock == 0 -> upper_lock = 1 };
    if
    :: slot == HUGE ->
        if
        :: true ->
#ifdef MUTANT_SPLIT_GOES_THROUGH_EMPTY
            slot = NONE;
#else
            slot = INVALID;
#endif
            take_parked(t);
#ifdef MUTANT_PUBLISH_BEFORE_IT_IS_FULL
            slot = t;
            ENTRY(t, 0) = MAPPED;
            ENTRY(t, 1) = MAPPED
#else
            ENTRY(t, 0) = MAPPED;
            ENTRY(t, 1) = MAPPED;
            slot = t
#endif
        :: d_step { true -> slot = NONE; parked--; set_truth(0, 0); set_truth(1, 0) }
        fi
    :: else
    fi;
    d_step { t = 0; upper_lock = 0 }
}

proctype writer(byte me) {
    byte s, t, value, other, n;
    do
    :: n < CHANGES ->
        if
        :: change_one_entry(0)
        :: change_one_entry(1)
        :: change_a_range()
        :: populate()
        :: take(t); t = 0                       /* for another slot, which keeps it */
        :: collapse_or_retract()
        :: split_or_unmap()
        fi;
        n++
    :: else -> break
    od
}

init {
    atomic {
        use[1] = USED;
        ENTRY(1, 0) = MAPPED;
        ENTRY(1, 1) = MAPPED;
        truth[0] = 1;
        truth[1] = 1;
        run reader(0);
        run reader(1);
        run writer(2);
        run writer(3)
    }
}
