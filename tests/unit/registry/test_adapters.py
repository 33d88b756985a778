"""Adapters in PEFT's format: which folder belongs to which base, and which is refused by name."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.contracts.records import ModelRecord
from purvey.errors import (
    ConflictError,
    IntegrityError,
    InUseError,
    InvalidCheckpointError,
    InvalidValueError,
    ModelNotFoundError,
    PurveyError,
)
from purvey.registry.adapters import adapter_bytes
from purvey.registry.models import ModelRegistry, manifest_of
from purvey.store import projects
from purvey.store.artifacts import Artifacts
from purvey.store.database import Database
from purvey.testing.clock import FakeClock
from purvey.testing.model_folder import (
    ADAPTABLE,
    BERT,
    GPT2,
    write_plausible_adapter,
    write_plausible_folder,
    write_zeros,
)

PROJECT, OTHER = DEFAULT_PROJECT, "proj_other"
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def database(tmp_path: Path, clock: FakeClock) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'p.db'}", clock=clock)

    def add_projects(conn: Connection) -> None:
        for project in (PROJECT, OTHER):
            projects.ensure(conn, project, name=project, now=0.0)

    opened.write_now(add_projects)
    yield opened
    opened.close()


@pytest.fixture
def registry(database: Database, tmp_path: Path, clock: FakeClock) -> ModelRegistry:
    artifacts = Artifacts(tmp_path / "artifacts")
    return ModelRegistry(database, artifacts, model_roots=[tmp_path], clock=clock)


@pytest.fixture
async def base(registry: ModelRegistry, tmp_path: Path) -> ModelRecord:
    folder = write_plausible_folder(tmp_path / "base", shapes=ADAPTABLE)
    return await registry.register_folder(PROJECT, "base", folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_plausible_adapter(tmp_path / "adapter", base="somewhere/else")


async def test_an_adapter_is_registered_on_the_base_that_is_named(
    registry: ModelRegistry, base: ModelRecord, folder: Path
) -> None:
    made = await registry.register_folder(PROJECT, "mine", folder, base="base")
    assert (made.base_model, manifest_of(made).base) == ("base", base.digest)
    assert await registry.base(made) == base
    assert await registry.base(base) is None
    assert await registry.adapter_folder(made) == folder
    source = await registry.source(made)
    assert (source.folder, source.base_folder) == (str(folder), base.folder)
    assert adapter_bytes(folder) == 4 * 4
    with pytest.raises(InUseError):
        await registry.delete(PROJECT, "base")


async def test_a_base_is_known_by_its_registered_name(
    registry: ModelRegistry, base: ModelRecord, tmp_path: Path
) -> None:
    folder = write_plausible_adapter(tmp_path / "named", base="base")
    made = await registry.register_folder(PROJECT, "mine", folder)
    assert made.base_model == base.name
    assert await registry.register_folder(PROJECT, "mine", folder, base="base") == made


async def test_a_base_is_known_by_its_digest(
    registry: ModelRegistry, base: ModelRecord, folder: Path
) -> None:
    manifest = ModelManifest(
        family="decoder", task="text-generation", base=base.digest, report={"loss": 1}
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    made = await registry.register_folder(PROJECT, "mine", folder)
    assert (made.base_model, manifest_of(made)) == ("base", manifest)
    with pytest.raises(InvalidValueError, match="no registered model"):
        await registry.register_folder(OTHER, "mine", folder)  # the base is another project's


async def test_a_manifest_that_names_another_base_is_refused(
    registry: ModelRegistry, base: ModelRecord, folder: Path
) -> None:
    manifest = ModelManifest(family="decoder", task="text-generation", base="0" * 64)
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(InvalidCheckpointError, match="another base") as caught:
        await registry.register_folder(PROJECT, "mine", folder, base="base")
    assert caught.value.param == "base"


@pytest.mark.parametrize(
    ("named", "kind", "told"),
    [
        (None, InvalidValueError, "adapter of 'somewhere/else', which is no registered"),
        ("none", ModelNotFoundError, "'none' does not exist"),
        ("mine", InvalidValueError, "itself an adapter"),
        ("bert", InvalidValueError, "it is of family encoder, for embedding"),
        ("gpt", InvalidValueError, "it is of family transformers, for text"),
    ],
)
async def test_a_base_that_is_none_is_refused(
    registry: ModelRegistry,
    base: ModelRecord,
    folder: Path,
    tmp_path: Path,
    named: str | None,
    kind: type[PurveyError],
    told: str,
) -> None:
    await registry.register_folder(PROJECT, "mine", folder, base="base")
    for name, config in (("bert", BERT), ("gpt", GPT2)):
        other = write_plausible_folder(tmp_path / name, config)
        await registry.register_folder(PROJECT, name, other)
    with pytest.raises(kind, match=told) as caught:
        await registry.register_folder(PROJECT, "second", folder, base=named)
    assert caught.value.param == "base"


async def test_a_whole_model_has_no_base(
    registry: ModelRegistry, base: ModelRecord, tmp_path: Path
) -> None:
    other = write_plausible_folder(tmp_path / "other")
    with pytest.raises(InvalidValueError, match="no adapter") as caught:
        await registry.register_folder(PROJECT, "other", other, base="base")
    assert caught.value.param == "base"


async def test_the_same_folder_on_another_base_is_another_model(
    registry: ModelRegistry, base: ModelRecord, folder: Path, tmp_path: Path
) -> None:
    await registry.register_folder(PROJECT, "mine", folder, base="base")
    twin = write_plausible_folder(tmp_path / "twin", shapes=ADAPTABLE | {"x": (1,)})
    await registry.register_folder(PROJECT, "twin", twin)
    with pytest.raises(ConflictError):
        await registry.register_folder(PROJECT, "mine", folder, base="twin")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"model.layers.0.self_attn.q_proj.weight": (2, 3)}, r"lora_A.* \[1, 2\].* \[1, 3\]"),
        ({"model.layers.0.self_attn.q_proj.weight": (5, 2)}, r"lora_B.* \[2, 1\].* \[5, 1\]"),
        ({"model.layers.0.self_attn.k_proj.weight": (2, 2)}, r"lora_A.*does not have"),
        ({"model.layers.0.self_attn.q_proj.weight": (4,)}, r"lora_A.*does not have"),
    ],
)
async def test_another_base_is_refused_with_the_tensors_name(
    registry: ModelRegistry,
    folder: Path,
    tmp_path: Path,
    shapes: dict[str, tuple[int, ...]],
    told: str,
) -> None:
    other = write_plausible_folder(tmp_path / "other", shapes=shapes)
    await registry.register_folder(PROJECT, "other", other)
    with pytest.raises(InvalidCheckpointError, match=told) as caught:
        await registry.register_folder(PROJECT, "mine", folder, base="other")
    assert caught.value.param == "base"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": 0}, "no r from 1"),
        ({"r": 10**9}, "no r from 1"),
        ({"r": True}, "no r from 1"),
        ({"r": 2}, "rank 2"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"auto_map": {}}, "names code"),
    ],
)
async def test_a_config_that_is_not_understood_is_refused_by_its_key(
    registry: ModelRegistry,
    base: ModelRecord,
    tmp_path: Path,
    config: dict[str, object],
    told: str,
) -> None:
    folder = write_plausible_adapter(tmp_path / "odd", config=config)
    with pytest.raises(InvalidCheckpointError, match=told) as caught:
        await registry.register_folder(PROJECT, "mine", folder, base="base")
    assert caught.value.param == "source"


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({}, "no tensors"),
        ({f"{LAYER}.lora_A.weight": (1, 2)}, r"lacks the tensor.*lora_B"),
        ({f"{LAYER}.lora_A.weight": (1, 2, 1), f"{LAYER}.lora_B.weight": (2, 1)}, "no matrix"),
        ({f"{LAYER}.lora_embedding_A": (1, 2)}, "no LoRA's"),
        ({"model.layers.0.self_attn.q_proj.weight": (2, 2)}, "no LoRA's"),
    ],
)
async def test_weights_that_are_not_understood_are_refused_by_name(
    registry: ModelRegistry,
    base: ModelRecord,
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    told: str,
) -> None:
    write_zeros(folder / "adapter_model.safetensors", shapes)
    with pytest.raises(InvalidCheckpointError, match=told):
        await registry.register_folder(PROJECT, "mine", folder, base="base")


async def test_pickled_weights_are_refused(
    registry: ModelRegistry, base: ModelRecord, folder: Path
) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidCheckpointError, match="could carry code"):
        await registry.register_folder(PROJECT, "mine", folder, base="base")
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(InvalidCheckpointError, match=r"without adapter_model\.safetensors"):
        await registry.register_folder(PROJECT, "mine", folder, base="base")


async def test_changed_bytes_of_an_adapter_are_found(
    registry: ModelRegistry, base: ModelRecord, folder: Path
) -> None:
    made = await registry.register_folder(PROJECT, "mine", folder, base="base")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 9}))
    with pytest.raises(IntegrityError):
        await registry.adapter_folder(made)
