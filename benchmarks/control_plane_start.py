"""Bar 14: `import purvey`, `purvey --help`, and the server from spawn to ready."""

import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.harness import Report, publish, spread, timed

REPEATS = 7
PURVEY = [sys.executable, "-m", "purvey"]


def main() -> int:
    """Measure and publish; correctness means each command exits 0 and readiness is real."""
    imports = [_import_s() for _ in range(REPEATS + 1)][1:]
    helps = [timed(_help) for _ in range(REPEATS + 1)][1:]
    ready = [_ready_s() for _ in range(REPEATS + 1)][1:]
    figures = {
        "import_purvey_s": spread(imports),
        "purvey_help_s": spread(helps),
        "server_ready_s": spread(ready),
    }
    medians = [figures[name]["median"] for name in figures]
    goals = (0.15, 0.3, 1.5)
    met = all(value < goal for value, goal in zip(medians, goals, strict=True))
    publish(
        Report(
            bar="control_plane_start",
            workload="Fresh processes, page cache warm, one warm-up of each not counted; "
            "import is the interpreter's own -X importtime total, the others wall time.",
            target="import < 0.15 s, --help < 0.3 s, ready < 1.5 s (floors 0.2, 0.5, 2.0)",
            verdict="met" if met else "missed",
            figures=figures,
        )
    )
    return 0


def _import_s() -> float:
    code = "import time; t = time.perf_counter(); import purvey; print(time.perf_counter() - t)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout)


def _help() -> None:
    subprocess.run([*PURVEY, "--help"], capture_output=True, check=True)


def _ready_s() -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        server = subprocess.Popen(
            [*PURVEY, "serve", "--port", str(port), "--data-dir", str(Path(folder) / "data")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "PURVEY_BOOTSTRAP_KEY": secrets.token_hex(16)},
        )
        try:
            _wait_ready(port)
            return time.perf_counter() - start
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_ready(port: int) -> None:
    deadline = time.perf_counter() + 30
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.005)
    msg = "the server did not become ready within 30 s"
    raise TimeoutError(msg)


if __name__ == "__main__":
    sys.exit(main())
