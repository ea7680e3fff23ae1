# SPDX-License-Identifier: MIT
"""Software TLBs: what a CPU remembers of a table, and how it is made to forget.

    change of an entry                     a CPU's Tlb
    begin: changes_begun + 1               lock; hit? check it; use it; unlock
    switch the entry                       lock; miss: walk, set accessed and dirty, insert; use it; unlock
    flush: for every attached Tlb
        lock; drop what overlaps; unlock
    end: changes_done + 1

B1  A Tlb is filled and used under its lock, and flushed under it after the switch. So a walk that saw the old entry has
    inserted it before the flush looks, or sees the new one; and when a flush has returned, no load or store goes through
    the old translation any more: what a processor promises by acknowledging a shootdown.
B2  Every change of a leaf flushes before it returns, and before anything is done that relies on the old translation being
    gone: reading what a collapse copies, making a slot huge, handing out frames again (MmuGather).
B3  Between begin and end a Tlb may be stale. Otherwise a hit that grants what the table does not is an error, and so are
    two hits of different sizes: the flush was forgotten, or came too early.
B4  A Tlb's lock is held for one walk or one copy of at most a page, inside the gate, and nothing else is waited for.
B5  No Tlb takes what is BUSY or INVALID; nor, where only software walks and there may be runs, a frozen leaf (run.pxi, U4).
    A refill lets go of the Tlb and looks again when that is over.

Attaching waits for all changes in flight, so every later change knows of the Tlb. When none is attached, a change costs
one load more. Blocking on the Tlb. Sources: D. Black et al., "Translation lookaside buffer consistency", 1989; Linux
mm/mmu_gather.c.
"""

cdef enum:
    ACCESS_READ = 1             # the bits of the attributes r, w, x
    ACCESS_WRITE = 2
    ACCESS_EXECUTE = 4
    NEEDS_USER = 8
    GRANTS = 15
    IS_GLOBAL = 16

cdef enum Hit:
    HIT = 0
    MISS = 1
    STALE = 2                   # it grants what the table does not (B3)
    MIXED_SIZES = 3
    FAULT = 4                   # nothing mapped
    DENIED = 5                  # mapped, but not for that access
    WAIT = 6                    # a slot in transition is in the way
    SHARED = 7                  # to be marked in a table that other trees have too: it takes a copy first

cdef struct Translation:
    uint64_t va                 # the first address
    uint64_t bytes              # from there on: those of a leaf, or of a run
    uint64_t raw                # the entry as it was read, accessed and dirty set as needed; 0 is no translation
    uint64_t used               # when it was used last, by the Tlb's own clock
    uint32_t asid
    uint16_t level              # 0: this place is free
    uint16_t is_global          # for every table of that architecture
    void *arch

cdef struct Cache:
    uint32_t lock
    uint32_t sets
    uint32_t ways
    bint check
    uint64_t clock
    uint64_t hits
    uint64_t misses
    uint64_t flushes            # shootdowns that looked into it
    uint64_t dropped            # translations that these took away
    uint64_t unchecked          # hits that differed from the table while a change was in flight
    Translation *places         # sets x ways

cdef struct Attachment:
    Cache *cache
    uint32_t asid
    Attachment *next


# -- what a change does -----------------------------------------------------------------------------------------------

cdef inline bint change_begin(Tree *tree) noexcept nogil:
    """Before a switch, inside the gate; whether there is anybody to flush."""
    # Acquire, partner: the exchange in tree_attach. The attachment is complete.
    if load_acquire_pointer(<void **> &tree.attached) is NULL:
        return False
    # Acquire and release, partner: the loads in is_stale. Whoever sees the switch sees that it has begun.
    fetch_add_64(&tree.changes_begun, 1)
    return True


cdef inline void change_end(Tree *tree, bint begun) noexcept nogil:
    if begun:
        fetch_add_64(&tree.changes_done, 1)


cdef inline void flush(Tree *tree, bint begun, uint64_t first, uint64_t last, uint32_t place) noexcept nogil:
    """Let every attached Tlb forget [first, last]; after the switch, between change_begin and change_end (B1).

    place: a Fault, which names the flush that a test leaves out.
    """
    if begun and not is_faulty(place):
        shoot_down(tree, first, last)


cdef void shoot_down(Tree *tree, uint64_t first, uint64_t last) noexcept nogil:
    cdef Attachment *attachment
    mutex_acquire(&tree.attached_lock)
    attachment = tree.attached
    while attachment is not NULL:
        cache_drop(attachment.cache, tree, attachment.asid, first, last)
        attachment = attachment.next
    lock_release(&tree.attached_lock)


cdef void cache_drop(Cache *cache, const Tree *tree, uint32_t asid, uint64_t first, uint64_t last) noexcept nogil:
    cdef const Format *format = &tree.format
    cdef Translation *place
    cdef uint32_t i
    mutex_acquire(&cache.lock)
    cache.flushes += 1
    for i in range(cache.sets * cache.ways):
        place = &cache.places[i]
        if place.level and is_tagged(place, tree, asid) and (
            place.va <= last and first <= place.va + (place.bytes - 1)
        ):
            place.level = 0
            cache.dropped += 1
    lock_release(&cache.lock)


cdef inline bint is_tagged(const Translation *place, const Tree *tree, uint32_t asid) noexcept nogil:
    """Whether a translation is this address space's, or everybody's of its architecture."""
    return place.asid == asid or place.is_global and place.arch == tree.arch


# -- what a CPU does --------------------------------------------------------------------------------------------------

cdef int cache_find(
    Cache *cache, Tree *tree, Record *me, uint32_t asid, uint64_t va, uint32_t needs, Translation **found
) noexcept nogil:
    """HIT, MISS, or an error of the flushes (B3); under the lock."""
    cdef const Format *format = &tree.format
    cdef uint32_t level, i
    found[0] = NULL
    for level in range(1, format.levels + 1):
        if format.level[level].has_leaf and cache_probe(cache, tree, asid, va, span(&format.level[level]), found):
            return MIXED_SIZES
        for i in range(RUNS):
            if format.level[level].run[i].entries and (
                cache_probe(cache, tree, asid, va, format.level[level].run[i].bytes, found)
            ):
                return MIXED_SIZES
    if found[0] is NULL:
        return MISS
    if cache.check and is_stale(cache, tree, me, va, found[0]):
        return STALE
    if not allows(&format.level[found[0].level], found[0].raw, needs):
        found[0].level = 0                          # the table may grant more by now: as hardware does, look
        return MISS
    return HIT


cdef bint cache_probe(
    Cache *cache, Tree *tree, uint32_t asid, uint64_t va, uint64_t bytes, Translation **found
) noexcept nogil:
    """Look for a translation of that size; whether one of another size was found before."""
    cdef Translation *place = &cache.places[va // bytes % cache.sets * cache.ways]
    cdef uint32_t way
    for way in range(cache.ways):
        if place.level and place.bytes == bytes and place.va == va & ~(bytes - 1) and is_tagged(place, tree, asid):
            if found[0] is not NULL:
                return True
            found[0] = place
            return False
        place += 1
    return False


cdef inline uint64_t address_of(const LevelFormat *level, const Translation *place) noexcept nogil:
    """What its first address is translated to."""
    return leaf_address(level, place.raw, place.va) & ~(place.bytes - 1)


cdef inline bint allows(const LevelFormat *format, uint64_t raw, uint32_t needs) noexcept nogil:
    """Whether a translation serves that access as it is; one that has not seen a store yet does not serve a store."""
    cdef uint32_t granted = attributes_of(format, raw)
    if needs & ~granted:
        return False
    return not needs & ACCESS_WRITE or (granted | ~format.attributes.letters) >> LETTER_DIRTY & 1


cdef bint is_stale(Cache *cache, Tree *tree, Record *me, uint64_t va, const Translation *place) noexcept nogil:
    """Whether a hit grants what the table does not, and no change is in flight that could explain it (B3)."""
    cdef const LevelFormat *level = &tree.format.level[place.level]
    cdef uint32_t granted = attributes_of(level, place.raw) & GRANTS
    # Acquire, partner: change_end. The walk sees what the changes stored that are done.
    cdef uint64_t done = load_acquire_64(&tree.changes_done)
    cdef Found found
    section_enter(me)
    walk(tree, va, 1, &found)
    section_leave(me)
    if found.state == HUGE and found.level == place.level and (
        bytes_of(level, run_of(level, found.raw)) == place.bytes
        and leaf_address(level, found.raw, va) & ~(place.bytes - 1) == address_of(level, place)
        and not granted & ~attributes_of(level, found.raw)
    ):
        return False
    # Acquire, partner: change_begin. A change that the walk saw half-done has begun, and was not done before the walk: it
    # may be now, for a run's last entries are stored after the flush, which waits for this cache, was over.
    if load_acquire_64(&tree.changes_begun) != done:
        cache.unchecked += 1
        return False
    return True


cdef inline bint is_hidden(const LevelFormat *format, const Found *found) noexcept nogil:
    """Whether no TLB may take what is there, and a look later will find something else (run.pxi, U4)."""
    if found.state == HUGE:
        return format.frozen_is_hidden and is_frozen(format, found.raw) and not is_faulty(FROZEN_LEAF_REFILLED)
    return found.state == BUSY or found.state == INVALID


cdef int cache_fill(
    Cache *cache, Tree *tree, Record *me, uint32_t asid, uint64_t va, uint32_t needs, Translation **place, Found *found
) noexcept nogil:
    """Walk as hardware does, set accessed and dirty, and remember the leaf; under the lock."""
    cdef const LevelFormat *format
    cdef uint64_t raw, marked, bytes
    cdef int result = MISS, change
    section_enter(me)
    while result == MISS:
        walk(tree, va, 1, found)
        format = &tree.format.level[found.level]
        if is_hidden(format, found):
            result = WAIT
        elif found.state != HUGE:
            result = FAULT
        elif needs & ~attributes_of(format, found.raw):
            result = DENIED
        else:
            raw = found.raw
            marked = attributes_of(format, raw) | 1 << LETTER_ACCESSED
            if needs & ACCESS_WRITE:
                marked |= 1 << LETTER_DIRTY
            marked = attributes_set(format, raw, <uint32_t> marked)
            if marked == raw:
                result = HIT
            elif not is_own(tree, table_of(tree.block, found.table)):
                result = SHARED
            elif format.shadow.offset:              # the fault handler marks the entry, and who has frozen it is waited for
                change = entry_change(me, format, found.slot, &raw, marked)
                result = HIT if change == CHANGED else WAIT if change == FROZEN else MISS
            # Frozen or not: hardware does not know that bit. A failure is somebody else's change, or its freeze.
            elif entry_compare_exchange(found.slot, &raw, marked, format):
                result = HIT
    section_leave(me)
    if result == HIT:
        bytes = bytes_of(format, run_of(format, marked))
        place[0] = cache_victim(cache, va // bytes)
        place[0].va = va & ~(bytes - 1)
        place[0].bytes = bytes
        place[0].raw = marked & ~format.frozen_present
        place[0].asid = asid
        place[0].arch = tree.arch
        place[0].is_global = attributes_of(format, marked) & IS_GLOBAL != 0
        place[0].level = found.level
    return result


cdef Translation *cache_victim(Cache *cache, uint64_t page) noexcept nogil:
    """A free place of that page's set, or the one used longest ago."""
    cdef Translation *place = &cache.places[page % cache.sets * cache.ways]
    cdef Translation *oldest = place
    cdef uint32_t way
    for way in range(cache.ways):
        if place[way].level == 0:
            return &place[way]
        if place[way].used < oldest.used:
            oldest = &place[way]
    return oldest


cdef int cache_access(
    Cache *cache, Tree *tree, Record *me, uint32_t asid, uint64_t va, uint32_t needs, uint64_t *pa,
    char *bytes, uint64_t count, Found *found
) noexcept nogil:
    """Translate va for that access and, when `bytes` is given, load or store `count` bytes inside its page (B1)."""
    cdef Translation *place
    cdef uint32_t turns = 0
    cdef int result
    while True:
        critical_enter(me)
        mutex_acquire(&cache.lock)
        result = cache_find(cache, tree, me, asid, va, needs, &place)
        cache.hits += result == HIT
        if result == MISS:
            cache.misses += 1
            result = cache_fill(cache, tree, me, asid, va, needs, &place, found)
        if result == HIT:
            cache.clock += 1
            place.used = cache.clock
            pa[0] = address_of(&tree.format.level[place.level], place) + (va - place.va)
            if bytes is NULL:
                pass
            elif pa[0] - tree.base >= tree.block.bytes or count > tree.block.bytes - (pa[0] - tree.base):
                result = FAULT
                found.level = place.level
                found.state = BAD                   # no memory there
            elif needs & ACCESS_WRITE:
                copy_to_shared(tree.memory + (pa[0] - tree.base), bytes, count)
            else:
                copy_from_shared(bytes, tree.memory + (pa[0] - tree.base), count)
        elif result == STALE or result == MIXED_SIZES:
            found.raw = place.raw
            found.level = place.level
            place.level = 0                         # said once
        lock_release(&cache.lock)
        critical_leave(me)
        if result != WAIT:
            return result
        if not again(tree, found.table, &turns):
            return result


# -- attaching --------------------------------------------------------------------------------------------------------

cdef Attachment *tree_attach(Tree *tree, Record *me, Cache *cache, uint32_t asid) noexcept nogil:
    """NULL when there is no memory. The caller then waits for the changes in flight."""
    cdef Attachment *attachment = <Attachment *> calloc(1, sizeof(Attachment))
    if attachment is not NULL:
        attachment.cache = cache
        attachment.asid = asid
        attachment_publish(tree, me, attachment)
    return attachment


cdef void attachment_publish(Tree *tree, Record *me, Attachment *attachment) noexcept nogil:
    """Let changes that begin from now on flush a Tlb."""
    critical_enter(me)
    mutex_acquire(&tree.attached_lock)
    attachment.next = tree.attached
    # Release, partner: change_begin.
    exchange_pointer(<void **> &tree.attached, attachment)
    lock_release(&tree.attached_lock)
    critical_leave(me)


cdef void tree_detach(Tree *tree, Record *me, Cache *cache) noexcept nogil:
    cdef Attachment **place
    cdef Attachment *attachment = NULL
    critical_enter(me)
    mutex_acquire(&tree.attached_lock)
    place = &tree.attached
    while place[0] is not NULL:
        if place[0].cache is cache:
            attachment = place[0]
            exchange_pointer(<void **> place, attachment.next)
            break
        place = &place[0].next
    lock_release(&tree.attached_lock)
    critical_leave(me)
    free(attachment)
