"""What a repository of the hub holds at one commit, and which of its files are taken.

The hub's listing names every file with its size and with what its content must hash to: SHA-256
where the file lies in large storage, else git's own SHA-1 over `blob SIZE NUL CONTENT`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from purvey.contracts.hugging_face import INPUTS_NAME
from purvey.contracts.limits import LIMITS
from purvey.errors import (
    InvalidCheckpointError,
    InvalidValueError,
    RequestTooLargeError,
    UpstreamNotAllowedError,
)
from purvey.registry.adapters import CONFIG_NAME, WEIGHTS_NAME
from purvey.registry.fetching import Announced, Digest
from purvey.registry.folder_check import MAX_JSON_BYTES

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
_ADAPTER = frozenset({CONFIG_NAME, WEIGHTS_NAME})
"""What PEFT writes of an adapter."""
_STEP = re.compile(r"\d{1,2}_[A-Za-z]{1,40}/config\.json")
"""What `sentence-transformers` keeps of one step."""
_NAMES = frozenset({
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "config.json",
    "config_sentence_transformers.json", "generation_config.json", "merges.txt",
    "model.safetensors.index.json", "modules.json", "sentence_bert_config.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
    INPUTS_NAME,
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The files that are taken, small ones first, of one commit."""

    commit: str
    files: tuple[Announced, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)


def is_hub_id(source: str) -> bool:
    """Tell `owner/name` from the path of a folder."""
    return _ID.fullmatch(source) is not None and ".." not in source


def is_commit(revision: str) -> bool:
    """Tell a commit from a branch or a tag, which may move."""
    return _COMMIT.fullmatch(revision) is not None


def check_revision(revision: str) -> None:
    """Make sure that a branch, tag or commit can be one.

    Raises:
        InvalidValueError: It cannot.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise InvalidValueError(
            "a revision is a branch, a tag or a commit of 40 hex digits.", param="revision"
        )


def read_snapshot(content: bytes, *, source: str, revision: str) -> Snapshot:
    """Read the hub's listing of one revision of a model.

    Raises:
        UpstreamNotAllowedError: It is no such listing, or one of another commit.
        InvalidCheckpointError: Nothing in it can be served.
        RequestTooLargeError: Its files exceed what one model may take.
    """
    commit, files, names = read_listing(content, revision=revision, is_wanted=is_wanted)
    _require_servable(source, {file.name for file in files}, names)
    _require_bounded(source, files)
    files.sort(key=lambda file: (file.name.endswith(".safetensors"), file.name))
    return Snapshot(commit=commit, files=tuple(files))


def read_listing(
    content: bytes, *, revision: str, is_wanted: Callable[[object], bool]
) -> tuple[str, list[Announced], list[str]]:
    """Read the hub's listing of one revision: its commit, the files wanted, the names of all.

    Raises:
        UpstreamNotAllowedError: It is no such listing, or one of another commit.
    """
    try:
        answer = msgspec.json.decode(content, type=dict[str, Any])
        commit, listed = answer["sha"], answer["siblings"]
        files = [_file(entry) for entry in listed if is_wanted(entry["rfilename"])]
        names = [str(entry["rfilename"]) for entry in listed]
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
        raise UpstreamNotAllowedError(
            "the hub's listing is not understood.", param="source"
        ) from None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise UpstreamNotAllowedError("the hub names no commit.", param="source")
    if is_commit(revision) and revision != commit:
        raise UpstreamNotAllowedError("the hub answers with another commit.", param="revision")
    return commit, files, names


def is_wanted(name: object) -> bool:
    """Tell whether a file is taken: weights as safetensors, and what describes them as text."""
    if not isinstance(name, str):
        return False
    return name in _NAMES | _ADAPTER or bool(_WEIGHTS.fullmatch(name) or _STEP.fullmatch(name))


def _file(entry: dict[str, Any]) -> Announced:
    size = entry["size"]
    large: Any = entry.get("lfs")
    is_large = isinstance(large, dict)
    digest: str = large["sha256"] if is_large else entry["blobId"]
    pattern = _SHA256 if is_large else _COMMIT
    if type(size) is not int or size < 0 or not pattern.fullmatch(digest):
        raise ValueError("a file without size or digest")
    return Announced(
        name=entry["rfilename"],
        num_bytes=size,
        digest=Digest(kind="sha256" if is_large else "git", value=digest),
    )


def _require_servable(source: str, taken: set[str], names: Iterable[str]) -> None:
    if taken >= _ADAPTER:
        return  # its base has configuration and tokenizer
    has_weights = any(_WEIGHTS.fullmatch(name) for name in taken)
    if not has_weights:
        others = [n for n in names if n.endswith((".bin", ".pt", ".pth", ".gguf", ".h5", ".ckpt"))]
        instead = f", only {others[0][:100]!r}" if others else ""
        raise InvalidCheckpointError(f"{source!r} has no safetensors{instead}.", param="source")
    has_inputs = INPUTS_NAME in taken  # of a network that sees or hears, perhaps without tokens
    for name in ("config.json", *(() if has_inputs else ("tokenizer.json",))):
        if name not in taken:
            raise InvalidCheckpointError(f"{source!r} has no {name}.", param="source", hint="")


def _require_bounded(source: str, files: list[Announced]) -> None:
    total = sum(file.num_bytes for file in files)
    if total > LIMITS.pulled_bytes:
        raise RequestTooLargeError(
            f"{source!r} has {total} bytes; a pulled model may have {LIMITS.pulled_bytes}.",
            param="source",
        )
    for file in files:
        if not file.name.endswith(".safetensors") and file.num_bytes > MAX_JSON_BYTES:
            raise RequestTooLargeError(
                f"{file.name!r} of {source!r} has {file.num_bytes} bytes; it may have "
                f"{MAX_JSON_BYTES}.",
                param="source",
            )
