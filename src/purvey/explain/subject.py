"""What is explained: atoms of the input, and the value of the target with some of them kept.

Shape letters, this package:
    M = masks (perturbed inputs)   A = atoms (finest parts)   U = units (groups of atoms)
    L = labels
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.engine import NamedInputs, Prompt

Masks = NDArray[np.bool_]
Values = NDArray[np.float64]
ValueFunction = Callable[[Masks], Values]
"""Values_M of the target for `keep_MA`: True keeps the atom, False takes it away."""

BATCH_MASKS = 64
"""Masks evaluated per call of the value function: bounds memory, still fills a batch."""


class TextGenerator(Protocol):
    """A language model, as far as an explanation needs one."""

    def generate(self, prompt: Prompt, max_tokens: int) -> str:
        """Return the model's own greedy output."""
        ...

    def logprob(self, prompts: Sequence[Prompt], output: str) -> list[float]:
        """Return the log-probability of `output` after each prompt, summed over its tokens."""
        ...


class ClassifierModel(Protocol):
    """A classifier, as far as an explanation needs one."""

    @property
    def labels(self) -> Sequence[str]:
        """Class names in the order of the columns of `log_probs`."""
        ...

    def log_probs(self, inputs: Sequence[NamedInputs]) -> NDArray[np.float64]:
        """Return finite `logp_ML`, the log-probability of every label."""
        ...


class Subject:
    """A value function that remembers: the same mask is never evaluated twice.

    Invariant: `forwards` is the number of distinct masks evaluated so far.

    Args:
        num_atoms: Width of a mask.
        value: The value function; must be deterministic.
    """

    def __init__(self, *, num_atoms: int, value: ValueFunction) -> None:
        self.num_atoms = num_atoms
        self._value = value
        self._known: dict[bytes, float] = {}

    @property
    def forwards(self) -> int:
        """Forward passes spent."""
        return len(self._known)

    def values(self, keep_MA: Masks) -> Values:
        """Return the target's value under each mask, computing what is not yet known."""
        assert keep_MA.shape[1] == self.num_atoms, "a mask of the wrong width"
        keys = [row.tobytes() for row in np.packbits(keep_MA, axis=1)]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        rows = list(new.values())
        for start in range(0, len(rows), BATCH_MASKS):
            batch = rows[start : start + BATCH_MASKS]
            values_M = self._value(keep_MA[batch])
            assert values_M.shape == (len(batch),), "one value per mask"
            self._known.update(
                (keys[row], float(v)) for row, v in zip(batch, values_M, strict=True)
            )
        return np.array([self._known[key] for key in keys], dtype=np.float64)

    def full_and_empty(self) -> tuple[float, float]:
        """Return the value with every atom kept and with none."""
        ends_MA = np.array([[True], [False]]).repeat(self.num_atoms, axis=1)
        full, empty = self.values(ends_MA)
        return float(full), float(empty)
