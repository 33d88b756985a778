"""A scripted engine in a process of its own: what the real client is tested against.

Run by `LocalEngineLauncher(command=COMMAND)`. Prompts that begin with `!` misbehave: `!die`
ends the process, `!garbage` sends bytes that are no frame, `!stranger` answers a request that
nobody made, `!replay` says its last word twice, `!load` loads twice, `!hang` never answers,
`!stuck` neither, and goes on telling its statistics, `!slow` answers after one long step.
"""

import argparse
import asyncio
import os
import sys
import time
from typing import NoReturn

import msgspec

from purvey.contracts.adapter import DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Rank
from purvey.contracts.engine import (
    Cancel,
    Classify,
    Drain,
    Explain,
    Finished,
    Generate,
    LoadFailed,
    LoadModel,
    OneQuestion,
    Question,
    Refused,
    Score,
    ToEngine,
    Tokenize,
    Waiting,
)
from purvey.contracts.speech.transcription import Transcribe
from purvey.errors import InternalError, PurveyError
from purvey.ipc.lifetime import die_with_parent
from purvey.ipc.link import Link
from purvey.testing import scripted_answers
from purvey.testing.scripted_engine import ScriptedEngine, ScriptedLauncher

COMMAND = (sys.executable, "-P", "-m", "purvey.testing.engine_process")
REFUSED_NAME, DEAD_NAME = "refused", "dead"
"""Models of these names do not load: one with an answer, one without."""

TOKEN_S = 0.005
"""Seconds of one token: room for a Cancel, or for a kill, in the middle of an answer."""
SLOW_S = 1.5
"""Seconds of a long step."""


def main() -> int:
    """Serve one scripted engine over the inherited socket."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--context", type=int, default=4_096)
    parser.add_argument("--spare", action="store_true")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    link = _RawLink(arguments.fd, ToEngine)
    if arguments.spare:
        link.send(Waiting())
    return asyncio.run(_serve(link, context_tokens=arguments.context))


class _RawLink(Link[ToEngine]):
    """A link that can also send what is no frame."""

    def __init__(self, fd: int, incoming: object) -> None:
        super().__init__(fd, incoming)
        self._fd = fd

    def send_garbage(self) -> None:
        os.write(self._fd, b"\x00\x00\x00\x02\xc1\xc1")


async def _serve(link: _RawLink, *, context_tokens: int) -> int:
    load = link.receive()
    if not isinstance(load, LoadModel):
        raise InternalError("the first frame was no LoadModel")
    if load.source.name == DEAD_NAME:
        return 3
    if load.source.name == REFUSED_NAME:
        link.send(LoadFailed(code="invalid_checkpoint", message="the folder is not usable"))
        return 0
    engine = await ScriptedLauncher(context_tokens=context_tokens).launch(load)
    link.send(engine.model)
    tasks: dict[str, asyncio.Task[None]] = {}
    while (message := await asyncio.to_thread(link.receive)) is not None:
        match message:
            case Cancel(request_id=request_id):
                if task := tasks.get(request_id):
                    task.cancel()
                    await asyncio.wait({task})  # the statistics below no longer count it
            case Drain():
                await asyncio.gather(*tasks.values(), return_exceptions=True)
                break
            case LoadModel():
                raise InternalError("a second LoadModel")
            case _:
                tasks[message.request_id] = asyncio.create_task(_answer(link, engine, message))
        link.send(engine.stats)
    return 0


async def _answer(link: _RawLink, engine: ScriptedEngine, question: Question) -> None:
    try:
        match question:
            case Generate():
                prompt = scripted_answers.rendered(question.prompt)
                await _misbehave(link, engine, question.request_id, prompt)
                async for event in engine.generate(question):
                    link.send(event)
                    await asyncio.sleep(TOKEN_S)
            case Transcribe():
                async for part in engine.transcribe(question):
                    link.send(part)
                    await asyncio.sleep(TOKEN_S)
            case LoadAdapter():
                link.send(await engine.load_adapter(question))
            case DropAdapter():
                link.send(await engine.drop_adapter(question))
            case _:
                await _answer_once(link, engine, question)
    except PurveyError as error:
        link.send(
            Refused(
                request_id=question.request_id,
                code=error.code,
                message=error.message,
                param=error.param,
            )
        )


async def _answer_once(link: _RawLink, engine: ScriptedEngine, question: OneQuestion) -> None:
    match question:
        case Score():
            link.send(await engine.score(question))
        case Classify():
            link.send(await engine.classify(question))
        case Embed():
            link.send(await engine.embed(question))
        case Rank():
            link.send(await engine.rank(question))
        case Tokenize():
            link.send(await engine.tokenize(question))
        case Explain():
            link.send(await engine.explain(question))


async def _misbehave(link: _RawLink, engine: ScriptedEngine, request_id: str, prompt: str) -> None:
    end = Finished(request_id=request_id, reason="stop", prompt_tokens=0, completion_tokens=0)
    match prompt:
        case "!die":
            _die()
        case "!garbage":
            link.send_garbage()
        case "!stranger":
            link.send(msgspec.structs.replace(end, request_id="?"))
        case "!replay":
            link.send(end)
            link.send(end)
        case "!load":
            link.send(engine.model)
        case "!hang":
            await asyncio.Event().wait()
        case "!stuck":
            while True:
                link.send(msgspec.structs.replace(engine.stats, running=1, steps=0))
                await asyncio.sleep(TOKEN_S)
        case "!slow":
            await _compute_layers(link, engine)


async def _compute_layers(link: _RawLink, engine: ScriptedEngine) -> None:
    until_s = time.monotonic() + SLOW_S
    while (now_s := time.monotonic()) < until_s:
        layers = round(now_s * 1e6)
        link.send(msgspec.structs.replace(engine.stats, running=1, steps=0, layers=layers))
        await asyncio.sleep(TOKEN_S)


def _die() -> NoReturn:
    os._exit(139)


if __name__ == "__main__":
    sys.exit(main())
