"""`purvey backup` and `purvey restore` as commands: what they print and how they end."""

import json
from pathlib import Path

import pytest

from purvey.cli.commands import backing_up
from purvey.cli.main import run
from purvey.store import schema


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    schema.prepare(tmp_path / "data" / "purvey.db")
    return tmp_path / "data"


def ends_with(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run([str(word) for word in words])
    return int(ended.value.code or 0)


def test_there_and_back(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 0
    assert "Backed up 1 files" in capsys.readouterr().out
    assert ends_with("restore", "copy", "--data-dir", "new") == 0
    assert "Restored 1 files" in capsys.readouterr().out
    assert Path("new/purvey.db").is_file()


def test_json(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("backup", "copy", "--data-dir", data_dir, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert ends_with("restore", "copy", "--data-dir", "new", "--json") == 0
    restored = json.loads(capsys.readouterr().out)
    assert made["folder"] == str(Path("copy").absolute())
    assert restored["folder"] == str(Path("new").absolute())
    assert made["num_files"] == restored["num_files"] == 1
    assert made["models_elsewhere"] == made["unfinished_jobs"] == []


def test_a_database_elsewhere_is_found_through_the_settings(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = data_dir.parent / "elsewhere.db"
    (data_dir / "purvey.db").rename(elsewhere)
    Path("purvey.toml").write_text(f'database_url = "sqlite:///{elsewhere}"\n', encoding="utf-8")
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 0
    assert Path("copy/purvey.db").is_file()


def test_how_they_end_when_they_cannot(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("backup", "copy", "--data-dir", "nowhere") == 78
    assert ends_with("backup", data_dir / "in", "--data-dir", data_dir) == 2
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 0
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 2
    assert ends_with("restore", "copy", "--data-dir", data_dir) == 2
    Path("copy/purvey.db").unlink()
    capsys.readouterr()
    assert ends_with("restore", "copy", "--data-dir", "new", "--json") == 2
    told = json.loads(capsys.readouterr().err)["error"]
    assert told["code"] == "integrity_error"
    assert "'purvey.db' is missing" in told["message"]


def test_long_copies_say_how_far_they_are(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing_up, "NOTICE_INTERVAL_S", 0.0)
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 0
    capsys.readouterr()
    assert ends_with("restore", "copy", "--data-dir", "new") == 0
    assert "MiB checked and copied" in capsys.readouterr().err
    assert ends_with("restore", "copy", "--data-dir", "newer", "--json") == 0
    assert capsys.readouterr().err == ""


def test_what_is_not_included_is_said(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ends_with("backup", "copy", "--data-dir", data_dir) == 0
    manifest = json.loads(Path("copy/backup.json").read_text(encoding="utf-8"))
    manifest |= {"models_elsewhere": ["m"], "unfinished_jobs": ["job_1"]}
    Path("copy/backup.json").write_text(json.dumps(manifest), encoding="utf-8")
    capsys.readouterr()
    assert ends_with("restore", "copy", "--data-dir", "new") == 0
    told = capsys.readouterr().err
    assert "your own model folders: m" in told
    assert "unfinished jobs: job_1" in told
