"""What a soak judges: samples of a server at rest, taken after equal portions of work.

A sample is taken when every client has closed its connections and the server has come to rest,
after a collection of garbage, and after the allocator has given back whole pages that are free; so
what it holds is what the work before has left behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

PER = 100_000
"""Slopes are told for so many requests."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The server at rest.

    Attributes:
        requests: Requests sent by then.
        rss_bytes: Resident memory of the server's process.
        blocks: Blocks of memory that Python holds.
        fds: Open file descriptors.
        threads: Threads, without those of pools that fill up to a number.
        tasks: Tasks of the event loop, by name.
        tables: Sizes of what the server keeps of things that are under way, by name.
        temporary: Files that should not be there: of uploads, jobs and temporary folders.
        database_bytes: The database with its write-ahead log.
        rows: Rows of all its tables.
    """

    requests: int
    rss_bytes: int
    blocks: int
    fds: int
    threads: int
    tasks: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    temporary: tuple[str, ...] = ()
    database_bytes: int = 0
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What may grow, and how much.

    Args:
        rss: Growth of resident memory for `PER` requests, as a share of it; None judges none.
        blocks: Growth of Python's blocks, for one request.
        row_bytes: Growth of the database's bytes for a row from the middle to the end, as a share.
    """

    rss: float | None
    blocks: float
    row_bytes: float = 0.25


def slope(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """Fit a line by least squares; return its rise for one request."""
    x = [sample.requests for sample in samples]
    y = [value(sample) for sample in samples]
    mean_x, mean_y = fmean(x), fmean(y)
    rise = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return rise / sum((a - mean_x) ** 2 for a in x)


def settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples of the second half of the requests: before, caches and pools fill."""
    middle = samples[-1].requests / 2
    return [sample for sample in samples if sample.requests >= middle]


def rss_growth(samples: Sequence[Sample]) -> float:
    """Return the growth of resident memory for `PER` requests, as a share of its mean."""
    later = settled(samples)
    return slope(later, lambda s: s.rss_bytes) * PER / fmean(s.rss_bytes for s in later)


def faults(samples: Sequence[Sample], bounds: Bounds) -> list[str]:
    """Say what has grown that may not; nothing to say means a clean soak.

    The first sample is the baseline: taken after a warm-up that has used everything once.
    """
    found = [*_memory(settled(samples), samples, bounds), *_left_behind(samples[0], samples[-1])]
    before, after = settled(samples)[0], samples[-1]
    if before.rows and after.rows:
        each = [s.database_bytes / s.rows for s in (before, after)]
        if each[1] > each[0] * (1 + bounds.row_bytes):
            found.append(f"the database took {each[0]:.0f} bytes a row, then {each[1]:.0f}")
    return found


def _memory(later: Sequence[Sample], samples: Sequence[Sample], bounds: Bounds) -> list[str]:
    found = []
    growth = rss_growth(samples)
    if bounds.rss is not None and growth > bounds.rss:
        found.append(f"resident memory grows by {growth:.2%} for {PER} requests")
    blocks = slope(later, lambda s: s.blocks)
    if blocks > bounds.blocks:
        found.append(f"Python keeps {blocks:.3f} blocks for each request")
    return found


def _left_behind(first: Sample, last: Sample) -> list[str]:
    found = [
        f"{name}: {getattr(first, name)} at first, {getattr(last, name)} at the end"
        for name in ("fds", "threads")
        if getattr(last, name) > getattr(first, name)
    ]
    for kind, before, after in (
        ("task", first.tasks, last.tasks),
        ("table", first.tables, last.tables),
    ):
        found += [
            f"{kind} {name!r}: {before.get(name, 0)} at first, {count} at the end"
            for name, count in after.items()
            if count > before.get(name, 0)
        ]
    return found + [f"left on the disk: {name}" for name in last.temporary[:10]]
