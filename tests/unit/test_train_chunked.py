"""Chunked cross-entropy against torch's own on whole logits: losses, gradients, memory."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.train import chunked
from purvey.train.chunked import Shape, mean_cross_entropy

M, D, V = 70, 12, 37


@pytest.fixture(params=[16, 1_000], ids=["pieces", "whole"])
def rows_of_a_piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    rows: int = request.param
    monkeypatch.setattr(chunked, "piece_rows", lambda vocabulary_size: rows)
    return rows


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x_MD = torch.randn(M, D, requires_grad=True)
    weight_VD = torch.randn(V, D, requires_grad=True)
    return x_MD, weight_VD, torch.randint(0, V, (M,))


def reference(x_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, shape: Shape) -> Tensor:
    logits_MV = x_MD @ weight_VD.T
    if shape.softcap is not None:
        logits_MV = shape.softcap * torch.tanh(logits_MV / shape.softcap)
    return cross_entropy(logits_MV, targets_M, label_smoothing=shape.smoothing)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(softcap=3.0), Shape(smoothing=0.2), Shape(softcap=3.0, smoothing=0.2)]
)
@pytest.mark.usefixtures("rows_of_a_piece")
def test_loss_and_gradients_are_those_of_whole_logits(shape: Shape) -> None:
    x_MD, weight_VD, targets_M = inputs()
    expected = reference(x_MD, weight_VD, targets_M, shape)
    wanted = torch.autograd.grad(expected * 3, (x_MD, weight_VD))
    loss = mean_cross_entropy(x_MD, weight_VD, targets_M, shape)
    found = torch.autograd.grad(loss * 3, (x_MD, weight_VD))
    # Float32 sums of 70 terms of order one: 70 * 2^-24 is 4e-6.
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("rows_of_a_piece")
def test_a_frozen_head_costs_no_gradient() -> None:
    x_MD, weight_VD, targets_M = inputs()
    weight_VD.requires_grad = False
    loss = mean_cross_entropy(x_MD, weight_VD, targets_M, Shape())
    torch.autograd.backward(loss)
    assert weight_VD.grad is None
    assert x_MD.grad is not None


def test_no_logits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "piece_rows", lambda vocabulary_size: 8)
    sizes: list[int] = []
    log_softmax = Tensor.log_softmax

    def noted(self: Tensor, dim: int) -> Tensor:
        sizes.append(self.numel())
        return log_softmax(self, dim)

    monkeypatch.setattr(Tensor, "log_softmax", noted)
    x_MD, weight_VD, targets_M = inputs()
    loss = mean_cross_entropy(x_MD, weight_VD, targets_M, Shape())
    assert max(sizes) == 8 * V
    kept = loss.grad_fn.gradients  # type: ignore[union-attr]  # the function's context
    assert sorted(tensor.numel() for tensor in kept) == sorted([M * D, V * D])


def test_autocast_decides_the_products_and_nothing_else() -> None:
    x_MD, weight_VD, targets_M = inputs()
    exact = mean_cross_entropy(x_MD, weight_VD, targets_M, Shape())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = mean_cross_entropy(x_MD, weight_VD, targets_M, Shape())
    torch.autograd.backward(rough)
    assert rough.dtype == torch.float32
    assert float(rough.detach()) != float(exact.detach())
    # Factors of 8 bits: each logit, a sum of 12 products of order one, is off by about 0.01.
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), abs=0.02)
    assert x_MD.grad is not None
    assert weight_VD.grad is not None
    assert x_MD.grad.dtype == weight_VD.grad.dtype == torch.float32
