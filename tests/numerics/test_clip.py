"""CLIP embeds images and texts as `transformers` does, learns pairs, and its eyes classify."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPForImageClassification, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from purvey.contracts.data import ColumnKind
from purvey.contracts.embedding import Embed
from purvey.contracts.model import ImageSpec
from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.contracts.recipe_parts.looping import LoopConfig
from purvey.engine.embedding.pictured import PicturedDoor, PicturedVectors, Seen
from purvey.errors import InvalidCheckpointError, InvalidValueError, UnsupportedValueError
from purvey.models.classifier import load_classifier
from purvey.models.folder.manifest import read_manifest
from purvey.models.images import ImageReader
from purvey.models.pretrained.clip import ClipModel, open_clip
from purvey.parse.parser import DecoderHere
from purvey.registry.folder_check import check_folder
from purvey.train.optim import build_optimizer
from purvey.train.parallel.team import Alone, batches
from purvey.train.step import update
from purvey.train.vectors.pictures import Pictures, PicturesLearner
from purvey.worker.job_link import JobInterrupted
from purvey.worker.training.encoders.pairs import ByPair
from tests.numerics.clips import pictured, write_clip
from tests.numerics.encoders import wordpiece
from tests.numerics.mixtures import Link, Runs
from tests.unit.worker.image_jobs import image_dataset, job, zipped

TEXTS = ("a red circle", "x", "the quick brown fox jumps")
COLUMNS: dict[str, ColumnKind] = {"photo": "image", "caption": "text"}
SPLITS = {"validation": 0.1, "test": 0.2}
SMALL = {"hidden_size": 48, "num_layers": 1, "num_heads": 2, "patch": 8}
TOLERANCE = 1e-5


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _noise(width: int, height: int) -> Image.Image:
    chance = np.random.default_rng(width)
    return Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _seen(model: ClipModel, image: Image.Image) -> Seen:
    return Seen(x_CHW=ImageReader(DecoderHere()).tensor(_png(image), model.spec), cost=9)


def _embed(*inputs: Any) -> Embed:
    params = tuple(f"input.{n}" for n in range(len(inputs)))
    return Embed(request_id="r", inputs=inputs, params=params)


def test_vectors_are_those_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    theirs = write_clip(folder)
    checked = check_folder(folder, model_roots=[tmp_path])
    assert (checked.manifest.family, checked.manifest.task) == ("clip", "embedding")
    model = open_clip(folder)
    assert model.spec == ImageSpec(
        height=12,
        width=12,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        is_cropped=True,
        is_bicubic=True,
    )
    vectors, door = PicturedVectors(model), PicturedDoor(model)
    pictures = [_noise(12, 12), _noise(40, 27), _noise(13, 50)]
    prepare = CLIPImageProcessorPil.from_pretrained(folder)
    texts = door.inputs(_embed(*TEXTS))
    found = vectors.vectors([*texts, *(_seen(model, one) for one in pictures)])
    for text, vector_D in zip(TEXTS, found, strict=False):
        ids = torch.tensor([wordpiece().encode(text).ids])
        pixels = prepare(pictures[0], return_tensors="pt").pixel_values
        with torch.no_grad():
            wanted = theirs(input_ids=ids, pixel_values=pixels)
        torch.testing.assert_close(vector_D, wanted.text_embeds[0], atol=TOLERANCE, rtol=0)
    for image, vector_D in zip(pictures, found[len(TEXTS) :], strict=True):
        pixels = prepare(image, return_tensors="pt").pixel_values
        with torch.no_grad():
            wanted = theirs(input_ids=ids, pixel_values=pixels)
        torch.testing.assert_close(vector_D, wanted.image_embeds[0], atol=TOLERANCE, rtol=0)
    assert vectors.scale == pytest.approx(theirs.logit_scale.exp().item())
    assert torch.equal(vectors.vectors([texts[1]])[0], found[1])
    with torch.no_grad():  # padded as in training
        batch_BD = model.module.texts([one for one in texts if not isinstance(one, Seen)])
    torch.testing.assert_close(batch_BD, torch.stack(found[:3]), atol=TOLERANCE, rtol=0)
    with pytest.raises(UnsupportedValueError, match="token ids"):
        door.inputs(_embed("a", (3, 4)))


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("preprocessor_config.json", {"crop_size": 8}, "describes no image"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 16}}, "describes no image"),
        ("config.json", {"vision_config": {"image_size": 2**20}}, "describes no image"),
        ("config.json", {"projection_dim": 21}, "missing or misshapen"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, file: str, changes: dict[str, object], told: str
) -> None:
    write_clip(tmp_path)
    values = json.loads((tmp_path / file).read_text()) | changes
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(InvalidCheckpointError, match=told):
        open_clip(tmp_path)


def test_a_text_must_end_in_the_token_that_is_looked_at(tmp_path: Path) -> None:
    for number, end in enumerate((2, 9)):  # the first is taken for the highest id of a text
        write_clip(tmp_path / str(number), eos_token_id=end)
        with pytest.raises(InvalidCheckpointError, match=f"eos_token_id {end}"):
            open_clip(tmp_path / str(number))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def _recipe(**sections: Any) -> dict[str, Any]:
    return {
        "task": "embedding",
        "model": {"architecture": "clip", "hyperparameters": SMALL},
        "tokenizer": {"vocabulary_size": 300},
        "optimizer": {"learning_rate": 3e-3},
        "test": {"bootstrap_samples": 100},
        "seed": 2,
        **sections,
    }


def test_pictures_and_what_is_said_of_them_find_each_other(runs: Runs) -> None:
    dataset = runs.dataset(pictured(400), COLUMNS, splits=SPLITS)
    loop = {"epochs": 10, "batch_size": 32, "sequence_tokens": 32}
    folder, manifest = runs.run(_recipe(train=loop), dataset)
    report = manifest.report
    num_rows = dataset.manifest.rows["test"]
    # Each of 16 things is said in two ways, and nothing of an image tells which: by chance one in
    # 32 is found, at best one in 2.
    for found in ("recall_at_1", "image_to_text_recall_at_1"):
        assert report[found]["num_rows"] == num_rows >= 60
        assert report[found]["low"] > 0.2, report
        assert (
            report[found]["low"] > report[f"{found.replace('recall', 'untrained_recall')}"]["high"]
        )
    assert report["num_candidates"] == num_rows > report["image_to_text_num_candidates"] > 20
    # The folder is one of the library's, and means the same there.
    theirs = CLIPModel.from_pretrained(folder).eval()
    model = open_clip(folder)
    image, text = _noise(32, 32), "a red circle"
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = theirs(input_ids=ids, pixel_values=pixels)
    vectors = PicturedVectors(model)
    inputs = [*PicturedDoor(model).inputs(_embed(text)), _seen(model, image)]
    for vector_D, theirs_D in zip(
        vectors.vectors(inputs), (wanted.text_embeds[0], wanted.image_embeds[0]), strict=True
    ):
        torch.testing.assert_close(vector_D, theirs_D, atol=TOLERANCE, rtol=0)
    assert vectors.scale != pytest.approx(1 / 0.07)  # it was learned
    # Tuned further, it begins where that run ended.
    further = {"model": {"base": "shapes"}, "train": {"max_steps": 1}}
    further |= {"optimizer": {"learning_rate": 1e-7}}
    given = {k: v for k, v in _recipe().items() if k not in ("model", "tokenizer")} | further
    _, tuned = runs.run(given, dataset, base=folder)
    assert tuned.report["untrained_recall_at_1"] == report["recall_at_1"]
    assert tuned.lineage["initialised"]["num_fresh"] == 0


def test_a_run_that_was_interrupted_ends_with_the_same_bits(runs: Runs, tmp_path: Path) -> None:
    write_clip(tmp_path / "base")
    dataset = runs.dataset(pictured(48), COLUMNS, splits=SPLITS)
    given = {
        "task": "embedding",
        "model": {"base": "clip"},
        "augment": {"image": {"noise": 0.1}},
        "train": {"epochs": 3, "batch_size": 16},
        "test": {"bootstrap_samples": 100},
    }
    base = tmp_path / "base"
    whole, _ = runs.run(given, dataset, base=base)
    work, told = runs.folder(), Link(stop_after=4)
    with pytest.raises(JobInterrupted):
        runs.run(given, dataset, base=base, link=told, work=work)
    resumed, _ = runs.run(
        given, dataset, base=base, work=work, resume_from=told.checkpoints[-1].folder
    )
    other, _ = runs.run(given | {"seed": 4}, dataset, base=base)
    digests = [
        hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        for folder in (whole, resumed, other)
    ]
    assert digests[0] == digests[1] != digests[2]
    for changes, at in (
        ({"embedding": {"temperature": 0.1}}, "recipe.embedding.temperature"),
        ({"embedding": {"pooling": "mean"}}, "recipe.embedding.pooling"),
        ({"embedding": {"found": "foto"}}, "recipe.embedding.found"),
        ({"tokenizer": {"vocabulary_size": 300}}, "recipe.tokenizer"),
        ({"preprocess": {"image": {"height": 8}}}, "recipe.preprocess.image"),
        ({"model": {"architecture": "clip", "hyperparameters": {"patch": 5}}}, "patch"),
    ):
        with pytest.raises(InvalidValueError) as raised:
            runs.run(given | changes, dataset, base=None if "model" in changes else base)
        assert (raised.value.param or "").endswith(at)


class Drawn:
    """Images of numbers by chance."""

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.stack(
            [torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(n)) for n in rows]
        )


def _gradient(folder: Path, rows: Sequence[int], at_once: int | None) -> tuple[float, torch.Tensor]:
    """Take a step over these rows, two of which say the same; return its loss and its gradient."""
    model = open_clip(folder)
    texts = [model.tokenizer.framer().text(chr(97 + n) * (n + 1)) for n in range(len(rows))]
    said = [0, *range(len(rows) - 1)]
    keys = [str(number) for number in said]
    pictures = Pictures(
        images=Drawn(),
        num_images=len(rows),
        texts=texts,
        image_of=list(range(len(rows))),
        text_of=said,
        by_text=ByPair(keys, list(range(len(rows)))),
        by_image=ByPair([str(n) for n in range(len(rows))], said),
    )
    learner = PicturesLearner(
        model.module.train(),
        rows=pictures,
        validation=pictures,
        measure=lambda images, texts: {},
        score=lambda metrics: 0.0,
        batch_size=len(rows),
        seed=0,
    )
    parameters = list(model.module.parameters())
    taken = update(
        batches(Alone(learner), rows, LoopConfig(micro_batch_size=at_once)),
        parameters,
        build_optimizer(model.module, OptimizerConfig()),
        clip_norm=None,
        step=0,
    )
    assert model.module.log_scale.grad is not None
    found = [p.grad.flatten() for p in parameters if p.grad is not None]
    return float(taken.loss), torch.cat(found)


def test_a_step_in_parts_has_the_gradient_of_the_whole(tmp_path: Path) -> None:
    write_clip(tmp_path)
    rows = [2, 0, 4, 1, 3, 5, 6]
    (loss, whole), (summed, parts) = (_gradient(tmp_path, rows, size) for size in (None, 3))
    # Float32 sums of some hundred terms in another order, through a softmax over 14 times cosines.
    assert summed == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(parts, whole, atol=2e-5 * float(whole.abs().max()), rtol=0)


def test_its_eyes_become_a_classifier(tmp_path: Path) -> None:
    write_clip(tmp_path / "base")
    names = ("red", "green", "blue")
    pictures = [(names[n % 3], _noise(12 + n, 12)) for n in range(30)]
    dataset = image_dataset(tmp_path, zipped(pictures))
    values = {
        "task": "image-classification",
        "model": {"base": "clip"},
        "train": {"max_steps": 3, "batch_size": 8},
        "test": {"bootstrap_samples": 100},
    }
    job(tmp_path, values, dataset, base=tmp_path / "base")
    made = tmp_path / "model"
    manifest = read_manifest(made)
    started = manifest.lineage["initialised"]
    assert started["fresh"] == ["network.classifier.weight", "network.classifier.bias"]
    assert any("text_model" in name for name in started["unused"])
    assert check_folder(made, model_roots=[tmp_path]).manifest.labels == manifest.labels
    theirs = CLIPForImageClassification.from_pretrained(made).eval()
    image = _noise(30, 20)
    pixels = CLIPImageProcessorPil.from_pretrained(made)(image, return_tensors="pt").pixel_values
    spec = manifest.inputs["input"]
    assert isinstance(spec, ImageSpec)
    x_BCHW = ImageReader(DecoderHere()).tensor(_png(image), spec)[None]
    with torch.no_grad():
        found, wanted = load_classifier(made).logits((x_BCHW,)), theirs(pixel_values=pixels).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
