"""Feedback as rows of a dataset: the input with the answer that was, or should have been, given."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from purvey.contracts.records import DatasetRecord, FeedbackRecord
from purvey.errors import InvalidValueError

PARAM = "feedback_model"


def lessons(record: DatasetRecord, given: Sequence[FeedbackRecord]) -> bytes:
    """Return JSON Lines with a row for each piece of feedback that has an answer to learn.

    That is the correction, or the output where it was rated good. Of two pieces on one input the
    later one counts.

    Raises:
        InvalidValueError: The dataset's columns are not a text and a label, nor a conversation; it
            is split by another column; or no feedback has an input and an answer.
    """
    columns = _columns(record)
    rows: dict[str, Mapping[str, Any]] = {}
    for one in given:
        answer = one.correction or (one.output if one.rating == "good" else None)
        if one.input is not None and answer is not None:
            rows[one.input] = _row(columns, one.input, answer)
    if not rows:
        raise InvalidValueError(
            "no feedback on that model has an input and an answer to learn: a correction, or an "
            "output that was rated good.",
            param=PARAM,
        )
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows.values()).encode()


def _columns(record: DatasetRecord) -> dict[str, str]:
    """Return the dataset's columns by kind."""
    splits: Mapping[str, Any] = record.config.get("splits") or {}
    by = next((name for name in ("group", "time") if splits.get(name)), None)
    if by is not None:
        raise InvalidValueError(
            f"the dataset is split by {by} {splits[by]!r}, which feedback does not have.",
            param=PARAM,
        )
    columns: Sequence[Mapping[str, str]] = (record.manifest or {}).get("columns", ())
    kinds = {column["kind"]: column["name"] for column in columns}
    if set(kinds) not in ({"text", "label"}, {"conversation"}) or len(kinds) < len(columns):
        raise InvalidValueError(
            "feedback is rows of a text and a label, or of a conversation; the dataset has "
            f"{', '.join(column['kind'] for column in columns)}.",
            param=PARAM,
        )
    return kinds


def _row(columns: Mapping[str, str], asked: str, answer: str) -> dict[str, Any]:
    if "conversation" in columns:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return {columns["conversation"]: turns}
    return {columns["text"]: asked, columns["label"]: answer}
