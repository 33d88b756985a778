"""Encoded images to pixels, under a byte cap, a pixel cap and a list of formats."""

import io
import warnings

from PIL import (
    Image,
    ImageOps,
    MpoImagePlugin,  # noqa: F401 (readers of JPEG import it in the middle of an image)
    TiffImagePlugin,  # noqa: F401 (so does every reader of EXIF)
    WebPImagePlugin,  # noqa: F401 (or Pillow imports all of its readers to find this one)
)

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import DecodeImage, ImageDecoded
from purvey.errors import InvalidValueError
from purvey.parse.foreign import FOREIGN_ERRORS

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_ROUNDING = 1e-6
"""Of pixels: a side that is whole but for the arithmetic is whole."""


def open_image(
    data: bytes, *, param: str = "input", max_pixels: int = LIMITS.image_pixels
) -> Image.Image:
    """Decode an image (the first frame of an animation), upright, as its camera meant it.

    Args:
        data: The encoded bytes.
        param: Field that errors name.
        max_pixels: Width times height that its header may announce.

    Raises:
        InvalidValueError: Too many bytes or pixels or none, another format, or broken.
    """
    if len(data) > LIMITS.image_bytes:
        message = f"the image has {len(data)} bytes; at most {LIMITS.image_bytes} are accepted."
        raise InvalidValueError(message, param=param)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own cap; ours follows
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            num_pixels = image.width * image.height
            if 0 < num_pixels <= max_pixels:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except Image.DecompressionBombError:
        message = f"the image has more than {max_pixels} pixels."
        raise InvalidValueError(message, param=param) from None
    except FOREIGN_ERRORS:
        raise _broken(param) from None
    message = f"the image has {num_pixels} pixels; from 1 to {max_pixels} are accepted."
    raise InvalidValueError(message, param=param)


def decode(question: DecodeImage, *, param: str = "input") -> ImageDecoded:
    """Decode, flatten and resize an image.

    Transparent parts become white. Resizing is bilinear, or bicubic, with antialiasing.

    Raises:
        InvalidValueError: As `open_image`.
    """
    opened = open_image(question.data, param=param, max_pixels=question.max_pixels)
    given_width, given_height = opened.size
    try:
        pixels = _resized(_flattened(opened, question.channels), question).tobytes()
    except FOREIGN_ERRORS:
        raise _broken(param) from None
    return ImageDecoded(given_width=given_width, given_height=given_height, pixels=pixels)


def _resized(image: Image.Image, question: DecodeImage) -> Image.Image:
    size = (question.width, question.height)
    if image.size == size:
        return image
    how = Image.Resampling.BICUBIC if question.is_bicubic else Image.Resampling.BILINEAR
    if not question.is_cropped:
        return image.resize(size, how)
    # The shorter side fits first and the middle is taken next, in whole pixels, as CLIP's own
    # preparation does; a part that is never seen is not resized.
    scale = max(question.width / image.width, question.height / image.height)
    whole = (
        max(question.width, int(image.width * scale + _ROUNDING)),
        max(question.height, int(image.height * scale + _ROUNDING)),
    )
    left, top = ((outer - inner) // 2 for outer, inner in zip(whole, size, strict=True))
    across, down = image.width / whole[0], image.height / whole[1]
    right, bottom = left + question.width, top + question.height
    box = (left * across, top * down, right * across, bottom * down)
    return image.resize(size, how, box=box)


def _flattened(image: Image.Image, channels: int) -> Image.Image:
    """Return a grey or RGB image without transparency; 16-bit grey is scaled to 8 bits."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, coloured)
    return image.convert("L" if channels == 1 else "RGB")


def _broken(param: str) -> InvalidValueError:
    return InvalidValueError(f"the image is broken or none of {', '.join(FORMATS)}.", param=param)
