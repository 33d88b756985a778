"""Which processors there are, which of them are one core, and how jobs and engines divide them."""

import contextlib
import math
import os
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

Core = frozenset[int]
"""The processors of one core: one, or two where it runs two threads at a time."""
_TOPOLOGY = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, kw_only=True)
class Division:
    """The processors that jobs and engines keep to while both compute; none belongs to both."""

    jobs: frozenset[int]
    engines: frozenset[int]


def divide(cores: Sequence[Core], *, job_share: float) -> Division | None:
    """Divide cores: jobs get the first, engines what is left, and each at least one.

    A core is divided only where it is the only one: its two threads share one unit of
    arithmetic, and each would slow the other down.

    Args:
        cores: Those there are, neighbours next to each other; they have no processor in common.
        job_share: Share of them that jobs get, rounded up (0 to 1).

    Returns:
        None where there is nothing to divide: a single processor, or a share of 1.
    """
    parts = list(cores) if len(cores) > 1 else [Core({one}) for one in sorted(Core().union(*cores))]
    if len(parts) < 2 or job_share >= 1:
        return None
    wanted = math.ceil(len(parts) * job_share - 1e-9)  # 0.07 * 100 is more than 7
    num_jobs = min(max(1, wanted), len(parts) - 1)
    return Division(jobs=Core().union(*parts[:num_jobs]), engines=Core().union(*parts[num_jobs:]))


def window(cores: Sequence[Core], *, num_processors: int, first: int) -> list[Core]:
    """Return neighbouring cores, from one on and around the end, of so many processors.

    For a container whose quota is smaller than the machine: what it is divided into then runs
    on as many processors at a time as it may use.

    Args:
        cores: Those of the machine.
        num_processors: Processors to be found, at least 1; the last core may exceed it.
        first: Place of the first one; counted around.
    """
    chosen: list[Core] = []
    for place in range(len(cores)):
        if sum(map(len, chosen)) >= num_processors:
            break
        chosen.append(cores[(first + place) % len(cores)])
    return chosen


def cores_of(processors: Collection[int], *, topology: Path = _TOPOLOGY) -> list[Core]:
    """Return the cores that some processors make up, in the order of their first ones.

    A processor of which nothing is told is a core of its own.
    """
    left, cores = set(processors), list[Core]()
    for processor in sorted(processors):
        if processor in left:
            cores.append(Core(_siblings(processor, topology) & left | {processor}))
            left -= cores[-1]
    return cores


def run_on(pid: int, processors: AbstractSet[int]) -> None:
    """Keep every thread of a process on these processors; new threads follow their makers.

    Args:
        pid: A process that has not been reaped; harmless when it has ended.
        processors: At least one that it may use.

    Raises:
        OSError: The kernel refuses; some threads may have been moved.
    """
    moved: set[int] = set()
    while found := _threads(pid) - moved:  # one that was made meanwhile is found by the next look
        for thread in found:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, processors)
        moved |= found


def _threads(pid: int) -> set[int]:
    try:
        return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _siblings(processor: int, topology: Path) -> set[int]:
    path = topology / f"cpu{processor}" / "topology" / "thread_siblings_list"
    try:
        return _parse(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or not in the form that is known
        return {processor}


def _parse(text: str) -> set[int]:
    """Read the kernel's lists: `0-3,8`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
