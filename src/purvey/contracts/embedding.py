"""Vectors of texts and images, scores of pairs: what an engine is asked, and what it answers."""

import msgspec


class NamedText(msgspec.Struct, frozen=True, kw_only=True):
    """A text, and what a refusal calls it."""

    text: str
    param: str


class Picture(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """An encoded image, for a model that embeds images beside texts."""

    data: bytes


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Vectors of texts and images. Answered by `Embedded`.

    Args:
        inputs: Text is framed as the model wants it; token ids are taken as they are.
        params: What a refusal calls each of them.
        dimensions: Numbers of each vector, where the model allows it to be cut.
        truncate_tokens: Tokens that each text is cut to, framing included; None refuses what
            is too long.
    """

    request_id: str
    inputs: tuple[str | tuple[int, ...] | Picture, ...]
    params: tuple[str, ...]
    dimensions: int | None = None
    truncate_tokens: int | None = None


class Rank(msgspec.Struct, frozen=True, kw_only=True, tag="rank"):
    """How well the texts of each pair fit. Answered by `Ranked`.

    Args:
        first: Of each pair; a single one stands in all of them.
        second: Of each pair.
        truncate_tokens: Tokens that each pair is cut to at the end of its second text, framing
            included; None refuses what is too long.
    """

    request_id: str
    first: tuple[NamedText, ...]
    second: tuple[NamedText, ...]
    truncate_tokens: int | None = None

    def pairs(self) -> list[tuple[NamedText, NamedText]]:
        """List the pairs; a first text that stands in all is the same object in each."""
        first = self.first * len(self.second) if len(self.first) == 1 else self.first
        return list(zip(first, self.second, strict=True))


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    """A vector of length 1 per input: float32, little-endian."""

    request_id: str
    vectors: tuple[bytes, ...]
    num_tokens: int
    compute_s: float = 0.0


class Ranked(msgspec.Struct, frozen=True, kw_only=True, tag="ranked"):
    """A score per pair: a cross-encoder's probability, else the cosine of two vectors."""

    request_id: str
    scores: tuple[float, ...]
    num_tokens: int
    compute_s: float = 0.0
