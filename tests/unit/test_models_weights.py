"""Folders that must not be loaded are refused with the name of what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from purvey.errors import InvalidCheckpointError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.folder.safetensors_file import read_tensors, write_tensors
from purvey.models.weights import load_folder, save_folder

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "context_tokens": 8}
    config = DecoderConfig.from_hyperparameters(
        shape, vocabulary_size=20, bos_id=None, eos_ids=(1,)
    )
    save_folder(Decoder(config), tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}), encoding="utf-8")


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    merged = {**read_tensors(folder / WEIGHTS), **changes}
    write_tensors({k: v for k, v in merged.items() if v is not None}, folder / WEIGHTS)


def add_missing_shard(folder: Path) -> None:
    shards = {"weight_map": {"a": WEIGHTS, "b": "model-00002.safetensors"}}
    (folder / INDEX).write_text(json.dumps(shards), encoding="utf-8")


def add_escaping_shard(folder: Path) -> None:
    shards = {"weight_map": {"a": "../model.safetensors"}}
    (folder / INDEX).write_text(json.dumps(shards), encoding="utf-8")


def add_nested_pickle(folder: Path) -> None:
    (folder / "onnx").mkdir()
    (folder / "onnx" / "x.PKL").touch()


NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (lambda f: (f / "pytorch_model.bin").touch(), "pytorch_model.bin"),
    "nested pickle": (add_nested_pickle, "x.PKL"),
    "auto_map": (lambda f: edit_config(f, auto_map={"AutoModel": "m.M"}), "auto_map"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "config of text": (lambda f: (f / "config.json").write_text("x"), "config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), WEIGHTS),
    "missing shard": (add_missing_shard, "model-00002.safetensors"),
    "escaping shard": (add_escaping_shard, "no shard"),
    "missing tensor": (lambda f: edit_weights(f, **{NORM: None}), NORM),
    "extra tensor": (lambda f: edit_weights(f, extra=torch.ones(1)), "extra"),
    "tensor twice": (lambda f: edit_weights(f, **{"norm.weight": torch.ones(16)}), "twice"),
    "misshapen": (lambda f: edit_weights(f, **{NORM: torch.ones(3)}), NORM),
    "deep config": (lambda f: edit_config(f, num_hidden_layers=2**24), "layers.16777215"),
    "huge config": (lambda f: edit_config(f, vocab_size=2**24), EMBEDDING),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_folder_is_refused_by_name(folder: Path, case: str) -> None:
    spoil, named = CASES[case]
    spoil(folder)
    with pytest.raises(InvalidCheckpointError, match=named.replace(".", r"\.")):
        load_folder(folder)


def test_the_copy_of_a_tied_head_is_ignored(folder: Path) -> None:
    edit_weights(folder, **{"lm_head.weight": torch.zeros(20, 16)})
    tokens = torch.arange(5)[None]
    assert load_folder(folder)(tokens).abs().max() > 0


def test_loaded_weights_can_be_trained(folder: Path) -> None:
    decoder = load_folder(folder)
    decoder(torch.arange(5)[None]).sum().backward()
    gradients = [parameter.grad for parameter in decoder.parameters()]
    assert all(gradient is not None for gradient in gradients)
    with torch.no_grad():
        decoder.norm.weight.fill_(7.0)  # the file stays as it was
    assert load_folder(folder).norm.weight.max() == 1
