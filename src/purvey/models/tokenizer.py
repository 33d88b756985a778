"""Text to token ids and back: `tokenizer.json` through the `tokenizers` library.

Two kinds are understood: byte-level BPE (GPT-2, Llama 3, Qwen2, ours), and BPE with byte
fallback (Llama 2: `▁` for a space, `<0xE4>` for a byte, a space put before the text).
Special tokens are recognised only where the caller says so; in a user's text they are text.
"""

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from purvey.errors import InvalidCheckpointError
from purvey.models.bpe.parts import (
    leading_space,
    parse,
    read_special_tokens,
    with_control_tokens,
    without_prefix,
)
from purvey.models.bpe.spelling import TokenBytes, token_bytes_of
from purvey.models.bpe.splitting import Splitter
from purvey.models.bpe.training import BEGIN_END, train_byte_level
from purvey.models.folder.json_file import read_object, read_optional_object, write_object

TOKENIZER_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
MAX_TOKENIZER_BYTES = 128 * 2**20


class Tokenizer:
    """A tokenizer with its begin and end tokens. Immutable; safe to share between threads.

    Args:
        definition: The content of `tokenizer.json`.
        config: The content of `tokenizer_config.json`; may be empty.
        eos_ids: End tokens that win over those of `config` (from the model's `config.json`).
    """

    def __init__(
        self,
        definition: dict[str, Any],
        config: dict[str, Any] | None = None,
        *,
        eos_ids: tuple[int, ...] = (),
    ) -> None:
        self._definition, self._config = definition, dict(config or {})
        self._whole = parse(definition)
        self._inner = self._parsed(without_prefix(definition, is_inner=True))
        self._bare = self._parsed(without_prefix(definition, is_inner=False))
        self._bytes: TokenBytes = token_bytes_of(definition, self._whole)
        self._special = read_special_tokens(definition)
        self._splitter = Splitter(self._special.values())
        self._drops_leading_space = leading_space(definition)
        self.bos_id = self._named_id("bos_token")
        own_eos = self._named_id("eos_token")
        self.eos_ids = eos_ids or (() if own_eos is None else (own_eos,))
        self.prefix_ids: tuple[int, ...] = self._find_prefix()
        self._by_written: dict[str, Tokenizer] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Load the tokenizer of a model folder.

        End tokens come from `generation_config.json`, else `config.json`, else the tokenizer's
        own configuration: the model's word counts before the tokenizer's.

        Raises:
            InvalidCheckpointError: `tokenizer.json` is missing or of a kind not understood.
        """
        definition = read_object(folder / TOKENIZER_NAME, max_bytes=MAX_TOKENIZER_BYTES)
        config = read_optional_object(folder / CONFIG_NAME)
        eos_ids: tuple[int, ...] = ()
        for name in ("generation_config.json", "config.json"):
            eos_ids = eos_ids or _ids(read_optional_object(folder / name).get("eos_token_id"))
        return cls(definition, config, eos_ids=eos_ids)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocabulary_size: int,
        special_tokens: Sequence[str] = BEGIN_END,
    ) -> "Tokenizer":
        """Train byte-level BPE; every text in every script can be encoded, byte by byte at worst.

        Args:
            texts: Training texts, consumed once.
            vocabulary_size: Tokens at most, special ones and the 256 bytes among them.
            special_tokens: Their ids are 0, 1, ... in this order. The first ends a document, the
                last a turn; both end an output.
        """
        definition = train_byte_level(
            texts, vocabulary_size=vocabulary_size, special_tokens=special_tokens
        )
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": special_tokens[0],
            "eos_token": special_tokens[0],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
        }
        eos_ids = tuple(dict.fromkeys((0, len(special_tokens) - 1)))
        return cls(definition, config, eos_ids=eos_ids)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._whole.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token(self) -> str | None:
        """Text of the begin token, for chat templates."""
        return self._named_text("bos_token")

    @property
    def eos_token(self) -> str | None:
        """Text of the (first) end token, for chat templates."""
        named = self._named_text("eos_token")
        if self.eos_ids and self.token_id(named or "") not in self.eos_ids:
            return self._whole.id_to_token(self.eos_ids[0])
        return named

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens by text."""
        return {token.content: token.id for token in self._special.values()}

    def with_control_tokens(self, written: str) -> "Tokenizer":
        """Return the tokenizer for which added tokens that a chat template writes are special.

        Args:
            written: The template's source, and whatever else it may print literally.
        """
        found = self._by_written.get(written)
        if found is None:  # two threads may build it twice; either result will do
            marked = with_control_tokens(self._definition, written)
            is_same = marked is self._definition
            found = self if is_same else Tokenizer(marked, self._config, eos_ids=self.eos_ids)
            self._by_written[written] = found
        return found

    def token_id(self, text: str) -> int | None:
        """Return the id of one token's exact text, if there is one."""
        return self._whole.token_to_id(text)

    def encode(
        self, text: str, *, allow_special: bool = False, is_continuation: bool = False
    ) -> list[int]:
        """Return token ids without a begin token.

        Args:
            text: Any text.
            allow_special: Recognise special tokens written in the text. Only for text that the
                operator or a chat template wrote.
            is_continuation: The text follows other text, so no leading space is put before it:
                `decode(encode(a) + encode(b, is_continuation=True)) == a + b`.
        """
        if allow_special:
            return self.encode_pieces(self.split_special(text), is_continuation=is_continuation)
        return _plain(self._bare if is_continuation else self._whole, text)

    def encode_pieces(
        self,
        pieces: Sequence[str | int],
        *,
        is_continuation: bool = False,
        after: Sequence[int] = (),
    ) -> list[int]:
        """Encode what `split_special` returned; text behind a special token is its own segment.

        Args:
            pieces: Text and ids.
            is_continuation: As in `encode`.
            after: Ids that stand before the pieces; their last one decides instead.
        """
        ids: list[int] = []
        encoder = self._bare if is_continuation else self._whole
        if after:
            encoder = self._inner if self.is_special(after[-1]) else self._bare
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else _plain(encoder, piece)
            encoder = self._inner
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of plain text to be continued, behind the begin token if there is one."""
        return [*self.prefix_ids, *self.encode(text)]

    def split_special(self, text: str) -> list[str | int]:
        """Split text at special tokens into pieces of plain text and ids."""
        return self._splitter.split(text)

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """Return the text of ids; bytes that form no character become U+FFFD."""
        stream = StreamDecoder(self, keep_special=keep_special)
        return "".join(map(stream.push, ids)) + stream.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes a token stands for; empty for an id outside the vocabulary."""
        return self._bytes.get(token_id)

    def is_special(self, token_id: int) -> bool:
        """Tell whether a token is special, that is, not part of the text."""
        return token_id in self._special_ids

    @property
    def drops_leading_space(self) -> bool:
        """Whether the first token's leading space is not part of the text."""
        return self._drops_leading_space

    def stream(self, *, after: Sequence[int] = (), shown: Iterable[str] = ()) -> "StreamDecoder":
        """Return a decoder of ids that arrive one by one.

        Args:
            after: The prompt's ids, so that a space between prompt and output is kept and a
                character that the prompt left unfinished is completed.
            shown: Special tokens that are shown as their text.
        """
        stream = StreamDecoder(self, shown=shown)
        for token_id in [*after[:8], *after[-8:]]:
            stream.push(token_id)
        return stream

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, loadable by `transformers`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_object(folder / TOKENIZER_NAME, self._definition)
        kept = {k: v for k, v in self._config.items() if k not in _NOT_SAVED}
        kept.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        write_object(folder / CONFIG_NAME, kept)

    @property
    def config(self) -> dict[str, Any]:
        """A copy of `tokenizer_config.json`."""
        return dict(self._config)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(token.id for token in self._special.values())

    def _parsed(self, definition: dict[str, Any]) -> tokenizers.Tokenizer:
        """Build a variant; the usual one, where nothing differs, is the whole tokenizer itself."""
        return self._whole if definition is self._definition else parse(definition)

    def _named_text(self, name: str) -> str | None:
        value = self._config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else None

    def _named_id(self, name: str) -> int | None:
        text = self._named_text(name)
        return None if text is None else self._whole.token_to_id(text)

    def _find_prefix(self) -> tuple[int, ...]:
        wanted = self._config.get("add_bos_token")
        if wanted is False:
            return ()
        if wanted is True and self.bos_id is not None:
            return (self.bos_id,)
        plain = self._whole.encode("a", add_special_tokens=False).ids
        framed = self._whole.encode("a", add_special_tokens=True).ids
        for start in range(len(framed) - len(plain) + 1):
            if framed[start : start + len(plain)] == plain:
                return tuple(framed[:start])
        return ()


class StreamDecoder:
    """Incremental decoder that returns whole characters only.

    Args:
        tokenizer: Whose ids arrive.
        keep_special: Show special tokens as their text instead of leaving them out.
        shown: Special tokens that are shown in any case.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, keep_special: bool = False, shown: Iterable[str] = ()
    ) -> None:
        self._tokenizer, self._keep_special = tokenizer, keep_special
        self._shown = {tokenizer.special_tokens.get(text) for text in shown}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drops_space = tokenizer.drops_leading_space

    def push(self, token_id: int) -> str:
        """Take one id and return the characters it completes, possibly none."""
        data = self._tokenizer.token_bytes(token_id)
        if self._tokenizer.is_special(token_id):
            is_shown = self._keep_special or token_id in self._shown
            return self.finish() + (data.decode() if is_shown else "")
        if self._drops_space and data:
            data, self._drops_space = data.removeprefix(b" "), False
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return what is left: U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)


_NOT_SAVED = ("auto_map", "tokenizer_file", "name_or_path", "chat_template", "_commit_hash")


def _plain(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _ids(value: Any) -> tuple[int, ...]:  # noqa: ANN401 (JSON, checked here)
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int and i >= 0 for i in listed):
        raise InvalidCheckpointError("eos_token_id must be token ids.", param="eos_token_id")
    return tuple(listed)
