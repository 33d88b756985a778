"""Limits that a process of ours puts on itself before it meets what others wrote. Linux only."""

import os
import resource
from pathlib import Path

_STATM = Path("/proc/self/statm")
_MEMINFO = Path("/proc/meminfo")
_CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")


class Confinement:
    """What this process may take from now on; made once, and never loosened.

    Core dumps are off.

    Args:
        memory_bytes: Address space beside what is in use now. Beyond it allocations fail, in
            Python with a `MemoryError`.
        file_bytes: Size of any file that is written.
        open_files: Number of the highest descriptor, plus one. With 0 no file, socket or program
            can be opened; what is open stays so.
    """

    def __init__(self, *, memory_bytes: int, file_bytes: int, open_files: int) -> None:
        self._base_bytes = _used_bytes()
        self._cpu_most = resource.getrlimit(resource.RLIMIT_CPU)[1]
        for kind, most in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, self._base_bytes + memory_bytes),
            (resource.RLIMIT_FSIZE, file_bytes),
            (resource.RLIMIT_NOFILE, open_files),
        ):
            allowed = _smaller(most, resource.getrlimit(kind)[1])
            resource.setrlimit(kind, (allowed, allowed))
        self._memory_most = resource.getrlimit(resource.RLIMIT_AS)[1]

    def allow(self, *, memory_bytes: int, cpu_s: int) -> None:
        """Bound the next piece of work; the kernel ends the process that computes for longer.

        Args:
            memory_bytes: As above, and at most that.
            cpu_s: Processor time, rounded up by at most two seconds.
        """
        used = resource.getrusage(resource.RUSAGE_SELF)
        until_s = int(used.ru_utime + used.ru_stime) + cpu_s + 1
        memory = _smaller(self._base_bytes + memory_bytes, self._memory_most)
        resource.setrlimit(resource.RLIMIT_AS, (memory, self._memory_most))
        resource.setrlimit(resource.RLIMIT_CPU, (_smaller(until_s, self._cpu_most), self._cpu_most))


def memory_of_machine() -> int:
    """Return the bytes of memory of this machine, or of the container where that has fewer."""
    physical = os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()
    try:
        allowed = _CONTAINER_MEMORY.read_text(encoding="ascii").strip()
    except OSError:  # no container, or an old kind of one
        return physical
    return min(physical, int(allowed)) if allowed.isdecimal() else physical


def free_memory() -> int:
    """Return the bytes that can be had now without swapping; where that is not told, all."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return memory_of_machine()
    kibibytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvail")), None)
    return memory_of_machine() if kibibytes is None else min(kibibytes * 2**10, memory_of_machine())


def used_memory() -> int:
    """Return the bytes of memory that this process holds."""
    return _pages(1) * resource.getpagesize()


def _used_bytes() -> int:
    return _pages(0) * resource.getpagesize()


def _pages(column: int) -> int:
    return int(_STATM.read_text(encoding="ascii").split()[column])


def _smaller(wanted: int, most: int) -> int:
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)
