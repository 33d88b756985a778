"""How many ranks a run has, and what they are to its trainer."""

from collections.abc import Callable

import msgspec
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from purvey.contracts.jobs import JobSpec
from purvey.contracts.recipe import TrainConfig
from purvey.contracts.recipe_parts.parallel import Strategy, check_divisible
from purvey.errors import InternalError, InvalidValueError
from purvey.models.decoder import Decoder
from purvey.train.learner import Learner
from purvey.train.parallel.group import Group
from purvey.train.parallel.replicated import Replicated
from purvey.train.parallel.team import Alone, Team


class RankDone(Exception):  # noqa: N818 (nothing went wrong)
    """Raised by a rank other than the first once training is over: the rest is the first one's."""


def num_ranks(config: TrainConfig, *, num_threads: int) -> int:
    """Return how many processes a run is divided among.

    Args:
        config: The recipe.
        num_threads: Threads of the job.
    """
    parallel = config.parallel
    if parallel.strategy == "none":
        return 1
    if parallel.ranks is not None:
        return parallel.ranks
    return (
        num_threads if parallel.strategy == "tensor" else min(num_threads, config.train.batch_size)
    )


def share_of(spec: JobSpec, size: int) -> JobSpec:
    """Return the job with the threads of one rank of so many; each has one at least."""
    return msgspec.structs.replace(spec, num_threads=max(1, spec.num_threads // size))


def team_of(strategy: Strategy, group: Group | None) -> Callable[[Learner], Team]:
    """Return what makes the ranks of a run out of its learner.

    Args:
        strategy: What is divided.
        group: The ranks; None for a single process.
    """

    def made(learner: Learner) -> Team:
        if group is None or strategy == "none":
            return Alone(learner)
        _check_alike(learner, group)
        if strategy == "ddp":
            _refuse_batch_statistics(learner.module)
            return Replicated(learner, group)
        return _divided(strategy, learner, group)

    return made


def _divided(strategy: Strategy, learner: Learner, group: Group) -> Team:
    from purvey.train.parallel.divided import Layered, Sharded  # a second of imports

    decoder = learner.module
    if not isinstance(decoder, Decoder):
        raise InvalidValueError(
            f"parallel.strategy {strategy!r} divides decoders of our own; use 'ddp'.",
            param="recipe.parallel.strategy",
        )
    if strategy == "fsdp":
        return Sharded(learner, group)
    names = ("num_heads", "num_kv_heads", "mlp_size")
    sizes = {name: getattr(decoder.config, name) for name in names}
    check_divisible(sizes, group.size, param="recipe.parallel.ranks")
    return Layered(learner, group)


def _check_alike(learner: Learner, group: Group) -> None:
    """Verify that this rank begins with the first one's rows and weights.

    Raises:
        InternalError: It does not; nothing was trained.
    """
    weights = sum(float(p.detach().double().sum()) for p in learner.module.parameters())
    for mine in (float(learner.num_rows), weights):
        if group.told(mine) != mine:
            raise InternalError(f"rank {group.rank} does not begin as the first one does.")


def _refuse_batch_statistics(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            raise InvalidValueError(
                f"parallel.strategy 'ddp' would change what {name!r} learns: it normalises over "
                "the rows of a batch, and a rank sees only its share of them.",
                param="recipe.parallel.strategy",
                hint="Normalise each row by itself, as nn.GroupNorm does, or train in one process.",
            )
