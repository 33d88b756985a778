"""Morse recordings as datasets, and speech jobs that run on them."""

import hashlib
from pathlib import Path
from typing import Any

from examples import morse
from purvey.contracts.data import DatasetConfig
from purvey.contracts.jobs import InputDataset, InputFile
from purvey.data.build import build_dataset


def dataset_of(archive: Path, folder: Path, **config: Any) -> InputDataset:
    """Prepare a zip of recordings with a manifest, in an empty folder."""
    file = InputFile(
        role="source",
        path=str(archive),
        name=archive.name,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        num_bytes=archive.stat().st_size,
    )
    manifest = build_dataset([file], DatasetConfig.model_validate(config), folder)
    return InputDataset(folder=str(folder), manifest=manifest)


def morse_dataset(root: Path, *, num_rows: int, seed: int = 0, **drawn: Any) -> InputDataset:
    """Prepare drawn Morse code; `drawn` is what `morse.archive` takes."""
    root.mkdir(parents=True, exist_ok=True)
    morse.archive(root / "morse.zip", num_rows=num_rows, seed=seed, **drawn)
    folder = root / "dataset"
    folder.mkdir()
    return dataset_of(root / "morse.zip", folder)


def speech_recipe(**train: Any) -> dict[str, Any]:
    """Return a recipe of a small recogniser."""
    return {
        "task": "speech-recognition",
        "model": {
            "architecture": "ctc",
            "hyperparameters": {"width": 24, "depth": 2, "kernel": 9, "dropout": 0.1},
        },
        "preprocess": {"audio": {"sample_rate_hz": 4_000, "num_mels": 16}},
        "augment": {"audio": {"frequency_masks": 1, "time_masks": 1, "time_mask_fraction": 0.05}},
        "optimizer": {"name": "adamw", "learning_rate": 0.005},
        "train": {"epochs": 2, "batch_size": 8, "evals_per_epoch": 2} | train,
        "test": {"bootstrap_samples": 100},
        "seed": 5,
    }
