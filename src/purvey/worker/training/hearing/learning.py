"""The learner of a recogniser: by CTC, or token by token."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from purvey.evaluate.transcripts import error_rates
from purvey.models.speech.listening import Recogniser
from purvey.models.speech.vocabulary import normalised
from purvey.models.speech.whisper.model import WhisperModel
from purvey.train.hearing.ctc import SpeechLearner
from purvey.train.hearing.sequences import SequenceLearner
from purvey.train.learner import Learner
from purvey.worker.training.placing import place_fed, stay
from purvey.worker.training.recordings import SpokenRows
from purvey.worker.training.run import TrainingRun


def recogniser_learner(
    run: TrainingRun, model: Recogniser, *, training: SpokenRows, validation: SpokenRows
) -> Learner:
    """Return what learns, where it is to be computed.

    Raises:
        SettingError: There is to be a CUDA device, and there is none.
    """
    batch_size, seed = run.config.train.batch_size, run.config.seed
    if isinstance(model, WhisperModel):
        stay(run)
        return SequenceLearner(
            model.module,
            prefix=model.prefix,
            recordings=training,
            targets=training.targets,
            validation=validation,
            validation_targets=validation.targets,
            write=partial(_written, model),
            measure=partial(_measure, model.text, validation.references),
            batch_size=batch_size,
            seed=seed,
        )
    place_fed(run, model.module)
    return SpeechLearner(
        model.module,
        recordings=training,
        targets=training.targets,
        validation=validation,
        validation_targets=validation.targets,
        measure=partial(_measure, model.vocabulary.decode, validation.references),
        batch_size=batch_size,
        seed=seed,
    )


def _written(model: WhisperModel, x_MF: Tensor, most: int) -> list[int]:
    return list(model.written(x_MF, most=most).ids)


def _measure(
    text_of: Callable[[Sequence[int]], str], references: Sequence[str], heard: list[list[int]]
) -> dict[str, float]:
    return error_rates(references, [normalised(text_of(numbers)) for numbers in heard])
