# SPDX-License-Identifier: MIT
"""For other people's Cython: walk and change a PageTable without the GIL.

    from ptl._core cimport PageTable, Tree, ptl_pin, ptl_unpin, ptl_walk

    cdef Tree *tree = table.tree            # valid while you hold a reference to `table`
    with nogil:
        ptl_pin(tree)                       # -1: no memory for this thread's record, or nested 65,000 deep
        pa = ptl_walk(tree, va)             # any number of walks
        ptl_unpin(tree)

`attributes` is a set of bits, bit n for letter n of "rwxugad". Results of type int are 0 when it was done, otherwise one
of the numbers of `Result` in core/transition.pxi, which are those of `ptl.Outcome`; from 100 on the Python method of the
same name would have raised.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef struct Tree

cdef class PageTable:
    cdef Tree *tree
    cdef readonly object arch
    """The `Arch` that says what the bits mean: the one given, or the same with the names of this table's empty tables."""
    cdef readonly object frames
    """The `Frames` that hold the tables."""
    cdef readonly bint strict
    """Whether a bad slot that is met is an error, instead of being emptied."""
    cdef object described       # the Arch as it was given
    cdef bint own_frames
    cdef dict known_flags
    cdef object __weakref__

cdef int ptl_pin(Tree *tree) noexcept nogil
cdef void ptl_unpin(Tree *tree) noexcept nogil
cdef uint64_t ptl_walk(Tree *tree, uint64_t va) noexcept nogil
cdef uint64_t ptl_translate(Tree *tree, uint64_t va) noexcept nogil
cdef uint64_t ptl_translate_many(Tree *tree, const uint64_t *vas, uint64_t *out, uint64_t count) noexcept nogil
cdef uint32_t ptl_lookup(Tree *tree, uint64_t va, uint64_t *raw) noexcept nogil
cdef int ptl_compare_exchange(
    Tree *tree, uint64_t va, uint32_t level, uint64_t expected, uint64_t desired
) noexcept nogil
cdef int ptl_map(Tree *tree, uint64_t va, uint64_t pa, uint64_t length, uint32_t attributes) noexcept nogil
cdef int ptl_unmap(Tree *tree, uint64_t va, uint64_t length) noexcept nogil
cdef int ptl_protect(Tree *tree, uint64_t va, uint64_t length, uint32_t attributes) noexcept nogil
cdef int ptl_populate(Tree *tree, uint64_t va) noexcept nogil
cdef int ptl_retract(Tree *tree, uint64_t va) noexcept nogil
cdef int ptl_collapse(Tree *tree, uint64_t va, uint64_t pa) noexcept nogil
cdef int ptl_split(Tree *tree, uint64_t va) noexcept nogil
