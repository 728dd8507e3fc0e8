"""Python's cyclic garbage collector, set for a process that holds much and leaves little behind.

What an event leaves behind is freed by reference counts; cycles come from exceptions and lost
connections alone. As shipped, the collector runs after every 700 net allocations, and its full
runs go through all that the imports made (about 300,000 objects, tens of milliseconds in which no
mail moves). Frozen, that is never looked at again, and full runs see only what is in flight.
"""

import gc

# Net allocations of containers between two young runs. A prefetch of 1,000 holds about 100,000, and with a run every
# 10,000 the collector took a tenth of the CPU time. Older cycles, as of failed mails, wait for 200,000 and 2,000,000.
_YOUNG = 50_000
_MIDDLE, _FULL = 4, 10


def settle_collector() -> None:
    """Collect once, leave everything that is alive now out of all later runs, and run more seldom.

    For the start of a process, once what lives as long as it does has been made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _FULL)
