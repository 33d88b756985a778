"""Files of a dataset of the hub: looked up, fetched, checked, handed over, and forgotten.

What was fetched when a request is given up stays in the folder; the next one goes on from there.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from purvey.errors import InvalidValueError, UrlNotAllowedError
from purvey.network.outbound import Outbound
from purvey.registry.fetching import Announced, fetch_file
from purvey.registry.hub.asking import THE_HUB, fetch_listing, file_at
from purvey.registry.hub.snapshot import check_revision, is_hub_id, read_listing
from purvey.registry.transfers import Fetched, Pull, Transfers, check_tables, is_wanted

logger = logging.getLogger(__name__)
SCHEME = "hf://datasets/"


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
        self._transfers = Transfers()

    def running(self) -> list[Pull]:
        """List the datasets that are being fetched."""
        return self._transfers.running()

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
        with self._transfers.begun(source, revision) as pull:
            commit, files = await self._look_up(name, revision, patterns)
            pull.commit, pull.num_bytes = commit, sum(file.num_bytes for file in files)
            folder = self._folder / name.replace("/", "--") / commit
            logger.info("pull.started", extra={"num_bytes": pull.num_bytes})
            for file in files:
                url = f"https://{self._host}/datasets/{name}/resolve/{commit}/{quote(file.name)}"
                await fetch_file(
                    file_at(self._outbound, url, what=file.name, headers=self._headers),
                    file,
                    folder / file.name,
                    place=THE_HUB,
                    note=partial(pull.note, file.name),
                )
            yield Fetched(commit=commit, files={file.name: folder / file.name for file in files})
            await asyncio.to_thread(shutil.rmtree, folder)

    async def _look_up(
        self, name: str, revision: str, patterns: Sequence[str]
    ) -> tuple[str, list[Announced]]:
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

        def is_meant(file: object) -> bool:
            return isinstance(file, str) and is_wanted(file, patterns)

        commit, files, _ = read_listing(content, revision=revision, is_wanted=is_meant)
        check_tables(files, place=name)
        return commit, sorted(files, key=lambda file: file.name)
