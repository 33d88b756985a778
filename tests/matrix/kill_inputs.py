"""What the jobs that are killed learn from, and the requests that start them."""

import io
import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.matrix.invariants import reading
from tests.matrix.served import Served
from tests.matrix.waiting import wait_until

BASE = "base"

NET = """
import threading
from torch import nn
import purvey.module as pm

@pm.model(task="image-classification", input=pm.Image(height=8, width=8, channels=1))
class Net(nn.Module):
    def __init__(self, *, num_classes: int, pause_s: float = 0.0) -> None:
        super().__init__()
        self.pause_s = pause_s
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(16, num_classes),
        )

    def forward(self, x_BCHW):
        if self.training:
            threading.Event().wait(self.pause_s)
        return self.layers(x_BCHW)
"""


def bodies_of(served: Served, names: Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Upload and prepare; return path and body of the request that starts each job."""
    files = {"rows": _upload(served, "rows.csv", _table())}
    if "images" in names:
        files["images"] = _upload(served, "set.zip", _zip())
    talks, held = (_upload(served, f"{n}.jsonl", _talks(n)) for n in (48, 12))
    data = _prepared(served, **files)
    optimizer = {"learning_rate": 0.01, "weight_decay": 0.1}
    train: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "evals_per_epoch": 2,
        "checkpoint_interval_s": 1,
    }
    common = {"optimizer": optimizer, "seed": 5}
    table = {
        **common,
        "task": "text-classification",
        "dataset": data["rows"],
        "model": {
            "architecture": "text-ngrams",
            "hyperparameters": {"buckets": 512, "width": 8, "dropout": 0.4},
        },
        "train": {**train, "early_stopping": {"patience": 50}},
    }
    images = {
        **common,
        "task": "image-classification",
        "dataset": data.get("images"),
        "model": {"architecture": "net.py:Net", "hyperparameters": {"pause_s": 0.05}},
        "train": {**train, "epochs": 4, "batch_size": 4},
    }
    language = {
        **common,
        "name": BASE,
        "task": "text-generation",
        "dataset": data["rows"],
        "model": {
            "architecture": "decoder",
            "hyperparameters": {
                "hidden_size": 16, "num_layers": 2, "num_heads": 2, "context_tokens": 256,
            },
        },
        "tokenizer": {"vocabulary_size": 300},
        "train": {**train, "sequence_tokens": 24},
    }  # fmt: skip
    adapter = {
        "model": BASE,
        "training_file": talks,
        "validation_file": held,
        "suffix": "talks",
        "seed": 5,
        "hyperparameters": {"n_epochs": 3, "batch_size": 8},
        "recipe": {
            "lora": {"rank": 2, "dropout": 0.2},
            "train": {"evals_per_epoch": 2, "sequence_tokens": 64, "checkpoint_interval_s": 1},
        },
    }
    training = "/v1/training/jobs"
    return {
        "table": (training, {"recipe": table}),
        "images": (training, {"recipe": images}),
        "language": (training, {"recipe": language}),
        "adapter": ("/v1/fine_tuning/jobs", adapter),
        "rows": ("/v1/datasets", {"file_ids": [files["rows"]]}),
    }


def _upload(served: Served, name: str, content: bytes) -> str:
    with served.witness.client() as http:
        purpose = "fine-tune" if name.endswith(".jsonl") else "user_data"
        answer = http.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose})
        return str(answer.raise_for_status().json()["id"])


def _prepared(served: Served, **files: str) -> dict[str, str]:
    with served.witness.client() as http:
        made = {
            name: str(http.post("/v1/datasets", json={"file_ids": [file]}).json()["id"])
            for name, file in files.items()
        }
        for dataset in made.values():
            wait_until(lambda: http.get(f"/v1/datasets/{dataset}").json()["status"] == "ready")  # noqa: B023 (waited for here)
    return made


def job_building(folder: Path, dataset: str) -> str:
    with reading(folder / "data") as db:
        found = db.execute(
            "SELECT id FROM jobs WHERE kind = 'dataset' AND dataset_id = ?", (dataset,)
        )
        return str(found.fetchone()["id"])


def _table() -> bytes:
    words = {"good": ("fine", "lovely", "warm", "bright"), "bad": ("dull", "broken", "cold")}
    things = ("day", "tea", "train", "song", "room", "book", "lamp", "coat", "road", "soup")
    rows = [
        f"the {thing} was {word} again,{label}"
        for label, chosen in words.items()
        for thing in things
        for word in chosen
    ]
    return ("text,label\n" + "\n".join(rows) + "\n").encode()


def _talks(count: int) -> bytes:
    answers = {"red": "stop", "green": "go", "amber": "wait"}
    lines = []
    for number in range(count):
        colour = sorted(answers)[number % 3]
        messages = [
            {"role": "user", "content": f"light {number} is {colour}"},
            {"role": "assistant", "content": answers[colour]},
        ]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines).encode()


def _zip() -> bytes:
    """Pictures of one, two or three bars, somewhere, like digits of a simple kind."""
    from PIL import Image

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(60):
            picture, label = Image.new("L", (8, 8), number % 7), number % 3
            for bar in range(label + 1):
                picture.paste(200 + number % 50, (bar * 2, number % 4, bar * 2 + 1, 8))
            encoded = io.BytesIO()
            picture.save(encoded, "PNG")
            archive.writestr(f"bars-{label + 1}/{number}.png", encoded.getvalue())
    return out.getvalue()
