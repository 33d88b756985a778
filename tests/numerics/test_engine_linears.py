"""Layers of every precision: rows that are strangers, and errors within their derivations.

Shape letters, this file only:
    T = rows   I = input features   O = output features
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from purvey.engine.linears import bf16, int8
from purvey.engine.linears.activation import activate_rows_
from purvey.engine.linears.base import LinearFactory, Projection
from purvey.engine.linears.bf16 import Bf16Linears, WidenedBf16
from purvey.engine.linears.choice import SMALL_PARAMETERS, choose, linears
from purvey.engine.linears.float32 import Float32Linears
from purvey.engine.linears.int4 import Int4Linears, PackedInt4
from purvey.engine.linears.int8 import DynamicInt8, Int8Linears, OneDnnInt8, WidenedInt8
from purvey.models.linears.int4 import GROUP_INPUTS

FACTORIES: dict[str, type[LinearFactory]] = {
    "fp32": Float32Linears,
    "bf16": Bf16Linears,
    "int8": Int8Linears,
    "int4": Int4Linears,
}
SHAPES = ((44, 331), (256, 96))
PARTS = ((0, 1), (511, 512), (3, 5), (6, 13), (100, 133), (7, 135), (1, 512))
Build = Callable[[Tensor, Tensor], Projection]


def dynamic(weight_OI: Tensor, bias_O: Tensor) -> Projection:
    """Build the fast layer, whatever this machine can compute exactly."""
    levels = int8.dynamic_levels()
    assert levels is not None
    return DynamicInt8(*int8.quantise_outputs(weight_OI), bias_O, levels=levels)


def onednn(weight_OI: Tensor, bias_O: Tensor) -> Projection:
    """Build the second fastest layer."""
    return OneDnnInt8(*int8.quantise_outputs(weight_OI), bias_O)


def widened(weight_OI: Tensor, bias_O: Tensor) -> Projection:
    """Build the layer that runs anywhere."""
    return WidenedInt8(*int8.quantise_outputs(weight_OI), bias_O)


KERNELS: dict[str, Build] = {
    "fp32": Float32Linears().linear,
    "bf16": Bf16Linears().linear,
    "bf16 widened": WidenedBf16,
    "int8 widened": widened,
    "int4": PackedInt4,
}
if int8.has_dynamic():
    KERNELS["int8 dynamic"] = dynamic
if hasattr(torch.ops.onednn, "qlinear_pointwise"):
    KERNELS["int8 oneDNN"] = onednn
EXACT = ["int8 widened"]
"""8-bit kernels that may serve here: oneDNN's saturates where there is no VNNI."""
EXACT += ["int8 dynamic"] if int8.dynamic_levels() else []
EXACT += ["int8 oneDNN"] if int8.has_exact_onednn() else []


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def rows_of(width: int, *, num_rows: int = 512, seed: int = 0) -> Tensor:
    """Draw rows with outliers: whole rows of 1e4 and 1e-4, single elements of 1e4, and zeros."""
    x_TI = torch.randn((num_rows, width), generator=torch.Generator().manual_seed(seed))
    x_TI[3::97] *= 1e4
    x_TI[5::97] *= 1e-4
    x_TI[7::97, width // 2] = -1e4
    x_TI[9::97] = 0.0
    return x_TI


def weights_of(inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Draw weights and biases."""
    generator = torch.Generator().manual_seed(inputs + outputs)
    weight_OI = torch.randn((outputs, inputs), generator=generator) / inputs**0.5
    return weight_OI, torch.randn(outputs, generator=generator)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_row_has_the_same_bits_whatever_its_neighbours_and_however_many(kernel: str) -> None:
    for inputs, outputs in SHAPES:
        layer = KERNELS[kernel](*weights_of(inputs, outputs))
        x_TI = rows_of(inputs)
        whole_TO = layer(x_TI)
        for start, end in PARTS:
            assert torch.equal(layer(x_TI[start:end]), whole_TO[start:end]), (kernel, start, end)
        shuffled = torch.randperm(len(x_TI), generator=torch.Generator().manual_seed(1))
        assert torch.equal(layer(x_TI[shuffled]), whole_TO[shuffled])
        assert layer(x_TI[:0]).shape == (0, outputs)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("precision", FACTORIES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_a_gated_row_has_the_same_bits_too(precision: str, activation: str) -> None:
    for inner in (96, 172):
        torch.manual_seed(inner)
        gate, up = nn.Linear(64, inner), nn.Linear(64, inner)
        layer = FACTORIES[precision]().gated(gate, up, activation)  # type: ignore[arg-type]
        x_TI = rows_of(64)
        with torch.inference_mode():
            whole_TO = layer(x_TI)
            assert whole_TO.isfinite().all()
            for start, end in PARTS:
                assert torch.equal(layer(x_TI[start:end]), whole_TO[start:end]), (start, end)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name.startswith("int8")])
def test_a_row_that_is_not_finite_stays_alone(kernel: str) -> None:
    layer = KERNELS[kernel](*weights_of(64, 48))
    x_TI = rows_of(64, num_rows=40)
    expected_TO = layer(x_TI)
    x_TI[4, 9], x_TI[11, 3] = float("nan"), float("inf")
    found_TO = layer(x_TI)
    others = [row for row in range(40) if row not in (4, 11)]
    assert torch.equal(found_TO[others], expected_TO[others])


@pytest.mark.parametrize("kernel", EXACT)
def test_8_bit_errors_are_those_of_rounding(kernel: str) -> None:
    """Bound: each factor is off by half a step at most: |ab - (a+d)(b+e)| <= |a|e + |b|d + de."""
    layer_levels = 63 if kernel == "int8 dynamic" and int8.dynamic_levels() == 63 else 127
    for inputs, outputs in ((48, 331), (1_100, 48)):
        weight_OI, bias_O = weights_of(inputs, outputs)
        x_TI = rows_of(inputs, num_rows=64)
        found_TO = KERNELS[kernel](weight_OI, bias_O)(x_TI).double()
        expected_TO = x_TI.double() @ weight_OI.double().T + bias_O
        d_T1 = x_TI.double().abs().amax(1, keepdim=True) / layer_levels * 0.5001
        e_O = weight_OI.double().abs().amax(1) / 127 * 0.5001
        x_T1 = x_TI.double().abs().sum(1, keepdim=True)
        bound_TO = x_T1 * e_O + weight_OI.double().abs().sum(1) * d_T1 + inputs * d_T1 * e_O
        assert ((found_TO - expected_TO).abs() <= bound_TO + 1e-5 * bias_O.abs() + 1e-6).all()


@pytest.mark.parametrize("kernel", EXACT)
def test_every_8_bit_kernel_sums_the_same_integers(kernel: str) -> None:
    """All sums are exact; rows of whole numbers leave nothing to round."""
    weight_OI, bias_O = weights_of(1_100, 64)
    q_OI, scale_O = int8.quantise_outputs(weight_OI)
    x_TI = torch.randint(-63, 64, (9, 1_100), generator=torch.Generator().manual_seed(0)).float()
    ones_T1 = torch.ones((9, 1))
    layer = KERNELS[kernel](weight_OI, bias_O)
    assert isinstance(layer, (DynamicInt8, OneDnnInt8, WidenedInt8))
    found_TO = layer._products(x_TI, ones_T1)
    assert torch.equal(found_TO, WidenedInt8(q_OI, scale_O)._products(x_TI, ones_T1))
    exact_TO = (x_TI.double() @ q_OI.double().T) * scale_O.double()
    torch.testing.assert_close(found_TO.double(), exact_TO, rtol=2e-7, atol=0)


def test_without_the_fast_operator_8_bits_are_served_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight_OI, bias_O = weights_of(256, 64)
    x_TI = rows_of(256, num_rows=33)
    fast_TO = Int8Linears().linear(weight_OI, bias_O)(x_TI)
    monkeypatch.setattr(int8, "has_dynamic", lambda: False)
    int8.dynamic_levels.cache_clear()
    try:
        layer = Int8Linears().linear(weight_OI, bias_O)
        assert not isinstance(layer, DynamicInt8)
        assert layer.num_bytes == 256 * 64 + 64 * 4
        found_TO = layer(x_TI)
    finally:
        int8.dynamic_levels.cache_clear()
    scale_T1 = x_TI.abs().amax(1, keepdim=True)
    assert ((found_TO - fast_TO).abs() <= 0.05 * scale_T1 + 1e-6).all()


def test_4_bit_errors_are_those_of_rounding() -> None:
    """Bound: half a step of each group, and bfloat16's 2^-8 of rows, scales and the result."""
    for inputs, outputs in ((64, 128), (172, 48)):
        weight_OI, bias_O = weights_of(inputs, outputs)
        x_TI = rows_of(inputs, num_rows=64)
        found_TO = PackedInt4(weight_OI, bias_O)(x_TI).double()
        expected_TO = x_TI.double() @ weight_OI.double().T + bias_O
        filled = torch.nn.functional.pad(weight_OI, (0, -inputs % GROUP_INPUTS)).double()
        groups = filled.reshape(outputs, -1, GROUP_INPUTS)
        step_OI = ((groups.amax(2) - groups.amin(2)) / 15).repeat_interleave(GROUP_INPUTS, 1)
        error_OI = 0.5 * step_OI + 2.0**-8 * (8 * step_OI + filled.abs())
        x_abs_TI = torch.nn.functional.pad(x_TI, (0, -inputs % GROUP_INPUTS)).double().abs()
        terms_TO = x_abs_TI @ (filled.abs() + error_OI).T
        bound_TO = x_abs_TI @ error_OI.T + 2.0**-7 * terms_TO
        assert ((found_TO - expected_TO).abs() <= bound_TO + 1e-5).all()


def test_bf16_errors_are_those_of_rounding() -> None:
    """Bound: 2^-9 of each weight, row element and result, and as much again for their products."""
    weight_OI, bias_O = weights_of(172, 48)
    x_TI = rows_of(172, num_rows=64)
    expected_TO = x_TI.double() @ weight_OI.double().T + bias_O
    terms_TO = x_TI.double().abs() @ weight_OI.double().abs().T
    for build in (Bf16Linears().linear, WidenedBf16):
        found_TO = build(weight_OI, bias_O)(x_TI).double()
        assert ((found_TO - expected_TO).abs() <= terms_TO * 4 * 2.0**-9 + 1e-5).all()


@pytest.mark.usefixtures("_threads")
def test_activations_do_not_see_where_a_tensor_ends() -> None:
    for width in (32, 50, 4_096, 30_016):
        x_TI = torch.randn((9, 2 * width), generator=torch.Generator().manual_seed(width))
        whole = x_TI.clone()
        activate_rows_(whole[:, :width], "silu")
        for row in range(9):
            alone = x_TI[row : row + 1].clone()
            activate_rows_(alone[:, :width], "silu")
            assert torch.equal(alone[0], whole[row])
        torch.testing.assert_close(whole[:, :width], nn.functional.silu(x_TI[:, :width]))


def test_auto_takes_what_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    from purvey.engine.linears import choice

    def with_machine(*, levels: int | None, onednn: bool, bf16: bool) -> str:
        monkeypatch.setattr(choice, "dynamic_levels", lambda: levels)
        monkeypatch.setattr(choice, "has_exact_onednn", lambda: onednn)
        monkeypatch.setattr(choice, "has_native_bf16", lambda: bf16)
        return choose("auto", num_parameters=SMALL_PARAMETERS)

    assert with_machine(levels=127, onednn=False, bf16=True) == "int8"
    assert with_machine(levels=None, onednn=True, bf16=True) == "int8"
    assert with_machine(levels=63, onednn=False, bf16=False) == "int8"
    assert with_machine(levels=None, onednn=False, bf16=True) == "bf16"
    assert with_machine(levels=None, onednn=False, bf16=False) == "fp32"
    assert choose("auto", num_parameters=SMALL_PARAMETERS - 1) == "fp32"
    assert choose("int4", num_parameters=1) == "int4"
    assert isinstance(linears("int4"), Int4Linears)


def test_probes_agree_with_what_they_try() -> None:
    assert int8.dynamic_levels() in (None, 63, 127)
    if torch.cpu.get_capabilities().get("avx512_vnni"):
        assert int8.dynamic_levels() == 127
    if bf16.has_native_bf16():
        assert isinstance(bf16.is_row_stable(), bool)
