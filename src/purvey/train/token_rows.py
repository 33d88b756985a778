"""Token sequences that a language model learns from, alone and as the batch of one forward pass.

Shape letters, this file only:
    T = positions of all sequences of a batch, back to back    M = positions with a target
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purvey.models.attention.base import Attention
from purvey.models.attention.dense import DenseAttention
from purvey.models.attention.packed import PackedAttention


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One training sequence.

    Args:
        ids: Token ids (int32), at least two.
        is_target: Which ids the model learns to produce; the first never counts.
    """

    ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]

    @property
    def num_targets(self) -> int:
        """Ids that contribute to the loss."""
        return int(self.is_target[1:].sum())


def token_row(ids: Sequence[int], is_target: Sequence[bool], *, max_tokens: int) -> TokenRow:
    """Build a row, cut to `max_tokens`."""
    return TokenRow(
        ids=np.asarray(ids[:max_tokens], dtype=np.int32),
        is_target=np.asarray(is_target[:max_tokens], dtype=np.bool_),
    )


def pack(
    documents: Iterable[Sequence[int]],
    *,
    end_id: int,
    row_tokens: int,
    begin_ids: Sequence[int] = (),
) -> list[TokenRow]:
    """Join documents, each behind an end token, and cut the stream into equal rows.

    `begin_ids` stand before every document, as they do before every prompt that is served.

    Rows overlap by the one token that is input of the next and target of the last; the last
    row reaches back so that all have one length, and what it repeats is no target again.

    Returns:
        Rows of `row_tokens + 1` ids (fewer only if there are not that many); none for no text.
    """
    stream = np.fromiter(_stream(documents, end_id, begin_ids), dtype=np.int32)
    size = min(row_tokens + 1, len(stream))
    if size < 2:
        return []
    last = len(stream) - size
    starts = [*range(0, last, row_tokens), last]
    is_new = np.ones(size, dtype=np.bool_)
    is_new_last = is_new.copy()
    if len(starts) > 1:
        is_new_last[: starts[-2] + row_tokens - last + 1] = False
    masks = [*[is_new] * (len(starts) - 1), is_new_last]
    return [
        TokenRow(ids=stream[start : start + size], is_target=mask)
        for start, mask in zip(starts, masks, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Sequences of one forward pass, back to back; none sees another.

    Args:
        tokens_T: Input ids (int64).
        positions_T: Position of each within its sequence (int64).
        targets_T: Id to be predicted at each position (int64).
        is_target_T: Whether the position counts (bool).
        lengths: Positions of each sequence, padding included.
    """

    tokens_T: Tensor  # noqa: N815 (tensors carry their axes)
    positions_T: Tensor  # noqa: N815 (tensors carry their axes)
    targets_T: Tensor  # noqa: N815 (tensors carry their axes)
    is_target_T: Tensor  # noqa: N815 (tensors carry their axes)
    lengths: tuple[int, ...]

    def attention(self) -> Attention:
        """Return causal attention within each sequence."""
        if len(set(self.lengths)) == 1:
            return DenseAttention(num_sequences=len(self.lengths))
        return PackedAttention(self.lengths, is_causal=True)

    def owners(self) -> Tensor:
        """Return `owners_M`: the number of the sequence (int64) that each target is of."""
        lengths = torch.tensor(self.lengths)
        return torch.arange(len(self.lengths)).repeat_interleave(lengths)[self.is_target_T]


def collate(rows: Sequence[TokenRow], *, is_packed: bool = True) -> TokenBatch:
    """Put rows back to back: as long as each is, or padded on the right to the longest.

    Targets are the same either way, and so are their losses, within rounding.
    """
    sizes = [len(row.ids) - 1 for row in rows]
    lengths = tuple(sizes) if is_packed else (max(sizes),) * len(sizes)
    tokens_T = np.zeros(sum(lengths), dtype=np.int64)
    targets_T = np.zeros_like(tokens_T)
    is_target_T = np.zeros(tokens_T.shape, dtype=np.bool_)
    start = 0
    for row, size, length in zip(rows, sizes, lengths, strict=True):
        filled = slice(start, start + size)
        tokens_T[filled], targets_T[filled] = row.ids[:-1], row.ids[1:]
        is_target_T[filled] = row.is_target[1:]
        start += length
    return TokenBatch(
        tokens_T=torch.from_numpy(tokens_T),
        positions_T=torch.cat([torch.arange(length) for length in lengths]),
        targets_T=torch.from_numpy(targets_T),
        is_target_T=torch.from_numpy(is_target_T),
        lengths=lengths,
    )


def _stream(
    documents: Iterable[Sequence[int]], end_id: int, begin_ids: Sequence[int]
) -> Iterator[int]:
    if not begin_ids:
        yield end_id
    for document in documents:
        yield from begin_ids
        yield from document
        yield end_id
