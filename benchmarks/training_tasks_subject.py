"""One way to train one task: `python -m benchmarks.training_tasks_subject CASE KIND WORK THREADS`.

KIND is `ours`, the product's loop, or `hand`, the loop that one would write; `benchmarks/blocks.py`
says what it answers. Both draw the same weights, and visit the same rows in the same batches.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.blocks import Blocks
from benchmarks.training_loop import Noted, train
from benchmarks.training_tasks_cases import CASES, Case
from purvey.worker.training.run import num_threads

RATE, BETAS, CLIP_NORM = 1e-3, (0.9, 0.95), 1.0


def ours(case: Case, work: Path) -> None:
    """Train through the product's loop."""
    rule = {"name": "adamw", "learning_rate": RATE, "betas": list(BETAS), "weight_decay": 0.0}
    recipe: dict[str, Any] = {
        "task": case.task,
        "optimizer": rule,
        "train": {"batch_size": case.batch, "clip_norm": CLIP_NORM},
    }
    train(Noted(case.learner), recipe, work, unit="rows")


def hand(case: Case) -> None:
    """Train by the shortest loop over the same network."""
    parameters = list(case.learner.module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)
    blocks = Blocks()
    case.learner.module.train()
    for epoch in itertools.count():
        order = list(case.learner.order(epoch))
        for start in range(0, len(order), case.batch):
            blocks.wait()
            rows = order[start : start + case.batch]
            loss = case.by_hand(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            blocks.done(units=len(rows), loss=float(loss.detach()))


def main() -> None:
    """Train as the command line says until the input ends."""
    name, kind, work, threads = sys.argv[1:]
    case = CASES[name]()
    torch.set_num_threads(num_threads(case.learner.module, at_most=int(threads)))
    if kind == "ours":
        ours(case, Path(work))
    else:
        hand(case)


if __name__ == "__main__":
    main()
