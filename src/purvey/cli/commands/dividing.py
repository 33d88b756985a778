"""Flags that say how files become a dataset: what counts as a copy, and how rows are divided."""

from typing import Annotated, Any, Literal

import typer

Deduplicate = Annotated[
    Literal["exact", "near", "none"] | None,
    typer.Option(help="Which copies of a row are removed [exact]."),
]
Validation = Annotated[
    float | None, typer.Option("--validation", min=0, help="Share of rows to validate on [0.1].")
]
Test = Annotated[
    float | None, typer.Option("--test", min=0, help="Share of rows for the final test [0.1].")
]
Stratify = Annotated[
    bool | None,
    typer.Option(
        "--stratify/--no-stratify", help="Keep each label's share in every split [unless by time]."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Keep rows that share a value of this column on one side."),
]
Time = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Test on the latest rows by this column.")
]
SplitSeed = Annotated[
    int | None, typer.Option("--split-seed", min=0, help="Changes which rows are drawn [0].")
]


def dataset_options(
    *,
    deduplicate: str | None,
    validation: float | None,
    test: float | None,
    stratify: bool | None,
    group: str | None,
    time: str | None,
    seed: int | None,
) -> dict[str, Any]:  # JSON values
    """Return the fields of a dataset request that flags name; None means not given.

    Raises:
        InvalidValueError: They contradict one another.
    """
    from purvey.contracts.data import resolved_splits

    named = {
        "validation": validation,
        "test": test,
        "stratify": stratify,
        "group": group,
        "time": time,
    }
    splits: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    options: dict[str, Any] = {}
    if splits:
        resolved_splits(**splits)
        options["splits"] = splits
    if deduplicate is not None:
        options["deduplicate"] = False if deduplicate == "none" else deduplicate
    if seed is not None:
        options["seed"] = seed
    return options
