"""`purvey sweep --space`: the short form of a search space."""

from typing import Any

import pytest

from purvey.cli.commands.sweeping import read_space
from purvey.contracts.sweep.config import SweepConfig
from purvey.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("optimizer.learning_rate=1e-4..1e-1:log", {"low": 1e-4, "high": 0.1, "log": True}),
        ("train.batch_size=8..64:8", {"low": 8, "high": 64, "step": 8}),
        ("seed=0..9", {"low": 0, "high": 9}),
        ("optimizer.momentum = 0.5 .. 0.9", {"low": 0.5, "high": 0.9}),
        ("train.batch_size=16,32", {"values": [16, 32]}),
        ("optimizer.name=sgd, adamw", {"values": ["sgd", "adamw"]}),
        ("augment.image.flip=true,false", {"values": [True, False]}),
        ("model.hyperparameters.widths=[[8, 8], [16]]", {"values": [[8, 8], [16]]}),
        ("seed=3", {"values": [3]}),
    ],
)
def test_each_form_is_read(text: str, where: dict[str, Any]) -> None:
    name = text.partition("=")[0].strip()
    space = read_space([text])
    assert space == {name: where}
    SweepConfig.model_validate(
        {
            "recipe": {},
            "space": space,
            "metric": "macro_f1",
            "direction": "maximize",
            "max_trials": 1,
        }
    )


@pytest.mark.parametrize(
    "texts", [["seed"], ["seed="], ["=1..2"], ["seed=1..x"], ["seed=..2"], ["seed=1..9:y"],
              ["seed=1,2", "seed=3,4"]],
)  # fmt: skip
def test_what_has_no_form_is_refused_with_the_forms(texts: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_space(texts)
    assert caught.value.param == "space"
    assert "LOW..HIGH" in caught.value.text
