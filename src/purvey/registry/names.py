"""Names of trained models."""

import re

from purvey.contracts.records import JobRecord

_PLAIN = re.compile(r"[^a-zA-Z0-9._-]+")
_ID_CHARS = 8
MODEL_NAME_CHARS = 256
"""Characters of a model's name that a request accepts; a generated name is no longer."""


def trained_name(job: JobRecord, *, is_taken: bool) -> str:
    """Name the model that a job made.

    A run that names its model gets that name, or with the job's id behind it when another
    model has the name already; what is fine-tuned from a base without a name of its own is
    `ft:<base>:<project>:<suffix>:<id>`, its base cut so that requests accept the name.

    Args:
        job: The job, with its resolved recipe.
        is_taken: Whether `wanted_name(job)` belongs to another model of the project.
    """
    wanted = wanted_name(job)
    short = _short_id(job)
    if wanted is not None:
        return f"{wanted}-{short}" if is_taken else wanted
    if job.base_model is None:
        return f"{job.recipe.get('task', 'model')}-{short}"
    project = job.project_id.removeprefix("proj_")
    # The base is cut: the model's record names it in full, and the id keeps the name unique.
    rest = f":{project}:{job.suffix or ''}:{short}"
    base = root_name(job.base_model)[: MODEL_NAME_CHARS - len("ft:") - len(rest)]
    return f"ft:{base}{rest}"


def wanted_name(job: JobRecord) -> str | None:
    """Return the name that the recipe asks for; fine-tuning jobs have none to ask for."""
    name = job.recipe.get("name")
    return str(name) if name and job.api != "fine_tuning" else None


def root_name(base: str) -> str:
    """Return the base's name as one segment; of an `ft:` name, the base that it came from."""
    if base.startswith("ft:"):
        return base.split(":")[1]
    return _PLAIN.sub("-", base)


def _short_id(job: JobRecord) -> str:
    return re.split(r"[-_]", job.id)[-1][:_ID_CHARS]
