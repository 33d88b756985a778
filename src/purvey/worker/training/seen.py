"""Images with what is asked and answered about them, as a learner takes them.

A dataset with several columns of images has as many of them in front of every conversation, in the
order of the columns.

Shape letters, this file only:
    B = images   C = channels   H = rows   W = columns
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.contracts.data import SPLITS, DatasetManifest
from purvey.contracts.engine import ChatMessage
from purvey.contracts.model import ImageSpec
from purvey.contracts.recipe_parts.inputs import ImageAugment
from purvey.data.conversations import Conversation, as_conversation
from purvey.errors import InvalidValueError
from purvey.models.chat import ChatTemplate
from purvey.models.images import ImageReader
from purvey.models.inputs.augment_image import augment_images
from purvey.models.seeing.model import VisionLanguageModel
from purvey.models.seeing.network import HELD_ID
from purvey.parse.parser import DecoderHere
from purvey.train.seeing.learner import SeenRows
from purvey.train.token_rows import TokenRow, token_row
from purvey.worker.training.run import TrainingRun

Talks = Mapping[str, Sequence[Conversation]]
"""What is said about the images of each row, by split."""
_CACHE_BYTES = 2 * 2**30
"""Images kept in memory; beyond it they are decoded at every visit."""
_DECODER = DecoderHere()


@dataclass(frozen=True, kw_only=True)
class SeenSplit:
    """A split as it is learned from; `kept` are the numbers of the rows that are in it."""

    rows: SeenRows
    kept: Sequence[int]


class Encoder:
    """Turns conversations into token rows that begin with the places of their images.

    Args:
        model: Whose tokens they are, and how many places an image takes.
        num_images: Images of a row.
        max_tokens: Longest row, the images' places among them.
    """

    def __init__(self, model: VisionLanguageModel, *, num_images: int, max_tokens: int) -> None:
        language = model.language
        self.spec = model.spec
        self.template = language.template or ChatTemplate.default(language.tokenizer)
        self._tokenizer, self._max_tokens = language.tokenizer, max_tokens
        self._held = [HELD_ID] * (num_images * model.eyes.num_rows)
        self._known: dict[Conversation, TokenRow | None] = {}  # the same is said of many images

    def row(self, talk: Conversation) -> TokenRow | None:
        """Encode a conversation; None where it is too long: an answer that is cut is another."""
        if talk not in self._known:
            self._known[talk] = self._encoded(talk)
        return self._known[talk]

    def _encoded(self, talk: Conversation) -> TokenRow | None:
        said = self.template.training_rows(talk, self._tokenizer)
        ids = [*self._held, *said.ids]
        if len(ids) > self._max_tokens + 1:
            return None
        is_target = [*[False] * len(self._held), *said.is_target]
        return token_row(ids, is_target, max_tokens=len(ids))


class DecodedImages:
    """Images of a split, decoded once.

    Args:
        encoded: The files' bytes, one row's after another's.
        num_each: Images of a row.
        spec: How they are seen.
        augment: What changes them while gradients are on, drawing from torch's default generator.
    """

    def __init__(
        self,
        encoded: Sequence[bytes],
        *,
        num_each: int,
        spec: ImageSpec,
        augment: ImageAugment | None = None,
    ) -> None:
        self._encoded, self._spec, self.num_each = encoded, spec, num_each
        self._augment = None if augment == ImageAugment() else augment
        self._kept: list[Tensor] = []
        num_bytes = 0
        for data in encoded:
            x_CHW = self._decoded(data)
            num_bytes += x_CHW.nbytes
            if num_bytes > _CACHE_BYTES:
                break
            self._kept.append(x_CHW)

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Return `x_BCHW` of some rows in float32."""
        each = range(self.num_each)
        places = [row * self.num_each + number for row in rows for number in each]
        x_BCHW = torch.stack([self._seen(place) for place in places])
        if self._augment is None or not torch.is_grad_enabled():
            return x_BCHW
        return augment_images(x_BCHW, self._augment, self._spec)

    def _seen(self, place: int) -> Tensor:
        if place < len(self._kept):
            return self._kept[place]
        return self._decoded(self._encoded[place])

    def _decoded(self, data: bytes) -> Tensor:
        return ImageReader(_DECODER).tensor(data, self._spec, param="recipe.dataset")


def image_columns(manifest: DatasetManifest) -> list[str]:
    """Return the columns of images, in order."""
    return [column.name for column in manifest.columns if column.kind == "image"]


def read_talks(run: TrainingRun) -> dict[str, list[Conversation]]:
    """Return what is said about a row's images: a conversation, or a question and its answer.

    Raises:
        InvalidValueError: The dataset lacks a column for it, or the images.
    """
    columns = {column.kind: column.name for column in reversed(run.dataset.manifest.columns)}
    if "image" not in columns:
        raise InvalidValueError("the dataset has no image column.", param="recipe.dataset")
    if "conversation" in columns:
        name = columns["conversation"]
        return {
            split: [as_conversation(json.loads(text)) for text in run.splits[split].texts(name)]
            for split in SPLITS
        }
    if "text" not in columns or "transcript" not in columns:
        raise InvalidValueError(
            "the dataset has neither a conversation column, nor a text column (what is asked) "
            "with a transcript column (what is answered).",
            param="recipe.dataset",
        )
    asked, answered = columns["text"], columns["transcript"]
    return {
        split: [
            (
                ChatMessage(role="user", content=question),
                ChatMessage(role="assistant", content=answer),
            )
            for question, answer in zip(
                run.splits[split].texts(asked), run.splits[split].texts(answered), strict=True
            )
        ]
        for split in SPLITS
    }


def seen_split(
    run: TrainingRun, encoder: Encoder, talks: Sequence[Conversation], split: str
) -> SeenSplit:
    """Encode the rows of a split; those that are too long are left out, and told of.

    Raises:
        InvalidValueError: An image cannot be decoded.
    """
    rows = [encoder.row(talk) for talk in talks]
    kept = [number for number, row in enumerate(rows) if row is not None]
    if len(kept) < len(rows):
        run.link.event(
            f"{len(rows) - len(kept)} rows of the {split} split are longer than "
            "train.sequence_tokens, their images included, and were left out.",
            level="warn",
        )
    media = [run.splits[split].media(name) for name in image_columns(run.dataset.manifest)]
    images = DecodedImages(
        [column[number] for number in kept for column in media],
        num_each=len(media),
        spec=encoder.spec,
        augment=run.config.augment.image if split == "train" else None,
    )
    tokens = [row for row in rows if row is not None]
    return SeenSplit(rows=SeenRows(tokens=tokens, images=images), kept=kept)
