"""Logits that stay on the device; only the best token of each row crosses over at once.

Shape letters, this file only:
    R = rows   V = vocabulary
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Best:
    """Logits of rows, and the largest of each.

    Args:
        logits_RV: Float32, on the device.
        values_and_ids_2R: The largest logit of each row and the lowest id that has it, both as
            float32, which is exact for ids below 2 ** 24; on the device.
    """

    logits_RV: Tensor  # noqa: N815 (tensors carry their axes)
    values_and_ids_2R: Tensor  # noqa: N815 (tensors carry their axes)

    def first(self, num_rows: int) -> "Best":
        """Return the first rows alone."""
        return Best(
            logits_RV=self.logits_RV[:num_rows],
            values_and_ids_2R=self.values_and_ids_2R[:, :num_rows],
        )


def best_of(logits_RV: Tensor) -> Best:
    """Find the best token of each row; a row with a logit that is no number has no best value."""
    values_R1 = logits_RV.amax(-1, keepdim=True)
    size = logits_RV.shape[1]
    ids_V = torch.arange(size, dtype=torch.int32, device=logits_RV.device)
    ids_R = torch.where(logits_RV == values_R1, ids_V, size).amin(-1)
    return Best(
        logits_RV=logits_RV, values_and_ids_2R=torch.stack((values_R1[:, 0], ids_R.float()))
    )


class StepLogits:
    """The logits of one step; fetched once, when the first span looks at them."""

    def __init__(self, best: Best) -> None:
        values_and_ids = best.values_and_ids_2R.cpu()  # the step is over once this is here
        self._values: list[float] = values_and_ids[0].tolist()
        self._ids = [int(token_id) for token_id in values_and_ids[1].tolist()]
        self._logits_RV, self._is_here = best.logits_RV, False

    def split(self, counts: list[int]) -> "list[CudaLogits]":
        """Deal the rows out to spans, in order."""
        ends = [sum(counts[: number + 1]) for number in range(len(counts))]
        return [CudaLogits(self, end - count, end) for end, count in zip(ends, counts, strict=True)]

    def rows(self, first: int, last: int) -> Tensor:
        """Return `logits_RV` on the CPU."""
        if not self._is_here:
            self._logits_RV, self._is_here = self._logits_RV.cpu(), True
        return self._logits_RV[first:last]

    def best(self, row: int) -> tuple[int, float]:
        """Return the best token of a row and its logit."""
        return self._ids[row], self._values[row]


class CudaLogits:
    """The logits of one span; valid until the next step."""

    def __init__(self, step: StepLogits, first: int, last: int) -> None:
        self._step, self._first, self._last = step, first, last

    def __len__(self) -> int:
        """Count the rows."""
        return self._last - self._first

    def rows(self) -> Tensor:
        """Return `logits_RV`, float32 on the CPU."""
        return self._step.rows(self._first, self._last)

    def best(self) -> tuple[int, float]:
        """Return the best token of the last row and its logit."""
        return self._step.best(self._last - 1)
