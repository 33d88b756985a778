"""Randomness by name: every draw of a run comes from (seed, what for, which step).

No generator is carried from step to step, so there is no hidden state to lose: dropout at
step k is the same whether the run came from step 0 or from a checkpoint at k.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def derived_seed(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for one purpose (`"order", epoch`), independent of the others."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def seed_torch(seed: int, *path: str | int) -> None:
    """Set torch's default generators, which dropout and default initialisers draw from.

    The processor's, and those of devices that are in use: `torch.manual_seed` also formats a stack
    for each kind that is not, in case it will be, which takes a millisecond.
    """
    from torch import cuda, default_generator  # a search draws too, in a process without torch

    number = derived_seed(seed, *path)
    default_generator.manual_seed(number)
    if cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch
        cuda.manual_seed_all(number)


def permutation(num_rows: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the rows."""
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, "order", epoch)))
    return generator.permutation(num_rows)
