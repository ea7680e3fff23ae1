# SPDX-License-Identifier: MIT
"""The short lock: one word in a table's descriptor.

    word = 0                       free
    word = owner << 1              held
    word = owner << 1 | 1          held, and somebody may be parked on it

The owner is the number of a thread's epoch record, so a thread that asks for a lock it already holds is told so
instead of waiting for itself, and a forked child can drop the locks of threads that it does not have.

L1  A lock is held for a bounded time by native code, and for as long as it likes by a Python handle.
L2  Order: upper level before lower, then by address; against the order only by `lock_try`.
L3  Nobody waits for a lock inside an epoch section or with the GIL: both are given up first.

Spins for at most about a microsecond, then parks, because a holder on the same core cannot run while we spin.
Progress: blocking. Source: U. Drepper, "Futexes are tricky", 2011, third mutex.
"""

cdef enum:
    LOCK_PARKED = 1
    LOCK_SPINS = 40        # about a microsecond of pause instructions


cdef inline bint lock_try(uint32_t *word, uint32_t owner) noexcept nogil:
    cdef uint32_t seen
    if is_faulty(LOCK_IN_TWO_STEPS):
        if load_relaxed_32(word):
            return False
        store_relaxed_32(word, owner << 1)
        return True
    # Acquire, partner: the exchange in lock_release. What the last holder wrote is visible to the next.
    seen = load_relaxed_32(word)
    while seen == 0:            # a failure is an answer only when it says who holds the lock
        if compare_exchange_32(word, &seen, owner << 1):
            return True
    return False


cdef inline uint32_t lock_owner(uint32_t *word) noexcept nogil:
    """Who holds the lock, for a thread that asks whether it does itself."""
    return load_own_32(word) >> 1


cdef inline bint lock_acquire(uint32_t *word, uint32_t owner) noexcept nogil:
    """Take the lock; False, with nothing changed, when this owner holds it already."""
    if lock_owner(word) == owner:
        return False
    lock_wait(word, owner)
    return True


cdef void lock_wait(uint32_t *word, uint32_t owner) noexcept nogil:
    cdef uint32_t seen
    cdef int spin, spins = 1 if is_stepping() else LOCK_SPINS      # one turn shows a lab all that forty can
    if step_lock(word, owner << 1):
        return
    for spin in range(spins):
        if lock_try(word, owner):
            return
        pause()
    # Ends when a holder lets go: each turn either takes the lock, or sleeps until the word changes.
    while True:
        seen = load_relaxed_32(word)
        if seen == 0:
            # Others may be parked too, and whoever woke us cleared the bit that says so.
            if compare_exchange_32(word, &seen, owner << 1 | (0 if is_faulty(WOKEN_WITHOUT_THE_BIT) else LOCK_PARKED)):
                return
        elif is_faulty(PARKED_WITHOUT_THE_BIT):
            park(word, seen)
        elif seen & LOCK_PARKED or compare_exchange_32(word, &seen, seen | LOCK_PARKED):
            park(word, seen | LOCK_PARKED)


cdef inline void lock_release(uint32_t *word) noexcept nogil:
    # Release, partner: lock_try and lock_acquire of the next holder.
    if exchange_32(word, 0) & LOCK_PARKED and not is_faulty(UNLOCKED_WITHOUT_WAKING):
        unpark_one(word)


cdef inline void lock_release_own(uint32_t *word, uint32_t owner) noexcept nogil:
    """Let go, if it is still that owner's: in a forked child the locks of other threads are gone."""
    if lock_owner(word) == owner:
        lock_release(word)


cdef void lock_await(uint32_t *word) noexcept nogil:
    """Sleep until whoever holds the lock lets go, without taking it; may return early."""
    cdef uint32_t seen = load_relaxed_32(word)
    if seen == 0 or not seen & LOCK_PARKED and not compare_exchange_32(word, &seen, seen | LOCK_PARKED):
        return
    park(word, seen | LOCK_PARKED)
    # The wake-up was meant for one sleeper, and we do not take the lock, whose release would wake the next.
    unpark_next(word)


# Locks of the library's own lists have no owner: native code holds them for the length of a list operation.

cdef inline void mutex_acquire(uint32_t *word) noexcept nogil:
    lock_wait(word, 1)
