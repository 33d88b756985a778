"""Mode `job`: run one job and say how it ended. The process then exits."""

import errno
import logging
from collections.abc import Callable
from typing import assert_never

from purvey import failpoints
from purvey.contracts.clock import SystemClock
from purvey.contracts.estimating.needs import Estimated
from purvey.contracts.jobs import (
    DatasetBuilt,
    JobFailed,
    JobSpec,
    JobStopped,
    ModelTrained,
    ToWorker,
)
from purvey.contracts.sweep.messages import SweepFinished
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    InternalError,
    InvalidFileError,
    PurveyError,
    StorageUnavailableError,
)
from purvey.ipc.link import Link
from purvey.telemetry.logs import bind
from purvey.worker import garbage
from purvey.worker.inputs import verify_inputs
from purvey.worker.job_link import JobInterrupted, JobLink, RankFailed

logger = logging.getLogger(__name__)

Result = DatasetBuilt | ModelTrained | SweepFinished | Estimated
Runner = Callable[[JobSpec, JobLink], Result]


def run(link: Link[ToWorker]) -> int:
    """Receive a spec, run it, send the last word.

    Returns:
        The exit status: 0 however the job ended, 2 when no spec came.
    """
    spec = link.receive()
    if not isinstance(spec, JobSpec):
        return 2
    failpoints.arm(spec.failpoints)
    failpoints.reach("job.received")
    job = JobLink(link)
    job.attend(spec.heartbeat_interval_s)
    with bind(job_id=spec.job_id):
        job.close(last_word(spec, job, runner=runner_of))
    return 0


def last_word(
    spec: JobSpec, job: JobLink, *, runner: Callable[[JobSpec], Runner]
) -> Result | JobStopped | JobFailed:
    """Run the job and turn whatever happens into one message.

    Args:
        spec: The job.
        job: Its supervisor.
        runner: Finds what runs a job of that kind; imports the data plane.
    """
    clock = SystemClock()
    began = clock.monotonic()
    try:
        verify_inputs(spec)
        run_it = runner(spec)
        garbage.collect_from_here()
        last = run_it(spec, job)
        failpoints.reach("output.written")
        return last  # noqa: TRY300 (an error here is a failure too)
    except JobInterrupted as interrupted:
        return JobStopped(reason=interrupted.reason, compute_s=clock.monotonic() - began)
    except Exception as error:  # the edge of the process: nothing may be lost
        failure = failure_of(error)
        if failure.code == InternalError.code:
            logger.exception("job.broke")
        return failure


def failure_of(error: Exception) -> JobFailed:
    """Say what the owner may know: our own errors in full, of others only their class."""
    if isinstance(error, RankFailed):
        return error.failure
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = InsufficientStorageError("the disk is full.")
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS):
        error = StorageUnavailableError("the disk refused.")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        error = InvalidFileError("a file of the result would be too large: use less data.")
    if isinstance(error, MemoryError):
        message = "the run needs more memory than it can have: use less data, or a smaller model."
        return JobFailed(code=InternalError.code, message=message)
    if isinstance(error, PurveyError):
        return JobFailed(
            code=error.code,
            message=error.text,
            param=error.param,
            is_transient=isinstance(error, CapacityError),
        )
    message = f"the run raised {type(error).__name__}; the server's log has the details."
    return JobFailed(code=InternalError.code, message=message)


def runner_of(spec: JobSpec) -> Runner:
    """Import what runs jobs of this kind, and nothing else."""
    match spec.kind:
        case "training":
            from purvey.worker import train

            return train.run_watched
        case "dataset":
            from purvey.worker import dataset

            return dataset.run_confined
        case "sweep":
            from purvey.worker.training import sweep

            return sweep.run
        case "estimate":
            from purvey.worker.estimating import estimate

            return estimate.run
        case _ as never:
            assert_never(never)
