"""Log lines: one per event whatever is in them, and never the content of users."""

import asyncio
import errno
import io
import json
import logging
import sys
import warnings
from typing import Any

import pytest

from purvey.errors import InvalidValueError
from purvey.telemetry import logs

logger = logging.getLogger("purvey.tested")
HOSTILE = 'a\r\nb\x1b[31mc"}\u202ed\u2028e\x00'


class Stream:
    """What was written to standard error since the test began."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str]) -> Stream:
    return Stream(capsys)


def events(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


@pytest.mark.parametrize("where", ["event", "model", "bound"])
def test_hostile_text_stays_inside_one_json_line(stream: Stream, where: str) -> None:
    logs.configure("json", "info")
    with logs.bind(request_id=HOSTILE if where == "bound" else "req_1"):
        name = HOSTILE if where == "event" else "job.claimed"
        logger.info(name, extra={"model": HOSTILE if where == "model" else "m"})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert text.isascii()
    (event,) = events(stream)
    assert HOSTILE in event.values()


def test_hostile_text_stays_inside_one_console_line(stream: Stream) -> None:
    logs.configure("console", "info")
    logger.info("job.claimed", extra={"model": HOSTILE})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()
    assert text.isascii()


def test_a_hostile_event_name_stays_inside_one_console_line(stream: Stream) -> None:
    logs.configure("console", "info")
    logger.info(HOSTILE)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rstrip("\n").isprintable()


def test_fields_outside_the_list_are_dropped_and_named(stream: Stream) -> None:
    logs.configure("json", "info")
    logger.info("request.finished", extra={"status": 200, "prompt": "canary"})
    (event,) = events(stream)
    assert event["status"] == 200
    assert event["dropped"] == ["prompt"]
    assert "canary" not in stream.getvalue()


def test_every_exception_is_described_without_its_message(stream: Stream) -> None:
    logs.configure("json", "info")
    try:
        _fail()
    except ValueError:
        logger.exception("request.failed")
    (event,) = events(stream)
    assert [link["type"] for link in event["exception"]] == ["ValueError", "KeyError"]
    assert all("test_telemetry_logs.py" in link["frames"][-1] for link in event["exception"])
    assert "canary" not in stream.getvalue()


def _fail() -> None:
    try:
        dict[str, str]()["canary"]
    except KeyError as cause:
        raise ValueError("canary") from cause


def test_our_own_errors_keep_their_message(stream: Stream) -> None:
    logs.configure("json", "info")
    error = InvalidValueError("'port' is taken.")
    logger.warning("request.refused", exc_info=error)
    (event,) = events(stream)
    assert event["exception"][0]["message"] == "'port' is taken."


def test_libraries_may_only_warn_and_without_values(stream: Stream) -> None:
    logs.configure("json", "debug")
    library = logging.getLogger("somebody.else")
    library.info("read %s", "canary")
    library.warning("cannot read %s", "canary")
    (event,) = events(stream)
    assert event["event"] == "library.warned"
    assert event["text"] == "cannot read %s"


def test_a_warning_of_python_tells_where(stream: Stream) -> None:
    logs.configure("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
    (event,) = events(stream)
    assert "test_telemetry_logs.py" in event["text"]
    assert "DeprecationWarning: soon gone" in event["text"]


def test_the_level_is_obeyed(stream: Stream) -> None:
    logs.configure("json", "WARNING")
    logger.info("job.claimed")
    logger.warning("job.lost")
    assert [event["event"] for event in events(stream)] == ["job.lost"]


def test_configuring_twice_does_not_double_lines(stream: Stream) -> None:
    logs.configure("json", "info")
    logs.configure("json", "info")
    logger.info("job.claimed")
    assert len(events(stream)) == 1


async def test_bound_ids_stay_in_their_task(stream: Stream) -> None:
    logs.configure("json", "info")

    async def one(name: str) -> None:
        with logs.bind(request_id=name):
            await asyncio.sleep(0)
            with logs.bind(job_id=f"job_{name}"):
                logger.info("job.claimed")

    await asyncio.gather(one("a"), one("b"))
    logger.info("server.stopped")
    seen = [(e.get("request_id"), e.get("job_id")) for e in events(stream)]
    assert sorted(seen[:2]) == [("a", "job_a"), ("b", "job_b")]
    assert seen[2] == (None, None)


def test_values_that_json_lacks_become_text(stream: Stream) -> None:
    logs.configure("json", "info")
    logger.info("step.done", extra={"step": 3, "duration_s": float("nan"), "path": ("a", "b")})
    (event,) = events(stream)
    assert (event["step"], event["duration_s"], event["path"]) == (3, "nan", "('a', 'b')")


def test_long_values_are_cut(stream: Stream) -> None:
    logs.configure("json", "info")
    logger.info("worker.printed", extra={"text": "x" * 100_000})
    assert len(stream.getvalue()) < 2 * logs.MAX_VALUE_CHARS


def test_a_log_on_a_full_disk_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    logs.configure("json", "info")
    logger.info("job.claimed")
