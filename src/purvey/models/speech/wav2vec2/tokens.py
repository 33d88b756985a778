"""What the outputs of a CTC head stand for: `vocab.json` and `tokenizer_config.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from purvey.errors import InvalidCheckpointError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object, read_optional_object, write_object

VOCABULARY_NAME = "vocab.json"
_CONFIG_NAME, _ADDED_NAME = "tokenizer_config.json", "added_tokens.json"
_SPECIAL = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
}
"""What the library calls them where the folder does not say."""
_BLANK = "pad_token"
_DELIMITER = "word_delimiter_token"
_BRACKETS = ("<>", "[]")


@dataclass(frozen=True, kw_only=True)
class CtcTokens:
    """The tokens of a head, as its folder says them.

    Args:
        numbers: Output by token.
        config: The content of `tokenizer_config.json`.
        blank: The output that stands for no character.
        written: Outputs that are written, in their order, with the character that each writes.
        num_outputs: Of the head; some may never be written.
    """

    numbers: Mapping[str, int]
    config: Mapping[str, Any] = field(repr=False)  # the library's own
    blank: int
    written: Mapping[int, str]
    num_outputs: int

    @classmethod
    def of(cls, characters: Sequence[str]) -> "CtcTokens":
        """Give the blank the first output, every character one, and the last to all others."""
        delimiter = " " if "|" in characters else "|"
        tokens = ["<pad>", *(delimiter if c == " " else c for c in characters), "<unk>"]
        config = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "bos_token": None,
            "eos_token": None,
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            _DELIMITER: delimiter,
            "do_lower_case": False,
        }
        return cls(
            numbers={token: number for number, token in enumerate(tokens)},
            config=config,
            blank=0,
            written=dict(enumerate(characters, start=1)),
            num_outputs=len(tokens),
        )

    @property
    def characters(self) -> tuple[str, ...]:
        """What is written, in the order of the outputs behind the blank."""
        return tuple(self.written.values())

    @property
    def order(self) -> tuple[int, ...]:
        """All outputs: the blank, those that are written, those that never are."""
        first = (self.blank, *self.written)
        return (*first, *(n for n in range(self.num_outputs) if n not in first))

    def save(self, folder: Path) -> None:
        """Write both files, as the library reads them."""
        write_object(folder / VOCABULARY_NAME, dict(self.numbers))
        write_object(folder / _CONFIG_NAME, dict(self.config))


def read_tokens(folder: Path, *, num_outputs: int) -> CtcTokens:
    """Read what a folder says about the outputs of its head.

    A token of one character writes it, the word delimiter a space. What is special, or stands in
    brackets, is never written. A tokenizer that lowers the case writes lower case.

    Args:
        folder: A model's.
        num_outputs: Of its head.

    Raises:
        InvalidCheckpointError: A file is missing, or says what is not written here.
    """
    found = read_object(folder / VOCABULARY_NAME)
    config = Fields(read_optional_object(folder / _CONFIG_NAME), file=_CONFIG_NAME)
    added = read_optional_object(folder / _ADDED_NAME)
    numbers = _numbers(found, num_outputs)
    special = {name: _named(config, name, default) for name, default in _SPECIAL.items()}
    blank = numbers.get(special[_BLANK] or "")
    if blank is None:
        raise _refusal(f"has no token {special[_BLANK]!r}, which is the blank")
    never = {*special.values(), *added}
    delimiter = _named(config, _DELIMITER, "|")
    is_lowered = config.flag("do_lower_case", default=False)
    written: dict[int, str] = {}
    for token, number in sorted(numbers.items(), key=lambda item: item[1]):
        if token == delimiter:
            written[number] = " "
        elif token not in never and not _is_bracketed(token):
            written[number] = _character(token, is_lowered=is_lowered)
    if not written or len(set(written.values())) < len(written):
        raise _refusal("has no characters, or two tokens for the same one")
    return CtcTokens(
        numbers=numbers,
        config=config.values,
        blank=blank,
        written=written,
        num_outputs=num_outputs,
    )


def _numbers(found: Mapping[str, Any], num_outputs: int) -> dict[str, int]:
    if any(isinstance(number, dict) for number in found.values()):
        raise _refusal("holds the tokens of several languages, which is not implemented")
    numbers = {token: n for token, n in found.items() if type(n) is int and 0 <= n < num_outputs}
    if len(numbers) < len(found) or len(set(numbers.values())) < len(numbers):
        raise _refusal(f"does not number {num_outputs} outputs, each once")
    return numbers


def _named(config: Fields, name: str, default: str) -> str | None:
    """Return a special token; None where the folder says that there is none."""
    value = config.values.get(name, default)
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise config.refusal(name, "must be a token")
    return value


def _is_bracketed(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in _BRACKETS


def _character(token: str, *, is_lowered: bool) -> str:
    character = token.lower() if is_lowered else token
    if len(character) != 1:
        raise _refusal(f"has the token {token[:50]!r}; only tokens of one character are written")
    return character


def _refusal(complaint: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(f"{VOCABULARY_NAME} {complaint}.", param="model")
