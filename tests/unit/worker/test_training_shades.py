"""Pictures of mixed inputs go in centred on those of the training split."""

import io

import pytest
from PIL import Image

from purvey.contracts.model import ImageSpec, InputSpec, TextSpec
from purvey.data.loader import Rows
from purvey.errors import InvalidValueError
from purvey.worker.training.shades import with_shades

SPEC = ImageSpec(height=4, width=6)


def flat(*colour: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(encoded, "PNG")
    return encoded.getvalue()


def shaded(*pictures: bytes) -> ImageSpec:
    rows = Rows(columns={"photo": list(pictures)}, num_rows=len(pictures))
    given: dict[str, InputSpec] = {"input": SPEC, "note": TextSpec()}
    found = with_shades(given, rows, {"input": "photo", "note": "note"})
    assert found["note"] == TextSpec()
    spec = found["input"]
    assert isinstance(spec, ImageSpec)
    return spec


def test_each_channel_has_its_mean_and_its_deviation() -> None:
    spec = shaded(flat(0, 255, 51), flat(255, 255, 153))
    assert spec.mean == pytest.approx((0.5, 1.0, 0.4), abs=1e-6)
    assert spec.std == pytest.approx((0.5, 0.01, 0.2), abs=1e-6)


def test_few_of_many_pictures_are_looked_at_evenly() -> None:
    half_dark = [flat(0, 0, 0)] * 300 + [flat(255, 255, 255)] * 300
    assert shaded(*half_dark).mean == pytest.approx((0.5,) * 3, abs=1e-6)


def test_a_broken_picture_is_refused() -> None:
    with pytest.raises(InvalidValueError) as refusal:
        shaded(b"no picture")
    assert refusal.value.param == "recipe.dataset"
