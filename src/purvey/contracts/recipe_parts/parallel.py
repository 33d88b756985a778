"""Dividing one run among several processes of the machine."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import TrainedTask
from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.contracts.recipe_parts.part import Part, refuse_without_effect
from purvey.contracts.sizes import DECODER_COUNTS, DecoderSizes
from purvey.errors import InvalidValueError

Strategy = Literal["none", "ddp", "fsdp", "tensor"]


class ParallelConfig(Part):
    """Several processes, called ranks, for one run; what is learned stays the same.

    `ddp` divides every batch (Li et al. 2020); `fsdp` also weights, gradients and the optimizer's
    state (Zhao et al. 2023); `tensor` the layers themselves (Shoeybi et al. 2019). The last two
    are for language models.
    """

    strategy: Strategy = "none"
    """What is divided among the ranks."""
    ranks: Annotated[int, Field(ge=2, le=LIMITS.ranks)] | None = None
    """Processes; null takes one for each thread of a job, and no more than rows of a batch."""

    @model_validator(mode="after")
    def _all_used(self) -> "ParallelConfig":
        if self.strategy == "none":
            refuse_without_effect(self, ("ranks",), why="strategy 'none'")
        return self


def check_parallel(
    parallel: ParallelConfig,
    *,
    task: TrainedTask,
    loop: LoopConfig,
    optimizer: OptimizerConfig,
    hyperparameters: Mapping[str, Any] | None,
    at: str,
) -> None:
    """Refuse a division that cannot be, or that would change what is learned.

    Args:
        parallel: Section `parallel` of a recipe.
        task: What the recipe is for.
        loop: Its section `train`.
        optimizer: Its section `optimizer`.
        hyperparameters: Of a decoder that is built anew; None where there is another network.
        at: Prefix of the fields' paths.

    Raises:
        InvalidValueError: Names the field, with the arithmetic.
    """
    if parallel.strategy == "none":
        return
    complaint = _complaint(parallel, task=task, loop=loop, optimizer=optimizer)
    if complaint is not None:
        raise InvalidValueError(complaint, param=f"{at}.parallel.strategy")
    if parallel.ranks is None:
        return
    if parallel.strategy != "tensor" and parallel.ranks > loop.batch_size:
        raise InvalidValueError(
            f"parallel.ranks {parallel.ranks} divide train.batch_size {loop.batch_size}: "
            f"{parallel.ranks - loop.batch_size} of them would never have a row.",
            param=f"{at}.parallel.ranks",
        )
    if parallel.strategy == "tensor" and hyperparameters is not None:
        _check_new_decoder(hyperparameters, parallel.ranks, at)


def check_divisible(sizes: Mapping[str, int], ranks: int, *, param: str) -> None:
    """Refuse ranks that do not divide a layer into equal parts.

    Args:
        sizes: What is divided: `num_heads`, `num_kv_heads` and `mlp_size`.
        ranks: How many parts.
        param: The field at fault.

    Raises:
        InvalidValueError: Names the size, with the remainder.
    """
    for name, size in sizes.items():
        if size % ranks:
            raise InvalidValueError(
                f"parallel.strategy 'tensor' gives each of {ranks} ranks an equal part of a layer: "
                f"{name} {size} leaves {size % ranks} over.",
                param=param,
            )


def _complaint(
    parallel: ParallelConfig,
    *,
    task: TrainedTask,
    loop: LoopConfig,
    optimizer: OptimizerConfig,
) -> str | None:
    strategy = f"parallel.strategy {parallel.strategy!r}"
    if parallel.strategy == "ddp":
        return None
    if task != "text-generation":
        return f"{strategy} divides the layers of language models; use 'ddp' for {task}."
    if loop.objective == "dpo":
        return f"{strategy} does not divide train.objective 'dpo' yet; use 'ddp'."
    if optimizer.name == "muon":
        return (
            f"{strategy} leaves each rank a part of a matrix, and Muon needs it whole; use 'ddp'."
        )
    if parallel.strategy == "tensor" and loop.method == "lora":
        return f"{strategy} does not divide adapters yet; use 'ddp' or 'fsdp'."
    return None


def _check_new_decoder(hyperparameters: Mapping[str, Any], ranks: int, at: str) -> None:
    """Check what is known of a decoder before it is built; what is no number is refused there."""
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    counts = [given[name] for name in DECODER_COUNTS if name in given]
    if all(type(count) is int and count > 0 for count in counts):
        sizes = DecoderSizes.of(given)
        names = ("num_heads", "num_kv_heads", "mlp_size")
        check_divisible(
            {name: getattr(sizes, name) for name in names}, ranks, param=f"{at}.parallel.ranks"
        )
