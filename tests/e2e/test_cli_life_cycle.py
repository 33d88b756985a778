"""The command line with real processes: a table becomes a model that answers and is explained."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
THINGS = {"物流": ["快递", "包裹", "配送"], "账单": ["发票", "退款", "付款"]}
PHRASES = ["我的{}怎么样了", "请帮我查一下{}", "{}有问题,编号{}", "关于{}的事情{}"]


def write_messages(path: Path) -> None:
    chance = random.Random(3)  # noqa: S311 (test data)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["内容", "类别"])
        for number in range(300):
            label = chance.choice(list(THINGS))
            text = chance.choice(PHRASES).format(chance.choice(THINGS[label]), number)
            writer.writerow([text, label])


def test_a_chinese_table_becomes_a_model_that_tells_its_reasons(
    purvey: Run, tmp_path: Path
) -> None:
    write_messages(tmp_path / "messages.csv")
    job = json.loads(purvey("train", "messages.csv", "--name", "zh-cli", "--json"))
    assert job["status"] == "succeeded"
    assert job["report"]["accuracy"]["value"] >= 0.9
    assert purvey("run", "zh-cli", "--prompt", "我的包裹呢").startswith("物流 ")
    found = json.loads(purvey("explain", "zh-cli", "请帮我查一下发票的情况,编号12谢谢您", "--json"))
    assert found["target"]["label"] == "账单"
    best = {unit["text"] for unit in found["units"] if unit["rank"] <= 2}
    assert best & {"发", "票"}
    assert found["cost"]["forwards"] <= 768


def test_a_language_model_is_made_talks_and_is_explained(purvey: Run, tmp_path: Path) -> None:
    rows = [{"text": f"the {w} is here. " * 6} for w in ("cat", "dog", "sun", "sea")] * 12
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    size = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_tokens": 64}
    settings = [f"--set=model.hyperparameters.{name}={value}" for name, value in size.items()]
    settings += ["--set=tokenizer.vocabulary_size=300", "--set=train.max_steps=30"]
    purvey("train", "rows.jsonl", "--task", "text-generation", "--name", "tiny-cli", *settings)
    text = purvey("run", "tiny-cli", "--prompt", "the cat", "--temperature", "0")
    assert text.startswith("the cat")
    shown = purvey("explain", "tiny-cli", "the cat is", "--answer", " here.", "--seed", "1")
    assert "why ' here.'" in shown
    assert "verdict:" in shown


def test_a_model_folder_is_served_privately(
    purvey: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from purvey.models.config import DecoderConfig
    from purvey.models.decoder import Decoder
    from purvey.models.language import LanguageModel, save_language_model
    from purvey.models.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(["hello there"], vocabulary_size=260)
    config = DecoderConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        hidden_size=16,
        mlp_size=32,
        head_size=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        context_tokens=32,
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    model = LanguageModel(decoder=Decoder(config), tokenizer=tokenizer, template=None)
    save_language_model(folder, model)
    monkeypatch.delenv("PURVEY_API_KEY")
    monkeypatch.setenv("PURVEY_BASE_URL", "http://127.0.0.1:9")
    answer = json.loads(
        purvey("run", "folder", "--prompt", "hello", "--max-tokens", "4", "--seed", "1", "--json")
    )
    assert answer["text"].startswith("hello")
    assert list(tmp_path.iterdir()) == [folder]
