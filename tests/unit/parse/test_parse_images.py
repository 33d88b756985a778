"""FIL-07: whatever an image is, it ends as right pixels or as one refused request."""

from collections.abc import Callable

import pytest
from PIL import Image

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import DecodeImage, ImageDecoded
from purvey.errors import InvalidValueError
from purvey.parse.images import FORMATS
from purvey.parse.parser import Parser
from tests.unit.parse.pictures import (
    animated_gif,
    animated_png,
    encoded,
    grey_png,
    international_text_bomb,
    profile_bomb,
    scan_bomb,
    text_bomb,
)

pytestmark = pytest.mark.row("FIL-07", "FIL-09")
MIB = 2**20
WHITE, BLACK = b"\xff", b"\0"


def decode(parser: Parser, data: bytes, *, width: int = 1, height: int = 1) -> ImageDecoded:
    question = DecodeImage(
        data=data, height=height, width=width, channels=1, max_pixels=LIMITS.image_pixels
    )
    return parser.decode(question, param="input.image", timeout_s=LIMITS.decode_s)


def goes_on(parser: Parser) -> bool:
    return decode(parser, encoded(Image.new("L", (3, 2), 255))).pixels == WHITE


RIGHT: dict[str, tuple[Callable[[], bytes], bytes, tuple[int, int]]] = {
    "1 x 1": (lambda: grey_png(1, 1), BLACK, (1, 1)),
    "1 x 65535": (lambda: grey_png(1, 65_535), BLACK, (1, 65_535)),
    "10000 frames of a GIF": (lambda: animated_gif(10_000), WHITE, (1, 1)),
    "10000 frames of an APNG": (lambda: animated_png(10_000), BLACK, (1, 1)),
    "10000 JPEGs in one": (
        lambda: encoded(Image.new("L", (1, 1), 255), "JPEG") * 10_000,
        WHITE,
        (1, 1),
    ),
    "CMYK": (lambda: encoded(Image.new("CMYK", (4, 2)), "JPEG"), WHITE, (4, 2)),
    "16 bits": (lambda: encoded(Image.new("I;16", (4, 2), 65_535)), WHITE, (4, 2)),
    "palette": (
        lambda: encoded(Image.new("RGB", (4, 2), (255, 255, 255)).convert("P")),
        WHITE,
        (4, 2),
    ),
    "clear palette": (
        lambda: encoded(Image.new("P", (4, 2), 0), transparency=0),
        WHITE,
        (4, 2),
    ),
    "grey and alpha": (lambda: encoded(Image.new("LA", (4, 2), (0, 0))), WHITE, (4, 2)),
    "trailing data": (
        lambda: encoded(Image.new("L", (4, 2), 255)) + b"PK\x03\x04" * 10_000,
        WHITE,
        (4, 2),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_fil07_unusual_images_become_their_pixels(parser: Parser, name: str) -> None:
    make, pixel, size = RIGHT[name]
    found = decode(parser, make())
    assert found.pixels == pixel
    assert (found.given_width, found.given_height) == size


REFUSED: dict[str, Callable[[], bytes]] = {
    "0 x 0": lambda: grey_png(0, 0),
    "0 x 5": lambda: grey_png(0, 5),
    "14000 x 14000": lambda: grey_png(14_000, 14_000),
    "50000 x 50000": lambda: grey_png(50_000, 50_000, rows=1_000),
    "no pixels": lambda: grey_png(64, 64, rows=0),
    "one pixel too many": lambda: grey_png(LIMITS.image_pixels // 8 + 1, 8),
    "one byte too many": lambda: encoded(Image.new("L", (1, 1))).ljust(LIMITS.image_bytes + 1),
    "nothing": lambda: b"",
    "another format": lambda: encoded(Image.new("L", (4, 2)), "TIFF"),
    **{
        f"half a {form}": lambda form=form: _half(form)  # type: ignore[misc]
        for form in FORMATS
        if form != "GIF"  # its reader fills up what is missing
    },
}


def _half(form: str) -> bytes:
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    data = encoded(noise, form)
    return data[: len(data) // 2]


@pytest.mark.parametrize("name", REFUSED)
def test_fil07_the_others_are_refused(parser: Parser, name: str) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        decode(parser, REFUSED[name]())
    assert refusal.value.param == "input.image"
    assert "0x" not in refusal.value.text
    assert goes_on(parser)


@pytest.mark.parametrize("bomb", [text_bomb, international_text_bomb, profile_bomb])
def test_fil07_a_bomb_beside_the_pixels_is_passed_over_or_refused(
    parser: Parser, bomb: Callable[[int], bytes]
) -> None:
    assert outcome(parser, grey_png(8, 8, extra=bomb(200 * MIB))) in {BLACK, "input.image"}
    assert goes_on(parser)


def outcome(parser: Parser, data: bytes) -> bytes | str | None:
    """Return the pixel, or the field that a refusal names."""
    try:
        return decode(parser, data).pixels
    except InvalidValueError as refusal:
        return refusal.param


def test_fil07_an_image_of_the_most_pixels_fits_in_memory(parser: Parser) -> None:
    half_clear = Image.new("RGBA", (LIMITS.image_pixels // 5_000, 5_000), (0, 0, 0, 0))
    assert decode(parser, encoded(half_clear, compress_level=1)).pixels == WHITE


def test_fil07_scans_without_end_are_cut_off(parser: Parser) -> None:
    question = DecodeImage(
        data=scan_bomb(4_000, 100_000), height=1, width=1, channels=1, max_pixels=2**24
    )
    with pytest.raises(InvalidValueError, match=r"longer than 0\.5 s") as refusal:
        parser.decode(question, param="input.image", timeout_s=0.5)
    assert refusal.value.param == "input.image"
    assert goes_on(parser)


def test_fil07_a_picture_too_large_for_memory_is_refused(parser: Parser) -> None:
    question = DecodeImage(
        data=grey_png(1, 1), height=30_000, width=30_000, channels=3, max_pixels=1
    )
    with pytest.raises(InvalidValueError, match="more memory"):
        parser.decode(question, param="input.image", timeout_s=LIMITS.decode_s)
    assert goes_on(parser)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fil07_every_way_to_hold_a_camera(parser: Parser, orientation: int) -> None:
    scene = Image.new("L", (2, 3))
    scene.putdata([0, 50, 100, 150, 200, 250])  # as it should be seen
    undone = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    held = scene.transpose(undone[orientation]) if orientation in undone else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(parser, encoded(held, exif=exif), width=2, height=3)
    assert list(found.pixels) == [0, 50, 100, 150, 200, 250]
    assert (found.given_width, found.given_height) == (2, 3)
