"""Vectors learned from pairs and labels, heads learned on an encoder; runs resume bit for bit."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from purvey.contracts.data import ColumnKind
from purvey.errors import InvalidValueError
from purvey.models.encoder.loading import load_embedding_model
from purvey.worker.job_link import JobInterrupted
from tests.numerics.encoders import write_encoder
from tests.numerics.mixtures import Link, Runs
from tests.numerics.texts import meaning, paraphrases, topics

PAIRED: dict[str, ColumnKind] = {"question": "text", "answer": "text"}
LABELLED: dict[str, ColumnKind] = {"text": "text", "topic": "label"}
THIRDS = {"validation": 0.1, "test": 0.2}


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def recipe(task: str, **sections: Any) -> dict[str, Any]:
    small = {"hidden_size": 64, "num_layers": 1, "dropout": 0.0}
    return {
        "task": task,
        "model": {"architecture": "encoder", "hyperparameters": small},
        "tokenizer": {"vocabulary_size": 400},
        "optimizer": {"learning_rate": 3e-3},
        "test": {"bootstrap_samples": 100},
        "seed": 3,
        **sections,
    }


def loop(**values: Any) -> dict[str, Any]:
    return {"batch_size": 64, "sequence_tokens": 48, "early_stopping": None, **values}


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_paraphrases_find_each_other(runs: Runs) -> None:
    rows = paraphrases()
    dataset = runs.dataset(rows, PAIRED, splits=THIRDS)
    wanted = recipe("embedding", train=loop(epochs=6), embedding={"dimensions": [8, 24]})
    folder, manifest = runs.run(wanted, dataset)
    report = manifest.report
    num_rows = dataset.manifest.rows["test"]
    assert report["recall_at_1"]["num_rows"] == report["num_candidates"] == num_rows >= 40
    # Whoever knows two of an answer's three words chooses among all answers that have these two.
    test = answers_of_test(dataset.folder)
    best = max(
        sum(1 / Counter(map(known, test))[known(row)] for row in test) / len(test)
        for known in (
            lambda words: words[:2],
            lambda words: words[1:],
            lambda words: (words[0], words[2]),
        )
    )
    assert 1 / num_rows < best < 0.9
    assert report["recall_at_1"]["low"] > best
    assert report["untrained_recall_at_1"]["high"] < best
    assert report["recall_at_1_in_8_dimensions"]["low"] > best
    assert report["mrr_in_24_dimensions"]["low"] > best
    assert load_embedding_model(folder).setup.sizes == (8, 24)
    assert report["recall_at_1"]["value"] <= report["recall_at_5"]["value"]
    assert report["mrr"]["low"] <= report["mrr"]["value"] <= report["mrr"]["high"]
    # Grown from what was made, it begins where that one ended.
    again = {k: v for k, v in recipe("embedding").items() if k not in ("model", "tokenizer")}
    again |= {"optimizer": {"learning_rate": 1e-6}, "train": loop(max_steps=1), "embedding": {}}
    grown = {"base": "base", "width_factor": 2}
    told = Link()
    _, further = runs.run(again | {"model": grown}, dataset, base=folder, link=told)
    assert further.report["untrained_recall_at_1"] == report["recall_at_1"]
    assert further.lineage["initialised"]["num_fresh"] == 0
    assert further.lineage["grown"]["largest_difference"] < 1e-5
    assert "recall_at_1_in_8_dimensions" not in further.report


def answers_of_test(folder: str) -> list[tuple[str, ...]]:
    from purvey.data.loader import load_split

    return [meaning(text) for text in load_split(Path(folder), "test").texts("answer")]


def test_texts_of_a_label_find_each_other(runs: Runs) -> None:
    rows = topics(300, language=1)
    dataset = runs.dataset(rows, LABELLED, splits=THIRDS)
    _, manifest = runs.run(recipe("embedding", train=loop(epochs=6)), dataset)
    assert manifest.report["recall_at_1"]["low"] >= 0.9
    assert (
        manifest.report["recall_at_1"]["value"] > manifest.report["untrained_recall_at_1"]["value"]
    )


def test_a_new_head_on_a_base_learns_topics(runs: Runs) -> None:
    both = [*topics(150, language=0), *topics(150, language=1)]
    taught = runs.dataset(both, LABELLED, splits=THIRDS)
    base, _ = runs.run(recipe("embedding", train=loop(epochs=4)), taught)
    for language in (0, 1):  # the second is Chinese
        dataset = runs.dataset(topics(150, language=language, seed=1), LABELLED, splits=THIRDS)
        values = {
            "task": "text-classification",
            "model": {"base": "topics"},
            "optimizer": {"learning_rate": 1e-2},
            "train": loop(epochs=6, batch_size=16, freeze=FROZEN),
            "test": {"bootstrap_samples": 100},
        }
        folder, manifest = runs.run(values, dataset, base=base)
        assert manifest.report["accuracy"]["value"] >= 0.95
        before, after = (load_file(at / "model.safetensors") for at in (base, folder))
        assert all(torch.equal(tensor, after[f"bert.{name}"]) for name, tensor in before.items())


def test_all_weights_of_a_base_learn_unless_told_otherwise(runs: Runs, tmp_path: Path) -> None:
    write_encoder(tmp_path / "theirs", "roberta")
    dataset = runs.dataset(topics(60, language=1), LABELLED, splits=THIRDS)
    values = {
        "task": "text-classification",
        "model": {"base": "theirs"},
        "train": loop(batch_size=16, max_steps=2),
        "test": {"bootstrap_samples": 100},
    }
    folder, manifest = runs.run(values, dataset, base=tmp_path / "theirs")
    started = manifest.lineage["initialised"]
    assert started["fresh"] == [f"head.{n}" for n in (*("dense.weight", "dense.bias"), *OUT)]
    assert "pooler.dense.weight" in started["unused"]
    before, after = (load_file(at / "model.safetensors") for at in (tmp_path / "theirs", folder))
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"):
        assert not torch.equal(before[name], after[f"roberta.{name}"])


OUT = ("out.weight", "out.bias")
FROZEN = ["words.*", "positions.*", "types.*", "norm.*", "layers.*"]


@pytest.mark.parametrize("task", ["embedding", "text-classification"])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(runs: Runs, task: str) -> None:
    rows, columns = topics(60, language=1), LABELLED  # which partner a text has is drawn
    dataset = runs.dataset(rows, columns, splits=THIRDS)
    small = {"hidden_size": 32, "num_layers": 1, "dropout": 0.3}
    given = recipe(task, train=loop(epochs=3, batch_size=16, micro_batch_size=6))
    given["model"]["hyperparameters"] = small
    whole, _ = runs.run(given, dataset)
    work, told = runs.folder(), Link(stop_after=4)
    with pytest.raises(JobInterrupted):
        runs.run(given, dataset, link=told, work=work)
    resumed, _ = runs.run(given, dataset, work=work, resume_from=told.checkpoints[-1].folder)
    other, _ = runs.run(given | {"seed": 4}, dataset)
    assert weights(whole) == weights(resumed) != weights(other)


def test_what_cannot_be_learned_is_refused_by_name(runs: Runs, tmp_path: Path) -> None:
    alone = [{"text": f"text {n}", "topic": f"label {n}"} for n in range(20)]
    dataset = runs.dataset(alone, LABELLED, splits=THIRDS)
    with pytest.raises(InvalidValueError, match="fewer than two"):
        runs.run(recipe("embedding"), dataset)
    write_encoder(tmp_path / "bert", "bert")
    pairs = runs.dataset(paraphrases()[:40], PAIRED, splits=THIRDS)
    base = {"model": {"base": "bert"}}
    for changes, at in (
        ({"tokenizer": {"vocabulary_size": 300}, **base}, "recipe.tokenizer"),
        ({"model": {"architecture": "fusion"}}, "recipe.model.architecture"),
        ({"augment": {"image": {"flip": True}}}, "recipe.augment.image"),
        ({"embedding": {"asked": "questoin"}}, "recipe.embedding.asked"),
        ({"embedding": {"dimensions": [16, 65]}}, "recipe.embedding.dimensions"),
    ):
        given = {**recipe("embedding"), **changes}
        with pytest.raises(InvalidValueError) as raised:
            runs.run(given, pairs, base=tmp_path / "bert" if "base" in given["model"] else None)
        assert raised.value.param == at
