"""One way to fine-tune, as a process of its own: `python -m benchmarks.fine_tuning_subject`.

Answers each line `{"steps": N}` on its input with the seconds, useful tokens, mean loss and peak
memory of the next N steps. All subjects start from the same folder and visit the same rows in the
same batches: useful tokens are those that are predicted, padding apart.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import CheckpointSaved
from purvey.contracts.recipe import parse_recipe
from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.models.decoder import Decoder
from purvey.models.lora import inject
from purvey.models.weights import load_folder
from purvey.train.language import LanguageLearner
from purvey.train.loss import mean_loss
from purvey.train.step import BatchLoss
from purvey.train.token_rows import TokenRow, collate, token_row
from purvey.train.trainer import Trainer

RATE, BETAS, CLIP_NORM, RANK, ALPHA = 3e-4, (0.9, 0.95), 1.0, 16, 32.0
SHORTEST, LONGEST = 32, 512


class Blocks:
    """Reads how many steps are wanted, and answers when they are done."""

    def __init__(self) -> None:
        self._answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
        self._left, self._steps, self._tokens, self._loss = 0, 0, 0, 0.0
        self._began_s = 0.0

    def wait(self) -> None:
        """Wait for a request, if none is at work; ends the process when there are no more."""
        if self._left:
            return
        line = sys.stdin.readline()
        if not line:
            raise SystemExit(0)
        self._left = self._steps = int(json.loads(line)["steps"])
        self._tokens, self._loss = 0, 0.0
        self._began_s = time.perf_counter()

    def done(self, *, tokens: int, loss: float) -> None:
        """Count a step; the last one of a request is answered."""
        self._left -= 1
        self._tokens += tokens
        self._loss += loss
        if not self._left:
            answer = {
                "seconds": time.perf_counter() - self._began_s,
                "tokens": self._tokens,
                "loss": self._loss / self._steps,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            print(json.dumps(answer), flush=True, file=self._answers)


def rows(count: int, vocabulary_size: int) -> list[TokenRow]:
    """Return ragged rows of ids that follow Zipf's law a little, every token a target."""
    generator = random.Random(0)  # noqa: S311 (a workload, not a secret)
    made = []
    for _ in range(count):
        length = generator.randint(SHORTEST, LONGEST)
        ids = [int(vocabulary_size ** generator.random()) - 1 for _ in range(length)]
        made.append(token_row(ids, [True] * length, max_tokens=length))
    return made


def batch_tokens(batch: Sequence[TokenRow]) -> int:
    """Return the tokens that a batch predicts."""
    return sum(row.num_targets for row in batch)


class InOrder(LanguageLearner):
    """Rows in the order in which they are given, as the other subjects take them."""

    last: BatchLoss

    def order(self, epoch: int) -> Sequence[int]:
        """Return them as they are."""
        return range(self.num_rows)

    def loss(self, rows: Sequence[int]) -> BatchLoss:
        """Compute, and keep for counting."""
        self.last = super().loss(rows)
        return self.last


class Told:
    """Hears the loop at every step, and lets it go on when one is wanted."""

    def __init__(self, blocks: Blocks, learner: InOrder) -> None:
        self._blocks, self._learner, self._has_begun = blocks, learner, False

    @property
    def stop_requested(self) -> Literal["cancel"] | None:
        """Never stop; wait for the next request instead."""
        if self._has_begun:
            last = self._learner.last
            self._blocks.done(tokens=last.num_tokens, loss=float(last.loss.detach()))
        self._has_begun = True
        self._blocks.wait()
        return None

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        """Pass over."""

    def checkpoint(self, saved: CheckpointSaved) -> None:
        """Pass over."""


def ours(decoder: Decoder, data: list[TokenRow], options: argparse.Namespace) -> None:
    """Train through the product's loop."""
    learner = InOrder(decoder, data, [], batch_size=options.batch, seed=0)
    train: dict[str, Any] = {
        "epochs": 1_000,
        "batch_size": options.batch,
        "clip_norm": CLIP_NORM,
        "precision": options.precision,
        "checkpoint_interval_s": 86_400,
    }
    recipe = parse_recipe(
        {
            "task": "text-generation",
            "optimizer": {"name": "adamw", "learning_rate": RATE, "betas": list(BETAS)},
            "schedule": {"name": "constant", "warmup_fraction": 0.0},
            "train": train,
        }
    )
    trainer = Trainer(
        learner,
        recipe,
        progress=Told(Blocks(), learner),
        clock=SystemClock(),
        checkpoints=Path(options.work),
        run_digest="bench",
        watch=nullcontext,
    )
    trainer.run()


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
        blocks.done(tokens=batch_tokens(batch), loss=float(loss.detach()))


def transformers_trainer(data: list[TokenRow], options: argparse.Namespace) -> None:
    """Train by `transformers.Trainer`, rows padded to the longest of their batch."""
    import transformers

    model: Any = transformers.LlamaForCausalLM.from_pretrained(options.folder, dtype=torch.float32)
    if options.method == "lora":
        import peft

        names = [
            name.rpartition(".")[2]
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and "layers." in name
        ]
        config = peft.LoraConfig(
            r=RANK,
            lora_alpha=int(ALPHA),
            lora_dropout=0.0,
            target_modules=sorted(set(names)),
            task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(model, config)
    blocks = Blocks()

    class Callback(transformers.TrainerCallback):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            self.step = 0

        def on_step_begin(self, *_: object, **__: object) -> None:
            blocks.wait()

        def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
            if "loss" not in logs:
                return
            start = self.step * options.batch % len(data)
            self.step += 1
            batch = data[start : start + options.batch]
            blocks.done(tokens=batch_tokens(batch), loss=logs["loss"])

    arguments = transformers.TrainingArguments(
        output_dir=options.work,
        per_device_train_batch_size=options.batch,
        num_train_epochs=1_000,
        learning_rate=RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=CLIP_NORM,
        lr_scheduler_type="constant",
        warmup_steps=0,
        train_sampling_strategy="sequential",
        bf16=options.precision == "bf16",
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"ids": row.ids} for row in data],
        data_collator=_padded,
        callbacks=[Callback()],
    ).train()


def _padded(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(item["ids"]) for item in items)
    ids = torch.zeros(len(items), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for i, item in enumerate(items):
        size = len(item["ids"])
        ids[i, :size] = labels[i, :size] = torch.from_numpy(item["ids"]).long()
        mask[i, :size] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def main() -> None:
    """Train as the command line says until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=("ours", "hand", "transformers"))
    for name in ("folder", "work"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("batch", "threads", "rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    decoder = load_folder(Path(options.folder))
    data = rows(options.rows, decoder.config.vocabulary_size)
    if options.subject == "transformers":
        del decoder
        transformers_trainer(data, options)
        return
    decoder.requires_grad_(requires_grad=True).train()
    if options.method == "lora":
        config = LoraConfig(rank=RANK, alpha=ALPHA)
        inject(decoder, config, generator=torch.Generator().manual_seed(0))
    {"ours": ours, "hand": hand}[options.subject](decoder, data, options)


if __name__ == "__main__":
    main()
