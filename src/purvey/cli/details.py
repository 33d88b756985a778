"""Objects of the API as names and values for the terminal."""

from collections.abc import Mapping
from typing import Any

from purvey.cli.moments import local_time, span
from purvey.client.perplexity import Perplexity
from purvey.client.values import Dataset, Job, Model, ModelEngine


def model_fields(model: Model) -> dict[str, object]:
    """Return what a person wants to know of a model."""
    return {
        "model": model.id,
        "task": model.task,
        "family": model.family,
        "labels": ", ".join(model.labels[:20]) or None,
        "base": model.base_model,
        "job": model.job_id,
        "created": local_time(model.created),
        "digest": model.digest,
        "in memory": "; ".join(_memory_text(engine) for engine in model.engines) or None,
        **report_fields(model.report),
    }


def perplexity_text(found: Perplexity) -> str:
    """Return `12.34 over 1200 tokens, in windows of 512`."""
    where = f"over {found.num_tokens} tokens, in windows of {found.window_tokens}"
    return f"{found.value:.4f} {where}"


def _memory_text(engine: ModelEngine) -> str:
    parts = {
        "weights": engine.weights_bytes,
        "KV cache": engine.kv_cache_bytes,
        "workspace": engine.workspace_bytes,
        "adapters": engine.adapter_bytes,
    }
    sizes = " + ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in parts.items() if size)
    how = ", through transformers (slower)" if engine.path == "transformers" else ""
    return f"{engine.precision}{how}: {sizes}"


def job_fields(job: Job) -> dict[str, object]:
    """Return what a person wants to know of a job."""
    return {
        "job": job.id,
        "status": job.status,
        "model": job.trained_model,
        "dataset": job.dataset,
        "created": local_time(job.created_at),
        "started": local_time(job.started_at),
        "finished": local_time(job.finished_at),
        "compute": span(job.compute_s) if job.compute_s else None,
        "attempt": job.attempt or None,
        "error": (job.error or {}).get("message"),
        "recipe digest": job.recipe_digest,
        **report_fields(job.report),
    }


def dataset_fields(dataset: Dataset) -> dict[str, object]:
    """Return what a person wants to know of a dataset."""
    return {
        "dataset": dataset.id,
        "name": dataset.name,
        "status": dataset.status,
        "columns": ", ".join(f"{c.name} ({c.kind})" for c in dataset.columns) or None,
        "labels": ", ".join(dataset.labels[:20]) or None,
        "rows": ", ".join(f"{name} {count}" for name, count in dataset.splits.items()) or None,
        "created": local_time(dataset.created_at),
        "error": (dataset.error or {}).get("message"),
        "digest": dataset.digest,
    }


def report_fields(report: Mapping[str, Any] | None) -> dict[str, object]:
    """Return each number of a test report with its interval; tables stay with `--json`."""
    return {
        f"test {name}": metric_text(value)
        for name, value in (report or {}).items()
        if isinstance(value, dict) and isinstance(value.get("value"), (int, float))
    }


def metric_text(metric: Mapping[str, Any]) -> str:
    """Return `0.981 (0.966 to 0.994, 557 rows)`, as far as interval and count are known."""
    text = f"{metric['value']:.4g}"
    low, high, rows = (metric.get(name) for name in ("low", "high", "num_rows"))
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        text += f" ({low:.4g} to {high:.4g}"
        text += f", {rows} rows)" if rows else ")"
    return text
