/* SPDX-License-Identifier: MIT
 *
 * Design, not in the core yet: reuse without waiting for readers.
 *
 *     reclaimer: begin an epoch, barrier, mark whoever is inside since before, reuse every table that no writer has named
 *     reader:    enter, load the slot, read the table; marked? throw the result away and walk again
 *     writer:    enter, load the slot, name the table, barrier; marked? again. Otherwise change it
 *
 * Tables are type-stable, so a late reader reads a table of another life, and finds out. Garbage is bounded by the named
 * tables, whatever a reader does.
 *
 * Memory: total store order on the section words, as in epoch.pml; naming a table is an exchange, and so a barrier. The mark
 * is stored before a table is reused, and a reader that sees the reuse sees the mark.
 *
 * One reader, one writer, two threads that install, retire and reclaim. Property: what is returned, or changed, belongs to
 * the life of the table in which the slot named it.
 */

#define TABLES 2
#define THREADS 2               /* with a record: 0 reads, 1 writes */
#define NONE 0

#define BEFORE(a, b) ((((a) - (b)) & 15) >= 8)
#define INSIDE(word) ((word) & 1)
#define EPOCH(word) ((word) >> 1)

byte slot = 1;
bit retired[TABLES + 1];
byte stamp[TABLES + 1];         /* the epoch after the slot was changed */
bit used[TABLES + 1];
byte life[TABLES + 1];          /* not in the core: what the table's contents belong to */

byte epoch = 15;
bit reclaim_lock;
byte stored[THREADS];           /* the section words, as their owners see them: epoch << 1 | inside */
byte section[THREADS];          /* and as the reclaimer does */
bit marked[THREADS];
byte named;                     /* by the writer */

proctype memory() {
end:
    do
    :: d_step { section[0] != stored[0] -> section[0] = stored[0] }
    :: d_step { section[1] != stored[1] -> section[1] = stored[1] }
    od
}

inline enter() {
    marked[me] = 0;                             /* by an exchange: its owner alone clears it, outside any section */
    word = epoch << 1 | 1;
    stored[me] = word
}

inline leave() {
    stored[me] = 0
}

proctype reader(byte me) {
    byte word, table, then, found;
    enter();
    d_step { table = slot; then = life[table] };
    found = life[table];
    if
#ifndef MUTANT_NO_LOOK_AT_THE_MARK
    :: marked[me]                               /* thrown away: walk again */
    :: else ->
#else
    :: true ->
#endif
        assert(table == NONE || found == then)
    fi;
    leave()
}

proctype writer(byte me) {
    byte word, table, then;
    enter();
    d_step { table = slot; then = life[table] };
    if
    :: table != NONE ->
#if !defined(MUTANT_WRITERS_NAME_NOTHING) && !defined(MUTANT_NAME_AFTER_THE_LOOK)
        d_step { named = table; section[me] = stored[me] };
#endif
        if
        :: !marked[me] ->
#ifdef MUTANT_NAME_AFTER_THE_LOOK
            d_step { named = table; section[me] = stored[me] };
#endif
            assert(life[table] == then)         /* the compare-exchange */
        :: else                                 /* walk again */
        fi;
        named = NONE
    :: else
    fi;
    leave()
}

inline mark(k) {
    d_step { if :: INSIDE(section[k]) && BEFORE(EPOCH(section[k]), begun) -> marked[k] = 1 :: else fi }
}

#ifdef MUTANT_REUSE_OF_WHAT_IS_RETIRED_LATER
#define MAY_REUSE(t) (retired[t] && named != (t))
#else
#define MAY_REUSE(t) (retired[t] && BEFORE(stamp[t], begun) && named != (t))
#endif

inline reuse(t) {
    if
    :: MAY_REUSE(t) -> d_step { retired[t] = 0; used[t] = 0; life[t] = (life[t] + 1) & 3 }
    :: else
    fi
}

inline reclaim() {
    if
    :: d_step { reclaim_lock == 0 -> reclaim_lock = 1 };
        d_step { epoch = (epoch + 1) & 15; begun = epoch };
#ifndef MUTANT_NO_BARRIER
        d_step { section[0] = stored[0]; section[1] = stored[1] };
#endif
#ifdef MUTANT_REUSE_BEFORE_THE_MARKS
        reuse(1);
        reuse(2);
#endif
        mark(0);
        mark(1);
#ifndef MUTANT_REUSE_BEFORE_THE_MARKS
        reuse(1);
        reuse(2);
#endif
        d_step { begun = 0; reclaim_lock = 0 }
    :: reclaim_lock == 1
    fi
}

proctype changer(byte changes) {
    byte begun;
    do
    :: changes > 0 ->
        if
        :: d_step {                             /* populate */
                slot == NONE && (!used[1] || !used[2]) ->
                if :: !used[1] -> slot = 1 :: else -> slot = 2 fi;
                used[slot] = 1
            }
        :: d_step { slot != NONE -> stamp[slot] = epoch; retired[slot] = 1; slot = NONE }
        :: true
        fi;
        reclaim();
        changes--
    :: else -> break
    od
}

init {
    atomic {
        used[1] = 1;
        run memory();
        run reader(0);
        run writer(1);
        run changer(2);
        run changer(1)
    }
}
