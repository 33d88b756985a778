"""Choosing the checkpoint to go on from: the newest whose every byte is what was written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from purvey.contracts.jobs import CHECKPOINT_MANIFEST_NAME
from purvey.contracts.records import CheckpointRecord
from purvey.jobs.job_folder import JobFolder
from purvey.store.events import Level


class _Manifest(msgspec.Struct, frozen=True):
    """The part of a checkpoint's manifest that tells whether the folder is whole."""

    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run goes on.

    Args:
        checkpoint: The one to load; None when there is none that is whole.
        corrupt: Newer ones that were passed over because their bytes changed.
        num_gone: How many are on record while no folder of any is there, as after a restore.
    """

    checkpoint: CheckpointRecord | None
    corrupt: tuple[CheckpointRecord, ...] = ()
    num_gone: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether there are checkpoints and none is whole: starting anew would hide the damage."""
        return self.checkpoint is None and bool(self.corrupt)

    def story(self, *, attempt: int) -> list[tuple[Level, str]]:
        """Say to the owner what was passed over and where the attempt starts, if it does."""
        told: list[tuple[Level, str]] = [
            ("warn", f"checkpoint_corrupt: passed over the damaged checkpoint of step {c.step}.")
            for c in self.corrupt
        ]
        if self.num_gone:
            message = (
                f"checkpoint_missing: none of its {self.num_gone} checkpoints is in the data "
                "folder, as after a restore; it starts anew."
            )
            told.append(("warn", message))
        start = f"Attempt {attempt} starts"
        if self.checkpoint is not None:
            start = f"{start} from the checkpoint of step {self.checkpoint.step}"
        if not self.is_lost:
            told.append(("info", f"{start}."))
        return told


def choose(newest_first: Sequence[CheckpointRecord], home: JobFolder) -> ResumePoint:
    """Return the newest whole checkpoint of the job. Reads files: call it off the event loop.

    A folder that is gone was pruned by its trainer and is passed over without complaint, as
    long as another is left. When all are gone, the run starts anew: backups hold none.
    """
    corrupt: list[CheckpointRecord] = []
    num_gone = 0
    for checkpoint in newest_first:
        folder = home.checkpoint(checkpoint.folder)
        if not folder.is_dir():
            num_gone += 1
        elif is_whole(folder, digest=checkpoint.digest):
            return ResumePoint(checkpoint=checkpoint, corrupt=tuple(corrupt))
        else:
            corrupt.append(checkpoint)
    return ResumePoint(checkpoint=None, corrupt=tuple(corrupt), num_gone=0 if corrupt else num_gone)


def is_whole(folder: Path, *, digest: str) -> bool:
    """Tell whether the manifest has this digest, and every file that it names the one it names."""
    try:
        manifest = (folder / CHECKPOINT_MANIFEST_NAME).read_bytes()
        if hashlib.sha256(manifest).hexdigest() != digest:
            return False
        files = msgspec.json.decode(manifest, type=_Manifest).files
        return all(_digest(folder / name) == sha256 for name, sha256 in files.items())
    except (OSError, msgspec.MsgspecError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
