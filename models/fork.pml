/* SPDX-License-Identifier: MIT
 *
 * Fork: no change is cut in two.
 *
 *     change: critical = 1, barrier, gate?  first half, second half  critical = 0
 *     fork:   gate = 1, barrier, wait until nobody is critical, fork, gate = 0, wake
 *
 * Stands for, in src/ptl/core:
 *     epoch.pxi       critical_enter, critical_leave, fork_prepare, fork_in_parent
 *
 * Memory: total store order. Each thread's stores to its own word, and the fork's to the gate, wait in a store buffer until
 * the storing thread's next barrier or read-modify-write, or any moment before.
 *
 * Two threads change twice each, two fork. Properties: at a fork no change is half-done; everybody goes on afterwards.
 */

#define TURNS 2

byte gate;                      /* as all see it */
byte stored_gate;               /* as the forking thread sees it; who forks holds domains_lock */
byte critical[2];
byte stored[2];
bit domains_lock;
bit half_done[2];               /* not in the core: what a change is in the middle of */
bit sleeps[2];

proctype memory() {
end:
    do
    :: d_step { critical[0] != stored[0] -> critical[0] = stored[0] }
    :: d_step { critical[1] != stored[1] -> critical[1] = stored[1] }
    :: d_step { gate != stored_gate -> gate = stored_gate }
    od
}

proctype changer(byte me) {
    byte n;
    do
    :: n < TURNS ->
        do
#ifdef MUTANT_NO_BARRIER_IN_THE_CHANGE
        :: stored[me] = 1;
#else
        :: d_step { stored[me] = 1; critical[me] = 1 };
#endif
            if
            :: gate == 0 -> break
            :: else ->
#ifndef MUTANT_CRITICAL_WHILE_IT_WAITS
                stored[me] = 0;
#endif
                d_step { if :: gate == 1 -> critical[me] = stored[me]; sleeps[me] = 1 :: else fi };     /* the kernel's lock */
                !sleeps[me]
            fi
        od;
        half_done[me] = 1;
        half_done[me] = 0;
        stored[me] = 0;
        n++
    :: else -> break
    od
}

proctype forker() {
    atomic { domains_lock == 0 -> domains_lock = 1 };
    stored_gate = 1;
#ifndef MUTANT_NO_BARRIER_IN_THE_FORK
    gate = stored_gate;
#endif
#ifndef MUTANT_NOBODY_IS_WAITED_FOR
    critical[0] == 0;
    critical[1] == 0;
#endif
    assert(!half_done[0] && !half_done[1]);
    stored_gate = 0;
    d_step { gate = stored_gate; sleeps[0] = 0; sleeps[1] = 0 };                        /* a system call is a barrier */
    domains_lock = 0
}

init {
    atomic {
        run memory();
        run changer(0);
        run changer(1);
        run forker();
        run forker()
    }
}
