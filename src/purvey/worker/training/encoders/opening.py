"""The encoder that a recipe asks for: a base with or without a new head, or one built anew."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from purvey.contracts.model import ModelManifest, ModelSource, TextSpec
from purvey.contracts.recipe_parts.building import TokenizerConfig
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier
from purvey.models.encoder.building import ARCHITECTURE, build_encoder, train_tokenizer
from purvey.models.encoder.modules import EmbeddingSetup
from purvey.models.encoder.starting import StartedEncoder, start_encoder
from purvey.models.encoder.texts import TextReader
from purvey.models.folder.manifest import read_manifest
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.train.chance import seed_torch
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.sizing import grown_encoder


def is_for_encoder(run: TrainingRun) -> bool:
    """Tell whether a recipe names an encoder, as its base or to be built anew."""
    if run.spec.base is not None:
        return _is_encoder(run.spec.base)
    return run.config.model.architecture == ARCHITECTURE


def open_encoder(
    run: TrainingRun,
    texts: Sequence[str],
    *,
    labels: Sequence[str] | None,
    is_told: bool = True,
) -> StartedEncoder:
    """Open the base, or build an encoder with a tokenizer of its own; tell what came from where.

    The tokenizer's training is deterministic, so every attempt gets the same one.

    Args:
        run: The job.
        texts: What a tokenizer would learn from.
        labels: Of the head; None for an encoder without one.
        is_told: Whether events say it.

    Raises:
        PurveyError: The base is no encoder or damaged, or a hyperparameter is out of range.
    """
    seed_torch(run.config.seed, "init")
    if run.spec.base is None:
        return _new(run, texts, labels, is_told=is_told)
    if run.config.tokenizer != TokenizerConfig():
        raise InvalidValueError(
            "section tokenizer has no effect with model.base, which has its own.",
            param="recipe.tokenizer",
        )
    if not _is_encoder(run.spec.base):
        raise InvalidValueError(
            f"{run.spec.base.name!r} is no encoder, which {run.config.task} trains.",
            param="recipe.model.base",
        )
    started = start_encoder(Path(run.spec.base.folder), labels=labels)
    started.module.requires_grad_(requires_grad=True)
    if is_told:
        run.tell_initialised(started.initialised)
    return replace(started, module=grown_encoder(run, started.module, is_told=is_told))


def text_classifier(run: TrainingRun, *, labels: tuple[str, ...]) -> Classifier:
    """Open or build an encoder that ends in labels.

    Raises:
        PurveyError: As `open_encoder`, or the dataset has no text, or fewer than two labels.
    """
    column = run.dataset.manifest.column("text")
    if column is None or len(labels) < 2:
        what = "no text column" if column is None else "fewer than two labels"
        raise InvalidValueError(f"the dataset has {what}.", param="recipe.dataset")
    started = open_encoder(run, run.splits["train"].texts(column), labels=labels)
    max_tokens = longest(run, started)
    manifest = ModelManifest(
        family="encoder",
        task=run.config.task,
        labels=labels,
        inputs={"input": TextSpec()},
        hyperparameters={"max_tokens": max_tokens},
    )
    return Classifier(
        manifest=manifest,
        module=started.module,
        reader=TextReader(framer=started.tokenizer.framer(), max_tokens=max_tokens),
        tokenizer=started.tokenizer,
    )


def longest(run: TrainingRun, started: StartedEncoder) -> int:
    """Return how many tokens of a text are read in training; say so where the base takes fewer."""
    wanted = run.config.train.sequence_tokens
    if wanted > started.max_tokens:
        run.link.event(f"Texts are cut at the {started.max_tokens} tokens that the base takes.")
    return min(wanted, started.max_tokens)


def _new(
    run: TrainingRun, texts: Sequence[str], labels: Sequence[str] | None, *, is_told: bool
) -> StartedEncoder:
    config = run.config
    if config.model.architecture != ARCHITECTURE:
        raise InvalidValueError(
            f"{config.model.architecture!r} gives no vectors: use {ARCHITECTURE!r}.",
            param="recipe.model.architecture",
        )
    if is_told:
        run.link.event("Training the tokenizer.")
    tokenizer = train_tokenizer(texts, vocabulary_size=config.tokenizer.vocabulary_size)
    vocabulary_size = tokenizer.framer().vocabulary_size
    module = run.built(
        lambda: build_encoder(
            config.hyperparameters,
            vocabulary_size=vocabulary_size,
            max_tokens=config.train.sequence_tokens,
            num_labels=None if labels is None else len(labels),
        )
    )
    initialise(module, config.init.scheme, generator=run.generator("init", "scheme"))
    return StartedEncoder(
        module=module,
        tokenizer=tokenizer,
        setup=EmbeddingSetup(pooling="mean"),
        initialised=Initialised.of(module.state_dict(), ()),
    )


def _is_encoder(base: ModelSource) -> bool:
    return read_manifest(Path(base.folder)).family == "encoder"
