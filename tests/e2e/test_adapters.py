"""Eight adapters of `peft` and their base from one engine process, by the official client."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from openai import OpenAI
from transformers import LlamaForCausalLM

from purvey.app.application import build
from purvey.cli.main import run
from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer
from purvey.telemetry.metrics import REGISTRY
from tests.conftest import FIRST_KEY, make_settings
from tests.e2e.tiny_llama import tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator

    from purvey.app.application import Application

# peft asks transformers for an attribute that it has since renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
BASE = "anna"
NAMES = [f"anna-{number}" for number in range(8)]
PROMPT = "The light is red. "
NUM_TOKENS, TURNS = 12, 8
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = (ALL, ALL[:4], ("q_proj", "v_proj"), ("down_proj",))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the base and of its adapters, which differ in rank and in adapted layers."""
    models = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(["The light is red. stop go wait"] * 4, vocabulary_size=290)
    torch.manual_seed(3)
    config = tiny_llama(tokenizer.vocabulary_size)
    model = LlamaForCausalLM(config)
    for token_id in range(tokenizer.vocabulary_size):  # only what a text can tell apart is said
        if not tokenizer.decode([token_id]).isascii() or not tokenizer.decode([token_id]).strip():
            model.lm_head.weight.data[token_id] = 0
    model.save_pretrained(models / BASE)
    tokenizer.save(models / BASE)
    for number, name in enumerate(NAMES):
        _write_adapter(models, name, rank=4 + number, targets=TARGETS[number % len(TARGETS)])
    return models


def _write_adapter(models: Path, name: str, *, rank: int, targets: tuple[str, ...]) -> None:
    from peft import LoraConfig, get_peft_model

    base = LlamaForCausalLM.from_pretrained(models / BASE)
    config = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=list(targets))
    adapted = get_peft_model(base, config)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(models / name)
    (models / name / "README.md").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def merged(models: Path) -> dict[str, str]:
    """What each model says, by `transformers`, its adapter merged into its base by `peft`."""
    from peft import PeftModel

    tokenizer = Tokenizer.from_folder(models / BASE)
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    said = {}
    for name in (BASE, *NAMES):
        model: Any = LlamaForCausalLM.from_pretrained(models / BASE)  # or what peft makes of it
        if name != BASE:
            model = PeftModel.from_pretrained(model, models / name).merge_and_unload()
        output = model.generate(
            ids, max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        said[name] = tokenizer.decode(output[0, ids.shape[1] :].tolist())
    assert len(set(said.values())) == len(said), "they would not be told apart"
    return said


@pytest.fixture
def application(tmp_path: Path, models: Path) -> "Iterator[Application]":
    """A server with a real engine, the base and the adapters registered."""
    settings = make_settings(
        tmp_path / "data", model_roots=(models,), kv_cache_bytes=2**21, adapter_bytes=2**28
    )
    application = build(settings)
    application.start()
    try:
        with Purvey(application.base_url, FIRST_KEY) as purvey:
            purvey.models.register(BASE, str(models / BASE))
            for name in NAMES:
                purvey.models.register(name, str(models / name), base=BASE)
        yield application
    finally:
        application.stop()


def _say(client: OpenAI, name: str) -> str:
    answer = client.completions.create(
        model=name, prompt=PROMPT, max_tokens=NUM_TOKENS, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == NUM_TOKENS
    return answer.choices[0].text


def _client(application: "Application") -> OpenAI:
    base_url = f"{application.base_url}/v1"
    return OpenAI(base_url=base_url, api_key=FIRST_KEY, max_retries=0, timeout=60)


def _ps(
    application: "Application",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:  # JSON
    monkeypatch.setenv("PURVEY_BASE_URL", application.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", FIRST_KEY)
    with pytest.raises(SystemExit) as ended:
        run(["ps", "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    return json.loads(told.out)


def test_eight_adapters_and_their_base_share_one_engine_and_come_and_go(
    application: "Application",
    merged: dict[str, str],
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    everyone = [BASE, *NAMES]
    with _client(application) as client:
        asked = [name for _ in range(3) for name in everyone]
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = list(pool.map(lambda name: _say(client, name), asked))
        assert answers == [merged[name] for name in asked]

        shown = _ps(application, monkeypatch, capsys)
        [engine] = shown["engines"]
        assert (engine["model"], shown["memory"]["loads"]) == (BASE, 1)
        assert sorted(one["model"] for one in engine["adapters"]) == NAMES
        assert all(one["memory_bytes"] > 0 for one in engine["adapters"])
        assert {one["state"] for one in engine["adapters"]} == {"ready"}

        before = REGISTRY.get_sample_value("purvey_adapter_loads_total")
        assert before is not None
        _come_and_go(application, client, merged, models)
        assert (REGISTRY.get_sample_value("purvey_adapter_loads_total") or 0) >= before + TURNS
        shown = _ps(application, monkeypatch, capsys)
        assert ([one["model"] for one in shown["engines"]], shown["memory"]["loads"]) == ([BASE], 1)


def _come_and_go(
    application: "Application", client: OpenAI, merged: dict[str, str], models: Path
) -> None:
    """Ask all the time while adapters are stopped, deleted and registered again."""
    is_over, faults = threading.Event(), []
    num_answers = 0

    def ask(seed: int) -> None:
        nonlocal num_answers
        rng = Random(seed)  # noqa: S311 (a test's chance)
        while not is_over.is_set():
            name = rng.choice([BASE, *NAMES[:6]])
            said = _say(client, name)
            num_answers += 1
            if said != merged[name]:
                faults.append((name, said))

    with Purvey(application.base_url, FIRST_KEY) as purvey, ThreadPoolExecutor(6) as pool:
        asking = [pool.submit(ask, seed) for seed in range(6)]
        try:
            for turn in range(TURNS):
                purvey.models.unload(NAMES[turn % 6])
                name = NAMES[6 + turn % 2]
                purvey.models.delete(name)
                purvey.models.register(name, str(models / name), base=BASE)
                assert _say(client, name) == merged[name]
        finally:
            is_over.set()
        for one in asking:
            one.result()  # raises what a request ended in
    assert faults == []
    assert num_answers > TURNS


def test_a_lora_fine_tune_is_served_by_the_engine_of_its_base_and_exported_to_peft(
    application: "Application",
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from peft import PeftModel

    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "stop"}]
    rows = "\n".join([json.dumps({"messages": turns})] * 12).encode()
    recipe = {"train": {"epochs": 1, "method": "lora"}, "lora": {"rank": 4}}
    with _client(application) as client, Purvey(application.base_url, FIRST_KEY) as purvey:
        file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=BASE, training_file=file.id, extra_body={"recipe": recipe}
        )
        ended = purvey.training_jobs.wait(job.id)
        name = ended.fine_tuned_model
        assert name is not None, ended.error
        answer = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "red"}], max_tokens=2
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        [engine] = _ps(application, monkeypatch, capsys)["engines"]
        assert (engine["model"], [one["model"] for one in engine["adapters"]]) == (BASE, [name])
        purvey.models.export(name, tmp_path / "out")
    base = LlamaForCausalLM.from_pretrained(models / BASE)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out")
    assert theirs.peft_config["default"].r == 4
