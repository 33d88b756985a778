"""Train, test and save a speech recogniser."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import AudioSpec, ModelSource
from purvey.contracts.recipe import TrainConfig
from purvey.contracts.recipe_parts.building import TokenizerConfig
from purvey.contracts.speech.transcription import text_of
from purvey.errors import InvalidValueError
from purvey.evaluate.transcripts import error_rates, transcription_report
from purvey.models.initialise import initialise
from purvey.models.initialised import Initialised
from purvey.models.inputs.audio import waveform
from purvey.models.loading import open_model
from purvey.models.speech.listening import transcribe
from purvey.models.speech.recogniser import (
    SpeechModel,
    build_speech_model,
    save_speech_model,
)
from purvey.models.speech.vocabulary import Vocabulary, normalised
from purvey.parse.parser import DecoderHere
from purvey.train.chance import seed_torch
from purvey.train.speech import SpeechLearner
from purvey.worker.training.inputs import declared_inputs
from purvey.worker.training.recordings import SpokenRows, spoken_rows
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.slices import slices_of
from purvey.worker.training.unused import refuse_unused

_DECODER = DecoderHere()


def train_speech(run: TrainingRun) -> ModelTrained:
    """Run a speech recognition job to its end.

    Raises:
        JobInterrupted: It was asked to stop, and has.
        PurveyError: The recipe or the data does not allow it.
    """
    _refuse_unused(run.config)
    audio, transcript = _column(run, "audio"), _column(run, "transcript")
    said = {
        split: [normalised(text) for text in rows.texts(transcript)]
        for split, rows in run.splits.items()
    }
    model = _build(run, said["train"])
    training, validation = (
        _spoken(run, model, split, audio, said[split]) for split in ("train", "validation")
    )
    if not len(training):
        raise InvalidValueError(
            "no training recording is short enough for the model, and long enough for what it "
            "says: set preprocess.audio.max_s, or cut the recordings.",
            param="recipe.dataset",
        )
    learner = SpeechLearner(
        model.module,
        recordings=training,
        targets=training.targets,
        validation=validation,
        validation_targets=validation.targets,
        measure=partial(_measure, model.vocabulary, validation.references),
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
    )
    state = run.train(learner)
    report = {}
    if said["test"]:
        run.link.event(f"Testing on {len(said['test'])} untouched rows.")
        recordings = run.splits["test"].media(audio)
        heard = [text_of(transcribe(model, partial(_read, model.spec, d))) for d in recordings]
        slices = slices_of(run.dataset.manifest, run.splits)
        report = transcription_report(said["test"], heard, run.bootstrap, slices)
    save_speech_model(model.with_manifest(lineage=run.lineage(), report=report), run.output)
    return run.result(state, report)


def _column(run: TrainingRun, kind: str) -> str:
    found = [column.name for column in run.dataset.manifest.columns if column.kind == kind]
    if not found:
        raise InvalidValueError(
            f"the dataset has no {kind} column: name one in its columns.", param="recipe.dataset"
        )
    return found[0]


def _build(run: TrainingRun, said: Sequence[str]) -> SpeechModel:
    config = run.config
    seed_torch(config.seed, "init")
    if run.spec.base is not None:
        model = _from_base(run.spec.base, said)
        run.tell_initialised(Initialised.whole(model.module.state_dict()))
        refuse_unused(config, model.manifest.inputs, is_declared_here=False)
        return model
    inputs = declared_inputs(run.dataset.manifest, run.splits["train"], config.preprocess)
    spec = next(spec for spec in inputs.values() if isinstance(spec, AudioSpec))
    model = run.built(
        lambda: build_speech_model(
            architecture=config.model.architecture,
            hyperparameters=config.hyperparameters,
            spec=spec,
            vocabulary=Vocabulary.of(said),
        )
    )
    refuse_unused(config, model.manifest.inputs, is_declared_here=True)
    initialise(model.module, config.init.scheme, generator=run.generator("init", "scheme"))
    return model


def _from_base(base: ModelSource, said: Sequence[str]) -> SpeechModel:
    model = open_model(base)
    if not isinstance(model, SpeechModel):
        raise InvalidValueError(
            f"{base.name!r} is not a model for 'speech-recognition'.", param="recipe.model.base"
        )
    model.vocabulary.check_covers(said, whose=repr(base.name))
    model.module.requires_grad_(requires_grad=True)
    return model.with_manifest(report={})


def _spoken(
    run: TrainingRun, model: SpeechModel, split: str, audio: str, said: Sequence[str]
) -> SpokenRows:
    augment = run.config.augment.audio if split == "train" else None
    found = spoken_rows(
        model,
        run.splits[split].media(audio),
        said,
        read=partial(_read, model.spec),
        augment=augment,
    )
    for how_many, why in found.left_out:
        run.link.event(
            f"{how_many} recordings of the {split} split are left out: {why}.", level="warn"
        )
    if split == "validation" and not len(found):
        run.link.event(
            "The validation split is empty: no early stopping, no best checkpoint.", level="warn"
        )
    return found


def _measure(
    vocabulary: Vocabulary, references: Sequence[str], heard: list[list[int]]
) -> dict[str, float]:
    return error_rates(references, [normalised(vocabulary.decode(numbers)) for numbers in heard])


def _read(spec: AudioSpec, data: bytes, start_s: float, max_s: float) -> Tensor:
    return waveform(
        data,
        sample_rate_hz=spec.sample_rate_hz,
        max_s=max_s,
        start_s=start_s,
        param="recipe.dataset",
        decoder=_DECODER,
    )


def _refuse_unused(config: TrainConfig) -> None:
    """Refuse what this task would pass over in silence, or what would spoil its rows."""
    if config.tokenizer != TokenizerConfig():
        raise InvalidValueError(
            "section tokenizer has no effect on speech-recognition, which writes characters.",
            param="recipe.tokenizer",
        )
    if config.augment.audio.shift_fraction:
        raise InvalidValueError(
            "a shift moves what is said at one end to the other, away from its place in the "
            "transcript; leave augment.audio.shift_fraction out for speech-recognition.",
            param="recipe.augment.audio.shift_fraction",
        )
