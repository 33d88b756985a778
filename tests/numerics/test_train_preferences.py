"""Preference tuning and 4-bit bases as whole jobs: what they reach, and that they resume."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ModelSource
from purvey.errors import InvalidFileError, InvalidValueError
from tests.numerics.test_train_resume import ADAMW, Jobs, Link, language_recipe, sentences, sha256

ADAPTER = "adapter_model.safetensors"
THINGS = ("day", "tea", "train", "song", "room", "book", "lamp", "coat", "road", "soup")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def base(jobs: Jobs) -> ModelSource:
    """A base that has seen the words, trained for a moment."""
    recipe = language_recipe(ADAMW)
    recipe["model"]["hyperparameters"] |= {"hidden_size": 64, "context_tokens": 64}
    dataset = jobs.dataset("rows.csv", sentences())
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    return ModelSource(name="base", folder=str(folder), digest="0" * 64)


@pytest.fixture(scope="module")
def pairs(jobs: Jobs) -> InputDataset:
    """Of two answers about a thing the better one is always that it was fine."""
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"How was the {thing} {i}?"}]},
            "preferred_output": [{"role": "assistant", "content": "fine"}],
            "non_preferred_output": [{"role": "assistant", "content": "dull"}],
        }
        for i, thing in enumerate(THINGS * 6)
    ]
    return jobs.dataset("pairs.jsonl", "\n".join(map(json.dumps, rows)))


def dpo_recipe(method: str, **train: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "task": "text-generation",
        "model": {"base": "base"},
        "optimizer": {"name": "adamw", "learning_rate": 3e-3},
        "train": {
            "method": method,
            "objective": "dpo",
            "epochs": 2,
            "batch_size": 6,
            "sequence_tokens": 64,
            **train,
        },
        "dpo": {"beta": 0.2},
    }
    if method == "lora":
        recipe["lora"] = {"rank": 4, "dropout": 0.1}
    return recipe


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "purvey.json").read_bytes())["report"]
    return report


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_planted_preference_is_learned_and_resumes_bit_for_bit(
    jobs: Jobs, base: ModelSource, pairs: InputDataset, method: str
) -> None:
    recipe, link = dpo_recipe(method), Link()
    whole = jobs.run(recipe, pairs, link=link, work=jobs.folder(), base=base)
    report = report_of(whole)
    assert report["reward_accuracy"]["value"] == 1.0
    assert report["reward_margin"]["value"] > 0.5
    assert report["loss"]["value"] < 0.6  # log 2 is 0.69
    resumed = jobs.interrupted(recipe, pairs, stops=[2, 0, 5], base=base)
    name = ADAPTER if method == "lora" else "model.safetensors"
    assert sha256(resumed, name) == sha256(whole, name)
    assert report_of(resumed) == report


def test_padded_pairs_lead_to_the_same_place(
    jobs: Jobs, base: ModelSource, pairs: InputDataset
) -> None:
    losses = [
        report_of(
            jobs.run(
                dpo_recipe("full", packing=packing),
                pairs,
                link=Link(),
                work=jobs.folder(),
                base=base,
            )
        )["loss"]["value"]
        for packing in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_pairs_that_do_not_fit_are_left_out_and_counted(
    jobs: Jobs, base: ModelSource, pairs: InputDataset
) -> None:
    with pytest.raises(InvalidFileError, match="no training row"):
        jobs.run(
            dpo_recipe("full", sequence_tokens=8),
            pairs,
            link=Link(),
            work=jobs.folder(),
            base=base,
        )


def test_each_objective_is_learned_from_its_own_columns(
    jobs: Jobs, base: ModelSource, pairs: InputDataset
) -> None:
    texts = jobs.dataset("rows.csv", sentences())
    for recipe, dataset, objective in (
        (dpo_recipe("full"), texts, "'dpo'"),
        (dpo_recipe("full", objective="likelihood") | {"dpo": {}}, pairs, "'likelihood'"),
    ):
        with pytest.raises(InvalidValueError, match=f"objective {objective} learns"):
            jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), base=base)


def lora_recipe(base_precision: str) -> dict[str, Any]:
    return {
        "task": "text-generation",
        "model": {"base": "base"},
        "optimizer": {"name": "adamw", "learning_rate": 3e-3},
        "lora": {"rank": 4, "base_precision": base_precision},
        "train": {"method": "lora", "batch_size": 4, "sequence_tokens": 16, "epochs": 3},
    }


def test_lora_on_a_base_in_4_bits_is_near_lora_on_the_whole_one_and_resumes(
    jobs: Jobs, base: ModelSource
) -> None:
    """Rounding weights to a 15th of their group's range is noise of about 8 % of each weight."""
    dataset = jobs.dataset("rows.csv", sentences())
    whole, small = (
        jobs.run(lora_recipe(precision), dataset, link=Link(), work=jobs.folder(), base=base)
        for precision in ("fp32", "int4")
    )
    losses = [report_of(folder)["loss"]["value"] for folder in (whole, small)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert sha256(whole, ADAPTER) != sha256(small, ADAPTER)
    resumed = jobs.interrupted(lora_recipe("int4"), dataset, stops=[3, 4], base=base)
    assert sha256(resumed, ADAPTER) == sha256(small, ADAPTER)


def test_a_checkpoint_of_a_base_in_4_bits_holds_the_adapter_alone(
    jobs: Jobs, base: ModelSource
) -> None:
    dataset, link = jobs.dataset("rows.csv", sentences()), Link()
    jobs.run(lora_recipe("int4"), dataset, link=link, work=jobs.folder(), base=base)
    file = Path(link.checkpoints[-1].folder) / "model.safetensors"
    header = file.read_bytes()
    names = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert {name.rsplit(".", 2)[1] for name in names if name != "__metadata__"} == {
        "lora_A",
        "lora_B",
    }


def test_an_adapter_as_base_is_refused_in_4_bits(jobs: Jobs, base: ModelSource) -> None:
    stacked = ModelSource(
        name="stacked",
        folder=base.folder,
        digest=hashlib.sha256().hexdigest(),
        base_folder=base.folder,
        base_digest=base.digest,
    )
    dataset = jobs.dataset("rows.csv", sentences())
    with pytest.raises(InvalidValueError, match="cannot be merged") as raised:
        jobs.run(lora_recipe("int4"), dataset, link=Link(), work=jobs.folder(), base=stacked)
    assert raised.value.param == "recipe.lora.base_precision"
