"""A decoder made ready for serving: same weights, same function, rows that stay strangers.

`models/decoder.py` is the definition; this is its fast twin and is tested against it. The
differences are layout: weights prepacked, query, key and value projections joined, gate and up
projections too, rotary angles looked up in a table; and what the linear layers are computed in
(`linears/`). Residual stream, norms, attention and softmax are float32 in every precision.

What is guaranteed: given the same token, position and cached keys and values, a row's
output has the same bits whatever the other rows are and however many. Every operation
here works on rows alone: row-stable linears, norms over a row, sums, and attention that
computes one sequence at a time in tiles of constant shape (`attention/`).

Shape letters, this file only:
    T = packed tokens    D = residual width   N = query heads   K = key/value heads
    H = head width       V = vocabulary       C = positions of the context
    Y = N + K            X = N + 2K           (heads of one projection)
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from purvey.engine.adapters.sites import DOWN, OUTPUT, QKV
from purvey.engine.adapters.step import StepAdditions
from purvey.engine.batch import Given
from purvey.engine.linears.base import LinearFactory, joined
from purvey.engine.linears.float32 import Float32Linears
from purvey.engine.linears.pointwise import RowNorm, rotated, turned_sines
from purvey.models.attention.base import Attention, capped
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Block, Decoder, RMSNorm
from purvey.models.rope import Angles


class FrozenDecoder:
    """Inference only, on CPU.

    Args:
        decoder: The weights, in any floating dtype. They are packed and emptied in the decoder
            layer by layer, so that a model is never in memory twice; it cannot be used
            afterwards. The embedding stays as it is.
        max_positions: Longest sequence that will ever be computed, when that is less than the
            context: the table of angles is no longer.
        linears: Builds the linear layers; in float32 unless given.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: Decoder,
        *,
        max_positions: int | None = None,
        linears: LinearFactory | None = None,
    ) -> None:
        config, linears = decoder.config, linears or Float32Linears()
        self.config = config
        self.layers_computed = 0
        context = config.context_tokens
        positions_C = torch.arange(min(context, max_positions or context))
        self._angles = _turned(decoder.rotary.angles(positions_C))
        self._embedding_VD = decoder.embed_tokens.weight.detach()
        head = decoder.lm_head
        self._head = linears.head(self._embedding_VD if head is None else head.weight)
        if head is not None:
            _empty(head)
        self._norm = _norm(decoder.norm, config)
        self._layers = [
            _Layer(block, config, layer, linears) for layer, block in enumerate(_blocks(decoder))
        ]

    @property
    def num_bytes(self) -> int:
        """Memory of the weights; a tied head is packed apart from the embedding it equals."""
        layers = sum(layer.num_bytes for layer in self._layers)
        return self._embedding_VD.nbytes + self._head.num_bytes + self._norm.num_bytes + layers

    def hidden(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        attend: Attention,
        additions: StepAdditions | None = None,
        given: Given | None = None,
    ) -> Tensor:
        """Return the normalised final states `x_TD` of packed tokens; as `Decoder.hidden`.

        What adapters add, they add to what the joined layers give. Rows that are given stand in
        the place of those that their tokens would have.
        """
        x_TD = embedding(tokens_T, self._embedding_VD).float()
        if self.config.embedding_scale != 1.0:
            x_TD = x_TD * self.config.embedding_scale
        if given is not None:
            x_TD = torch.index_copy(x_TD, 0, given.rows_G, given.x_GD)
        looked_up: dict[int, Angles] = {id(None): None}
        for layer, table in zip(self._layers, self._angles, strict=True):
            if table is not None and id(table) not in looked_up:  # layers share their tables
                looked_up[id(table)] = table[0][positions_T], table[1][positions_T]
            x_TD = layer(x_TD, looked_up[id(table)], attend, additions)
            self.layers_computed += 1
        return self._norm(x_TD)

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return `logits_TV` of final states."""
        logits_TV = self._head(x_TD)
        if self.config.logit_softcap is None or not len(logits_TV):
            return logits_TV
        # Row by row: the last elements of a tensor are rounded differently.
        return torch.stack([capped(row, self.config.logit_softcap) for row in logits_TV])


class _Layer:
    def __init__(
        self, block: Block, config: DecoderConfig, layer: int, linears: LinearFactory
    ) -> None:
        attention, mlp = block.self_attn, block.mlp
        self._index, self._rule = layer, config.rule(layer)
        self._heads = [config.num_heads, config.num_kv_heads]
        self._kinds = [sum(self._heads), config.num_kv_heads]
        self._head_size = config.head_size
        self._norms = _Norms(block, config)
        qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights: list[Tensor] = [linear.weight for linear in qkv]
        biases: list[Tensor] = [linear.bias for linear in qkv if linear.bias is not None]
        self._qkv = linears.linear(joined(weights), joined(biases) if biases else None)
        self._output = linears.linear(attention.o_proj.weight, attention.o_proj.bias)
        self._opened = linears.gated(mlp.gate_proj, mlp.up_proj, config.activation)
        self._down = linears.linear(mlp.down_proj.weight, mlp.down_proj.bias)
        _empty(*qkv, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)

    @property
    def num_bytes(self) -> int:
        linears = (self._qkv, self._output, self._opened, self._down)
        return self._norms.num_bytes + sum(linear.num_bytes for linear in linears)

    def __call__(
        self, x_TD: Tensor, angles: Angles, attend: Attention, additions: StepAdditions | None
    ) -> Tensor:
        norms = self._norms
        x_TD = x_TD + norms.after_attention(
            self._attended(norms.before_attention(x_TD), angles, attend, additions)
        )
        opening = None if additions is None else additions.gate(self._index)
        opened_TI = self._opened(norms.before_mlp(x_TD), opening)
        down_TD = self._down(opened_TI)
        if additions is not None:
            additions.add_(DOWN, self._index, opened_TI, down_TD)
        return x_TD + norms.after_mlp(down_TD)

    def _attended(
        self, x_TD: Tensor, angles: Angles, attend: Attention, additions: StepAdditions | None
    ) -> Tensor:
        joined_TI = self._qkv(x_TD)
        if additions is not None:
            additions.add_(QKV, self._index, x_TD, joined_TI)
        qkv_TXH = joined_TI.view(len(x_TD), -1, self._head_size)
        qk_TYH, v_TKH = torch.split(qkv_TXH, self._kinds, dim=1)
        qk_TYH = self._norms.queries_and_keys(qk_TYH, self._heads)
        if angles is not None:
            qk_TYH = rotated(qk_TYH, *angles)
        q_TNH, k_TKH = torch.split(qk_TYH, self._heads, dim=1)
        out_TNH = attend(self._index, q_TNH, k_TKH, v_TKH, self._rule)
        mixed_TI = out_TNH.flatten(1)
        out_TD = self._output(mixed_TI)
        if additions is not None:
            additions.add_(OUTPUT, self._index, mixed_TI, out_TD)
        return out_TD


class _Norms:
    """The norms of one layer: two, or four, and those of queries and keys."""

    def __init__(self, block: Block, config: DecoderConfig) -> None:
        self.before_attention = _norm(block.input_layernorm, config)
        second = _norm(block.post_attention_layernorm, config)
        before, after = block.pre_feedforward_layernorm, block.post_feedforward_layernorm
        self.before_mlp = second if before is None else _norm(before, config)
        self.after_attention: RowNorm | _Same = _Same() if before is None else second
        self.after_mlp: RowNorm | _Same = _Same() if after is None else _norm(after, config)
        attention = block.self_attn
        self._of_queries = None if attention.q_norm is None else _norm(attention.q_norm, config)
        self._of_keys = None if attention.k_norm is None else _norm(attention.k_norm, config)

    @property
    def num_bytes(self) -> int:
        return sum(norm.num_bytes for norm in vars(self).values() if isinstance(norm, RowNorm))

    def queries_and_keys(self, qk_TYH: Tensor, heads: list[int]) -> Tensor:
        if self._of_queries is None or self._of_keys is None:
            return qk_TYH
        q_TNH, k_TKH = torch.split(qk_TYH, heads, dim=1)
        return torch.cat((self._of_queries(q_TNH), self._of_keys(k_TKH)), dim=1)


class _Same:
    def __call__(self, x_TD: Tensor) -> Tensor:
        return x_TD


def _norm(norm: RMSNorm, config: DecoderConfig) -> RowNorm:
    return RowNorm(norm.weight.detach().float() + config.norm_offset, config.norm_epsilon)


def _turned(tables: list[Angles]) -> list[Angles]:
    """Return the tables with sines for `rotated`; those that layers share stay shared."""
    known: dict[int, Angles] = {id(None): None}
    for table in tables:
        if table is not None and id(table) not in known:
            known[id(table)] = table[0], turned_sines(table[1])
    return [known[id(table)] for table in tables]


def _blocks(decoder: Decoder) -> list[Block]:
    return [block for block in decoder.layers if isinstance(block, Block)]


def _empty(*linears: torch.nn.Linear) -> None:
    for linear in linears:
        linear.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
