"""The tokens that Whisper is steered by, as `generation_config.json` says them.

(Radford et al. 2022, section 2.3: start, language, task, then text between moments.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from purvey.contracts.speech.transcription import SpeechTask
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.json_file import read_object
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import CONFIG_NAME

GENERATION_NAME = "generation_config.json"
_PREVIOUS = "<|startofprev|>"
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")


@dataclass(frozen=True, kw_only=True)
class WhisperTokens:
    """Ids of what is no text.

    Args:
        start: What every output begins with.
        end: What it ends with.
        first_moment: The beginning of a window; each of the ids above it is a step later.
        previous: What a prompt stands behind; None where there is none.
        no_speech: How probable it is at the beginning tells that nobody speaks.
        languages: By code; empty for a model of one language.
        tasks: By name; empty for a model that only writes down.
        suppressed: Never written.
        latest_first: How many steps after the beginning the first moment may lie.
        alignment: Layers and heads whose attention follows the recording; may be empty.
    """

    start: int
    end: int
    first_moment: int
    previous: int | None
    no_speech: int | None
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    suppressed: tuple[int, ...]
    latest_first: int | None
    alignment: tuple[tuple[int, int], ...] = ()

    def prefix(self, language: str | None, task: SpeechTask) -> list[int]:
        """Return what an output begins with.

        Args:
            language: A code that is known; None for a model of one language.
            task: One of `tasks`, where there are any.
        """
        ids = [self.start] if language is None else [self.start, self.languages[language]]
        return [*ids, self.tasks[task]] if task in self.tasks else ids


def read_whisper_tokens(
    folder: Path, tokenizer: Tokenizer, *, vocabulary_size: int
) -> WhisperTokens:
    """Read which tokens steer a model.

    Args:
        folder: A model's.
        tokenizer: Its own.
        vocabulary_size: Ids that it has a row for.

    Raises:
        InvalidCheckpointError: Names what is missing or out of range.
    """
    found = Fields(read_object(folder / GENERATION_NAME), file=GENERATION_NAME)
    config = Fields(read_object(folder / CONFIG_NAME))
    ids = _Ids(found, config, size=vocabulary_size)
    no_moments = ids.one("no_timestamps_token_id")
    if no_moments + 1 >= vocabulary_size:
        raise found.refusal("no_timestamps_token_id", "leaves no ids for moments")
    is_multilingual = found.flag("is_multilingual", default="lang_to_id" in found.values)
    languages = ids.named("lang_to_id") if is_multilingual else {}
    no_speech = [n for name in _NO_SPEECH if (n := tokenizer.token_id(name)) is not None]
    return WhisperTokens(
        start=ids.one("decoder_start_token_id"),
        end=ids.one("eos_token_id"),
        first_moment=no_moments + 1,
        previous=tokenizer.token_id(_PREVIOUS),
        no_speech=no_speech[0] if no_speech else None,
        languages={token.strip("<|>"): number for token, number in languages.items()},
        tasks=ids.named("task_to_id") if is_multilingual else {},
        suppressed=ids.some("suppress_tokens"),
        latest_first=_optional_count(found, "max_initial_timestamp_index"),
        alignment=_alignment(found, config),
    )


class _Ids:
    """Fields that hold ids: of the first file, or else of the second.

    Args:
        first: The content of `generation_config.json`.
        second: The content of `config.json`.
        size: Ids there are.
    """

    def __init__(self, first: Fields, second: Fields, *, size: int) -> None:
        self._first, self._second, self._size = first, second, size

    def some(self, name: str) -> tuple[int, ...]:
        """Return the ids of a field, none where it is absent."""
        found = self._first.ids(name) or self._second.ids(name)
        if any(number >= self._size for number in found):
            raise self._first.refusal(name, f"must be below the vocabulary's {self._size}")
        return found

    def one(self, name: str) -> int:
        """Return the first id of a field that must be there."""
        found = self.some(name)
        if not found:
            raise self._first.refusal(name, "is missing")
        return found[0]

    def named(self, name: str) -> dict[str, int]:
        """Return the ids of an object by name."""
        section = dict(self._first.section(name))
        if not all(type(n) is int and 0 <= n < self._size for n in section.values()):
            raise self._first.refusal(name, "must hold ids of the vocabulary")
        return section


def _optional_count(fields: Fields, name: str) -> int | None:
    return None if fields.values.get(name) is None else fields.count(name)


def _alignment(found: Fields, config: Fields) -> tuple[tuple[int, int], ...]:
    """Return pairs of a decoder layer and one of its heads."""
    pairs = found.values.get("alignment_heads") or []
    bounds = (config.count("decoder_layers"), config.count("decoder_attention_heads"))
    is_listed = isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == len(bounds)
        and all(type(n) is int and 0 <= n < bound for n, bound in zip(pair, bounds, strict=True))
        for pair in pairs
    )
    if not is_listed:
        raise found.refusal("alignment_heads", "must list layers of the decoder with their heads")
    return tuple((layer, head) for layer, head in pairs)
