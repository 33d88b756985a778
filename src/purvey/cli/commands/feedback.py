"""`purvey feedback ...`: what people think of answers, and learning from it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import local_time
from purvey.cli.terminal import AsJson, console, notices, print_fields, print_json, print_table
from purvey.errors import InvalidValueError

app = typer.Typer(help="Tell what was wrong with answers, and make more training rows of it.")
_SHOWN_CHARS = 40


@app.command("list")
def list_feedback(
    model: Annotated[str | None, typer.Option(help="Only on this model.")] = None,
    as_json: AsJson = False,
) -> None:
    """List feedback, newest first."""
    with connect() as client:
        given = list(client.feedback.list(model=model))
    if as_json:
        print_json(given)
        return
    rows = [
        (
            one.id,
            one.model,
            one.rating,
            _short(one.input),
            _short(one.output),
            _short(one.correction),
            local_time(one.created_at),
        )
        for one in given
    ]
    columns = ("FEEDBACK", "MODEL", "RATING", "INPUT", "OUTPUT", "CORRECTION", "CREATED")
    print_table(columns, rows, empty="No feedback yet: `purvey feedback add` tells some.")


@app.command()
def add(
    model: Annotated[str, typer.Argument(help="The model that answered.")],
    asked: Annotated[str, typer.Option("--input", help="What was asked.")],
    output: Annotated[str | None, typer.Option(help="What was answered.")] = None,
    rating: Annotated[
        Literal["good", "bad"] | None, typer.Option(help="What you think of it.")
    ] = None,
    correction: Annotated[str | None, typer.Option(help="What should have been answered.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a rating or a correction of one answer."""
    given = {"output": output, "rating": rating, "correction": correction}
    with connect() as client:
        kept = client.feedback.create(
            model, {"input": asked, **{name: said for name, said in given.items() if said}}
        )
    if as_json:
        print_json(kept)
    else:
        console().print(f"feedback {kept.id}", markup=False)


@app.command()
def version(
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the dataset.")],
    model: Annotated[
        str | None, typer.Option(help="Learn from all feedback on this model.")
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A file with more rows of the same columns; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a dataset: its rows, those of feedback, and of more files."""
    from purvey.cli.details import dataset_fields

    if model is None and not files:
        raise InvalidValueError(
            "there is nothing to add.", param="model", hint="Name a --model, or a --file."
        )
    with connect() as client:
        file_ids = [client.files.upload(path).id for path in files or ()]
        made = client.datasets.add_version(dataset_id, file_ids=file_ids, feedback_model=model)
        made = client.datasets.wait(made.id)
    for warning in made.profile.get("warnings", ()):
        notices().print(f"warning: {warning}", markup=False)
    if as_json:
        print_json(made)
    else:
        print_fields(dataset_fields(made))


def _short(text: str | None) -> str | None:
    """Return the text on one line, cut where it is long."""
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else f"{line[: _SHOWN_CHARS - 3]}..."
