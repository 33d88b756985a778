"""`purvey keys ...`: API keys, for administrators."""

from typing import Annotated

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import local_time
from purvey.cli.terminal import AsJson, console, notices, print_json, print_table

app = typer.Typer(help="Create, list and revoke API keys (administrators).")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do; repeatable [the server's default].")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Project it acts for [yours].")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its secret, this once."""
    with connect() as client:
        key = client.keys.create(name, scopes=scope, project=project)
    if as_json:
        print_json(key)
        return
    console().print(key.key or "", markup=False)
    notices().print("Keep it now: it is not shown again.", markup=False)


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List keys by their last four characters."""
    with connect() as client:
        keys = list(client.keys.list())
    if as_json:
        print_json(keys)
        return
    rows = [
        (
            key.id,
            key.name,
            f"...{key.hint}",
            ", ".join(key.scopes),
            "revoked" if key.revoked_at else "active",
            local_time(key.created_at),
        )
        for key in keys
    ]
    print_table(("KEY", "NAME", "ENDS", "SCOPES", "STATE", "CREATED"), rows, empty="No keys.")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key (`key_...`).")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key at once."""
    with connect() as client:
        client.keys.revoke(key_id)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        console().print(f"{key_id}: revoked", markup=False)
