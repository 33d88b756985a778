"""What a language model's job teaches: a learner of the corpus's rows, and the test at the end."""

from collections.abc import Mapping, Sequence, Sized
from typing import Protocol, TypeVar

import numpy as np

from purvey.errors import InvalidFileError
from purvey.evaluate.reports import TextLosses, language_report, preference_report
from purvey.models.decoder import Decoder
from purvey.train.language import LanguageLearner, row_losses
from purvey.train.learner import Learner
from purvey.train.preference import (
    PreferenceLearner,
    log_ratios,
    margin_losses,
    reward_margins,
)
from purvey.train.token_rows import TokenRow
from purvey.worker.training.encoding import Encoder, TokenRows
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.texts import Corpus

_Row = TypeVar("_Row")


class Lesson(Protocol):
    """A corpus as one objective learns from it."""

    @property
    def learner(self) -> Learner:
        """What the loop trains."""
        ...

    def report(self) -> dict[str, object]:
        """Test the trained decoder on the test split; of files, which have none, on validation.

        Names of what was measured on validation rows begin with `validation_`.
        """
        ...


def lesson_of(run: TrainingRun, decoder: Decoder, corpus: Corpus, encoder: Encoder) -> Lesson:
    """Encode the corpus for the run's objective, and tell what was cut or left out.

    Args:
        run: The job.
        decoder: As training begins: adapters, if any, are in place and add nothing yet.
        corpus: All splits.
        encoder: The model's.

    Raises:
        InvalidFileError: No training row holds anything to learn.
    """
    if run.config.train.objective == "dpo":
        return PreferenceLesson(run, decoder, corpus, encoder)
    return TextLesson(run, decoder, corpus, encoder)


class TextLesson:
    """Texts, or the assistant's turns of conversations, to be continued."""

    def __init__(
        self, run: TrainingRun, decoder: Decoder, corpus: Corpus, encoder: Encoder
    ) -> None:
        self._run, self._decoder, self._corpus, self._encoder = run, decoder, corpus, encoder
        rows = _require(self._rows("train"))
        config = run.config
        self.learner = LanguageLearner(
            decoder,
            rows,
            self._rows("validation"),
            batch_size=config.train.batch_size,
            seed=config.seed,
            is_packed=config.train.packing,
            smoothing=config.train.label_smoothing,
            validation_characters=sum(map(len, corpus.texts.get("validation", ()))),
        )
        if encoder.num_cut:
            run.link.event(
                f"{encoder.num_cut} conversations are longer than train.sequence_tokens and were "
                f"cut; {encoder.num_dropped} of them hold no answer before the cut and were left "
                "out.",
                level="warn",
            )

    def report(self) -> dict[str, object]:
        """Report the loss by document."""
        corpus = self._corpus
        split = _tested_split(corpus.conversations or corpus.texts)
        if split is None:
            return {}
        tokens = self._by_document(split)
        if not tokens.rows:
            return {}
        kind = "conversations" if corpus.conversations else "texts"
        self._run.link.event(f"Testing on {tokens.num_documents} {kind} of the {split} split.")
        report = language_report(self._losses(tokens, split), self._run.bootstrap)
        return _named(report, split)

    def _rows(self, split: str) -> list[TokenRow]:
        if self._corpus.conversations:
            return self._encoder.conversations(self._corpus.conversations[split])
        return self._encoder.packed(self._corpus.texts[split]) if self._corpus.texts[split] else []

    def _by_document(self, split: str) -> TokenRows:
        if not self._corpus.conversations:
            return self._encoder.documents(self._corpus.texts[split])
        rows = self._encoder.conversations(self._corpus.conversations[split])
        return TokenRows(rows=rows, owners=list(range(len(rows))), num_documents=len(rows))

    def _losses(self, tokens: TokenRows, split: str) -> TextLosses:
        nats, counts = row_losses(self._decoder, tokens.rows)
        size, texts = tokens.num_documents, self._corpus.texts.get(split)
        return TextLosses(
            nats=np.asarray(np.bincount(tokens.owners, nats, minlength=size), dtype=np.float64),
            tokens=np.asarray(np.bincount(tokens.owners, counts, minlength=size), dtype=np.float64),
            characters=None if texts is None else np.array([float(len(text)) for text in texts]),
        )


class PreferenceLesson:
    """Pairs of answers, of which the better one is to become the likelier.

    What the base says of every pair is computed here, before training changes it.
    """

    def __init__(
        self, run: TrainingRun, decoder: Decoder, corpus: Corpus, encoder: Encoder
    ) -> None:
        self._run, self._decoder, self._beta = run, decoder, run.config.dpo.beta
        pairs = {s: encoder.preferences(found) for s, found in corpus.preferences.items()}
        self._split = _tested_split(corpus.preferences)
        self._tested = pairs[self._split] if self._split else []
        if encoder.num_dropped:
            run.link.event(
                f"{encoder.num_dropped} preferences are longer than train.sequence_tokens and "
                "were left out.",
                level="warn",
            )
        run.link.event("Computing what the base says of every pair.")
        self.learner = PreferenceLearner(
            decoder,
            _require(pairs["train"]),
            pairs["validation"],
            beta=self._beta,
            likelihood_weight=run.config.dpo.likelihood_weight,
            seed=run.config.seed,
            is_packed=run.config.train.packing,
        )
        self._reference = log_ratios(decoder, self._tested)

    def report(self) -> dict[str, object]:
        """Report loss, margin and accuracy of the rewards."""
        if self._split is None or not self._tested:
            return {}
        self._run.link.event(f"Testing on {len(self._tested)} pairs of the {self._split} split.")
        margins = reward_margins(self._decoder, self._tested, self._reference, beta=self._beta)
        report = preference_report(margins, margin_losses(margins), self._run.bootstrap)
        return _named(report, self._split)


def _require(rows: Sequence[_Row]) -> Sequence[_Row]:
    if not rows:
        raise InvalidFileError("no training row holds anything to learn.", param="training_file")
    return rows


def _tested_split(splits: Mapping[str, Sized]) -> str | None:
    return next((split for split in ("test", "validation") if len(splits[split])), None)


def _named(report: Mapping[str, object], split: str) -> dict[str, object]:
    prefix = "" if split == "test" else "validation_"
    return {f"{prefix}{name}": value for name, value in report.items()}
