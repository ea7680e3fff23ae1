# SPDX-License-Identifier: MIT
"""What Python sees of the TLBs: Tlb, MmuGather."""

cdef str LETTERS_OF_ACCESS = "rwx"


class ProtectionFault(PageFault):
    """An address that is mapped, but not for that access: also `access`, one of "r", "w", "x", and `user`."""

    def __init__(self, va, level, state, access, user):
        super().__init__(va, level, state)
        self.args = va, level, state, access, user
        self.access, self.user = access, user

    def __str__(self):
        return f"va {self.va:#x} does not grant {'user' if self.user else 'kernel'} access {self.access!r}"


class StaleTranslation(AssertionError):
    """A TLB used a translation that the table no longer has, or has in two sizes: a flush was forgotten."""


@cython.no_gc_clear             # __dealloc__ still needs the tables
cdef class Tlb:
    """What one CPU remembers of page tables: a set-associative translation cache, flushed by every change of a table.

    sets, ways: its geometry; a page of each size has its place in one set.
    check: whether each hit is compared with the table. A hit that grants what the table does not, while no change is in
        flight, raises StaleTranslation.

    Loads and stores of two CPUs to the same bytes are the program's own to order, as on a machine without atomic
    instructions: what one reads meanwhile may be of either.

    One CPU is one thread's: threads that share a Tlb wait for each other. Changes of an attached table flush it, from
    whatever thread, and wait until the access in progress is over.

    >>> import ptl
    >>> frames = ptl.Frames(1 << 20)
    >>> pt = ptl.PageTable(frames=frames)
    >>> cpu = ptl.tlb.Tlb()
    >>> cpu.attach(pt)
    >>> pt.map(0x1000, frames.alloc(), flags="rw")
    >>> cpu.write(pt, 0x1ffe, b"hi")
    >>> cpu.read(pt, 0x1ffe, 2), pt.lookup(0x1000).flags
    (b'hi', 'rwad')
    """
    cdef Cache cache
    cdef dict attached              # by id, for a table is a mapping and has no hash: it, and its address-space number
    cdef tuple kept                 # the same tables for __dealloc__: the collector empties dicts in a cycle, and no tuple

    def __cinit__(self, *, sets=16, ways=4, check=True):
        cdef uint64_t number_of_sets = as_count(sets, "sets"), number_of_ways = as_count(ways, "ways")
        if not 0 < number_of_sets <= 1 << 16 or not 0 < number_of_ways <= 1 << 8:
            raise ValueError(f"sets must be 1 to {1 << 16} and ways 1 to {1 << 8}, not {sets} and {ways}")
        self.attached = {}
        self.kept = ()
        self.cache.sets = number_of_sets
        self.cache.ways = number_of_ways
        self.cache.check = check
        self.cache.places = <Translation *> calloc(number_of_sets * number_of_ways, sizeof(Translation))
        if self.cache.places is NULL:
            raise MemoryError("no memory for a Tlb")

    def __dealloc__(self):
        for pt in self.kept or ():
            detach_cache(pt, &self.cache)
        free(self.cache.places)

    def __reduce__(self):
        raise TypeError("a Tlb belongs to one process and cannot be pickled")

    def attach(self, PageTable pt not None, /, asid=None):
        """Let this CPU use a table, its translations tagged with an address-space number.

        asid: below 65536; by default one that no other table of this Tlb has.

        Waits until changes in flight are over: blocking on them, and on no reader. Raises ValueError when the table is
        attached already, TypeError for a snapshot: a CPU marks what it uses.
        """
        cdef uint64_t number
        cdef Record *me = record_for_change(pt)
        cdef Attachment *attachment
        if id(pt) in self.attached:
            raise ValueError(f"{pt!r} is attached already")
        if asid is None:
            taken = {number for _, number in self.attached.values()}
            number = next(free for free in range(1 << 16) if free not in taken)
        else:
            number = as_count(asid, "asid")
            if number >> 16:
                raise ValueError(f"asid must be below {1 << 16}, not {number}")
        self.keep(pt, True)
        attachment = tree_attach(pt.tree, me, &self.cache, number)
        if attachment is NULL:
            self.keep(pt, False)
            raise MemoryError("no memory to attach a Tlb")
        self.attached[id(pt)] = pt, number
        if not is_faulty(ATTACHED_BESIDE_CHANGES):
            with nogil:
                gate_pass(pt.tree.domain)

    def detach(self, PageTable pt not None, /):
        """Forget a table and its translations. Raises KeyError when it is not attached."""
        if id(pt) not in self.attached:
            raise KeyError(f"{pt!r} is not attached to this Tlb")
        _, number = self.attached.pop(id(pt))
        detach_cache(pt, &self.cache)
        self.keep(pt, False)
        self.drop(pt, number, 0, UNMAPPED_RAW)

    cdef int keep(self, PageTable pt, bint is_kept) except -1:
        with cython.critical_section(self):
            others = tuple([other for other in self.kept if other is not pt])
            self.kept = others + (pt,) if is_kept else others
        return 0

    cdef int drop(self, PageTable pt, uint32_t asid, uint64_t first, uint64_t last) except -1:
        cdef Record *me = own_record(pt)
        critical_enter(me)
        cache_drop(&self.cache, pt.tree, asid, first, last)
        critical_leave(me)
        return 0

    cdef uint32_t asid_of(self, PageTable pt) except? 0xffffffff:
        if id(pt) not in self.attached:
            raise ValueError(f"{pt!r} is not attached to this Tlb")
        _, asid = self.attached[id(pt)]
        return asid

    def translate(self, PageTable pt not None, va, /, access="r", *, user=False):
        """The physical address that this CPU uses for an access: "r", "w" or "x"; by the kernel or by the `user`.

        On a miss it walks as hardware does, and sets accessed, and dirty for a write. Raises PageFault when nothing is
        mapped, ProtectionFault when that access is not granted, StaleTranslation. O(ways); a miss O(levels) more.
        """
        cdef uint64_t pa = 0
        self.access(pt, canonical(pt, va), access, user, NULL, 0, &pa)
        return pa

    def read(self, PageTable pt not None, va, length, /, *, user=False):
        """Load `length` bytes, page by page, as this CPU does. Errors as `translate`; O(bytes)."""
        cdef uint64_t address = canonical(pt, va), count = as_address(length, "length")
        result = bytearray(count)
        cdef char[::1] target
        if count:
            check_canonical_run(pt, address, count)
            target = result
            self.pieces(pt, address, &target[0], count, "r", user)
        return bytes(result)

    def write(self, PageTable pt not None, va, data, /, *, user=False):
        """Store bytes, page by page, as this CPU does; what comes before the page of an error is stored.

        When a change of the table has returned, nothing is stored through what it took away. Errors as `translate`;
        O(bytes).
        """
        cdef uint64_t address = canonical(pt, va)
        cdef const unsigned char[::1] source
        if data is None:
            raise TypeError("data must be bytes, not None")
        source = data
        if source.shape[0]:
            check_canonical_run(pt, address, source.shape[0])
            self.pieces(pt, address, <char *> &source[0], source.shape[0], "w", user)

    cdef int pieces(self, PageTable pt, uint64_t va, char *memory, uint64_t count, str access, bint user) except -1:
        cdef uint64_t page = span(&pt.tree.format.level[1]), done = 0, part, pa = 0
        while done < count:
            part = min(count - done, page - (va + done & (page - 1)))
            self.access(pt, va + done, access, user, memory + done, part, &pa)
            done += part
        return 0

    cdef int access(
        self, PageTable pt, uint64_t va, object access, bint user, char *memory, uint64_t count, uint64_t *pa
    ) except -1:
        cdef uint32_t asid = self.asid_of(pt), needs
        cdef Record *me = own_record(pt)
        cdef Found found
        cdef int letter = LETTERS_OF_ACCESS.find(access) if len(access) == 1 else -1
        cdef int result, why
        if letter < 0:
            raise ValueError(f"access must be 'r', 'w' or 'x', not {access!r}")
        needs = 1 << letter | (NEEDS_USER if user else 0)
        with nogil:
            result = cpu_access(&self.cache, pt.tree, me, asid, va, needs, pa, memory, count, &found, &why)
        if result == HIT:
            return 0
        if result == FAULT:
            raise PageFault(va, found.level, state_of(found.state))
        if result == DENIED:
            raise ProtectionFault(va, found.level, state_of(found.state), access, bool(user))
        if result == WAIT:
            raise livelock(va, &found)
        if result == SHARED:
            raise failure_at(pt, why, va, &found)
        kind = "in two sizes" if result == MIXED_SIZES else "that the table does not have"
        raise StaleTranslation(
            f"va {va:#x}: this Tlb held a level-{found.level} translation {found.raw:#x} {kind}; a flush was forgotten"
        )

    def flush(self, PageTable pt not None, va=None, length=None, /):
        """Forget a range of a table, or all of it. O(sets x ways)."""
        cdef uint64_t first = 0, last = UNMAPPED_RAW
        if va is not None:
            first = canonical(pt, va)
            last = first + (max(as_address(length, "length"), 1) - 1)
        self.drop(pt, self.asid_of(pt), first, last)

    def verify(self):
        """Compare every translation with its table, and return how many there are; for use at rest.

        Raises StaleTranslation for one that grants what the table does not.
        """
        cdef PageTable pt
        cdef Record *me
        cdef Translation *place
        cdef uint64_t i, count = 0
        cdef uint32_t asid
        cdef bint stale
        for table, number in self.attached.values():
            pt, asid = table, number
            me = own_record(pt)
            for i in range(<uint64_t> self.cache.sets * self.cache.ways):
                place = &self.cache.places[i]
                if place.level == 0 or place.asid != asid:
                    continue
                critical_enter(me)
                mutex_acquire(&self.cache.lock)
                stale = is_stale(&self.cache, pt.tree, me, place.va, place)
                lock_release(&self.cache.lock)
                critical_leave(me)
                if stale:
                    raise StaleTranslation(f"va {place.va:#x}: this Tlb holds {place.raw:#x}; the table does not grant it")
                count += 1
        return count

    def stats(self):
        """Counters, as a dict.

        hits, misses; flushes: that looked into it; dropped: translations that these took away; unchecked: hits that
        differed from the table while a change was in flight.
        """
        return {
            "hits": self.cache.hits,
            "misses": self.cache.misses,
            "flushes": self.cache.flushes,
            "dropped": self.cache.dropped,
            "unchecked": self.cache.unchecked,
        }


@cython.no_gc_clear             # __dealloc__ still needs the table
cdef class MmuGather:
    """Changes that take something away, flushed together: one shootdown at the end instead of one a change.

    Between a change and the flush CPUs may still use what was taken away, so frames are given to `free` here, which gives
    them back after the flush. A context manager: leaving flushes. For one thread.

    >>> import ptl
    >>> frames = ptl.Frames(1 << 20)
    >>> pt = ptl.PageTable(frames=frames)
    >>> pa = frames.alloc()
    >>> pt.map(0x1000, pa)
    >>> with ptl.tlb.MmuGather(pt) as gather:
    ...     _ = gather.unmap(0x1000, 0x1000)
    ...     gather.free(pa)
    >>> frames.owners(pa)
    0
    """
    cdef PageTable pt
    cdef uint64_t first
    cdef uint64_t last
    cdef bint is_waiting            # whether something was taken away since the last flush
    cdef list frames

    def __cinit__(self, PageTable pt not None):
        self.pt = pt
        self.frames = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.flush()

    def __dealloc__(self):
        if self.is_waiting:
            self.shoot()

    def unmap(self, va, length, /):
        """As `PageTable.unmap`, without the flush."""
        return self.run(UNMAP, va, length, "r")

    def protect(self, va, length, flags, /):
        """As `PageTable.protect`, without the flush."""
        return self.run(PROTECT, va, length, flags)

    def free(self, pa, length=None, /):
        """Give frames back after the flush: `Frames.free`, whose errors come then."""
        self.frames.append((pa, length))

    cdef object run(self, int kind, object va, object length, object flags):
        cdef Range op
        cdef Tree *tree = self.pt.tree
        cdef Record *me = record_for_change(self.pt)
        cdef uint64_t first = canonical(self.pt, va), bytes = as_address(length, "length")
        cdef int result
        check_range(self.pt, first, bytes, span(&tree.format.level[1]))
        memset(&op, 0, sizeof(Range))
        op.kind = kind
        op.attributes = attributes_asked(self.pt, flags)
        op.is_gathered = True
        if not self.is_waiting:
            self.first, self.last = first, first
            self.is_waiting = True
            # Whether or not there is a Tlb: one may be attached before the flush.
            fetch_add_64(&tree.changes_begun, 1)
        self.first = min(self.first, first)
        self.last = max(self.last, first + (bytes - 1))
        result = range_run(self.pt, &op, me, first, bytes)
        if result != DONE:
            raise failure(self.pt, result, &op)
        return op.changed

    cdef int shoot(self) except -1:
        cdef Record *me = own_record(self.pt)
        self.is_waiting = False
        critical_enter(me)
        flush(self.pt.tree, True, self.first, self.last, NO_FLUSH_OF_A_GATHER)
        change_end(self.pt.tree, True)
        critical_leave(me)
        return 0

    def flush(self):
        """Flush what was taken away, then give back the frames. Blocking on each attached Tlb for one access of it."""
        if self.is_waiting:
            self.shoot()
        while self.frames:
            pa, length = self.frames.pop()
            self.pt.frames.free(pa, length)


cdef int check_canonical_run(PageTable pt, uint64_t va, uint64_t count) except -1:
    if not is_run(&pt.tree.format, va, count):
        raise AddressError(f"va {va:#x} with {count:#x} bytes runs out of the canonical addresses of {pt.arch.name}")
    return 0


cdef int detach_cache(PageTable pt, Cache *cache) except -1:
    tree_detach(pt.tree, own_record(pt), cache)
    return 0
