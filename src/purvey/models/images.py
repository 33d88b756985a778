"""Encoded images to tensors, under a byte cap, a pixel cap and a list of formats.

Shape letters, this file only:
    C = channels   H = rows   W = columns
"""

import io

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.errors import InvalidValueError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def open_image(data: bytes, *, param: str = "input") -> Image.Image:
    """Decode an image (the first frame of an animation), upright, as its camera meant it.

    Args:
        data: The encoded bytes.
        param: Field that errors name.

    Raises:
        InvalidValueError: Too many bytes or pixels, another format, or broken.
    """
    if len(data) > LIMITS.image_bytes:
        message = f"the image has {len(data)} bytes; at most {LIMITS.image_bytes} are accepted."
        raise InvalidValueError(message, param=param)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        num_pixels = image.width * image.height
        if num_pixels <= LIMITS.image_pixels:
            image.load()
            return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        message = f"the image is broken or none of {', '.join(FORMATS)}."
        raise InvalidValueError(message, param=param) from None
    message = f"the image has {num_pixels} pixels; at most {LIMITS.image_pixels} are accepted."
    raise InvalidValueError(message, param=param)


def image_tensor(data: bytes, spec: ImageSpec, *, param: str = "input") -> Tensor:
    """Decode, resize and normalise to `x_CHW`, float32 on the CPU.

    Transparent parts become white. Resizing is bilinear with antialiasing.

    Raises:
        InvalidValueError: As `open_image`.
    """
    image = _flattened(open_image(data, param=param), spec.channels)
    if image.size != (spec.width, spec.height):
        image = image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(image, dtype=np.float32).reshape(spec.height, spec.width, spec.channels)
    x_CHW = torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1).contiguous() / 255.0
    if spec.mean:
        x_CHW = x_CHW - torch.tensor(spec.mean)[:, None, None]
    if spec.std:
        x_CHW = x_CHW / torch.tensor(spec.std)[:, None, None]
    return x_CHW


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Return a grey or RGB image without transparency; 16-bit grey is scaled to 8 bits."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    return image.convert("L" if channels == 1 else "RGB")
