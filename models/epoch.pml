/* SPDX-License-Identifier: MIT
 *
 * Epochs: a retired table is not reused while anybody can still reach it.
 *
 *     slot ---> table             reader: enter, load the slot, read the table, leave        (or pin it, leave, read on)
 *                                 writer: switch the slot, stamp, retire, reclaim
 *
 * Stands for, in src/ptl/core:
 *     epoch.pxi      section_enter, section_leave, retire, reclaim, limbo_drain, grace_period, limbo_free
 *     handles.pxi    map_table, close
 *
 * Memory: total store order. What a reader stores in its section word becomes visible at any later moment, and at the latest
 * with the reader's next read-modify-write, or with the reclaimer's membarrier. Only the last store in the buffer is kept:
 * it has one word in it, and every scan comes after a barrier. Writers use read-modify-writes alone. Epochs have four bits
 * and wrap in the run.
 *
 * Property: no table is given back that a reader has held and will read (E3), or that a handle has pinned (E6).
 */

#define TABLES 2
#define READERS 2
#define WRITERS 2
#ifndef SECTIONS
#define SECTIONS 1              /* of each reader */
#endif
#ifndef CHANGES
#define CHANGES 2               /* of each writer */
#endif
#define NONE 0
#define FIRST_EPOCH 15          /* of 16: the first increment wraps */

#define BEFORE(a, b) ((((a) - (b)) & 15) >= 8)
#define WORD(epoch, depth) ((epoch) * 4 + (depth))
#define EPOCH(word) ((word) / 4)
#define DEPTH(word) ((word) % 4)

#define FREE 0
#define LIVE 1
#define INCOMING 2              /* in the domain's stack */
#define PENDING 3               /* in its queue */

byte slot = 1;
byte use[TABLES + 1];
byte stamp[TABLES + 1];
byte pins[TABLES + 1];

byte epoch = FIRST_EPOCH;
byte safe = FIRST_EPOCH;
bit reclaim_lock;
byte stored[READERS];           /* the section words, as their owners see them */
byte section[READERS];          /* and as the reclaimer does */
byte held[READERS];          /* not in the core: the table that a reader will still read */

proctype memory() {             /* the store buffers empty by themselves */
end:
    do
    :: d_step { section[0] != stored[0] -> section[0] = stored[0] }
    :: d_step { section[1] != stored[1] -> section[1] = stored[1] }
    od
}

inline enter() {
    if
    :: DEPTH(stored[me]) > 0 ->
#ifdef MUTANT_NESTED_SECTION_TAKES_THE_EPOCH
        stored[me] = WORD(epoch, DEPTH(stored[me]) + 1)
#else
        stored[me] = stored[me] + 1
#endif
    :: else ->
        word = WORD(epoch, 1);                  /* an older epoch than at the store is only more careful */
#ifdef VARIANT_BARRIER_IN_THE_READER
        d_step { stored[me] = word; section[me] = word; word = 0 }
#else
        d_step { stored[me] = word; word = 0 }
#endif
    fi
}

inline leave() {
    stored[me] = stored[me] - 1
}

inline read() {
    held[me] = NONE
}

inline pin(table) {
    d_step { section[me] = stored[me]; pins[table]++ }
}

inline unpin(table) {
    d_step { section[me] = stored[me]; pins[table]-- }
}

proctype reader(byte me) {
    byte word, table, n;
    do
    :: n < SECTIONS ->
        enter();
        d_step { table = slot; held[me] = table };
        if
        :: table == NONE -> leave()
        :: table != NONE && me == 0 ->          /* a handle: pin, and read after the section */
#ifdef MUTANT_PIN_AFTER_THE_SECTION
            leave();
            pin(table);
#else
            pin(table);
            leave();
#endif
            read();
            unpin(table)
        :: table != NONE && me == 1 ->          /* a section in the section */
            enter();
            leave();
#ifdef MUTANT_LEAVE_BEFORE_THE_LAST_READ
            leave();
            read()
#else
            read();
            leave()
#endif
        fi;
        d_step { table = NONE; n++ }
    :: else -> break
    od
}

inline grace_period() {
#ifdef MUTANT_SCAN_BEFORE_THE_INCREMENT
    oldest = (epoch + 1) & 15;
#else
    d_step { epoch = (epoch + 1) & 15; oldest = epoch };
#endif
#if !defined(MUTANT_NO_BARRIER) && !defined(VARIANT_BARRIER_IN_THE_READER)
    d_step { section[0] = stored[0]; section[1] = stored[1] };
#endif
#ifdef MUTANT_SCAN_AGAINST_THE_EPOCH_OF_NOW
    oldest = epoch;                             /* another grace period may have begun meanwhile */
#endif
    d_step { if :: DEPTH(section[0]) > 0 && BEFORE(EPOCH(section[0]), oldest) -> oldest = EPOCH(section[0]) :: else fi };
#ifndef MUTANT_SCAN_MISSES_A_RECORD
    d_step { if :: DEPTH(section[1]) > 0 && BEFORE(EPOCH(section[1]), oldest) -> oldest = EPOCH(section[1]) :: else fi };
#endif
#ifdef MUTANT_SCAN_BEFORE_THE_INCREMENT
    epoch = (epoch + 1) & 15;
#endif
    d_step { safe = oldest; oldest = 0 }
}

#ifdef MUTANT_FREE_IN_THE_EPOCH_OF_THE_STAMP
#define IS_SAFE(k) (!BEFORE(safe, stamp[k]))
#else
#define IS_SAFE(k) BEFORE(stamp[k], safe)
#endif
#ifdef MUTANT_PINS_DO_NOT_COUNT
#define IS_PINNED(k) false
#else
#define IS_PINNED(k) (pins[k] > 0)
#endif
#ifdef MUTANT_SCAN_AGAINST_THE_EPOCH_OF_NOW
#define MAY_RECLAIM true
#else
#define MAY_RECLAIM (reclaim_lock == 0)
#endif

inline give_back(k) {
    if
    :: use[k] == PENDING && IS_SAFE(k) && !IS_PINNED(k) ->
        assert(held[0] != k && held[1] != k && pins[k] == 0);
#ifdef WITNESS_REUSE
        assert(false);
#endif
        use[k] = FREE;
        stamp[k] = 0
    :: else
    fi
}

inline reclaim() {
    if
    :: d_step {
            MAY_RECLAIM ->
            reclaim_lock = 1;
            if :: use[1] == INCOMING -> use[1] = PENDING :: else fi;
            if :: use[2] == INCOMING -> use[2] = PENDING :: else fi
        };
        if
        :: (use[1] == PENDING && !BEFORE(stamp[1], safe)) || (use[2] == PENDING && !BEFORE(stamp[2], safe)) ->
            grace_period()
        :: else
        fi;
        d_step { give_back(1); give_back(2); reclaim_lock = 0 }
    :: !MAY_RECLAIM
    fi
}

proctype writer() {
    byte table, now, oldest, n;
    do
    :: n < CHANGES ->
        if
        :: atomic {                             /* populate */
                slot == NONE && (use[1] == FREE || use[2] == FREE) ->
                if :: use[1] == FREE -> table = 1 :: else -> table = 2 fi;
                use[table] = LIVE;
                slot = table;
                table = NONE
            }
        :: slot != NONE ->                      /* retract, collapse, move: the switch of the slot, and then the stamp */
#ifdef MUTANT_STAMP_BEFORE_THE_SWITCH
            now = epoch;
            d_step { table = slot; slot = NONE };
#else
            d_step { table = slot; slot = NONE };
            now = epoch;
#endif
            if
            :: table != NONE -> d_step { stamp[table] = now; use[table] = INCOMING }
            :: else
            fi;
            d_step { table = NONE; now = 0 }
        :: true                                 /* nothing to change: reclaim only */
        fi;
        reclaim();
        n++
    :: else -> break
    od
}

init {
    atomic {
        use[1] = LIVE;
        run memory();
        run reader(0);
        run reader(1);
        run writer();
        run writer()
    }
}
