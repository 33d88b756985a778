"""A vision-language model as it is served, without processes: a core, a door and a sight."""

import copy

from purvey.contracts.engine import (
    ChatMessage,
    ChatPrompt,
    Delta,
    Finished,
    Generate,
    ImageInput,
    Prompt,
    Refused,
    Started,
    TokenLogprob,
)
from purvey.contracts.sampling import Sampling
from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.runner import Runner
from purvey.engine.seeing.sight import Sight
from purvey.models.seeing.model import VisionLanguageModel


def about(image: bytes | list[bytes] | None, question: str) -> ChatPrompt:
    """Return a question as a conversation, with an image or some if any are given."""
    given = [image] if isinstance(image, bytes) else image or []
    return ChatPrompt(
        messages=(ChatMessage(role="user", content=question),),
        images=tuple(ImageInput(data=data) for data in given),
    )


class SeenEngine:
    """An engine that is stepped by hand.

    Args:
        model: Stays as it is.
        num_blocks: Of the cache.
        max_batch_tokens: Rows of a step at most.
        has_prefix_cache: Whether blocks are found again.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        num_blocks: int = 64,
        max_batch_tokens: int = 128,
        has_prefix_cache: bool = True,
    ) -> None:
        language = model.language
        decoder = FrozenDecoder(copy.deepcopy(language.decoder))
        cache = KVCache(language.decoder.config, num_blocks=num_blocks)
        self.core = Core(
            Runner(decoder, cache),
            max_batch_tokens=max_batch_tokens,
            has_prefix_cache=has_prefix_cache,
        )
        self.door = Door(
            language.tokenizer,
            language.template,
            stop_ids=language.stop_ids,
            vocabulary_size=language.vocabulary_size,
            context_tokens=language.context_tokens,
            cache_tokens=self.core.cache_tokens,
            sight=Sight(model.eyes, model.images),
        )
        self.texts: dict[str, str] = {}
        self.tokens: dict[str, list[TokenLogprob]] = {}
        self.ends: dict[str, Finished] = {}

    def submit(self, name: str, prompt: Prompt, *, max_tokens: int, salt: str = "") -> None:
        """Ask for a greedy answer, with log-probabilities of its tokens."""
        self.texts[name], self.tokens[name] = "", []
        wanted = Sampling(temperature=0.0, num_logprobs=1, max_tokens=max_tokens)
        request = Generate(request_id=name, prompt=prompt, sampling=wanted, salt=salt)
        self.core.submit(self.door.generation(request, self._collect))

    def run_out(self) -> None:
        """Step until all is answered."""
        while self.core.step():
            self.core.check()

    def answer(self, image: bytes | list[bytes] | None, question: str, *, max_tokens: int) -> str:
        """Return the greedy answer to a question."""
        name = f"request-{len(self.texts)}"
        self.submit(name, about(image, question), max_tokens=max_tokens)
        self.run_out()
        return self.texts[name]

    def _collect(self, reply: Started | Delta | Finished | Refused) -> None:
        assert not isinstance(reply, Refused), reply
        if isinstance(reply, Delta):
            self.texts[reply.request_id] += reply.text
            self.tokens[reply.request_id] += reply.tokens
        elif isinstance(reply, Finished):
            self.ends[reply.request_id] = reply
