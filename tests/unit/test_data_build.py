"""Files to a dataset folder: what is written, that it repeats, that damage is seen."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from purvey.contracts.data import DATASET_MANIFEST_NAME, DatasetConfig, DatasetManifest
from purvey.contracts.jobs import InputFile, JobSpec
from purvey.data.build import build_dataset, sorted_labels
from purvey.data.loader import load_splits
from purvey.data.reading.chat_file import read_chat_file
from purvey.errors import IntegrityError, InvalidFileError, InvalidValueError
from purvey.worker import dataset

SMS = "Label\tSMS\n" + "".join(
    f"{label}\tmessage {i} about {about}\n"
    for i in range(60)
    for label, about in (("ham", "dinner at home"), ("spam", "a prize to claim"))
)
CHINESE = "文本,标签\n" + "".join(
    f"这家店第{i}次去还是很好,正面\n第{i}次的服务太差了,负面\n" for i in range(30)
)


def stored(tmp_path: Path, name: str, data: str | bytes) -> InputFile:
    content = data.encode() if isinstance(data, str) else data
    sha256 = hashlib.sha256(content).hexdigest()
    path = tmp_path / sha256
    path.write_bytes(content)
    return InputFile(
        role="source", path=str(path), name=name, sha256=sha256, num_bytes=len(content)
    )


def build(tmp_path: Path, *files: InputFile, **config: Any) -> tuple[DatasetManifest, Path]:
    folder = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return build_dataset(files, DatasetConfig.model_validate(config), folder), folder


def test_a_tab_separated_file_with_a_header(tmp_path: Path) -> None:
    manifest, folder = build(
        tmp_path, stored(tmp_path, "SMSData", SMS + "ham\tmessage 0 about dinner at home\n")
    )
    assert [(c.name, c.kind) for c in manifest.columns] == [("SMS", "text"), ("Label", "label")]
    assert manifest.labels == ("ham", "spam")
    assert manifest.rows == {"train": 96, "validation": 12, "test": 12}
    assert manifest.profile["rows_read"] == 121
    assert manifest.profile["duplicates_removed"] == 1
    assert manifest.profile["balance"]["test"] == {"ham": 6, "spam": 6}
    assert manifest.profile["columns"]["SMS"]["chars"]["max"] == 33
    rows = load_splits(folder, manifest)
    assert rows["test"].num_rows == 12
    assert set(rows["train"].texts("Label")) == {"ham", "spam"}
    preview = json.loads((folder / "preview.json").read_text(encoding="utf-8"))
    assert [row["SMS"] for row in preview["train"]] == rows["train"].texts("SMS")


def test_a_chinese_file(tmp_path: Path) -> None:
    manifest, folder = build(tmp_path, stored(tmp_path, "数据.csv", "\ufeff" + CHINESE))
    assert manifest.column("label") == "标签"
    assert manifest.labels == ("正面", "负面")
    assert all("第" in text for text in load_splits(folder, manifest)["train"].texts("文本"))


def test_class_folders(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for label in (2, 10):
            for shade in range(10):
                encoded = io.BytesIO()
                Image.new("L", (5, 7), shade * 10 + label).save(encoded, "PNG")
                archive.writestr(f"{label}/{shade}.png", encoded.getvalue())
    manifest, folder = build(tmp_path, stored(tmp_path, "digits.zip", packed.getvalue()))
    assert manifest.labels == ("2", "10")
    assert manifest.profile["columns"]["image"]["sizes"] == [{"width": 5, "height": 7, "count": 20}]
    image = load_splits(folder, manifest)["train"].media("image")[0]
    assert Image.open(io.BytesIO(image)).size == (5, 7)
    preview = json.loads((folder / "preview.json").read_text(encoding="utf-8"))
    assert preview["train"][0]["image"].startswith("data:image/png;base64,")


def test_equal_requests_give_equal_bytes_and_other_seeds_other_splits(tmp_path: Path) -> None:
    file = stored(tmp_path, "a.tsv", SMS)
    first, folder = build(tmp_path, file, seed=1)
    again, second = build(tmp_path, file, seed=1)
    other, _ = build(tmp_path, file, seed=2)
    assert first == again
    assert first.digest != other.digest
    for path in folder.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_the_manifest_is_in_the_folder_and_damage_is_seen(tmp_path: Path) -> None:
    manifest, folder = build(tmp_path, stored(tmp_path, "a.tsv", SMS))
    text = (folder / DATASET_MANIFEST_NAME).read_bytes()
    assert msgspec.json.decode(text, type=DatasetManifest) == manifest
    target = folder / "test.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="changed on disk"):
        load_splits(folder, manifest)
    target.unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_splits(folder, manifest)


def test_only_requested_columns_are_kept(tmp_path: Path) -> None:
    text = "a,b,c\n" + "".join(f"row {i},{i % 2},{i}\n" for i in range(20))
    manifest, _ = build(
        tmp_path, stored(tmp_path, "a.csv", text), columns={"a": "text", "c": "number"}
    )
    assert [c.name for c in manifest.columns] == ["a", "c"]
    assert manifest.profile["ignored_columns"] == ["b"]
    with pytest.raises(InvalidValueError, match="no column 'd'"):
        build(tmp_path, stored(tmp_path, "a.csv", text), columns={"d": "text"})


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    half = SMS.count("\n") // 2
    lines = SMS.splitlines(keepends=True)
    one = stored(tmp_path, "1.tsv", "".join(lines[:half]))
    two = stored(tmp_path, "2.tsv", lines[0] + "".join(lines[half:]))
    manifest, _ = build(tmp_path, one, two)
    assert sum(manifest.rows.values()) == 120
    assert manifest.source_sha256 == (one.sha256, two.sha256)


def test_numeric_labels_sort_as_numbers() -> None:
    assert sorted_labels(["10", "2", "1", "2"]) == ("1", "2", "10")
    assert sorted_labels(["b", "10", "a"]) == ("10", "a", "b")
    assert sorted_labels(["nan", "10", "9"]) == ("10", "9", "nan")


class Heard:
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def event(self, message: str, *, level: str = "info", **data: object) -> None:
        (self.warnings if level == "warn" else self.messages).append(message)


def spec(tmp_path: Path, recipe: dict[str, Any], *files: InputFile) -> JobSpec:
    output = tmp_path / "output"
    output.mkdir()
    return JobSpec(
        job_id="job_x",
        kind="dataset",
        attempt=1,
        fence=1,
        recipe=recipe,
        files=files,
        work_dir=str(tmp_path),
        output_dir=str(output),
    )


def test_the_worker_builds_what_the_spec_asks_for(tmp_path: Path) -> None:
    link = Heard()
    built = dataset.run(spec(tmp_path, {}, stored(tmp_path, "a.tsv", SMS)), link)
    assert (tmp_path / "output" / DATASET_MANIFEST_NAME).is_file()
    assert built.manifest.rows["train"] == 96
    assert "0 duplicates removed" in link.messages[-1]
    assert link.warnings == []


def test_the_worker_warns_of_what_the_profile_warns_of(tmp_path: Path) -> None:
    link = Heard()
    file = stored(tmp_path, "a.tsv", SMS.replace("spam", "ham"))
    built = dataset.run(spec(tmp_path, {"splits": {"test": 0.2}}, file), link)
    assert link.warnings == built.manifest.profile["warnings"]
    assert "Every row has the label 'ham'" in link.warnings[0]


def test_the_worker_names_a_bad_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"splits\.tset") as caught:
        dataset.run(spec(tmp_path, {"splits": {"tset": 0.1}}), Heard())
    assert "Did you mean 'test'" in caught.value.message


def test_chat_files_are_read_line_by_line(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "chat.jsonl"
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row)}\n", encoding="utf-8")
    talks = read_chat_file(path, source="chat.jsonl")
    assert [turn.content for turn in talks[1]] == ["a", "b"]
    path.write_text(f'{json.dumps(row)}\n{{"messages": []}}\n', encoding="utf-8")
    with pytest.raises(InvalidFileError, match='line 2: "messages" is not a list'):
        read_chat_file(path, source="chat.jsonl")
