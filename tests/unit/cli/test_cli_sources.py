"""What `purvey train` makes of its arguments."""

from pathlib import Path
from typing import Any

import pytest

from purvey.cli.commands.dividing import dataset_options
from purvey.cli.commands.sources import Plan, check_plan, read_plan
from purvey.contracts.recipe import parse_recipe
from purvey.errors import InvalidFileError, InvalidValueError, PurveyError

RECIPE = """
task = "image-classification"
data = ["digits.zip"]

[model]
architecture = "lenet.py:Net"

[optimizer]
learning_rate = 0.02
"""
NET = """
import purvey.module as pm
raise RuntimeError("never run by the command line")

class Block: ...

@pm.model(task="image-classification", input=pm.Image(height=8, width=8))
class Net: ...
"""


def plan(
    *sources: Path,
    settings: tuple[str, ...] = (),
    options: Any = None,
    **flags: object,
) -> Plan:
    return read_plan(
        sources, settings=settings, columns=None, flags=dict(flags), options=options or {}
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "digits.toml").write_text(RECIPE)
    (tmp_path / "digits.zip").write_bytes(b"PK")
    (tmp_path / "mail.csv").write_text("text,label\n")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def test_a_recipe_names_data_beside_it_or_in_the_current_folder(folder: Path) -> None:
    recipe = folder / "recipes" / "digits.toml"
    assert plan(recipe).data == [Path("digits.zip")]
    (folder / "recipes" / "digits.zip").write_bytes(b"PK")
    found = plan(recipe)
    assert found.data == [folder / "recipes" / "digits.zip"]
    assert "data" not in found.recipe
    assert parse_recipe(found.recipe).optimizer.learning_rate == 0.02


def test_flags_and_settings_overrule_the_recipe(folder: Path) -> None:
    found = plan(
        folder / "recipes" / "digits.toml",
        settings=("optimizer.learning_rate=0.5", "optimizer.name=sgd", "train.batch_size = 8"),
        **{"name": "d2", "train.epochs": 2.0, "task": None},
    )
    recipe = parse_recipe(found.recipe)
    assert (recipe.name, recipe.task) == ("d2", "image-classification")
    assert (recipe.optimizer.learning_rate, recipe.optimizer.name) == (0.5, "sgd")
    assert (recipe.train.batch_size, recipe.train.epochs) == (8, 2.0)


def test_a_bare_data_file_is_enough(folder: Path) -> None:
    found = plan(folder / "mail.csv", task="text-classification", name="spam")
    assert found.data == [folder / "mail.csv"]
    assert found.recipe == {"task": "text-classification", "name": "spam"}


def test_a_module_file_is_named_by_its_declared_class_and_never_run(folder: Path) -> None:
    found = plan(folder / "net.py", folder / "digits.zip")
    assert found.recipe["model"]["architecture"] == f"{(folder / 'net.py').resolve()}:Net"


def test_columns_overrule_inference(folder: Path) -> None:
    found = read_plan(
        [folder / "mail.csv"],
        settings=(),
        columns="body=text, topic=label",
        flags={},
        options={},
    )
    assert found.columns == {"body": "text", "topic": "label"}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("missing.csv", None, InvalidFileError),
        ("broken.toml", "task = ", InvalidValueError),
        ("odd.toml", "data = 3", InvalidValueError),
        ("empty.toml", 'task = "text-classification"', InvalidValueError),
        ("two.py", "@pm.model()\nclass A: ...\n@model\nclass B: ...", InvalidFileError),
        ("bad.py", "class", InvalidFileError),
    ],
)
def test_what_cannot_be_used_is_refused(
    folder: Path, name: str, content: str | None, kind: type[PurveyError]
) -> None:
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(kind):
        plan(folder / name)


@pytest.mark.parametrize("setting", ["noequals", "=3", "task.part=1"])
def test_a_setting_that_cannot_be_put_is_refused(folder: Path, setting: str) -> None:
    with pytest.raises(InvalidValueError):
        plan(folder / "recipes" / "digits.toml", settings=(setting,))


@pytest.mark.parametrize(
    ("setting", "param"),
    [
        ("optimizer.learning_rate=nan", "recipe.optimizer.learning_rate"),
        ("train.epochs=nan", "recipe.train.epochs"),
        ("optimizer.learning_rat=1", "recipe.optimizer.learning_rat"),
        ("name=留言", "recipe.name"),
    ],
)
def test_a_recipe_is_checked_before_anything_is_uploaded(
    folder: Path, setting: str, param: str
) -> None:
    check_plan(plan(folder / "mail.csv"))
    with pytest.raises(InvalidValueError) as caught:
        check_plan(plan(folder / "mail.csv", settings=(setting,)))
    assert caught.value.param == param


def options(**given: Any) -> dict[str, Any]:
    names = ("deduplicate", "validation", "test", "stratify", "group", "time", "seed")
    return dataset_options(**dict.fromkeys(names) | given)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {}),
        ({"deduplicate": "near", "seed": 0}, {"deduplicate": "near", "seed": 0}),
        ({"deduplicate": "none"}, {"deduplicate": False}),
        ({"test": 0.0, "stratify": False}, {"splits": {"test": 0.0, "stratify": False}}),
        ({"group": "speaker"}, {"splits": {"group": "speaker"}}),
        ({"time": "day"}, {"splits": {"time": "day"}}),
    ],
)
def test_only_what_flags_name_is_asked_of_a_dataset(
    given: dict[str, Any], asked: dict[str, Any]
) -> None:
    assert options(**given) == asked


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"group": "a", "time": "b"}, "splits.time"),
        ({"time": "b", "stratify": True}, "splits.stratify"),
        ({"validation": 0.5, "test": 0.5}, "splits"),
    ],
)
def test_splits_that_contradict_are_refused_before_anything_is_uploaded(
    given: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        options(**given)
    assert caught.value.param == param


def test_a_dataset_that_is_there_is_not_divided_again(folder: Path) -> None:
    recipe = folder / "made.toml"
    recipe.write_text('task = "text-classification"\ndataset = "ds_1"\n')
    assert plan(recipe).recipe["dataset"] == "ds_1"
    with pytest.raises(InvalidValueError, match="made before") as caught:
        plan(recipe, options={"splits": {"group": "speaker"}})
    assert caught.value.param == "splits"
