"""Models: registered by an administrator, listed and retrieved as the SDK does it, deleted."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2
import pytest
from openai import NotFoundError, OpenAI
from openai.types import Model

from purvey.testing.model_folder import GPT2, write_plausible_folder

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer


def test_a_model_has_every_field_of_the_sdk(sdk: OpenAI, echo: str) -> None:
    model = sdk.models.retrieve(echo)
    Model.model_validate(model.to_dict())
    assert model.id == echo
    assert model.to_dict()["task"] == "text-generation"


def test_the_sdk_lists_every_model_at_once(sdk: OpenAI, register: Callable[..., str]) -> None:
    names = {register(f"model-{i}") for i in range(25)}
    assert names <= {model.id for model in sdk.models.list()}


def test_a_name_with_slashes_and_colons_is_found(
    sdk: OpenAI, api: "RunningServer", http: httpx2.Client
) -> None:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "slashes")
    name = "acme/support:v1.2"
    answer = http.post("/v1/models", json={"id": name, "source": str(folder)})
    assert answer.json()["id"] == name
    assert sdk.models.retrieve(name).id == name
    assert sdk.models.delete(name).deleted


def test_a_deleted_model_answers_no_more(sdk: OpenAI, register: Callable[..., str]) -> None:
    name = register("short-lived")
    assert sdk.completions.create(model=name, prompt="x").choices[0].text == "x"
    deleted = sdk.models.delete(name)
    assert (deleted.id, deleted.deleted, deleted.object) == (name, True, "model")
    with pytest.raises(NotFoundError):
        sdk.models.retrieve(name)
    with pytest.raises(NotFoundError):
        sdk.completions.create(model=name, prompt="x")


def test_an_unknown_model_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    for method in ("GET", "DELETE"):
        answer = http.request(method, "/v1/models/no-such")
        assert answer.json()["error"]["code"] == "model_not_found"
        assert answer.status_code == 404


def test_the_same_registration_again_is_the_same_model(
    api: "RunningServer", http: httpx2.Client, echo: str
) -> None:
    body = {"id": echo, "source": str(api.data_dir.parent / "models" / echo)}
    assert http.post("/v1/models", json=body).json() == http.get(f"/v1/models/{echo}").json()


def test_a_name_that_is_taken_is_a_conflict(
    api: "RunningServer", http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    other = write_plausible_folder(api.data_dir.parent / "models" / "other")
    answer = http.post("/v1/models", json={"id": echo, "source": str(other)})
    refused(answer, 409, "state_conflict", "id")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("source", ["/etc", "/no/such", "relative", "", "{root}/../.."])
def test_a_folder_outside_the_roots_is_refused(
    api: "RunningServer", http: httpx2.Client, refused: "Refusal", source: str
) -> None:
    source = source.format(root=api.data_dir.parent / "models")
    answer = http.post("/v1/models", json={"id": "out", "source": source})
    refused(answer, 400, "invalid_value", "source")


@pytest.mark.parametrize("name", ["", " x", "a b", "é", "x" * 201, "../x", "a\nb"])
def test_a_name_that_is_no_name_is_refused(
    http: httpx2.Client, refused: "Refusal", name: str
) -> None:
    answer = http.post("/v1/models", json={"id": name, "source": "/x"})
    refused(answer, 400, "invalid_value", "id")


def _remove_shard(api: "RunningServer") -> str:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "shardless")
    index = {"weight_map": {"embed.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return str(folder)


def _add_pickle(api: "RunningServer") -> str:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "pickled")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return str(folder)


def _add_code(api: "RunningServer") -> str:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "coded")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModel": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("spoil", [_remove_shard, _add_pickle, _add_code])
def test_a_folder_that_cannot_be_trusted_is_refused(
    api: "RunningServer",
    http: httpx2.Client,
    spoil: Callable[["RunningServer"], str],
) -> None:
    answer = http.post("/v1/models", json={"id": "bad", "source": spoil(api)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_checkpoint")
    assert http.get("/v1/models/bad").status_code == 404


def test_what_transformers_computes_says_so_and_is_not_trained(
    sdk: OpenAI, api: "RunningServer", http: httpx2.Client, refused: "Refusal"
) -> None:
    folder = write_plausible_folder(api.data_dir.parent / "models" / "gpt2", GPT2)
    made = http.post("/v1/models", json={"id": "gpt2", "source": str(folder)}).json()
    assert (made["family"], made["task"]) == ("transformers", "text-generation")
    assert sdk.completions.create(model="gpt2", prompt="x").choices[0].text == "x"
    (engine,) = http.get("/v1/models/gpt2").json()["engines"]
    assert engine["path"] == "transformers"
    rows = b'{"messages": [{"role": "user", "content": "a"}]}\n'
    file = sdk.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    answer = http.post("/v1/fine_tuning/jobs", json={"model": "gpt2", "training_file": file.id})
    refused(answer, 422, "method_unsupported", "model")
    assert "not trained" in answer.json()["error"]["message"]
