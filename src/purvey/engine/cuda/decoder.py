"""A decoder on a CUDA device: same weights and function as `models/decoder.py`, fused.

Between the joined linear layers lies one kernel each: what adds to the stream also normalises
it, what finishes the query, key and value projection also rotates and stores. The stream is
float32 in every precision.

Shape letters, this file only:
    T = rows    D = residual width    V = vocabulary    R = wanted rows
    P = positions of the context      F = half a head
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from purvey.engine.cuda.attention import CudaAttention
from purvey.engine.cuda.cache import CudaCache
from purvey.engine.cuda.linear import CudaLinear, Partials
from purvey.engine.cuda.pointwise import Gain, HeadRule, add_to_stream, gated, place_heads
from purvey.models.attention.base import capped
from purvey.models.decoder import Block, Decoder, RMSNorm
from purvey.models.rope import Angles


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of one step, on the device, int64.

    Args:
        tokens_T: Token ids.
        positions_T: Where they stand in their sequences.
        slots_T: Where their keys and values go.
        wanted_R: Rows whose logits are wanted; None wants all.
    """

    tokens_T: Tensor  # noqa: N815 (tensors carry their axes)
    positions_T: Tensor  # noqa: N815 (tensors carry their axes)
    slots_T: Tensor  # noqa: N815 (tensors carry their axes)
    wanted_R: Tensor | None  # noqa: N815 (tensors carry their axes)


class CudaDecoder:
    """Inference only, on one device.

    Args:
        decoder: The weights, on the CPU. They move to the device and are emptied one by one.
        dtype: Of weights, keys and products: bfloat16 or float32.
        device: Where it computes.
        max_positions: Longest sequence that will ever be computed.
    """

    @torch.inference_mode()
    def __init__(
        self, decoder: Decoder, *, dtype: torch.dtype, device: torch.device, max_positions: int
    ) -> None:
        self.config, self.dtype, self.device = decoder.config, dtype, device
        positions_P = torch.arange(min(self.config.context_tokens, max_positions))
        self._tables = _Tables(decoder.rotary.angles(positions_P), device)
        self._embedding_VD = decoder.embed_tokens.weight.detach().to(device, dtype)
        head = decoder.lm_head
        self._head = CudaLinear(
            self._embedding_VD if head is None else head.weight.detach().to(device, dtype)
        )
        if head is not None:
            _empty(head)
        self._norm = _gain(decoder.norm, self)
        blocks = [block for block in decoder.layers if isinstance(block, Block)]
        self._layers = [_Layer(block, layer, self) for layer, block in enumerate(blocks)]

    @property
    def num_bytes(self) -> int:
        """Memory of the weights of linear layers and embeddings; a tied head shares its own."""
        head_VD = self._head.weight_OI
        is_tied = head_VD.data_ptr() == self._embedding_VD.data_ptr()
        own = self._embedding_VD.nbytes + (0 if is_tied else head_VD.nbytes)
        return own + sum(layer.num_bytes for layer in self._layers)

    @property
    def num_embedding_bytes(self) -> int:
        """Of it, the embedding."""
        return self._embedding_VD.nbytes

    def logits(self, rows: Rows, cache: CudaCache, attend: CudaAttention) -> Tensor:
        """Return `logits_RV` in float32."""
        stream_TD = embedding(rows.tokens_T, self._embedding_VD).float()
        if self.config.embedding_scale != 1.0:
            stream_TD = stream_TD * self.config.embedding_scale
        added, output = None, None
        for layer in self._layers:
            normed_TD = add_to_stream(stream_TD, added, output, layer.norm, self.dtype)
            added, output = layer(stream_TD, normed_TD, rows, cache, attend)
        normed_TD = add_to_stream(stream_TD, added, output, self._norm, self.dtype)
        if rows.wanted_R is not None:
            normed_TD = normed_TD[rows.wanted_R]
        return capped(self._head(normed_TD).total(), self.config.logit_softcap)

    def tables(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Return `cos_PF` and `sin_PF` of a layer; None where it does not rotate."""
        return self._tables.of(layer)


class _Tables:
    """Rotary tables on the device; layers with the same embedding share theirs."""

    def __init__(self, angles: list[Angles], device: torch.device) -> None:
        self._angles = angles
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}
        for table in angles:
            if table is not None and id(table) not in self._moved:
                cos_PF, sin_PF = (_half(one).to(device) for one in table)
                self._moved[id(table)] = cos_PF, sin_PF

    def of(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        table = self._angles[layer]
        return (None, None) if table is None else self._moved[id(table)]


class _Layer:
    def __init__(self, block: Block, layer: int, decoder: CudaDecoder) -> None:
        config, attention, mlp = decoder.config, block.self_attn, block.mlp
        self._index, self._rule = layer, config.rule(layer)
        self._activation, self._dtype = config.activation, decoder.dtype
        cos_PF, sin_PF = decoder.tables(layer)
        self._heads = HeadRule(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_size=config.head_size,
            query_gain=None if attention.q_norm is None else _gain(attention.q_norm, decoder),
            key_gain=None if attention.k_norm is None else _gain(attention.k_norm, decoder),
            cos_PF=cos_PF,
            sin_PF=sin_PF,
        )
        self.norm = _gain(block.input_layernorm, decoder)
        second = _gain(block.post_attention_layernorm, decoder)
        before, after = block.pre_feedforward_layernorm, block.post_feedforward_layernorm
        self._mlp_norm = second if before is None else _gain(before, decoder)
        self._attention_output = None if before is None else second
        self._mlp_output = None if after is None else _gain(after, decoder)
        self._qkv = _joined((attention.q_proj, attention.k_proj, attention.v_proj), decoder)
        self._output = _joined((attention.o_proj,), decoder)
        self._gate_and_up = _joined((mlp.gate_proj, mlp.up_proj), decoder)
        self._down = _joined((mlp.down_proj,), decoder)

    @property
    def num_bytes(self) -> int:
        linears = (self._qkv, self._output, self._gate_and_up, self._down)
        return sum(linear.weight_OI.nbytes for linear in linears)

    def __call__(
        self,
        stream_TD: Tensor,
        normed_TD: Tensor,
        rows: Rows,
        cache: CudaCache,
        attend: CudaAttention,
    ) -> tuple[Partials, Gain | None]:
        qkv = self._qkv(normed_TD)
        q_TNH = place_heads(qkv, rows.positions_T, rows.slots_T, cache, self._index, self._heads)
        attended_TNH = attend(self._index, q_TNH, self._rule)
        added = self._output(attended_TNH.flatten(1))
        normed_TD = add_to_stream(
            stream_TD, added, self._attention_output, self._mlp_norm, self._dtype
        )
        opened_TI = gated(self._gate_and_up(normed_TD), self._activation, self._dtype)
        return self._down(opened_TI), self._mlp_output


def _gain(norm: RMSNorm, decoder: CudaDecoder) -> Gain:
    weight_D = norm.weight.detach().to(decoder.device).float() + decoder.config.norm_offset
    return Gain(weight_D=weight_D, epsilon=decoder.config.norm_epsilon)


def _joined(linears: tuple[nn.Linear, ...], decoder: CudaDecoder) -> CudaLinear:
    parts = [linear.weight.detach().to(decoder.device, decoder.dtype) for linear in linears]
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    _empty(*linears)
    bias_O = torch.cat(biases).to(decoder.device) if biases else None
    return CudaLinear(parts[0] if len(parts) == 1 else torch.cat(parts), bias_O)


def _half(table_P1H: Tensor) -> Tensor:
    return table_P1H[:, 0, : table_P1H.shape[-1] // 2].contiguous()


def _empty(*linears: nn.Linear) -> None:
    for linear in linears:
        linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)
