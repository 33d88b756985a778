"""Direct preference optimisation (Rafailov et al. 2023): of two answers, the better one likelier.

Shape letters, this file only:
    P = pairs of a batch    S = 2 * P sequences: all better answers, then all worse ones
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from purvey.models.decoder import Decoder
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.language import eval_batches
from purvey.train.loss import sequence_losses
from purvey.train.step import BatchLoss
from purvey.train.token_rows import TokenRow, collate

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """A prompt with its better and its worse answer; targets are the answers alone."""

    preferred: TokenRow
    rejected: TokenRow

    @property
    def num_targets(self) -> int:
        """Tokens of both answers."""
        return self.preferred.num_targets + self.rejected.num_targets


def dpo_losses(log_ratio_P: Tensor, *, beta: float) -> Tensor:
    """Return each pair's loss in nats, `losses_P` (their eq. 7): `-log sigmoid(beta * ratio)`.

    Args:
        log_ratio_P: `log pi(y_w)/ref(y_w) - log pi(y_l)/ref(y_l)`, `w` the preferred answer and
            `l` the other, given the prompt; `beta` times it is the margin of their rewards.
        beta: Weight of the distance to the reference, above 0.
    """
    return -logsigmoid(beta * log_ratio_P)


@torch.no_grad()
def log_ratios(decoder: Decoder, pairs: Sequence[PairRow]) -> Floats:
    """Return `log pi(y_w) - log pi(y_l)` of each pair, in passes of bounded size.

    The decoder is left in evaluation mode.
    """
    decoder.eval()
    ratios = np.zeros(len(pairs))
    for chosen in eval_batches([len(p.preferred.ids) + len(p.rejected.ids) for p in pairs]):
        preferred_P, rejected_P = _answer_losses(
            decoder, [pairs[i] for i in chosen], is_packed=True
        )
        ratios[chosen] = (rejected_P - preferred_P).cpu().double().numpy()
    return ratios


class PreferenceLearner:
    """A decoder with the pairs that it learns from.

    What the decoder says of every pair now, before the first step, is the reference: it is
    computed here, once, two numbers' difference for a pair.

    Args:
        decoder: The base; LoRA adapters, if any, are in place and add nothing yet.
        pairs: Training pairs.
        validation: Pairs to evaluate on; may be empty.
        beta: As `dpo_losses` has it.
        seed: Of the order.
        likelihood_weight: Of the better answers' mean loss per token beside the preference's
            (Pang et al. 2024, eq. 2), in training alone.
        is_packed: As `LanguageLearner` has it.
    """

    def __init__(
        self,
        decoder: Decoder,
        pairs: Sequence[PairRow],
        validation: Sequence[PairRow],
        *,
        beta: float,
        seed: int,
        likelihood_weight: float = 0.0,
        is_packed: bool = True,
    ) -> None:
        self._decoder, self._pairs, self._validation = decoder, pairs, validation
        self._beta, self._seed, self._is_packed = beta, seed, is_packed
        self._likelihood_weight = likelihood_weight
        self._reference = torch.from_numpy(log_ratios(decoder, pairs)).float()
        self._validation_reference = log_ratios(decoder, validation)

    @property
    def module(self) -> Decoder:
        """The decoder."""
        return self._decoder

    @property
    def num_rows(self) -> int:
        """Training pairs of one epoch."""
        return len(self._pairs)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle."""
        order: list[int] = permutation(len(self._pairs), seed=self._seed, epoch=epoch).tolist()
        return order

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss over some pairs."""
        pairs = [self._pairs[row] for row in rows]
        preferred_P, rejected_P = _answer_losses(self._decoder, pairs, is_packed=self._is_packed)
        ratio_P = rejected_P - preferred_P - self._reference[list(rows)].to(rejected_P.device)
        losses_P = dpo_losses(ratio_P, beta=self._beta)
        if self._likelihood_weight:
            sizes_P = preferred_P.new_tensor([pair.preferred.num_targets for pair in pairs])
            losses_P = losses_P + self._likelihood_weight * preferred_P / sizes_P
        num_tokens = sum(pair.num_targets for pair in pairs)
        return BatchLoss(
            loss=losses_P.mean(),
            num_rows=len(rows),
            num_tokens=num_tokens,
            weight=float(len(rows)),
        )

    def validate(self) -> Validation | None:
        """Evaluate loss, margin of the rewards and how often the better answer has the larger."""
        if not self._validation:
            return None
        margins = reward_margins(
            self._decoder, self._validation, self._validation_reference, beta=self._beta
        )
        loss = float(margin_losses(margins).mean())
        metrics = {
            "valid_loss": loss,
            "reward_margin": float(margins.mean()),
            "reward_accuracy": float((margins > 0).mean()),
        }
        return Validation(score=-loss, loss=loss, metrics=metrics)


def reward_margins(
    decoder: Decoder, pairs: Sequence[PairRow], reference: Floats, *, beta: float
) -> Floats:
    """Return how much more reward the better answer of each pair has, in nats.

    Args:
        decoder: The tuned model; left in evaluation mode.
        pairs: Which ones.
        reference: `log_ratios` of the base for them.
        beta: As `dpo_losses` has it.
    """
    return beta * (log_ratios(decoder, pairs) - reference)


def margin_losses(margins: Floats) -> Floats:
    """Return the loss of each margin of rewards: `dpo_losses`, in float64."""
    return np.logaddexp(0.0, -margins)


def _answer_losses(
    decoder: Decoder, pairs: Sequence[PairRow], *, is_packed: bool
) -> tuple[Tensor, Tensor]:
    """Return the summed losses of the better and of the worse answers, in nats, float32."""
    rows = [*(pair.preferred for pair in pairs), *(pair.rejected for pair in pairs)]
    losses_S = sequence_losses(decoder, collate(rows, is_packed=is_packed))
    preferred_P, rejected_P = losses_S.chunk(2)
    return preferred_P, rejected_P
