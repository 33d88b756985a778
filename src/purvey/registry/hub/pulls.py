"""Pulls: models of the hub on their way into a model root.

A pull runs as long as somebody waits for it. What it has fetched when it ends stays under
`.pulls` in the root, and the next pull of that commit goes on from there. A model is published
by one rename, as `OWNER/NAME/COMMIT`: a folder of that name is whole.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path
from urllib.parse import quote
from weakref import WeakValueDictionary

from purvey.contracts.limits import LIMITS
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    InvalidValueError,
    UrlNotAllowedError,
)
from purvey.network.outbound import Outbound
from purvey.registry.fetching import fetch_file
from purvey.registry.hub.asking import THE_HUB, fetch_listing, file_at
from purvey.registry.hub.snapshot import Snapshot, check_revision, is_commit, read_snapshot
from purvey.registry.transfers import Pull
from purvey.store.disk import free_bytes, sync_folder
from purvey.store.failures import storage_error

logger = logging.getLogger(__name__)
UNFINISHED = ".pulls"


class Pulls:
    """The pulls of one server.

    Invariant: each pull in `_running` has somebody who waits for it.

    Args:
        outbound: The way out; the hub, and where it stores files, must be allowed there.
        host: The hub.
        token: What the server shows there, if anything. Never logged, and shown to no other host.
        root: The model root that models go into; None where there is none.
    """

    def __init__(
        self, outbound: Outbound, *, host: str, token: str | None, root: Path | None
    ) -> None:
        self._outbound, self._host, self._root = outbound, host, root
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._running: dict[tuple[str, str], tuple[Pull, asyncio.Task[Path]]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def running(self) -> list[Pull]:
        """List the pulls under way."""
        return [pull for pull, _ in self._running.values()]

    async def folder(self, source: str, revision: str) -> Path:
        """Return the folder of a model, fetched first if it is not there.

        Args:
            source: Hub id, `owner/name`.
            revision: Branch, tag or commit.

        Raises:
            InvalidValueError: There is no model root, or the hub has no such model.
            UrlNotAllowedError: The hub is not allowed.
            UpstreamNotAllowedError: The hub failed, or sent what it did not announce.
            InvalidCheckpointError: The hub has nothing of it that could be served.
            CapacityError: As many pulls run as may, the hub asks to wait, or the disk is full.
        """
        check_revision(revision)
        key = source, revision
        pull, task = self._running.get(key) or self._start(source, revision)
        pull.num_waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            pull.num_waiting -= 1
            if not pull.num_waiting:
                self._running.pop(key, None)
                task.cancel()

    def _start(self, source: str, revision: str) -> tuple[Pull, asyncio.Task[Path]]:
        if self._root is None:
            raise InvalidValueError(
                "this server has no model root to pull models into.",
                param="source",
                hint="Name a folder in PURVEY_MODEL_ROOTS (or `purvey serve --model-root`).",
            )
        if len(self._running) >= LIMITS.running_pulls:
            raise CapacityError(f"{LIMITS.running_pulls} models are being pulled.", param="source")
        pull = Pull(source=source, revision=revision)
        task = asyncio.create_task(self._one_at_a_time(pull, self._root), name=f"pull-{source}")
        self._running[source, revision] = pull, task
        return self._running[source, revision]

    async def _one_at_a_time(self, pull: Pull, root: Path) -> Path:
        """Pull once no other revision of the model is being pulled into the same folder."""
        lock = self._locks.setdefault(pull.source, asyncio.Lock())
        async with lock:
            return await self._pulled(pull, root)

    async def _pulled(self, pull: Pull, root: Path) -> Path:
        final = root / pull.source / pull.revision
        if is_commit(pull.revision) and await asyncio.to_thread(final.is_dir):
            return final  # it cannot have changed: the hub is not asked
        snapshot = await self._look_up(pull)
        final = root / pull.source / snapshot.commit
        if await asyncio.to_thread(final.is_dir):
            return final
        unfinished = root / UNFINISHED / pull.source.replace("/", "--") / snapshot.commit
        await asyncio.to_thread(_require_room, snapshot, unfinished, root)
        logger.info("pull.started", extra={"num_bytes": snapshot.num_bytes})
        for file in snapshot.files:
            url = f"https://{self._host}/{pull.source}/resolve/{snapshot.commit}/{quote(file.name)}"
            await fetch_file(
                file_at(self._outbound, url, what=file.name, headers=self._headers),
                file,
                unfinished / file.name,
                place=THE_HUB,
                note=partial(pull.note, file.name),
            )
        await asyncio.to_thread(_publish, unfinished, final)
        logger.info("pull.finished", extra={"num_bytes": snapshot.num_bytes})
        return final

    async def _look_up(self, pull: Pull) -> Snapshot:
        revision = quote(pull.revision, safe="")
        url = f"https://{self._host}/api/models/{pull.source}/revision/{revision}?blobs=true"
        try:
            what = f"{pull.source}@{pull.revision}"
            content = await fetch_listing(self._outbound, url, what=what, headers=self._headers)
        except UrlNotAllowedError as error:
            raise UrlNotAllowedError(
                f"{pull.source!r} is no folder under a model root, and {error.message}",
                param="source",
                hint=f"To pull it from the hub, the operator names {self._host!r}, and the hosts "
                "that it stores large files on, in the setting 'outbound_hosts'.",
            ) from None
        snapshot = read_snapshot(content, source=pull.source, revision=pull.revision)
        pull.commit, pull.num_bytes = snapshot.commit, snapshot.num_bytes
        return snapshot


def _require_room(snapshot: Snapshot, unfinished: Path, root: Path) -> None:
    try:
        there = sum(file.stat().st_size for file in unfinished.rglob("*") if file.is_file())
        free = free_bytes(root)
    except OSError as error:
        raise storage_error(error) from error
    if snapshot.num_bytes - there > free:
        raise InsufficientStorageError(
            f"{snapshot.num_bytes - there} bytes are still to be fetched, and the disk of the "
            f"model root has {free} left.",
            param="source",
        )


def _publish(unfinished: Path, final: Path) -> None:
    """Give a model its name; it is whole, or not there."""
    try:
        sync_folder(unfinished)
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        raise storage_error(error) from error
