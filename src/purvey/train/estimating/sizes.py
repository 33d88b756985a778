"""Bytes that a run holds because of its weights, counted from their shapes."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from purvey.contracts.estimating.needs import in_units, sum_in_words
from purvey.contracts.recipe import TrainConfig
from purvey.errors import InvalidValueError
from purvey.train.checkpoint import NUM_KEPT
from purvey.train.optim import state_bytes
from purvey.train.saving.staging import SHARE_OF_FREE_MEMORY
from purvey.train.state import live_tensors


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A network about to be trained, in bytes unless said otherwise.

    Args:
        parameters: How many.
        trained: How many change.
        weights: All parameters and buffers.
        trained_weights: The parameters that change; their gradients take as much.
        moving: What of the weights a checkpoint holds.
        optimizer: What the rule remembers.
        average: The running mean, where there is one.
        best: The weights of the best evaluation, where there is validation.
    """

    parameters: int
    trained: int
    weights: int
    trained_weights: int
    moving: int
    optimizer: int
    average: int
    best: int

    @property
    def checkpoints(self) -> int:
        """On disk: those that are kept, and one that is being written."""
        return (NUM_KEPT + 1) * (self.moving + self.optimizer + self.average + self.best)

    def copies(self, *, free_bytes: int) -> int:
        """Return what is held beside the weights that step.

        A checkpoint is written from a copy where half of the free memory has room for it.
        """
        staged = self.moving + self.optimizer + self.average
        is_staged = staged <= SHARE_OF_FREE_MEMORY * free_bytes
        set_aside = self.average  # while the mean is evaluated
        return self.best + self.average + set_aside + (staged if is_staged else 0)


def sizes_of(module: nn.Module, config: TrainConfig, *, has_validation: bool) -> Sizes:
    """Count a network, on whatever device it lies."""
    parameters = [*module.parameters()]
    trained = [p for p in parameters if p.requires_grad]
    trained_weights = _num_bytes(trained)
    moving = _num_bytes(live_tensors(module).values())
    return Sizes(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in trained),
        weights=_num_bytes([*parameters, *module.buffers()]),
        trained_weights=trained_weights,
        moving=moving,
        optimizer=state_bytes(module, config.optimizer),
        average=trained_weights if config.train.ema_decay is not None else 0,
        best=moving if has_validation else 0,
    )


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def refuse_too_large(sizes: Sizes, *, num_parts: int, free: int) -> None:
    """Refuse a run whose gradients and optimizer the free memory has no room for.

    Args:
        sizes: Of the network, whose weights are in memory already.
        num_parts: Among how many ranks its parameters are divided.
        free: Bytes of memory that are free where it learns.

    Raises:
        InvalidValueError: With the arithmetic.
    """
    needed = {
        "gradients": sizes.trained_weights // num_parts,
        "optimizer": sizes.optimizer // num_parts,
    }
    if sum(needed.values()) > free:
        raise InvalidValueError(
            f"beside the weights, training {sizes.trained:,} parameters needs "
            f"{sum_in_words(needed)} of memory, and {in_units(free)} are free.",
            param="recipe.model",
            hint="Use a smaller model, train.method 'lora', train.freeze, or optimizer.name 'sgd'.",
        )
