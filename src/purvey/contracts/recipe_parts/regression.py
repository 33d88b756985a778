"""What learning a score minimises."""

from typing import Literal

from pydantic import model_validator

from purvey.contracts.model import TrainedTask
from purvey.contracts.recipe_parts.part import Part, Positive, refuse_without_effect
from purvey.errors import InvalidValueError


class RegressionConfig(Part):
    """The loss of a score, in deviations of the training scores (task `regression`)."""

    loss: Literal["squared", "huber"] = "huber"
    """Half the squared error; `huber` (Huber 1964) grows only linearly beyond `huber_delta`."""
    huber_delta: Positive = 1.0
    """Error from which on outliers count linearly, in deviations of the training scores."""

    @model_validator(mode="after")
    def _all_used(self) -> "RegressionConfig":
        if self.loss == "squared":
            refuse_without_effect(self, ("huber_delta",), why="regression.loss 'squared'")
        return self


def check_regression(config: RegressionConfig, *, task: TrainedTask, at: str) -> None:
    """Refuse the section where no score is learned.

    Raises:
        InvalidValueError: It is not at its defaults, and the task is another.
    """
    if task != "regression" and config != RegressionConfig():
        raise InvalidValueError(
            f"the section 'regression' has no effect on {task}; leave it out.",
            param=f"{at}.regression",
        )
