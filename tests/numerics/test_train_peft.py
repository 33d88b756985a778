"""Fine-tuning here has the losses of plain loops over `transformers`, and over `peft` for LoRA."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import CheckpointSaved
from purvey.contracts.recipe import TrainConfig, parse_recipe
from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.models.lora import inject, save_adapter
from purvey.models.weights import load_folder
from purvey.train.language import LanguageLearner
from purvey.train.token_rows import TokenRow, token_row
from purvey.train.trainer import Trainer

# peft asks transformers for an attribute that it has since renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
VOCABULARY, NUM_ROWS, BATCH, EPOCHS = 61, 20, 4, 5
NUM_STEPS = EPOCHS * NUM_ROWS // BATCH
RATE, DECAY, CLIP_NORM = 0.01, 0.05, 0.5
ADAPTER = LoraConfig(rank=4, alpha=12.0)
CLOSE = 1e-4  # float32 sums in another order, step upon step: differences near 1e-5


class Told:
    """Keeps the loss of every step, as a run tells it."""

    stop_requested = None

    def __init__(self) -> None:
        self.losses: list[float] = []

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        self.losses.append(data["train_loss"])

    def checkpoint(self, saved: CheckpointSaved) -> None: ...


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def rows() -> list[TokenRow]:
    """Make rows of 6 to 24 tokens, most of which follow from the one before; prompts are masked."""
    chance = random.Random(0)  # noqa: S311 (test data)
    made = []
    for _ in range(NUM_ROWS):
        size = chance.randint(6, 24)
        ids = [chance.randrange(VOCABULARY)]
        while len(ids) < size:
            is_next = chance.random() < 0.8
            ids.append((3 * ids[-1] + 1) % VOCABULARY if is_next else chance.randrange(VOCABULARY))
        prompt = chance.randint(1, size // 2)
        made.append(token_row(ids, [n >= prompt for n in range(size)], max_tokens=size))
    return made


def recipe(method: str) -> TrainConfig:
    """Accumulate portions of three and one, packed; evaluate at each step, which tells its loss."""
    loop: dict[str, Any] = {
        "method": method,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "micro_batch_size": 3,
        "evals_per_epoch": NUM_ROWS // BATCH,
        "clip_norm": CLIP_NORM,
    }
    values: dict[str, Any] = {
        "task": "text-generation",
        "optimizer": {"name": "adamw", "learning_rate": RATE, "weight_decay": DECAY},
        "schedule": {"name": "constant", "warmup_fraction": 0.0},
        "train": loop,
        "seed": 3,
    }
    return parse_recipe(values)


def padded(chosen: list[TokenRow]) -> dict[str, Tensor]:
    """Pad on the right, as `transformers` wants batches."""
    longest = max(len(row.ids) for row in chosen)
    ids, mask = (torch.zeros(len(chosen), longest, dtype=torch.int64) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for place, row in enumerate(chosen):
        size, is_target = len(row.ids), torch.from_numpy(row.is_target)
        ids[place, :size] = torch.from_numpy(row.ids).long()
        mask[place, :size] = 1
        labels[place, :size] = ids[place, :size].masked_fill(~is_target, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def plain_losses(model: nn.Module, data: list[TokenRow], batches: list[list[int]]) -> list[float]:
    """Train by the loop that everybody writes; the model computes its own loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": DECAY},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=recipe("full").optimizer.betas)
    losses = []
    for batch in batches:
        loss = model(**padded([data[row] for row in batch])).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_step_has_the_loss_of_a_plain_loop(base: Path, tmp_path: Path, method: str) -> None:
    """From one start, with the same rows in the same batches: the promise is 1 %."""
    decoder, data, told = load_folder(base), rows(), Told()
    decoder.requires_grad_(requires_grad=True)
    peer: nn.Module = LlamaForCausalLM.from_pretrained(base)
    if method == "lora":
        inject(decoder, ADAPTER, generator=torch.Generator().manual_seed(2))
        save_adapter(decoder, tmp_path / "start", ADAPTER, base_name="base")
        from peft import PeftModel

        peer = PeftModel.from_pretrained(peer, tmp_path / "start", is_trainable=True)
    trainer = Trainer(
        LanguageLearner(decoder, data, [], batch_size=BATCH, seed=3),
        recipe(method),
        progress=told,
        clock=SystemClock(),
        checkpoints=tmp_path / "checkpoints",
        run_digest="run",
    )
    trainer.run()
    batches = [trainer.rows_at(step) for step in range(NUM_STEPS)]
    theirs = plain_losses(peer.train(), data, batches)
    assert len(told.losses) == NUM_STEPS >= 20
    assert sum(theirs[-5:]) < 0.8 * sum(theirs[:5]), "hardly anything was learned"
    assert told.losses == pytest.approx(theirs, rel=CLOSE)
