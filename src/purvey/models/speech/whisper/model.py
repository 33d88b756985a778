"""A recogniser of the Whisper family: its network, its tokens, its folder.

Shape letters, this file only:
    N = samples   M = mel bands   F = frames   S = steps of a window   D = width
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from purvey.contracts.hugging_face import INPUTS_NAME
from purvey.contracts.model import AudioSpec, ModelManifest
from purvey.contracts.speech.transcription import SpeechSkills
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.config_fields import Fields
from purvey.models.folder.manifest import read_manifest, write_manifest
from purvey.models.pretrained.library import check_folder_of_library, open_network
from purvey.models.speech.vocabulary import normalised
from purvey.models.speech.whisper.decoding import Decoded, decode
from purvey.models.speech.whisper.segments import divided
from purvey.models.speech.whisper.tokens import (
    GENERATION_NAME,
    WhisperTokens,
    read_whisper_tokens,
)
from purvey.models.speech.words import is_wide
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import CONFIG_NAME

LANGUAGE = "language"
"""In the hyperparameters of family `whisper`: that of the transcripts it was trained on."""
_CLASS = "WhisperForConditionalGeneration"
_INPUT = "input"
_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "normalizer.json"),
    *("special_tokens_map.json", "added_tokens.json", GENERATION_NAME, INPUTS_NAME),
)
"""Files of a base that stand beside what is trained on it, where they are there."""


@dataclass(frozen=True, kw_only=True)
class WhisperModel:
    """A recogniser. Thread-safe to use.

    Args:
        manifest: Its input; in its hyperparameters the language that it was trained on, if any.
        module: The library's network; float32, on the CPU.
        tokenizer: Of its text.
        tokens: What steers it.
        folder: What it was loaded from.
    """

    manifest: ModelManifest
    module: nn.Module
    tokenizer: Tokenizer
    tokens: WhisperTokens
    folder: Path

    @property
    def spec(self) -> AudioSpec:
        """How it hears; `max_s` is the length of its windows."""
        spec = self.manifest.inputs[_INPUT]
        assert isinstance(spec, AudioSpec), "a recogniser hears"
        return spec

    @property
    def network(self) -> Any:  # noqa: ANN401 (transformers is untyped here)
        """The module as what it is."""
        return self.module

    @property
    def step_s(self) -> float:
        """Seconds of a step: the least time between two moments."""
        return self.spec.max_s / int(self.network.config.max_source_positions)

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return round(self.spec.max_s * self.spec.sample_rate_hz)

    @property
    def language(self) -> str | None:
        """Code of the language that it was trained on; None where it was not trained here."""
        found = self.manifest.hyperparameters.get(LANGUAGE)
        return found if isinstance(found, str) and found in self.tokens.languages else None

    @property
    def skills(self) -> SpeechSkills:
        """What it can do."""
        return SpeechSkills(
            languages=tuple(sorted(self.tokens.languages)),
            takes_prompt=self.tokens.previous is not None,
            translates="translate" in self.tokens.tasks,
            has_word_times=bool(self.tokens.alignment),
        )

    @property
    def num_parameters(self) -> int:
        """Weights, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def features(self, samples_N: Tensor) -> Tensor:
        """Return `x_MF` of a window or less at the model's rate, float32, as the library makes it.

        Raises:
            InvalidValueError: There is no sample.
        """
        if not len(samples_N):
            raise InvalidValueError("the recording is empty.", param="file")
        found = self._extractor(
            samples_N.numpy(), sampling_rate=self.spec.sample_rate_hz, return_tensors="np"
        )
        x_MF: Tensor = torch.from_numpy(found.input_features[0])
        return x_MF

    @torch.inference_mode()
    def states(self, samples_N: Tensor) -> Tensor:
        """Return `states_1SD`, what the encoder makes of a window."""
        x_MF = self.features(samples_N)
        states_1SD: Tensor = self.network.model.encoder(x_MF[None]).last_hidden_state
        return states_1SD

    @torch.inference_mode()
    def written(self, x_MF: Tensor, *, most: int) -> Decoded:
        """Write down the features of a window in the language it was trained on."""
        states_1SD = self.network.model.encoder(x_MF[None]).last_hidden_state
        return decode(self.network, states_1SD, self.prefix, self.tokens, most=most)

    @property
    def prefix(self) -> list[int]:
        """What the outputs that it learns begin with."""
        return self.tokens.prefix(self.language, "transcribe")

    def targets(self, text: str, *, num_samples: int) -> list[int]:
        """Return what is written of a recording: text between its two ends; none of no text."""
        if not text:
            return []
        said = text if is_wide(text[0]) else f" {text}"
        config, first = self.network.config, self.tokens.first_moment
        steps = round(num_samples / self.spec.sample_rate_hz / self.step_s)
        last = min(first + steps, config.vocab_size - 1, first + config.max_source_positions)
        return [first, *self.tokenizer.encode(said), last, self.tokens.end]

    def why_not(self, x: Tensor, numbers: list[int]) -> str | None:
        """Say why a recording is not learned from; None where it is."""
        if not numbers:
            return "without words"
        room = int(self.network.config.max_target_positions) - len(self.prefix)
        return None if len(numbers) <= room else f"longer than {room} tokens"

    def text(self, ids: Sequence[int]) -> str:
        """Return the text among ids, without moments."""
        decoded = Decoded(ids=tuple(ids), logprobs=(0.0,) * len(ids), no_speech=0.0)
        parts = divided(decoded, first_moment=self.tokens.first_moment).parts
        return normalised("".join(self.tokenizer.decode(part.ids) for part in parts))

    def with_manifest(self, **changes: Any) -> "WhisperModel":  # noqa: ANN401 (fields of the manifest)
        """Return the same network with other words about it (report, lineage)."""
        manifest = msgspec.structs.replace(self.manifest, **changes)
        return WhisperModel(
            manifest=manifest,
            module=self.module,
            tokenizer=self.tokenizer,
            tokens=self.tokens,
            folder=self.folder,
        )

    @cached_property
    def _extractor(self) -> Any:  # noqa: ANN401 (transformers is untyped here)
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(self.folder, local_files_only=True)


def load_whisper(folder: Path) -> WhisperModel:
    """Load a folder in evaluation mode.

    Raises:
        InvalidCheckpointError: Names what is missing, unsafe or does not fit.
    """
    check_folder_of_library(folder)
    manifest = read_manifest(folder)
    if not isinstance(manifest.inputs.get(_INPUT), AudioSpec):
        raise _refusal(
            f"{CONFIG_NAME} and {INPUTS_NAME} do not agree on the length of a window, or on more."
        )
    Fields(manifest.hyperparameters, at="hyperparameters.").refuse_unknown((LANGUAGE,))
    opened = open_network(folder, _CLASS, family=manifest.family)
    for name in sorted(opened.missing):
        raise _refusal(f"tensor {name[:200]!r} is missing or misshapen.")
    network = opened.network
    network.config.apply_spec_augment = False
    tokenizer = Tokenizer.from_folder(folder)
    return WhisperModel(
        manifest=manifest,
        module=network,
        tokenizer=tokenizer,
        tokens=read_whisper_tokens(folder, tokenizer, vocabulary_size=network.config.vocab_size),
        folder=folder,
    )


def save_whisper(model: WhisperModel, folder: Path) -> None:
    """Write the folder as the library does, with what its base says of text, and our manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    model.network.save_pretrained(folder)
    for name in _COPIED:
        if (model.folder / name).is_file():
            shutil.copyfile(model.folder / name, folder / name)
    write_manifest(folder, model.manifest)


def _refusal(message: str) -> InvalidCheckpointError:
    return InvalidCheckpointError(message, param="model")
