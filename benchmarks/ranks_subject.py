"""A job that trains as many steps as it is asked for: `python -m benchmarks.ranks_subject SPEC`.

Answers each line `{"steps": N}` on its input with the seconds and last loss of the next N steps,
and the highest resident memory so far of each rank. It is cancelled at the end of its input.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from purvey.contracts.jobs import CheckpointSaved, JobSpec
from purvey.worker import train
from purvey.worker.job_link import JobInterrupted


class Blocks:
    """A link that is asked for a stop before every step, and lets as many pass as were wanted."""

    def __init__(self) -> None:
        self._left, self._began_s, self._loss = -1, 0.0, 0.0

    @property
    def stop_requested(self) -> Literal["cancel"] | None:
        """Stop when nobody asks for more."""
        if self._left == 0:
            self._answer()
        if self._left <= 0:
            line = sys.stdin.readline()
            if not line:
                return "cancel"
            self._left, self._began_s = int(json.loads(line)["steps"]), time.perf_counter()
        self._left -= 1
        return None

    def event(self, message: str, *, level: str = "info", **data: object) -> None:
        """Tell nobody."""

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Keep the newest loss."""
        self._loss = data.get("train_loss", self._loss)

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Tell nobody."""

    def _answer(self) -> None:
        seconds = time.perf_counter() - self._began_s
        ranks = [psutil.Process(), *psutil.Process().children(recursive=True)]
        answer = {
            "seconds": seconds,
            "loss": self._loss,
            "peak_bytes": [_peak_bytes(process.pid) for process in ranks],
        }
        print(json.dumps(answer), flush=True)


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> int:
    """Run the job."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=JobSpec)
    try:
        train.run(spec, Blocks())
    except JobInterrupted:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
