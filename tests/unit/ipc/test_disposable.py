"""A child that answers one question at a time: answers, deadlines, deaths."""

import os
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import FromWorker, JobEvent, StopJob
from purvey.errors import InternalError, WorkerCrashedError
from purvey.ipc.disposable import Disposable

CLOCK = SystemClock()
LONG_S = 60.0
BEGIN = """
import argparse, os, sys
from purvey.contracts.jobs import JobEvent, ToWorker
from purvey.ipc.link import Link
parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--parent", type=int)
arguments = parser.parse_args()
link = Link(arguments.fd, ToWorker)
"""
ECHO = BEGIN + "\nwhile (m := link.receive()) is not None: link.send(JobEvent(message=m.reason))\n"
Start = Callable[[str], Disposable[FromWorker]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start children, all ended in the end."""
    started: list[Disposable[FromWorker]] = []

    def begin(program: str) -> Disposable[FromWorker]:
        command = (sys.executable, "-P", "-c", program)
        started.append(Disposable(command, incoming=FromWorker, clock=CLOCK))
        return started[-1]

    yield begin
    for child in started:
        child.end()


def soon() -> float:
    return CLOCK.monotonic() + LONG_S


def test_questions_are_answered_in_turn_until_it_is_ended(start: Start) -> None:
    child = start(ECHO)
    assert child.ask(StopJob(reason="pause"), deadline=soon()) == JobEvent(message="pause")
    assert child.ask(StopJob(reason="cancel"), deadline=soon()) == JobEvent(message="cancel")
    assert child.num_answers == 2
    assert os.getpgid(child.pid) == os.getpgrp()  # who ends our group ends it too
    child.end()
    assert not psutil.pid_exists(child.pid)
    child.end()


def test_it_inherits_nothing_but_its_socket(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_SECRET", "s3cret")
    tell = "link.send(JobEvent(message=' '.join(sorted(os.environ)) + os.getcwd()))\n"
    said = start(BEGIN + tell).receive(deadline=soon())
    assert isinstance(said, JobEvent)
    assert "PURVEY" not in said.message
    assert said.message.endswith("/")


def test_a_deadline_passes_before_and_while_it_answers(start: Start) -> None:
    child = start(ECHO)
    with pytest.raises(TimeoutError):
        child.ask(StopJob(reason="pause"), deadline=CLOCK.monotonic())
    deaf = start(BEGIN + "import threading; threading.Event().wait()\n")
    with pytest.raises(TimeoutError):
        deaf.ask(StopJob(reason="pause"), deadline=CLOCK.monotonic() + 0.05)


def test_a_deadline_bounds_a_question_that_nobody_reads(start: Start) -> None:
    deaf = start("import threading; threading.Event().wait()")
    with pytest.raises(TimeoutError):
        deaf.ask(JobEvent(message="x" * 4_000_000), deadline=CLOCK.monotonic() + 0.05)


def test_half_an_answer_is_none(start: Start) -> None:
    half = "link.receive(); os.write(arguments.fd, b'\\0\\0\\1\\0abc'); sys.exit()\n"
    with pytest.raises(OSError, match=r"^$|reset"):
        start(BEGIN + half).ask(StopJob(reason="pause"), deadline=soon())


@pytest.mark.parametrize("said", [b"\0\0\0\1\xc1", b"\xff" * 8])
def test_what_is_no_message_is_an_error(start: Start, said: bytes) -> None:
    child = start(BEGIN + f"os.write(arguments.fd, {said!r}); link.receive()\n")
    with pytest.raises(InternalError):
        child.receive(deadline=soon())


def test_a_program_that_is_not_there_is_an_error_without_its_path() -> None:
    with pytest.raises(WorkerCrashedError, match="no process could start") as caught:
        Disposable[FromWorker](["/no/such/program"], incoming=FromWorker, clock=CLOCK)
    assert "program" not in caught.value.text
