"""Learning to answer about images: rows of tokens that each begin with the rows of their images.

Shape letters, this file only:
    B = images of a batch   C = channels   H = rows   W = columns
    M = positions with a target   N = rows of a split
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purvey.models.seeing.network import Seeing, Shown
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.language import eval_batches
from purvey.train.loss import mean_loss, target_verdicts
from purvey.train.step import BatchLoss
from purvey.train.token_rows import TokenRow, collate


class Images(Protocol):
    """Images of one size, decoded; as many of each row."""

    @property
    def num_each(self) -> int:
        """Images of a row."""
        ...

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Return `x_BCHW` of some rows in float32, changed at random where gradients are on."""
        ...


@dataclass(frozen=True, kw_only=True)
class SeenRows:
    """A split: the images of each row, and its tokens, the images' held places among them.

    Args:
        tokens: Rows with a target each; any ids where images give the rows.
        images: Of as many rows.
    """

    tokens: Sequence[TokenRow]
    images: Images


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a model makes of rows, one number each.

    Greedy decoding writes a row's answers, token by token, if and only if each of their tokens is
    the likeliest after the ones before it; so one forward pass tells what writing would.

    Args:
        nats_N: Summed loss.
        counts_N: Tokens of the answers.
        is_right_N: Whether greedy decoding writes the answers, ends included.
    """

    nats_N: NDArray[np.float64]  # noqa: N815 (arrays carry their axes)
    counts_N: NDArray[np.float64]  # noqa: N815 (arrays carry their axes)
    is_right_N: NDArray[np.bool_]  # noqa: N815 (arrays carry their axes)


class SeeingLearner:
    """A decoder with eyes, and the rows it learns from.

    Args:
        module: What is trained; LoRA adapters, if any, are already in place.
        rows: Training rows.
        validation: Rows to evaluate on; may be none.
        seed: Of the order.
        is_packed: Compute a batch's rows back to back; else pad them to the longest.
        smoothing: As `mean_loss` has it.
    """

    def __init__(
        self,
        module: Seeing,
        *,
        rows: SeenRows,
        validation: SeenRows,
        seed: int,
        is_packed: bool = False,
        smoothing: float = 0.0,
    ) -> None:
        self._module, self._rows, self._validation = module, rows, validation
        self._seed, self._is_packed, self._smoothing = seed, is_packed, smoothing

    @property
    def module(self) -> Seeing:
        """Decoder and eyes."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._rows.tokens)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle."""
        order: list[int] = permutation(self.num_rows, seed=self._seed, epoch=epoch).tolist()
        return order

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss over the answers' tokens of some rows."""
        tokens = [self._rows.tokens[row] for row in rows]
        batch = collate(tokens, is_packed=self._is_packed)
        shown = _shown(self._module, self._rows.images, rows)
        loss = mean_loss(shown, batch, smoothing=self._smoothing)
        return BatchLoss(loss=loss, num_rows=len(rows), num_tokens=int(batch.is_target_T.sum()))

    def validate(self) -> Validation | None:
        """Evaluate the share of rows that are answered right, and the loss."""
        if not self._validation.tokens:
            return None
        judged = judge(self._module, self._validation)
        loss, exact = float(judged.nats_N.sum() / judged.counts_N.sum()), judged.is_right_N.mean()
        metrics = {"valid_loss": loss, "exact_match": float(exact)}
        return Validation(score=float(exact), loss=loss, metrics=metrics)


def _shown(module: Seeing, images: Images, rows: Sequence[int]) -> Shown:
    return module.shown(images.batch(rows), num_each=images.num_each)


@torch.no_grad()
def judge(module: Seeing, rows: SeenRows) -> Judged:
    """Let a model answer rows; it is left in evaluation mode."""
    module.eval()
    num_rows = len(rows.tokens)
    nats_N, wrong_N = np.zeros(num_rows), np.zeros(num_rows)
    for chosen in eval_batches([len(row.ids) for row in rows.tokens]):
        batch = collate([rows.tokens[row] for row in chosen], is_packed=False)
        shown = _shown(module, rows.images, chosen)
        losses_M, is_best_M = target_verdicts(shown, batch)
        owners_M = batch.owners().numpy()
        for sums_N, values_M in ((nats_N, losses_M), (wrong_N, ~is_best_M)):
            weights_M = values_M.double().numpy()
            sums_N[chosen] += np.bincount(owners_M, weights=weights_M, minlength=len(chosen))
    return Judged(
        nats_N=nats_N,
        counts_N=np.array([float(row.num_targets) for row in rows.tokens]),
        is_right_N=wrong_N == 0,
    )
