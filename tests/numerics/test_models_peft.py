"""Adapters saved here load in `peft`, and theirs here, with the same merged logits."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.errors import InvalidCheckpointError
from purvey.models.decoder import Decoder
from purvey.models.lora import adapters, inject, load_adapter, merge, save_adapter
from purvey.models.weights import load_folder

# peft asks transformers for an attribute that it has since renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
TOLERANCE = 1e-4  # float32 sums of at most 80 terms in another order: errors near 1e-6
OURS = LoraConfig(rank=4, alpha=12.0)


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def tokens() -> Tensor:
    return torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))


def logits_of(decoder: Decoder) -> Tensor:
    with torch.no_grad():
        logits: Tensor = decoder(tokens())
    return logits


def trained_decoder(base_folder: Path) -> Decoder:
    decoder = load_folder(base_folder)
    inject(decoder, OURS, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    for _, layer in adapters(decoder):
        layer.lora_B.weight.data.normal_(0.0, 0.2, generator=generator)
    return decoder


def test_a_fresh_adapter_changes_nothing_and_trains_alone(base_folder: Path) -> None:
    plain = logits_of(load_folder(base_folder))
    decoder = load_folder(base_folder)
    inject(decoder, OURS, generator=torch.Generator().manual_seed(2))
    assert torch.equal(logits_of(decoder), plain)
    trainable = [name for name, p in decoder.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * 2
    assert all(".lora_" in name for name in trainable)


def test_merging_keeps_the_logits(base_folder: Path) -> None:
    decoder = trained_decoder(base_folder)
    adapted, plain = logits_of(decoder), logits_of(load_folder(base_folder))
    merge(decoder)
    assert not list(adapters(decoder))
    assert (logits_of(decoder) - adapted).abs().max() < TOLERANCE
    assert (adapted - plain).abs().max() > 100 * TOLERANCE, "the adapter changed nothing"


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_our_adapter_loads_in_peft(base_folder: Path, targets: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    decoder = load_folder(base_folder)
    config = LoraConfig(rank=3, alpha=7.5, targets=targets)
    inject(decoder, config, generator=torch.Generator().manual_seed(2))
    for _, layer in adapters(decoder):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.2)
    save_adapter(decoder, tmp_path / "adapter", config, base_name="base")
    base = LlamaForCausalLM.from_pretrained(base_folder)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    with torch.no_grad():
        assert (theirs(tokens()).logits - logits_of(decoder)).abs().max() < TOLERANCE


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_their_adapter_loads_here(
    base_folder: Path, is_rank_stabilised: bool, tmp_path: Path
) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    config = PeftConfig(
        r=5, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_rslora=is_rank_stabilised
    )
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(base_folder), config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "adapter")
    decoder = load_folder(base_folder)
    load_adapter(decoder, tmp_path / "adapter")
    merge(decoder)
    with torch.no_grad():
        assert (theirs(tokens()).logits - logits_of(decoder)).abs().max() < TOLERANCE


@pytest.mark.row("FIL-17")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"r": 10**6}, "r"),
        ({"r": 0}, "r"),
        ({"r": "8"}, "r"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"lora_alpha": math.nan}, "lora_alpha"),
        ({"rank_pattern": {".*": 4}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 5}, "does not fit"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"lora_alpha": -1}, "lora_alpha"),
    ],
)
def test_a_wrong_adapter_is_refused_by_name(
    base_folder: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder = tmp_path / "adapter"
    save_adapter(trained_decoder(base_folder), folder, OURS, base_name="base")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match=named):
        load_adapter(load_folder(base_folder), folder)


def _set_weight(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values()))[0, 0] = value
        save_file(tensors, path)

    return spoil


def _rename_tensors(old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file({k.replace(old, new): v for k, v in load_file(path).items()}, path)

    return spoil


@pytest.mark.row("FIL-17")
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_set_weight(math.nan), "not finite"),
        (_set_weight(-math.inf), "not finite"),
        (_set_weight(3e38), "overflow"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"PK"), "header"),
        (_rename_tensors("layers.0", "layers.9"), "which the base does not have"),
        (_rename_tensors("q_proj", "embed_tokens"), "which the base does not have"),
        (_rename_tensors("lora_B", "lora_C"), "unexpected tensor"),
    ],
)
def test_spoilt_weights_are_refused_and_the_base_stays(
    base_folder: Path, tmp_path: Path, spoil: Callable[[Path], object], named: str
) -> None:
    folder = tmp_path / "adapter"
    save_adapter(trained_decoder(base_folder), folder, OURS, base_name="base")
    before = logits_of(load_folder(base_folder))
    spoil(folder)
    with pytest.raises(InvalidCheckpointError, match=named):
        _adapted(base_folder, folder)
    assert torch.equal(logits_of(load_folder(base_folder)), before)


def _adapted(base_folder: Path, folder: Path) -> Decoder:
    decoder = load_folder(base_folder)
    load_adapter(decoder, folder)
    merge(decoder)
    return decoder


@pytest.mark.row("FIL-17")
def test_a_pattern_of_target_modules_is_never_run(base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    save_adapter(trained_decoder(base_folder), folder, OURS, base_name="base")
    path = folder / "adapter_config.json"
    pattern = {"target_modules": "(a+)+$" * 8 + "[", "base_model_name_or_path": "../../etc"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **pattern}), encoding="utf-8")
    decoder = load_folder(base_folder)
    load_adapter(decoder, folder)
    assert len(list(adapters(decoder))) == 2 * 7


@pytest.mark.row("FIL-17")
def test_an_adapter_of_another_base_is_refused(base_folder: Path, tmp_path: Path) -> None:
    save_adapter(trained_decoder(base_folder), tmp_path / "adapter", OURS, base_name="base")
    smaller = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(smaller).save_pretrained(tmp_path / "other")
    with pytest.raises(InvalidCheckpointError, match="does not"):
        load_adapter(load_folder(tmp_path / "other"), tmp_path / "adapter")
