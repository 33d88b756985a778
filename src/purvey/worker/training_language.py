"""Training a language model: from scratch on text, or a base on conversations."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from purvey.contracts.engine import ChatMessage
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.model import ModelManifest
from purvey.contracts.recipe import TrainConfig
from purvey.data.conversations import check_messages
from purvey.data.loader import load_splits
from purvey.data.table import Cell
from purvey.errors import InvalidFileError, InvalidValueError
from purvey.evaluate.reports import TextLosses, language_report
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.folder.manifest import write_manifest
from purvey.models.initialise import initialise
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.loading import open_model
from purvey.models.lora import inject, merge, save_adapter
from purvey.models.tokenizer import Tokenizer
from purvey.train.chance import permutation, seed_torch
from purvey.train.language import (
    LanguageLearner,
    TokenRow,
    document_rows,
    pack,
    row_losses,
    token_row,
)
from purvey.train.state import RunState
from purvey.worker.job_link import JobLink
from purvey.worker.training_run import bootstrap, carry_out, generator, lineage

HELD_OUT_FRACTION = 0.1
Conversation = tuple[ChatMessage, ...]


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Token rows by use. Test rows are grouped by what is resampled: document or conversation."""

    train: list[TokenRow]
    validation: list[TokenRow] = field(default_factory=list)
    test: list[list[TokenRow]] = field(default_factory=list)


def train(spec: JobSpec, config: TrainConfig, link: JobLink) -> ModelTrained:
    """Train, test and save a language model.

    Raises:
        InvalidValueError: Recipe and data do not fit; names the recipe's field.
        InvalidFileError: A row is not usable; names the line.
        PurveyError: What the run raises.
    """
    model, sequences = _prepare(spec, config, link)
    if not sequences.train:
        raise InvalidValueError("no training row has anything to learn from.", param="dataset")
    is_lora = config.train.method == "lora"
    if is_lora:
        inject(model.decoder, config.lora, generator=generator(config, "lora"))
    learner = LanguageLearner(
        model.decoder,
        sequences.train,
        sequences.validation,
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    state = carry_out(learner, spec, config, link)
    report = {}
    if sequences.test:
        report = language_report(_test_losses(model.decoder, sequences.test), bootstrap(config))
    manifest = ModelManifest(
        family="decoder",
        task="text-generation",
        lineage=lineage(spec, config, state),
        report=report,
    )
    _save(spec, config, model, manifest)
    return _result(state, report)


def _result(state: RunState, report: dict[str, object]) -> ModelTrained:
    return ModelTrained(
        trained_tokens=state.tokens_seen,
        trained_rows=state.rows_seen,
        compute_s=state.compute_s,
        report=report,
    )


def _prepare(spec: JobSpec, config: TrainConfig, link: JobLink) -> tuple[LanguageModel, Sequences]:
    base = _open_base(spec)
    if spec.dataset is None:
        if base is None:
            raise InvalidValueError("fine-tuning needs a base.", param="model.base")
        splits = _from_files(spec, config)
        return _conversing(base, splits, config, link)
    rows = load_splits(Path(spec.dataset.folder), spec.dataset.manifest)
    conversations = spec.dataset.manifest.column("conversation")
    if conversations is not None and base is not None:
        found = {name: _parsed(part.texts(conversations)) for name, part in rows.items()}
        return _conversing(base, found, config, link)
    column = spec.dataset.manifest.column("text")
    if column is None:
        raise InvalidValueError(
            "the dataset has neither text nor, with a base, conversations.", param="dataset"
        )
    return _reading(base, {n: r.texts(column) for n, r in rows.items()}, config, link)


def _open_base(spec: JobSpec) -> LanguageModel | None:
    if spec.base is None:
        return None
    base = open_model(spec.base)
    if not isinstance(base, LanguageModel):
        raise InvalidValueError("the base is no language model.", param="model.base")
    return base


def _reading(
    base: LanguageModel | None, texts: dict[str, list[str]], config: TrainConfig, link: JobLink
) -> tuple[LanguageModel, Sequences]:
    """Learn to continue text, documents packed back to back."""
    model = base or _fresh(texts["train"], config, link)
    tokenizer = model.tokenizer
    row_tokens = min(config.train.sequence_tokens, model.context_tokens - 1)
    end_id = tokenizer.eos_ids[0]
    ids = {name: [tokenizer.encode(text) for text in part] for name, part in texts.items()}
    link.event(f"Tokenised {sum(map(len, ids['train'])):,} training tokens.")
    return model, Sequences(
        train=pack(ids["train"], end_id=end_id, row_tokens=row_tokens),
        validation=pack(ids.get("validation", []), end_id=end_id, row_tokens=row_tokens),
        test=document_rows(ids.get("test", []), end_id=end_id, row_tokens=row_tokens),
    )


def _fresh(texts: Sequence[str], config: TrainConfig, link: JobLink) -> LanguageModel:
    if config.model.architecture != "decoder":
        raise InvalidValueError(
            f"{config.model.architecture!r} does not generate text.",
            param="model.architecture",
            hint="Use 'decoder', or name model.base.",
        )
    tokenizer = Tokenizer.train(texts, vocabulary_size=config.tokenizer.vocabulary_size)
    shape = DecoderConfig.from_hyperparameters(
        config.model.hyperparameters,
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    seed_torch(config.seed, "build")
    decoder = Decoder(shape)
    initialise(decoder, config.init.scheme, generator=generator(config, "initialise"))
    model = LanguageModel(decoder=decoder, tokenizer=tokenizer, template=None)
    link.event(
        f"Trained a tokenizer of {tokenizer.vocabulary_size:,} tokens; "
        f"built a decoder with {model.num_parameters:,} weights."
    )
    return model


def _conversing(
    base: LanguageModel,
    splits: dict[str, list[Conversation]],
    config: TrainConfig,
    link: JobLink,
) -> tuple[LanguageModel, Sequences]:
    """Learn the assistant's turns of conversations."""
    template = base.template or ChatTemplate.default(base.tokenizer)
    model = LanguageModel(
        decoder=base.decoder, tokenizer=base.tokenizer, template=template, manifest=base.manifest
    )
    limit = min(config.train.sequence_tokens, model.context_tokens)
    rows = {n: [_row(c, model, template, limit) for c in part] for n, part in splits.items()}
    usable = {n: [row for row in part if row.num_targets] for n, part in rows.items()}
    if lost := sum(map(len, rows.values())) - sum(map(len, usable.values())):
        link.event(
            f"{lost} rows are left out: their prompt alone fills {limit} tokens.", level="warn"
        )
    return model, Sequences(
        train=usable["train"],
        validation=usable.get("validation", []),
        test=[[row] for row in usable.get("test", [])],
    )


def _row(
    conversation: Conversation, model: LanguageModel, template: ChatTemplate, limit: int
) -> TokenRow:
    row = template.training_rows(conversation, model.tokenizer)
    return token_row(row.ids, row.is_target, max_tokens=limit)


def _from_files(spec: JobSpec, config: TrainConfig) -> dict[str, list[Conversation]]:
    """Read the files of a fine-tuning job; hold rows out by seed where no file does."""
    by_role = {file.role: file for file in spec.files}
    if "training" not in by_role:
        raise InvalidFileError("the job names no training file.", param="training_file")
    given = _read(Path(by_role["training"].path), "training_file")
    order = permutation(len(given), seed=config.seed, epoch=-1)
    shuffled = [given[i] for i in order]
    held_out = max(1, round(HELD_OUT_FRACTION * len(given)))
    if "validation" in by_role:
        validation = _read(Path(by_role["validation"].path), "validation_file")
        return {
            "train": shuffled[held_out:],
            "validation": validation,
            "test": shuffled[:held_out],
        }
    return {
        "train": shuffled[2 * held_out :],
        "validation": shuffled[held_out : 2 * held_out],
        "test": shuffled[:held_out],
    }


def _read(path: Path, param: str) -> list[Conversation]:
    found = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    found.append(_conversation(json.loads(line)["messages"]))
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidFileError(f"line {number}: {error}.", param=param) from None
    return found


def _parsed(cells: Sequence[str]) -> list[Conversation]:
    return [_conversation(json.loads(cell)) for cell in cells]


def _conversation(messages: Cell) -> Conversation:
    if isinstance(messages, list):
        messages = [
            {**m, "role": "system"} if isinstance(m, dict) and m.get("role") == "developer" else m
            for m in messages
        ]
    checked = check_messages(messages)
    return tuple(msgspec.convert(message, ChatMessage) for message in checked)


def _test_losses(decoder: Decoder, groups: Sequence[Sequence[TokenRow]]) -> TextLosses:
    rows = [row for group in groups for row in group]
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    nats, tokens = row_losses(decoder, rows)
    summed, counted = np.zeros(len(groups)), np.zeros(len(groups))
    np.add.at(summed, owners, nats)
    np.add.at(counted, owners, tokens)
    has_tokens = counted > 0
    return TextLosses(nats=summed[has_tokens], tokens=counted[has_tokens])


def _save(
    spec: JobSpec, config: TrainConfig, model: LanguageModel, manifest: ModelManifest
) -> None:
    folder = Path(spec.output_dir)
    is_adapter = config.train.method == "lora" and spec.base is not None
    if is_adapter and spec.base is not None and spec.base.base_folder is None:
        save_adapter(model.decoder, folder, config.lora, base_name=spec.base.name)
        if model.template is not None:
            model.template.save(folder)
        write_manifest(folder, msgspec.structs.replace(manifest, base=spec.base.digest))
        return
    if is_adapter:  # a base that is an adapter itself: fold both in
        merge(model.decoder)
    whole = LanguageModel(
        decoder=model.decoder,
        tokenizer=model.tokenizer,
        template=model.template,
        manifest=manifest,
    )
    save_language_model(folder, whole)
