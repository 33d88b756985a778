"""A user's module is swept on a real server, killed half-way, and its best trial answers."""

import math
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.matrix.served import Served, serving

NET = """
import torch
from torch import nn
import purvey.module as pm

@pm.model(task="classification", inputs={"x": pm.Number()})
class Net(nn.Module):
    def __init__(self, *, num_classes: int, size: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        logit_B = self.size * torch.sign(x + 1e-6 * self.shift)
        return torch.stack((-logit_B / 2, logit_B / 2), dim=1)
"""
"""Says the sign of its input with a certainty that is not trained: `size`, its logit."""
FLIPPED = 0.2
NUM_TRIALS = 12
SIZE = "model.hyperparameters.size"
SETTINGS = {"JOB_LEASE_S": "60", "LOG_LEVEL": "warning"}


def table(num_rows: int) -> bytes:
    """Numbers whose sign is the label, but for a share of `FLIPPED`."""
    chance = random.Random(5)  # noqa: S311 (test rows)
    rows = []
    for _ in range(num_rows):
        x = chance.choice((-1, 1)) * chance.uniform(0.1, 3.0)
        is_high = (x > 0) != (chance.random() < FLIPPED)
        rows.append(f"{x:.4f},{'b' if is_high else 'a'}")
    return ("x,label\n" + "\n".join(rows) + "\n").encode()


def until(http: httpx2.Client, path: str, *statuses: str) -> dict[str, Any]:
    pause, deadline = threading.Event(), time.monotonic() + 600
    while True:
        found: dict[str, Any] = http.get(path).raise_for_status().json()
        if found["status"] in statuses:
            return found
        assert time.monotonic() < deadline, found
        pause.wait(0.1)


def begin(served: Served) -> str:
    with served.witness.client(timeout=120) as http:
        files = {"file": ("rows.csv", table(600))}
        uploaded = http.post("/v1/files", files=files, data={"purpose": "user_data"}).json()
        asked = {"file_ids": [uploaded["id"]], "columns": {"x": "number", "label": "label"}}
        dataset = http.post("/v1/datasets", json=asked).json()["id"]
        until(http, f"/v1/datasets/{dataset}", "ready")
        recipe = {
            "task": "classification",
            "name": "certain",
            "dataset": dataset,
            "model": {"architecture": "net.py:Net"},
            "optimizer": {"name": "sgd", "learning_rate": 1e-6},
            "train": {"epochs": 1, "early_stopping": None},
        }
        body = {
            "recipe": recipe,
            "space": {SIZE: {"low": 0.1, "high": 20.0, "log": True}},
            "metric": "valid_loss",
            "max_trials": NUM_TRIALS,
        }
        made = http.post("/v1/training/sweeps", json=body)
        assert made.status_code == 200, made.text
        return str(made.json()["id"])


def kill_when_ended(served: Served, sweep_id: str, num_ended: int) -> None:
    pause = threading.Event()
    with served.witness.client(timeout=120) as http:
        while True:
            trials = http.get(f"/v1/training/sweeps/{sweep_id}").json()["trials"]
            if sum(trial["state"] != "running" for trial in trials) >= num_ended:
                break
            pause.wait(0.05)
    workers = served.workers("job")
    served.process.kill()
    served.process.wait()
    psutil.wait_procs(workers, timeout=30)


@pytest.mark.train
@pytest.mark.timeout(900)
def test_a_module_is_swept_killed_half_way_and_serves_the_planted_optimum(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "net.py").write_text(NET)
    with serving(tmp_path, settings=SETTINGS) as served:
        sweep_id = begin(served)
        kill_when_ended(served, sweep_id, NUM_TRIALS // 2)
    with serving(tmp_path, settings=SETTINGS) as served, served.witness.client(timeout=120) as http:
        done = until(http, f"/v1/training/sweeps/{sweep_id}", "succeeded", "failed", "cancelled")
        assert (done["status"], done["error"], done["model"]) == ("succeeded", None, "certain")
        trials = done["trials"]
        assert [trial["number"] for trial in trials] == list(range(NUM_TRIALS))
        assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
        assert len({trial["job"] for trial in trials}) == NUM_TRIALS
        best = min(trials, key=lambda trial: (trial["value"] is None, trial["value"]))
        assert done["best"]["trial"] == best["number"]
        models = [model["id"] for model in http.get("/v1/models").json()["data"]]
        assert models == ["certain"]
        answer = http.post("/v1/classify", json={"model": "certain", "input": {"x": 1.5}}).json()
        assert answer["results"][0]["label"] == "b"
        # Cross-entropy is least where the logit says how often the sign is right: ln 4. The share
        # of flips among 60 validation rows has a standard error of 0.05, that logit one of 0.33.
        planted = math.log((1 - FLIPPED) / FLIPPED)
        assert abs(done["best"]["parameters"][SIZE] - planted) < 3 * 0.33
        assert served.stop() == 0
