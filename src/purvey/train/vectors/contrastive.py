"""Learning vectors: of all texts of a batch, the one that belongs to a text is to be the nearest.

InfoNCE (van den Oord et al. 2018, eq. 4) over cosines divided by a temperature, the other rows'
texts being the negatives (Henderson et al. 2017, section 4.3), and texts that are near and yet
wrong, where rows have them, too. A text that is known to belong to a row, or is the row's own, is
none of its negatives.

Shape letters, this file only:
    B = rows of a batch   C = texts that they choose among   N = rows   M = texts to be found
    D = width
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.models.encoder.framing import Framed
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.pooling import Pooling
from purvey.train.chance import permutation
from purvey.train.early_stopping import Validation
from purvey.train.step import BatchLoss

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]
Measure = Callable[[Vectors, Vectors], dict[str, float]]
"""Vectors of validation rows and of what may be found to metrics by name, `mrr` among them."""
_PASS_TOKENS = 8_192
"""Tokens of one pass where no gradient is wanted, padding included."""
_FEW = 16


class Belonging(Protocol):
    """Which texts belong together, by their numbers."""

    def partners(self, row: int) -> Ints:
        """Return which texts a row is trained to find, at least one."""
        ...

    def relevant(self, row: int) -> Ints:
        """Return all texts that are right for a row."""
        ...

    def own(self, row: int) -> int | None:
        """Return which text is the row itself, if it is among those that may be found."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of a split.

    Args:
        asked: N texts that are searched with.
        found: M different texts that may be found.
        belonging: Which belong together.
        negatives: For each row the number of a text that is near and yet wrong; empty without.
    """

    asked: Sequence[Framed]
    found: Sequence[Framed]
    belonging: Belonging
    negatives: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.asked)


def info_nce(
    asked_BD: Tensor, found_CD: Tensor, excluded_BC: Tensor, *, temperature: float
) -> Tensor:
    """Return the mean loss in nats, float32; row `b` is to choose column `b`.

    Args:
        asked_BD: Vectors of length 1.
        found_CD: Likewise, at least as many.
        excluded_BC: True where a column is not to be chosen from.
        temperature: Divides the cosines, above 0.
    """
    with torch.autocast("cpu", enabled=False):  # a cosine has to be exact to a tenth of it
        logits_BC = asked_BD.float() @ found_CD.float().T / temperature
    chances_BC = logits_BC.masked_fill(excluded_BC, float("-inf"))
    return cross_entropy(chances_BC, torch.arange(len(asked_BD)))


class ContrastiveLearner:
    """An encoder with the pairs that it learns from.

    Args:
        module: The encoder.
        pooling: From states to a vector.
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
        pairs: Pairs,
        validation: Pairs,
        measure: Measure,
        temperature: float,
        batch_size: int,
        seed: int,
    ) -> None:
        self._module, self._pooling, self._pairs = module, pooling, pairs
        self._validation, self._measure = validation, measure
        self._temperature, self._batch_size, self._seed = temperature, batch_size, seed

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

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute the mean loss of some rows; of several partners, one is drawn."""
        pairs = self._pairs
        columns = _columns(pairs, rows, _drawn)
        texts = [*(pairs.asked[row] for row in rows), *(pairs.found[c] for c in columns)]
        vectors = self._module.vectors(texts, self._pooling)
        loss = info_nce(
            vectors[: len(rows)],
            vectors[len(rows) :],
            _excluded(pairs, rows, columns),
            temperature=self._temperature,
        )
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

    def _validation_loss(self, asked_ND: Tensor, found_MD: Tensor) -> float:
        pairs, total = self._validation, 0.0
        for start in range(0, len(pairs), self._batch_size):
            rows = range(start, min(start + self._batch_size, len(pairs)))
            columns = _columns(pairs, rows, _first)
            loss = info_nce(
                asked_ND[rows.start : rows.stop],
                found_MD[columns],
                _excluded(pairs, rows, columns),
                temperature=self._temperature,
            )
            total += float(loss) * len(rows)
        return total / len(pairs)


@torch.no_grad()
def embedded(module: EncoderModule, texts: Sequence[Framed], pooling: Pooling) -> Vectors:
    """Return the vectors `v_ND` of texts; the module is left in evaluation mode."""
    module.eval()
    found = np.empty((len(texts), module.config.hidden_size), dtype=np.float32)
    for numbers in _like_length([len(text) for text in texts]):
        found[numbers] = module.vectors([texts[n] for n in numbers], pooling).numpy()
    return found


def _columns(pairs: Pairs, rows: Sequence[int], chosen: Callable[[Ints], int]) -> list[int]:
    """Return the numbers of the texts that rows choose among: their partners, then negatives."""
    partners = [chosen(pairs.belonging.partners(row)) for row in rows]
    return partners + [pairs.negatives[row] for row in rows if pairs.negatives]


def _drawn(partners: Ints) -> int:
    """Draw from torch's default generator, which a step seeds."""
    if len(partners) == 1:
        return int(partners[0])
    return int(partners[int(torch.randint(len(partners), ()))])


def _first(partners: Ints) -> int:
    return int(partners[0])


def _excluded(pairs: Pairs, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return `excluded_BC`: what belongs to a row, and the row itself, but for its own column."""
    columns_C = np.asarray(columns)
    excluded_BC = np.zeros((len(rows), len(columns)), dtype=bool)
    for place, row in enumerate(rows):
        excluded_BC[place] = _are_among(columns_C, pairs.belonging.relevant(row))
        if (own := pairs.belonging.own(row)) is not None:
            excluded_BC[place] |= columns_C == own
        excluded_BC[place, place] = False
    return torch.from_numpy(excluded_BC)


def _are_among(columns_C: Ints, right: Ints) -> NDArray[np.bool_]:
    """Tell which columns are right; by comparing where these are few, which is faster."""
    if len(right) > _FEW:
        return np.isin(columns_C, right)
    found_C: NDArray[np.bool_] = (columns_C[:, None] == right).any(axis=1)
    return found_C


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
