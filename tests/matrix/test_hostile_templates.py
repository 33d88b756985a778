"""INP-15 end to end: a model with a hostile chat template, the official client, real processes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from purvey.client.purvey import Purvey
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.tokenizer import Tokenizer
from tests.conftest import FIRST_KEY
from tests.matrix.served import Served, serving

pytestmark = pytest.mark.row("INP-15")
BOMBS = {
    "walk": "{{ ''.__class__.__mro__ }}",
    "range": "{% for i in range(1000000000) %}x{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "gigabyte": "{{ '%1000000000s' | format(messages[0].role) }}",
    "include": "{% include 'CANARY' %}",
    "recursion": "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
}
ENDING = {"loops", "gigabyte"}
"""Those that end the process that renders them."""


def _write(folder: Path, template: str) -> None:
    tokenizer = Tokenizer.train(["hello there"], vocabulary_size=260)
    config = DecoderConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        hidden_size=16,
        mlp_size=32,
        head_size=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        context_tokens=64,
    )
    decoder = Decoder(config)
    decoder.reset_parameters(torch.Generator().manual_seed(0))
    folder.mkdir(parents=True)
    model = LanguageModel(decoder=decoder.eval(), tokenizer=tokenizer, template=None)
    save_language_model(folder, model)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with an honest model, one whose template bites on some words, and two bombs."""
    root = tmp_path_factory.mktemp("templates")
    canary = root / "canary"
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    arms = "".join(
        f"{{% elif messages[0].content == '{name}' %}}{bomb.replace('CANARY', str(canary))}"
        for name, bomb in BOMBS.items()
    )
    templates = {
        "honest": plain,
        "hostile": f"{{% if messages[0].content == 'hi' %}}{plain}{arms}{{% endif %}}",
        "endless": BOMBS["loops"],
        "folded": "{{ '%1000000000d' % 1 }}",
    }
    with serving(root) as running:
        with Purvey(running.base_url, FIRST_KEY) as purvey:
            for name, template in templates.items():
                _write(root / "models" / name, template)
                purvey.models.register(name, str(root / "models" / name))
        yield running
    assert not canary.exists()


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    """The official client."""
    with served.openai(max_retries=0) as official:
        yield official


def chat(client: OpenAI, model: str, content: str = "hi") -> ChatCompletion:
    return client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=2
    )


@pytest.mark.parametrize("name", BOMBS)
def test_inp15_a_bomb_is_one_refused_request(served: Served, client: OpenAI, name: str) -> None:
    assert chat(client, "hostile").usage
    engines = [worker.pid for worker in served.workers("engine")]
    parsers = {worker.pid for worker in served.workers("parse")}
    with pytest.raises(BadRequestError) as refusal:
        chat(client, "hostile", name)
    expected = ("invalid_checkpoint", "model") if name in ENDING else ("invalid_value", "messages")
    assert (refusal.value.code, refusal.value.param) == expected
    assert "0x" not in refusal.value.message
    assert chat(client, "hostile").usage
    assert chat(client, "honest").usage
    assert [worker.pid for worker in served.workers("engine")][: len(engines)] == engines
    assert (parsers <= {worker.pid for worker in served.workers("parse")}) == (name not in ENDING)


def test_inp15_others_are_answered_while_one_is_endless(served: Served, client: OpenAI) -> None:
    for model in ("honest", "hostile"):
        assert chat(client, model).usage
    with ThreadPoolExecutor(1) as executor:
        endless = executor.submit(chat, client, "hostile", "loops")
        for _ in range(3):
            assert chat(client, "honest").usage
            assert chat(client, "hostile").usage
            assert client.completions.create(model="hostile", prompt="hi", max_tokens=2).usage
        with pytest.raises(BadRequestError):
            endless.result()


@pytest.mark.parametrize("model", ["endless", "folded"])
def test_inp15_a_template_that_never_renders_keeps_its_model_from_loading(
    client: OpenAI, model: str
) -> None:
    with pytest.raises(BadRequestError) as refusal:
        chat(client, model)
    assert refusal.value.code == "invalid_checkpoint"
    assert "chat template" in refusal.value.message
    assert chat(client, "honest").usage
