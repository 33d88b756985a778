"""A server with a scripted engine, for bars that measure the control plane alone.

Run as `python -m benchmarks.scripted_server DATA_DIR KEY [apart|stepping]`; prints its address,
then serves until its standard input closes. `apart` has the engine in a process of its own, and
`stepping` too, telling tokens in steps; else it answers at once and in this process.
"""

import sys
from pathlib import Path

from benchmarks.stepping_engine import COMMAND as STEPPING
from purvey.app.application import build
from purvey.client.purvey import Purvey
from purvey.engine.client import LocalEngineLauncher
from purvey.settings import Settings
from purvey.testing.engine_process import COMMAND as SCRIPTED
from purvey.testing.model_folder import write_plausible_folder
from purvey.testing.scripted_engine import ScriptedLauncher
from purvey.testing.scripted_jobs import ScriptedJobLauncher

MODEL = "scripted"


def main(data_dir: Path, key: str, kind: str = "") -> None:
    """Serve one scripted model with everything else real: keys, ledger, fsync."""
    root = data_dir / "models"
    write_plausible_folder(root / MODEL)
    settings = Settings.model_validate(
        {"port": 0, "data_dir": data_dir, "bootstrap_key": key, "model_roots": (root,)}
    )
    command = {"apart": SCRIPTED, "stepping": STEPPING}.get(kind)
    processes = LocalEngineLauncher(cwd=Path.cwd(), command=command)
    application = build(
        settings,
        engine_launcher=processes if command else ScriptedLauncher(),
        job_launcher=ScriptedJobLauncher(),
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
    main(Path(sys.argv[1]), *sys.argv[2:])
