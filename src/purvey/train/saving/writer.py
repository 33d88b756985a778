"""Writing checkpoints in a thread, one at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from purvey.train.checkpoint import Snapshot, Written, write_checkpoint
from purvey.train.saving.shares import Sharing
from purvey.train.saving.staging import Staging


class CheckpointWriter:
    """Writes the checkpoints of one run. Use as a context: leaving it waits for the last write.

    Args:
        root: Folder of the run's checkpoints.
        run_digest: As `write_checkpoint` takes it.
        report: Called in the writing thread for every checkpoint that is complete on disk.
    """

    def __init__(
        self, root: Path, *, run_digest: str, report: Callable[[Snapshot, Written], None]
    ) -> None:
        self._root, self._run_digest, self._report = root, run_digest, report
        self._staging = Staging()
        self._threads: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the write at hand; its failure is raised unless another error is on its way."""
        assert self._threads is not None, "left a context that was not entered"
        self._threads.shutdown(wait=True)
        if kind is None:
            self.check()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def begin(self, live: Snapshot, sharing: Sharing | None = None) -> None:
        """Copy a state and write it beside the caller; wait for an earlier write first.

        Where memory is short the state is written before this returns.

        Args:
            live: Its tensors may be changed as soon as this returns.
            sharing: Writes it together with other ranks, if it is not all here.

        Raises:
            OSError: An earlier checkpoint could not be written.
            RuntimeError: Another rank, with which it was being written, is gone.
        """
        assert self._threads is not None, "the writer was not entered"
        self.finish()
        staged = self._staging.copy(live, num_ranks=sharing.num_ranks if sharing else 1)
        still = live if staged is None else staged
        self._writing = self._threads.submit(self._write, still, sharing)
        if staged is None:
            self.finish()

    def check(self) -> None:
        """Raise what the last write failed with, once; return at once while it goes on."""
        if not self.is_busy:
            self.finish()

    def finish(self) -> None:
        """Wait for the write at hand, and raise what it failed with."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, snapshot: Snapshot, sharing: Sharing | None) -> None:
        written: Written | None
        if sharing is None:
            written = write_checkpoint(snapshot, self._root, run_digest=self._run_digest)
        else:
            written = sharing.write(snapshot, self._root, run_digest=self._run_digest)
        if written is not None:  # else the first rank reports it
            self._report(snapshot, written)
