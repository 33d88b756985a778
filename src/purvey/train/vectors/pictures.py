"""Learning vectors of images and texts: of all texts of a batch, an image's own is to be nearest.

And of all images, a text's own: the mean of both losses, over cosines times a scale that is learned
(Radford et al. 2021, figure 3). What is known to belong to a row because another one says so is
none of its negatives. A step that is divided is compared as a whole, as `caching.py` has it.

Shape letters, this file only:
    B = rows of a step   C = channels   H = rows of pixels   W = columns   D = width
    M = images   K = texts   S = 2: a row's image, then its text
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purvey.models.encoder.framing import Framed
from purvey.models.pretrained.clip import PretrainedClip
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.learner import Together
from purvey.train.step import BatchLoss
from purvey.train.vectors.caching import CachedPart, Part, cached
from purvey.train.vectors.contrastive import info_nce
from purvey.train.vectors.pairs import Belonging, excluded_among

Vectors = NDArray[np.float32]
Measure = Callable[[Vectors, Vectors], dict[str, float]]
"""Vectors of images and of texts to metrics by name."""
_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class _Share:
    """A share of a step that was surveyed.

    Args:
        part: What is wanted of its vectors.
        scale_gradient: What the whole step wants of the network's `log_scale`.
    """

    part: CachedPart
    scale_gradient: Tensor


class Images(Protocol):
    """Different images of one size, decoded."""

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Return `x_BCHW` of some of them in float32, changed at random where gradients are on."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of a split, each an image and what is said of it.

    Args:
        images: M different ones.
        num_images: How many.
        texts: K different ones.
        image_of: Number of each row's image.
        text_of: Number of each row's text.
        by_text: Which images belong to a row's text.
        by_image: Which texts belong to a row's image.
    """

    images: Images
    num_images: int
    texts: Sequence[Framed]
    image_of: Sequence[int]
    text_of: Sequence[int]
    by_text: Belonging
    by_image: Belonging

    def __len__(self) -> int:
        return len(self.image_of)


class PicturesLearner:
    """A network of two towers, with the rows that it learns from.

    Invariant: `_shares` holds the shares of a step that was surveyed, by their rows, until their
    losses are asked for.

    Args:
        module: The network.
        rows: Training rows.
        validation: Rows to evaluate on; may be none.
        measure: Metrics of validation vectors.
        score: Of the metrics, what the best weights have the highest of.
        batch_size: Rows of a step, in which the validation loss is computed too.
        seed: Of the order.
    """

    def __init__(
        self,
        module: PretrainedClip,
        *,
        rows: Pictures,
        validation: Pictures,
        measure: Measure,
        score: Callable[[dict[str, float]], float],
        batch_size: int,
        seed: int,
    ) -> None:
        self._module, self._rows, self._validation = module, rows, validation
        self._measure, self._score = measure, score
        self._batch_size, self._seed = batch_size, seed
        self._shares: dict[tuple[int, ...], _Share] = {}

    @property
    def module(self) -> PretrainedClip:
        """The network."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._rows)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle."""
        order: list[int] = permutation(self.num_rows, seed=self._seed, epoch=epoch).tolist()
        return order

    def survey(
        self, rows: Sequence[int], shares: Sequence[Sequence[int]], together: Together
    ) -> None:
        """Compute the vectors of a step that is divided, and what its loss wants of them."""
        place_of, known = {row: place for place, row in enumerate(rows)}, list[Tensor]()

        def losses(vectors_SBD: Tensor) -> Tensor:
            known.append(vectors_SBD.detach())
            return self._losses(self._rows, rows, *vectors_SBD)

        parts = [
            Part(places=[place_of[row] for row in share], compute=partial(self._vectors, share))
            for share in shares
        ]
        shape = (2, len(rows), self._module.vector_size)
        found = cached(parts, losses, shape=shape, together=together)
        scale_gradient = self._scale_gradient(rows, known[-1])
        self._shares = {
            tuple(share): _Share(part=part, scale_gradient=scale_gradient)
            for share, part in zip(shares, found, strict=True)
        }

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss of some rows.

        They are told apart from the whole step where they are a share that was surveyed, else from
        one another.
        """
        share = self._shares.pop(tuple(rows), None)
        if share is None:
            loss = self._losses(self._rows, rows, *self._vectors(rows)).mean()
        else:
            scale = self._module.log_scale
            loss = share.part.led() + (scale - scale.detach()) * share.scale_gradient
        num_tokens = sum(len(text) for text in self._texts(rows))
        return BatchLoss(
            loss=loss, num_rows=len(rows), num_tokens=num_tokens, weight=float(len(rows))
        )

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Evaluate on the validation rows."""
        if not len(self._validation):
            return None
        images_MD, texts_KD = embedded(self._module, self._validation)
        loss = self._validation_loss(torch.from_numpy(images_MD), torch.from_numpy(texts_KD))
        metrics = self._measure(images_MD, texts_KD)
        told = {"valid_loss": loss, **metrics}
        return Validation(score=self._score(metrics), loss=loss, metrics=told)

    def _texts(self, rows: Sequence[int]) -> list[Framed]:
        return [self._rows.texts[self._rows.text_of[row]] for row in rows]

    def _vectors(self, rows: Sequence[int]) -> Tensor:
        """Return `vectors_SBD`, with a graph where gradients are on."""
        numbers = [self._rows.image_of[row] for row in rows]
        images_BD = self._module.images(self._rows.images.batch(numbers))
        return torch.stack([images_BD, self._module.texts(self._texts(rows))])

    def _scale_gradient(self, rows: Sequence[int], vectors_SBD: Tensor) -> Tensor:
        """Return what the mean loss of a step wants of `log_scale`; 0 where that is frozen."""
        scale = self._module.log_scale
        if not scale.requires_grad:
            return torch.zeros(())
        with torch.enable_grad():
            loss = self._losses(self._rows, rows, *vectors_SBD).mean()
        [gradient] = torch.autograd.grad(loss, [scale])
        return gradient

    def _validation_loss(self, images_MD: Tensor, texts_KD: Tensor) -> float:
        pictures, total = self._validation, 0.0
        for start in range(0, len(pictures), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(pictures)))
            images_BD = images_MD[[pictures.image_of[row] for row in rows]]
            texts_BD = texts_KD[[pictures.text_of[row] for row in rows]]
            total += float(self._losses(pictures, rows, images_BD, texts_BD).sum())
        return total / len(pictures)

    def _losses(
        self, pictures: Pictures, rows: Sequence[int], images_BD: Tensor, texts_BD: Tensor
    ) -> Tensor:
        """Return `losses_B`: the mean of finding the text and of finding the image."""
        scaled_BD = images_BD * self._module.scale
        images_B, texts_B = (
            [numbers[row] for row in rows] for numbers in (pictures.image_of, pictures.text_of)
        )
        found_texts_BB = excluded_among(pictures.by_image, rows, texts_B)
        found_images_BB = excluded_among(pictures.by_text, rows, images_B)
        of_texts_B = info_nce(scaled_BD, texts_BD, found_texts_BB, temperature=1.0)
        of_images_B = info_nce(texts_BD, scaled_BD, found_images_BB, temperature=1.0)
        return (of_texts_B + of_images_B) / 2


@torch.no_grad()
def embedded(module: PretrainedClip, pictures: Pictures) -> tuple[Vectors, Vectors]:
    """Return `images_MD` and `texts_KD`; the module is left in evaluation mode."""
    module.eval()
    images = [
        module.images(pictures.images.batch(numbers)) for numbers in _portions(pictures.num_images)
    ]
    texts = [
        module.texts([pictures.texts[number] for number in numbers])
        for numbers in _portions(len(pictures.texts))
    ]
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


def _portions(count: int) -> list[range]:
    return [range(at, min(at + _AT_ONCE, count)) for at in range(0, count, _AT_ONCE)]
