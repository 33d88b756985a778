"""Training of each task against a loop by hand over the same network.

Pictures of 32 x 32 by the convnet and by the vision transformer, seconds of sound, pictures with
sentences, sentences by an encoder as labels and as vectors, and recordings of Morse, each by the
network that the task has by default and 32 rows a step (16 recordings); AdamW at one rate,
gradients clipped, float32, as many threads as a job of that network gets. The loop by hand
prepares its tensors beforehand and computes loss, gradient, clipping and update; the product's
also seeds each step, collates rows, looks for a request to stop, counts, reports and makes sure
that loss and gradient are finite. Counted are rows per second.
"""

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import Ratio, Report, paired, publish
from benchmarks.quick import is_quick
from benchmarks.subjects import Subject, loss_gap
from benchmarks.training_tasks_cases import CASES

THREADS = os.cpu_count() or 1
TRIED, BLOCK_S, ROUNDS = (1, 0.0, 1) if is_quick() else (6, 0.8, 6)
TARGET = 0.98
LARGEST_LOSS_GAP = 1e-3


def main() -> int:
    """Measure and publish; correct only if both loops have the same losses."""
    figures: dict[str, Any] = {}
    is_sound, is_met = True, True
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            ratio, told = _compare(name, Path(folder))
            figures[name] = ratio.figures() | told
            is_sound = is_sound and told["loss_gap"] <= LARGEST_LOSS_GAP
            is_met = is_met and ratio.median >= TARGET
    publish(
        Report(
            bar="training_tasks_speed",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f">= {TARGET} of the loop by hand for each task, at equal loss",
            verdict=("met" if is_met else "missed") if is_sound else "GATE FAILED",
            figures={**figures, "threads": THREADS},
            notes=["`loss_gap` is the largest relative difference of the mean losses of a block."],
        )
    )
    return 0 if is_sound else 1


def _compare(name: str, folder: Path) -> tuple[Ratio, dict[str, float]]:
    with ExitStack() as stack:
        ours, hand = (
            stack.enter_context(_subject(name, kind, folder)) for kind in ("ours", "hand")
        )
        rates = [subject.rate(TRIED) for subject in (ours, hand) for _ in range(2)]
        steps = max(1, round(BLOCK_S * max(rates) / 32))
        ratio = paired(lambda: ours.rate(steps), lambda: hand.rate(steps), rounds=ROUNDS)
        return ratio, {"loss_gap": loss_gap(ours, hand), "steps_of_block": steps}


def _subject(name: str, kind: str, folder: Path) -> Subject:
    log = f"training-tasks-{name.replace(', ', '-')}-{kind}"
    module = "benchmarks.training_tasks_subject"
    command = [sys.executable, "-m", module, name, kind, str(folder / log), str(THREADS)]
    return Subject(log, command, threads=THREADS)


if __name__ == "__main__":
    sys.exit(main())
