"""What MLflow is told of a job: parameters, metrics by step, the final test, tags.

No text of a message, a row or an answer is among it; the owner's own notes are.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from purvey.contracts.jobs import JobStatus
from purvey.contracts.records import JobEventRecord, JobRecord
from purvey.jobs.sweeps.ending import sweep_of
from purvey.server.reporting.tensorboard import scalars_of
from purvey.server.reporting.tracking.mlflow import Metric, RunStatus
from purvey.server.reporting.values import estimates, number

JOB_TAG, SEQ_TAG, PARENT_TAG = "purvey.job", "purvey.seq", "mlflow.parentRunId"
"""What a run is found by, the last event that it holds, and the run that it is shown below."""
STATUSES: dict[JobStatus, RunStatus] = {
    "validating_files": "SCHEDULED",
    "queued": "SCHEDULED",
    "paused": "SCHEDULED",
    "running": "RUNNING",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
_OUTSIDE = re.compile(r"[^A-Za-z0-9_\-. /]")
_NAME_CHARS, _PARAM_CHARS, _TAG_CHARS = 250, 500, 5_000  # what its oldest servers take


def name_of(job: JobRecord) -> str:
    """Return what a run is called: as its model, a trial with its number."""
    inner = job.recipe.get("recipe") if job.kind == "sweep" else None
    recipe = inner if isinstance(inner, Mapping) else job.recipe
    name = str(recipe.get("name") or job.suffix or job.id)
    trial = job.request.get("trial") if sweep_of(job) else None
    return (name if trial is None else f"{name}-trial-{trial}")[:_NAME_CHARS]


def tags_of(job: JobRecord) -> dict[str, str]:
    """Return what is known of a job from its start."""
    known = {
        JOB_TAG: job.id,
        "purvey.project": job.project_id,
        "purvey.kind": job.kind,
        "purvey.recipe_digest": job.recipe_digest,
        "purvey.dataset": job.dataset_id,
        "purvey.base_model": job.base_model,
        "purvey.sweep": sweep_of(job),
        "mlflow.source.name": "purvey",
        "mlflow.source.type": "JOB",
        **{f"metadata.{name}": value for name, value in job.metadata.items()},
    }
    return {_name(name): value[:_TAG_CHARS] for name, value in known.items() if value}


def params_of(job: JobRecord) -> dict[str, str]:
    """Return the recipe, resolved in full, by dotted names."""
    found = {_name(name): value[:_PARAM_CHARS] for name, value in _flat("", job.recipe)}
    return {name: value for name, value in found.items() if value}


def metrics_of(events: Iterable[JobEventRecord]) -> Iterator[Metric]:
    """Yield the numbers that events tell of a step."""
    for event in events:
        step = event.data.get("step")
        if event.type == "metrics" and isinstance(step, int) and step >= 0:
            for name, value in scalars_of(event.data).items():
                yield Metric(name=_name(name), value=value, step=step, at=event.created_at)


def environment_of(events: Iterable[JobEventRecord]) -> dict[str, str]:
    """Return versions, digests and the machine, as the run's first numbers have them."""
    told = (event.data.get("environment") for event in events if event.type == "metrics")
    found = next((one for one in told if isinstance(one, Mapping)), {})
    return {_name(f"environment.{name}"): str(value)[:_TAG_CHARS] for name, value in found.items()}


def tested(job: JobRecord) -> list[Metric]:
    """Return the final test of a run that has succeeded, each metric with its interval."""
    at = job.finished_at or job.created_at
    return [
        Metric(name=_name(f"test.{name}{suffix}"), value=value, step=0, at=at)
        for name, estimate in estimates(_report(job)).items()
        for suffix, field in (("", "value"), (".low", "low"), (".high", "high"))
        if (value := number(estimate.get(field))) is not None
    ]


def end_tags(job: JobRecord) -> dict[str, str]:
    """Return what became of a job that has ended, and the report as a note for people."""
    error = job.error or {}
    known = {
        "purvey.model": job.fine_tuned_model or "",
        "purvey.error": str(error.get("code") or ""),
        "mlflow.note.content": _note(job),
    }
    return {name: value[:_TAG_CHARS] for name, value in known.items() if value}


def _report(job: JobRecord) -> Mapping[str, Any]:
    report = (job.result or {}).get("report")
    return report if isinstance(report, Mapping) else {}


def _note(job: JobRecord) -> str:
    rows = [
        f"| {name} | {estimate['value']:.6g} | {_shown(estimate.get('low'))} to "
        f"{_shown(estimate.get('high'))} | {estimate.get('num_rows', '-')} |"
        for name, estimate in estimates(_report(job)).items()
    ]
    if not rows:
        return ""
    heads = ["| final test | value | interval | rows |", "|---|---|---|---|"]
    model = [f"Model `{job.fine_tuned_model}`", ""] if job.fine_tuned_model else []
    return "\n".join([*model, *heads, *rows])


def _shown(value: object) -> str:
    found = number(value)
    return "-" if found is None else f"{found:.6g}"


def _flat(above: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{above}.{name}" if above else str(name), inner)
    elif value is not None:
        yield above, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name(name: str) -> str:
    return _OUTSIDE.sub("_", name)[:_NAME_CHARS]
