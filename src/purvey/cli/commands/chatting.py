"""`purvey run` and `purvey chat`: talk to a model in the terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from purvey.cli.connection import connect
from purvey.cli.terminal import AsJson, console, notices, print_json
from purvey.errors import InvalidFileError, InvalidValueError

if TYPE_CHECKING:
    from purvey.client.purvey import Purvey

Turn = dict[str, Any]  # a message of the API
Reply = Callable[[str], Iterator[str]]
"""Text of the answer, piece by piece, to what was typed."""
_CLASSES_SHOWN = 5


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
        """Return how this model answers: chat, plain completion, classes or a score."""
        from purvey.contracts.model import GENERATING

        task = self.client.models.get(self.model).task
        if task is not None and task not in GENERATING:
            return self._classify
        return self._chat if self.client.answers.takes_chat(self.model) else self._complete

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
        yield self.classes_of(text)

    def classes_of(self, given: object) -> str:
        """Return the most probable classes of an input, or its score, on one line."""
        result = self.client.answers.classify(self.model, [given]).results[0]
        if result.score is not None:
            return f"{result.score:.6g}"
        best = result.probabilities[:_CLASSES_SHOWN]
        return ", ".join(f"{p.label} {p.probability:.3f}" for p in best)

    def answer_to(
        self, given: object, *, images: Sequence[Path], audio: Path | None, prompt: str | None
    ) -> Iterable[str]:
        """Yield what is heard, what is answered about images, or what `classes_of` returns."""
        task = self.client.models.get(self.model).task if images or audio else None
        if audio is not None and task == "speech-recognition":
            yield self.client.answers.transcribe(self.model, audio)
        elif images and task == "image-text-to-text":
            yield from self._about(images, prompt or "")
        elif len(images) > 1:
            raise InvalidValueError(f"{self.model!r} is asked about one image.", param="image")
        else:
            yield self.classes_of(given)

    def _about(self, images: Sequence[Path], text: str) -> Iterator[str]:
        from purvey.client.answers import image_part

        parts = [*map(image_part, images), {"type": "text", "text": text}]
        self.messages.append({"role": "user", "content": parts})
        yield from self.client.answers.chat(self.model, self.messages, **self.sampling)


def run(
    model: Annotated[
        str, typer.Argument(help="A registered name, or a model folder on this disk.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="Answer this and end [read lines until end of input].")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            help="Classify this image, or answer --prompt about it, and end; repeatable for a "
            "model that sees several.",
        ),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Classify this recording, or write it down, and end.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Of a mixture, answered at once: NAME=TEXT, NAME:=NUMBER, NAME=@FILE; repeatable.",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="First turn, as the system.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass in (0, 1].")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model: chat, completion where it has no chat template, classes or a score.

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
        if (given := _given(images or (), audio, inputs or ())) is not None:
            answer = talk.answer_to(given, images=images or (), audio=audio, prompt=prompt)
            _answer(model, answer, as_json=as_json)
            return
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


def _given(images: Sequence[Path], audio: Path | None, inputs: Sequence[str]) -> object:
    """Return what flags give as the API's input, of several images the first; None without any."""
    from purvey.cli.commands.naming import named_inputs
    from purvey.client.answers import audio_input, image_input

    if sum((bool(images), audio is not None, bool(inputs))) > 1:
        raise InvalidValueError("give one of --image, --audio and --input.", param="input")
    if inputs:
        return named_inputs(inputs)
    for path, param in (*((image, "image") for image in images), (audio, "audio")):
        if path is not None and not path.is_file():
            raise InvalidFileError(f"no file at {str(path)!r}.", param=param)
    if images:
        return image_input(images[0])
    return None if audio is None else audio_input(audio)


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
