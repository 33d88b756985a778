"""Declare a user's own `torch.nn.Module` to Purvey: `import purvey.module as pm`.

Declarations only; nothing here imports torch, so a class can be declared, listed and
validated where no tensor library is installed.

    @pm.model(task="image-classification", input=pm.Image(height=32, width=32, channels=3))
    class Net(nn.Module):
        def __init__(self, *, num_classes: int, width: int = 6): ...
        def forward(self, x_BCHW): ...  # -> logits_BL
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

ModuleTask = Literal[
    "image-classification",
    "text-classification",
    "audio-classification",
    "classification",
    "regression",
]

DECLARATION = "__purvey_model__"
"""Attribute of a declared class that holds its `ModelDeclaration`."""

T = TypeVar("T", bound=type)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image input: the module receives float32 `x_BCHW` in [0, 1], then normalised.

    Args:
        height: Rows in pixels; images are resized to it.
        width: Columns in pixels; images are resized to it.
        channels: 1 (grey) or 3 (RGB).
        mean: Per channel, subtracted after scaling to [0, 1].
        std: Per channel, divided by after subtracting `mean`.
    """

    height: int
    width: int
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text input: the module receives int64 byte values plus one `x_BT`, padded with 0.

    Args:
        max_bytes: Longest input in UTF-8 bytes; what is longer is cut.
    """

    max_bytes: int = 1_024


@dataclass(frozen=True, kw_only=True)
class Number:
    """A numeric input: the module receives float32 `x_B`, `(number - mean) / std`."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            msg = "std of purvey.module.Number must be above 0"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of a few texts: the module receives int64 `x_B`, its place in `values` from 1 on.

    Args:
        values: The texts, each once; any other is 0.
    """

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values):
            msg = "values of purvey.module.Category name one of them twice"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Audio:
    """A recording: the module receives float32 log-mel features `x_BMF`, of mean 0, deviation 1.

    With `num_mels=0` it receives the samples themselves, `x_BT` in [-1, 1].

    Args:
        sample_rate_hz: Rate that recordings are resampled to.
        max_s: Seconds that are heard; what is longer is cut, what is shorter padded with silence.
        num_mels: Mel bands, from windows of 25 ms every 10 ms.
    """

    sample_rate_hz: int = 16_000
    max_s: float = 10.0
    num_mels: int = 64

    def __post_init__(self) -> None:
        is_heard = 1_000 <= self.sample_rate_hz <= 48_000 and 0.05 < self.max_s <= 600
        if not is_heard or self.num_mels not in {0, *range(8, 257)}:
            msg = (
                "purvey.module.Audio takes a sample_rate_hz from 1000 to 48000, a max_s from 0.05 "
                "to 600, and num_mels from 8 to 256, or 0 for samples"
            )
            raise ValueError(msg)


Input = Image | Text | Number | Category | Audio


@dataclass(frozen=True, kw_only=True)
class ModelDeclaration:
    """What a declared class takes and gives.

    Args:
        task: What the module is for.
        inputs: Input by name, in the order of `forward`'s parameters; a single input is
            named `input`.
    """

    task: ModuleTask
    inputs: Mapping[str, Input]


def model(
    *,
    task: ModuleTask,
    input: Input | None = None,  # noqa: A002 (a declaration reads as a sentence)
    inputs: Mapping[str, Input] | None = None,
) -> Callable[[T], T]:
    """Mark a class as a model that Purvey can train, serve and explain.

    Args:
        task: What the module is for; classifiers receive `num_classes` and return `logits_BL`. A
            regression receives 1 and returns `x_B1`: the score, in deviations from its mean.
        input: The only input, or
        inputs: Several, by name, passed to `forward` in this order.

    Raises:
        ValueError: Neither or both of `input` and `inputs` were given.
    """
    if (input is None) == (inputs is None):
        msg = "give either input=... or inputs={...} to purvey.module.model"
        raise ValueError(msg)
    named = dict(inputs) if inputs is not None else {"input": input}
    declaration = ModelDeclaration(task=task, inputs={k: v for k, v in named.items() if v})

    def mark(cls: T) -> T:
        setattr(cls, DECLARATION, declaration)
        return cls

    return mark
