"""A step in parts whose texts are told apart from those of the whole step (Gao et al. 2021).

The vectors of all parts come first, without a graph. The loss over them gives each vector its
gradient, which is all that a part's weights have to know of the others: it is computed once more,
by the same chance, and its vectors follow their gradients. What other processes compute comes as
numbers, so only vectors travel. Memory is that of one part and of the vectors; a forward pass is
what it costs, and not even that where a process has a single part.

Shape letters, this file only:
    B = rows of the step   P = rows of a part   S = texts of a row   D = width
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.train.learner import Together

Compute = Callable[[], Tensor]
"""Computes `vectors_SPD` of a part by torch's default generator, with a graph where it is on."""
Losses = Callable[[Tensor], Tensor]
"""Computes `losses_B` from `vectors_SBD`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows that are computed at once.

    Args:
        places: Where they stand in the step.
        compute: Their vectors.
    """

    places: Sequence[int]
    compute: Compute


@dataclass(frozen=True, kw_only=True)
class CachedPart:
    """A part that knows what the whole step wants of its vectors.

    Args:
        vectors: Computes `vectors_SPD` with their graph, the same as before.
        gradients: `gradients_SPD` of the sum of the step's losses.
        loss: Mean of the part's own.
    """

    vectors: Compute
    gradients: Tensor
    loss: float

    def led(self) -> Tensor:
        """Return the loss; its gradient is the step's through these vectors, over the rows P."""
        lead = (self.vectors() * self.gradients).sum() / self.gradients.shape[1]
        return lead + (self.loss - lead.detach())


def cached(
    parts: Sequence[Part], losses: Losses, *, shape: tuple[int, int, int], together: Together
) -> list[CachedPart]:
    """Compute a step's vectors and their gradients.

    Args:
        parts: This process's, none where it has no row of the step.
        losses: Of the whole step.
        shape: S, B and D.
        together: Those that compute the other rows.
    """
    is_single = len(parts) == 1  # its graph has room, so nothing is computed twice
    vectors_SBD, again = torch.zeros(shape), list[Compute]()
    for part in parts:
        chance = torch.get_rng_state()
        with torch.set_grad_enabled(is_single):
            vectors_SPD = part.compute()
        vectors_SBD[:, list(part.places)] = vectors_SPD.detach()
        again.append(_kept(vectors_SPD) if is_single else _repeated(part.compute, chance))
    together.add_up([vectors_SBD])
    vectors_SBD.requires_grad_()
    losses_B = losses(vectors_SBD)
    [gradients_SBD] = torch.autograd.grad(losses_B.sum(), [vectors_SBD])
    means = [float(losses_B.detach()[list(part.places)].mean()) for part in parts]
    return [
        CachedPart(vectors=vectors, gradients=gradients_SBD[:, list(part.places)], loss=mean)
        for part, vectors, mean in zip(parts, again, means, strict=True)
    ]


def _kept(vectors_SPD: Tensor) -> Compute:
    return lambda: vectors_SPD


def _repeated(compute: Compute, chance: Tensor) -> Compute:
    def vectors() -> Tensor:
        torch.set_rng_state(chance)
        return compute()

    return vectors
