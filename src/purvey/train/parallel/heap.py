"""Memory that goes back to the system as soon as it is freed.

glibc keeps freed blocks below a threshold for later, and raises the threshold whenever a larger one
is freed (mallopt(3), M_MMAP_THRESHOLD). A rank that gathers one layer after the other would soon
hold the room of several; one that sets the threshold keeps it.
"""

import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_BLOCK_BYTES = 2**20


def give_back_blocks() -> None:
    """Map every block of a mebibyte or more by itself from now on, in the whole process.

    Does nothing with another C library than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
