"""Any mix of pictures, sound, text, numbers and categories, fused into labels or one score.

Each input becomes tokens by an encoder of its own. `concatenation` pools the tokens of each input
and joins the results; `product` multiplies them as well, pair by pair; `cross-attention` lets the
tokens of all inputs attend to one another (Vaswani et al. 2017, with the norms first), and one more
token gathers the answer.

Shape letters, this file only:
    B = rows   T = tokens of one input, or of all   D = width   M = inputs   L = outputs
    A = attention heads   K = width of a head
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from purvey.contracts.model import InputSpec
from purvey.errors import InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.networks.base import Architecture
from purvey.models.networks.modalities import Tokens, encoder_of, small

_HYPERPARAMETERS = ("how", "width", "depth", "dropout")
_HEAD_WIDTH, _WIDEST, _DEEPEST = 32, 1_024, 32


class Fusion(nn.Module):
    """Encoders, what joins their tokens, and a linear head.

    Args:
        encoders: One for each input, in order; each returns `Tokens`.
        joint: Takes the tokens of all inputs and returns `x_BD`.
        width: D.
        num_outputs: L.
    """

    def __init__(
        self, encoders: Sequence[nn.Module], joint: nn.Module, *, width: int, num_outputs: int
    ) -> None:
        super().__init__()
        self.encoders, self.joint = nn.ModuleList(encoders), joint
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return `logits_BL` of batched inputs."""
        tokens = [encode(x) for encode, x in zip(self.encoders, inputs, strict=True)]
        logits_BL: Tensor = self.head(self.norm(self.joint(tokens)))
        return logits_BL


class Concatenation(nn.Module):
    """The mean and the maximum of each input's tokens side by side, then layers over all of them.

    Args:
        num_inputs: M.
        width: D.
        depth: Layers.
        dropout: Probability in [0, 1) of dropping a value of a layer while training.
    """

    def __init__(self, *, num_inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.entry = nn.Linear(2 * num_inputs * width, width)
        self.layers = nn.ModuleList(
            Residual(width, _mlp(width), dropout=dropout) for _ in range(depth)
        )

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Return `x_BD`."""
        x_BD: Tensor = self.entry(torch.cat([_pooled(one) for one in tokens], dim=1))
        for layer in self.layers:
            x_BD = layer(x_BD)
        return x_BD


class Product(nn.Module):
    """Pool each input to one vector; layers over the vectors and what they have in common.

    Values are from -1 to 1. What vectors have in common is the sum of their products, pair by pair
    (Rendle 2010, eq. 3; Kim et al. 2017 for two).

    Args:
        num_inputs: M.
        width: D.
        depth: Layers.
        dropout: Probability in [0, 1) of dropping a value of a layer while training.
    """

    def __init__(self, *, num_inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(num_inputs))
        self.entry = nn.Linear((num_inputs + 1) * width, width)
        self.layers = nn.ModuleList(
            Residual(width, _mlp(width), dropout=dropout) for _ in range(depth)
        )

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Return `x_BD`."""
        seen_MBD = torch.stack(
            [torch.tanh(view(_pooled(one))) for view, one in zip(self.views, tokens, strict=True)]
        )
        pairs_BD = (seen_MBD.sum(dim=0).square() - seen_MBD.square().sum(dim=0)) / 2
        x_BD: Tensor = self.entry(torch.cat([*seen_MBD, pairs_BD], dim=1))
        for layer in self.layers:
            x_BD = layer(x_BD)
        return x_BD


class CrossAttention(nn.Module):
    """Layers in which each token attends to the tokens of all inputs; returns the answer's token.

    Args:
        num_inputs: M.
        width: D.
        depth: Layers.
        dropout: Probability in [0, 1) of dropping a value of a layer while training.
    """

    def __init__(self, *, num_inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.answer_D = small(width)
        self.kind_MD = small(num_inputs, width)
        self.attentions = nn.ModuleList(
            Residual(width, Attention(width), dropout=dropout) for _ in range(depth)
        )
        self.layers = nn.ModuleList(
            Residual(width, _mlp(width), dropout=dropout) for _ in range(depth)
        )

    def forward(self, tokens: Sequence[Tokens]) -> Tensor:
        """Return `x_BD`."""
        parts = [one.x + kind_D for one, kind_D in zip(tokens, self.kind_MD, strict=True)]
        answer_B1D = self.answer_D.expand(len(parts[0]), 1, -1)
        x_BTD = torch.cat([answer_B1D, *parts], dim=1)
        is_real_BT = torch.cat([one.is_real for one in tokens], dim=1)
        is_real_BT = nn.functional.pad(is_real_BT, (1, 0), value=True)
        for attention, layer in zip(self.attentions, self.layers, strict=True):
            x_BTD = layer(attention(x_BTD, is_real_BT))
        return x_BTD[:, 0]


class Residual(nn.Module):
    """`x + dropout(inner(norm(x), ...))`."""

    def __init__(self, width: int, inner: nn.Module, *, dropout: float) -> None:
        super().__init__()
        self.norm, self.inner, self.dropout = nn.LayerNorm(width), inner, nn.Dropout(dropout)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """Return a tensor of the shape of `x`."""
        added: Tensor = x + self.dropout(self.inner(self.norm(x), *more))
        return added


class Attention(nn.Module):
    """Every token looks at all that are real, in heads of 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, is_real_BT: Tensor) -> Tensor:
        """Return `x_BTD`."""
        q_BAK, k_BAK, v_BAK = (
            part.unflatten(-1, (-1, _HEAD_WIDTH)).transpose(1, 2)
            for part in self.qkv(x_BTD).chunk(3, dim=-1)
        )
        mask = is_real_BT[:, None, None, :]
        mixed_BATK = scaled_dot_product_attention(q_BAK, k_BAK, v_BAK, attn_mask=mask)
        out_BTD: Tensor = self.out(mixed_BATK.transpose(1, 2).flatten(2))
        return out_BTD


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def _pooled(tokens: Tokens) -> Tensor:
    """Return mean and maximum of the real tokens, `x_BD` each; zeros where none is real."""
    is_real_BT1 = tokens.is_real[:, :, None]
    count_B1 = is_real_BT1.sum(dim=1).clamp(min=1)
    mean_BD = (tokens.x * is_real_BT1).sum(dim=1) / count_B1
    lowest = torch.finfo(tokens.x.dtype).min
    max_BD = tokens.x.masked_fill(~is_real_BT1, lowest).amax(dim=1)
    return torch.cat([mean_BD, max_BD * is_real_BT1.any(dim=1)], dim=1)


JOINTS: Final = {
    "cross-attention": CrossAttention,
    "concatenation": Concatenation,
    "product": Product,
}
"""What joins the inputs, by the hyperparameter `how`."""


def build(inputs: Mapping[str, InputSpec], num_outputs: int, fields: Fields) -> nn.Module:
    """Build the network.

    Hyperparameters: `how` (one of `JOINTS`), `width` (a multiple of 32), `depth` (layers after the
    inputs are joined), `dropout`.

    Raises:
        InvalidValueError: Names the hyperparameter, or the input that is not taken.
    """
    fields.refuse_unknown(_HYPERPARAMETERS)
    how = fields.choice("how", tuple(JOINTS), default="cross-attention")
    width = fields.count("width", default=64, at_most=_WIDEST)
    if width % _HEAD_WIDTH:
        raise fields.refusal("width", f"must be a multiple of {_HEAD_WIDTH} up to {_WIDEST}")
    depth = fields.count("depth", default=2, at_most=_DEEPEST)
    dropout = fields.fraction("dropout", default=0.1)
    if not inputs:
        raise InvalidValueError(
            "the architecture 'fusion' needs at least one input.", param="recipe.dataset"
        )
    return Fusion(
        [encoder_of(spec, width=width) for spec in inputs.values()],
        JOINTS[how](num_inputs=len(inputs), width=width, depth=depth, dropout=dropout),
        width=width,
        num_outputs=num_outputs,
    )


ARCHITECTURE = Architecture(
    name="fusion",
    tasks=frozenset({"classification", "regression"}),
    build=build,
    chosen={"how": "product"},
)
