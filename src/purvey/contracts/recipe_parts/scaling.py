"""One recipe at several sizes: what its factors multiply, and where they are refused."""

from typing import Any

from purvey.contracts.model import TrainedTask
from purvey.contracts.recipe_parts.building import InitScheme, ModelConfig
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.contracts.sizes import DECODER_COUNTS, DecoderSizes
from purvey.errors import InvalidValueError

MUP_NETWORKS = ("convnet", "resnet", "vit")
"""Built-in networks beside the decoder whose learning rate transfers across width."""
_NETWORKS = (*MUP_NETWORKS, "audio-convnet", "fusion", "ctc", "text-ngrams")
"""Those whose hyperparameters the factors multiply."""
_MUP_SCHEMES: tuple[InitScheme, ...] = ("default", "kaiming_normal", "kaiming_uniform")
"""Those whose deviation follows a layer's inputs alone."""
_GROWN: frozenset[TrainedTask] = frozenset(
    {
        *("text-generation", "text-classification", "embedding", "image-classification"),
        *("audio-classification", "speech-recognition"),
    }
)
"""Tasks whose bases grow, most kinds of them."""
_WIDE, _DEEP = ("width", "heads"), ("depth",)
"""Hyperparameters of built-in networks that the factors multiply."""


def scaled(model: ModelConfig, *, task: TrainedTask) -> dict[str, Any]:
    """Return the hyperparameters of a new architecture at the size that the factors ask for.

    A decoder gets more heads of the same size, and what it leaves unsaid is said. What is no
    number stays as it is: whoever builds the network refuses it.
    """
    if not _is_scaled(model):
        return dict(model.hyperparameters)
    if task == "text-generation":
        return _scaled_decoder(model)
    factors = dict.fromkeys(_WIDE, model.width_factor) | dict.fromkeys(_DEEP, model.depth_factor)
    return {
        name: value * factors.get(name, 1) if type(value) is int else value
        for name, value in model.hyperparameters.items()
    }


def check_scaling(
    model: ModelConfig, *, task: TrainedTask, loop: LoopConfig, scheme: InitScheme, at: str
) -> None:
    """Refuse factors, and a scaling, that what is trained does not know.

    Args:
        model: Section `model` of a recipe.
        task: What the recipe is for.
        loop: Its section `train`.
        scheme: How new weights are drawn.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: Names the field and what to change.
    """
    if not _is_scaled(model) and model.scaling == "standard":
        return
    field = _field_set(model)
    if loop.method == "lora":
        raise InvalidValueError(
            f"model.{field} is for a network that is trained whole: set train.method 'full'.",
            param=f"{at}.model.{field}",
        )
    if model.base is not None:
        _check_grown(model, task=task, at=at)
        return
    if task != "text-generation":
        _check_network(model, at=at)
    if model.scaling == "mup":
        _check_mup(model, task=task, scheme=scheme, at=at)


def _is_scaled(model: ModelConfig) -> bool:
    return (model.width_factor, model.depth_factor) != (1, 1)


def _field_set(model: ModelConfig) -> str:
    """Return the first field of those checked here that is not at its default."""
    factors = ("width_factor", "depth_factor")
    return next((name for name in factors if getattr(model, name) > 1), "scaling")


def _scaled_decoder(model: ModelConfig) -> dict[str, Any]:
    given = {name: value for name, value in model.hyperparameters.items() if value is not None}
    counts = [given[name] for name in DECODER_COUNTS if name in given]
    if not all(type(count) is int and count > 0 for count in counts):
        return dict(model.hyperparameters)
    base = DecoderSizes.of(given)
    wide = ("hidden_size", "num_heads", "num_kv_heads", "mlp_size")
    larger = {name: getattr(base, name) * model.width_factor for name in wide}
    return given | larger | {"num_layers": base.num_layers * model.depth_factor}


def _check_grown(model: ModelConfig, *, task: TrainedTask, at: str) -> None:
    """Refuse to grow what no way is known for; which kind of network a base is shows later."""
    field = _field_set(model)
    if task not in _GROWN:
        raise InvalidValueError(
            f"model.{field} does not grow a base of {task}; it is for {', '.join(sorted(_GROWN))}.",
            param=f"{at}.model.{field}",
        )
    if model.scaling == "mup" and task != "text-generation":
        raise InvalidValueError(
            f"model.scaling 'mup' is for language models where there is a base; leave it out of "
            f"{task}.",
            param=f"{at}.model.scaling",
        )


def _check_network(model: ModelConfig, *, at: str) -> None:
    """Refuse what is no built-in network, and to multiply what is not said.

    Its default is the network's own.
    """
    if model.architecture not in _NETWORKS:
        field = _field_set(model)
        raise InvalidValueError(
            f"model.{field} is for 'decoder', {', '.join(map(repr, _NETWORKS))}, not "
            f"{model.architecture!r}.",
            param=f"{at}.model.{field}",
            hint="A module of your own is scaled by its hyperparameters.",
        )
    factors = {
        "width_factor": ("width", model.width_factor),
        "depth_factor": ("depth", model.depth_factor),
    }
    for field, (name, factor) in factors.items():
        if factor > 1 and model.hyperparameters.get(name) is None:
            raise InvalidValueError(
                f"model.{field} multiplies model.hyperparameters.{name}: say what it is.",
                param=f"{at}.model.{field}",
            )


def _check_mup(model: ModelConfig, *, task: TrainedTask, scheme: InitScheme, at: str) -> None:
    is_decoder = task == "text-generation"
    if not is_decoder and model.architecture not in MUP_NETWORKS:
        raise InvalidValueError(
            f"model.scaling 'mup' is for 'decoder', {', '.join(map(repr, MUP_NETWORKS))}, not "
            f"{model.architecture!r}.",
            param=f"{at}.model.scaling",
        )
    if scheme not in (("default",) if is_decoder else _MUP_SCHEMES):
        raise InvalidValueError(
            f"init.scheme {scheme!r} does not follow the width as model.scaling 'mup' needs it: "
            "leave it out.",
            param=f"{at}.init.scheme",
        )
