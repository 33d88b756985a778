"""A second home for a run's state, so that it can be written while the first one moves on."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from purvey.ipc.confinement import free_memory
from purvey.train.checkpoint import Snapshot

SHARE_OF_FREE_MEMORY = 0.5


class Staging:
    """Buffers that snapshots are copied to; made at the first one and used again.

    Pages that are there already take a copy several times faster than new ones. The best
    weights are never moved, so they are not copied.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, Tensor]] = {}

    def copy(self, snapshot: Snapshot, *, num_ranks: int = 1) -> Snapshot | None:
        """Return the snapshot in buffers of its own, valid until the next call.

        Args:
            snapshot: What is copied.
            num_ranks: Processes that make such a copy of their own at once.

        Returns:
            None where the buffers of all would take more than half of the memory that is free.
        """
        moving = {name: part for name, part in snapshot.parts.items() if name != "best"}
        missing = sum(
            tensor.nbytes
            for name, part in moving.items()
            for key, tensor in part.items()
            if not _fits(self._buffers.get(name, {}).get(key), tensor)
        )
        if missing and missing * num_ranks > SHARE_OF_FREE_MEMORY * free_memory():
            return None
        average = moving.get("average")
        return replace(
            snapshot,
            model=self._copied("model", snapshot.model),
            optimizer=self._copied("optimizer", snapshot.optimizer),
            average=None if average is None else self._copied("average", average),
        )

    def _copied(self, name: str, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = self._buffers.get(name, {})
        buffers: dict[str, Tensor] = {}
        for key, tensor in part.items():
            old = held.get(key)
            if old is None or not _fits(old, tensor):
                old = torch.empty(tensor.shape, dtype=tensor.dtype)
            buffers[key] = old
        self._buffers[name] = buffers
        if buffers:
            torch._foreach_copy_(list(buffers.values()), [t.detach() for t in part.values()])
        return buffers


def _fits(buffer: Tensor | None, tensor: Tensor) -> bool:
    return buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype
