"""Are a model's bytes the ones that were registered? Asked before every use of them."""

import hashlib
from pathlib import Path

import msgspec

from purvey.contracts.model import MANIFEST_NAME, ModelManifest, ModelSource
from purvey.errors import IntegrityError
from purvey.registry.folder_check import folder_digest, inner_settings

_ARTIFACT_MANIFEST = "artifact.json"


class _ArtifactFile(msgspec.Struct, frozen=True):
    path: str
    sha256: str


class _ArtifactManifest(msgspec.Struct, frozen=True):
    files: tuple[_ArtifactFile, ...]


def verify_model(source: ModelSource) -> None:
    """Read every byte of a model, and of its base where it has one.

    Raises:
        IntegrityError: A file is missing, was added, or is not what it was.
    """
    verify_folder(Path(source.folder), source.digest, name=source.name)
    if source.base_folder is not None:
        verify_folder(Path(source.base_folder), _base_digest(source), name=source.name)


def verify_folder(folder: Path, digest: str, *, name: str) -> None:
    """Read every byte of an artifact, or of a folder that is served in place.

    Raises:
        IntegrityError: It has another digest, or cannot be read.
    """
    try:
        is_whole = _is_artifact(folder, digest) or _digest(folder) == digest
    except (OSError, RuntimeError) as error:
        raise _damaged(name) from error
    if not is_whole:
        raise _damaged(name)


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


def _base_digest(source: ModelSource) -> str:
    """Return the digest of the base that an adapter, whose bytes are known to be whole, names."""
    manifest = (Path(source.folder) / MANIFEST_NAME).read_bytes()
    return msgspec.json.decode(manifest, type=ModelManifest).base or ""


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _damaged(name: str) -> IntegrityError:
    return IntegrityError(
        f"the files of the model {name!r} are not the ones that were registered.",
        param="model",
        hint="Restore them from a backup, or delete the model and register its folder again.",
    )
