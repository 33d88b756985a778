"""An encoder whose parameters learn: the arithmetic of `network.py` over weights that move.

Shape letters, this file only:
    T = packed tokens   D = residual width   S = texts   L = labels   I, O = features in and out
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, normalize

from purvey.models.attention.padded import PaddedAttention
from purvey.models.config import Activation
from purvey.models.encoder.config import EncoderConfig
from purvey.models.encoder.framing import Framed
from purvey.models.encoder.network import Encoder
from purvey.models.encoder.pooling import Pooling, pooled

_DEVIATION = 0.02
"""Of fresh weights, as BERT's."""
_PASS_TOKENS = 8_192
"""Tokens of one pass where no gradient is wanted."""
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "relu": torch.relu,
}


class EncoderModule(nn.Module):
    """Parameters by our names (`names.py`); fresh ones come from torch's default generator.

    Args:
        config: Its shape; with a head it gives logits, else vectors.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, epsilon = config.hidden_size, config.norm_epsilon
        self.words = nn.Embedding(config.vocabulary_size, width)
        self.positions = nn.Embedding(config.num_positions, width)
        if config.num_types:
            self.types = nn.Embedding(config.num_types, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        if config.has_head:
            self.head = _Head(config)
        self.dropout = nn.Dropout(config.dropout)
        self._resting: Encoder | None = None
        self.apply(_begin)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's own)
        """Change the mode; weights may be changed before every call of this, also by `eval`."""
        self._resting = None
        return super().train(mode)

    def forward(self, tokens_T: Tensor, types_T: Tensor, lengths_S: Tensor) -> Tensor:
        """Return `logits_SL` of texts back to back, from the state of each one's first token."""
        lengths: list[int] = lengths_S.tolist()
        if torch.is_grad_enabled():
            return self._logits(tokens_T, types_T, lengths)
        parts, start = [], 0
        for sizes in _portions(lengths):
            end = start + sum(sizes)
            parts.append(self._logits(tokens_T[start:end], types_T[start:end], sizes))
            start = end
        return torch.cat(parts)

    def vectors(self, texts: Sequence[Framed], pooling: Pooling) -> Tensor:
        """Return `vector_SD` of length 1 for each text, in float32."""
        lengths = [len(text) for text in texts]
        tokens_T = torch.tensor([token for text in texts for token in text.ids])
        types_T = torch.tensor([kind for text in texts for kind in text.types])
        x_TD = self._hidden(self._encoder(), tokens_T, types_T, lengths)
        tiny = torch.finfo(torch.float32).tiny
        return normalize(pooled(x_TD, lengths, pooling).float(), dim=-1, eps=tiny)

    def _logits(self, tokens_T: Tensor, types_T: Tensor, lengths: Sequence[int]) -> Tensor:
        encoder = self._encoder()
        x_TD = self._hidden(encoder, tokens_T, types_T, lengths)
        return encoder.logits(pooled(x_TD, lengths, "cls"))

    def _encoder(self) -> Encoder:
        """Join what is computed at once: anew where weights learn, else once for each `eval`."""
        is_resting = not self.training and not torch.is_grad_enabled()
        if is_resting and self._resting is not None:
            return self._resting
        tensors = dict(self.named_parameters())
        encoder = Encoder(self.config, tensors, linear=_Linear, drop=self.dropout)
        self._resting = encoder if is_resting else None
        return encoder

    def _hidden(
        self, encoder: Encoder, tokens_T: Tensor, types_T: Tensor, lengths: Sequence[int]
    ) -> Tensor:
        positions_T = torch.cat([torch.arange(length) for length in lengths]).to(tokens_T.device)
        return encoder.hidden(tokens_T, positions_T, types_T, PaddedAttention(lengths))


class _Layer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner, epsilon = config.hidden_size, config.mlp_size, config.norm_epsilon
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width, eps=epsilon)


class _Head(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.num_labels)


class _Linear:
    """`Linear` of `network.py`, differentiable in its weights."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight_OI, self._bias_O = weight_OI, bias_O

    def __call__(self, x_TI: Tensor, /) -> Tensor:
        """Return `y_TO`."""
        return linear(x_TI, self._weight_OI, self._bias_O)

    def activated(self, x_TI: Tensor, activation: Activation, /) -> Tensor:
        """Return `activation(y_TO)`."""
        return _ACTIVATIONS[activation](self(x_TI))


@torch.no_grad()
def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.normal_(0.0, _DEVIATION)
    if isinstance(module, nn.Linear):
        module.bias.zero_()


def _portions(lengths: Sequence[int]) -> list[list[int]]:
    """Divide texts, in their order, into portions of bounded padded size."""
    found: list[list[int]] = [[]]
    for length in lengths:
        longest = max([length, *found[-1]])
        if found[-1] and longest * (len(found[-1]) + 1) > _PASS_TOKENS:
            found.append([])
        found[-1].append(length)
    return found
