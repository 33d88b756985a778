"""What an operator should be woken for: one event and one counter each."""

import logging
from typing import Literal

from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

Stored = Literal["file", "dataset", "model", "checkpoint", "job_input"]


def integrity_failed(kind: Stored, **ids: str) -> None:
    """Say that stored bytes are not the ones that were written.

    Args:
        kind: What is damaged; `job_input` where a worker found it, and the job's error says what.
        ids: Identifiers, by the names of `logs.FIELDS`.
    """
    logger.error("integrity.failed", extra={"kind": kind, **ids})
    metrics.INTEGRITY_FAILURES.labels(kind=kind).inc()
