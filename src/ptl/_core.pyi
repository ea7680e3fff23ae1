from array import array
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)
from dataclasses import dataclass
from enum import Enum, IntEnum
from multiprocessing.shared_memory import SharedMemory
from typing import (
    Any,
    Final,
    Literal,
    Never,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeVar,
    final,
    overload,
    type_check_only,
)

from _typeshed import ReadableBuffer, StrPath, WriteableBuffer

from ptl.arch import Arch

# -- buffers ----------------------------------------------------------------------------------------------------------

# NumPy's stubs call its arrays buffers only from Python 3.12 on.
@type_check_only
class _NumpyArray(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...

# One integer of NumPy is a buffer, too, and an address: but it has no length.
@type_check_only
class _SizedBuffer(Protocol):
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...

_Addresses: TypeAlias = _SizedBuffer | _NumpyArray
_Writeable: TypeAlias = WriteableBuffer | _NumpyArray
_Out = TypeVar("_Out", bound=_Writeable)

# -- words ------------------------------------------------------------------------------------------------------------

FLAGS: Final = "rwxugad"
UNMAPPED: Final = 0xFFFF_FFFF_FFFF_FFFF

class PageFault(KeyError):
    va: int
    level: int
    state: State
    def __init__(self, va: int, level: int, state: State) -> None: ...

class AddressError(ValueError): ...
class FormatError(ValueError): ...
class AlreadyMapped(ValueError): ...
class OutOfFrames(MemoryError): ...
class LivelockError(RuntimeError): ...
class InvariantError(AssertionError): ...
class EpochStall(ResourceWarning): ...

class State(IntEnum):
    EMPTY = 0
    TABLE = 1
    HUGE = 2
    INVALID = 3
    SOFT = 4
    BAD = 5
    BUSY = 6

class Outcome(Enum):
    DONE = 0
    ALREADY = 1
    NO_TABLE = 2
    NOT_HUGE = 3
    IS_HUGE = 4
    NOT_EMPTY = 5
    NOT_FULL = 6
    NOT_CONTIGUOUS = 7
    MIXED_FLAGS = 8
    IS_SOFT = 9
    IS_BAD = 10
    def __bool__(self) -> bool: ...

# -- epochs -----------------------------------------------------------------------------------------------------------

STALL_SECONDS: float

@dataclass(frozen=True)
class Stall:
    thread: int
    seconds: float
    held_tables: int
    held_bytes: int

@type_check_only
class _EpochStats(TypedDict):
    epoch: int
    threads: int
    inside: int
    retired: int
    freed: int
    limbo: int
    limbo_bytes: int
    limbo_max: int
    grace_periods: int
    barrier: Literal["membarrier", "each section"]

class EpochDomain:
    def __new__(cls, *, batch_tables: SupportsIndex = 64) -> Self: ...
    def pin(self) -> Pin: ...
    def reclaim(self) -> int: ...
    def synchronize(self) -> None: ...
    def stalled(self, seconds: float) -> list[Stall]: ...
    def stats(self) -> _EpochStats: ...

default_domain: Final[EpochDomain]

def fail_allocation(n: SupportsIndex, /) -> None: ...
def fail_frames(n: SupportsIndex, times: SupportsIndex = ..., /) -> None: ...

# -- frames -----------------------------------------------------------------------------------------------------------

class Frames:
    def __new__(
        cls,
        size: SupportsIndex,
        *,
        base: SupportsIndex = 0,
        backing: StrPath | SharedMemory | _Writeable | None = None,
        frame_bytes: SupportsIndex = 4096,
        domain: EpochDomain | None = None,
    ) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def size(self) -> int: ...
    @property
    def base(self) -> int: ...
    @property
    def frame_bytes(self) -> int: ...
    @property
    def domain(self) -> EpochDomain: ...
    def alloc(self, length: SupportsIndex | None = None, /) -> int: ...
    def free(self, pa: SupportsIndex, length: SupportsIndex | None = None, /) -> None: ...
    def share(self, pa: SupportsIndex, length: SupportsIndex | None = None, /) -> None: ...
    def owners(self, pa: SupportsIndex, /) -> int: ...
    def split(self, pa: SupportsIndex, length: SupportsIndex, into: SupportsIndex, /) -> None: ...
    def view(self, pa: SupportsIndex, length: SupportsIndex, /) -> memoryview: ...
    def stats(self) -> dict[str, int]: ...

# -- handles ----------------------------------------------------------------------------------------------------------
# Only the methods named in their docstrings make handles and slots: a class called by hand gives none of use.

class Handle:
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

@final
class Pin(Handle):
    def __new__(cls, domain: EpochDomain) -> Self: ...

class PteMap(Handle):
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    @property
    def va(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def table_pa(self) -> int: ...
    @property
    def snapshot(self) -> int: ...
    @property
    def stale(self) -> bool: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: SupportsIndex, /) -> Leaf | None: ...
    def load(self, i: SupportsIndex, /) -> int: ...
    def entries(self) -> array[int]: ...
    def compare_exchange(self, i: SupportsIndex, expected: SupportsIndex, desired: SupportsIndex, /) -> bool: ...

@final
class PteMapRw(PteMap):
    def try_lock(self) -> bool: ...
    def unlock(self) -> None: ...

@final
class PteLock(PteMap): ...

@final
class PteKernel(PteMap): ...

class Slot:
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    @property
    def va(self) -> int: ...
    @property
    def level(self) -> int: ...
    @property
    def state(self) -> State: ...
    def load(self) -> int: ...
    def lock(self) -> SlotLock | None: ...
    def try_lock(self) -> SlotLock | None: ...

@final
class SlotLock(Handle):
    @property
    def slot(self) -> Slot: ...

# -- records ----------------------------------------------------------------------------------------------------------

@final
@dataclass(frozen=True)
class Leaf:
    va: int
    pa: int
    size: int
    flags: str
    level: int
    raw: int

@dataclass(frozen=True)
class Step:
    level: int
    table_pa: int
    index: int
    raw: int
    state: State

@dataclass(frozen=True)
class Walk:
    va: int
    steps: tuple[Step, ...]
    leaf: Leaf | None
    fault: str | None

@final
@dataclass(frozen=True)
class Extent:
    va: int
    pa: int
    length: int
    flags: str

@final
@dataclass(frozen=True)
class Gap:
    va: int
    length: int

@final
@dataclass(frozen=True, eq=False)
class Leaves:
    # Arrays, or parts of the buffers given; None where there was none.
    va: Any
    pa: Any
    size: Any
    flags: Any
    level: Any
    raw: Any
    def __len__(self) -> int: ...

# -- as a mapping -----------------------------------------------------------------------------------------------------

_Found = TypeVar("_Found", covariant=True)
_Default = TypeVar("_Default")
_Columns: TypeAlias = Leaves | Sequence[_Writeable | None]

@final
class LeafIterator(Iterator[_Found]):
    def __init__(self, *args: Never, **kwargs: Never) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> _Found: ...

class LeafRange(Mapping[int, Leaf]):
    def __init__(self, pt: PageTable, lo: SupportsIndex, hi: SupportsIndex | None) -> None: ...
    def __iter__(self) -> LeafIterator[int]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __getitem__(self, va: SupportsIndex) -> Leaf: ...

class LeafItems(ItemsView[int, Leaf]):
    def __iter__(self) -> LeafIterator[tuple[int, Leaf]]: ...

class LeafValues(ValuesView[Leaf]):
    def __iter__(self) -> LeafIterator[Leaf]: ...

# -- the table --------------------------------------------------------------------------------------------------------

class PageTable(MutableMapping[int, Leaf]):
    def __new__(cls, arch: str | Arch = "x86_64", *, frames: Frames | None = None, strict: bool = False) -> Self: ...
    @property
    def arch(self) -> Arch: ...
    @property
    def frames(self) -> Frames: ...
    @property
    def strict(self) -> bool: ...
    @property
    def root(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @overload
    def translate(self, va: _Addresses, /, out: None = None) -> array[int]: ...
    @overload
    def translate(self, va: _Addresses, /, out: _Out) -> _Out: ...
    @overload
    def translate(self, va: SupportsIndex, /, out: None = None) -> int: ...
    def lookup(self, va: SupportsIndex, /) -> Leaf | None: ...
    def walk(self, va: SupportsIndex, /) -> Walk: ...
    @overload
    def __getitem__(self, va: SupportsIndex, /) -> Leaf: ...
    @overload
    def __getitem__(self, va: slice[SupportsIndex | None, SupportsIndex | None, None], /) -> LeafRange: ...
    def __setitem__(self, va: SupportsIndex, leaf: Leaf | tuple[SupportsIndex, str], /) -> None: ...
    def __delitem__(self, va: SupportsIndex, /) -> None: ...
    def __contains__(self, va: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __iter__(self) -> LeafIterator[int]: ...
    __reversed__: None
    def keys(self) -> KeysView[int]: ...
    def values(self) -> LeafValues: ...
    def items(self) -> LeafItems: ...
    @overload
    def get(self, va: SupportsIndex, default: None = None, /) -> Leaf | None: ...
    @overload
    def get(self, va: SupportsIndex, default: _Default, /) -> Leaf | _Default: ...
    @overload
    def pop(self, va: SupportsIndex, /) -> Leaf: ...
    @overload
    def pop(self, va: SupportsIndex, default: _Default, /) -> Leaf | _Default: ...
    # Narrower than a mapping's: it takes no keywords, which are no addresses.
    def update(  # type: ignore[override]
        self,
        other: Mapping[int, Leaf | tuple[SupportsIndex, str]]
        | Iterable[tuple[SupportsIndex, Leaf | tuple[SupportsIndex, str]]] = (),
        /,
    ) -> None: ...
    def setdefault(self, va: SupportsIndex, leaf: Leaf | tuple[SupportsIndex, str], /) -> Leaf: ...
    def runs(self, lo: SupportsIndex = 0, hi: SupportsIndex | None = None) -> LeafIterator[Extent]: ...
    def gaps(self, lo: SupportsIndex = 0, hi: SupportsIndex | None = None) -> LeafIterator[Gap]: ...
    def find_gap(
        self,
        length: SupportsIndex,
        align: SupportsIndex | None = None,
        *,
        lo: SupportsIndex = 0,
        hi: SupportsIndex | None = None,
    ) -> int: ...
    def export(
        self, lo: SupportsIndex = 0, hi: SupportsIndex | None = None, *, out: _Columns | None = None
    ) -> Leaves: ...
    def map(
        self,
        va: SupportsIndex,
        pa: SupportsIndex,
        length: SupportsIndex | None = None,
        flags: str = "rw",
        *,
        page_size: SupportsIndex | None = None,
        replace: bool = False,
    ) -> None: ...
    def unmap(self, va: SupportsIndex, length: SupportsIndex, /) -> int: ...
    def protect(self, va: SupportsIndex, length: SupportsIndex, flags: str, /) -> int: ...
    def compare_exchange(
        self,
        va: SupportsIndex,
        expected: SupportsIndex,
        desired: SupportsIndex,
        /,
        *,
        level: SupportsIndex | None = None,
    ) -> bool: ...
    def exchange(self, va: SupportsIndex, entry: SupportsIndex, /) -> int: ...
    def test_and_clear(self, va: SupportsIndex, flag: str, /) -> bool: ...
    def pte_map(self, va: SupportsIndex, /) -> PteMap | None: ...
    def pte_map_ro(self, va: SupportsIndex, /) -> PteMap | None: ...
    def pte_map_rw(self, va: SupportsIndex, /) -> PteMapRw | None: ...
    def pte_map_lock(self, va: SupportsIndex, /) -> PteLock | None: ...
    def pte_alloc_map(self, va: SupportsIndex, /) -> PteMap | None: ...
    def pte_alloc_map_lock(self, va: SupportsIndex, /) -> PteLock | None: ...
    def locked_pte(self, va: SupportsIndex, /) -> PteLock | None: ...
    def pte_kernel(self, va: SupportsIndex, /) -> PteKernel: ...
    def pte_huge(self, va: SupportsIndex, /) -> PteKernel: ...
    def pte_alloc_huge(self, va: SupportsIndex, /) -> PteKernel: ...
    def pmd(self, va: SupportsIndex, /) -> Slot | None: ...
    def slot(self, va: SupportsIndex, level: SupportsIndex, /) -> Slot | None: ...
    def populate(self, va: SupportsIndex, /) -> Outcome: ...
    def retract(self, va: SupportsIndex, /, *, level: SupportsIndex = 2) -> Outcome: ...
    def collapse(
        self,
        va: SupportsIndex,
        pa: SupportsIndex | None = None,
        /,
        *,
        level: SupportsIndex | None = None,
        page_size: SupportsIndex | None = None,
        holes: SupportsIndex = 0,
        flags: str | None = None,
    ) -> Outcome: ...
    def split(self, va: SupportsIndex, /, page_size: SupportsIndex | None = None) -> Outcome: ...
    def move(self, old: SupportsIndex, new: SupportsIndex, length: SupportsIndex, /) -> Outcome: ...
    def reclaim_empty(self, va: SupportsIndex, length: SupportsIndex, /) -> Outcome: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> int: ...
    def dump(self) -> str: ...

# -- what a CPU remembers of it ---------------------------------------------------------------------------------------

class ProtectionFault(PageFault):
    access: str
    user: bool
    def __init__(self, va: int, level: int, state: State, access: str, user: bool) -> None: ...

class StaleTranslation(AssertionError): ...

class Tlb:
    def __new__(cls, *, sets: SupportsIndex = 16, ways: SupportsIndex = 4, check: bool = True) -> Self: ...
    def attach(self, pt: PageTable, /, asid: SupportsIndex | None = None) -> None: ...
    def detach(self, pt: PageTable, /) -> None: ...
    def translate(self, pt: PageTable, va: SupportsIndex, /, access: str = "r", *, user: bool = False) -> int: ...
    def read(self, pt: PageTable, va: SupportsIndex, length: SupportsIndex, /, *, user: bool = False) -> bytes: ...
    def write(self, pt: PageTable, va: SupportsIndex, data: ReadableBuffer, /, *, user: bool = False) -> None: ...
    def flush(self, pt: PageTable, va: SupportsIndex | None = None, length: SupportsIndex | None = None, /) -> None: ...
    def verify(self) -> int: ...
    def stats(self) -> dict[str, int]: ...

class MmuGather:
    def __new__(cls, pt: PageTable) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def unmap(self, va: SupportsIndex, length: SupportsIndex, /) -> int: ...
    def protect(self, va: SupportsIndex, length: SupportsIndex, flags: str, /) -> int: ...
    def free(self, pa: SupportsIndex, length: SupportsIndex | None = None, /) -> None: ...
    def flush(self) -> None: ...

# -- one step of a collapser ------------------------------------------------------------------------------------------

class ScanResult(Enum):
    COLLAPSED = 0
    NO_TABLE = 1
    ALREADY = 2
    TOO_EMPTY = 3
    TOO_SWAPPED = 4
    TOO_SHARED = 5
    SWAPPED = 6
    NO_FRAMES = 7
    CHANGED = 8
    BAD = 9

def collapse_pages(
    pt: PageTable,
    va: SupportsIndex,
    flags: str,
    /,
    *,
    max_ptes_none: SupportsIndex | None = None,
    max_ptes_swap: SupportsIndex = 0,
    max_ptes_shared: SupportsIndex | None = None,
) -> ScanResult: ...

FAULTS: Final[dict[str, int]]

def put_in_fault(name: str | None, /) -> bool: ...
def put_under_stress(seed: SupportsIndex, /) -> None: ...

# -- labs -------------------------------------------------------------------------------------------------------------

_Place: TypeAlias = tuple[str | int, ...]
_Failure: TypeAlias = tuple[str, int, _Place | None, str | None]
_Judge: TypeAlias = Callable[[], str | None]

@type_check_only
class _Explored(TypedDict):
    complete: bool
    failure: _Failure | None
    schedule: list[int] | None
    executions: int
    redundant: int
    classes: int
    steps: int
    longest: int
    worlds: int
    outcomes: int

LAB_OPERATION_NAMES: Final[tuple[str, ...]]
LAB_FAILURES: Final[tuple[str, ...]]
STEP_KINDS: Final[dict[int, str]]
TABLE_USES: Final[tuple[str, ...]]

class Model:
    def __new__(
        cls,
        pt: PageTable,
        threads: Sequence[Sequence[tuple[str | int, ...]]],
        *,
        memory: str = "sc",
        locks: str = "whole",
        barrier: str = "membarrier",
        unattached: Iterable[Tlb] = (),
    ) -> Self: ...
    def explore(
        self,
        judge: _Judge,
        *,
        reduction: str = "source",
        bound: int | None = None,
        most: int | None = None,
        serial: bool = False,
        any_outcome: bool = False,
    ) -> _Explored: ...
    def sample(
        self, judge: _Judge, seed: int, *, most: int, changes: int, length: int, any_outcome: bool = False
    ) -> _Explored: ...
    def replay(
        self,
        schedule: Iterable[int],
        watch: Callable[[tuple[Any, ...]], object] | None,
        *,
        judge: _Judge | None = None,
        checked: bool = True,
    ) -> _Failure | None: ...
    def results(self) -> list[list[int]]: ...
    def owners(self) -> list[int]: ...
    def threads_now(self) -> list[tuple[bool, int, bool, list[_Place], list[tuple[_Place, int]]]]: ...
    def tables_now(self) -> list[tuple[str, int, int, int, list[int]]]: ...
