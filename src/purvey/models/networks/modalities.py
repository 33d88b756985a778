"""Each kind of input as tokens of one width, by a small encoder of its own.

Shape letters, this file only:
    B = rows   T = tokens   D = width of a token   C = channels   H, W = rows and columns of a grid
    N = bytes of a text
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    NumberSpec,
    TextSpec,
)
from purvey.errors import InvalidValueError
from purvey.models.inputs.audio import num_frames

MOST_TEXT_BYTES = 8_192
"""Longest text that is read: each of its bytes takes a row of activations at first."""
_IMAGE_TOKENS, _AUDIO_TOKENS, _TEXT_TOKENS = (8, 8), (4, 16), 64
"""Tokens at most: rows and columns of a picture, bands and moments of a recording, of a text."""
_SLIMMEST = 16
"""Channels of a first convolution, at least."""
_FURTHEST = 100.0
"""Deviations from the mean that a number counts for at most: further ones overflow later layers."""


class Tokens(NamedTuple):
    """An input's tokens `x_BTD`, and which of them are not padding, `is_real_BT`."""

    x: Tensor
    is_real: Tensor


def encoder_of(spec: InputSpec, *, width: int) -> nn.Module:
    """Build the encoder of a declared input; called with its batched tensor, it returns `Tokens`.

    Raises:
        InvalidValueError: Sound as samples, or texts longer than are read.
    """
    match spec:
        case ImageSpec(height=height, width=columns, channels=channels):
            return GridEncoder(
                channels=channels, size=(height, columns), most=_IMAGE_TOKENS, width=width
            )
        case AudioSpec(num_mels=num_mels, max_s=max_s, sample_rate_hz=rate_hz):
            if not num_mels:
                raise InvalidValueError(
                    "the architecture 'fusion' hears mel bands, not samples: set num_mels.",
                    param="recipe.preprocess.audio.num_mels",
                )
            size = (num_mels, num_frames(round(max_s * rate_hz), sample_rate_hz=rate_hz))
            return GridEncoder(channels=1, size=size, most=_AUDIO_TOKENS, width=width)
        case TextSpec(max_bytes=max_bytes):
            if max_bytes > MOST_TEXT_BYTES:
                raise InvalidValueError(
                    f"the architecture 'fusion' reads at most {MOST_TEXT_BYTES} bytes of a text.",
                    param="recipe.preprocess.text.max_bytes",
                )
            return TextEncoder(max_bytes=max_bytes, width=width)
        case NumberSpec():
            return NumberEncoder(width=width)
        case CategorySpec(values=values):
            return CategoryEncoder(num_values=len(values), width=width)


class GridEncoder(nn.Module):
    """Convolutions over `x_BCHW` (or `x_BHW`) that halve a side until it has few enough tokens.

    After each comes one that keeps the size, so that a token sees all of a small shape. All are
    normalised over their whole row (Wu and He 2018, one group), so a row does not depend on its
    neighbours. Places are told by a learned vector of the row and one of the column.

    Args:
        channels: Of the input.
        size: Rows and columns of the input, at most.
        most: Rows and columns of tokens, at most.
        width: Of a token.
    """

    def __init__(
        self, *, channels: int, size: tuple[int, int], most: tuple[int, int], width: int
    ) -> None:
        super().__init__()
        strides, (num_rows, num_columns) = _grid_strides(size, most)
        layers: list[nn.Module] = []
        for place, stride in enumerate(strides, start=1):
            slim = max(_SLIMMEST, width >> (len(strides) - place))
            layers += [*_convolved(channels, slim, stride), *_convolved(slim, slim, (1, 1))]
            channels = slim
        self.layers = nn.Sequential(*layers)
        self.row_HD = small(num_rows, width)
        self.column_WD = small(num_columns, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tokens:
        """Return a token for each place of the small grid."""
        x_BCHW = x if x.ndim == 4 else x[:, None]
        x_BHWD = self.layers(x_BCHW).permute(0, 2, 3, 1)
        rows, columns = x_BHWD.shape[1:3]
        placed_BHWD = x_BHWD + self.row_HD[:rows, None] + self.column_WD[:columns]
        return _all_real(self.norm(placed_BHWD.flatten(1, 2)))


class TextEncoder(nn.Module):
    """Convolutions over bytes `x_BN` (0 is padding), which halve the text until it is short enough.

    Bytes spell any script; two layers of five see a Chinese character whole, with the ones beside
    it. Padding stays zero from layer to layer: how much of it follows changes nothing.

    Args:
        max_bytes: Length of `x_BN`.
        width: Of a token.
    """

    def __init__(self, *, max_bytes: int, width: int) -> None:
        super().__init__()
        strides, length = [1], max_bytes
        while length > _TEXT_TOKENS:
            strides.append(2)
            length = -(-length // 2)
        self.table = nn.Embedding(257, width, padding_idx=0)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, 5, stride=stride, padding=2) for stride in [*strides, 1]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.layers)
        self.place_TD = small(length, width)

    def forward(self, x_BN: Tensor) -> Tokens:
        """Return a token for each stretch of bytes."""
        is_real_BT, x_BTD = x_BN > 0, self.table(x_BN)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(layer, nn.Conv1d), "built as such"
            # The k-th output is centred on input k * stride, and is real where that one is.
            is_real_BT = is_real_BT[:, :: layer.stride[0]]
            x_BTD = gelu(norm(layer(x_BTD.transpose(1, 2)).transpose(1, 2)))
            x_BTD = x_BTD * is_real_BT[:, :, None]
        return Tokens(x=x_BTD + self.place_TD, is_real=is_real_BT)


class NumberEncoder(nn.Module):
    """A number `x_B`, in deviations from its mean, as one token."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x_B: Tensor) -> Tokens:
        """Return one token."""
        x_B1 = x_B.clamp(-_FURTHEST, _FURTHEST)[:, None]
        return _all_real(self.layers(x_B1)[:, None])


class CategoryEncoder(nn.Module):
    """A category `x_B` as one token; number 0, a value that training has not seen, says nothing."""

    def __init__(self, *, num_values: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_values + 1, width, padding_idx=0)

    def forward(self, x_B: Tensor) -> Tokens:
        """Return one token."""
        return _all_real(self.table(x_B)[:, None])


def small(*sizes: int) -> nn.Parameter:
    """Return a parameter drawn from N(0, 0.02)."""
    drawn = nn.Parameter(torch.empty(*sizes))
    nn.init.normal_(drawn, std=0.02)
    return drawn


def _all_real(x_BTD: Tensor) -> Tokens:
    is_real_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    return Tokens(x=x_BTD, is_real=is_real_BT)


def _convolved(channels: int, width: int, stride: tuple[int, int]) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, 3, stride=stride, padding=1),
        nn.GroupNorm(1, width),
        nn.GELU(),
    ]


def _grid_strides(
    size: tuple[int, int], most: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return the strides of at least one convolution, and the size of the grid after them."""
    strides: list[tuple[int, int]] = []
    height, width = size
    while height > most[0] or width > most[1]:
        stride = (1 + (height > most[0]), 1 + (width > most[1]))
        height, width = -(-height // stride[0]), -(-width // stride[1])
        strides.append(stride)
    return strides or [(1, 1)], (height, width)
