"""`purvey backup` and `purvey restore`: the data folder to a copy of it, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from purvey.cli.terminal import AsJson, console, notices, print_json

if TYPE_CHECKING:
    from purvey.store.backup.copying import Moved
    from purvey.store.backup.manifest import BackupManifest

NOTICE_INTERVAL_S = 10.0
MIB = 2**20


def backup(
    target: Annotated[Path, typer.Argument(help="New folder that becomes the backup.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="The server's data folder [as for `serve`].")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file [purvey.toml where there is one].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the data folder, whether or not a server runs on it.

    The backup appears under its name when it is whole. It holds the server's secret.
    """
    import purvey
    from purvey.contracts.clock import SystemClock
    from purvey.settings import load_settings
    from purvey.store import sqlite
    from purvey.store.backup.taking import Source, take_backup

    settings = load_settings(flags={"data_dir": data_dir}, toml=config)
    source = Source(data_dir=settings.data_dir, database=sqlite.path_of(settings.database_url))
    with _progress("copied", is_shown=not as_json) as moved:
        manifest = take_backup(
            source, target, version=purvey.__version__, now=SystemClock().now(), moved=moved
        )
    _show("Backed up", manifest, target, as_json=as_json)


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `purvey backup` made.")],
    data_dir: Annotated[
        Path, typer.Option(help="New data folder; it must be empty or not be there.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check every byte of a backup and make a new data folder of it."""
    from purvey.store.backup.restoring import restore_backup

    with _progress("checked and copied", is_shown=not as_json) as moved:
        manifest = restore_backup(source, data_dir, moved=moved)
    _show("Restored", manifest, data_dir, as_json=as_json)


def _show(verb: str, manifest: "BackupManifest", folder: Path, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(folder.absolute()),
                "created_at": manifest.created_at,
                "database_schema": manifest.database_schema,
                "num_files": len(manifest.files),
                "num_bytes": manifest.num_bytes,
                "models_elsewhere": manifest.models_elsewhere,
                "unfinished_jobs": manifest.unfinished_jobs,
            }
        )
        return
    told = f"{verb} {len(manifest.files)} files, {manifest.num_bytes / MIB:,.1f} MiB, to {folder}"
    console().print(told, markup=False)
    if manifest.models_elsewhere:
        names = ", ".join(manifest.models_elsewhere)
        notices().print(f"Not included, in your own model folders: {names}", markup=False)
    if manifest.unfinished_jobs:
        names = ", ".join(manifest.unfinished_jobs)
        notices().print(f"Not included, checkpoints of unfinished jobs: {names}", markup=False)


@contextmanager
def _progress(verb: str, *, is_shown: bool) -> Iterator["Moved"]:
    """Say on standard error, every few seconds of a long copy, how far it is."""
    from purvey.contracts.clock import SystemClock

    clock, out = SystemClock(), notices()
    told_at, num_bytes = clock.monotonic(), 0

    def moved(chunk_bytes: int) -> None:
        nonlocal told_at, num_bytes
        num_bytes += chunk_bytes
        if is_shown and clock.monotonic() - told_at >= NOTICE_INTERVAL_S:
            told_at = clock.monotonic()
            out.print(f"{num_bytes / MIB:,.0f} MiB {verb}", markup=False)

    yield moved
