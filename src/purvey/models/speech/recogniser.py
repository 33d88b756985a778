"""A speech recogniser: its encoder, its vocabulary, its folder.

Shape letters, this file only:
    N = samples   T = steps   V = characters and the blank
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from purvey.contracts.model import AudioSpec, ModelManifest
from purvey.contracts.sizes import check_parameters
from purvey.contracts.speech.transcription import SpeechSkills
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.folder.network_file import load_network_weights
from purvey.models.folder.safetensors_file import write_tensors
from purvey.models.speech import network
from purvey.models.speech.ctc import CtcNetwork
from purvey.models.speech.decoding import Logprobs
from purvey.models.speech.network import CtcEncoder
from purvey.models.speech.vocabulary import BLANK, Vocabulary, least_steps
from purvey.models.speech.wav2vec2.folders import load_ctc, save_ctc
from purvey.models.speech.wav2vec2.network import CtcWav2Vec2
from purvey.models.speech.windows import Read, Window, pieces, windows
from purvey.models.weights import WEIGHTS_NAME, refuse_unsafe_files

ARCHITECTURE = "ctc"
_INPUT = "input"
_LEAST_WINDOW_S = 10.0
_HYPERPARAMETERS = ("width", "depth", "kernel", "dropout")
_MOST_BLOCKS, _WIDEST_KERNEL = 256, 255


@dataclass(frozen=True, kw_only=True)
class SpeechModel:
    """A recogniser. Thread-safe to use.

    Args:
        manifest: Its input, characters, hyperparameters.
        module: The network; float32, on the CPU.
    """

    manifest: ModelManifest
    module: CtcNetwork

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What it can write."""
        return Vocabulary(characters=self.manifest.vocabulary)

    @property
    def spec(self) -> AudioSpec:
        """How it hears."""
        return _spec_of(self.manifest)

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.module.step_samples(self.spec) / self.spec.sample_rate_hz

    @property
    def skills(self) -> SpeechSkills:
        """What it can do."""
        return SpeechSkills()

    @property
    def num_parameters(self) -> int:
        """Weights."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def features(self, samples_N: Tensor) -> Tensor:
        """Return samples at the model's rate as its network takes them, float32.

        Raises:
            InvalidValueError: There is no sample.
        """
        if not len(samples_N):
            raise InvalidValueError("the recording is empty.", param="file")
        return self.module.features(samples_N, self.spec)

    def targets(self, text: str, *, num_samples: int) -> list[int]:
        """Return the numbers of what is said in a recording, however long that is."""
        return self.vocabulary.encode(text)

    def why_not(self, x: Tensor, numbers: list[int]) -> str | None:
        """Say why a recording is not learned from; None where it is."""
        if numbers and self.module.steps_of(x.shape[-1]) >= least_steps(numbers):
            return None
        return "too short for what is said, or nothing of that is known"

    def windows(self, read: Read) -> Iterator[Window]:
        """Yield a recording as windows of at least 10 s; one that fits is one window.

        Args:
            read: Decodes a part of it.
        """
        reach_steps = self.module.reach_steps
        least_s = max(self.spec.max_s, _LEAST_WINDOW_S)
        return windows(
            pieces(read, sample_rate_hz=self.spec.sample_rate_hz),
            step_samples=self.module.step_samples(self.spec),
            window_steps=max(round(least_s / self.step_s), 4 * reach_steps),
            reach_steps=reach_steps,
        )

    @torch.inference_mode()
    def log_probabilities(self, window: Window) -> Logprobs:
        """Return `logp_TV` of a window's steps that count; silence is all blank.

        Each window is computed alone, so that no other changes a bit of it.
        """
        x = self.features(window.samples)
        num_steps = self.module.steps_of(x.shape[-1])
        if x.any():
            logp_BTV = self.module(x[None], torch.tensor([x.shape[-1]]))
            logp_TV: Logprobs = logp_BTV[0, :, : self.module.num_outputs].numpy()
        else:
            logp_TV = np.full((num_steps, self.module.num_outputs), -np.inf, np.float32)
            logp_TV[:, BLANK] = 0.0
        return logp_TV[window.first_step : window.end_step]

    def with_manifest(self, **changes: Any) -> "SpeechModel":  # noqa: ANN401 (fields of the manifest)
        """Return the same network with other words about it (report, lineage)."""
        manifest = msgspec.structs.replace(self.manifest, **changes)
        return SpeechModel(manifest=manifest, module=self.module)


def build_speech_model(
    *,
    architecture: str | None,
    hyperparameters: Mapping[str, Any],
    spec: AudioSpec,
    vocabulary: Vocabulary,
) -> SpeechModel:
    """Build a fresh recogniser; its weights come from torch's default generator.

    Args:
        architecture: `ctc`, or None for the same.
        hyperparameters: `width`, `depth`, `kernel` and `dropout` of the encoder.
        spec: How it hears.
        vocabulary: What it can write.

    Raises:
        InvalidValueError: Names the recipe field at fault.
    """
    if architecture not in (None, ARCHITECTURE):
        raise InvalidValueError(
            f"{architecture!r} is no architecture for 'speech-recognition': use {ARCHITECTURE!r}.",
            param="model.architecture",
        )
    manifest = ModelManifest(
        family="speech",
        task="speech-recognition",
        inputs={_INPUT: spec},
        hyperparameters=dict(hyperparameters),
        architecture=ARCHITECTURE,
        vocabulary=vocabulary.characters,
    )
    return SpeechModel(manifest=manifest, module=_encoder(manifest))


def save_speech_model(model: SpeechModel, folder: Path) -> None:
    """Write `purvey.json` and `model.safetensors`; of Wav2Vec2, a folder of `transformers`."""
    if isinstance(model.module, CtcWav2Vec2):
        save_ctc(folder, model.module, model.manifest)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(model.module.state_dict(), folder / WEIGHTS_NAME)
    write_manifest(folder, model.manifest)


def load_speech_model(folder: Path) -> SpeechModel:
    """Load a saved recogniser in evaluation mode.

    Raises:
        InvalidCheckpointError: A file is missing, unsafe, or does not fit the network.
    """
    refuse_unsafe_files(folder)
    manifest = read_manifest(folder)
    if manifest.family == "wav2vec2":
        return recogniser_of(load_ctc(folder, manifest), manifest)
    spec = manifest.inputs.get(_INPUT)
    is_heard = isinstance(spec, AudioSpec) and spec.num_mels > 0
    if manifest.task != "speech-recognition" or not manifest.vocabulary or not is_heard:
        raise InvalidCheckpointError(
            "purvey.json describes no recogniser: a recording in mel bands as its input, and the "
            "characters that it writes.",
            param="model",
        )
    encoder = _encoder(manifest)
    load_network_weights(encoder, folder / WEIGHTS_NAME)
    return SpeechModel(manifest=manifest, module=encoder.eval())


def recogniser_of(network: CtcWav2Vec2, manifest: ModelManifest) -> SpeechModel:
    """Return a network as a recogniser, whatever its folder was for."""
    written = msgspec.structs.replace(
        manifest,
        task="speech-recognition",
        labels=(),
        temperature=1.0,
        is_calibrated=False,
        vocabulary=network.tokens.characters,
    )
    return SpeechModel(manifest=written, module=network)


def _spec_of(manifest: ModelManifest) -> AudioSpec:
    spec = manifest.inputs[_INPUT]
    assert isinstance(spec, AudioSpec), "a recogniser hears"
    return spec


def _encoder(manifest: ModelManifest) -> CtcEncoder:
    fields = Fields(manifest.hyperparameters, error=InvalidValueError, at="model.hyperparameters.")
    fields.refuse_unknown(_HYPERPARAMETERS)
    kernel = fields.count("kernel", default=network.DEFAULT_KERNEL, at_most=_WIDEST_KERNEL)
    if kernel % 2 == 0:
        raise fields.refusal("kernel", "must be odd, so that a step lies in its middle")
    sizes = {
        "num_mels": _spec_of(manifest).num_mels,
        "num_outputs": len(manifest.vocabulary) + 1,
        "width": fields.count("width", default=network.DEFAULT_WIDTH),
        "depth": fields.count("depth", default=network.DEFAULT_DEPTH, at_most=_MOST_BLOCKS),
        "kernel": kernel,
    }
    told = f"{sizes['depth']} blocks of width {sizes['width']}"
    check_parameters(network.num_parameters_of(**sizes), told)
    dropout = fields.fraction("dropout", default=network.DEFAULT_DROPOUT)
    return CtcEncoder(**sizes, dropout=dropout)
