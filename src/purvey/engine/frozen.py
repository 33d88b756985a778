"""A decoder made ready for serving: same weights, same function, rows that stay strangers.

`models/decoder.py` is the definition; this is its fast twin and is tested against it. The
differences are layout only: weights prepacked (`linear.py`), query, key and value
projections joined, SiLU and the gate's product fused, rotary angles looked up in a table.

What is guaranteed: given the same token, position and cached keys and values, a row's
output has the same bits whatever the other rows are and however many. Every operation
here works on rows alone: row-stable linears, norms over a row, sums, and attention that
computes one sequence at a time in tiles of constant shape (`attention.py`).

Shape letters, this file only:
    T = packed tokens    D = residual width   N = query heads   K = key/value heads
    H = head width       V = vocabulary       C = positions of the context
    Y = N + K            X = N + 2K           (heads of one projection)
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding, rms_norm

from purvey.engine.linear import row_linear
from purvey.models.attention.base import Attention
from purvey.models.decoder import Block, Decoder, RMSNorm
from purvey.models.rope import angles, rotate

_BYTES_PER_FLOAT = 4


class FrozenDecoder:
    """Inference only, float32 on CPU.

    Args:
        decoder: The weights. They are copied into packed form and emptied in the decoder one
            by one, so that a model is never in memory twice; it cannot be used afterwards.
        max_positions: Longest sequence that will ever be computed, when that is less than the
            context: the table of angles is no longer.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, *, max_positions: int | None = None) -> None:
        config = decoder.config
        self.config = config
        self.num_bytes = _BYTES_PER_FLOAT * _num_floats(decoder)
        context = config.context_tokens
        positions_C = torch.arange(min(context, max_positions or context))
        self._cos_C1H, self._sin_C1H = angles(positions_C, decoder.rope_frequencies_F)
        self._embedding_VD = decoder.embed_tokens.weight.detach().float()
        head = decoder.lm_head
        self._head = row_linear(self._embedding_VD if head is None else head.weight)
        if head is not None:
            _empty(head)
        self._norm = _Norm(decoder.norm, config.norm_epsilon)
        self._layers = [_Layer(block, layer, self) for layer, block in enumerate(_blocks(decoder))]

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, attend: Attention) -> Tensor:
        """Return the normalised final states `x_TD` of packed tokens; as `Decoder.hidden`."""
        cos_T1H, sin_T1H = self._cos_C1H[positions_T], self._sin_C1H[positions_T]
        x_TD = embedding(tokens_T, self._embedding_VD)
        for layer in self._layers:
            x_TD = layer(x_TD, cos_T1H, sin_T1H, attend)
        return self._norm(x_TD)

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return `logits_TV` of final states."""
        return self._head(x_TD)


class _Norm:
    def __init__(self, norm: RMSNorm, epsilon: float) -> None:
        self._weight_D, self._epsilon = norm.weight.detach().float(), epsilon

    def __call__(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self._weight_D.shape, self._weight_D, self._epsilon)


class _Layer:
    def __init__(self, block: Block, layer: int, decoder: FrozenDecoder) -> None:
        config, attention, mlp = decoder.config, block.self_attn, block.mlp
        self._index = layer
        self._heads = [config.num_heads, config.num_kv_heads]
        self._kinds = [sum(self._heads), config.num_kv_heads]
        self._head_size = config.head_size
        self._before_attention = _Norm(block.input_layernorm, config.norm_epsilon)
        self._before_mlp = _Norm(block.post_attention_layernorm, config.norm_epsilon)
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights: list[Tensor] = [linear.weight for linear in qkv]
        biases: list[Tensor] = [linear.bias for linear in qkv if linear.bias is not None]
        self._qkv = row_linear(torch.cat(weights), torch.cat(biases) if biases else None)
        self._output = row_linear(attention.o_proj.weight, attention.o_proj.bias)
        self._gate = row_linear(mlp.gate_proj.weight, mlp.gate_proj.bias)
        self._up = row_linear(mlp.up_proj.weight, mlp.up_proj.bias)
        self._down = row_linear(mlp.down_proj.weight, mlp.down_proj.bias)
        _empty(*qkv, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)

    def __call__(self, x_TD: Tensor, cos_T1H: Tensor, sin_T1H: Tensor, attend: Attention) -> Tensor:
        qkv_TXH = self._qkv(self._before_attention(x_TD)).view(len(x_TD), -1, self._head_size)
        qk_TYH, v_TKH = torch.split(qkv_TXH, self._kinds, dim=1)
        q_TNH, k_TKH = torch.split(rotate(qk_TYH, cos_T1H, sin_T1H), self._heads, dim=1)
        out_TNH = attend(self._index, q_TNH, k_TKH, v_TKH)
        x_TD = x_TD + self._output(out_TNH.flatten(1))
        normed_TD = self._before_mlp(x_TD)
        return x_TD + self._down(self._up.times(normed_TD, self._gate.silu(normed_TD)))


def _num_floats(decoder: Decoder) -> int:
    """Count what is held: a tied head is packed apart from the embedding it equals."""
    num_parameters = sum(parameter.numel() for parameter in decoder.parameters())
    tied = decoder.embed_tokens.weight.numel() if decoder.lm_head is None else 0
    return num_parameters + tied


def _blocks(decoder: Decoder) -> list[Block]:
    return [block for block in decoder.layers if isinstance(block, Block)]


def _empty(*linears: torch.nn.Linear) -> None:
    for linear in linears:
        linear.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
