"""Training processes that are compared: what they are asked, what they answer, how far apart."""

import sys
from pathlib import Path

import pytest

from benchmarks.subjects import Subject, loss_gap

TRAINS = """
import sys
from benchmarks.blocks import Blocks

blocks, step = Blocks(), 0
while True:
    blocks.wait()
    print("what a library says is no answer")
    blocks.done(units=3, loss=float(sys.argv[1]) + step)
    step += 1
"""


def subject(loss: float) -> Subject:
    return Subject("scripted", [sys.executable, "-c", TRAINS, str(loss)], threads=1)


def test_blocks_of_steps_are_taken_and_the_widest_gap_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PURVEY_PEERS", str(tmp_path))
    with subject(1.0) as ours, subject(2.0) as other:
        for steps in (1, 2):
            assert ours.rate(steps) > 0 < other.rate(steps)
    assert ours.losses == [1.0, 2.5]  # of the first step, and the mean of the second and third
    assert other.losses == [2.0, 3.5]
    assert ours.peak_mb > 1
    assert loss_gap(ours, other) == 0.5
