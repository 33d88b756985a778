"""A hub on this machine: one repository, its large files on another host, and its faults."""

import hashlib
import json
from collections.abc import Iterable
from urllib.parse import unquote

from purvey.testing.https_double import answer_of

HUB, STORAGE = "huggingface.co", "cdn.hub.example"
"""Names that the double answers by: the hub's, and the one that it redirects to."""
SOURCE, COMMIT = "acme/stories", "0123456789abcdef0123456789abcdef01234567"


class HubDouble:
    """Answers like the hub.

    Args:
        files: Content by name; what ends in `.safetensors`, `.bin` or `.parquet` lies in large
            storage.

    Attributes:
        heads: Heads of the requests so far; set to those of the server that asks this for answers.
        cuts: Bytes after which the next answers of the storage break off, one each.
        tampered: Content by name that is sent instead of what was announced.
        announced: Sizes by name that are announced instead of the true ones.
        refusals: Answers by the beginning of a path, instead of the proper ones.
        storage: Host that large files are said to be on.
        ignores_ranges: Whether whole files are sent whatever was asked for.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.heads: list[str] = []
        self.cuts: list[int] = []
        self.tampered: dict[str, bytes] = {}
        self.announced: dict[str, int] = {}
        self.refusals: dict[str, bytes] = {}
        self.storage = STORAGE
        self.ignores_ranges = False

    def __call__(self, path: str) -> Iterable[bytes]:
        """Answer one request."""
        for beginning, answer in self.refusals.items():
            if path.startswith(beginning):
                return [answer]
        if path.startswith((f"/api/models/{SOURCE}/", f"/api/datasets/{SOURCE}/")):
            return [answer_of(200, json.dumps(self._listing()).encode())]
        resolved = path.partition("/resolve/")[2].partition("/")[2]
        name = unquote(resolved or path.partition("/stored/")[2])
        content = self.tampered.get(name, self.files.get(name))
        if content is None:
            return [answer_of(404)]
        if path.startswith("/stored/") or not _is_large(name):
            return self._sent(content)
        return [answer_of(302, location=f"https://{self.storage}/stored/{name}")]

    def _sent(self, content: bytes) -> Iterable[bytes]:
        start = 0 if self.ignores_ranges else _start(self.heads[-1])
        rest = content[start:]
        if start:
            where = f"bytes {start}-{len(content) - 1}/{len(content)}"
            whole = answer_of(206, rest, content_range=where)
        else:
            whole = answer_of(200, rest)
        num_sent = self.cuts.pop(0) if self.cuts else len(rest)
        return [whole[: len(whole) - len(rest) + num_sent]]

    def _listing(self) -> dict[str, object]:
        return {
            "id": SOURCE,
            "sha": COMMIT,
            "siblings": [self._entry(name, content) for name, content in self.files.items()],
        }

    def _entry(self, name: str, content: bytes) -> dict[str, object]:
        size = self.announced.get(name, len(content))
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": git.hexdigest()}
        if _is_large(name):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return entry


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".parquet"))


def _start(head: str) -> int:
    for line in head.split("\r\n"):
        name, _, value = line.partition(": ")
        if name.lower() == "range":
            return int(value.removeprefix("bytes=").removesuffix("-"))
    return 0
