"""Which settings of the loop a task uses; the others must stay at their defaults."""

from purvey.contracts.model import GENERATING, TrainedTask
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.errors import InvalidValueError

_CLASSIFYING = frozenset(
    {"text-classification", "image-classification", "audio-classification", "classification"}
)
_USED_BY = {
    "class_weights": _CLASSIFYING,
    "label_smoothing": _CLASSIFYING | GENERATING,
    "objective": frozenset({"text-generation"}),
    "packing": GENERATING,
    "recompute_activations": frozenset({"text-generation"}),
}


def check_applies(loop: LoopConfig, *, task: TrainedTask, at: str) -> None:
    """Refuse what a run of the task would pass over in silence.

    Args:
        loop: Section `train` of a recipe.
        task: What the recipe is for.
        at: Prefix of the field's path.

    Raises:
        InvalidValueError: Names the field and the tasks that use it.
    """
    for name, tasks in _USED_BY.items():
        is_set = getattr(loop, name) != LoopConfig.model_fields[name].default
        if is_set and task not in tasks:
            raise InvalidValueError(
                f"train.{name} has no effect on {task}; leave it out. "
                f"It is for {', '.join(sorted(tasks))}.",
                param=f"{at}.train.{name}",
            )
