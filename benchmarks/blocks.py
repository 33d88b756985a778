"""A training process's end of a comparison: so many steps when asked, and how they went.

Answers each line `{"steps": N}` on its input with the seconds, the units (rows or useful tokens),
the mean loss and the highest resident memory so far after the next N steps.
"""

import json
import sys
import time
from pathlib import Path


class Blocks:
    """Reads how many steps are wanted, and answers when they are done."""

    def __init__(self) -> None:
        self._answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
        self._left, self._steps, self._units, self._loss = 0, 0, 0, 0.0
        self._began_s = 0.0

    def wait(self) -> None:
        """Wait for a request, if none is at work; ends the process when there are no more."""
        if self._left:
            return
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        self._left = self._steps = int(json.loads(line)["steps"])
        self._units, self._loss = 0, 0.0
        self._began_s = time.perf_counter()

    def done(self, *, units: int, loss: float) -> None:
        """Count a step; the last one of a request is answered."""
        self._left -= 1
        self._units += units
        self._loss += loss
        if not self._left:
            answer = {
                "seconds": time.perf_counter() - self._began_s,
                "units": self._units,
                "loss": self._loss / self._steps,
                "peak_mb": _peak_mb(),
            }
            print(json.dumps(answer), flush=True, file=self._answers)


def _peak_mb() -> float:
    """Return this program's highest resident memory; `getrusage` counts its parent's too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
