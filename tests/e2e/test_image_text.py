"""Pictures and questions from a zip to answers, with real processes and the official client."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import APIStatusError

from examples import shapes

Command = Callable[..., str]


SETTINGS = (
    "model.hyperparameters={vision_width = 64, vision_depth = 1, vision_patch = 16, "
    "hidden_size = 64, num_layers = 2, num_heads = 4}",
    "tokenizer.vocabulary_size=320",
    "optimizer={name = 'muon', learning_rate = 0.004}",
    "train.sequence_tokens=64",
    "test.bootstrap_samples=100",
)
COLUMNS = "image=image,question=text,answer=transcript"
ABOUT = ("number",)


def asked(data: bytes, question: str) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]


@pytest.mark.train
def test_pictures_become_a_model_that_answers_about_them(
    purvey: Command, live_server: Any, tmp_path: Path
) -> None:
    shapes.archive(tmp_path / "shapes.zip", num_rows=400, seed=0, about=ABOUT)
    settings = [word for one in SETTINGS for word in ("--set", one)]
    told = purvey(
        *("train", "shapes.zip", "--name", "shapes-cli", "--columns", COLUMNS),
        *("--epochs", "10", *settings, "--json"),
    )
    job = json.loads(told)
    assert job["recipe"]["task"] == "image-text-to-text"
    assert job["report"]["exact_match"]["num_rows"] == 40
    assert job["report"]["exact_match"]["value"] >= 0.8, job["report"]  # chance is a third
    chance = np.random.default_rng(9)
    pictures = [shapes.drawn(chance, about=ABOUT) for _ in range(20)]
    with live_server.openai() as client:
        ask = client.chat.completions.create
        answers = [
            ask(
                model="shapes-cli",
                messages=asked(shapes.png(one.pixels), one.question),
                temperature=0,
            )
            for one in pictures
        ]
        said = [answer.choices[0].message.content for answer in answers]
        right = [text == one.answer for text, one in zip(said, pictures, strict=True)]
        assert sum(right) >= 16, said
        data = shapes.png(pictures[0].pixels)
        question = pictures[0].question
        text_alone = ask(model="shapes-cli", messages=[{"role": "user", "content": question}])
        assert answers[0].usage.prompt_tokens == text_alone.usage.prompt_tokens + 4
        stream = ask(
            model="shapes-cli",
            messages=asked(data, question),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said[0]
        assert chunks[-1].usage.prompt_tokens == answers[0].usage.prompt_tokens
        with pytest.raises(APIStatusError) as raised:
            ask(model="shapes-cli", messages=asked(data[:50], question))
        assert (raised.value.status_code, raised.value.param) == (400, "messages")
        (tmp_path / "one.png").write_bytes(data)
        words = ("run", "shapes-cli", "--image", "one.png", "--prompt", question)
        assert purvey(*words, "--temperature", "0").strip() == said[0]
