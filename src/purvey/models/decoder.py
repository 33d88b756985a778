"""One causal transformer for every family of `families.py`, shared by training and serving.

Module names are those of Hugging Face's checkpoints without the leading `model.`, so that a
folder's tensors need no other translation (`weights.py`).

Shape letters, this file only:
    B = sequences      L = positions of each    T = packed tokens      D = residual width
    N = query heads    K = key/value heads      H = head width         V = vocabulary
    F = H / 2 rotary frequencies
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, rms_norm, silu

from purvey.models.attention.base import Attention, capped
from purvey.models.attention.dense import DenseAttention
from purvey.models.config import DecoderConfig
from purvey.models.rope import Angles, Rotary, rotate


class Decoder(nn.Module):
    """A decoder-only language model, computed in float32 unless its parameters are converted.

    Fresh weights are N(0, `initializer_std`) from torch's default generator; gains are 1, biases 0.

    With `is_recomputed` a graph holds the states between layers alone, and a layer is computed
    once more on the way back (Chen et al. 2016): the same bits for less memory and more work.

    Args:
        config: Its shape.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config)
        self.lm_head: nn.Linear | None = None
        if not config.is_tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocabulary_size, bias=False)
        self.rotary = Rotary(config)
        self.is_recomputed = False
        self.reset_parameters()

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Return `logits_BLV` in float32 for whole sequences of one length.

        Sequences shorter than `L` are padded on the right with any id; their own positions are
        not affected.
        """
        num_sequences, length = tokens_BL.shape
        positions_T = torch.arange(length, device=tokens_BL.device).repeat(num_sequences)
        attend = DenseAttention(num_sequences=num_sequences)
        x_TD = self.hidden(tokens_BL.reshape(-1), positions_T, attend)
        return self.logits(x_TD).reshape(num_sequences, length, -1)

    def hidden(self, tokens_T: Tensor, positions_T: Tensor, attend: Attention) -> Tensor:
        """Return the normalised final states `x_TD` of packed tokens.

        Args:
            tokens_T: Token ids (int64) of all sequences back to back.
            positions_T: Position of each within its sequence (int64).
            attend: Knows which rows belong together; called once per layer, in order.
        """
        return self.states(self.embedded(tokens_T), positions_T, attend)

    def embedded(self, tokens_T: Tensor) -> Tensor:
        """Return the stream `x_TD` before the first layer."""
        x_TD: Tensor = self.embed_tokens(tokens_T) * self.config.embedding_scale
        return x_TD

    def states(self, x_TD: Tensor, positions_T: Tensor, attend: Attention) -> Tensor:
        """Return the normalised final states of rows as they enter the first layer; as `hidden`."""
        for block, angles in zip(self.layers, self.rotary.angles(positions_T), strict=True):
            if self.is_recomputed and torch.is_grad_enabled():
                x_TD = _recomputed(block, x_TD, angles, attend)
            else:
                x_TD = block(x_TD, angles, attend)
        normed_TD: Tensor = self.norm(x_TD)
        return normed_TD

    @property
    def head(self) -> Tensor:
        """The matrix `head_VD` that gives logits; the embedding's where they are tied."""
        return (self.embed_tokens if self.lm_head is None else self.lm_head).weight

    def logits(self, x_TD: Tensor) -> Tensor:
        """Return `logits_TV` in float32 of final states."""
        logits_TV = linear(x_TD, self.head).float()
        return capped(logits_TV, self.config.logit_softcap)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew; nothing happens on the meta device but shapes."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.normal_(0.0, self.config.initializer_std, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, RMSNorm):
                module.weight.fill_(1.0 - self.config.norm_offset)


def _recomputed(block: nn.Module, x_TD: Tensor, angles: Angles, attend: Attention) -> Tensor:
    from torch.utils.checkpoint import checkpoint  # training's alone; engines load without it

    out_TD: Tensor = checkpoint(block, x_TD, angles, attend, use_reentrant=False)
    return out_TD


class Block(nn.Module):
    """One layer: attention, then a gated MLP, each on a normalised copy of the stream.

    Where the configuration says so (Gemma), what they add is normalised too; Hugging Face's
    `post_attention_layernorm` is then the norm behind the attention, not the one before the MLP.
    """

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.input_layernorm = RMSNorm(width, config)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(width, config)
        self.pre_feedforward_layernorm: RMSNorm | None = None
        self.post_feedforward_layernorm: RMSNorm | None = None
        if config.has_output_norms:
            self.pre_feedforward_layernorm = RMSNorm(width, config)
            self.post_feedforward_layernorm = RMSNorm(width, config)
        self.mlp = GatedMLP(config)

    def forward(self, x_TD: Tensor, angles: Angles, attend: Attention) -> Tensor:
        """Return the stream after this layer."""
        added_TD: Tensor = self.self_attn(self.input_layernorm(x_TD), angles, attend)
        if self.pre_feedforward_layernorm is None or self.post_feedforward_layernorm is None:
            x_TD = x_TD + added_TD
            added_TD = self.mlp(self.post_attention_layernorm(x_TD))
            return x_TD + added_TD
        x_TD = x_TD + self.post_attention_layernorm(added_TD)
        added_TD = self.mlp(self.pre_feedforward_layernorm(x_TD))
        normed_TD: Tensor = self.post_feedforward_layernorm(added_TD)
        return x_TD + normed_TD


class SelfAttention(nn.Module):
    """Projections around an injected attention; query head `n` reads key head `n // (N / K)`."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self._layer, self._head_size = layer, config.head_size
        self._rule = config.rule(layer)
        query_size = config.num_heads * config.head_size
        kv_size = config.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.has_qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.has_qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.has_qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.has_output_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.has_qk_norm:
            self.q_norm = RMSNorm(config.head_size, config)
            self.k_norm = RMSNorm(config.head_size, config)

    def forward(self, x_TD: Tensor, angles: Angles, attend: Attention) -> Tensor:
        """Return what attention adds to the stream."""
        heads = (x_TD.shape[0], -1, self._head_size)
        q_TNH = self.q_proj(x_TD).view(heads)
        k_TKH = self.k_proj(x_TD).view(heads)
        v_TKH = self.v_proj(x_TD).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            q_TNH, k_TKH = self.q_norm(q_TNH), self.k_norm(k_TKH)
        if angles is not None:
            q_TNH, k_TKH = rotate(q_TNH, *angles), rotate(k_TKH, *angles)
        out_TNH = attend(self._layer, q_TNH, k_TKH, v_TKH, self._rule)
        added_TD: Tensor = self.o_proj(out_TNH.flatten(1))
        return added_TD


class GatedMLP(nn.Module):
    """A gated MLP (Shazeer 2020): `down(act(gate(x)) * up(x))`, `act` SiLU or GELU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.mlp_size, config.has_mlp_bias
        self._activation = config.activation
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return what the MLP adds to the stream."""
        gate = self.gate_proj(x_TD)
        opened = silu(gate) if self._activation == "silu" else gelu(gate, approximate="tanh")
        added_TD: Tensor = self.down_proj(opened * self.up_proj(x_TD))
        return added_TD


class RMSNorm(nn.Module):
    """Division by the root mean square (Zhang and Sennrich 2019), in float32, then a gain.

    Where the gain is stored less an offset (Gemma), it is applied in float32 too.
    """

    def __init__(self, size: int, config: DecoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._epsilon, self._offset = config.norm_epsilon, config.norm_offset

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the normalised stream in its own dtype."""
        normed_TD = rms_norm(x_TD.float(), self.weight.shape, eps=self._epsilon)
        if self._offset:
            return (normed_TD * (self._offset + self.weight.float())).to(x_TD.dtype)
        return self.weight * normed_TD.to(x_TD.dtype)
