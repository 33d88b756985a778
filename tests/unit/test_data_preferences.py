"""Preferences: read in OpenAI's shape, kept with their prompt on one side, refused by line."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.data import Column, DatasetConfig, DatasetManifest
from purvey.contracts.jobs import InputFile
from purvey.data.build import build_dataset
from purvey.data.conversations import UnfitConversationError
from purvey.data.loader import load_splits
from purvey.data.preferences import as_preference
from purvey.data.reading.chat_file import read_preference_file
from purvey.errors import InvalidFileError


def pair(prompt: str, preferred: str, rejected: str, **more: object) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": prompt}], "tools": []},
        "preferred_output": [{"role": "assistant", "content": preferred}],
        "non_preferred_output": [{"role": "assistant", "content": rejected}],
        **more,
    }


def stored(tmp_path: Path, rows: list[dict[str, Any]]) -> InputFile:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return InputFile(role="source", path=str(path), name="pairs.jsonl", sha256=sha256, num_bytes=1)


def build(
    tmp_path: Path, rows: list[dict[str, Any]], **config: Any
) -> tuple[DatasetManifest, Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    files = [stored(tmp_path, rows)]
    return build_dataset(files, DatasetConfig.model_validate(config), folder), folder


def test_the_three_keys_become_one_column(tmp_path: Path) -> None:
    rows = [pair(f"question {i}", "yes", "no", id=i) for i in range(30)]
    manifest, folder = build(tmp_path, rows)
    assert manifest.columns == (Column(name="preference", kind="preference"),)
    assert manifest.profile["ignored_columns"] == ["id"]
    assert manifest.rows == {"train": 24, "validation": 3, "test": 3}
    read = [
        as_preference(json.loads(text))
        for rows_of in load_splits(folder, manifest).values()
        for text in rows_of.texts("preference")
    ]
    assert {p.prompt[0].content for p in read} == {f"question {i}" for i in range(30)}
    assert {(p.preferred.content, p.rejected.content) for p in read} == {("yes", "no")}


def test_pairs_of_one_prompt_are_on_one_side_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    rows = [pair(f"question {i % 20}", f"yes {i}", "no") for i in range(60)]
    manifest, folder = build(tmp_path, [*rows, rows[0]])
    assert manifest.profile["duplicates_removed"] == 1
    prompts = {
        split: {
            as_preference(json.loads(text)).prompt[0].content
            for text in rows_of.texts("preference")
        }
        for split, rows_of in load_splits(folder, manifest).items()
    }
    assert sum(len(found) for found in prompts.values()) == 20


def test_a_column_of_pairs_may_have_any_name(tmp_path: Path) -> None:
    rows = [{"duel": pair(f"question {i}", "yes", "no"), "by": "ann"} for i in range(10)]
    manifest, _ = build(tmp_path, rows, columns={"duel": "preference"})
    assert manifest.column("preference") == "duel"


def test_texts_of_the_same_names_stay_columns(tmp_path: Path) -> None:
    row = {"input": "a", "preferred_output": "b", "non_preferred_output": "c"}
    rows = [{name: f"{text} {i}" for name, text in row.items()} for i in range(10)]
    manifest, _ = build(tmp_path, rows)
    assert {column.kind for column in manifest.columns} == {"text"}


BAD: dict[str, tuple[Any, str]] = {
    "no object": ("x", "is not an object"),
    "no prompt": ({"preferred_output": []}, "is not an object"),
    "no messages": (pair("q", "a", "b") | {"input": {}}, "not a list of messages"),
    "no answer": (pair("q", "a", "b") | {"preferred_output": []}, '"preferred_output"'),
    "an empty answer": (pair("q", "a", ""), "no assistant message with content"),
    "equal answers": (pair("q", "a", "a"), "nothing to prefer"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_preference_is_refused(name: str) -> None:
    row, why = BAD[name]
    with pytest.raises(UnfitConversationError, match=why):
        as_preference(row)


def test_a_bad_row_is_refused_by_its_line(tmp_path: Path) -> None:
    rows = [*[pair(f"q {i}", "yes", "no") for i in range(11)], pair("q", "no", "no")]
    with pytest.raises(InvalidFileError, match=r"line 12: .*nothing to prefer"):
        build(tmp_path, rows)
    file = stored(tmp_path, rows)
    with pytest.raises(InvalidFileError, match=r"line 12: the row has two equal answers"):
        read_preference_file(Path(file.path), source=file.name)
    read = read_preference_file(Path(stored(tmp_path, rows[:11]).path), source="pairs.jsonl")
    assert [found.prompt[0].content for found in read] == [f"q {i}" for i in range(11)]
