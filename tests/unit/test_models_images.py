"""Images: what becomes of pixels, and what is refused before it is decoded."""

import io
import struct
import zlib

import pytest
import torch
from PIL import Image

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.contracts.parse import DecodeImage, ImageDecoded
from purvey.errors import InvalidValueError
from purvey.models.images import ImageReader, image_tensor
from purvey.parse.images import open_image
from purvey.parse.parser import DecoderHere
from purvey.testing.clock import FakeClock

SPEC = ImageSpec(height=4, width=6, channels=3)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_listed_format_is_read(kind: str) -> None:
    x_CHW = image_tensor(encoded(Image.new("RGB", (12, 8), (255, 0, 0)), kind), SPEC)
    assert x_CHW.shape == (3, 4, 6)
    assert x_CHW.dtype == torch.float32
    assert x_CHW[0].min() > 0.97  # JPEG and WebP are lossy
    assert x_CHW[1:].max() < 0.03


def test_pixels_are_scaled_then_normalised() -> None:
    spec = ImageSpec(height=1, width=1, channels=1, mean=(0.5,), std=(0.25,))
    assert image_tensor(encoded(Image.new("L", (1, 1), 255)), spec).item() == 2.0
    assert image_tensor(encoded(Image.new("L", (1, 1), 0)), spec).item() == -2.0


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert bool((image_tensor(encoded(clear), SPEC) == 1).all())


def test_sixteen_bit_grey_keeps_its_range() -> None:
    deep = Image.new("I;16", (6, 4), 65_535)
    assert image_tensor(encoded(deep), SPEC).min() == 1
    half = Image.new("I;16", (6, 4), 32_768)
    assert abs(image_tensor(encoded(half), SPEC).mean().item() - 0.5) < 0.01


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    assert open_image(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)).size == (4, 6)


def bomb() -> bytes:
    """A PNG header that announces more pixels than are accepted, with no pixels behind it."""
    side = int(LIMITS.image_pixels**0.5) + 1
    body = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = b"IDAT"
    data = struct.pack(">I", 0) + end + struct.pack(">I", zlib.crc32(end))
    return b"\x89PNG\r\n\x1a\n" + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        encoded(Image.new("RGB", (64, 64)))[:60],
        encoded(Image.new("RGB", (8, 8)), "TIFF"),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        bomb(),
        bytes(LIMITS.image_bytes + 1),
    ],
    ids=["empty", "text", "torn", "tiff", "svg", "bomb", "bytes"],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        image_tensor(data, SPEC, param="photo")
    assert refusal.value.param == "photo"


def test_here_and_in_a_parse_process_pixels_are_the_same() -> None:
    data = encoded(Image.effect_noise((31, 17), 100).convert("RGB"), "JPEG")
    here = ImageReader(DecoderHere()).tensor(data, SPEC)
    assert torch.equal(here, image_tensor(data, SPEC))


class Scripted:
    """A decoder whose images have as many pixels and take as long as it is told."""

    def __init__(self, clock: FakeClock, *, pixels: int, seconds: float) -> None:
        self._clock, self._pixels, self._seconds = clock, pixels, seconds
        self.asked: list[tuple[int, float]] = []

    def decode(self, question: DecodeImage, *, param: str, timeout_s: float) -> ImageDecoded:
        self.asked.append((question.max_pixels, timeout_s))
        if self._pixels > question.max_pixels:
            raise InvalidValueError("too many pixels.", param=param)
        self._clock.advance(min(self._seconds, timeout_s))
        return ImageDecoded(given_width=self._pixels, given_height=1, pixels=bytes(72))


def test_fil09_the_images_of_one_request_share_pixels(clock: FakeClock) -> None:
    decoder = Scripted(clock, pixels=LIMITS.image_pixels, seconds=0.0)
    images = ImageReader(decoder, clock=clock)
    for _ in range(LIMITS.request_pixels // LIMITS.image_pixels):
        images.decoded(b"", SPEC)
    with pytest.raises(InvalidValueError, match="pixels of a request") as refusal:
        images.decoded(b"", SPEC, param="inputs.7")
    assert refusal.value.param == "inputs.7"
    odd = ImageReader(Scripted(clock, pixels=LIMITS.image_pixels - 1, seconds=0.0), clock=clock)
    for _ in range(LIMITS.request_pixels // LIMITS.image_pixels):
        odd.decoded(b"", SPEC)
    with pytest.raises(InvalidValueError) as refusal:
        odd.decoded(b"", SPEC)
    assert "All images of one request" in refusal.value.text


def test_fil09_the_images_of_one_request_share_time(clock: FakeClock) -> None:
    decoder = Scripted(clock, pixels=1, seconds=LIMITS.decode_s - 1)
    images = ImageReader(decoder, clock=clock)
    for _ in range(4):
        images.decoded(b"", SPEC)
    with pytest.raises(InvalidValueError, match="take longer") as refusal:
        images.decoded(b"", SPEC, param="inputs.7")
    assert refusal.value.param == "inputs.7"
    assert [timeout_s for _, timeout_s in decoder.asked] == [10, 10, 10, 3]
