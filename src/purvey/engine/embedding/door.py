"""The door of a model that embeds or ranks: texts become tokens, or are refused."""

from collections.abc import Iterable

from purvey.contracts.embedding import Embed, NamedText, Picture, Rank
from purvey.contracts.limits import LIMITS
from purvey.errors import ContextLengthError, InvalidValueError, UnsupportedValueError
from purvey.models.encoder.framing import Framed, Framer, bare

TRUNCATE = "truncate_prompt_tokens"


class EmbeddingDoor:
    """Frames the texts of requests, or refuses them before any work is done. Safe in any thread.

    Args:
        framer: From text to tokens.
        vocabulary_size: Token ids that the model has a row for.
        max_tokens: Longest text, framing included.
        vector_size: Numbers of an uncut vector.
        sizes: Numbers that a vector may be cut to: None forbids cutting, empty allows every one.
    """

    def __init__(
        self,
        framer: Framer,
        *,
        vocabulary_size: int,
        max_tokens: int,
        vector_size: int,
        sizes: tuple[int, ...] | None,
    ) -> None:
        self._framer, self._vocabulary_size = framer, vocabulary_size
        self._max_tokens, self._vector_size, self._sizes = max_tokens, vector_size, sizes

    def texts(self, question: Embed) -> list[Framed]:
        """Frame the texts to embed.

        Raises:
            ContextLengthError: One is too long.
            InvalidValueError: One is empty or holds a token that is none, or they are too much
                together; or `truncate_tokens` or `dimensions` are out of range.
            UnsupportedValueError: An image; or this model's vectors are not made to be cut.
        """
        self._check_dimensions(question.dimensions)
        named = zip(question.inputs, question.params, strict=True)
        framed = ((self._framed(given, param), param) for given, param in named)
        return self._fitted(framed, question.truncate_tokens)

    def pairs(self, question: Rank) -> list[Framed]:
        """Frame pairs, each as one input; raises as `texts`."""
        known: dict[str, list[int]] = {}

        def ids(text: str) -> list[int]:
            if text not in known:
                known[text] = self._framer.ids(text)
            return known[text]

        def framed(first: NamedText, second: NamedText) -> tuple[Framed, str]:
            pair = self._framer.around(ids(first.text), ids(second.text))
            is_first_at_fault = pair.start >= self._max_tokens
            return pair, first.param if is_first_at_fault else second.param

        pairs = (framed(first, second) for first, second in question.pairs())
        return self._fitted(pairs, question.truncate_tokens)

    def _framed(self, given: str | tuple[int, ...] | Picture, param: str) -> Framed:
        if isinstance(given, str):
            return self._framer.text(given)
        if isinstance(given, Picture):
            raise UnsupportedValueError("this model embeds texts alone.", param=param)
        if any(not 0 <= token < self._vocabulary_size for token in given):
            raise InvalidValueError(
                f"a token id is not below {self._vocabulary_size}.", param=param
            )
        return bare(given)

    def _fitted(
        self, framed: Iterable[tuple[Framed, str]], truncate_tokens: int | None
    ) -> list[Framed]:
        """Cut texts where asked, and refuse what is too long or too much."""
        if truncate_tokens is not None and truncate_tokens > self._max_tokens:
            raise InvalidValueError(
                f"this model takes {self._max_tokens} tokens of a text.", param=TRUNCATE
            )
        found: list[Framed] = []
        total = 0
        for one, param in framed:
            found.append(self._cut(one, param, truncate_tokens))
            total += len(found[-1])
            if total > LIMITS.embedding_tokens:
                raise InvalidValueError(
                    f"the texts have {total} tokens or more; one request takes "
                    f"{LIMITS.embedding_tokens}.",
                    param=param.partition(".")[0],
                    hint="Split the request.",
                )
        return found

    def _cut(self, framed: Framed, param: str, truncate_tokens: int | None) -> Framed:
        if not len(framed):
            raise InvalidValueError("the text has no tokens.", param=param)
        found = framed if truncate_tokens is None else framed.cut(truncate_tokens)
        if found is None:
            raise InvalidValueError(
                f"{truncate_tokens} tokens leave no room for the text.", param=TRUNCATE
            )
        if len(found) > self._max_tokens:
            raise ContextLengthError(
                f"the text has {len(found)} tokens; this model takes {self._max_tokens}.",
                param=param,
                hint=f"Shorten it, or set {TRUNCATE} to cut it.",
            )
        return found

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None or dimensions == self._vector_size:
            return
        if dimensions > self._vector_size:
            raise InvalidValueError(
                f"this model's vectors have {self._vector_size} numbers.", param="dimensions"
            )
        if self._sizes is None:
            raise UnsupportedValueError(
                f"this model's vectors of {self._vector_size} numbers are not made to be cut.",
                param="dimensions",
                hint="Leave it out. Where the model was trained for it, put "
                '"is_matryoshka": true into its config.json.',
            )
        if self._sizes and dimensions not in self._sizes:
            allowed = ", ".join(map(str, sorted(self._sizes)))
            raise UnsupportedValueError(
                f"this model's vectors may be cut to {allowed} numbers.", param="dimensions"
            )
