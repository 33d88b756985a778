"""Changes of training images: what they may become, and where their chance comes from."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from purvey.contracts.model import ImageSpec, NumberSpec
from purvey.contracts.recipe_parts.inputs import AugmentConfig, ImageAugment
from purvey.models.inputs.augment import augmented
from purvey.models.inputs.augment_image import augment_images, rotated

SPEC = ImageSpec(height=4, width=6, channels=2)
ALL = ImageAugment(crop_pixels=1, flip=True, rotate_degrees=20.0, noise=0.1)


def image() -> Tensor:
    return 1.0 + torch.arange(48.0).reshape(2, 4, 6)


def drawn(config: ImageAugment, seed: int, spec: ImageSpec = SPEC) -> Tensor:
    torch.manual_seed(seed)
    return augment_images(image()[None], config, spec)[0]


@pytest.mark.parametrize(
    "config",
    [
        ImageAugment(crop_pixels=2),
        ImageAugment(flip=True),
        ImageAugment(rotate_degrees=5.0),
        ImageAugment(noise=0.1),
        ALL,
    ],
)
def test_the_default_generator_alone_decides(config: ImageAugment) -> None:
    same = [drawn(config, 1) for _ in range(2)]
    assert torch.equal(*same)
    assert any(not torch.equal(drawn(config, seed), same[0]) for seed in range(2, 12))


def test_the_given_image_stays_as_it_is() -> None:
    given = image().expand(10, -1, -1, -1).clone()
    torch.manual_seed(0)
    changed = augment_images(given, ALL, SPEC)
    assert changed.shape == given.shape
    assert changed.dtype == torch.float32
    assert all(torch.equal(kept, image()) for kept in given)
    assert len({tuple(one.flatten().tolist()) for one in changed}) == 10  # each in its own way


def many(num_images: int) -> Tensor:
    return image().expand(num_images, -1, -1, -1)


def test_half_of_the_images_are_mirrored() -> None:
    torch.manual_seed(0)
    found = augment_images(many(400), ImageAugment(flip=True), SPEC)
    mirrored = [torch.equal(one, image().flip(-1)) for one in found]
    kept = [torch.equal(one, image()) for one in found]
    assert sum(mirrored) + sum(kept) == 400
    assert 150 < sum(mirrored) < 250  # 5 deviations of 10 to either side


def test_a_shift_goes_to_every_place_within_its_reach() -> None:
    padded = pad(image(), (1, 1, 1, 1))
    windows = {
        (top, left): padded[:, top : top + 4, left : left + 6]
        for top in range(3)
        for left in range(3)
    }
    torch.manual_seed(0)
    found = augment_images(many(200), ImageAugment(crop_pixels=1), SPEC)
    reached = set()
    for one in found:
        [place] = [place for place, window in windows.items() if torch.equal(one, window)]
        reached.add(place)
    assert reached == set(windows)


def _close(found: Tensor, wanted: Tensor) -> None:
    # Places are rounded at 2^-22 of a pixel, and neighbours differ by less than 48.
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-3)


def test_a_rotation_is_in_pixels_whatever_the_sides() -> None:
    x_CHW = image()
    kept, half, quarter = rotated(many(3), torch.tensor([0.0, 180.0, 90.0]))
    _close(kept, x_CHW)
    _close(half, x_CHW.flip(-2, -1))
    middle_CHW = x_CHW[:, :, 1:5]  # square, about the same point
    _close(quarter[:, :, 1:5], torch.rot90(middle_CHW, dims=(1, 2)))
    assert quarter[:, :, [0, 5]].abs().max() < 1e-3  # from outside: black


def test_rotations_are_drawn_evenly_from_both_directions() -> None:
    """A dot to the right of the middle ends above it or below it."""
    x_BCHW = torch.zeros(200, 1, 9, 9)
    x_BCHW[:, 0, 4, 8] = 1.0
    torch.manual_seed(0)
    spec = ImageSpec(height=9, width=9, channels=1)
    found_BHW = augment_images(x_BCHW, ImageAugment(rotate_degrees=30.0), spec)[:, 0]
    weights_BH = found_BHW.sum(2) / found_BHW.sum((1, 2))[:, None]
    rows_B = (weights_BH * torch.arange(9.0)).sum(1)
    assert 1.5 < rows_B.min() < 2.5  # 4 sin 30 is 2, and the dot has a size
    assert 5.5 < rows_B.max() < 6.5
    assert 60 < (rows_B < 4.0).sum() < 140


def test_noise_is_as_strong_as_asked() -> None:
    spec = ImageSpec(height=100, width=100, channels=1)
    torch.manual_seed(0)
    noise = augment_images(torch.zeros(1, 1, 100, 100), ImageAugment(noise=0.25), spec)
    assert noise.std().item() == pytest.approx(0.25, rel=0.04)
    assert abs(noise.mean().item()) < 0.0125


def test_what_was_normalised_is_changed_as_pixels() -> None:
    """Black and noise are those of pixels: of an image that is normalised, black is not 0."""
    spec = ImageSpec(height=100, width=100, channels=1, mean=(0.5,), std=(0.25,))
    grey = torch.zeros(1, 1, 100, 100)  # 0.5 as a pixel
    torch.manual_seed(0)
    shifted = augment_images(grey, ImageAugment(crop_pixels=50), spec)
    assert set(shifted.flatten().tolist()) == {0.0, -2.0}
    noise = augment_images(grey, ImageAugment(noise=0.1), spec)
    assert noise.std().item() == pytest.approx(0.4, rel=0.04)


def test_only_images_are_changed_and_only_where_asked() -> None:
    config = AugmentConfig(image=ImageAugment(noise=0.5))
    batch = (many(2), torch.tensor([3.0, 4.0]))
    pictures, numbers = augmented(batch, (SPEC, NumberSpec()), config)
    assert not torch.equal(pictures, batch[0])
    assert torch.equal(numbers, batch[1])
    unchanged, _ = augmented(batch, (SPEC, NumberSpec()), AugmentConfig())
    assert unchanged is batch[0]
