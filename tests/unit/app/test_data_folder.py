import stat
import subprocess
import sys
from pathlib import Path

import pytest

from purvey.app.data_folder import DataFolder
from purvey.errors import SettingError

HOLD = """
import sys
from pathlib import Path
from purvey.app.data_folder import DataFolder
DataFolder.open(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path / "new" / "data")
    for path in (folder.root, folder.blobs, folder.artifacts, folder.jobs, folder.engines):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder.close()


def test_one_server_holds_it_at_a_time(tmp_path: Path) -> None:
    first = DataFolder.open(tmp_path)
    with pytest.raises(SettingError, match="another server") as caught:
        DataFolder.open(tmp_path)
    assert caught.value.param == "data_dir"
    first.close()
    first.close()
    DataFolder.open(tmp_path).close()


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SettingError):
            DataFolder.open(tmp_path)
        holder.kill()
        holder.wait()
        DataFolder.open(tmp_path).close()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    folder = DataFolder.open(tmp_path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        folder.close()
        DataFolder.open(tmp_path).close()
        child.kill()


def test_a_file_in_its_place_is_a_setting_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    with pytest.raises(SettingError):
        DataFolder.open(tmp_path / "data")


def test_a_file_where_a_part_should_be_is_a_setting_error_and_gives_the_lock_back(
    tmp_path: Path,
) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(SettingError) as caught:
        DataFolder.open(tmp_path)
    assert caught.value.param == "data_dir"
    (tmp_path / "blobs").unlink()
    DataFolder.open(tmp_path).close()
