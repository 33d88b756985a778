"""What a run says its kept weights measured: numbers of its best evaluation, not of its last."""

import hashlib
from pathlib import Path
from typing import Any

from purvey.contracts.data import DatasetConfig
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.jobs import InputDataset, InputFile, JobSpec
from purvey.contracts.recipe import parse_recipe
from purvey.data.build import build_dataset
from purvey.worker import train


class Link:
    """Keeps the numbers that it is told."""

    stop_requested = None

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.best: list[int] = []

    def event(self, message: str, *, level: str = "info", **data: object) -> None:
        if isinstance(data.get("best_step"), int):
            self.best.append(data["best_step"])  # type: ignore[arg-type]  # looked at above

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        self.told.append(data)

    def checkpoint(self, saved: object) -> None: ...


def dataset(folder: Path) -> InputDataset:
    rows = [f"{'good' if n % 3 else 'bad'} number {n},{'a' if n % 2 else 'b'}" for n in range(80)]
    content = ("text,label\n" + "\n".join(rows) + "\n").encode()
    source = folder / "rows.csv"
    source.write_bytes(content)
    file = InputFile(
        role="source",
        path=str(source),
        name="rows.csv",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
    )
    (folder / "data").mkdir()
    manifest = build_dataset([file], DatasetConfig(), folder / "data")
    return InputDataset(folder=str(folder / "data"), manifest=manifest)


def test_a_run_tells_what_the_weights_that_it_keeps_measured(tmp_path: Path) -> None:
    link = Link()
    recipe = with_recipe_defaults(
        {
            "task": "text-classification",
            "model": {"hyperparameters": {"buckets": 256, "width": 4}},
            "optimizer": {"learning_rate": 0.1},
            "train": {"epochs": 12, "early_stopping": None},
            "test": {"bootstrap_samples": 100},
        }
    )
    (tmp_path / "out").mkdir()
    spec = JobSpec(
        job_id="job_x",
        kind="training",
        attempt=1,
        fence=1,
        recipe=parse_recipe(recipe).model_dump(mode="json"),
        dataset=dataset(tmp_path),
        work_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
    )
    result = train.run(spec, link)
    [best] = link.best
    [numbers] = [data for data in link.told if data["step"] == best]
    assert {"macro_f1", "valid_loss"} <= result.validation.keys()
    assert result.validation.items() <= numbers.items()
    assert 0 <= result.report["auroc"]["value"] <= 1
    assert {one["column"] for one in result.report["slices"]} == {"text"}
    assert best < link.told[-1]["step"], "the last evaluation was the best: nothing is shown"
