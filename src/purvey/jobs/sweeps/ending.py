"""What follows when a sweep or one of its trials ends, in the transaction that ends it."""

from sqlalchemy import Connection

from purvey.contracts.jobs import TERMINAL
from purvey.contracts.records import JobRecord
from purvey.jobs.hooks import Ended
from purvey.jobs.sweeps.standing import TrialView, best_of, config_of, error_of, trials_of
from purvey.store import events, jobs
from purvey.store.sweeps import trials


def sweep_of(job: JobRecord) -> str | None:
    """Return the id of the sweep that a job is a trial of, if it is one."""
    sweep = job.request.get("sweep") if job.api == "training" else None
    return sweep if isinstance(sweep, str) else None


def follow_up(conn: Connection, job: JobRecord, *, now: float, ended: Ended) -> None:
    """Do what the end of a job asks for: a sweep's trials end, a trial is told to its sweep.

    Args:
        conn: The transaction in which `job` has moved into a terminal state.
        job: As it is now.
        now: Epoch seconds.
        ended: Effects of the ends of others that follow from this one.
    """
    if job.kind == "sweep":
        for record in trials.of_sweep(conn, job.id):
            end_trial(conn, record.job_id, now=now, ended=ended)
        trials.let_go(conn, job.id)
        return
    sweep_id = sweep_of(job)
    if sweep_id is not None:
        _tell(conn, jobs.find(conn, sweep_id), job, now=now)


def end_trial(conn: Connection, job_id: str, *, now: float, ended: Ended) -> None:
    """Cancel a trial's job, unless it has ended: one that runs when its worker has stopped."""
    job = jobs.find(conn, job_id)
    if job.status in TERMINAL:
        return
    if job.status == "running":
        jobs.want(conn, job.project_id, job_id, "cancel")
        return
    events.append(
        conn,
        job_id,
        kind="message",
        level="info",
        message="The job is cancelled.",
        data={},
        now=now,
    )
    moved = jobs.move(conn, job_id, to="cancelled", now=now, wanted="cancel", error=None)
    ended(conn, moved)
    follow_up(conn, moved, now=now, ended=ended)


def _tell(conn: Connection, sweep: JobRecord, job: JobRecord, *, now: float) -> None:
    config, views = config_of(sweep), trials_of(conn, sweep)
    [view] = [view for view in views if view.job.id == job.id]
    best = best_of(views, config.direction)
    data = {
        "step": sum(view.job.status in TERMINAL for view in views),
        "total_steps": config.max_trials,
        "trial": view.record.number,
        "state": view.state,
        config.metric: view.value,
        "best_trial": best.record.number if best else None,
        "best_value": best.value if best else None,
    }
    events.append(
        conn,
        sweep.id,
        kind="metrics",
        level="warn" if view.state == "failed" else "info",
        message=_sentence(view, metric=config.metric, is_best=view is best),
        data=data,
        now=now,
    )


def _sentence(view: TrialView, *, metric: str, is_best: bool) -> str:
    told = f"Trial {view.record.number} is {view.state}"
    if view.value is not None:
        return f"{told}: {metric} {view.value:.6g}{', the best so far' if is_best else ''}."
    why = error_of(view.job, view.state)
    return f"{told}: {why}" if why else f"{told}."
