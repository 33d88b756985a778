"""Train, test and save an encoder that gives vectors of texts."""

from dataclasses import replace
from typing import Any

import torch

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import ModelManifest
from purvey.contracts.recipe_parts.embedding import PairColumns, pair_columns
from purvey.errors import InvalidValueError
from purvey.evaluate.retrieval import Vectors, places, retrieval_metrics, retrieval_report
from purvey.evaluate.slices import length_slices
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.modules import EmbeddingSetup
from purvey.models.encoder.saving import save_encoder, save_setup
from purvey.models.encoder.starting import StartedEncoder
from purvey.models.encoder.texts import TextReader
from purvey.train.vectors.contrastive import ContrastiveLearner, beginning, embedded
from purvey.train.vectors.pairs import Pairs
from purvey.worker.training.encoders.opening import longest, open_encoder
from purvey.worker.training.encoders.pairs import read_pairs
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.unused import refuse_unused


def train_embedding(run: TrainingRun) -> ModelTrained:
    """Run an embedding job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    refuse_unused(run.config, {}, is_declared_here=False)
    columns = pair_columns(run.config.embedding, run.dataset.manifest)
    started = _start(run, columns)
    setup = _setup(run, started)
    framer = started.tokenizer.framer(prompt=setup.prompt)
    reader = TextReader(framer=framer, max_tokens=longest(run, started))
    pairs = {split: read_pairs(rows, columns, reader) for split, rows in run.splits.items()}
    _check(run, pairs)
    validation = pairs["validation"]
    learner = ContrastiveLearner(
        started.module,
        pooling=setup.pooling,
        sizes=sorted({*(setup.sizes or ()), started.module.config.hidden_size}),
        pairs=pairs["train"],
        validation=validation,
        measure=lambda asked, found: retrieval_metrics(places(asked, found, validation.belonging)),
        temperature=run.config.embedding.temperature,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
    )
    state = run.train(learner)
    report = _tested(run, started.module, setup, columns, pairs["test"])
    _save(run, started, setup, report)
    return run.result(state, report)


def _start(run: TrainingRun, columns: PairColumns, *, is_told: bool = True) -> StartedEncoder:
    training = run.splits["train"]
    texts = [text for name in columns.texts for text in training.texts(name)]
    return open_encoder(run, texts, labels=None, is_told=is_told)


def _setup(run: TrainingRun, started: StartedEncoder) -> EmbeddingSetup:
    asked, width = run.config.embedding, started.module.config.hidden_size
    if max(asked.dimensions, default=0) > width:
        raise InvalidValueError(
            f"embedding.dimensions asks for {max(asked.dimensions)} numbers of vectors that have "
            f"{width}.",
            param="recipe.embedding.dimensions",
        )
    return replace(
        started.setup,
        pooling=asked.pooling or started.setup.pooling,
        sizes=tuple(sorted(asked.dimensions)) or None,
    )


def _check(run: TrainingRun, pairs: dict[str, Pairs]) -> None:
    if len(pairs["train"]) < 2 or len(pairs["train"].found) < 2:
        raise InvalidValueError(
            "the training split has fewer than two different texts that belong to another.",
            param="recipe.dataset",
        )
    for split, found in pairs.items():
        left_out = run.splits[split].num_rows - len(found)
        if left_out:
            run.link.event(
                f"{left_out} rows of the {split} split are the only ones of their label: they "
                "are found, and not searched with.",
                level="warn",
            )
    if not len(pairs["validation"]):
        run.tell_unvalidated()


def _tested(
    run: TrainingRun,
    module: EncoderModule,
    setup: EmbeddingSetup,
    columns: PairColumns,
    rows: Pairs,
) -> dict[str, Any]:
    if not len(rows):
        return {}
    run.link.event(f"Testing on {len(rows)} untouched rows.")
    lengths = [float(len(framed)) for framed in rows.asked]
    untrained = _start(run, columns, is_told=False).module  # as it was before the first step
    asked_ND, found_MD = _embedded(module, setup, rows)
    cut = {
        size: places(_cut(asked_ND, size), _cut(found_MD, size), rows.belonging)
        for size in setup.sizes or ()
    }
    return retrieval_report(
        places(asked_ND, found_MD, rows.belonging),
        untrained_N=places(*_embedded(untrained, setup, rows), rows.belonging),
        cut=cut,
        num_candidates=len(rows.found),
        how=run.bootstrap,
        slices=length_slices(columns.asked, lengths, unit="tokens"),
    )


def _embedded(module: EncoderModule, setup: EmbeddingSetup, rows: Pairs) -> tuple[Vectors, Vectors]:
    asked_ND = embedded(module, rows.asked, setup.pooling)
    return asked_ND, embedded(module, rows.found, setup.pooling)


def _cut(vectors_ND: Vectors, size: int) -> Vectors:
    cut_ND: Vectors = beginning(torch.from_numpy(vectors_ND), size).numpy()
    return cut_ND


def _save(
    run: TrainingRun, started: StartedEncoder, setup: EmbeddingSetup, report: dict[str, Any]
) -> None:
    words = {"pooling": setup.pooling, **({"prompt": setup.prompt} if setup.prompt else {})}
    manifest = ModelManifest(
        family="encoder",
        task="embedding",
        hyperparameters=words,
        lineage=run.lineage(),
        report=report,
    )
    save_encoder(run.output, started.module, started.tokenizer, manifest)
    width = started.module.config.hidden_size
    save_setup(run.output, setup, width=width, max_tokens=started.max_tokens)
