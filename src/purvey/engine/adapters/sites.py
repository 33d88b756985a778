"""Where adapters act: the four joined layers of a block, each with the layers it joins.

What joins layers is their common input, so one product with A serves all of them. Torch-free.
"""

from dataclasses import dataclass
from math import gcd

from purvey.models.config import DecoderConfig

QKV, OUTPUT, OPENED, DOWN = range(4)
UNIT_RANKS = 16
"""Ranks of a unit: a rank is filled with zeros up to a multiple of it."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One joined layer.

    Args:
        targets: Names of its layers within a block, in the order of their outputs.
        num_inputs: Input features, common to all.
        num_outputs: Output features of each.
    """

    targets: tuple[str, ...]
    num_inputs: int
    num_outputs: tuple[int, ...]

    @property
    def piece_outputs(self) -> int:
        """Outputs that are computed together: the largest number that divides all."""
        return gcd(*self.num_outputs)

    @property
    def num_pieces(self) -> tuple[int, ...]:
        """How many such pieces each layer gives."""
        return tuple(outputs // self.piece_outputs for outputs in self.num_outputs)


def sites_of(config: DecoderConfig) -> tuple[Site, ...]:
    """Return the sites of every block of a decoder, at `QKV`, `OUTPUT`, `OPENED` and `DOWN`."""
    width, mlp = config.hidden_size, config.mlp_size
    queries = config.num_heads * config.head_size
    keys = config.num_kv_heads * config.head_size
    attention = "self_attn.{}_proj"
    return (
        Site(
            targets=tuple(attention.format(name) for name in "qkv"),
            num_inputs=width,
            num_outputs=(queries, keys, keys),
        ),
        Site(targets=(attention.format("o"),), num_inputs=queries, num_outputs=(width,)),
        Site(targets=("mlp.gate_proj", "mlp.up_proj"), num_inputs=width, num_outputs=(mlp, mlp)),
        Site(targets=("mlp.down_proj",), num_inputs=mlp, num_outputs=(width,)),
    )
