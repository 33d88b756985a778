"""The connected ranks of a run, and what they tell each other beside gradients.

Every method is called by all ranks in the same order; each waits for the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

_BUCKET_BYTES = 25 * 2**20
"""Gradients that are added up in one message; more would only delay the first copy back."""
_PATIENCE = timedelta(days=1)
"""No rank waits that long: one that ends closes its connections, one that hangs is noticed by
the first one's watchdog, and all end with the first."""


class Group:
    """The ranks of a run, as one of them sees them.

    Args:
        rank: This one, from 0.
        size: How many there are.
        connections: Over which they speak; those that `connected` makes where not given.
    """

    def __init__(
        self, *, rank: int, size: int, connections: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.size, self._connections = rank, size, connections

    def beside(self) -> "Group":
        """Connect the ranks once more, for a thread of each that speaks while others compute."""
        connections = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return Group(rank=self.rank, size=self.size, connections=connections)

    @property
    def is_first(self) -> bool:
        """Whether this rank reports, writes and decides."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Return sums over all ranks, in float64; one that is not finite stays so."""
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self._connections)
        return [float(value) for value in sums]

    def told(self, value: float) -> float:
        """Return the first rank's number."""
        number = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(number, src=0, group=self._connections)
        return float(number)

    def agreed(self, claim: object) -> bool:
        """Return whether the first rank's claim is true."""
        return self.told(float(bool(claim))) == 1.0

    def told_bytes(self, payload: bytes) -> bytes:
        """Return the first rank's bytes."""
        content = torch.zeros(int(self.told(len(payload))), dtype=torch.uint8)
        if self.is_first and payload:
            content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        dist.broadcast(content, src=0, group=self._connections)
        return content.numpy().tobytes()

    def gathered(self, payload: bytes) -> list[bytes]:
        """Return on the first rank what the others have given, by rank; on those, nothing."""
        sizes = self.total([float(len(payload) * (r == self.rank)) for r in range(self.size)])
        if not self.is_first:
            content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
            dist.send(content, dst=0, group=self._connections)
            return []
        return [self._received(rank, round(sizes[rank])) for rank in range(1, self.size)]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, in place."""
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat, group=self._connections)
            pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
            shaped = [piece.view_as(t) for piece, t in zip(pieces, bucket, strict=True)]
            torch._foreach_copy_(bucket, shaped)

    def _received(self, rank: int, num_bytes: int) -> bytes:
        content = torch.empty(num_bytes, dtype=torch.uint8)
        dist.recv(content, src=rank, group=self._connections)
        return content.numpy().tobytes()


@contextmanager
def connected(store: Path, *, rank: int, size: int) -> Iterator[Group]:
    """Connect this process with the other ranks until the block is left.

    What lies in memory goes through gloo, and what lies on a CUDA device through NCCL.

    Args:
        store: File that all ranks name; the first to come makes it.
        rank: This one, from 0.
        size: How many there are.

    Raises:
        RuntimeError: A rank is gone.
    """
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_nccl else "gloo",
        store=dist.FileStore(str(store), size),  # type: ignore[attr-defined]  # not marked as exported
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    try:
        yield Group(rank=rank, size=size)
    finally:
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gather neighbours of one type; their order is the same on every rank."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        is_full = sum(held.nbytes for held in bucket) >= _BUCKET_BYTES
        if bucket and (is_full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
