"""Recordings with their transcripts, as a speech learner takes them.

Shape letters, this file only:
    N = samples
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from purvey.contracts.model import AudioSpec
from purvey.contracts.recipe_parts.inputs import AudioAugment
from purvey.models.inputs.augment_audio import augment_audio

_CACHE_BYTES = 2 * 2**30
"""Features kept in memory; beyond it they are computed at every visit."""
_SLACK_S = 0.02
"""By how much a recording may be longer than told: lengths are told in rounded seconds."""

ReadRecording = Callable[[bytes, float, float], Tensor]
"""From an encoded recording, a start and so many seconds at most, to `samples_N`."""


class Taught(Protocol):
    """A recogniser that recordings and transcripts are made ready for."""

    @property
    def spec(self) -> AudioSpec:
        """How it hears; nothing longer than `max_s` is learned from."""
        ...

    def features(self, samples_N: Tensor) -> Tensor:
        """Return samples as its network takes them; the last axis counts time."""
        ...

    def targets(self, text: str, *, num_samples: int) -> list[int]:
        """Return the numbers of what is said in so many samples."""
        ...

    def why_not(self, x: Tensor, numbers: list[int]) -> str | None:
        """Say why a recording is not learned from; None where it is."""
        ...


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

    def __init__(self, model: Taught, *, read: ReadRecording, augment: AudioAugment | None) -> None:
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
        """How long the features of each row are."""
        return self._lengths

    def features(self, row: int) -> Tensor:
        """Return a row as the network takes it, changed at random where gradients are on."""
        is_kept = row < len(self._kept)
        x = self._kept[row] if is_kept else self._model.features(self.decoded(self._data[row]))
        if self._augment is None or not torch.is_grad_enabled():
            return x
        return augment_audio(x, self._augment)

    def decoded(self, data: bytes) -> Tensor:
        """Decode a recording to `samples_N`; of one that is too long, a little more than it may."""
        return self._read(data, 0.0, self._model.spec.max_s + 2 * _SLACK_S)

    def add(self, data: bytes, x: Tensor, *, numbers: list[int], said: str) -> None:
        """Take one row more."""
        if len(self._kept) == len(self._data) and self._kept_bytes + x.nbytes <= _CACHE_BYTES:
            self._kept.append(x)
            self._kept_bytes += x.nbytes
        self._data.append(data)
        self._lengths.append(x.shape[-1])
        self.targets.append(numbers)
        self.references.append(said)


def spoken_rows(
    model: Taught,
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
    longest = round((model.spec.max_s + _SLACK_S) * model.spec.sample_rate_hz)
    left_out: Counter[str] = Counter()
    for data, text in zip(recordings, said, strict=True):
        samples_N = rows.decoded(data)
        if len(samples_N) > longest:
            left_out[f"longer than {model.spec.max_s:g} s"] += 1
            continue
        x, numbers = model.features(samples_N), model.targets(text, num_samples=len(samples_N))
        why_not = model.why_not(x, numbers)
        if why_not is None:
            rows.add(data, x, numbers=numbers, said=text)
        else:
            left_out[why_not] += 1
    rows.left_out = [(count, why) for why, count in sorted(left_out.items())]
    return rows
