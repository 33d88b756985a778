"""What OpenAI's API has and this server does not: 501 with a reason, for every path of the SDK."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from openai import APIStatusError, OpenAI

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

CALLS: dict[str, Callable[[OpenAI], Any]] = {
    "responses": lambda c: c.responses.create(model="m", input="x"),
    "moderations": lambda c: c.moderations.create(input="x"),
    "images": lambda c: c.images.generate(prompt="x"),
    "speech": lambda c: c.audio.speech.create(model="m", input="x", voice="alloy"),
    "batches": lambda c: c.batches.list(),
    "uploads": lambda c: c.uploads.cancel("upload_1"),
    "vector stores": lambda c: c.vector_stores.list(),
    "evals": lambda c: c.evals.list(),
    "stored chats": lambda c: c.chat.completions.list(),
    "one stored chat": lambda c: c.chat.completions.retrieve("chatcmpl-1"),
    "checkpoint permissions": lambda c: c.fine_tuning.checkpoints.permissions.retrieve("ft:x"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, about its methods
def test_the_sdk_learns_that_it_is_absent_and_does_not_retry(sdk: OpenAI, name: str) -> None:
    with pytest.raises(APIStatusError) as raised:
        CALLS[name](sdk)
    assert raised.value.status_code == 501
    assert raised.value.code == "not_implemented"
    assert raised.value.response.headers["x-should-retry"] == "false"


def _paths_of_the_sdk() -> Iterator[str]:
    """Every path that the source of the installed client names, its parameters filled in."""
    resources = Path(openai.__file__).parent / "resources"
    for file in sorted(resources.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        calls = re.findall(
            r"self\._(?:get|post|delete|put|patch|get_api_list)\(\s*"
            r"(?:path_template\(\s*)?f?\"(/[^\"]+)\"",
            source,
        )
        yield from (re.sub(r"\{[^}]+\}", "some-id", path.partition("?")[0]) for path in calls)


def test_no_path_of_the_sdk_is_unknown_here(http: httpx2.Client) -> None:
    paths = sorted(set(_paths_of_the_sdk()))
    assert len(paths) > 100
    unknown = []
    for path in paths:
        answer = http.get(f"/v1{path}")
        if answer.status_code == 404 and "no such path" in answer.text:
            unknown.append(path)
    assert unknown == []


def test_the_refusal_names_what_to_use_instead(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post("/v1/moderations", json={"input": "x"})
    assert "/v1/classify" in refused(answer, 501, "not_implemented")
