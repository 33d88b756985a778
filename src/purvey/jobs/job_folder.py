"""The folder of one job: what its attempts share, and what each of them delivers."""

import shutil
from pathlib import Path

from purvey.contracts.jobs import CHECKPOINT_ASIDE, JobStatus
from purvey.store.disk import sync_folder

LEAST_ROOM_BYTES = 16 * 2**20
"""Free bytes without which no job goes on that a full disk has stopped."""


class JobFolder:
    """Where a job's workers write. Methods touch the disk: call them off the event loop.

    Args:
        root: Folder of all jobs.
        job_id: The job.
    """

    def __init__(self, root: Path, job_id: str) -> None:
        self._job_id, self._home = job_id, (root / job_id).absolute()

    @property
    def work(self) -> Path:
        """Kept across attempts: checkpoints live here."""
        return self._home / "work"

    def output(self, fence: int) -> Path:
        """Return where the attempt under this fence delivers."""
        return self._home / f"output-{fence}"

    def checkpoint(self, stored: str) -> Path:
        """Return where a checkpoint lies that its row names relative to `work`.

        Rows of earlier versions hold absolute paths, which are followed to where the data
        folder is now.
        """
        path = Path(stored)
        if path.is_absolute() and not path.exists() and self._job_id in path.parts:
            below_home = path.parts.index(self._job_id) + 1
            return self._home.joinpath(*path.parts[below_home:])
        return self.work / path

    def prepare(self, fence: int) -> None:
        """Make the folders of a new attempt, and remove what an attempt before delivered."""
        self._clear_outputs()
        if not self.work.exists():
            self.work.mkdir(parents=True)
            for folder in (self._home, self._home.parent):  # else checkpoints are lost with them
                sync_folder(folder)
        self.output(fence).mkdir()

    def make_room(self) -> int:
        """Remove what an attempt on a full disk has not finished.

        Returns:
            The free bytes with which another attempt gets further: what its checkpoints take,
            or twice what it was writing, whichever is more.
        """
        unfinished = [*self._home.glob("output-*"), *self.work.rglob(f"{CHECKPOINT_ASIDE}*")]
        written = sum(_num_bytes(folder) for folder in unfinished)
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
        return max(LEAST_ROOM_BYTES, 2 * written, _num_bytes(self.work))

    def leave(self, status: JobStatus) -> None:
        """Remove what a job of this status needs no more; one that failed keeps checkpoints."""
        self._clear_outputs()
        if status in {"succeeded", "cancelled"}:
            shutil.rmtree(self._home, ignore_errors=True)

    def _clear_outputs(self) -> None:
        for output in self._home.glob("output-*"):
            shutil.rmtree(output, ignore_errors=True)


def _num_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
