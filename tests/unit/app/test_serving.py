"""The server as a process: what follows once it listens."""

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from purvey.app import serving

if TYPE_CHECKING:
    from purvey.app.application import Application


def test_garbage_is_collected_again_once_the_server_listens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready = SimpleNamespace(is_ready=True, base_url="http://127.0.0.1:1", first_key=None)
    gc.disable()
    try:
        asyncio.run(serving._greet(cast("Application", ready)))
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
    assert "Purvey listens on http://127.0.0.1:1" in capsys.readouterr().out
