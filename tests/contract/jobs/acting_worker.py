"""A worker process that plays the act its recipe names for its attempt; no tensor library.

Run as `python acting_worker.py --fd N --parent PID` by the local launcher. It uses the real
harness (`worker.job.last_word`, `JobLink`), so the contract suite tests that too.
"""

import argparse
import hashlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import NoReturn

from purvey.contracts.jobs import CheckpointSaved, JobSpec, ModelTrained, ToWorker
from purvey.errors import InvalidValueError
from purvey.ipc.lifetime import die_with_parent
from purvey.ipc.link import Link
from purvey.worker.job import last_word
from purvey.worker.job_link import JobInterrupted, JobLink


def succeed(spec: JobSpec, job: JobLink) -> ModelTrained:
    for step in (1, 2, 3):
        job.metrics(f"Step {step}/3", {"step": step})
    Path(spec.output_dir, "weights").write_text("w" * 10, encoding="utf-8")
    return ModelTrained(trained_rows=3, compute_s=0.1)


def crash(spec: JobSpec, job: JobLink) -> NoReturn:
    save(spec, job, step=1)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def quit_early(spec: JobSpec, job: JobLink) -> NoReturn:
    os._exit(7)


def hang(spec: JobSpec, job: JobLink) -> ModelTrained:
    os.kill(os.getpid(), signal.SIGSTOP)  # its heartbeats stop too
    return succeed(spec, job)


def fail(spec: JobSpec, job: JobLink) -> NoReturn:
    raise InvalidValueError("the learning rate is odd.", param="recipe.optimizer.learning_rate")


def break_down(spec: JobSpec, job: JobLink) -> NoReturn:
    secret = "a training row"
    raise KeyError(secret)


def work_until_stopped(spec: JobSpec, job: JobLink) -> NoReturn:
    job.event("Working.")
    tick = threading.Event()
    while (reason := job.stop_requested) is None:
        tick.wait(0.01)
    if reason != "cancel":
        save(spec, job, step=5)
    raise JobInterrupted(reason)


def ignore_stop(spec: JobSpec, job: JobLink) -> NoReturn:
    job.event("Working.")
    threading.Event().wait()
    raise AssertionError


def save(spec: JobSpec, job: JobLink, *, step: int) -> None:
    folder = Path(spec.work_dir, f"step-{step}")
    folder.mkdir(exist_ok=True)
    (folder / "state").write_bytes(b"state")
    files = {"state": hashlib.sha256(b"state").hexdigest()}
    manifest = json.dumps({"step": step, "files": files}).encode()
    (folder / "manifest.json").write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    job.checkpoint(CheckpointSaved(step=step, folder=str(folder), digest=digest))


ACTS = {
    act.__name__: act
    for act in (succeed, crash, quit_early, hang, fail, break_down, work_until_stopped, ignore_stop)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    link: Link[ToWorker] = Link(arguments.fd, ToWorker)
    spec = link.receive()
    assert isinstance(spec, JobSpec)
    job = JobLink(link)
    job.attend(spec.heartbeat_interval_s)
    act = ACTS[spec.recipe["acts"][spec.fence - 1]]
    job.close(last_word(spec, job, runner=lambda _: act))


if __name__ == "__main__":
    main()
