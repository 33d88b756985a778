"""Files of a dataset of the hub: looked up, fetched, checked, handed over, and forgotten.

What was fetched when a request is given up stays in the folder; the next one goes on from there.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    InvalidValueError,
    RequestTooLargeError,
    UrlNotAllowedError,
)
from purvey.network.outbound import Outbound
from purvey.registry.hub.fetching import fetch_file, fetch_listing
from purvey.registry.hub.snapshot import HubFile, check_revision, is_hub_id, read_listing

logger = logging.getLogger(__name__)
SCHEME = "hf://datasets/"
MOST_FILES = 64
_READ = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".zip")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What was fetched of one commit: each file's path by its name in the repository."""

    commit: str
    files: dict[str, Path]


class HubDatasets:
    """Datasets of the hub, for one server.

    Args:
        outbound: The way out; the hub, and where it stores files, must be allowed there.
        host: The hub.
        token: What the server shows there, if anything. Never logged, and shown to no other host.
        folder: Where files are while they are fetched.
    """

    def __init__(self, outbound: Outbound, *, host: str, token: str | None, folder: Path) -> None:
        self._outbound, self._host, self._folder = outbound, host, folder
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._fetching: set[str] = set()

    @asynccontextmanager
    async def fetched(
        self, source: str, revision: str, patterns: Sequence[str]
    ) -> AsyncIterator[Fetched]:
        """Fetch the files of a dataset, for as long as the context lasts.

        Args:
            source: `hf://datasets/OWNER/NAME`.
            revision: Branch, tag or commit.
            patterns: Which files, as `data/train-*.parquet`; none means every table and zip.

        Raises:
            InvalidValueError: The hub has no such dataset, or no such file in it.
            RequestTooLargeError: A file is larger than an upload may be, or there are too many.
            UrlNotAllowedError: The hub is not allowed.
            UpstreamNotAllowedError: The hub failed, or sent what it did not announce.
            CapacityError: As many are being fetched as may, or this one is.
        """
        name = source.removeprefix(SCHEME)
        if name == source or not is_hub_id(name):
            raise InvalidValueError(f"a dataset of the hub is {SCHEME}OWNER/NAME.", param="source")
        check_revision(revision)
        if name in self._fetching or len(self._fetching) >= LIMITS.running_pulls:
            raise CapacityError("the hub is being asked already: try again soon.", param="source")
        self._fetching.add(name)
        try:
            commit, files = await self._look_up(name, revision, patterns)
            folder = self._folder / name.replace("/", "--") / commit
            logger.info("pull.started", extra={"num_bytes": sum(f.num_bytes for f in files)})
            for file in files:
                url = f"https://{self._host}/datasets/{name}/resolve/{commit}/{quote(file.name)}"
                await fetch_file(
                    self._outbound, url, file, folder, headers=self._headers, note=_unnoted
                )
            yield Fetched(commit=commit, files={file.name: folder / file.name for file in files})
            await asyncio.to_thread(shutil.rmtree, folder)
        finally:
            self._fetching.discard(name)

    async def _look_up(
        self, name: str, revision: str, patterns: Sequence[str]
    ) -> tuple[str, list[HubFile]]:
        url = (
            f"https://{self._host}/api/datasets/{name}/revision/{quote(revision, safe='')}"
            "?blobs=true"
        )
        try:
            content = await fetch_listing(
                self._outbound, url, what=f"{name}@{revision}", headers=self._headers
            )
        except UrlNotAllowedError as error:
            raise UrlNotAllowedError(
                error.message,
                param="source",
                hint=f"The operator names {self._host!r}, and the hosts that it stores large files "
                "on, in the setting 'outbound_hosts'.",
            ) from None

        def is_wanted(file: object) -> bool:
            return isinstance(file, str) and _is_wanted(file, patterns)

        commit, files, _ = read_listing(content, revision=revision, is_wanted=is_wanted)
        _check(name, files)
        return commit, sorted(files, key=lambda file: file.name)


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    if name.startswith("/") or ".." in name.split("/"):
        return False
    if not name.lower().endswith(_READ):
        return False
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _check(name: str, files: Sequence[HubFile]) -> None:
    if not files:
        raise InvalidValueError(
            f"{name!r} has no such file that is one of {', '.join(_READ)}.", param="files"
        )
    if len(files) > MOST_FILES:
        raise RequestTooLargeError(
            f"{len(files)} files of {name!r} are meant; at most {MOST_FILES} are fetched: name "
            "fewer.",
            param="files",
        )
    for file in files:
        if file.num_bytes > LIMITS.upload_bytes:
            raise RequestTooLargeError(
                f"{file.name!r} has {file.num_bytes} bytes; a file may have {LIMITS.upload_bytes}.",
                param="files",
            )


def _unnoted(_: int) -> None:
    """Nobody is told how far a file is."""
