"""Answering about images by a job: resumed bit for bit, on bases of both kinds, judged for real."""

import base64
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from examples import shapes
from purvey.contracts.data import DatasetConfig
from purvey.contracts.engine import ChatMessage, TokenPrompt
from purvey.contracts.jobs import InputDataset, InputFile
from purvey.contracts.model import EYES_NAME, ImageSpec, ModelManifest, ModelSource
from purvey.data.build import build_dataset
from purvey.data.loader import load_split
from purvey.engine.score import Scorer
from purvey.errors import InvalidValueError
from purvey.models.folder.safetensors_file import read_tensors
from purvey.models.language import save_language_model
from purvey.models.loading import open_model
from purvey.models.seeing.model import VisionLanguageModel
from purvey.train.seeing.learner import SeenRows, judge
from purvey.worker.training.seen import DecodedImages, Encoder
from tests.numerics.recordings import dataset_of
from tests.numerics.seen_engine import SeenEngine, about
from tests.numerics.shapes import language_model, seeing_model, seeing_recipe, shapes_dataset
from tests.numerics.test_train_resume import Jobs, Link, sha256


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    """Forty pictures."""
    return shapes_dataset(tmp_path_factory.mktemp("few"), num_rows=40)


def manifest_of(folder: Path) -> ModelManifest:
    return msgspec.json.decode((folder / "purvey.json").read_bytes(), type=ModelManifest)


def source(folder: Path) -> ModelSource:
    return ModelSource(name="base", folder=str(folder), digest="0" * 64)


def opened(folder: Path) -> VisionLanguageModel:
    model = open_model(source(folder))
    assert isinstance(model, VisionLanguageModel)
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A language model that reads text alone."""
    folder = tmp_path_factory.mktemp("base")
    save_language_model(folder, language_model())
    return source(folder)


@pytest.mark.row("CRA-23")
def test_a_resumed_run_is_bit_equal(jobs: Jobs, few: InputDataset) -> None:
    recipe = seeing_recipe(micro_batch_size=3, label_smoothing=0.1)
    whole = jobs.run(recipe, few, link=Link(), work=jobs.folder())
    resumed = jobs.interrupted(recipe, few, stops=[1, 0, 4])
    for name in ("model.safetensors", EYES_NAME):
        assert sha256(resumed, name) == sha256(whole, name)


def test_the_model_and_its_report_are_complete(jobs: Jobs, few: InputDataset) -> None:
    folder = jobs.run(seeing_recipe(packing=False), few, link=Link(), work=jobs.folder())
    manifest = manifest_of(folder)
    assert (manifest.family, manifest.task) == ("vision-language", "image-text-to-text")
    assert manifest.inputs == {"image": ImageSpec(height=32, width=32)}
    assert set(manifest.hyperparameters) == {
        *("vision_width", "vision_depth", "vision_patch", "vision_dropout"),
    }
    assert {"exact_match", "loss"} <= set(manifest.report)
    assert manifest.report["exact_match"]["num_rows"] == few.manifest.rows["test"]
    assert manifest.lineage["dataset_digest"] == few.manifest.digest
    assert opened(folder).language.template is not None


ON_A_BASE: dict[str, dict[str, Any]] = {
    "lora": {"train": {"method": "lora"}, "lora": {"rank": 2}},
    "frozen": {"train": {"freeze": ["decoder.*"]}},
    "full": {},
}


@pytest.mark.parametrize("how", ON_A_BASE)
def test_a_language_model_is_given_eyes(
    jobs: Jobs, few: InputDataset, base: ModelSource, how: str
) -> None:
    changes = ON_A_BASE[how]
    recipe = seeing_recipe(max_steps=2, **changes.get("train", {}))
    eyes = {"vision_width": 16, "vision_depth": 1, "vision_patch": 8}
    recipe |= {"model": {"base": "base", "hyperparameters": eyes}, "lora": changes.get("lora", {})}
    del recipe["tokenizer"]
    folder = jobs.run(recipe, few, link=Link(), work=jobs.folder(), base=base)
    before, after = (read_tensors(Path(one) / "model.safetensors") for one in (base.folder, folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert bool(changed) == (how != "frozen")
    assert manifest_of(folder).lineage["initialised"]["loaded"] == len(before)
    assert manifest_of(folder).lineage["initialised"]["num_fresh"] > 0
    assert not any("norm" in name or "embed" in name for name in changed) or how == "full"
    going_on = recipe | {"model": {"base": "seer"}}
    tuned = jobs.run(going_on, few, link=Link(), work=jobs.folder(), base=source(folder))
    assert sha256(tuned, EYES_NAME) != sha256(folder, EYES_NAME)
    assert manifest_of(tuned).hyperparameters == eyes


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another network": ({"model": {"architecture": "vit"}}, "recipe.model.architecture"),
    "an odd width": (
        {"model": {"hyperparameters": {"vision_width": 6}}},
        "model.hyperparameters.vision_width",
    ),
    "an unknown part": (
        {"model": {"hyperparameters": {"vision_size": 6}}},
        "model.hyperparameters.vision_size",
    ),
    "a shape of a base": (
        {"model": {"base": "b", "hyperparameters": {"hidden_size": 8}}, "tokenizer": {}},
        "recipe.model.hyperparameters.hidden_size",
    ),
    "a tokenizer of a base": ({"model": {"base": "b"}}, "recipe.tokenizer"),
    "four bits": (
        {
            "model": {"base": "b"},
            "train": {"method": "lora", "sequence_tokens": 96},
            "lora": {"base_precision": "int4"},
        },
        "recipe.lora.base_precision",
    ),
    "an adapter on nothing": ({"train": {"method": "lora"}}, "recipe"),
    "no room": ({"train": {"sequence_tokens": 20}}, "recipe.train.sequence_tokens"),
    "a mask": ({"augment": {"audio": {"time_masks": 1}}}, "recipe.augment.audio"),
    "text bytes": ({"preprocess": {"text": {"max_bytes": 9}}}, "recipe.preprocess.text"),
    "class weights": ({"train": {"class_weights": "balanced"}}, "recipe.train.class_weights"),
    "preferences": (
        {"model": {"base": "b"}, "train": {"objective": "dpo"}},
        "recipe.train.objective",
    ),
    "a factor": ({"model": {"width_factor": 2}}, "recipe.model.width_factor"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_have_no_effect_is_refused(
    jobs: Jobs, few: InputDataset, base: ModelSource, what: str
) -> None:
    changes, param = REFUSED[what]
    recipe = seeing_recipe() | changes
    given = base if recipe["model"].get("base") else None
    with pytest.raises(InvalidValueError) as raised:
        jobs.run(recipe, few, link=Link(), work=jobs.folder(), base=given)
    assert str(raised.value.param) == param


def rows_of(root: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> InputDataset:
    """Prepare JSON lines."""
    data = "\n".join(json.dumps(row) for row in rows).encode()
    (root / "rows.jsonl").write_bytes(data)
    file = InputFile(
        role="source",
        path=str(root / "rows.jsonl"),
        name="rows.jsonl",
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
    )
    folder = root / "dataset"
    folder.mkdir()
    config = DatasetConfig.model_validate({"columns": columns})
    return InputDataset(folder=str(folder), manifest=build_dataset([file], config, folder))


def conversations(root: Path, num_rows: int = 20) -> InputDataset:
    """Prepare pictures with conversations about them, one of which is very long."""
    chance = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        one = shapes.drawn(chance)
        url = f"data:image/png;base64,{base64.b64encode(shapes.png(one.pixels)).decode()}"
        said = "well " * 200 if number == 3 else one.answer
        talk = [
            {"role": "user", "content": one.question},
            {"role": "assistant", "content": said},
            {"role": "user", "content": f"Sure? {number}"},
            {"role": "assistant", "content": "yes"},
        ]
        rows.append({"picture": url, "talk": talk})
    return rows_of(root, rows, {"picture": "image", "talk": "conversation"})


def test_conversations_are_learned_and_long_ones_left_out(jobs: Jobs) -> None:
    dataset, link = conversations(jobs.folder()), Link()
    folder = jobs.run(seeing_recipe(epochs=1), dataset, link=link, work=jobs.folder())
    assert [event for event in link.events if "left out" in event]
    assert {"exact_match", "loss"} <= set(manifest_of(folder).report)


def noise(chance: np.random.Generator) -> bytes:
    return shapes.png(chance.integers(0, 255, (16, 16, 3)).astype(np.uint8))


def of_two_images(root: Path, num_rows: int = 24) -> InputDataset:
    """Prepare rows of two noisy pictures, a question and an answer."""
    chance = np.random.default_rng(3)
    rows = []
    for number in range(num_rows):
        before, after = (
            f"data:image/png;base64,{base64.b64encode(noise(chance)).decode()}" for _ in range(2)
        )
        said = ("red", "two")[number % 2]
        rows.append({"before": before, "after": after, "asked": f"what? {number}", "said": said})
    kinds = {"before": "image", "after": "image", "asked": "text", "said": "transcript"}
    return rows_of(root, rows, kinds)


def test_a_run_on_two_images_is_resumed_bit_for_bit_and_remembers_their_number(
    jobs: Jobs,
) -> None:
    dataset = of_two_images(jobs.folder())
    recipe = seeing_recipe(max_steps=3)
    whole = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    resumed = jobs.interrupted(recipe, dataset, stops=[1])
    for name in ("model.safetensors", EYES_NAME):
        assert sha256(resumed, name) == sha256(whole, name)
    assert list(manifest_of(whole).inputs) == ["image", "image_2"]
    assert opened(whole).num_images == 2


def test_two_images_are_seen_in_training_as_they_are_when_asked() -> None:
    """The loss of an answer is what the engine makes of it; float32 sums in another order."""
    model, chance = seeing_model().seeing(2), np.random.default_rng(5)
    pictures = [[noise(chance), noise(chance)] for _ in range(2)]
    pictures.append(pictures[0][::-1])
    asked = ChatMessage(role="user", content="what colour is the circle?")
    talk = (asked, ChatMessage(role="assistant", content="red"))
    row = Encoder(model, num_images=2, max_tokens=120).row(talk)
    assert row is not None
    held = DecodedImages([one for pair in pictures for one in pair], num_each=2, spec=model.spec)
    judged = judge(model.module, SeenRows(tokens=[row] * 3, images=held))
    said = TokenPrompt(tokens=tuple(row.ids[row.is_target].tolist()))
    engine = SeenEngine(model)
    pairs = [(about(pair, asked.content), said) for pair in pictures]
    encoded, seen = engine.door.encode_seen(pairs)
    scores = Scorer(engine.core, engine.door.encode_pair).submit_encoded(encoded, pictures=seen)
    engine.run_out()
    found = [-sum(tokens) for tokens in scores.result(0)]
    assert found == pytest.approx(judged.nats_N.tolist(), rel=1e-4)
    assert len({round(nats, 3) for nats in found}) == 3, "an image, or their order, is not seen"


def test_a_dataset_that_says_nothing_about_its_images_is_refused(jobs: Jobs) -> None:
    root = jobs.folder()
    shapes.archive(root / "shapes.zip", num_rows=12, seed=2)
    (root / "dataset").mkdir()
    columns = {"image": "image", "question": "text"}
    dataset = dataset_of(root / "shapes.zip", root / "dataset", columns=columns)
    with pytest.raises(InvalidValueError, match="transcript column"):
        jobs.run(seeing_recipe(), dataset, link=Link(), work=jobs.folder())


def test_what_is_judged_right_is_what_is_written(jobs: Jobs, tmp_path: Path) -> None:
    """One forward pass tells which rows the served model answers as expected, greedily."""
    dataset = shapes_dataset(tmp_path / "one", num_rows=120, about=("colour",), most=1)
    recipe = seeing_recipe(epochs=12) | {
        "init": {"scheme": "xavier_uniform"},
        "optimizer": {"name": "muon", "learning_rate": 0.01, "momentum": 0.95},
    }
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    model = opened(folder)
    engine, rows = SeenEngine(model), rows_in_test(dataset)
    written = [engine.answer(data, question, max_tokens=12) for data, question, _ in rows]
    is_right = [said == answer for said, (_, _, answer) in zip(written, rows, strict=True)]
    share = manifest_of(folder).report["exact_match"]["value"]
    assert share > 0, "nothing is answered right, and nothing was shown"
    assert share == pytest.approx(sum(is_right) / len(rows))


def rows_in_test(dataset: InputDataset) -> list[tuple[bytes, str, str]]:
    """Return image, question and answer of the test split."""
    rows = load_split(Path(dataset.folder), "test")
    return list(zip(rows.media("image"), rows.texts("question"), rows.texts("answer"), strict=True))


@pytest.mark.train
@pytest.mark.timeout(1_500)
def test_shapes_are_answered_about_at_full_size(jobs: Jobs, tmp_path: Path) -> None:
    """By `recipes/shapes.toml`; then as served, on pictures of another seed, topic by topic."""
    recipe = tomllib.loads((Path(__file__).parents[2] / "recipes" / "shapes.toml").read_text())
    for name in ("data", "columns"):
        del recipe[name]
    dataset = shapes_dataset(tmp_path / "data", num_rows=16_000)
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    report = manifest_of(folder).report
    assert report["exact_match"]["value"] >= 0.9, report
    engine, chance = SeenEngine(opened(folder)), np.random.default_rng(1_000)
    for topic in shapes.ASKED:
        asked = [shapes.drawn(chance, about=(topic,)) for _ in range(50)]
        right = sum(
            engine.answer(shapes.png(one.pixels), one.question, max_tokens=12) == one.answer
            for one in asked
        )
        assert right >= 45, (topic, right)
