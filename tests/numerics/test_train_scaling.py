"""muP: what a step changes does not depend on the width, and so the best rate does not either.

Shape letters, this file only:
    B = sequences   L = positions   D = residual width   V = vocabulary
"""

import json
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from purvey.contracts.engine import TextInput
from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ImageSpec, ModelSource
from purvey.contracts.recipe_parts.descent import OptimizerConfig
from purvey.data.loader import load_split
from purvey.models.classifier import load_classifier
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.networks.building import build_network
from purvey.models.scaling.mup import (
    AS_IN_BASE,
    Reaches,
    decoder_reaches,
    network_reaches,
    rescale,
)
from purvey.train.optim import build_optimizer
from tests.numerics.test_train_resume import (
    ADAMW,
    MUON,
    SGD,
    Jobs,
    Link,
    classifier_recipe,
    language_recipe,
    sentences,
    sha256,
)

FACTORS = (1, 2, 8)
RULES = {
    "adamw": OptimizerConfig(name="adamw", learning_rate=1e-3),
    "sgd": OptimizerConfig(name="sgd", learning_rate=0.1),
    "muon": OptimizerConfig(name="muon", learning_rate=1e-3),
}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("jobs"))


def sized_decoder(factor: int, *, is_mup: bool, is_tied: bool) -> tuple[nn.Module, Reaches]:
    torch.manual_seed(0)
    decoder = Decoder(
        DecoderConfig(
            vocabulary_size=16,
            hidden_size=32 * factor,
            mlp_size=64 * factor,
            num_layers=2,
            num_heads=2 * factor,
            num_kv_heads=factor,
            head_size=16,
            context_tokens=64,
            is_tied=is_tied,
        )
    )
    reaches = decoder_reaches(decoder, factor) if is_mup else AS_IN_BASE
    rescale(decoder, reaches, falls_with_inputs=False)
    return decoder, reaches


def sized_network(architecture: str, factor: int) -> tuple[nn.Module, Reaches]:
    def build(width: int) -> nn.Module:
        return build_network(
            architecture,
            task="image-classification",
            inputs={"input": ImageSpec(height=8, width=8, channels=1)},
            num_outputs=10,
            hyperparameters={"width": width, "depth": 2},
        )

    base = build(16)
    torch.manual_seed(0)
    network = build(16 * factor)
    reaches = network_reaches(network, base)
    rescale(network, reaches, falls_with_inputs=True)
    return network, reaches


def change(
    network: nn.Module, reaches: Reaches, rule: OptimizerConfig, inputs: Tensor, targets: Tensor
) -> float:
    """Return the root mean square by which the first step changes the logits."""
    optimizer = build_optimizer(network, rule, reaches)
    optimizer.set_rate(rule.learning_rate)
    with torch.no_grad():
        before = network(inputs)
    loss = cross_entropy(network(inputs).flatten(0, -2), targets.flatten())
    torch.autograd.backward(loss)
    optimizer.step()
    with torch.no_grad():
        return float((network(inputs) - before).square().mean().sqrt())


def rows() -> tuple[Tensor, Tensor]:
    """Give text of 16 letters, few beside the width: their embeddings hardly overlap."""
    text = "".join(topics[name] for name in sorted(topics)[:4]).encode("ascii", "ignore")
    tokens = torch.tensor(list(text[: 4 * 33])).reshape(4, 33) % 16
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", RULES)
def test_a_step_changes_logits_alike_at_every_width(name: str, is_tied: bool) -> None:
    """The coordinate check of Yang et al. 2022, appendix D.1; its control is the standard."""
    changes: dict[bool, list[float]] = {}
    for is_mup in (True, False):
        made = [sized_decoder(factor, is_mup=is_mup, is_tied=is_tied) for factor in FACTORS]
        changes[is_mup] = [
            change(decoder, reaches, RULES[name], *rows()) for decoder, reaches in made
        ]
    assert spread(changes[True]) < 1.6, changes
    assert spread(changes[False]) > 4, changes


@pytest.mark.parametrize("architecture", ["convnet", "resnet", "vit"])
def test_a_step_changes_an_image_s_logits_alike_at_every_width(architecture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 1, 8, 8, generator=generator)
    targets = torch.randint(10, (16,), generator=generator)
    rule = OptimizerConfig(name="adamw", learning_rate=1e-4)
    made = [sized_network(architecture, factor) for factor in FACTORS]
    changes = [change(network, reaches, rule, images, targets) for network, reaches in made]
    assert spread(changes) < 1.6, changes
    plain = [change(network, AS_IN_BASE, rule, images, targets) for network, _ in made]
    assert spread(plain) > 4, plain


def spread(values: list[float]) -> float:
    return max(values) / min(values)


def scaled_recipe(optimizer: dict[str, Any], **more: Any) -> dict[str, Any]:
    recipe = language_recipe(optimizer)
    return recipe | {"model": recipe["model"] | more}


def lineage(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "purvey.json").read_bytes())
    found: dict[str, Any] = manifest["lineage"]
    return found


@pytest.mark.parametrize("optimizer", [SGD, MUON], ids=["sgd", "muon"])
def test_the_base_itself_is_trained_as_ever(jobs: Jobs, optimizer: dict[str, Any]) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    plain = jobs.run(language_recipe(optimizer), dataset, link=Link(), work=jobs.folder())
    recipe = scaled_recipe(optimizer, scaling="mup")
    scaled = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    assert sha256(scaled) == sha256(plain)
    assert lineage(scaled)["mup_width_factor"] == 1


@pytest.mark.row("CRA-23")
def test_a_wide_run_and_one_on_what_it_grew_into_resume_bit_for_bit(jobs: Jobs) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    recipe = scaled_recipe(MUON, scaling="mup", width_factor=2, depth_factor=2)
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    assert sha256(jobs.interrupted(recipe, dataset, stops=[1, 4])) == sha256(folder)
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["hidden_size"], config["num_attention_heads"]) == (32, 4)
    assert (config["head_dim"], config["num_hidden_layers"]) == (8, 4)
    standard = scaled_recipe(MUON, width_factor=2, depth_factor=2)
    assert sha256(jobs.run(standard, dataset, link=Link(), work=jobs.folder())) != sha256(folder)

    base = ModelSource(name="small", folder=str(folder), digest="0" * 64)
    onward = grown_recipe(scaling="mup", width_factor=2, depth_factor=2)
    link = Link()
    grown = jobs.run(onward, dataset, link=link, work=jobs.folder(), base=base)
    assert lineage(grown)["mup_width_factor"] == 4
    assert lineage(grown)["grown"]["new_layers"] == [1, 3, 5, 7]
    assert any(event.startswith("Grew 'small' from ") for event in link.events)
    resumed = jobs.interrupted(onward, dataset, stops=[1, 2], base=base)
    assert sha256(resumed) == sha256(grown)


@pytest.mark.row("CRA-23")
def test_a_grown_classifier_goes_on_from_what_the_small_one_knows(jobs: Jobs) -> None:
    dataset = jobs.dataset("rows.csv", sentences())
    recipe = classifier_recipe(ADAMW)
    recipe["model"]["hyperparameters"] |= {"dropout": 0.0}
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    base = ModelSource(name="small", folder=str(folder), digest="0" * 64)
    grown = recipe | {
        "model": {"base": "small", "width_factor": 3},
        "train": {"max_steps": 1, "batch_size": 9},
    }
    still = grown | {"optimizer": {"name": "sgd", "learning_rate": 1e-9}}
    copied = jobs.run(still, dataset, link=Link(), work=jobs.folder(), base=base)
    assert logits(copied, dataset) == pytest.approx(logits(folder, dataset), rel=1e-4, abs=1e-4)
    assert (
        lineage(copied)["grown"]["parameters"] > 2 * lineage(copied)["grown"]["parameters_before"]
    )
    onward = grown | {"train": recipe["train"]}
    link = Link()
    trained = jobs.run(onward, dataset, link=link, work=jobs.folder(), base=base)
    assert final_loss(trained) < final_loss(folder)
    assert any(event.startswith("Grew 'small' from ") for event in link.events)
    assert sha256(jobs.interrupted(onward, dataset, stops=[1, 4], base=base)) == sha256(trained)


def grown_recipe(**model: Any) -> dict[str, Any]:
    return {
        "task": "text-generation",
        "model": {"base": "small", **model},
        "optimizer": ADAMW,
        "train": {"epochs": 1, "batch_size": 4, "sequence_tokens": 16},
    }


def prose(jobs: Jobs) -> InputDataset:
    """Python's own documentation: half a million characters, in paragraphs."""
    paragraphs = [part for name in sorted(topics) for part in topics[name].split("\n\n")]
    kept = [part for part in dict.fromkeys(paragraphs) if len(part) > 100]
    return jobs.dataset("rows.jsonl", "\n".join(json.dumps({"text": part}) for part in kept))


def prose_recipe(rate: float, *, steps: int, **model: Any) -> dict[str, Any]:
    return {
        "task": "text-generation",
        "model": {
            "architecture": "decoder",
            "hyperparameters": {"hidden_size": 32, "num_layers": 2, "num_heads": 2},
            **model,
        },
        "tokenizer": {"vocabulary_size": 512},
        "optimizer": {"name": "adamw", "learning_rate": rate},
        "train": {"epochs": 10, "max_steps": steps, "batch_size": 16, "sequence_tokens": 64},
        "test": {"bootstrap_samples": 100},
    }


def final_loss(folder: Path) -> float:
    manifest = json.loads((folder / "purvey.json").read_bytes())
    return float(manifest["report"]["loss"]["value"])


def logits(folder: Path, dataset: InputDataset) -> list[float]:
    model = load_classifier(folder)
    texts = load_split(Path(dataset.folder), "test").texts("text")
    batch = model.collate([model.prepare({"input": TextInput(text=text)}) for text in texts])
    with torch.no_grad():
        return model.logits(batch).flatten().tolist()


def chains(jobs: Jobs) -> InputDataset:
    """Give rows of words, each of which is followed by one of four: learned in a hundred steps."""
    words = [a + b for a in "bdfghjklmnprstvz" for b in "aeio"]
    draw = random.Random(0)  # noqa: S311 (text, no secret)
    after = {word: draw.sample(words, 4) for word in words}
    rows = []
    for _ in range(4_000):
        said = [draw.choice(words)]
        while len(said) < 40:
            said += draw.choices(after[said[-1]], (0.5, 0.25, 0.15, 0.1))
        rows.append(json.dumps({"text": " ".join(said)}))
    return jobs.dataset("rows.jsonl", "\n".join(rows))


@pytest.mark.train
def test_the_best_rate_is_best_or_next_to_it_at_four_times_the_width(jobs: Jobs) -> None:
    dataset = chains(jobs)

    def loss(rate: float, **model: Any) -> float:
        recipe = prose_recipe(rate, steps=100, **model)
        recipe["tokenizer"] = {"vocabulary_size": 384}
        recipe["train"] |= {"batch_size": 8, "sequence_tokens": 32}
        return final_loss(jobs.run(recipe, dataset, link=Link(), work=jobs.folder()))

    rates = [2.0**power for power in range(-8, -1)]
    found = [[loss(r, scaling="mup", width_factor=factor) for r in rates] for factor in (1, 4)]
    small, large = (losses.index(min(losses)) for losses in found)
    assert 0 < small < len(rates) - 1, found  # the best rate is inside the grid
    assert abs(small - large) <= 1, found
    standard = loss(rates[small], width_factor=4)
    assert standard > 1.05 * found[1][small], (standard, found)


@pytest.fixture(scope="module")
def ended(jobs: Jobs) -> tuple[InputDataset, ModelSource, float]:
    """A small model that was trained to its end, what on, and its loss."""
    dataset = prose(jobs)
    recipe = prose_recipe(2.0**-6, steps=500)
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    return (
        dataset,
        ModelSource(name="small", folder=str(folder), digest="0" * 64),
        final_loss(folder),
    )


@pytest.mark.train
@pytest.mark.parametrize(
    "factors",
    [{"width_factor": 2}, {"depth_factor": 2}, {"width_factor": 2, "depth_factor": 2}],
    ids=["wider", "deeper", "both"],
)
def test_a_grown_model_begins_where_the_small_one_ended_and_gets_better(
    jobs: Jobs,
    ended: tuple[InputDataset, ModelSource, float],
    factors: dict[str, int],
) -> None:
    dataset, base, before = ended

    def onward(rate: float, steps: int, **model: int) -> float:
        recipe = prose_recipe(rate, steps=steps) | {"model": {"base": "small", **model}}
        return final_loss(jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), base=base))

    at_once = onward(1e-9, 1, **factors)
    alone, better = onward(4e-3, 250), onward(4e-3, 250, **factors)
    assert at_once == pytest.approx(before, rel=1e-4)
    assert better < min(before, alone), (before, alone, better)
