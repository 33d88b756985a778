"""Encoded images as they are stored: size by their header, pixels decoded once to be sure."""

import io
import warnings

from PIL import Image, UnidentifiedImageError

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError
from purvey.parse.images import FORMATS, open_image


class UnusablePictureError(ValueError):
    """An image cannot be used; the message continues "column 'x' ..."."""


def picture_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from an image's header, without decoding it.

    Raises:
        UnusablePictureError: Not an image of an accepted format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # own cap elsewhere
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise UnusablePictureError(_problem()) from None


def check_picture(data: bytes) -> None:
    """Decode an image once, so that a broken one is refused now and not while training.

    Raises:
        UnusablePictureError: Not an image, too large, or its pixels cannot be decoded.
    """
    try:
        open_image(data)
    except InvalidValueError:
        raise UnusablePictureError(_problem()) from None


def _problem() -> str:
    return (
        f"is not a usable image: give {', '.join(FORMATS)} of at most {LIMITS.image_bytes} bytes "
        f"and {LIMITS.image_pixels} pixels, or drop the row"
    )
