"""Where a model came from: recipe, data, code and environment, by their digests."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from purvey.server.reporting.axes import shown
from purvey.server.reporting.markup import Markup, element, joined, table
from purvey.server.reporting.values import RunReport

_ENVIRONMENT = {
    "purvey": "Purvey",
    "code_sha256": "digest of its source",
    "python": "Python",
    "torch": "PyTorch",
    "numpy": "NumPy",
    "platform": "system",
    "processor": "processor",
    "threads": "threads",
    "ranks": "processes",
}


def origin_table(report: RunReport) -> Markup:
    """Return what the run was made from, and with what."""
    rows: list[tuple[str | None, ...]] = [
        (name, element("code", value) if is_code else value)
        for name, value, is_code in (*_run(report), *_data(report), *_made(report))
    ]
    return table("Origin", ("what", "which"), rows)


def recipe_text(report: RunReport) -> Markup:
    """Return the recipe, resolved in full, and what was read off the data where it left it open."""
    inputs = made_from(report)["inputs"]
    return joined(
        _unfolded("The recipe, in full", report.job.recipe),
        *([_unfolded("Its inputs, as the data made them", inputs)] if inputs else []),
    )


def made_from(report: RunReport) -> dict[str, Any]:
    """Return the same as JSON values: digests of data and code, and the environment."""
    lineage = report.lineage
    return {
        "recipe_digest": report.job.recipe_digest,
        "dataset": report.job.dataset_id,
        "dataset_digest": lineage.get("dataset_digest"),
        "files": lineage.get("files", []),
        "base": lineage.get("base"),
        "inputs": report.model.manifest.get("inputs", {}) if report.model else {},
        "module_sha256": report.model.manifest.get("module_sha256") if report.model else None,
        "model_digest": report.model.digest if report.model else None,
        "environment": {name: lineage[name] for name in _ENVIRONMENT if name in lineage},
    }


def _unfolded(title: str, value: object) -> Markup:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return element("details", element("summary", title), element("pre", text))


def moment(seconds: float | None) -> str:
    """Return epoch seconds as a date and time, UTC."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _run(report: RunReport) -> Iterator[tuple[str, str, bool]]:
    job = report.job
    result = job.result or {}
    yield "run", job.id, True
    yield "finished", moment(job.finished_at), False
    yield "computing", f"{shown(job.compute_s)} s in {job.attempt} attempt(s)", False
    yield "rows seen, counted once an epoch", str(result.get("trained_rows") or 0), False
    if result.get("trained_tokens"):
        yield "tokens learned", str(result["trained_tokens"]), False
    yield "recipe digest", job.recipe_digest, True
    yield "seed", str(job.recipe.get("seed", job.seed)), False


def _data(report: RunReport) -> Iterator[tuple[str, str, bool]]:
    made = made_from(report)
    if made["dataset"]:
        yield "dataset", made["dataset"], True
    if made["dataset_digest"]:
        yield "dataset digest", made["dataset_digest"], True
    for file in made["files"]:
        yield f"file ({file['role']})", file["sha256"], True
    if made["base"]:
        yield "base", made["base"]["name"], False
        yield "base digest", made["base"]["digest"], True


def _made(report: RunReport) -> Iterator[tuple[str, str, bool]]:
    made = made_from(report)
    if report.model is None:
        yield "model", "not registered, or deleted since; its environment went with it", False
        return
    yield "model", report.model.name, False
    yield "model digest", report.model.digest, True
    if made["module_sha256"]:
        yield "code (your module)", made["module_sha256"], True
    for name, value in made["environment"].items():
        yield _ENVIRONMENT[name], str(value), False
