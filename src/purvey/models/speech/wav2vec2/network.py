"""Wav2Vec2 with a CTC head, in the shape that our recognisers have.

Shape letters, this file only:
    B = recordings   N = samples   T = steps   V = the blank, characters, and what is never written
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from purvey.contracts.model import AudioSpec
from purvey.models.pretrained.modules import heard_at_once, standardised
from purvey.models.speech.ctc import CtcNetwork
from purvey.models.speech.wav2vec2.tokens import CtcTokens

_CONTEXT_S = 5.0
"""Heard beyond what counts of a window: attention hears all of it, and most of what is near."""


class CtcWav2Vec2(CtcNetwork):
    """`Wav2Vec2ForCTC` (Baevski et al. 2020).

    Each recording is computed by itself and as long as it is. What the library masks while
    training by chance of its own is left out.

    Args:
        network: The library's.
        tokens: What its outputs stand for.
        is_normalised: Whether samples get mean 0 and variance 1 before.
        sample_rate_hz: Of the samples.
    """

    def __init__(
        self,
        network: Any,  # noqa: ANN401 (transformers is untyped here)
        *,
        tokens: CtcTokens,
        is_normalised: bool,
        sample_rate_hz: int,
    ) -> None:
        super().__init__()
        network.config.apply_spec_augment = False
        self.network, self.tokens = network, tokens
        self.num_outputs = 1 + len(tokens.written)
        self._is_normalised = is_normalised
        self._least_samples = heard_at_once(network.config)
        self._stride: int = network.config.inputs_to_logits_ratio
        self.reach_steps = max(1, round(_CONTEXT_S * sample_rate_hz / self._stride))
        order_V = torch.tensor(tokens.order)
        self.register_buffer("_order_V", order_V, persistent=False)

    def features(self, samples_N: Tensor, spec: AudioSpec) -> Tensor:
        """Return `x_N`: the samples, and silence behind those of less than a step."""
        x_N = pad(samples_N, (0, max(0, self._least_samples - len(samples_N))))
        return standardised(x_N) if self._is_normalised else x_N

    def steps_of(self, length: int) -> int:
        """Return the steps of so many samples: convolutions without padding."""
        return (length - self._least_samples) // self._stride + 1

    def step_samples(self, spec: AudioSpec) -> int:
        """Return the samples between the beginnings of two steps."""
        return self._stride

    def forward(self, x: Tensor, lengths_B: Tensor) -> Tensor:
        """Return `logp_BTV` of samples `x_BN`, in the order of `tokens.order`."""
        rows = [
            self._heard(x_N[:length]) for x_N, length in zip(x, lengths_B.tolist(), strict=True)
        ]
        return pad_sequence(rows, batch_first=True)

    def _heard(self, x_N: Tensor) -> Tensor:
        logits_TV = self.network(input_values=x_N[None]).logits[0].float()
        logp_TV: Tensor = logits_TV.log_softmax(dim=-1)
        return logp_TV.index_select(1, self.get_buffer("_order_V"))
