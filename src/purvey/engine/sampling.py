"""From logits to a token, and to log-probabilities; each row by itself.

Shape letters, this file only:
    R = rows   V = vocabulary   A = alternatives
"""

import hashlib
import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.contracts.engine import Sampling
from purvey.errors import InternalError


def choose(logits_V: Tensor, sampling: Sampling, *, position: int) -> int:
    """Choose the next token.

    Temperature 0 takes the largest logit, the lowest id among equals. Otherwise the token is
    drawn in float64 from softmax(logits / temperature), restricted to the nucleus (the
    fewest tokens whose mass reaches `top_p`; Holtzman et al. 2020), with a random number
    that depends on (seed, position) alone.

    Args:
        logits_V: Logits of one position, any dtype.
        sampling: How to choose.
        position: Position of the new token in its sequence.

    Raises:
        InternalError: A logit is not a number: the model is damaged.
    """
    best = logits_V.max()
    if not torch.isfinite(best):
        raise InternalError("the model's logits are not finite.")
    if sampling.temperature == 0:
        return int((logits_V == best).nonzero()[0])
    scaled_V = (logits_V.double() - best.double()) / sampling.temperature
    p_V = scaled_V.softmax(-1)
    draw = uniform(sampling.seed, position)
    if sampling.top_p >= 1:
        return _invert(p_V, draw)
    sorted_V, ids_V = p_V.sort(descending=True, stable=True)
    num_kept = int((sorted_V.cumsum(-1) < sampling.top_p).sum()) + 1
    return int(ids_V[_invert(sorted_V[:num_kept], draw)])


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
