"""A small run of every task that several processes may share, without anything drawn by chance.

Plain descent, as an optimizer that divides by what it remembers makes much of rounding.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.models.language import save_language_model
from tests.numerics import mixtures
from tests.numerics.recordings import morse_dataset, speech_recipe
from tests.numerics.shapes import language_model, seeing_recipe, shapes_dataset
from tests.numerics.test_train_fusion import BOTH, PRICED
from tests.numerics.test_train_resume import Jobs, sentences
from tests.numerics.test_train_resume_images import blots
from tests.unit.worker.image_jobs import image_dataset

LOOP: dict[str, Any] = {"epochs": 1, "batch_size": 7, "evals_per_epoch": 2}
STEADY: dict[str, Any] = {
    "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.9},
    "augment": {},
    "test": {"bootstrap_samples": 100},
    "seed": 5,
}
EVEN = {"validation": 0.2, "test": 0.1}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a run is made of."""

    recipe: dict[str, Any]
    dataset: InputDataset
    base: ModelSource | None = None

    def __post_init__(self) -> None:
        parse_recipe(self.recipe)


def _images(root: Path) -> Task:
    model = {"architecture": "resnet", "hyperparameters": {"width": 8, "depth": 1}}
    recipe = {"task": "image-classification", "model": model, "train": LOOP}
    return Task(recipe=recipe | STEADY, dataset=image_dataset(root, blots()))


def _mixture(root: Path) -> Task:
    model = {
        "architecture": "fusion",
        "hyperparameters": {"how": "product", "width": 32, "dropout": 0.0},
    }
    recipe = {"task": "classification", "model": model, "train": LOOP}
    rows = mixtures.xor_rows(60, size=12)
    dataset = mixtures.Runs(root).dataset(rows, BOTH, splits=EVEN, deduplicate=False)
    return Task(recipe=recipe | STEADY, dataset=dataset)


def _score(root: Path) -> Task:
    model = {
        "architecture": "fusion",
        "hyperparameters": {"how": "concatenation", "width": 32, "dropout": 0.0},
    }
    recipe = {"task": "regression", "model": model, "train": LOOP}
    dataset = mixtures.Runs(root).dataset(mixtures.price_rows(60), PRICED, splits=EVEN)
    return Task(recipe=recipe | STEADY, dataset=dataset)


def _speech(root: Path) -> Task:
    recipe = speech_recipe(**LOOP) | STEADY
    recipe["model"]["hyperparameters"] |= {"dropout": 0.0}
    return Task(recipe=recipe, dataset=morse_dataset(root, num_rows=40, num_words=1))


def _seeing(root: Path) -> Task:
    recipe = seeing_recipe(**LOOP) | STEADY
    recipe["model"]["hyperparameters"] |= {"vision_dropout": 0.0}
    return Task(recipe=recipe, dataset=shapes_dataset(root, num_rows=40))


def _vectors(root: Path) -> Task:
    rows = [{"anchor": f"how is the {n}", "positive": f"the {n} is fine"} for n in range(48)]
    shape = {"hidden_size": 64, "num_layers": 1, "dropout": 0.0}
    recipe = {
        "task": "embedding",
        "model": {"architecture": "encoder", "hyperparameters": shape},
        "tokenizer": {"vocabulary_size": 300},
        "train": LOOP | {"sequence_tokens": 32},
    }
    dataset = Jobs(root).dataset("pairs.jsonl", "\n".join(map(json.dumps, rows)))
    return Task(recipe=recipe | STEADY, dataset=dataset)


def _base(root: Path) -> ModelSource:
    folder = root / "base"
    folder.mkdir()
    save_language_model(folder, language_model())
    return ModelSource(name="base", folder=str(folder), digest="0" * 64)


def _tuned(root: Path) -> Task:
    recipe = {
        "task": "text-generation",
        "model": {"base": "base"},
        "lora": {"rank": 2, "dropout": 0.0},
        "train": LOOP | {"method": "lora", "sequence_tokens": 16},
    }
    return Task(
        recipe=recipe | STEADY,
        dataset=Jobs(root).dataset("rows.csv", sentences()),
        base=_base(root),
    )


def _preferred(root: Path) -> Task:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"how was the day {n}?"}]},
            "preferred_output": [{"role": "assistant", "content": "fine"}],
            "non_preferred_output": [{"role": "assistant", "content": "dull"}],
        }
        for n in range(40)
    ]
    recipe = {
        "task": "text-generation",
        "model": {"base": "base"},
        "train": LOOP | {"method": "full", "objective": "dpo", "sequence_tokens": 64},
        "dpo": {"beta": 0.2},
    }
    dataset = Jobs(root).dataset("pairs.jsonl", "\n".join(map(json.dumps, rows)))
    return Task(recipe=recipe | STEADY, dataset=dataset, base=_base(root))


TASKS: dict[str, Callable[[Path], Task]] = {
    "images": _images,
    "mixture": _mixture,
    "score": _score,
    "speech": _speech,
    "seeing": _seeing,
    "vectors": _vectors,
    "tuned": _tuned,
    "preferred": _preferred,
}
