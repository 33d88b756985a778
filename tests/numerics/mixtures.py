"""Mixed rows made here: what the label says is split between a picture and a sentence."""

import hashlib
import io
import json
import random
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from purvey.contracts.data import ColumnKind, DatasetConfig
from purvey.contracts.defaults import with_recipe_defaults
from purvey.contracts.jobs import CheckpointSaved, InputDataset, InputFile, JobSpec
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.contracts.recipe import parse_recipe
from purvey.data.build import build_dataset
from purvey.models.folder.manifest import read_manifest
from purvey.worker import train

WORDS = {
    "en": (("open", "bright", "awake"), ("closed", "dark", "asleep"), "the {} is {} at gate {}"),
    "zh": (("打开", "明亮", "醒着"), ("关闭", "黑暗", "睡着"), "{}号的{}现在是{}的"),
}
THINGS = {"en": ("door", "lamp", "cat", "shop"), "zh": ("门", "灯", "猫", "商店")}
Row = dict[str, Any]


@dataclass
class Link:
    """Notes what a run tells; asks it to stop after so many polls."""

    stop_after: int | None = None
    checkpoints: list[CheckpointSaved] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    polls: int = 0

    @property
    def stop_requested(self) -> Any:
        self.polls += 1
        return "pause" if self.stop_after is not None and self.polls > self.stop_after else None

    def event(self, message: str, *, level: str = "info", **data: object) -> None: ...

    def metrics(self, message: str, data: dict[str, Any]) -> None:
        self.told.append(data)

    def checkpoint(self, saved: CheckpointSaved) -> None:
        self.checkpoints.append(saved)


def picture(chance: random.Random, *, is_filled: bool, size: int = 16) -> str:
    """Return a data URL: a disc or a ring of any place, shade and size, on noise."""
    image = Image.new("L", (size, size))
    image.putdata([chance.randrange(60) for _ in range(size * size)])
    radius = chance.randint(size // 4, size // 3 + 1)
    x, y = (chance.randint(radius, size - 1 - radius) for _ in range(2))
    shade, box = chance.randint(140, 255), (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(image).ellipse(box, fill=shade if is_filled else None, outline=shade)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return "data:image/png;base64," + b64encode(encoded.getvalue()).decode()


def sentence(chance: random.Random, *, is_on: bool, language: str) -> str:
    on, off, phrase = WORDS[language]
    said = [chance.choice(THINGS[language]), chance.choice(on if is_on else off)]
    number = chance.randrange(1_000)
    return phrase.format(*([number, *said] if language == "zh" else [*said, number]))


def xor_rows(num_rows: int, *, language: str = "en", size: int = 16, seed: int = 0) -> list[Row]:
    """Make rows whose label is `yes` where exactly one of picture and sentence says so."""
    chance = random.Random(seed)  # noqa: S311 (test data)
    rows = []
    for _ in range(num_rows):
        is_filled, is_on = chance.random() < 0.5, chance.random() < 0.5
        rows.append({
            "photo": picture(chance, is_filled=is_filled, size=size),
            "note": sentence(chance, is_on=is_on, language=language),
            "answer": "yes" if is_filled != is_on else "no",
        })  # fmt: skip
    return rows


def price_rows(num_rows: int, *, seed: int = 0) -> list[Row]:
    """Make rows whose price is a sum over a picture, a sentence, a number and a category."""
    chance = random.Random(seed)  # noqa: S311 (test data)
    rates = {"north": 10.0, "south": -10.0, "东": 0.0}
    rows = []
    for _ in range(num_rows):
        is_filled, is_on = chance.random() < 0.5, chance.random() < 0.5
        size, place = chance.uniform(-3, 3), chance.choice(list(rates))
        price = 200 + 20 * is_filled + 10 * is_on + 5 * size + rates[place]
        rows.append({
            "photo": picture(chance, is_filled=is_filled),
            "note": sentence(chance, is_on=is_on, language="zh"),
            "size": size,
            "place": place,
            "price": price + chance.gauss(0, 0.5),
        })  # fmt: skip
    return rows


class Runs:
    """Builds datasets and runs recipes in folders of their own."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def folder(self) -> Path:
        self._count += 1
        folder = self._root / str(self._count)
        folder.mkdir()
        return folder

    def dataset(self, rows: list[Row], columns: dict[str, ColumnKind], **more: Any) -> InputDataset:
        source = self.folder() / "rows.jsonl"
        source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        data = source.read_bytes()
        file = InputFile(
            role="source",
            path=str(source),
            name=source.name,
            sha256=hashlib.sha256(data).hexdigest(),
            num_bytes=len(data),
        )
        folder = self.folder()
        config = DatasetConfig(columns=columns, **more)
        return InputDataset(folder=str(folder), manifest=build_dataset([file], config, folder))

    def run(
        self,
        recipe: dict[str, Any],
        dataset: InputDataset,
        *,
        link: Link | None = None,
        work: Path | None = None,
        resume_from: str | None = None,
        module_root: Path | None = None,
        base: Path | None = None,
    ) -> tuple[Path, ModelManifest]:
        output = self.folder()
        spec = JobSpec(
            job_id="job_test",
            kind="training",
            attempt=1,
            fence=1,
            recipe=parse_recipe(with_recipe_defaults(recipe)).model_dump(mode="json"),
            dataset=dataset,
            base=ModelSource(name="base", folder=str(base), digest="0" * 64) if base else None,
            work_dir=str(work or self.folder()),
            output_dir=str(output),
            resume_from=resume_from,
            module_roots=(str(module_root),) if module_root is not None else (),
            num_threads=1,
        )
        train.run(spec, link or Link())
        return output, read_manifest(output)
