"""What a one-pass model reads of a dataset: inputs declared from its columns, rows as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from purvey.contracts.data import INPUT_KINDS, ColumnKind, DatasetManifest
from purvey.contracts.engine import (
    AudioInput,
    ImageInput,
    NamedInputs,
    NumberInput,
    PlainInput,
    TextInput,
)
from purvey.contracts.model import (
    AudioSpec,
    CategorySpec,
    ImageSpec,
    InputSpec,
    NumberSpec,
    TextSpec,
)
from purvey.contracts.recipe_parts.inputs import AugmentConfig, PreprocessConfig
from purvey.data.loader import Rows
from purvey.errors import InvalidValueError
from purvey.models.classifier import Classifier, Prepared
from purvey.models.inputs.augment import augmented
from purvey.parse.parser import DecoderHere
from purvey.worker.training.run import TrainingRun

_KINDS: dict[type[InputSpec], ColumnKind] = {
    ImageSpec: "image",
    TextSpec: "text",
    NumberSpec: "number",
    CategorySpec: "category",
    AudioSpec: "audio",
}
CACHE_BYTES = 2 * 2**30
"""Prepared inputs kept in memory; beyond it they are prepared at every visit."""
_DECODER = DecoderHere()
_LARGEST_SIDE, _MOST_BYTES, _LONGEST_S = 224, 1_024, 30.0
_LARGEST_NUMBER = 1e30


def declared_inputs(
    manifest: DatasetManifest, training: Rows, config: PreprocessConfig
) -> dict[str, InputSpec]:
    """Declare an input for every input column; a single one is named `input`.

    What the recipe leaves open is taken from the dataset's profile; means, deviations and
    categories from the training split alone.

    Raises:
        InvalidValueError: The dataset has no input column.
    """
    names = {c.name: c.kind for c in manifest.columns if c.kind in INPUT_KINDS}
    if not names:
        raise InvalidValueError("the dataset has no input column.", param="recipe.dataset")
    profile: Mapping[str, Any] = manifest.profile.get("columns", {})
    specs = {
        name: _declared(kind, training, name, profile.get(name, {}), config)
        for name, kind in names.items()
    }
    return {"input": next(iter(specs.values()))} if len(specs) == 1 else specs


def _declared(
    kind: ColumnKind,
    training: Rows,
    name: str,
    profile: Mapping[str, Any],
    config: PreprocessConfig,
) -> InputSpec:
    match kind:
        case "image":
            common = profile["sizes"][0]
            return ImageSpec(
                height=config.image.height or min(common["height"], _LARGEST_SIDE),
                width=config.image.width or min(common["width"], _LARGEST_SIDE),
                channels=config.image.channels,
            )
        case "text":
            longest = max(len(text.encode()) for text in training.texts(name))
            return TextSpec(max_bytes=config.text.max_bytes or min(longest, _MOST_BYTES))
        case "category":
            return CategorySpec(values=tuple(sorted(set(training.texts(name)))))
        case "audio":
            longest_s = float(profile["seconds"]["max"])
            return AudioSpec(
                sample_rate_hz=config.audio.sample_rate_hz,
                max_s=config.audio.max_s or min(longest_s, _LONGEST_S),
                num_mels=config.audio.num_mels,
            )
        case _:
            return number_spec(training.numbers(name), name)


def number_spec(numbers: ArrayLike, column: str) -> NumberSpec:
    """Return the mean and the deviation of a column, 1 where all its numbers are the same.

    Raises:
        InvalidValueError: They are too large for float32, in which networks compute.
    """
    values = np.asarray(numbers, dtype=np.float64)
    if np.abs(values).max() > _LARGEST_NUMBER:
        raise InvalidValueError(
            f"column {column!r} holds numbers beyond {_LARGEST_NUMBER:g}: take another unit.",
            param="recipe.dataset",
        )
    return NumberSpec(mean=float(values.mean()), std=float(values.std()) or 1.0)


def prepared_splits(run: TrainingRun, model: Classifier) -> dict[str, "PreparedRows"]:
    """Prepare the inputs of every split; tell what is lost where no row validates.

    Raises:
        InvalidValueError: The dataset has no column for an input.
    """
    columns = match_columns(model.manifest.inputs, run.dataset.manifest)
    if not run.splits["validation"].num_rows:
        run.tell_unvalidated(*(("no calibration",) if model.labels else ()))
    return {
        split: PreparedRows(model, rows, columns, augment=run.config.augment)
        for split, rows in run.splits.items()
    }


class PreparedRows:
    """A split's inputs, decoded once, as the learner takes them.

    Args:
        classifier: Prepares and collates them.
        rows: The split.
        columns: Column by the model's input name.
        augment: What changes inputs while gradients are on, drawing from torch's default
            generator; None leaves them.
    """

    def __init__(
        self,
        classifier: Classifier,
        rows: Rows,
        columns: dict[str, str],
        *,
        augment: AugmentConfig | None = None,
    ) -> None:
        self._classifier, self._rows, self._columns = classifier, rows, columns
        self._specs = tuple(classifier.manifest.inputs.values())
        self._augment = None if augment == AugmentConfig() else augment
        self._kept: list[Prepared] = []
        num_bytes = 0
        for row in range(rows.num_rows):
            prepared = self._prepare(row)
            num_bytes += sum(tensor.nbytes for tensor in prepared)
            if num_bytes > CACHE_BYTES:
                break
            self._kept.append(prepared)

    def __len__(self) -> int:
        return self._rows.num_rows

    def logits(self, rows: Sequence[int]) -> Tensor:
        """Return `logits_BL` of some rows."""
        items = [self._kept[row] if row < len(self._kept) else self._prepare(row) for row in rows]
        batch = self._classifier.collate(items)
        if self._augment is not None and torch.is_grad_enabled():
            batch = augmented(batch, self._specs, self._augment)
        return self._classifier.logits(batch)

    def _prepare(self, row: int) -> Prepared:
        specs = self._classifier.manifest.inputs
        inputs: NamedInputs = {
            name: _input(self._rows, self._columns[name], row, spec) for name, spec in specs.items()
        }
        return self._classifier.prepare(inputs, decoder=_DECODER)


def match_columns(inputs: dict[str, InputSpec], manifest: DatasetManifest) -> dict[str, str]:
    """Find the dataset's column for each input: by name and kind, else the one of its kind.

    A single input takes the first column of its kind; among several, an input without a
    column of its name takes the only one of its kind that is left.

    Raises:
        InvalidValueError: No column fits an input, or more than one does.
    """
    kinds = {column.name: column.kind for column in manifest.columns}
    matched = {name: name for name, spec in inputs.items() if kinds.get(name) == _KINDS[type(spec)]}
    for name, spec in inputs.items():
        if name in matched:
            continue
        wanted = _KINDS[type(spec)]
        left = [c for c, kind in kinds.items() if kind == wanted and c not in matched.values()]
        if not left or (len(left) > 1 and len(inputs) > 1):
            how_many = "no" if not left else "more than one"
            raise InvalidValueError(
                f"the dataset has {how_many} {wanted} column for the input {name!r}; "
                f"name a column {name!r}.",
                param="recipe.dataset",
            )
        matched[name] = left[0]
    return matched


def _input(rows: Rows, column: str, row: int, spec: InputSpec) -> PlainInput:
    match spec:
        case ImageSpec():
            return ImageInput(data=rows.media(column)[row])
        case AudioSpec():
            return AudioInput(data=rows.media(column)[row])
        case TextSpec() | CategorySpec():
            return TextInput(text=rows.texts(column)[row])
        case NumberSpec():
            return NumberInput(value=rows.numbers(column)[row])
