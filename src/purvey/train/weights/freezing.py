"""Holding parameters at their initial values by the patterns of their names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from purvey.errors import InvalidValueError

_NUM_SHOWN = 6


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Take matching parameters out of training, in place; `*`, `?` and `[...]` as in shells.

    Returns:
        Numbers (not tensors) that are held fast now.

    Raises:
        InvalidValueError: A pattern matches nothing that is trained, or nothing is left to train.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    frozen: set[str] = set()
    for pattern in patterns:
        matching = {name for name in trained if fnmatchcase(name, pattern)}
        if not matching:
            shown = ", ".join(list(trained)[:_NUM_SHOWN])
            raise _refusal(f"{pattern!r} matches no trained parameter; there are {shown}, ...")
        frozen |= matching
    if frozen and len(frozen) == len(trained):
        raise _refusal("the patterns match every parameter: nothing is left to train")
    for name in frozen:
        trained[name].requires_grad = False
    return sum(trained[name].numel() for name in frozen)


def _refusal(complaint: str) -> InvalidValueError:
    return InvalidValueError(f"train.freeze: {complaint}.", param="recipe.train.freeze")
