"""A user's own `nn.Module`: found only under the operator's module roots, run only in workers.

The file's copy travels with every model trained from it, with its digest in the manifest; a
served model runs that copy, and only when the digest still fits. One file, no siblings.
"""

import hashlib
import importlib.abc
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    ModelManifest,
    NumberSpec,
    Task,
    TextSpec,
)
from purvey.errors import IntegrityError, InvalidCheckpointError, InvalidValueError
from purvey.module import DECLARATION, Audio, Category, Image, Input, ModelDeclaration, Text

_ARCHITECTURE = "model.architecture"
_HYPERPARAMETERS = "model.hyperparameters"
_MAX_SOURCE_BYTES = 2**20
_USER_ERRORS = (
    *(ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError),
    *(ArithmeticError, AssertionError, RuntimeError, OSError),
)
"""What a user's code may raise as its own mistake; anything else is ours to look at."""


@dataclass(frozen=True, kw_only=True)
class UserModule:
    """A declared class and the file it came from.

    Args:
        reference: `file.py:Class`.
        source: The file's bytes, exactly those that were run.
        cls: The class.
        declaration: What it takes and gives.
    """

    reference: str
    source: bytes
    cls: type[nn.Module]
    declaration: ModelDeclaration

    @property
    def file_name(self) -> str:
        """Name of the file, without folders."""
        return Path(self.reference.partition(":")[0]).name

    @property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def inputs(self) -> dict[str, InputSpec]:
        """Inputs by name, as a manifest writes them."""
        return {name: _spec(declared) for name, declared in self.declaration.inputs.items()}

    def build(self, *, num_classes: int, hyperparameters: Mapping[str, Any]) -> nn.Module:
        """Construct the network.

        Raises:
            InvalidValueError: A hyperparameter is unknown or missing, or the class refuses it.
        """
        accepted = inspect.signature(self.cls.__init__).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
        for name in hyperparameters:
            if name == "num_classes" or (name not in accepted and not takes_any):
                known = ", ".join(sorted(set(accepted) - {"self", "num_classes"})) or "none"
                message = f"{self.reference} takes no hyperparameter {name!r}; it takes: {known}."
                raise InvalidValueError(message, param=f"{_HYPERPARAMETERS}.{name}")
        try:
            return self.cls(num_classes=num_classes, **hyperparameters)
        except _USER_ERRORS as error:
            message = f"{self.reference} could not be built: {_told(error)}."
            raise InvalidValueError(message, param=_HYPERPARAMETERS) from error


def load_from_roots(reference: str, roots: Sequence[str], *, task: Task) -> UserModule:
    """Find and run `file.py:Class` under the first module root that has the file.

    Raises:
        InvalidValueError: No such file or class, a path out of the roots, a class that is not
            declared for this task, or code that fails.
    """
    file, class_name = _split(reference)
    for root in roots:
        path = (Path(root) / file).resolve()
        if path.is_file() and path.is_relative_to(Path(root).resolve()):
            return _load(reference, path, class_name, task)
    message = f"no module root of this server has the file {file!r}."
    hint = "The operator puts files under a module root (PURVEY_MODULE_ROOTS)."
    raise InvalidValueError(message, param=_ARCHITECTURE, hint=hint)


def load_from_folder(folder: Path, manifest: ModelManifest) -> UserModule:
    """Run a model folder's own copy of its module, once its digest is verified.

    Raises:
        IntegrityError: The copy is not the file that the model was trained with.
        InvalidCheckpointError: The copy is missing or unnamed.
    """
    if manifest.module is None or manifest.module_sha256 is None:
        raise InvalidCheckpointError("the manifest names no module file.", param="model")
    file, class_name = _split(manifest.module)
    path = folder / Path(file).name
    if not path.is_file():
        message = f"the model folder lacks its module {path.name!r}."
        raise InvalidCheckpointError(message, param="model")
    return _load(manifest.module, path, class_name, manifest.task, sha256=manifest.module_sha256)


def _split(reference: str) -> tuple[str, str]:
    file, colon, class_name = reference.rpartition(":")
    path = Path(file)
    is_inside = not path.is_absolute() and ".." not in path.parts and path.suffix == ".py"
    if not (colon and is_inside and class_name.isidentifier()):
        message = f"{reference!r} is not of the form 'file.py:Class' under a module root."
        raise InvalidValueError(message, param=_ARCHITECTURE)
    return file, class_name


def _load(
    reference: str, path: Path, class_name: str, task: Task, *, sha256: str | None = None
) -> UserModule:
    with path.open("rb") as stream:
        source = stream.read(_MAX_SOURCE_BYTES + 1)
    if len(source) > _MAX_SOURCE_BYTES:
        raise InvalidValueError(f"{path.name!r} is larger than a module.", param=_ARCHITECTURE)
    if sha256 is not None and hashlib.sha256(source).hexdigest() != sha256:
        raise IntegrityError(f"{path.name!r} is not the file the model was trained with.")
    cls = getattr(_run(path, source), class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        message = f"{path.name!r} has no torch.nn.Module named {class_name!r}."
        raise InvalidValueError(message, param=_ARCHITECTURE)
    declaration = getattr(cls, DECLARATION, None)
    if not isinstance(declaration, ModelDeclaration):
        message = f"{class_name!r} is not declared with @purvey.module.model(...)."
        raise InvalidValueError(message, param=_ARCHITECTURE)
    if declaration.task != task:
        message = f"{class_name!r} is declared for {declaration.task!r}, not {task!r}."
        raise InvalidValueError(message, param="task")
    return UserModule(reference=reference, source=source, cls=cls, declaration=declaration)


class _BytesLoader(importlib.abc.SourceLoader):
    """Loader of bytes already read, so that what was verified is what runs; writes no cache."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path, self._source = path, source

    def get_filename(self, fullname: str) -> str:
        """Return the path that tracebacks show."""
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        """Return the source; there is no compiled cache."""
        if str(path) != str(self._path):
            raise FileNotFoundError(path)
        return self._source


def _run(path: Path, source: bytes) -> ModuleType:
    """Run a file's code as a module of its own, named by its content."""
    name = f"purvey_user_module_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _BytesLoader(path, source)
    spec = importlib.util.spec_from_loader(name, loader, origin=str(path))
    assert spec is not None, "a loader always yields a spec"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look their own module up
    try:
        loader.exec_module(module)
    except _USER_ERRORS as error:
        del sys.modules[name]
        message = f"{path.name!r} could not be imported: {_told(error)}."
        raise InvalidValueError(message, param=_ARCHITECTURE) from error
    return module


def _told(error: Exception) -> str:
    """Return the kind of an error of a user's code and its first line, shortened."""
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line[:200]}"


def _spec(declared: Input) -> InputSpec:
    if isinstance(declared, Image):
        return ImageSpec(
            height=declared.height,
            width=declared.width,
            channels=declared.channels,
            mean=declared.mean,
            std=declared.std,
        )
    if isinstance(declared, Text):
        return TextSpec(max_bytes=declared.max_bytes)
    if isinstance(declared, Audio):
        return AudioSpec(
            sample_rate_hz=declared.sample_rate_hz,
            max_s=declared.max_s,
            num_mels=declared.num_mels,
        )
    if isinstance(declared, Category):
        return CategorySpec(values=tuple(declared.values))
    return NumberSpec(mean=declared.mean, std=declared.std)
