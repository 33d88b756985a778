"""One bidirectional transformer for the BERT family (Devlin et al. 2019), norms behind each part.

The linears are handed in, so that an engine decides which kernels compute and training which
parameters learn; everything else works on rows alone. Texts are packed, not padded.

Shape letters, this file only:
    T = packed tokens   D = residual width   N = heads   H = head width   I = MLP width
    S = texts           V = vocabulary       C = positions   E = segments   L = labels
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from purvey.models.attention.base import Attention, AttentionRule
from purvey.models.config import Activation
from purvey.models.encoder.config import EncoderConfig


class Linear(Protocol):
    """`x_TI @ weight_OI.T + bias_O`."""

    def __call__(self, x_TI: Tensor, /) -> Tensor:
        """Return `y_TO`."""
        ...

    def activated(self, x_TI: Tensor, activation: Activation, /) -> Tensor:
        """Return `activation(y_TO)`."""
        ...


MakeLinear = Callable[[Tensor, Tensor | None], Linear]
"""Builds a linear from `weight_OI` and `bias_O`."""
Drop = Callable[[Tensor], Tensor]


def _kept(x: Tensor) -> Tensor:
    return x


class Encoder:
    """Final states of texts and, with a head, their logits; differentiable where the linears are.

    Args:
        config: Its shape.
        tensors: Weights by our names (`names.py`), float32.
        linear: Builds the linears.
        drop: What training does to what is added to the residual stream.
    """

    def __init__(
        self,
        config: EncoderConfig,
        tensors: Mapping[str, Tensor],
        *,
        linear: MakeLinear,
        drop: Drop = _kept,
    ) -> None:
        self.config = config
        self.num_parameters = sum(tensor.numel() for tensor in tensors.values())
        self._words_VD = tensors["words.weight"]
        self._positions_CD = tensors["positions.weight"]
        self._types_ED = tensors.get("types.weight")
        self._norm = _Norm(tensors, "norm", config)
        self._drop = drop
        self._layers = [_Layer(tensors, n, config, linear, drop) for n in range(config.num_layers)]
        self._head = _Head(tensors, config, linear, drop) if config.has_head else None

    def hidden(
        self, tokens_T: Tensor, positions_T: Tensor, types_T: Tensor, attend: Attention
    ) -> Tensor:
        """Return the final states `x_TD` of packed tokens.

        Args:
            tokens_T: Token ids (int64) of all texts back to back.
            positions_T: Position of each within its text, from 0 (int64).
            types_T: Segment of each (int64); ignored where the model knows only one.
            attend: Knows which rows belong together.
        """
        x_TD = embedding(tokens_T, self._words_VD)
        if self._types_ED is not None:
            has_segments = self.config.num_types > 1
            types_T = types_T if has_segments else torch.zeros_like(types_T)
            x_TD = x_TD + embedding(types_T, self._types_ED)
        x_TD = x_TD + embedding(positions_T + self.config.first_position, self._positions_CD)
        x_TD = self._drop(self._norm(x_TD))
        for layer in self._layers:
            x_TD = layer(x_TD, attend)
        return x_TD

    def logits(self, first_SD: Tensor) -> Tensor:
        """Return `logits_SL` of each text from the state of its first token."""
        assert self._head is not None, "only an encoder with a head scores"
        return self._head(first_SD)


class _Norm:
    def __init__(self, tensors: Mapping[str, Tensor], name: str, config: EncoderConfig) -> None:
        self._weight_D, self._bias_D = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        self._epsilon = config.norm_epsilon

    def __call__(self, x_TD: Tensor) -> Tensor:
        return layer_norm(x_TD, self._weight_D.shape, self._weight_D, self._bias_D, self._epsilon)


class _Layer:
    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        number: int,
        config: EncoderConfig,
        linear: MakeLinear,
        drop: Drop,
    ) -> None:
        self._index, self._activation, self._drop = number, config.activation, drop
        self._heads = (3, config.num_heads, config.head_size)
        self._rule = AttentionRule(scale=config.head_size**-0.5)
        at = f"layers.{number}"

        def parts(kind: str) -> Tensor:
            return torch.cat([tensors[f"{at}.{n}.{kind}"] for n in ("query", "key", "value")])

        def made(name: str) -> Linear:
            return linear(tensors[f"{at}.{name}.weight"], tensors[f"{at}.{name}.bias"])

        self._qkv = linear(parts("weight"), parts("bias"))
        self._output, self._up, self._down = made("output"), made("up"), made("down")
        self._attention_norm = _Norm(tensors, f"{at}.attention_norm", config)
        self._mlp_norm = _Norm(tensors, f"{at}.mlp_norm", config)

    def __call__(self, x_TD: Tensor, attend: Attention) -> Tensor:
        q_TNH, k_TNH, v_TNH = self._qkv(x_TD).view(len(x_TD), *self._heads).unbind(1)
        out_TNH = attend(self._index, q_TNH, k_TNH, v_TNH, self._rule)
        x_TD = self._attention_norm(x_TD + self._drop(self._output(out_TNH.flatten(1))))
        opened_TI = self._up.activated(x_TD, self._activation)
        return self._mlp_norm(x_TD + self._drop(self._down(opened_TI)))


class _Head:
    """Two layers over the first token's state, text by text: a tensor's tail rounds otherwise."""

    def __init__(
        self, tensors: Mapping[str, Tensor], config: EncoderConfig, linear: MakeLinear, drop: Drop
    ) -> None:
        self._dense = linear(tensors["head.dense.weight"], tensors["head.dense.bias"])
        self._out = linear(tensors["head.out.weight"], tensors["head.out.bias"])
        self._bend = torch.tanh if config.head_activation == "tanh" else torch.relu
        self._drop = drop

    def __call__(self, first_SD: Tensor) -> Tensor:
        bent_SD = torch.stack([self._bend(row) for row in self._dense(first_SD)])
        return self._out(self._drop(bent_SD))
