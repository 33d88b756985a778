"""A server with a scripted engine, for bars that measure the control plane alone.

Run as `python -m benchmarks.scripted_server DATA_DIR KEY`; prints its address, then serves until
its standard input closes.
"""

import sys
from pathlib import Path

from purvey.app.application import build
from purvey.client.purvey import Purvey
from purvey.settings import Settings
from purvey.testing.model_folder import write_plausible_folder
from purvey.testing.scripted_engine import ScriptedLauncher
from purvey.testing.scripted_jobs import ScriptedJobLauncher

MODEL = "scripted"


def main(data_dir: Path, key: str) -> None:
    """Serve one scripted model with everything else real: keys, ledger, fsync."""
    root = data_dir / "models"
    write_plausible_folder(root / MODEL)
    settings = Settings.model_validate(
        {"port": 0, "data_dir": data_dir, "bootstrap_key": key, "model_roots": (root,)}
    )
    application = build(
        settings, engine_launcher=ScriptedLauncher(), job_launcher=ScriptedJobLauncher()
    )
    application.start()
    try:
        with Purvey(application.base_url, key) as client:
            client.models.register(MODEL, str(root / MODEL))
        print(application.base_url, flush=True)
        sys.stdin.read()
    finally:
        application.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
