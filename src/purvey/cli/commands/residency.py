"""`purvey ps` and `purvey stop`: which models are in memory, and having one leave."""

from typing import TYPE_CHECKING, Annotated

import typer

from purvey.cli.connection import connect
from purvey.cli.moments import span
from purvey.cli.terminal import AsJson, console, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from purvey.client.values import Engine, EngineAdapter

_COLUMNS = ("MODEL", "MEMORY", "PRECISION", "STATE", "USERS", "IDLE", "EXPIRES")
_ELSEWHERE = ("MODEL", "UPSTREAM", "THERE", "STATE", "USERS")
_SAID = {"closed": "asked", "open": "failing", "half-open": "tried", "unnamed": "not in settings"}


def ps(as_json: AsJson = False) -> None:
    """List the models in memory: how much they take, who uses them, when they leave.

    Adapters are listed below the model whose engine serves them, which counts them too.
    Models that other servers compute are listed below, with whether these are asked.
    """
    with connect() as client:
        state = client.server.state()
    if as_json:
        told = {"engines": state.engines, "upstreams": state.upstreams, "memory": state.memory}
        print_json(told)
        return
    rows = [row for one in state.engines for row in _rows(one)]
    print_table(_COLUMNS, rows, empty="No model is in memory.")
    memory = state.memory
    console().print(
        f"{_size(memory.held_bytes)} of {_size(memory.budget_bytes)}; since the start "
        f"{memory.loads} loads, {memory.evictions} evictions",
        markup=False,
    )
    if state.upstreams:
        rows = [
            (one.model, one.upstream, one.upstream_model, _SAID.get(one.state), one.users)
            for one in state.upstreams
        ]
        print_table(_ELSEWHERE, rows, empty="")


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


def _rows(one: "Engine") -> "Iterator[tuple[object, ...]]":
    memory = _size(one.memory_bytes)
    yield one.model, memory, one.precision, one.state, one.users, *_times(one)
    for adapter in one.adapters:
        memory = f"{adapter.memory_bytes / 2**20:,.1f} MiB"
        name = f"+ {adapter.model}"
        yield name, memory, None, adapter.state, adapter.users, *_times(adapter)


def _times(one: "Engine | EngineAdapter") -> tuple[str | None, str]:
    expires = "never" if one.expires_in_s is None else f"in {span(one.expires_in_s)}"
    idle = None if one.idle_s is None else span(one.idle_s)
    return idle, "pinned" if one.is_pinned else expires


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
