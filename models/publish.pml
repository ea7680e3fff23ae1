/* SPDX-License-Identifier: MIT
 *
 * Publication: a table is complete before a slot names it.
 *
 *     upper table: slot ---> table: entries           plain stores to both fresh tables, then one exchange of the slot
 *
 * Stands for, in src/ptl/core:
 *     format.pxi      entry_store_private, entry_exchange, load_shaped
 *     transition.pxi  branch_make, table_fill_empty, table_fill_leaves, table_publish
 *     range.pxi       commit_fresh, commit_publish
 *     walk.pxi        walk_shaped
 *
 * Memory: weaker than total store order, as on Arm and POWER. Plain stores become visible one by one, in any order. An
 * exchange with release waits until all earlier stores of its thread are visible. A reader's loads depend on each other by
 * address (W1), so they happen in order.
 *
 * Two writers publish a branch of two tables each, in turn, into the same slot; two readers walk it. The memory of a branch
 * holds what an earlier life left there.
 *
 * Property: a reader finds the branch as its maker left it, never what was there before.
 */

#define OLD 0                   /* what the memory held in its last life: leads nowhere, or to a wrong page */
#define EMPTY 1
#define NEW 2                   /* names the maker's leaf table; or its page */

byte slot = 0;                  /* 0, or 1 + the writer whose branch it names */
byte middle[2];                 /* the one entry of each writer's upper fresh table */
byte leaf[4];                   /* the two entries of each writer's leaf table */

/* Each writer's three plain stores, not visible yet; they go out in any order. */
bit waiting[6];

proctype memory(byte me) {
end:
    do
    :: d_step { waiting[3 * me] -> middle[me] = NEW; waiting[3 * me] = 0 }
    :: d_step { waiting[3 * me + 1] -> leaf[2 * me] = NEW; waiting[3 * me + 1] = 0 }
    :: d_step { waiting[3 * me + 2] -> leaf[2 * me + 1] = EMPTY; waiting[3 * me + 2] = 0 }
    od
}

proctype writer(byte me) {
    slot == me;                                 /* the second takes the first one's place: collapse and split between them */
#ifdef MUTANT_PUBLISH_BEFORE_IT_IS_FULL
    slot = 1 + me;
#endif
    waiting[3 * me + 1] = 1;
    waiting[3 * me + 2] = 1;
#ifdef MUTANT_ONE_LEVEL_AT_A_TIME
    d_step { waiting[3 * me + 1] = 0; waiting[3 * me + 2] = 0; leaf[2 * me] = NEW; leaf[2 * me + 1] = EMPTY };
    slot = 1 + me;                              /* and the upper one's entry only then */
#endif
    waiting[3 * me] = 1;
#ifdef MUTANT_PUBLISH_WITHOUT_RELEASE
    slot = 1 + me
#else
    atomic {
        !waiting[3 * me] && !waiting[3 * me + 1] && !waiting[3 * me + 2] -> slot = 1 + me
    }
#endif
}

proctype reader() {
    byte s, way, found, n;
    do
    :: n < 2 ->
        s = slot;
        if
        :: s > 0 ->
            way = middle[s - 1];
            assert(way == NEW);
            if
            :: found = leaf[2 * (s - 1)]; assert(found == NEW)
            :: found = leaf[2 * (s - 1) + 1]; assert(found == EMPTY)
            fi
        :: else
        fi;
        d_step { s = 0; way = 0; found = 0; n++ }
    :: else -> break
    od
}

init {
    atomic {
        run memory(0);
        run memory(1);
        run writer(0);
        run writer(1);
        run reader();
        run reader()
    }
}
