"""`/v1/classify` of recordings: data URLs and files in, labels out, all else refused by field."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.contracts.engine import AudioInput
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import AudioSpec
from purvey.testing.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

IMAGE_URL = "data:image/png;base64," + base64.b64encode(bytes(20)).decode()
WAV = b"RIFF\x24\0\0\0WAVEfmt " + bytes(20)
AUDIO_URL = "data:audio/wav;base64," + base64.b64encode(WAV).decode()


@pytest.fixture(scope="module")
def birds(register: Callable[..., str]) -> str:
    """A registered classifier of recordings."""
    inputs = {"input": AudioSpec()}
    return register("birds", labels=("owl", "wren"), inputs=inputs, task="audio-classification")


@pytest.mark.parametrize("form", ["data URL", "file", "a string alone"])
def test_a_recording_is_a_data_url_or_a_file(
    http: httpx2.Client, birds: str, engine_of: Callable[[str], ScriptedEngine], form: str
) -> None:
    given: Any = {"audio": AUDIO_URL}
    if form == "file":
        file = {"file": ("a.wav", WAV)}
        stored = http.post("/v1/files", files=file, data={"purpose": "user_data"}).json()
        given = {"audio": stored["id"]}
    elif form == "a string alone":
        given = AUDIO_URL
    answer = http.post("/v1/classify", json={"model": birds, "input": given})
    assert answer.status_code == 200, answer.text
    assert {p["label"] for p in answer.json()["results"][0]["probabilities"]} == {"owl", "wren"}
    request: Any = engine_of(birds).requests[-1]
    assert request.inputs == ({"input": AudioInput(data=WAV)},)


SOUNDS: dict[str, tuple[Any, str]] = {
    "an image": ({"image": IMAGE_URL}, "the model takes {'audio'}"),
    "an image's data": ({"audio": IMAGE_URL}, "must read 'data:audio/"),
    "no base64": ({"audio": "data:audio/wav;base64,%%"}, "no valid base64"),
    "a path": ({"audio": "/etc/passwd"}, "a recording is a base64 data URL"),
    "text": ({"text": "owl"}, "the model takes {'audio'}"),
    "more": ({"audio": AUDIO_URL, "text": "owl"}, "the model takes {'audio'}"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_what_is_no_recording_is_refused_by_field(
    http: httpx2.Client, birds: str, refused: "Refusal", name: str
) -> None:
    given, said = SOUNDS[name]
    answer = http.post("/v1/classify", json={"model": birds, "inputs": [given]})
    param = "inputs.0.audio" if "audio" in given and len(given) == 1 else "inputs.0"
    assert said in refused(answer, 400, "invalid_value", param)


def test_a_recording_of_too_many_bytes_is_refused(
    http: httpx2.Client, birds: str, refused: "Refusal"
) -> None:
    file = {"file": ("a.wav", bytes(LIMITS.audio_bytes + 1))}
    stored = http.post("/v1/files", files=file, data={"purpose": "user_data"}).json()
    answer = http.post("/v1/classify", json={"model": birds, "input": {"audio": stored["id"]}})
    refused(answer, 413, "request_too_large", "input.audio")


def test_answers_about_recordings_are_not_explained(
    http: httpx2.Client, birds: str, refused: "Refusal"
) -> None:
    body = {"model": birds, "input": {"audio": AUDIO_URL}, "explain": True}
    told = refused(http.post("/v1/classify", json=body), 422, "method_unsupported", "explain")
    assert "one text or one image" in told
    body = {"model": birds, "input": {"audio": AUDIO_URL}}
    refused(http.post("/v1/explanations", json=body), 400, "invalid_value", "input.audio")
    question = {
        "type": "choice",
        "instructions": "Which?",
        "choices": [{"value": "owl"}, {"value": "wren"}],
    }
    body = {"model": birds, "input": "owl", "questions": [question]}
    refused(http.post("/v1/decisions", json=body), 422, "method_unsupported", "model")
