"""Are a model's bytes the ones that were registered? Asked before every use of them."""

import hashlib
from pathlib import Path

import msgspec

from purvey.contracts.model import ModelSource
from purvey.errors import IntegrityError
from purvey.registry.folder_check import folder_digest, inner_settings
from purvey.store.seals.marks import Seals, marks_of

_ARTIFACT_MANIFEST = "artifact.json"


class _ArtifactFile(msgspec.Struct, frozen=True):
    path: str
    sha256: str


class _ArtifactManifest(msgspec.Struct, frozen=True):
    files: tuple[_ArtifactFile, ...]


def verify_model(source: ModelSource, seals: Seals | None = None) -> None:
    """Verify a model, and its base where it has one.

    Args:
        source: Where they lie and what they should be.
        seals: As for `verify_folder`.

    Raises:
        IntegrityError: A file is missing, was added, or is not what it was.
    """
    verify_folder(Path(source.folder), source.digest, name=source.name, seals=seals)
    if source.base_folder is not None:
        base, digest = Path(source.base_folder), source.base_digest or ""
        verify_folder(base, digest, name=source.name, seals=seals)


def verify_folder(folder: Path, digest: str, *, name: str, seals: Seals | None = None) -> None:
    """Verify an artifact, or a folder that is served in place.

    Args:
        folder: Where it lies.
        digest: What it should be.
        name: Of the model, for the error.
        seals: What passed before and was not written to since passes at once; all else, and
            everything where there are none, is read to the last byte.

    Raises:
        IntegrityError: It has another digest, or cannot be read.
    """
    try:
        if seals is None:
            is_whole = _is_whole(folder, digest)
        else:
            is_whole = _is_sealed_or_whole(folder, digest, seals)
    except (OSError, RuntimeError) as error:
        raise _damaged(name) from error
    if not is_whole:
        raise _damaged(name)


def _is_sealed_or_whole(folder: Path, digest: str, seals: Seals) -> bool:
    seal = f"{digest}.{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    marks = marks_of(path for path in folder.rglob("*") if not path.is_dir())
    if seals.holds(seal, marks):
        return True
    is_whole = _is_whole(folder, digest)
    if is_whole:
        seals.keep(seal, marks)  # as they were before they were read
    return is_whole


def _is_whole(folder: Path, digest: str) -> bool:
    return _is_artifact(folder, digest) or _digest(folder) == digest


def _is_artifact(folder: Path, digest: str) -> bool:
    """Tell whether this is the artifact of that name, and all of its files are its own."""
    path = folder / _ARTIFACT_MANIFEST
    if not path.is_file():
        return False
    text = path.read_bytes()
    if hashlib.sha256(text).hexdigest() != digest:
        return False
    files = msgspec.json.decode(text, type=_ArtifactManifest).files
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    return present == {_ARTIFACT_MANIFEST, *(file.path for file in files)} and all(
        _sha256(folder / file.path) == file.sha256 for file in files
    )


def _digest(folder: Path) -> str:
    own = [entry for entry in folder.iterdir() if not entry.resolve().is_dir()]
    return folder_digest(own, inner_settings(folder))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(name: str) -> IntegrityError:
    return IntegrityError(
        f"the files of the model {name!r} are not the ones that were registered.",
        param="model",
        hint="Restore them from a backup, or delete the model and register its folder again.",
    )
