# SPDX-License-Identifier: MIT
"""Epochs: when is a retired table's memory free of readers?

    global epoch     ...  7        8        9        10       11  ...
    reader A              |--inside: entered at 7 --|
    reader B                       |--8--|      |--9--|
    table T                     retired, stamp 8
                                                ^ A has left: every section inside was entered after 8, T is free

E1  A record's section word is `epoch of entry | depth`; only its owner writes it, the reclaimer reads it.
E2  A table is stamped after the last slot that named it was changed, with the epoch of that moment.
E3  A stamped table is freed only when every section then inside was entered at a later epoch than the stamp.
E4  The epoch only grows. It is compared by signed difference, so it may wrap.
E5  Retiring neither allocates nor waits. Freeing happens a few tables at a time, in later operations.
E6  A table that a handle has pinned stays in limbo until the handle lets go, and holds back no other table.
E7  Likewise a table whose lock is held. Other trees may take a shared table out of use without its lock; who found it under
    that lock, in a section that is over, may yet look whether it is the tree's own (share.pxi, O2), and must not find
    another table in its place.

Why E3 suffices. A section that could reach T read a slot before it was changed, so it entered before the change. Its
word was visible before its first slot was read: by the reader's own barrier, or, with membarrier, because the barrier
that the reclaimer makes every running thread execute falls either before the reader's store (then the reader's loads
come later still, and see the slot changed) or after it (then the scan sees the word). A section that entered at a later
epoch than the stamp read an increment that came after the stamp was taken; the stamp is a read-modify-write of the
epoch, so that increment carries everything the retiring thread did before it, and the reader sees the slot changed.

Entering and leaving are wait-free: a load, a store and, without membarrier, one barrier. A section may nest, also from
a signal handler: the handler leaves the word as it found it. `reclaim` never waits; `synchronize` does.

Sources: K. Fraser, "Practical lock-freedom", 2004; M. Desnoyers et al., "User-level implementations of
read-copy-update", 2012; T. Brown, "Reclaiming memory for lock-free data structures", 2015 (a few at a time).
"""

cdef enum:
    DEPTH_MASK = 0xffff
    EPOCH_STEP = 0x10000
    BATCH_TABLES = 64           # retired tables a grace period: a membarrier costs as much as retiring a hundred
    BATCH_BYTES = 256 * 1024    # or as many bytes
    FREE_AT_ONCE = 16           # tables handed back by one retiring operation
    MOST_OWNERS = 0x7ffffffe    # what the owner's part of a lock word can tell apart

# 128 bytes: the owner's line, then the reclaimer's.
cdef struct Record:
    uint64_t section            # epoch of entry | depth (E1)
    uint64_t critical           # not 0 while a change is under way: its owner is inside the gate
    Domain *domain
    Record *next
    uint64_t thread             # the system's number of the owning thread; read by whoever reports a stall
    uint64_t life               # how many owners this record has had
    uint32_t number             # names the owner in locks
    uint32_t in_use
    uint64_t padding
    uint64_t seen               # the section word of the last scan; for the holder of reclaim_lock
    uint64_t seen_since_ns      # since when scans have seen that section: its name in reports; 0 outside
    uint64_t reported           # the section that was warned of last, by that name
    uint64_t more_padding[5]

cdef enum Barrier:              # between the store of a section's word and the first load inside: whose it is
    BY_READER = 0
    BY_RECLAIMER = 1            # its membarrier
    BY_RECLAIMER_IN_STEPS = 2   # the same, and every access is a step: in a lab, under stress

cdef struct Domain:
    uint64_t epoch
    uint64_t barrier            # a Barrier
    void *records               # of Record, newest first; never freed
    uint64_t batch_tables
    uint32_t number
    uint32_t in_use
    uint32_t gate               # 1: closed
    uint32_t gate_lock          # of who has closed it
    uint64_t padding[10]
    void *incoming              # of Table: retired and not yet looked at, newest first
    Table *pending_first        # looked at and stamped, oldest first; for the holder of reclaim_lock
    Table *pending_last
    Table *pinned               # grace period over, but somebody keeps them (E6, E7)
    uint64_t safe               # every section inside entered at this epoch or later
    uint64_t attempted          # values of `retired` and `retired_bytes` at the last grace period
    uint64_t attempted_bytes
    uint64_t retired
    uint64_t retired_bytes
    uint64_t freed
    uint64_t freed_bytes
    uint64_t limbo_max
    uint64_t grace_periods
    uint32_t reclaim_lock
    uint32_t more_padding

assert sizeof(Record) == 128

cdef Domain *domains[PTL_DOMAINS]
cdef uint32_t domains_lock = 0
cdef uint32_t owners = 0                # how many times a thread has taken a record, in whatever domain
cdef bint has_membarrier = False
cdef pthread_key_t thread_exit_key


# -- sections ---------------------------------------------------------------------------------------------------------

cdef inline Record *record_of(Domain *domain) noexcept nogil:
    """This thread's record; NULL when there is no memory for one."""
    cdef Record *me = <Record *> thread_record(domain.number)
    return me if me is not NULL else record_register(domain)


cdef inline void section_enter(Record *me) noexcept nogil:
    cdef uint64_t word
    if me.domain.barrier != BY_RECLAIMER:
        section_enter_by_steps(me)
        return
    word = load_own_unhooked_64(&me.section)
    if word & DEPTH_MASK:
        store_relaxed_unhooked_64(&me.section, word + 1)
        return
    # Acquire, partner: the increment in grace_period. A section of epoch e sees all that was retired before e.
    word = load_acquire_unhooked_64(&me.domain.epoch) | 1
    store_relaxed_unhooked_64(&me.section, word)        # partner: the membarrier in grace_period
    compiler_barrier()


cdef void section_enter_by_steps(Record *me) noexcept nogil:
    """The same with a barrier of its own, or with either barrier where every access is a step."""
    cdef uint64_t word = load_own_64(&me.section)
    if word & DEPTH_MASK and not is_faulty(DEPTH_IGNORED):
        if is_faulty(NESTED_ENTRY_RENEWS_THE_EPOCH):
            word = load_acquire_64(&me.domain.epoch) | word & DEPTH_MASK
        store_relaxed_64(&me.section, word + 1)
        return
    word = (word if is_faulty(ENTRY_WITH_AN_OLD_EPOCH) else load_acquire_64(&me.domain.epoch)) | 1
    if me.domain.barrier == BY_READER and not is_faulty(ENTRY_WITHOUT_ITS_BARRIER):
        store_then_barrier_64(&me.section, word)        # partner: the full barrier in grace_period
    else:
        store_relaxed_64(&me.section, word)
        compiler_barrier()


cdef inline void section_leave(Record *me) noexcept nogil:
    if is_faulty(DEPTH_IGNORED):
        store_release_64(&me.section, load_own_64(&me.section) & ~<uint64_t> DEPTH_MASK)
        return
    # Release, partner: the scan in grace_period. All that the section read was read before the table is reused.
    add_own_release_64(&me.section, <uint64_t> -1)


cdef inline bint section_is_deep(Record *me) noexcept nogil:
    """Whether only the core itself may nest any deeper: the depth has 16 bits."""
    return load_own_64(&me.section) & DEPTH_MASK >= DEPTH_MASK - 16


cdef inline bint section_inside(Record *me) noexcept nogil:
    return load_own_64(&me.section) & DEPTH_MASK != 0


cdef Record *record_register(Domain *domain) noexcept nogil:
    cdef Record *record = <Record *> load_acquire_pointer(&domain.records)
    cdef uint32_t free
    cdef void *first
    while record is not NULL:
        free = 0
        # Acquire, partner: the release in record_recycle. The last owner is gone before the record is ours.
        if load_relaxed_32(&record.in_use) == 0 and compare_exchange_32(&record.in_use, &free, 1):
            break
        record = record.next
    if record is NULL:
        if posix_memalign(<void **> &record, 128, sizeof(Record)):
            return NULL
        memset(record, 0, sizeof(Record))
        record.domain = domain
        record.in_use = 1
        first = load_acquire_pointer(&domain.records)
        record.next = <Record *> first
        # Release, partner: the acquire loads of domain.records. Ends as every failure is another thread's success.
        while not compare_exchange_pointer(&domain.records, &first, record):
            record.next = <Record *> first
    store_relaxed_64(&record.thread, thread_id())
    record.life += 1
    # A number of its own for each owner: a lock that an earlier one still holds is not ours. Never 0.
    record.number = fetch_add_relaxed_32(&owners, 1) % MOST_OWNERS + 1
    set_thread_record(domain.number, record)
    pthread_setspecific(thread_exit_key, <void *> 1)   # any value: it makes thread_exit run
    return record


cdef void record_recycle(Record *record) noexcept nogil:
    # Whatever section the thread was in ended with the thread.
    if not is_faulty(RECORD_KEEPS_ITS_SECTION):
        store_release_64(&record.section, load_relaxed_64(&record.section) & ~<uint64_t> DEPTH_MASK)
    store_release_64(&record.critical, 0)
    store_release_32(&record.in_use, 0)


cdef void thread_exit(void *_) noexcept nogil:
    cdef uint32_t number
    cdef Record *record
    for number in range(PTL_DOMAINS):
        record = <Record *> thread_record(number)
        if record is not NULL:
            set_thread_record(number, NULL)
            record_recycle(record)


# -- retiring ---------------------------------------------------------------------------------------------------------

cdef inline uint64_t limbo_tables(Domain *domain) noexcept nogil:
    cdef uint64_t freed = load_acquire_64(&domain.freed)    # read first: a table is counted as retired before it is freed
    return load_relaxed_64(&domain.retired) - freed


cdef inline uint64_t limbo_bytes(Domain *domain) noexcept nogil:
    cdef uint64_t freed = load_acquire_64(&domain.freed_bytes)
    return load_relaxed_64(&domain.retired_bytes) - freed


cdef void retire(Domain *domain, Table *table) noexcept nogil:
    """Hand over a detached table (E5). Wait-free but for the push, which is lock-free."""
    cdef uint64_t bytes = block_frame_bytes(table.block) << table.order, limbo, most
    cdef void *first = load_acquire_pointer(&domain.incoming)
    store_release_32(&table.use, TABLE_RETIRED)
    block_hold(table.block)
    # A read-modify-write that changes nothing: see "why E3 suffices".
    if not is_faulty(STAMP_BEFORE_THE_SWITCH):
        table.stamp = fetch_add_64(&domain.epoch, 0)
    if is_faulty(STAMP_OF_THE_OWN_SECTION):
        table.stamp = load_own_64(&(<Record *> thread_record(domain.number)).section) & ~<uint64_t> DEPTH_MASK
    if is_faulty(STAMP_ONE_EPOCH_EARLY):
        table.stamp -= EPOCH_STEP
    fetch_add_64(&domain.retired, 1)
    fetch_add_relaxed_64(&domain.retired_bytes, bytes)
    table.link = <Table *> first
    # Release, partner: the exchange in limbo_drain. Ends as every failure is another thread's success.
    while not compare_exchange_pointer(&domain.incoming, &first, table):
        table.link = <Table *> first
    limbo = limbo_tables(domain)
    most = load_relaxed_64(&domain.limbo_max)
    while limbo > most and not compare_exchange_64(&domain.limbo_max, &most, limbo):
        pass


cdef inline void collect_a_few(Domain *domain) noexcept nogil:
    """What every operation that retired something does afterwards: free a few tables, if it is worth it."""
    cdef uint64_t limbo = limbo_tables(domain)
    while is_faulty(RETIRING_WAITS_FOR_READERS) and not synchronize_once(domain, load_acquire_64(&domain.epoch)):
        sleep_ns(20_000)
    if limbo >= domain.batch_tables or limbo and limbo_bytes(domain) >= BATCH_BYTES:
        reclaim(domain, FREE_AT_ONCE, False)


# -- reclaiming -------------------------------------------------------------------------------------------------------

cdef uint64_t reclaim(Domain *domain, uint64_t most, bint eager) noexcept nogil:
    """Free up to `most` tables whose readers have left; begin a grace period when a batch waits for one, or `eager`.

    Never waits: when another thread is at it, it frees nothing.
    """
    cdef uint64_t freed
    if not lock_try(&domain.reclaim_lock, 1):
        return 0
    limbo_drain(domain)
    if limbo_is_waiting(domain) and (eager or batch_is_full(domain)):
        grace_period(domain)
    freed = limbo_free(domain, most)
    lock_release(&domain.reclaim_lock)
    return freed


cdef inline bint batch_is_full(Domain *domain) noexcept nogil:
    """Whether enough was retired since the last grace period to be worth another, by number or by bytes."""
    return (
        load_relaxed_64(&domain.retired) - domain.attempted >= domain.batch_tables
        or load_relaxed_64(&domain.retired_bytes) - domain.attempted_bytes >= BATCH_BYTES
    )


cdef void limbo_drain(Domain *domain) noexcept nogil:
    """Move what was retired since into the queue, oldest first."""
    # Acquire, partner: the push in retire.
    cdef Table *newest = <Table *> exchange_pointer(&domain.incoming, NULL)
    cdef Table *oldest = NULL
    cdef Table *last = newest
    cdef Table *following
    if newest is NULL:
        return
    while newest is not NULL:
        following = newest.link
        newest.link = oldest
        oldest = newest
        newest = following
    if domain.pending_last is NULL:
        domain.pending_first = oldest
    else:
        domain.pending_last.link = oldest
    domain.pending_last = last


cdef inline bint limbo_is_waiting(Domain *domain) noexcept nogil:
    """Whether the oldest table in limbo is not known to be safe."""
    return domain.pending_first is not NULL and <int64_t> (domain.pending_first.stamp - domain.safe) >= 0


cdef void grace_period(Domain *domain) noexcept nogil:
    """Begin an epoch, and find out the oldest that a section still inside has entered in."""
    # Release, partner: the load in section_enter.
    cdef uint64_t oldest = fetch_add_64(&domain.epoch, EPOCH_STEP) + EPOCH_STEP
    cdef uint64_t section, now
    cdef Record *record
    # Partner: the store in section_enter. After this, a section that the scan misses began later than now.
    if domain.barrier != BY_READER:
        if not is_faulty(NO_MEMBARRIER):
            membarrier()
    elif not is_faulty(NO_BARRIER_BEFORE_THE_SCAN):
        full_barrier()
    now = now_ns()
    record = <Record *> load_acquire_pointer(&domain.records)
    if is_faulty(NO_SCAN_BEFORE_FREEING):
        record = NULL
    while record is not NULL:
        # Acquire, partner: section_leave.
        section = load_acquire_64(&record.section)
        if section & DEPTH_MASK:
            section &= ~<uint64_t> DEPTH_MASK
            if <int64_t> (section - oldest) < 0:
                oldest = section
            if record.seen != section | 1:
                record.seen = section | 1
                store_relaxed_unhooked_64(&record.seen_since_ns, now)   # one word, for reports: nobody decides by it
        else:
            record.seen = 0
            store_relaxed_unhooked_64(&record.seen_since_ns, 0)
        record = record.next
    domain.safe = oldest
    domain.attempted = load_relaxed_64(&domain.retired)
    domain.attempted_bytes = load_relaxed_64(&domain.retired_bytes)
    count_64(&domain.grace_periods, 1)                 # read by `stats` without the lock


cdef uint64_t limbo_free(Domain *domain, uint64_t most) noexcept nogil:
    """Hand back up to `most` tables: first those that handles let go of, then the oldest of the queue."""
    cdef uint64_t freed = 0
    cdef Table *table
    cdef Table **place = &domain.pinned
    while place[0] is not NULL and freed < most:
        table = place[0]
        if not is_kept_in_limbo(table):
            place[0] = table.link
            limbo_give_back(domain, table)
            freed += 1
        else:
            place = &table.link
    if is_faulty(FREED_BY_THE_CURRENT_EPOCH):
        domain.safe = load_acquire_64(&domain.epoch)
    while freed < most:
        table = domain.pending_first
        if table is NULL or <int64_t> (table.stamp - domain.safe) >= 0:
            break
        domain.pending_first = table.link
        if domain.pending_first is NULL:
            domain.pending_last = NULL
        if not is_kept_in_limbo(table):
            limbo_give_back(domain, table)
            freed += 1
        else:
            table.link = domain.pinned
            domain.pinned = table
    return freed


cdef inline bint is_kept_in_limbo(Table *table) noexcept nogil:
    """Whether somebody needs a table still whose readers have left: a handle (E6), or the holder of its lock (E7)."""
    # Acquire, partner: table_unpin. The handle's last read came before the reuse.
    if load_acquire_32(&table.pins) != 0 and not is_faulty(PINS_IGNORED):
        return True
    # Acquire, partner: lock_release. The lock was taken before the section in which its holder found the table, so whoever
    # has seen that section end sees it.
    return load_acquire_32(&table.lock) != 0 and not is_faulty(LOCKED_TABLE_FREED)


cdef void limbo_give_back(Domain *domain, Table *table) noexcept nogil:
    cdef Block *block = table.block
    fetch_add_relaxed_64(&domain.freed_bytes, block_frame_bytes(block) << table.order)
    table_return(table)
    if is_faulty(FREED_TWICE):
        table_return(table)
    block_let_go(block)
    # Release, partner: the load in limbo_tables.
    fetch_add_64(&domain.freed, 1)


# -- the gate ---------------------------------------------------------------------------------------------------------
# A change, of one entry or of a thousand tables, runs between critical_enter and critical_leave, in which it never waits
# for a table. Whoever needs a moment at which no change is under way closes the gate and waits for those inside: a fork,
# for a change that is half-way would stay half-way for ever in a child that has none of the other threads; and a snapshot,
# which shows one moment (share.pxi). Locks that other threads hold over Python code protect nothing half-done.

cdef inline void critical_enter(Record *me) noexcept nogil:
    while True:
        # Partner: the barrier in gate_close. Either we see the gate closed, or who closes it sees us.
        if me.domain.barrier == BY_RECLAIMER:
            store_relaxed_unhooked_64(&me.critical, 1)
            compiler_barrier()
            # Acquire, partner: gate_open. What was done behind the closed gate is seen.
            if load_acquire_unhooked_32(&me.domain.gate) == 0:
                return
        elif critical_enter_by_steps(me):
            return
        store_release_64(&me.critical, 0)
        park(&me.domain.gate, 1)


cdef bint critical_enter_by_steps(Record *me) noexcept nogil:
    """The same with a barrier of its own, or with either where every access is a step; whether the gate was open."""
    if me.domain.barrier == BY_READER:
        store_then_barrier_64(&me.critical, 1)
    else:
        store_relaxed_64(&me.critical, 1)
        compiler_barrier()
    return load_acquire_32(&me.domain.gate) == 0


cdef inline void critical_leave(Record *me) noexcept nogil:
    # Release, partner: the load in gate_close. The change is whole.
    store_release_64(&me.critical, 0)


cdef void gate_close(Domain *domain) noexcept nogil:
    """Let no change of the domain's tables begin, and wait until those under way are over. Blocking on them."""
    cdef Record *record
    cdef uint32_t turns
    mutex_acquire(&domain.gate_lock)
    # Relaxed, partner: the load in critical_enter. A barrier is between this store and the look at `critical`.
    store_relaxed_32(&domain.gate, 1)
    if domain.barrier == BY_READER:
        full_barrier()
    elif not is_faulty(GATE_WITHOUT_ITS_BARRIER):
        membarrier()
    # Acquire, partner: the push in record_register.
    record = <Record *> load_acquire_pointer(&domain.records)
    while record is not NULL and not is_faulty(GATE_WAITS_FOR_NOBODY):
        turns = 0
        # Ends: a change inside the gate waits for no table, and no other can begin.
        # Acquire, partner: critical_leave.
        while load_acquire_64(&record.critical):
            gate_wait(&turns)
        record = record.next


cdef void gate_wait(uint32_t *turns) noexcept nogil:
    """Give way to a change inside the gate: it takes a microsecond, if it has a core."""
    turns[0] += 1
    if step_again(turns):
        pass
    elif turns[0] <= LOCK_SPINS:
        pause()
    else:
        sleep_ns(20_000)


cdef void gate_open(Domain *domain) noexcept nogil:
    # Release, partner: critical_enter.
    store_release_32(&domain.gate, 0)
    unpark_all(&domain.gate)
    lock_release(&domain.gate_lock)


cdef void gate_pass(Domain *domain) noexcept nogil:
    """Wait until every change that is under way is over: those that begin now see what the caller did before."""
    gate_close(domain)
    gate_open(domain)


# -- fork -------------------------------------------------------------------------------------------------------------

cdef void fork_prepare() noexcept nogil:
    cdef uint32_t number
    mutex_acquire(&domains_lock)
    for number in range(PTL_DOMAINS):
        if domains[number] is not NULL:
            gate_close(domains[number])
            mutex_acquire(&domains[number].reclaim_lock)
    blocks_lock_all()


cdef void fork_in_parent() noexcept nogil:
    cdef uint32_t number
    blocks_unlock_all()
    for number in range(PTL_DOMAINS):
        if domains[number] is not NULL:
            lock_release(&domains[number].reclaim_lock)
            gate_open(domains[number])
    lock_release(&domains_lock)


cdef void fork_in_child() noexcept nogil:
    """Only the forking thread is left: drop the sections and locks of the others."""
    cdef uint32_t number
    cdef Record *record
    parking_init()
    if has_membarrier:
        membarrier_register()
    for number in range(PTL_DOMAINS):
        if domains[number] is NULL:
            continue
        record = <Record *> domains[number].records
        while record is not NULL:
            if <void *> record == thread_record(number):
                record.thread = thread_id()
            else:
                record_recycle(record)
            record = record.next
        domains[number].reclaim_lock = 0
        domains[number].gate_lock = 0
        store_release_32(&domains[number].gate, 0)
    blocks_drop_foreign_locks()
    store_release_32(&domains_lock, 0)


cdef int epoch_start() except -1:
    """Once, when the module is loaded.

    PTL_MEMBARRIER=0 tests the barrier that systems without membarrier need.
    """
    global has_membarrier
    has_membarrier = os.environ.get("PTL_MEMBARRIER", "1") != "0" and membarrier_register()
    if pthread_key_create(&thread_exit_key, thread_exit):
        raise MemoryError("no thread-specific key left for ptl")
    if pthread_atfork(fork_prepare, fork_in_parent, fork_in_child):
        raise MemoryError("no memory to register with fork")
    return 0


# -- the face ---------------------------------------------------------------------------------------------------------

@cython.dataclasses.dataclass(frozen=True)
cdef class Stall:
    """A thread that has been inside a section for long: who, for how long, and what that holds back."""
    thread: int
    """The system's number of the thread (on Linux as `threading.Thread.native_id`)."""
    seconds: float
    """Since the first grace period that met it inside; the section may be older."""
    held_tables: int
    held_bytes: int


cdef class EpochDomain:
    """A set of readers and the tables retired beside them.

    Tables retired in one domain wait for the readers of that domain only. Most programs need no other than
    `ptl.default_domain`.

    batch_tables: how many tables may gather in limbo before a grace period is begun for them.

    Raises MemoryError when all of the process's 16 domains are in use.

    >>> import ptl
    >>> domain = ptl.EpochDomain()
    >>> with domain.pin():
    ...     pass  # nothing retired from here on is reused before the end of the block
    """
    cdef Domain *domain
    cdef object __weakref__

    def __cinit__(self, *, batch_tables=BATCH_TABLES):
        cdef uint64_t batch = as_count(batch_tables, "batch_tables")
        if batch < 1:
            raise ValueError("batch_tables must be at least 1")
        if batch == BATCH_TABLES and is_under_stress():
            batch = STRESS_BATCH_TABLES
        self.domain = domain_claim()
        if self.domain is NULL:
            gc.collect()            # a domain that nobody has any more may still have its number
            self.domain = domain_claim()
        if self.domain is NULL:
            raise MemoryError(f"all {PTL_DOMAINS} epoch domains of this process are in use")
        self.domain.batch_tables = batch

    def __dealloc__(self):
        # What is still in limbo stays there, safe, until the number is claimed again.
        if self.domain is not NULL:
            reclaim(self.domain, <uint64_t> -1, True)
            store_release_32(&self.domain.in_use, 0)

    def __reduce__(self):
        raise TypeError("an epoch domain belongs to one process and cannot be pickled")

    def pin(self):
        """Enter a read section: a context manager, wait-free.

        What is retired while it lasts is not reused. It belongs to the thread that made it, and may be nested.
        Do not wait for anything inside.
        """
        return Pin(self)

    def reclaim(self):
        """Free what can be freed now without waiting, and return how many tables that was.

        Lock-free: 0 when another thread is at it. O(threads + tables freed), plus one membarrier.
        """
        cdef uint64_t freed
        with nogil:
            freed = reclaim(self.domain, <uint64_t> -1, True)
        self.warn_of_stalls(STALL_SECONDS)
        return freed

    def synchronize(self):
        """Wait until every section that is inside now has ended, and free what was retired before the call.

        Blocking: gives up the GIL, can be interrupted by a signal, and warns (`EpochStall`) of a reader that takes
        longer than 10 seconds. Tables pinned by an open handle stay in limbo.

        Raises RuntimeError inside a section of this domain, which would wait for itself.
        """
        cdef Record *me = record_of(self.domain)
        cdef uint64_t target, wait_ns = 20_000
        cdef bint done
        if me is NULL:
            raise MemoryError("no memory for this thread's epoch record")
        if section_inside(me):
            raise RuntimeError("synchronize() inside a section of the same domain would wait for itself")
        target = fetch_add_64(&self.domain.epoch, 0)
        while True:
            with nogil:
                done = synchronize_once(self.domain, target)
                if not done:
                    sleep_ns(wait_ns)
            if done:
                return
            wait_ns = min(2 * wait_ns, <uint64_t> 1_000_000)
            PyErr_CheckSignals()
            self.warn_of_stalls(STALL_SECONDS)

    def stalled(self, seconds):
        """The threads that have been inside one section for at least that long, as a list of `Stall`.

        O(threads), plus one membarrier. A section is first noticed by a grace period, so call it twice to catch one
        that holds back nothing yet.
        """
        cdef double least = seconds, inside
        cdef Record *record
        cdef uint64_t held, held_bytes, since
        cdef list found = []
        with nogil:
            mutex_acquire(&self.domain.reclaim_lock)
            grace_period(self.domain)
            held = limbo_tables(self.domain)
            held_bytes = limbo_bytes(self.domain)
            lock_release(&self.domain.reclaim_lock)
        record = <Record *> load_acquire_pointer(&self.domain.records)
        while record is not NULL:
            since = load_relaxed_64(&record.seen_since_ns)
            inside = seconds_since(since)
            if since and inside >= least:
                found.append(Stall(load_relaxed_64(&record.thread), inside, held, held_bytes))
            record = record.next
        return found

    def stats(self):
        """Counters, as a dict: epoch, threads, retired, freed, limbo and their bytes, limbo_max, grace_periods, barrier.

        O(threads); each counter is read by itself.
        """
        cdef Record *record = <Record *> load_acquire_pointer(&self.domain.records)
        cdef int threads = 0, inside = 0
        while record is not NULL:
            threads += load_relaxed_32(&record.in_use) != 0
            inside += load_relaxed_64(&record.section) & DEPTH_MASK != 0
            record = record.next
        return {
            "epoch": load_relaxed_64(&self.domain.epoch) // EPOCH_STEP,
            "threads": threads,
            "inside": inside,
            "retired": load_relaxed_64(&self.domain.retired),
            "freed": load_relaxed_64(&self.domain.freed),
            "limbo": limbo_tables(self.domain),
            "limbo_bytes": limbo_bytes(self.domain),
            "limbo_max": load_relaxed_64(&self.domain.limbo_max),
            "grace_periods": load_relaxed_64(&self.domain.grace_periods),
            "barrier": "each section" if self.domain.barrier == BY_READER else "membarrier",
        }

    cdef int warn_of_stalls(self, double seconds) except -1:
        """Warn once of each section that has lasted that long: of two threads that see it, one does."""
        cdef Record *record = <Record *> load_acquire_pointer(&self.domain.records)
        cdef uint64_t since
        cdef double inside
        while record is not NULL:
            since = load_relaxed_64(&record.seen_since_ns)
            inside = seconds_since(since)   # each time: a warning may take long, and a reader be met meanwhile
            if since and inside >= seconds and exchange_64(&record.reported, since) != since:
                warnings.warn(
                    f"thread {load_relaxed_64(&record.thread)} has been inside a read section for "
                    f"{inside:.1f} s and holds back {limbo_tables(self.domain)} tables",
                    EpochStall,
                    stacklevel=2,
                )
            record = record.next
        return 0


STALL_SECONDS = 10.0


cdef inline double seconds_since(uint64_t then_ns) noexcept nogil:
    return <int64_t> (now_ns() - then_ns) / 1e9


cdef bint synchronize_once(Domain *domain, uint64_t target) noexcept nogil:
    """Free what can be; True when nothing stamped at or before `target` waits for a reader any more."""
    cdef bint done
    mutex_acquire(&domain.reclaim_lock)
    limbo_drain(domain)
    if <int64_t> (domain.safe - target) <= 0:
        grace_period(domain)
    limbo_free(domain, <uint64_t> -1)
    done = <int64_t> (domain.safe - target) > 0
    lock_release(&domain.reclaim_lock)
    return done


cdef inline void domain_reset(Domain *domain) noexcept nogil:
    """Begin anew: nobody is inside, and nothing is in limbo, whose stamp could be compared with another epoch (E4)."""
    cdef Record *record = <Record *> domain.records
    domain.epoch = domain.safe = <uint64_t> -16 * EPOCH_STEP if is_under_stress() else EPOCH_STEP
    domain.barrier = BY_READER
    if has_membarrier:
        domain.barrier = BY_RECLAIMER_IN_STEPS if is_under_stress() else BY_RECLAIMER
    while record is not NULL:
        record.seen = record.seen_since_ns = 0
        record = record.next
    domain.retired = domain.retired_bytes = domain.attempted = domain.attempted_bytes = 0
    domain.freed = domain.freed_bytes = domain.limbo_max = domain.grace_periods = 0


cdef Domain *domain_claim() except? NULL:
    """A domain that no EpochDomain has: one used before, with its records, or a new one. NULL when there is none."""
    cdef Domain *domain = NULL
    cdef uint32_t number
    with nogil:
        mutex_acquire(&domains_lock)
        for number in range(PTL_DOMAINS):
            if domains[number] is NULL:
                if posix_memalign(<void **> &domain, 128, sizeof(Domain)) == 0:
                    memset(domain, 0, sizeof(Domain))
                    domain.number = number
                    domain.in_use = 1
                    domains[number] = domain
                break
            if load_acquire_32(&domains[number].in_use) == 0:
                domain = domains[number]
                domain.in_use = 1
                break
        lock_release(&domains_lock)
        if domain is not NULL and limbo_tables(domain):     # for readers who stayed inside, and may have left since
            reclaim(domain, <uint64_t> -1, True)
        if domain is not NULL and limbo_tables(domain) == 0:
            domain_reset(domain)
    return domain
