"""Where a run's network learns: on the processor, or on the operator's CUDA device."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from purvey.ipc.confinement import free_memory
from purvey.models.linears.int4 import Int4Linear
from purvey.train.placing import feed_across
from purvey.worker.devices import has_cuda

if TYPE_CHECKING:
    from purvey.worker.training.run import TrainingRun

_SETTING = "training_device"


def place(run: "TrainingRun", module: nn.Module) -> None:
    """Move a network whose learner finds it on a device.

    Raises:
        SettingError: There is to be a CUDA device, and there is none.
    """
    device = _device(run, module)
    if device is not None:
        module.to(device)


def place_fed(run: "TrainingRun", module: nn.Module) -> None:
    """Move a network whose learner does no more with it than call it.

    Raises:
        SettingError: As `place`.
    """
    device = _device(run, module)
    if device is not None:
        feed_across(module, device)


def stay(run: "TrainingRun") -> None:
    """Tell the owner that this task cannot use the device that the operator wants used.

    Raises:
        SettingError: As `place`.
    """
    if has_cuda(run.spec.device, param=_SETTING):
        run.link.event(
            f"Models of the task {run.config.task} learn on the processor.", level="warn"
        )


def _device(run: "TrainingRun", module: nn.Module) -> torch.device | None:
    if not has_cuda(run.spec.device, param=_SETTING):
        return None
    obstacle = _obstacle(run, module)
    if obstacle is not None:
        run.link.event(f"{obstacle} learn on the processor.", level="warn")
        return None
    device = torch.device("cuda", run.group.rank if run.group else 0)
    torch.cuda.set_device(device)  # which NCCL takes for the rank's own
    name = torch.cuda.get_device_name(device)
    run.notes["device"] = name
    run.link.event(f"Training on {name}.", device=name)
    return device


def free_bytes(module: nn.Module) -> int:
    """Return the memory that is free where a module lies."""
    first = next(module.parameters(), None)
    if first is None or not first.is_cuda:
        return free_memory()
    free, _ = torch.cuda.mem_get_info(first.device)
    return free


def _obstacle(run: "TrainingRun", module: nn.Module) -> str | None:
    """Return what keeps a run off a device, as the beginning of a sentence."""
    if run.group is not None and run.group.size > torch.cuda.device_count():
        return "More ranks than there are CUDA devices"
    if any(isinstance(layer, Int4Linear) for layer in module.modules()):
        return "Adapters of a base in 4 bits"
    return None
