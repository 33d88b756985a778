"""`purvey jobs ...`: look at runs and steer them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import local_time, span
from purvey.cli.terminal import AsJson, console, notices, print_fields, print_json, print_table

if TYPE_CHECKING:
    from purvey.client.values import Event

app = typer.Typer(help="Look at training and fine-tuning jobs, and steer them.")
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


@app.command("list")
def list_jobs(as_json: AsJson = False) -> None:
    """List jobs, newest first."""
    with connect() as client:
        jobs = list(client.training_jobs.list())
    if as_json:
        print_json(jobs)
        return
    rows = [
        (job.id, job.status, job.trained_model, local_time(job.created_at), span(job.compute_s))
        for job in jobs
    ]
    print_table(("JOB", "STATUS", "MODEL", "CREATED", "COMPUTE"), rows, empty="No jobs yet.")


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job with its test report."""
    from purvey.cli.details import job_fields

    with connect() as client:
        job = client.training_jobs.get(job_id)
    if as_json:
        print_json(job)
    else:
        print_fields(job_fields(job))


@app.command()
def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a job has told; with `--json`, one object per line."""
    with connect() as client:
        told = (
            client.training_jobs.follow(job_id) if follow else client.training_jobs.events(job_id)
        )
        for event in told:
            _print_event(event, as_json=as_json)


@app.command()
def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Watch a job until it ends: a bar with its numbers and the time left, then its report.

    Elsewhere than on a terminal the bar is a line for each evaluation. Exit 1 if the job fails.
    """
    from purvey.cli.commands.progress import watch as watch_job
    from purvey.cli.details import job_fields
    from purvey.client.jobs import succeeded

    with connect() as client:
        job = succeeded(watch_job(client, job_id, notices()))
    if as_json:
        print_json(job)
    else:
        print_fields(job_fields(job))


@app.command()
def tensorboard(
    job_id: JobId,
    to: Annotated[Path, typer.Option(help="Folder that `tensorboard --logdir` is given.")] = Path(
        "runs"
    ),
) -> None:
    """Write what a job has told so far as an event file for TensorBoard."""
    with connect() as client:
        content = client.training_jobs.tensorboard(job_id)
    file = to / job_id / "events.out.tfevents.0.purvey"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    console().print(str(file), markup=False)


@app.command()
def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job."""
    _act(job_id, "cancel", as_json=as_json)


@app.command()
def pause(job_id: JobId, as_json: AsJson = False) -> None:
    """Pause a job at its next safe point; `resume` goes on from there."""
    _act(job_id, "pause", as_json=as_json)


@app.command()
def resume(job_id: JobId, as_json: AsJson = False) -> None:
    """Resume a paused job."""
    _act(job_id, "resume", as_json=as_json)


def _act(job_id: str, action: Literal["cancel", "pause", "resume"], *, as_json: bool) -> None:
    with connect() as client:
        job = client.training_jobs.act(job_id, action)
    if as_json:
        print_json(job)
    else:
        console().print(f"{job.id}: {job.status}", markup=False)


def _print_event(event: "Event", *, as_json: bool) -> None:
    if as_json:
        import msgspec

        print(msgspec.json.encode(event).decode())
    else:
        when = local_time(event.created_at)
        console().print(f"{when}  {event.level:<5}  {event.message}", markup=False)
