"""What the machine gives right now: bytes and multiplications per second, measured beside a bar."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_READ_BYTES = 256 * 2**20
_SIDE = 1_024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Read bandwidth in GB/s, and float32 matmul rate in GFLOP/s, of all threads together."""

    read_gb_s: float
    matmul_gflop_s: float


def calibrate(*, threads: int, seconds: float = 1.0) -> Limits:
    """Measure each limit for `seconds`; the best of the repetitions is the limit."""
    torch.set_num_threads(threads)
    source = torch.ones(_READ_BYTES // 4)
    left = torch.randn(_SIDE, _SIDE)
    read_s = _best(lambda: source.sum(), seconds)
    matmul_s = _best(lambda: left @ left, seconds)
    return Limits(
        read_gb_s=_READ_BYTES / read_s / 1e9,
        matmul_gflop_s=2 * _SIDE**3 / matmul_s / 1e9,
    )


def _best(work: Callable[[], object], seconds: float) -> float:
    best, limit = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < limit:
        work()
        best = min(best, time.perf_counter() - start)
    return best
