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
    """Set torch's default generator, which dropout and default initialisers draw from."""
    from torch import manual_seed  # a search draws too, in a process without torch

    manual_seed(derived_seed(seed, *path))


def permutation(num_rows: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the rows."""
    generator = np.random.Generator(np.random.PCG64(derived_seed(seed, "order", epoch)))
    return generator.permutation(num_rows)
