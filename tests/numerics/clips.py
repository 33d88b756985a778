"""Tiny random CLIP folders as `transformers` writes them; pictures with what is said of them."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from examples import shapes
from tests.numerics.encoders import wordpiece

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PREPARED = {
    "size": {"shortest_edge": 12},
    "crop_size": {"height": 12, "width": 12},
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.25, 0.3],
}
"""Beside what the library takes where nothing is said: cubic resizing, the middle cut out."""


def write_clip(folder: Path, **text: Any) -> Any:
    """Write a random CLIP with the tokenizer of BERT's shape, and return it in evaluation mode."""
    tokenizer = wordpiece()
    config = CLIPConfig(
        text_config=TOWER
        | {
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": 24,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
            **text,
        },
        vision_config=TOWER | {"image_size": 12, "patch_size": 4},
        projection_dim=20,
        initializer_factor=3.0,
    )
    torch.manual_seed(7)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return model


def pictured(num_rows: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Draw a shape a row, at any place, with its colour and its kind in words."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        colour = str(chance.choice(list(shapes.COLOURS)))
        kind, place = (str(chance.choice(words)) for words in (shapes.KINDS, shapes.PLACES))
        one = shapes.Shape(kind=kind, colour=colour, place=place)
        data = shapes.png(shapes.painted([one], chance))
        words = (f"a {colour} {kind}", f"the {kind} is {colour}")[number % 2]
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        rows.append({"photo": url, "caption": words})
    return rows
