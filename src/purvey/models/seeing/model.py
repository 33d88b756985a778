"""A vision-language model: eyes, decoder, tokenizer and chat template, in and out of a folder.

The folder is a language model's, which `transformers` reads as such, with the eyes' weights beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from purvey.contracts.model import EYES_NAME, ImageSpec, InputSpec, ModelManifest
from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.manifest import read_manifest
from purvey.models.folder.network_file import load_network_weights
from purvey.models.folder.safetensors_file import write_tensors
from purvey.models.language import LanguageModel, load_language_model, save_language_model
from purvey.models.networks.image_parts import only_image
from purvey.models.networks.vit import HYPERPARAMETERS, sizes_asked
from purvey.models.seeing.network import Eyes, Seeing
from purvey.models.skeleton import without_numbers

ARCHITECTURE = "vision-decoder"
IMAGE = "image"
"""The input's name in a manifest."""
VISION_PREFIX = "vision_"
"""How the hyperparameters of the eyes begin; the others are the decoder's."""


@dataclass(frozen=True, kw_only=True)
class VisionLanguageModel:
    """A language model that sees images in front of a conversation.

    Args:
        language: Decoder, tokenizer, template.
        eyes: Give rows of the decoder's width; float32, on the CPU.
        manifest: An input for each image that it has learned to see in one conversation, all
            alike, and the hyperparameters of the eyes.
    """

    language: LanguageModel
    eyes: Eyes
    manifest: ModelManifest

    @property
    def spec(self) -> ImageSpec:
        """How images are seen."""
        return _spec_of(self.manifest)

    @property
    def images(self) -> dict[str, ImageSpec]:
        """The images that it has learned to see in one conversation, by name."""
        return dict.fromkeys(self.manifest.inputs, self.spec)

    @property
    def num_images(self) -> int:
        """How many they are."""
        return len(self.manifest.inputs)

    def seeing(self, num_images: int) -> "VisionLanguageModel":
        """Return the model as one that sees so many images, or as many as before if more."""
        inputs = images_seen(self.spec, max(num_images, self.num_images))
        return replace(self, manifest=msgspec.structs.replace(self.manifest, inputs=inputs))

    @property
    def module(self) -> Seeing:
        """What is trained."""
        return Seeing(self.eyes, self.language.decoder)

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        eyes = sum(parameter.numel() for parameter in self.eyes.parameters())
        return eyes + self.language.num_parameters


def images_seen(spec: ImageSpec, num_images: int) -> dict[str, InputSpec]:
    """Return the inputs of a model that sees so many images: `image`, `image_2`, `image_3`."""
    more = (f"{IMAGE}_{number}" for number in range(2, num_images + 1))
    return dict.fromkeys((IMAGE, *more), spec)


def with_new_eyes(
    language: LanguageModel,
    *,
    hyperparameters: Mapping[str, Any],
    spec: ImageSpec,
) -> VisionLanguageModel:
    """Give a language model fresh eyes for one image, by torch's default generator.

    Args:
        language: What is to see.
        hyperparameters: `vision_width`, `vision_depth` and so on, and no others.
        spec: How images are seen.

    Raises:
        InvalidValueError: Names the hyperparameter at fault.
    """
    manifest = ModelManifest(
        family="vision-language",
        task="image-text-to-text",
        inputs=images_seen(spec, 1),
        hyperparameters=dict(hyperparameters),
        architecture=ARCHITECTURE,
    )
    eyes = _eyes(manifest, hidden_size=language.decoder.config.hidden_size)
    return VisionLanguageModel(language=language, eyes=eyes, manifest=manifest)


def save_vision_language_model(folder: Path, model: VisionLanguageModel) -> None:
    """Write a language model's folder with `vision.safetensors` beside its weights."""
    save_language_model(folder, replace(model.language, manifest=model.manifest))
    write_tensors(model.eyes.state_dict(), folder / EYES_NAME)


def load_vision_language_model(
    folder: Path, *, is_widened: bool = True, has_matrices: bool = True
) -> VisionLanguageModel:
    """Load a saved model in evaluation mode.

    Args:
        folder: The model's folder.
        is_widened: As in `load_folder`; of the decoder.
        has_matrices: As in `load_folder`; of the decoder.

    Raises:
        InvalidCheckpointError: A file is missing, unsafe, or does not fit the network.
    """
    manifest = read_manifest(folder)
    spec = manifest.inputs.get(IMAGE)
    if not isinstance(spec, ImageSpec) or manifest.inputs != images_seen(
        spec, len(manifest.inputs)
    ):
        raise InvalidCheckpointError(
            f"purvey.json describes no model that sees: images of one kind as the inputs "
            f"{IMAGE!r}, '{IMAGE}_2' and so on.",
            param="model",
        )
    language = load_language_model(folder, is_widened=is_widened, has_matrices=has_matrices)
    eyes = _eyes(manifest, hidden_size=language.decoder.config.hidden_size)
    load_network_weights(eyes, folder / EYES_NAME)
    return VisionLanguageModel(language=language, eyes=eyes.eval(), manifest=manifest)


def _spec_of(manifest: ModelManifest) -> ImageSpec:
    spec = manifest.inputs[IMAGE]
    assert isinstance(spec, ImageSpec), "a model that sees takes an image"
    return spec


def _eyes(manifest: ModelManifest, *, hidden_size: int) -> Eyes:
    """Build the eyes that a manifest describes, within the limits table."""
    named = manifest.hyperparameters
    fields = Fields(
        {name.removeprefix(VISION_PREFIX): value for name, value in named.items()},
        error=InvalidValueError,
        at=f"model.hyperparameters.{VISION_PREFIX}",
    )
    strange = next((name for name in named if not name.startswith(VISION_PREFIX)), None)
    if strange is not None:
        raise InvalidValueError(
            f"model.hyperparameters.{strange} is none of the eyes, whose names begin with "
            f"{VISION_PREFIX!r}.",
            param=f"model.hyperparameters.{strange}",
        )
    fields.refuse_unknown(HYPERPARAMETERS)
    spec = only_image({IMAGE: _spec_of(manifest)}, architecture=ARCHITECTURE)

    def built() -> Eyes:
        return Eyes(spec, sizes_asked(fields, spec), hidden_size=hidden_size)

    counted = sum(parameter.numel() for parameter in without_numbers(built).parameters())
    check_parameters(counted, f"the eyes of {ARCHITECTURE!r}")
    return built()
