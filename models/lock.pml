/* SPDX-License-Identifier: MIT
 *
 * The short lock: one word, and sleepers in the kernel that no wake-up may miss.
 *
 *     word: FREE, HELD, or HELD and somebody may be parked
 *
 * Stands for, in src/ptl/core:
 *     lock.pxi        lock_try, lock_wait, lock_release, lock_await
 *     system.h        ptl_park, ptl_unpark_one, ptl_unpark_next
 *
 * Memory: sequential consistency: the word changes by read-modify-writes alone, and the kernel compares it under a lock of
 * its own before it lets a thread sleep.
 *
 * Two threads take the lock; two more only sleep until its holder lets go, as a reader does behind a BUSY slot.
 *
 * Properties: one holder at a time; nobody sleeps for ever beside a lock that nobody holds (an invalid end state).
 */

#define TURNS 2
#define FREE 0
#define HELD 1
#define PARKED 2                /* the bit beside HELD */

byte word;
byte holders;
bit sleeps[4];

#define SLEEPERS (sleeps[0] || sleeps[1] || sleeps[2] || sleeps[3])

inline park(value) {
#ifdef MUTANT_PARK_WITHOUT_COMPARING
    sleeps[me] = 1;
    !sleeps[me]
#else
    d_step { if :: word == value -> sleeps[me] = 1 :: else fi };
    !sleeps[me]
#endif
}

inline unpark_one() {           /* the kernel wakes whichever it likes */
    atomic {
        if
        :: sleeps[0] -> sleeps[0] = 0
        :: sleeps[1] -> sleeps[1] = 0
        :: sleeps[2] -> sleeps[2] = 0
        :: sleeps[3] -> sleeps[3] = 0
        :: !SLEEPERS
        fi
    }
}

inline acquire() {
    if
    :: d_step { word == FREE -> word = HELD }   /* lock_try, in its first turns */
    :: else ->
        do
        :: seen = word;
            if
            :: seen == FREE ->
                d_step {
                    if
#ifdef MUTANT_TAKE_WITHOUT_THE_BIT
                    :: word == FREE -> word = HELD; got = 1
#else
                    :: word == FREE -> word = HELD | PARKED; got = 1
#endif
                    :: else
                    fi
                };
                if :: got -> break :: else fi
            :: else ->
                d_step {                        /* say that somebody parks; a failure is a change: look again */
                    if
                    :: word == seen -> word = seen | PARKED; seen = seen | PARKED
                    :: else -> seen = FREE
                    fi
                };
                if :: seen != FREE -> park(seen) :: else fi
            fi
        od
    fi;
    atomic { seen = 0; got = 0; holders++ };
    assert(holders == 1)
}

inline release() {
    holders--;
    d_step { seen = word; word = FREE };
#ifndef MUTANT_NOBODY_IS_WOKEN
    if :: seen & PARKED -> unpark_one() :: else fi;
#endif
    seen = 0
}

proctype owner(byte me) {
    byte seen, n;
    bit got;
    do
    :: n < TURNS -> acquire(); release(); n++
    :: else -> break
    od
}

proctype onlooker(byte me) {    /* lock_await */
    byte seen, n;
    do
    :: n < TURNS ->
        seen = word;
        if
        :: seen == FREE
        :: else ->
            d_step {
                if
                :: word == seen -> word = seen | PARKED; seen = seen | PARKED
                :: else -> seen = FREE
                fi
            };
            if
            :: seen != FREE ->
                park(seen);
#ifndef MUTANT_AN_ONLOOKER_KEEPS_THE_WAKE_UP
                unpark_one()
#endif
            :: else
            fi
        fi;
        d_step { seen = 0; n++ }
    :: else -> break
    od
}

init {
    atomic {
        run owner(0);
        run owner(1);
        run onlooker(2);
        run onlooker(3)
    }
}
