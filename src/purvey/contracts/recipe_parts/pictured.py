"""Vectors of images and texts (task `embedding` of CLIP): what of a recipe is not theirs."""

from dataclasses import dataclass
from typing import Final

from purvey.contracts.data import DatasetManifest
from purvey.contracts.recipe_parts.building import ModelConfig
from purvey.contracts.recipe_parts.embedding import EmbeddingConfig
from purvey.errors import InvalidValueError

FAMILY: Final = "clip"
"""Family of the models, and what recipes call the architecture."""
_TEXT, _IMAGE = "asked", "found"


@dataclass(frozen=True, kw_only=True)
class PictureColumns:
    """Columns whose values belong together, row by row.

    Args:
        text: What is said of the image.
        image: The image.
    """

    text: str
    image: str


def check_pictured(
    config: EmbeddingConfig,
    *,
    model: ModelConfig,
    at: str = "recipe",
) -> None:
    """Refuse what learning vectors of images and texts would pass over in silence.

    Args:
        config: Section `embedding` of a recipe.
        model: Its section `model`.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: Names the field and why.
    """
    unchanged = EmbeddingConfig()
    for name in type(config).model_fields:
        if name not in (_TEXT, _IMAGE) and getattr(config, name) != getattr(unchanged, name):
            why = "is learned" if name == "temperature" else "is for vectors of texts"
            raise InvalidValueError(
                f"embedding.{name} {why}, and the model embeds images and texts; leave it out.",
                param=f"{at}.embedding.{name}",
            )
    for name in ("width_factor", "depth_factor", "scaling"):
        if getattr(model, name) != getattr(ModelConfig(), name):
            raise InvalidValueError(
                f"model.{name} is not for {FAMILY!r}; leave it out.", param=f"{at}.model.{name}"
            )


def picture_columns(
    config: EmbeddingConfig, manifest: DatasetManifest, *, at: str = "recipe"
) -> PictureColumns:
    """Find the texts and the images: as named, else the first column of each kind.

    Args:
        config: Section `embedding` of a recipe.
        manifest: The dataset.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: A named column is not of its kind, or there is none.
    """
    found = {}
    for role, kind in ((_TEXT, "text"), (_IMAGE, "image")):
        names = [column.name for column in manifest.columns if column.kind == kind]
        named: str | None = getattr(config, role)
        if named is not None and named not in names:
            raise InvalidValueError(
                f"the dataset has no {kind} column {named!r}. It has {names}.",
                param=f"{at}.embedding.{role}",
            )
        if not names:
            raise InvalidValueError(
                f"the dataset has no {kind} column: images and what is said of them are paired.",
                param=f"{at}.dataset",
                hint='Name them when it is made: columns = {"...": "image", "...": "text"}.',
            )
        found[kind] = named or names[0]
    return PictureColumns(text=found["text"], image=found["image"])
