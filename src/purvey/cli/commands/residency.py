"""`purvey ps` and `purvey stop`: which models are in memory, and having one leave."""

from typing import TYPE_CHECKING, Annotated

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import span
from purvey.cli.terminal import AsJson, console, print_json, print_table

if TYPE_CHECKING:
    from purvey.client.values import Engine

_COLUMNS = ("MODEL", "MEMORY", "PRECISION", "STATE", "USERS", "IDLE", "EXPIRES")


def ps(as_json: AsJson = False) -> None:
    """List the models in memory: how much they take, who uses them, when they leave."""
    with connect() as client:
        state = client.server.state()
    if as_json:
        print_json({"engines": state.engines, "memory": state.memory})
        return
    print_table(_COLUMNS, [_row(one) for one in state.engines], empty="No model is in memory.")
    memory = state.memory
    console().print(
        f"{_size(memory.held_bytes)} of {_size(memory.budget_bytes)}; since the start "
        f"{memory.loads} loads, {memory.evictions} evictions",
        markup=False,
    )


def stop(
    name: Annotated[str, typer.Argument(help="A model's name, or `deployment:profile`.")],
    as_json: AsJson = False,
) -> None:
    """Have a model leave memory, as soon as what it runs has ended; the next request loads it."""
    with connect() as client:
        told = client.models.unload(name)
    if as_json:
        print_json(told)
    else:
        what = "leaves memory" if told.unloaded else "was not in memory"
        console().print(f"{name}: {what}", markup=False)


def _row(one: "Engine") -> tuple[object, ...]:
    expires = "never" if one.expires_in_s is None else f"in {span(one.expires_in_s)}"
    if one.is_pinned:
        expires = "pinned"
    idle = None if one.idle_s is None else span(one.idle_s)
    return one.model, _size(one.memory_bytes), one.precision, one.state, one.users, idle, expires


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
