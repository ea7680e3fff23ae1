# SPDX-License-Identifier: MIT
"""What the core keeps beside each table, in a side array: nothing here shares a cache line with entries.

    Block.memory   | table 0 | table 1 | ...                                    ... | data | data |
    Block.tables   | Table   | Table   | ...      one descriptor of 64 bytes a frame ...  | Table |

A table's life:

    FREE --take--> PRIVATE --publish--> LIVE --detach--> RETIRED --grace period--> FREE
                      '--------give back------------------------------------------^

Memory that has held a table is only ever a table again (it is *type-stable*), and so is its descriptor: a thread may
read a lock, a pin count or a state of a table that has since begun another life, and must then look again.
"""

cdef enum FrameUse:
    FRAME_UNUSED = 0     # never handed out, or the inside of something larger
    TABLE_FREE = 1
    TABLE_PRIVATE = 2    # only its maker knows it
    TABLE_LIVE = 3       # some slot names it, or it is a root
    TABLE_RETIRED = 4    # no slot names it; late readers may still be inside
    DATA_FREE = 5
    DATA = 6

cdef struct Table:
    uint32_t lock        # 0 or owner << 1 | somebody waits (lock.pxi)
    uint32_t use         # a FrameUse; changed by the one thread that owns the step
    uint32_t pins        # handles that hold this table back from reuse; data: owners, under the block's lock
    uint8_t order        # base-2 logarithm of its frames
    uint8_t level
    uint16_t in_range    # whether a range operation holds the lock; for the holder
    uint64_t stamp       # the epoch in which it was retired
    Table *link          # free list, private chain, limbo: a table is in one of them at a time
    Table *chain         # tables that one range operation has locked; data: the previous free run
    Block *block
    uint64_t refs        # how many slots name it: more than one when trees share it (share.pxi)
    uint64_t generation  # that of the tree that may change it; inside the gate (epoch.pxi)

assert sizeof(Table) == 64
