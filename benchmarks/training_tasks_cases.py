"""The tasks of `training_tasks_speed`: a network with its rows, for the product and for a hand.

Nothing is dropped out or augmented, so that both compute the same numbers.

Shape letters, this file only:
    N = rows   B = rows of a batch   L = labels   M = mel bands   F = frames   T = steps
    V = characters and the blank   D = width   X = whatever a network takes
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, ctc_loss, pad

from examples import morse
from purvey.contracts.engine import AudioInput, ImageInput, NamedInputs, TextInput
from purvey.contracts.model import (
    AudioSpec,
    ImageSpec,
    InputSpec,
    ModelManifest,
    Task,
    TextSpec,
    TrainedTask,
)
from purvey.data.loader import Rows
from purvey.models.classifier import Classifier, build_classifier
from purvey.models.encoder.building import build_encoder, train_tokenizer
from purvey.models.encoder.texts import TextReader
from purvey.models.inputs.audio import waveform
from purvey.models.speech.network import steps_of
from purvey.models.speech.recogniser import SpeechModel, build_speech_model
from purvey.models.speech.vocabulary import BLANK, Vocabulary
from purvey.parse.parser import DecoderHere
from purvey.train.classification import ClassifierLearner
from purvey.train.hearing.ctc import SpeechLearner
from purvey.train.learner import Learner
from purvey.train.vectors.contrastive import ContrastiveLearner
from purvey.train.vectors.pairs import Pairs
from purvey.worker.training.encoders.pairs import ByPair
from purvey.worker.training.inputs import PreparedRows
from purvey.worker.training.recordings import spoken_rows

NUM_ROWS = 512
_LABELS = ("a", "b", "c", "d")
_PICTURE = ImageSpec(height=32, width=32, channels=3)
_SOUND = AudioSpec(sample_rate_hz=morse.SAMPLE_RATE_HZ, max_s=1.0, num_mels=40)
_SPEECH = AudioSpec(sample_rate_hz=morse.SAMPLE_RATE_HZ, max_s=12.0, num_mels=32)
_DECODER = DecoderHere()
_CALM = {"dropout": 0.0}
_TEMPERATURE = 0.05
_MAX_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task.

    Args:
        task: As recipes name it.
        batch: Rows of a step.
        learner: What the product's loop trains.
        by_hand: Computes the loss of rows from tensors that were made beforehand, with the
            learner's own network.
    """

    task: TrainedTask
    batch: int
    learner: Learner
    by_hand: Callable[[list[int]], Tensor]


def pictures(architecture: str) -> Case:
    """Pictures of 32 x 32 in colour, by a built-in network of its usual size."""
    chance = np.random.default_rng(0)
    data = [_png(chance, 32) for _ in range(NUM_ROWS)]
    inputs = [{"input": ImageInput(data=one)} for one in data]
    return _built(
        "image-classification", architecture, {"input": _PICTURE}, {"input": data}, inputs
    )


def sounds() -> Case:
    """Recordings of a second, as mel bands."""
    chance = np.random.default_rng(0)
    samples = morse.SAMPLE_RATE_HZ
    data = [morse.wav(chance.normal(0, 0.1, samples).astype("f4")) for _ in range(NUM_ROWS)]
    inputs = [{"input": AudioInput(data=one)} for one in data]
    return _built(
        "audio-classification", "audio-convnet", {"input": _SOUND}, {"input": data}, inputs
    )


def mixtures() -> Case:
    """Pictures of 16 x 16 with a sentence each, fused."""
    chance = np.random.default_rng(0)
    photos, notes = [_png(chance, 16) for _ in range(NUM_ROWS)], _sentences(chance, NUM_ROWS)
    specs = {
        "photo": ImageSpec(height=16, width=16, channels=3),
        "note": TextSpec(max_bytes=64),
    }
    inputs = [
        {"photo": ImageInput(data=photo), "note": TextInput(text=note)}
        for photo, note in zip(photos, notes, strict=True)
    ]
    columns = {"photo": photos, "note": notes}
    return _built("classification", "fusion", specs, columns, inputs)


def texts() -> Case:
    """Sentences by a small encoder with a head, packed."""
    said = _sentences(np.random.default_rng(0), NUM_ROWS)
    tokenizer = train_tokenizer(said, vocabulary_size=400)
    framer = tokenizer.framer()
    torch.manual_seed(0)
    module = build_encoder(
        _CALM,
        vocabulary_size=framer.vocabulary_size,
        max_tokens=_MAX_TOKENS,
        num_labels=len(_LABELS),
    )
    manifest = ModelManifest(
        family="encoder",
        task="text-classification",
        labels=_LABELS,
        inputs={"input": TextSpec()},
        hyperparameters={"max_tokens": _MAX_TOKENS},
    )
    reader = TextReader(framer=framer, max_tokens=_MAX_TOKENS)
    classifier = Classifier(manifest=manifest, module=module, reader=reader)
    items = [classifier.prepare({"input": TextInput(text=text)}) for text in said]

    def logits(rows: list[int]) -> Tensor:
        tokens, kinds = zip(*(items[row] for row in rows), strict=True)
        lengths_B = torch.tensor([len(one) for one in tokens])
        found_BL: Tensor = module(torch.cat(tokens), torch.cat(kinds), lengths_B)
        return found_BL

    return _classified("text-classification", classifier, {"input": said}, logits)


def vectors() -> Case:
    """Pairs of sentences by the same encoder, each to be told from the others of its batch."""
    chance = np.random.default_rng(0)
    asked, found = (_sentences(chance, NUM_ROWS) for _ in range(2))
    found = [f"{text} {number}" for number, text in enumerate(found)]  # no two are the same
    asked = [f"{number} {text}" for number, text in enumerate(asked)]
    tokenizer = train_tokenizer([*asked, *found], vocabulary_size=400)
    framer = tokenizer.framer()
    torch.manual_seed(0)
    module = build_encoder(_CALM, vocabulary_size=framer.vocabulary_size, max_tokens=_MAX_TOKENS)
    reader = TextReader(framer=framer, max_tokens=_MAX_TOKENS)
    asked_N, found_N = (
        [reader.framed(text, param="text") for text in side] for side in (asked, found)
    )
    learner = ContrastiveLearner(
        module,
        pooling="mean",
        sizes=[module.config.hidden_size],
        pairs=Pairs(asked=asked_N, found=found_N, belonging=ByPair(asked, range(NUM_ROWS))),
        validation=Pairs(asked=[], found=[], belonging=ByPair([], [])),
        measure=lambda asked, found: {},
        temperature=_TEMPERATURE,
        batch_size=32,
        seed=0,
    )

    def by_hand(rows: list[int]) -> Tensor:
        given = [*(asked_N[row] for row in rows), *(found_N[row] for row in rows)]
        asked_BD, found_BD = module.vectors(given, "mean").split(len(rows))
        return cross_entropy(asked_BD @ found_BD.T / _TEMPERATURE, torch.arange(len(rows)))

    return Case(task="embedding", batch=32, learner=learner, by_hand=by_hand)


def speech() -> Case:
    """Morse of up to three words, written down by the usual recogniser."""
    chance = np.random.default_rng(0)
    drawn = [morse.drawn(chance) for _ in range(NUM_ROWS)]
    said = [text for text, _ in drawn]
    torch.manual_seed(0)
    model = build_speech_model(
        architecture="ctc", hyperparameters=_CALM, spec=_SPEECH, vocabulary=Vocabulary.of(said)
    )
    rows = spoken_rows(
        model, [morse.wav(samples) for _, samples in drawn], said, read=_read, augment=None
    )
    learner = SpeechLearner(
        model.module,
        recordings=rows,
        targets=rows.targets,
        validation=spoken_rows(model, [], [], read=_read, augment=None),
        validation_targets=[],
        measure=lambda heard: {},
        batch_size=16,
        seed=0,
    )
    by_hand = partial(_ctc, model, [rows.features(row) for row in range(len(rows))], rows.targets)
    return Case(task="speech-recognition", batch=16, learner=learner, by_hand=by_hand)


CASES: dict[str, Callable[[], Case]] = {
    "images, convnet": partial(pictures, "convnet"),
    "images, vit": partial(pictures, "vit"),
    "sounds, audio-convnet": sounds,
    "mixtures, fusion": mixtures,
    "texts, encoder": texts,
    "vectors, encoder": vectors,
    "speech, ctc": speech,
}


def _ctc(
    model: SpeechModel,
    features: Sequence[Tensor],
    targets: Sequence[list[int]],
    rows: list[int],
) -> Tensor:
    """Return the mean loss per character; each of `features` is `x_MF`."""
    chosen = [features[row] for row in rows]
    lengths = [x_MF.shape[1] for x_MF in chosen]
    longest = max(lengths)
    x_BMF = torch.stack([pad(x_MF, (0, longest - x_MF.shape[1])) for x_MF in chosen])
    logp_BTV = model.module(x_BMF, torch.tensor(lengths))
    wanted = [targets[row] for row in rows]
    total = ctc_loss(
        logp_BTV.transpose(0, 1),
        torch.tensor([number for one in wanted for number in one]),
        torch.tensor([steps_of(length) for length in lengths]),
        torch.tensor([len(one) for one in wanted]),
        blank=BLANK,
        reduction="sum",
    )
    return total / sum(map(len, wanted))


def _built(
    task: Task,
    architecture: str,
    specs: Mapping[str, InputSpec],
    columns: Mapping[str, list[Any]],
    inputs: Sequence[NamedInputs],
) -> Case:
    """Return a case of a built-in network, whose inputs stand in one tensor each."""
    torch.manual_seed(0)
    classifier = build_classifier(
        task=task,
        labels=_LABELS,
        architecture=architecture,
        hyperparameters=_CALM,
        inputs=dict(specs),
    )
    items = [classifier.prepare(one, decoder=_DECODER) for one in inputs]
    stacked = [torch.stack(column) for column in zip(*items, strict=True)]

    def logits(rows: list[int]) -> Tensor:
        chosen_B = torch.tensor(rows)
        found_BL: Tensor = classifier.module(*(x_NX.index_select(0, chosen_B) for x_NX in stacked))
        return found_BL

    return _classified(task, classifier, columns, logits)


def _classified(
    task: Task,
    classifier: Classifier,
    columns: Mapping[str, list[Any]],
    logits: Callable[[list[int]], Tensor],
) -> Case:
    targets_N = np.random.default_rng(1).integers(0, len(_LABELS), NUM_ROWS)
    wanted_N, names = torch.from_numpy(targets_N), {name: name for name in columns}
    none = Rows(columns={name: [] for name in columns}, num_rows=0)
    rows = Rows(columns=dict(columns), num_rows=NUM_ROWS)
    learner = ClassifierLearner(
        classifier.module,
        examples=PreparedRows(classifier, rows, names),
        targets=targets_N,
        validation=PreparedRows(classifier, none, names),
        validation_targets=targets_N[:0],
        measure=lambda logits, wanted: {},
        seed=0,
    )

    def by_hand(rows: list[int]) -> Tensor:
        return cross_entropy(logits(rows), wanted_N.index_select(0, torch.tensor(rows)))

    return Case(task=task, batch=32, learner=learner, by_hand=by_hand)


def _read(data: bytes, start_s: float, max_s: float) -> Tensor:
    return waveform(
        data,
        sample_rate_hz=_SPEECH.sample_rate_hz,
        max_s=max_s,
        start_s=start_s,
        param="file",
        decoder=_DECODER,
    )


def _png(chance: np.random.Generator, size: int) -> bytes:
    encoded = io.BytesIO()
    pixels_HWC = chance.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels_HWC).save(encoded, "PNG")
    return encoded.getvalue()


def _sentences(chance: np.random.Generator, count: int) -> list[str]:
    return [" ".join(chance.choice(morse.WORDS, chance.integers(3, 20))) for _ in range(count)]
