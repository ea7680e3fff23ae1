# SPDX-License-Identifier: MIT
"""An architecture's description as the core reads it: classify, encode and decode one entry.

`ptl.arch.description` says what each field means. Everything here is pure arithmetic on one entry: no shared memory but
for `entry_load` and its kin, which know the width and the byte order of an entry.
"""

cdef enum:
    LEVELS = 5
    ATTRIBUTES = 7          # r w x u g a d, in that order; bit n of a set of attributes is letter n

cdef enum:                  # letters of an attribute that mean something here
    LETTER_WRITE = 1
    LETTER_ACCESSED = 5
    LETTER_DIRTY = 6

cdef enum EntryState:
    EMPTY = 0
    TABLE = 1
    HUGE = 2                # on level 1, an ordinary leaf
    INVALID = 3
    SOFT = 4
    BAD = 5
    BUSY = 6

cdef enum Shape:            # how an entry lies in memory
    NATIVE_64 = 0
    NATIVE_32 = 1
    SWAPPED_64 = 2
    SWAPPED_32 = 3

cdef struct LevelFormat:
    uint64_t table_mask     # what the walk reads comes first
    uint64_t table_value
    uint64_t address_mask
    uint64_t index_mask
    uint32_t shift
    uint32_t entry_shift
    uint32_t address_shift
    uint32_t has_leaf
    uint64_t leaf_mask
    uint64_t leaf_value
    uint64_t leaf_any       # when 0, there is no reserved encoding either
    uint64_t reserved_mask
    uint64_t reserved_value
    uint64_t leaf_address_mask
    uint64_t leaf_set
    uint64_t table_set
    uint64_t invalid_mask
    uint64_t invalid_value
    uint64_t invalid_clear
    uint64_t invalid_set
    uint64_t empty
    uint64_t busy
    uint64_t entries
    uint64_t table_bytes

cdef struct Format:
    LevelFormat level[LEVELS + 1]   # from 1
    uint32_t levels
    uint32_t shape
    uint32_t va_bits
    uint32_t sign_extended
    uint64_t present_mask
    uint64_t present_flip
    uint64_t frozen_present
    uint64_t frozen_absent
    uint64_t mask[ATTRIBUTES]
    uint64_t yes[ATTRIBUTES]
    uint64_t no[ATTRIBUTES]
    uint32_t implied
    uint32_t soft_shift
    uint64_t soft_mask              # the offset of a software entry
    uint64_t soft_flip              # the bits of it that are stored inverted


cdef uint64_t load_in_halves(const uint32_t *slot) noexcept nogil:
    """What a 32-bit machine sees of an entry of two words, when the words change between its two loads."""
    cdef uint64_t low = load_acquire_32(slot)
    sleep_ns(20_000)
    return low | <uint64_t> load_acquire_32(slot + 1) << 32


# -- one entry in memory ----------------------------------------------------------------------------------------------

cdef inline uint64_t entry_load(char *slot, uint32_t shape) noexcept nogil:
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


cdef inline void entry_store_private(char *slot, uint64_t raw, uint32_t shape) noexcept nogil:
    """For a table that no one else can reach yet."""
    if shape == NATIVE_64:
        (<uint64_t *> slot)[0] = raw
    elif shape == NATIVE_32:
        (<uint32_t *> slot)[0] = <uint32_t> raw
    elif shape == SWAPPED_64:
        (<uint64_t *> slot)[0] = swap_64(raw)
    else:
        (<uint32_t *> slot)[0] = swap_32(<uint32_t> raw)


cdef inline uint64_t entry_exchange(char *slot, uint64_t raw, uint32_t shape) noexcept nogil:
    # Acquire and release, partner: entry_load of every walk. What the entry names is complete before it is seen.
    if shape == NATIVE_64:
        return exchange_64(<uint64_t *> slot, raw)
    if shape == NATIVE_32:
        return exchange_32(<uint32_t *> slot, <uint32_t> raw)
    if shape == SWAPPED_64:
        return swap_64(exchange_64(<uint64_t *> slot, swap_64(raw)))
    return swap_32(exchange_32(<uint32_t *> slot, swap_32(<uint32_t> raw)))


cdef inline bint entry_compare_exchange(char *slot, uint64_t *expected, uint64_t desired, uint32_t shape) noexcept nogil:
    """As the C11 operation, on either width and byte order; same order and partner as entry_exchange."""
    cdef uint64_t found_64
    cdef uint32_t found_32
    cdef bint done
    if shape == NATIVE_64:
        return compare_exchange_64(<uint64_t *> slot, expected, desired)
    if shape == NATIVE_32:
        found_32 = <uint32_t> expected[0]
        done = compare_exchange_32(<uint32_t *> slot, &found_32, <uint32_t> desired)
        expected[0] = found_32
    elif shape == SWAPPED_64:
        found_64 = swap_64(expected[0])
        done = compare_exchange_64(<uint64_t *> slot, &found_64, swap_64(desired))
        expected[0] = swap_64(found_64)
    else:
        found_32 = swap_32(<uint32_t> expected[0])
        done = compare_exchange_32(<uint32_t *> slot, &found_32, swap_32(<uint32_t> desired))
        expected[0] = swap_32(found_32)
    return done


# -- one entry's meaning ----------------------------------------------------------------------------------------------

cdef inline uint64_t entry_address(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return (raw & level.address_mask) << level.address_shift


cdef inline uint64_t leaf_address(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return (raw & level.leaf_address_mask) << level.address_shift


cdef inline uint64_t span(const LevelFormat *level) noexcept nogil:
    return <uint64_t> 1 << level.shift


cdef inline bint is_leaf(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return raw & level.leaf_mask == level.leaf_value and (level.leaf_any == 0 or grants(level, raw))


cdef inline bint is_invalid(const LevelFormat *level, uint64_t raw) noexcept nogil:
    return raw & level.invalid_mask == level.invalid_value and (level.leaf_any == 0 or grants(level, raw))


cdef inline bint grants(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """Where permissions tell a leaf from a table: whether these are a leaf's."""
    return raw & level.leaf_any != 0 and raw & level.reserved_mask != level.reserved_value


cdef inline bint is_present(const Format *format, uint64_t raw) noexcept nogil:
    return (raw ^ format.present_flip) & format.present_mask != 0


cdef inline uint64_t frozen_bit(const Format *format, uint64_t raw) noexcept nogil:
    """The bit that freezes an entry of this value, or would."""
    return format.frozen_present if is_present(format, raw) else format.frozen_absent


cdef inline bint is_frozen(const Format *format, uint64_t raw) noexcept nogil:
    return raw & frozen_bit(format, raw) != 0


cdef int classify(const Format *format, uint32_t number, uint64_t raw) noexcept nogil:
    """The EntryState of an entry of that level. The one classifier: the walk, the fallible map, the dump all use it."""
    cdef const LevelFormat *level = &format.level[number]
    if raw & level.table_mask == level.table_value:
        return TABLE
    if is_leaf(level, raw):
        return HUGE
    if raw == level.busy and level.busy:
        return BUSY
    if raw & ~format.frozen_absent == level.empty:
        return EMPTY
    if is_invalid(level, raw):
        return INVALID
    return BAD if is_present(format, raw) else SOFT


cdef inline uint64_t attribute_bits(const Format *format, uint32_t attributes) noexcept nogil:
    """What a leaf with these attributes holds besides address and kind."""
    cdef uint64_t raw = 0
    cdef int i
    for i in range(ATTRIBUTES):
        raw |= format.yes[i] if attributes >> i & 1 else format.no[i]
    return raw


cdef inline uint64_t attributes_replaced(const Format *format, uint64_t raw, uint32_t attributes) noexcept nogil:
    """The leaf with these attributes; accessed and dirty, once set, stay."""
    cdef int i
    for i in range(ATTRIBUTES):
        if attributes >> i & 1:
            raw = raw & ~format.mask[i] | format.yes[i]
        elif i != LETTER_ACCESSED and i != LETTER_DIRTY:
            raw = raw & ~format.mask[i] | format.no[i]
    return raw


cdef inline uint64_t attribute_cleared(const Format *format, uint64_t raw, int letter) noexcept nogil:
    return raw & ~format.mask[letter] | format.no[letter]


cdef inline uint32_t attributes_of(const Format *format, uint64_t raw) noexcept nogil:
    cdef uint32_t attributes = format.implied
    cdef int i
    for i in range(ATTRIBUTES):
        if format.mask[i] and raw & format.mask[i] == format.yes[i]:
            attributes |= 1 << i
    return attributes


cdef inline uint64_t leaf_make(const Format *format, uint32_t number, uint64_t pa, uint64_t bits) noexcept nogil:
    cdef const LevelFormat *level = &format.level[number]
    return level.leaf_set | pa >> level.address_shift & level.leaf_address_mask | bits


cdef inline uint64_t table_make(const Format *format, uint32_t number, uint64_t pa) noexcept nogil:
    cdef const LevelFormat *level = &format.level[number]
    return level.table_set | pa >> level.address_shift & level.address_mask


cdef inline uint64_t leaf_bits(const LevelFormat *level, uint64_t raw) noexcept nogil:
    """A leaf's bits without its address and without what makes it a leaf of this size."""
    return raw & ~level.address_mask & ~level.leaf_set


cdef inline uint64_t soft_advanced(const Format *format, uint64_t raw, uint64_t count) noexcept nogil:
    """A software entry whose offset is larger by that much."""
    cdef uint64_t offset = (raw ^ format.soft_flip) & format.soft_mask
    return raw & ~format.soft_mask | (offset + (count << format.soft_shift) & format.soft_mask) ^ format.soft_flip


cdef inline bint soft_run_fits(const Format *format, uint32_t number, uint64_t raw) noexcept nogil:
    """Whether a software entry can be split: its pages' offsets follow its own, and stay below the last.

    The last one of type 0 may be what an empty entry looks like.
    """
    cdef uint64_t pages = span(&format.level[number]) >> format.level[1].shift
    cdef uint64_t offset = ((raw ^ format.soft_flip) & format.soft_mask) >> format.soft_shift
    return pages == 1 or offset + pages <= format.soft_mask >> format.soft_shift


cdef inline bint is_canonical(const Format *format, uint64_t va) noexcept nogil:
    cdef uint32_t unused = 64 - format.va_bits
    if format.sign_extended:
        return <uint64_t> (<int64_t> (va << unused) >> unused) == va
    return unused == 0 or va >> format.va_bits == 0


cdef inline bint is_run(const Format *format, uint64_t va, uint64_t length) noexcept nogil:
    """Whether a range that is not empty stays in the half of the canonical addresses that it begins in."""
    cdef uint64_t last = va + (length - 1)
    return last >= va and is_canonical(format, va) and is_canonical(format, last) and <int64_t> (va ^ last) >= 0


# -- reading the description ------------------------------------------------------------------------------------------

cdef int format_read(Format *format, object arch) except -1:
    """Fill `format` from an `Arch`."""
    cdef LevelFormat *level
    cdef int number, i
    memset(format, 0, sizeof(Format))
    if arch.levels > LEVELS or arch.entry_bytes not in (4, 8) or arch.byte_order not in ("little", "big"):
        raise FormatError(f"{arch.name}: at most {LEVELS} levels of entries of 4 or 8 bytes, little or big endian")
    if arch.byte_order == sys.byteorder:
        format.shape = NATIVE_64 if arch.entry_bytes == 8 else NATIVE_32
    else:
        format.shape = SWAPPED_64 if arch.entry_bytes == 8 else SWAPPED_32
    format.levels = arch.levels
    format.va_bits = arch.va_bits
    format.sign_extended = arch.sign_extended
    format.present_mask = arch.present_mask
    format.present_flip = arch.present_flip
    format.frozen_present = arch.frozen_present
    format.frozen_absent = arch.frozen_absent
    for i, letter in enumerate(FLAGS):
        if letter in arch.implied:
            format.implied |= 1 << i
        if letter in arch.flags:
            flag = arch.flags[letter]
            format.mask[i], format.yes[i], format.no[i] = flag.mask, flag.yes, flag.no
    format.soft_mask = arch.soft.offset_mask
    format.soft_flip = format.soft_mask if arch.soft.inverted_offset else 0
    format.soft_shift = count_trailing_zeros(format.soft_mask)
    for number in range(1, format.levels + 1):
        level = &format.level[number]
        description = arch.level(number)
        leaf_field = description.leaf_address
        level.shift = description.shift
        level.index_mask = description.entries - 1
        level.entries = description.entries
        level.entry_shift = 3 if arch.entry_bytes == 8 else 2
        level.table_bytes = description.entries * arch.entry_bytes
        level.address_mask = description.address.mask
        level.address_shift = description.address.left_shift
        level.leaf_address_mask = leaf_field.mask
        level.table_set = description.table_set
        level.leaf_any = description.leaf_any
        level.leaf_set = description.leaf_set
        level.empty = description.empty
        level.busy = description.busy
        level.invalid_clear = description.invalid_clear
        level.invalid_set = description.invalid_set
        level.has_leaf = description.leaf is not None
        # A pattern that is not there matches nothing: no entry and 0 is 1.
        level.table_mask, level.table_value = pattern_of(description.table)
        level.leaf_mask, level.leaf_value = pattern_of(description.leaf)
        level.invalid_mask, level.invalid_value = pattern_of(description.invalid)
        level.reserved_mask, level.reserved_value = pattern_of(description.leaf_never)
    return 0


cdef tuple pattern_of(object pattern):
    return (0, 1) if pattern is None else (pattern.mask, pattern.value)
