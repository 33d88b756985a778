"""What a model folder says of itself: the manifest `purvey.json` beside the weights."""

from typing import Annotated, Any, Literal

import msgspec

MANIFEST_NAME = "purvey.json"
EYES_NAME = "vision.safetensors"
"""What a model of family `vision-language` sees with, beside the weights of its decoder."""

DecoderFamily = Literal["gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"]
"""`model_type` of the Hugging Face configurations that our decoder computes."""

EncoderFamily = Literal["bert", "distilbert", "roberta", "xlm-roberta"]
"""`model_type` of the Hugging Face configurations that our encoder computes."""

PretrainedFamily = Literal["clip", "vit", "wav2vec2"]
"""`model_type` of the Hugging Face configurations of classifiers that transformers computes; `clip`
is that of image-and-text embedders, too."""

ClassifierTask = Literal[
    "text-classification", "image-classification", "audio-classification", "classification"
]
"""Tasks whose answer is one of the dataset's labels; `classification` takes any mix of inputs."""
TrainedTask = Literal[
    "text-generation",
    ClassifierTask,
    "regression",
    "speech-recognition",
    "image-text-to-text",
    "embedding",
]
"""What a recipe may train."""
Task = Literal[TrainedTask, "rerank"]
GENERATING: frozenset[Task] = frozenset({"text-generation", "image-text-to-text"})
"""Tasks whose models write text."""
Family = Literal[
    "decoder",
    "transformers",
    "encoder",
    "text-ngrams",
    "network",
    "module",
    "speech",
    PretrainedFamily,
    "whisper",
    "vision-language",
    "upstream",
]
"""`decoder`: models/decoder.py. `transformers`: models/foreign.py. `encoder`: models/encoder.
`text-ngrams`: models/text_ngrams.py. `network`: one of models/networks. `module`: a user's class.
`speech`: models/speech. `clip`, `vit`, `wav2vec2`: models/pretrained, and the last for task
speech-recognition models/speech/wav2vec2. `whisper`: models/speech/whisper. `vision-language`:
models/seeing. `upstream`: another server, never a folder."""
UPSTREAM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What an upstream, a server that computes models for this one, may be called."""
UpstreamTask = Literal["text-generation", "embedding"]
"""What is passed on to upstreams: chat and completions, or embeddings."""


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """Images are resized to `height` x `width`, scaled to [0, 1], then normalised per channel.

    Args:
        height: Rows.
        width: Columns.
        channels: 1 for grey, 3 for RGB.
        mean: Of each channel, taken off; nothing where there is none.
        std: Of each channel, divided by; nothing where there is none.
        is_cropped: Keep the proportions and take the middle, instead of squeezing the whole.
        is_bicubic: Resize by cubic instead of linear interpolation.
    """

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    is_cropped: bool = False
    is_bicubic: bool = False


class TextSpec(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Text of at most `max_bytes` UTF-8 bytes; what is longer is cut."""

    max_bytes: int = 65_536


class NumberSpec(msgspec.Struct, frozen=True, kw_only=True, tag="number"):
    """A finite number; the network sees `(number - mean) / std`."""

    mean: float = 0.0
    std: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class CategorySpec(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """One of a few texts; the network sees its place in `values` plus one, and 0 for any other."""

    values: tuple[str, ...]


class AudioSpec(msgspec.Struct, frozen=True, kw_only=True, tag="audio"):
    """Sound as mono samples at `sample_rate_hz`, then log-mel features where `num_mels` is set.

    Args:
        sample_rate_hz: Rate that recordings are resampled to.
        max_s: Seconds that are heard; what is longer is cut, what is shorter padded with silence.
        num_mels: Mel bands of 25 ms windows every 10 ms; 0 gives the samples themselves.
    """

    sample_rate_hz: int = 16_000
    max_s: float = 10.0
    num_mels: int = 64


InputSpec = ImageSpec | TextSpec | NumberSpec | CategorySpec | AudioSpec


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `purvey.json`.

    A folder without one is a Hugging Face folder: `contracts/hugging_face.py` says what for.

    Args:
        family: Which of our loaders reads the folder.
        task: What the model is for.
        labels: Class names in the order of the logits; empty for text generation.
        inputs: Input by name; a single one is named `input`, that of family `vision-language`
            `image`. Empty for text generation.
        hyperparameters: Keyword arguments that rebuild the network; of family `vision-language`
            those of its eyes.
        architecture: For family `network`: its name in models/networks.
        module: For family `module`: `file.py:Class`; the file's copy lies in the folder.
        module_sha256: For family `module`: hex digest of that copy; another file is not run.
        temperature: Softmax temperature fitted on validation rows; 1 when uncalibrated.
        is_calibrated: Whether `temperature` was fitted.
        score: For task regression: the score is `mean + std` times what the network gives.
        vocabulary: For families `speech` and `wav2vec2`: the characters that it writes, in the
            order of its outputs, which begin with the blank; `vocab.json` says them of the latter.
        base: Digest of the base folder when this folder holds only a LoRA adapter
            (`adapter_config.json`, `adapter_model.safetensors`), else None.
        lineage: Free record: recipe digest, dataset digest, code version, environment.
        report: Final test report: metric name to value, interval and count.
    """

    family: Family
    task: Task
    labels: tuple[str, ...] = ()
    inputs: dict[str, InputSpec] = {}
    hyperparameters: dict[str, Any] = {}  # JSON values of the user's own keyword arguments
    architecture: str | None = None
    module: str | None = None
    module_sha256: str | None = None
    temperature: float = 1.0
    is_calibrated: bool = False
    score: NumberSpec | None = None
    vocabulary: tuple[str, ...] = ()
    base: str | None = None
    lineage: dict[str, Any] = {}  # free-form JSON record
    report: dict[str, Any] = {}  # free-form JSON record


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process finds a model: read-only folders on this machine.

    Args:
        name: The registered name, for messages.
        folder: Absolute path of the model folder.
        digest: Content digest of the folder (hex SHA-256).
        base_folder: Folder of the base when `folder` is an adapter, else None.
        base_digest: Content digest of that folder.
    """

    name: str
    folder: str
    digest: str
    base_folder: str | None = None
    base_digest: str | None = None


class UpstreamModel(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model is that another server computes: the lineage of its record.

    Args:
        upstream: The server, by its name in the settings.
        model: What that server calls the model.
    """

    upstream: str
    model: str
