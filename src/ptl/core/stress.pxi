# SPDX-License-Identifier: MIT
"""Stress: what is rare between threads is made frequent, for tests; every build has it.

    knob                                        for
    steps give way, or sleep                    every thread of the process
    compare-exchanges fail for nothing          every thread of the process
    grace periods for two tables at a time      domains made under stress
    epochs that wrap soon                       domains made under stress
    sections entered, tables walked by steps    domains made under stress, and every other table

The steps are those of step.h, and stress.h says how often. PTL_STRESS is a seed with which the process begins.
"""

cdef enum:
    STRESS_BATCH_TABLES = 2


def put_under_stress(seed, /):
    """Put the process under stress, with what is drawn from that seed; with 0, end it. Nothing else may use the core now.

    Real threads do not repeat themselves: a seed brings back the draws of each thread, and not their order.
    """
    set_stress(as_count(seed, "seed"))


put_under_stress(int(os.environ.get("PTL_STRESS", "0")))
