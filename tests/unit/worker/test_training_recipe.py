"""What a run would pass over in silence is refused before it begins."""

from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.jobs import JobSpec
from purvey.errors import InvalidValueError
from purvey.worker import train


class Link:
    stop_requested = None

    def event(self, message: str, *, level: str = "info", **data: object) -> None: ...

    def metrics(self, message: str, data: dict[str, Any]) -> None: ...

    def checkpoint(self, saved: object) -> None: ...


@pytest.mark.parametrize(
    ("recipe", "param"),
    [
        (
            {"model": {"base": "b", "hyperparameters": {"width": 3}}},
            "recipe.model.hyperparameters",
        ),
        ({"model": {"base": "b"}, "train": {"method": "lora"}}, "recipe.train.method"),
        ({"task": "text-generation", "augment": {"image": {"flip": True}}}, "recipe.augment.image"),
    ],
)
def test_settings_without_effect_are_refused(
    tmp_path: Path, recipe: dict[str, Any], param: str
) -> None:
    spec = JobSpec(
        job_id="job_x",
        kind="training",
        attempt=1,
        fence=1,
        recipe={"task": "text-classification", **recipe},
        work_dir=str(tmp_path),
        output_dir=str(tmp_path),
    )
    with pytest.raises(InvalidValueError) as refusal:
        train.run(spec, Link())
    assert refusal.value.param == param
