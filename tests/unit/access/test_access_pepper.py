"""The pepper: made once, private, and not replaced when it is damaged."""

import stat
from pathlib import Path

import pytest

from purvey.access.pepper import PEPPER_BYTES, read_or_create
from purvey.errors import SettingError, StorageUnavailableError


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    pepper = read_or_create(tmp_path, has_keys=False)
    assert len(pepper) == PEPPER_BYTES
    assert read_or_create(tmp_path, has_keys=False) == pepper
    path = tmp_path / "secret" / "pepper"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["pepper"]


def test_two_servers_have_two(tmp_path: Path) -> None:
    assert read_or_create(tmp_path / "a", has_keys=False) != read_or_create(
        tmp_path / "b", has_keys=False
    )


def test_an_interrupted_first_start_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / ".pepper.new").write_bytes(b"half")
    assert len(read_or_create(tmp_path, has_keys=False)) == PEPPER_BYTES


def test_a_damaged_one_is_refused_and_left(tmp_path: Path) -> None:
    read_or_create(tmp_path, has_keys=False)
    path = tmp_path / "secret" / "pepper"
    path.write_bytes(b"short")
    with pytest.raises(SettingError, match="damaged"):
        read_or_create(tmp_path, has_keys=False)
    assert path.read_bytes() == b"short"


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    with pytest.raises(StorageUnavailableError):
        read_or_create(tmp_path, has_keys=False)


def test_a_lost_one_is_not_made_anew_beside_keys(tmp_path: Path) -> None:
    """Every key would be refused, and nothing would say why."""
    pepper = read_or_create(tmp_path, has_keys=False)
    assert read_or_create(tmp_path, has_keys=True) == pepper
    (tmp_path / "secret" / "pepper").unlink()
    with pytest.raises(SettingError, match="is gone") as refused:
        read_or_create(tmp_path, has_keys=True)
    assert "Restore the file" in refused.value.hint
    assert not (tmp_path / "secret" / "pepper").exists()
