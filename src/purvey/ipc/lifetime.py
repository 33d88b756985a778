"""Ending with the parent: no worker outlives the server that spawned it."""

import ctypes
import os
import signal

from purvey.errors import InternalError

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that spawned it ends.

    Linux only. A parent that ended before this call is noticed by its pid: an orphan is
    adopted by another process.

    Args:
        parent_pid: The process that spawned this one.

    Raises:
        InternalError: The kernel refused.
        SystemExit: The parent is gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise InternalError(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        raise SystemExit(1)
