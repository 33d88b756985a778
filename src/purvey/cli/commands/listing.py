"""`purvey list`, `purvey show` and `purvey rm`: what there is, and taking it away."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, assert_never

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import local_time
from purvey.cli.terminal import AsJson, console, print_fields, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import msgspec

    from purvey.client.purvey import Purvey
    from purvey.client.values import Dataset, File, Model


Kind = Literal["models", "datasets", "files"]
_DATASET_IDS = ("ds_", "dsv_")
_TABLES: dict[Kind, tuple[tuple[str, ...], str]] = {
    "models": (
        ("MODEL", "TASK", "BASE", "CREATED"),
        "No models yet: `purvey train` makes one.",
    ),
    "datasets": (
        ("DATASET", "NAME", "STATUS", "ROWS", "CREATED"),
        "No datasets yet: `purvey train` makes one of a file.",
    ),
    "files": (("FILE", "NAME", "PURPOSE", "BYTES", "CREATED"), "No files yet."),
}


def list_objects(
    kind: Annotated[
        Kind, typer.Argument(metavar="KIND", help="models, datasets or files.")
    ] = "models",
    as_json: AsJson = False,
) -> None:
    """List the registered models, or the datasets or files, newest first."""
    with connect() as client:
        found: list[Model] | list[Dataset] | list[File]
        match kind:
            case "models":
                found = list(client.models.list())
            case "datasets":
                found = list(client.datasets.list())
            case "files":
                found = list(client.files.list())
            case _ as never:
                assert_never(never)
    if as_json:
        print_json(found)
    else:
        _print_list(kind, found)


def remove(
    name: Annotated[
        str,
        typer.Argument(help="A model's name, or the id of a dataset, file, explanation, feedback."),
    ],
    as_json: AsJson = False,
) -> None:
    """Delete one model, dataset, file, explanation or feedback; refused while it is needed."""
    with connect() as client:
        if name.startswith(_DATASET_IDS):
            client.datasets.delete(name)
        elif name.startswith("file-"):
            client.files.delete(name)
        elif name.startswith("expl_"):
            client.explanations.delete(name)
        elif name.startswith("fb_"):
            client.feedback.delete(name)
        else:
            client.models.delete(name)
    if as_json:
        print_json({"id": name, "deleted": True})
    else:
        console().print(f"{name}: deleted", markup=False)


def _print_list(kind: Kind, found: "Sequence[Model | Dataset | File]") -> None:
    columns, empty = _TABLES[kind]
    print_table(columns, [_row(one) for one in found], empty=empty)


def _row(one: "Model | Dataset | File") -> tuple[object, ...]:
    from purvey.client.values import Dataset, Model

    if isinstance(one, Model):
        return one.id, one.task, one.base_model, local_time(one.created)
    if isinstance(one, Dataset):
        rows = sum(one.splits.values()) or None
        return one.id, one.name, one.status, rows, local_time(one.created_at)
    return one.id, one.filename, one.purpose, one.bytes, local_time(one.created_at)


def show(
    name: Annotated[
        str, typer.Argument(help="A model's name, or the id of a job, dataset or explanation.")
    ],
    perplexity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure how well the model foresees this text: what a precision costs.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one model, job, dataset or explanation."""
    from purvey.cli.commands.explaining import print_explanation
    from purvey.client.values import Explanation

    with connect() as client:
        if perplexity is not None:
            _show_perplexity(client, name, perplexity, as_json=as_json)
            return
        found, fields = _found(client, name)
    if as_json:
        print_json(found)
    elif isinstance(found, Explanation):
        print_explanation(found)
    else:
        print_fields(fields)


def _show_perplexity(client: "Purvey", name: str, path: Path, *, as_json: bool) -> None:
    """Measure, then show: the model, or one profile of a deployment, is in memory afterwards."""
    from purvey.cli.details import model_fields, perplexity_text
    from purvey.errors import InvalidFileError, NotFoundError

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidFileError(f"{path.name!r} is not UTF-8 text.", param="perplexity") from None
    measured = client.models.perplexity(name, text)
    try:
        model = client.models.get(name)
    except NotFoundError:  # a deployment, or one of its profiles
        fields: dict[str, object] = {"model": name}
    else:
        fields = model_fields(model)
    if as_json:
        print_json({"model": name, "perplexity": asdict(measured)})
    else:
        print_fields(fields | {"perplexity": perplexity_text(measured)})


def _found(client: "Purvey", name: str) -> "tuple[msgspec.Struct, dict[str, object]]":
    from purvey.cli.details import dataset_fields, job_fields, model_fields

    if name.startswith(("job_", "ftjob-")):
        job = client.training_jobs.get(name)
        return job, job_fields(job)
    if name.startswith(_DATASET_IDS):
        dataset = client.datasets.get(name)
        return dataset, dataset_fields(dataset)
    if name.startswith("expl_"):
        return client.explanations.get(name), {}
    model = client.models.get(name)
    return model, model_fields(model)
