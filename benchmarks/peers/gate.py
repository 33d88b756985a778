"""Correctness before speed: what each subject answers is compared with float32 by `transformers`.

Float32 against float32: greedy tokens are equal up to the first step at which the oracle's best
two logits lie closer than `NEAR_TIE`. Below float32: the divergence of the first output's
distribution from the oracle's is at most what the quantiser's step allows. A linear layer adds
relative noise e (values that reach m standard deviations, in n levels to each side, rounded:
m / n / sqrt(12), of activations and weights in squares); 2 L + 1 of them follow one another, so the
logits, whose deviation is s, move by at most e sqrt(2 L + 1) s, and a distribution whose logits
move by d has a divergence of d^2 / 2. The peer's own divergence stands beside ours in the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.peers.model import SHAPE, model_folder
from purvey.contracts.deployment import Precision

NEAR_TIE = 0.05
"""Logits; twenty times what summing in another order moves them by here."""
NOISE: dict[Precision, float] = {"bf16": 0.0016, "int8": 0.0205, "int4": 0.104}
"""Of one linear layer, relative: 8 bits of mantissa on both sides; rows of activations in 63 levels
and of weights in 127, at 4 deviations; weights in 7.5 levels, groups of 128 at 2.7 deviations."""


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """What float32 says of the gate's prompts.

    Args:
        prompts: Token ids.
        scores_BV: Logits of the first output, float32.
        tokens: Greedy outputs.
        gaps: By output, how far its best logit lay above the next.
    """

    prompts: list[list[int]]
    scores_BV: Tensor  # noqa: N815 (axes of a tensor)
    tokens: list[list[int]]
    gaps: list[list[float]]

    def equal_tokens(self, found: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Compare greedy outputs; `is_equal` forgives what follows a near-tie."""
        equal, is_equal = 0, True
        for right, gaps, own in zip(self.tokens, self.gaps, found, strict=True):
            same = 0
            while same < len(right) and right[same] == own[same]:
                same += 1
            equal += same
            is_equal &= same == len(right) or gaps[same] < NEAR_TIE
        wanted = sum(len(one) for one in self.tokens)
        return {"equal": equal, "of": wanted, "is_equal": is_equal}

    def divergence(self, logprobs: Sequence[dict[int, float]]) -> float:
        """Mean divergence KL(oracle, subject) in nats, over the tokens told and all others as one.

        Lumping the others together makes it a lower bound, for either side alike.
        """
        total = 0.0
        for scores_V, told in zip(self.scores_BV, logprobs, strict=True):
            right_V = scores_V.double().log_softmax(-1)
            ids = torch.tensor(list(told))
            own = torch.tensor(list(told.values()), dtype=torch.float64)
            right = right_V[ids]
            total += float((right.exp() * (right - own)).sum())
            rest_right = float((1 - right.exp().sum()).clamp_min(1e-12))
            rest_own = float((1 - own.exp().sum()).clamp_min(1e-12))
            total += rest_right * float(torch.tensor(rest_right / rest_own).log())
        return total / len(logprobs)

    def most_divergence(self, precision: Precision) -> float:
        """Return the divergence that `precision` may have, in nats."""
        depth = 2 * int(SHAPE["num_hidden_layers"]) + 1
        return float(NOISE[precision] ** 2 * depth * self.scores_BV.var() / 2)


def equal_outputs(one: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> int:
    """Count the prompts whose outputs are the same from the first token to the last."""
    return sum(list(a) == list(b) for a, b in zip(one, other, strict=True))


def top_logprobs(scores_BV: Tensor, count: int) -> list[dict[int, float]]:
    """Return the best `count` tokens of each row with their log-probabilities."""
    best = scores_BV.double().log_softmax(-1).topk(count)
    return [
        dict(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@torch.inference_mode()
def consult(prompts: list[list[int]], *, outputs: int, threads: int) -> Oracle:
    """Compute what float32 says; the model is gone from memory afterwards."""
    torch.set_num_threads(threads)
    model = transformers.LlamaForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    ids = torch.tensor(prompts)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=outputs,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best_BST = torch.stack(out.logits, dim=1).topk(2).values
    return Oracle(
        prompts=prompts,
        scores_BV=out.logits[0],
        tokens=out.sequences[:, ids.shape[1] :].tolist(),
        gaps=(best_BST[..., 0] - best_BST[..., 1]).tolist(),
    )
