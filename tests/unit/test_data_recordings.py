"""Recordings in zips, tables and data URLs: read with all that is told of them, refused by name."""

import base64
import io
import json
import zipfile
from array import array
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from purvey.contracts.data import DatasetManifest
from purvey.data.loader import load_splits
from purvey.data.reading.media_zip import read_media_zip
from purvey.errors import InvalidFileError, InvalidValueError
from tests.unit.parse.pictures import grey_png
from tests.unit.parse.recordings import encoded, flac_header, noise, tone
from tests.unit.test_data_build import build, stored

Entries = dict[str, bytes | str]


def zipped(entries: Entries) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return packed.getvalue()


def kinds(manifest: DatasetManifest) -> dict[str, str]:
    return {column.name: column.kind for column in manifest.columns}


def short(number: int, *, rate_hz: int = 8_000, form: str = "WAV") -> bytes:
    """Return a recording of 100 ms, another one for each number."""
    return encoded(tone(200 + number, seconds=0.1, rate_hz=rate_hz), form, rate_hz=rate_hz)


def folders() -> Entries:
    """Two classes of recordings, of several rates and formats."""
    one: Entries = {f"set/hum/{i}.wav": short(i) for i in range(10)}
    rates = {16_000: "FLAC", 44_100: "OGG"}
    two = {
        f"set/hiss/{rate_hz}-{i}.{form.lower()}": encoded(
            noise(seconds=0.3, seed=i, rate_hz=rate_hz), form, rate_hz=rate_hz
        )
        for rate_hz, form in rates.items()
        for i in range(5)
    }
    return {**one, **two, "__MACOSX/set/hum/0.wav": b"junk", "set/hum/.DS_Store": b"junk"}


def test_class_folders_of_recordings_of_any_rate(tmp_path: Path) -> None:
    given = folders()
    manifest, folder = build(tmp_path, stored(tmp_path, "sounds.zip", zipped(given)))
    assert kinds(manifest) == {"audio": "audio", "label": "label"}
    assert manifest.labels == ("hiss", "hum")
    assert sum(manifest.rows.values()) == 20
    profile = manifest.profile["columns"]["audio"]
    assert profile["seconds"].pop("histogram")["counts"].count(0) == 22
    assert profile["seconds"] == {"min": 0.1, "mean": 0.2, "median": 0.2, "max": 0.3}
    assert profile["sample_rates"][0] == {"hz": 8_000, "count": 10}
    assert {row["hz"] for row in profile["sample_rates"]} == {8_000, 16_000, 44_100}
    assert profile["channels"] == 1
    assert manifest.profile["files"][0]["format"] == "audio_folders"
    assert set(load_splits(folder, manifest)["train"].media("audio")) <= set(given.values())
    preview = json.loads((folder / "preview.json").read_text(encoding="utf-8"))
    told = {row["audio"].partition(";")[0] for row in preview["train"]}
    assert told == {"data:audio/wav", "data:audio/flac", "data:audio/ogg"}


MANIFESTS = {
    "metadata.csv": "file_name,transcription,speaker\n"
    + "".join(f"clips/{i}.wav,says {i},{'ab'[i % 2]}\n" for i in range(12)),
    "metadata.tsv": "file_name\ttranscription\tspeaker\n"
    + "".join(f"clips/{i}.wav\tsays {i}\t{'ab'[i % 2]}\n" for i in range(12)),
    "metadata.jsonl": "".join(
        json.dumps(
            {"file_name": f"clips/{i}.wav", "transcription": f"says {i}", "speaker": "ab"[i % 2]}
        )
        + "\n"
        for i in range(12)
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("top", ["", "corpus/"])
def test_a_manifest_tells_all_columns(tmp_path: Path, name: str, top: str) -> None:
    entries: Entries = {f"{top}clips/{i}.wav": short(i) for i in range(12)}
    data = zipped({**entries, f"{top}{name}": MANIFESTS[name]})
    manifest, folder = build(tmp_path, stored(tmp_path, "corpus.zip", data))
    assert kinds(manifest) == {"audio": "audio", "transcription": "transcript", "speaker": "label"}
    rows = load_splits(folder, manifest)["train"]
    said = dict(zip(rows.texts("transcription"), rows.media("audio"), strict=True))
    assert said
    assert all(data == short(int(words.removeprefix("says "))) for words, data in said.items())


def test_a_manifest_of_images_may_name_one_in_several_rows(tmp_path: Path) -> None:
    table = "file_name,question,label\n" + "".join(
        f"{i}.png,question {i} {part},{'yes' if part else 'no'}\n"
        for i in range(10)
        for part in range(2)
    )
    entries: Entries = {f"{i}.png": grey_png(4 + i, 4) for i in range(10)}
    data = zipped({**entries, "metadata.csv": table})
    manifest, _ = build(tmp_path, stored(tmp_path, "asked.zip", data))
    assert kinds(manifest) == {"question": "text", "image": "image", "label": "label"}
    assert sum(manifest.rows.values()) == 20


def test_what_recordings_say_is_told_by_name_or_by_being_all_there_is(tmp_path: Path) -> None:
    words = "file_name,sentence\n" + "".join(f"{i}.wav,one {i}\n" for i in range(12))
    entries: Entries = {f"{i}.wav": short(i) for i in range(12)}
    data = zipped({**entries, "metadata.csv": words})
    manifest, _ = build(tmp_path, stored(tmp_path, "said.zip", data))
    assert kinds(manifest) == {"audio": "audio", "sentence": "transcript"}


def url(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


def test_data_urls_and_bytes_in_parquet_are_recordings_too(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"sound": url(short(i)), "label": "ab"[i % 2]}) + "\n" for i in range(20)
    )
    manifest, folder = build(tmp_path, stored(tmp_path, "rows.jsonl", lines))
    assert kinds(manifest) == {"sound": "audio", "label": "label"}
    cells = [{"bytes": short(i, form="FLAC"), "path": None} for i in range(20)]
    for name, column in (("struct", cells), ("plain", [cell["bytes"] for cell in cells])):
        path = tmp_path / name
        pq.write_table(pa.table({"sound": column, "label": ["a", "b"] * 10}), path)
        table = stored(tmp_path, "rows.parquet", path.read_bytes())
        again, _ = build(tmp_path, table)
        assert kinds(again) == {"sound": "audio", "label": "label"}
    assert load_splits(folder, manifest)["train"].num_rows == manifest.rows["train"]


def test_the_same_recording_twice_is_one_row(tmp_path: Path) -> None:
    entries = {f"{label}/{i}.wav": short(i) for i in range(10) for label in ("a", "b")}
    data = zipped({**entries, "a/again.wav": short(3)})
    manifest, folder = build(tmp_path, stored(tmp_path, "twice.zip", data))
    assert manifest.profile["duplicates_removed"] == 1
    assert manifest.profile["conflicting_rows"] == 10
    splits = {
        name: set(rows.media("audio")) for name, rows in load_splits(folder, manifest).items()
    }
    assert not splits["train"] & (splits["test"] | splits["validation"])


CORRUPT: dict[str, tuple[bytes, str]] = {
    "broken": (encoded(noise(), "FLAC")[:2_000], "broken or none of"),
    "no recording": (b"hello", "broken or none of"),
    "empty": (encoded(array("f")), "the recording is empty"),
    "ten hours": (flac_header(seconds=36_000), "lasts longer than 7200 s"),
}


@pytest.mark.parametrize("what", CORRUPT)
def test_a_recording_that_cannot_be_used_is_named_by_its_entry(tmp_path: Path, what: str) -> None:
    data, said = CORRUPT[what]
    entries: Entries = {f"a/{i}.wav": short(i) for i in range(3)}
    entries = {**entries, "b/bad.flac": data}
    wanted = rf"'s.zip', entry 4 \('b/bad.flac'\): column 'audio' cannot be used: .*{said}"
    with pytest.raises(InvalidFileError, match=wanted) as refusal:
        build(tmp_path, stored(tmp_path, "s.zip", zipped(entries)))
    assert refusal.value.param == "entry 4"
    named = "file_name,label\n" + "".join(f"{name},x\n" for name in entries)
    wanted = r"'s.zip/metadata.csv', line 5 \('b/bad.flac'\): column 'audio' cannot be used"
    with pytest.raises(InvalidFileError, match=wanted):
        build(tmp_path, stored(tmp_path, "s.zip", zipped({**entries, "metadata.csv": named})))


WAV = short(0)
UNFIT: dict[str, tuple[Entries, str]] = {
    "nothing": ({}, "holds no rows"),
    "a manifest alone": ({"metadata.csv": "file_name,label\na.wav,x\n"}, "holds no rows"),
    "another kind": ({"a/1.wav": WAV, "a/2.png": b"x"}, "'a/2.png' is not a recording"),
    "a picture first": ({"a/1.png": b"x", "a/2.wav": WAV}, "'a/2.wav' is not an image"),
    "no folder": ({"loose.wav": WAV}, "lies in no class folder: .* or add a manifest"),
    "two manifests": (
        {"a.wav": WAV, "metadata.csv": "file_name\na.wav\n", "x/metadata.jsonl": "{}"},
        "keep one",
    ),
    "no file names": ({"a.wav": WAV, "metadata.csv": "name,label\na.wav,x\n"}, "'file_name'"),
    "no such file": (
        {"a.wav": WAV, "metadata.csv": "file_name,label\na.wav,x\nb.wav,y\n"},
        r"'s.zip/metadata.csv', line 3: the archive has no file 'b.wav'",
    ),
    "no row": (
        {"a.wav": WAV, "b.wav": WAV, "metadata.csv": "file_name,label\na.wav,x\n"},
        "'b.wav' stands in no row of 'metadata.csv'",
    ),
    "outside": (
        {"a.wav": WAV, "x/metadata.csv": "file_name,label\n../a.wav,x\n"},
        "the archive has no file 'x/../a.wav'",
    ),
    "a column of that name": (
        {"a.wav": WAV, "metadata.csv": "file_name,audio\na.wav,x\n"},
        "has a column 'audio'",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_zips_that_do_not_say_what_is_what_are_refused(tmp_path: Path, what: str) -> None:
    entries, said = UNFIT[what]
    path = tmp_path / "s.zip"
    path.write_bytes(zipped(entries))
    with pytest.raises(InvalidFileError, match=said):
        read_media_zip(path, source="s.zip")


def test_a_format_that_is_asked_for_is_what_is_expected(tmp_path: Path) -> None:
    file = stored(tmp_path, "s.zip", zipped({f"a/{i}.wav": short(i) for i in range(3)}))
    with pytest.raises(InvalidFileError, match=r"'a/0.wav' is not an image"):
        build(tmp_path, file, format="image_folders")
    manifest, _ = build(tmp_path, file, format="audio_folders")
    assert sum(manifest.rows.values()) == 3
    with pytest.raises(InvalidValueError, match="no column 'sound'"):
        build(tmp_path, file, columns={"sound": "audio"})


def test_cells_that_are_no_recordings_are_refused_by_line(tmp_path: Path) -> None:
    for cell, said in (("data:audio/wav;base64,%%", "not valid base64"), ("a.wav", "data URL")):
        rows = [{"sound": url(short(0)), "label": "a"}, {"sound": cell, "label": "b"}]
        file = stored(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows)))
        with pytest.raises(InvalidFileError, match=f"line 2: column 'sound' is .*{said}"):
            build(tmp_path, file, columns={"sound": "audio", "label": "label"})
