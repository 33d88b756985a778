"""Random changes of prepared inputs while training; chance comes from torch's default generator."""

from collections.abc import Sequence

from torch import Tensor

from purvey.contracts.model import AudioSpec, ImageSpec, InputSpec
from purvey.contracts.recipe_parts.inputs import AudioAugment, AugmentConfig, ImageAugment
from purvey.models.inputs.augment_audio import augment_audio
from purvey.models.inputs.augment_image import augment_image


def augmented(
    item: tuple[Tensor, ...], specs: Sequence[InputSpec], config: AugmentConfig
) -> tuple[Tensor, ...]:
    """Return one row's inputs, changed as the recipe says; the given tensors stay as they are."""
    return tuple(_augmented(tensor, spec, config) for tensor, spec in zip(item, specs, strict=True))


def _augmented(tensor: Tensor, spec: InputSpec, config: AugmentConfig) -> Tensor:
    match spec:
        case ImageSpec() if config.image != ImageAugment():
            return augment_image(tensor, config.image)
        case AudioSpec(num_mels=num_mels) if num_mels and config.audio != AudioAugment():
            return augment_audio(tensor, config.audio)
        case _:
            return tensor
