"""What `sentence-transformers` says of a folder, and what of it is not computed here."""

import json
from pathlib import Path

import pytest

from purvey.contracts.model import ModelManifest
from purvey.errors import InvalidCheckpointError
from purvey.models.encoder.modules import EmbeddingSetup, read_setup

MANIFEST = ModelManifest(family="encoder", task="embedding")
PREFIX = "sentence_transformers.models"


def _steps(*kinds: str) -> list[dict[str, object]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2"}
    return [
        {"idx": i, "name": str(i), "path": paths[kind], "type": f"{PREFIX}.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def _write(folder: Path, **files: object) -> Path:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    given: dict[str, object] = {
        "modules": _steps("Transformer", "Pooling", "Normalize"),
        "1_Pooling/config": {"word_embedding_dimension": 48, "pooling_mode_cls_token": True},
        "sentence_bert_config": {"max_seq_length": 32, "do_lower_case": False},
    }
    for name, value in (given | files).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def _read(folder: Path, manifest: ModelManifest = MANIFEST) -> EmbeddingSetup:
    return read_setup(folder, manifest, {}, default="mean")


def test_a_folder_of_sentence_transformers_is_understood(tmp_path: Path) -> None:
    assert _read(tmp_path).pooling == "mean"
    assert _read(_write(tmp_path)) == EmbeddingSetup(pooling="cls", max_tokens=32)


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_poolings(tmp_path: Path, fields: dict[str, object], pooling: str) -> None:
    assert _read(_write(tmp_path, **{"1_Pooling/config": fields})).pooling == pooling


def test_a_default_prompt_is_written_before_every_text(tmp_path: Path) -> None:
    prompts = {"default_prompt_name": "query", "prompts": {"query": "query: ", "document": ""}}
    _write(tmp_path, config_sentence_transformers=prompts)
    assert _read(tmp_path).prompt == "query: "


def test_the_manifest_wins(tmp_path: Path) -> None:
    own = {"pooling": "last", "max_tokens": 8, "prompt": "p: ", "matryoshka": True}
    manifest = ModelManifest(family="encoder", task="embedding", hyperparameters=own)
    assert _read(_write(tmp_path), manifest) == EmbeddingSetup(
        pooling="last", max_tokens=8, prompt="p: ", sizes=()
    )


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"modules": _steps("Transformer", "Pooling", "Dense", "Normalize")}, "other steps"),
        ({"modules": _steps("Transformer")}, "other steps"),
        ({"modules": {}}, "other steps"),
        ({"modules": [1]}, "no list of steps"),
        ({"modules": [{"type": "a.Transformer", "path": "../other"}]}, "no folder in this one"),
        ({"modules": [{"type": "a.Transformer", "path": ".."}]}, "no folder in this one"),
        ({"modules": [{"type": "a.Transformer", "path": "/etc"}]}, "no folder in this one"),
        ({"modules": [{"type": 1, "path": ""}]}, "no folder in this one"),
        ({"1_Pooling/config": {"pooling_mode_max_tokens": True}}, "pooling_mode_max_tokens"),
        ({"1_Pooling/config": {"pooling_mode": "max"}}, "pooling_mode"),
        ({"1_Pooling/config": {}}, "pooling_mode"),
        (
            {
                "1_Pooling/config": {
                    "pooling_mode_cls_token": True,
                    "pooling_mode_mean_tokens": True,
                }
            },
            "pooling_mode",
        ),
        ({"sentence_bert_config": {"do_lower_case": True}}, "do_lower_case"),
        ({"sentence_bert_config": {"max_seq_length": -1}}, "max_seq_length"),
        ({"config_sentence_transformers": {"default_prompt_name": "x"}}, "default_prompt_name"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, files: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidCheckpointError, match=named):
        _read(_write(tmp_path, **files))


@pytest.mark.parametrize(
    "hyperparameters", [{"pooling": "max"}, {"prompt": 1}, {"max_tokens": 0}, {"poolling": "cls"}]
)
def test_a_wrong_manifest_is_refused_by_name(
    tmp_path: Path, hyperparameters: dict[str, object]
) -> None:
    manifest = ModelManifest(family="encoder", task="embedding", hyperparameters=hyperparameters)
    with pytest.raises(InvalidCheckpointError, match=next(iter(hyperparameters))):
        _read(tmp_path, manifest)
