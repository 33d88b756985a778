"""`purvey sweep`: search over a recipe's fields for what trains best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from purvey.cli.commands import dividing
from purvey.cli.connection import connect
from purvey.cli.moments import span
from purvey.cli.terminal import AsJson, console, notices, print_fields, print_json, print_table
from purvey.errors import InvalidValueError

if TYPE_CHECKING:
    from rich.console import Console

    from purvey.client.purvey import Purvey
    from purvey.client.values import Sweep, Trial

Values = dict[str, Any]  # JSON values
_FORMS = "FIELD=LOW..HIGH, FIELD=LOW..HIGH:log, FIELD=LOW..HIGH:STEP or FIELD=A,B,C"


def sweep(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="A recipe (.toml), data files, your net (.py)."),
    ],
    space: Annotated[
        list[str],
        typer.Option(
            help="A field and where to look, as `optimizer.learning_rate=1e-4..1e-1:log` or "
            "`train.batch_size=16,32`; repeatable."
        ),
    ],
    trials: Annotated[int, typer.Option(help="Trials at most.")] = 20,
    minutes: Annotated[float | None, typer.Option(help="Minutes at most.")] = None,
    parallel: Annotated[int, typer.Option(help="Trials at one time.")] = 1,
    metric: Annotated[
        str | None, typer.Option(help="What trials are compared by [from the task].")
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="minimize or maximize [from the metric].")
    ] = None,
    pruner: Annotated[
        str, typer.Option(help="Which rule ends trials early: none, median, successive_halving.")
    ] = "median",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Register every trial's model.")
    ] = False,
    task: Annotated[str | None, typer.Option(help="What the model is for [from the data].")] = None,
    name: Annotated[str | None, typer.Option(help="Name the best answers under.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Kinds of columns, as `body=text,topic=label` [inferred].")
    ] = None,
    deduplicate: dividing.Deduplicate = None,
    validation: dividing.Validation = None,
    test: dividing.Test = None,
    stratify: dividing.Stratify = None,
    group: dividing.Group = None,
    time: dividing.Time = None,
    split_seed: dividing.SplitSeed = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A recipe field of all trials, as `train.epochs=5`."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the search and return.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the recipe that trains best: trials, a table of them, the best one served."""
    from purvey.cli.commands.sources import check_plan, read_plan
    from purvey.cli.commands.training import with_dataset
    from purvey.client.sweeps import found

    options: Values = {
        "max_trials": trials,
        "max_minutes": minutes,
        "parallel": parallel,
        "metric": metric,
        "direction": direction,
        "pruner": pruner,
        "seed": seed,
        "keep": "all" if keep_all else "best",
    }
    places = read_space(space)
    flags = {"task": task, "name": name}
    data_options = dividing.dataset_options(
        deduplicate=deduplicate,
        validation=validation,
        test=test,
        stratify=stratify,
        group=group,
        time=time,
        seed=split_seed,
    )
    plan = read_plan(
        sources, settings=settings or (), columns=columns, flags=flags, options=data_options
    )
    check_plan(plan)
    out = notices()
    with connect() as client:
        with_dataset(client, plan, out)
        made = client.sweeps.create(plan.recipe, places, options=options)
        out.print(f"sweep {made.id}", markup=False)
        if not detach:
            made = found(_watch(client, made, out))
    if as_json:
        print_json(made)
    elif made.status == "succeeded":
        _print_outcome(made)
    else:
        console().print(f"sweep {made.id}: {made.status}", markup=False)


def read_space(texts: list[str]) -> Values:
    """Read the fields that are searched from their short form.

    Raises:
        InvalidValueError: One is of none of the forms.
    """
    space: Values = {}
    for text in texts:
        name, equals, where = (part.strip() for part in text.partition("="))
        if not (name and equals and where) or name in space:
            raise InvalidValueError(
                f"{text!r} is not one field with its values.", param="space", hint=f"Give {_FORMS}."
            )
        space[name] = _range(text, where) if ".." in where else {"values": _values(where)}
    return space


def _range(text: str, where: str) -> Values:
    ends, _, how = where.partition(":")
    low, _, high = ends.partition("..")
    numbers = [_number(low), _number(high), *([_number(how)] if how not in {"", "log"} else [])]
    if any(number is None for number in numbers):
        raise InvalidValueError(
            f"{text!r} has no two numbers around '..'.", param="space", hint=f"Give {_FORMS}."
        )
    found: Values = {"low": numbers[0], "high": numbers[1]}
    if how:
        found |= {"log": True} if how == "log" else {"step": numbers[2]}
    return found


def _values(where: str) -> list[object]:
    """Return what stands between commas; each is TOML, or plain words."""
    from purvey.cli.commands.sources import toml_value

    found = toml_value(where)
    if isinstance(found, list):
        return found
    return [toml_value(part.strip()) for part in where.split(",")]


def _number(text: str) -> float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _watch(client: "Purvey", made: "Sweep", out: "Console") -> "Sweep":
    try:
        for event in client.sweeps.follow(made.id):
            out.print(event.message, markup=False)
    except KeyboardInterrupt:
        out.print(f"The search goes on. `purvey jobs cancel {made.id}` ends it.", markup=False)
        raise
    return client.sweeps.get(made.id)


def _print_outcome(made: "Sweep") -> None:
    from purvey.cli.details import report_fields

    trials = sorted(made.trials or (), key=lambda trial: _rank(trial, made.direction))
    names = list(trials[0].parameters) if trials else []
    rows = [
        (
            trial.number,
            trial.state,
            trial.value,
            *(str(trial.parameters[name]) for name in names),
            span(trial.compute_s),
        )
        for trial in trials
    ]
    columns = ("TRIAL", "STATE", made.metric.upper(), *names, "COMPUTE")
    print_table(columns, rows, empty="No trials.")
    print_fields({"model": made.model, **report_fields(made.report)})


def _rank(trial: "Trial", direction: str) -> tuple[bool, float, int]:
    value = trial.value or 0.0
    return (trial.value is None, value if direction == "minimize" else -value, trial.number)
