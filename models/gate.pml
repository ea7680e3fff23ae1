/* SPDX-License-Identifier: MIT
 *
 * The gate: changes go through it; a fork, a snapshot, or who attaches a Tlb closes it for a moment without any.
 *
 *     change: critical = 1, gate?  first half, second half  critical = 0
 *     closer: gate_lock, gate = 1, membarrier, wait until nobody is critical, .... gate = 0, wake, gate_lock
 *
 * Stands for, in src/ptl/core:
 *     epoch.pxi       critical_enter, critical_enter_by_steps, critical_leave, gate_close, gate_open, gate_pass,
 *                     fork_prepare, fork_in_parent, record_register
 *     share.pxi       tree_share
 *
 * Memory: weaker than total store order. A thread's stores wait in a buffer and become visible one by one, in any order, but
 * for a release, which is visible after all that its thread stored before. They are visible at the latest with the thread's
 * next read-modify-write or system call, or with a membarrier, which comes to each thread at a moment of its own.
 *
 * Two threads change twice each; one forks, one makes a snapshot, one attaches a Tlb. The gate is that of one domain: a fork
 * closes all, one after the other.
 *
 * Properties: at a fork and at a snapshot no change is half-done, as memory shows it; a change sees one generation, the last;
 * behind the gate every change that goes on knows the Tlb; everybody goes on afterwards.
 */

#define TURNS 2

/* Without a membarrier there is a barrier on both sides. */
#if defined(MUTANT_NO_BARRIER_IN_THE_CHANGE) || defined(MUTANT_NO_BARRIER_IN_WHO_CLOSES)
#define VARIANT_BARRIER_IN_THE_CHANGE
#endif

bit gate;                       /* 1: closed. As all see it */
bit stored_gate;                /* as who holds gate_lock sees it */
bit gate_lock;
byte generation;                /* what a snapshot changes behind the closed gate */
byte stored_generation;
bit critical[2];
bit stored_critical[2];
bit half_done[2];               /* not in the core: what a change is in the middle of */
bit stored_half_done[2];
bit is_known[2];                /* on the list of records */
bit sleeps[2];
bit attached;

bit misses_the_tlb[2];          /* not in the core: a change under way that has not found it on the list */

inline flush(who) {
    half_done[who] = stored_half_done[who];
    critical[who] = stored_critical[who]
}

inline flush_closer() {
    generation = stored_generation;
    gate = stored_gate
}

#define CHANGE_IS_VISIBLE(who) (half_done[who] == stored_half_done[who])
#ifdef MUTANT_NO_RELEASE_AT_THE_END
#define CAN_SHOW_CRITICAL(who) true
#else
#define CAN_SHOW_CRITICAL(who) (stored_critical[who] == 1 || CHANGE_IS_VISIBLE(who))
#endif
#ifdef MUTANT_NO_RELEASE_WHEN_IT_OPENS
#define CAN_SHOW_GATE true
#else
#define CAN_SHOW_GATE (stored_gate == 1 || generation == stored_generation)
#endif

proctype memory() {
end:
    do
    :: d_step { critical[0] != stored_critical[0] && CAN_SHOW_CRITICAL(0) -> critical[0] = stored_critical[0] }
    :: d_step { critical[1] != stored_critical[1] && CAN_SHOW_CRITICAL(1) -> critical[1] = stored_critical[1] }
    :: d_step { !CHANGE_IS_VISIBLE(0) -> half_done[0] = stored_half_done[0] }
    :: d_step { !CHANGE_IS_VISIBLE(1) -> half_done[1] = stored_half_done[1] }
    :: d_step { gate != stored_gate && CAN_SHOW_GATE -> gate = stored_gate }
    :: d_step { generation != stored_generation -> generation = stored_generation }
    od
}

inline enter() {
    do
    :: stored_critical[me] = 1;
#if defined(VARIANT_BARRIER_IN_THE_CHANGE) && !defined(MUTANT_NO_BARRIER_IN_THE_CHANGE)
        d_step { flush(me) };
#endif
        if
        :: gate == 0 -> break
        :: else ->
#ifndef MUTANT_CRITICAL_WHILE_IT_WAITS
            stored_critical[me] = 0;
#endif
            d_step { if :: gate == 1 -> sleeps[me] = 1 :: else fi };                    /* the kernel's lock */
            !sleeps[me]
        fi
    od
}

proctype changer(byte me) {
    byte n, seen;
    is_known[me] = 1;
    do
    :: n < TURNS ->
        enter();
        misses_the_tlb[me] = !attached;
        seen = generation;
        assert(seen == stored_generation);
        stored_half_done[me] = 1;
        stored_half_done[me] = 0;
        assert(seen == stored_generation);
        d_step { seen = 0; misses_the_tlb[me] = 0 };
        stored_critical[me] = 0;
        n++
    :: else -> break
    od
}

inline barrier() {
#if !defined(MUTANT_NO_MEMBARRIER) && !defined(MUTANT_NO_BARRIER_IN_WHO_CLOSES)
#ifndef MUTANT_NO_BARRIER_OF_ITS_OWN
    d_step { flush_closer() };
#endif
#ifndef VARIANT_BARRIER_IN_THE_CHANGE
    d_step { flush(0) };
    d_step { flush(1) }
#endif
#else
    skip
#endif
}

inline await(who) {
#ifdef WITNESS_A_CHANGE_IS_WAITED_FOR
    assert(!is_listed[who] || critical[who] == 0);
#endif
    if :: is_listed[who] -> critical[who] == 0 :: else fi
}

inline gate_close() {
#ifndef MUTANT_TWO_CLOSE_IT_AT_ONCE
    atomic { gate_lock == 0 -> gate_lock = 1 };
#endif
#ifdef MUTANT_THE_LIST_IS_READ_BEFORE_THE_BARRIER
    d_step { is_listed[0] = is_known[0]; is_listed[1] = is_known[1] };
#endif
#ifdef MUTANT_BARRIER_BEFORE_THE_GATE
    barrier();
    stored_gate = 1;
#else
    stored_gate = 1;
    barrier();
#endif
#ifndef MUTANT_THE_LIST_IS_READ_BEFORE_THE_BARRIER
    d_step { is_listed[0] = is_known[0]; is_listed[1] = is_known[1] };
#endif
#ifndef MUTANT_NOBODY_IS_WAITED_FOR
    await(0);
    await(1);
#endif
    d_step { is_listed[0] = 0; is_listed[1] = 0 }
}

inline wake() {                 /* a system call is a barrier */
    d_step { flush_closer(); sleeps[0] = 0; sleeps[1] = 0 }
}

inline gate_open() {
#ifdef MUTANT_WOKEN_BEFORE_IT_IS_OPEN
    wake();
    stored_gate = 0;
#else
    stored_gate = 0;
#ifndef MUTANT_NOBODY_IS_WOKEN
    wake();
#endif
#endif
    d_step { flush_closer(); gate_lock = 0 }
}

proctype forker() {
    bit is_listed[2];
    gate_close();
    assert(!half_done[0] && !half_done[1]);
    gate_open()
}

proctype sharer() {
    bit is_listed[2];
    gate_close();
    assert(!half_done[0] && !half_done[1]);
    stored_generation++;
    gate_open()
}

proctype attacher() {
    bit is_listed[2];
    attached = 1;
    gate_close();
    gate_open();
    assert(!misses_the_tlb[0] && !misses_the_tlb[1])
}

init {
    atomic {
        run memory();
        run changer(0);
        run changer(1);
        run forker();
        run sharer();
        run attacher()
    }
}
