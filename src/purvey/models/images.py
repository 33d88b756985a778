"""Encoded images to tensors, within what the images of one request may cost.

Shape letters, this file only:
    C = channels   H = rows   W = columns
"""

import torch
from torch import Tensor

from purvey.contracts.clock import Clock, SystemClock
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.contracts.parse import DecodeImage, ImageDecoded
from purvey.errors import InvalidValueError
from purvey.parse.parser import PARSER, ImageDecoder

_CLOCK = SystemClock()


class ImageReader:
    """Decodes the images of one request.

    Invariant: together they have at most `LIMITS.request_pixels` pixels, and take at most
    `LIMITS.request_decode_s` seconds.

    Args:
        decoder: What decodes.
        clock: Measures it.
    """

    def __init__(self, decoder: ImageDecoder = PARSER, *, clock: Clock = _CLOCK) -> None:
        self._decoder, self._clock = decoder, clock
        self._pixels_left = LIMITS.request_pixels
        self._left_s = float(LIMITS.request_decode_s)

    def decoded(self, data: bytes, spec: ImageSpec, *, param: str = "input") -> ImageDecoded:
        """Decode an image at the size of `spec`.

        Raises:
            InvalidValueError: It is refused, or too much for one request.
        """
        if self._left_s <= 0:
            message = f"the images of one request take longer than {LIMITS.request_decode_s} s."
            raise InvalidValueError(message, param=param, hint="Send fewer at a time.")
        if self._pixels_left <= 0:
            message = f"the images before it have the {LIMITS.request_pixels} pixels of a request."
            raise InvalidValueError(message, param=param, hint="Send fewer at a time.")
        question = DecodeImage(
            data=data,
            height=spec.height,
            width=spec.width,
            channels=spec.channels,
            max_pixels=min(LIMITS.image_pixels, self._pixels_left),
            is_cropped=spec.is_cropped,
            is_bicubic=spec.is_bicubic,
        )
        began = self._clock.monotonic()
        try:
            found = self._decoder.decode(
                question, param=param, timeout_s=min(LIMITS.decode_s, self._left_s)
            )
        except InvalidValueError as error:
            if self._pixels_left >= LIMITS.image_pixels:
                raise
            hint = f"All images of one request have at most {LIMITS.request_pixels} pixels."
            raise InvalidValueError(error.message, param=param, hint=hint) from None
        self._left_s -= self._clock.monotonic() - began
        self._pixels_left -= found.given_width * found.given_height
        return found

    def tensor(self, data: bytes, spec: ImageSpec, *, param: str = "input") -> Tensor:
        """Decode, resize and normalise to `x_CHW`, float32 on the CPU.

        Raises:
            InvalidValueError: As `decoded`.
        """
        pixels = bytearray(self.decoded(data, spec, param=param).pixels)
        pixels_HWC = torch.frombuffer(pixels, dtype=torch.uint8).reshape(
            spec.height, spec.width, spec.channels
        )
        x_CHW = pixels_HWC.permute(2, 0, 1).contiguous().float() / 255.0
        if spec.mean:
            x_CHW = x_CHW - torch.tensor(spec.mean)[:, None, None]
        if spec.std:
            x_CHW = x_CHW / torch.tensor(spec.std)[:, None, None]
        return x_CHW


def image_tensor(data: bytes, spec: ImageSpec, *, param: str = "input") -> Tensor:
    """Decode one image as `ImageReader.tensor`."""
    return ImageReader().tensor(data, spec, param=param)
