"""The built-in architectures by name; a module is imported when one of its names is asked for."""

from importlib import import_module
from typing import cast

from purvey.contracts.model import Task
from purvey.errors import InvalidValueError
from purvey.models.networks.base import Architecture

MODULES = {
    "convnet": "convnet",
    "resnet": "resnet",
    "vit": "vit",
    "audio-convnet": "audio_convnet",
    "fusion": "fusion",
}
"""Module of this package by the name of its `ARCHITECTURE`."""
DEFAULTS: dict[Task, str] = {
    "image-classification": "convnet",
    "audio-classification": "audio-convnet",
    "classification": "fusion",
    "regression": "fusion",
}
"""What is built for a task when the recipe names nothing."""


def find(name: str, *, task: Task) -> Architecture:
    """Return an architecture that can do the task.

    Raises:
        InvalidValueError: There is none of that name, or it is for other tasks.
    """
    if name not in MODULES:
        raise InvalidValueError(
            f"{name!r} is no architecture for {task!r}: use one of {', '.join(MODULES)}, or "
            "'file.py:Class'.",
            param="model.architecture",
        )
    module = import_module(f"purvey.models.networks.{MODULES[name]}")
    found = cast("Architecture", module.ARCHITECTURE)
    if task not in found.tasks:
        raise InvalidValueError(
            f"the architecture {name!r} is for {' and '.join(sorted(found.tasks))}, not {task!r}.",
            param="model.architecture",
        )
    return found
