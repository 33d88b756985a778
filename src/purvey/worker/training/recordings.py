"""Recordings with their transcripts, as a speech learner takes them.

Shape letters, this file only:
    N = samples   M = mel bands   F = frames
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from purvey.contracts.recipe_parts.inputs import AudioAugment
from purvey.models.inputs.augment_audio import augment_audio
from purvey.models.speech.network import FRAMES_PER_STEP, steps_of
from purvey.models.speech.recogniser import SpeechModel
from purvey.models.speech.vocabulary import least_steps

_CACHE_BYTES = 2 * 2**30
"""Features kept in memory; beyond it they are computed at every visit."""
_SLACK_S = 0.02
"""By how much a recording may be longer than told: lengths are told in rounded seconds."""

ReadRecording = Callable[[bytes, float, float], Tensor]
"""From an encoded recording, a start and so many seconds at most, to `samples_N`."""


class SpokenRows:
    """The recordings of a split that fit their transcripts and the model, decoded once.

    Args:
        model: What they are made ready for.
        read: Decodes them.
        augment: What changes features while gradients are on, drawing from torch's default
            generator; None leaves them.

    Attributes:
        targets: Numbers of the characters of each row.
        references: What is said in each row.
        left_out: How many rows were left out, and why.
    """

    def __init__(
        self, model: SpeechModel, *, read: ReadRecording, augment: AudioAugment | None
    ) -> None:
        self._model, self._read = model, read
        self._augment = None if augment == AudioAugment() else augment
        self._data: list[bytes] = []
        self._lengths: list[int] = []
        self._kept: list[Tensor] = []
        self._kept_bytes = 0
        self.targets: list[list[int]] = []
        self.references: list[str] = []
        self.left_out: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._data)

    @property
    def lengths(self) -> Sequence[int]:
        """Frames of each row."""
        return self._lengths

    def features(self, row: int) -> Tensor:
        """Return `x_MF` of a row, changed at random where gradients are on."""
        x_MF = self._kept[row] if row < len(self._kept) else self.prepare(self._data[row])
        if self._augment is None or not torch.is_grad_enabled():
            return x_MF
        return augment_audio(x_MF, self._augment)

    def prepare(self, data: bytes) -> Tensor:
        """Decode a recording to `x_MF`; one that is too long keeps a little more than it may."""
        longest_s = self._model.spec.max_s + 2 * _SLACK_S
        return self._model.features(self._read(data, 0.0, longest_s))

    def add(self, data: bytes, x_MF: Tensor, *, numbers: list[int], said: str) -> None:
        """Take one row more."""
        if len(self._kept) == len(self._data) and self._kept_bytes + x_MF.nbytes <= _CACHE_BYTES:
            self._kept.append(x_MF)
            self._kept_bytes += x_MF.nbytes
        self._data.append(data)
        self._lengths.append(x_MF.shape[1])
        self.targets.append(numbers)
        self.references.append(said)


def spoken_rows(
    model: SpeechModel,
    recordings: Sequence[bytes],
    said: Sequence[str],
    *,
    read: ReadRecording,
    augment: AudioAugment | None,
) -> SpokenRows:
    """Decode the recordings of a split, and leave out what cannot be learned from.

    Args:
        model: What they are made ready for.
        recordings: Encoded.
        said: What is said in each, normalised.
        read: Decodes them.
        augment: Random changes while gradients are on.

    Raises:
        InvalidValueError: A recording cannot be decoded.
    """
    rows = SpokenRows(model, read=read, augment=augment)
    longest = 1 + round((model.spec.max_s + _SLACK_S) * FRAMES_PER_STEP / model.step_s)
    num_long = num_short = 0
    for data, text in zip(recordings, said, strict=True):
        x_MF, numbers = rows.prepare(data), model.vocabulary.encode(text)
        if x_MF.shape[1] > longest:
            num_long += 1
        elif steps_of(x_MF.shape[1]) < least_steps(numbers) or not numbers:
            num_short += 1
        else:
            rows.add(data, x_MF, numbers=numbers, said=text)
    if num_long:
        rows.left_out.append((num_long, f"longer than {model.spec.max_s:g} s"))
    if num_short:
        rows.left_out.append((num_short, "too short for what is said, or nothing of that is known"))
    return rows
