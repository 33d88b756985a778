"""Encoded images as they are stored: the format and size by their header, caps before decoding."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from purvey.contracts.limits import LIMITS

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def picture_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from an image's header, without decoding it.

    Raises:
        ValueError: Not an image of an accepted format, or larger than the limits allow.
    """
    if len(data) > LIMITS.image_bytes:
        msg = f"is an image of more than {LIMITS.image_bytes} bytes"
        raise ValueError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # own cap below
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        msg = f"is not an image: use one of {list(FORMATS)}"
        raise ValueError(msg) from None
    if width * height > LIMITS.image_pixels:
        msg = f"is an image of more than {LIMITS.image_pixels} pixels"
        raise ValueError(msg)
    return width, height


def check_picture(data: bytes) -> None:
    """Decode an image once, so that a broken one is refused now and not while training.

    Raises:
        ValueError: Not an image, too large, or its pixels cannot be decoded.
    """
    picture_size(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):  # what Pillow's decoders raise on broken data
        msg = "is a broken image: its pixels cannot be decoded"
        raise ValueError(msg) from None
