"""`fsdp` and `tensor`: ranks that hold a part of every layer's weights, gradients and state."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from purvey.models.decoder import Decoder
from purvey.train.checkpoint import Snapshot
from purvey.train.early_stopping import Validation
from purvey.train.learner import Learner
from purvey.train.parallel.group import Group
from purvey.train.parallel.parts import Parts, structure_of, transplant
from purvey.train.parallel.replicated import Replicated, told_validation
from purvey.train.parallel.team import Alone, Portion
from purvey.train.placing import kind_of
from purvey.train.saving.shares import Sharing
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.step import SINGLE, BatchLoss, StepTaken

T = TypeVar("T")
_HEAD_NORMS = ("q_norm.weight", "k_norm.weight")


class Divided(Replicated):
    """Ranks that hold parts of a decoder's weights.

    Each writes its own part of a checkpoint, beside training, and reads its own part of one of any
    number of ranks.

    Args:
        learner: What is trained; the same on every rank, with a whole decoder.
        group: The ranks.
    """

    def __init__(self, learner: Learner, group: Group) -> None:
        super().__init__(learner, group)
        module = learner.module
        assert isinstance(module, Decoder), "only decoders are divided"
        structure = structure_of(module)
        kind = kind_of(next(module.parameters()))
        mesh = init_device_mesh(kind, (group.size,))
        self._entrance = self._divide(module, mesh)
        self._parts = Parts(dict(module.named_parameters()), structure)
        self._sharing = Sharing(group.beside(), self._parts.place)

    @property
    def own(self) -> nn.Module:
        """The decoder with this rank's part of every weight."""
        return self._parts.own

    def loss(self, portion: Portion) -> BatchLoss:
        """Compute the mean loss of a portion."""
        found: list[BatchLoss] = []

        def compute() -> Tensor:
            found.append(super(Divided, self).loss(portion))
            return found[0].loss

        loss = self._entrance(compute)
        return replace(found[0], loss=loss)

    def settle(self) -> None:
        """Move the gradients to `own`; torch's hooks have added them up in backward."""
        self._parts.collect()

    def norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of all ranks' parts, and of what is not divided once."""
        names = {p: name for name, p in self.own.named_parameters()}
        parts = [p for p in parameters if self._parts.is_divided(names[p])]
        shared = [p for p in parameters if not self._parts.is_divided(names[p])]
        [squares] = self.group.total([float(SINGLE.norm(parts)) ** 2])
        return torch.tensor(squares + float(SINGLE.norm(shared)) ** 2).sqrt()

    def validate(self) -> Validation | None:
        """Evaluate on every rank, as a forward pass needs them all."""
        return told_validation(self._entrance(self.learner.validate), self.group)

    def save(self, live: Snapshot, writer: CheckpointWriter) -> None:
        """Begin to write this rank's share of it."""
        writer.begin(live, self._sharing)

    def part(self, whole: Snapshot) -> Snapshot:
        """Return this rank's part; no more of it is read."""
        return self._parts.part(whole)

    def finish(self) -> None:
        """Gather the weights on the first rank, and put them into the learner's module."""
        own = self._parts.restore_whole(is_kept=self.group.is_first)
        transplant(own, self.learner.module)

    def _divide(self, decoder: Decoder, mesh: DeviceMesh) -> "Entrance":
        """Divide a decoder in place, and return what computes with it."""
        raise NotImplementedError


class Sharded(Divided):
    """`fsdp` (Zhao et al. 2023): a layer's weights are whole only while it is computed."""

    def _divide(self, decoder: Decoder, mesh: DeviceMesh) -> "Entrance":
        """Shard each layer, and everything else as one more."""
        entrance = Entrance(decoder)
        for module in (*decoder.layers, entrance):
            sharded = fully_shard(module, mesh=mesh, reshard_after_forward=True)
            assert isinstance(sharded, FSDPModule), "sharding changes the class"
            # Sums, as `joined` divides them, and the only reduction that gloo knows.
            sharded.set_force_sum_reduction_for_comms(True)
            sharded.set_gradient_divide_factor(1.0)
            # Itself, which is there: a layer fetched ahead would only take room, as the core that
            # computes is the one that fetches.
            sharded.set_modules_to_backward_prefetch([sharded])
        return entrance


class Layered(Divided):
    """`tensor` (Shoeybi et al. 2019): every rank computes its heads, and its part of the MLP.

    Embedding, norms and head are computed by every rank, from the same rows, to the same bits.
    """

    @property
    def chance(self) -> tuple[str | int, ...]:
        """Nothing: all ranks compute the same rows."""
        return ()

    def portions(self, rows: Sequence[int], *, at_once: int) -> Iterator[Portion]:
        """Yield all rows on every rank."""
        return Alone.portions(self, rows, at_once=at_once)

    def unit(self, first: float) -> float:
        """Return the first weight."""
        return first

    def joined(self, taken: StepTaken) -> StepTaken:
        """Return what the first rank has computed, which all have."""
        return replace(taken, loss=self.group.told(taken.loss))

    def settle(self) -> None:
        """Move the gradients to `own`; norms of heads have only those of the rank's own heads."""
        super().settle()
        norms = [p for name, p in self.own.named_parameters() if name.endswith(_HEAD_NORMS)]
        self.group.add_up([p.grad for p in norms if p.grad is not None])

    def _divide(self, decoder: Decoder, mesh: DeviceMesh) -> "Entrance":
        """Divide projections by heads, and the MLP by its inner width."""
        for block in decoder.layers:
            parallelize_module(block, mesh, _plan(), src_data_rank=None)
        return Entrance(decoder)


class Entrance(nn.Module):
    """Computes with a module in any way, within one forward: torch's hooks sit on forwards.

    Args:
        module: What is computed with.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[], T]) -> T:
        """Return what the work returns."""
        return work()


def _plan() -> dict[str, ParallelStyle]:
    """Name what becomes of a layer's modules; the stream between them is whole on every rank."""
    whole = Replicate()
    return {
        "self_attn": PrepareModuleInput(
            input_layouts=(whole, None, None), desired_input_layouts=(whole, None, None)
        ),
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(),
        "mlp": PrepareModuleInput(input_layouts=(whole,), desired_input_layouts=(whole,)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(),
    }
