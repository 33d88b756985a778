"""What tests of a whole life share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purvey.cli.main import run

Command = Callable[..., str]


@pytest.fixture
def purvey(
    live_server: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command and return what it prints, on the error stream where it must fail."""
    monkeypatch.setenv("PURVEY_BASE_URL", live_server.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", live_server.admin_key)
    monkeypatch.chdir(tmp_path)

    def command(*words: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            run(words)
        told = capsys.readouterr()
        assert ended.value.code == status, told.err
        return told.err if status else told.out

    return command
