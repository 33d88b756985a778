"""`purvey run` and `purvey chat`: talk to a model in the terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, console, notices, print_json
from purvey.errors import UserError

if TYPE_CHECKING:
    from purvey.client.purvey import Purvey

Turn = dict[str, Any]  # a message of the API
Reply = Callable[[str], Iterator[str]]
"""Text of the answer, piece by piece, to what was typed."""
CAN_CHAT_PROBE = [{"role": "user", "content": "."}]


@dataclass(kw_only=True)
class Talk:
    """One conversation with one model.

    Args:
        client: The server.
        model: Name of the model.
        sampling: Fields of the request; None leaves one out.
        messages: What was said so far.
    """

    client: "Purvey"
    model: str
    sampling: Mapping[str, object]
    messages: list[Turn] = field(default_factory=list)

    def reply(self) -> Reply:
        """Return how this model answers: chat, plain completion, or classes."""
        task = self.client.models.get(self.model).task
        if task is not None and task != "text-generation":
            return self._classify
        return self._chat if self._takes_chat() else self._complete

    def _takes_chat(self) -> bool:
        try:
            self.client.answers.count_tokens(self.model, CAN_CHAT_PROBE)
        except UserError as error:
            if error.status in (400, 422):
                return False
            raise
        return True

    def _chat(self, text: str) -> Iterator[str]:
        self.messages.append({"role": "user", "content": text})
        answer = ""
        for piece in self.client.answers.chat(self.model, self.messages, **self.sampling):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer})

    def _complete(self, text: str) -> Iterator[str]:
        yield text  # it goes on from there, so it is read from there
        yield from self.client.answers.complete(self.model, text, **self.sampling)

    def _classify(self, text: str) -> Iterator[str]:
        result = self.client.answers.classify(self.model, [text], top_k=5).results[0]
        yield ", ".join(f"{p.label} {p.probability:.3f}" for p in result.probabilities)


def run(
    model: Annotated[
        str, typer.Argument(help="A registered name, or a model folder on this disk.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="Answer this and end [read lines until end of input].")
    ] = None,
    system: Annotated[str | None, typer.Option(help="First turn, as the system.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass in (0, 1].")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model: chat, completion where it has no chat template, or classes.

    A model folder is served by a private server for as long as the command runs.
    """
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    with _served(model) as (client, name):
        talk = Talk(client=client, model=name, sampling=sampling)
        if system is not None:
            talk.messages.append({"role": "system", "content": system})
        reply = talk.reply()
        for text in _typed() if prompt is None else [prompt]:
            _answer(model, reply(text), as_json=as_json)


@contextmanager
def _served(model: str) -> "Iterator[tuple[Purvey, str]]":
    from purvey.cli.commands.private_server import MODEL_NAME, private_server

    folder = Path(model)
    if (folder / "config.json").is_file() or (folder / "purvey.json").is_file():
        with private_server(folder) as client:
            yield client, MODEL_NAME
    else:
        with connect() as client:
            yield client, model


def _typed() -> Iterator[str]:
    """Yield what is typed, line by line; all of a pipe's content as one."""
    if not sys.stdin.isatty():
        yield sys.stdin.read()
        return
    notices().print("Ctrl-D ends.", style="dim")
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if text.strip():
            yield text


def _answer(model: str, pieces: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"model": model, "text": "".join(pieces)})
        return
    out = console().file
    for piece in pieces:
        out.write(piece)
        out.flush()
    out.write("\n")
    out.flush()
