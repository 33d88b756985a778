"""The door of a language model: prompts become tokens, and what cannot be served is refused."""

from collections.abc import Sequence as Listed

from purvey.contracts.engine import ChatPrompt, Generate, Prompt, TextPrompt, TokenPrompt
from purvey.contracts.sampling import Sampling
from purvey.engine.generation import Generation, Reply
from purvey.engine.output.grammar import Grammars
from purvey.engine.output.tool_use import check_template, grammar_of, marks_of, reader_of
from purvey.engine.output.voice import Voice
from purvey.engine.request import Picture, Sequence
from purvey.engine.seeing.sight import Sight
from purvey.errors import ContextLengthError, InvalidValueError, UnsupportedValueError
from purvey.models.chat import ChatTemplate
from purvey.models.language import eos_ids_of
from purvey.models.seeing.network import HELD_ID
from purvey.models.tokenizer import Tokenizer


class Door:
    """Turns requests into work, or refuses them before any work is done. Safe in any thread.

    Where a voice is taken, None is the base's own.

    Args:
        tokenizer: The model's tokenizer.
        template: Its chat template; None when it takes no conversations.
        stop_ids: Tokens that end an output.
        vocabulary_size: Token ids it has a row for.
        context_tokens: Longest prompt plus output.
        cache_tokens: Positions that the whole cache holds; an output's last token needs none.
        sight: Sees images; None where the model reads text alone.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        stop_ids: frozenset[int],
        vocabulary_size: int,
        context_tokens: int,
        cache_tokens: int,
        sight: Sight | None = None,
    ) -> None:
        self._tokenizer, self._sight = tokenizer, sight
        self._vocabulary_size, self._context_tokens = vocabulary_size, context_tokens
        self._cache_tokens = cache_tokens
        self._voice = Voice(
            template=template, stop_ids=stop_ids, grammars=self._grammars_until(stop_ids)
        )

    def voice_of(self, template: ChatTemplate | None) -> Voice:
        """Return how an adapter converses: by a template of its own, else as the base does."""
        if template is None:
            return self._voice
        stop_ids = frozenset(eos_ids_of(self._tokenizer, template))
        grammars = self._grammars_until(stop_ids)
        return Voice(template=template, stop_ids=stop_ids, grammars=grammars)

    def encode(self, prompt: Prompt, voice: Voice | None = None) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            InvalidValueError: It is empty, the template refuses it, or an id is out of range.
            UnsupportedValueError: A conversation for a model without chat template, or one
                whose template would leave out what it holds; or one with an image, which is more
                than token ids.
        """
        if isinstance(prompt, ChatPrompt) and prompt.images:
            raise UnsupportedValueError(
                "an image is more than the text that is read here.", param="messages"
            )
        return self._text_ids(prompt, voice)

    def counted(self, prompt: Prompt, voice: Voice | None = None) -> tuple[list[int], int]:
        """Return the token ids of a prompt's text, and how many positions its images take.

        Raises:
            UserError: As `encode`, where images are more than the model sees.
        """
        ids, sight = self._text_ids(prompt, voice), self._seeing(prompt)
        return ids, 0 if sight is None else sight.num_held(prompt)

    def _text_ids(self, prompt: Prompt, voice: Voice | None) -> list[int]:
        match prompt:
            case ChatPrompt(messages=messages):
                template = (voice or self._voice).template
                if template is None:
                    raise UnsupportedValueError(
                        "this model has no chat template.",
                        param="messages",
                        hint="Send plain text to /v1/completions instead.",
                    )
                check_template(prompt, template)
                ids = template.encode(
                    messages,
                    self._tokenizer,
                    tools=prompt.tools,
                    enable_thinking=prompt.enable_thinking,
                )
            case TextPrompt(text=text):
                ids = self._tokenizer.encode_prompt(text)
            case TokenPrompt(tokens=tokens):
                ids = self._checked(tokens)
        if not ids:
            raise InvalidValueError("the prompt is empty.", param=_param(prompt))
        return ids

    def encode_output(self, output: TextPrompt | TokenPrompt) -> list[int]:
        """Return the token ids of a given output, which continues a prompt."""
        if isinstance(output, TokenPrompt):
            return self._checked(output.tokens)
        return self._tokenizer.encode(output.text, is_continuation=True)

    def encode_pair(
        self, pair: tuple[Prompt, TextPrompt | TokenPrompt], voice: Voice | None = None
    ) -> tuple[list[int], list[int]]:
        """Return prompt and output to be scored.

        Raises:
            ContextLengthError: Together they exceed the context or the cache.
        """
        prompt, output = self.encode(pair[0], voice), self.encode_output(pair[1])
        self._check_context(len(prompt), len(output), _param(pair[0]))
        return prompt, output

    def encode_seen(
        self, pairs: Listed[tuple[Prompt, TextPrompt | TokenPrompt]], voice: Voice | None = None
    ) -> tuple[list[tuple[list[int], list[int]]], list[Picture | None]]:
        """Do as `encode_pair` for each, of prompts that may hold images, and return those beside.

        Equal prompts that follow one another are read once.
        """
        encoded: list[tuple[list[int], list[int]]] = []
        pictures: list[Picture | None] = []
        last: Prompt | None = None
        ids: list[int] = []
        picture: Picture | None = None
        for prompt, output in pairs:
            if prompt != last:
                ids, picture = self._read(prompt, voice)
                last = prompt
            written = self.encode_output(output)
            self._check_context(len(ids), len(written), _param(prompt))
            encoded.append((ids, written))
            pictures.append(picture)
        return encoded, pictures

    def generation(
        self,
        request: Generate,
        reply: Reply,
        *,
        voice: Voice | None = None,
        is_background: bool = False,
    ) -> Generation:
        """Build the work of a request; without `max_tokens` it may take all room that is left.

        Args:
            request: What is asked.
            reply: Where answers go.
            voice: Whose answer it is; the caller holds its adapter.
            is_background: Whether it yields to interactive requests.

        Raises:
            ContextLengthError: Prompt and output exceed the context or the cache.
            InvalidSchemaError: The grammar cannot be enforced.
            UserError: What `encode` raises.
        """
        prompt, sampling, voice = request.prompt, request.sampling, voice or self._voice
        self._check_bias(sampling)
        ids, picture = self._read(prompt, voice)
        text_ids = ids if picture is None else ids[picture.num_tokens :]
        left = min(self._context_tokens, self._cache_tokens + 1) - len(ids)
        num_new = max(left, 1) if sampling.max_tokens is None else sampling.max_tokens
        self._check_context(len(ids), num_new, _param(prompt))
        sequence = Sequence(
            request_id=request.request_id,
            tokens=ids,
            num_prompt=len(ids),
            max_new_tokens=num_new,
            sampling=sampling,
            prompt_logprobs_from=_prompt_logprobs_from(sampling),
            is_background=is_background,
            project=request.salt,
            salt=request.salt,
            adapter=voice.adapter,
            picture=picture,
            priority=request.priority,
            deadline_s=request.deadline_s,
        )
        grammar = grammar_of(prompt, sampling, voice.template)
        reader = None
        if not is_background:  # which is scored afterwards, as it was written
            reader = reader_of(prompt, text_ids, sampling, voice.template, self._tokenizer)
        return Generation(
            sequence,
            tokenizer=self._tokenizer,
            stop_ids=voice.stop_ids,
            reply=reply,
            echo=self._text(prompt, text_ids) if sampling.echo else None,
            guide=voice.grammars.guide(grammar) if grammar else None,
            reader=reader,
            marks=marks_of(voice.template) if reader else (),
        )

    def _read(self, prompt: Prompt, voice: Voice | None) -> tuple[list[int], Picture | None]:
        """Return what a sequence begins with: ids, any where its picture stands, and that."""
        ids, sight = self._text_ids(prompt, voice), self._seeing(prompt)
        picture = None if sight is None else sight.see(prompt)
        return ids if picture is None else [HELD_ID] * picture.num_tokens + ids, picture

    def _seeing(self, prompt: Prompt) -> Sight | None:
        """Return what sees, where there is something to be seen."""
        if not isinstance(prompt, ChatPrompt) or not prompt.images:
            return None
        if self._sight is None:
            raise UnsupportedValueError("this model reads text alone.", param="messages")
        return self._sight

    def _grammars_until(self, stop_ids: frozenset[int]) -> Grammars:
        return Grammars(self._tokenizer, stop_ids=stop_ids, vocabulary_size=self._vocabulary_size)

    def _text(self, prompt: Prompt, ids: list[int]) -> str:
        return prompt.text if isinstance(prompt, TextPrompt) else self._tokenizer.decode(ids)

    def _checked(self, tokens: tuple[int, ...]) -> list[int]:
        if any(not 0 <= token < self._vocabulary_size for token in tokens):
            raise InvalidValueError(
                f"a token id is not below {self._vocabulary_size}.", param="prompt"
            )
        return list(tokens)

    def _check_bias(self, sampling: Sampling) -> None:
        for token_id, _ in sampling.logit_bias:
            if not 0 <= token_id < self._vocabulary_size:
                raise InvalidValueError(
                    f"token id {token_id} is not below {self._vocabulary_size}.",
                    param=f"logit_bias.{token_id}",
                )

    def _check_context(self, num_prompt: int, num_new: int, param: str) -> None:
        if num_prompt + num_new > self._context_tokens:
            raise ContextLengthError(
                f"the context is {self._context_tokens} tokens; the prompt has {num_prompt} and "
                f"the output may take {num_new}.",
                param=param,
                hint="Shorten the prompt, or ask for less output.",
            )
        num_positions = num_prompt + max(num_new - 1, 0)
        if num_positions > self._cache_tokens:
            raise ContextLengthError(
                f"prompt and output may take {num_positions} tokens; the cache holds "
                f"{self._cache_tokens}.",
                param=param,
                hint="Shorten the prompt, ask for less output, or give the engine more "
                "kv_cache_bytes.",
            )


def _prompt_logprobs_from(sampling: Sampling) -> int | None:
    return 0 if sampling.echo and sampling.num_logprobs is not None else None


def _param(prompt: Prompt) -> str:
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"
