"""Learning vectors: of all texts of a batch, the one that belongs to a text is to be the nearest.

InfoNCE (van den Oord et al. 2018, eq. 4) over cosines divided by a temperature, the other rows'
texts being the negatives (Henderson et al. 2017, section 4.3), and texts that are near and yet
wrong, where rows have them, too. A text that is known to belong to a row, or is the row's own, is
none of its negatives. Where vectors are to be cut, the losses of their beginnings are added up
(Kusupati et al. 2022, eq. 1, all weights 1).

Shape letters, this file only:
    B = rows of a batch   C = texts that they choose among   N = rows   M = texts to be found
    D = width   S = texts of a row: asked, found and, where there are any, near and wrong
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from purvey.models.encoder.framing import Framed
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.pooling import Pooling
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.learner import Together
from purvey.train.step import BatchLoss
from purvey.train.vectors.caching import CachedPart, Part, cached
from purvey.train.vectors.pairs import Pairs, columns_of, drawn, excluded, first

Vectors = NDArray[np.float32]
Measure = Callable[[Vectors, Vectors], dict[str, float]]
"""Vectors of validation rows and of what may be found to metrics by name, `mrr` among them."""
_PASS_TOKENS = 8_192
"""Tokens of one pass where no gradient is wanted, padding included."""


def info_nce(
    asked_BD: Tensor, found_CD: Tensor, excluded_BC: Tensor, *, temperature: float
) -> Tensor:
    """Return `losses_B` in nats, float32; row `b` is to choose column `b`.

    Args:
        asked_BD: Vectors of length 1.
        found_CD: Likewise, at least as many.
        excluded_BC: True where a column is not to be chosen from.
        temperature: Divides the cosines, above 0.
    """
    with torch.autocast("cpu", enabled=False):  # a cosine has to be exact to a tenth of it
        logits_BC = asked_BD.float() @ found_CD.float().T / temperature
    chances_BC = logits_BC.masked_fill(excluded_BC, float("-inf"))
    return cross_entropy(chances_BC, torch.arange(len(asked_BD)), reduction="none")


def beginning(vectors_ND: Tensor, size: int) -> Tensor:
    """Return the first `size` numbers of vectors as vectors of length 1; whole ones stay."""
    if size == vectors_ND.shape[-1]:
        return vectors_ND
    tiny = torch.finfo(torch.float32).tiny
    return normalize(vectors_ND[..., :size], dim=-1, eps=tiny)


@dataclass(frozen=True, kw_only=True)
class _Share:
    """A share of a step that was surveyed: what is wanted of its vectors, and its tokens."""

    part: CachedPart
    num_tokens: int


class ContrastiveLearner:
    """An encoder with the pairs that it learns from.

    Invariant: `_shares` holds the shares of a step that was surveyed, by their rows, until their
    losses are asked for.

    Args:
        module: The encoder.
        pooling: From states to a vector.
        sizes: Lengths that vectors are taken at, the whole one among them.
        pairs: Training rows.
        validation: Rows to evaluate on; may be empty.
        measure: Metrics of validation vectors.
        temperature: As `info_nce` has it.
        batch_size: Rows of a step, in which the validation loss is computed too.
        seed: Of the order.
    """

    def __init__(
        self,
        module: EncoderModule,
        *,
        pooling: Pooling,
        sizes: Sequence[int],
        pairs: Pairs,
        validation: Pairs,
        measure: Measure,
        temperature: float,
        batch_size: int,
        seed: int,
    ) -> None:
        self._module, self._pooling, self._pairs = module, pooling, pairs
        self._sizes, self._validation, self._measure = tuple(sizes), validation, measure
        self._temperature, self._batch_size, self._seed = temperature, batch_size, seed
        self._shares: dict[tuple[int, ...], _Share] = {}

    @property
    def module(self) -> EncoderModule:
        """The encoder."""
        return self._module

    @property
    def num_rows(self) -> int:
        """Training rows."""
        return len(self._pairs)

    def order(self, epoch: int) -> Sequence[int]:
        """Shuffle."""
        order: list[int] = permutation(self.num_rows, seed=self._seed, epoch=epoch).tolist()
        return order

    def survey(
        self, rows: Sequence[int], shares: Sequence[Sequence[int]], together: Together
    ) -> None:
        """Compute the vectors of a step that is divided, and what its loss wants of them."""
        columns_SB = _drawn_together(self._pairs, rows, together)
        excluded_BC = excluded(self._pairs, rows, columns_SB.flatten().tolist())
        place_of = {row: place for place, row in enumerate(rows)}
        parts, num_tokens = list[Part](), list[int]()
        for share in shares:
            places = [place_of[row] for row in share]
            texts = self._texts(share, columns_SB[:, places].flatten().tolist())
            parts.append(Part(places=places, compute=partial(self._vectors, texts, len(share))))
            num_tokens.append(sum(map(len, texts)))
        found = cached(
            parts,
            lambda vectors_SBD: self._losses(vectors_SBD, excluded_BC),
            shape=(1 + len(columns_SB), len(rows), self._module.config.hidden_size),
            together=together,
        )
        self._shares = {
            tuple(share): _Share(part=part, num_tokens=count)
            for share, part, count in zip(shares, found, num_tokens, strict=True)
        }

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss of some rows; of several partners, one is drawn.

        Rows are compared with the whole step where they are a share that was surveyed, else with
        one another.
        """
        share = self._shares.pop(tuple(rows), None)
        if share is not None:
            loss, num_tokens = share.part.led(), share.num_tokens
        else:
            columns = columns_of(self._pairs, rows, drawn)
            texts = self._texts(rows, columns)
            excluded_BC = excluded(self._pairs, rows, columns)
            loss = self._losses(self._vectors(texts, len(rows)), excluded_BC).mean()
            num_tokens = sum(map(len, texts))
        return BatchLoss(
            loss=loss, num_rows=len(rows), num_tokens=num_tokens, weight=float(len(rows))
        )

    def validate(self) -> Validation | None:
        """Evaluate on the validation rows; the best weights have the highest `mrr`."""
        pairs = self._validation
        if not len(pairs):
            return None
        asked_ND = embedded(self._module, pairs.asked, self._pooling)
        found_MD = embedded(self._module, pairs.found, self._pooling)
        loss = self._validation_loss(torch.from_numpy(asked_ND), torch.from_numpy(found_MD))
        metrics = self._measure(asked_ND, found_MD)
        return Validation(score=metrics["mrr"], loss=loss, metrics={"valid_loss": loss, **metrics})

    def _texts(self, rows: Sequence[int], columns: Sequence[int]) -> list[Framed]:
        """Return what rows ask, then the texts of their columns."""
        pairs = self._pairs
        return [*(pairs.asked[row] for row in rows), *(pairs.found[c] for c in columns)]

    def _vectors(self, texts: Sequence[Framed], num_rows: int) -> Tensor:
        """Return `vectors_SBD`, with a graph where gradients are on."""
        vectors_ND = self._module.vectors(texts, self._pooling)
        return vectors_ND.view(-1, num_rows, vectors_ND.shape[1])

    def _losses(self, vectors_SBD: Tensor, excluded_BC: Tensor) -> Tensor:
        """Return `losses_B`, those of all sizes added up."""
        losses_B = torch.zeros(vectors_SBD.shape[1])
        for size in self._sizes:
            asked_BD, *found_BD = beginning(vectors_SBD, size)
            losses_B = losses_B + info_nce(
                asked_BD, torch.cat(found_BD), excluded_BC, temperature=self._temperature
            )
        return losses_B

    def _validation_loss(self, asked_ND: Tensor, found_MD: Tensor) -> float:
        pairs, total = self._validation, 0.0
        for start in range(0, len(pairs), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(pairs)))
            columns = columns_of(pairs, rows, first)
            asked_SBD = asked_ND[rows.start : rows.stop][None]
            found_SBD = found_MD[columns].view(-1, len(rows), found_MD.shape[1])
            losses_B = self._losses(
                torch.cat([asked_SBD, found_SBD]), excluded(pairs, rows, columns)
            )
            total += float(losses_B.sum())
        return total / len(pairs)


@torch.no_grad()
def embedded(module: EncoderModule, texts: Sequence[Framed], pooling: Pooling) -> Vectors:
    """Return the vectors `v_ND` of texts; the module is left in evaluation mode."""
    module.eval()
    found = np.empty((len(texts), module.config.hidden_size), dtype=np.float32)
    for numbers in _like_length([len(text) for text in texts]):
        found[numbers] = module.vectors([texts[n] for n in numbers], pooling).numpy()
    return found


def _drawn_together(pairs: Pairs, rows: Sequence[int], together: Together) -> Tensor:
    """Return `columns_SB`, without what is asked: as a single process draws, for all to know."""
    num_columns = len(rows) * (2 if pairs.negatives else 1)
    columns_C = torch.zeros(num_columns, dtype=torch.int64)
    if together.is_first:
        columns_C = torch.tensor(columns_of(pairs, rows, drawn))
    together.add_up([columns_C])
    return columns_C.view(-1, len(rows))


def _like_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divide rows into portions of like length whose padded tokens are bounded."""
    portion: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if portion and lengths[number] * (len(portion) + 1) > _PASS_TOKENS:
            yield portion
            portion = []
        portion.append(number)
    if portion:
        yield portion
