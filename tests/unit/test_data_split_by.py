"""Splits by a group and by time through a whole build: who is on which side, what leaks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from purvey.contracts.data import DatasetConfig, DatasetManifest, SplitConfig
from purvey.contracts.jobs import InputFile
from purvey.data.build import build_dataset
from purvey.data.loader import Rows, load_splits
from purvey.data.splits import split_rows
from purvey.errors import InvalidFileError, InvalidValueError

Built = tuple[DatasetManifest, dict[str, Rows]]
Build = Callable[..., Built]
SUBJECTS = [
    *("apples", "bridges", "candles", "deserts", "engines"),
    *("forests", "glaciers", "harbours", "islands", "jungles"),
]
KINDS = {"text": "text", "label": "label"}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A function that builds a dataset of rows."""

    def run(rows: list[dict[str, Any]], **config: Any) -> Built:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = folder / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        file = InputFile(
            role="source", path=str(path), name="rows.jsonl", sha256="0" * 64, num_bytes=1
        )
        out = folder / "out"
        out.mkdir()
        manifest = build_dataset([file], DatasetConfig.model_validate(config), out)
        return manifest, load_splits(out, manifest)

    return run


def spoken(number: int) -> dict[str, Any]:
    who, subject = number % 12, SUBJECTS[number % 10]
    text = f"{subject} are what speaker {who * 7919} thought of on occasion {number * 104_729}"
    return {"text": text, "speaker": who, "day": f"2026-01-{number % 28 + 1:02}", "label": subject}


def test_a_speaker_is_on_one_side(build: Build) -> None:
    rows = [spoken(number) for number in range(120)]
    manifest, splits = build(rows, splits={"group": "speaker"})
    assert "speaker" not in [column.name for column in manifest.columns], "none learns who"
    assert "speaker" in manifest.profile["ignored_columns"]
    who = {row["text"]: row["speaker"] for row in rows}
    sides = [{who[text] for text in splits[s].texts("text")} for s in ("train", "test")]
    assert not sides[0] & sides[1]
    assert all(count >= 10 for count in manifest.rows.values())


def test_the_latest_rows_are_the_test(build: Build) -> None:
    rows = [spoken(number) for number in range(56)]
    manifest, splits = build(rows, splits={"time": "day", "test": 0.25, "stratify": False})
    day = {row["text"]: row["day"] for row in rows}
    days = {split: {day[text] for text in found.texts("text")} for split, found in splits.items()}
    assert max(days["train"]) < min(days["validation"]) <= max(days["validation"])
    assert max(days["validation"]) < min(days["test"])
    assert manifest.rows == {"train": 36, "validation": 6, "test": 14}


def test_an_old_copy_goes_where_the_late_one_is(build: Build) -> None:
    same = "this very announcement was read out on the first day and again on the last one"
    rows = [spoken(number) for number in range(28)]
    rows[0]["text"], rows[27]["text"] = same, f"{same}."
    _, splits = build(rows, splits={"time": "day"})
    assert {same, f"{same}."} <= set(splits["test"].texts("text"))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["2026-01-01", "2026/1/2", "2026-01-03T10:00:00Z"], None),
        ([1, 2.5, "1e3"], None),
        (["2026-01-01", 5, 6], "numbers in some rows and dates"),
        (["2026-01-01", "soon", None], r"lines 2, 3: column 'when' is no time"),
        ([1, 1, 2], "has 2 distinct times; 3 splits need as many"),
    ],
)
def test_times_are_numbers_or_dates(build: Build, cells: list[Any], said: str | None) -> None:
    rows = [{"text": f"{SUBJECTS[i]} here", "when": cell} for i, cell in enumerate(cells)]
    if said is None:
        manifest, _ = build(rows, splits={"time": "when"})
        assert manifest.rows == {"train": 1, "validation": 1, "test": 1}
    else:
        with pytest.raises((InvalidFileError, InvalidValueError), match=said):
            build(rows, splits={"time": "when"})


@pytest.mark.parametrize(
    ("change", "splits", "said"),
    [
        ({}, {"group": "speeker"}, "no column 'speeker'. Did you mean 'speaker'"),
        ({"speaker": "one"}, {"group": "speaker"}, "has 1 distinct values; 3 splits"),
        ({"speaker": ""}, {"group": "speaker"}, "lines 1, 2, .* names no group"),
        ({"text": "all say the same"}, {"group": "speaker"}, "rows of all of them ask the same"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(
    build: Build, change: dict[str, str], splits: dict[str, str], said: str
) -> None:
    rows = [spoken(number) | change for number in range(24)]
    with pytest.raises((InvalidValueError, InvalidFileError), match=said):
        build(rows, columns=KINDS, splits=splits, deduplicate=False)


def test_what_two_splits_share_is_counted_and_warned_of(build: Build) -> None:
    pages = [" ".join([subject] * 9) for subject in SUBJECTS]
    rows = [
        {"page": page, "question": f"{SUBJECTS[n]} number {n * 104_729}?", "label": "ab"[n % 2]}
        for page in pages
        for n in range(10)
    ]
    kinds = {"page": "text", "question": "text", "label": "label"}
    manifest, splits = build(rows, columns=kinds)
    held = set(splits["train"].texts("page"))
    leaks = {(leak["column"], leak["split"], leak["held_by"]): leak for leak in found(manifest)}
    leak = leaks["page", "test", "train"]
    assert leak["exact"] == sum(page in held for page in splits["test"].texts("page")) > 0
    assert any("share their 'page' with train" in told for told in manifest.profile["warnings"])
    apart, _ = build(rows, columns=kinds, splits={"group": "page"})
    assert not [leak for leak in found(apart) if leak["column"] == "page" and leak["exact"]]


def found(manifest: DatasetManifest) -> list[Any]:
    leaks: list[Any] = manifest.profile["leakage"]
    return leaks


def test_one_label_and_lone_labels_are_warned_of(build: Build) -> None:
    rows = [spoken(number) | {"label": "only"} for number in range(20)]
    manifest, _ = build(rows, columns=KINDS)
    assert "Every row has the label 'only'" in manifest.profile["warnings"][0]
    rows[3]["label"] = "alone"
    manifest, splits = build(rows, columns=KINDS)
    assert "The label 'alone' has a single row" in manifest.profile["warnings"][0]
    assert "alone" in splits["train"].texts("label")


@given(
    owners=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60),
    asked=st.lists(st.integers(0, 400), min_size=60, max_size=60),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=40, deadline=None)
def test_owners_and_equal_rows_stay_together(
    owners: list[str], asked: list[int], seed: int
) -> None:
    groups = [str(n).encode() for n in asked[: len(owners)]]
    config = SplitConfig(group="owner", validation=0.2, test=0.2)
    try:
        rows = split_rows(groups, labels=None, config=config, seed=seed, owners=owners)
    except InvalidValueError:
        reject()
    assert sorted(row for chosen in rows.values() for row in chosen) == list(range(len(owners)))
    for values in (groups, [owner.encode() for owner in owners]):
        sides = [{values[row] for row in chosen} for chosen in rows.values()]
        assert sum(map(len, sides)) == len(set(values))
