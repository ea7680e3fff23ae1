# SPDX-License-Identifier: MIT
"""A table and all of its shared state, small enough to be put back thousands of times a second.

    Block | Tables (descriptors) | memory (entries) | Tree's counters | Domain | Records | Caches   a copy of all: the image

G1  The image holds every byte that a step can change, so putting it back undoes any number of steps. What belongs to the
    process (the list of blocks) is left alone.
G2  Nobody else touches the table, its frames or its domain while a lab has them.
G3  Checks of a world run between steps, in the lab's own context, where every access is made at once.
"""

cdef enum:
    LAB_THREADS = 4
    LAB_CPUS = 4

cdef struct World:
    Tree *tree
    Tree *twin                          # another in the same block, which may share its tables; or NULL
    Block *block
    Domain *domain
    Record *records[LAB_THREADS]        # of the model threads
    uint32_t threads
    Attachment *cpus[LAB_CPUS]          # by their Tlbs: those attached, then those that an operation may attach
    uint32_t cpu_count
    char *image
    uint64_t image_bytes
    uint32_t shape                      # of the tree outside the lab
    uint64_t barrier                    # of the domain outside the lab


cdef uint64_t world_copy(World *world, bint back, char *image) noexcept nogil:
    """Copy everything into an image, or back; returns the bytes (and copies nothing when there is no image)."""
    cdef Block *block = world.block
    cdef Block *next_block = block.next
    cdef uint64_t used = 0
    cdef Record *record = <Record *> world.domain.records
    cdef Cache *cache
    cdef uint32_t i
    used += world_part(back, image, used, block, sizeof(Block))
    block.next = next_block             # other threads make and drop other blocks
    used += world_part(back, image, used, block.tables, block.frames * sizeof(Table))
    used += world_part(back, image, used, world.tree.memory, block.bytes)
    used += world_tree(back, image, used, world.tree)
    if world.twin is not NULL:
        used += world_tree(back, image, used, world.twin)
    used += world_part(back, image, used, world.domain, sizeof(Domain))
    while record is not NULL:
        used += world_part(back, image, used, record, <char *> &record.padding - <char *> record)
        record = record.next
    for i in range(world.cpu_count):
        cache = world.cpus[i].cache
        used += world_part(back, image, used, cache, sizeof(Cache))
        used += world_part(back, image, used, cache.places, cache.sets * cache.ways * sizeof(Translation))
    return used


cdef inline uint64_t world_part(bint back, char *image, uint64_t used, void *part, uint64_t length) noexcept nogil:
    if image is not NULL:
        if back:
            memcpy(part, image + used, length)
        else:
            memcpy(image + used, part, length)
    return length


cdef inline uint64_t world_tree(bint back, char *image, uint64_t used, Tree *tree) noexcept nogil:
    """What of a tree a step can change."""
    return world_part(back, image, used, &tree.generation, <char *> (tree + 1) - <char *> &tree.generation)


cdef inline uint64_t mixed(uint64_t hash, uint64_t value) noexcept nogil:
    hash = (hash ^ value) * <uint64_t> 0x9e3779b97f4a7c15
    return hash ^ hash >> 29


cdef uint64_t world_hash(World *world) noexcept nogil:
    """Of everything at rest but the order of free lists, counters for people, and epochs."""
    cdef Block *block = world.block
    cdef uint64_t hash = 1, i
    cdef Table *table
    for i in range(block.bytes >> 3):
        hash = mixed(hash, (<uint64_t *> world.tree.memory)[i])
    for i in range(block.table_top):
        table = &block.tables[i]
        hash = mixed(hash, <uint64_t> table.lock << 32 | table.use << 8 | table.level)
        hash = mixed(hash, <uint64_t> table.pins << 32 | (table.refs if table.use == TABLE_LIVE else 0))
    hash = mixed(hash, block.taken)
    hash = mixed(hash, world.tree.tables)
    if world.twin is not NULL:
        hash = mixed(hash, world.twin.tables)
    for i in range(LEVELS):
        hash = mixed(hash, block.parked[i])
    for i in range(world.threads):
        hash = mixed(hash, world.records[i].section & DEPTH_MASK)
    return hash


cdef uint64_t mapping_hash(Tree *tree, uint64_t offset, uint32_t level) noexcept nogil:
    """Of what the table says, wherever its tables lie."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t hash = level, raw, i
    cdef int state
    for i in range(format.entries):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        state = classify_in_block(tree, level, raw)
        if state == TABLE:
            hash = mixed(hash, mapping_hash(tree, child_offset(tree, level, raw), level - 1))
        else:
            hash = mixed(hash, raw)
    return hash


cdef inline bint is_in(Tree *tree, uint64_t sought) noexcept nogil:
    """Whether a tree, which may be NULL, has the table at that offset."""
    return tree is not NULL and is_named(tree, tree.root, tree.format.levels, sought)


cdef bint is_named(Tree *tree, uint64_t offset, uint32_t level, uint64_t sought) noexcept nogil:
    """Whether the tree below a table, itself included, has the table at that offset."""
    cdef const LevelFormat *format = &tree.format.level[level]
    cdef uint64_t raw, i
    if offset == sought:
        return True
    if level == 1:
        return False
    for i in range(format.entries):
        raw = entry_load(tree.memory + offset + (i << format.entry_shift), format)
        if classify_in_block(tree, level, raw) == TABLE and is_named(
            tree, child_offset(tree, level, raw), level - 1, sought
        ):
            return True
    return False
