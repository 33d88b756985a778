"""`purvey list` and `purvey show`: what there is."""

from typing import TYPE_CHECKING, Annotated

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import local_time
from purvey.cli.terminal import AsJson, print_fields, print_json, print_table

if TYPE_CHECKING:
    import msgspec

    from purvey.client.purvey import Purvey


def list_models(as_json: AsJson = False) -> None:
    """List the registered models."""
    with connect() as client:
        models = list(client.models.list())
    if as_json:
        print_json(models)
        return
    print_table(
        ("MODEL", "TASK", "BASE", "CREATED"),
        [(m.id, m.task, m.base_model, local_time(m.created)) for m in models],
        empty="No models yet: `purvey train` makes one.",
    )


def show(
    name: Annotated[
        str, typer.Argument(help="A model's name, or the id of a job, dataset or explanation.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show one model, job, dataset or explanation."""
    from purvey.cli.commands.explaining import print_explanation
    from purvey.client.values import Explanation

    with connect() as client:
        found, fields = _found(client, name)
    if as_json:
        print_json(found)
    elif isinstance(found, Explanation):
        print_explanation(found)
    else:
        print_fields(fields)


def _found(client: "Purvey", name: str) -> "tuple[msgspec.Struct, dict[str, object]]":
    from purvey.cli.details import dataset_fields, job_fields, model_fields

    if name.startswith(("job_", "ftjob-")):
        job = client.training_jobs.get(name)
        return job, job_fields(job)
    if name.startswith(("ds_", "dsv_")):
        dataset = client.datasets.get(name)
        return dataset, dataset_fields(dataset)
    if name.startswith("expl_"):
        return client.explanations.get(name), {}
    model = client.models.get(name)
    return model, model_fields(model)
