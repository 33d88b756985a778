"""What a built-in architecture is: a name, what it takes, and how it is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
        chosen: Hyperparameters that a new network has where none are given. Its folder keeps
            them, so a better choice leaves older folders, which `build` reads, as they are.
    """

    name: str
    tasks: frozenset[Task]
    build: Build
    chosen: Mapping[str, Any] = field(default_factory=dict)
