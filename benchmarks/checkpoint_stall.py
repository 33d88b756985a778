"""Bar 10: how long training stands still for a checkpoint.

A run's state of 1 GB in float32: weights, and AdamW's two moments of each. Counted is the time
until the loop may go on, with the writer idle before, against the time of writing the same
checkpoint (digested, flushed to the disk, renamed) while the loop waits. The peers are torch.save
of the same tensors, flushed too, and torch's distributed checkpoints (DCP), waited for and
asynchronous. Also told is how much slower a loop of matrix products runs while a checkpoint is
being written.
"""

import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from benchmarks.harness import Report, bootstrap, paired, publish, spread, timed
from benchmarks.quick import is_quick
from purvey.train.checkpoint import Snapshot, Written, read_checkpoint, write_checkpoint
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.state import RunState

WIDTH, LAYERS, ROUNDS = (256, 4, 1) if is_quick() else (2_048, 20, 5)
TARGET, BEYOND = 0.05, 0.02
DIGEST = "bench"


class Subject:
    """A state, and every way of writing it below a folder."""

    def __init__(self, root: Path, writer: CheckpointWriter) -> None:
        torch.manual_seed(0)
        self._root, self._writer, self._step = root, writer, 0
        self.model = {f"layers.{n}.weight": torch.randn(WIDTH, WIDTH) for n in range(LAYERS)}
        self.optimizer = {
            f"{name}.{key}": torch.rand(WIDTH, WIDTH)
            for name in self.model
            for key in ("exp_avg", "exp_avg_sq")
        }

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for part in (self.model, self.optimizer) for t in part.values())

    def snapshot(self) -> Snapshot:
        """Return the state at a step of its own: a checkpoint is never written twice."""
        self._step += 1
        state = RunState(step=self._step)
        return Snapshot(state=state, model=self.model, optimizer=self.optimizer, best=None)

    def stall(self) -> float:
        """Return the seconds until the loop may go on."""
        self._writer.finish()
        live = self.snapshot()
        return timed(lambda: self._writer.begin(live))

    def waited_for(self) -> float:
        """Return the seconds of the same checkpoint while the loop waits."""
        self._writer.finish()
        live, root = self.snapshot(), self._root / "waited"
        return timed(lambda: write_checkpoint(live, root, run_digest=DIGEST))

    def torch_save(self) -> float:
        """Return the seconds of torch.save, flushed to the disk."""
        self._writer.finish()
        return timed(lambda: _save_flushed(self._everything(), self._root / "state.pt"))

    def dcp_save(self) -> float:
        """Return the seconds of DCP while the loop waits."""
        self._writer.finish()
        folder = self._root / "dcp"
        return timed(lambda: dcp.save(self._everything(), checkpoint_id=folder, no_dist=True))

    def dcp_stall(self) -> float:
        """Return the seconds until DCP's asynchronous form lets the loop go on."""
        begun: list[Any] = []

        def begin() -> None:
            folder = self._root / "dcp-async"
            begun.append(dcp.async_save(self._everything(), checkpoint_id=folder, no_dist=True))

        seconds = timed(begin)
        assert isinstance(begun[0], Future), "DCP answers otherwise than it did"
        begun[0].result()
        return seconds

    def slower(self, work: Callable[[], object]) -> float:
        """Return how many times longer a piece of work takes while a checkpoint is written."""
        self._writer.finish()
        calm = min(timed(work) for _ in range(3))
        self._writer.begin(self.snapshot())
        beside = []
        while self._writer.is_busy or not beside:
            beside.append(timed(work))
        return statistics.mean(beside) / calm

    def _everything(self) -> dict[str, torch.Tensor]:
        return {**self.model, **self.optimizer}


def main() -> int:
    """Measure and publish; correct only if what was written beside the loop is the state."""
    torch.set_num_threads(os.cpu_count() or 1)
    reported: list[Written] = []
    with tempfile.TemporaryDirectory() as name:
        writer = CheckpointWriter(
            Path(name), run_digest=DIGEST, report=lambda _, written: reported.append(written)
        )
        with writer:
            subject = Subject(Path(name), writer)
            first_s = subject.stall()  # makes the buffers
            ratio = paired(subject.stall, subject.waited_for, rounds=ROUNDS)
            peers = {
                "torch.save": [subject.torch_save() for _ in range(ROUNDS)],
                "DCP": [subject.dcp_save() for _ in range(ROUNDS)],
                "DCP, asynchronous, stall": [subject.dcp_stall() for _ in range(ROUNDS)],
            }
            x = torch.randn(1_024, 1_024)
            slower = [subject.slower(lambda: [x @ x for _ in range(8)]) for _ in range(ROUNDS)]
        is_equal = _is_equal(reported[-1], subject)
    _publish(ratio.figures(), peers, slower, subject, first_s=first_s, is_equal=is_equal)
    return 0 if is_equal else 1


def _is_equal(written: Written, subject: Subject) -> bool:
    found = read_checkpoint(written.folder, run_digest=DIGEST)
    pairs = ((found.model, subject.model), (found.optimizer, subject.optimizer))
    return all(
        part.keys() == expected.keys() and all(torch.equal(part[k], expected[k]) for k in part)
        for part, expected in pairs
    )


def _publish(
    figures: dict[str, Any],
    peers: dict[str, list[float]],
    slower: list[float],
    subject: Subject,
    *,
    first_s: float,
    is_equal: bool,
) -> None:
    beyond = ", beyond" if figures["ratio"] <= BEYOND else ""
    reached = f"met{beyond}" if figures["ratio"] <= TARGET else "missed"
    publish(
        Report(
            bar="checkpoint_stall",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f"stall <= {TARGET:.0%} of a save that is waited for",
            verdict=reached if is_equal else "GATE FAILED",
            figures={
                **figures,
                "state_mb": subject.num_bytes / 1e6,
                "first_stall_s": first_s,
                "peers_s": {name: spread(values) for name, values in peers.items()},
                "stall / torch.save": figures["ours"] / statistics.median(peers["torch.save"]),
                "stall / DCP": figures["ours"] / statistics.median(peers["DCP"]),
                "work beside a write / calm": statistics.median(slower),
                "work beside a write / calm, 95": list(bootstrap(slower)),
            },
            notes=[
                "`ours` and `peer` are seconds: the stall, and the save that is waited for.",
                "The first stall also makes the buffers, which the run keeps.",
            ],
        )
    )


def _save_flushed(tensors: dict[str, torch.Tensor], path: Path) -> None:
    with path.open("wb") as stream:
        torch.save(tensors, stream)
        stream.flush()
        os.fsync(stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
