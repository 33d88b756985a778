"""Where the checkout keeps the example module and the recipes."""

import tomllib
from pathlib import Path
from typing import Any

from purvey.errors import UserError

CHECKOUT = Path(__file__).parents[4]


def examples_folder() -> Path:
    """Return the folder of example modules.

    Raises:
        UserError: Purvey runs from an installed package without its checkout.
    """
    return _existing(CHECKOUT / "examples")


def recipe(name: str) -> dict[str, Any]:
    """Return the values of one of the checkout's recipes, without its `data` files.

    Raises:
        UserError: Purvey runs from an installed package without its checkout.
    """
    values = tomllib.loads(_existing(CHECKOUT / "recipes" / name).read_text(encoding="utf-8"))
    values.pop("data", None)
    return values


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(
            "the demonstration uses files of the source checkout.",
            hint="Clone the repository and run `make demo` there.",
        )
    return path
