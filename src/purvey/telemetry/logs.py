"""Structured logs: one line per event on standard error, and nothing of users' content.

An event is a dotted name in the past tense with fields from a closed list:
`logger.info("job.claimed", extra={"attempt": 2})`. Identifiers come from `bind`. Values are
escaped to ASCII, so no value can start a line or drive a terminal.
"""

import json
import logging
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Literal

from purvey.contracts.clock import iso
from purvey.errors import PurveyError

Format = Literal["json", "console"]

FIELDS = frozenset(
    {
        *("request_id", "job_id", "project_id", "key_id", "model", "explanation_id"),
        *("file_id", "dataset_id", "checkpoint_id", "digest", "event_id"),
        *("method", "route", "status", "code", "param", "kind", "mode", "reason", "version"),
        *("duration_s", "compute_s", "delay_s", "timeout_s", "lease_s", "ttft_s"),
        *("attempt", "fence", "step", "count", "crashes", "num_bytes", "num_tokens"),
        *("pid", "signal", "exit_status", "errno", "url", "path", "text", "entry"),
    }
)
"""Fields that may be logged. Names outside the list are dropped, and listed as `dropped`."""

MAX_VALUE_CHARS = 2_000
MAX_FRAMES = 40

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default={})  # noqa: B039 (never changed in place)


def configure(log_format: Format, level: str) -> None:
    """Send every logger's events to standard error; a second call replaces the first.

    Libraries may only warn: their lower levels tell what users do.

    Args:
        log_format: `json`, or `console` for a person's eyes.
        level: `debug`, `info`, `warning` or `error`, in any case.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else ConsoleLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("purvey").setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True
        library.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


@contextmanager
def bind(**ids: str) -> Iterator[None]:
    """Attach identifiers to every event logged inside the block, in this task and its children."""
    token = _bound.set({**_bound.get(), **ids})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object per line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one line."""
        return _escaped(event_of(record))


class ConsoleLines(logging.Formatter):
    """Lines for a person: time, level, event, fields. Still one line per event, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event as one line."""
        event = event_of(record)
        time, level, name = event.pop("time"), event.pop("level"), event.pop("event")
        fields = [f"{key}={_escaped(value)}" for key, value in event.items()]
        return " ".join([str(time), f"{level:<7}", _escaped(name).strip('"'), *fields])


def event_of(record: logging.LogRecord) -> dict[str, object]:
    """Turn a record into JSON values.

    A library's message is shown as its template, without the values that go into it.
    """
    is_ours = record.name.partition(".")[0] == "purvey"
    event: dict[str, object] = {
        "time": iso(record.created),
        "level": record.levelname.lower(),
        "event": _cut(record.msg) if is_ours else "library.warned",
        "logger": record.name,
    }
    if not is_ours:
        event["text"] = _cut(_template(record))
    given = {k: v for k, v in vars(record).items() if k not in _STANDARD}
    fields = {**_bound.get(), **given}
    event |= {name: _plain(value) for name, value in fields.items() if name in FIELDS}
    if dropped := sorted(fields.keys() - FIELDS):
        event["dropped"] = [_cut(name) for name in dropped]
    if record.exc_info and record.exc_info[1] is not None:
        event |= _exception(record.exc_info[1])
    return event


def _template(record: logging.LogRecord) -> object:
    if record.name == "py.warnings" and isinstance(record.args, tuple) and record.args:
        return str(record.args[0]).partition("\n")[0]  # place, category and text; no source line
    return record.msg


def _escaped(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _cut(value)


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def _exception(error: BaseException) -> dict[str, object]:
    """Describe an exception and its causes by type and place.

    The message is shown for our own errors only: theirs hold no content of users, while a
    library's may quote a prompt.
    """
    chain: list[dict[str, object]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < MAX_FRAMES:
        link: dict[str, object] = {"type": type(current).__name__}
        if isinstance(current, PurveyError):
            link["message"] = _cut(current.message)
        link["frames"] = _frames(current.__traceback__)
        chain.append(link)
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
    return {"exception": chain}


def _frames(tb: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(tb)[-MAX_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
