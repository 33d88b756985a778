"""`/v1/training/sweeps`: a search over a recipe's fields, each trial of it a training job."""

import asyncio
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from sqlalchemy import Connection
from typing_extensions import TypedDict

from purvey.contracts.jobs import JobStatus
from purvey.contracts.recipe import TrainConfig, first_problem, parse_recipe
from purvey.contracts.records import JobRecord
from purvey.contracts.sweep.check import check_sweep
from purvey.contracts.sweep.config import (
    Direction,
    Keep,
    MaxMinutes,
    MaxTrials,
    Parallel,
    Pruner,
    Seed,
    SweepConfig,
    default_direction,
    default_metric,
    trial_values,
)
from purvey.contracts.sweep.messages import TrialState
from purvey.contracts.sweep.space import Space
from purvey.errors import InvalidValueError
from purvey.jobs.sweeps.standing import TrialView, best_of, config_of, error_of, trials_of
from purvey.server.job_routes import JobResource, find, steer
from purvey.server.native.training_jobs import check_module, check_named, check_run
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Body, FreeForm, Metadata
from purvey.store import jobs
from purvey.store.sweeps import trials

routes = Routes(tag="Training sweeps")
_ASKED: dict[str, Any] = {  # JSON values
    "recipe": {
        "task": "text-classification",
        "name": "spam",
        "dataset": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    },
    "space": {
        "optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "train.batch_size": {"values": [16, 32, 64]},
    },
    "max_trials": 12,
}


class SweepRequest(Body):
    """A search as asked for."""

    model_config = ConfigDict(json_schema_extra={"example": _ASKED})

    recipe: FreeForm = Field(description="What every trial begins with, as for a training job.")
    space: Space = Field(
        description="Recipe field, dotted, to `{low, high, log, step}` or `{values}`."
    )
    metric: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Measured on the validation split; macro_f1 for classifiers, else valid_loss.",
    )
    direction: Direction | None = Field(
        None, description="Which way it is better; from its name unless given."
    )
    max_trials: MaxTrials = Field(20, description="Trials that begin at most.")
    max_minutes: MaxMinutes | None = Field(
        None, description="Minutes from its start after which no trial goes on."
    )
    parallel: Parallel = Field(1, description="Trials at one time, at most.")
    pruner: Pruner = Field("median", description="Which rule ends a trial early.")
    keep: Keep = Field("best", description="Which trials' models are registered.")
    seed: Seed = Field(0, description="Of the search; trials have the recipe's.")
    metadata: Metadata | None = None


class SweepTrial(TypedDict):
    """A trial and where it stands; `value` is there once it is `complete`."""

    number: int
    job: str
    state: TrialState
    parameters: dict[str, Any]
    value: float | None
    model: str | None
    error: str | None
    started_at: float | None
    finished_at: float | None
    compute_s: float


class TrainingSweep(TypedDict):
    """A search and where it stands; in a listing `trials` is null."""

    id: str
    object: Literal["training.sweep"]
    status: JobStatus
    created_at: float
    started_at: float | None
    finished_at: float | None
    recipe: dict[str, Any]
    space: dict[str, Any]
    metric: str
    direction: Direction
    max_trials: int
    max_minutes: float | None
    parallel: int
    pruner: Pruner
    keep: Keep
    seed: int
    dataset: str | None
    base_model: str | None
    trials: list[SweepTrial] | None
    best: dict[str, Any] | None
    model: str | None
    report: dict[str, Any] | None
    error: dict[str, Any] | None
    metadata: dict[str, str]
    compute_s: float


_PARAMETERS = {"optimizer.learning_rate": 0.0123, "train.batch_size": 32}
EXAMPLE: dict[str, Any] = {  # JSON values
    "id": "sweep_6f1c9a0e5b7d4c2f8a3e1b0d9c8f7a6e",
    "object": "training.sweep",
    "status": "succeeded",
    "created_at": 1795467000.0,
    "started_at": 1795467001.0,
    "finished_at": 1795467120.0,
    "recipe": _ASKED["recipe"],
    "space": _ASKED["space"],
    "metric": "macro_f1",
    "direction": "maximize",
    "max_trials": 12,
    "max_minutes": None,
    "parallel": 1,
    "pruner": "median",
    "keep": "best",
    "seed": 0,
    "dataset": "ds_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
    "base_model": None,
    "trials": [
        {
            "number": 0,
            "job": "job_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
            "state": "complete",
            "parameters": _PARAMETERS,
            "value": 0.97,
            "model": "spam",
            "error": None,
            "started_at": 1795467001.0,
            "finished_at": 1795467011.0,
            "compute_s": 9.8,
        }
    ],
    "best": {
        "trial": 0,
        "job": "job_0d9c8f7a6e6f1c9a0e5b7d4c2f8a3e1b",
        "value": 0.97,
        "parameters": _PARAMETERS,
    },
    "model": "spam",
    "report": {"accuracy": {"value": 0.98, "low": 0.97, "high": 0.99, "num_rows": 557}},
    "error": None,
    "metadata": {},
    "compute_s": 9.8,
}


@routes.add(
    "POST",
    "/v1/training/sweeps",
    scope="training:write",
    returns=TrainingSweep,
    example=EXAMPLE,
    is_creating=True,
)
async def create(call: Caller, body: SweepRequest) -> TrainingSweep:
    """Start a search; its fields, the recipes at their ends and its budget are checked first."""
    config = _config(body)
    tried = await asyncio.to_thread(check_sweep, config)
    base = parse_recipe(trial_values(config, {}))
    for recipe in tried:
        check_module(call, recipe)
    await _check_data(call, base)

    def beside(conn: Connection, job: JobRecord) -> None:
        check_named(conn, call, base)
        call.once.keep(conn, shown(job, []), subject=job.id)

    job = await call.services.jobs.create(
        project_id=call.project_id,
        key_id=call.principal.key_id,
        api="sweep",
        kind="sweep",
        recipe=config.model_dump(mode="json"),
        recipe_digest=config.digest(),
        seed=config.seed,
        base_model=base.model.base,
        dataset_id=base.dataset,
        metadata=body.metadata,
        beside=beside,
        num_trials=config.parallel,
    )
    return shown(job, [])


_resource = JobResource(
    routes=routes,
    root="/v1/training/sweeps",
    api="sweep",
    shown=lambda sweep: shown(sweep, None),
    returns=TrainingSweep,
    example=EXAMPLE | {"trials": None},
)
_resource.add_listing("List searches, newest first, without their trials.")
_resource.add_events(
    "List what a search has told, the end of each trial among it, or stream it as events."
)


@routes.add(
    "GET",
    "/v1/training/sweeps/{job_id}",
    scope="training:read",
    returns=TrainingSweep,
    example=EXAMPLE,
)
async def retrieve(call: Caller, job_id: str) -> TrainingSweep:
    """Show a search with its trials, and the best of them so far."""
    return await _retrieved(call, (await find(call, job_id, "sweep")).id)


@routes.add(
    "POST",
    "/v1/training/sweeps/{job_id}/cancel",
    scope="training:write",
    returns=TrainingSweep,
    example=EXAMPLE,
)
async def cancel(call: Caller, job_id: str) -> TrainingSweep:
    """End a search and its trials; no model is registered."""
    job = await steer(call, job_id, "cancel", "sweep")
    known = await call.services.database.read(lambda conn: trials.of_sweep(conn, job.id))
    for trial in known:  # of those that waited, no worker clears up
        await call.services.sweeper.collect_work(trial.job_id)
    return await _retrieved(call, job.id)


def shown(sweep: JobRecord, views: list[TrialView] | None) -> TrainingSweep:
    """Show a sweep's record, with its trials unless they are None."""
    config, result = config_of(sweep), sweep.result or {}
    best = best_of(views or (), config.direction)
    return {
        "id": sweep.id,
        "object": "training.sweep",
        "status": sweep.status,
        "created_at": sweep.created_at,
        "started_at": sweep.started_at,
        "finished_at": sweep.finished_at,
        "recipe": config.recipe,
        "space": sweep.recipe["space"],
        "metric": config.metric,
        "direction": config.direction,
        "max_trials": config.max_trials,
        "max_minutes": config.max_minutes,
        "parallel": config.parallel,
        "pruner": config.pruner,
        "keep": config.keep,
        "seed": config.seed,
        "dataset": sweep.dataset_id,
        "base_model": sweep.base_model,
        "trials": None if views is None else [_trial(view, sweep, best) for view in views],
        "best": result.get("best") or (_best(best) if best else None),
        "model": sweep.fine_tuned_model,
        "report": result.get("report"),
        "error": sweep.error,
        "metadata": sweep.metadata,
        "compute_s": result.get("compute_s") or sum(v.job.compute_s for v in views or ()),
    }


def _trial(view: TrialView, sweep: JobRecord, best: TrialView | None) -> SweepTrial:
    job = view.job
    return {
        "number": view.record.number,
        "job": job.id,
        "state": view.state,
        "parameters": view.record.parameters,
        "value": view.value,
        "model": sweep.fine_tuned_model if view is best else job.fine_tuned_model,
        "error": error_of(job, view.state),
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "compute_s": job.compute_s,
    }


def _best(view: TrialView) -> dict[str, Any]:
    return {
        "trial": view.record.number,
        "job": view.job.id,
        "value": view.value,
        "parameters": view.record.parameters,
    }


async def _retrieved(call: Call, sweep_id: str) -> TrainingSweep:
    def read(conn: Connection) -> TrainingSweep:
        sweep = jobs.get(conn, call.project_id, sweep_id)
        return shown(sweep, trials_of(conn, sweep))

    return await call.services.database.read(read)


def _config(body: SweepRequest) -> SweepConfig:
    values = body.model_dump(exclude={"metadata"})
    task = values["recipe"].get("task", "")
    metric = body.metric or default_metric(task)
    values |= {"metric": metric, "direction": body.direction or default_direction(metric)}
    try:
        return SweepConfig.model_validate(values)
    except ValidationError as error:
        raise first_problem(error, SweepConfig) from None


async def _check_data(call: Call, base: TrainConfig) -> None:
    manifest = await check_run(call, base)
    if not manifest.rows.get("validation"):
        raise InvalidValueError(
            "trials are compared on the validation split, and the dataset has no row in it.",
            param="recipe.dataset",
            hint="Make the dataset with splits.validation above 0.",
        )
