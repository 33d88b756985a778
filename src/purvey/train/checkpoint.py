"""Checkpoints: the whole state of a run as safetensors and JSON, complete or absent.

A checkpoint is a folder `step-00000042` with `model`, `optimizer`, (once there is a best
evaluation) `best` and (where weights are averaged) `average` tensors, `state.json`, and
`manifest.json`, which names every file's digest and is written last. What several ranks wrote has
a file of each of them for every part, and `index.json`, which says which blocks of which tensor
they hold (`saving.shares`). The folder is filled under another name, flushed to disk, and renamed;
so a torn one never carries the name of a checkpoint.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from torch import Tensor

from purvey import failpoints
from purvey.contracts.jobs import CHECKPOINT_ASIDE
from purvey.errors import IntegrityError
from purvey.models.folder.safetensors_file import write_tensors
from purvey.train.saving.regions import Spreads
from purvey.train.saving.stored import Stored, stored_file
from purvey.train.state import RunState

MANIFEST = "manifest.json"
STATE = "state.json"
INDEX = "index.json"
PARTS = ("model", "optimizer", "best", "average")
NUM_KEPT = 2


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Hex SHA-256 of each file of the checkpoint, and what it belongs to."""

    step: int
    files: dict[str, str]
    run_digest: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a run needs to go on from a step.

    Args:
        state: Where it stands.
        model: Trained parameters and buffers.
        optimizer: Its state, by parameter.
        best: What `model` was at the best evaluation, if there was one.
        average: The running mean of the weights, where there is one.
    """

    state: RunState
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None
    average: Mapping[str, Tensor] | None = None

    @property
    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """What there is of it in tensors, by the name of its file without the ending."""
        tensors = {name: getattr(self, name) for name in PARTS}
        return {name: part for name, part in tensors.items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class Written:
    """Where a checkpoint lies, and the hex SHA-256 of its manifest."""

    folder: Path
    digest: str


Fill = Callable[[Path, Snapshot], dict[str, str]]
"""Writes a snapshot's tensors into a folder; returns the hex SHA-256 of each file by its name."""


def whole_files(folder: Path, snapshot: Snapshot) -> dict[str, str]:
    """Write every part into a file of its name; a `Fill`."""
    return {
        f"{part}.safetensors": write_tensors(tensors, folder / f"{part}.safetensors")
        for part, tensors in snapshot.parts.items()
    }


def write_checkpoint(
    snapshot: Snapshot, root: Path, *, run_digest: str, fill: Fill = whole_files
) -> Written:
    """Write a checkpoint below `root`; of the others only the one before it is kept.

    Those of later steps are what an earlier attempt left, which was resumed from before them.
    One of the same step and run that is whole is kept instead: taking it away first could
    leave none, and its digest may already be on record.

    Args:
        snapshot: The state; tensors are copied to disk as they are.
        root: Folder of the run's checkpoints; made where missing.
        run_digest: Names the recipe and data; a resume under another one is refused.
        fill: Writes the tensors.

    Raises:
        OSError: The disk refuses; no folder carries the checkpoint's name.
    """
    final = _folder(root, snapshot.state.step)
    if not root.exists():
        root.mkdir(parents=True)
        flush(root.parent)
    if not _is_usable(final, run_digest=run_digest):
        aside = aside_of(root, snapshot.state.step)
        _fill(aside, snapshot, run_digest=run_digest, fill=fill)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        failpoints.reach("ckpt.renamed")
    flush(root)
    failpoints.reach("gc.old")
    _drop_others(root, step=snapshot.state.step)
    return Written(folder=final, digest=_sha256(final / MANIFEST))


def read_checkpoint(folder: Path, *, run_digest: str) -> Snapshot:
    """Open a checkpoint after checking every byte of it; its tensors are read one by one.

    Raises:
        IntegrityError: A file is missing or changed, or the checkpoint is of another run.
    """
    manifest = _checked_manifest(folder, run_digest=run_digest)
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=RunState)
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(f"checkpoint {folder.name!r} is not complete.") from error
    parts = _stored(folder, manifest)
    return Snapshot(
        state=state,
        model=parts["model"],
        optimizer=parts["optimizer"],
        best=parts.get("best"),
        average=parts.get("average"),
    )


def is_written(root: Path, step: int, *, run_digest: str) -> bool:
    """Tell whether a complete checkpoint of the run and step lies below `root`."""
    return _is_usable(_folder(root, step), run_digest=run_digest)


def aside_of(root: Path, step: int) -> Path:
    """Return the folder in which a checkpoint is written before it gets its name."""
    return root / f"{CHECKPOINT_ASIDE}{step:08d}"


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's names, on the disk."""
    failpoints.reach("ckpt.fsync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def _stored(folder: Path, manifest: CheckpointManifest) -> dict[str, Stored]:
    """Open the parts of a checkpoint whose files are as the manifest says."""
    if INDEX not in manifest.files:
        held = {name for name in PARTS if f"{name}.safetensors" in manifest.files}
        return {name: stored_file(folder / f"{name}.safetensors") for name in held}
    try:
        spreads = msgspec.json.decode((folder / INDEX).read_bytes(), type=Spreads)
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(f"checkpoint {folder.name!r} is not complete.") from error
    named = {piece.file for part in spreads.values() for s in part.values() for piece in s.pieces}
    if not named <= manifest.files.keys():
        raise IntegrityError(f"checkpoint {folder.name!r} is not complete.")
    return {part: Stored(folder, spreads[part]) for part in PARTS if part in spreads}


def _checked_manifest(folder: Path, *, run_digest: str) -> CheckpointManifest:
    """Return the manifest once every file that it names has its digest."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=CheckpointManifest)
        for name, digest in manifest.files.items():
            if name != Path(name).name or _sha256(folder / name) != digest:
                raise IntegrityError(f"the file {name!r} of checkpoint {folder.name!r} changed.")
    except (OSError, msgspec.MsgspecError) as error:
        raise IntegrityError(f"checkpoint {folder.name!r} is not complete.") from error
    if manifest.run_digest != run_digest:
        raise IntegrityError(f"checkpoint {folder.name!r} belongs to another recipe or dataset.")
    return manifest


def _is_usable(folder: Path, *, run_digest: str) -> bool:
    try:
        _checked_manifest(folder, run_digest=run_digest)
    except IntegrityError:
        return False
    return True


def _fill(folder: Path, snapshot: Snapshot, *, run_digest: str, fill: Fill) -> None:
    """Write every file, the manifest last, and flush them to disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    failpoints.reach("ckpt.tmp")
    files = fill(folder, snapshot)
    (folder / STATE).write_bytes(msgspec.json.encode(snapshot.state))
    files[STATE] = _sha256(folder / STATE)
    manifest = CheckpointManifest(step=snapshot.state.step, files=files, run_digest=run_digest)
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    for path in folder.iterdir():
        flush(path)
    flush(folder)


def _drop_others(root: Path, *, step: int) -> None:
    complete = sorted(path for path in root.glob("step-*") if (path / MANIFEST).is_file())
    until_now = [path for path in complete if path.name <= f"step-{step:08d}"]
    for path in complete:
        if path not in until_now[-NUM_KEPT:]:
            shutil.rmtree(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
