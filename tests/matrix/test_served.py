"""The harness's own process: starts, is killed, starts again on the same folder."""

import signal
from pathlib import Path

import pytest

from tests.matrix.invariants import check_store
from tests.matrix.served import serving


@pytest.mark.faults
def test_a_killed_server_starts_again_on_its_folder(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.openai() as sdk:
        stored = sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path) as served, served.openai() as sdk:
        assert sdk.files.content(stored.id).content == b"{}\n"
        assert served.workers("engine") == []
        assert served.stop() == 0
    check_store(tmp_path / "data")
