"""What a language model learns from: texts, conversations or preferences, by split."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from purvey.data.conversations import Conversation, as_conversation
from purvey.data.overlap import Asking, overlap
from purvey.data.preferences import Preference, as_preference
from purvey.data.reading.chat_file import read_chat_file, read_preference_file
from purvey.errors import InvalidFileError, InvalidValueError
from purvey.worker.training.run import TrainingRun

_Row = TypeVar("_Row", Conversation, Preference)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents of each split, all of one of three kinds. Splits are train, validation, test."""

    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    conversations: Mapping[str, Sequence[Conversation]] = field(default_factory=dict)
    preferences: Mapping[str, Sequence[Preference]] = field(default_factory=dict)

    @property
    def has_turns(self) -> bool:
        """Whether only assistants' turns are learned."""
        return bool(self.conversations or self.preferences)

    def training_texts(self) -> list[str]:
        """Return the training split as text, for a tokenizer to learn from."""
        if not self.conversations:
            return list(self.texts["train"])
        return [turn.content for talk in self.conversations["train"] for turn in talk]


def read_corpus(run: TrainingRun) -> Corpus:
    """Read what the job names, a prepared dataset or fine-tuning files, for its objective.

    Raises:
        InvalidFileError: A row is not what is learned from; the message names the line.
        InvalidValueError: The dataset has no column that is learned from.
    """
    has_pairs = run.config.train.objective == "dpo"
    if run.spec.dataset is None and run.spec.files:
        if has_pairs:
            return Corpus(preferences=_read_files(run, _read_pairs))
        return Corpus(conversations=_read_files(run, _read_talks))
    manifest, splits = run.dataset.manifest, run.splits
    kinds = ("preference",) if has_pairs else ("conversation", "text")
    columns = {column.kind: column.name for column in reversed(manifest.columns)}
    kind = next((kind for kind in kinds if kind in columns), None)
    if kind is None:
        raise InvalidValueError(
            f"the dataset has no {' and no '.join(kinds)} column, which train.objective "
            f"{run.config.train.objective!r} learns from.",
            param="recipe.dataset",
        )
    rows = {split: found.texts(columns[kind]) for split, found in splits.items()}
    if kind == "text":
        return Corpus(texts=rows)
    values = {split: [json.loads(text) for text in texts] for split, texts in rows.items()}
    if kind == "preference":
        return Corpus(preferences={s: [as_preference(v) for v in vs] for s, vs in values.items()})
    return Corpus(conversations={s: [as_conversation(v) for v in vs] for s, vs in values.items()})


def _read_files(
    run: TrainingRun, read: Callable[[Path, str], list[_Row]]
) -> dict[str, Sequence[_Row]]:
    found: dict[str, Sequence[_Row]] = {"train": [], "validation": [], "test": []}
    names = {"training": "train", "validation": "validation"}
    for file in run.spec.files:
        if split := names.get(file.role):
            found[split] = read(Path(file.path), file.name)
    if not found["train"]:
        raise InvalidFileError("the job names no training file.", param="training_file")
    _tell_overlap(run, found)
    return {split: run.taken(split, rows) for split, rows in found.items()}


def _tell_overlap(run: TrainingRun, found: Mapping[str, Sequence[Asking]]) -> None:
    """Warn, and have the lineage say, that the validation file asks what is trained on."""
    if run.group is not None and not run.group.is_first:
        return
    shared = overlap(found["validation"], found["train"])
    if not shared.near:
        return
    run.notes["validation_overlap"] = asdict(shared)
    run.link.event(
        f"Leakage: {shared.near} of {len(found['validation'])} rows of the validation file ask "
        f"what the training file asks too ({shared.exact} exactly, the others nearly), so its "
        "loss flatters the model. Leave them out of one of the two.",
        level="warn",
        overlap=asdict(shared),
    )


def _read_talks(path: Path, source: str) -> list[Conversation]:
    return read_chat_file(path, source=source)


def _read_pairs(path: Path, source: str) -> list[Preference]:
    return read_preference_file(path, source=source)
