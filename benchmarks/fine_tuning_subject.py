"""One way to fine-tune, as a process of its own: `python -m benchmarks.fine_tuning_subject`.

`ours` is the product's loop, `hand` the shortest loop over the same parts; `benchmarks/blocks.py`
says what it answers. All subjects start from the same folder, adapter included, and visit the same
rows in the same batches: useful tokens are those that are predicted, padding apart.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.blocks import Blocks
from benchmarks.training_loop import Noted, train
from purvey.models.decoder import Decoder
from purvey.models.lora import load_adapter
from purvey.models.weights import load_folder
from purvey.train.language import LanguageLearner
from purvey.train.loss import mean_loss
from purvey.train.token_rows import TokenRow, collate, token_row

RATE, BETAS, CLIP_NORM = 3e-4, (0.9, 0.95), 1.0


def rows(path: Path) -> list[TokenRow]:
    """Read ragged rows of ids, every token a target."""
    return [
        token_row(ids, [True] * len(ids), max_tokens=len(ids))
        for ids in json.loads(path.read_text(encoding="ascii"))
    ]


def batch_tokens(batch: Sequence[TokenRow]) -> int:
    """Return the tokens that a batch predicts."""
    return sum(row.num_targets for row in batch)


def ours(decoder: Decoder, data: list[TokenRow], options: argparse.Namespace) -> None:
    """Train through the product's loop."""
    learner = LanguageLearner(decoder, data, [], batch_size=options.batch, seed=0)
    recipe = {
        "task": "text-generation",
        "optimizer": {"name": "adamw", "learning_rate": RATE, "betas": list(BETAS)},
        "train": {
            "batch_size": options.batch,
            "clip_norm": CLIP_NORM,
            "precision": options.precision,
        },
    }
    train(Noted(learner, is_in_order=True), recipe, options.work, unit="tokens")


def hand(decoder: Decoder, data: list[TokenRow], options: argparse.Namespace) -> None:
    """Train by the shortest loop that uses the same parts."""
    parameters = [p for p in decoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, weight_decay=0.0, fused=True)
    blocks, start = Blocks(), 0
    while True:
        blocks.wait()
        batch = [data[(start + i) % len(data)] for i in range(options.batch)]
        start = (start + options.batch) % len(data)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            loss = mean_loss(decoder, collate(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        blocks.done(units=batch_tokens(batch), loss=float(loss.detach()))


def main() -> None:
    """Train as the command line says until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=("ours", "hand"))
    for name in ("model", "rows", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("batch", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    decoder = load_folder(options.model)
    decoder.requires_grad_(requires_grad=True)
    if options.adapter is not None:
        load_adapter(decoder, options.adapter)
    decoder.train()
    {"ours": ours, "hand": hand}[options.subject](decoder, rows(options.rows), options)


if __name__ == "__main__":
    main()
