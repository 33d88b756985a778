"""A vision transformer (Dosovitskiy et al. 2021), of plain parts that learn from little data.

A few convolutions turn patches into tokens (Xiao et al. 2021), which are given fixed sine and
cosine positions in two dimensions; the mean of all tokens is classified (Beyer et al. 2022). There
is no class token and nothing about places is learned.

Shape letters, this file only:
    B = images   C = channels   H = rows   W = columns   Y, X = patches down and across
    N = Y * X patches   D = width   A = heads   E = D / A   L = outputs
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from purvey.contracts.model import ImageSpec, InputSpec
from purvey.models.folder.config_fields import Fields
from purvey.models.networks.base import Architecture
from purvey.models.networks.image_parts import LARGEST_WIDTH, convolve, depth_asked, only_image

HYPERPARAMETERS = ("width", "depth", "heads", "patch", "positions", "dropout")
_LARGEST_PATCH, _MOST_PATCHES = 64, 4_096
_HEAD_SIZE = 32
_MLP_RATIO = 4
_TEMPERATURE = 10_000.0
_EPSILON = 1e-6


class Attention(nn.Module):
    """Every patch attends to every other one.

    Queries, keys and values have a projection each, so that schemes of initialisation that look
    at both sides of a matrix see its own.

    Args:
        width: Of the residual stream.
        heads: A divisor of `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (_linear(width, width) for _ in range(3))
        self.output = _linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return what attention adds to `x_BND`."""
        q_BANE, k_BANE, v_BANE = (
            projection(x_BND).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        y_BANE = scaled_dot_product_attention(q_BANE, k_BANE, v_BANE)
        y_BND: Tensor = self.output(y_BANE.transpose(1, 2).flatten(2))
        return y_BND


class Layer(nn.Module):
    """Attention, then a perceptron, each added to its input and normalised before.

    Args:
        width: Of the residual stream.
        heads: Of the attention.
        dropout: Probability of dropping what is added, element by element, while training.
    """

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.up, self.down = _linear(width, _MLP_RATIO * width), _linear(_MLP_RATIO * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the layer's output, of the same shape."""
        x_BND = x_BND + self.dropout(self.attention(self.attention_norm(x_BND)))
        added_BND: Tensor = self.dropout(self.down(gelu(self.up(self.mlp_norm(x_BND)))))
        return x_BND + added_BND


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What fixes an encoder's shape.

    Args:
        width: Of the residual stream, a multiple of 4.
        depth: Layers.
        heads: A divisor of `width`.
        patch: Pixels of a patch's side, a power of two.
        positions: Numbers that tell a place, a multiple of 4 that divides `width`, along which they
            are repeated.
        dropout: As in `Layer`.
    """

    width: int
    depth: int
    heads: int
    patch: int
    positions: int
    dropout: float


class PatchEncoder(nn.Module):
    """Images to a vector for each patch, row by row from the top left.

    Args:
        spec: The images; a part of a patch below or to the right counts as one.
        sizes: Its shape.
    """

    positions: Tensor

    def __init__(self, spec: ImageSpec, sizes: Sizes) -> None:
        super().__init__()
        width, patch = sizes.width, sizes.patch
        self.patches = _patches(spec.channels, width, patch)
        down, across = -(-spec.height // patch), -(-spec.width // patch)
        positions_ND = _positions(down, across, sizes.positions)
        repeated_ND = positions_ND.repeat(1, width // sizes.positions)
        self.register_buffer("positions", repeated_ND, persistent=False)
        self.layers = nn.Sequential(
            *(Layer(width, heads=sizes.heads, dropout=sizes.dropout) for _ in range(sizes.depth))
        )
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `x_BND`, normalised, of float32 images."""
        x_BDYX = self.patches(x_BCHW)
        x_BND = x_BDYX.flatten(2).transpose(1, 2) + self.positions
        normed_BND: Tensor = self.norm(self.layers(x_BND))
        return normed_BND


class ViT(PatchEncoder):
    """The network.

    Args:
        spec: As in `PatchEncoder`.
        sizes: As in `PatchEncoder`.
        num_outputs: Logits of each.
    """

    def __init__(self, spec: ImageSpec, sizes: Sizes, *, num_outputs: int) -> None:
        super().__init__(spec, sizes)
        self.head = nn.Linear(sizes.width, num_outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return `logits_BL` of float32 images."""
        logits_BL: Tensor = self.head(super().forward(x_BCHW).mean(1))
        return logits_BL


def sizes_asked(fields: Fields, spec: ImageSpec) -> Sizes:
    """Return the hyperparameters of an encoder, those of `HYPERPARAMETERS`.

    Raises:
        InvalidValueError: One is out of range, or does not fit the images.
    """
    width = fields.count("width", default=128, at_most=LARGEST_WIDTH)
    if width % 4:
        raise fields.refusal("width", "must be a multiple of 4")
    heads = fields.count("heads", default=max(1, width // _HEAD_SIZE))
    if width % heads:
        raise fields.refusal("heads", f"must divide width, which is {width}")
    positions = fields.count("positions", default=width)
    if positions % 4 or width % positions:
        raise fields.refusal("positions", f"must be a multiple of 4 and divide width {width}")
    return Sizes(
        width=width,
        depth=depth_asked(fields, default=4),
        heads=heads,
        patch=_patch(fields, spec),
        positions=positions,
        dropout=fields.fraction("dropout", default=0.0),
    )


def _linear(in_size: int, out_size: int) -> nn.Linear:
    layer = nn.Linear(in_size, out_size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _patches(in_channels: int, width: int, patch: int) -> nn.Sequential:
    """Return convolutions of 3 x 3 that halve both sides down to a place for each patch.

    Channels double on the way to `width`; each is normalised over one whole image.
    """
    num_halvings = patch.bit_length() - 1
    layers: list[nn.Module] = []
    for number in range(num_halvings + 1):
        channels = max(4, width >> (num_halvings - number))
        convolution = convolve(in_channels, channels, stride=2 if number else 1)
        nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
        layers += [convolution, nn.GroupNorm(1, channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def _positions(down: int, across: int, size: int) -> Tensor:
    """Return `positions_ND`: sine and cosine of row and column, a quarter of the size each."""
    quarter = size // 4
    rates_Q = _TEMPERATURE ** (-np.arange(quarter) / quarter)
    rows_YX, columns_YX = np.meshgrid(np.arange(down), np.arange(across), indexing="ij")
    angles_NQ = [places_YX.reshape(-1, 1) * rates_Q for places_YX in (rows_YX, columns_YX)]
    waves = [wave(angle_NQ) for angle_NQ in angles_NQ for wave in (np.sin, np.cos)]
    return torch.from_numpy(np.concatenate(waves, axis=1)).float()


def _build(inputs: Mapping[str, InputSpec], num_outputs: int, fields: Fields) -> nn.Module:
    fields.refuse_unknown(HYPERPARAMETERS)
    spec = only_image(inputs, architecture=ARCHITECTURE.name)
    return ViT(spec, sizes_asked(fields, spec), num_outputs=num_outputs)


def _patch(fields: Fields, spec: ImageSpec) -> int:
    """Return the side asked for, or the power of two that makes some 8 to 15 of a side."""
    shorter = min(spec.height, spec.width)
    usual = 2 ** max(1, min(4, (shorter // 8).bit_length() - 1))
    patch = fields.count("patch", default=usual, at_most=_LARGEST_PATCH)
    if patch.bit_count() != 1:
        raise fields.refusal("patch", "must be a power of two")
    num_patches = -(-spec.height // patch) * -(-spec.width // patch)
    if num_patches > _MOST_PATCHES:
        raise fields.refusal(
            "patch",
            f"makes {num_patches} patches of an image; make it larger, {_MOST_PATCHES} are taken",
        )
    return patch


ARCHITECTURE = Architecture(name="vit", tasks=frozenset({"image-classification"}), build=_build)
