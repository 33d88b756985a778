"""A small language model grown into a larger one that says the same."""

from collections import Counter
from dataclasses import replace

import torch

from purvey.contracts.limits import LIMITS
from purvey.errors import InvalidValueError
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel
from purvey.models.scaling.depth import deepened, deepened_config
from purvey.models.scaling.record import Growth
from purvey.models.scaling.width import change_of, widened, widened_config
from purvey.models.skeleton import skeleton

_PROBE_SEQUENCES, _PROBE_TOKENS = 4, 32


def grow(
    model: LanguageModel,
    *,
    width_factor: int,
    depth_factor: int,
    generator: torch.Generator,
) -> tuple[LanguageModel, Growth]:
    """Return a wider and deeper model with the same answers, up to rounding, and what was done.

    Args:
        model: Float32; it stays as it is. Its tokenizer and template come along.
        width_factor: At least 1.
        depth_factor: At least 1.
        generator: Of the shares by which weights are divided.

    Raises:
        InvalidValueError: The large one would have more layers or weights than are built.
    """
    small = model.decoder
    _check_size(small, width_factor, depth_factor)
    wide = widened(small, width_factor, generator=generator) if width_factor > 1 else small
    large = deepened(wide, depth_factor) if depth_factor > 1 else wide
    grown = replace(model, decoder=large)
    names = small.state_dict()
    changes = Counter(change_of(name) if width_factor > 1 else "kept" for name in names)
    growth = Growth(
        width_factor=width_factor,
        depth_factor=depth_factor,
        parameters_before=model.num_parameters,
        parameters=grown.num_parameters,
        kept=changes["kept"],
        repeated=changes["repeated"],
        divided=changes["divided"],
        new_layers=tuple(i for i in range(large.config.num_layers) if i % depth_factor),
        largest_difference=_largest_difference(small, large, generator),
    )
    return grown, growth


def _check_size(small: Decoder, width_factor: int, depth_factor: int) -> None:
    config = deepened_config(widened_config(small.config, width_factor), depth_factor)
    if config.num_layers > LIMITS.new_layers:
        raise InvalidValueError(
            f"the grown model would have {config.num_layers} layers; at most {LIMITS.new_layers} "
            "are built.",
            param="recipe.model.depth_factor",
        )
    num_parameters = sum(parameter.numel() for parameter in skeleton(config).parameters())
    if num_parameters > LIMITS.new_parameters:
        raise InvalidValueError(
            f"the grown model would have {num_parameters} parameters; at most "
            f"{LIMITS.new_parameters} are built.",
            param="recipe.model.width_factor",
        )


@torch.no_grad()
def _largest_difference(small: Decoder, large: Decoder, generator: torch.Generator) -> float:
    length = min(_PROBE_TOKENS, small.config.context_tokens)
    vocabulary = small.config.vocabulary_size
    tokens_BL = torch.randint(vocabulary, (_PROBE_SEQUENCES, length), generator=generator)
    return float((large(tokens_BL) - small(tokens_BL)).abs().max())
