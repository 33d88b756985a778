"""Random changes of prepared inputs while training; chance comes from torch's default generator."""

from collections.abc import Sequence

import torch
from torch import Tensor

from purvey.contracts.model import AudioSpec, ImageSpec, InputSpec
from purvey.contracts.recipe_parts.inputs import AudioAugment, AugmentConfig, ImageAugment
from purvey.models.inputs.augment_audio import augment_audio
from purvey.models.inputs.augment_image import augment_images


def augmented(
    batch: tuple[Tensor, ...], specs: Sequence[InputSpec], config: AugmentConfig
) -> tuple[Tensor, ...]:
    """Return a batch, changed row by row as the recipe says; the given tensors stay as they are.

    Args:
        batch: One tensor for each input, its rows first.
        specs: The inputs' declarations, in the same order.
        config: What may happen to them.
    """
    return tuple(_augmented(rows, spec, config) for rows, spec in zip(batch, specs, strict=True))


def _augmented(rows: Tensor, spec: InputSpec, config: AugmentConfig) -> Tensor:
    match spec:
        case ImageSpec() if config.image != ImageAugment():
            return augment_images(rows, config.image, spec)
        case AudioSpec() if config.audio != AudioAugment():
            return torch.stack([augment_audio(row, config.audio) for row in rows])
        case _:
            return rows
