"""Settings about inputs that a run would pass over in silence, refused before it begins."""

from collections.abc import Iterable, Mapping

from purvey.contracts.model import AudioSpec, ImageSpec, InputSpec, TextSpec
from purvey.contracts.recipe import TrainConfig
from purvey.contracts.recipe_parts.inputs import AugmentConfig, PreprocessConfig
from purvey.errors import InvalidValueError

_SPECS: dict[str, type[InputSpec]] = {"image": ImageSpec, "audio": AudioSpec, "text": TextSpec}
"""Kind of input by the name of its sections."""


def refuse_unused(
    config: TrainConfig, inputs: Mapping[str, InputSpec], *, is_declared_here: bool
) -> None:
    """Refuse sections `preprocess` and `augment` that have no effect on these inputs.

    Args:
        config: The recipe.
        inputs: What the model takes; empty for a language model.
        is_declared_here: Whether the inputs were declared from the dataset, as `preprocess` says;
            a user's module, a base and the built-in text classifier have declarations of their own.

    Raises:
        InvalidValueError: Names the section, or the image that nothing is left of.
    """
    there = {name for name, kind in _SPECS.items() if _of_kind(inputs, kind)}
    for name in _changed(config.augment):
        if name not in there:
            raise InvalidValueError(
                f"augment.{name} changes nothing: the model takes no {name}; leave it out.",
                param=f"recipe.augment.{name}",
            )
    for name in _changed(config.preprocess):
        if name not in there or not is_declared_here:
            why = "declares its own inputs" if name in there else f"takes no {name}"
            raise InvalidValueError(
                f"preprocess.{name} changes nothing: the model {why}; leave it out.",
                param=f"recipe.preprocess.{name}",
            )
    _check_shift(config.augment.image.crop_pixels, inputs)


def _changed(sections: AugmentConfig | PreprocessConfig) -> Iterable[str]:
    untouched = type(sections)()
    return [
        name
        for name in type(sections).model_fields
        if getattr(sections, name) != getattr(untouched, name)
    ]


def _of_kind(inputs: Mapping[str, InputSpec], kind: type[InputSpec]) -> bool:
    return any(isinstance(spec, kind) for spec in inputs.values())


def _check_shift(pixels: int, inputs: Mapping[str, InputSpec]) -> None:
    for spec in inputs.values():
        if isinstance(spec, ImageSpec) and pixels >= min(spec.height, spec.width):
            raise InvalidValueError(
                f"a shift of {pixels} pixels leaves nothing of images of {spec.height} x "
                f"{spec.width}.",
                param="recipe.augment.image.crop_pixels",
                hint="Keep it below the shorter side.",
            )
