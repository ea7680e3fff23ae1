/* SPDX-License-Identifier: MIT
 *
 * Tables that trees share: who writes copies first, who makes a snapshot keeps everybody out for a moment.
 *
 *     root 0 --.                              root 0 ---> middle' --.        refs: how many slots name a table
 *               +--> middle ---> leaf                                +--> leaf generation: of the tree that may change it
 *     root 1 --'                              root 1 ---> middle ---'
 *
 * Stands for, in src/ptl/core:
 *     share.pxi       table_copy, table_let_go, shared_level, unshare, slot_unshare, locked_below, tree_share
 *     walk.pxi        is_own
 *     entry.pxi       page_map, leaf_replace
 *     transition.pxi  table_lock, change_enter
 *     handles.pxi     lock_keep, lock_let_go
 *     epoch.pxi       limbo_free
 *
 * Memory: sequential consistency; what makes it so for the gate is gate.pml's. Reclaiming is what epoch.pml proves of it: a
 * retired table comes back when every section that was inside has ended, and nobody holds its lock. A root has one slot, and
 * is always its tree's own; a middle table and a leaf table have one entry each.
 *
 * One thread changes without locks, and one under the lock of the leaf table, in the gate once as transitions do, or twice
 * as Python does, which holds the lock in between; each in whichever tree there is. In the variant both change without
 * locks, and a third reads. Another makes a snapshot of tree 0 as tree 1, drops tree 1, and makes one more.
 *
 * Properties: what a tree says is what was written to it, and nothing that was written to the other, for late readers of
 * both too; a table is changed by its own tree alone, where it is attached; slots are counted; nothing leaks.
 */

#if defined(MUTANT_THE_LAST_TAKES_OVER) || defined(MUTANT_THE_LAST_FREES_AT_ONCE)
#define VARIANT_A_READER_IN_PLACE_OF_THE_LOCK
#endif

#define TABLES 6
#define NONE 0

#define A 0                     /* changes without locks */
#define B 1                     /* changes under a lock; in the variant without */
#define C 2                     /* reads */
#define BIT(who) (1 << (who))

byte root[2];                   /* what the one slot of each root names */
bit root_lock[2];
byte tree_generation[2];
byte generations = 1;
byte held[2];                   /* how many locks of each tree Python holds */
bit closed;                     /* the gate */
byte inside;                    /* the gate, as bits */

byte content[TABLES + 1];       /* of a middle table: the leaf table that it names; of a leaf table: whether it maps */
byte generation[TABLES + 1];
byte refs[TABLES + 1];
bit lock[TABLES + 1];
bit is_middle[TABLES + 1];
bit is_used[TABLES + 1];

byte section;                   /* who is inside one, as bits */
byte waits_for[TABLES + 1];     /* of a retired table: who was inside then, and still is */

/* Not in the core: */
bit truth[2];                   /* what each tree maps */
byte users;                     /* who works in tree 1, so it cannot be dropped */
byte read_tree;
byte seen;                      /* the values that the tree being read had since the read began, as bits; 0 outside */
byte running;

#define IS_OWN(tree, t) (generation[t] == tree_generation[tree])
#define LEAF(tree) content[root[tree]]
#define IS_ATTACHED(tree, t) (root[tree] != NONE && LEAF(tree) == (t))

/* Who holds a table's lock and is about to look whether it is own is in no section: until then it must stay what it is. */
#ifdef MUTANT_A_LOCKED_TABLE_IS_REUSED
#define IS_FREE(t) (!is_used[t] && waits_for[t] == 0)
#else
#define IS_FREE(t) (!is_used[t] && waits_for[t] == 0 && !lock[t])
#endif

inline take(t) {
    if
    :: IS_FREE(1) -> t = 1
    :: !IS_FREE(1) && IS_FREE(2) -> t = 2
    :: !IS_FREE(1) && !IS_FREE(2) && IS_FREE(3) -> t = 3
    :: !IS_FREE(1) && !IS_FREE(2) && !IS_FREE(3) && IS_FREE(4) -> t = 4
    :: !IS_FREE(1) && !IS_FREE(2) && !IS_FREE(3) && !IS_FREE(4) && IS_FREE(5) -> t = 5
    :: !IS_FREE(1) && !IS_FREE(2) && !IS_FREE(3) && !IS_FREE(4) && !IS_FREE(5) && IS_FREE(6) -> t = 6
    :: else -> t = NONE
    fi;
    if :: t != NONE -> is_used[t] = 1; refs[t] = 1 :: else fi
}

inline section_enter(who) {
    section = section | BIT(who)
}

inline forget(t) {              /* nobody will look at it any more: fewer states */
    if :: !is_used[t] && waits_for[t] == 0 -> content[t] = 0; is_middle[t] = 0 :: else fi
}

inline section_leave(who) {
    section = section & ~BIT(who);
    waits_for[1] = waits_for[1] & ~BIT(who); forget(1);
    waits_for[2] = waits_for[2] & ~BIT(who); forget(2);
    waits_for[3] = waits_for[3] & ~BIT(who); forget(3);
    waits_for[4] = waits_for[4] & ~BIT(who); forget(4);
    waits_for[5] = waits_for[5] & ~BIT(who); forget(5);
    waits_for[6] = waits_for[6] & ~BIT(who); forget(6)
}

#define NAMED_BY(m, t) (is_used[m] && is_middle[m] && refs[m] > 0 && content[m] == (t))
#define NAMES(t) ((root[0] == (t)) + (root[1] == (t)) + NAMED_BY(1, t) + NAMED_BY(2, t) + NAMED_BY(3, t) \
    + NAMED_BY(4, t) + NAMED_BY(5, t) + NAMED_BY(6, t))

inline retire(t) {
    assert(NAMES(t) == 0);
    is_used[t] = 0;
    generation[t] = 0;
#ifdef MUTANT_THE_LAST_FREES_AT_ONCE
    waits_for[t] = 0;
#else
    waits_for[t] = section;
#endif
    forget(t)
}

inline let_go_leaf(t) {
#ifdef MUTANT_COUNT_IN_TWO_STEPS
    n = refs[t];
    d_step { refs[t] = n - 1; if :: n == 1 -> retire(t) :: else fi; n = 0 }
#else
    d_step { refs[t]--; if :: refs[t] == 0 -> retire(t) :: else fi }
#endif
}

inline let_go_middle(t) {
#ifdef MUTANT_COUNT_IN_TWO_STEPS
    n = refs[t];
    d_step { refs[t] = n - 1; is_last = n == 1; n = 0 };
#else
    d_step { refs[t]--; is_last = refs[t] == 0 };
#endif
    if
    :: is_last ->
#ifdef WITNESS_THE_LAST_LETS_GO
        assert(false);
#endif
#ifndef MUTANT_THE_LAST_LETS_GO_OF_NOTHING
        child = content[t];
        let_go_leaf(child);
        child = NONE;
#endif
        d_step { retire(t); is_last = 0 }
    :: else
    fi
}

inline gate_enter(who) {
    atomic { !closed -> inside = inside | BIT(who) }
}

inline gate_leave(who) {
    inside = inside & ~BIT(who)
}

inline choose() {               /* a tree to work in */
    atomic { if :: tree = 0 :: root[1] != NONE -> tree = 1; users++ fi }
}

inline set_truth(value_now) {
    truth[tree] = value_now;
    if :: seen && read_tree == tree -> seen = seen | BIT(value_now) :: else fi
}

inline change() {               /* compare-exchange of the entry of leaf table t, which held `value` */
    d_step {
        if
        :: content[t] == value ->
            assert(is_used[t] && IS_ATTACHED(tree, t) && truth[tree] == value);
            content[t] = !value;
            set_truth(!value);
            is_done = 1
        :: else
        fi
    }
}

/* Each of the next four works with the locals of who calls it: tree; `up`, the table that holds the slot, NONE for the root;
 * t, which the slot names. */

inline count_once_more() {
    if :: is_middle[t] -> refs[content[t]]++ :: else fi
}

inline copy() {
    content[fresh] = content[t];
    is_middle[fresh] = is_middle[t]
}

inline publish() {
    generation[fresh] = tree_generation[tree];
    if :: up == NONE -> root[tree] = fresh :: else -> content[up] = fresh fi
}

#ifdef WITNESS_BOTH_TREES_COPY_AT_ONCE
byte copies;
#endif

inline slot_unshare() {
    if
    :: IS_OWN(tree, t)
#ifdef MUTANT_THE_LAST_TAKES_OVER
    :: !IS_OWN(tree, t) && refs[t] == 1 -> generation[t] = tree_generation[tree]
    :: !IS_OWN(tree, t) && refs[t] != 1 ->
#else
    :: else ->
#endif
        d_step { take(fresh) };
        if
        :: fresh == NONE -> is_out = 1
        :: else ->
#ifdef WITNESS_A_COPY
            assert(false);
#endif
#ifdef WITNESS_BOTH_TREES_COPY_AT_ONCE
            copies = copies | BIT(tree);
            assert(copies != 3);
#endif
#if defined(MUTANT_COUNT_AFTER_THE_NAME)
            d_step { copy(); publish() };
            d_step { count_once_more() };
#elif defined(MUTANT_COPY_AFTER_THE_PUBLISH)
            d_step { count_once_more(); is_middle[fresh] = is_middle[t] };
            d_step { publish() };
            d_step { copy() };
#else
            d_step { count_once_more() };
            d_step { copy(); publish() };           /* what is private is nobody else's business */
#endif
#ifdef WITNESS_BOTH_TREES_COPY_AT_ONCE
            copies = copies & ~BIT(tree);
#endif
            if :: is_middle[t] -> let_go_middle(t) :: else -> let_go_leaf(t) fi
        fi
    fi;
    fresh = NONE
}

inline unshare(who) {
    do
    :: atomic {                                     /* inside the gate and a section, and out again: shared_level */
            !closed -> up = NONE;
            t = root[tree];
            if :: IS_OWN(tree, t) -> up = t; t = content[t] :: else fi;
            if :: IS_OWN(tree, t) -> up = NONE; t = NONE :: else fi
        };
        if
        :: t == NONE || is_out -> break
        :: t != NONE && !is_out && up == NONE -> atomic { !root_lock[tree] -> root_lock[tree] = 1 }
        :: t != NONE && !is_out && up != NONE -> atomic { !lock[up] -> lock[up] = 1 }
        fi;
#ifndef MUTANT_NO_LOOK_UNDER_THE_LOCK
        d_step {                                    /* table_lock: a walk once more, under the lock */
            if
            :: up == NONE -> t = root[tree]
            :: up != NONE && root[tree] == up -> t = content[up]
            :: else -> t = NONE
            fi
        };
#endif
        if
        :: t != NONE ->
            gate_enter(who);
            if
#ifdef MUTANT_NO_LOOK_INSIDE_THE_GATE
            :: true -> slot_unshare()
#else
            :: up == NONE || IS_OWN(tree, up) -> slot_unshare()
#endif
            :: else
            fi;
            gate_leave(who)
        :: else
        fi;
        d_step { if :: up == NONE -> root_lock[tree] = 0 :: else -> lock[up] = 0 fi; up = NONE; t = NONE }
    od;
    atomic { up = NONE; t = NONE }
}

#define SETTLED(t) (is_used[t] -> refs[t] == NAMES(t) && refs[t] > 0 : NAMES(t) == 0)

inline finish() {
    atomic {
        running--;
        if
        :: running == 0 ->
            assert(SETTLED(1) && SETTLED(2) && SETTLED(3) && SETTLED(4) && SETTLED(5) && SETTLED(6));
            assert(LEAF(0) != NONE && content[LEAF(0)] == truth[0]);
            assert(root[1] == NONE || content[LEAF(1)] == truth[1])
        :: else
        fi
    }
}

proctype changer(byte me; byte changes) {               /* as page_map */
    byte tree, t, up, fresh, child, n;
    bit value, is_own, is_done, is_last, is_out;
    do
    :: changes > 0 ->
        choose();
        do
        :: !is_done && !is_out ->
#ifndef MUTANT_LOOK_OUTSIDE_THE_GATE
            gate_enter(me);
#endif
            d_step { section_enter(me); up = root[tree] };
            t = content[up];
#ifdef MUTANT_NO_LOOK_AT_THE_GENERATION
            is_own = 1;
#else
            is_own = IS_OWN(tree, t);
#endif
#ifdef MUTANT_LOOK_OUTSIDE_THE_GATE
            gate_enter(me);
#endif
            if
            :: is_own ->
                value = content[t];
#ifdef MUTANT_THE_GATE_IS_LEFT_BEFORE_THE_CHANGE
                gate_leave(me);
#endif
                change()
            :: else
            fi;
            d_step { section_leave(me); gate_leave(me); up = NONE; t = NONE; value = 0 };
            if :: !is_own -> unshare(me) :: else fi;
            is_own = 0
        :: else -> break
        od;
        atomic { users = users - tree; tree = 0; is_done = 0; is_out = 0; changes-- }
    :: else -> break
    od;
    finish()
}

#ifdef MUTANT_A_LOCK_IS_KEPT_WITHOUT_A_LOOK
#define MAY_KEEP(t) true
#else
#define MAY_KEEP(t) (IS_OWN(tree, t) && IS_ATTACHED(tree, t))
#endif

proctype locker() {
    byte tree, t, up, fresh, child, n;
    bit value, is_python, is_done, is_last, is_out;
    atomic { choose(); if :: is_python = 0 :: is_python = 1 fi };
    do
    :: !is_done && !is_out ->
        t = LEAF(tree);
        atomic { !lock[t] -> lock[t] = 1 };
        if
        :: !is_python && !IS_ATTACHED(tree, t) -> lock[t] = 0                           /* table_lock: a walk once more */
        :: else ->
            gate_enter(B);
            if
            :: !is_python && IS_OWN(tree, t) ->                                         /* change_enter */
                value = content[t];
                change();
                gate_leave(B);
                lock[t] = 0
            :: is_python && MAY_KEEP(t) ->                                              /* lock_keep, and later a change */
                d_step { held[tree]++; gate_leave(B) };
                gate_enter(B);
                assert(IS_OWN(tree, t) && IS_ATTACHED(tree, t));                        /* C7 */
                value = content[t];
                change();
                gate_leave(B);
                lock[t] = 0;
                held[tree]--
            :: else ->
                gate_leave(B);
                d_step { lock[t] = 0; t = NONE };
                unshare(B)
            fi
        fi;
        d_step { t = NONE; value = 0 }
    :: else -> break
    od;
    atomic { users = users - tree; tree = 0; is_done = 0; is_out = 0; is_python = 0 };
    finish()
}

inline snapshot() {             /* of tree 0, as tree 1 */
    do
    :: closed = 1;
#ifndef MUTANT_THE_GATE_WAITS_FOR_NOBODY
        inside == 0;
#endif
#ifndef MUTANT_A_SNAPSHOT_BESIDE_A_LOCK
        d_step {
            if
            :: held[0] && IS_OWN(0, root[0]) && lock[root[0]] -> t = root[0]
            :: held[0] && IS_OWN(0, root[0]) && !lock[root[0]] && IS_OWN(0, LEAF(0)) && lock[LEAF(0)] -> t = LEAF(0)
            :: else
            fi
        };
#endif
        if
        :: t == NONE ->
            d_step {
                refs[root[0]]++;
                root[1] = root[0];
                truth[1] = truth[0];
#ifndef MUTANT_THE_GENERATION_STAYS
                tree_generation[0] = generations + 1;
#endif
                tree_generation[1] = generations + 2;
                generations = generations + 2
            };
            closed = 0;
            break
        :: else ->
            closed = 0;
            !lock[t];
            t = NONE
        fi
    od
}

inline drop() {                 /* tree 1, which nobody works in */
    atomic { users == 0 -> t = root[1]; root[1] = NONE; truth[1] = 0 };
    let_go_middle(t);
    t = NONE
}

proctype sharer() {
    byte t, child, n;
    bit is_last;
    snapshot();
    drop();
    snapshot();
    finish()
}

proctype reader() {
    byte tree, up, t, value;
    choose();
    d_step { section_enter(C); read_tree = tree; seen = BIT(truth[tree]); up = root[tree] };
    t = content[up];
    value = content[t];
    d_step {
        assert(seen & BIT(value));
        section_leave(C);
        users = users - tree;
        seen = 0; read_tree = 0; tree = 0; up = NONE; t = NONE; value = 0
    };
    finish()
}

init {
    atomic {
        root[0] = 1;
        is_used[1] = 1; is_middle[1] = 1; refs[1] = 1; generation[1] = 1; content[1] = 2;
        is_used[2] = 1; refs[2] = 1; generation[2] = 1;
        tree_generation[0] = 1;
#ifdef VARIANT_A_READER_IN_PLACE_OF_THE_LOCK
        running = 4;
        run changer(A, 1);
        run changer(B, 1);
        run reader();
#else
        running = 3;
        run changer(A, 2);
        run locker();
#endif
        run sharer()
    }
}
