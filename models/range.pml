/* SPDX-License-Identifier: MIT
 *
 * Ranges: several tables at once, against ranges, transitions and single changes.
 *
 *     upper table   | slot 0 | slot 1 |          a range covers both pages: it locks the upper table if it has a hole in it,
 *                       |        |               then the leaf tables in the order of their addresses, freezes, looks,
 *     leaf tables    [ page ] [ page ]           stores, unlocks; what changed before its lock was taken makes it restart
 *
 * Stands for, in src/ptl/core:
 *     range.pxi       range_touches, range_lock, range_lock_level, range_reserve, range_freeze, range_thaw, range_commit,
 *                     commit_fresh, range_apply, range_settle
 *     transition.pxi  table_lock, populate, retract
 *     entry.pxi       entry_change
 *
 * Memory: sequential consistency; every access here is a read-modify-write or an acquire load.
 *
 * Properties: every page has, when it is frozen, changed or let go, the value that some serial order of all operations gives
 * it (C4); a range that refuses has changed nothing (C5); in the end nothing is frozen or locked; nothing deadlocks.
 */

#define TABLES 3
#define NONE 0
#define FROZEN 8
#define VALUE(e) ((e) & 7)      /* 0 is not mapped; each thread maps its own value */

#define FREE 0
#define USED 1
#define RETIRED 2

byte slot[2];                   /* NONE or a table */
byte entry[TABLES + 1];         /* a table has one */
byte use[TABLES + 1];
byte lock[TABLES + 1];          /* its owner; 0 is free */
byte upper_lock;

/* Not in the core: */
byte truth[2];                  /* what a serial order of what has happened gives each page */
byte held[2];                   /* the table that a compare-exchange may still touch */
byte running = 4;

#define IS_FREE(t) (use[t] == FREE || use[t] == RETIRED && held[0] != (t) && held[1] != (t))

inline take(t) {
    d_step {
        if
        :: IS_FREE(1) -> t = 1; use[1] = USED
        :: !IS_FREE(1) && IS_FREE(2) -> t = 2; use[2] = USED
        :: !IS_FREE(1) && !IS_FREE(2) && IS_FREE(3) -> t = 3; use[3] = USED
        :: else -> t = NONE
        fi
    }
}

inline acquire(word) {
    atomic { word == 0 -> word = me }
}

inline finish() {
    atomic {
        running--;
        if
        :: running == 0 ->
            assert(VALUE(entry[slot[0]]) == truth[0] && VALUE(entry[slot[1]]) == truth[1]);
            assert(!(entry[slot[0]] & FROZEN) && !(entry[slot[1]] & FROZEN));
            assert(!upper_lock && !lock[1] && !lock[2] && !lock[3])
        :: else
        fi
    }
}

/* -- a range ---------------------------------------------------------------------------------------------------------- */

#define MAP 0                   /* refuses when something is there */
#define REPLACE 1
#define PROTECT 2               /* changes what is mapped, and relies on holes staying holes */

inline lock_leaf(i) {           /* table_lock: the walk after the lock is slot.pml's; without it `freeze` would restart */
    do
    :: t = slot[i];
        if
        :: t == NONE -> break
        :: else
        fi;
        acquire(lock[t]);
        if
        :: slot[i] == t -> locked[i] = t; break
        :: else -> lock[t] = 0
        fi
    od
}

inline freeze(i) {
    t = slot[i];
    if
    :: t == NONE ->
#if !defined(MUTANT_HOLES_ARE_NOT_LOCKED) && !defined(MUTANT_NO_RESTART)
        if :: upper_lock != me -> restart = 1 :: else fi;
#endif
        looked[i] = 0
    :: else ->
#ifdef MUTANT_NO_RESTART
        if
#else
        if
        :: lock[t] != me -> restart = 1
#endif
        :: else ->
#ifdef MUTANT_NOTHING_IS_FROZEN
            looked[i] = VALUE(entry[t])
#else
            d_step { looked[i] = VALUE(entry[t]); entry[t] = entry[t] | FROZEN; frozen[i] = 1 }
#endif
        fi
    fi
}

inline thaw(i) {
    if
    :: frozen[i] -> d_step { entry[slot[i]] = VALUE(entry[slot[i]]); frozen[i] = 0 }
    :: else
    fi
}

inline store(i) {
    if
    :: slot[i] != NONE ->
        if
        :: kind == PROTECT && !looked[i] -> thaw(i)
        :: else -> d_step { entry[slot[i]] = me; frozen[i] = 0 }
        fi
    :: slot[i] == NONE && kind != PROTECT ->
        d_step { entry[fresh[i]] = me; slot[i] = fresh[i]; fresh[i] = NONE }
    :: else
    fi
}

inline reserve(i) {
    if
    :: kind != PROTECT && slot[i] == NONE ->
        take(t);
        if :: t == NONE -> refused = 1 :: else -> fresh[i] = t fi
    :: else
    fi
}

inline change_range() {
    do
    :: true ->
        d_step { restart = 0; refused = 0; looked[0] = 0; looked[1] = 0 };
#ifdef MUTANT_LEAF_BEFORE_UPPER
        lock_leaf(0);
        lock_leaf(1);
#endif
#ifndef MUTANT_HOLES_ARE_NOT_LOCKED
        if
        :: slot[0] == NONE || slot[1] == NONE -> acquire(upper_lock)
        :: else
        fi;
#endif
#ifdef MUTANT_AGAINST_THE_ORDER
        if
        :: me == 1 -> lock_leaf(1); lock_leaf(0)
        :: else -> lock_leaf(0); lock_leaf(1)
        fi;
#elif !defined(MUTANT_LEAF_BEFORE_UPPER)
        lock_leaf(0);
        lock_leaf(1);
#endif
        reserve(0);
        reserve(1);
        if :: !refused -> freeze(0) :: else fi;
        if :: !refused && !restart -> freeze(1) :: else fi;
        if :: kind == MAP && (looked[0] || looked[1]) -> refused = 1 :: else fi;
        if
        :: !refused && !restart ->
            d_step {                                /* the moment when it happens */
                assert(looked[0] == truth[0] && looked[1] == truth[1]);                     /* C4 */
                if :: kind != PROTECT || truth[0] -> truth[0] = me :: else fi;
                if :: kind != PROTECT || truth[1] -> truth[1] = me :: else fi
            };
            store(0);
#ifdef MUTANT_UNLOCK_BEFORE_THE_LAST_STORE
            unlock();
#endif
            store(1)
#ifndef MUTANT_A_REFUSED_RANGE_STAYS_FROZEN
        :: else -> thaw(0); thaw(1)
#else
        :: else -> d_step { frozen[0] = 0; frozen[1] = 0 }
#endif
        fi;
        unlock();
        if :: restart :: else -> break fi
    od
}

inline unlock() {               /* and give back what was not used */
    atomic {
        if :: fresh[0] != NONE -> use[fresh[0]] = FREE; fresh[0] = NONE :: else fi;
        if :: fresh[1] != NONE -> use[fresh[1]] = FREE; fresh[1] = NONE :: else fi
    };
    if :: locked[0] != NONE -> d_step { lock[locked[0]] = 0; locked[0] = NONE } :: else fi;
    if :: locked[1] != NONE -> d_step { lock[locked[1]] = 0; locked[1] = NONE } :: else fi;
    if :: upper_lock == me -> upper_lock = 0 :: else fi
}

proctype ranger(byte me) {
    byte kind, t;
    byte looked[2], locked[2], fresh[2];
    bit frozen[2], restart, refused;
    if :: kind = REPLACE :: me == 1 -> kind = MAP :: me == 2 -> kind = PROTECT fi;
    change_range();
    finish()
}

/* -- the others ------------------------------------------------------------------------------------------------------- */

inline change_one_entry() {
    d_step { t = slot[i]; held[me - 3] = t };
    if
    :: t != NONE ->
        value = entry[t];
        d_step {
            if
            :: !(value & FROZEN) && entry[t] == value ->
                assert(truth[i] == VALUE(value));                                       /* C4 */
                if :: value -> entry[t] = 0 :: else -> entry[t] = me fi;
                truth[i] = VALUE(entry[t])
            :: else                             /* walk again, which is another try of this choice */
            fi
        }
    :: else
    fi;
    d_step { held[me - 3] = NONE; t = 0; value = 0 }
}

inline populate() {
    acquire(upper_lock);
    if
    :: slot[i] == NONE ->
        take(t);
        if
        :: t != NONE -> d_step { entry[t] = 0; slot[i] = t }
        :: else
        fi
    :: else
    fi;
    d_step { t = 0; upper_lock = 0 }
}

inline retract() {
    acquire(upper_lock);
    t = slot[i];
    if
    :: t != NONE ->
        acquire(lock[t]);
        d_step { value = VALUE(entry[t]); entry[t] = entry[t] | FROZEN };
        if
        :: value == 0 -> d_step { assert(truth[i] == 0); slot[i] = NONE }
        :: else -> d_step { entry[t] = VALUE(entry[t]) }
        fi;
        lock[t] = 0;
        if :: value == 0 -> use[t] = RETIRED :: else fi
    :: else
    fi;
    d_step { t = 0; value = 0; upper_lock = 0 }
}

proctype changer(byte me) {
    byte i, t, value;
    if :: i = 0 :: i = 1 fi;
    if
    :: change_one_entry()
    :: populate()
    :: retract()
    fi;
    finish()
}

init {
    atomic {
        use[1] = USED;
        use[2] = USED;
        slot[1] = 2;
        if                                      /* a hole and a page, or an empty table and a page */
        :: use[1] = FREE
        :: slot[0] = 1
        fi;
        entry[2] = 3;
        truth[1] = 3;
        run ranger(1);
        run ranger(2);
        run changer(3);
        run changer(4)
    }
}
