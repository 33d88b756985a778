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
    """Run a command that must succeed, and return what it prints."""
    monkeypatch.setenv("PURVEY_BASE_URL", live_server.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", live_server.admin_key)
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run(words)
        told = capsys.readouterr()
        assert ended.value.code == 0, told.err
        return told.out

    return command
