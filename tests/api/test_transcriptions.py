"""`/v1/audio/transcriptions`: every format through the official client, and what is refused."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import APIError, APIStatusError, BadRequestError, OpenAI
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from purvey.contracts.limits import LIMITS
from purvey.contracts.speech.transcription import Transcribe
from purvey.testing import scripted_speech
from purvey.testing.model_folder import write_plausible_recogniser, write_plausible_whisper
from purvey.testing.scripted_engine import ScriptedEngine
from tests.api.test_streams import wait_until

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

PATH = "/v1/audio/transcriptions"
SAID = b"the tide <is> low"
RECORDING = ("call.wav", SAID)
"""A scripted recogniser hears a recording's own bytes, half a second to a word."""
LONG = " ".join(f"w{number}" for number in range(40)).encode()


@pytest.fixture(scope="module")
def recogniser(http: httpx2.Client, api: "RunningServer") -> str:
    folder = write_plausible_recogniser(api.data_dir.parent / "models" / "recogniser")
    answer = http.post("/v1/models", json={"id": "recogniser", "source": str(folder)})
    assert answer.status_code == 200, answer.text
    return "recogniser"


@pytest.fixture(scope="module")
def whisper(http: httpx2.Client, api: "RunningServer") -> str:
    folder = write_plausible_whisper(api.data_dir.parent / "models" / "whisper")
    answer = http.post("/v1/models", json={"id": "whisper", "source": str(folder)})
    assert answer.status_code == 200, answer.text
    return "whisper"


@pytest.fixture
def engine(
    sdk: OpenAI, recogniser: str, engine_of: Callable[[str], ScriptedEngine]
) -> Iterator[ScriptedEngine]:
    """The engine of `recogniser`, loaded and alive."""
    sdk.audio.transcriptions.create(model=recogniser, file=RECORDING)
    engine = engine_of(recogniser)
    yield engine
    engine.gate.open()


def test_json(sdk: OpenAI, recogniser: str) -> None:
    found = sdk.audio.transcriptions.create(model=recogniser, file=RECORDING)
    assert found.text == SAID.decode()
    assert found.usage is not None
    assert found.usage.to_dict() == {"type": "duration", "seconds": 2.0}
    explicit = sdk.audio.transcriptions.create(
        model=recogniser, file=RECORDING, response_format="json", temperature=0, prompt=""
    )
    assert explicit == found


def test_text(sdk: OpenAI, recogniser: str) -> None:
    found = sdk.audio.transcriptions.create(
        model=recogniser, file=RECORDING, response_format="text"
    )
    assert found == f"{SAID.decode()}\n"


def test_srt(sdk: OpenAI, recogniser: str) -> None:
    found = sdk.audio.transcriptions.create(
        model=recogniser, file=("long.wav", LONG), response_format="srt"
    )
    blocks = found.removesuffix("\n\n").split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == ["1", "2", "3"]
    assert [block.split("\n")[1] for block in blocks] == [
        "00:00:00,000 --> 00:00:07,000",
        "00:00:07,000 --> 00:00:14,000",
        "00:00:14,000 --> 00:00:20,000",
    ]
    assert " ".join(block.split("\n")[2] for block in blocks) == LONG.decode()


def test_vtt(sdk: OpenAI, recogniser: str) -> None:
    found = sdk.audio.transcriptions.create(model=recogniser, file=RECORDING, response_format="vtt")
    assert found == "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nthe tide &lt;is&gt; low\n\n"


def test_verbose_json_has_segments(sdk: OpenAI, recogniser: str) -> None:
    found = sdk.audio.transcriptions.create(
        model=recogniser, file=RECORDING, response_format="verbose_json", language="en"
    )
    assert (found.text, found.language, found.duration) == (SAID.decode(), "en", 2.0)
    assert found.words is None
    assert found.segments is not None
    (segment,) = found.segments
    assert (segment.id, segment.start, segment.end, segment.text) == (0, 0.0, 2.0, SAID.decode())
    assert segment.avg_logprob == -0.125
    assert segment.compression_ratio > 0
    assert found.usage is not None
    assert found.usage.seconds == 2.0


@pytest.mark.parametrize(
    ("wanted", "fields"),
    [
        (["word"], {"words"}),
        (["segment"], {"segments"}),
        (["word", "segment"], {"words", "segments"}),
    ],
)
def test_verbose_json_has_the_times_that_are_asked_for(
    sdk: OpenAI, recogniser: str, wanted: Any, fields: set[str]
) -> None:
    found = sdk.audio.transcriptions.create(
        model=recogniser,
        file=RECORDING,
        response_format="verbose_json",
        timestamp_granularities=wanted,
    )
    assert {"words", "segments"} & found.to_dict().keys() == fields
    if "word" in wanted:
        assert found.words is not None
        assert [(w.word, w.start, w.end) for w in found.words] == [
            ("the", 0.0, 0.5),
            ("tide", 0.5, 1.0),
            ("<is>", 1.0, 1.5),
            ("low", 1.5, 2.0),
        ]


def test_a_stream_tells_words_as_they_come_and_the_whole_at_its_end(
    sdk: OpenAI, recogniser: str
) -> None:
    events = list(sdk.audio.transcriptions.create(model=recogniser, file=RECORDING, stream=True))
    *deltas, done = events
    assert all(isinstance(event, TranscriptionTextDeltaEvent) for event in deltas)
    told = [event.delta for event in deltas if isinstance(event, TranscriptionTextDeltaEvent)]
    assert told == ["the", " tide", " <is>", " low"]
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == "".join(told) == SAID.decode()


def test_words_are_sent_before_the_recording_is_over(
    sdk: OpenAI, recogniser: str, engine: ScriptedEngine
) -> None:
    engine.gate.close()
    ask = sdk.audio.transcriptions.create
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: ask(model=recogniser, file=RECORDING, stream=True))
        wait_until(lambda: engine.gate.num_waiting == 1)
        engine.gate.open()
        engine.gate.close()
        stream = asking.result(timeout=10)
    assert next(stream).to_dict() == {"type": "transcript.text.delta", "delta": "the"}
    engine.gate.open()
    assert list(stream)[-1].type == "transcript.text.done"


def test_nothing_said_is_an_empty_text(sdk: OpenAI, recogniser: str) -> None:
    silence = ("silence.wav", b"  ")
    ask = sdk.audio.transcriptions
    assert ask.create(model=recogniser, file=silence).text == ""
    assert ask.create(model=recogniser, file=silence, response_format="srt") == ""
    assert ask.create(model=recogniser, file=silence, response_format="vtt") == "WEBVTT\n\n"
    (done,) = ask.create(model=recogniser, file=silence, stream=True)
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert done.text == ""


def test_it_is_metered_by_the_seconds_that_were_heard(
    sdk: OpenAI, recogniser: str, usage_by_kind: Callable[[], dict[str, dict[str, Any]]]
) -> None:
    before = usage_by_kind().get("transcription", {"audio_s": 0.0, "rows": 0, "requests": 0})
    sdk.audio.transcriptions.create(model=recogniser, file=RECORDING)
    list(sdk.audio.transcriptions.create(model=recogniser, file=RECORDING, stream=True))
    after = usage_by_kind()["transcription"]
    gained = {name: after[name] - before[name] for name in ("audio_s", "rows", "requests")}
    assert gained == {"audio_s": 4.0, "rows": 2, "requests": 2}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown field": ({"modle": "x"}, "modle", "invalid_value"),
    "an unknown format": ({"response_format": "diarized_json"}, "response_format", "invalid_value"),
    "a prompt": ({"prompt": "Names: Ada."}, "prompt", "unsupported_value"),
    "chance": ({"temperature": "0.4"}, "temperature", "unsupported_value"),
    "an absurd temperature": ({"temperature": "nan"}, "temperature", "invalid_value"),
    "other chunks": ({"chunking_strategy": "vad"}, "chunking_strategy", "unsupported_value"),
    "chunks in detail": (
        {"chunking_strategy[type]": "server_vad"},
        "chunking_strategy[type]",
        "invalid_value",
    ),
    "log-probabilities": ({"include[]": "logprobs"}, "include", "unsupported_value"),
    "speakers": ({"known_speaker_names[]": "Ada"}, "known_speaker_names[]", "invalid_value"),
    "times without a place": (
        {"timestamp_granularities[]": "word"},
        "timestamp_granularities",
        "invalid_value",
    ),
    "other times": (
        {"timestamp_granularities[]": "syllable", "response_format": "verbose_json"},
        "timestamp_granularities",
        "invalid_value",
    ),
    "streamed subtitles": ({"stream": "true", "response_format": "srt"}, "stream", "invalid_value"),
    "half a stream": ({"stream": "maybe"}, "stream", "invalid_value"),
    "a long language": ({"language": "x" * 65}, "language", "invalid_value"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    http: httpx2.Client,
    recogniser: str,
    engine: ScriptedEngine,
    refused: "Refusal",
    what: str,
) -> None:
    fields, param, code = REFUSED[what]
    num_asked = len(engine.requests)
    answer = http.post(PATH, data={"model": recogniser} | fields, files={"file": RECORDING})
    error = answer.json()["error"]
    assert str(error["param"]).startswith(param)
    refused(answer, 400, code, error["param"])
    assert len(engine.requests) == num_asked


def test_what_is_no_recording_is_refused(
    http: httpx2.Client, recogniser: str, engine: ScriptedEngine, refused: "Refusal"
) -> None:
    model = {"model": recogniser}
    refused(http.post(PATH, data=model, files={"file": ("a", b"")}), 400, "invalid_value", "file")
    refused(http.post(PATH, files={"file": RECORDING}), 400, "invalid_value", "model")
    refused(http.post(PATH, json=model), 415, "unsupported_media_type")
    large = ("large.wav", b"x" * (LIMITS.audio_bytes + 2**17))
    refused(http.post(PATH, data=model, files={"file": large}), 413, "request_too_large")
    assert len(engine.requests) >= 1


def test_a_field_is_given_once(http: httpx2.Client, recogniser: str, refused: "Refusal") -> None:
    fields = {"model": [recogniser, recogniser]}
    refused(http.post(PATH, data=fields, files={"file": RECORDING}), 400, "invalid_value", "model")
    both = {
        "model": recogniser,
        "response_format": "verbose_json",
        "timestamp_granularities": "word",
        "timestamp_granularities[]": "word",
    }
    answer = http.post(PATH, data=both, files={"file": RECORDING})
    refused(answer, 400, "invalid_value", "timestamp_granularities")


def test_other_models_write_nothing_down(sdk: OpenAI, echo: str, spam: str) -> None:
    for model in (echo, spam):
        with pytest.raises(APIStatusError, match="speech-recognition") as raised:
            sdk.audio.transcriptions.create(model=model, file=RECORDING)
        assert (raised.value.status_code, raised.value.code) == (422, "method_unsupported")
    with pytest.raises(APIStatusError) as missing:
        sdk.audio.transcriptions.create(model="nobody", file=RECORDING)
    assert missing.value.code == "model_not_found"


def test_a_recogniser_does_nothing_else(sdk: OpenAI, http: httpx2.Client, recogniser: str) -> None:
    with pytest.raises(APIStatusError) as chatted:
        sdk.chat.completions.create(model=recogniser, messages=[{"role": "user", "content": "a"}])
    assert chatted.value.code == "method_unsupported"
    answer = http.post("/v1/classify", json={"model": recogniser, "input": "a"})
    assert answer.json()["error"]["code"] == "method_unsupported"


def test_a_model_of_segments_tells_times_of_those_alone(sdk: OpenAI, whisper: str) -> None:
    ask = sdk.audio.transcriptions.create
    found = ask(model=whisper, file=RECORDING, response_format="verbose_json")
    assert (found.text, found.language) == (SAID.decode(), scripted_speech.LANGUAGE)
    assert [(s.text, s.start, s.end) for s in found.segments or []] == [
        ("the tide", 0.0, 1.0),
        ("<is> low", 1.0, 2.0),
    ]
    subtitles = ask(model=whisper, file=RECORDING, response_format="srt")
    assert subtitles.count("-->") == 2
    events = list(ask(model=whisper, file=RECORDING, stream=True))
    told = [e.delta for e in events if isinstance(e, TranscriptionTextDeltaEvent)]
    assert told == ["the tide", " <is> low"]
    with pytest.raises(BadRequestError, match="not of words") as raised:
        ask(
            model=whisper,
            file=RECORDING,
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
    assert raised.value.param == "timestamp_granularities"


def test_a_language_and_a_prompt_reach_a_model_that_takes_them(
    sdk: OpenAI, whisper: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    ask = sdk.audio.transcriptions.create
    found = ask(
        model=whisper, file=RECORDING, language="EN", prompt="tides", response_format="verbose_json"
    )
    assert found.language == "en"
    (*_, asked) = engine_of(whisper).requests
    assert isinstance(asked, Transcribe)
    assert (asked.task, asked.language, asked.prompt) == ("transcribe", "en", "tides")
    with pytest.raises(BadRequestError, match="it knows de, en") as raised:
        ask(model=whisper, file=RECORDING, language="xx")
    assert raised.value.param == "language"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, about its method
def test_what_is_said_is_translated_by_a_model_that_can(
    sdk: OpenAI, recogniser: str, whisper: str, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    ask = sdk.audio.translations.create
    assert ask(model=whisper, file=RECORDING).text == SAID.decode()
    (*_, asked) = engine_of(whisper).requests
    assert isinstance(asked, Transcribe)
    assert asked.task == "translate"
    verbose = ask(model=whisper, file=RECORDING, response_format="verbose_json", prompt="tides")
    assert (verbose.language, len(verbose.segments or [])) == ("english", 2)
    assert ask(model=whisper, file=RECORDING, response_format="text") == f"{SAID.decode()}\n"
    with pytest.raises(APIStatusError, match="does not translate") as raised:
        ask(model=recogniser, file=RECORDING)
    assert (raised.value.status_code, raised.value.code) == (422, "method_unsupported")


def test_a_translation_has_no_fields_of_a_transcription(
    http: httpx2.Client, whisper: str, refused: "Refusal"
) -> None:
    for name, value in (("language", "de"), ("stream", "true"), ("include[]", "logprobs")):
        fields = {"model": whisper, name: value}
        answer = http.post("/v1/audio/translations", data=fields, files={"file": RECORDING})
        refused(answer, 400, "invalid_value", name)


def test_an_engine_that_dies_ends_the_stream_with_an_error(
    sdk: OpenAI, recogniser: str, engine: ScriptedEngine
) -> None:
    engine.crash_after_tokens = 2
    stream = sdk.audio.transcriptions.create(model=recogniser, file=RECORDING, stream=True)
    told: list[object] = []
    with pytest.raises(APIError, match="died"):
        told.extend(stream)
    assert len(told) == 2
    assert sdk.audio.transcriptions.create(model=recogniser, file=RECORDING).text == SAID.decode()


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_is_not_waited_for(
    http: httpx2.Client, recogniser: str, engine: ScriptedEngine, stream: bool
) -> None:
    engine.gate.close()
    before = len(engine.cancelled)
    fields = {"model": recogniser, "stream": str(stream).lower()}
    with pytest.raises(httpx2.TimeoutException):
        http.post(PATH, data=fields, files={"file": RECORDING}, timeout=0.3)
    wait_until(lambda: len(engine.cancelled) > before)
    assert isinstance(engine.requests[-1], Transcribe)


def test_a_refusal_of_the_engine_is_an_ordinary_answer(
    sdk: OpenAI, recogniser: str, engine: ScriptedEngine
) -> None:
    from purvey.errors import InvalidValueError

    for stream in (True, False):
        engine.refusals.append(InvalidValueError("the recording is broken.", param="file"))
        with pytest.raises(BadRequestError) as raised:
            sdk.audio.transcriptions.create(model=recogniser, file=RECORDING, stream=stream)
        assert raised.value.param == "file"
