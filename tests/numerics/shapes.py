"""Pictures of shapes as datasets, jobs that learn to answer about them, and models that see."""

from pathlib import Path
from typing import Any

import torch

from examples import shapes
from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ImageSpec
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel
from purvey.models.seeing.model import VisionLanguageModel, with_new_eyes
from purvey.models.tokenizer import Tokenizer
from tests.numerics.recordings import dataset_of

COLUMNS = {"image": "image", "question": "text", "answer": "transcript"}


def shapes_dataset(root: Path, *, num_rows: int, seed: int = 0, **drawn: Any) -> InputDataset:
    """Prepare drawn shapes; `drawn` is what `shapes.archive` takes."""
    root.mkdir(parents=True, exist_ok=True)
    shapes.archive(root / "shapes.zip", num_rows=num_rows, seed=seed, **drawn)
    folder = root / "dataset"
    folder.mkdir()
    return dataset_of(root / "shapes.zip", folder, columns=COLUMNS)


def seeing_recipe(**train: Any) -> dict[str, Any]:
    """Return a recipe of a small model that sees."""
    return {
        "task": "image-text-to-text",
        "model": {
            "architecture": "vision-decoder",
            "hyperparameters": {
                "vision_width": 16,
                "vision_depth": 1,
                "vision_patch": 8,
                "vision_dropout": 0.1,
                "hidden_size": 16,
                "num_layers": 1,
                "num_heads": 2,
            },
        },
        "tokenizer": {"vocabulary_size": 300},
        "augment": {"image": {"noise": 0.02}},
        "optimizer": {"name": "adamw", "learning_rate": 0.005},
        "train": {"epochs": 2, "batch_size": 8, "sequence_tokens": 96} | train,
        "test": {"bootstrap_samples": 100},
        "seed": 5,
    }


def language_model() -> LanguageModel:
    """Build a small language model of random weights."""
    torch.manual_seed(0)
    texts = ["what colour is the circle? red", "how many shapes are there? two"]
    tokenizer = Tokenizer.train(texts, vocabulary_size=300)
    config = DecoderConfig.from_hyperparameters(
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_tokens": 128},
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    return LanguageModel(
        decoder=Decoder(config).eval(),
        tokenizer=tokenizer,
        template=ChatTemplate.default(tokenizer),
    )


def seeing_model() -> VisionLanguageModel:
    """Build a small model of large random weights, for which an image is sixteen rows."""
    given = {"vision_width": 16, "vision_depth": 1, "vision_patch": 4}
    spec = ImageSpec(height=16, width=16)
    model = with_new_eyes(language_model(), hyperparameters=given, spec=spec)
    model.eyes.eval()
    with torch.no_grad():
        for parameter in model.language.decoder.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
        for parameter in model.eyes.projector.parameters():
            parameter.mul_(3.0)
    return model
