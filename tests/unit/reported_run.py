"""A run with everything that its report can show, for tests of the page."""

from typing import Any

from purvey.contracts.records import JobRecord, ModelRecord
from purvey.server.reporting.values import RunReport

HOSTILE = "</style><script>alert('x')</script>&\"<b>"


def estimate(value: float, *, num_rows: int = 120) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - 0.04,
        "high": value + 0.03,
        "num_rows": num_rows,
        "confidence": 0.95,
    }


def classifier_metrics(labels: tuple[str, ...] = ("ham", "spam", HOSTILE)) -> dict[str, Any]:
    bins = [
        {"num_rows": 20, "confidence": 0.55, "accuracy": 0.5},
        {"num_rows": 100, "confidence": 0.95, "accuracy": 0.9},
    ]
    return {
        "accuracy": estimate(0.9),
        "macro_f1": estimate(0.88),
        "loss": estimate(0.31),
        "calibration": {
            "temperature": 1.4,
            "error_before": 0.09,
            "error_after": 0.03,
            "num_rows": 120,
            "bins_before": bins,
            "bins_after": bins,
        },
        "labels": {
            label: {
                "precision": 0.9,
                "recall": 0.8,
                "f1": estimate(0.85, num_rows=40),
                "auroc": None if label == HOSTILE else 0.97,
                "num_rows": 40,
            }
            for label in labels
        },
        "confusion": [
            [36 if line == column else 2 for column in range(len(labels))]
            for line in range(len(labels))
        ],
        "auroc": estimate(0.95),
        "slices": [
            {"column": "region", "value": HOSTILE, "num_rows": 60, "accuracy": estimate(0.7)},
            {
                "column": "text",
                "value": "4 to 9 characters",
                "num_rows": 60,
                "accuracy": estimate(0.93),
            },
        ],
    }


def points(count: int = 30) -> list[dict[str, Any]]:
    told = []
    for step in range(1, count + 1):
        point: dict[str, Any] = {
            "step": step * 10,
            "total_steps": count * 10,
            "train_loss": 1.2 / step**0.5,
            "learning_rate": 1e-3 * (1 - step / (count + 1)),
            "rows_per_s": 800.0,
            "seconds_left": 3.0,
            "epoch": step / 10,
        }
        if step % 5 == 0:
            point |= {"valid_loss": 1.3 / step**0.4, "accuracy": 1 - 0.5 / step, "other": None}
        told.append(point)
    return told


def reported_run(
    metrics: dict[str, Any] | None = None,
    *,
    told: list[dict[str, Any]] | None = None,
    task: str = "text-classification",
    has_model: bool = True,
    name: str = "letters",
) -> RunReport:
    told = points() if told is None else told
    evaluated = [point for point in told if "valid_loss" in point][-2:]
    kept = {name: evaluated[0][name] for name in ("valid_loss", "accuracy")} if evaluated else {}
    job = JobRecord(
        id="job_1",
        project_id="proj_default",
        key_id="key_1",
        api="training",
        kind="training",
        status="succeeded",
        created_at=1795467000.0,
        finished_at=1795467020.0,
        recipe={"task": task, "name": name, "seed": 7, "note": HOSTILE},
        recipe_digest="9f86d081" * 8,
        dataset_id="ds_1",
        attempt=1,
        compute_s=18.25,
        fine_tuned_model=name if has_model else None,
        result={
            "report": classifier_metrics() if metrics is None else metrics,
            "validation": kept,
            "trained_rows": 960,
            "trained_tokens": 12_000,
        },
    )
    lineage = {
        "dataset_digest": "a1" * 32,
        "files": [{"role": "source", "sha256": "b2" * 32}],
        "base": {"name": "small", "digest": "c3" * 32},
        "purvey": "0.1.0",
        "python": "3.11.9",
        "torch": "2.13.0",
        "threads": 2,
        "ranks": 1,
    }
    model = ModelRecord(
        name=name,
        project_id="proj_default",
        family="module",
        task="text-classification",
        digest="d4" * 32,
        folder="/models/letters",
        created_at=1795467020.0,
        job_id="job_1",
        manifest={"lineage": lineage, "module_sha256": "e5" * 32},
    )
    return RunReport(job=job, points=told, model=model if has_model else None)
