"""A server of one's own for as long as a command runs: `purvey run ./folder`."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purvey.client.purvey import Purvey

MODEL_NAME = "local"


@contextmanager
def private_server(folder: Path) -> "Iterator[Purvey]":
    """Serve one model folder on loopback under `MODEL_NAME`; all else is gone afterwards.

    Args:
        folder: A model folder; the only place the server may take models from.

    Raises:
        PurveyError: The folder is not a model that can be served.
    """
    from purvey.app.application import build
    from purvey.client.purvey import Purvey
    from purvey.settings import load_settings
    from purvey.telemetry import logs

    secret = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="purvey-run-") as data_dir:
        flags = {
            "host": "127.0.0.1",
            "port": 0,
            "data_dir": Path(data_dir),
            "model_roots": (folder.resolve(),),
            "bootstrap_key": secret,
            "log_level": "error",
        }
        settings = load_settings(flags=flags)
        logs.configure(settings.log_format, settings.log_level)
        application = build(settings)
        application.start()
        try:
            with Purvey(application.base_url, secret) as client:
                client.models.register(MODEL_NAME, str(folder.resolve()))
                yield client
        finally:
            application.stop()
