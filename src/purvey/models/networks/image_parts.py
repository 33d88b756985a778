"""What the image networks share: their one input, and convolutions that see one image at a time.

Normalisation is by groups of channels of one image (Wu and He 2018), never over a batch: a row's
logits and gradient do not depend on its neighbours, so steps may be accumulated or divided among
processes, and nothing differs between training and serving.
"""

from collections.abc import Mapping
from math import ceil, log2

from torch import nn

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec, InputSpec
from purvey.errors import InvalidValueError
from purvey.models.folder.config_fields import Fields

GROUP_CHANNELS = 8
"""Channels that are normalised together; widths are multiples of it."""
LARGEST_WIDTH = 8_192
_LARGEST_SIDE = 1_024
_STEM_SIDE = 64
"""The first convolution shrinks larger images until their shorter side is at most this."""
_LAST_SIDE = 4
"""The last stage still has so many rows and columns, unless told otherwise."""
_USUAL_STAGES, _MOST_STAGES = 4, 8


def only_image(inputs: Mapping[str, InputSpec], *, architecture: str) -> ImageSpec:
    """Return the input of a network that takes one image.

    Raises:
        InvalidValueError: There are other inputs, or its size is none that images have.
    """
    specs = tuple(inputs.values())
    if len(specs) != 1 or not isinstance(specs[0], ImageSpec):
        raise InvalidValueError(
            f"the architecture {architecture!r} takes one image and nothing else.",
            param="model.architecture",
            hint="For several inputs use the task 'classification'.",
        )
    spec = specs[0]
    is_sized = 1 <= min(spec.height, spec.width) <= max(spec.height, spec.width) <= _LARGEST_SIDE
    if not is_sized or spec.channels not in (1, 3):
        raise InvalidValueError(
            f"images of {spec.height} x {spec.width} pixels with {spec.channels} channels are not "
            f"taken: sides are 1 to {_LARGEST_SIDE}, channels 1 or 3.",
            param="model",
        )
    return spec


def channels_asked(fields: Fields, *, default: int) -> int:
    """Return the hyperparameter `width`: channels of the first stage.

    Raises:
        InvalidValueError: It is no multiple of `GROUP_CHANNELS`.
    """
    width = fields.count("width", default=default, at_most=LARGEST_WIDTH)
    if width % GROUP_CHANNELS:
        raise fields.refusal("width", f"must be a multiple of {GROUP_CHANNELS}")
    return width


def stages_asked(fields: Fields, spec: ImageSpec) -> int:
    """Return the hyperparameter `stages`: how often the image is halved, plus one."""
    shorter = ceil(min(spec.height, spec.width) / stem_stride(spec))
    usual = 1 + max(0, int(log2(shorter / _LAST_SIDE)))
    return fields.count("stages", default=min(usual, _USUAL_STAGES), at_most=_MOST_STAGES)


def depth_asked(fields: Fields, *, default: int) -> int:
    """Return the hyperparameter `depth`."""
    return fields.count("depth", default=default, at_most=LIMITS.new_layers)


def stem_stride(spec: ImageSpec) -> int:
    """Return by how much the first convolution shrinks an image: 1, or a power of two."""
    shorter = min(spec.height, spec.width)
    return 1 if shorter <= _STEM_SIDE else 2 ** ceil(log2(shorter / _STEM_SIDE))


def convolve(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that divides both sides by `stride`, rounded up; no bias.

    Args:
        in_channels: Channels of its input.
        out_channels: Channels of its output; a normalisation follows, which has a bias.
        kernel: Side of the kernel, odd.
        stride: Step of the kernel.
    """
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
    )


def stem(spec: ImageSpec, out_channels: int) -> nn.Conv2d:
    """Return the first convolution, 3 x 3 or as wide as its stride asks for."""
    stride = stem_stride(spec)
    return convolve(spec.channels, out_channels, kernel=max(3, 2 * stride - 1), stride=stride)


def normalise(channels: int) -> nn.GroupNorm:
    """Return a normalisation of each image by groups of `GROUP_CHANNELS` channels."""
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)
