"""What learning vectors of texts minimises, and which columns it learns from."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, model_validator

from purvey.contracts.data import DatasetManifest
from purvey.contracts.model import TrainedTask
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.contracts.recipe_parts.part import Name, Part
from purvey.errors import InvalidValueError

_USUAL_NAMES: Mapping[str, frozenset[str]] = {
    "asked": frozenset({"anchor", "asked", "query", "question", "sentence1", "text1"}),
    "found": frozenset(
        {"answer", "document", "found", "passage", "positive", "sentence2", "text2"}
    ),
    "negative": frozenset({"hard_negative", "negative"}),
}

Size = Annotated[int, Field(ge=1, le=65_536)]


class EmbeddingConfig(Part):
    """Vectors of texts (task `embedding`), learned from pairs that belong together.

    InfoNCE (van den Oord et al. 2018): of all texts of a batch, the right one is to be nearest
    (Henderson et al. 2017). Texts that are known to belong to a text are none of its negatives.
    Of images and texts (`clip`) only `asked`, their text column, and `found`, their image column,
    may be set: the temperature is learned.
    """

    temperature: Annotated[float, Field(ge=0.001, le=10, allow_inf_nan=False)] = 0.05
    """Cosines are divided by it; smaller heeds the nearest wrong texts more."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """What becomes of a text's states: their mean, the first, the last; null: as the base, or the
    mean."""
    asked: Name | None = None
    """Text column that is searched with; null takes `query`, `question`, `anchor`, ... or the first
    one."""
    found: Name | None = None
    """Text column that is to be found; null takes `answer`, `positive`, ... or, where there is no
    label, the next one. Without it, texts of one label belong together."""
    negative: Name | None = None
    """Text column of what is near and yet wrong; null takes `negative` or `hard_negative`, if
    there is one."""
    dimensions: Annotated[tuple[Size, ...], Field(strict=False, max_length=16)] = ()
    """Fewer numbers that vectors may be cut to (Kusupati et al. 2022): the loss of each is added to
    that of the whole. A request names one of them as its `dimensions`."""

    @model_validator(mode="after")
    def _each_once(self) -> "EmbeddingConfig":
        if len(set(self.dimensions)) < len(self.dimensions):
            msg = "dimensions has a number twice"
            raise ValueError(msg)
        return self


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Columns that say which texts belong together.

    Args:
        asked: Texts that are searched with.
        by: Text that belongs to each, or a label that all that belong together have.
        is_label: Whether `by` is a label.
        negative: Text of what is near and yet wrong.
    """

    asked: str
    by: str
    is_label: bool = False
    negative: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns, in order."""
        paired = () if self.is_label else (self.by,)
        return (self.asked, *paired, *((self.negative,) if self.negative else ()))


def check_embedding(
    config: EmbeddingConfig,
    *,
    task: TrainedTask,
    loop: LoopConfig,
    at: str,
) -> None:
    """Refuse the section where no vectors are learned, and a batch without negatives.

    Args:
        config: Section `embedding` of a recipe.
        task: What the recipe is for.
        loop: Its section `train`.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: Names the field and what to change.
    """
    if task != "embedding":
        if config != EmbeddingConfig():
            raise InvalidValueError(
                f"the section 'embedding' has no effect on {task}; leave it out.",
                param=f"{at}.embedding",
            )
        return
    if loop.batch_size < 2:
        raise InvalidValueError(
            "task 'embedding' tells a batch's texts apart: train.batch_size must be 2 or more.",
            param=f"{at}.train.batch_size",
        )


def pair_columns(
    config: EmbeddingConfig, manifest: DatasetManifest, *, at: str = "recipe"
) -> PairColumns:
    """Find the columns that texts are paired by: as named, then by usual names, then by order.

    Args:
        config: Section `embedding` of a recipe.
        manifest: The dataset.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: A named column is no text, or there is nothing to pair texts by.
    """
    texts = [column.name for column in manifest.columns if column.kind == "text"]
    chosen = _named(config, texts, at)
    if len(texts) > 1:
        chosen |= _usual(texts, chosen)
    left = [name for name in texts if name not in chosen.values()]
    if "asked" not in chosen and left:
        chosen["asked"] = left.pop(0)
    label = manifest.column("label")
    if "found" not in chosen and left and label is None:
        chosen["found"] = left.pop(0)
    by = chosen.get("found", label)
    if "asked" not in chosen or by is None:
        raise InvalidValueError(
            "task 'embedding' needs two text columns that belong together, or one and a label.",
            param=f"{at}.dataset",
            hint="Images and texts are paired with model.architecture 'clip'."
            if manifest.column("image")
            else 'Name them when the dataset is made: columns = {"question": "text", "answer": '
            '"text"}.',
        )
    if "found" in chosen:
        return PairColumns(asked=chosen["asked"], by=by, negative=chosen.get("negative"))
    if config.negative is not None:
        raise InvalidValueError(
            "embedding.negative stands beside pairs; texts of a label have those of all others.",
            param=f"{at}.embedding.negative",
        )
    return PairColumns(asked=chosen["asked"], by=by, is_label=True)


def _named(config: EmbeddingConfig, texts: list[str], at: str) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for role in _USUAL_NAMES:
        name: str | None = getattr(config, role)
        if name is None:
            continue
        if name not in texts:
            nearest = get_close_matches(name, texts, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else f" It has {texts}."
            raise InvalidValueError(
                f"the dataset has no text column {name!r}.{meant}", param=f"{at}.embedding.{role}"
            )
        if name in chosen.values():
            raise InvalidValueError(
                f"embedding.{role} names {name!r} a second time.", param=f"{at}.embedding.{role}"
            )
        chosen[role] = name
    return chosen


def _usual(texts: list[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that nobody has named, by the names that such columns have."""
    found: dict[str, str] = {}
    for role, names in _USUAL_NAMES.items():
        taken = {*chosen.values(), *found.values()}
        named = [name for name in texts if _plain(name) in names and name not in taken]
        if role not in chosen and named:
            found[role] = named[0]
    return found


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
