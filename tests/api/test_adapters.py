"""Adapters: registered on a base, served by its engine under their names, shown, exported."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest
from openai import NotFoundError, OpenAI

from purvey.cli.main import run
from purvey.client.purvey import Purvey
from purvey.contracts.engine import Explain, Generate, Score, Tokenize
from purvey.contracts.jobs import ModelTrained
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.errors import IntegrityError, InvalidFileError
from purvey.testing.model_folder import (
    ADAPTABLE,
    write_plausible_adapter,
    write_plausible_folder,
)
from purvey.testing.scripted_engine import ScriptedEngine
from purvey.testing.scripted_jobs import Conversation

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

Json = dict[str, Any]  # JSON values
EngineOf = Callable[[str], ScriptedEngine]


@pytest.fixture(scope="module")
def models(api: "RunningServer") -> Path:
    return api.data_dir.parent / "models"


@pytest.fixture(scope="module")
def base(http: httpx2.Client, models: Path) -> str:
    folder = write_plausible_folder(models / "stem", shapes=ADAPTABLE)
    http.post("/v1/models", json={"id": "stem", "source": str(folder)}).raise_for_status()
    return "stem"


@pytest.fixture(scope="module")
def adapt(http: httpx2.Client, models: Path, base: str) -> Callable[[str], str]:
    """A function that registers an adapter of the base, and returns its name."""

    def make(name: str) -> str:
        alpha = 1 + sum(map(ord, name))  # other bytes, so another digest
        folder = write_plausible_adapter(models / name, config={"lora_alpha": alpha})
        body = {"id": name, "source": str(folder), "base": base}
        made = http.post("/v1/models", json=body).raise_for_status().json()
        assert (made["id"], made["base_model"], made["engines"]) == (name, base, [])
        return name

    return make


def _say(sdk: OpenAI, name: str, text: str = "hi") -> str:
    return sdk.completions.create(model=name, prompt=text).choices[0].text


def _engine(http: httpx2.Client, name: str) -> Json:
    engines = http.get("/v1/server").raise_for_status().json()["engines"]
    return next(one for one in engines if one["model"] == name)


def _until(condition: Callable[[], bool]) -> None:
    pause, deadline = Event(), time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_a_base_and_its_adapters_answer_from_one_engine(
    http: httpx2.Client, sdk: OpenAI, base: str, adapt: Callable[[str], str], api: "RunningServer"
) -> None:
    names = [base, adapt("leaf"), adapt("twig")]
    for name in names:
        answer = sdk.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "hello"}]
        )
        assert (answer.model, answer.choices[0].message.content) == (name, "hello")
    assert api.engines is not None
    assert [load.source.name for load in api.engines.loads if load.source.name in names] == [base]
    shown = _engine(http, base)
    assert [(one["model"], one["state"]) for one in shown["adapters"]] == [
        ("leaf", "ready"),
        ("twig", "ready"),
    ]
    assert [one["memory_bytes"] for one in shown["adapters"]] == [64, 64]
    status = http.get("/v1/server").json()
    assert set(names) <= set(status["models_loaded"])
    [memory] = http.get("/v1/models/leaf").json()["engines"]
    assert memory["adapter_bytes"] == 64
    [memory] = http.get(f"/v1/models/{base}").json()["engines"]
    assert memory["adapter_bytes"] == 128
    used = http.get("/v1/usage").json()["data"]
    assert {"leaf", "twig"} <= {row["group"] for row in used}


def test_every_way_to_ask_names_the_adapter(
    http: httpx2.Client, sdk: OpenAI, base: str, adapt: Callable[[str], str], engine_of: EngineOf
) -> None:
    name = adapt("bough")
    digest = sdk.models.retrieve(name).to_dict()["digest"]
    _say(sdk, name)
    http.post("/v1/tokenize", json={"model": name, "prompt": "x"}).raise_for_status()
    question = {"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": "b"}]}
    asked = {"model": name, "input": "x", "questions": [question]}
    http.post("/v1/decisions", json=asked).raise_for_status()
    explained = {"model": name, "input": {"text": "x"}}
    http.post("/v1/explanations", json=explained).raise_for_status()
    seen = {
        type(request): request.adapter
        for request in engine_of(base).requests
        if isinstance(request, Generate | Score | Tokenize | Explain)
    }
    assert seen == dict.fromkeys((Generate, Score, Tokenize, Explain), digest)


def test_ps_shows_adapters_below_their_base(
    http: httpx2.Client,
    sdk: OpenAI,
    base: str,
    adapt: Callable[[str], str],
    api: "RunningServer",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _say(sdk, adapt("bud"))
    monkeypatch.setenv("PURVEY_BASE_URL", api.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", api.admin_key)
    with pytest.raises(SystemExit):
        run(["ps"])
    lines = capsys.readouterr().out.splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{base} "))
    names = [line.split()[1] for line in lines[number + 1 :] if line.startswith("+ ")]
    assert "bud" in names
    with pytest.raises(SystemExit):
        run(["show", "bud"])
    assert "adapters 0.0 MiB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(["stop", "bud"])
    assert capsys.readouterr().out == "bud: leaves memory\n"
    _until(lambda: "bud" not in {one["model"] for one in _engine(http, base)["adapters"]})


def test_a_deleted_adapter_leaves_its_engine_and_keeps_its_base_until_then(
    http: httpx2.Client, sdk: OpenAI, base: str, adapt: Callable[[str], str], refused: "Refusal"
) -> None:
    name = adapt("petal")
    assert _say(sdk, name) == "hi"
    assert name in {one["model"] for one in _engine(http, base)["adapters"]}
    assert "adapter needs" in refused(http.delete(f"/v1/models/{base}"), 409, "in_use")
    assert sdk.models.delete(name).deleted
    with pytest.raises(NotFoundError):
        _say(sdk, name)
    _until(lambda: name not in {one["model"] for one in _engine(http, base)["adapters"]})
    assert _say(sdk, base) == "hi"


def test_a_deployments_profile_chooses_an_adapter(
    http: httpx2.Client,
    sdk: OpenAI,
    base: str,
    adapt: Callable[[str], str],
    engine_of: EngineOf,
    refused: "Refusal",
) -> None:
    name = adapt("thorn")
    profiles = {"default": {}, "sharp": {"adapter": name, "generation": {"max_tokens": 2}}}
    body = {"id": "rose", "model": base, "profiles": profiles}
    made = http.post("/v1/deployments", json=body).raise_for_status().json()
    assert made["profiles"]["sharp"]["adapter"] == name
    assert _say(sdk, "rose:sharp", "abc") == "ab"
    assert _say(sdk, "rose", "abc") == "abc"
    last = [one.adapter for one in engine_of(base).requests if isinstance(one, Generate)][-2:]
    assert last == [sdk.models.retrieve(name).to_dict()["digest"], ""]
    told = refused(http.delete(f"/v1/models/{name}"), 409, "in_use")
    assert "the deployment 'rose' serves" in told
    http.post("/v1/deployments/rose", json={"profiles": {"sharp": None}}).raise_for_status()
    assert sdk.models.delete(name).deleted


@pytest.mark.parametrize(
    ("adapter", "status", "code", "told"),
    [
        ("no-such", 404, "model_not_found", "'no-such' does not exist"),
        ("stem", 400, "invalid_value", "it is whole"),
        ("graft", 400, "invalid_value", "it is an adapter of 'other-stem'"),
        ("", 400, "invalid_value", "character"),
    ],
)
def test_an_adapter_of_another_base_is_refused_by_the_field(
    http: httpx2.Client,
    models: Path,
    base: str,
    refused: "Refusal",
    adapter: str,
    status: int,
    code: str,
    told: str,
) -> None:
    if adapter == "graft":
        other = write_plausible_folder(models / "other-stem", shapes=ADAPTABLE | {"x": (1,)})
        folder = write_plausible_adapter(models / "graft", base="other-stem")
        for name, source in (("other-stem", other), ("graft", folder)):
            asked = {"id": name, "source": str(source)}
            http.post("/v1/models", json=asked).raise_for_status()
    body = {"id": "wrong", "model": base, "profiles": {"p": {"adapter": adapter}}}
    answer = http.post("/v1/deployments", json=body)
    assert told in refused(answer, status, code, "profiles.p.adapter")


def test_an_adapter_that_does_not_fit_is_refused_with_the_tensors_name(
    http: httpx2.Client, models: Path, refused: "Refusal"
) -> None:
    shapes = {"model.layers.0.self_attn.q_proj.weight": (3, 2)}
    wide = write_plausible_folder(models / "wide", shapes=shapes)
    http.post("/v1/models", json={"id": "wide", "source": str(wide)}).raise_for_status()
    folder = write_plausible_adapter(models / "narrow")
    body = {"id": "narrow", "source": str(folder), "base": "wide"}
    told = refused(http.post("/v1/models", json=body), 400, "invalid_checkpoint", "base")
    assert "layers.0.self_attn.q_proj.lora_B.weight" in told
    assert "[2, 1]" in told
    assert "[3, 1]" in told


def test_an_adapter_without_a_known_base_says_what_to_do(
    http: httpx2.Client, models: Path, refused: "Refusal"
) -> None:
    folder = write_plausible_adapter(models / "orphan", base="acme/unknown")
    asked = {"id": "orphan", "source": str(folder)}
    told = refused(http.post("/v1/models", json=asked), 400, "invalid_value", "base")
    assert "'acme/unknown'" in told
    for unknown in ("no-such", "orphan"):
        answer = http.post("/v1/models", json=asked | {"base": unknown})
        refused(answer, 404, "model_not_found", "base")
    refused(http.post("/v1/models", json=asked | {"base": ""}), 400, "invalid_value", "base")


def test_another_projects_base_is_no_base(
    http: httpx2.Client, stranger: httpx2.Client, models: Path, base: str, refused: "Refusal"
) -> None:
    folder = write_plausible_adapter(models / "stolen", base=base)
    body = {"id": "stolen", "source": str(folder), "base": base}
    refused(stranger.post("/v1/models", json=body), 404, "model_not_found", "base")


async def _adapter_of_the_base(worker: Conversation) -> int:
    assert worker.spec.base is not None
    manifest = ModelManifest(
        family="decoder", task="text-generation", base=worker.spec.base.digest, report={"loss": {}}
    )
    folder = write_plausible_adapter(Path(worker.spec.work_dir) / "made")
    for file in sorted(folder.iterdir()):
        worker.write(file.name, file.read_bytes())
    worker.write(MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(ModelTrained(trained_tokens=120, trained_rows=30, compute_s=1.5, report={}))
    return 0


@pytest.fixture(scope="module")
def tuned(api: "RunningServer", sdk: OpenAI, base: str, training_file: str) -> str:
    """The name of a model that was fine-tuned from the base, an adapter."""
    assert api.jobs is not None
    api.jobs.then(_adapter_of_the_base)
    job = sdk.fine_tuning.jobs.create(model=base, training_file=training_file)
    _until(lambda: sdk.fine_tuning.jobs.retrieve(job.id).status in {"succeeded", "failed"})
    ended = sdk.fine_tuning.jobs.retrieve(job.id)
    assert ended.fine_tuned_model is not None, ended.error
    return ended.fine_tuned_model


def test_a_fine_tuned_model_is_served_by_the_engine_of_its_base(
    http: httpx2.Client, sdk: OpenAI, base: str, tuned: str, api: "RunningServer"
) -> None:
    assert tuned.startswith(f"ft:{base}:")
    assert _say(sdk, tuned) == "hi"
    assert tuned in {one["model"] for one in _engine(http, base)["adapters"]}
    assert api.engines is not None
    assert tuned not in {load.source.name for load in api.engines.loads}


def test_a_fine_tuned_model_is_exported_and_comes_back_on_its_base(
    api: "RunningServer",
    sdk: OpenAI,
    models: Path,
    base: str,
    tuned: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PURVEY_BASE_URL", api.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", api.admin_key)
    folder = models / "exported"
    with pytest.raises(SystemExit) as ended:
        run(["export", tuned, str(folder), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    names = {"adapter_config.json", "adapter_model.safetensors", MANIFEST_NAME}
    assert {one["file"] for one in told["files"]} == names == {p.name for p in folder.iterdir()}
    for one in told["files"]:
        content = (folder / one["file"]).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    with Purvey(api.base_url, api.admin_key) as client:
        with pytest.raises(InvalidFileError, match="cannot be made"):
            client.models.export(tuned, folder)
        made = client.models.register("back", str(folder))  # the manifest knows its base
    assert made.base_model == base
    assert _say(sdk, "back") == "hi"
    with pytest.raises(SystemExit):
        run(["export", tuned, str(models / "again")])
    assert "adapter_model.safetensors" in capsys.readouterr().out


def test_what_arrives_otherwise_is_not_kept(
    api: "RunningServer", tuned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*_: object, **__: object) -> None:
        """Write nothing."""

    with Purvey(api.base_url, api.admin_key) as client:
        monkeypatch.setattr("purvey.client.transport.Transport.save", empty)
        with pytest.raises(IntegrityError, match="did not arrive"):
            client.models.export(tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_what_was_made_here_is_exported(
    http: httpx2.Client,
    stranger: httpx2.Client,
    base: str,
    tuned: str,
    refused: "Refusal",
    key_with: Callable[..., str],
    api: "RunningServer",
) -> None:
    url = f"/v1/exports/{tuned}"
    refused(http.get(f"/v1/exports/{base}"), 422, "method_unsupported", "model")
    refused(http.get("/v1/exports/no-such"), 404, "model_not_found", "model")
    refused(stranger.get(url), 404, "model_not_found", "model")
    for file in ("no-such", "artifact.json", "../../purvey.db", "/etc/passwd", "."):
        refused(http.get(url, params={"file": file}), 404, "not_found", "file")
    refused(http.get(url, params={"file": ""}), 400, "invalid_value", "file")
    refused(http.get(url, params={"path": "x"}), 400, "invalid_value", "path")
    whole = http.get(url, params={"file": "adapter_config.json"})
    assert whole.json()["peft_type"] == "LORA"
    assert whole.headers["content-disposition"].startswith("attachment")
    with httpx2.Client(base_url=api.base_url, verify=False) as client:
        headers = {"authorization": f"Bearer {key_with('models:read')}"}
        answer = client.get(url, headers=headers)
        refused(answer, 403, "insufficient_permissions")


def test_a_file_that_was_changed_at_rest_is_not_exported(
    http: httpx2.Client, sdk: OpenAI, tuned: str, api: "RunningServer", refused: "Refusal"
) -> None:
    digest = sdk.models.retrieve(tuned).to_dict()["digest"]
    [folder] = api.data_dir.rglob(str(digest))
    file = folder / "adapter_config.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b" ")
    url, asked = f"/v1/exports/{tuned}", {"file": "adapter_config.json"}
    refused(http.get(url, params=asked), 409, "integrity_error")
    file.write_bytes(whole)
    answer = http.get(url, params=asked)
    assert answer.content == whole
