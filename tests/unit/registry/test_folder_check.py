import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from purvey.contracts.model import MANIFEST_NAME, ModelSource
from purvey.errors import IntegrityError, InvalidCheckpointError, InvalidValueError
from purvey.registry import folder_check, model_bytes
from purvey.registry.folder_check import check_folder
from purvey.registry.model_bytes import verify_model
from purvey.store.seals import marks
from purvey.store.seals.marks import Seals
from purvey.testing.model_folder import TENSOR, safetensors_bytes, write_plausible_folder

Damage = Callable[[Path], None]


@dataclass(kw_only=True)
class Sealed:
    """A verified model, and how often all of it was read."""

    source: ModelSource
    seals: Seals
    full_checks: int = 0


def _edit(name: str, **changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(values | changes))

    return damage


def _write(name: str, content: bytes = b"x") -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def _remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _shards(weight_map: dict[str, object]) -> Damage:
    return _edit("model.safetensors.index.json", weight_map=weight_map)


def _manifest(**fields: object) -> Damage:
    whole = {"family": "decoder", "task": "text-generation"} | fields
    return _edit(MANIFEST_NAME, **whole)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_plausible_folder(tmp_path / "roots" / "model")


def test_a_plain_folder_passes_and_has_a_digest_of_its_content(folder: Path) -> None:
    first = check_folder(folder, model_roots=[folder.parent])
    assert (first.manifest.family, first.manifest.task) == ("decoder", "text-generation")
    assert first.folder == folder
    assert check_folder(folder, model_roots=[folder.parent]).digest == first.digest
    _edit("config.json", vocab_size=3)(folder)
    assert check_folder(folder, model_roots=[folder.parent]).digest != first.digest


def test_shards_pass_when_all_are_there(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    _shards({"embed.weight": "model-00001-of-00001.safetensors"})(folder)
    assert check_folder(folder, model_roots=[folder.parent])


def test_a_folder_that_purvey_saved_is_read_by_its_manifest(folder: Path) -> None:
    (folder / "config.json").unlink()
    _manifest(family="text-ngrams", task="text-classification", labels=["ham", "spam"])(folder)
    checked = check_folder(folder, model_roots=[folder.parent])
    assert checked.manifest.labels == ("ham", "spam")


@pytest.mark.row("FIL-13")
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_remove("config.json"), "config.json is missing"),
        (_remove("tokenizer.json"), "tokenizer.json is missing"),
        (_remove("model.safetensors"), "neither model.safetensors"),
        (_shards({"embed.weight": "model-00002-of-00002.safetensors"}), "00002"),
        (_shards({"lm_head.weight": "model.safetensors"}), "lm_head.weight"),
        (_shards({"embed.weight": "../../outside.safetensors"}), "outside"),
        (_shards({}), "weight_map"),
        (_shards({"embed.weight": ["model.safetensors"]}), "missing"),
        (lambda folder: (folder / "loop").symlink_to("loop"), "cannot be read"),
        (_edit("config.json", auto_map={"AutoModel": "evil.Model"}), "auto_map"),
        (_edit("config.json", text_config={"auto_map": {}}), "auto_map"),
        (_edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["x", None]}), "auto_map"),
        (_edit("config.json", _attn_implementation_internal="x/y"), "_implementation_internal"),
        (_edit("config.json", model_type="t5", architectures=["T5Model"]), "'t5'; served are"),
        (_edit("config.json", model_type="gpt2", architectures=["A", "BForCausalLM"]), "'gpt2'"),
        (_edit("config.json", model_type="gpt2", quantization_config={"bits": 4}), "quantization"),
        (_edit("config.json", model_type=7), "'7'; served are"),
        (_edit("config.json", model_type=["llama"]), "model_type"),
        (_write("config.json", b"[1]"), "no JSON object"),
        (_write("config.json", b"{"), "not JSON"),
        (_write("config.json", b'{"a":' * 100_000), "not JSON"),
        *[
            (_write(f"weights{ending}"), ending)
            for ending in (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".PKL", ".py")
        ],
        (_manifest(family="module", task="classification", module="net.py:Net"), "module"),
        (_manifest(base="0" * 64), "adapter"),
        (_manifest(family="other"), "manifest"),
    ],
)
def test_what_is_missing_damaged_or_could_carry_code_is_refused(
    folder: Path, damage: Damage, named: str
) -> None:
    damage(folder)
    with pytest.raises(InvalidCheckpointError) as caught:
        check_folder(folder, model_roots=[folder.parent])
    assert named in caught.value.message
    assert caught.value.param == "source"
    assert str(folder) not in caught.value.text


def test_a_vocabulary_may_hold_any_word(folder: Path) -> None:
    _edit("tokenizer.json", model={"vocab": {"auto_map": 0}})(folder)
    assert check_folder(folder, model_roots=[folder.parent])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "header"),
        (b"\x00" * 7, "header"),
        ((2**63).to_bytes(8, "little") + b"{}", "header"),
        ((17 * 2**20).to_bytes(8, "little") + b" " * (17 * 2**20), "header"),
        (b"PK\x03\x04" + b"\x00" * 100, "header"),
        (safetensors_bytes({"a": TENSOR}, num_bytes=15), "15"),
        (safetensors_bytes({"a": TENSOR}, num_bytes=17), "17"),
        (safetensors_bytes({"a": TENSOR | {"shape": [2, 3]}}), "shape"),
        (safetensors_bytes({"a": TENSOR | {"shape": [-2, -2]}}), "not known"),
        (safetensors_bytes({"a": TENSOR | {"dtype": "PICKLE"}}), "not known"),
        (safetensors_bytes({"a": TENSOR | {"extra": 1}}), "not known"),
        (safetensors_bytes({"a": TENSOR | {"data_offsets": [0, True]}}), "not known"),
        (safetensors_bytes({"a": [1]}), "not known"),
        (safetensors_bytes({"a": TENSOR, "b": TENSOR}), "overlap"),
        (
            safetensors_bytes({"a": TENSOR | {"data_offsets": [4, 20]}}, num_bytes=20),
            "hole",
        ),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{},"a":{}} ', "unique"),
    ],
)
def test_a_header_that_does_not_describe_the_file_exactly_is_refused(
    folder: Path, content: bytes, named: str
) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InvalidCheckpointError, match=named):
        check_folder(folder, model_roots=[folder.parent])


def test_outside_and_missing_get_one_answer(folder: Path, tmp_path: Path) -> None:
    outside = write_plausible_folder(tmp_path / "elsewhere")
    (folder.parent / "link").symlink_to(outside)
    answers = set()
    for named in (outside, folder.parent / "link", folder.parent / "no", folder / "..", Path("\0")):
        roots = [folder] if named == folder / ".." else [folder.parent]
        with pytest.raises(InvalidValueError) as caught:
            check_folder(named, model_roots=roots)
        assert caught.value.param == "source"
        answers.add(caught.value.text)
    assert len(answers) == 1


def test_a_file_may_be_a_link_within_the_roots_but_not_out_of_them(
    folder: Path, tmp_path: Path
) -> None:
    weights = folder / "model.safetensors"
    blob = weights.rename(folder.parent / "blob")
    weights.symlink_to(blob)
    assert check_folder(folder, model_roots=[folder.parent])
    weights.unlink()
    weights.symlink_to(blob.rename(tmp_path / "outside"))
    with pytest.raises(InvalidCheckpointError, match="leaves the model roots"):
        check_folder(folder, model_roots=[folder.parent])


def test_a_file_that_cannot_be_read_is_the_folders_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> set[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_check, "read_header", refuse)
    with pytest.raises(InvalidCheckpointError, match="cannot be read"):
        check_folder(folder, model_roots=[folder.parent])


CROSS_ENCODER = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "family", "task"),
    [
        ({"model_type": "bert"}, "encoder", "embedding"),
        ({"model_type": "xlm-roberta", "architectures": ["A"]}, "encoder", "embedding"),
        ({"model_type": "bert", "id2label": {"0": "x"}} | CROSS_ENCODER, "encoder", "rerank"),
        ({"model_type": "roberta", "num_labels": 1} | CROSS_ENCODER, "encoder", "rerank"),
    ],
)
def test_an_encoder_is_known_by_its_configuration(
    folder: Path, config: dict[str, object], family: str, task: str
) -> None:
    _edit("config.json", **config)(folder)
    manifest = check_folder(folder, model_roots=[folder.parent]).manifest
    assert (manifest.family, manifest.task) == (family, task)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "PhiForCausalLM", "InventedForCausalLM"])
def test_another_causal_architecture_is_left_to_transformers(folder: Path, name: str) -> None:
    _edit("config.json", model_type="other", architectures=[name])(folder)
    manifest = check_folder(folder, model_roots=[folder.parent]).manifest
    assert (manifest.family, manifest.task) == ("transformers", "text-generation")


def test_a_manifest_cannot_send_our_own_families_to_transformers(folder: Path) -> None:
    _manifest(family="transformers", task="text-generation")(folder)
    with pytest.raises(InvalidCheckpointError, match="leaves to transformers"):
        check_folder(folder, model_roots=[folder.parent])


def test_a_classifier_of_several_labels_classifies_and_ranks_nothing(folder: Path) -> None:
    labels = {"0": "no", "1": "yes"}
    _edit("config.json", model_type="bert", id2label=labels, **CROSS_ENCODER)(folder)
    manifest = check_folder(folder, model_roots=[folder.parent]).manifest
    assert (manifest.task, manifest.labels) == ("text-classification", ("no", "yes"))
    for task, given in (("rerank", []), ("text-classification", ["no", "yes", "maybe"])):
        _manifest(family="encoder", task=task, labels=given)(folder)
        with pytest.raises(InvalidCheckpointError, match="has 2 labels") as raised:
            check_folder(folder, model_roots=[folder.parent])
        assert raised.value.param == "source"


def test_the_settings_of_inner_folders_count(folder: Path) -> None:
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text("{}")
    plain = check_folder(folder, model_roots=[folder.parent])
    assert plain.manifest.task == "text-generation"
    (folder / "modules.json").write_text("[]")
    first = check_folder(folder, model_roots=[folder.parent])
    assert (first.manifest.family, first.manifest.task) == ("decoder", "embedding")
    source = ModelSource(name="m", folder=str(folder), digest=first.digest)
    verify_model(source)
    pooling.write_text('{"pooling_mode": "cls"}')
    assert check_folder(folder, model_roots=[folder.parent]).digest != first.digest
    with pytest.raises(IntegrityError):
        verify_model(source)
    pooling.write_text('{"auto_map": {"a": "b"}}')
    with pytest.raises(InvalidCheckpointError, match="auto_map"):
        check_folder(folder, model_roots=[folder.parent])
    pooling.unlink()
    pooling.symlink_to("/etc/hostname")
    with pytest.raises(InvalidCheckpointError, match="leaves the model roots"):
        check_folder(folder, model_roots=[folder.parent])


@pytest.fixture
def sealed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    """A model that was verified once with seals, and a count of its full checks since."""
    digest = check_folder(folder, model_roots=[folder.parent]).digest
    source = ModelSource(name="m", folder=str(folder), digest=digest)
    monkeypatch.setattr(marks, "_SETTLED_NS", 0)
    made = Sealed(source=source, seals=Seals(tmp_path / "seals"))
    real = model_bytes._is_whole

    def counted(folder: Path, digest: str) -> bool:
        made.full_checks += 1
        return real(folder, digest)

    monkeypatch.setattr(model_bytes, "_is_whole", counted)
    verify_model(source, made.seals)
    assert made.full_checks == 1
    return made


def test_what_was_not_written_to_is_not_read_again(sealed: Sealed) -> None:
    verify_model(sealed.source, sealed.seals)
    assert sealed.full_checks == 1
    verify_model(sealed.source)
    assert sealed.full_checks == 2  # without seals, always


def test_a_touched_file_is_read_and_known_again(sealed: Sealed) -> None:
    os.utime(Path(sealed.source.folder) / "config.json")
    for _ in range(2):
        verify_model(sealed.source, sealed.seals)
    assert sealed.full_checks == 2


def test_a_change_behind_an_old_time_is_found(sealed: Sealed) -> None:
    weights = Path(sealed.source.folder) / "model.safetensors"
    seen, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    for _ in range(2):  # and it stays found
        with pytest.raises(IntegrityError):
            verify_model(sealed.source, sealed.seals)


def test_a_file_that_was_added_is_found(sealed: Sealed) -> None:
    (Path(sealed.source.folder) / "extra.json").write_text("{}")
    with pytest.raises(IntegrityError):
        verify_model(sealed.source, sealed.seals)
