"""Each rank learns on a CUDA device of its own, where there are as many."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import nn

from purvey.train.parallel.group import Group
from purvey.worker.training import placing

if TYPE_CHECKING:
    from purvey.worker.training.run import TrainingRun


class Weightless(nn.Module):
    """Notes where it is moved to: this machine may have no device."""

    device: Any = None

    def to(self, device: torch.device) -> "Weightless":  # type: ignore[override]  # one form of it
        self.device = device
        return self


@pytest.mark.parametrize(
    ("rank", "size", "device"), [(None, 1, 0), (0, 2, 0), (1, 2, 1), (0, 3, None), (2, 3, None)]
)
def test_ranks_take_a_device_each_or_stay(
    monkeypatch: pytest.MonkeyPatch, rank: int | None, size: int, device: int | None
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(placing, "has_cuda", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", str)
    said: list[str] = []
    run = SimpleNamespace(
        spec=SimpleNamespace(device="cuda"),
        group=None if rank is None else Group(rank=rank, size=size),
        link=SimpleNamespace(event=lambda message, **_: said.append(message)),
        notes={},
    )
    module = Weightless()
    placing.place(cast("TrainingRun", run), module)
    if device is None:
        assert said == ["More ranks than there are CUDA devices learn on the processor."]
        assert (module.device, chosen, run.notes) == (None, [], {})
    else:
        expected = torch.device("cuda", device)
        assert (module.device, chosen) == (expected, [expected])
        assert run.notes == {"device": f"cuda:{device}"}
