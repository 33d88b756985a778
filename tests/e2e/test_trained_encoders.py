"""Texts that are embedded, and classified by a head on that, with real processes.

The official client asks for the vectors and the decision.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from purvey.client.jobs import succeeded
from purvey.client.purvey import Purvey
from tests.numerics.texts import TOPICS, Row, paraphrases, topics

SMALL = {"hidden_size": 64, "num_layers": 1, "dropout": 0.0}
LOOP = {"batch_size": 64, "sequence_tokens": 48, "early_stopping": None}


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[Purvey]:
    with Purvey(live_server.base_url, live_server.admin_key) as ours:
        yield ours


@pytest.fixture(scope="module")
def official(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


def dataset(client: Purvey, folder: Path, rows: list[Row], columns: dict[str, str]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    made = client.datasets.create([client.files.upload(path).id], name="rows", columns=columns)
    return client.datasets.wait(made.id).id


@pytest.mark.train
def test_what_was_trained_here_embeds_and_is_the_base_of_a_classifier(
    client: Purvey, official: OpenAI, tmp_path: Path
) -> None:
    rows = paraphrases()
    pairs = dataset(client, tmp_path, rows, {"question": "text", "answer": "text"})
    recipe = {
        "task": "embedding",
        "name": "paraphrases",
        "dataset": pairs,
        "model": {"architecture": "encoder", "hyperparameters": SMALL},
        "tokenizer": {"vocabulary_size": 400},
        "optimizer": {"learning_rate": 3e-3},
        "embedding": {"dimensions": [16]},
        "train": {**LOOP, "epochs": 5, "micro_batch_size": 24},
    }
    job = succeeded(client.training_jobs.wait(client.training_jobs.create(recipe).id))
    assert {"recall_at_1", "recall_at_5", "recall_at_10", "mrr"} <= set(job.report or {})
    vectors = {
        name: np.array([
            one.embedding
            for one in official.embeddings.create(
                model="paraphrases", input=[row[name] for row in rows[:60]]
            ).data
        ])
        for name in ("question", "answer")
    }  # fmt: skip
    assert np.linalg.norm(vectors["question"], axis=1) == pytest.approx(1, abs=1e-5)
    nearest = (vectors["question"] @ vectors["answer"].T).argmax(axis=1)
    assert (nearest == np.arange(60)).mean() >= 0.9
    text = rows[0]["answer"]
    cut = official.embeddings.create(model="paraphrases", input=text, dimensions=16).data[0]
    whole = vectors["answer"][0][:16]
    assert cut.embedding == pytest.approx(whole / np.linalg.norm(whole), abs=1e-5)
    with pytest.raises(BadRequestError, match="may be cut to 16") as refused:
        official.embeddings.create(model="paraphrases", input=text, dimensions=15)
    assert refused.value.param == "dimensions"

    labelled = dataset(
        client, tmp_path, topics(240, language=1), {"text": "text", "topic": "label"}
    )
    head = {
        "task": "text-classification",
        "name": "topics",
        "dataset": labelled,
        "model": {"base": "paraphrases"},
        "optimizer": {"learning_rate": 3e-3},
        "train": {**LOOP, "batch_size": 16, "epochs": 5},
    }
    job = succeeded(client.training_jobs.wait(client.training_jobs.create(head).id))
    assert (job.report or {})["accuracy"]["value"] >= 0.9
    told = [event.data for event in client.training_jobs.events(job.id)]
    started = next(data for data in told if data and "num_fresh" in data)
    assert started["fresh"] == ["head.dense.weight", "head.dense.bias", *started["fresh"][2:]]
    assert started["num_fresh"] == 4
    text = "今天又是下雪和刮风"
    (result,) = client.answers.classify("topics", [text]).results
    assert result.label == "weather"
    decision = official.decisions.create(
        model="topics",
        input=text,
        questions=[
            {
                "type": "choice",
                "instructions": "What is it about?",
                "choices": [{"value": topic} for topic in TOPICS],
            }
        ],
    )
    [answer] = decision.answers
    assert answer.type == "choice"
    assert answer.choice == "weather"
    found = client.explanations.wait(client.explanations.create("topics", {"text": text}))
    assert found.status == "completed"
    assert all(unit.text and unit.text in text for unit in found.units)
    assert len({unit.score for unit in found.units}) > 1  # some characters count more than others
