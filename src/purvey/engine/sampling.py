"""From logits to a token, and to log-probabilities; each row by itself.

Shape letters, this file only:
    R = rows   V = vocabulary   A = alternatives   K = kept tokens   U = touched tokens
"""

import hashlib
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.contracts.sampling import Sampling, param_of
from purvey.engine.logits import first_best
from purvey.errors import InternalError, InvalidValueError

BAN = -100.0
"""The bias that rules a token out, whatever its logit."""


def choose(logits_V: Tensor, sampling: Sampling, *, position: int) -> int:
    """Choose the next token.

    Temperature 0 takes the largest logit, the lowest id among equals. Otherwise the token is
    drawn in float64 from softmax(logits / temperature), restricted by `top_k`, `top_p` and
    `min_p`, with a random number that depends on (seed, position) alone.

    Args:
        logits_V: Logits of one position, any dtype; those of tokens ruled out are `-inf`.
        sampling: How to choose; penalties, bias and grammar are in the logits already.
        position: Position of the new token in its sequence.

    Raises:
        InternalError: A logit is not a number: the model is damaged.
        InvalidValueError: Bias and grammar together rule every token out.
    """
    best = logits_V.max()
    if not torch.isfinite(best):
        raise _nothing_to_choose(float(best), sampling)
    if sampling.temperature == 0:
        return first_best(logits_V)
    scaled_V = (logits_V.double() - best.double()) / sampling.temperature
    p_V = scaled_V.softmax(-1)
    draw = uniform(sampling.seed, position)
    if sampling.top_p >= 1 and not sampling.top_k and not sampling.min_p:
        return _invert(p_V, draw)
    p_K, ids_K = _cut(p_V, sampling)
    return int(ids_K[_invert(p_K, draw)])


def checked(token_id: int, logit: float) -> int:
    """Return the best token of a row that nothing was done to.

    Raises:
        InternalError: Its logit is not finite: the model is damaged.
    """
    if not math.isfinite(logit):
        raise InternalError("the model's logits are not finite.")
    return token_id


def _nothing_to_choose(best: float, sampling: Sampling) -> InternalError | InvalidValueError:
    if best == -math.inf and (sampling.logit_bias or sampling.grammar):
        param = param_of(sampling.grammar) if sampling.grammar else "logit_bias"
        message = "no token is left to go on with: logit_bias and grammar rule all of them out."
        return InvalidValueError(message, param=param)
    return InternalError("the model's logits are not finite.")


def _cut(p_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the probabilities that are kept, not normalised again, and their ids.

    `top_k` keeps the k likeliest tokens and what equals the last of them. `top_p` then keeps
    the fewest whose share of that reaches it (Holtzman et al. 2020), likeliest first. `min_p`
    then keeps those with at least that share of the likeliest (Nguyen et al. 2024).
    """
    ids_K = torch.arange(len(p_V))
    p_K = p_V
    if 0 < sampling.top_k < len(p_V):
        ids_K = (p_V >= p_V.topk(sampling.top_k).values[-1]).nonzero()[:, 0]
        p_K = p_V[ids_K]
    if sampling.top_p < 1:
        p_K, order_K = p_K.sort(descending=True, stable=True)
        num_kept = int((p_K.cumsum(-1) < sampling.top_p * p_K.sum()).sum()) + 1
        p_K, ids_K = p_K[:num_kept], ids_K[order_K[:num_kept]]
    if sampling.min_p:
        is_kept_K = p_K >= sampling.min_p * p_K.max()
        p_K, ids_K = p_K[is_kept_K], ids_K[is_kept_K]
    return p_K, ids_K


class Adjustment:
    """What one generation changes in its logits: penalties and bias, on the touched ids only.

    Invariant: `_ids_U[i]` stands `_counts_U[i]` times in the output; each id stands there once.

    Args:
        sampling: The penalties and the bias.
        prompt: The prompt's ids, for `repetition_penalty`.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int]) -> None:
        self._sampling = sampling
        seen = dict.fromkeys(prompt) if sampling.repetition_penalty != 1 else {}
        self._places = {token_id: place for place, token_id in enumerate(seen)}
        size = max(2 * len(seen), 64)
        self._ids_U = torch.zeros(size, dtype=torch.int64)
        self._ids_U[: len(seen)] = torch.tensor(list(seen), dtype=torch.int64)
        self._counts_U = torch.zeros(size)
        self._biased_U = torch.tensor([i for i, _ in sampling.logit_bias], dtype=torch.int64)
        bias = [-math.inf if value == BAN else value for _, value in sampling.logit_bias]
        self._bias_U = torch.tensor(bias)

    @staticmethod
    def is_needed(sampling: Sampling) -> bool:
        """Tell whether anything would be changed."""
        return bool(
            sampling.logit_bias
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.repetition_penalty != 1
        )

    def note(self, token_id: int) -> None:
        """Learn that a token was put out."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids_U):
            self._ids_U = torch.cat([self._ids_U, torch.zeros_like(self._ids_U)])
            self._counts_U = torch.cat([self._counts_U, torch.zeros_like(self._counts_U)])
        self._ids_U[place] = token_id
        self._counts_U[place] += 1

    def apply(self, logits_V: Tensor) -> Tensor:
        """Return changed logits in float32: repetition first, then the others, then the bias."""
        changed_V = logits_V.to(torch.float32, copy=True)
        if num_touched := len(self._places):
            ids_U, counts_U = self._ids_U[:num_touched], self._counts_U[:num_touched]
            changed_V[ids_U] = self._penalised(changed_V[ids_U], counts_U)
        if len(self._biased_U):
            changed_V.index_add_(0, self._biased_U, self._bias_U)
        return changed_V

    def _penalised(self, logits_U: Tensor, counts_U: Tensor) -> Tensor:
        sampling = self._sampling
        factor = sampling.repetition_penalty
        if factor != 1:
            logits_U = torch.where(logits_U > 0, logits_U / factor, logits_U * factor)
        return (
            logits_U
            - sampling.frequency_penalty * counts_U
            - sampling.presence_penalty * (counts_U > 0)
        )


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a pure function of (seed, position).

    BLAKE2b serves as a counter-based generator: no state, the same on every machine.
    """
    key = struct.pack("<Qq", seed % 2**64, position)
    digest = hashlib.blake2b(key, digest_size=8, person=b"purvey.sample").digest()
    return int.from_bytes(digest, "little") / 2**64 * (1 - 2**-53)


def _invert(p_V: Tensor, draw: float) -> int:
    """Return the first index whose cumulative mass exceeds `draw` of the total."""
    cumulative_V = p_V.cumsum(-1)
    target = cumulative_V[-1] * draw
    index = int(torch.searchsorted(cumulative_V, target, right=True))
    return min(index, len(p_V) - 1)


@dataclass(frozen=True, kw_only=True)
class RowLogprobs:
    """Natural log-probabilities of one position under the untempered model.

    Args:
        chosen: That of the token which stands there.
        alternatives: The most probable tokens and theirs, best first.
    """

    chosen: float
    alternatives: tuple[tuple[int, float], ...]


def logprobs(logits_RV: Tensor, token_ids: list[int], num_alternatives: int) -> list[RowLogprobs]:
    """Compute log-probabilities of given tokens, in float32.

    Args:
        logits_RV: Logits, one row per token.
        token_ids: The token that stands at each row's next position.
        num_alternatives: Most probable tokens to report beside it, 0 for none.
    """
    logp_RV = logits_RV.float().log_softmax(-1)
    ids_R1 = torch.tensor(token_ids, dtype=torch.int64)[:, None]
    chosen = logp_RV.gather(1, ids_R1)[:, 0].tolist()
    top_RA, ids_RA = logp_RV.topk(min(num_alternatives, logp_RV.shape[1]), dim=-1)
    pairs = [
        tuple(zip(i, p, strict=True)) for i, p in zip(ids_RA.tolist(), top_RA.tolist(), strict=True)
    ]
    return [RowLogprobs(chosen=c, alternatives=a) for c, a in zip(chosen, pairs, strict=True)]
