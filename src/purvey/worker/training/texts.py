"""What a language model learns from: plain texts or conversations, as token rows by split."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from purvey.data.conversations import Conversation, as_conversation
from purvey.data.loader import Rows
from purvey.data.reading.chat_file import read_chat_file
from purvey.errors import InvalidFileError, InvalidValueError
from purvey.models.chat import ChatTemplate
from purvey.models.tokenizer import Tokenizer
from purvey.train.language import TokenRow, pack, token_row
from purvey.worker.training.run import TrainingRun


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents of each split: texts, or conversations. Splits are train, validation, test."""

    texts: Mapping[str, Sequence[str]]
    conversations: Mapping[str, Sequence[Conversation]]

    @property
    def has_conversations(self) -> bool:
        """Whether only assistants' turns are learned."""
        return bool(self.conversations)

    def training_texts(self) -> list[str]:
        """Return the training split as text, for a tokenizer to learn from."""
        if not self.has_conversations:
            return list(self.texts["train"])
        return [turn.content for talk in self.conversations["train"] for turn in talk]


def read_corpus(run: TrainingRun) -> Corpus:
    """Read what the job names: a prepared dataset, or fine-tuning files.

    Raises:
        InvalidFileError: A row is not a conversation; the message names the line.
        InvalidValueError: The dataset has neither texts nor conversations.
    """
    if run.spec.dataset is None and run.spec.files:
        return Corpus(texts={}, conversations=_file_conversations(run))
    manifest, splits = run.dataset.manifest, run.splits
    talks, text = manifest.column("conversation"), manifest.column("text")
    if talks is not None:
        found = {split: _conversations(rows, talks) for split, rows in splits.items()}
        return Corpus(texts={}, conversations=found)
    if text is None:
        raise InvalidValueError(
            "the dataset has no text and no conversation column.", param="recipe.dataset"
        )
    return Corpus(
        texts={split: rows.texts(text) for split, rows in splits.items()}, conversations={}
    )


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """A split as token rows; `owners` gives each row's document, for losses by document."""

    rows: list[TokenRow]
    owners: list[int]
    num_documents: int


class Encoder:
    """Turns a corpus into token rows.

    Args:
        tokenizer: Encodes text.
        template: Encodes conversations.
        max_tokens: Longest row; longer conversations are cut, longer texts divided.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, *, max_tokens: int) -> None:
        self._tokenizer, self._template, self._max_tokens = tokenizer, template, max_tokens
        self.num_cut = 0
        self.num_dropped = 0

    @property
    def end_id(self) -> int:
        """The token that stands between documents."""
        return self._tokenizer.eos_ids[0] if self._tokenizer.eos_ids else 0

    def packed(self, texts: Sequence[str]) -> list[TokenRow]:
        """Encode texts, joined into rows of equal length."""
        documents = (self._tokenizer.encode(text) for text in texts)
        return self._pack(documents)

    def documents(self, texts: Sequence[str]) -> TokenRows:
        """Encode texts one by one; a row never crosses from one text to the next."""
        rows: list[TokenRow] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            found = self._pack([self._tokenizer.encode(text)])
            rows += found
            owners += [number] * len(found)
        return TokenRows(rows=rows, owners=owners, num_documents=len(texts))

    def conversations(self, talks: Sequence[Conversation]) -> list[TokenRow]:
        """Encode conversations, with the loss on assistants' turns; those cut before are left out.

        `num_cut` and `num_dropped` count on.
        """
        rows: list[TokenRow] = []
        for talk in talks:
            whole = self._template.training_rows(talk, self._tokenizer)
            self.num_cut += len(whole.ids) > self._max_tokens + 1
            row = token_row(whole.ids, whole.is_target, max_tokens=self._max_tokens + 1)
            if row.num_targets:
                rows.append(row)
            else:
                self.num_dropped += 1
        return rows

    def _pack(self, documents: Iterable[Sequence[int]]) -> list[TokenRow]:
        return pack(
            documents,
            end_id=self.end_id,
            row_tokens=self._max_tokens,
            begin_ids=self._tokenizer.prefix_ids,
        )


def _file_conversations(run: TrainingRun) -> dict[str, Sequence[Conversation]]:
    found: dict[str, Sequence[Conversation]] = {"train": [], "validation": [], "test": []}
    names = {"training": "train", "validation": "validation"}
    for file in run.spec.files:
        if split := names.get(file.role):
            found[split] = read_chat_file(Path(file.path), source=file.name)
    if not found["train"]:
        raise InvalidFileError("the job names no training file.", param="training_file")
    return found


def _conversations(rows: Rows, column: str) -> list[Conversation]:
    return [as_conversation(json.loads(text)) for text in rows.texts(column)]
