"""Greedy output as one string, in the background: what explanations ask for first."""

import itertools
from concurrent.futures import Future

import msgspec

from purvey.contracts.engine import Delta, Finished, Generate, Prompt, Refused, Started
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.output.voice import Voice
from purvey.engine.request import GREEDY
from purvey.errors import from_code

_numbers = itertools.count()


class GreedyWriter:
    """Generations that are collected instead of streamed, behind everything interactive.

    Args:
        core: The loop.
        door: Turns prompts into work.
    """

    def __init__(self, core: Core, door: Door) -> None:
        self._core, self._door = core, door

    def write(self, prompt: Prompt, max_tokens: int, voice: Voice | None = None) -> str:
        """Return the model's greedy output; waits for the loop, so never call it from there.

        Args:
            prompt: What is continued.
            max_tokens: Tokens at most.
            voice: Whose output; the caller holds its adapter.

        Raises:
            PurveyError: The prompt is refused, or the engine failed on it.
            CancelledError: The loop was stopped.
        """
        return self.submit(prompt, max_tokens, voice).result()

    def submit(self, prompt: Prompt, max_tokens: int, voice: Voice | None = None) -> Future[str]:
        """As `write`, without waiting.

        Raises:
            PurveyError: The prompt is refused.
        """
        result: Future[str] = Future()
        texts: list[str] = []

        def collect(answer: Started | Delta | Finished | Refused) -> None:
            match answer:
                case Started():
                    pass
                case Delta(text=text):
                    texts.append(text)
                case Finished(reason="cancelled"):
                    result.cancel()
                case Finished():
                    result.set_result("".join(texts))
                case Refused(code=code, message=message, param=param):
                    result.set_exception(from_code(code, message, param=param))

        request = Generate(
            request_id=f"text-{next(_numbers)}",
            prompt=prompt,
            sampling=msgspec.structs.replace(GREEDY, max_tokens=max_tokens),
        )
        work = self._door.generation(request, collect, voice=voice, is_background=True)
        self._core.submit(work)
        return result
