"""The engine process: one model, one link, a few threads.

The receiver reads frames and handles `Cancel` at once. Adapters are read and written in a thread
of their own, beside the loop. The desk, two threads, tokenises, has
images decoded and templates rendered by parse processes, and refuses what cannot be served: one
that waits for a parse process holds up neither the loop nor its neighbour. The model's loop
computes. Explanations run one at a time in a thread of their own and ask the loop like everybody
else; so do recordings, a few of them at a time. Answers leave from whichever thread has them; the
link keeps frames whole.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec
import torch

from purvey import failpoints
from purvey.contracts.adapter import DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Rank
from purvey.contracts.engine import (
    Cancel,
    Classify,
    Drain,
    Explain,
    Generate,
    LoadFailed,
    LoadModel,
    Question,
    Score,
    ToEngine,
    Tokenize,
)
from purvey.contracts.model import GENERATING, AudioSpec, ImageSpec
from purvey.contracts.speech.transcription import Transcribe
from purvey.engine.seeing.sight import Sight
from purvey.errors import InternalError, PurveyError, SettingError, ShuttingDownError
from purvey.models.chat import has_template
from purvey.models.encoder.loading import EmbeddingModel
from purvey.models.folder.manifest import read_manifest
from purvey.models.foreign import ForeignModel
from purvey.models.language import LanguageModel
from purvey.models.loading import open_model
from purvey.models.pretrained.clip import ClipModel
from purvey.models.seeing.model import VisionLanguageModel
from purvey.models.speech.recogniser import SpeechModel
from purvey.models.speech.whisper.model import WhisperModel
from purvey.parse.parser import PARSER
from purvey.telemetry.logs import bind
from purvey.telemetry.metrics import BROAD_CATCHES
from purvey.worker.compute import Place, place_of
from purvey.worker.resident import Resident, refusal
from purvey.worker.resident_classifier import ResidentClassifier
from purvey.worker.resident_embedder import ResidentEmbedder
from purvey.worker.resident_language import ResidentLanguage
from purvey.worker.resident_speech import ResidentSpeech
from purvey.worker.tickets import Ticket, Tickets

logger = logging.getLogger(__name__)
_STATS_INTERVAL_S = 1.0
_STOP_TIMEOUT_S = 10.0
_DESK_THREADS = 2
_LISTENER_THREADS = 8
"""Recordings that are heard at one time: each holds a decoded piece, and waits for the loop."""


class EngineLink(Protocol):
    """The part of a link that the engine uses."""

    def receive(self) -> ToEngine | None:
        """Wait for the next message; None when the parent is gone."""
        ...

    def send(self, message: msgspec.Struct) -> None:
        """Write one message whole, from any thread."""
        ...


def run(link: EngineLink) -> int:
    """Load the model that the first frame names and answer until drained or abandoned.

    Returns:
        The process's exit status: 0 after `Drain` or when the parent is gone, 1 when the
        model could not be loaded.
    """
    load = link.receive()
    if load is None:
        return 0
    if not isinstance(load, LoadModel):
        raise InternalError("an engine was not told first what to load")
    with bind(model=load.source.name):
        try:
            failpoints.arm(load.failpoints)
            failpoints.reach("engine.loading")
            torch.set_num_threads(load.num_threads)
            resident = _open(load)
        except Exception as error:  # noqa: BLE001 (the process's edge: the parent must learn why)
            named = _named(error, "the model could not be loaded.")
            link.send(LoadFailed(code=named.code, message=named.text))
            return 1
        link.send(resident.loaded)
        logger.info("engine.ready", extra={"num_bytes": resident.loaded.resident_bytes})
        _Process(link, resident).run()
        return 0


def _open(load: LoadModel) -> Resident:
    place = _place(load)
    try:
        return _opened(load, place)
    except (PurveyError, OSError):
        if place.kept is None or not place.kept.is_there:
            raise
        place.kept.discard()  # what is kept can be made again
        return _opened(load, place)


def _opened(load: LoadModel, place: Place) -> Resident:
    is_kept = place.kept is not None and place.kept.is_there
    model = open_model(load.source, is_widened=False, has_matrices=not is_kept)
    if isinstance(model, (LanguageModel, ForeignModel)):
        return ResidentLanguage(model, place, load)
    if isinstance(model, VisionLanguageModel):
        PARSER.warm()
        return ResidentLanguage(model.language, place, load, sight=Sight(model.eyes, model.images))
    if isinstance(model, ClipModel):
        PARSER.warm()
    if isinstance(model, EmbeddingModel | ClipModel):
        return ResidentEmbedder(
            model, max_batch_tokens=load.max_batch_tokens, window_s=load.batch_window_s
        )
    if any(isinstance(spec, (ImageSpec, AudioSpec)) for spec in model.manifest.inputs.values()):
        PARSER.warm()
    if isinstance(model, (SpeechModel, WhisperModel)):
        return ResidentSpeech(model)
    return ResidentClassifier(model, window_s=load.batch_window_s)


def _place(load: LoadModel) -> Place:
    """Return where the model is computed, having refused a language model that does not fit."""
    manifest = read_manifest(Path(load.source.folder))
    if manifest.task not in GENERATING:
        return Place(is_cuda=False, chosen="fp32")
    if has_template(Path(load.source.folder)):
        PARSER.warm()  # its process starts while the weights load
    if manifest.family == "vision-language":
        return place_of(_on_processor(load))
    return place_of(load)


def _on_processor(load: LoadModel) -> LoadModel:
    """Keep a model that sees off the CUDA device, whose runner takes tokens alone.

    Raises:
        SettingError: It was to be computed there.
    """
    if load.device == "cuda":
        raise SettingError(
            f"{load.source.name!r} sees images, and such models are computed on the processor.",
            param="device",
            hint="Set device to cpu or auto.",
        )
    return msgspec.structs.replace(load, device="cpu")


class _Process:
    """The threads of a loaded engine and who is being served.

    Invariant: every question that waits for, or is in, the desk, the explanations, the
    listeners or the adapters has an open ticket.
    """

    def __init__(self, link: EngineLink, resident: Resident) -> None:
        self._link, self._resident = link, resident
        self._desk = ThreadPoolExecutor(_DESK_THREADS, thread_name_prefix="desk")
        self._explanations = ThreadPoolExecutor(1, thread_name_prefix="explanations")
        self._listeners = ThreadPoolExecutor(_LISTENER_THREADS, thread_name_prefix="listeners")
        self._adapters = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        self._loop = threading.Thread(target=self._run_loop, name="loop", daemon=True)
        self._ended = threading.Event()
        self._is_draining = False
        self._tickets = Tickets()

    def run(self) -> None:
        """Serve until drained or abandoned."""
        self._loop.start()
        for name, target in (("receiver", self._receive), ("statistics", self._tell_stats)):
            threading.Thread(target=target, name=name, daemon=True).start()
        self._ended.wait()
        self._resident.stop()
        self._desk.shutdown(wait=True, cancel_futures=True)
        self._explanations.shutdown(wait=True, cancel_futures=True)
        self._listeners.shutdown(wait=True, cancel_futures=True)
        self._adapters.shutdown(wait=True, cancel_futures=True)
        self._loop.join(_STOP_TIMEOUT_S)

    def _receive(self) -> None:
        try:
            while (message := self._link.receive()) is not None:
                self._dispatch(message)
        except (InternalError, OSError):
            logger.exception("engine.link_failed")
        self._ended.set()

    def _dispatch(self, message: ToEngine) -> None:
        match message:
            case Cancel(request_id=request_id):
                self._cancel(request_id)
            case Drain():
                self._is_draining = True
                threading.Thread(target=self._drain, name="drain", daemon=True).start()
            case Explain():
                self._ask(message, self._explanations)
            case LoadAdapter() | DropAdapter():
                self._ask(message, self._adapters)
            case Transcribe():
                self._ask(message, self._listeners)
            case Generate() | Score() | Classify() | Embed() | Rank() | Tokenize():
                self._ask(message, self._desk)
            case LoadModel():
                raise InternalError("an engine was told twice what to load")

    def _ask(self, question: Question, executor: ThreadPoolExecutor) -> None:
        if self._is_draining:
            self._refuse(question.request_id, ShuttingDownError("the engine is shutting down."))
            return
        executor.submit(self._answer, question, self._tickets.open(question.request_id))

    def _answer(self, question: Question, ticket: Ticket) -> None:
        request_id = question.request_id
        with bind(request_id=request_id):
            try:
                if not ticket.is_cancelled:
                    self._resident.answer(question, self._send, self._checker(ticket))
            except CancelledError:
                logger.info("engine.cancelled")
            except Exception as error:  # noqa: BLE001 (the request's fence: the engine goes on)
                self._refuse(request_id, _named(error, "the engine failed on this request."))
        if self._tickets.close(ticket):  # cancelled on the way into the loop
            self._resident.cancel(request_id)

    def _cancel(self, request_id: str) -> None:
        self._tickets.cancel(request_id)
        self._resident.cancel(request_id)

    def _checker(self, ticket: Ticket) -> Callable[[], None]:
        def check() -> None:
            if ticket.is_cancelled or self._ended.is_set():
                raise CancelledError

        return check

    def _drain(self) -> None:
        """Finish what was accepted, in the order that keeps answers coming, then end."""
        self._desk.shutdown(wait=True)
        self._explanations.shutdown(wait=True)
        self._listeners.shutdown(wait=True)
        self._adapters.shutdown(wait=True)
        self._resident.drain()
        self._loop.join()
        self._send(self._resident.stats())
        self._ended.set()

    def _run_loop(self) -> None:
        try:
            self._resident.run()
        except BaseException:
            logger.exception("engine.loop_failed")
            BROAD_CATCHES.labels(where="engine_loop").inc()
            self._ended.set()
            raise

    def _tell_stats(self) -> None:
        while not self._ended.wait(_STATS_INTERVAL_S):
            self._send(self._resident.stats())

    def _refuse(self, request_id: str, error: PurveyError) -> None:
        self._send(refusal(request_id, error))

    def _send(self, message: msgspec.Struct) -> None:
        try:
            self._link.send(message)
        except OSError:  # the parent is gone, and with it everybody who asked
            self._ended.set()


def _named(error: Exception, message: str) -> PurveyError:
    if isinstance(error, PurveyError):
        return error
    logger.error("engine.failed", exc_info=error)
    BROAD_CATCHES.labels(where="engine_process").inc()
    return InternalError(message)
