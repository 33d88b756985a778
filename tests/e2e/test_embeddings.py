"""Vectors and scores through HTTP from real engine processes, as `transformers` computes them.

Folders that `transformers` wrote are registered by `POST /v1/models`; the official client asks.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import OpenAI

from tests.numerics.encoders import tokenizer_of, write_decoder, write_encoder

TEXTS = ["the quick brown fox", "jumps over", "a lazy dog"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def http(live_server: Any) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {live_server.admin_key}"}
    with httpx2.Client(base_url=live_server.base_url, headers=headers, timeout=200) as client:
        yield client


@pytest.fixture(scope="module")
def client(live_server: Any) -> Iterator[OpenAI]:
    with live_server.openai() as official:
        yield official


def _folder(live_server: Any, name: str) -> Path:
    return Path(live_server.settings.model_roots[0]) / name


def _register(http: httpx2.Client, folder: Path, task: str) -> str:
    answer = http.post("/v1/models", json={"id": folder.name, "source": str(folder)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["task"] == task
    return folder.name


def _close(found: list[float], wanted: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), wanted, atol=TOLERANCE, rtol=0)


def test_an_encoder_of_sentence_transformers(
    live_server: Any, http: httpx2.Client, client: OpenAI
) -> None:
    folder = _folder(live_server, "st-roberta")
    theirs = write_encoder(folder, "roberta", shards="20KB")
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    name = _register(http, folder, "embedding")

    answer = client.embeddings.create(model=name, input=TEXTS)
    for text, one in zip(TEXTS, answer.data, strict=True):
        with torch.no_grad():
            ids = torch.tensor([tokenizer_of("roberta").encode(text).ids])
            wanted_D = theirs(ids).last_hidden_state[0, 0]
        _close(one.embedding, torch.nn.functional.normalize(wanted_D, dim=0))
    assert answer.usage.prompt_tokens == sum(
        len(tokenizer_of("roberta").encode(text).ids) for text in TEXTS
    )
    alone = client.embeddings.create(model=name, input=TEXTS[1], encoding_format="float")
    assert alone.data[0].embedding == answer.data[1].embedding


def test_a_cross_encoder(live_server: Any, http: httpx2.Client) -> None:
    folder = _folder(live_server, "cross-bert")
    theirs = write_encoder(folder, "bert", is_ranker=True)
    name = _register(http, folder, "rerank")
    query = "what fox"
    wanted = []
    for text in TEXTS:
        encoded = tokenizer_of("bert").encode(query, text)
        with torch.no_grad():
            types = torch.tensor([encoded.type_ids])
            logits = theirs(input_ids=torch.tensor([encoded.ids]), token_type_ids=types).logits
        wanted.append(float(logits[0, 0].double().sigmoid()))
    body: dict[str, Any] = {"model": name, "text_1": query, "text_2": TEXTS}
    scores = [one["score"] for one in http.post("/v1/score", json=body).json()["data"]]
    assert scores == pytest.approx(wanted, abs=TOLERANCE)
    ranked = http.post("/v1/rerank", json={"model": name, "query": query, "documents": TEXTS})
    found = [(one["index"], one["relevance_score"]) for one in ranked.json()["results"]]
    assert found == sorted(enumerate(scores), key=lambda one: -one[1])


def test_a_decoder_is_registered_for_embedding(
    live_server: Any, http: httpx2.Client, client: OpenAI
) -> None:
    folder = _folder(live_server, "embedding-llama")
    theirs = write_decoder(folder)
    manifest = {
        "family": "decoder",
        "task": "embedding",
        "hyperparameters": {"matryoshka": True},
    }
    (folder / "purvey.json").write_text(json.dumps(manifest))
    name = _register(http, folder, "embedding")
    tokens = [30, 40, 50, 2]
    with torch.no_grad():
        wanted_D = theirs(torch.tensor([tokens])).last_hidden_state[0, -1]
    whole = client.embeddings.create(model=name, input=tokens).data[0].embedding
    _close(whole, torch.nn.functional.normalize(wanted_D, dim=0))
    cut = client.embeddings.create(model=name, input=tokens, dimensions=16).data[0].embedding
    _close(cut, torch.nn.functional.normalize(wanted_D[:16], dim=0))
    pair = {"model": name, "text_1": "fox", "text_2": "fox"}
    (score,) = http.post("/v1/score", json=pair).json()["data"]
    assert score["score"] == pytest.approx(1.0, abs=1e-6)
