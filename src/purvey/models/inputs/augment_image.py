"""Changes of training images that leave their label as it is.

Chance comes from torch's default generator, which the loop seeds at every step.

Shape letters, this file only:
    B = images of a batch   C = channels   H = rows   W = columns
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from purvey.contracts.model import ImageSpec
from purvey.contracts.recipe_parts.inputs import ImageAugment


def augment_images(x_BCHW: Tensor, config: ImageAugment, spec: ImageSpec) -> Tensor:
    """Return images flipped, rotated, shifted and with noise, each as drawn; the given are kept.

    What comes in from outside is black.

    Args:
        x_BCHW: Prepared images, float32.
        config: What may happen to them.
        spec: How they were prepared; pixels are changed as they were before.
    """
    mean_C11, std_C11 = _by_channel(spec.mean, 0.0), _by_channel(spec.std, 1.0)
    x_BCHW = x_BCHW * std_C11 + mean_C11
    num_images = len(x_BCHW)
    if config.flip:
        is_flipped_B = torch.rand(num_images) < 0.5
        x_BCHW = torch.where(is_flipped_B[:, None, None, None], x_BCHW.flip(-1), x_BCHW)
    if config.rotate_degrees:
        degrees_B = (torch.rand(num_images) * 2 - 1) * config.rotate_degrees
        x_BCHW = rotated(x_BCHW, degrees_B)
    if config.crop_pixels:
        x_BCHW = _shifted(x_BCHW, most=config.crop_pixels)
    if config.noise:
        x_BCHW = x_BCHW + torch.randn_like(x_BCHW) * config.noise
    return (x_BCHW - mean_C11) / std_C11


def rotated(x_BCHW: Tensor, degrees_B: Tensor) -> Tensor:
    """Return images turned about their middle, counter-clockwise; bilinear, black outside."""
    height, width = x_BCHW.shape[2:]
    cosine_B, sine_B = degrees_B.deg2rad().cos(), degrees_B.deg2rad().sin()
    theta_B23 = x_BCHW.new_zeros(len(x_BCHW), 2, 3)
    theta_B23[:, 0, 0] = theta_B23[:, 1, 1] = cosine_B
    # Both sides are 2 long in the grid's coordinates, whatever they are in pixels.
    theta_B23[:, 0, 1] = -sine_B * height / width
    theta_B23[:, 1, 0] = sine_B * width / height
    grid_BHW2 = affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)
    return grid_sample(x_BCHW, grid_BHW2, align_corners=False)


def _shifted(x_BCHW: Tensor, *, most: int) -> Tensor:
    """Pad by `most` on every side, and cut the old size at a random place of each image."""
    height, width = x_BCHW.shape[2:]
    places = torch.randint(0, 2 * most + 1, (len(x_BCHW), 2)).tolist()
    padded_BCHW = pad(x_BCHW, (most, most, most, most))
    return torch.stack(
        [
            padded_CHW[:, top : top + height, left : left + width]
            for padded_CHW, (top, left) in zip(padded_BCHW, places, strict=True)
        ]
    )


def _by_channel(values: Sequence[float], otherwise: float) -> Tensor:
    return torch.tensor(values or (otherwise,))[:, None, None]
