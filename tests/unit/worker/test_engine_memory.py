"""What a language model takes: counted before it loads, told after, refused if too much."""

from pathlib import Path

import pytest
import torch

from purvey.contracts.deployment import Precision
from purvey.contracts.engine import LoadModel
from purvey.contracts.model import ModelSource
from purvey.engine.linears import footprint
from purvey.engine.linears.footprint import Footprint, expected, require_room
from purvey.errors import CapacityError
from purvey.ipc import confinement
from purvey.ipc.confinement import free_memory, memory_of_machine
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, load_language_model, save_language_model
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import stored_bytes
from purvey.worker import engine

CONFIG = DecoderConfig(
    vocabulary_size=320,
    hidden_size=64,
    mlp_size=160,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=16,
    context_tokens=64,
)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32 file", "bf16 file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model's folder, its weights stored in one dtype."""
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 4, vocabulary_size=280)
    decoder = Decoder(CONFIG).to(request.param)
    save_language_model(
        tmp_path, LanguageModel(decoder=decoder, tokenizer=tokenizer, template=None)
    )
    return tmp_path


def order(folder: Path, precision: Precision) -> LoadModel:
    """Order a model."""
    source = ModelSource(name="tiny", folder=str(folder), digest="0" * 64)
    return LoadModel(
        source=source,
        num_threads=torch.get_num_threads(),
        kv_cache_bytes=2**20,
        max_batch_tokens=64,
        precision=precision,
    )


@pytest.mark.parametrize(
    ("precision", "told"),
    [("auto", "float32"), ("bf16", "bfloat16"), ("int8", "int8"), ("int4", "int4")],
)
def test_what_is_told_is_what_was_counted(folder: Path, precision: Precision, told: str) -> None:
    """Counted without norms and the scale of each 8-bit output, and 4-bit outputs fill 64s."""
    counted = expected(order(folder, precision))
    loaded = engine._open(order(folder, precision)).loaded
    assert loaded.precision == told
    assert loaded.num_parameters == counted.num_weights
    assert counted.weights_bytes <= loaded.weights_bytes <= counted.weights_bytes * 1.15
    assert loaded.workspace_bytes == counted.workspace_bytes
    cache_bytes = loaded.resident_bytes - loaded.weights_bytes
    assert 0 < cache_bytes <= counted.kv_cache_bytes == 2**20


def test_a_lower_precision_takes_less(folder: Path) -> None:
    taken = [expected(order(folder, p)).weights_bytes for p in ("fp32", "bf16", "int8", "int4")]
    assert taken == sorted(taken, reverse=True)
    assert len(set(taken)) == 4


def test_weights_to_be_served_stay_as_they_are_stored(folder: Path) -> None:
    served = load_language_model(folder, is_widened=False).decoder
    widened = load_language_model(folder).decoder
    assert widened.norm.weight.dtype == torch.float32
    for name, stored in served.state_dict().items():
        assert torch.equal(stored.float(), widened.state_dict()[name])
    assert served.norm.weight.dtype == served.embed_tokens.weight.dtype
    is_half = stored_bytes(folder, "norm.weight") == 2
    assert (served.norm.weight.dtype == torch.bfloat16) is is_half


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "free_memory", lambda: 2**20)
    with pytest.raises(CapacityError) as refused:
        engine._open(order(folder, "int8"))
    assert "'tiny' does not fit: weights 0.000 GiB" in refused.value.message
    assert "in int8) + KV cache 0.001 GiB + workspace" in refused.value.message
    assert "and 0.001 GiB are free." in refused.value.message
    assert "smaller precision" in refused.value.hint


def test_an_adapter_is_counted_with_its_base_in_float32(folder: Path) -> None:
    plain = order(folder, "int8")
    source = ModelSource(name="a", folder="/nowhere", base_folder=str(folder), digest="0" * 64)
    merged = expected(LoadModel(**{f: getattr(plain, f) for f in plain.__struct_fields__} | {
        "source": source
    }))  # fmt: skip
    own = expected(plain)
    assert merged.loading_bytes == own.loading_bytes + 4 * own.num_weights


def test_what_fits_is_not_refused() -> None:
    need = Footprint(
        chosen="fp32",
        num_weights=1,
        weights_bytes=4,
        kv_cache_bytes=3,
        workspace_bytes=2,
        loading_bytes=1,
    )
    require_room(need, name="m", available_bytes=10)
    with pytest.raises(CapacityError):
        require_room(need, name="m", available_bytes=9)


def test_free_memory_is_some_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < free_memory() <= memory_of_machine()
    monkeypatch.setattr(confinement, "_MEMINFO", Path("/nowhere/meminfo"))
    assert free_memory() == memory_of_machine()
