"""What becomes of memory that is freed: kept for the next step, or given back to the system.

glibc keeps freed blocks below a threshold for later, which it raises whenever a larger one is
freed, and gives back what is free at the end of its heap beyond another (mallopt(3)). Where every
step allocates what the one before it freed, giving back means that the system clears those pages
anew in each. A rank that gathers one layer after the other, though, would soon hold the room of
several.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_BLOCK_BYTES = 2**20
_LARGEST_KEPT_BYTES = 2**25  # the most that glibc takes
_NEVER = 2**31 - 1


def keep_blocks() -> None:
    """Keep freed blocks of up to 32 MiB for later, in the whole process, from now on.

    Does nothing with another C library than glibc.
    """
    _set({_M_MMAP_THRESHOLD: _LARGEST_KEPT_BYTES, _M_TRIM_THRESHOLD: _NEVER})


def give_back_blocks() -> None:
    """Map every block of a mebibyte or more by itself from now on, in the whole process.

    Does nothing with another C library than glibc.
    """
    _set({_M_MMAP_THRESHOLD: _BLOCK_BYTES})


def _set(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
