"""Train, test and save a speech recogniser."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import AudioSpec
from purvey.contracts.recipe import TrainConfig
from purvey.contracts.recipe_parts.building import TokenizerConfig
from purvey.contracts.speech.transcription import text_of
from purvey.errors import InvalidValueError
from purvey.evaluate.transcripts import transcription_report
from purvey.models.inputs.audio import waveform
from purvey.models.speech.listening import Recogniser, transcribe
from purvey.models.speech.recogniser import save_speech_model
from purvey.models.speech.vocabulary import normalised
from purvey.models.speech.whisper.model import WhisperModel, save_whisper
from purvey.parse.parser import DecoderHere
from purvey.worker.training.hearing.learning import recogniser_learner
from purvey.worker.training.hearing.starting import start_recogniser
from purvey.worker.training.recordings import SpokenRows, spoken_rows
from purvey.worker.training.run import TrainingRun
from purvey.worker.training.slices import slices_of

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
    model = start_recogniser(run, said["train"])
    training, validation = (
        _spoken(run, model, split, audio, said[split]) for split in ("train", "validation")
    )
    if not len(training):
        raise InvalidValueError(
            "no training recording is short enough for the model, and long enough for what it "
            "says: set preprocess.audio.max_s, or cut the recordings.",
            param="recipe.dataset",
        )
    learner = recogniser_learner(run, model, training=training, validation=validation)
    state = run.train(learner)
    report = {}
    if said["test"]:
        run.link.event(f"Testing on {len(said['test'])} untouched rows.")
        recordings = run.splits["test"].media(audio)
        heard = [text_of(transcribe(model, partial(_read, model.spec, d))) for d in recordings]
        slices = slices_of(run.dataset.manifest, run.splits)
        report = transcription_report(said["test"], heard, run.bootstrap, slices)
    _save(model.with_manifest(lineage=run.lineage(), report=report), run.output)
    return run.result(state, report)


def _column(run: TrainingRun, kind: str) -> str:
    found = [column.name for column in run.dataset.manifest.columns if column.kind == kind]
    if not found:
        raise InvalidValueError(
            f"the dataset has no {kind} column: name one in its columns.", param="recipe.dataset"
        )
    return found[0]


def _save(model: Recogniser, folder: Path) -> None:
    if isinstance(model, WhisperModel):
        save_whisper(model, folder)
    else:
        save_speech_model(model, folder)


def _spoken(
    run: TrainingRun, model: Recogniser, split: str, audio: str, said: Sequence[str]
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
        run.tell_unvalidated()
    return found


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
