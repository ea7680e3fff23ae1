# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The native side of `ptl bench`: each function does one operation of the C level of ptl many times over.

Written as anybody's Cython could be, over `ptl._core`'s C level and nothing else. Native peers export the same loops
(`bench/native`), so a ratio is between the operations, not between the loops. All run without the GIL.
"""

from libc.stdint cimport uint32_t, uint64_t
from ptl._core cimport (
    PageTable, Tree, ptl_collapse, ptl_map, ptl_pin, ptl_protect, ptl_split, ptl_translate, ptl_unmap, ptl_unpin, ptl_walk,
)

cdef extern from "core/atomic.h" nogil:
    uint32_t load_acquire_32 "ptl_load_acquire_32"(const uint32_t *)
    uint64_t load_acquire_64 "ptl_load_acquire_64"(const uint64_t *)

cdef enum:
    CHUNK = 4096                    # addresses a section, as many as a batch has
    PAGE = 4096
    UNMOVED = -1                    # for ptl_collapse: the leaf takes the frames that are there


class Failed(RuntimeError):
    """An operation that cannot fail here did."""


def shuffle(uint64_t[::1] numbers, uint64_t seed):
    """Put them in an order that looks random and is the same for each seed (R. Durstenfeld, "Algorithm 235", 1964)."""
    cdef uint64_t i, j, state = seed * <uint64_t> 0x9E3779B97F4A7C15 | 1
    with nogil:
        for i in range(numbers.shape[0] - 1, 0, -1):
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            j = state % (i + 1)
            numbers[i], numbers[j] = numbers[j], numbers[i]


def walk(PageTable table not None, const uint64_t[::1] vas, uint64_t[::1] out):
    """Translate each by a walk of its own, with one section for 4096 of them."""
    cdef Tree *tree = table.tree
    cdef uint64_t i = 0, count = vas.shape[0], end
    with nogil:
        while i < count:
            end = min(count, i + CHUNK)
            ptl_pin(tree)
            while i < end:
                out[i] = ptl_walk(tree, vas[i])
                i += 1
            ptl_unpin(tree)


def translate(PageTable table not None, const uint64_t[::1] vas, uint64_t[::1] out):
    """Translate each in a section of its own."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, count = vas.shape[0]
    with nogil:
        for i in range(count):
            out[i] = ptl_translate(tree, vas[i])


def walk_chain(PageTable table not None, const uint64_t[::1] vas, uint64_t[::1] out, uint64_t nothing):
    """As `walk`, but each address waits for the answer before it; `nothing` is 0, which the compiler does not know."""
    cdef Tree *tree = table.tree
    cdef uint64_t i = 0, count = vas.shape[0], end, answer = 0
    with nogil:
        while i < count:
            end = min(count, i + CHUNK)
            ptl_pin(tree)
            while i < end:
                answer = ptl_walk(tree, vas[i] ^ (answer & nothing))
                out[i] = answer
                i += 1
            ptl_unpin(tree)


def translate_chain(PageTable table not None, const uint64_t[::1] vas, uint64_t[::1] out, uint64_t nothing):
    """As `translate`, but each address waits for the answer before it."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, count = vas.shape[0], answer = 0
    with nogil:
        for i in range(count):
            answer = ptl_translate(tree, vas[i] ^ (answer & nothing))
            out[i] = answer


def map_pages(PageTable table not None, const uint64_t[::1] vas, const uint64_t[::1] pas):
    """Map each page by a call of its own, to be read and written."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, count = vas.shape[0]
    cdef int failed = 0
    with nogil:
        for i in range(count):
            failed |= ptl_map(tree, vas[i], pas[i], PAGE, 0b11)
    if failed:
        raise Failed(f"a page could not be mapped: {failed}")


def unmap_pages(PageTable table not None, const uint64_t[::1] vas):
    """Unmap each page by a call of its own."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, count = vas.shape[0]
    cdef int failed = 0
    with nogil:
        for i in range(count):
            failed |= ptl_unmap(tree, vas[i], PAGE)
    if failed:
        raise Failed(f"a page could not be unmapped: {failed}")


def protect_pages(PageTable table not None, const uint64_t[::1] vas, uint32_t attributes):
    """Give each page other attributes by a call of its own."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, count = vas.shape[0]
    cdef int failed = 0
    with nogil:
        for i in range(count):
            failed |= ptl_protect(tree, vas[i], PAGE, attributes)
    if failed:
        raise Failed(f"a page could not be protected: {failed}")


def faults(PageTable table not None, const uint64_t[::1] vas, const uint64_t[::1] pas, uint64_t rounds):
    """Map and unmap each page by a call of its own, again and again."""
    cdef Tree *tree = table.tree
    cdef uint64_t i, _turn, count = vas.shape[0]
    cdef int failed = 0
    with nogil:
        for _turn in range(rounds):
            for i in range(count):
                failed |= ptl_map(tree, vas[i], pas[i], PAGE, 0b11)
            for i in range(count):
                failed |= ptl_unmap(tree, vas[i], PAGE)
    if failed:
        raise Failed(f"a page could not be mapped or unmapped: {failed}")


def sections(PageTable table not None, const uint64_t[::1] word, uint64_t count):
    """Enter a section, load a word and leave."""
    cdef Tree *tree = table.tree
    cdef uint64_t _i, sum = 0
    with nogil:
        for _i in range(count):
            ptl_pin(tree)
            sum += load_acquire_64(&word[0])
            ptl_unpin(tree)
    return sum


def sections_until(PageTable table not None, const uint64_t[::1] word, const uint32_t[::1] stop):
    """The same until stop[0] is not 0; how often."""
    cdef Tree *tree = table.tree
    cdef uint64_t done = 0
    with nogil:
        while not load_acquire_32(&stop[0]):
            ptl_pin(tree)
            load_acquire_64(&word[0])
            ptl_unpin(tree)
            done += 1
    return done


def collapse_and_split(PageTable table not None, uint64_t va, uint64_t count):
    """Make a huge leaf of the 512 pages at va, in place, and a table of it again."""
    cdef Tree *tree = table.tree
    cdef uint64_t _i
    cdef int failed = 0
    with nogil:
        for _i in range(count):
            failed |= ptl_collapse(tree, va, <uint64_t> UNMOVED)
            failed |= ptl_split(tree, va)
    if failed:
        raise Failed(f"the region at {va:#x} could not be collapsed or split: {failed}")
