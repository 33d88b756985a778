"""What a built-in architecture is: a name, what it takes, and how it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from purvey.contracts.model import InputSpec, Task
from purvey.models.folder.config_fields import Fields

Build = Callable[[Mapping[str, InputSpec], int, Fields], nn.Module]
"""Inputs by name, number of outputs, hyperparameters (each read, unknown ones refused) to a network
whose `forward` takes one batched tensor for each input, in order, and returns `logits_BL`. It
raises `InvalidValueError` for inputs it does not take and for hyperparameters out of range."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A built-in network.

    Args:
        name: As recipes name it.
        tasks: What it can be trained for.
        build: Makes it; weights come from torch's default generator.
    """

    name: str
    tasks: frozenset[Task]
    build: Build
