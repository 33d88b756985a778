"""What a run knows beside its tensors, and which tensors are its own."""

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor, nn

from purvey.train.early_stopping import Best


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands. The data position follows from `step`; chance from (seed, step).

    Args:
        step: Optimizer steps done.
        rows_seen: Training rows that went through, counted once per epoch.
        tokens_seen: Tokens that contributed to the loss.
        compute_s: Seconds of computing over all attempts.
        best: Best evaluation so far.
        loss_sum: Sum of the losses of the steps since the last evaluation.
        loss_count: How many they are.
        measured: What was measured last, which a checkpoint is shown with.
        is_finished: No step is left, or the run was stopped early.
    """

    step: int = 0
    rows_seen: int = 0
    tokens_seen: int = 0
    compute_s: float = 0.0
    best: Best | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    measured: dict[str, float] = {}
    is_finished: bool = False


def live_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return trained parameters and buffers by name, no copies; frozen ones are left out."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    state: Mapping[str, Tensor] = module.state_dict()
    return {name: tensor.detach() for name, tensor in state.items() if name not in frozen}


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of what `live_tensors` returns."""
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in live_tensors(module).items()
    }


def restore_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `own_tensors` returned."""
    module.load_state_dict(dict(tensors), strict=False)
