"""What no row names leaves the disk: artifacts, blobs, work folders of jobs that are over.

Rows are written by the writer's thread alone, so "no row names it" and the removal are one
piece of its work: no row comes between. `docs/explanation/concurrency.md` says what may
interleave.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Table, exists, select

from purvey.errors import CapacityError, NotFoundError
from purvey.store import files, jobs
from purvey.store.artifacts import Artifacts
from purvey.store.blobs import Blobs
from purvey.store.database import Database
from purvey.store.tables import DATASETS, FILES, JOBS, MODELS, TRIALS

logger = logging.getLogger(__name__)

_NAMING_ARTIFACTS = (MODELS, DATASETS, TRIALS)


class Sweeper:
    """Removes what nobody can reach any more.

    A disk or database that refuses makes no caller fail: what stays is left to the next start.

    Args:
        database: Whose rows name things.
        artifacts: Models and prepared datasets.
        blobs: Bytes of files.
        work: Folder in which every job has one of its own, by its id.
    """

    def __init__(
        self, database: Database, *, artifacts: Artifacts, blobs: Blobs, work: Path
    ) -> None:
        self._database, self._artifacts, self._blobs, self._work = database, artifacts, blobs, work

    async def sweep(self) -> None:
        """Remove all that an ended server left behind; call it before jobs and requests begin.

        Beside a database that names nothing, everything stays: it may be the wrong one.
        """
        with _left_for_later():
            if await self._database.read(_is_empty):
                return
            for digest in await self._unnamed(self._artifacts.digests, named_artifacts):
                await self.collect_artifact(digest)
            for sha256 in await self._unnamed(self._blobs.names, named_blobs):
                await self.collect_blob(sha256)
            for job_id in await asyncio.to_thread(self._work_folders):
                await self.collect_work(job_id)

    async def collect_artifact(self, digest: str) -> None:
        """Remove an artifact unless a row of any project names it, or its publisher holds it."""
        await collect_artifact(self._database, self._artifacts, digest)

    async def collect_blob(self, sha256: str) -> None:
        """Remove stored bytes unless they are a file of any project."""

        def is_used(conn: Connection) -> bool:
            return files.is_blob_used(conn, sha256)

        def work(conn: Connection) -> None:
            if not is_used(conn):
                self._blobs.remove(sha256)

        with _left_for_later():
            if not await self._database.read(is_used):
                await self._database.write(work)

    async def collect_work(self, job_id: str) -> None:
        """Remove the folder of a job that is over."""
        with _left_for_later():
            if not await self._database.read(lambda c: _needs_work_folder(c, job_id)):
                await asyncio.to_thread(shutil.rmtree, self._work / job_id, ignore_errors=True)

    async def _unnamed(
        self, stored: Callable[[], list[str]], named: Callable[[Connection], set[str]]
    ) -> list[str]:
        present = await asyncio.to_thread(stored)
        return sorted(set(present) - await self._database.read(named))

    def _work_folders(self) -> list[str]:
        return [entry.name for entry in self._work.iterdir()] if self._work.exists() else []


async def collect_artifact(database: Database, artifacts: Artifacts, digest: str) -> None:
    """Do as `Sweeper.collect_artifact`, for whoever has no more than the artifacts."""

    def is_named(conn: Connection) -> bool:
        return _is_artifact_named(conn, digest)

    def work(conn: Connection) -> Path | None:
        return None if is_named(conn) else artifacts.set_aside(digest)

    with _left_for_later():
        # A deletion that shares its commit with `work` may yet be undone: one that is stored first.
        if await database.read(is_named):
            return
        aside = await database.write(work)
        if aside is not None:
            await asyncio.to_thread(artifacts.discard, aside)
            logger.info("artifact.removed", extra={"digest": digest})


def _is_artifact_named(conn: Connection, digest: str) -> bool:
    """Tell whether a model, dataset or trial of any project is this artifact.

    An adapter's base, and what an unfinished job reads, have rows that cannot be deleted.
    """
    return any(_has(conn, table, artifact=digest) for table in _NAMING_ARTIFACTS)


def named_artifacts(conn: Connection) -> set[str]:
    """Return the digests that models, datasets and trials of all projects name."""
    found = (conn.execute(select(table.c.artifact)).scalars() for table in _NAMING_ARTIFACTS)
    return {digest for digests in found for digest in digests if digest is not None}


def named_blobs(conn: Connection) -> set[str]:
    """Return the hashes of all files of all projects."""
    return set(conn.execute(select(FILES.c.sha256)).scalars())


def _needs_work_folder(conn: Connection, job_id: str) -> bool:
    """Tell whether a job may go on, or has failed and left its checkpoints to be looked at."""
    try:
        return jobs.find(conn, job_id).status not in {"succeeded", "cancelled"}
    except NotFoundError:
        return False


def _is_empty(conn: Connection) -> bool:
    """Tell whether the database names nothing at all: it is new, or another one than before."""
    return not any(_has(conn, table) for table in (FILES, DATASETS, JOBS, MODELS))


def _has(conn: Connection, table: Table, **where: str) -> bool:
    conditions = [table.c[column] == value for column, value in where.items()]
    found = select(table.c.position).where(*conditions)
    return bool(conn.execute(select(exists(found))).scalar_one())


@contextmanager
def _left_for_later() -> Iterator[None]:
    try:
        yield
    except (CapacityError, OSError) as error:
        logger.warning("sweep.refused", extra={"code": getattr(error, "code", "")})
