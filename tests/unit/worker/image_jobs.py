"""Datasets of images, and training jobs over them in this process, as a worker runs them."""

import hashlib
import io
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from purvey.cli.showcase.digits import digits_zip
from purvey.contracts.data import DatasetConfig
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.jobs import InputDataset, InputFile, JobSpec, ModelTrained
from purvey.contracts.model import ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.data.build import build_dataset
from purvey.worker import train
from purvey.worker.training.run import TrainingLink

RECIPES = Path(__file__).parents[3] / "recipes"


class Quiet:
    """A link that is never asked to stop."""

    stop_requested = None

    def event(self, message: str, *, level: str = "info", **data: object) -> None: ...

    def metrics(self, message: str, data: dict[str, Any]) -> None: ...

    def checkpoint(self, saved: object) -> None: ...


def zipped(pictures: Iterable[tuple[str, Image.Image]]) -> bytes:
    """Return a zip with one PNG for each label and picture."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, (label, picture) in enumerate(pictures):
            encoded = io.BytesIO()
            picture.save(encoded, "PNG")
            archive.writestr(f"{label}/{number:04d}.png", encoded.getvalue())
    return packed.getvalue()


def image_dataset(folder: Path, archive: bytes) -> InputDataset:
    """Build the dataset of a zip of class folders, as the dataset job does."""
    source = folder / "images.zip"
    source.write_bytes(archive)
    file = InputFile(
        role="source",
        path=str(source),
        name=source.name,
        sha256=hashlib.sha256(archive).hexdigest(),
        num_bytes=len(archive),
    )
    built = folder / "dataset"
    built.mkdir()
    manifest = build_dataset([file], DatasetConfig(), built)
    return InputDataset(folder=str(built), manifest=manifest)


def digits(folder: Path) -> InputDataset:
    """Build the dataset of scikit-learn's digits at their own size, 8 x 8."""
    return image_dataset(folder, digits_zip(side=8))


def recipe(name: str) -> dict[str, Any]:
    """Return a recipe of the repository, without the data that it names."""
    values = tomllib.loads((RECIPES / name).read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key != "data"}


def job(
    folder: Path,
    values: dict[str, Any],
    dataset: InputDataset,
    *,
    link: TrainingLink | None = None,
    resume_from: str | None = None,
    base: Path | None = None,
) -> ModelTrained:
    """Run a training job; its model lies in `folder / "model"`.

    Args:
        folder: For its checkpoints and its model.
        values: The recipe as a user writes it; defaults are filled in.
        dataset: What it learns from.
        link: Where it reports.
        resume_from: A checkpoint.
        base: Folder of the model that the recipe starts from.
    """
    for part in ("work", "model"):
        (folder / part).mkdir(exist_ok=True)
    spec = JobSpec(
        job_id="job_test",
        kind="training",
        attempt=1,
        fence=1,
        recipe=parse_recipe(with_recipe_defaults(values)).model_dump(mode="json"),
        dataset=dataset,
        base=ModelSource(name="base", folder=str(base), digest="0" * 64) if base else None,
        work_dir=str(folder / "work"),
        output_dir=str(folder / "model"),
        resume_from=resume_from,
        num_threads=1,
    )
    return train.run(spec, link or Quiet())
