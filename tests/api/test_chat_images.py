"""Images in `/v1/chat/completions`: what reaches the engine, what is counted, what is refused."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import OpenAI

from purvey.contracts.engine import ChatPrompt, Generate, ImageInput, Score
from purvey.contracts.limits import LIMITS
from purvey.testing.model_folder import write_plausible_seer
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

PATH = "/v1/chat/completions"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
IMAGE_CHARS = 17
"""Tokens of an image for a scripted engine."""


def pictured(url: object = DATA_URL, **more: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def said(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [*parts]}


TEXT = {"type": "text", "text": "What is it?"}


def prompt_of(engine: ScriptedEngine) -> ChatPrompt:
    request = engine.requests[-1]
    assert isinstance(request, Generate)
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt


def test_an_image_is_seen_and_counted(
    sdk: OpenAI, seer: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    messages: Any = [said(pictured(detail="high"), TEXT)]
    whole = sdk.chat.completions.create(model=seer, messages=messages)
    assert whole.choices[0].message.content == "What is it?"
    prompt = prompt_of(engine_of(seer))
    assert prompt.images == (ImageInput(data=PNG),)
    assert [turn.content for turn in prompt.messages] == ["What is it?"]
    plain = sdk.chat.completions.create(model=seer, messages=[{"role": "user", "content": "Hm?"}])
    assert prompt_of(engine_of(seer)).images == ()
    assert whole.usage is not None
    assert plain.usage is not None
    assert whole.usage.prompt_tokens == IMAGE_CHARS + len("user: What is it?\n")
    assert plain.usage.prompt_tokens == len("user: Hm?\n")


def test_a_streamed_answer_and_an_image_that_was_uploaded(
    sdk: OpenAI, seer: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    file = sdk.files.create(file=("one.png", PNG), purpose="vision")
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        said(TEXT, pictured(file.id)),
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]
    stream = sdk.chat.completions.create(
        model=seer, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert told == "Sure?"
    assert prompt_of(engine_of(seer)).images == (ImageInput(data=PNG),)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > IMAGE_CHARS


def test_a_message_may_be_an_image_alone(
    sdk: OpenAI, seer: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    messages: Any = [said(pictured())]
    sdk.chat.completions.create(model=seer, messages=messages, n=2)
    assert [turn.content for turn in prompt_of(engine_of(seer)).messages] == [""]


HUGE = "data:image/png;base64," + "A" * (LIMITS.image_bytes * 4 // 3 + 8)
REFUSED: dict[str, tuple[list[dict[str, Any]], tuple[int, str, str]]] = {
    "second": (
        [said(pictured(), pictured())],
        (400, "invalid_value", "messages.0.content.1.image_url.url"),
    ),
    "of an assistant": (
        [{"role": "user", "content": "x"}, said(pictured(), role="assistant")],
        (400, "unsupported_value", "messages.1.content.0.type"),
    ),
    "of the system": (
        [said(pictured(), role="system")],
        (400, "unsupported_value", "messages.0.content.0.type"),
    ),
    "nothing": (
        [said({"type": "image_url"})],
        (400, "invalid_value", "messages.0.content.0.image_url"),
    ),
    "no url": (
        [said({"type": "image_url", "image_url": {}})],
        (400, "invalid_value", "messages.0.content.0.image_url.url"),
    ),
    "a bare address": (
        [said({"type": "image_url", "image_url": DATA_URL})],
        (400, "invalid_value", "messages.0.content.0.image_url"),
    ),
    "another field": (
        [said(pictured(size=3))],
        (400, "invalid_value", "messages.0.content.0.image_url.size"),
    ),
    "another detail": (
        [said(pictured(detail="most"))],
        (400, "invalid_value", "messages.0.content.0.image_url.detail"),
    ),
    "a path": (
        [said(pictured("/etc/passwd"))],
        (400, "invalid_value", "messages.0.content.0.image_url.url"),
    ),
    "no image": (
        [said(pictured("data:text/plain;base64,AAAA"))],
        (400, "invalid_value", "messages.0.content.0.image_url.url"),
    ),
    "no base64": (
        [said(pictured("data:image/png;base64,?"))],
        (400, "invalid_value", "messages.0.content.0.image_url.url"),
    ),
    "no file": (
        [said(pictured("file-0"))],
        (404, "not_found", "messages.0.content.0.image_url.url"),
    ),
    "huge": (
        [said(pictured(HUGE))],
        (413, "request_too_large", "messages.0.content.0.image_url.url"),
    ),
    "sound": (
        [said(pictured(), {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})],
        (400, "unsupported_value", "messages.0.content.1.type"),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_images_that_cannot_be_taken_are_refused_by_place(
    http: httpx2.Client, seer: str, refused: "Refusal", what: str
) -> None:
    messages, (status, code, param) = REFUSED[what]
    answer = http.post(PATH, json={"model": seer, "messages": messages})
    refused(answer, status, code, param)


def test_a_model_that_reads_text_alone_refuses_images_by_name(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    answer = http.post(PATH, json={"model": echo, "messages": [said(TEXT, pictured())]})
    message = refused(answer, 400, "unsupported_value", "messages.0.content.1.type")
    assert "echo" in message


def test_an_unknown_model_is_not_found(http: httpx2.Client, refused: "Refusal") -> None:
    answer = http.post(PATH, json={"model": "nobody", "messages": [said(pictured())]})
    refused(answer, 404, "model_not_found", "model")


def test_a_file_of_another_project_is_not_found(
    http: httpx2.Client, stranger: httpx2.Client, seer: str, refused: "Refusal"
) -> None:
    file = stranger.post("/v1/files", files={"file": PNG}, data={"purpose": "vision"}).json()
    answer = http.post(PATH, json={"model": seer, "messages": [said(pictured(file["id"]))]})
    refused(answer, 404, "not_found", "messages.0.content.0.image_url.url")


def test_the_places_of_images_are_counted_and_have_no_token(
    http: httpx2.Client, sdk: OpenAI, pair: str
) -> None:
    messages: Any = [said(pictured(), TEXT, pictured(OTHER_URL))]
    found = http.post("/v1/tokenize", json={"model": pair, "messages": messages}).json()
    assert "".join(found["texts"]) == "user: What is it?\n"
    assert len(found["tokens"]) == len(found["texts"])
    assert found["count"] == len(found["tokens"]) + 2 * IMAGE_CHARS
    usage = sdk.chat.completions.create(model=pair, messages=messages).usage
    assert usage is not None
    assert found["count"] == usage.prompt_tokens


def test_an_image_of_a_model_that_reads_text_alone_is_not_counted(
    http: httpx2.Client, echo: str, refused: "Refusal"
) -> None:
    answer = http.post("/v1/tokenize", json={"model": echo, "messages": [said(pictured())]})
    refused(answer, 400, "unsupported_value", "messages.0.content.0.type")


@pytest.fixture(scope="module")
def pair(http: httpx2.Client, api: "RunningServer") -> str:
    """A registered model that has learned to see two images."""
    folder = write_plausible_seer(api.data_dir.parent / "models" / "pair", num_images=2)
    http.post("/v1/models", json={"id": "pair", "source": str(folder)}).raise_for_status()
    return "pair"


OTHER = PNG + b"other"
OTHER_URL = "data:image/png;base64," + base64.b64encode(OTHER).decode()


def test_as_many_images_as_were_learned_are_seen_in_their_order(
    sdk: OpenAI,
    http: httpx2.Client,
    pair: str,
    engine_of: Callable[[str], ScriptedEngine],
    refused: "Refusal",
) -> None:
    messages: Any = [
        said(pictured(), TEXT),
        {"role": "assistant", "content": "A cat."},
        said({"type": "text", "text": "And this?"}, pictured(OTHER_URL)),
    ]
    sdk.chat.completions.create(model=pair, messages=messages)
    prompt = prompt_of(engine_of(pair))
    assert [image.data for image in prompt.images] == [PNG, OTHER]
    assert [turn.content for turn in prompt.messages] == ["What is it?", "A cat.", "And this?"]
    third = [*messages, said(pictured())]
    answer = http.post(PATH, json={"model": pair, "messages": third})
    told = refused(answer, 400, "invalid_value", "messages.3.content.0.image_url.url")
    assert "2 images" in told


def test_the_images_of_a_conversation_have_a_limit_together(
    sdk: OpenAI, http: httpx2.Client, api: "RunningServer", refused: "Refusal"
) -> None:
    folder = write_plausible_seer(api.data_dir.parent / "models" / "triple", num_images=3)
    http.post("/v1/models", json={"id": "triple", "source": str(folder)}).raise_for_status()
    whole = PNG + bytes(LIMITS.image_bytes - len(PNG))
    assert LIMITS.conversation_image_bytes == 2 * LIMITS.image_bytes
    large, small = (
        sdk.files.create(file=("a.png", data), purpose="vision").id for data in (whole, PNG)
    )
    most = [pictured(large), pictured(large)]
    body: dict[str, Any] = {"model": "triple", "messages": [said(*most)]}
    assert http.post("/v1/tokenize", json=body).status_code == 200
    answer = http.post("/v1/tokenize", json=body | {"messages": [said(*most, pictured(small))]})
    refused(answer, 413, "request_too_large", "messages.0.content.2.image_url.url")


def shown(*urls: str) -> list[dict[str, Any]]:
    parts = [{"type": "input_image", "image_url": url} for url in urls]
    return [{"role": "user", "content": parts}]


def test_decisions_are_made_about_images_by_likelihood(
    sdk: OpenAI,
    http: httpx2.Client,
    seer: str,
    engine_of: Callable[[str], ScriptedEngine],
    refused: "Refusal",
) -> None:
    asked: Any = {
        "type": "choice",
        "instructions": "A circle?",
        "choices": [{"value": "circle"}, {"value": "xyz"}],
    }
    given: Any = shown(DATA_URL)
    (answer,) = sdk.decisions.create(model=seer, input=given, questions=[asked]).answers
    assert answer.type == "choice"
    assert answer.choice == "circle"
    request = engine_of(seer).requests[-1]
    assert isinstance(request, Score)
    for prompt, _ in request.pairs:
        assert isinstance(prompt, ChatPrompt)
        assert prompt.images == (ImageInput(data=PNG),)
        assert [turn.content for turn in prompt.messages] == ["A circle?"]
    two = {"model": seer, "input": shown(DATA_URL, OTHER_URL), "questions": [asked]}
    response = http.post("/v1/decisions", json=two)
    refused(response, 400, "invalid_value", "input.0.content.1.image_url")


def test_it_also_completes_text_and_has_no_labels(
    http: httpx2.Client, sdk: OpenAI, seer: str, refused: "Refusal"
) -> None:
    assert sdk.completions.create(model=seer, prompt="ab").choices[0].text == "ab"
    answer = http.post("/v1/classify", json={"model": seer, "input": {"image": DATA_URL}})
    refused(answer, 422, "method_unsupported", "model")
