"""A server as it is by itself: whatever address a request gives, nothing is fetched."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2
import pytest

from purvey.contracts.model import ImageSpec, TextSpec
from purvey.testing.https_double import Listener
from tests.api.test_outbound import SCHEMES, SINKS, Sink

if TYPE_CHECKING:
    from tests.api.conftest import Refusal


@pytest.fixture(scope="module", autouse=True)
def _models(register: Callable[..., str], seer: str, clip: str) -> None:
    assert (seer, clip) == ("seer", "clip"), "the models of sinks in chat and of what embeds"
    image = ImageSpec(height=8, width=8)
    register("digits", labels=("0", "1"), inputs={"input": image})
    register("mixed", labels=("0", "1"), inputs={"note": TextSpec(), "photo": image})


@pytest.mark.row("NET-01", "NET-05")
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_no_address_is_fetched_and_the_refusal_names_the_setting(
    http: httpx2.Client, refused: "Refusal", sink: Sink
) -> None:
    with Listener("0.0.0.0") as canary:
        for host in ("127.0.0.1", "localhost", "images.example", "1.1.1.1"):
            for url in (f"https://{host}/a.png", f"https://{host}:{canary.port}/a.png"):
                refused(sink.send(http, url), 400, "url_not_allowed", sink.param)
        for scheme in SCHEMES:
            url = f"{scheme}://127.0.0.1:{canary.port}/"
            refused(sink.send(http, url), 400, "url_not_allowed", sink.param)
        assert canary.num_connections == 0
    answer = sink.send(http, "https://images.example/a.png")
    assert "'outbound_hosts'" in refused(answer, 400, "url_not_allowed", sink.param)


OTHERS: dict[str, tuple[str, str, dict[str, object]]] = {
    "a model's folder": ("/v1/models", "source", {"id": "far", "source": "<it>"}),
    "a training file": (
        "/v1/fine_tuning/jobs",
        "training_file",
        {"model": "echo", "training_file": "<it>"},
    ),
    "a validation file": (
        "/v1/fine_tuning/jobs",
        "validation_file",
        {"model": "echo", "training_file": "<file>", "validation_file": "<it>"},
    ),
    "a dataset's file": ("/v1/datasets", "file_ids.0", {"name": "far", "file_ids": ["<it>"]}),
    "a recipe's dataset": (
        "/v1/training/jobs",
        "recipe.dataset",
        {"recipe": {"task": "text-classification", "dataset": "<it>"}},
    ),
}
"""Fields that take ids, names or paths, each with its place: an address is none of these."""


@pytest.mark.row("NET-07")
@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(("path", "param", "body"), OTHERS.values(), ids=OTHERS)
def test_a_field_that_takes_no_address_reaches_for_none(
    http: httpx2.Client, training_file: str, path: str, param: str, body: dict[str, object]
) -> None:
    with Listener("0.0.0.0") as canary:
        for scheme in ("https", "http", "ftp", "s3"):
            url = f"{scheme}://127.0.0.1:{canary.port}/x"
            answer = http.post(path, json=_with(body, {"<it>": url, "<file>": training_file}))
            assert answer.status_code in {400, 404}, answer.text
            assert answer.json()["error"]["param"] == param, answer.text
        assert canary.num_connections == 0


def _with(value: object, given: dict[str, str]) -> object:
    """Put values where the body has their names."""
    match value:
        case str():
            return given.get(value, value)
        case dict():
            return {name: _with(inner, given) for name, inner in value.items()}
        case list():
            return [_with(inner, given) for inner in value]
        case _:
            return value
