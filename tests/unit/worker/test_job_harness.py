"""The harness around a runner: last words, heartbeats, requests to stop."""

import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from purvey.contracts.jobs import (
    DatasetBuilt,
    FromWorker,
    Heartbeat,
    JobEvent,
    JobFailed,
    JobSpec,
    JobStopped,
    ModelTrained,
    StopJob,
    StopReason,
    ToWorker,
)
from purvey.contracts.wire import FrameReader, pack
from purvey.errors import DivergedError, InvalidFileError, StorageUnavailableError
from purvey.ipc.link import Link
from purvey.models.folder.safetensors_file import write_tensors
from purvey.worker import job as job_module
from purvey.worker import job_link
from purvey.worker.job import failure_of, last_word, run
from purvey.worker.job_link import JobInterrupted, JobLink
from purvey.worker.watchdog import Watchdog

SPEC = JobSpec(
    job_id="job_1",
    kind="training",
    attempt=1,
    fence=1,
    recipe={},
    work_dir="/nowhere",
    output_dir="/nowhere",
    heartbeat_interval_s=0.01,
)


class Supervisor:
    """The other end of a worker's link, blocking."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self.link: Link[ToWorker] = Link(theirs.detach(), ToWorker)
        self._reader: FrameReader[FromWorker] = FrameReader(FromWorker)
        self._read: list[FromWorker] = []

    def send(self, message: ToWorker) -> None:
        self._socket.sendall(pack(message))

    def next(self) -> FromWorker:
        while not self._read:
            self._read.extend(self._reader.feed(self._socket.recv(2**16)))
        return self._read.pop(0)

    def next_but_heartbeats(self) -> FromWorker:
        while isinstance(message := self.next(), Heartbeat):
            pass
        return message

    def hang_up(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.hang_up()
    supervisor.link.close()


def run_with(
    runner: Callable[[JobSpec, JobLink], DatasetBuilt | ModelTrained],
    supervisor: Supervisor,
    monkeypatch: pytest.MonkeyPatch,
) -> threading.Thread:
    monkeypatch.setattr(job_module, "runner_of", lambda _spec: runner)
    thread = threading.Thread(target=lambda: run(supervisor.link))
    thread.start()
    return thread


def test_a_run_reports_in_order_and_its_last_word_is_last(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runner(spec: JobSpec, job: JobLink) -> ModelTrained:
        job.event("Reading.", level="warn", rows=3)
        job.metrics("Step 1/1", {"step": 1})
        return ModelTrained(trained_rows=3)

    thread = run_with(runner, supervisor, monkeypatch)
    supervisor.send(SPEC)
    said = [supervisor.next_but_heartbeats() for _ in range(3)]
    assert said == [
        JobEvent(level="warn", message="Reading.", data={"rows": 3}),
        JobEvent(kind="metrics", message="Step 1/1", data={"step": 1}),
        ModelTrained(trained_rows=3),
    ]
    thread.join()


def test_heartbeats_come_while_the_runner_is_busy(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = threading.Event()

    def runner(spec: JobSpec, job: JobLink) -> ModelTrained:
        busy.wait()
        return ModelTrained()

    thread = run_with(runner, supervisor, monkeypatch)
    supervisor.send(SPEC)
    assert [supervisor.next() for _ in range(3)] == [Heartbeat()] * 3
    busy.set()
    assert supervisor.next_but_heartbeats() == ModelTrained()
    thread.join()


@pytest.mark.row("CRA-25")
def test_a_runner_that_hangs_is_given_up_with_a_last_word(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)

    def runner(spec: JobSpec, job: JobLink) -> ModelTrained:
        dog = Watchdog(least_s=0.01, on_stall=job.give_up)
        with dog.watching(), dog.step():
            left.wait()
        return ModelTrained()

    thread = run_with(runner, supervisor, monkeypatch)
    supervisor.send(SPEC)
    last = supervisor.next_but_heartbeats()
    assert isinstance(last, JobFailed)
    assert (last.code, last.is_transient) == ("worker_crashed", True)
    assert last.message.startswith("stalled: step 1 ")
    while not exits:
        left.wait(0.01)
    assert exits == [job_link.STALLED_STATUS]
    left.set()
    thread.join()


def obey(spec: JobSpec, job: JobLink) -> ModelTrained:
    job.event("Working.")
    tick = threading.Event()
    while (reason := job.stop_requested) is None:
        tick.wait(0.001)
    raise JobInterrupted(reason)


@pytest.mark.parametrize("reason", ["pause", "cancel", "hand_back"])
def test_a_request_to_stop_reaches_the_runner(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, reason: StopReason
) -> None:
    thread = run_with(obey, supervisor, monkeypatch)
    supervisor.send(SPEC)
    assert supervisor.next_but_heartbeats() == JobEvent(message="Working.")
    supervisor.send(StopJob(reason=reason))
    last = supervisor.next_but_heartbeats()
    assert isinstance(last, JobStopped)
    assert (last.reason, last.compute_s > 0) == (reason, True)
    thread.join()


def test_a_weaker_reason_does_not_replace_a_stronger_one(supervisor: Supervisor) -> None:
    job = JobLink(supervisor.link)
    for reason in ("pause", "cancel", "hand_back"):
        supervisor.send(StopJob(reason=reason))
    supervisor._socket.shutdown(socket.SHUT_WR)
    job._hear()
    assert job.stop_requested == "cancel"


def test_a_supervisor_that_is_gone_cancels_the_run(supervisor: Supervisor) -> None:
    job = JobLink(supervisor.link)
    assert job.stop_requested is None
    supervisor.hang_up()
    job._hear()
    assert job.stop_requested == "cancel"


def test_no_spec_is_its_own_exit_status(supervisor: Supervisor) -> None:
    supervisor.hang_up()
    assert run(supervisor.link) == 2


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (
            InvalidFileError("row 3 is no JSON.", param="training_file"),
            JobFailed(code="invalid_file", message="row 3 is no JSON.", param="training_file"),
        ),
        (
            DivergedError("the loss is not finite."),
            JobFailed(
                code="diverged",
                message="the loss is not finite. Lower the learning rate, or set train.clip_norm.",
            ),
        ),
        (
            StorageUnavailableError("the disk refused."),
            JobFailed(code="storage_unavailable", message="the disk refused.", is_transient=True),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            JobFailed(code="insufficient_storage", message="the disk is full.", is_transient=True),
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            JobFailed(code="storage_unavailable", message="the disk refused.", is_transient=True),
        ),
        (
            ValueError("a training row"),
            JobFailed(
                code="internal_error",
                message="the run raised ValueError; the server's log has the details.",
            ),
        ),
    ],
)
def test_errors_become_failures_that_tell_no_content(error: Exception, failure: JobFailed) -> None:
    assert failure_of(error) == failure


def test_a_disk_that_fills_up_under_tensors_is_no_bug() -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        write_tensors({"a": torch.zeros(1)}, Path("/dev/full"))
    failure = failure_of(raised.value)
    assert (failure.code, failure.is_transient) == ("insufficient_storage", True)


def test_a_bug_is_logged_with_its_trace(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    def runner(spec: JobSpec, job: JobLink) -> ModelTrained:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR, "purvey.worker.job"):
        last = last_word(SPEC, JobLink(supervisor.link), runner=lambda _: runner)
    assert isinstance(last, JobFailed)
    [record] = caplog.records
    assert record.exc_info is not None
