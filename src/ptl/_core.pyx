# SPDX-License-Identifier: MIT
# cython: language_level=3, freethreading_compatible=True, embedsignature=False
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The core: a lock-free radix page table whose tables come and go under its readers.

One extension module, because its parts share thread-local state and are inlined into each other. This file is its table
of contents: each part knows only those above it.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import gc
import os
import sys
import warnings
from array import array
from collections.abc import ItemsView, KeysView, Mapping, MutableMapping, ValuesView
from dataclasses import replace
from enum import Enum, IntEnum
from itertools import zip_longest
from operator import index as to_index

cdef extern from "core/atomic.h" nogil:
    uint32_t load_relaxed_32 "ptl_load_relaxed_32"(const uint32_t *)
    uint32_t load_acquire_32 "ptl_load_acquire_32"(const uint32_t *)
    uint32_t load_own_32 "ptl_load_own_32"(const uint32_t *)
    void store_relaxed_32 "ptl_store_relaxed_32"(uint32_t *, uint32_t)
    void store_release_32 "ptl_store_release_32"(uint32_t *, uint32_t)
    uint32_t exchange_32 "ptl_exchange_32"(uint32_t *, uint32_t)
    bint compare_exchange_32 "ptl_compare_exchange_32"(uint32_t *, uint32_t *, uint32_t)
    uint32_t fetch_add_relaxed_32 "ptl_fetch_add_relaxed_32"(uint32_t *, uint32_t)
    uint32_t fetch_add_32 "ptl_fetch_add_32"(uint32_t *, uint32_t)
    uint64_t load_own_64 "ptl_load_own_64"(const uint64_t *)
    uint64_t load_own_unhooked_64 "ptl_load_own_unhooked_64"(const uint64_t *)
    void add_own_release_64 "ptl_add_own_release_64"(uint64_t *, uint64_t)
    uint32_t load_acquire_unhooked_32 "ptl_load_acquire_unhooked_32"(const uint32_t *)
    uint64_t load_acquire_unhooked_64 "ptl_load_acquire_unhooked_64"(const uint64_t *)
    enum: NEIGHBOURS "PTL_NEIGHBOURS"
    uint64_t load_acquire_neighbours_unhooked_64 "ptl_load_acquire_neighbours_unhooked_64"(
        const uint64_t *, uint64_t *, uint64_t)
    void store_relaxed_unhooked_64 "ptl_store_relaxed_unhooked_64"(uint64_t *, uint64_t)
    uint64_t load_relaxed_64 "ptl_load_relaxed_64"(const uint64_t *)
    uint64_t load_acquire_64 "ptl_load_acquire_64"(const uint64_t *)
    void store_relaxed_64 "ptl_store_relaxed_64"(uint64_t *, uint64_t)
    void store_release_64 "ptl_store_release_64"(uint64_t *, uint64_t)
    uint64_t exchange_64 "ptl_exchange_64"(uint64_t *, uint64_t)
    bint compare_exchange_64 "ptl_compare_exchange_64"(uint64_t *, uint64_t *, uint64_t)
    bint exchanges_pairs "ptl_exchanges_pairs"()
    bint compare_exchange_pair_unhooked_64 "ptl_compare_exchange_pair_unhooked_64"(
        uint64_t *, uint64_t, uint64_t, uint64_t, uint64_t)
    uint64_t fetch_add_relaxed_64 "ptl_fetch_add_relaxed_64"(uint64_t *, uint64_t)
    uint64_t fetch_add_64 "ptl_fetch_add_64"(uint64_t *, uint64_t)
    void count_64 "ptl_count_64"(uint64_t *, uint64_t)
    void *load_acquire_pointer "ptl_load_acquire_pointer"(void **)
    void *exchange_pointer "ptl_exchange_pointer"(void **, void *)
    bint compare_exchange_pointer "ptl_compare_exchange_pointer"(void **, void **, void *)
    void store_then_barrier_64 "ptl_store_then_barrier_64"(uint64_t *, uint64_t)
    void compiler_barrier "ptl_compiler_barrier"()
    void full_barrier "ptl_full_barrier"()
    void copy_from_shared "ptl_copy_from_shared"(char *, const char *, size_t)
    void copy_to_shared "ptl_copy_to_shared"(char *, const char *, size_t)
    void prefetch "ptl_prefetch"(const void *)
    uint64_t as_computed "ptl_as_computed"(uint64_t)
    void pause "ptl_pause"()
    uint64_t swap_64 "__builtin_bswap64"(uint64_t)
    uint32_t swap_32 "__builtin_bswap32"(uint32_t)
    uint32_t count_trailing_zeros "__builtin_ctzll"(uint64_t)

cdef extern from "core/stress.h" nogil:
    bint is_under_stress "ptl_is_under_stress"()
    uint64_t stress_draw "ptl_stress_draw"()

cdef extern from "core/step.h" nogil:
    bint is_stepping "ptl_is_stepping"()
    void set_stress "ptl_put_under_stress"(uint64_t)
    bint step_lock "ptl_step_lock"(uint32_t *, uint32_t)
    bint step_again "ptl_step_again"(uint32_t *)
    enum:
        PTL_LOAD
        PTL_STORE
        PTL_EXCHANGE
        PTL_COMPARE_EXCHANGE
        PTL_ADD
        PTL_ADD_OWN
        PTL_LOAD_OWN
        PTL_BARRIER
        PTL_MEMBARRIER
        PTL_LOCK
        PTL_PARK
        PTL_UNPARK
        PTL_AGAIN
        PTL_SLEEP
        PTL_BEGIN
    ctypedef struct ptl_step "ptl_step_t":
        uint32_t kind
        uint32_t bits
        uint32_t order
        void *address
        uint64_t value
        uint64_t expected
        uint64_t found
        const char *site
    void ptl_perform(ptl_step *)
    void set_stepper "ptl_set_stepper"(void (*)(ptl_step *) noexcept nogil, void *)
    void *the_lab "ptl_the_lab"()

cdef extern from "core/fiber.h" nogil:
    ctypedef struct ptl_fiber:
        char *stack
    int ptl_fiber_make(ptl_fiber *)
    void ptl_fiber_drop(ptl_fiber *)
    void ptl_fiber_start(ptl_fiber *, void (*)(void *) noexcept nogil, void *)
    void ptl_fiber_enter(ptl_fiber *)
    void ptl_fiber_yield(ptl_fiber *)

cdef extern from "core/system.h" nogil:
    enum: PTL_DOMAINS
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_PRIVATE
    enum: MAP_SHARED
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE
    void *MAP_FAILED
    void *mmap "ptl_mmap"(void *, size_t, int, int, int, int64_t)
    int munmap(void *, size_t)
    void *calloc "ptl_calloc"(size_t, size_t)
    int posix_memalign "ptl_memalign"(void **, size_t, size_t)
    void let_allocation_fail "ptl_fail_allocation"(uint32_t)
    void let_frames_fail "ptl_fail_frames"(uint32_t, uint32_t)
    bint is_out_of_frames "ptl_is_out_of_frames"()
    int sched_yield()
    ctypedef struct pthread_key_t:
        pass
    int pthread_key_create(pthread_key_t *, void (*)(void *) noexcept nogil)
    int pthread_setspecific(pthread_key_t, const void *)
    int pthread_atfork(void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil)
    void *thread_record "ptl_thread_record"(uint32_t)
    void set_thread_record "ptl_set_thread_record"(uint32_t, void *)
    uint64_t thread_id "ptl_thread_id"()
    uint64_t now_ns "ptl_now_ns"()
    void sleep_ns "ptl_sleep_ns"(long)
    void park "ptl_park"(uint32_t *, uint32_t)
    void unpark_one "ptl_unpark_one"(uint32_t *)
    void unpark_next "ptl_unpark_next"(uint32_t *)
    void unpark_all "ptl_unpark_all"(uint32_t *)
    void parking_init "ptl_parking_init"()
    bint membarrier_register "ptl_membarrier_register"()
    void membarrier "ptl_membarrier"()
    bint is_faulty "ptl_is_faulty"(uint32_t)
    bint choose_fault "ptl_choose_fault"(uint32_t)
    void advise_huge "ptl_advise_huge"(char *, size_t)
    void forbid "ptl_forbid"(const char *, size_t)
    void allow "ptl_allow"(const char *, size_t)

include "core/words.pxi"
include "core/faults.pxi"
include "core/stress.pxi"
include "core/descriptor.pxi"
include "core/lock.pxi"
include "core/epoch.pxi"
include "core/frames.pxi"
include "core/format.pxi"
include "core/walk.pxi"
include "core/tlb.pxi"
include "core/entry.pxi"
include "core/run.pxi"
include "core/transition.pxi"
include "core/share.pxi"
include "core/range.pxi"
include "core/move.pxi"
include "core/batch.pxi"
include "core/sweep.pxi"
include "core/records.pxi"
include "core/handles.pxi"
include "core/mapping.pxi"
include "core/table.pxi"
include "core/cpu.pxi"
include "core/collapser.pxi"
include "core/native.pxi"
include "core/world.pxi"
include "core/model.pxi"
include "core/explore.pxi"

epoch_start()
default_domain = EpochDomain()
"""The epoch domain of all `Frames` that are given no other."""
