"""A built-in network within the limits table: counted before anything is allocated."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from purvey.contracts.model import InputSpec, Task
from purvey.contracts.sizes import check_parameters
from purvey.errors import InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.networks import catalogue
from purvey.models.skeleton import without_numbers


def build_network(
    architecture: str,
    *,
    task: Task,
    inputs: Mapping[str, InputSpec],
    num_outputs: int,
    hyperparameters: Mapping[str, Any],
) -> nn.Module:
    """Build a network; its weights come from torch's default generator.

    Args:
        architecture: As recipes name it.
        task: What it is for.
        inputs: What it takes, by name.
        num_outputs: Logits of a row.
        hyperparameters: JSON values.

    Raises:
        InvalidValueError: There is no such architecture for the task, it does not take these
            inputs or hyperparameters, or it would be larger than the limits table allows.
    """
    found = catalogue.find(architecture, task=task)

    def built() -> nn.Module:
        fields = Fields(hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
        return found.build(inputs, num_outputs, fields)

    counted = sum(parameter.numel() for parameter in without_numbers(built).parameters())
    check_parameters(counted, f"{architecture!r} of these inputs and hyperparameters")
    return built()
