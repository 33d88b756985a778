"""A deeper decoder that computes the same function.

Behind each layer stand copies of it whose outputs are closed, so that they add nothing to the
stream (Wu et al. 2024, LLaMA Pro). A closed output has a gradient as soon as its layer is computed:
the first step opens it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Block, Decoder
from purvey.models.skeleton import skeleton

_PREFIX = "layers."


def deepened_config(config: DecoderConfig, factor: int) -> DecoderConfig:
    """Return the shape of a decoder with `factor` layers for each; copies see as far as theirs."""
    return replace(
        config,
        num_layers=config.num_layers * factor,
        windows=tuple(window for window in config.windows for _ in range(factor)),
        unrotated_layers=tuple(
            layer * factor + copy for layer in config.unrotated_layers for copy in range(factor)
        ),
    )


@torch.no_grad()
def deepened(decoder: Decoder, factor: int) -> Decoder:
    """Return a decoder with `factor` layers for each of this one, and the very same logits.

    Args:
        decoder: Float32; it stays as it is, and the two share no memory.
        factor: At least 1.
    """
    deep = skeleton(deepened_config(decoder.config, factor))
    state: dict[str, Tensor] = {}
    for name, weight in decoder.state_dict().items():
        if not name.startswith(_PREFIX):
            state[name] = weight.clone()
            continue
        number, _, part = name.removeprefix(_PREFIX).partition(".")
        for copy in range(factor):
            state[f"{_PREFIX}{int(number) * factor + copy}.{part}"] = weight.clone()
    deep.load_state_dict(state, assign=True)
    for layer, block in enumerate(deep.layers):
        if layer % factor:
            assert isinstance(block, Block), "a layer is a block"
            _close(block, norm_offset=decoder.config.norm_offset)
    return deep.eval().requires_grad_(requires_grad=True)


def _close(block: Block, *, norm_offset: float) -> None:
    """Let a layer add nothing.

    Where what it adds is normalised, the gains close it: behind weights of zero such a norm would
    have a gradient that is as good as infinite.
    """
    if block.post_feedforward_layernorm is not None:
        for norm in (block.post_attention_layernorm, block.post_feedforward_layernorm):
            norm.weight.fill_(-norm_offset)
        return
    for output in (block.self_attn.o_proj, block.mlp.down_proj):
        for parameter in output.parameters():
            parameter.zero_()
