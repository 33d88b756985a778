"""One vector of a text from the states of its tokens.

Shape letters, this file only:
    T = packed tokens   D = residual width   S = texts
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pooled(x_TD: Tensor, lengths: Sequence[int], pooling: Pooling) -> Tensor:
    """Return `vector_SD`: the mean of a text's rows, its first (`cls`), or its last one.

    Args:
        x_TD: Final states of all texts back to back.
        lengths: Rows of each, none 0.
        pooling: Which.
    """
    texts = torch.split(x_TD, list(lengths))
    match pooling:
        case "mean":
            return torch.stack([rows_TD.mean(0) for rows_TD in texts])
        case "cls":
            return torch.stack([rows_TD[0] for rows_TD in texts])
        case "last":
            return torch.stack([rows_TD[-1] for rows_TD in texts])


def unit(vector_D: Tensor) -> Tensor:
    """Return a vector of length 1 in the same direction; the zero vector stays what it is."""
    length: Tensor = torch.linalg.vector_norm(vector_D)
    return vector_D / length.clamp_min(torch.finfo(torch.float32).tiny)
