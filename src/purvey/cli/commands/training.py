"""`purvey train`: from files to a model that answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from purvey.cli.commands import dividing
from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, console, notices, print_fields, print_json
from purvey.errors import InvalidValueError

if TYPE_CHECKING:
    from rich.console import Console

    from purvey.cli.commands.sources import Plan
    from purvey.client.purvey import Purvey
    from purvey.client.values import Dataset, Job

INPUTS = frozenset({"text", "number", "category", "image", "audio"})
TASK_OF_COLUMNS: tuple[tuple[set[str], set[str], str], ...] = (
    ({"preference"}, set(), "text-generation"),
    ({"conversation"}, {"image"}, "image-text-to-text"),
    ({"conversation"}, set(), "text-generation"),
    ({"transcript"}, {"audio"}, "speech-recognition"),
    ({"transcript"}, {"image", "text"}, "image-text-to-text"),
    ({"label"}, {"text"}, "text-classification"),
    ({"label"}, {"image"}, "image-classification"),
    ({"label"}, {"audio"}, "audio-classification"),
    ({"label"}, set(), "classification"),
    ({"score"}, set(), "regression"),
    (set(), {"text"}, "text-generation"),
)
"""Which task a dataset is for when nobody says: the first of which it has the kind that is learned
and, where some are named, exactly those kinds of input."""
_GIVEN = {
    "image-classification": "--image FILE",
    "audio-classification": "--audio FILE",
    "image-text-to-text": '--image FILE --prompt "..."',
    "classification": "--input NAME=VALUE ...",
    "regression": "--input NAME=VALUE ...",
}
"""What `purvey run` is told to a model of a task; others take a prompt."""


def train(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="A recipe (.toml), data files, your net (.py)."),
    ],
    task: Annotated[str | None, typer.Option(help="What the model is for [from the data].")] = None,
    name: Annotated[str | None, typer.Option(help="Name the model answers under.")] = None,
    base: Annotated[str | None, typer.Option(help="Registered model to start from.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training split.")] = None,
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
        typer.Option(
            "--set", help="A recipe field, as `optimizer.learning_rate=0.01`; repeatable."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start the job and return.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what the run would take; start nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model: upload, build the dataset, run the job, show the test report.

    A bare data file is enough; a recipe says the rest. The model is served when this returns.
    """
    from purvey.cli.commands.estimating import show_estimates
    from purvey.cli.commands.progress import watch
    from purvey.cli.commands.sources import check_plan, read_plan
    from purvey.client.jobs import succeeded

    flags = {"task": task, "name": name, "model.base": base, "train.epochs": epochs}
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
        if estimate:
            show_estimates(client.training_jobs.validate(plan.recipe), as_json=as_json)
            return
        job = client.training_jobs.create(plan.recipe)
        out.print(f"job {job.id}", markup=False)
        if not detach:
            job = succeeded(watch(client, job.id, out))
    if as_json:
        print_json(job)
    elif job.status == "succeeded":
        _print_outcome(job, wanted=plan.recipe.get("name"))
    else:
        console().print(f"job {job.id}: {job.status}", markup=False)


def with_dataset(client: "Purvey", plan: "Plan", out: "Console") -> None:
    """Make the dataset of a plan that names files, and say in its recipe what that tells."""
    if plan.data:
        dataset = _dataset(client, plan, out)
        plan.recipe["dataset"] = dataset.id
        plan.recipe.setdefault("task", _task_for(dataset))
        if any(column.kind == "preference" for column in dataset.columns):
            plan.recipe.setdefault("train", {}).setdefault("objective", "dpo")


def _dataset(client: "Purvey", plan: "Plan", out: "Console") -> "Dataset":
    files = []
    for path in plan.data:
        out.print(f"uploading {path.name} ({path.stat().st_size / 2**20:.1f} MiB)", markup=False)
        files.append(client.files.upload(path).id)
    dataset = client.datasets.create(
        files, name=plan.data[0].stem, columns=plan.columns, options=plan.options
    )
    dataset = client.datasets.wait(dataset.id)
    columns = ", ".join(f"{column.name} ({column.kind})" for column in dataset.columns)
    rows = ", ".join(f"{count} {split}" for split, count in dataset.splits.items())
    for kind in ("duplicates", "near_duplicates"):
        if removed := dataset.profile.get(f"{kind}_removed"):
            rows += f"; {removed} {kind.replace('_', ' ')} removed"
    out.print(f"dataset {dataset.id}: {columns}; rows: {rows}", markup=False)
    for warning in dataset.profile.get("warnings", ()):
        out.print(f"warning: {warning}", markup=False)
    return dataset


def _task_for(dataset: "Dataset") -> str:
    kinds = {column.kind for column in dataset.columns}
    for learned, inputs, task in TASK_OF_COLUMNS:
        if learned <= kinds and (not inputs or inputs == kinds & INPUTS):
            return task
    raise InvalidValueError(
        "the data does not say what to train.",
        param="task",
        hint="Name it with --task, and the columns with --columns where they were misread.",
    )


def _print_outcome(job: "Job", *, wanted: object) -> None:
    from purvey.cli.details import report_fields

    print_fields({"model": job.trained_model or "-"})
    print_fields(report_fields(job.report))
    if job.trained_model:
        if wanted is not None and job.trained_model != wanted:
            notices().print(
                f"The name {wanted!r} was taken: an earlier model keeps it.", markup=False
            )
        task = str((job.recipe or {}).get("task"))
        given = _GIVEN.get(task, '--prompt "..."')
        asked = f"Ask it: purvey run {job.trained_model} {given}"
        if task == "embedding":
            asked = f"{job.trained_model} answers /v1/embeddings, /v1/rerank and /v1/score."
        console().print(asked, markup=False)
