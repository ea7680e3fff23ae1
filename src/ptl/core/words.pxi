# SPDX-License-Identifier: MIT
"""The words that the core speaks to Python: errors, outcomes, states; and how numbers come in.

An address comes from Python through `__index__`, once, and is then a C integer: never by a C parameter, which would turn
-1, 1.5 and True into addresses without a word.
"""

FLAGS = "rwxugad"
"""The portable attributes: read, write, execute, user, global, accessed, dirty."""

cdef uint64_t UNMAPPED_RAW = <uint64_t> -1
UNMAPPED = UNMAPPED_RAW
"""What a batch `translate` answers for an address that is not mapped: all ones."""


class PageFault(KeyError):
    """An address that is not mapped: `va`, and the `level` and `state` of the slot that ended the walk.

    Or, where a `PageTable` is used as a mapping, one that is no leaf's first.
    """

    def __init__(self, va, level, state):
        super().__init__(va, level, state)
        self.va, self.level, self.state = va, level, state

    def __str__(self):
        what = "the first address of no leaf" if self.state in (State.HUGE, State.INVALID) else "not mapped"
        return f"va {self.va:#x} is {what}: its level-{self.level} slot is {self.state.name}"


class AddressError(ValueError):
    """An address or a range that is unaligned, not canonical, out of range, or not yours."""


class FormatError(ValueError):
    """Something that the architecture's format cannot express."""


class AlreadyMapped(ValueError):
    """A range that has something in it where nothing was expected."""


class OutOfFrames(MemoryError):
    """No physical memory left for a table or for data."""


class LivelockError(RuntimeError):
    """A slot stayed in transition for as long as anybody was willing to wait: a thread died in the middle of it."""


class InvariantError(AssertionError):
    """`check()` found a numbered invariant broken."""


class EpochStall(ResourceWarning):
    """A reader has been inside one section for long, and holds back the reuse of tables."""


class State(IntEnum):
    """What a slot holds."""

    EMPTY = 0
    TABLE = 1
    HUGE = 2
    """A leaf; on level 1 an ordinary one."""
    INVALID = 3
    """A huge leaf that is being split: hardware does not see it, software does."""
    SOFT = 4
    """Not present, and software's own: migration, swap, marker."""
    BAD = 5
    """Present, and nothing that the format defines."""
    BUSY = 6
    """Between table and huge leaf: empty, and frozen."""


class Outcome(Enum):
    """What a transition came to; true when it was done."""

    DONE = 0
    ALREADY = 1
    """The slot is what was asked for."""
    NO_TABLE = 2
    """There is no table in the slot, or no slot."""
    NOT_HUGE = 3
    """No huge leaf where one was needed."""
    IS_HUGE = 4
    """A huge leaf is in the slot."""
    NOT_EMPTY = 5
    """The table has entries."""
    NOT_FULL = 6
    """The table has holes."""
    NOT_CONTIGUOUS = 7
    """The frames are not one aligned run."""
    MIXED_FLAGS = 8
    """The entries do not all have the same attributes."""
    IS_SOFT = 9
    """A software entry is in the way."""
    IS_BAD = 10
    """A bad entry is in the way."""

    def __bool__(self):
        return self is Outcome.DONE


cdef tuple STATES = tuple(State)
cdef tuple OUTCOMES = tuple(Outcome)


cdef inline object state_of(int number):
    return STATES[number]


# -- numbers ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t as_address(object value, str name) except? 1:
    """A non-negative integer below 2**64; anything else is an error that says its name."""
    if type(value) is not int:
        if isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not a bool")
        try:
            value = to_index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    try:
        return value
    except OverflowError:
        raise AddressError(f"{name} {value:#x} is outside 0 to 2**64 - 1") from None


cdef inline uint64_t as_count(object value, str name) except? 1:
    try:
        return as_address(value, name)
    except AddressError:
        raise ValueError(f"{name} {value} is outside 0 to 2**64 - 1") from None


cdef inline uint64_t as_index(object value, uint64_t length) except? 1:
    """An index of a sequence of that length; the end counts from behind, as everywhere in Python."""
    if isinstance(value, bool):
        raise TypeError("an index must be an integer, not a bool")
    number = to_index(value)
    if number < 0:
        number += length
    if not 0 <= number < length:
        raise IndexError(f"index {value} is outside the {length} entries of this table")
    return number


cdef inline uint64_t align_up(uint64_t value, uint64_t granule) noexcept nogil:
    return (value + granule - 1) & ~(granule - 1)
