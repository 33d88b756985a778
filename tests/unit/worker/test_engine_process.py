"""The engine process over a link in memory: load, answer, refuse, cancel, drain, hang up."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import msgspec
import pytest
import torch

from purvey.contracts.engine import (
    Cancel,
    Classified,
    Classify,
    Delta,
    Drain,
    EngineStats,
    Explain,
    Explained,
    Finished,
    FromEngine,
    Generate,
    LoadFailed,
    LoadModel,
    ModelLoaded,
    NamedInputs,
    Question,
    Refused,
    Score,
    Scored,
    Started,
    TextInput,
    TextPrompt,
    ToEngine,
    Tokenize,
    Tokenized,
)
from purvey.contracts.explain import ExplanationRequest
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.contracts.wire import FrameReader, pack
from purvey.errors import ContextLengthError
from purvey.models.classifier import build_classifier, save_classifier
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_language_model
from purvey.models.tokenizer import Tokenizer
from purvey.worker import engine
from purvey.worker.resident import CheckCancelled, Send, refusal

TIMEOUT_S = 60
PROMPT = TextPrompt(text="the cat sat")
GREEDY = Sampling(temperature=0.0, max_tokens=6)


class MemoryLink:
    """A link whose other end is the test; every frame is packed and read as on the wire."""

    def __init__(self) -> None:
        self._to_engine: queue.Queue[ToEngine | None] = queue.Queue()
        self._from_engine: queue.Queue[FromEngine] = queue.Queue()
        self._reader: FrameReader[FromEngine] = FrameReader(FromEngine)
        self._sending = threading.Lock()
        self.is_broken = False

    def receive(self) -> ToEngine | None:
        """The engine's side."""
        return self._to_engine.get()

    def send(self, message: msgspec.Struct) -> None:
        """The engine's side."""
        if self.is_broken:
            raise BrokenPipeError
        with self._sending:
            for read in self._reader.feed(pack(message)):
                self._from_engine.put(read)

    def tell(self, message: ToEngine | None) -> None:
        """The test's side; None hangs up."""
        self._to_engine.put(message)

    def hear(self) -> FromEngine:
        """The test's side; statistics are passed over."""
        while True:
            heard = self._from_engine.get(timeout=TIMEOUT_S)
            if not isinstance(heard, EngineStats):
                return heard

    def hear_stats(self) -> EngineStats:
        """Return the next statistics."""
        while True:
            heard = self._from_engine.get(timeout=TIMEOUT_S)
            if isinstance(heard, EngineStats):
                return heard


class Process:
    """An engine in a thread."""

    def __init__(self, folder: Path, *, batch_window_s: float = 0.002) -> None:
        self.link = MemoryLink()
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run)
        source = ModelSource(name="tiny", folder=str(folder), digest="0" * 64)
        self.link.tell(
            LoadModel(
                source=source,
                num_threads=1,
                kv_cache_bytes=2**20,
                max_batch_tokens=64,
                batch_window_s=batch_window_s,
            )
        )
        self._thread.start()

    def _run(self) -> None:
        self.status = engine.run(self.link)

    def join(self) -> int | None:
        """Wait for the end and return the exit status."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.status


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """An engine sets the threads of its whole process, here the test's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


Start = Callable[[Path], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start engines; those that still run are hung up in the end."""
    started: list[Process] = []

    def begin(folder: Path) -> Process:
        started.append(Process(folder))
        return started[-1]

    yield begin
    for process in started:
        process.link.tell(None)
        process.join()


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random language model."""
    folder = tmp_path_factory.mktemp("language")
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 4, vocabulary_size=280)
    config = DecoderConfig(
        vocabulary_size=280,
        hidden_size=32,
        mlp_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_size=8,
        context_tokens=512,
        initializer_std=0.3,
    )
    decoder = Decoder(config)
    decoder.reset_parameters(torch.Generator().manual_seed(0))
    model = LanguageModel(decoder=decoder.eval(), tokenizer=tokenizer, template=None)
    save_language_model(folder, model)
    return folder


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random text classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    classifier = build_classifier(
        task="text-classification",
        labels=("ham", "spam"),
        hyperparameters={"buckets": 512, "width": 8},
    )
    save_classifier(classifier.with_manifest(temperature=2.0, is_calibrated=True), folder)
    return folder


def test_a_language_model_answers(start: Start, language_folder: Path) -> None:
    process = start(language_folder)
    loaded = process.link.hear()
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.task, loaded.context_tokens, loaded.has_chat_template) == (
        "text-generation",
        512,
        False,
    )
    assert loaded.num_parameters > 0
    assert loaded.resident_bytes > 4 * loaded.num_parameters
    process.link.tell(Generate(request_id="g", prompt=PROMPT, sampling=GREEDY))
    heard = [process.link.hear()]
    while not isinstance(heard[-1], Finished | Refused):
        heard.append(process.link.hear())
    assert isinstance(heard[0], Started)
    assert all(isinstance(one, Delta) for one in heard[1:-1])
    assert isinstance(heard[-1], Finished)
    process.link.tell(Tokenize(request_id="t", prompt=PROMPT))
    tokenized = process.link.hear()
    assert isinstance(tokenized, Tokenized)
    assert "".join(tokenized.texts) == PROMPT.text
    output = TextPrompt(text=" on the mat")
    process.link.tell(Score(request_id="s", pairs=((PROMPT, output), (PROMPT, PROMPT))))
    scored = process.link.hear()
    assert isinstance(scored, Scored)
    assert len(scored.logprobs) == 2
    assert all(p < 0 for tokens in scored.logprobs for p in tokens)


def test_an_output_is_explained_while_others_generate(start: Start, language_folder: Path) -> None:
    process = start(language_folder)
    process.link.hear()
    request = ExplanationRequest(
        text=PROMPT.text, max_output_tokens=4, random_orders=2, curve_points=2, max_forwards=16
    )
    process.link.tell(Explain(request_id="e", request=request))
    process.link.tell(Generate(request_id="g", prompt=PROMPT, sampling=GREEDY))
    ends: dict[str, FromEngine] = {}
    while len(ends) < 2:
        heard = process.link.hear()
        if isinstance(heard, Finished | Explained | Refused):
            ends[heard.request_id] = heard
    assert isinstance(ends["g"], Finished)
    assert isinstance(ends["e"], Explained)


def test_a_classifier_answers(start: Start, classifier_folder: Path) -> None:
    process = start(classifier_folder)
    loaded = process.link.hear()
    assert isinstance(loaded, ModelLoaded)
    assert (loaded.labels, loaded.is_calibrated) == (("ham", "spam"), True)
    inputs: tuple[NamedInputs, ...] = (
        {"input": TextInput(text="win a prize")},
        {"input": TextInput(text="see you")},
    )
    process.link.tell(Classify(request_id="c", inputs=inputs))
    classified = process.link.hear()
    assert isinstance(classified, Classified)
    assert [sum(row) for row in classified.probabilities] == pytest.approx([1.0, 1.0])
    assert classified.compute_s > 0
    request = ExplanationRequest(text="win a prize now", random_orders=2, curve_points=2)
    process.link.tell(Explain(request_id="e", request=request))
    assert isinstance(process.link.hear(), Explained)


def test_a_batch_waits_for_company_for_as_long_as_it_was_told(classifier_folder: Path) -> None:
    process = Process(classifier_folder, batch_window_s=3_600)
    assert isinstance(process.link.hear(), ModelLoaded)
    text: NamedInputs = {"input": TextInput(text="see you")}
    for request_id, num_inputs in (("first", 1), ("rest", 63)):
        process.link.tell(Classify(request_id=request_id, inputs=(text,) * num_inputs))
    assert all(isinstance(process.link.hear(), Classified) for _ in range(2))
    process.link.tell(Drain())
    assert process.join() == 0
    while (told := process.link.hear_stats()).steps == 0:
        pass  # of a second in which the answer was not there yet
    assert told.steps == 1


def test_questions_for_another_kind_of_model_are_refused(
    start: Start, language_folder: Path, classifier_folder: Path
) -> None:
    language, classifier = start(language_folder), start(classifier_folder)
    language.link.tell(Classify(request_id="x", inputs=({"input": TextInput(text="a")},)))
    classifier.link.tell(Generate(request_id="x", prompt=PROMPT, sampling=GREEDY))
    for process in (language, classifier):
        assert isinstance(process.link.hear(), ModelLoaded)
        refused = process.link.hear()
        assert isinstance(refused, Refused)
        assert (refused.request_id, refused.code) == ("x", "method_unsupported")


def test_what_is_too_long_is_refused(start: Start, language_folder: Path) -> None:
    process = start(language_folder)
    process.link.hear()
    long = TextPrompt(text="the cat " * 600)
    process.link.tell(Generate(request_id="g", prompt=long, sampling=GREEDY))
    process.link.tell(Score(request_id="s", pairs=((long, PROMPT),)))
    told = [process.link.hear() for _ in range(2)]
    assert {
        (refused.request_id, refused.code, refused.param)
        for refused in told
        if isinstance(refused, Refused)
    } == {
        ("g", "context_length_exceeded", "prompt"),
        ("s", "context_length_exceeded", "prompt"),
    }


def test_cancelling_frees_the_blocks(start: Start, language_folder: Path) -> None:
    process = start(language_folder)
    process.link.hear()
    sampling = Sampling(temperature=0.0, max_tokens=500)
    process.link.tell(Generate(request_id="g", prompt=PROMPT, sampling=sampling))
    assert isinstance(process.link.hear(), Started)
    process.link.tell(Cancel(request_id="g"))
    stats = process.link.hear_stats()
    while stats.free_blocks < stats.total_blocks:
        stats = process.link.hear_stats()
    assert stats.running == stats.waiting == 0
    assert stats.steps < 500


def test_draining_finishes_and_refuses_what_comes_later(
    start: Start, language_folder: Path
) -> None:
    process = start(language_folder)
    process.link.hear()
    sampling = Sampling(temperature=0.0, max_tokens=100)
    process.link.tell(Generate(request_id="g", prompt=PROMPT, sampling=sampling))
    process.link.tell(Drain())
    process.link.tell(Generate(request_id="late", prompt=PROMPT, sampling=sampling))
    ends: dict[str, FromEngine] = {}
    while len(ends) < 2:
        heard = process.link.hear()
        if isinstance(heard, Finished | Refused):
            ends[heard.request_id] = heard
    late = ends["late"]
    assert isinstance(late, Refused)
    assert late.code == "shutting_down"
    assert isinstance(ends["g"], Finished)
    assert process.join() == 0


@pytest.mark.parametrize("is_broken", [False, True])
def test_an_orphan_ends(start: Start, language_folder: Path, *, is_broken: bool) -> None:
    process = start(language_folder)
    process.link.hear()
    sampling = Sampling(temperature=0.0, max_tokens=500)
    process.link.tell(Generate(request_id="g", prompt=PROMPT, sampling=sampling))
    assert isinstance(process.link.hear(), Started)
    process.link.is_broken = is_broken
    if not is_broken:
        process.link.tell(None)
    assert process.join() == 0


def test_a_folder_that_cannot_be_loaded_says_why(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path)
    failed = process.link.hear()
    assert isinstance(failed, LoadFailed)
    assert failed.code == "invalid_checkpoint"
    assert process.join() == 1


class Slow:
    """A resident whose first answer is out before it returns, and whose second waits."""

    def __init__(self) -> None:
        self.may_return, self.may_go_on = threading.Event(), threading.Event()
        self.second_began = threading.Event()
        self.cancelled: queue.Queue[str] = queue.Queue()
        self.was_second_cancelled: queue.Queue[bool] = queue.Queue()
        self._stopped = threading.Event()
        self._num_asked = 0

    @property
    def loaded(self) -> ModelLoaded:
        return ModelLoaded(task="text-generation", num_parameters=0, resident_bytes=0)

    def answer(self, question: Question, send: Send, check: CheckCancelled) -> None:
        self._num_asked += 1
        if self._num_asked == 1:
            send(refusal(question.request_id, ContextLengthError("too long.")))
            assert self.may_return.wait(TIMEOUT_S)
            return
        self.second_began.set()
        assert self.may_go_on.wait(TIMEOUT_S)
        try:
            check()
        except CancelledError:
            self.was_second_cancelled.put(True)
            raise
        self.was_second_cancelled.put(False)

    def cancel(self, request_id: str) -> None:
        self.cancelled.put(request_id)

    def run(self) -> None:
        self._stopped.wait(TIMEOUT_S)

    def drain(self) -> None:
        self._stopped.set()

    def stop(self) -> None:
        self._stopped.set()

    def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0, free_blocks=0, total_blocks=0, steps=0)


def test_an_id_that_is_asked_again_can_still_be_cancelled(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    monkeypatch.setattr(engine, "_open", lambda _: slow)
    process = start(tmp_path)
    process.link.hear()
    again = Generate(request_id="x", prompt=PROMPT, sampling=GREEDY)
    process.link.tell(again)
    assert isinstance(process.link.hear(), Refused)
    process.link.tell(again)
    process.link.tell(Cancel(request_id="behind"))
    assert slow.cancelled.get(timeout=TIMEOUT_S) == "behind"  # the second is accepted
    slow.may_return.set()
    assert slow.second_began.wait(TIMEOUT_S)
    process.link.tell(Cancel(request_id="x"))
    assert slow.cancelled.get(timeout=TIMEOUT_S) == "x"
    slow.may_go_on.set()
    assert slow.was_second_cancelled.get(timeout=TIMEOUT_S)
