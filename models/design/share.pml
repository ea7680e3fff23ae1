/* SPDX-License-Identifier: MIT
 *
 * Design, not in the core yet: tables that two trees share until one of them writes.
 *
 *     tree 0: slot --.                          snapshot: freeze the table, count one more owner, name it in both, SHARED
 *                     +--> table, owners 2      write:    copy it, name the copy, count one owner less
 *     tree 1: slot --'                                    as the last owner too: see below
 *                                               drop:     name nothing, count one owner less; the last one retires it
 *
 * The entries of a shared table stay frozen: a compare-exchange that found the slot before it was shared fails, walks again,
 * finds SHARED, and unshares first. Nobody ever thaws it, the last owner neither: a thread that found it in the tree that
 * has copied it since would change it in the other.
 *
 * Memory: sequential consistency; every access is a read-modify-write or an acquire load. Reclaiming is what epoch.pml
 * proves of it: a retired table comes back when nobody who reached it is inside any more.
 *
 * One thread writes in each tree, one makes snapshots of tree 0 as tree 1 and drops tree 1, one reads tree 1. Properties:
 * what a tree says is what was written to it, and nothing that was written to the other; owners are counted; nothing leaks.
 */

#define TABLES 3
#define NONE 0
#define SHARED 4                /* a bit of the slot beside the table's number */
#define TABLE(s) ((s) & 3)
#define MAPPED 1
#define FROZEN 2

byte slot[2];
bit upper_lock[2];
byte entry[TABLES + 1];
byte owners[TABLES + 1];
bit lock[TABLES + 1];
bit used[TABLES + 1];
bit retired[TABLES + 1];

/* Not in the core: */
bit truth[2];
byte held[3];
byte seen;                      /* the values that tree 1 had since the read began */
byte running = 4;

#define NOBODY_HOLDS(t) (held[0] != (t) && held[1] != (t) && held[2] != (t))
#define IS_FREE(t) (!used[t] || retired[t] && NOBODY_HOLDS(t))

inline take(t) {
    if :: IS_FREE(1) -> t = 1 :: !IS_FREE(1) && IS_FREE(2) -> t = 2 :: !IS_FREE(1) && !IS_FREE(2) && IS_FREE(3) -> t = 3
    :: else -> t = NONE
    fi;
    if :: t != NONE -> used[t] = 1; retired[t] = 0; owners[t] = 1 :: else fi
}

inline set_truth(tree, value) {
    truth[tree] = value;
    if :: (tree) == 1 && seen -> seen = seen | (1 << truth[1]) :: else fi
}

inline let_go(t) {              /* one owner less; the last retires it */
#ifdef MUTANT_COUNT_IN_TWO_STEPS
    n = owners[t];
    d_step { owners[t] = n - 1; if :: n == 1 -> retired[t] = 1 :: else fi }
#else
    d_step {
        owners[t]--;
        if :: owners[t] == 0 -> assert(TABLE(slot[0]) != t && TABLE(slot[1]) != t); retired[t] = 1 :: else fi
    }
#endif
}

inline unshare(tree) {
    atomic { !upper_lock[tree] -> upper_lock[tree] = 1 };
    s = slot[tree];
    if
    :: s & SHARED ->
        t = TABLE(s);
        if
#ifdef MUTANT_THE_LAST_OWNER_THAWS
        :: owners[t] == 1 ->
            d_step { slot[tree] = t };
            d_step { entry[t] = entry[t] & MAPPED }
#endif
#ifdef MUTANT_THE_LAST_OWNER_THAWS
        :: else ->
#else
        :: true ->
#endif
            d_step { take(fresh) };
            if
            :: fresh != NONE ->
#ifdef MUTANT_THE_COPY_IS_MADE_AFTERWARDS
                slot[tree] = fresh;
                entry[fresh] = entry[t] & MAPPED;
#else
                entry[fresh] = entry[t] & MAPPED;
                slot[tree] = fresh;
#endif
                let_go(t)
            :: else
            fi
        fi
    :: else
    fi;
    d_step { s = 0; t = 0; fresh = 0; n = 0; upper_lock[tree] = 0 }
}

#define NAMES(t) ((TABLE(slot[0]) == (t)) + (TABLE(slot[1]) == (t)))
#define SETTLED(t) (used[t] && !retired[t] -> owners[t] == NAMES(t) && owners[t] > 0 : NAMES(t) == 0)

inline finish() {
    atomic {
        running--;
        if :: running == 0 -> assert(SETTLED(1) && SETTLED(2) && SETTLED(3)) :: else fi
    }
}

proctype writer(byte tree) {
    byte s, t, fresh, value, n, turns;
    do
    :: turns < 2 ->
        d_step { s = slot[tree]; held[tree] = TABLE(s) };
        if
        :: s == NONE
        :: s & SHARED -> held[tree] = NONE; unshare(tree)
        :: else ->
            value = entry[TABLE(s)];
            d_step {
                if
                :: !(value & FROZEN) && entry[TABLE(s)] == value ->
                    assert(truth[tree] == value);
                    entry[TABLE(s)] = value ^ MAPPED;
                    set_truth(tree, !truth[tree])
                :: else
                fi
            }
        fi;
        d_step { held[tree] = NONE; s = 0; value = 0; turns++ }
    :: else -> break
    od;
    finish()
}

inline snapshot() {             /* of tree 0, as tree 1, which is empty; upper locks in their order */
    atomic { !upper_lock[0] -> upper_lock[0] = 1 };
    atomic { !upper_lock[1] -> upper_lock[1] = 1 };
    s = slot[0];
    if
    :: slot[1] == NONE && s != NONE ->
        t = TABLE(s);
        atomic { !lock[t] -> lock[t] = 1 };
#ifndef MUTANT_SHARED_TABLES_ARE_NOT_FROZEN
        d_step { entry[t] = entry[t] | FROZEN };
#endif
#ifdef MUTANT_COUNT_AFTER_THE_NAME
        slot[0] = t | SHARED;
        d_step { slot[1] = t | SHARED; set_truth(1, truth[0]) };
        upper_lock[1] = 0;
        owners[t]++;
#else
        owners[t]++;
        slot[0] = t | SHARED;
        d_step { slot[1] = t | SHARED; set_truth(1, truth[0]) };
#endif
        lock[t] = 0
    :: else
    fi;
    d_step { s = 0; t = 0; upper_lock[0] = 0; upper_lock[1] = 0 }
}

inline drop() {                 /* tree 1 */
    atomic { !upper_lock[1] -> upper_lock[1] = 1 };
    s = slot[1];
    if
    :: s != NONE ->
        t = TABLE(s);
#ifndef MUTANT_WHAT_IS_DROPPED_IS_NOT_FROZEN
        d_step { entry[t] = entry[t] | FROZEN };                        /* a shared one is frozen already */
#endif
        d_step { slot[1] = NONE; set_truth(1, 0) };
        let_go(t)
    :: else
    fi;
    d_step { s = 0; t = 0; n = 0; upper_lock[1] = 0 }
}

proctype forker() {
    byte s, t, n;
    snapshot();
    drop();
    snapshot();
    finish()
}

proctype reader() {
    byte s, value;
    d_step { seen = 1 << truth[1] };
    d_step { s = slot[1]; held[2] = TABLE(s) };
    value = (s == NONE -> 0 : entry[TABLE(s)] & MAPPED);
    d_step { assert(seen & (1 << value)); held[2] = NONE; seen = 0; s = 0; value = 0 };
    finish()
}

init {
    atomic {
        used[1] = 1;
        owners[1] = 1;
        slot[0] = 1;
        run writer(0);
        run writer(1);
        run forker();
        run reader()
    }
}
