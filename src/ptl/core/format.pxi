# SPDX-License-Identifier: MIT
"""An architecture's description as the core reads it: classify, encode and decode one entry.

`ptl.arch.description` says what each field means. Everything here is pure arithmetic on one entry: no shared memory but
for `entry_load` and its kin, which know the width and the byte order of an entry, and its shadow (entry.pxi, N5).
"""

cdef enum:
    LEVELS = 5
    ATTRIBUTES = 7          # r w x u g a d, in that order; bit n of a set of attributes is letter n
    CHOICE_BITS = 5         # of an entry that one choice takes, at most
    RULES = 6               # of a shadow, at most
    RUNS = 4                # of a level, at most

cdef enum:                  # letters of an attribute that mean something here
    LETTER_WRITE = 1
    LETTER_ACCESSED = 5
    LETTER_DIRTY = 6
    USED = 1 << LETTER_ACCESSED | 1 << LETTER_DIRTY

cdef enum EntryState:
    EMPTY = 0
    TABLE = 1
    HUGE = 2                # on level 1, an ordinary leaf
    INVALID = 3             # so also a leaf that becomes part of a run, or no longer is
    SOFT = 4
    BAD = 5
    BUSY = 6

cdef enum Shape:            # how an entry lies in memory
    NATIVE_64 = 0
    NATIVE_32 = 1
    SWAPPED_64 = 2
    SWAPPED_32 = 3
    MIXED = 4               # each level its own, one of them odd (is_odd), or in a lab, under stress: the walk looks it up
    REGULAR_64 = 5          # NATIVE_64 in tables of 512, pages of 4 KiB, addresses as they are: constants for the compiler

cdef struct Choice:         # bits that say some of the attributes together
    uint32_t letters
    uint32_t count
    uint8_t shift[CHOICE_BITS]
    uint8_t granted[1 << CHOICE_BITS]   # by value, its bits gathered

cdef struct Attributes:
    uint64_t mask                       # every bit that says something, or is written along
    uint64_t used_mask                  # those that say just accessed or dirty
    bint is_used_alone                  # whether no other bit says accessed or dirty
    uint32_t letters                    # what can be withheld
    uint32_t implied
    uint32_t count
    Choice choice[ATTRIBUTES]
    uint64_t bits[1 << ATTRIBUTES]      # what to write, by set of attributes

cdef struct Rule:
    uint64_t mask
    uint64_t value
    uint64_t bits

cdef struct Shadow:
    uint64_t offset                     # in bytes; 0: there is none
    uint64_t needs
    uint64_t copies
    uint64_t always
    Rule rule[RULES]

cdef struct Run:                        # neighbours that are one larger page
    uint64_t mask
    uint64_t marks                      # what an entry of it holds under the mask
    uint64_t alone                      # what a leaf by itself holds under it, addresses aside
    uint64_t aside                      # the mask, and what of an address it does not keep
    uint64_t bytes
    uint64_t entries                    # 0: there is no such run
    bint is_base                        # whether each entry has the address of the first

cdef struct LevelFormat:
    uint64_t table_mask     # what the walk reads comes first
    uint64_t table_value
    uint64_t address_mask
    uint64_t index_mask
    uint32_t shift
    uint32_t entry_shift
    uint32_t address_shift
    uint32_t shape
    uint64_t high_mask      # of an address in two pieces
    uint32_t high_shift
    uint32_t copy_shift     # of a pair of words
    uint64_t region_mask    # of the index, what is not next to the rest in the address
    uint32_t region_shift
    uint32_t soft_shift
    uint64_t present_mask
    uint64_t present_flip
    uint64_t frozen_present
    uint64_t frozen_mask    # a leaf is frozen when all of it is set
    uint64_t frozen_value
    uint64_t frozen_absent
    const Attributes *attributes
    uint32_t number
    uint32_t has_leaf
    uint32_t leaf_shift
    uint64_t run_base       # has one of these bits when its run has the address of the first in each entry
    uint64_t run_any        # what a leaf by itself has in one way only,
    uint64_t run_alone      # this one
    bint frozen_is_hidden   # whether who refills a TLB takes no frozen leaf (run.pxi, U4)
    bint empty_is_table
    uint64_t soft_mask      # the offset of a software entry
    uint64_t soft_flip      # the bits of it that are stored inverted
    uint64_t soft_other     # its other fields
    uint64_t soft_base
    uint64_t leaf_mask
    uint64_t leaf_value
    bint leaf_has_more      # to be told by than mask and value
    uint64_t leaf_any       # when not 0, one of these bits
    uint64_t reserved_mask
    uint64_t reserved_value
    uint64_t leaf_address_mask
    uint64_t leaf_bits      # all that a leaf's address takes
    uint64_t leaf_addresses     # the bits of an address that a leaf can map
    uint64_t leaf_set
    uint64_t table_set
    uint64_t invalid_mask
    uint64_t invalid_value
    uint64_t invalid_clear
    uint64_t invalid_set
    uint64_t empty
    uint64_t empty_mask     # the bits that count, when it is not frozen
    uint64_t busy
    uint64_t entries
    uint64_t table_bytes
    Run run[RUNS]
    Shadow shadow

cdef struct Format:
    LevelFormat level[LEVELS + 1]   # from 1
    Attributes attributes[LEVELS]   # each different; levels share them
    uint32_t levels
    uint32_t shape                  # of all levels, or MIXED
    uint32_t va_bits
    uint32_t sign_extended
    uint32_t region_bits            # of the va_bits, at the top of the 64
    uint64_t canonical_add
    uint64_t canonical_mask


cdef uint64_t load_in_halves(const uint32_t *slot) noexcept nogil:
    """What a 32-bit machine sees of an entry of two words, when the words change between its two loads."""
    cdef uint64_t low = load_acquire_32(slot)
    sleep_ns(20_000)
    return low | <uint64_t> load_acquire_32(slot + 1) << 32


# -- one entry in memory ----------------------------------------------------------------------------------------------

cdef inline uint64_t load_shaped(char *slot, uint32_t shape) noexcept nogil:
    # Acquire, partner: whoever published the table or the leaf that the entry names.
    if is_faulty(ENTRY_READ_IN_HALVES) and shape == NATIVE_64:
        return load_in_halves(<uint32_t *> slot)
    if shape == NATIVE_64:
        return load_acquire_64(<uint64_t *> slot)
    if shape == NATIVE_32:
        return load_acquire_32(<uint32_t *> slot)
    if shape == SWAPPED_64:
        return swap_64(load_acquire_64(<uint64_t *> slot))
    return swap_32(load_acquire_32(<uint32_t *> slot))


cdef inline uint64_t load_unhooked(char *slot, uint32_t shape) noexcept nogil:
    """As load_shaped, for a walk whose tree is in no lab and under no stress."""
    if is_faulty(ENTRY_READ_IN_HALVES) and shape == NATIVE_64:
        return load_in_halves(<uint32_t *> slot)
    if shape == NATIVE_64:
        return load_acquire_unhooked_64(<uint64_t *> slot)
    if shape == NATIVE_32:
        return load_acquire_unhooked_32(<uint32_t *> slot)
    if shape == SWAPPED_64:
        return swap_64(load_acquire_unhooked_64(<uint64_t *> slot))
    return swap_32(load_acquire_unhooked_32(<uint32_t *> slot))


cdef inline uint64_t entry_load(char *slot, const LevelFormat *level) noexcept nogil:
    return load_shaped(slot, level.shape)


cdef inline void store_private_shaped(char *slot, uint64_t raw, uint32_t shape) noexcept nogil:
    if shape == NATIVE_64:
        (<uint64_t *> slot)[0] = raw
    elif shape == NATIVE_32:
        (<uint32_t *> slot)[0] = <uint32_t> raw
    elif shape == SWAPPED_64:
        (<uint64_t *> slot)[0] = swap_64(raw)
    else:
        (<uint32_t *> slot)[0] = swap_32(<uint32_t> raw)


cdef inline void entry_store_private(char *slot, uint64_t raw, const LevelFormat *level) noexcept nogil:
    """For a table that no one else can reach yet."""
    store_private_shaped(slot, raw, level.shape)
    if level.shadow.offset:
        store_private_shaped(slot + level.shadow.offset, shadow_of(level, raw), level.shape)


cdef inline uint64_t exchange_shaped(char *slot, uint64_t raw, uint32_t shape) noexcept nogil:
    # Acquire and release, partner: entry_load of every walk. What the entry names is complete before it is seen.
    if shape == NATIVE_64:
        return exchange_64(<uint64_t *> slot, raw)
    if shape == NATIVE_32:
        return exchange_32(<uint32_t *> slot, <uint32_t> raw)
    if shape == SWAPPED_64:
        return swap_64(exchange_64(<uint64_t *> slot, swap_64(raw)))
    return swap_32(exchange_32(<uint32_t *> slot, swap_32(<uint32_t> raw)))


cdef inline uint64_t entry_exchange(char *slot, uint64_t raw, const LevelFormat *level) noexcept nogil:
    """Store an entry and its shadow, which the caller has to itself (entry.pxi, N5), and return the old entry."""
    if level.shadow.offset:
        shadow_store(slot, raw, level)
    return exchange_shaped(slot, raw, level.shape)


cdef inline bint entry_compare_exchange(
    char *slot, uint64_t *expected, uint64_t desired, const LevelFormat *level
) noexcept nogil:
    """As the C11 operation, on either width and byte order; same order and partner as entry_exchange."""
    cdef uint64_t found_64
    cdef uint32_t found_32
    cdef bint done
    if level.shape == NATIVE_64:
        return compare_exchange_64(<uint64_t *> slot, expected, desired)
    if level.shape == NATIVE_32:
        found_32 = <uint32_t> expected[0]
        done = compare_exchange_32(<uint32_t *> slot, &found_32, <uint32_t> desired)
        expected[0] = found_32
    elif level.shape == SWAPPED_64:
        found_64 = swap_64(expected[0])
        done = compare_exchange_64(<uint64_t *> slot, &found_64, swap_64(desired))
        expected[0] = swap_64(found_64)
    else:
        found_32 = swap_32(<uint32_t> expected[0])
        done = compare_exchange_32(<uint32_t *> slot, &found_32, swap_32(<uint32_t> desired))
        expected[0] = swap_32(found_32)
    return done


cdef inline void entry_store(char *slot, uint64_t raw, const LevelFormat *level) noexcept nogil:
    """Store an entry without a shadow that the caller has to itself (entry.pxi, N7)."""
    # Release, partner: as of exchange_shaped.
    if level.shape == NATIVE_64:
        store_release_64(<uint64_t *> slot, raw)
    elif level.shape == NATIVE_32:
        store_release_32(<uint32_t *> slot, <uint32_t> raw)
    elif level.shape == SWAPPED_64:
        store_release_64(<uint64_t *> slot, swap_64(raw))
    else:
        store_release_32(<uint32_t *> slot, swap_32(<uint32_t> raw))


cdef inline bint has_pairs(const LevelFormat *level) noexcept nogil:
    """Whether two neighbours can be changed by one operation."""
    return level.shape == NATIVE_64 and exchanges_pairs()


cdef inline bint begins_pair(const char *slot) noexcept nogil:
    return <uint64_t> slot & 15 == 0


cdef inline bint pair_compare_exchange(
    char *slot, uint64_t first, uint64_t second, uint64_t new_first, uint64_t new_second
) noexcept nogil:
    """entry_compare_exchange of two neighbours, both or neither."""
    return compare_exchange_pair_unhooked_64(<uint64_t *> slot, first, second, new_first, new_second)


# -- shadows ----------------------------------------------------------------------------------------------------------

cdef uint64_t shadow_of(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """What hardware is to see of an entry."""
    cdef const Shadow *shadow = &level.shadow
    cdef uint64_t word = shadow.always | raw & shadow.copies
    cdef int i
    if raw & shadow.needs != shadow.needs:
        return 0
    for i in range(RULES):
        if raw & shadow.rule[i].mask == shadow.rule[i].value:
            word |= shadow.rule[i].bits
    return word


cdef void shadow_store(char *slot, uint64_t raw, const LevelFormat *level) noexcept nogil:
    # Release, partner: the walk of the hardware. What the entry names is complete before hardware sees it.
    exchange_shaped(slot + level.shadow.offset, shadow_of(level, raw), level.shape)


# -- one entry's meaning ----------------------------------------------------------------------------------------------
# An address lies `shift` bits lower in an entry than in itself, or higher by 64 less that: a rotation does for both.

cdef inline uint64_t rotate_left(uint64_t bits, uint32_t by) noexcept nogil:
    return bits << by | bits >> (-by & 63)


cdef inline uint64_t rotate_right(uint64_t bits, uint32_t by) noexcept nogil:
    return bits >> by | bits << (-by & 63)


cdef inline uint64_t entry_address(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return rotate_left(raw & level.address_mask, level.address_shift) | (raw & level.high_mask) << level.high_shift


cdef inline uint64_t leaf_address(const LevelFormat *level, uint64_t raw, uint64_t va) noexcept nogil:
    """What the leaf in the entry of va maps; va matters only within a run."""
    cdef uint64_t pa = rotate_left(raw & level.leaf_address_mask, level.leaf_shift) | (
        (raw & level.high_mask) << level.high_shift
    )
    return address_in_run(level, raw, pa, va) if raw & level.run_base else pa


cdef uint64_t address_in_run(const LevelFormat *level, uint64_t raw, uint64_t pa, uint64_t va) noexcept nogil:
    """What an entry maps that may have the address of the first one of its run, with marks in the bits that would be 0."""
    cdef const Run *run = run_of(level, raw)
    if run is NULL or not run.is_base:
        return pa
    return pa & ~(run.bytes - 1) | va & (run.bytes - 1) & ~(span(level) - 1)


cdef inline uint64_t table_bits(const LevelFormat *level, uint64_t pa) noexcept nogil:
    """The bits of an entry that holds the address of a table."""
    cdef uint64_t raw = rotate_right(pa, level.address_shift) & level.address_mask
    raw |= pa >> level.high_shift & level.high_mask
    return raw | raw << level.copy_shift


cdef inline uint64_t leaf_bits(const LevelFormat *level, uint64_t pa) noexcept nogil:
    """The bits of an entry that holds the address of a leaf."""
    cdef uint64_t raw = rotate_right(pa, level.leaf_shift) & level.leaf_address_mask
    raw |= pa >> level.high_shift & level.high_mask
    return raw | raw << level.copy_shift


cdef inline uint64_t leaf_step(const LevelFormat *level) noexcept nogil:
    """How much the entries of neighbouring leaves differ by, where an address lies in one piece."""
    return leaf_bits(level, span(level))


cdef inline uint64_t leaf_after(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """The same leaf over the frames that follow; it is part of no run whose entries share an address."""
    if level.high_mask == 0:
        return raw + leaf_step(level)
    # In two pieces: a sum would carry out of the lower one into what lies above it.
    return raw & ~level.leaf_bits | leaf_bits(level, leaf_address(level, raw, 0) + span(level))


cdef inline uint64_t slot_index(const LevelFormat *level, uint64_t va) noexcept nogil:
    """Which entry of a table of that level is on the way to an address."""
    return va >> level.shift & level.index_mask | va >> level.region_shift & level.region_mask


cdef inline uint64_t span(const LevelFormat *level) noexcept nogil:
    return <uint64_t> 1 << level.shift


cdef inline bint is_leaf(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return raw & level.leaf_mask == level.leaf_value and (not level.leaf_has_more or grants(level, raw))


cdef inline bint is_lone_leaf(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Whether an entry is a leaf that is part of no run: is_leaf, in loops that must not call anything."""
    return (
        raw & level.leaf_mask == level.leaf_value and not may_be_run(level, raw)
        and (level.leaf_any == 0 or raw & level.leaf_any != 0) and raw & level.reserved_mask != level.reserved_value
    )


cdef inline uint64_t lone_bits(const LevelFormat *level) noexcept nogil:
    """All bits that tell a leaf by itself from everything else: who has them as one such leaf has is another."""
    return level.leaf_mask | level.run_any | level.leaf_any | level.reserved_mask


cdef inline bint is_invalid(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return raw & level.invalid_mask == level.invalid_value and (not level.leaf_has_more or grants(level, raw))


cdef inline bint grants(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Where permissions or marks tell a leaf, or some are reserved: whether these are a leaf's."""
    return (level.leaf_any == 0 or raw & level.leaf_any != 0) and raw & level.reserved_mask != level.reserved_value and (
        not may_be_run(level, raw) or run_of(level, raw) is not NULL
    )


cdef inline bint may_be_run(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Whether an entry, if it is a leaf, is none by itself."""
    return (raw ^ level.run_alone) & level.run_any != 0


cdef inline bint in_run(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Whether an entry is a leaf that is part of a run."""
    return may_be_run(level, raw) and is_leaf(level, raw)


cdef const Run *run_of(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """The run that a leaf is part of, or NULL."""
    cdef int i
    if may_be_run(level, raw):
        for i in range(RUNS):
            if level.run[i].entries and raw & level.run[i].mask == level.run[i].marks:
                return &level.run[i]
    return NULL


cdef inline uint64_t bytes_of(const LevelFormat *level, const Run *run) noexcept nogil:
    """What a leaf of that level maps, or a run of them."""
    return span(level) if run is NULL else run.bytes


cdef uint32_t level_of_size(const Format *format, uint64_t size, const Run **run) noexcept nogil:
    """The level of leaves that map so many bytes, or 0; and the run that they are there, or NULL."""
    cdef const LevelFormat *level
    cdef uint32_t number
    cdef int i
    run[0] = NULL
    for number in range(1, format.levels + 1):
        level = &format.level[number]
        if level.has_leaf and span(level) == size:
            return number
        for i in range(RUNS):
            if level.run[i].entries and level.run[i].bytes == size:
                run[0] = &level.run[i]
                return number
    return 0


cdef inline uint64_t run_marked(const Run *run, uint64_t raw) noexcept nogil:
    """A leaf as part of a run; as it is where the run is NULL."""
    return raw if run is NULL else raw & ~run.aside | run.marks


cdef inline uint64_t run_unmarked(const LevelFormat *level, uint64_t raw, uint64_t va) noexcept nogil:
    """The leaf in the entry of va, which is part of a run, by itself."""
    cdef const Run *run = run_of(level, raw)
    return raw & ~run.aside & ~level.leaf_bits | run.alone | leaf_bits(level, leaf_address(level, raw, va))


cdef inline bint is_present(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return (raw ^ level.present_flip) & level.present_mask != 0


cdef inline uint64_t frozen_bit(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """The bit that freezes an entry of this value, or would."""
    return level.frozen_present if is_present(level, raw) else level.frozen_absent


cdef inline bint is_frozen(const LevelFormat *level, uint64_t raw) noexcept nogil:
    if is_present(level, raw):
        return raw & level.frozen_mask == level.frozen_value and raw & level.table_mask != level.table_value
    return raw & level.frozen_absent != 0 and raw & level.table_mask != level.table_value


cdef inline uint64_t thawed(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """The entry, not frozen."""
    return raw & ~frozen_bit(level, raw) if is_frozen(level, raw) else raw


cdef inline bint is_empty(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Whether nothing is there, frozen or not."""
    return raw & level.empty_mask == level.empty


cdef int classify(const Format *format, uint32_t number, uint64_t raw) noexcept nogil:
    """The EntryState of an entry of that level. The one classifier: the walk, the fallible map, the dump all use it."""
    cdef const LevelFormat *level = &format.level[number]
    if is_empty(level, raw):
        return EMPTY
    if raw & level.table_mask == level.table_value:
        return TABLE
    if is_leaf(level, raw):
        return HUGE
    if raw == level.busy and level.busy:
        return BUSY
    if is_invalid(level, raw):
        return INVALID
    return BAD if is_present(level, raw) else SOFT


cdef inline uint64_t attribute_bits(const LevelFormat *level, uint32_t attributes) noexcept nogil:
    """What a leaf with these attributes holds besides address and kind."""
    return level.attributes.bits[attributes]


cdef inline uint32_t attributes_of(const LevelFormat *level, uint64_t raw) noexcept nogil:
    cdef uint32_t attributes = level.attributes.implied, i, bit, value
    cdef const Choice *choice
    for i in range(level.attributes.count):
        choice = &level.attributes.choice[i]
        value = raw >> choice.shift[0] & 1
        for bit in range(1, choice.count):
            value |= (raw >> choice.shift[bit] & 1) << bit
        attributes |= choice.granted[value]
    return attributes


cdef inline uint64_t attributes_set(const LevelFormat *level, uint64_t raw, uint32_t attributes) noexcept nogil:
    """The leaf with these attributes and no other."""
    return raw & ~level.attributes.mask | level.attributes.bits[attributes]


cdef inline uint64_t attributes_replaced(const LevelFormat *level, uint64_t raw, uint32_t attributes) noexcept nogil:
    """The leaf with these attributes; accessed and dirty, once set, stay."""
    cdef const Attributes *own = level.attributes
    if own.is_used_alone and not attributes & USED:
        return raw & (own.used_mask | ~own.mask) | own.bits[attributes] & ~own.used_mask
    return attributes_set(level, raw, attributes | attributes_of(level, raw) & USED)


cdef inline uint64_t attribute_cleared(const LevelFormat *level, uint64_t raw, int letter) noexcept nogil:
    return attributes_set(level, raw, attributes_of(level, raw) & ~(<uint32_t> 1 << letter))


cdef inline uint64_t leaf_make(const LevelFormat *level, uint64_t pa, uint64_t bits) noexcept nogil:
    return level.leaf_set | leaf_bits(level, pa) | bits


cdef inline uint64_t table_make(const LevelFormat *level, uint64_t pa) noexcept nogil:
    return level.table_set | table_bits(level, pa)


cdef inline uint64_t bits_on(const LevelFormat *level, const LevelFormat *other, uint64_t raw) noexcept nogil:
    """A leaf's bits as a leaf of another level has them, without address and kind.

    Levels with the same attributes share what else the leaf has, such as how to cache it.
    """
    if level.attributes is other.attributes:
        return raw & (~(level.leaf_bits | level.leaf_set | level.run_any) | level.attributes.mask)
    return attribute_bits(other, attributes_of(level, raw))


cdef inline bint has_same_soft(const LevelFormat *level, const LevelFormat *other) noexcept nogil:
    return (
        level.soft_mask == other.soft_mask and level.soft_flip == other.soft_flip
        and level.soft_other == other.soft_other and level.soft_base == other.soft_base
    )


cdef inline uint64_t soft_part(
    const LevelFormat *level, const LevelFormat *below, uint64_t raw, uint64_t count
) noexcept nogil:
    """A level's software entry as the level below has it, with an offset larger by that much."""
    cdef uint64_t offset = ((raw ^ level.soft_flip) & level.soft_mask) >> level.soft_shift
    if has_same_soft(level, below):                 # what else it has stays
        raw &= ~level.soft_mask
    else:
        raw = below.soft_base | expand_bits(below.soft_other, compress_bits(level.soft_other, raw))
    return raw | (offset + count << below.soft_shift & below.soft_mask) ^ below.soft_flip


cdef uint64_t compress_bits(uint64_t mask, uint64_t raw) noexcept nogil:
    """The bits under a mask, next to one another."""
    cdef uint64_t bits = 0, lowest
    cdef int i = 0
    while mask:
        lowest = mask & -mask
        bits |= <uint64_t> (raw & lowest != 0) << i
        mask ^= lowest
        i += 1
    return bits


cdef uint64_t expand_bits(uint64_t mask, uint64_t bits) noexcept nogil:
    """The inverse of compress_bits."""
    cdef uint64_t raw = 0, lowest
    while mask:
        lowest = mask & -mask
        if bits & 1:
            raw |= lowest
        mask ^= lowest
        bits >>= 1
    return raw


cdef inline bint soft_run_fits(const Format *format, uint32_t number, uint64_t raw) noexcept nogil:
    """Whether a software entry can be split: its pages' offsets follow its own, and stay below the last.

    The first or the last one of type 0 may be what an empty entry looks like.
    """
    cdef const LevelFormat *level = &format.level[number]
    cdef const LevelFormat *page = &format.level[1]
    cdef uint64_t pages = span(level) >> format.level[1].shift
    cdef uint64_t offset = ((raw ^ level.soft_flip) & level.soft_mask) >> level.soft_shift
    return pages == 1 or (
        offset + pages <= level.soft_mask >> level.soft_shift and not is_empty(page, soft_part(level, page, raw, 0))
    )


# -- addresses --------------------------------------------------------------------------------------------------------

cdef inline bint is_canonical(const Format *format, uint64_t va) noexcept nogil:
    """Whether `canonical_va` leaves it as it is; with the half of a signed range added, the bits to check are all 0."""
    return va + format.canonical_add & format.canonical_mask == 0


cdef inline uint64_t canonical_va(const Format *format, uint64_t va) noexcept nogil:
    """The address that an architecture can have with the same bits where its indices come from."""
    cdef uint32_t unused = 64 - format.va_bits
    if format.sign_extended:
        return <uint64_t> (<int64_t> (va << unused) >> unused)
    if format.region_bits == 0:
        return va << unused >> unused
    return va << (unused + format.region_bits) >> (unused + format.region_bits) | (
        va >> (64 - format.region_bits) << (64 - format.region_bits)
    )


cdef inline uint64_t canonical_after(const Format *format, uint64_t va) noexcept nogil:
    """The first canonical address after one that is not, or 0 when there is none."""
    if format.sign_extended:
        return -format.canonical_add
    if format.region_bits == 0:
        return 0
    return (va >> (64 - format.region_bits)) + 1 << (64 - format.region_bits)


cdef inline uint64_t va_of_index(const Format *format, uint32_t level, uint64_t va, uint64_t index) noexcept nogil:
    """The first address under an entry of the table of that level whose first address is va."""
    cdef const LevelFormat *own = &format.level[level]
    return canonical_va(
        format, va + ((index & own.index_mask) << own.shift) | (index & own.region_mask) << own.region_shift
    )


cdef inline bint is_run(const Format *format, uint64_t va, uint64_t length) noexcept nogil:
    """Whether a range that is not empty stays in the half, or the region, of the canonical addresses that it begins in."""
    cdef uint64_t last = va + (length - 1)
    cdef uint32_t apart = max(format.region_bits, <uint32_t> 1)
    return last >= va and is_canonical(format, va) and is_canonical(format, last) and (va ^ last) >> (64 - apart) == 0


# -- reading the description ------------------------------------------------------------------------------------------

cdef int format_read(Format *format, object arch) except -1:
    """Fill `format` from an `Arch`."""
    cdef LevelFormat *level
    cdef int number
    cdef uint32_t kinds = 0
    memset(format, 0, sizeof(Format))
    if arch.levels > LEVELS or arch.byte_order not in ("little", "big") or any(
        level.word.bytes not in (4, 8) for level in arch.layout
    ):
        raise FormatError(f"{arch.name}: at most {LEVELS} levels of entries of 4 or 8 bytes, little or big endian")
    format.levels = arch.levels
    format.va_bits = arch.va_bits
    format.sign_extended = arch.sign_extended
    format.region_bits = arch.region_bits
    if format.sign_extended:
        format.canonical_add = <uint64_t> 1 << (format.va_bits - 1)
    format.canonical_mask = ((1 << 64 - arch.region_bits) - 1) & ~((1 << arch.va_bits - arch.region_bits) - 1)
    known = []
    for number in range(1, format.levels + 1):
        level = &format.level[number]
        description = arch.level(number)
        word = description.word
        if word.attributes not in known:
            attributes_read(&format.attributes[kinds], word, arch.implied)
            known.append(word.attributes)
            kinds += 1
        level_read(level, description, arch.byte_order == sys.byteorder, arch.walker == "software")
        level.number = number
        level.attributes = &format.attributes[<uint32_t> known.index(word.attributes)]
        if number > 1 and level.has_leaf and (has_gap(format.level[1].soft_mask) or has_gap(level.soft_mask)):
            raise FormatError(f"{arch.name}: software's offset must be in one piece where huge leaves are split")
    if format.region_bits:
        level = &format.level[format.levels]
        level.index_mask >>= format.region_bits
        level.region_mask = (level.entries - 1) & ~level.index_mask
        level.region_shift = 64 - format.region_bits - (level.entries.bit_length() - 1 - format.region_bits)
    format.shape = format.level[1].shape
    for number in range(1, format.levels + 1):
        if format.level[number].shape != format.shape or is_odd(&format.level[number]):
            format.shape = MIXED
    if format.shape == NATIVE_64 and is_regular(format):
        format.shape = REGULAR_64
    return 0


cdef inline bint has_gap(uint64_t mask) noexcept nogil:
    """Whether the bits do not follow one another."""
    return mask & mask + (mask & -mask) != 0


cdef bint is_regular(const Format *format) noexcept nogil:
    """Whether every level is as REGULAR_64 says."""
    cdef const LevelFormat *level
    cdef uint32_t number
    for number in range(1, format.levels + 1):
        level = &format.level[number]
        if level.shift != 3 + 9 * number or level.entries != 512:
            return False
        if level.address_shift or level.leaf_shift or level.run_base:
            return False
    return True


cdef bint is_odd(const LevelFormat *level) noexcept nogil:
    """Whether a walk has to look for more than one kind of index, of address, and of entries that name no table."""
    return (
        level.high_mask or level.region_mask or level.address_shift >= 32
        or level.empty & level.table_mask == level.table_value
    )


cdef int level_read(LevelFormat *level, object description, bint is_native, bint is_refilled) except -1:
    word = description.word
    leaf_field = description.leaf_address
    if word.bytes == 8:
        level.shape = NATIVE_64 if is_native else SWAPPED_64
    else:
        level.shape = NATIVE_32 if is_native else SWAPPED_32
    level.shift = description.shift
    level.index_mask = description.entries - 1
    level.region_shift = 63
    level.entries = description.entries
    level.entry_shift = 3 if word.bytes == 8 else 2
    level.table_bytes = description.table_bytes
    level.address_mask = description.address.mask
    level.address_shift = description.address.left_shift & 63
    level.high_mask = description.address.high_mask
    level.high_shift = description.address.high_left_shift
    level.copy_shift = description.address.copy_shift
    level.leaf_address_mask = leaf_field.mask
    level.leaf_shift = leaf_field.left_shift & 63
    level.leaf_bits = leaf_field.bits
    level.leaf_addresses = leaf_address(level, leaf_bits(level, ~<uint64_t> 0), 0)
    level.table_set = description.table_set
    level.leaf_any = description.leaf_any
    level.leaf_has_more = description.leaf_any != 0 or description.leaf_never is not None
    level.leaf_set = description.leaf_set
    level.empty = description.empty
    level.empty_is_table = description.empty_is_table
    level.busy = description.busy
    level.invalid_clear = description.invalid_clear
    level.invalid_set = description.invalid_set
    level.has_leaf = description.leaf is not None
    level.present_mask = word.present_mask
    level.present_flip = word.present_flip
    level.frozen_value = 1              # and a mask of 0: never
    if description.freezes:
        level.frozen_present = word.frozen_present
        level.frozen_mask = level.frozen_value = word.frozen_mask or word.frozen_present
        level.frozen_absent = word.frozen_absent
    level.empty_mask = ~<uint64_t> (level.frozen_absent | description.empty_ignores)
    level.soft_mask = word.soft.offset_mask
    level.soft_flip = word.soft.flip
    level.soft_shift = count_trailing_zeros(level.soft_mask)
    level.soft_other = word.soft.type_mask | word.soft.exclusive
    level.soft_base = word.soft.base
    # A pattern that is not there matches nothing: no entry and 0 is 1.
    level.table_mask, level.table_value = pattern_of(description.table)
    level.leaf_mask, level.leaf_value = pattern_of(description.leaf)
    level.invalid_mask, level.invalid_value = pattern_of(description.invalid)
    level.reserved_mask, level.reserved_value = pattern_of(description.leaf_never)
    runs_read(level, description, is_refilled)
    return shadow_read(&level.shadow, description.shadow)


cdef int runs_read(LevelFormat *level, object description, bint is_refilled) except -1:
    cdef Run *run
    cdef int i
    if len(description.runs) > RUNS:
        raise FormatError(f"a level has at most {RUNS} kinds of runs")
    level.frozen_is_hidden = is_refilled and len(description.runs) > 0
    if description.runs and description.invalid is None and not is_refilled:
        raise FormatError("a level with runs that hardware walks needs what an invalid leaf looks like")
    for i, described in enumerate(description.runs):
        if described.entries > description.entries or described.entries.bit_count() != 1:
            raise FormatError(f"a run of {described.entries} entries needs a table of at least as many, a power of two")
        run = &level.run[i]
        run.mask, run.marks = described.marks.mask, described.marks.value
        run.entries = described.entries
        run.bytes = description.run_bytes(described)
        run.is_base = described.is_base
        run.alone = run.mask & level.leaf_set & ~level.leaf_bits
        run.aside = run.mask | (description.leaf_address.bits & ~description.address_in_run(described).bits)
        level.run_any |= run.mask & ~level.leaf_bits
        if run.is_base:
            level.run_base |= run.mask & ~level.leaf_bits
        # Of one bit both values mean something: there is nothing else to look at.
        level.leaf_has_more |= len(description.runs) > 1 or described.marks.mask.bit_count() > 1
    level.run_alone = level.run_any & level.leaf_set
    return 0


cdef int shadow_read(Shadow *shadow, object description) except -1:
    cdef int i
    if description is None:
        return 0
    if len(description.rules) > RULES:
        raise FormatError(f"a shadow has at most {RULES} rules")
    shadow.offset = description.offset
    shadow.needs = description.needs
    shadow.copies = description.copies
    shadow.always = description.always
    for i in range(RULES):
        shadow.rule[i].value = 1        # and a mask of 0: never
    for i, (pattern, bits) in enumerate(description.rules):
        shadow.rule[i].mask, shadow.rule[i].value = pattern.mask, pattern.value
        shadow.rule[i].bits = bits
    return 0


cdef int attributes_read(Attributes *attributes, object word, str implied) except -1:
    """The choices of a word; and for every set of attributes the bits that say it, or as little more as they can."""
    cdef Choice *choice
    cdef uint32_t asked, bit
    cdef uint64_t left
    if len(word.attributes) > ATTRIBUTES or any(c.mask.bit_count() > CHOICE_BITS or not c.mask for c in word.attributes):
        raise FormatError(f"a word has at most {ATTRIBUTES} choices, each of 1 to {CHOICE_BITS} bits")
    attributes.implied = letters_of(implied)
    attributes.is_used_alone = True
    for described in word.attributes:
        choice = &attributes.choice[attributes.count]
        attributes.count += 1
        choice.letters = letters_of(described.letters)
        left = described.mask
        while left:
            choice.shift[choice.count] = count_trailing_zeros(left)
            choice.count += 1
            left &= left - 1
        for value, granted in reversed(described.values):
            choice.granted[compress_bits(described.mask, value)] = letters_of(granted)
        attributes.mask |= described.bits
        attributes.letters |= choice.letters
        if choice.letters & ~<uint32_t> USED == 0:
            attributes.used_mask |= described.bits
        elif choice.letters & USED:
            attributes.is_used_alone = False
        written = {}
        for asked in range(1 << ATTRIBUTES):
            bit = asked & choice.letters
            if bit not in written:
                written[bit] = described.put([letter for i, letter in enumerate(FLAGS) if bit >> <uint32_t> i & 1])[0]
            attributes.bits[asked] |= <uint64_t> written[bit]
    return 0


cdef uint32_t letters_of(str flags) except? 0xffffffff:
    """A set of attributes, from their letters."""
    return sum(1 << i for i, letter in enumerate(FLAGS) if letter in flags)


cdef tuple pattern_of(object pattern):
    return (0, 1) if pattern is None else (pattern.mask, pattern.value)
