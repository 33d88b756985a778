"""What `purvey train` is given: a recipe file, a module file, data files, and flags over them."""

import ast
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.recipe import parse_recipe, parse_recipe_toml
from purvey.errors import InvalidFileError, InvalidValueError

Values = dict[str, Any]  # JSON values of a recipe


@dataclass(kw_only=True)
class Plan:
    """What to upload and what to train.

    Args:
        recipe: JSON values of a recipe, maybe still without task and dataset.
        data: Files to make the dataset of; empty when the recipe names a dataset.
        columns: Kind by column name, overruling inference.
        options: Other fields of the dataset's request: copies, splits, seed.
    """

    recipe: Values = field(default_factory=dict)
    data: list[Path] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    options: Values = field(default_factory=dict)


def read_plan(
    sources: Sequence[Path],
    *,
    settings: Sequence[str],
    columns: str | None,
    flags: Values,
    options: Values,
) -> Plan:
    """Join recipe file, module file, data files and flags.

    Args:
        sources: Files: a recipe ends in `.toml`, a module in `.py`, all others are data, whose
            format the server finds.
        settings: `field=value` pairs over the recipe; values are TOML, or plain words.
        columns: `name=kind,...` over what would be inferred.
        flags: Recipe values (maybe nested) that flags name; None means not given.
        options: How the files are cleaned and divided.

    Raises:
        InvalidFileError: A file is missing, or the module declares no model.
        InvalidValueError: A recipe, setting or column list that cannot be read.
    """
    plan = Plan()
    for source in sources:
        _require(source)
        if source.suffix == ".toml":
            _take_recipe(plan, source)
        elif source.suffix == ".py":
            _put(plan.recipe, "model.architecture", f"{source.resolve()}:{_declared_class(source)}")
        else:
            plan.data.append(source)
    for name, value in flags.items():
        if value is not None:
            _put(plan.recipe, name, value)
    for setting in settings:
        name, value = _pair(setting, param="set")
        _put(plan.recipe, name, toml_value(value))
    plan.columns |= dict(
        _pair(part, param="columns") for part in (columns or "").split(",") if part
    )
    if not plan.data and "dataset" not in plan.recipe:
        raise InvalidValueError(
            "there is no data to train on.",
            param="data",
            hint='Name data files, or put `data = ["file.csv"]` into the recipe.',
        )
    plan.options |= options
    if not plan.data and (plan.columns or plan.options):
        raise InvalidValueError(
            f"the dataset {plan.recipe['dataset']!r} was made before, and is not divided again.",
            param=next(iter([*plan.options, "columns"])),
            hint="Name the data files instead of the dataset.",
        )
    return plan


def check_plan(plan: Plan) -> None:
    """Refuse a recipe that the server would refuse, before anything is uploaded.

    Raises:
        InvalidValueError: Names the first field at fault.
    """
    values = {"task": "classification"} | plan.recipe  # any task where the data will say which
    parse_recipe(with_recipe_defaults(values))


def toml_value(text: str) -> object:
    """Read one value as TOML; what is none is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _take_recipe(plan: Plan, file: Path) -> None:
    values = parse_recipe_toml(file.read_text(encoding="utf-8"))
    data, columns = values.pop("data", []), values.pop("columns", {})
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise InvalidValueError("data must be a list of file names.", param="recipe.data")
    plan.data.extend(_found(file, name) for name in data)
    plan.columns |= {str(name): str(kind) for name, kind in columns.items()}
    plan.recipe |= values


def _found(recipe: Path, name: str) -> Path:
    """Look for a recipe's data file beside the recipe, then in the current folder."""
    beside = recipe.parent / name
    return beside if beside.is_file() else _require(Path(name))


def _require(file: Path) -> Path:
    if not file.is_file():
        raise InvalidFileError(f"no file at {str(file)!r}.", param="source")
    return file


def _declared_class(file: Path) -> str:
    """Return the name of the class that `@pm.model(...)` declares, without running the file."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise InvalidFileError(f"{file.name!r} is not Python: {error}.", param="source") from None
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(map(_declares, node.decorator_list))
    ]
    if len(names) != 1:
        raise InvalidFileError(
            f"{file.name!r} declares {len(names)} models.",
            param="source",
            hint='Put `@pm.model(...)` on one class, or use --set model.architecture="net.py:Net".',
        )
    return names[0]


def _declares(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (isinstance(called, ast.Attribute) and called.attr == "model") or (
        isinstance(called, ast.Name) and called.id == "model"
    )


def _put(recipe: Values, name: str, value: object) -> None:
    *parents, leaf = name.split(".")
    inner = recipe
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InvalidValueError(f"{parent!r} of {name!r} has no parts.", param=name)
    inner[leaf] = value


def _pair(text: str, *, param: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise InvalidValueError(f"{text!r} is not of the form name=value.", param=param)
    return name.strip(), value.strip()
