# SPDX-License-Identifier: MIT
"""Physical memory: one block of frames, from which tables are taken at the low end and data at the high end.

    base                                                                              base + bytes
    | tables: taken and given back one by one  -->      never used      <-- data: buddy system |
    0                                         table_top             data_bottom          frames

F1  Below table_top every frame is, or has been, a table, and will only ever be a table (type-stable).
F2  A huge leaf owns as many parked tables as it takes to split it down to the smallest pages: `parked` counts them, and
    that many free tables are never given to anybody else. So a split cannot fail for memory. Parked tables are counted,
    not set apart: which one comes back is unspecified, as in the kernel, and none is touched before it is needed.
F3  Taking n tables takes all of them or none.
F4  No table is taken at physical address 0 once there is a tree in the block whose entries could not name it.
F5  The block's lock is a leaf of the lock order: nothing else is taken while it is held, and it is held for O(n).

Progress: blocking, for the length of a list operation. Sources: K. Knowlton, "A fast storage allocator", 1965 (buddies).
"""

cdef enum:
    TABLE_ORDERS = 16
    DATA_ORDERS = 40
    OWNERS_MAX = 0x7fffffff
    GROW_BYTES = 2 * 1024 * 1024    # data is cut from the middle in pieces of at least this, so that it can merge

cdef struct Block:
    char *memory                    # NULL when the Frames object has given it back
    Table *tables                   # one descriptor a frame
    uint64_t base                   # physical address of the first byte
    uint64_t bytes
    uint64_t frames
    uint64_t first_frame            # base in frames: buddies are aligned by physical address
    uint32_t frame_shift
    uint32_t lock
    uint64_t table_top              # F1
    uint64_t data_bottom
    Table *free_tables[TABLE_ORDERS]
    uint64_t free_count[TABLE_ORDERS]
    uint64_t parked[TABLE_ORDERS]   # F2
    bint avoids_0                   # F4
    uint64_t taken                  # tables that are neither free nor in limbo
    uint64_t data_frames            # frames handed out as data
    uint64_t generations            # the last that was given to a tree (share.pxi)
    Table *free_data[DATA_ORDERS]   # doubly linked by link and chain
    uint64_t holders                # the Frames object, and each table in limbo
    Block *next

cdef Block *blocks = NULL           # all of this process, for fork
cdef uint32_t blocks_lock = 0


# -- addresses --------------------------------------------------------------------------------------------------------

cdef inline uint64_t block_frame_bytes(Block *block) noexcept nogil:
    return <uint64_t> 1 << block.frame_shift


cdef inline uint64_t table_offset(Block *block, Table *table) noexcept nogil:
    """Where the table's first byte lies in the block."""
    return <uint64_t> (table - block.tables) << block.frame_shift


cdef inline Table *table_of(Block *block, uint64_t offset) noexcept nogil:
    return &block.tables[offset >> block.frame_shift]


# -- tables -----------------------------------------------------------------------------------------------------------

cdef Table *tables_take(Block *block, uint32_t order, uint64_t count) noexcept nogil:
    """A chain of private tables through `link`, or NULL and nothing changed (F3)."""
    cdef Table *first = NULL
    cdef Table *table
    cdef uint64_t i
    mutex_acquire(&block.lock)
    if not is_out_of_frames() and tables_ensure(block, order, count):       # a test may let it fail (faults.pxi)
        for i in range(count):
            table = table_pop(block, order)
            table.link = first
            first = table
    lock_release(&block.lock)
    return first


cdef bint tables_park(Block *block, uint32_t order, uint64_t count) noexcept nogil:
    """Put that many tables aside for splits (F2); False and nothing changed when there are not as many."""
    cdef bint enough
    mutex_acquire(&block.lock)
    enough = not is_out_of_frames() and tables_ensure(block, order, count)
    if enough:
        block.parked[order] += count
    lock_release(&block.lock)
    return enough


cdef void tables_unpark(Block *block, uint32_t order, uint64_t count) noexcept nogil:
    if count:
        mutex_acquire(&block.lock)
        block.parked[order] -= min(count, block.parked[order])     # less only after writes behind the tree's back
        lock_release(&block.lock)


cdef Table *table_take_parked(Block *block, uint32_t order) noexcept nogil:
    """One private table that a huge leaf had parked: cannot fail (F2).

    NULL when a huge leaf that was written behind the tree's back has parked nothing, and nothing else is free.
    """
    cdef Table *table = NULL
    mutex_acquire(&block.lock)
    if block.parked[order]:
        block.parked[order] -= 1
    if tables_ensure(block, order, 1):
        table = table_pop(block, order)
    lock_release(&block.lock)
    return table


cdef void table_return(Table *table) noexcept nogil:
    """Give back a private table, or a retired one whose readers have left."""
    cdef Block *block = table.block
    mutex_acquire(&block.lock)
    table_push(block, table)
    block.taken -= 1
    lock_release(&block.lock)


cdef inline Table *table_pop(Block *block, uint32_t order) noexcept nogil:
    cdef Table *table = block.free_tables[order]
    block.free_tables[order] = table.link
    block.free_count[order] -= 1
    block.taken += 1
    store_relaxed_32(&table.use, TABLE_PRIVATE)
    table.link = NULL
    table.refs = 1
    if block.memory is not NULL:
        allow(block.memory + table_offset(block, table), block_frame_bytes(block) << order)
    return table


cdef inline void table_push(Block *block, Table *table) noexcept nogil:
    store_release_32(&table.use, TABLE_FREE)
    if block.avoids_0 and block.base == 0 and table is block.tables:        # F4
        return
    table.link = block.free_tables[table.order]
    block.free_tables[table.order] = table
    block.free_count[table.order] += 1
    if block.memory is not NULL:
        forbid(block.memory + table_offset(block, table), block_frame_bytes(block) << table.order)


cdef bint tables_ensure(Block *block, uint32_t order, uint64_t count) noexcept nogil:
    """Make sure that `count` tables beyond the parked ones are free, moving table_top up if need be."""
    cdef uint64_t free = block.free_count[order] - block.parked[order]
    cdef uint64_t frames = <uint64_t> 1 << order, top, missing, i
    if free >= count:
        return True
    missing = count - free
    data_trim(block)
    top = align_up(block.first_frame + block.table_top, frames) - block.first_frame
    if top > block.data_bottom or (block.data_bottom - top) >> order < missing:
        return False
    while block.table_top < top:                      # what alignment skips is a table of a smaller kind
        i = block.table_top
        tables_add(block, i, <uint32_t> min(count_trailing_zeros(block.first_frame + i), order))
    for i in range(missing):
        tables_add(block, block.table_top, order)
    return True


cdef bint tables_avoid_0(Block *block) noexcept nogil:
    """No table that is taken from now on lies at physical address 0 (F4). False, and nothing changed, without room.

    For a block that has a table.
    """
    cdef Table *first = block.tables
    cdef Table **link
    mutex_acquire(&block.lock)
    if block.base == 0 and not block.avoids_0 and first.use == TABLE_FREE:
        if is_out_of_frames() or not tables_ensure(block, first.order, 1):  # F2: it may be one of those that are parked
            lock_release(&block.lock)
            return False
        link = &block.free_tables[first.order]
        while link[0] is not first:
            link = &link[0].link
        link[0] = first.link
        block.free_count[first.order] -= 1
    block.avoids_0 = True
    lock_release(&block.lock)
    return True


cdef void tables_add(Block *block, uint64_t frame, uint32_t order) noexcept nogil:
    cdef Table *table = &block.tables[frame]
    table.block = block
    table.order = order
    block.table_top = frame + (<uint64_t> 1 << order)
    table_push(block, table)


# -- data -------------------------------------------------------------------------------------------------------------

cdef uint64_t data_take(Block *block, uint32_t order) noexcept nogil:
    """The first of 2**order frames, aligned to their size in physical memory; the number of frames when there are none."""
    cdef uint64_t frame = block.frames
    cdef uint32_t larger = order
    if is_out_of_frames():
        return frame
    mutex_acquire(&block.lock)
    while larger < DATA_ORDERS and block.free_data[larger] is NULL:
        larger += 1
    if larger == DATA_ORDERS and data_grow(block, order):
        larger = order
        while block.free_data[larger] is NULL:
            larger += 1
    if larger < DATA_ORDERS:
        frame = <uint64_t> (block.free_data[larger] - block.tables)
        data_unlink(block, &block.tables[frame])
        while larger > order:                         # give back the lower halves: tables grow from there
            larger -= 1
            data_link(block, frame, larger)
            frame += <uint64_t> 1 << larger
        block.tables[frame].use = DATA
        block.tables[frame].order = order
        block.tables[frame].pins = 1
        block.data_frames += <uint64_t> 1 << order
    lock_release(&block.lock)
    return frame


cdef bint data_share(Block *block, uint64_t frame, uint32_t order) noexcept nogil:
    """One owner more; False and nothing changed when these frames were not handed out together."""
    cdef Table *run = &block.tables[frame]
    cdef bint is_run
    mutex_acquire(&block.lock)
    is_run = run.use == DATA and run.order == order and run.pins < OWNERS_MAX
    if is_run:
        run.pins += 1
    lock_release(&block.lock)
    return is_run


cdef uint32_t data_owners(Block *block, uint64_t frame, uint32_t order) noexcept nogil:
    """How many owners the run of that order has that begins there, or with DATA_ORDERS of any; 0 when there is none."""
    cdef Table *run = &block.tables[frame]
    cdef uint32_t owners = 0
    mutex_acquire(&block.lock)
    if run.use == DATA and (order == DATA_ORDERS or run.order == order):
        owners = run.pins
    lock_release(&block.lock)
    return owners


cdef bint data_split(Block *block, uint64_t frame, uint32_t order, uint32_t smaller) noexcept nogil:
    """Make runs of a smaller order of one, each with as many owners; False and nothing changed as above."""
    cdef Table *run = &block.tables[frame]
    cdef uint64_t i
    cdef uint32_t owners
    cdef bint is_run
    mutex_acquire(&block.lock)
    is_run = run.use == DATA and run.order == order
    if is_run:
        owners = run.pins
        for i in range(<uint64_t> 1 << (order - smaller)):
            run = &block.tables[frame + (i << smaller)]
            run.use = DATA
            run.order = smaller
            run.pins = owners
    lock_release(&block.lock)
    return is_run


cdef bint data_give_back(Block *block, uint64_t frame, uint32_t order) noexcept nogil:
    """One owner less, and with the last the frames are free; False and nothing changed as above."""
    cdef uint64_t size, buddy
    cdef Table *run = &block.tables[frame]
    mutex_acquire(&block.lock)
    if run.use != DATA or run.order != order:
        lock_release(&block.lock)
        return False
    run.pins -= 1
    if run.pins:
        lock_release(&block.lock)
        return True
    block.data_frames -= <uint64_t> 1 << order
    run.use = FRAME_UNUSED
    while order < DATA_ORDERS - 1:
        size = <uint64_t> 1 << order
        buddy = ((block.first_frame + frame) ^ size) - block.first_frame    # before the first frame: very large
        if buddy < block.data_bottom or buddy >= block.frames or size > block.frames - buddy:
            break
        if block.tables[buddy].use != DATA_FREE or block.tables[buddy].order != order:
            break
        data_unlink(block, &block.tables[buddy])
        frame = min(frame, buddy)
        order += 1
    data_link(block, frame, order)
    lock_release(&block.lock)
    return True


cdef bint data_grow(Block *block, uint32_t order) noexcept nogil:
    """Move data_bottom down far enough for 2**order aligned frames; further, if there is room."""
    cdef uint64_t size = <uint64_t> 1 << order, end, bottom, frame
    data_trim(block)
    end = block.data_bottom
    bottom = data_bottom_for(block, max(size, <uint64_t> GROW_BYTES >> block.frame_shift))
    if bottom == end:
        bottom = data_bottom_for(block, size)
    if bottom == end:
        return False
    store_release_64(&block.data_bottom, bottom)
    frame = bottom
    while frame < end:                                # the largest aligned runs that fit
        order = min(count_trailing_zeros(block.first_frame + frame | <uint64_t> 1 << (DATA_ORDERS - 1)), DATA_ORDERS - 1)
        while frame + (<uint64_t> 1 << order) > end:
            order -= 1
        data_link(block, frame, order)
        frame += <uint64_t> 1 << order
    return True


cdef void data_trim(Block *block) noexcept nogil:
    """Let what is free at the low end of the data be never used again: tables, or longer runs, can be made of it."""
    cdef Table *run
    while block.data_bottom < block.frames and block.tables[block.data_bottom].use == DATA_FREE:
        run = &block.tables[block.data_bottom]
        data_unlink(block, run)
        store_release_64(&block.data_bottom, block.data_bottom + (<uint64_t> 1 << run.order))


cdef uint64_t data_bottom_for(Block *block, uint64_t frames) noexcept nogil:
    """Where data_bottom has to be for an aligned run of that many frames; where it is, when there is no room."""
    cdef uint64_t end = block.first_frame + block.data_bottom, bottom
    if end < frames:
        return block.data_bottom
    bottom = end - frames & ~(frames - 1)
    return bottom - block.first_frame if bottom >= block.first_frame + block.table_top else block.data_bottom


cdef inline void data_link(Block *block, uint64_t frame, uint32_t order) noexcept nogil:
    cdef Table *run = &block.tables[frame]
    run.use = DATA_FREE
    run.order = order
    run.chain = NULL
    run.link = block.free_data[order]
    if run.link is not NULL:
        run.link.chain = run
    block.free_data[order] = run


cdef inline void data_unlink(Block *block, Table *run) noexcept nogil:
    if run.chain is NULL:
        block.free_data[run.order] = run.link
    else:
        run.chain.link = run.link
    if run.link is not NULL:
        run.link.chain = run.chain
    run.use = FRAME_UNUSED


cdef inline bint is_data(Block *block, uint64_t pa, uint64_t length) noexcept nogil:
    """Whether these bytes lie in the part of the block that data is handed out from."""
    cdef uint64_t offset = pa - block.base
    return (
        offset < block.bytes and length <= block.bytes - offset
        and offset >> block.frame_shift >= load_relaxed_64(&block.data_bottom)
    )


# -- the block --------------------------------------------------------------------------------------------------------

cdef void block_hold(Block *block) noexcept nogil:
    fetch_add_relaxed_64(&block.holders, 1)


cdef void block_let_go(Block *block) noexcept nogil:
    cdef Block **place = &blocks
    # Acquire and release, partner: itself in another thread. The last to let go sees all that the others did.
    if fetch_add_64(&block.holders, <uint64_t> -1) != 1:
        return
    mutex_acquire(&blocks_lock)
    while place[0] is not block:
        place = &place[0].next
    place[0] = block.next
    lock_release(&blocks_lock)
    munmap(block.tables, block.frames * sizeof(Table))
    free(block)


cdef Block *block_make(char *memory, uint64_t bytes, uint64_t base, uint32_t frame_shift) noexcept nogil:
    """A block of that many bytes; NULL when there is no memory for its descriptors."""
    cdef Block *block = <Block *> calloc(1, sizeof(Block))
    if block is NULL:
        return NULL
    block.memory = memory
    block.bytes = bytes
    block.base = base
    block.frame_shift = frame_shift
    block.frames = bytes >> frame_shift
    block.first_frame = base >> frame_shift
    block.data_bottom = block.frames
    block.holders = 1
    # Untouched descriptors cost no memory.
    block.tables = <Table *> map_memory(block.frames * sizeof(Table))
    if block.tables is NULL:
        free(block)
        return NULL
    mutex_acquire(&blocks_lock)
    block.next = blocks
    (&blocks)[0] = block
    lock_release(&blocks_lock)
    return block


cdef void block_give_back_memory(Block *block) noexcept nogil:
    """What is still in limbo returns to a block without memory."""
    mutex_acquire(&block.lock)
    allow(block.memory, block.bytes)
    block.memory = NULL
    lock_release(&block.lock)


cdef void *map_memory(uint64_t bytes) noexcept nogil:
    cdef void *memory = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    return NULL if memory == MAP_FAILED else memory


cdef void blocks_lock_all() noexcept nogil:
    cdef Block *block
    mutex_acquire(&blocks_lock)
    block = blocks
    while block is not NULL:
        mutex_acquire(&block.lock)
        block = block.next


cdef void blocks_unlock_all() noexcept nogil:
    cdef Block *block = blocks
    while block is not NULL:
        lock_release(&block.lock)
        block = block.next
    lock_release(&blocks_lock)


cdef void blocks_drop_foreign_locks() noexcept nogil:
    """In a forked child: every lock but those of the one thread that is left."""
    cdef Block *block = blocks
    cdef uint64_t frame
    while block is not NULL:
        for frame in range(block.table_top):
            if block.tables[frame].lock and not is_own_lock(block.tables[frame].lock):
                block.tables[frame].lock = 0
        block.lock = 0
        block = block.next
    blocks_lock_reset()


cdef inline void blocks_lock_reset() noexcept nogil:
    store_release_32(&blocks_lock, 0)


cdef inline bint is_own_lock(uint32_t word) noexcept nogil:
    cdef uint32_t domain
    cdef Record *record
    for domain in range(PTL_DOMAINS):
        record = <Record *> thread_record(domain)
        if record is not NULL and record.number == word >> 1:
            return True
    return False


# -- the face ---------------------------------------------------------------------------------------------------------

@cython.no_gc                   # the collector must not take the buffer apart while the block is in use
cdef class Frames:
    """Physical memory: a block of bytes whose first has physical address `base`, for tables and data.

    size: bytes, a multiple of frame_bytes. Memory that is never touched is never committed.
    base: physical address of the first byte, a multiple of frame_bytes.
    backing: None for anonymous memory; a path, for a file that is mapped shared (made and extended if need be); a
        `multiprocessing.shared_memory.SharedMemory`; or any writable buffer of at least `size` bytes that begins on a
        multiple of 64, such as an `mmap`. Only the bits are shared that way: one process changes the tables, others may
        read them.
    frame_bytes: the granule of allocation, a power of two.
    domain: the `EpochDomain` that tables wait in before reuse; `ptl.default_domain` unless given.

    Raises ValueError for sizes that do not fit together, MemoryError when the system gives no memory.

    >>> import ptl
    >>> frames = ptl.Frames(1 << 20)
    >>> pa = frames.alloc(8192)
    >>> frames.view(pa, 2)[:] = b"hi"
    >>> frames.free(pa, 8192)
    """
    cdef Block *block
    cdef char *memory
    cdef bint own_mapping
    cdef Py_buffer buffer
    cdef readonly EpochDomain domain
    """The domain that tables wait in before reuse."""

    def __cinit__(self, size, *, base=0, backing=None, frame_bytes=4096, domain=None):
        cdef uint64_t bytes = as_address(size, "size")
        cdef uint64_t first = as_address(base, "base")
        cdef uint64_t granule = as_count(frame_bytes, "frame_bytes")
        self.own_mapping = False
        if granule < 16 or granule & (granule - 1):
            raise ValueError(f"frame_bytes must be a power of two of at least 16, not {granule}")
        if bytes == 0 or bytes % granule or first % granule:
            raise ValueError(
                f"size {bytes:#x} and base {first:#x} must be multiples of {granule:#x}, and size not 0"
            )
        if first + bytes < first:
            raise ValueError(f"size {bytes:#x} from base {first:#x} runs past the end of the physical addresses")
        self.domain = default_domain if domain is None else domain
        self.memory = self.map_backing(backing, bytes)
        self.block = block_make(self.memory, bytes, first, count_trailing_zeros(granule))
        if self.block is NULL:
            self.unmap_backing(bytes)
            raise MemoryError(f"no memory to describe {bytes:#x} bytes of frames")

    cdef char *map_backing(self, object backing, uint64_t bytes) except NULL:
        cdef void *memory
        cdef int descriptor
        if backing is None:
            memory = map_memory(bytes)
            if memory is NULL:
                raise MemoryError(f"the system gives no {bytes:#x} bytes; ask for fewer with Frames(size)")
            self.own_mapping = True
            # Walks of large tables are twice as fast on huge pages. The first 2 MiB stay as they are: small tables
            # should not cost that much.
            if bytes > 4 * GROW_BYTES:
                advise_huge(<char *> memory + GROW_BYTES, bytes - GROW_BYTES)
            return <char *> memory
        if isinstance(backing, (str, os.PathLike)):
            descriptor = os.open(os.fspath(backing), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_size < bytes:
                    os.ftruncate(descriptor, bytes)
                memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
            finally:
                os.close(descriptor)
            if memory == MAP_FAILED:
                raise OSError(f"{backing!r} cannot be mapped for {bytes:#x} bytes")
            self.own_mapping = True
            return <char *> memory
        if hasattr(backing, "buf"):
            backing = backing.buf
        PyObject_GetBuffer(backing, &self.buffer, PyBUF_WRITABLE)
        if <uint64_t> self.buffer.len < bytes or <uintptr_t> self.buffer.buf % 64:
            length, address = self.buffer.len, <uintptr_t> self.buffer.buf
            PyBuffer_Release(&self.buffer)
            raise ValueError(
                f"the buffer must hold {bytes:#x} bytes and begin on a multiple of 64; it has {length:#x} at {address:#x}"
            )
        return <char *> self.buffer.buf

    cdef int unmap_backing(self, uint64_t bytes) except -1:
        if self.own_mapping:
            munmap(self.memory, bytes)
        elif self.memory is not NULL:
            PyBuffer_Release(&self.buffer)
        self.memory = NULL
        return 0

    def __dealloc__(self):
        cdef uint64_t bytes
        if self.block is not NULL:
            bytes = self.block.bytes
            block_give_back_memory(self.block)
            block_let_go(self.block)
            self.unmap_backing(bytes)

    def __reduce__(self):
        raise TypeError("Frames are memory of this process and cannot be pickled")

    def __repr__(self):
        return f"<ptl.Frames {self.block.base:#x}-{self.block.base + self.block.bytes:#x}>"

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, self.block.bytes, 0, flags)

    @property
    def size(self):
        """The bytes of the block."""
        return self.block.bytes

    @property
    def base(self):
        """The physical address of the first byte."""
        return self.block.base

    @property
    def frame_bytes(self):
        """The granule of allocation."""
        return <uint64_t> 1 << self.block.frame_shift

    def alloc(self, length=None, /):
        """Take `length` bytes (default: one frame) and return their physical address; they are zero.

        The length is rounded up to a power of two of frames and the address aligned to it, so a huge leaf can map it.
        Blocking for a list operation; O(length) to clear. Raises OutOfFrames, ValueError for a length of 0.
        """
        cdef uint64_t bytes = self.frame_bytes if length is None else as_address(length, "length")
        cdef uint32_t order
        cdef uint64_t frame
        if bytes == 0:
            raise ValueError("length must not be 0")
        order = self.order_of(bytes)
        frame = data_take(self.block, order)
        if frame == self.block.frames:
            raise OutOfFrames(f"no {bytes:#x} bytes of frames left in {self!r}")
        with nogil:
            memset(self.memory + (frame << self.block.frame_shift), 0, <size_t> 1 << (order + self.block.frame_shift))
        return self.block.base + (frame << self.block.frame_shift)

    def free(self, pa, length=None, /):
        """Give back what `alloc` returned, with the same length; the frames are free when every owner has done so.

        Blocking for a list operation. Raises AddressError, and changes nothing, for anything else.
        """
        cdef uint64_t frame, bytes
        cdef uint32_t order
        frame, bytes, order = self.run_asked(pa, length)
        if frame == self.block.frames or not data_give_back(self.block, frame, order):
            raise not_allocated(self, pa, bytes)

    def share(self, pa, length=None, /):
        """Make one owner more of what `alloc` returned, with the same length: each owner frees it once.

        Blocking for a list operation. Raises AddressError, and changes nothing, for anything else.

        >>> import ptl
        >>> frames = ptl.Frames(1 << 20)
        >>> pa = frames.alloc()
        >>> frames.share(pa)
        >>> frames.free(pa)
        >>> frames.owners(pa)
        1
        """
        cdef uint64_t frame, bytes
        cdef uint32_t order
        frame, bytes, order = self.run_asked(pa, length)
        if frame == self.block.frames or not data_share(self.block, frame, order):
            raise not_allocated(self, pa, bytes)

    def owners(self, pa, /):
        """How many owners what `alloc` returned as `pa` has; 0 for any other address. Blocking for a list operation."""
        cdef uint64_t offset = as_address(pa, "pa") - self.block.base
        if offset >= self.block.bytes or offset & (block_frame_bytes(self.block) - 1):
            return 0
        return data_owners(self.block, offset >> self.block.frame_shift, DATA_ORDERS)

    def split(self, pa, length, into, /):
        """Make of one run that `alloc` returned, of `length` bytes, runs of `into` bytes, each freed by itself.

        Each has as many owners as the one had. Blocking for O(length / into). Raises AddressError, and changes nothing,
        when there is no such run; ValueError when `into` is larger.
        """
        cdef uint64_t frame, bytes, piece = as_address(into, "into")
        cdef uint32_t order, smaller
        frame, bytes, order = self.run_asked(pa, length)
        if piece == 0 or piece > bytes:
            raise ValueError(f"{bytes:#x} bytes cannot be split into runs of {piece:#x}")
        smaller = self.order_of(piece)
        if frame == self.block.frames or not data_split(self.block, frame, order, smaller):
            raise not_allocated(self, pa, bytes)

    cdef (uint64_t, uint64_t, uint32_t) run_asked(self, object pa, object length):
        """The first frame, the bytes and the order of a run; the number of frames when there can be no such run."""
        cdef uint64_t offset = as_address(pa, "pa") - self.block.base
        cdef uint64_t bytes = self.frame_bytes if length is None else as_address(length, "length")
        if offset >= self.block.bytes or bytes - 1 >= self.block.bytes or offset & (block_frame_bytes(self.block) - 1):
            return self.block.frames, bytes, 0
        return offset >> self.block.frame_shift, bytes, self.order_of(bytes)

    def view(self, pa, length, /):
        """The `length` bytes at a physical address, as a writable memoryview of the block itself.

        Raises AddressError when they are not all inside.
        """
        cdef uint64_t address = as_address(pa, "pa"), bytes = as_address(length, "length")
        cdef uint64_t offset = address - self.block.base
        if offset >= self.block.bytes or bytes > self.block.bytes - offset:
            raise AddressError(f"{bytes:#x} bytes at pa {address:#x} are not inside {self!r}")
        return memoryview(self)[offset:offset + bytes]

    def stats(self):
        """Counters, as a dict: frames, tables (in use), free_tables, parked (for splits), data_frames."""
        cdef Block *block = self.block
        cdef uint64_t free_tables = 0, parked = 0
        cdef int order
        with nogil:
            mutex_acquire(&block.lock)
            for order in range(TABLE_ORDERS):
                free_tables += block.free_count[order]
                parked += block.parked[order]
            lock_release(&block.lock)
        return {
            "frames": block.frames,
            "tables": block.taken,
            "free_tables": free_tables,
            "parked": parked,
            "data_frames": block.data_frames,
        }

    cdef uint32_t order_of(self, uint64_t bytes) except? 0xffffffff:
        cdef uint32_t order = 0
        if bytes > self.block.bytes:
            raise OutOfFrames(f"{bytes:#x} bytes cannot come from the {self.block.bytes:#x} bytes of {self!r}")
        while <uint64_t> 1 << (order + self.block.frame_shift) < bytes:
            order += 1
        return order


cdef object not_allocated(Frames frames, object pa, uint64_t bytes):
    return AddressError(f"pa {to_index(pa):#x} was not allocated with {bytes:#x} bytes from {frames!r}")
