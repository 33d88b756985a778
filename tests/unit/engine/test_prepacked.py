"""Layers that are kept on disk: the bits of those that are made, though they may be lost."""

import os
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from purvey.engine.frozen import FrozenDecoder
from purvey.engine.linears import int8
from purvey.engine.linears.base import LinearFactory, joined
from purvey.engine.linears.int8 import DynamicInt8, Int8Linears, quantise_outputs
from purvey.engine.prepacked import packing as packing_module
from purvey.engine.prepacked import shelf as shelf_module
from purvey.engine.prepacked.kept import KeptWeights
from purvey.engine.prepacked.kinds import Int8Kind
from purvey.engine.prepacked.packing import Packing
from purvey.engine.prepacked.shelf import Shelf, key_of
from purvey.engine.prepacked.shifted_int8 import ShiftedInt8, is_exact
from purvey.models.attention.dense import DenseAttention
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.weights import load_folder, save_folder

CONFIG = DecoderConfig(
    vocabulary_size=300,
    hidden_size=32,
    mlp_size=44,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    context_tokens=64,
    is_tied=False,
    has_qkv_bias=True,
    has_output_bias=True,
)
DIGEST, KEY = "d" * 64, key_of("d" * 64, Int8Kind.version)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model's folder."""
    torch.manual_seed(0)
    decoder = Decoder(CONFIG)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    save_folder(decoder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Return an empty shelf; what is deferred is packed at once."""
    monkeypatch.setattr(packing_module, "GRACE_S", 0.0)
    monkeypatch.setattr(shelf_module, "RESERVE_BYTES", 0)
    return Shelf(tmp_path / "shelf", max_bytes=2**30)


def logits(folder: Path, shelf: Shelf | None) -> tuple[Tensor, bool]:
    """Load a model as an engine does; return what it answers and whether its layers were kept."""
    kept = KeptWeights(Int8Kind(), digest=DIGEST, shelf=shelf, num_bytes=1_000)
    was_there = kept.is_there
    decoder = load_folder(folder, is_widened=False, has_matrices=not was_there)

    def make(factory: LinearFactory) -> FrozenDecoder:
        return FrozenDecoder(decoder, linears=factory)

    return _answer(kept.frozen(make)), was_there


def _answer(frozen: FrozenDecoder) -> Tensor:
    tokens_T = torch.arange(1, 12)
    attend = DenseAttention(num_sequences=1)
    with torch.inference_mode():
        return frozen.logits(frozen.hidden(tokens_T, torch.arange(11), attend))


def sealed(shelf: Shelf) -> Path:
    """Wait until a load's entry is sealed behind it, and return its folder."""
    for thread in threading.enumerate():
        if thread.name == "sealing":
            thread.join()
    return shelf._folder / KEY


def test_a_second_load_reads_no_matrix_and_gives_the_same_bits(folder: Path, shelf: Shelf) -> None:
    expected_TV = _answer(FrozenDecoder(load_folder(folder), linears=Int8Linears()))
    first_TV, was_there = logits(folder, shelf)
    assert not was_there
    sealed(shelf)
    second_TV, was_there = logits(folder, shelf)
    assert was_there
    assert torch.equal(first_TV, expected_TV)
    assert torch.equal(second_TV, expected_TV)


def test_without_a_shelf_and_on_a_disk_that_refuses_it_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    full = Shelf(tmp_path / "file" / "below", max_bytes=2**30)
    small = Shelf(tmp_path / "small", max_bytes=999)
    expected_TV, _ = logits(folder, None)
    for refusing in (full, small):
        for _ in range(2):
            found_TV, was_there = logits(folder, refusing)
            assert not was_there
            assert torch.equal(found_TV, expected_TV)


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("purvey.engine.prepacked.linears.write_tensors", refuse)
    expected_TV, _ = logits(folder, None)
    found_TV, _ = logits(folder, shelf)
    assert torch.equal(found_TV, expected_TV)
    assert list(shelf._folder.iterdir()) == []


def test_an_entry_that_was_damaged_is_thrown_away_and_made_again(
    folder: Path, shelf: Shelf
) -> None:
    expected_TV, _ = logits(folder, shelf)
    file = next(sealed(shelf).glob("*.safetensors"))
    seen, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    found_TV, was_there = logits(folder, shelf)
    assert not was_there
    assert torch.equal(found_TV, expected_TV)
    sealed(shelf)
    assert logits(folder, shelf)[1]


def test_an_entry_that_was_only_copied_is_known_again(folder: Path, shelf: Shelf) -> None:
    logits(folder, shelf)
    for file in sealed(shelf).glob("*.safetensors"):
        file.write_bytes(file.read_bytes())
    assert shelf.find(KEY)


def test_an_entry_without_a_seal_is_none(folder: Path, shelf: Shelf) -> None:
    logits(folder, shelf)
    (sealed(shelf) / "seal.json").unlink()
    assert shelf.find(KEY) is None


def test_the_least_recently_used_entries_leave(shelf: Shelf) -> None:
    for number, name in enumerate(("a", "b", "c")):
        aside = shelf.begin(name, num_bytes=100)
        assert aside is not None
        (aside / "0.safetensors").write_bytes(bytes(100))
        assert shelf.finish(aside, name)
        shelf.seal(name)
        os.utime(shelf._folder / name / "seal.json", (number, number))
    assert shelf.find("a")  # used now
    two = Shelf(shelf._folder, max_bytes=250)
    two.seal("c")
    assert [bool(two.find(name)) for name in ("a", "b", "c")] == [True, False, True]


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(48, 64), (130, 1_032), (24, 4_100)])
@pytest.mark.parametrize("grid", [0.0, 0.5, 1 / 3])
def test_the_kernel_that_is_ready_sooner_gives_the_same_bits(
    num_outputs: int, num_inputs: int, grid: float
) -> None:
    """Near ties too: multiples of a grid are scaled to what lies beside a half."""
    levels = int8.dynamic_levels()
    if levels is None or not is_exact():
        assert not hasattr(torch.ops.onednn, "qlinear_pointwise") or not int8.has_dynamic()
        return
    torch.manual_seed(num_inputs)
    q_OI, scale_O = quantise_outputs(torch.randn(num_outputs, num_inputs) * 0.02)
    bias_O = torch.randn(num_outputs)
    packed = DynamicInt8(q_OI, scale_O, bias_O, levels=levels)
    sooner = ShiftedInt8(q_OI, scale_O, bias_O, levels=levels)
    for num_rows in (0, 1, 2, 3, 17):
        x_TI = torch.randn(num_rows, num_inputs) * 10
        x_TI[:1] *= 30
        x_TI = torch.round(x_TI / grid) * grid if grid else x_TI
        assert torch.equal(sooner(x_TI), packed(x_TI))


def test_a_layer_is_packed_behind_its_first_answer() -> None:
    packing = Packing()
    made: list[bool] = []

    class Layer:
        num_bytes = 1

        def __call__(self, x_TI: Tensor) -> Tensor:
            return x_TI.add(len(made))

    def pack() -> Layer:
        made.append(True)
        return Layer()

    layer = packing.defer(Layer(), pack, is_head=True)
    assert layer(torch.zeros(1)).item() == 0
    packing.start()
    packing.finish()
    assert made == [True]
    assert layer(torch.zeros(1)).item() == 1


def test_what_has_no_memory_is_joined_by_shape() -> None:
    one, two = torch.ones(2, 3), torch.zeros(4, 3)
    assert torch.equal(joined([one, two]), torch.cat([one, two]))
    shape = joined([one.to("meta"), two.to("meta")])
    assert (shape.is_meta, shape.shape, shape.dtype) == (True, (6, 3), torch.float32)
