"""Occlusion and its picture, on a model that looks at one corner."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from purvey.contracts.engine import ImageInput, NamedInputs
from purvey.contracts.explain import ExplanationRequest, ExplanationResult
from purvey.errors import InvalidValueError, MethodUnsupportedError
from purvey.explain.grid import PatchGrid
from purvey.explain.image import SeenImage, explain_image_class
from purvey.explain.parts import leaves
from purvey.explain.picture import GAP, PANEL_PIXELS, picture_size
from purvey.testing.clock import FakeClock

BRIGHT = (slice(8, 12), slice(20, 24))
"""Rows and columns of the planted patch, in the model's 32 x 32 pixels."""


class Lamp:
    """Calls an image "on" by how bright the planted patch is."""

    labels = ("off", "on")

    def log_probs(self, inputs: Sequence[NamedInputs]) -> NDArray[np.float64]:
        levels = []
        for one in inputs:
            given = one["input"]
            assert isinstance(given, ImageInput)
            pixels = np.asarray(Image.open(io.BytesIO(given.data)).convert("L"))
            levels.append(pixels[BRIGHT].mean() / 255)
        p_on = 1 / (1 + np.exp(4 - 8 * np.array(levels)))
        return np.asarray(np.log(np.stack([1 - p_on, p_on], axis=1)))


def lit() -> NDArray[np.uint8]:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[BRIGHT] = 255
    return pixels


def seen(pixels: NDArray[np.uint8], *, scale: int = 1) -> SeenImage:
    side = 32 * scale
    return SeenImage(width=side, height=side, shown=Image.fromarray(pixels), pixels=pixels)


def explained(request: ExplanationRequest, image: SeenImage) -> ExplanationResult:
    return explain_image_class(request, Lamp(), input_name="input", image=image, clock=FakeClock())


def test_the_planted_patch_is_found_in_pixels_of_the_given_image() -> None:
    result = explained(ExplanationRequest(image=b"-"), seen(lit(), scale=10))
    supporting = [unit for unit in result.units if unit.score > 0.1]
    boxes = np.array([unit.box for unit in supporting])
    assert (boxes.min(axis=0)[:2] >= (200, 80)).all()
    assert (boxes.max(axis=0)[2:] <= (240, 120)).all()
    assert result.target.label == "on"
    assert result.faithfulness.perturbation == "mean"
    assert result.faithfulness.verdict == "faithful"


def test_the_boxes_cover_the_image_once() -> None:
    result = explained(ExplanationRequest(image=b"-"), seen(lit(), scale=3))
    covered = np.zeros((96, 96), dtype=int)
    for unit in result.units:
        left, top, right, bottom = unit.box or (0, 0, 0, 0)
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()


def test_the_picture_is_a_png_of_the_announced_size() -> None:
    result = explained(ExplanationRequest(image=b"-"), seen(lit()))
    assert result.picture_png is not None
    picture = Image.open(io.BytesIO(result.picture_png))
    picture.load()
    assert picture.format == "PNG"
    assert picture.size == picture_size(32, 32)
    # In the overlay the planted patch is blue, a far corner stays grey.
    overlay = np.asarray(picture.convert("RGB")).astype(int)
    x0, y0 = 2 * GAP + PANEL_PIXELS, GAP
    cell = PANEL_PIXELS / 32
    red, _, blue = overlay[int(y0 + 10 * cell), int(x0 + 22 * cell)]
    assert blue > red + 30
    red, _, blue = overlay[int(y0 + 30 * cell), int(x0 + 2 * cell)]
    assert abs(blue - red) < 10


def test_no_picture_when_none_is_wanted() -> None:
    result = explained(ExplanationRequest(image=b"-", wants_picture=False), seen(lit()))
    assert result.picture_png is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (8, 8), (3, 5), (1, 1), (56, 100)])
def test_taking_an_atom_away_changes_its_box_and_nothing_else(height: int, width: int) -> None:
    grid = PatchGrid(height=height, width=width)
    pixels = np.zeros((height, width, 1), dtype=np.uint8)
    pixels[: -(-height // 2)] = 255
    atoms = list(leaves(grid.roots))
    times_changed = np.zeros((height, width), dtype=int)
    for atom, filled in zip(
        atoms, grid.filled(pixels, ~np.eye(len(atoms), dtype=bool)), strict=True
    ):
        left, top, right, bottom = atom.box or (0, 0, 0, 0)
        inside = np.zeros((height, width), dtype=bool)
        inside[top:bottom, left:right] = True
        np.testing.assert_array_equal(filled[~inside], pixels[~inside])
        assert (filled[inside] == round(float(pixels.mean()))).all()
        times_changed += inside
    assert (times_changed == 1).all()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ExplanationRequest(text="a"), InvalidValueError),
        (ExplanationRequest(image=b"-", method="leave_one_out"), MethodUnsupportedError),
        (ExplanationRequest(image=b"-", units="word"), MethodUnsupportedError),
        (ExplanationRequest(image=b"-", perturbation="delete"), MethodUnsupportedError),
    ],
)
def test_what_images_do_not_have_is_refused(
    request_: ExplanationRequest, error: type[Exception]
) -> None:
    with pytest.raises(error):
        explained(request_, seen(lit()))
