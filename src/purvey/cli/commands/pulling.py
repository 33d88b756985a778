"""`purvey pull`: a model of the hub, fetched by the server and registered there."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, notices, print_fields, print_json
from purvey.errors import DeadlineExceededError, InvalidValueError, PurveyError

if TYPE_CHECKING:
    from purvey.client.purvey import Purvey
    from purvey.client.values import Model, Pull

LOOK_S = 0.5
"""Seconds between two looks at how far it is."""


def pull(
    source: Annotated[str, typer.Argument(help="`OWNER/NAME` or `OWNER/NAME@REVISION`.")],
    name: Annotated[
        str | None, typer.Option("--as", help="The name it answers by; its id unless given.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Of an adapter: the registered model that it belongs to."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a model from the hub into the server's model root and register it.

    A revision (branch, tag or commit) is resolved to a commit; `main` unless given. Pulled again
    after an interruption, it goes on where it was.
    """
    from purvey.cli.details import model_fields

    hub_id, at, revision = source.partition("@")
    if not hub_id or (at and not revision):
        raise InvalidValueError(
            f"{source!r} is no model of the hub.",
            param="source",
            hint="Write OWNER/NAME or OWNER/NAME@REVISION.",
        )
    with connect() as client:
        wanted = _Wanted(name=name or hub_id, source=hub_id, revision=revision or "main", base=base)
        made = _pulled(client, wanted, is_quiet=as_json)
    if as_json:
        print_json(made)
    else:
        print_fields(model_fields(made))


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A model of the hub, and what it is called here."""

    name: str
    source: str
    revision: str
    base: str | None


def _pulled(client: "Purvey", wanted: _Wanted, *, is_quiet: bool) -> "Model":
    """Wait for the model, showing how far it is; Ctrl-C leaves it to the next pull."""
    is_answered = threading.Event()
    shown = threading.Thread(
        target=_show, args=(client, is_answered, wanted), name="progress", daemon=True
    )
    if not is_quiet:
        shown.start()
    try:
        return _asked(client, wanted)
    finally:
        is_answered.set()
        if not is_quiet:
            shown.join(LOOK_S)  # the bar's last line comes before what is printed next


def _asked(client: "Purvey", wanted: _Wanted) -> "Model":
    """Ask until it is answered: one that falls silent has only waited too long."""
    while True:
        try:
            return client.models.pull(wanted.name, wanted.source, wanted.revision, base=wanted.base)
        except DeadlineExceededError:
            continue


def _show(client: "Purvey", is_answered: threading.Event, wanted: _Wanted) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    out = notices()
    with Progress(*columns, console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task(wanted.source, total=None)
        for found in _looks(client, is_answered, wanted):
            bar.update(task, total=found.bytes or None, completed=found.fetched_bytes)


def _looks(client: "Purvey", is_answered: threading.Event, wanted: _Wanted) -> "Iterator[Pull]":
    """Yield how far it is, again and again, until the answer is there."""
    while not is_answered.wait(LOOK_S):
        try:
            pulls = client.models.pulls()
        except PurveyError:  # the answer will say what is wrong
            continue
        yield from (p for p in pulls if (p.source, p.revision) == (wanted.source, wanted.revision))
