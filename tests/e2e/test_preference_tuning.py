"""A planted preference through the official client: of two answers, the preferred one is given."""

import json
import time
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI

from purvey.client.purvey import Purvey
from purvey.contracts.engine import ChatMessage
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.tokenizer import Tokenizer
from purvey.train.language import LanguageLearner
from purvey.train.token_rows import token_row

BASE = "undecided"
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Leo")
HELD_OUT = ("Max", "Nia", "Oli", "Pia")
ENDED = {"succeeded", "failed", "cancelled"}


def question(name: str) -> list[Any]:
    return [{"role": "user", "content": f"Tea or coffee, {name}?"}]


def undecided_model() -> LanguageModel:
    """Train a small decoder, for a moment, to give either answer half of the time."""
    texts = [f"Tea or coffee, {name}? tea coffee" for name in (*NAMES, *HELD_OUT)]
    tokenizer = Tokenizer.train(texts, vocabulary_size=300)
    template = ChatTemplate.default(tokenizer)
    torch.manual_seed(0)
    shape = DecoderConfig.from_hyperparameters(
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "context_tokens": 64},
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    decoder = Decoder(shape).train()
    rows = []
    for name in (*NAMES, *HELD_OUT):
        for answer in ("tea", "coffee"):
            asked = ChatMessage(role="user", content=f"Tea or coffee, {name}?")
            said = ChatMessage(role="assistant", content=answer)
            whole = template.training_rows([asked, said], tokenizer)
            rows.append(token_row(whole.ids, whole.is_target, max_tokens=64))
    learner = LanguageLearner(decoder, rows, [], batch_size=len(rows), seed=0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(learner.loss(range(len(rows))).loss)
        optimizer.step()
    return LanguageModel(decoder=decoder.eval(), tokenizer=tokenizer, template=template)


def preferences(names: tuple[str, ...]) -> bytes:
    rows = [
        {
            "input": {"messages": question(name)},
            "preferred_output": [{"role": "assistant", "content": "coffee"}],
            "non_preferred_output": [{"role": "assistant", "content": "tea"}],
        }
        for name in names
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def coffees(client: OpenAI, model: str) -> int:
    """Count how often 16 sampled answers to questions not trained on are the preferred one."""
    answers = [
        client.chat.completions.create(
            model=model,
            messages=question(name),
            temperature=1.0,
            seed=seed,
            max_completion_tokens=8,
        )
        for name in HELD_OUT
        for seed in range(4)
    ]
    return sum(answer.choices[0].message.content == "coffee" for answer in answers)


@pytest.fixture(scope="module")
def base(live_server: Any) -> str:
    folder = live_server.settings.model_roots[0] / BASE
    save_language_model(folder, undecided_model())
    with Purvey(live_server.base_url, live_server.admin_key) as purvey:
        purvey.models.register(BASE, str(folder))
    return BASE


@pytest.mark.train
def test_the_preferred_answer_becomes_the_likelier_one(live_server: Any, base: str) -> None:
    recipe = {"optimizer": {"learning_rate": 4e-3}, "dpo": {"likelihood_weight": 1.0}}
    with live_server.openai() as client:
        train = client.files.create(file=("pairs.jsonl", preferences(NAMES)), purpose="fine-tune")
        held_out = client.files.create(
            file=("held.jsonl", preferences(HELD_OUT * 3)), purpose="fine-tune"
        )
        job = client.fine_tuning.jobs.create(
            model=base,
            training_file=train.id,
            validation_file=held_out.id,
            suffix="coffee",
            method={
                "type": "dpo",
                "dpo": {"hyperparameters": {"beta": 0.05, "n_epochs": 20, "batch_size": 6}},
            },
            extra_body={"recipe": recipe},
        )
        job = ended(client, job.id)
        assert job.status == "succeeded", job.error
        assert job.fine_tuned_model is not None
        report = job.to_dict()["report"]
        assert report["validation_reward_accuracy"]["value"] == 1.0
        assert report["validation_reward_margin"]["value"] > 0.1
        before, after = coffees(client, base), coffees(client, job.fine_tuned_model)
    # The base gives either answer half of the time, the tuned model the preferred one mostly.
    assert before <= 11
    assert after >= 13


def ended(client: openai.OpenAI, job_id: str) -> Any:
    deadline = time.monotonic() + 200
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in ENDED:
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job
